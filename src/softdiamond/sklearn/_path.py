"""The path of the regression: coefficients along falling strengths."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from softdiamond.sklearn import _fit, _parameters, _strength
from softdiamond.sklearn._fit import Path
from softdiamond.sklearn._regression import Regression


def soft_diamond_path(
    X: Any,
    y: Any,
    *,
    tail: float = 0.5,
    strengths: Any = None,
    n_strengths: int = 20,
    scale_fraction: float = 0.01,
    scale: float | None = None,
    penalty_factor: Any = None,
    threshold: Literal["gap"] | None = None,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    standardize: bool = True,
    positive: bool = False,
    max_iter: int = 1000,
    tol: float = 1e-4,
) -> Path:
    """Coefficients of the regression along falling strengths, each started from the one before.

    Parameters
    ----------
    X : array_like or sparse, shape (n_samples, n_features)
    y : array_like, shape (n_samples,) or (n_samples, n_targets)
    tail : float
        Tail thickness in [0.1, 2].
    strengths : sequence of float or None
        Sorted from strong to weak. None takes ``n_strengths`` over three decades (more where n_samples is above 1,000) down from
        the one above which all coefficients of orthonormal columns are in the core; for ridge six decades about max(1, p / n).
    scale_fraction, scale, penalty_factor, threshold, fit_intercept, standardize, positive, max_iter, tol
        See `SoftDiamondRegressor`.
    sample_weight : array_like, shape (n_samples,), or None

    Returns
    -------
    Path
        ``strengths, coefs, intercepts, stationarity, n_iter``.

    Raises
    ------
    ValueError
        If an input or a parameter is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from softdiamond.sklearn import soft_diamond_path
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 30))
    >>> path = soft_diamond_path(X, X[:, 3] + 0.1 * rng.standard_normal(100), threshold="gap")
    >>> path.coefs.shape, int((path.coefs[:, 5] != 0).sum())
    ((30, 20), 1)
    """
    model = Regression()
    X, w, losses, flat = model._losses(X, y, sample_weight)
    flags = {"threshold": threshold, "fit_intercept": fit_intercept, "standardize": standardize, "positive": positive}
    numbers = {"scale_fraction": scale_fraction, "scale": scale, "max_iter": max_iter, "tol": tol}
    options = _parameters.options_of(SimpleNamespace(penalty_factor=penalty_factor, **flags, **numbers), X.shape[1])
    design = _fit.design_of(X, w, options, getattr(model, "feature_names_in_", None))
    tail = _parameters.checked_tail(tail)
    if strengths is None:
        ratio = min(_fit.scale_fraction_of(loss, design, options) for loss in losses(w))
        strengths = _strength.strength_grid(tail, ratio, X.shape, 1.0, _parameters.checked_count(n_strengths))
    else:
        strengths = _parameters.checked_strengths(strengths)
    paths = [_fit.path_of(loss, design, tail, strengths, options) for loss in losses(w)]
    if flat:
        (path,) = paths
        return path._replace(coefs=path.coefs[0], intercepts=path.intercepts[0])
    coefs, intercepts = (np.concatenate([getattr(path, name) for path in paths]) for name in ("coefs", "intercepts"))
    worst, count = (np.max([getattr(path, name) for path in paths], axis=0) for name in ("stationarity", "n_iter"))
    return Path(strengths, coefs, intercepts, worst, count)
