"""Regime 5: the two closed forms, Cauchy (alpha = 1) and Gauss (alpha = 2, variance 2 at unit scale)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfc, expit

Array = NDArray[np.float64]


def cauchy(log_x: Array) -> dict[str, Array]:
    """f = 1 / (pi (1 + x^2)), from log x so that x^2 cannot overflow."""
    share = expit(2 * log_x)  # x^2 / (1 + x^2)
    x = np.exp(np.minimum(log_x, 700.0))
    return {
        "logpdf": -np.log(np.pi) - np.logaddexp(0.0, 2 * log_x),
        "x_gradient": 2 * share,
        "x2_second": 2 * share * (4 * share - 1),
        "sf": np.where(log_x < 700, np.arctan2(1.0, x), np.exp(-log_x)) / np.pi,
        "central": np.arctan(x) / np.pi,
    }


def gauss(x: Array) -> dict[str, Array]:
    """f = exp(-x^2 / 4) / (2 sqrt(pi)); omega and curvature are 1/2 at every x."""
    half = np.full_like(x, 0.5)
    with np.errstate(over="ignore"):
        logpdf = -(x / 2) * (x / 2) - np.log(4 * np.pi) / 2
    return {
        "logpdf": logpdf,
        "omega": half,
        "curvature": half,
        "sf": erfc(x / 2) / 2,
        "central": erf(x / 2) / 2,
    }
