"""The Ray Serve application: gateway, encoder, reranker, slots and librarian, each a deployment of its own.

The classes of the deployments live beside this file and know nothing of Ray; here they get replicas and limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from serving.auth import Keys, keys_for
from serving.backend import FanOut
from serving.documents import Change
from serving.errors import ApiError, overloaded
from serving.gateway import Gateway, create_app
from serving.librarian import Librarian
from serving.limits import App
from serving.listener import Listener, bound
from serving.metrics import Figures, Metrics
from serving.parts import EncoderPart, Parts, RerankerPart, TextPart, VectorPart
from serving.release import Released
from serving.slots import Share
from serving.whole import in_one_process

GATEWAY, LIBRARIAN = "gateway", "librarian"
_LOGGER = logging.getLogger("rayriever.serve")
# A call that a dying replica drops is made again: all of them only read.
_ATTEMPTS = 6
_PAUSE_S = 0.05
_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)


def _log_as_serve_does() -> None:
    """Our lines go where Ray Serve's own about this replica go, and are rotated with them."""
    own = logging.getLogger("rayriever")
    own.setLevel(logging.INFO)
    own.handlers = list(logging.getLogger("ray.serve").handlers)


class Handles:
    """Parts that are deployments."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics

    async def __call__(self, name: str, part: DeploymentHandle, method: str, *arguments: Any) -> Any:
        """Raises ApiError (429, 503) where the part is too busy or gone, and what the part raised."""
        for attempt in range(_ATTEMPTS):
            try:
                return await getattr(part, method).remote(*arguments)
            except BackPressureError:
                raise overloaded(1, "Too many requests at the moment. Try again in a second.") from None
            except RayTaskError as error:
                if isinstance(error.cause, RayrieverError):
                    raise RayrieverError(str(error.cause)) from error
                raise
            except _GONE:
                if self._metrics is not None:
                    self._metrics.failure(name)
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        raise ApiError(503, "A part of the server is away. Try again.", "unavailable", headers={"Retry-After": "2"})

    async def everywhere(self, part: DeploymentHandle, method: str, *arguments: Any) -> list[Any]:
        found: list[Any] = await part.broadcast(method, *arguments).results_async()
        return found


class LibrarianReplica(Librarian):
    """The librarian as a deployment."""

    def __init__(self, recipe: Recipe, parts: Parts) -> None:
        _log_as_serve_does()
        super().__init__(recipe, FanOut(parts, Handles()), _announce)


async def _announce(released: Mapping[str, Released]) -> None:
    try:
        await Handles().everywhere(_gateways(), "release", dict(released))
    except DeploymentUnavailableError:
        return  # those that are being started ask themselves


async def _all_gateways() -> Sequence[Figures]:
    """A proxy asks any of them for the figures of all."""
    found: Sequence[Figures] = await Handles().everywhere(_gateways(), "figures")
    return found


def _gateways() -> DeploymentHandle:
    return serve.get_deployment_handle(GATEWAY, serve.get_replica_context().app_name)


class _LibrarianHandle:
    """The librarian as the routes call it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle, self._call = handle, Handles()

    async def ask(self, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change:
        change: Change = await self._call(LIBRARIAN, self._handle, "ask", collection, passages, deleted)
        return change

    async def known(self, change_id: str) -> Change | None:
        change: Change | None = await self._call(LIBRARIAN, self._handle, "known", change_id)
        return change


@serve.ingress()
class GatewayReplica:
    """Takes requests."""

    def __init__(self, recipe: Recipe, parts: Parts, librarian: DeploymentHandle, insecure: bool) -> None:
        _log_as_serve_does()
        metrics = Metrics()
        self._librarian = librarian
        self._gateway = Gateway(
            recipe,
            FanOut(parts, Handles(metrics)),
            _LibrarianHandle(librarian),
            Keys(keys_for(recipe.serve, insecure)),
            metrics=metrics,
            gateways=_all_gateways,
        )

    def __serve_build_asgi_app__(self) -> App:
        return create_app(self._gateway)

    async def release(self, released: Mapping[str, Released]) -> None:
        """The librarian says what to search from now on."""
        self._gateway.release(released)

    def figures(self) -> Figures:
        return self._gateway.metrics.figures()

    async def check_health(self) -> None:
        """A gateway is healthy when it knows what to search; it asks, should it have missed a switch."""
        try:
            self._gateway.release(await self._librarian.released.remote())
        except _GONE:
            if not self._gateway.released:
                raise


class WholeReplica:
    """Everything in one process, which also listens by itself: of Ray Serve it has the supervision."""

    async def __init__(self, recipe: Recipe, insecure: bool) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        _log_as_serve_does()
        gateway, self._librarian = in_one_process(recipe, keys_for(recipe.serve, insecure))
        self._listener = Listener(create_app(gateway), bound(recipe.serve.host, recipe.serve.port))
        await self._librarian.released()
        self._listening = asyncio.create_task(self._listener.serve())

    async def check_health(self) -> None:
        """Raises RuntimeError where nobody listens any more."""
        if self._listening.done():
            raise RuntimeError("the server has stopped listening") from self._listening.exception()

    async def __del__(self) -> None:
        self._librarian.stop()
        await self._listener.stop(self._listening)


def application(recipe: Recipe, insecure: bool = False) -> serve.Application:
    """The graph of deployments for a recipe.

    Args:
        insecure: listen on addresses that others can reach, even without an API key.
    """
    section = recipe.serve
    cpus = _Cpus(recipe)
    if section.together:
        gpus = section.encoder_gpus + section.reranker_gpus + recipe.index.gpus
        whole = _deployment(WholeReplica, GATEWAY, (1, 1), cpus.whole, gpus, section.max_waiting)
        return whole.bind(recipe, insecure)

    def slots(kind: type, name: str, count: int, of_each: float, gpus: float) -> list[serve.Application]:
        made = [_deployment(kind, f"{name}-{slot}", section.slot_replicas, of_each, gpus) for slot in range(count)]
        return [each.bind(recipe, Share(slot, count)) for slot, each in enumerate(made)]

    parts = Parts(
        _deployment(EncoderPart, "encoder", section.encoders, cpus.encoder, section.encoder_gpus).bind(recipe),
        _deployment(RerankerPart, "reranker", section.rerankers, cpus.reranker, section.reranker_gpus).bind(recipe),
        slots(VectorPart, "vectors", section.vector_slots, cpus.vectors, recipe.index.gpus),
        slots(TextPart, "texts", section.word_slots, cpus.other, 0),
    )
    librarian = _deployment(LibrarianReplica, LIBRARIAN, (1, 1), cpus.other, 0).bind(recipe, parts)
    gateway = _deployment(GatewayReplica, GATEWAY, section.gateways, cpus.other, 0, section.max_waiting)
    return gateway.bind(recipe, parts, librarian, insecure)


class _Cpus:
    """What replicas reserve."""

    def __init__(self, recipe: Recipe) -> None:
        share = 1 if recipe.serve.reserve_cpus else 0
        self.encoder, self.reranker = share * recipe.encoder.cpus_per_actor, share * recipe.scorer.cpus_per_actor
        self.vectors, self.other = share * (recipe.index.threads_per_shard or 1), share
        self.whole = max(self.encoder, self.reranker, self.vectors)


def _deployment(
    kind: type, name: str, replicas: tuple[int, int], cpus: float, gpus: float, most: int | None = None
) -> serve.Deployment:
    """Replicas and limits of one deployment.

    Args:
        most: requests of a gateway; its own refusals come first, and those of the proxy behind them.
    """
    least, highest = replicas
    scaling: dict[str, Any] = {"num_replicas": least}
    ongoing = 2 * most if most else 1000
    if highest > least:
        target = most / 2 if most else 8
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=least, max_replicas=highest, target_ongoing_requests=target
            )
        }
    return serve.deployment(
        name=name,
        max_ongoing_requests=ongoing,
        max_queued_requests=most if most else -1,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=20,
        **scaling,
    )(kind)


class Arguments(BaseModel):
    """`args` of a Serve config file."""

    recipe: dict[str, Any]
    insecure: bool = False


def build(arguments: Arguments) -> serve.Application:
    """For Serve config files, such as `rayriever serve RECIPE --config` prints: `import_path: serving.app:build`."""
    return application(Recipe.model_validate(arguments.recipe), arguments.insecure)
