"""The whole server in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.recipe import Recipe
from serving.auth import Keys
from serving.backend import FanOut, Here
from serving.gateway import Gateway
from serving.librarian import Librarian
from serving.parts import Parts
from serving.release import Released


def in_one_process(recipe: Recipe, keys: Sequence[str]) -> tuple[Gateway, Librarian]:
    """A gateway over parts of this process, and the librarian that tells it what to search once it is asked."""

    async def announce(released: Mapping[str, Released]) -> None:
        gateway.release(released)

    backend = FanOut(Parts.here(recipe), Here())
    librarian = Librarian(recipe, backend, announce)
    gateway = Gateway(recipe, backend, librarian, Keys(keys))
    return gateway, librarian
