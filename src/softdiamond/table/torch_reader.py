"""The look-up table in torch: `softdiamond.table`'s rule as an autograd function, on any device, eager or compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from softdiamond._compat import mark_constant, without_dispatch_modes
from softdiamond.table._cache import lookup_table
from softdiamond.table._rule import beyond, tail_series
from softdiamond.table._table import Table

CHUNK = 1 << 16  # elements worked on at once on the CPU, so that intermediate results stay in its cache


class Cells(NamedTuple):
    """A table's grid as tensors of one dtype and device; see `softdiamond.table.Grid`."""

    center: Tensor
    penalty: tuple[Tensor, Tensor]  # in eighths, and the rest
    gradient: tuple[Tensor, ...]  # g_0, g_1, ...
    mean: tuple[Tensor, ...]  # g_0, g_1 / 2, g_2 / 3, ... of the penalty
    cell: Tensor  # `Grid.index`
    shift: int
    base: int
    low: float
    high: float
    tail: tuple[float, ...]
    alpha: float
    omega_zero: float
    log_peak: float
    d: int


@functools.lru_cache(maxsize=256)
def _build_cells(alpha: float, d: int, dtype: torch.dtype, device: torch.device) -> Cells:
    with without_dispatch_modes():  # or torch.export would leave tensors without data in the cache
        return convert(lookup_table(alpha, d), dtype, device)


def convert(table: Table, dtype: torch.dtype, device: torch.device) -> Cells:
    """Cells of a table, float32 or float64."""
    grid = table.single if dtype == torch.float32 else table.double
    center, eighths, rest, *gradient = (torch.tensor(column, dtype=dtype, device=device) for column in grid.rows.T)
    mean = tuple(g / (k + 1) for k, g in enumerate(gradient))
    index = torch.tensor(grid.index, dtype=torch.int64, device=device)
    place = (index, grid.shift, grid.base, grid.low, grid.high, tuple(table.tail.tolist()))
    return Cells(
        center, (eighths, rest), tuple(gradient), mean, *place, table.alpha, table.omega_zero, table.log_peak, table.d
    )


@mark_constant
def cells_of(alpha: str, dtype: torch.dtype, device: torch.device, d: str = "1") -> Cells:
    """Cells of an alpha in hexadecimal and a d: torch.compile would make a number symbolic, but never a string.

    x is then the norm of d weights in units of `softdiamond.table.Table.unit`.
    """
    return _build_cells(float.fromhex(alpha), int(d), dtype, device)


def penalty_of(x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Penalty at unit scale in two parts, multiples of 1/8 and the rest, by the way that is quickest here."""
    if torch.is_grad_enabled() and x.requires_grad:
        coarse, fine = _expanded(x, cells) if torch.compiler.is_compiling() else _Value.apply(x, cells)[:2]
    else:
        coarse, fine = _ValueAlone.apply(x, cells)
    return coarse, fine


def gradient_of(x: Tensor, cells: Cells) -> Tensor:
    """Gradient of the penalty at unit scale, with a derivative where one is expected."""
    expected = torch.is_grad_enabled() and x.requires_grad
    gradient: Tensor = _Value.apply(x, cells)[2] if expected else _GradientAlone.apply(x, cells)
    return gradient


def far_penalty(log_x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Penalty and its derivative in log x where x is too large for its dtype, at alpha < 2: the tail series in log x."""
    alpha, tail = cells.alpha, cells.tail
    penalty, log_derivative, _ = tail_series(torch, log_x, (-alpha * log_x).exp(), alpha, cells.d, cells.log_peak, tail)
    return penalty, log_derivative


def _expanded(x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """`_Value` as its own Taylor expansion about x, with the same two derivatives.

    torch.compile fuses this into one kernel, three times as fast as what it makes of an autograd function.
    """
    with torch.no_grad():
        coarse, fine, gradient, curvature = _look_up(x.detach(), cells, (True, True, True))
    change = x - x.detach()  # 0, with a derivative; NaN where x is infinite
    change = torch.where(change == 0, change, torch.zeros_like(change))
    gradient = torch.where(gradient.isfinite(), gradient, torch.zeros_like(gradient))
    return coarse, fine + change * (gradient + curvature / 2 * change)


class _Value(Function):
    """Penalty at unit scale in two parts, multiples of 1/8 and the rest, and its gradient.

    The derivative of the rest is the gradient, that of the gradient the curvature.
    """

    @staticmethod
    def forward(x: Tensor, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
        coarse, fine, gradient, _ = _look_up(x, cells, (True, True, False))
        return coarse, fine, gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[2])
        ctx.mark_non_differentiable(output[0])
        ctx.cells = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        x, gradient = ctx.saved_tensors
        total = None if outer[1] is None else outer[1] * gradient
        if outer[2] is not None:
            second = outer[2] * _Curvature.apply(x, ctx.cells)
            total = second if total is None else total + second
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: Cells) -> Any:
        return _Value.apply(x, cells), (in_dims[0],) * 3


class _ValueAlone(Function):
    """The two parts where no gradient is expected; should one be asked for all the same, it is looked up then."""

    @staticmethod
    def forward(x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        return _look_up(x, cells, (True, False, False))[:2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.mark_non_differentiable(output[0])
        ctx.cells = inputs[1]

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[1] * _Value.apply(ctx.saved_tensors[0], ctx.cells)[2], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: Cells) -> Any:
        return _ValueAlone.apply(x, cells), (in_dims[0],) * 2


class _GradientAlone(Function):
    """The gradient where no derivative is expected; should one be asked for all the same, it is looked up then."""

    @staticmethod
    def forward(x: Tensor, cells: Cells) -> Tensor:
        return _look_up(x, cells, (False, True, False))[2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.cells = inputs[1]

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[0] * _Curvature.apply(ctx.saved_tensors[0], ctx.cells), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: Cells) -> Any:
        return _GradientAlone.apply(x, cells), in_dims[0]


class _Curvature(Function):
    """The curvature, which has no derivative."""

    @staticmethod
    def forward(x: Tensor, cells: Cells) -> Tensor:
        return _look_up(x, cells, (False, False, True))[3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        raise RuntimeError("the look-up table has no third derivative of the penalty")

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: Cells) -> Any:
        return _Curvature.apply(x, cells), in_dims[0]


def _look_up(x: Tensor, cells: Cells, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Penalty (eighths, rest), gradient and curvature, of these three what is wanted; in chunks on the CPU in eager mode."""
    flat = x.reshape(-1)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() <= CHUNK:
        values = _chunk(flat, cells, wanted)
    else:
        each = (wanted[0], *wanted)
        values = tuple(torch.empty_like(flat) if want else flat for want in each)
        for start in range(0, flat.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            for out, value, want in zip(values, _chunk(flat[part], cells, wanted), each, strict=True):
                if want:
                    out[part] = value
    coarse, fine, gradient, curvature = (value.view(x.shape) for value in values)
    return coarse, fine, gradient, curvature


def _chunk(x: Tensor, cells: Cells, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
    """`softdiamond.table`'s rule for flat x; see there for the mathematics. What is not wanted comes back as x."""
    integer, mantissa, bias = (torch.int32, 23, 127) if x.dtype == torch.float32 else (torch.int64, 52, 1023)
    size = x.abs()
    bits = size.view(integer)
    top = (bits >> cells.shift).sub_(cells.base).clamp_(0, cells.cell.numel() - 1)
    cell = cells.cell.index_select(0, top)
    tau = (bits & ((1 << mantissa) - 1)).bitwise_or_(bias << mantissa).view(x.dtype)
    tau = tau.sub_(cells.center.index_select(0, cell))
    outside = _outside(size, cells)

    coarse = fine = gradient = curvature = x
    if wanted[0]:
        fine = cells.mean[-1].index_select(0, cell)
        for column in cells.mean[-2::-1]:
            fine = column.index_select(0, cell).addcmul_(fine, tau)
        fine = cells.penalty[1].index_select(0, cell).addcmul_(fine, tau, value=2)
        fine = outside(fine, lambda: cells.omega_zero / 2 * size * size, 0)
        coarse = outside(cells.penalty[0].index_select(0, cell), lambda: torch.zeros_like(size), None)
    if wanted[1] or wanted[2]:
        unit = ((2 * bias + 1 - (bits >> mantissa)) << mantissa).view(x.dtype)  # 2^(1 - e)
    if wanted[1]:
        gradient = cells.gradient[-1].index_select(0, cell)
        for column in cells.gradient[-2::-1]:
            gradient = column.index_select(0, cell).addcmul_(gradient, tau)
        gradient = outside(gradient.mul_(unit), lambda: cells.omega_zero * size, 1) * x.sign()
    if wanted[2]:
        degree = len(cells.gradient) - 1
        curvature = cells.gradient[degree].index_select(0, cell) * degree
        for k in range(degree - 1, 0, -1):
            curvature = (cells.gradient[k].index_select(0, cell) * k).addcmul_(curvature, tau)
        curvature = outside(curvature * unit * (unit / 2), lambda: torch.full_like(size, cells.omega_zero), 2)
    return coarse, fine, gradient, curvature


def _outside(size: Tensor, cells: Cells) -> Callable[[Tensor, Callable[[], Tensor], int | None], Tensor]:
    """What mends a value where x lies below the cells, above them or is NaN; nothing to do where none does."""
    if size.device.type == "cpu" and not torch.compiler.is_compiling():
        least, most = size.aminmax() if size.numel() else (cells.low, cells.low)
        if cells.low <= float(least) and float(most) < cells.high:
            return lambda value, below, which: value
    above = _beyond(size, cells)

    def mend(value: Tensor, below: Callable[[], Tensor], which: int | None) -> Tensor:
        value = torch.where(size < cells.low, below(), value)
        value = torch.where(size >= cells.high, torch.zeros_like(size) if which is None else above[which], value)
        return torch.where(size == size, value, size)

    return mend


def _beyond(size: Tensor, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Penalty, gradient and curvature above the cells; whatever is below them is taken for their end."""
    if cells.high > torch.finfo(size.dtype).max:  # only infinity is there
        return size, torch.zeros_like(size), torch.zeros_like(size)
    x = size.clamp(min=cells.high)
    return beyond(torch, x, cells.alpha, cells.d, cells.log_peak, cells.tail)
