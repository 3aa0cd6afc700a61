r"""The exact proximal map of a scalar penalty, where it jumps, and the step of the log penalty; NumPy only.

.. math:: \mathrm{prox}_{s R}(v) = \arg\min_u \tfrac12 (u - v)^2 + s R(u)

for an even penalty R whose gradient R' rises from 0 to one peak and then falls, or only rises (every soft diamond,
Student-t, L2). All is written for unit scale: with a scale c, prox of s R(./c) at v is c times that of (s / c^2) R at v / c.

A minimiser solves h(u) = u + s R'(u) = \|v\|. While s is below the **critical step** 1 / max(-R''), h rises and the map is
continuous. Above it, h falls between two points a < b, the objective has two valleys, and the global minimiser moves from
the inner (u <= a) to the outer (u >= b) where they are equally deep: at that \|v\| the map **jumps**, and no result ever
lies in the band that it leaves out.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softdiamond.table import lookup_table

__all__ = ["Curve", "Jump", "critical_step", "find_jump", "gap", "inflection", "log_penalty_step", "prox"]

Array = NDArray[np.float64]


class Curve(Protocol):
    """A penalty at unit scale, such as a `softdiamond.table.Table`."""

    def evaluate(self, x: Any) -> tuple[Any, Any, Any]:
        """Penalty, gradient and curvature at x, a float64 array."""
        ...


@dataclass(frozen=True)
class Jump:
    """Where the proximal map of one step jumps.

    Attributes
    ----------
    at : float
        The size of v at which the two valleys are equally deep.
    below, above : float
        The minimiser just before and just after: no result lies between them.
    inner, outer : float
        Ends a and b of the stretch in which h falls: below the jump the minimiser lies in [0, a], above it in [b, v].
    """

    at: float
    below: float
    above: float
    inner: float
    outer: float


def critical_step(curve: Curve) -> float:
    """Largest step up to which the proximal map is continuous, 1 / max(-R''); infinite for a convex penalty.

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> round(critical_step(lookup_table(1.0)), 6)  # Cauchy
    4.0
    """
    curvature = inflection(curve)[1]
    return -1 / curvature if curvature < 0 else np.inf


def find_jump(step: float, curve: Curve) -> Jump | None:
    """Jump of the proximal map at this step, or None where it is continuous.

    Raises
    ------
    ValueError
        If the step is negative, infinite or NaN.
    """
    step = _checked(step)
    place, curvature = inflection(curve)
    if step * -curvature <= 1 + 1e-12:
        return None
    high = place
    while 1 + step * _curvature(curve, high) < 0:
        high *= 2
    inner, outer = _stationary_point(step, curve, 0.0, place), _stationary_point(step, curve, high, place)
    bottom, top = outer + step * _gradient(curve, outer), inner + step * _gradient(curve, inner)  # of the fall of h
    at = _between(bottom, top)
    # Newton's method on the difference of the depths of the two valleys, which falls with |v| at the rate above - below
    for _ in range(100):
        v = np.array([at, at])
        u = _roots(v, step, curve, np.array([0.0, outer]), np.array([inner, at]))
        depth = (u - v) ** 2 / 2 + step * curve.evaluate(u)[0]
        excess = float(depth[1] - depth[0])
        bottom, top = (at, top) if excess > 0 else (bottom, at)
        new = at + excess / float(u[1] - u[0])
        new = new if bottom < new < top else _between(bottom, top)
        if abs(new - at) <= 4e-16 * at:
            break
        at = new
    return Jump(at, float(u[0]), float(u[1]), inner, outer)


def gap(alpha: float, scale: float, step_lambda: float) -> tuple[float, float] | None:
    r"""Band of sizes that the exact proximal map of a soft diamond leaves empty, or None.

    .. math:: u = \arg\min_u \tfrac12 (u - v)^2 + \eta \lambda R(u / c)

    has a band only where eta lambda / c^2 is above the critical ratio `critical_step`: 0.147 at alpha 0.5, 4 at 1, none at 2.
    No v has a u with \|u\| strictly inside.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].
    scale : float
        Scale c > 0.
    step_lambda : float
        eta lambda, not negative.

    Returns
    -------
    tuple of float, or None
        The largest size below the jump, and the smallest above.

    Raises
    ------
    ValueError
        If one of them is out of its range.

    Examples
    --------
    >>> low, high = gap(1.0, 0.01, 1e-3)
    >>> round(low, 5), round(high, 5)
    (0.00599, 0.06329)
    >>> gap(1.0, 0.01, 3e-4) is None  # a ratio of 3, below 4
    True
    """
    if not isinstance(scale, numbers.Real) or not 0 < float(scale) < np.inf:
        raise ValueError(f"scale must be positive and finite; got {scale!r}")
    jump = find_jump(_checked(step_lambda, "step_lambda") / float(scale) / float(scale), lookup_table(alpha))
    return None if jump is None else (jump.below * float(scale), jump.above * float(scale))


def prox(v: ArrayLike, step: float, curve: Curve) -> Array:
    """Exact global minimiser of (u - v)^2 / 2 + step R(u), elementwise.

    Parameters
    ----------
    v : array_like
        Any shape; NaN stays NaN and infinity infinity. At the jump itself the larger minimiser is taken.
    step : float
        Not negative.
    curve : Curve
        The penalty at unit scale.

    Raises
    ------
    ValueError
        If the step is negative, infinite or NaN.

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> prox([0.5, 9.41, 9.42], 10.0, lookup_table(1.0)).round(3)  # it jumps between the last two
    array([0.024, 0.598, 6.344])
    """
    step = _checked(step)
    v = np.asarray(v, dtype=np.float64)
    size = np.abs(v).reshape(-1)
    finite = np.isfinite(size)
    low, high = np.zeros_like(size), size.copy()
    if jump := find_jump(step, curve):
        beyond = size >= jump.at
        low = np.where(beyond, np.minimum(jump.outer, size), low)
        high = np.where(beyond, high, np.minimum(high, jump.inner))
    u = size.copy()
    u[finite] = _roots(size[finite], step, curve, low[finite], high[finite])
    result: Array = np.copysign(u.reshape(v.shape), v)
    return result


def log_penalty_step(v: ArrayLike, s: float) -> Array:
    r"""Stationary branch for the limit of scale 0, where step R tends to s log\|u\| up to a constant, s = step (alpha + 1).

    .. math:: u = (|v| + \sqrt{v^2 - 4 s}) / 2 \text{ where } |v| > 2 \sqrt s, \text{ else } 0

    The global minimiser there is 0 for every v, of no use; this branch ends a continuation of scales towards 0.

    Parameters
    ----------
    v : array_like
        Any shape; NaN stays NaN.
    s : float
        Not negative.

    Raises
    ------
    ValueError
        If s is negative, infinite or NaN.

    Examples
    --------
    >>> log_penalty_step([0.5, -2.0, -2.5], 1.0)
    array([ 0., -0., -2.])
    """
    edge = 2 * np.sqrt(_checked(s, "s"))
    v = np.asarray(v, dtype=np.float64)
    size = np.abs(v)
    with np.errstate(over="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(size - edge, 0)) * np.sqrt(size + edge)  # no v^2, which may overflow
        kept = np.where(size <= edge, 0.0, size / 2 + root / 2)
    result: Array = np.copysign(kept, v)
    return result


def _checked(step: float, name: str = "step") -> float:
    if not isinstance(step, numbers.Real) or not 0 <= float(step) < np.inf:
        raise ValueError(f"{name} must be finite and not negative; got {step!r}")
    return float(step)


def _between(low: float, high: float) -> float:
    return float(np.sqrt(low) * np.sqrt(high))


def _gradient(curve: Curve, u: float) -> float:
    return float(curve.evaluate(np.array([u]))[1][0])


def _curvature(curve: Curve, u: float) -> float:
    return float(curve.evaluate(np.array([u]))[2][0])


def inflection(curve: Curve) -> tuple[float, float]:
    """Inflection of R', where the curvature R'' is most negative, and R'' there; (inf, 0) for a convex penalty."""
    x = np.geomspace(1e-25, 1e6, 4001)
    curvature = curve.evaluate(x)[2]
    best = int(np.argmin(curvature))
    if curvature[best] >= 0:
        return np.inf, 0.0
    for _ in range(5):  # each pass narrows a factor of 200
        x = np.geomspace(x[max(best - 1, 0)], x[min(best + 1, x.size - 1)], 401)
        curvature = curve.evaluate(x)[2]
        best = int(np.argmin(curvature))
    return float(x[best]), float(curvature[best])


def _stationary_point(step: float, curve: Curve, rising: float, falling: float) -> float:
    """Where h' = 1 + step R'' is zero, between a place where h rises and one where it falls; on the rising side."""
    for _ in range(200):
        middle = float(np.sqrt(rising * falling)) if min(rising, falling) > 0 else falling / 1024
        if abs(rising - falling) <= 4e-16 * falling or middle in (rising, falling):
            break
        if 1 + step * _curvature(curve, middle) > 0:
            rising = middle
        else:
            falling = middle
    return rising


def _roots(size: Array, step: float, curve: Curve, low: Array, high: Array) -> Array:
    """Root of h(u) = size in [low, high], where h rises: Newton's method, kept in the bracket by bisection."""
    u = high.copy()
    low, high = low.copy(), high.copy()
    active = np.arange(size.size)
    for _ in range(200):
        if active.size == 0:
            break
        at = u[active]
        _, gradient, curvature = curve.evaluate(at)
        excess = at + step * gradient - size[active]
        low[active] = np.where(excess <= 0, at, low[active])
        high[active] = np.where(excess >= 0, at, high[active])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            new = at - excess / (1 + step * curvature)
        inside = (new >= low[active]) & (new <= high[active])
        new = np.where(inside, new, (low[active] + high[active]) / 2)
        u[active] = new
        active = active[(np.abs(new - at) > 1e-10 * new) & (excess != 0)]  # a step from there is exact to rounding
    return u
