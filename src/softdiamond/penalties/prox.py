r"""The exact proximal map of a scalar penalty, where it jumps, and the step of the log penalty; NumPy only.

.. math:: \mathrm{prox}_{s R}(v) = \arg\min_u \tfrac12 (u - v)^2 + s R(u)

for an even penalty R whose gradient R' rises from 0 to one peak and then falls, or only rises (every soft diamond,
Student-t, L2). All is written for unit scale: with a scale c, prox of s R(./c) at v is c times that of (s / c^2) R at v / c.

A minimizer solves h(u) = u + s R'(u) = \|v\|. While s is below the **critical step** 1 / max(-R''), h rises and the map is
continuous. Above it, h falls between two points a < b, the objective has two local minima, and the global minimizer moves from
the inner (u <= a) to the outer (u >= b) where the two are equal: at that \|v\| the map **jumps**, and no result ever
lies in the band that it leaves out.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softdiamond.table import lookup_table

__all__ = ["Curve", "Jump", "critical_step", "find_jump", "gap", "inflection", "log_penalty_step", "prox"]

Array = NDArray[np.float64]

STEP_MAX = 1e290  # of a step at unit scale


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
        The size of v at which the two local minima are equal.
    below, above : float
        The minimizer just before and just after: no result lies between them.
    inner, outer : float
        Ends a and b of the stretch in which h falls: below the jump the minimizer lies in [0, a], above it in [b, v].
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
        If the step is negative, NaN or above 1e290.
    """
    step = check_unit_step(_checked(step))
    place, curvature = inflection(curve)
    if step * -curvature <= 1 + 1e-12:
        return None
    high = place
    while 1 + step * _curvature(curve, high) < 0:
        high *= 2
    inner, outer = _stationary_point(step, curve, 0.0, place), _stationary_point(step, curve, high, place)
    # h decreases between these two values
    bottom, top = outer + step * _gradient(curve, outer), inner + step * _gradient(curve, inner)
    depth_outer = float(curve.evaluate(np.array([outer]))[0][0])
    at = float(np.sqrt(step) * np.sqrt(2 * depth_outer))  # v^2 / 2 = step R, nearly, at a large step
    at = at if bottom < at < top else _between(bottom, top)
    at_zero = _curvature(curve, 0.0)
    # Newton's method on the difference of the two local minima, which decreases with |v| at the rate above - below
    for _ in range(100):
        v = np.array([at, at])
        start = np.array([min(inner_start(at, step, at_zero), inner), at])
        u = _roots(v, step, curve, start, np.array([0.0, outer]), np.array([inner, at]))
        # in units of the step: a square may overflow
        depth = ((u - v) / np.sqrt(step)) ** 2 / 2 + curve.evaluate(u)[0]
        excess = float(depth[1] - depth[0])
        bottom, top = (at, top) if excess > 0 else (bottom, at)
        new = at + excess * (step / float(u[1] - u[0]))
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
        If one of them is out of its range, or step_lambda / scale^2 above 1e290.

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
    ratio = _checked(step_lambda, "step_lambda") / float(scale) / float(scale)
    jump = find_jump(check_unit_step(ratio), lookup_table(alpha))
    return None if jump is None else (jump.below * float(scale), jump.above * float(scale))


def prox(v: ArrayLike, step: float, curve: Curve) -> Array:
    """Exact global minimizer of (u - v)^2 / 2 + step R(u), elementwise.

    Parameters
    ----------
    v : array_like
        Any shape; NaN stays NaN and infinity infinity. At the jump itself the larger minimizer is taken.
    step : float
        Not negative.
    curve : Curve
        The penalty at unit scale.

    Raises
    ------
    ValueError
        If the step is negative, NaN or above 1e290.

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> prox([0.5, 9.41, 9.42], 10.0, lookup_table(1.0)).round(3)  # it jumps between the last two
    array([0.024, 0.598, 6.344])
    """
    step = check_unit_step(_checked(step))
    v = np.asarray(v, dtype=np.float64)
    size = np.abs(v).reshape(-1)
    finite = np.isfinite(size)
    jump = find_jump(step, curve)
    low, high = bracket(np, size, jump)
    start = high
    if jump is not None:
        below = np.minimum(inner_start(size, step, _curvature(curve, 0.0)), high)
        start = np.where(size < jump.at, below, high)
    u = size.copy()
    u[finite] = _roots(size[finite], step, curve, start[finite], low[finite], high[finite])
    result: Array = np.copysign(u.reshape(v.shape), v)
    return result


def log_penalty_step(v: ArrayLike, s: float) -> Array:
    r"""Stationary branch for the limit of scale 0, where step R tends to s log\|u\| up to a constant, s = step (alpha + 1).

    .. math:: u = (|v| + \sqrt{v^2 - 4 s}) / 2 \text{ where } |v| > 2 \sqrt s, \text{ else } 0

    The global minimizer there is 0 for every v, of no use; this branch ends a continuation of scales towards 0.

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


def check_unit_step(step: float) -> float:
    """Return the step at unit scale, step / scale^2.

    Raises
    ------
    ValueError
        If it is above 1e290, from where a float64 does not hold the ends of the jump.
    """
    if step > STEP_MAX:
        raise ValueError(
            f"the scale is too small for this step: step / scale^2 must be at most {STEP_MAX:g}; got {step:g} "
            "(`log_penalty_step` is the limit of scale 0)"
        )
    return step


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


def bracket(xp: Any, size: Any, jump: Jump | None) -> tuple[Any, Any]:
    """Bracket of the global minimizer for each size, in which h rises; ``xp`` is NumPy or torch."""
    low, high = xp.zeros_like(size), size
    if jump is not None:
        beyond = size >= jump.at
        low = xp.where(beyond, xp.clip(size, None, jump.outer), low)
        high = xp.where(beyond, high, xp.clip(size, None, jump.inner))
    return low, high


def inner_start(size: Any, step: float, curvature_at_zero: float) -> Any:
    """Root of h(u) = size for the parabola that touches R at 0, size / (1 + step R''(0)); where a search below the jump starts.

    At a large step the inner root is close to it. The inner end of the bracket, where h is flat, can be a hundred orders of
    magnitude larger: neither Newton's method nor bisection would come down from there.
    """
    return size / step / (1 / step + curvature_at_zero)  # the product may overflow


def roots(
    xp: Any,
    size: Any,
    step: float,
    derivatives: Callable[[Any], tuple[Any, Any]],
    start: Any,
    low: Any,
    high: Any,
) -> Any:
    """Root of h(u) = size in [low, high], where h rises: Newton's method, kept in the bracket by bisection.

    ``xp`` is NumPy or torch; ``derivatives`` gives R' and R'' at u.
    """
    kind, u, moving = xp.finfo(size.dtype), start, size == size
    close = 0.01 * float(kind.eps) ** 0.5  # a step of Newton's method from here is exact to rounding
    for _ in range(200):
        gradient, curvature = derivatives(u)
        excess = u + step * gradient - size
        low, high = xp.where(excess <= 0, u, low), xp.where(excess >= 0, u, high)
        new = u - excess / (1 + step * curvature)
        new = xp.where((new >= low) & (new <= high), new, (low + high) / 2)
        moving, new = moving & (excess != 0), xp.where(moving & (excess != 0), new, u)  # one that has arrived stays
        moving = moving & (xp.abs(new - u) > close * new + float(kind.tiny))
        u = new
        if not bool(moving.any()):
            break
    return u


def _roots(size: Array, step: float, curve: Curve, start: Array, low: Array, high: Array) -> Array:
    """`roots` of a curve."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(roots(np, size, step, lambda u: curve.evaluate(u)[1:], start, low, high))
