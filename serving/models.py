"""Encoders and rerankers of the generations that a replica serves, each loaded once. Knows nothing of Ray."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.collection.about import About
from pipeline.collection.models import ENCODER, RERANKER, Role, fetch_model, model_key
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.sharded.folder import Generation, ShardFolder
from serving.generations import Generations, Ref, Shared, read

if TYPE_CHECKING:
    from pipeline.encoder.encode import Encoder
    from pipeline.encoder.side import Side
    from pipeline.scorer.score import Scorer

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Model = TypeVar("Model")
# transformers changes its own classes while it loads a model: of two at once, one would leave them changed for ever.
_LOADING = threading.Lock()


@dataclass(frozen=True)
class ToEncode:
    """Texts of one request."""

    ref: Ref
    side: Side
    texts: Sequence[str]

    @property
    def cost(self) -> int:
        """About as many tokens as the model will read."""
        return sum(map(_tokens, self.texts))


@dataclass(frozen=True)
class Encoded:
    vectors: Floats  # [n, dimension], rows of length 1
    tokens: Counts  # [n], read of each text


@dataclass(frozen=True)
class ToScore:
    """A query and the passages to score for it."""

    ref: Ref
    query: str
    passages: Sequence[str]

    @property
    def cost(self) -> int:
        return sum(map(_tokens, self.passages)) + len(self.passages) * _tokens(self.query)


def _tokens(text: str) -> int:
    return 4 + min(len(text), 2048) // 4


@dataclass(frozen=True)
class Scored:
    logits: Floats  # [n], higher is better
    tokens: Counts  # [n], read of each pair


Request = TypeVar("Request", ToEncode, ToScore)
Also = TypeVar("Also")


class _Models(ABC, Generic[Model]):
    """Generations whose model is the same share it."""

    def __init__(self, recipe: Recipe, role: Role) -> None:
        self.recipe, self._role = recipe, role
        self._loaded: Shared[Model] = Shared()
        self._keys: Generations[str] = Generations(self._key)

    def of(self, ref: Ref) -> Model:
        """The model of a generation. Raises RayrieverError where it holds none, or its files are damaged."""
        key = self._keys.get(ref)
        return self._loaded.get(key, lambda: self._load_alone(key, ref))

    def keep(self, refs: Iterable[Ref]) -> None:
        """Let go of the models of all other generations."""
        kept = list(refs)
        self._keys.keep(kept)
        self._loaded.keep([self._keys.get(ref) for ref in kept if self._keys.opened(ref)])

    def _load_alone(self, key: str, ref: Ref) -> Model:
        with _LOADING:
            return self._loaded.get(key, lambda: self._load(*_opened(self.recipe, ref)))

    def _key(self, ref: Ref) -> str:
        folder, generation = _opened(self.recipe, ref)
        key = model_key(generation, self._role)
        if key is None:
            fetch_model(folder, generation, self._role)  # says what is missing
            raise AssertionError
        return key

    def _grouped(
        self, requests: Sequence[Request], also: Callable[[Request], Also]
    ) -> dict[tuple[Model, Also], list[int]]:
        """Places of the requests that can be computed together: of one model, and alike in what `also` gives."""
        groups: dict[tuple[Model, Also], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault((self.of(request.ref), also(request)), []).append(place)
        return groups

    @abstractmethod
    def _load(self, folder: ShardFolder, generation: Generation) -> Model: ...


class Encoders(_Models["Encoder"]):
    """Query and passage texts to vectors."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, ENCODER)

    def encode(self, requests: Sequence[ToEncode]) -> list[Encoded]:
        """One result per request; those of one model and side are computed together."""
        results: dict[int, Encoded] = {}
        for (model, side), places in self._grouped(requests, lambda request: request.side).items():
            lists = [requests[place].texts for place in places]
            found = model.encode([text for texts in lists for text in texts], side)
            parts = zip(places, *(_split(each, lists) for each in found), strict=True)
            results |= {place: Encoded(vectors, tokens) for place, vectors, tokens in parts}
        return [results[place] for place in range(len(requests))]

    def _load(self, folder: ShardFolder, generation: Generation) -> Encoder:
        import torch

        from pipeline.encoder.encode import Encoder
        from pipeline.encoder.identity import identify
        from pipeline.encoder.model import best_device, load_model
        from pipeline.index.manifest import check_encoder

        torch.set_num_threads(max(1, int(self.recipe.encoder.cpus_per_actor)))
        model = load_model(self.recipe.encoder, fetch_model(folder, generation, ENCODER))
        check_encoder(About.of(generation.about).index, identify(model), folder.path)
        section = self.recipe.encoder
        return Encoder(model, section.dtype, section.tokens_per_batch, best_device(self.recipe.serve.encoder_gpus))


class Rerankers(_Models["Scorer"]):
    """Queries and passages to scores."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, RERANKER)

    def score(self, requests: Sequence[ToScore]) -> list[Scored]:
        """One result per request; those of one model are computed together."""
        results: dict[int, Scored] = {}
        for (model, _), places in self._grouped(requests, lambda request: None).items():
            lists = [[(requests[place].query, text) for text in requests[place].passages] for place in places]
            found = model.score_and_count([pair for pairs in lists for pair in pairs])
            parts = zip(places, *(_split(each, lists) for each in found), strict=True)
            results |= {place: Scored(logits, tokens) for place, logits, tokens in parts}
        return [results[place] for place in range(len(requests))]

    def _load(self, folder: ShardFolder, generation: Generation) -> Scorer:
        import torch

        from pipeline.encoder.model import best_device
        from pipeline.scorer.load import load_scorer_model
        from pipeline.scorer.score import Scorer

        section = self.recipe.scorer
        torch.set_num_threads(max(1, int(section.cpus_per_actor)))
        model = load_scorer_model(section, fetch_model(folder, generation, RERANKER))
        return Scorer(model, section.dtype, section.tokens_per_batch, best_device(self.recipe.serve.reranker_gpus))


def _opened(recipe: Recipe, ref: Ref) -> tuple[ShardFolder, Generation]:
    try:
        return read(recipe, ref)
    except OSError as error:
        raise RayrieverError(f"collection {ref.collection}: cannot be read ({error}).") from error


def _split(values: npt.NDArray[Any], lists: Sequence[Sequence[object]]) -> list[npt.NDArray[Any]]:
    """The values of every list, of those of all lists one after the other."""
    return np.split(values, np.cumsum([len(each) for each in lists])[:-1])
