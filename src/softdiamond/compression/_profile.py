"""How large and how slow a network is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 15  # of a measured latency


@dataclass(frozen=True)
class Profile:
    """How large and how slow a network is.

    Attributes
    ----------
    parameters : int
        Of its tensors that are trained.
    flops : int
        Multiplications and additions of one call on the example.
    bytes : int
        Of its dense safetensors file.
    seconds : float
        Median time of a call on the example, measured here and now with the threads that torch has.
    """

    parameters: int
    flops: int
    bytes: int
    seconds: float


def profile(nets: Sequence[nn.Module], inputs: tuple[Any, ...]) -> list[Profile]:
    """Measure networks on one example, calls in turn."""
    return [
        Profile(sum(p.numel() for p in net.parameters()), _flops(net, inputs), dense_bytes(net), seconds)
        for net, seconds in zip(nets, latencies(nets, inputs), strict=True)
    ]


@torch.no_grad()
def latencies(nets: Sequence[nn.Module], inputs: tuple[Any, ...]) -> list[float]:
    """Median seconds of a call of each network, called in turn."""
    taken: list[list[float]] = [[] for _ in nets]
    for repeat in range(REPEATS + 3):
        for net, own in zip(nets, taken, strict=True):
            _synchronize(net)
            began = time.perf_counter()
            net(*inputs)
            _synchronize(net)
            if repeat >= 3:
                own.append(time.perf_counter() - began)
    return [median(own) for own in taken]


def _synchronize(net: nn.Module) -> None:
    if any(parameter.device.type == "cuda" for parameter in net.parameters()):
        torch.cuda.synchronize()


def _flops(net: nn.Module, inputs: tuple[Any, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        net(*inputs)
    return int(counter.get_total_flops())


def dense_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU, tied tensors once."""
    seen: set[tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]] = set()
    state = {}
    for name, value in net.state_dict().items():
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())  # a transpose has its strides
        if value.numel() and key in seen:
            continue
        seen.add(key)
        state[name] = value.detach().cpu().contiguous()
    return state


def dense_bytes(net: nn.Module) -> int:
    """Profile of the dense safetensors file."""
    return len(to_bytes(dense_state(net)))
