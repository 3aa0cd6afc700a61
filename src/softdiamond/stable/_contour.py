r"""Regime 3: the Fourier integral along its path of steepest descent (Zolotarev 1986, Nolan 1997).

With :math:`w(t) = t^\alpha - i x t` the density is :math:`f(x) = \frac1\pi \mathrm{Re} \int_0^\infty e^{-w(t)} dt`. Along the
path on which w is real, :math:`t = \rho e^{i\psi}` with :math:`0 < \psi < \pi/2`,

.. math:: \rho^{\alpha - 1} = \frac{x \cos\psi}{\sin \alpha\psi}, \qquad
          w = \rho^\alpha \, \frac{\cos((\alpha - 1)\psi)}{\cos\psi},

nothing oscillates, and integrating by parts makes every function of the law a mean over w ~ Exp(1) of a
smooth function of the path:

.. math:: f = \frac1\pi E[\rho \cos\psi], \quad -f' = \frac1{2\pi} E[\rho^2 \sin 2\psi], \quad
          f'' = -\frac1{3\pi} E[\rho^3 \cos 3\psi], \quad P(0 < X < x) = \frac1\pi E[\psi], \quad
          P(X > x) = \frac1\pi E[\pi/2 - \psi],

.. math:: \partial_\alpha f = -\frac1\pi E\Big[\frac{\rho^{\alpha+1}}{\alpha+1} \Big(\cos((\alpha+1)\psi)
          \big(\log\rho - \tfrac1{\alpha+1}\big) - \psi \sin((\alpha+1)\psi)\Big)\Big].

The first two and the probabilities have positive integrands: no digit is lost, at zero or in the tail.

The path is run through by ``s`` with :math:`\psi = (\pi/2) / (1 + e^{-s})`; log w is then asymptotically linear in s at both ends,
the integrand is analytic in a strip about the real line, and the trapezoidal rule with a step of ``STEP`` divided by the
largest derivative of log w converges geometrically. At fixed alpha, x only shifts log w and log rho: points are gathered into
*cells* of one alpha and nearly one x, which share their nodes, so that a point costs one exponential a node.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP = 0.28  # of the rule, times the largest derivative of log w in s
_CELL_STEPS = 8  # width of a cell, in steps
_REACH = 36.0  # the integrand is followed at its slow end until it has fallen by exp(-36)
_POINTS = 16384  # points of one alpha held at once
_POINTS_MIXED = 2048  # points of different alphas held at once

_COLUMNS = {
    "logpdf": ("f",),
    "omega": ("f", "f1"),
    "curvature": ("f", "f1", "f2"),
    "sf": ("sf", "central"),
    "central": ("central",),
    "dlogpdf_dalpha": ("f", "fa", "fb"),
}
_RHO_POWER = {"sf": 0.0, "central": 0.0, "f": 1.0, "f1": 2.0, "f2": 3.0}  # "fa", "fb": alpha + 1


def contour_integral(x: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    """Functions of the law at x > 0, shape (n,), for alpha of shape (1,) or (n,), in [0.1, 2) and not near 1."""
    columns = tuple(sorted({column for name in wanted for column in _COLUMNS[name]}))
    sums = {column: np.empty_like(x) for column in columns}
    points = _POINTS if alpha.size == 1 else _POINTS_MIXED
    for start in range(0, x.size, points):
        block = slice(start, start + points)
        values = _block_sums(np.log(x[block]), alpha if alpha.size == 1 else alpha[block], columns)
        for column in columns:
            sums[column][block] = values[column]
    return _functions(x, alpha, sums)


def _functions(x: Array, alpha: Array, sums: dict[str, Array]) -> dict[str, Array]:
    out: dict[str, Array] = {}
    if "f" in sums:
        out["logpdf"] = np.log(sums["f"])
    if "f1" in sums:
        out["x_gradient"] = x * sums["f1"] / sums["f"]
    if "f2" in sums:
        out["x2_second"] = x * x * sums["f2"] / sums["f"]
    if "fa" in sums:
        out["dlogpdf_dalpha"] = sums["fa"] / sums["f"]
    if "central" in sums:
        out["central"] = sums["central"]
    if "sf" in sums:  # below alpha = 1 its window would be too short; there it exceeds 0.05 in this regime
        out["sf"] = np.where(alpha < 1, 0.5 - sums["central"], sums["sf"])
    return out


def _block_sums(log_x: Array, alpha: Array, columns: tuple[str, ...]) -> dict[str, Array]:
    """Gather points into cells, and sum over the nodes that the points of a cell share."""
    width = _CELL_STEPS * STEP / _largest_derivative(alpha)
    # cells lie on a fixed lattice of log x, whatever the array
    number = np.rint(log_x / width)
    key = number if alpha.size == 1 else alpha + 1j * number
    _, first, cell = np.unique(key, return_index=True, return_inverse=True)
    cell_alpha = alpha if alpha.size == 1 else alpha[first]
    center = (number * width)[first]
    shift = log_x - (number * width)
    delta = alpha - 1
    grow = np.exp(alpha / delta * shift)  # of w, from the cell's x to the point's
    nodes = _nodes(np.broadcast_to(cell_alpha, center.shape), center, columns)

    stacked = np.stack([nodes.weights[column] for column in columns], axis=-1)  # (cells, nodes, columns)
    raw = np.empty((log_x.size, len(columns)))
    # full cells: one matrix product each; sparse ones: every point with the nodes of its own cell
    if center.size * 8 <= log_x.size:
        order = np.argsort(cell, kind="stable")
        ends = np.cumsum(np.bincount(cell))
        for index, end in enumerate(ends):
            members = order[(ends[index - 1] if index else 0) : end]
            for part in range(0, members.size, 512):
                some = members[part : part + 512]
                raw[some] = np.exp(np.multiply.outer(-grow[some], nodes.w[index])) @ stacked[index]
    else:
        for part in range(0, log_x.size, 512):
            own = slice(part, part + 512)
            decay = np.exp(-grow[own, None] * nodes.w[cell[own]])
            raw[own] = np.einsum("ij,ijk->ik", decay, stacked[cell[own]])

    sums = {}
    for index, column in enumerate(columns):
        power = _RHO_POWER.get(column, alpha + 1)
        sums[column] = raw[:, index] * np.exp((alpha + power) / delta * shift)
    if "fa" in sums:
        sums["fa"] = sums["fa"] + shift / delta * sums["fb"]
    return sums


class _Nodes(NamedTuple):
    w: Array  # (cells, nodes)
    weights: dict[str, Array]  # each (cells, nodes): the integrand over exp(-w), times the step


def _nodes(alpha: Array, log_x: Array, columns: tuple[str, ...]) -> _Nodes:
    """Nodes and weights of the trapezoidal rule for cells at (alpha, log x), both of shape (cells,)."""
    low, high = _window(alpha, log_x, columns)
    step = STEP / _largest_derivative(alpha)
    count = int(np.ceil(np.max((high - low) / step))) + 1  # one for all cells: a longer window costs, it does no harm
    alpha, step = alpha[:, None], step[:, None]
    path = _path(alpha, log_x[:, None], low[:, None] + step * np.arange(count))
    delta = alpha - 1
    tangent = path.sin / path.cos
    derivative = tangent - delta * path.sin_delta / path.cos_delta - alpha / delta * (tangent + alpha * path.cot_alpha)
    speed = np.abs(derivative) * path.psi * path.chi * (2 / np.pi)  # |d log w / ds|
    with np.errstate(under="ignore"):
        w = np.exp(np.minimum(path.log_w, 300.0))
        measure = w * speed * (step / np.pi)
        rho = np.exp(np.minimum(path.log_rho, 100.0))  # where either is cut, exp(-w) is zero
        weights = {}
        if "f" in columns:
            weights["f"] = measure * rho * path.cos
        if "f1" in columns:
            weights["f1"] = measure * rho * rho * path.sin * path.cos
        if "f2" in columns:
            weights["f2"] = measure * rho**3 * path.cos * (1 - 4 / 3 * path.cos**2)
        if "sf" in columns:
            weights["sf"] = measure * path.chi
        if "central" in columns:
            weights["central"] = measure * path.psi
        if "fa" in columns:
            order = alpha + 1
            # (alpha + 1) psi near its end, as the angle that is left to 3 pi / 2, which keeps its digits
            right = (path.psi > path.chi) & (alpha > 1)
            rest = np.pi / 2 * (2 - alpha) + order * path.chi
            cosine = np.where(right, -np.sin(rest), np.cos(order * path.psi))
            sine = np.where(right, -np.cos(rest), np.sin(order * path.psi))
            common = -measure * rho**order / order
            weights["fa"] = common * (cosine * (path.log_rho - 1 / order) - path.psi * sine)
            weights["fb"] = common * cosine
    return _Nodes(w, weights)


def _largest_derivative(alpha: Array) -> Array:
    """Largest |d log w / ds|: 1 / (1 - alpha) below 1, alpha / (alpha - 1) above."""
    return np.maximum(alpha, 1) / np.abs(alpha - 1)


def _window(alpha: Array, log_x: Array, columns: tuple[str, ...]) -> tuple[Array, Array]:
    """Ends in s of the part of the path that matters, from the rates at which the integrands decay.

    About the place s1 of w = 1: towards large w all decay as exp(-w) times a power of w. Towards small w the integrand
    of f decays as exp(-|s| (alpha + 1) / |alpha - 1|) and that of central, which sf comes with, as exp(-|s| / |alpha - 1|).
    Near alpha = 2 log w has a plateau of length -log(2 - alpha) in s, the
    straight part of the path up to the saddle point of the Gaussian.
    """
    gap = np.abs(alpha - 1)
    margin = _CELL_STEPS * STEP / _largest_derivative(alpha)
    middle = _bisect(alpha, log_x)
    rate = 1.0 if "central" in columns else alpha + 1
    slow = _REACH * gap / rate + margin

    powers = [_RHO_POWER.get(column, 2.0) for column in columns]
    power = max(powers) / alpha + 1
    log_high = np.log(power + np.sqrt(70 * power) + 35)
    below = middle - slow, middle + log_high * gap / alpha + margin

    rest = np.maximum(2 - alpha, 2.0**-53)
    plateau = (np.log1p(1 / rest) + 2) * gap
    above = middle - np.log(68 - np.log(rest)) * gap - plateau - margin, middle + slow + plateau
    return np.where(alpha < 1, below[0], above[0]), np.where(alpha < 1, below[1], above[1])


def _bisect(alpha: Array, log_x: Array) -> Array:
    """The s at which w = 1, to a step of the rule or better (log w is monotone in s)."""
    low, high = np.full_like(log_x, -80.0), np.full_like(log_x, 80.0)
    for _ in range(17):  # 160 / 2^17: a thousandth, below a step of the rule
        middle = (low + high) / 2
        right = (_path(alpha, log_x, middle).log_w > 0) == (alpha > 1)
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    return (low + high) / 2


class _Path(NamedTuple):
    log_w: Array
    log_rho: Array
    psi: Array
    chi: Array  # pi/2 - psi
    sin: Array  # of psi
    cos: Array
    sin_delta: Array  # of (alpha - 1) psi
    cos_delta: Array
    cot_alpha: Array  # of alpha psi


def _path(alpha: Array, log_x: Array, s: Array) -> _Path:
    """The path at s, each angle measured from the end that it is near, so that small ones keep all their digits."""
    delta, rest = alpha - 1, np.pi / 2 * (2 - alpha)
    tail = np.exp(-np.abs(s))
    minor = np.pi / 2 * tail / (1 + tail)
    major = np.pi / 2 / (1 + tail)
    right = s > 0
    psi, chi = np.where(right, major, minor), np.where(right, minor, major)
    sin_minor, cos_minor = np.sin(minor), np.cos(minor)
    sin, cos = np.where(right, cos_minor, sin_minor), np.where(right, sin_minor, cos_minor)
    # towards alpha = 2 both angles come near a multiple of pi / 2 at the far end, where their sine or cosine vanishes
    far = right & (alpha > 1)
    angle = np.where(far, rest + alpha * chi, alpha * psi)  # pi - alpha psi = rest + alpha chi
    sin_alpha, cos_alpha = np.sin(angle), np.where(far, -1.0, 1.0) * np.cos(angle)
    angle = np.where(far, rest + delta * chi, delta * psi)  # pi/2 - delta psi = rest + delta chi
    sin_angle, cos_angle = np.sin(angle), np.cos(angle)
    sin_delta, cos_delta = np.where(far, cos_angle, sin_angle), np.where(far, sin_angle, cos_angle)
    log_rho = (log_x + np.log(cos / sin_alpha)) / delta
    log_w = alpha * log_rho + np.log(cos_delta / cos)
    return _Path(log_w, log_rho, psi, chi, sin, cos, sin_delta, cos_delta, cos_alpha / sin_alpha)
