"""The public functions of the law of one weight: arguments checked and broadcast, then `law` evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable._law import law
from softdiamond.stable._parameters import common_shape, one_or_each, parameters, real_numbers
from softdiamond.stable._quantile import log_upper_quantile
from softdiamond.stable._sampling import unit_variates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[np.float64]


def logpdf(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    r"""Logarithm of the density, log( f(x / scale; alpha) / scale ).

    .. math:: f(x; \alpha) = \frac1\pi \int_0^\infty e^{-t^\alpha} \cos(x t) \, dt

    Parameters
    ----------
    x : array_like
        Points; any float64, infinities included. NaN gives NaN.
    alpha : array_like
        Tail thickness, in [0.1, 2].
    scale : array_like, optional
        Scale, positive and finite; 1 by default.
    dispersion : array_like, optional
        Dispersion scale^alpha, in place of ``scale``.

    Returns
    -------
    float or ndarray of float64
        Of the common shape of the arguments; a scalar if they all are.

    Raises
    ------
    ValueError
        If alpha lies outside [0.1, 2], scale or dispersion is not positive and finite, or both are given.
    TypeError
        If an argument is no real number and no array of real numbers.

    References
    ----------
    Zolotarev, One-dimensional Stable Distributions (AMS, 1986); Nolan, Communications in Statistics. Stochastic
    Models 13 (1997) 759-774.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.logpdf(1.0, 1.0))  # Cauchy: -log(2 pi)
    -1.8378770664093453
    >>> stable.logpdf([0.0, 1e-300, 1e300], 0.5, scale=0.01).round(6)
    array([    4.153587,     4.153587, -1040.077963])
    """
    return _evaluate("logpdf", x, alpha, scale, dispersion)


def pdf(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Density f; parameters and errors as in `logpdf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.pdf(0.0, 0.5))  # Gamma(1 + 1/alpha) / pi
    0.6366197723675814
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(_evaluate("logpdf", x, alpha, scale, dispersion))[()]


def score(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Score d/dx log f(x), of the sign opposite to x; parameters and errors as in `logpdf`.

    -x Gamma(3/alpha) / Gamma(1/alpha) / scale^2 towards 0 and -(alpha + 1) / x in the tail (alpha < 2).

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.score(2.0, 1.0))  # Cauchy: -2 x / (1 + x^2)
    -0.8
    """
    return _evaluate("score", x, alpha, scale, dispersion)


def curvature(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Curvature of the penalty, -d2/dx2 log f(x): positive at zero, negative in the tail (alpha < 2).

    Parameters and errors as in `logpdf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.curvature(0.0, 2.0, scale=2.0))  # Gauss: 1 / (2 scale^2)
    0.125
    """
    return _evaluate("curvature", x, alpha, scale, dispersion)


def omega(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    r"""Adaptive decay omega(x) = -score(x) / x, positive and falling in \|x\|; parameters and errors as in `logpdf`.

    With the law as a Gaussian scale mixture, sqrt(A) G, G ~ N(0, 2 scale^2), it is E[1 / (2 A scale^2) | x]: from
    Gamma(3/alpha) / Gamma(1/alpha) / scale^2 at zero to (alpha + 1) / x^2 in the tail (alpha < 2).

    Examples
    --------
    >>> from softdiamond import stable
    >>> round(float(stable.omega(0.0, 0.5)), 9)
    120.0
    """
    return _evaluate("omega", x, alpha, scale, dispersion)


def dlogpdf_dalpha(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Derivative of `logpdf` in alpha at fixed x and fixed scale (also where the scale is given by its dispersion).

    Parameters and errors as in `logpdf`. At alpha = 2 it is the derivative from below.

    Examples
    --------
    >>> from softdiamond import stable
    >>> round(float(stable.dlogpdf_dalpha(0.0, 1.0)), 12)  # Euler's constant - 1
    -0.422784335098
    """
    return _evaluate("dlogpdf_dalpha", x, alpha, scale, dispersion)


def sf(x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None) -> Array:
    """Survival function P(X > x), to full relative accuracy in the upper tail; parameters and errors as in `logpdf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.sf(1e200, 1.0))
    3.1830988618e-201
    """
    return _evaluate("sf", x, alpha, scale, dispersion)


def cdf(
    x: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Distribution function P(X <= x), to full relative accuracy in the lower tail; as `logpdf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.cdf(-1.0, 1.0))
    0.25
    """
    return _evaluate("sf", np.negative(real_numbers("x", x)), alpha, scale, dispersion)


def isf(
    q: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Upper quantile: the x with sf(x) = q, infinite where it lies beyond float64.

    Parameters
    ----------
    q : array_like
        Probabilities in [0, 1]; NaN gives NaN.
    alpha, scale, dispersion : array_like
        As in `logpdf`.

    Raises
    ------
    ValueError
        If q lies outside [0, 1], or as in `logpdf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.isf(0.25, 1.0, scale=3.0).round(12))
    3.0
    """
    return _quantile("q", q, alpha, scale, dispersion)


def ppf(
    p: ArrayLike, alpha: ArrayLike, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Quantile: the x with cdf(x) = p; as `isf`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.ppf(0.25, 1.0).round(12))
    -1.0
    """
    return np.subtract(0.0, _quantile("p", p, alpha, scale, dispersion))[()]


def rvs(
    alpha: ArrayLike,
    *,
    size: int | tuple[int, ...] | None = None,
    rng: np.random.Generator | int | None = None,
    scale: ArrayLike | None = None,
    dispersion: ArrayLike | None = None,
) -> Array:
    """Random variates (Chambers, Mallows and Stuck, J. Amer. Statist. Assoc. 71 (1976) 340-344).

    Parameters
    ----------
    alpha, scale, dispersion : array_like
        As in `logpdf`.
    size : int or tuple of int, optional
        Shape of the result; by default that of the parameters.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or a seed for one.

    Raises
    ------
    ValueError
        As in `logpdf`, or if the parameters do not broadcast to ``size``.

    Examples
    --------
    >>> from softdiamond import stable
    >>> stable.rvs(0.5, size=3, rng=1).shape
    (3,)
    """
    a, c = parameters(alpha, scale, dispersion)
    common = common_shape(alpha=a, scale=c)
    try:
        shape = common if size is None else tuple(int(n) for n in np.atleast_1d(np.asarray(size, dtype=np.intp)))
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise TypeError(f"size must be an integer or a tuple of integers, rng a Generator or a seed: {error}") from None
    if min(shape, default=0) < 0:
        raise ValueError(f"size must not be negative; got {size!r}")
    try:
        fits = np.broadcast_shapes(common, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"alpha and scale of common shape {common} do not broadcast to size {shape}")
    draws = unit_variates(a, shape, generator)
    with np.errstate(over="ignore", under="ignore"):
        return (draws * c)[()]


def _evaluate(
    name: str, x: ArrayLike, alpha: ArrayLike, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    points = real_numbers("x", x)
    a, c = parameters(alpha, scale, dispersion)
    shape = common_shape(x=points, alpha=a, scale=c)
    flat = np.broadcast_to(points, shape).reshape(-1)
    return law(flat, one_or_each(a, shape), one_or_each(c, shape), name).reshape(shape)[()]


def _quantile(
    name: str, q: ArrayLike, alpha: ArrayLike, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    p = real_numbers(name, q)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"{name} must lie in [0, 1]; got {float(p[(p < 0) | (p > 1)].ravel()[0])!r}")
    a, c = parameters(alpha, scale, dispersion)
    shape = common_shape(**{name: p}, alpha=a, scale=c)
    flat = np.broadcast_to(p, shape).reshape(-1)
    upper = np.where(flat <= 0.5, flat, 1 - flat)
    log_z = np.where(np.isnan(flat), np.nan, log_upper_quantile(upper, one_or_each(a, shape)))
    c = one_or_each(c, shape)
    with np.errstate(all="ignore"):
        z = np.exp(log_z)
        outside = (z == np.inf) | (z < np.finfo(float).tiny)
        size = np.where(outside, np.exp(log_z + np.log(c)), z * c)
    return np.where(flat <= 0.5, size, -size).reshape(shape)[()] + 0.0
