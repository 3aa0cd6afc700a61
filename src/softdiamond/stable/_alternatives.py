"""Maximum likelihood for the laws that a stable fit is compared with: Gaussian, Laplace, Student-t."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, erf, gammaln, log_ndtr

from softdiamond.stable._cells import log_cell
from softdiamond.stable._likelihood import Likelihood
from softdiamond.stable._sample import median

Array = NDArray[np.float64]
Alternatives = dict[str, tuple[float, dict[str, float]]]
Unit = tuple[Callable[[Array], Array], Callable[[Array], tuple[Array, Array]]]  # log density, masses of `log_cell`


def fit_alternatives(exact: Likelihood, first: float, free: bool, binned: Likelihood, unit: float) -> Alternatives:
    """Log-likelihood and parameters of each.

    ``exact`` holds the sample itself, ``binned`` what the search runs on: (sample - first) / unit.
    """
    out: Alternatives = {}
    for name, start in (("Gaussian", _gaussian_start), ("Laplace", _laplace_start)):
        loc, scale = start(exact, first, free)
        if exact.rounding:
            at = np.array([np.log(scale / unit), (loc - first) / unit])
            log_scale, place = _maximise(binned, partial(_unit_law, name), at, free)
            loc, scale = first + unit * place, unit * float(np.exp(log_scale))
        key = "sd" if name == "Gaussian" else "scale"
        out[name] = _level(exact, _LAWS[name], np.log(scale), loc), {key: scale} | ({"loc": loc} if free else {})
    log_df, log_scale, place = _maximise(binned, lambda theta: _student(theta[0]), np.zeros(3), free)
    loc, log_scale = first + unit * place, log_scale + np.log(unit)
    named = {"df": float(np.exp(log_df)), "scale": float(np.exp(log_scale))} | ({"loc": loc} if free else {})
    out["Student-t"] = _level(exact, _student(log_df), log_scale, loc), named
    return out


def _unit_law(name: str, theta: Array) -> Unit:
    return _LAWS[name]


def _gaussian_start(sample: Likelihood, first: float, free: bool) -> tuple[float, float]:
    """Mean and standard deviation: the maximum, where values are exact."""
    n = float(sample.counts.sum())
    largest = float(np.max(np.abs(sample.points - first)))
    away = (sample.points - first) / largest  # squares stay within float64
    mean = float(sample.counts @ away) / n if free else 0.0
    return first + largest * mean, largest * float(np.sqrt(sample.counts @ (away - mean) ** 2 / n))


def _laplace_start(sample: Likelihood, first: float, free: bool) -> tuple[float, float]:
    """Median and mean distance from it: the maximum, where values are exact."""
    largest = float(np.max(np.abs(sample.points - first)))
    away = (sample.points - first) / largest
    middle = median(away, sample.counts) if free else 0.0
    spread = float(sample.counts @ np.abs(away - middle)) / float(sample.counts.sum())
    return first + largest * middle, largest * spread


def _maximise(sample: Likelihood, law: Callable[[Array], Unit], start: Array, free: bool) -> list[float]:
    """Maximum in (..., log scale, loc), loc only if it is free; ``law`` gives the unit law at such a point."""
    from scipy.optimize import minimize

    bounds = [(-5.0, 12.0), (-300.0, 300.0), (None, None)][-start.size :]
    used = start.size if free else start.size - 1

    def loss(theta: Array) -> float:
        return -_level(sample, law(theta), theta[start.size - 2], theta[-1] if free else 0.0) / float(
            sample.counts.sum()
        )

    best = minimize(loss, start[:used], method="L-BFGS-B", bounds=bounds[:used]).x
    return [float(value) for value in best] + ([] if free else [0.0])


def _level(sample: Likelihood, law: Unit, log_scale: float, loc: float) -> float:
    """Log-likelihood of the sample under a law of unit scale, scaled and moved."""
    scale = float(np.exp(log_scale))
    log_density, masses = law
    with np.errstate(divide="ignore", over="ignore"):
        z = (sample.points - loc) / scale
        if sample.rounding:
            return float(sample.counts @ log_cell(z, sample.rounding / scale, masses, log_density))
        return float(sample.counts @ (log_density(z) - log_scale))


def _student(log_df: float) -> Unit:
    df = float(np.exp(log_df))
    head = gammaln((df + 1) / 2) - gammaln(df / 2) - np.log(df * np.pi) / 2

    def log_density(z: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(head - (df + 1) / 2 * np.logaddexp(0.0, 2 * np.log(np.abs(z)) - log_df))

    def masses(z: Array) -> tuple[Array, Array]:
        size = np.hypot(z, np.sqrt(df))
        share = (z / size) ** 2
        outer = betainc(df / 2, 0.5, (np.sqrt(df) / size) ** 2) / 2
        return betainc(0.5, df / 2, share) / 2, np.log(outer)

    return log_density, masses


_LAWS: dict[str, Unit] = {
    "Gaussian": (
        lambda z: -(z * z) / 2 - np.log(2 * np.pi) / 2,
        lambda z: (erf(z / np.sqrt(2)) / 2, log_ndtr(-z)),
    ),
    "Laplace": (lambda z: -np.abs(z) - np.log(2), lambda z: (-np.expm1(-z) / 2, -z - np.log(2))),
}
