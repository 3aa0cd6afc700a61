"""Quantiles: the distribution function inverted in log x, where it is smooth at zero and in the tail alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, ndtri

from softdiamond.stable._law import unit_law

Array = NDArray[np.float64]

_WANTED = frozenset({"logpdf", "sf", "central"})
_STEPS = 80


def log_upper_quantile(q: Array, alpha: Array) -> Array:
    """Log of the z > 0 with P(X > z) = q, for 0 <= q <= 1/2 (n,) and alpha (1,) or (n,), at unit scale.

    Newton's method in u = log z, kept inside a bracket by bisection: on log P(X > z) for q < 1/4, and on
    log P(0 < X < z) = log(1/2 - q), where that keeps its digits, above.
    """
    alpha = np.broadcast_to(alpha, q.shape)
    u = np.empty(q.shape)
    with np.errstate(all="ignore"):
        u[q == 0.5], u[q == 0] = -np.inf, np.inf
        inside = (q > 0) & (q < 0.5)
        two, one = inside & (alpha == 2), inside & (alpha == 1)
        u[two] = np.log(-np.sqrt(2) * ndtri(q[two]))
        cotangent = np.where(q < 0.25, 1 / np.tan(np.pi * q), np.tan(np.pi * (0.5 - q)))
        u[one] = np.log(cotangent[one])
        rest = inside & ~two & ~one
        u[rest] = _newton(q[rest], alpha[rest])
    return u


def _newton(q: Array, alpha: Array) -> Array:
    peak = gamma(1 + 1 / alpha) / np.pi
    # each half by the mass that is small there, so that log keeps its digits at both ends
    upper = q < 0.25
    target = np.log(np.where(upper, q, 0.5 - q))
    low = np.log(np.minimum(0.5 - q, 0.25) / peak)  # P(0 < X < z) <= f(0) z
    high = np.full(q.shape, 900.0) / alpha
    power = (np.log(gamma(alpha) * np.sin(np.pi * alpha / 2) / np.pi) - target) / alpha
    # the tail's power law, or the Gaussian that it meets near alpha = 2: whichever is farther out
    guess = np.maximum(power, np.log(-np.sqrt(2) * ndtri(q)))
    u: Array = np.where(upper, np.clip(guess, low + 1e-3, high), low)
    active = np.arange(q.size)
    for _ in range(_STEPS):
        if active.size == 0:
            break
        v, a, up = u[active], alpha[active], upper[active]
        law = unit_law(np.exp(v), v, a[:1] if np.all(a == a[0]) else a, _WANTED)
        mass = np.where(up, law["sf"], law["central"])
        excess = np.where(up, -1.0, 1.0) * (np.log(mass) - target[active])  # rises with u
        low[active] = np.where(excess <= 0, v, low[active])
        high[active] = np.where(excess >= 0, v, high[active])
        step = excess * mass * np.exp(-law["logpdf"] - v)
        new = v - step
        # a Newton step out of the bracket is replaced by bisection
        inner = (new > low[active]) & (new < high[active])
        new = np.where(inner, new, (low[active] + high[active]) / 2)
        done = (np.abs(excess) < 4e-15) | (np.abs(new - v) <= 4e-16 * np.maximum(1.0, np.abs(v)))
        u[active] = np.where(np.abs(excess) < 4e-15, v, new)
        active = active[~done]
    return u
