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

_STEP = 0.1
_V = np.arange(-3.8, 4.6, _STEP)
_LOG_RADIUS = _V - np.exp(-_V)
_RADIUS = np.exp(_LOG_RADIUS)
_WEIGHT = _STEP / np.pi * (1 + np.exp(-_V))  # dr / r, over pi
_POINTS = 2048


def ray_integral(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    """Functions of the law at x (n,) of order 1, alpha (1,) or (n,) within ``BAND`` of 1, unit scale."""
    out: dict[str, Array] = {}
    for start in range(0, x.size, _POINTS):
        block = slice(start, start + _POINTS)
        part = _block(x[block], alpha if alpha.size == 1 else alpha[block], wanted)
        for name, value in part.items():
            out.setdefault(name, np.empty_like(x))[block] = value
    return out


def _block(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    phi = np.arctan(x)
    sin, cos = np.sin(phi), np.cos(phi)
    power = _RADIUS ** alpha[:, None] * (cos**alpha)[:, None]  # r^alpha
    r = np.multiply.outer(cos, _RADIUS)
    decay = np.exp(-(power * np.cos(alpha * phi)[:, None] + r * (x * sin)[:, None])) * _WEIGHT
    phase = r * (x * cos)[:, None] - power * np.sin(alpha * phi)[:, None]  # -Im w, small
    real, imaginary = decay * np.cos(phase), decay * np.sin(phase)  # of exp(-w) dr / (pi r)

    def moment(n: int) -> Array:
        """Integral of t^n exp(-w) dt / (pi t)."""
        weight = _RADIUS**n
        return np.asarray((real @ weight + 1j * (imaginary @ weight)) * (cos * np.exp(1j * phi)) ** n)

    out: dict[str, Array] = {}
    if wanted & {"logpdf", "omega", "curvature", "dlogpdf_dalpha"}:
        f = moment(1).real
        out["logpdf"] = np.log(f)
    if wanted & {"omega", "curvature"}:
        out["x_gradient"] = x * moment(2).imag / f
    if "curvature" in wanted:
        out["x2_second"] = -x * x * moment(3).real / f
    if "dlogpdf_dalpha" in wanted:
        power *= r
        log_r = _LOG_RADIUS + np.log(cos)[:, None]
        a, b = np.sum(real * power * log_r, axis=1), np.sum(imaginary * power * log_r, axis=1)
        c, d = np.sum(real * power, axis=1) * phi, np.sum(imaginary * power, axis=1) * phi
        out["dlogpdf_dalpha"] = (
            -((a - d + 1j * (b + c)) * np.exp(1j * (alpha + 1) * phi)).real / f
        )  # log t = log r + i phi
    if wanted & {"sf", "central"}:
        inner = np.sum(imaginary, axis=1)
        out["central"] = phi / np.pi + inner
        out["sf"] = np.arctan2(1.0, x) / np.pi - inner
    return out
