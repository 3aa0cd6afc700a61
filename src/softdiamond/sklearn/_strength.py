r"""From relative to absolute numbers, and the grid of strengths.

**Strength and scale.** Let r be the size of the largest coefficient that one standardized column alone would get,
:math:`r = \max_j |\tilde x_j^T w (y - \bar y)|` for squares (the largest useful penalty of lasso), over the curvature
:math:`\bar y (1 - \bar y)` for the log-loss. Then

.. math:: c = \mathrm{scale\_fraction}\; r, \qquad \lambda = \mathrm{strength} / \omega_c(r):

on a coefficient of size r the penalty's gradient is that of ridge of this strength, and tail = 2 is ridge. In units of r the problem of
orthonormal columns knows neither the units nor the noise of the data: all coefficients are in the core above one number,
`strength_max`, of tail and scale fraction alone, so that one grid serves all tables. (The rms of the ridge solution is no such
reference: it falls with the strength, and with it the scale of the penalty and the meaning of the grid.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from softdiamond.penalties.numba_prox import curve_of, jump_interval, prox
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._losses import Loss
from softdiamond.sklearn._penalty import Penalty
from softdiamond.table.numba_reader import cells_of, derivatives


def omega_at(tail: float, c: float, r: float) -> float:
    """omega_c(r) = R'(r / c) / (c r)."""
    return float(derivatives(r / c, cells_of(tail))[0]) / (c * r)


@lru_cache(maxsize=256)
def strength_max(tail: float, scale_fraction: float) -> float:
    """Strength above which the map of an orthonormal column sends even the largest, v = r, into the core; inf without a jump."""
    t = curve_of(tail)
    v, unit = 1 / scale_fraction, scale_fraction**2 * omega_at(tail, scale_fraction, 1.0)  # strength = unit * step
    if v < 4 * t.inflection or tail == 2:
        return np.inf
    low, high = -1 / t.least_curvature, 1e3 * v**2
    while high / low > 1 + 1e-9:
        step = np.sqrt(low * high)
        if prox(v, step, *jump_interval(step, t), t) > t.inflection:
            low = step
        else:
            high = step
    return float(unit * high)


def strength_grid(tail: float, scale_fraction: float, shape: tuple[int, int], curvature: float, count: int) -> Array:
    """Falling strengths: three decades from `strength_max`, more where n is above 1,000; six decades about 1 or p/n for ridge."""
    (n, p), most = shape, strength_max(tail, scale_fraction)
    if np.isinf(most):
        return np.asarray(curvature * max(1.0, p / n) * np.logspace(2, -4, count))
    return np.asarray(curvature * most * np.logspace(0, -3 - max(0.0, np.log10(n / 1000)), count))


def penalties_of(
    tail: float,
    strengths: Array,
    scale_fraction: float,
    factor: Array,
    r: float,
    scale: float | None,
    lam: float | None,
) -> list[Penalty]:
    """Penalties of falling strengths; ``scale`` and ``lam`` are absolute and override (``lam`` is that of the last)."""
    c = scale_fraction * r if scale is None else scale
    sizes = strengths / omega_at(tail, c, r)
    if lam is not None:
        sizes = sizes * (lam / sizes[-1]) if sizes[-1] > 0 else np.full_like(sizes, lam)
    return [Penalty(tail, size * factor, c) for size in sizes]


def approach_strengths(tail: float, strength: float, scale_fraction: float, curvature: float, count: int = 12) -> Array:
    """Strengths from `strength_max` down to the one wanted."""
    most = curvature * strength_max(tail, scale_fraction)
    if not 0 < strength < 0.99 * most or np.isinf(most):
        return np.array([strength])
    return np.geomspace(most, strength, count)


def reference_size(loss: Loss, design: Design) -> float:
    """r = max_j |x̃_j' w (y - f_0)| / curvature, f_0 the best constant; 1 where that is 0."""
    f = np.tile(loss.constant if design.center else np.zeros_like(loss.constant), (design.n, 1))
    r = (
        max(float(np.abs(design.moment(column)).max(initial=0.0)) for column in loss.negative_gradient(f).T)
        / loss.curvature
    )
    return r if r > 0 else 1.0
