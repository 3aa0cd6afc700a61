"""One call of a network on an example: in evaluation mode, what its layers read, where it fails; how large and how slow it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 15  # of a measured latency
CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
LAYERS = nn.Linear, *CONVOLUTIONS


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its modules back into its own: some may be frozen in a training net."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def naming_layer(what: str, model: nn.Module) -> Iterator[None]:
    """Turn an error of a call of a model into a ValueError that names the layer it came from."""
    at = type(model).__name__

    def entered(name: str) -> Any:
        def note(module: nn.Module, given: Any) -> None:
            nonlocal at
            at = f"{name} ({type(module).__name__})" if name else type(module).__name__

        return note

    handles = [module.register_forward_pre_hook(entered(name)) for name, module in model.named_modules()]
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever the user's network raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{what}, in layer {at}: {reason}; nothing was changed") from error
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Return what each linear layer and convolution reads in a call."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):

            def keep(module: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                seen[name] = given[0].detach()

            handles.append(module.register_forward_pre_hook(keep))
    try:
        with torch.enable_grad():  # without it, layers of transformers may take a path of their own
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def flat(output: Any) -> Tensor:
    """Return all tensors of an output as one vector."""
    leaves = [each.flatten().double().cpu() for each in _leaves(output)]
    if not leaves:
        raise TypeError(f"it returns {type(output).__name__} without a tensor")
    return torch.cat(leaves)


def _leaves(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output.detach()
    elif isinstance(output, dict):
        for each in output.values():
            yield from _leaves(each)
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _leaves(each)


# ---- how large and how slow ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
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


def sizes(nets: Sequence[nn.Module], inputs: tuple[Any, ...]) -> list[Size]:
    """Measure networks on one example, calls in turn."""
    return [
        Size(sum(p.numel() for p in net.parameters()), _flops(net, inputs), dense_bytes(net), seconds)
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
    """Size of the dense safetensors file."""
    return len(to_bytes(dense_state(net)))
