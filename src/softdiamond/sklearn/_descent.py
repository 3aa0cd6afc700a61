r"""Coordinate descent on a quadratic with soft diamond or lasso penalty, compiled by numba.

.. math:: F(b) = \tfrac12 b^T G b - d^T b + \sum_j \lambda_j R(b_j / c)

G is a Gram matrix, so that dense and sparse columns, weights of rows and centering are all the same to this room. One
coordinate's problem is a scalar proximal map: with :math:`v = b_j + q_j / G_{jj}`, :math:`q = d - G b`,

.. math:: b_j \leftarrow c\, \mathrm{prox}_{s R}(v / c), \qquad s = \lambda_j / (c^2 G_{jj}),

its **global** minimizer, so that F falls at every step and no coordinate of the result can be bettered alone.

**The scalar map.** h(u) = u + s R'(u) is concave up to the steepest fall of R' and convex after it. Newton's method on
h(u) = v from 0 can therefore not pass the inner root, and from v not the outer one, without a bracket. Between the ends of
the fall of h both roots exist and the lower objective wins; `softdiamond.penalties.prox` is the oracle of the tests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from softdiamond.penalties.prox import steepest
from softdiamond.table import lookup_table

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """The table of one alpha as compiled code takes it; see `softdiamond.table.Table` and its float64 ``Grid``."""

    rows: Array
    cell: NDArray[np.int16]
    shift: int
    base: int
    low: float
    high: float
    kappa: float
    alpha: float
    log_peak: float
    tail: Array
    steepest: float  # where R'' is least, infinite for a convex penalty
    bend: float  # R'' there


@lru_cache(maxsize=64)
def curve(alpha: float) -> Curve:
    """Table of one alpha, from the cache, with the steepest fall of its gradient."""
    table = lookup_table(alpha)
    grid = table.double
    cells = np.asarray(grid.rows, np.float64), grid.index, grid.shift, grid.base, grid.low, grid.high
    return Curve(*cells, table.kappa, table.alpha, table.log_peak, table.tail, *steepest(table))


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


@njit(cache=True, error_model="numpy", nogil=True)
def slopes(x: float, t: Curve) -> tuple[float, float]:
    """R' and R'' at x >= 0, as `Table.evaluate` has them."""
    if x < t.low:
        return t.kappa * x, t.kappa
    if x >= t.high:
        if t.tail.size == 0:
            return t.kappa * x, t.kappa
        y, total, slope, bend, power = x**-t.alpha, 0.0, 0.0, 0.0, 1.0
        for k in range(t.tail.size):
            order = t.alpha * (k + 1) + 1
            total += t.tail[k] * power
            slope += t.tail[k] * order * power
            bend += t.tail[k] * order * (order + 1) * power
            power *= y
        slope, bend = slope / total, bend / total
        return slope / x, (slope * slope - bend) / x / x
    bits: Any = _bits(x)  # type: ignore[call-arg]
    row = t.rows[t.cell[(bits >> t.shift) - t.base]]
    tau = _float((bits & _MANTISSA) | _ONE) - row[0]
    unit = _float((2047 - (bits >> 52)) << 52)  # 2^(1 - e)
    gradient, slope = row[12], 0.0
    for k in range(11, 2, -1):
        slope = slope * tau + gradient
        gradient = gradient * tau + row[k]
    return gradient * unit, slope * unit * unit / 2


@njit(cache=True, error_model="numpy", nogil=True)
def value(x: float, t: Curve) -> float:
    """R at x >= 0, as `Table.evaluate` has it."""
    if x < t.low:
        return t.kappa * x * x / 2
    if x >= t.high:
        if t.tail.size == 0:
            return t.kappa * x * x / 2
        y, total, power = x**-t.alpha, 0.0, 1.0
        for k in range(t.tail.size):
            total += t.tail[k] * power
            power *= y
        return t.log_peak + (t.alpha + 1) * np.log(x) - np.log(total)
    bits: Any = _bits(x)  # type: ignore[call-arg]
    row = t.rows[t.cell[(bits >> t.shift) - t.base]]
    tau = _float((bits & _MANTISSA) | _ONE) - row[0]
    rise = row[12] / 10
    for k in range(11, 2, -1):
        rise = rise * tau + row[k] / (k - 2)
    return row[1] + (row[2] + 2 * rise * tau)


@njit(cache=True, error_model="numpy", nogil=True)
def _newton(u: float, v: float, step: float, t: Curve) -> float:
    """Root of h(u) = v by Newton's method from u; NaN where h is met falling."""
    for _ in range(100):
        slope, bend = slopes(u, t)
        rate = 1 + step * bend
        if rate <= 0:
            return np.nan
        new = min(max(u + (v - u - step * slope) / rate, 0.0), v)
        if abs(new - u) <= 1e-9 * new:  # a step from there is exact to rounding
            return new
        u = new
    return u


@njit(cache=True, error_model="numpy", nogil=True)
def _turn(step: float, rising: float, falling: float, t: Curve) -> float:
    """Where h' is zero between a place where h rises and one where it falls; on the rising side."""
    for _ in range(60):
        middle = np.sqrt(rising * falling)
        if 1 + step * slopes(middle, t)[1] > 0:
            rising = middle
        else:
            falling = middle
    return rising


@njit(cache=True, error_model="numpy", nogil=True)
def fall(step: float, t: Curve) -> tuple[float, float]:
    """Least v with an outer root and largest v with an inner one; infinite where h does not fall."""
    if step * -t.bend <= 1 + 1e-12:
        return np.inf, np.inf
    low, high = t.steepest, t.steepest
    while 1 + step * slopes(low, t)[1] <= 0:
        low /= 16
    while 1 + step * slopes(high, t)[1] <= 0:
        high *= 16
    inner, outer = _turn(step, low, t.steepest, t), _turn(step, high, t.steepest, t)
    return outer + step * slopes(outer, t)[0], inner + step * slopes(inner, t)[0]


@njit(cache=True, error_model="numpy", nogil=True)
def prox(v: float, step: float, low: float, high: float, t: Curve) -> float:
    """Global minimizer of (u - v)^2 / 2 + step R(u) for v >= 0, with the ends that `fall` gives for this step."""
    inner = outer = np.nan
    if v <= high:
        inner = _newton(0.0, v, step, t)
    if v >= low:
        outer = _newton(v, v, step, t)
    if np.isnan(outer):
        return inner
    if np.isnan(inner):
        return outer
    excess = (outer - v) ** 2 / 2 + step * value(outer, t) - (inner - v) ** 2 / 2 - step * value(inner, t)
    return inner if excess > 0 else outer


@njit(cache=True, error_model="numpy", nogil=True)
def descend(
    gram: Array, q: Array, b: Array, lam: Array, c: float, t: Curve, positive: bool, tol: float, sweeps: int
) -> tuple[float, int]:
    """Lower F in place until the largest |dF/db_j| is at most ``tol``; return that and the number of sweeps.

    ``q = d - G b`` is kept up to date. A sweep visits all coordinates, then those that moved until they rest.
    """
    p = b.size
    active = np.arange(p)
    count, whole, residual = p, True, np.inf
    steps, lows, highs = np.zeros(p), np.full(p, np.inf), np.full(p, np.inf)
    for j in range(p):
        if gram[j, j] > 0:
            steps[j] = lam[j] / (c * c * gram[j, j])
            if j > 0 and steps[j] == steps[j - 1]:
                lows[j], highs[j] = lows[j - 1], highs[j - 1]
            else:
                lows[j], highs[j] = fall(steps[j], t)
    for sweep in range(1, sweeps + 1):
        largest, moved = 0.0, 0
        for i in range(count):
            j = active[i]
            diagonal = gram[j, j]
            if diagonal <= 0:
                continue
            v = b[j] + q[j] / diagonal
            slope = q[j] - lam[j] / c * np.copysign(slopes(abs(b[j]) / c, t)[0], b[j])
            blocked = positive and v <= 0
            if blocked and b[j] == 0:
                continue
            if not blocked and abs(slope) <= 0.5 * tol and (abs(v) < lows[j] * c or abs(b[j]) > t.steepest * c):
                largest = max(largest, abs(slope))
                continue
            largest = max(largest, abs(slope))
            new = 0.0 if blocked else np.copysign(c * prox(abs(v) / c, steps[j], lows[j], highs[j], t), v)
            change = new - b[j]
            if change != 0:
                b[j] = new
                for k in range(p):
                    q[k] -= change * gram[j, k]
                if whole:
                    active[moved] = j
                    moved += 1
        if whole:
            residual = largest
            if largest <= tol:
                return residual, sweep
            count, whole = moved, False
        elif largest <= tol:
            for j in range(p):
                active[j] = j
            count, whole = p, True
    return residual, sweeps


@njit(cache=True, error_model="numpy", nogil=True)
def soften(gram: Array, q: Array, b: Array, lam: Array, positive: bool, tol: float, sweeps: int) -> None:
    """The same for lasso, F with |b_j| in the place of R: it gives a start."""
    p = b.size
    for _ in range(sweeps):
        largest = 0.0
        for j in range(p):
            if gram[j, j] <= 0:
                continue
            v = gram[j, j] * b[j] + q[j]
            new = max(v - lam[j], 0.0) + (0.0 if positive else min(v + lam[j], 0.0))
            change = new / gram[j, j] - b[j]
            if change != 0:
                largest = max(largest, abs(change) * gram[j, j])
                b[j] += change
                for k in range(p):
                    q[k] -= change * gram[j, k]
        if largest <= tol:
            return


@njit(cache=True, error_model="numpy", nogil=True)
def penalties(b: Array, c: float, t: Curve) -> Array:
    """R(b_j / c), elementwise."""
    result = np.empty_like(b)
    for j in range(b.size):
        result[j] = value(abs(b[j]) / c, t)
    return result


@njit(cache=True, error_model="numpy", nogil=True)
def gradients(b: Array, c: float, t: Curve) -> Array:
    """d R(b_j / c) / db_j, elementwise."""
    result = np.empty_like(b)
    for j in range(b.size):
        result[j] = np.copysign(slopes(abs(b[j]) / c, t)[0] / c, b[j])
    return result


@njit(cache=True, error_model="numpy", nogil=True)
def omegas(b: Array, c: float, t: Curve) -> Array:
    """Its quotient by b_j, elementwise: the penalty of the ridge problem that lies above it and touches it at b."""
    result = np.empty_like(b)
    for j in range(b.size):
        x = abs(b[j]) / c
        result[j] = (t.kappa if x < t.low else slopes(x, t)[0] / x) / (c * c)
    return result
