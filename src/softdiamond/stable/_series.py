"""The two power series of the law: about zero and in the tail.

Both are written for unit scale and x > 0 and truncated after a fixed number of terms; the switch points below
are where the first term left out is 1e-17 of the leading one, so that neither series is ever summed where it
diverges or cancels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gamma, gammaln

Array = NDArray[np.float64]

ZERO_TERMS = 16
TAIL_TERMS = 30
_LOG_DROPPED = np.log(1e-17)


def zero_limit(alpha: Array) -> Array:
    """Largest x for the series at zero: there its term number ``ZERO_TERMS`` of f'' is 1e-17 of the leading one.

    The bound 1.2 keeps the alternating sum free of cancellation for alpha > 1.5.
    """
    k = ZERO_TERMS
    term = gammaln((2 * k + 1) / alpha) - gammaln(2 * k - 1) - gammaln(3 / alpha)
    return np.asarray(np.minimum(np.exp((_LOG_DROPPED - term) / (2 * k - 2)), 1.2))


def log_tail_limit(alpha: Array) -> Array:
    """Logarithm of the smallest x for the tail series: there its term ``TAIL_TERMS + 1``, weighted as in f'', is 1e-17.

    Towards alpha = 2 the leading term vanishes as 2 - alpha and the part of the law that the series leaves out,
    of order exp(-x^2 / 4), must be below that: x^2 / 4 > 55 - log(2 - alpha).
    """
    k = TAIL_TERMS + 1
    rest = np.maximum(2 - alpha, 1e-300)
    sine = np.log(np.minimum(k, 1 / np.sin(np.pi * np.minimum(rest, 1) / 2)))
    weight = np.log((alpha * k + 1) * (alpha * k + 2) / ((alpha + 1) * (alpha + 2)))
    term = gammaln(alpha * k + 1) - gammaln(k + 1) - gammaln(alpha + 1) + sine + weight
    limit = (term - _LOG_DROPPED) / (alpha * (k - 1))
    gaussian = np.log(2) + np.log(55 - np.log(rest)) / 2
    return np.asarray(np.where(alpha > 1.8, np.maximum(limit, gaussian), limit))


def zero_series(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    r"""Regime 1, the series at zero (converges for alpha > 1, asymptotic below).

    .. math:: f(x) = \frac{1}{\pi \alpha} \sum_{k \ge 0} (-1)^k \frac{\Gamma((2k+1)/\alpha)}{(2k)!} x^{2k}

    Term by term derivatives give the rest; ``omega`` and ``curvature`` are those of unit scale, with their limit
    omega(0) = Gamma(3/alpha) / Gamma(1/alpha).
    """
    k = np.arange(ZERO_TERMS)[:, None]
    order = (2 * k + 1) / alpha
    # terms relative to f(0): their gamma functions alone would overflow at alpha = 0.1
    unit = zero_limit(alpha)  # x is measured in it, so that no coefficient overflows
    size = np.exp(gammaln(order) - gammaln(1 / alpha) - gammaln(2 * k + 1) + 2 * k * np.log(unit)) * (-1.0) ** k
    size[0] = 1
    square = (x / unit) ** 2
    total = _polynomial(size, square)
    out: dict[str, Array] = {}
    if "logpdf" in wanted:
        out["logpdf"] = np.log(gamma(1 + 1 / alpha) / np.pi) + np.log1p(square * _polynomial(size[1:], square))
    if wanted & {"omega", "curvature"}:
        omega = -_polynomial((2 * k * size)[1:], square) / total / unit**2
        out["omega"] = omega
        if "curvature" in wanted:
            second = _polynomial((2 * k * (2 * k - 1) * size)[1:], square) / total / unit**2
            out["curvature"] = square * (unit * omega) ** 2 - second
    if wanted & {"central", "sf"}:
        central = gamma(1 + 1 / alpha) / np.pi * x * _polynomial(size / (2 * k + 1), square)
        out["central"] = central
        out["sf"] = 0.5 - central
    if "dlogpdf_dalpha" in wanted:
        change = -(1 + order * digamma(order)) / alpha
        out["dlogpdf_dalpha"] = _polynomial(size * change, square) / total
    return out


def tail_series(log_x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    r"""Regime 2, the tail series (converges for alpha < 1, asymptotic above), for alpha < 2.

    .. math:: x f(x) = \frac{1}{\pi} \sum_{k \ge 1} c_k x^{-\alpha k}, \qquad
              c_k = (-1)^{k+1} \frac{\Gamma(\alpha k + 1)}{k!} \sin\frac{\pi \alpha k}{2}

    Takes log x, so that an x / scale beyond the largest float is no special case. ``x_gradient`` is x R'(x) = -x f'/f (tends
    to alpha + 1), ``x2_second`` x^2 f''/f.
    """
    k = np.arange(1, TAIL_TERMS + 1)[:, None]
    angle = np.pi * k / 2 * (2 - alpha)  # exact near 2; (-1)^(k+1) sin(pi alpha k / 2) = sin(pi k (2 - alpha) / 2)
    small = alpha < 1
    angle = np.where(small, np.pi * k / 2 * alpha, angle)
    sign = np.where(small, (-1.0) ** (k + 1), 1.0)
    size = np.exp(gammaln(alpha * k + 1) - gammaln(k + 1) - gammaln(alpha + 1))
    term = sign * size * (np.sin(angle) / np.sin(angle[0]))  # c_k / c_1
    ratio = np.exp(-alpha * log_x)
    total = _polynomial(term, ratio)
    # the first coefficient vanishes at alpha = 2 and is divided out of all terms, so that ratios stay exact there
    lead = gamma(alpha + 1) * np.sin(angle[0]) / np.pi
    out: dict[str, Array] = {}
    if "logpdf" in wanted:
        out["logpdf"] = np.log(lead) - (alpha + 1) * log_x + np.log1p(ratio * _polynomial(term[1:], ratio))
    if wanted & {"omega", "curvature"}:
        power = alpha * k + 1
        out["x_gradient"] = _polynomial(term * power, ratio) / total
        if "curvature" in wanted:
            out["x2_second"] = _polynomial(term * power * (power + 1), ratio) / total
    if wanted & {"central", "sf"}:
        out["sf"] = np.exp(np.log(lead) - alpha * log_x) * _polynomial(term / (alpha * k), ratio)
        out["central"] = 0.5 - out["sf"]
    if "dlogpdf_dalpha" in wanted:
        from_sine = np.where(small, sign, -1.0) * size * (np.pi * k / 2) * (np.cos(angle) / np.sin(angle[0]))
        grown = _polynomial(term * k * digamma(alpha * k + 1) + from_sine, ratio)
        out["dlogpdf_dalpha"] = (grown - log_x * _polynomial(term * k, ratio)) / total
    return out


def _polynomial(coefficients: Array, x: Array) -> Array:
    """Sum of coefficients[k] x^k by Horner's rule; coefficients (K, 1) or (K, n), x (n,)."""
    value = np.broadcast_to(coefficients[-1], x.shape).copy()
    for row in coefficients[-2::-1]:
        value *= x
        value += row
    return value
