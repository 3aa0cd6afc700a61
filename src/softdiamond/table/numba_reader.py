"""The look-up table in code compiled by numba: float64, one number at a time, of one weight (d = 1).

Shared by the compiled proximal map and coordinate descent. It needs the package numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from softdiamond.table import _rule
from softdiamond.table._cache import lookup_table
from softdiamond.table._grid import CENTER, COEFFICIENTS, EIGHTHS, REST
from softdiamond.table._table import Table

Array = NDArray[np.float64]


class Cells(NamedTuple):
    """A table of d = 1 as compiled code takes it; see `softdiamond.table.Table` and its float64 ``Grid``."""

    rows: Array
    cell: NDArray[np.int16]
    shift: int
    base: int
    low: float
    high: float
    alpha: float
    omega_zero: float
    log_peak: float
    tail: Array


@lru_cache(maxsize=64)
def cells_of(alpha: float) -> Cells:
    """Cells of one alpha.

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2].
    """
    return convert(lookup_table(alpha))


def convert(table: Table) -> Cells:
    """Cells of a table.

    Raises
    ------
    ValueError
        If it is that of a group.
    """
    if table.d != 1:
        raise ValueError(f"compiled code reads tables of one weight; got one of d = {table.d}")
    grid = table.double
    place = grid.index, grid.shift, grid.base, grid.low, grid.high
    return Cells(np.ascontiguousarray(grid.rows), *place, table.alpha, table.omega_zero, table.log_peak, table.tail)


@intrinsic
def _bits(typing_context: Any, x: Any) -> Any:
    """Bits of a float64 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _float(typing_context: Any, bits: Any) -> Any:
    """Float64 of the bits in an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


_MANTISSA = (1 << 52) - 1
_ONE = 1023 << 52

_compiled = njit(cache=True, error_model="numpy", nogil=True)
_polynomial = _compiled(_rule.polynomial)
_derivative = _compiled(_rule.derivative)
_mean = _compiled(_rule.mean)
_tail_sums = _compiled(_rule.tail_sums)


@_compiled
def derivatives(x: float, cells: Cells) -> tuple[float, float]:
    """R' and R'' at x >= 0, as `Table.evaluate` has them."""
    if x < cells.low or (x >= cells.high and cells.tail.size == 0):
        return cells.omega_zero * x, cells.omega_zero
    if x >= cells.high:
        total, first, second = _tail_sums(x**-cells.alpha, cells.alpha, 1, cells.tail)
        first, second = first / total, second / total
        return first / x, (first * first - second) / x / x
    bits: Any = _bits(x)  # type: ignore[call-arg]
    row = cells.rows[cells.cell[(bits >> cells.shift) - cells.base]]
    tau = _float((bits & _MANTISSA) | _ONE) - row[CENTER]
    unit = _float((2047 - (bits >> 52)) << 52)  # 2^(1 - e)
    g = row[COEFFICIENTS:]
    return _polynomial(g, tau) * unit, _derivative(g, tau) * unit * unit / 2


@_compiled
def value(x: float, cells: Cells) -> float:
    """R at x >= 0, as `Table.evaluate` has it."""
    if x < cells.low or (x >= cells.high and cells.tail.size == 0):
        return cells.omega_zero * x * x / 2
    if x >= cells.high:
        total = _tail_sums(x**-cells.alpha, cells.alpha, 1, cells.tail)[0]
        return float(cells.log_peak + (cells.alpha + 1) * np.log(x) - np.log(total))
    bits: Any = _bits(x)  # type: ignore[call-arg]
    row = cells.rows[cells.cell[(bits >> cells.shift) - cells.base]]
    tau = _float((bits & _MANTISSA) | _ONE) - row[CENTER]
    return row[EIGHTHS] + (row[REST] + 2 * _mean(row[COEFFICIENTS:], tau) * tau)


@_compiled
def values(b: Array, c: float, cells: Cells) -> Array:
    """R(b_j / c), elementwise."""
    result = np.empty_like(b)
    for j in range(b.size):
        result[j] = value(abs(b[j]) / c, cells)
    return result


@_compiled
def gradients(b: Array, c: float, cells: Cells) -> Array:
    """d R(b_j / c) / db_j, elementwise."""
    result = np.empty_like(b)
    for j in range(b.size):
        result[j] = np.copysign(derivatives(abs(b[j]) / c, cells)[0] / c, b[j])
    return result


@_compiled
def curvatures(b: Array, c: float, cells: Cells) -> Array:
    """d^2 R(b_j / c) / db_j^2, elementwise."""
    result = np.empty_like(b)
    for j in range(b.size):
        result[j] = derivatives(abs(b[j]) / c, cells)[1] / (c * c)
    return result


@_compiled
def omegas(b: Array, c: float, cells: Cells) -> Array:
    """Gradient over b_j, elementwise: the strength of the ridge penalty that lies above R and touches it at b_j."""
    result = np.empty_like(b)
    for j in range(b.size):
        x = abs(b[j]) / c
        result[j] = (cells.omega_zero if x < cells.low else derivatives(x, cells)[0] / x) / (c * c)
    return result
