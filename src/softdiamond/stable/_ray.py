r"""Regime 4: the Fourier integral along a straight ray, for alpha within ``BAND`` of 1.

At alpha = 1 the path of steepest descent is the ray at the angle phi = arctan x; near 1 it stays close, while its equation
loses digits as 1 / (alpha - 1). So the integral is taken along the ray itself,

.. math:: f^{(n)}(x) = \frac1\pi \mathrm{Re} \int_0^\infty (i t)^n e^{-w(t)} dt, \quad w = t^\alpha - i x t, \quad t = r e^{i \phi},

where w is nearly real. With r = cos(phi) exp(v - exp(-v)) the trapezoidal rule in v converges double-exponentially at the
lower end. The derivative in alpha has the factor -t^alpha log t, and
:math:`P(0 < X < x) = (\phi + \mathrm{Im} \int e^{-w} dt / t) / \pi`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BAND = 0.02

_STEP = 0.07
_V = np.arange(-3.8, 4.6, _STEP)
_RADIUS = np.exp(_V - np.exp(-_V))
_WEIGHT = _STEP * (1 + np.exp(-_V))  # dr / r
_POINTS = 4096


def ray_integral(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    """Functions of the law at x (n,) of order 1, alpha (1,) or (n,) within ``BAND`` of 1, unit scale."""
    out: dict[str, Array] = {}
    for start in range(0, x.size, _POINTS):
        block = slice(start, start + _POINTS)
        part = _block(x[block, None], alpha if alpha.size == 1 else alpha[block, None], wanted)
        for name, value in part.items():
            out.setdefault(name, np.empty_like(x))[block] = value
    return out


def _block(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    phi = np.arctan(x)
    sin, cos = np.sin(phi), np.cos(phi)
    r = cos * _RADIUS
    power = r**alpha
    size = np.exp(-(power * np.cos(alpha * phi) + x * r * sin)) * _WEIGHT / np.pi
    turn = x * r * cos - power * np.sin(alpha * phi)  # -Im w
    out: dict[str, Array] = {}
    if wanted & {"logpdf", "omega", "curvature", "tilt"}:
        f = np.sum(size * r * np.cos(turn + phi), axis=1)
        out["logpdf"] = np.log(f)
    if wanted & {"omega", "curvature"}:
        out["slope"] = x[:, 0] * np.sum(size * r * r * np.sin(turn + 2 * phi), axis=1) / f
    if "curvature" in wanted:
        out["bend"] = -(x[:, 0] ** 2) * np.sum(size * r**3 * np.cos(turn + 3 * phi), axis=1) / f
    if "tilt" in wanted:
        angle = turn + (alpha + 1) * phi
        out["tilt"] = -np.sum(size * power * r * (np.cos(angle) * np.log(r) - np.sin(angle) * phi), axis=1) / f
    if wanted & {"sf", "central"}:
        inner = np.sum(size * np.sin(turn), axis=1)
        out["central"] = phi[:, 0] / np.pi + inner
        out["sf"] = np.arctan2(1.0, x[:, 0]) / np.pi - inner
    return out
