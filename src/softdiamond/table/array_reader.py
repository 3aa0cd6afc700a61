r"""The look-up table in any array namespace that follows NumPy's: ``jax.numpy``, ``keras.ops`` and ``numpy`` itself.

`softdiamond.table`'s rule, which reads the index from the leading bits of a float, without a view of the bits. The octave is the
integer part of the binary logarithm, at most one off where that was rounded, and put right by comparison with the octave's
exact ends; the mantissa, x times a power of two, is then exact, and so is the cell. What is looked up is equal to what the
other readers look up to 1e-6 relative in float32 and 1e-9 in float64 (``tests/test_frameworks.py``).

Shared by `softdiamond.jax` and `softdiamond.keras`; no public interface.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softdiamond.table._cache import lookup_table
from softdiamond.table._grid import CENTER, COEFFICIENTS, EIGHTHS, REST
from softdiamond.table._rule import beyond, derivative, mean, polynomial, tail_series
from softdiamond.table._table import Table

Array = Any  # of the namespace
FAR = 1e15  # x from which x^2 and x / scale may leave float32; the tail series is exact from 2^21 at most


class Cells(NamedTuple):
    """A table's grid as NumPy arrays of one dtype; see `softdiamond.table.Grid`."""

    rows: NDArray[Any]  # center, penalty in eighths, the rest, g_0, g_1, ...
    cell: NDArray[np.int32]  # row by octave and leading mantissa bits
    finest: int  # of these, how many an octave has
    least: NDArray[Any]  # 2^e, the smallest x of an octave
    unit: NDArray[Any]  # 2^(1 - e)
    first: int  # the smallest e
    low: float
    high: float
    tail: tuple[float, ...]
    alpha: float
    omega_zero: float
    log_peak: float


@functools.lru_cache(maxsize=256)
def cells_of(alpha: float, dtype: str) -> Cells:
    """Cells of one alpha for ``"float32"`` or ``"float64"``.

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2].
    """
    return convert(lookup_table(alpha), dtype)


def convert(table: Table, dtype: str) -> Cells:
    """Cells of a table.

    Raises
    ------
    ValueError
        If it is that of a group.
    """
    if table.d != 1:
        raise ValueError(f"arrays are read from tables of one weight; got one of d = {table.d}")
    grid = table.grid(dtype)
    mantissa = 23 if dtype == "float32" else 52
    first, last = round(np.log2(grid.low)), round(np.log2(grid.high))
    octaves = 2.0 ** np.arange(first, last)
    return Cells(
        rows=grid.rows.astype(dtype),
        cell=grid.index.astype(np.int32),
        finest=1 << (mantissa - grid.shift),
        least=octaves.astype(dtype),
        unit=(2 / octaves).astype(dtype),
        first=first,
        low=max(
            grid.low, table.double.low
        ),  # omega is constant below: there a product of an x may be too small for a float32
        high=min(grid.high, float(np.finfo(dtype).max)),
        tail=tuple(table.tail.tolist()),
        alpha=table.alpha,
        omega_zero=table.omega_zero,
        log_peak=table.log_peak,
    )


def evaluate(xp: Any, x: Array, cells: Cells) -> tuple[Array, Array, Array]:
    """Penalty, gradient and curvature at unit scale, of the dtype of the cells, which is that of x; NaN where x is NaN."""
    size = xp.abs(x)
    inside, tau, unit, column = _place(xp, size, cells)
    g = [column(k) for k in range(COEFFICIENTS, cells.rows.shape[1])]
    penalty = column(EIGHTHS) + (column(REST) + 2 * (mean(g, tau) * tau))
    gradient, curvature = polynomial(g, tau) * unit, derivative(g, tau) * unit * (unit / 2)

    small = xp.where(size < cells.low, size, xp.zeros_like(size))
    below = cells.omega_zero / 2 * small * small, cells.omega_zero * small, xp.full_like(size, cells.omega_zero)
    above = _beyond(xp, size, cells)
    values = []
    for value, under, over in zip((penalty, gradient, curvature), below, above, strict=True):
        value = xp.where(inside, value, xp.where(size < cells.low, under, over))
        values.append(xp.where(xp.isnan(size), size, value))
    return values[0], values[1] * xp.sign(x), values[2]


def omega(xp: Any, x: Array, cells: Cells) -> Array:
    """Adaptive decay R'(x) / x at unit scale, with its limit omega_zero at zero; at alpha = 2 it is 0.5, exactly."""
    size = xp.abs(x)
    if cells.alpha == 2:
        return xp.where(xp.isnan(size), size, xp.full_like(size, 0.5))
    inside, tau, unit, column = _place(xp, size, cells)
    gradient = polynomial([column(k) for k in range(COEFFICIENTS, cells.rows.shape[1])], tau)
    at = xp.where(inside, size, xp.ones_like(size))
    above = _beyond(xp, size, cells)[1] / xp.where(size >= cells.high, size, xp.ones_like(size))
    value = xp.where(
        inside, gradient * unit / at, xp.where(size < cells.low, xp.full_like(size, cells.omega_zero), above)
    )
    return xp.where(xp.isnan(size), size, value)


def far_penalty(xp: Any, w: Array, scale: Any, cells: Cells) -> tuple[Array, Array, Array]:
    r"""Where x = \|w\| / scale is above ``FAR``, and the penalty and x R'(x) there, by the tail series in log x, which cannot overflow.

    The penalty is differentiable in w and scale by the namespace's own means, elsewhere a constant. At alpha = 2 the penalty itself
    overflows, and no weight is far.
    """
    size, scale = xp.abs(w), xp.array(scale, dtype=cells.rows.dtype.name)
    if not cells.tail:
        return xp.zeros_like(size / scale, dtype="bool"), size, size
    far = (size / scale > FAR) & xp.isfinite(size)
    log_x = xp.where(far, xp.log(xp.where(far, size, xp.ones_like(size))) - xp.log(scale), 100.0)
    y = xp.exp(-cells.alpha * log_x)
    return far, *tail_series(xp, log_x, y, cells.alpha, 1, cells.log_peak, cells.tail)[:2]


def _place(xp: Any, size: Array, cells: Cells) -> tuple[Array, Array, Array, Callable[[int], Array]]:
    """Which sizes lie in the cells, tau, 2^(1 - e), and a column of the rows by its number."""
    inside = (size >= cells.low) & (size < cells.high)
    within = xp.where(inside, size, xp.full_like(size, cells.low))
    octave = xp.clip(_integer(xp, xp.log2(within) - cells.first), 0, len(cells.least) - 1)
    least = xp.take(xp.array(cells.least), octave, axis=0)
    octave = octave + _integer(xp, within >= least * 2) - _integer(xp, within < least)
    octave = xp.clip(octave, 0, len(cells.least) - 1)
    unit = xp.take(xp.array(cells.unit), octave, axis=0)
    mantissa = within * unit / 2
    leading = _integer(xp, (mantissa - 1) * cells.finest)
    cell = xp.take(xp.array(cells.cell), octave * cells.finest + leading, axis=0)
    tau = mantissa - xp.take(xp.array(cells.rows[:, CENTER]), cell, axis=0)
    return inside, tau, unit, lambda number: xp.take(xp.array(cells.rows[:, number]), cell, axis=0)


class Law:
    """One alpha at unit scale, a `softdiamond.penalties.prox.Curve` in float64 that is exactly x / 2 in its gradient at alpha = 2."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def evaluate(self, x: NDArray[np.float64]) -> tuple[Array, Array, Array]:
        """Penalty, gradient and curvature."""
        cells = cells_of(self.alpha, "float64")
        penalty, _, curvature = evaluate(np, x, cells)
        return penalty, x * omega(np, x, cells), curvature


def _integer(xp: Any, x: Array) -> Array:
    """Integer part."""
    return xp.array(x, dtype="int32")


def _beyond(xp: Any, size: Array, cells: Cells) -> tuple[Array, Array, Array]:
    """Penalty, gradient and curvature above the cells; whatever is below them is taken for their end."""
    if cells.high == np.finfo(cells.rows.dtype).max:  # only infinity is there
        return size, xp.zeros_like(size), xp.zeros_like(size)
    x = xp.where(size >= cells.high, size, xp.full_like(size, cells.high))
    return beyond(xp, x, cells.alpha, 1, cells.log_peak, cells.tail)
