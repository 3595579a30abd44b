"""Forward passes whose activations are kept, or made again on the way back (Gao, Zhang, Han & Callan 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Pass:
    """One micro-batch on its way forward, and later back.

    Args:
        forward: from the micro-batch to what the loss reads of it.
        cached: keep no activations; `backward` then calls `forward` again, with the same dropout.
    """

    def __init__(self, forward: Callable[[], Tensor], device: torch.device, cached: bool) -> None:
        self._forward, self._device = forward, device
        self._chance = _chance_state(device) if cached else None
        with torch.set_grad_enabled(not cached):
            self._graph = forward()
        self.output = self._graph.detach()

    def backward(self, gradient: Tensor) -> None:
        """Carry the gradient of `output` on to the weights."""
        graph = self._graph
        if self._chance is not None:
            # The same dropout as on the way forward, or the gradient would be that of another function.
            with torch.random.fork_rng(devices=_devices(self._device)):
                _restore_chance(self._device, self._chance)
                graph = self._forward()
        graph.backward(gradient)  # type: ignore[no-untyped-call]


def cached_passes(sizes: Sequence[int], activation_tokens: int | None) -> int:
    """How many of the first passes keep no activations. The last ones do, for they go back first.

    Args:
        sizes: padded tokens of each pass.
        activation_tokens: whose activations may be kept; the last pass keeps its own in any case. None keeps all.
    """
    if activation_tokens is None:
        return 0
    kept, number = sizes[-1], len(sizes) - 1
    while number and kept + sizes[number - 1] <= activation_tokens:
        number -= 1
        kept += sizes[number]
    return number


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _chance_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_chance(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
