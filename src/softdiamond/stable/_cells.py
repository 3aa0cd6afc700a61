r"""Probability of the cell about a rounded observation, for a law that is symmetric about zero.

A value rounded to multiples of h stands for the cell of width h about it, whose probability is a difference of the
distribution function. Digits are kept by taking it where the terms are small: of P(0 < X < x) in the inner half of the law,
of P(X > x), in logarithms, in the outer half. Where a cell is so narrow that a difference would lose more than three
digits the density is nearly constant across it, and Gauss's rule of three nodes takes its integral.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from softdiamond.stable._law import law, reduced, unit_law

Array = NDArray[np.float64]
Masses = Callable[[Array], tuple[Array, Array]]  # x >= 0 to P(0 < X < x) and log P(X > x)

_NARROW = 1e-3  # of the mass that a cell is subtracted from
_NODES, _WEIGHTS = np.sqrt(0.6) * np.array([-1.0, 0.0, 1.0]), np.array([5.0, 8.0, 5.0]) / 18
_WANTED = frozenset({"sf", "central"})


def log_cell(x: Array, width: float, masses: Masses, log_density: Callable[[Array], Array]) -> Array:
    """Log of P(x - width / 2 < X < x + width / 2) at x (n,)."""
    size = np.abs(x)  # the law is symmetric: no cell lies below zero
    low, high = size - width / 2, size + width / 2
    with np.errstate(all="ignore"):
        (inner_low, log_outer_low), (inner_high, log_outer_high) = masses(np.abs(low)), masses(high)
        across = low < 0
        inner = np.where(across, inner_high + inner_low, inner_high - inner_low)
        share = -np.expm1(log_outer_high - log_outer_low)  # of P(X > low)
        near = across | (inner_low < 0.25)
        value = np.where(near, np.log(inner), log_outer_low + np.log(share))
        wide = across | np.where(near, inner > _NARROW * inner_high, share > _NARROW)
        narrow = ~wide  # also where both masses have underflowed
        if narrow.any():
            value[narrow] = np.log(width) + _log_mean_density(size[narrow], width / 2, log_density)
    return np.asarray(value)


def _log_mean_density(x: Array, half: float, log_density: Callable[[Array], Array]) -> Array:
    levels = log_density((x[:, None] + half * _NODES).ravel()).reshape(x.size, 3)
    middle = levels[:, 1]
    return np.asarray(middle + np.log(np.exp(levels - middle[:, None]) @ _WEIGHTS))


def log_stable_cell(x: Array, alpha: float, scale: float, width: float) -> Array:
    """Log of the probability of cells of one width about x (n,) under the stable law."""
    one, a = np.ones(1), np.array([alpha])

    def masses(z: Array) -> tuple[Array, Array]:
        raw = unit_law(*reduced(z, one), a, _WANTED)
        # far out a Gaussian's mass underflows, its logarithm does not
        return raw["central"], log_ndtr(-z / np.sqrt(2)) if alpha == 2 else np.log(raw["sf"])

    return log_cell(x / scale, width / scale, masses, lambda z: law(z, a, one, "logpdf"))
