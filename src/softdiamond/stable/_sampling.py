"""Random variates by the method of Chambers, Mallows and Stuck (1976), in logarithms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_variates(alpha: Array, size: tuple[int, ...], rng: np.random.Generator) -> Array:
    r"""Draws at unit scale: with U uniform on (-pi/2, pi/2) and E a standard exponential,

    .. math:: X = \frac{\sin \alpha U}{(\cos U)^{1/\alpha}} \Big(\frac{\cos((1-\alpha) U)}{E}\Big)^{(1-\alpha)/\alpha}.

    Taken in logarithms no factor overflows before the product does (alpha = 0.1 has 9th and 10th powers), and
    alpha = 1, where X = tan U, is no special case.
    """
    uniform = np.minimum(rng.random(size) + 2.0**-54, 1 - 2.0**-53)  # inside (0, 1)
    exponential = np.maximum(rng.standard_exponential(size), 5e-324)
    angle = np.pi * (uniform - 0.5)
    cosine = np.sin(np.pi * np.minimum(uniform, 1 - uniform))  # cos U without cancellation at the ends
    power = (1 - alpha) / alpha
    with np.errstate(divide="ignore", over="ignore"):
        log_size = np.log(np.abs(np.sin(alpha * angle))) - np.log(cosine) / alpha
        log_size += power * (np.log(np.cos((1 - alpha) * angle)) - np.log(exponential))
        return np.asarray(np.copysign(np.exp(log_size), angle))
