"""The exact law that a table is fitted to, and the expansions at 0 and at infinity that continue its cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from softdiamond import stable
from softdiamond.stable import group_law
from softdiamond.table._grid import Double, Law

TAIL_TERMS = 12


@dataclass(frozen=True)
class Expansions:
    """What a law continues with outside the cells, and where these begin and end."""

    omega_zero: float
    log_peak: float
    tail: Double
    low: float
    high: float
    unit: float


def expansions_of(alpha: float, d: int) -> Expansions:
    """Return what continues the cells of a weight, d = 1, or of a group of d weights."""
    return _of_weight(alpha) if d == 1 else _of_group(alpha, d)


def _of_weight(alpha: float) -> Expansions:
    omega_zero = float(np.exp(gammaln(3 / alpha) - gammaln(1 / alpha)))
    k = np.arange(1, TAIL_TERMS + 1)
    size = np.exp(gammaln(alpha * k + 1) - gammaln(k + 1)) / np.pi
    sine = np.sin(np.pi * k * (2 - alpha) / 2) if alpha > 1 else -((-1.0) ** k) * np.sin(np.pi * k * alpha / 2)
    tail = size * sine if alpha < 2 else np.empty(0)
    fourth = np.exp(gammaln(5 / alpha) - gammaln(3 / alpha)) / 6  # 2 a_2 / a_1 of f / f(0) = 1 - a_1 x^2 + a_2 x^4
    low = _constant_omega_below(omega_zero / 2 - fourth, 1e-11)
    return Expansions(omega_zero, float(stable.logpdf(0.0, alpha)), tail, low, _tail_from(alpha), 1.0)


def _of_group(alpha: float, d: int) -> Expansions:
    law = group_law.unit_law(alpha, d)
    log_crossover = (np.log(d + alpha) - law.log_omega_0) / 2
    unit = float(2.0 ** np.rint(log_crossover / np.log(2))) if alpha < 2 else 1.0
    omega_zero = float(np.exp(law.log_omega_0 + 2 * np.log(unit))) if alpha < 2 else 0.5
    first, second = np.exp(law.log_c[1:3] + 2 * np.log(unit) * np.array([1, 2]))
    low = _constant_omega_below(first - 2 * second / first, 1e-11)
    if alpha == 2:
        return Expansions(omega_zero, 0.0, np.empty(0), low, 32.0, unit)
    log_size, sine = group_law.tail_terms(alpha, d, TAIL_TERMS)
    tail = sine * np.exp(log_size - alpha * np.log(unit) * np.arange(TAIL_TERMS))
    high = group_law.log_tail_limit(alpha, d, TAIL_TERMS, 1e-16) - np.log(unit)
    log_peak = law.log_peak + (d + alpha) * np.log(unit)
    return Expansions(omega_zero, float(log_peak), tail, low, float(2.0 ** np.ceil(high / np.log(2))), unit)


def law_of(alpha: float, d: int, unit: float) -> Law:
    """Gradient and curvature of the exact penalty at x > 0."""

    def scalar(x: Double) -> tuple[Double, Double]:
        return np.abs(stable.score(x, alpha)), np.asarray(stable.curvature(x, alpha))

    def group(x: Double) -> tuple[Double, Double]:
        gradient, curvature = group_law.derivatives(x.ravel() * unit, alpha, d)
        return (gradient * unit).reshape(x.shape), (curvature * unit * unit).reshape(x.shape)

    return scalar if d == 1 else group


def _constant_omega_below(c: float, tolerance: float) -> float:
    """Power of two below which omega = omega_zero to a relative ``tolerance``: omega / omega_zero = 1 + c x^2 + O(x^4)."""
    return float(2.0 ** np.floor(np.log2(tolerance / max(abs(c), 1e-6)) / 2))


def _tail_from(alpha: float) -> float:
    """Power of two from which ``TAIL_TERMS`` terms of the tail series are exact to 1e-15."""
    k = TAIL_TERMS + 1
    size = gammaln(alpha * k + 1) - gammaln(k + 1) - gammaln(alpha + 1)
    weight = np.log(k * (alpha * k + 2) ** 2)
    limit = np.exp((size + weight - np.log(1e-15)) / (alpha * (k - 1)))
    return float(2.0 ** np.ceil(np.log2(max(limit, 32.0))))
