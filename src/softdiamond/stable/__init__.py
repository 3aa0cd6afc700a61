r"""The exact symmetric alpha-stable (SaS) law in float64 NumPy.

The law has the characteristic function exp(-\|scale t\|^alpha), 0.1 <= alpha <= 2, dispersion = scale^alpha: alpha = 2 is a
Gaussian of variance 2 scale^2, alpha = 1 a Cauchy. In between there is no closed form. Five regimes cover every float64 x,
each with its mathematics in a file of its own; ``_law`` picks by z = \|x\| / scale:

=====================  =====================================================  =======  =======  =========  =======  ======
regime                 where                                                      pdf    omega  curvature       sf  us
=====================  =====================================================  =======  =======  =========  =======  ======
1 series at zero       z below a limit(alpha): 4e-22 at 0.1, 0.0036 at 0.5,   2.7e-15  1.2e-14    6.2e-15  5.2e-16  0.05
                       0.22 at 1, 1.2 at 2
2 tail series          z above a limit(alpha): 9e-6 at 0.1, 0.7 at 0.5,       1.5e-13  4.5e-14    6.9e-14  1.3e-13  0.05
                       4.4 at 1, 16 (and more, the nearer to it) at 2
3 contour integral     between the two                                        3.0e-14  1.2e-13    1.2e-12  2.1e-13  0.5
4 ray integral         between the two, alpha within 0.02 of 1                1.5e-15  7.1e-16    1.3e-15  7.7e-16  3
5 closed forms         alpha = 1 (beyond regime 1) and alpha = 2              1.8e-14  2.3e-16    2.0e-16  2.4e-14  0.06
=====================  =====================================================  =======  =======  =========  =======  ======

The error columns are the largest found at 10,104 points against 50-digit arithmetic (relative; curvature over \|curvature\| +
omega), by ``python benchmarks/error_map.py --points 9000``; the score is as good as omega, d logpdf / d alpha within 6e-13 of
max(1, \|value\|), cdf(ppf(p)) = p within 3e-13. They hold where the true result is a normal float64; a result beyond comes
out as 0, inf or a subnormal of the same relative error. The last column is the cost in microseconds a point of a long
array of one alpha (``python benchmarks/law.py``); where every point has an alpha of its own, regime 3 costs about 25.

The law of a group of d weights as a function of their norm (``group_penalty`` and the others, d up to 65,536; ``_group``) has
regimes of its own, whose switch points depend on (alpha, d):

=====================  =====================================================  =======  =======  =========  =======
regime                 where                                                  penalty    omega  curvature       us
=====================  =====================================================  =======  =======  =========  =======
1 series at zero       d = 64: r below 3e-4 at 0.5, 0.09 at 1.01, 0.9 at 1.9  8.0e-15  8.7e-15    5.6e-15      0.1
2 tail series          d = 64: r above 22 at 0.5, 13 at 1.01, 26 at 1.9       6.0e-16  2.7e-16    2.0e-16      0.1
3 mixture integral     between the two (``_mixture``)                         7.2e-14  1.0e-13    2.6e-12  6 to 28
4 closed forms         alpha = 1 and alpha = 2                                2.0e-16  2.6e-16    1.7e-16      0.1
=====================  =====================================================  =======  =======  =========  =======

at 255 random points (alpha, d, r) against 25 digits (``python benchmarks/group_error_map.py --seconds 240``; regime 4 at the
frozen rows), the cost by
``python benchmarks/law.py --groups``: 6 to 28 us a norm of a long array, the most at d = 2; each alpha of an array costs some
milliseconds besides. With d = 1 the scalar functions are used.

Not known: a proof of these errors. Weak: within 0.02 of alpha = 1 the scalar law is several times slower than elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable._fit import Fit, fit_law
from softdiamond.stable._group import D_MAX, dimension, group_law
from softdiamond.stable._law import law
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN, parameters, real_numbers
from softdiamond.stable._quantile import log_upper_quantile
from softdiamond.stable._sampling import unit_variates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "ALPHA_MAX",
    "ALPHA_MIN",
    "D_MAX",
    "Fit",
    "cdf",
    "curvature",
    "dlogpdf_dalpha",
    "fit",
    "group_curvature",
    "group_omega",
    "group_penalty",
    "group_score",
    "isf",
    "logpdf",
    "omega",
    "parameters",
    "pdf",
    "ppf",
    "rvs",
    "score",
    "sf",
]

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
    return _evaluate("tilt", x, alpha, scale, dispersion)


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
    common = _common_shape(alpha=a, scale=c)
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


def fit(
    x: ArrayLike,
    *,
    loc: float | Literal["free"] = 0.0,
    alpha: float | None = None,
    scale: float | None = None,
    counts: ArrayLike | None = None,
) -> Fit:
    """Fit the law by maximum likelihood.

    Parameters
    ----------
    x : array_like
        The sample, of any shape; at least two values that differ, all finite.
    loc : float or "free"
        Location: a known one, or "free" to estimate it. (The law's functions have no location: pass them x - loc.) For
        alpha below about 0.4 the likelihood has a spike at every observation near the location, and its standard error
        means little.
    alpha, scale : float, optional
        A known tail thickness or scale; estimated when left out.
    counts : array_like, optional
        How many observations each value of x stands for, positive, of the shape of x: for a sample gathered in bins. Needs a
        known location.

    Returns
    -------
    Fit
        Estimates, standard errors from the observed information, the log-likelihood beside that of Gaussian,
        Laplace, Cauchy and Student-t fits of the same data; prints itself as a table.

    Raises
    ------
    ValueError
        If the sample is empty, has one value or is constant, has NaN or infinities, so many equal values that the
        likelihood has no maximum, or a fixed parameter is out of range, or the counts do not fit.

    Examples
    --------
    >>> from softdiamond import stable
    >>> result = stable.fit(stable.rvs(1.2, size=20_000, rng=0, scale=3.0))
    >>> bool(abs(result.alpha - 1.2) < 4 * result.errors["alpha"])
    True
    """
    return fit_law(real_numbers("x", x), loc, alpha, scale, None if counts is None else real_numbers("counts", counts))


def group_penalty(
    r: ArrayLike, alpha: ArrayLike, d: int, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    r"""Penalty of a group of d weights of norm r, log p_d(0) - log p_d(r): zero at r = 0.

    The weights have the isotropic law on R^d of characteristic function exp(-(scale \|t\|)^alpha), p_d its density;

    .. math:: p_d(r) = E\big[(4 \pi A)^{-d/2} e^{-r^2 / 4A}\big], \qquad E e^{-sA} = e^{-s^{\alpha/2}}

    at unit scale. omega_d(0) r^2 / 2 towards 0, see `group_omega`, and (d + alpha) log r + constant in the tail (alpha < 2).

    Parameters
    ----------
    r : array_like
        Norms, not negative; any float64, infinity included. NaN gives NaN.
    alpha : array_like
        Tail thickness, in [0.1, 2].
    d : int
        Number of weights of the group, 1 to 65,536. With d = 1 all is as in the scalar functions.
    scale : array_like, optional
        Scale, positive and finite; 1 by default.
    dispersion : array_like, optional
        Dispersion scale^alpha, in place of ``scale``.

    Returns
    -------
    float or ndarray of float64
        Of the common shape of the arguments; a scalar if they all are. Exact to full relative accuracy where it is small.

    Raises
    ------
    ValueError
        If r is negative, alpha lies outside [0.1, 2], d outside [1, 65536], scale or dispersion is not positive and
        finite, or both are given.
    TypeError
        If d is no integer, or another argument no real number and no array of real numbers.

    References
    ----------
    Nolan, Computational Statistics 28 (2013) 2067-2089; Kanter, Annals of Probability 3 (1975) 697-707.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.group_penalty(1.0, 1.0, 3))  # multivariate Cauchy: (d + 1) / 2 log(1 + r^2)
    1.3862943611199
    """
    return _evaluate_group("penalty", r, alpha, d, scale, dispersion)


def group_score(
    r: ArrayLike, alpha: ArrayLike, d: int, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    """Radial score d/dr log p_d(r) = -r omega, negative; parameters and errors as in `group_penalty`.

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.group_score(2.0, 1.0, 4))  # multivariate Cauchy: -(d + 1) r / (1 + r^2)
    -2.0
    """
    return _evaluate_group("score", r, alpha, d, scale, dispersion)


def group_omega(
    r: ArrayLike, alpha: ArrayLike, d: int, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    r"""Adaptive decay of a group, -score / r, positive and falling in r; parameters and errors as in `group_penalty`.

    .. math:: \omega_d(r) = E[1 / (2 A) \mid r] = 2 \pi \, p_{d+2}(r) / p_d(r)

    at unit scale: from Gamma((d+2)/alpha) / (d Gamma(d/alpha)) / scale^2 at zero to (d + alpha) / r^2 in the tail (alpha < 2).

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.group_omega(2.0, 1.0, 4))  # multivariate Cauchy: (d + 1) / (1 + r^2)
    1.0
    """
    return _evaluate_group("omega", r, alpha, d, scale, dispersion)


def group_curvature(
    r: ArrayLike, alpha: ArrayLike, d: int, *, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> Array:
    r"""Radial curvature of the penalty, -d2/dr2 log p_d(r); parameters and errors as in `group_penalty`.

    .. math:: R''(r) = \omega_d(r) + r \omega_d'(r) = \omega_d(r) - \tfrac{r^2}{4} \mathrm{Var}[1 / A \mid r]

    at unit scale: omega_d(0) at zero, -(d + alpha) / r^2 in the tail (alpha < 2).

    Examples
    --------
    >>> from softdiamond import stable
    >>> float(stable.group_curvature(2.0, 1.0, 4))  # multivariate Cauchy: (d + 1) (1 - r^2) / (1 + r^2)^2
    -0.6
    """
    return _evaluate_group("curvature", r, alpha, d, scale, dispersion)


def _evaluate(
    name: str, x: ArrayLike, alpha: ArrayLike, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    points = real_numbers("x", x)
    a, c = parameters(alpha, scale, dispersion)
    shape = _common_shape(x=points, alpha=a, scale=c)
    flat = np.broadcast_to(points, shape).reshape(-1)
    return law(flat, _flat(a, shape), _flat(c, shape), name).reshape(shape)[()]


def _evaluate_group(
    name: str, r: ArrayLike, alpha: ArrayLike, d: int, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    norms, weights = real_numbers("r", r), dimension(d)
    if np.any(norms < 0):
        raise ValueError(
            f"r is the norm of a group and must not be negative; got {float(norms[norms < 0].ravel()[0])!r}"
        )
    a, c = parameters(alpha, scale, dispersion)
    shape = _common_shape(r=norms, alpha=a, scale=c)
    flat = np.broadcast_to(norms, shape).reshape(-1)
    return group_law(flat, _flat(a, shape), weights, _flat(c, shape), name).reshape(shape)[()]


def _common_shape(**arguments: Array) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(argument.shape for argument in arguments.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {argument.shape}" for name, argument in arguments.items())
        raise ValueError(f"the shapes of {shapes} do not broadcast") from None


def _flat(parameter: Array, shape: tuple[int, ...]) -> Array:
    """One value as shape (1,), several as one for each point."""
    return parameter.reshape(1) if parameter.size == 1 else np.broadcast_to(parameter, shape).reshape(-1)


def _quantile(
    name: str, q: ArrayLike, alpha: ArrayLike, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    p = real_numbers(name, q)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"{name} must lie in [0, 1]; got {float(p[(p < 0) | (p > 1)].ravel()[0])!r}")
    a, c = parameters(alpha, scale, dispersion)
    shape = _common_shape(**{name: p}, alpha=a, scale=c)
    flat = np.broadcast_to(p, shape).reshape(-1)
    upper = np.where(flat <= 0.5, flat, 1 - flat)
    log_z = np.where(np.isnan(flat), np.nan, log_upper_quantile(upper, _flat(a, shape)))
    c = _flat(c, shape)
    with np.errstate(all="ignore"):
        z = np.exp(log_z)
        outside = (z == np.inf) | (z < np.finfo(float).tiny)
        size = np.where(outside, np.exp(log_z + np.log(c)), z * c)
    return np.where(flat <= 0.5, size, -size).reshape(shape)[()] + 0.0
