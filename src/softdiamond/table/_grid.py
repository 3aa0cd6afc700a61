"""The cells of one precision: what they hold, how they are fitted, how they are looked up.

The rule's mathematics stands at the top of `softdiamond.table`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softdiamond.table._rule import derivative, mean, polynomial

Array = NDArray[np.floating[Any]]
Double = NDArray[np.float64]
Law = Callable[[Double], tuple[Double, Double]]  # R' and R'' of x > 0

CENTER, EIGHTHS, REST, COEFFICIENTS = 0, 1, 2, 3  # columns of `Grid.rows`

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
        Of each cell: center m (of the mantissa, in [1, 2)), R(m) in two parts, the first a multiple of 1/8 (so that sums
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

    def __post_init__(self) -> None:
        """Refuse rows and an index that are not laid out as every reader takes them to be."""
        width, octaves = self.rows.shape[-1], int(np.log2(self.high)) - int(np.log2(self.low))
        mantissa_bits, bias = (23, 127) if self.rows.dtype == np.float32 else (52, 1023)
        finest = 1 << (mantissa_bits - self.shift)
        layout = {
            "rows of float32 or float64": self.rows.dtype in (np.float32, np.float64) and self.rows.ndim == 2,
            "center, penalty in two parts and two coefficients or more": width >= COEFFICIENTS + 2,
            "an index of every octave's finest cells": self.index.shape == (octaves * finest,),
            "a base at the first octave": self.base == (int(np.log2(self.low)) + bias) * finest,
            "an index of rows": self.index.size > 0 and self.index.min() >= 0 and self.index.max() < len(self.rows),
        }
        if missing := [what for what, holds in layout.items() if not holds]:
            raise ValueError(f"the grid of a table has {missing[0]}; these have not")

    @property
    def degree(self) -> int:
        """Of the polynomial of the gradient in a cell."""
        return int(self.rows.shape[1]) - COEFFICIENTS - 1


def look_up(grid: Grid, size: Array) -> tuple[Array, Array, Array]:
    """Penalty, gradient and curvature of sizes within the cells; anything outside them."""
    integer, mantissa_bits, bias = (np.int32, 23, 127) if size.dtype == np.float32 else (np.int64, 52, 1023)
    bits: NDArray[np.signedinteger[Any]] = size.view(integer)
    exponent = bits >> mantissa_bits
    row = grid.rows[grid.index[np.clip((bits >> grid.shift) - grid.base, 0, grid.index.size - 1)]]
    one = bias << mantissa_bits
    tau = ((bits & ((1 << mantissa_bits) - 1)) | one).astype(integer).view(size.dtype) - row[:, CENTER]
    unit = ((2 * bias + 1 - exponent) << mantissa_bits).astype(integer).view(size.dtype)  # 2^(1 - e)
    g = row.T[COEFFICIENTS:]
    penalty = row[:, EIGHTHS] + (row[:, REST] + 2 * (mean(g, tau) * tau))
    return penalty, polynomial(g, tau) * unit, derivative(g, tau) * unit * (unit / 2)


def fit_grid(dtype: str, law: Law, low: float, high: float, omega_zero: float, deeper: int = 0) -> Grid:
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
        center = 1 + (np.arange(count) + 0.5) / count
        half = 0.5 / count
        octave: Double = 2.0 ** pending[:, None, None].astype(np.float64)
        gradient, curvature = law(octave * (center[:, None] + half * nodes))
        # in units of the octave, and of its half cell for the derivative in the nodes' coordinate
        data = np.concatenate([gradient * octave / 2, curvature * octave**2 / 2 * half], axis=-1)
        g = data @ solve.T / half ** np.arange(solve.shape[0])
        good = _fits(g, law, octave, center, half, _FIT[dtype]) if depth < deepest else np.ones(pending.size, bool)
        for index in np.flatnonzero(good):
            middle = np.broadcast_to(center[:, None], (count, 1))
            found[int(pending[index])] = np.concatenate([middle, np.zeros((count, 2)), g[index]], axis=1)
        pending = pending[~good]
    return _assemble(dtype, found, first, last, omega_zero)


def _hermite(nodes: Double) -> Double:
    """Matrix from values and derivatives at the nodes in [-1, 1] to monomial coefficients."""
    k = np.arange(2 * nodes.size)
    value = nodes[:, None] ** k
    derivative = k * nodes[:, None] ** np.maximum(k - 1, 0)
    return np.asarray(np.linalg.inv(np.concatenate([value, derivative])))


def _fits(g: Double, law: Law, octave: Double, center: Double, half: float, tolerance: tuple[float, float]) -> Any:
    """Which octaves meet the tolerance between the nodes."""
    tau = half * _BETWEEN
    k = np.arange(g.shape[-1])
    x = octave * (center[:, None] + tau)
    gradient, curvature = law(x)
    value = g @ (tau[:, None] ** k).T * 2 / octave
    fitted_curvature = g @ (k * tau[:, None] ** np.maximum(k - 1, 0)).T * 2 / octave**2
    gradient_error = np.abs(value / gradient - 1).max(axis=(1, 2))
    curvature_error = (np.abs(fitted_curvature - curvature) / (np.abs(curvature) + gradient / x)).max(axis=(1, 2))
    return (gradient_error < tolerance[0]) & (curvature_error < tolerance[1])


def _assemble(dtype: str, found: dict[int, Double], first: int, last: int, omega_zero: float) -> Grid:
    """Rows in order, the penalty summed from zero up, and the index by exponent."""
    bits, bias = (23, 127) if dtype == "float32" else (52, 1023)
    finest = max(len(row) for row in found.values())
    penalty, count = omega_zero * 2.0 ** (2 * first) / 2, 0
    rows: list[Double] = []
    index: list[NDArray[np.int64]] = []
    for octave in range(first, last):
        row = found[octave]
        index.append(np.repeat(count + np.arange(len(row)), finest // len(row)))
        count += len(row)
        half = 0.5 / len(row)
        k = np.arange(1, row.shape[1] - COEFFICIENTS + 1)
        up, down = (2 * (row[:, COEFFICIENTS:] * side**k / k).sum(axis=1) for side in (half, -half))
        before = penalty + np.concatenate([[0.0], np.cumsum(up - down)])
        row[:, EIGHTHS] = np.rint(8 * (before[:-1] - down)) / 8
        row[:, REST] = before[:-1] - down - row[:, EIGHTHS]
        penalty = before[-1]
        rows.append(row)
    with np.errstate(over="ignore"):
        stacked = np.concatenate(rows).astype(dtype)
    shift = bits - int(np.log2(finest))
    base = (first + bias) * finest
    return Grid(stacked, np.concatenate(index).astype(np.int16), shift, base, 2.0**first, 2.0**last)
