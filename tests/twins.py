"""Naive float64 twins of the regularizer's steps, written from the definitions: NumPy and the exact law, no table.

A `Law` is a penalty at unit scale. A step takes the weights, their center, the law, ``step`` = eta lambda / scale^2 and the
scale, and returns new weights.
"""

from dataclasses import dataclass

import numpy as np

from softdiamond import stable


@dataclass(frozen=True)
class Law:
    """R, R' and omega = R' / x of the penalty that is named and numbered like the library's."""

    kind: str
    number: float = 0.0

    def value(self, x):
        if self.kind == "SoftDiamond":
            return stable.logpdf(0.0, self.number) - stable.logpdf(x, self.number)
        if self.kind == "StudentT":
            return (self.number + 1) / 2 * np.log1p(x * x / self.number)
        return np.abs(x) if self.kind == "L1" else x * x / 2

    def omega(self, x):
        with np.errstate(divide="ignore", over="ignore"):
            if self.kind == "SoftDiamond":
                return np.asarray(stable.omega(x, self.number))
            if self.kind == "StudentT":
                return (self.number + 1) / (self.number + np.multiply(x, x))
            return 1 / np.abs(x) if self.kind == "L1" else np.ones_like(x)

    def derivative(self, x):
        return np.sign(x) if self.kind == "L1" else x * self.omega(x)

    def curvature(self, x):
        if self.kind == "SoftDiamond":
            return stable.curvature(x, self.number)
        if self.kind == "StudentT":
            return self.omega(x) * (self.number - x * x) / (self.number + x * x)
        return np.zeros_like(x) if self.kind == "L1" else np.ones_like(x)


def law_of(penalty) -> Law:
    """The twin of a penalty of the library."""
    number = getattr(penalty, "alpha", getattr(penalty, "df", 0.0))
    return Law(type(penalty).__name__, number)


# ---- strength, scale and the step length ---------------------------------------------------------------------------------------


def absolute(law: Law, rms: float, strength: float, relative_scale: float = 1.0) -> tuple[float, float]:
    """Scale and lambda."""
    scale = relative_scale * rms
    return scale, strength / float(law.omega(np.array(rms / scale)) / scale**2)


def eta(kind: str, group: dict) -> float:
    """What weight decay of that optimizer would take as its step length."""
    if kind == "SGD" and group["momentum"]:
        dampening = 0 if group["nesterov"] else group["dampening"]
        return group["lr"] * (1 - dampening) / (1 - group["momentum"])
    if kind == "RMSprop":
        return group["lr"] / (1 - group["momentum"])
    return group["lr"]


# ---- the three modes ----------------------------------------------------------------------------------------------------


def implicit(w, center, law: Law, step: float, scale: float):
    """d / (1 + step omega(d / scale)), d the distance to the center."""
    d = np.asarray(w, dtype=float) - center
    return center + d / (1 + step * law.omega(d / scale))


def gradient(w, center, law: Law, lam: float, scale: float):
    """What is added to the gradient of the loss."""
    return lam * law.derivative((w - center) / scale) / scale


def prox(w, center, law: Law, step: float, scale: float):
    """Global minimizer of (u - v)^2 / 2 + step R(u): the best of a grid, then Newton's method between its neighbours."""
    d = np.asarray(w, dtype=float) - center
    v = np.abs(d).reshape(-1, 1) / scale
    share = np.unique(np.concatenate([[0.0], np.geomspace(1e-6, 1, 50), np.linspace(0, 1, 41)]))
    depth = (share * v - v) ** 2 / 2 + step * law.value(share * v)
    best, v = depth.argmin(axis=1), v[:, 0]
    low, high = share[np.maximum(best - 1, 0)] * v, share[np.minimum(best + 1, len(share) - 1)] * v
    u = share[best] * v
    for _ in range(7):
        u = np.clip(u - (u - v + step * law.derivative(u)) / (1 + step * law.curvature(u)), low, high)
    return center + np.sign(d) * scale * u.reshape(d.shape)


# ---- the proximal objective ---------------------------------------------------------------------------------------------


def fall(u, v, law: Law, panels: int = 50, nodes: int = 12):
    """R(v) - R(u) for 0 <= u <= v without cancellation: the integral of x R'(x) over log x, from at most e^-250 v on."""
    v = np.asarray(v, dtype=float)
    u = np.maximum(np.maximum(u, v * np.exp(-250.0)), 5e-324)
    width = np.log1p(np.maximum(v - u, 0) / u)[..., None]
    node, weight = np.polynomial.legendre.leggauss(nodes)
    place = ((np.arange(panels)[:, None] + (node + 1) / 2) / panels).reshape(-1)
    x = v[..., None] * np.exp(-width * place)
    return (x * law.derivative(x) * (width / panels / 2) * np.tile(weight, panels)).sum(-1)
