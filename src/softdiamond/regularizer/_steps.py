r"""The penalty's steps on one tensor of weights, in place and in chunks: implicit, proximal, and the gradient.

**The implicit step** :math:`d \leftarrow d / (1 + s\,\omega(d / c))`, with d = w - center and s the step at unit scale, reads
its decay :math:`t = s \omega / (1 + s \omega)` from a table of its own, indexed by the leading bits of :math:`(d / c)^2`, and
takes d -= t d: a few cheap operations and no branch, the same on every device. The table holds omega at the middle of each
cell, exact to `TOLERANCE`; it is turned into decays when s changes, for only the cells that matter. Where numba is installed
(the extra ``numba``), float32 weights on the CPU take these operations in one compiled pass, the same but for the last
rounding; so do groups that are given by labels, for their norms and their step. float64 weights, and penalties whose omega
the cells cannot follow, take omega itself.

**Rounding.** The result in float32 is exact to half a unit in the last place, so that a decay below about 6e-8 a step can
vanish, as it does with weight decay. bfloat16 and float16 weights, whose last place is 2^16 and 2^13 times as coarse, are
rounded at random to one of the two neighbours, in the mean to the exact result; so are float32 weights about a center,
where a small decay of a small distance must be kept beside a large weight.

NaN stays NaN. An infinite weight becomes NaN where its decay comes from the table, and stays infinite elsewhere.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.autograd.graph import increment_version

from softdiamond.penalties import Penalty
from softdiamond.penalties.groups import Layout

TOLERANCE = 1e-3  # of omega in the implicit step of float32 and narrower weights
BITS = 9, 10, 11, 12  # leading mantissa bits of (d / c)^2 that choose a cell, the fewest that meet the tolerance
NEGLIGIBLE = 1e-9  # a decay that float32 cannot feel
# Weights worked on at once; no temporary is larger than one chunk. On the CPU no more than torch gives to one thread: the
# look-up, most of the work, gains nothing from several, and waking them for such short work can cost more than the work.
CPU_CHUNK, DEVICE_CHUNK = 1 << 15, 1 << 20
MANY = 1 << 12  # groups, from where filling the table of decays costs less than omega itself
SCALES = 1e-12, 1e12  # between which (d / c)^2 neither over- nor underflows where it matters


class Omega(NamedTuple):
    """1 / omega at the middle of each cell, the bits, the cell up to which it is constant, and -omega from there on."""

    inverse: Tensor
    bits: int
    first: int
    rising: NDArray[np.float64]


class Decays(NamedTuple):
    """Decay by cell; only the cells ``first`` to ``last`` are filled, which stand for those beyond too."""

    table: Tensor
    bits: int
    first: int
    last: int


@functools.lru_cache(maxsize=64)
def _omega_cells(penalty: Penalty, device: torch.device) -> Omega | None:
    """Cells of a penalty, or None where omega rises or varies within a cell by more than the tolerance."""
    for bits in BITS:
        edge = (np.arange((255 << bits) + 1, dtype=np.int64) << (23 - bits)).astype(np.int32).view(np.float32)
        edge = edge.astype(np.float64)
        edge[-1] = 2.0**128
        middle = (edge[:-1] + edge[1:]) / 2
        with torch.no_grad():
            at_edge, at_middle = (penalty.omega(torch.from_numpy(np.sqrt(x))).numpy() for x in (edge, middle))
        lowest = 1 << bits  # the first cell whose (d / c)^2 is a normal number
        inner, outer, center = at_edge[lowest:-1], at_edge[lowest + 1 :], at_middle[lowest:]
        with np.errstate(divide="ignore", invalid="ignore"):  # an omega of 0 has no cells
            varies = np.maximum(np.abs(inner / center - 1), np.abs(outer / center - 1)).max()
        if (center[1:] > center[:-1] * (1 + 1e-6)).any():
            return None
        if varies <= TOLERANCE:
            constant = int(np.searchsorted(-center, -center[0] * (1 - TOLERANCE / 4)))
            inverse = torch.from_numpy(1 / at_middle).to(torch.float32).to(device)
            first = min(lowest + constant, len(at_middle) - 1)
            return Omega(inverse, bits, first, -at_middle[first:])
    return None


@functools.lru_cache(maxsize=16)
def _decays(penalty: Penalty, step: float, device: torch.device) -> Decays | None:
    """Decays of one step at unit scale."""
    cells = _omega_cells(penalty, device)
    if cells is None:
        return None
    last = min(cells.first + int(np.searchsorted(cells.rising, -NEGLIGIBLE / step)), cells.inverse.numel() - 1)
    table = torch.empty_like(cells.inverse)
    part = table[cells.first : last + 1]
    torch.mul(cells.inverse[cells.first : last + 1], 1 / step, out=part)
    part.add_(1).reciprocal_()
    return Decays(table, cells.bits, cells.first, last)


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled passes, or None where numba is missing or fails, the latter with a warning."""
    try:
        import softdiamond.regularizer._kernel as kernel

        kernel.compile_all()
    except ImportError:
        return None
    except Exception as error:  # whatever a compiler may raise
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"numba cannot compile the step ({reason}): the slower eager operations are used", stacklevel=2)
        return None
    return kernel


def implicit_step(
    weight: Tensor, center: Tensor | None, penalty: Penalty, step: float, scale: float, generator: Generator | None
) -> None:
    """Decay each weight's distance to its center (0 where there is none) by 1 / (1 + step omega(distance / scale)).

    Parameters
    ----------
    weight : Tensor
        Changed in place; any floating dtype and memory layout.
    center : Tensor or None
        Of the weight's shape.
    penalty : Penalty
        Whose omega at unit scale is taken.
    step : float
        eta lambda / scale^2, not negative; with 0 nothing happens.
    scale : float
        Scale c.
    generator : Generator or None
        Of the weight's device, where `rounds_at_random`.
    """
    if step == 0 or weight.numel() == 0:
        return
    decays = None
    if weight.dtype != torch.float64 and SCALES[0] < scale < SCALES[1]:
        decays = _decays(penalty, step, weight.device)
    if decays is None:

        def target(wide: Tensor, distance: Tensor) -> Tensor:
            odds = step * penalty.omega(distance / scale)
            return distance / (1 + odds) if center is None else wide - distance / (1 + 1 / odds)

        _move(weight, center, target, generator)
        return
    table, bits, first, last = decays
    alone = weight.dtype == torch.float32 and center is None
    if alone and weight.device.type == "cpu" and (kernel := compiled()) is not None:
        for (part,) in _pieces(weight, size=weight.numel()):
            kernel.decay_(part.numpy(), table.numpy(), 1 / scale / scale, 23 - bits, first, last)
        increment_version(weight)
        return
    size, steepness = _chunk(weight), 1 / scale / scale
    squares = torch.empty(size, dtype=torch.float32, device=weight.device)
    indices = torch.empty(size, dtype=torch.int64, device=weight.device)  # index_select is quicker with these
    zero = squares.new_zeros(())

    def decay_of(distance: Tensor) -> Tensor:
        n = distance.numel()
        square, index = (squares, indices) if n == size else (squares[:n], indices[:n])
        torch.addcmul(zero, distance, distance, value=steepness, out=square)
        cell = square.view(torch.int32)
        torch.bitwise_right_shift(cell, 23 - bits, out=cell)
        index.copy_(cell.clamp_(first, last))
        return torch.index_select(table, 0, index, out=square)

    if alone:
        for (part,) in _pieces(weight):
            part.addcmul_(part, decay_of(part), value=-1)
    else:
        _move(weight, center, lambda wide, distance: wide - distance * decay_of(distance.float()), generator)


def proximal_step(
    weight: Tensor, center: Tensor | None, penalty: Penalty, step: float, scale: float, generator: Generator | None
) -> None:
    """Move each weight to the exact proximal point of step scale^2 R(distance / scale); parameters as `implicit_step`."""
    if step == 0 or weight.numel() == 0:
        return

    def target(wide: Tensor, distance: Tensor) -> Tensor:
        point = penalty.prox(distance / scale, step) * scale
        return point if center is None else wide - (distance - point)

    _move(weight, center, target, generator)


def log_penalty_step(weight: Tensor, s: float, generator: Generator | None) -> None:
    """Move each weight to the stationary branch of s log|w|, see `softdiamond.penalties.prox.log_penalty_step`."""

    def target(wide: Tensor, distance: Tensor) -> Tensor:
        return wide * stationary_share(wide.abs(), s) + 0.0  # no -0

    _move(weight, None, target, generator)


def stationary_share(size: Tensor, s: float) -> Tensor:
    """Share of its size that the stationary branch of s log(size) leaves: 0 up to 2 sqrt(s)."""
    edge = 2 * math.sqrt(s)
    beyond = size > edge
    size = torch.where(beyond, size, 1.0 + edge)
    share = (1 + ((size - edge) * (size + edge)).sqrt() / size) / 2
    return torch.where(beyond, share, torch.zeros_like(share))


def decay_at(penalty: Penalty, x: Tensor, step: float, exact: bool) -> Tensor:
    """Decay of an implicit step of distances x at unit scale; of many by the table, where it need not be ``exact``."""
    decays = None if exact or x.numel() < MANY else _decays(penalty, step, x.device)
    if decays is None:
        return 1 / (1 + 1 / (step * penalty.omega(x)))
    cell = x.float().square().view(torch.int32) >> (23 - decays.bits)
    return decays.table.index_select(0, cell.clamp_(decays.first, decays.last)).masked_fill_(x.isnan(), math.nan)


def norms_for_step(layout: Layout, distance: Tensor) -> Tensor:
    """`Layout.norms` where no derivative is wanted; squares are summed by label in one compiled pass where that is possible."""
    fits = _fits(distance) if layout.scattered else layout.labels is not None and distance.device.type == "cpu"
    if not fits or (kernel := compiled()) is None:
        return layout.norms(distance)
    values = distance.detach().view(-1) if layout.scattered else layout.slice_norms(distance.detach())
    squares = np.zeros(layout.count)
    kernel.add_squares(values.numpy(), _labels(layout).numpy(), squares)
    return torch.from_numpy(np.sqrt(squares, out=squares))


def _fits(weights: Tensor) -> bool:
    """Whether the compiled passes take them as they lie."""
    return weights.dtype == torch.float32 and weights.device.type == "cpu" and weights.is_contiguous()


def _labels(layout: Layout, device: torch.device | str = "cpu") -> Tensor:
    assert layout.labels is not None  # noqa: S101 - it is asked where there are some
    return layout.labels.to(device)


def group_step(
    weight: Tensor, center: Tensor | None, layout: Layout, decay: Tensor, generator: Generator | None
) -> None:
    """Take from each weight's distance to its center the share ``decay``, of shape (groups,), that its group loses."""
    if center is None and not rounds_at_random(weight, center):
        unfolded, lost = layout.unfolded(weight.detach()), decay.to(weight.device, weight.dtype)
        if layout.scattered and _fits(unfolded) and (kernel := compiled()) is not None:
            kernel.take_(unfolded.view(-1).numpy(), _labels(layout).numpy(), lost.numpy())
            increment_version(weight)
            return
        if layout.scattered and unfolded.is_contiguous():
            # Piece by piece, with no temporary of all weights.
            labels = _labels(layout, weight.device).split(_chunk(weight))
            for part, label in zip(unfolded.view(-1).split(_chunk(weight)), labels, strict=True):
                part.addcmul_(part, lost.index_select(0, label), value=-1)
            return
        unfolded.addcmul_(unfolded, layout.spread(lost), value=-1)
        return
    share = layout.spread(decay.to(weight.device, _widened(weight.new_zeros(())).dtype)).expand(layout.shape)

    def target(wide: Tensor, distance: Tensor, lost: Tensor) -> Tensor:
        return wide - distance * lost

    _move(weight, center, target, generator, share.reshape(weight.shape))


def add_gradient(
    grad: Tensor, weight: Tensor, center: Tensor | None, penalty: Penalty, factor: float | Tensor, scale: float
) -> None:
    """Add factor R'(distance / scale) to ``grad``, in place and without a graph."""
    for part, at, *middle in _pieces(grad, weight, *([] if center is None else [center])):
        distance = _widened(at) - _widened(middle[0]) if middle else _widened(at)
        part.add_((factor * penalty.grad(distance / scale)).to(part.dtype))


def rounds_at_random(weight: Tensor, center: Tensor | None) -> bool:
    """Whether a step's result is rounded at random to the weight's dtype."""
    return weight.dtype in (torch.float16, torch.bfloat16) or (weight.dtype == torch.float32 and center is not None)


def local_part(tensor: Tensor) -> Tensor:
    """Shard of this process of a distributed tensor, where an elementwise step can act; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _move(
    weight: Tensor,
    center: Tensor | None,
    target: Callable[..., Tensor],
    generator: Generator | None,
    *read: Tensor,
) -> None:
    """Set each weight to ``target(weight, distance, *read)``, computed in float32 or wider, rounded to the weight's dtype."""
    at_random = rounds_at_random(weight, center)
    for part, *others in _pieces(weight, *read, *([] if center is None else [center])):
        also, middle = others[: len(read)], others[len(read) :]
        wide = part.double() if at_random and part.device.type != "mps" else _widened(part)
        distance = wide - middle[0].to(wide.dtype) if middle else wide
        result = target(wide, distance, *also)
        if middle:  # where the distance was rounded, a huge step could pass the center
            at = middle[0].to(wide.dtype)
            result = torch.minimum(torch.maximum(result, torch.minimum(wide, at)), torch.maximum(wide, at))
        part.copy_(_round_at_random(result, part, generator) if at_random else result)


def _round_at_random(value: Tensor, part: Tensor, generator: Generator | None) -> Tensor:
    """One of the two neighbours of ``value`` in the dtype of ``part``, in the mean ``value`` itself; still wide."""
    narrow = torch.finfo(part.dtype)
    integer, exponent = (torch.int32, 0x7F800000) if value.dtype == torch.float32 else (torch.int64, 0x7FF << 52)
    unit = (value.view(integer) & exponent).view(value.dtype).clamp_(min=narrow.smallest_normal).mul_(narrow.eps)
    below = (value / unit).floor()
    share = value / unit - below  # exact: nothing is lost where the value is a number of that dtype
    up = torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device) < share
    return torch.where(value.isfinite(), (below + up) * unit, value)


def _widened(part: Tensor) -> Tensor:
    return part if part.dtype == torch.float64 else part.float()


def _chunk(weight: Tensor) -> int:
    return min(weight.numel(), CPU_CHUNK if weight.device.type == "cpu" else DEVICE_CHUNK)


def _pieces(changed: Tensor, *read: Tensor, size: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Flat pieces of tensors of one shape, of at most ``size`` elements, by default a chunk; the first of each is written back."""
    order = sorted(range(changed.dim()), key=changed.stride, reverse=True)
    changed, *others = (tensor.detach().permute(order) for tensor in (changed, *read))
    size = size or _chunk(changed)
    if all(tensor.is_contiguous() for tensor in (changed, *others)):
        yield from zip(*(tensor.view(-1).split(size) for tensor in (changed, *others)), strict=True)
        return
    if changed[0].numel() > size:
        for rows in zip(changed, *others, strict=True):
            yield from _pieces(*rows, size=size)
        return
    for rows in zip(*(tensor.split(size // changed[0].numel()) for tensor in (changed, *others)), strict=True):
        copy = rows[0].reshape(-1)
        yield (copy, *(row.reshape(-1) for row in rows[1:]))
        rows[0].copy_(copy.view(rows[0].shape))
