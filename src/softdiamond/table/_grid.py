"""The cells of one precision: what they hold, how they are fitted, how they are looked up.

The rule's mathematics stands at the top of `softdiamond.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Double = NDArray[np.float64]
Law = Callable[[Double], tuple[Double, Double]]  # R' and R'' of x > 0

_DEEPEST = 10  # most leading mantissa bits that an octave may use
_NODES = {"float64": np.array([-1.0, -np.sqrt(3 / 7), 0.0, np.sqrt(3 / 7), 1.0]), "float32": np.array([-1.0, 0.0, 1.0])}
_BETWEEN = np.array([-0.9, -0.45, 0.17, 0.5, 0.93])  # of a cell, where the fit is tried
_FIT = {"float64": (3e-11, 3e-10), "float32": (1.5e-7, 4e-7)}  # tolerances of R' and R'' there


@dataclass(frozen=True)
class Grid:
    """One precision's cells.

    Attributes
    ----------
    rows : ndarray, (cells, 3 + degree + 1)
        Of each cell: centre m (of the mantissa, in [1, 2)), R(m) in two parts, the first a multiple of 1/8 (so that sums
        with a constant can be formed without rounding), and g_0 ... g_degree.
    index : ndarray of int16
        Cell by leading bits: row number = index[(bits of x >> shift) - base].
    shift, base : int
        See ``index``.
    low, high : float
        The cells cover low <= x < high.
    """

    rows: Array
    index: NDArray[np.int16]
    shift: int
    base: int
    low: float
    high: float


def look_up(grid: Grid, size: Array) -> tuple[Array, Array, Array]:
    """Penalty, gradient and curvature of sizes within the cells; anything outside them."""
    integer, mantissa_bits, bias = (np.int32, 23, 127) if size.dtype == np.float32 else (np.int64, 52, 1023)
    bits: NDArray[np.signedinteger[Any]] = size.view(integer)
    exponent = bits >> mantissa_bits
    row = grid.rows[grid.index[np.clip((bits >> grid.shift) - grid.base, 0, grid.index.size - 1)]]
    one = bias << mantissa_bits
    tau = ((bits & ((1 << mantissa_bits) - 1)) | one).astype(integer).view(size.dtype) - row[:, 0]
    unit = ((2 * bias + 1 - exponent) << mantissa_bits).astype(integer).view(size.dtype)  # 2^(1 - e)
    g = row[:, 3:]
    degree = g.shape[1] - 1
    gradient, rise, slope = g[:, degree], g[:, degree] / size.dtype.type(degree + 1), g[:, degree] * degree
    for k in range(degree - 1, -1, -1):
        gradient = gradient * tau + g[:, k]
        rise = rise * tau + g[:, k] / size.dtype.type(k + 1)
        slope = slope * tau + g[:, k] * k if k else slope
    two = size.dtype.type(2)
    return row[:, 1] + (row[:, 2] + two * (rise * tau)), gradient * unit, slope * unit * (unit / two)


def fit_grid(dtype: str, law: Law, low: float, high: float, kappa: float, deeper: int = 0) -> Grid:
    """Cells of every octave of [low, high), each octave with the fewest that meet the tolerance."""
    deepest = _DEEPEST + deeper
    nodes, solve = _NODES[dtype], _hermite(_NODES[dtype])
    first, last = int(np.log2(low)), int(np.log2(high))
    found: dict[int, Double] = {}
    pending = np.arange(first, last)
    for depth in range(deepest + 1):
        if pending.size == 0:
            break
        count = 2**depth
        centre = 1 + (np.arange(count) + 0.5) / count
        half = 0.5 / count
        octave: Double = 2.0 ** pending[:, None, None].astype(np.float64)
        gradient, curvature = law(octave * (centre[:, None] + half * nodes))
        # in units of the octave, and of its half cell for the derivative in the nodes' coordinate
        data = np.concatenate([gradient * octave / 2, curvature * octave**2 / 2 * half], axis=-1)
        g = data @ solve.T / half ** np.arange(solve.shape[0])
        good = _fits(g, law, octave, centre, half, _FIT[dtype]) if depth < deepest else np.ones(pending.size, bool)
        for index in np.flatnonzero(good):
            middle = np.broadcast_to(centre[:, None], (count, 1))
            found[int(pending[index])] = np.concatenate([middle, np.zeros((count, 2)), g[index]], axis=1)
        pending = pending[~good]
    return _assemble(dtype, found, first, last, kappa)


def _hermite(nodes: Double) -> Double:
    """Matrix from values and derivatives at the nodes in [-1, 1] to monomial coefficients."""
    k = np.arange(2 * nodes.size)
    value = nodes[:, None] ** k
    derivative = k * nodes[:, None] ** np.maximum(k - 1, 0)
    return np.asarray(np.linalg.inv(np.concatenate([value, derivative])))


def _fits(g: Double, law: Law, octave: Double, centre: Double, half: float, tolerance: tuple[float, float]) -> Any:
    """Which octaves meet the tolerance between the nodes."""
    tau = half * _BETWEEN
    k = np.arange(g.shape[-1])
    x = octave * (centre[:, None] + tau)
    gradient, curvature = law(x)
    value = g @ (tau[:, None] ** k).T * 2 / octave
    slope = g @ (k * tau[:, None] ** np.maximum(k - 1, 0)).T * 2 / octave**2
    error = np.abs(value / gradient - 1).max(axis=(1, 2))
    bend = (np.abs(slope - curvature) / (np.abs(curvature) + gradient / x)).max(axis=(1, 2))
    return (error < tolerance[0]) & (bend < tolerance[1])


def _assemble(dtype: str, found: dict[int, Double], first: int, last: int, kappa: float) -> Grid:
    """Rows in order, the penalty summed from zero up, and the index by exponent."""
    bits, bias = (23, 127) if dtype == "float32" else (52, 1023)
    finest = max(len(row) for row in found.values())
    penalty, count = kappa * 2.0 ** (2 * first) / 2, 0
    rows: list[Double] = []
    index: list[NDArray[np.int64]] = []
    for octave in range(first, last):
        row = found[octave]
        index.append(np.repeat(count + np.arange(len(row)), finest // len(row)))
        count += len(row)
        half = 0.5 / len(row)
        k = np.arange(1, row.shape[1] - 2)
        up, down = (2 * (row[:, 3:] * side**k / k).sum(axis=1) for side in (half, -half))
        before = penalty + np.concatenate([[0.0], np.cumsum(up - down)])
        row[:, 1] = np.rint(8 * (before[:-1] - down)) / 8
        row[:, 2] = before[:-1] - down - row[:, 1]
        penalty = before[-1]
        rows.append(row)
    with np.errstate(over="ignore"):
        stacked = np.concatenate(rows).astype(dtype)
    shift = bits - int(np.log2(finest))
    base = (first + bias) * finest
    return Grid(stacked, np.concatenate(index).astype(np.int16), shift, base, 2.0**first, 2.0**last)
