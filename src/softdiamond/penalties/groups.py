r"""Which weights belong together: the partition of a weight tensor into groups, each with one norm.

A grouping is said in one of these ways:

=====================  ==========================================================================================
grouping               groups
=====================  ==========================================================================================
``"output"``           one for each output: the rows of a linear layer, the filters of a convolution
``"input"``            one for each input: the columns of a linear layer, what a convolution does to one channel
``("head", n)``        n equal blocks of consecutive outputs: the heads of a query, key or value projection
``("input head", n)``  n equal blocks of consecutive inputs: the heads in the projection that follows them
a function             of the weight tensor: integers that broadcast to its shape, equal within a group, from 0 without gaps
mappings               of parameter names to one of the first four: groups that span tensors. Group i has the i-th part of each
=====================  ==========================================================================================

A tensor alone is read as a linear layer or a convolution has it, (outputs, inputs, ...); `softdiamond.Regularizer` knows the
module and reads transposed and grouped convolutions, embeddings, the ``Conv1D`` of transformers (GPT-2) and the packed
projections of ``nn.MultiheadAttention`` as what they are. A `Layout` is the partition of one tensor: squares are summed over
all dimensions but those ``kept``, and what is left belongs to the groups one by one or by ``labels``.

A soft diamond's group has at most 65,536 weights (a head of 64 of a layer with 1,024 inputs), L1's any number.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond._compat import normalizes_channels

__all__ = ["Grouping", "Layout", "Span", "checked_grouping", "coupled_parameters", "layout_of"]

Axis = str | tuple[str, int]
Grouping = Axis | Callable[[Tensor], Tensor] | Mapping[str, Axis] | Sequence[Mapping[str, Axis]]

CHUNK = 1 << 15  # weights squared at once

_AXES = '"input", "output", ("head", n), ("input head", n)'
_TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@dataclass(frozen=True)
class Span:
    """Groups that span tensors: for each parameter's name the axis that counts the groups."""

    axes: tuple[tuple[str, Axis], ...]

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {axis!r}" for name, axis in self.axes) + "}"


@dataclass(frozen=True, eq=False)
class Layout:
    """The partition of a tensor into groups.

    Attributes
    ----------
    split : tuple of int and tuple of int, or None
        A dimension, and the sizes into which it is unfolded first.
    kept : tuple of int
        Dimensions of the unfolded tensor over which no sum is taken.
    shape : tuple of int
        Shape of the unfolded tensor.
    labels : Tensor or None
        int32, the group of each element that is left; None where each is a group.
    sizes : Tensor
        int64 of shape (groups,): how many weights each has.
    distinct : tuple of int
        The sizes that there are, ascending.
    """

    split: tuple[int, tuple[int, ...]] | None
    kept: tuple[int, ...]
    shape: tuple[int, ...]
    labels: Tensor | None
    sizes: Tensor
    distinct: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        if self.split is None:
            return self.shape
        dim, sizes = self.split
        return (*self.shape[:dim], math.prod(sizes), *self.shape[dim + len(sizes) :])

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.sizes)

    def unfolded(self, w: Tensor) -> Tensor:
        """View of a weight tensor to whose shape `spread` broadcasts."""
        return w if self.split is None else w.unflatten(*self.split)

    def norms(self, w: Tensor) -> Tensor:
        """Euclidean norm of each group, float64 (float32 on a device without it), of shape (groups,); differentiable, 0 at 0."""
        if self.scattered:
            return self._norms_by_label(w)
        norms = self.slice_norms(w)
        if self.labels is None:
            return norms
        squares = torch.zeros(self.count, dtype=norms.dtype, device=norms.device)
        squares = squares.index_add(0, self.labels.to(w.device), norms * norms)
        return root(squares)

    def slice_norms(self, w: Tensor) -> Tensor:
        """Norm over all dimensions but those kept, flat; the groups' own where they have no labels."""
        unfolded = self.unfolded(w if w.dtype == torch.float64 else w.float())
        summed = [dim for dim in range(unfolded.dim()) if dim not in self.kept]
        if not summed:
            norms = unfolded.abs()
        elif 0 in summed and w.device.type == "cpu" and not (torch.is_grad_enabled() and w.requires_grad):
            norms = _norms_over_rows(unfolded, summed)
        else:
            norms = torch.linalg.vector_norm(unfolded, dim=summed)
        norms = norms.reshape(-1)
        return norms if norms.device.type == "mps" else norms.double()

    @property
    def scattered(self) -> bool:
        """Whether each weight has a label of its own."""
        return self.labels is not None and len(self.kept) == len(self.shape)

    def _norms_by_label(self, w: Tensor) -> Tensor:
        """Norms of groups that are no slices: in pieces, with no temporary of all weights."""
        assert self.labels is not None  # noqa: S101 - it is scattered
        dtype = torch.float32 if w.device.type == "mps" else torch.float64
        squares = torch.zeros(self.count, dtype=dtype, device=w.device)
        size = max(8 * CHUNK, 2 * self.count)  # each piece copies the sums, not in place for torch.func
        for part, label in zip(w.reshape(-1).split(size), self.labels.to(w.device).split(size), strict=True):
            squares = squares.index_add(0, label, part.to(dtype).square())
        return root(squares)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the groups, of shape (groups,), as a tensor that broadcasts to the unfolded weights."""
        if self.labels is not None:
            values = values.index_select(0, self.labels.to(values.device))
        return values.view([size if dim in self.kept else 1 for dim, size in enumerate(self.shape)])


def _norms_over_rows(w: Tensor, summed: Sequence[int]) -> Tensor:
    """`torch.linalg.vector_norm` over the first dimension and others, five times as fast: in pieces that stay in the cache."""
    squares = _squares_over_rows(w)
    others = [dim - 1 for dim in summed if dim > 0]
    return (squares.sum(dim=others, dtype=torch.float64) if others else squares).sqrt()


def _squares_over_rows(w: Tensor) -> Tensor:
    """Sum of squares over the first dimension; of many rows in float64."""
    row = w[0].numel()
    wide = max(CHUNK // len(w), CHUNK // 16)
    if row > wide and w.shape[1] > 1:
        return torch.cat([_squares_over_rows(part) for part in w.split(max(1, w.shape[1] * wide // row), dim=1)])
    first, *others = w.split(max(1, CHUNK // row))
    squares: Tensor = first.square().sum(dim=0)
    for rows in others:
        squares = squares.double() + rows.square().sum(dim=0)  # not in place, for torch.func
    return squares


def root(squares: Tensor) -> Tensor:
    """Square root with a derivative of 0 at 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), squares)


def checked_grouping(grouping: Any) -> Any:
    """Return a grouping in hashable form, mappings as one tuple of `Span`.

    Raises
    ------
    TypeError, ValueError
        If it is none of the kinds that there are, a number of heads is not positive, or a name occurs in two mappings.
    """
    if grouping is None or callable(grouping):
        return grouping
    if isinstance(grouping, tuple) and grouping and all(map(_is_span, grouping)):
        return grouping
    if isinstance(grouping, Mapping):
        return checked_grouping([grouping])
    worded = isinstance(grouping, str) or (
        isinstance(grouping, list | tuple) and isinstance(next(iter(grouping), 0), str)
    )
    if isinstance(grouping, Tensor) or hasattr(grouping, "__array__"):
        raise TypeError("labels of the weights are given by a function that returns them: group=lambda weight: labels")
    if not worded and isinstance(grouping, Iterable):
        mappings = list(grouping)
        if not mappings or not all(isinstance(mapping, Mapping) and mapping for mapping in mappings):
            raise TypeError(f"groups that span tensors are mappings of parameter names to {_AXES}; got {grouping!r}")
        spans = tuple(
            Span(
                tuple(
                    (str(name), _checked_axis(axis, "an axis of a mapping is one of " + _AXES))
                    for name, axis in mapping.items()
                )
            )
            for mapping in mappings
        )
        names = [name for span in spans for name, _ in span.axes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"groups overlap: {twice} is in two of them")
        return spans
    return _checked_axis(grouping, f"a grouping is one of {_AXES}, a function of the weights, or mappings of names")


def _is_span(value: Any) -> bool:
    return isinstance(value, Span)


def _checked_axis(axis: Any, allowed: str) -> Axis:
    if axis in ("input", "output"):
        return str(axis)
    if isinstance(axis, list | tuple) and len(axis) == 2 and axis[0] in ("head", "input head"):
        if isinstance(axis[1], bool) or not isinstance(axis[1], numbers.Integral) or axis[1] < 1:
            raise ValueError(f"the number of heads must be a positive integer; got {axis[1]!r}")
        return (axis[0], int(axis[1]))
    if axis in ("head", "input head"):
        raise ValueError(f'a grouping by heads needs their number: ("{axis}", 8); got {axis!r} alone')
    raise ValueError(f"{allowed}; got {axis!r}")


def layout_of(grouping: Any, weight: Tensor, name: str = "the tensor", module: nn.Module | None = None) -> Layout:
    """Return the groups of one tensor.

    Parameters
    ----------
    grouping
        As `checked_grouping` returns it, not spanning tensors.
    weight : Tensor
        The tensor.
    name : str
        Its name, for messages; the last part also distinguishes the parameters of ``nn.MultiheadAttention``.
    module : Module, optional
        The module that it belongs to.

    Raises
    ------
    TypeError
        If a function gives no integers, or groups that span tensors are asked for on one.
    ValueError
        If the tensor is empty, has too few dimensions or does not divide into so many heads, or a function's labels do not
        fit, miss weights or leave a group empty.
    """
    if isinstance(grouping, tuple) and _is_span(grouping[0]):
        raise TypeError(
            "these groups span tensors, which only a Regularizer knows by name: a penalty alone takes one tensor"
        )
    if not weight.numel():
        raise ValueError(f"{name} is empty: it has no groups")
    if callable(grouping):
        return _labelled(grouping, weight, name)
    return _by_axis(grouping, weight, name, module)


def _by_axis(axis: Axis, weight: Tensor, name: str, module: nn.Module | None) -> Layout:
    word, heads = axis if isinstance(axis, tuple) else (axis, 0)
    of_inputs = word.startswith("input")
    blocks = getattr(module, "groups", 1) if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)) else 1
    dim = int(of_inputs != _inputs_first(module))
    if weight.dim() <= dim:
        raise ValueError(
            f'{name} has {weight.dim()} dimension{"s" * (weight.dim() != 1)}, so no group "{word}": it needs {dim + 1}'
        )
    size = weight.shape[dim]
    if isinstance(module, nn.MultiheadAttention) and not of_inputs and name.rpartition(".")[2].startswith("in_proj"):
        if not heads:
            return _uniform(weight, None, (0,))
        _check_heads(name, heads, size // 3)
        return _uniform(weight, (0, (3, heads, size // 3 // heads)), (1,))
    if heads and blocks > 1 and dim == 1:  # a head is then of whole blocks
        _check_heads(name, heads, blocks, "groups of the convolution")
        return _uniform(weight, (0, (heads, weight.shape[0] // heads)), (0,))
    if heads:
        _check_heads(name, heads, size)
        return _uniform(weight, (dim, (heads, size // heads)), (dim,))
    if blocks > 1 and dim == 1:  # the second dimension counts within each block of a grouped convolution
        return _uniform(weight, (0, (blocks, weight.shape[0] // blocks)), (0, 2))
    return _uniform(weight, None, (dim,))


def _inputs_first(module: nn.Module | None) -> bool:
    """Whether a module's weight is (inputs, outputs, ...)."""
    kind = type(module)
    like_gpt2 = kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
    return like_gpt2 or isinstance(module, (*_TRANSPOSED, nn.Embedding, nn.EmbeddingBag))


def _check_heads(name: str, heads: int, size: int, what: str = "features") -> None:
    if size % heads:
        raise ValueError(f"{name}: {size} {what} do not divide into {heads} heads")


def _uniform(weight: Tensor, split: tuple[int, tuple[int, ...]] | None, kept: tuple[int, ...]) -> Layout:
    shape = list(weight.shape)
    if split is not None:
        shape[split[0] : split[0] + 1] = split[1]
    count = math.prod([shape[dim] for dim in kept])
    d = weight.numel() // count
    return Layout(split, kept, tuple(shape), None, torch.full((count,), d), (d,))


def _labelled(function: Callable[[Tensor], Tensor], weight: Tensor, name: str) -> Layout:
    labels = function(weight.detach())
    if (
        not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
    ):
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"a grouping's function returns a tensor of integers, the group of each weight; got {got} for {name}"
        )
    try:
        labels.expand(weight.shape)
    except RuntimeError:
        raise ValueError(
            f"the groups of {name} have the shape {tuple(labels.shape)}, which does not broadcast to {tuple(weight.shape)}"
        ) from None
    labels = labels.detach().long()[(None,) * (weight.dim() - labels.dim())]
    kept = tuple(dim for dim in range(weight.dim()) if labels.shape[dim] > 1)
    flat = labels.reshape(-1)
    if int(flat.min()) < 0:
        raise ValueError(
            f"groups miss weights: {int((flat < 0).sum())} of {name} have a negative label; each needs a group"
        )
    present = flat.unique()
    if empty := (present != torch.arange(len(present), device=flat.device)).nonzero().flatten().tolist():
        raise ValueError(f"group {empty[0]} of {name} is empty: number the groups from 0 without gaps")
    sizes = torch.bincount(flat).cpu() * (weight.numel() // flat.numel())
    own = flat.int()  # half of the memory traffic of a step, and out of the function's reach
    return Layout(None, kept, tuple(weight.shape), own, sizes, tuple(sizes.unique().tolist()))


def sizes_across(layouts: Sequence[Layout], names: Sequence[str]) -> Tensor:
    """Sizes of groups that span tensors.

    Raises
    ------
    ValueError
        If the tensors have not the same number of groups.
    """
    counts = {name: layout.count for name, layout in zip(names, layouts, strict=True)}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"tensors of one grouping need the same number of groups: {counted}")
    return torch.stack([layout.sizes for layout in layouts]).sum(0)


def coupled_parameters(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the vectors that go with the outputs of a layer: its bias, and scale and shift of a batch normalization after it.

    Parameters
    ----------
    model : Module
        The model; what follows a layer is read from the order of its modules, within the module that holds both. A
        normalization of the next block acts on other channels: those of a residual sum, say.
    name : str
        Of the layer's weight.
    """
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    leaves = [each for each, module in modules.items() if not any(module.children())]
    owner = name.rpartition(".")[0]
    if owner not in leaves:
        return ()
    after = next(iter(leaves[leaves.index(owner) + 1 :]), owner)
    together = after.rpartition(".")[0] == owner.rpartition(".")[0]
    owners = [owner, *([after] if together and normalizes_channels(modules[after]) else [])]
    names = [f"{each}.{what}" for each in owners for what in ("weight", "bias")]
    module, weight = modules[owner], parameters[name]
    swapped = _inputs_first(module) and weight.dim() > 1
    count = weight.shape[1] * getattr(module, "groups", 1) if swapped else len(weight)
    return tuple(n for n in names if n != name and n in parameters and parameters[n].shape == (count,))
