r"""The proximal map of `softdiamond.penalties.prox` for soft diamonds, one number at a time, compiled by numba.

h(u) = u + s R'(u) is concave up to the inflection of R', where R'' is least, and convex after it. Newton's method on
h(u) = v from 0 can therefore not pass the inner root, and from v not the outer one, without a bracket. In the interval of v
in which h falls both roots exist and the lower objective wins. It needs the package numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from softdiamond.penalties.prox import inflection
from softdiamond.table import lookup_table
from softdiamond.table.numba_reader import Cells, cells_of, derivatives, value


class Curve(NamedTuple):
    """The table of one alpha with the inflection of its gradient."""

    cells: Cells
    inflection: float  # where R'' is least, infinite for a convex penalty
    least_curvature: float  # R'' there


@lru_cache(maxsize=64)
def curve_of(alpha: float) -> Curve:
    """Curve of one alpha.

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2].
    """
    return Curve(cells_of(alpha), *inflection(lookup_table(alpha)))


_compiled = njit(cache=True, error_model="numpy", nogil=True)


@_compiled
def _newton(u: float, v: float, step: float, cells: Cells) -> float:
    """Root of h(u) = v by Newton's method from u; NaN where h is met falling."""
    for _ in range(100):
        gradient, curvature = derivatives(u, cells)
        rate = 1 + step * curvature
        if rate <= 0:
            return np.nan
        new = min(max(u + (v - u - step * gradient) / rate, 0.0), v)
        if abs(new - u) <= 1e-9 * new:  # a step from there is exact to rounding
            return new
        u = new
    return u


@_compiled
def _stationary_point(step: float, rising: float, falling: float, cells: Cells) -> float:
    """Where h' is zero between a place where h rises and one where it falls; on the rising side."""
    for _ in range(60):
        middle = np.sqrt(rising * falling)
        if 1 + step * derivatives(middle, cells)[1] > 0:
            rising = middle
        else:
            falling = middle
    return rising


@_compiled
def jump_interval(step: float, curve: Curve) -> tuple[float, float]:
    """Least v with an outer root and largest v with an inner one: the jump lies between; infinite where h does not fall."""
    place, cells = curve.inflection, curve.cells
    if step * -curve.least_curvature <= 1 + 1e-12:
        return np.inf, np.inf
    low, high = place, place
    while 1 + step * derivatives(low, cells)[1] <= 0:
        low /= 16
    while 1 + step * derivatives(high, cells)[1] <= 0:
        high *= 16
    inner, outer = _stationary_point(step, low, place, cells), _stationary_point(step, high, place, cells)
    return outer + step * derivatives(outer, cells)[0], inner + step * derivatives(inner, cells)[0]


@_compiled
def prox(v: float, step: float, low: float, high: float, curve: Curve) -> float:
    """Global minimizer of (u - v)^2 / 2 + step R(u) for v >= 0, with the ends that `jump_interval` gives for this step."""
    cells = curve.cells
    inner = outer = np.nan
    if v <= high:
        inner = _newton(0.0, v, step, cells)
    if v >= low:
        outer = _newton(v, v, step, cells)
    if np.isnan(outer):
        return inner
    if np.isnan(inner):
        return outer
    excess = (outer - v) ** 2 / 2 + step * value(outer, cells) - (inner - v) ** 2 / 2 - step * value(inner, cells)
    return inner if excess > 0 else outer
