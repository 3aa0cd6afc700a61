"""One call of a network on an example: in evaluation mode, what its layers read, where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
