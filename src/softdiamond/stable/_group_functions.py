"""The public functions of the law of a group of weights: arguments checked and broadcast, then `group_law` evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable._parameters import common_shape, one_or_each, parameters, real_numbers
from softdiamond.stable.group_law import dimension, group_law

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[np.float64]


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


def _evaluate_group(
    name: str, r: ArrayLike, alpha: ArrayLike, d: int, scale: ArrayLike | None, dispersion: ArrayLike | None
) -> Array:
    norms, weights = real_numbers("r", r), dimension(d)
    if np.any(norms < 0):
        raise ValueError(
            f"r is the norm of a group and must not be negative; got {float(norms[norms < 0].ravel()[0])!r}"
        )
    a, c = parameters(alpha, scale, dispersion)
    shape = common_shape(r=norms, alpha=a, scale=c)
    flat = np.broadcast_to(norms, shape).reshape(-1)
    return group_law(flat, one_or_each(a, shape), weights, one_or_each(c, shape), name).reshape(shape)[()]
