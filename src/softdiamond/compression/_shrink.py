"""`shrink`: the same network without its dead channels, an ordinary smaller module.

A channel, a filter's or neuron's output, is **dead** where

- every layer that reads it has weights 0 for it; or
- every layer that makes it has weights 0 for it, so that it is the same number whatever the input. If that number is 0 where it is
  read, the channel goes. If not (a bias, the shift of a normalization), it is added to the bias of what reads it, where that
  is exact: linear layers, and convolutions without padding. Elsewhere the channel stays, and the report says how many do.

Which tensors belong to one channel, across residual connections, flattening and concatenation, is found by the dependency
graph of torch-pruning (Fang et al. 2023, DepGraph, arXiv:2301.12900; the extra ``shrink``). Channels that a layer or group
normalization reads stay, since its statistics run over them; so do those of grouped convolutions and of tied weights, and
the heads of attention. What comes out is compared with the model on the example and on noise before it is returned.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond._extras import install
from softdiamond.compression._calls import CONVOLUTIONS, LAYERS, evaluated, flat, inputs_of, naming_layer
from softdiamond.compression._profile import Profile, profile

TOLERANCE = 1e-5  # of the outputs, in units of their largest
_MIXING = nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm


@dataclass(frozen=True)
class ShrinkResult:
    """What `shrink` returns.

    Attributes
    ----------
    model : Module
        The smaller network, each module in the mode that it has in the model given.
    before, after : Profile
        Of the two.
    removed : dict of str to int
        Channels removed of each layer that makes them.
    constant : int
        Channels that stay though their weights are 0, since they carry a constant that cannot be moved exactly.
    difference : float
        Largest difference of an output, in units of the largest output.
    """

    model: nn.Module
    before: Profile
    after: Profile
    removed: dict[str, int]
    constant: int
    difference: float

    def __str__(self) -> str:
        lines = [f"{'':12}{'before':>14}{'after':>14}{'ratio':>8}"]
        for name, unit, digits in (("parameters", 1, 0), ("flops", 1, 0), ("bytes", 1, 0), ("seconds", 1e-3, 3)):
            one, two = getattr(self.before, name) / unit, getattr(self.after, name) / unit
            label = "ms a call" if name == "seconds" else name
            lines.append(f"{label:12}{one:14,.{digits}f}{two:14,.{digits}f}{two / one if one else 1:8.3f}")
        lines.append(f"removed {sum(self.removed.values())} channels of {len(self.removed)} layers")
        if self.constant:
            lines.append(
                f"{self.constant} channels stay: their weights are 0, but a bias or a normalization makes them a constant"
            )
        return "\n".join(lines)


def shrink(model: nn.Module, example_input: Any) -> ShrinkResult:
    """Return the network without its dead channels; the model itself is not changed.

    Parameters
    ----------
    model : Module
        Trained under a penalty by groups, or pruned by filters.
    example_input : Tensor, or tuple of them
        What one call takes.

    Raises
    ------
    ImportError
        If torch-pruning is not installed.
    TypeError
        If it is no module.
    ValueError
        If the model does not take the example, or cannot be traced or shrunk to the same outputs: the layer is named.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> _ = net[0].weight.data[4:].zero_(), net[0].bias.data[4:].zero_()
    >>> small = shrink(net, torch.randn(2, 8))
    >>> small.model[0].weight.shape, small.removed
    (torch.Size([4, 8]), {'0': 12})
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"shrink takes a torch.nn.Module; got {type(model).__name__}")
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    small = copy.deepcopy(model)
    with evaluated(model), evaluated(small):
        noise = tuple(torch.randn_like(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        with naming_layer("the model does not take the example", model), torch.no_grad():
            expected = [flat(model(*each)) for each in (inputs, noise)]
        removed: dict[str, int] = {}
        constant = 0
        while dead := _dead(small, inputs):
            constant = dead.constant
            if not dead.channels:
                break
            for name, count in _cut(small, inputs, dead).items():
                removed[name] = removed.get(name, 0) + count
            with naming_layer("the model does not run without its dead channels", small), torch.no_grad():
                small(*inputs)
        with torch.no_grad():
            found = [flat(small(*each)) for each in (inputs, noise)]
        difference = _compared(model, small, expected, found)
        before, after = profile([model, small], inputs)
    return ShrinkResult(small, before, after, removed, constant, difference)


# ---- what is dead -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dead:
    """Channels to be removed, by the name of the layer that heads their group; numbers to be added to biases."""

    channels: dict[str, list[int]]
    added: dict[str, Tensor]
    constant: int


def _graph(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(f"shrink needs torch-pruning: {install('shrink')}") from error
    with naming_layer("torch-pruning cannot trace the model", model), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        flags = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(True)
        try:
            return torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _dead(model: nn.Module, inputs: tuple[Any, ...]) -> _Dead:
    graph = _graph(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    tied = _tied(model)
    read = inputs_of(model, inputs)
    channels: dict[str, list[int]] = {}
    added: dict[str, Tensor] = {}
    constant = 0
    for group in graph.get_all_groups():
        items = [(item.dep.target.module, item.dep.handler, item.idxs, item.root_idxs) for item in group]
        modules = [module for module, *_ in items]
        readers = [item for item in items if _reads(graph, item)]
        makers = [item for item in items if graph.is_out_channel_pruning_fn(item[1]) and isinstance(item[0], LAYERS)]
        if not readers or any(_is_fixed(module, tied) for module in modules):
            continue
        count = 1 + max(items[0][2])
        unread = torch.stack([_all_zero(module, 1, own, root, count) for module, _, own, root in readers]).all(0)
        others = [item for item in items if item not in readers and item not in makers]
        unmade = torch.stack([_all_zero(module, 0, own, root, count) for module, _, own, root in makers]).all(0)
        unmade &= not any(isinstance(module, nn.Parameter) for module, *_ in others)
        gone = unread.clone()
        for channel in (unmade & ~unread).nonzero().flatten().tolist():
            moved = [_moved(reader, channel, names, read) for reader in readers]
            if any(each is None for each in moved):
                constant += 1
                continue
            gone[channel] = True
            for name, extra in filter(None, moved):
                if extra is not None:
                    added[name] = added.get(name, 0) + extra
        gone[0] &= not bool(gone.all())  # a layer needs one channel
        if bool(gone.any()):
            channels[names[items[0][0]]] = gone.nonzero().flatten().tolist()
    return _Dead(channels, added, constant)


def _reads(graph: Any, item: Any) -> bool:
    module, handler, _, _ = item
    return (
        isinstance(module, LAYERS)
        and graph.is_in_channel_pruning_fn(handler)
        and not graph.is_out_channel_pruning_fn(handler)
    )


def _is_fixed(module: Any, tied: set[int]) -> bool:
    """Whether channels of a module cannot be removed one by one."""
    if isinstance(module, nn.Parameter):
        return True
    if isinstance(module, (*_MIXING, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)):
        return True
    if isinstance(module, CONVOLUTIONS) and module.groups > 1:
        return True
    return any(id(parameter) in tied for parameter in module.parameters(recurse=False))


def _tied(model: nn.Module) -> set[int]:
    every = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    return {each for each in every if every.count(each) > 1} if len(set(every)) < len(every) else set()


def _all_zero(module: Any, dim: int, own: Sequence[int], root: Sequence[int], count: int) -> Tensor:
    """Return for each channel of the group whether all weights of a module for it are 0."""
    weight = module.weight.detach().transpose(0, dim).flatten(1)
    filled = (weight != 0).any(1).cpu()[list(own)]
    some = torch.zeros(count, dtype=torch.bool)
    some[torch.tensor(list(root))[filled]] = True
    return ~some


def _moved(reader: Any, channel: int, names: dict[Any, str], read: dict[str, Tensor]) -> Any:
    """Return the reader's name and what is to be added to its bias for a constant channel; None where that is not exact.

    Where the constant is 0, nothing is to be added.
    """
    module, _, own, root = reader
    mine = [o for o, r in zip(own, root, strict=True) if r == channel]
    dim = -1 if isinstance(module, nn.Linear) else -(1 + len(module.kernel_size))
    value = read[names[module]].movedim(dim, 0)[mine].flatten(1)
    level = value[:, :1]
    if bool((value != level).any()):
        return None
    if bool((level == 0).all()):
        return names[module], None
    if isinstance(module, nn.Linear):
        return names[module], module.weight.detach()[:, mine] @ level.flatten()
    if module.padding in ("valid", 0) or (not isinstance(module.padding, str) and not any(module.padding)):
        return names[module], module.weight.detach()[:, mine].flatten(2).sum(2) @ level.flatten()
    return None


# ---- the cut ----------------------------------------------------------------------------------------------------------


def _cut(model: nn.Module, inputs: tuple[Any, ...], dead: _Dead) -> dict[str, int]:
    """Remove channels in place; return how many of each layer that heads a group."""
    modules = dict(model.named_modules())
    for name, extra in dead.added.items():
        module: Any = modules[name]
        if module.bias is None:
            module.bias = nn.Parameter(extra.clone())
        else:
            module.bias.data += extra
    graph = _graph(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    removed = {}
    heads = {names[group[0].dep.target.module]: group for group in graph.get_all_groups()}
    for name, channels in dead.channels.items():
        root = heads[name][0].dep
        graph.get_pruning_group(root.target.module, root.handler, channels).prune()
        removed[name] = len(channels)
    return removed


def _compared(model: nn.Module, small: nn.Module, expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        if one.shape != two.shape:
            raise ValueError(
                f"the model cannot be shrunk: a channel of its output would go ({one.numel()} numbers, then {two.numel()}); "
                "nothing was changed"
            )
        worst = max(worst, float((one - two).abs().max()) / max(float(one.abs().max()), 1e-30))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the model cannot be shrunk to the same outputs: they differ by {worst:.2g} of the largest; nothing was changed"
        )
    return worst
