r"""The law of a group of d weights: the isotropic multivariate symmetric alpha-stable law on R^d.

The characteristic function is :math:`\exp(-(c |t|)^\alpha)`: every one-dimensional margin is the scalar law, and d = 1 is
that law itself. At unit scale it is the Gaussian scale mixture :math:`\sqrt A G`, :math:`G \sim N(0, 2 I_d)`, with
:math:`E e^{-sA} = e^{-s^{\alpha/2}}`, so that with r the norm

.. math:: p_d(r) = E\big[(4 \pi A)^{-d/2} e^{-r^2 / 4A}\big], \qquad
          \omega_d(r) = -\frac{p_d'(r)}{r p_d(r)} = E\Big[\frac1{2A} \,\Big|\, r\Big] = 2 \pi \frac{p_{d+2}(r)}{p_d(r)},

and the penalty's curvature is :math:`\omega_d - \tfrac{r^2}{4} \mathrm{Var}[1/A \mid r]`. From
:math:`E A^{-s} = \Gamma(1 + 2s/\alpha) / \Gamma(1 + s)` follows
:math:`\omega_d(0) = \Gamma((d+2)/\alpha) / (d \, \Gamma(d/\alpha))`.

Four regimes, by z = r / c, tried in this order: the closed forms (alpha = 1: :math:`\omega_d = (d+1)/(1+r^2)`; alpha = 2: 1/2),
the series at zero, the series in the tail, and between the two the integral of `softdiamond.stable._mixture`. Their switch
points depend on (alpha, d): the first term left out is 1e-17 of the leading one.

Nolan, Computational Statistics 28 (2013) 2067-2089 (the radial density and its two series); Zolotarev, Contemporary
Mathematics 9 (1981) 163-171.
"""

from __future__ import annotations

import operator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from softdiamond.stable import _law
from softdiamond.stable._mixture import Mixture, log_rising

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

D_MAX = 65_536
ZERO_TERMS = 16
TAIL_TERMS = 30
_LOG_DROPPED = np.log(1e-17)
_BLOCK = 1 << 16
_SMALL = 0.5  # a penalty above it is exact as a difference of logarithms


def dimension(d: object) -> int:
    """Check the number of weights of a group."""
    try:
        checked = operator.index(d)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"d, the number of weights of a group, must be an integer; got {d!r}") from None
    if not 1 <= checked <= D_MAX:
        raise ValueError(f"d, the number of weights of a group, must lie in [1, {D_MAX}]; got {d!r}")
    return checked


def group_law(r: Array, alpha: Array, d: int, scale: Array, name: str) -> Array:
    """Penalty, score, omega or curvature at norms r (n,), alpha and scale (1,) or (n,); NaN in r gives NaN."""
    if d == 1 and name != "penalty":
        return _law.law(r, alpha, scale, name)
    out = _scalar_penalty(r, alpha, scale) if d == 1 else np.full(r.shape, np.nan)
    # the constants of a law cost more than its points: one pass for each alpha
    each = np.broadcast_to(alpha, r.shape)
    for value in np.unique(alpha):
        (same,) = np.nonzero((each == value) & ~(out > _SMALL))
        unit = unit_law(float(value), d)
        for part in np.array_split(same, same.size // _BLOCK + 1):
            out[part] = _scaled(r[part], unit, scale if scale.size == 1 else scale[part], name)
    return out


def _scalar_penalty(r: Array, alpha: Array, scale: Array) -> Array:
    """The difference of two logarithms, which is exact only where it is not small."""
    peak = _law.law(np.zeros(alpha.shape), alpha, np.ones(1), "logpdf") - np.log(scale)
    return np.asarray(peak - _law.law(r, alpha, scale, "logpdf"))


def derivatives(r: Array, alpha: float, d: int) -> tuple[Array, Array]:
    """Gradient of the penalty (minus the score) and curvature at unit scale and norms r > 0 (n,), in one pass; d > 1."""
    out = np.empty((2, r.size))
    for start in range(0, r.size, _BLOCK):
        own = r[start : start + _BLOCK]
        with np.errstate(all="ignore"):
            near, omega, curvature = unit_law(alpha, d).derivatives(*_law.reduced(own, np.ones(1)))
            out[0, start : start + _BLOCK] = np.where(near, omega * own, omega / own)
            out[1, start : start + _BLOCK] = np.where(near, curvature, curvature / own / own)
    return out[0], out[1]


def _scaled(r: Array, unit: UnitLaw, scale: Array, name: str) -> Array:
    with np.errstate(all="ignore"):
        z, log_z = _law.reduced(r, scale)
        if name == "penalty":
            return unit.penalty(z, log_z)
        near, omega, curvature = unit.derivatives(z, log_z)
        raw: dict[str, Array] = {"near": near.astype(float), "omega": omega, "curvature": curvature}
        return _law.assembled(name, r, scale, raw)


@lru_cache(maxsize=64)
def unit_law(alpha: float, d: int) -> UnitLaw:
    """The law of unit scale, with its constants computed once."""
    return UnitLaw(alpha, d)


class UnitLaw:
    """The law of unit scale at one (alpha, d).

    Attributes
    ----------
    log_omega_0 : float
        log omega_d(0).
    zero, tail : ndarray
        Terms of p / p(0) in (z / z_0)^2, and of z^d p / u in (z / z_1)^-alpha from the first power on; z_0 and z_1 are where
        the two series end, ``log_zero_limit`` and ``log_tail_limit`` their logarithms. ``tail`` is empty at alpha = 2.
    log_peak : float
        log(p(0) / u), where u is such that the first term of z^d p / u is z^-alpha; 0 at alpha = 2.
    """

    def __init__(self, alpha: float, d: int) -> None:
        self.alpha, self.d = alpha, d
        self.log_c = _log_zero_terms(alpha, d)
        self.log_omega_0 = float(np.log(2) + self.log_c[1])
        k = np.arange(ZERO_TERMS + 1)
        self.log_zero_limit = _log_zero_limit(self.log_c)
        self.zero = np.exp(self.log_c + 2 * k * self.log_zero_limit) * (-1.0) ** k
        self.log_tail_limit, self.tail, self.log_peak = np.inf, np.empty(0), 0.0
        if alpha < 2:
            log_size, sine = tail_terms(alpha, d, TAIL_TERMS)
            self.log_tail_limit = log_tail_limit(alpha, d, TAIL_TERMS, 1e-17)
            self.tail = sine * np.exp(log_size - alpha * self.log_tail_limit * np.arange(TAIL_TERMS))
            self.log_peak = _log_peak(alpha, d)

    def _split(self, z: Array, log_z: Array) -> tuple[Mask, Mask, Mask]:
        """Where the series at zero, the tail series, and the integral or a closed form hold."""
        zero = (z == 0) | (log_z <= self.log_zero_limit)
        tail = log_z >= self.log_tail_limit
        return zero, tail & ~zero, ~(zero | tail | np.isnan(log_z))

    def derivatives(self, z: Array, log_z: Array) -> tuple[Mask, Array, Array]:
        """Omega and curvature where the mask is true, where it is false z^2 times them."""
        if self.alpha == 2:
            half = np.where(np.isnan(z), np.nan, 0.5)
            return np.ones(z.shape, dtype=bool), half, half
        if self.alpha == 1:
            small = np.exp(-2 * np.abs(log_z))  # z^2 or z^-2, whichever is below one
            near = log_z < 0
            omega = (self.d + 1) / (1 + small)
            return near, omega, omega * np.where(near, 1 - small, small - 1) / (1 + small)
        out = np.full((2, *z.shape), np.nan)
        zero, tail, middle = self._split(z, log_z)
        if zero.any():
            out[:, zero] = self._zero_derivatives(np.exp(2 * (log_z[zero] - self.log_zero_limit)))
        if tail.any():
            out[:, tail] = self._tail_derivatives(np.exp(-self.alpha * (log_z[tail] - self.log_tail_limit)))
        if middle.any():
            _, log_omega, variance = _mixture(self.alpha, self.d).moments(log_z[middle])
            omega = np.exp(log_omega)
            out[:, middle] = omega, omega * (1 - np.exp(log_omega + 2 * log_z[middle]) * variance)
        return zero | middle, out[0], out[1]

    def _zero_derivatives(self, square: Array) -> tuple[Array, Array]:
        k = np.arange(1, self.zero.size)
        at_zero, total = np.exp(self.log_omega_0), _polynomial(self.zero, square)
        share = _polynomial(k * self.zero[1:] / self.zero[1], square) / total  # omega / omega(0)
        second = _polynomial(k * (2 * k - 1) * self.zero[1:] / self.zero[1], square) / total
        return at_zero * share, at_zero * (second - 2 * self.zero[1] * square * share**2)

    def _tail_derivatives(self, ratio: Array) -> tuple[Array, Array]:
        power = self.alpha * np.arange(self.tail.size)
        total = _polynomial(self.tail, ratio)
        mean = _polynomial(self.tail * power, ratio) / total
        variance = _polynomial(self.tail * power**2, ratio) / total - mean**2
        omega = self.d + self.alpha + mean  # times z^2
        return omega, -omega - variance

    def penalty(self, z: Array, log_z: Array) -> Array:
        """log p(0) - log p(z), to full relative accuracy also where it is tiny."""
        if self.alpha == 2:
            return np.asarray((z / 2) ** 2)
        if self.alpha == 1:
            half = (self.d + 1) / 2
            near = np.where(z < 1e-9, half * z * z, half * np.log1p(z * z))
            return np.where(log_z < 0, near, half * np.logaddexp(0.0, 2 * log_z))
        out = np.full(z.shape, np.nan)
        zero, tail, middle = self._split(z, log_z)
        if zero.any():
            log_square = 2 * (log_z[zero] - self.log_zero_limit)
            rest = _polynomial(self.zero[1:] / self.zero[1], np.exp(log_square))
            out[zero] = -np.log1p(-np.exp(log_square + np.log(-self.zero[1])) * rest)
        if tail.any():
            ratio = np.exp(-self.alpha * (log_z[tail] - self.log_tail_limit))
            more = np.log1p(ratio * _polynomial(self.tail[1:], ratio))
            out[tail] = self.log_peak + (self.d + self.alpha) * log_z[tail] - more
        if middle.any():
            out[middle] = _mixture(self.alpha, self.d).penalty(log_z[middle])
        return out


@lru_cache(maxsize=64)
def _mixture(alpha: float, d: int) -> Mixture:
    return Mixture(alpha, d)


# --- the constants of the two series ------------------------------------------------------------------------------------


def _log_zero_terms(alpha: float, d: int) -> Array:
    """Log C_k of p(z) / p(0) = sum_k (-1)^k C_k z^(2k), C_k = E[(4A)^(-k) | 0] / k!."""
    k = np.arange(ZERO_TERMS + 1.0)
    return np.asarray(log_rising(d / alpha, 2 * k / alpha) - log_rising(d / 2, k) - gammaln(k + 1) - 2 * k * np.log(2))


def _log_zero_limit(log_c: Array) -> float:
    """Log of the largest z for the series at zero; term 1 stays below a quarter, so that nothing cancels."""
    bound = (_LOG_DROPPED - log_c[-1] - np.log(ZERO_TERMS) + log_c[1]) / (2 * ZERO_TERMS - 2)
    return float(min(bound, (np.log(0.25) - log_c[1]) / 2))


def tail_terms(alpha: float, d: int, count: int) -> tuple[Array, Array]:
    r"""Terms of the tail series over the first: log sizes, and signed sines.

    .. math:: z^d p_d(z) \propto \sum_{k \ge 1} \frac{(-1)^{k+1}}{k!} \Gamma\big(1 + \tfrac{\alpha k}{2}\big)
              \Gamma\big(\tfrac{d + \alpha k}{2}\big) \sin \tfrac{\pi \alpha k}{2} \, (z/2)^{-\alpha k}
    """
    k, b = np.arange(1.0, count + 1), alpha / 2
    log_size = log_rising(d / 2 + b, b * (k - 1)) + gammaln(1 + b * k) - gammaln(1 + b) - gammaln(k + 1)
    angle = np.pi * k / 2 * (alpha if alpha < 1 else 2 - alpha)  # exact near 2
    sign = (-1.0) ** (k + 1) if alpha < 1 else np.ones(k.size)
    return np.asarray(log_size + alpha * (k - 1) * np.log(2)), sign * np.sin(angle) / np.sin(angle[0])


def log_tail_limit(alpha: float, d: int, terms: int, dropped: float) -> float:
    """Log of the smallest z for so many terms of the tail series: the next is ``dropped``, the second at most a half.

    Towards alpha = 2 the first term vanishes as 2 - alpha, and the Gaussian that the series leaves out must be below that.
    """
    log_size = tail_terms(alpha, d, terms + 1)[0]
    lead = np.sin(np.pi / 2 * (2 - alpha))
    slack = np.log(min(terms + 1, 1 / lead)) + np.log((alpha * (terms + 1) + d) / (alpha + d))
    limit = (log_size[-1] + slack - np.log(dropped)) / (alpha * terms)
    limit = max(limit, (log_size[1] + np.log(2 * min(2.0, 1 / lead))) / alpha)
    return float(max(limit, _log_gauss_limit(alpha, d, 50.0)) if alpha > 1.5 else limit)


def _log_gauss_limit(alpha: float, d: int, drop: float) -> float:
    """Log of the z at which the Gaussian of alpha = 2 has fallen to exp(-drop) of the first tail term."""
    h = (d + alpha) / 2
    x, goal = h + drop, drop - np.log(2 - alpha)
    for _ in range(60):  # x - h log x + log Gamma(h) = goal, x = z^2 / 4
        x -= (x - h * np.log(x) + gammaln(h) - goal) / (1 - h / x)
    return float(np.log(4 * x) / 2)


def _log_peak(alpha: float, d: int) -> float:
    """Log of p(0) over the coefficient of z^(-d - alpha) in the tail."""
    b = alpha / 2
    peak = gammaln(d / alpha) - gammaln(d / 2) - np.log(alpha)
    tail = gammaln(d / 2 + b) + gammaln(1 + b) + np.log(np.sin(np.pi / 2 * min(alpha, 2 - alpha)) / np.pi)
    return float((1 - d - alpha) * np.log(2) + peak - tail)


def _polynomial(coefficients: Array, x: Array) -> Array:
    """Sum of coefficients[k] x^k by Horner's rule."""
    value = np.full(x.shape, coefficients[-1])
    for term in coefficients[-2::-1]:
        value *= x
        value += term
    return value
