"""The driver: one x, alpha, scale at a time to the regime that is exact there, and its answers put together.

Regimes, in the order in which they are tried (unit scale, z = |x| / scale):

5. ``_closed.gauss`` at alpha = 2;
1. ``_series.zero_series`` for z below ``zero_limit(alpha)``;
5. ``_closed.cauchy`` at alpha = 1;
2. ``_series.tail_series`` for z above ``exp(log_tail_limit(alpha))``;
4. ``_ray.ray_integral`` for alpha within 0.02 of 1;
3. ``_contour.contour_integral`` for all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable import _closed, _contour, _ray, _series

Array = NDArray[np.float64]
Regime = Callable[[Array, Array, Array, frozenset[str]], dict[str, Array]]  # of z, log z, alpha, what is wanted

_BLOCK = 1 << 16
_JUST_BELOW_TWO = np.nextafter(2.0, 0.0)


def law(x: Array, alpha: Array, scale: Array, name: str) -> Array:
    """One function of the law at x (n,) of any sign, alpha and scale (1,) or (n,); NaN in x gives NaN.

    Names: logpdf, score, omega, curvature, sf, dlogpdf_dalpha (at fixed scale).
    """
    out = np.empty(x.shape)
    for start in range(0, x.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        a = alpha if alpha.size == 1 else alpha[block]
        c = scale if scale.size == 1 else scale[block]
        with np.errstate(all="ignore"):
            out[block] = _scaled(x[block], a, c, name)
    return out


def _scaled(x: Array, alpha: Array, scale: Array, name: str) -> Array:
    z, log_z = reduced(np.abs(x), scale)
    return assembled(name, x, scale, unit_law(z, log_z, alpha, _NEEDS[name]))


def reduced(size: Array, scale: Array) -> tuple[Array, Array]:
    """z = size / scale and its logarithm, also where z overflows or loses digits."""
    z = size / scale
    log_z = np.log(z)
    lost = (z < np.finfo(float).tiny) | np.isinf(z)
    if lost.any():
        log_z = np.where(lost, np.log(size) - np.log(scale), log_z)
    return z, log_z


def assembled(name: str, x: Array, scale: Array, raw: dict[str, Array]) -> Array:
    """One function of the law at x from raw answers at unit scale, see `unit_law`."""
    return np.where(np.isnan(x), np.nan, _ASSEMBLE[name](x, np.abs(x), scale, raw))


def unit_law(z: Array, log_z: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    """Raw answers at unit scale, z >= 0 (n,).

    ``near`` is true where ``omega`` and ``curvature`` are as they stand, false where they are given times z^2, which
    cannot underflow in the tail.
    """
    out = {name: np.full(z.shape, np.nan) for name in wanted}
    out["near"] = np.zeros(z.shape, dtype=bool)
    for mask, a, regime in _regimes(z, log_z, alpha, wanted):
        part = regime(z[mask], log_z[mask], a, wanted)
        out["near"][mask] = "x_gradient" not in part
        for name in wanted:
            out[name][mask] = _square_free(name, part)
    return out


def _square_free(name: str, part: dict[str, Array]) -> Array:
    if "x_gradient" in part and name == "omega":
        return part["x_gradient"]
    if "x_gradient" in part and name == "curvature":
        return part["x_gradient"] ** 2 - part["x2_second"]
    return part[name]


def _regimes(
    z: Array, log_z: Array, alpha: Array, wanted: frozenset[str]
) -> Iterator[tuple[NDArray[np.bool_], Array, Regime]]:
    """Each regime that has points here: a mask of them, their alpha, (1,) or one each, and the function."""
    left = ~np.isnan(z)
    choices: tuple[tuple[NDArray[np.bool_] | bool, Regime], ...] = (
        (alpha == 2, _gauss),
        (z <= _series.zero_limit(alpha), lambda z, log_z, a, wanted: _series.zero_series(z, a, wanted)),
        ((alpha == 1) & ("dlogpdf_dalpha" not in wanted), lambda z, log_z, a, wanted: _closed.cauchy(log_z)),
        (log_z >= _series.log_tail_limit(alpha), lambda z, log_z, a, wanted: _series.tail_series(log_z, a, wanted)),
        (np.abs(alpha - 1) <= _ray.BAND, lambda z, log_z, a, wanted: _ray.ray_integral(z, a, wanted)),
        (True, lambda z, log_z, a, wanted: _contour.contour_integral(z, a, wanted)),
    )
    for condition, regime in choices:
        mask = left & condition
        if mask.any():
            yield mask, alpha if alpha.size == 1 else alpha[mask], regime
            left &= ~mask


def _gauss(z: Array, log_z: Array, alpha: Array, wanted: frozenset[str]) -> dict[str, Array]:
    out = _closed.gauss(z)
    if (
        "dlogpdf_dalpha" in wanted
    ):  # d f / d alpha is continuous at 2, so take it just below, and divide by the Gaussian
        below = unit_law(z, log_z, np.array([_JUST_BELOW_TWO]), frozenset({"dlogpdf_dalpha", "logpdf"}))
        out["dlogpdf_dalpha"] = np.where(
            np.isinf(z), -np.inf, below["dlogpdf_dalpha"] * np.exp(below["logpdf"] - out["logpdf"])
        )
    return out


def _omega(x: Array, size: Array, scale: Array, raw: dict[str, Array], name: str = "omega") -> Array:
    mantissa, exponent = np.frexp(scale)
    near = np.ldexp(raw[name] / mantissa**2, -2 * exponent)
    return np.where(raw["near"], near, raw[name] / size / size)


def _score(x: Array, size: Array, scale: Array, raw: dict[str, Array]) -> Array:
    mantissa, exponent = np.frexp(scale)
    x_mantissa, x_exponent = np.frexp(x)
    near = np.ldexp(raw["omega"] * x_mantissa / mantissa**2, x_exponent - 2 * exponent)
    return 0.0 - np.where(raw["near"], near, raw["omega"] / x)  # 0, not -0, at x = 0


_ASSEMBLE: dict[str, Callable[[Array, Array, Array, dict[str, Array]], Array]] = {
    "logpdf": lambda x, size, scale, raw: raw["logpdf"] - np.log(scale),
    "score": _score,
    "omega": _omega,
    "curvature": lambda x, size, scale, raw: _omega(x, size, scale, raw, "curvature"),
    "sf": lambda x, size, scale, raw: np.where(x >= 0, raw["sf"], 0.5 + raw["central"]),
    "dlogpdf_dalpha": lambda x, size, scale, raw: raw["dlogpdf_dalpha"],
}
_NEEDS = {
    "logpdf": frozenset({"logpdf"}),
    "score": frozenset({"omega"}),
    "omega": frozenset({"omega"}),
    "curvature": frozenset({"omega", "curvature"}),
    "sf": frozenset({"sf", "central"}),
    "dlogpdf_dalpha": frozenset({"dlogpdf_dalpha"}),
}
