"""Linear regression with a soft diamond penalty: one strength, or chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import validate_data

from softdiamond.sklearn._linear_model import LinearModel
from softdiamond.sklearn._losses import SquaredLoss
from softdiamond.sklearn._parameters import checked_weights


class Regression(RegressorMixin, LinearModel):
    """What is common to the regressors: the squared loss of each target, and predictions."""

    def _losses(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, y = validate_data(
            self, X, y, accept_sparse="csc", dtype=np.float64, y_numeric=True, multi_output=True, ensure_min_samples=2
        )
        w, targets = checked_weights(sample_weight, X), np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        return X, w, lambda weights: [SquaredLoss(target, weights) for target in targets.T], np.ndim(y) == 1

    def predict(self, X: Any) -> Any:
        """Predicted targets, of shape (n_samples,) or (n_samples, n_targets)."""
        return self._margins(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class SoftDiamondRegressor(Regression):
    """Linear regression with a soft diamond penalty.

    The tail index is the parameter ``tail`` and the strength ``strength``, because scikit-learn's ``alpha`` means strength.

    Parameters
    ----------
    strength : float
        Equivalent ridge penalty: lambda = strength / omega(r), r the size of the largest coefficient that one column alone
        would get. It is what scikit-learn calls alpha.
    tail : float
        Tail thickness in [0.1, 2], the alpha of the stable law. 2 is ridge, less is sparser.
    scale_fraction : float
        The scale of the prior, c, as a fraction of r, the size of the largest coefficient that one column alone would get. (The
        ``relative_scale`` of networks is relative to the size of their weights at the start, which a linear model does not have.)
    scale, lam : float or None
        Absolute c and lambda, in units of the standardized columns; they take the place of ``scale_fraction`` and ``strength``.
    penalty_factor : array_like of shape (n_features,) or None
        Factor of lambda for each column, not negative; 0 leaves a column without a penalty.
    threshold : {None, "gap"}
        With "gap" the coefficients below the band that the penalty's jump leaves empty become exact zeros, and the others
        are fitted once more without them. Where no jump certifies a band, the empty band of log|b| about the place where the
        penalty pulls hardest is taken, if it spans a factor of 10; ridge has none.
    fit_intercept, standardize : bool
        Center the columns; divide them by their standard deviations. ``coef_`` is in the units of X in any case.
    positive : bool
        Allow no negative coefficient.
    max_iter : int
        Most sweeps over the columns.
    tol : float
        Largest stationarity (see ``stationarity_``) at which the solver stops.
    warm_start : bool
        Start from the last result alone instead of from the path, ridge and lasso.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (n_features,) and a float, or (n_targets, n_features) and (n_targets,).
    support_ : ndarray of bool, (n_features,)
        Columns with a coefficient other than 0.
    band_ : (float, float), None, or a list of them, one a target
        With ``threshold="gap"`` the band of sizes, in units of the standardized columns, that holds no coefficient.
    objective_ : float
        The objective at the result, of several targets their sum.
    stationarity_ : float
        Largest derivative of the objective at the result, over the largest of the loss at zero coefficients.
    n_iter_ : int
        Sweeps over the columns.
    n_features_in_, feature_names_in_ : int, ndarray
        Of the table that was fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from softdiamond.sklearn import SoftDiamondRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 200))
    >>> y = 2 * X[:, 3] - X[:, 7] + 0.5 * rng.standard_normal(100)
    >>> model = SoftDiamondRegressor(strength=0.01, threshold="gap").fit(X, y)
    >>> np.flatnonzero(model.support_)
    array([3, 7])
    """

    def __init__(
        self,
        strength: float = 0.005,
        *,
        tail: float = 0.5,
        scale_fraction: float = 0.01,
        scale: float | None = None,
        lam: float | None = None,
        penalty_factor: Any = None,
        threshold: Literal["gap"] | None = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        positive: bool = False,
        warm_start: bool = False,
        max_iter: int = 1000,
        tol: float = 1e-4,
    ) -> None:
        self.strength = strength
        self.tail = tail
        self.scale_fraction = scale_fraction
        self.scale = scale
        self.lam = lam
        self.penalty_factor = penalty_factor
        self.threshold = threshold
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.positive = positive
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the samples.

        Parameters
        ----------
        X : array_like or sparse, shape (n_samples, n_features)
        y : array_like, shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array_like, shape (n_samples,), or None

        Raises
        ------
        ValueError
            If an input or a parameter is out of its range.
        """
        return self._fit_single(X, y, sample_weight)


class SoftDiamondRegressorCV(Regression):
    """Linear regression with a soft diamond penalty whose tail and strength are chosen by cross-validation.

    The tail index is the parameter ``tail`` and the strength ``strength``, because scikit-learn's ``alpha`` means strength.

    Parameters
    ----------
    tails : sequence of float
        Tails tried, in [0.1, 2]. With 2 among them ridge competes, which wins where most columns matter a little.
    strengths : sequence of float or None
        Strengths tried with every tail; None chooses ``n_strengths`` for each, see `soft_diamond_path`.
    n_strengths : int
        Length of the default grid.
    cv : int, splitter or iterable
        As in scikit-learn.
    rule : {"min", "1se"}
        The least mean error, or the strongest penalty of the same tail within one standard error of it.
    n_jobs : int or None
        Threads that share the folds.
    scale_fraction, scale, penalty_factor, threshold, fit_intercept, standardize, positive, max_iter, tol
        See `SoftDiamondRegressor`.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (n_features,) and a float, or (n_targets, n_features) and (n_targets,).
    support_ : ndarray of bool, (n_features,)
        Columns with a coefficient other than 0.
    band_ : (float, float), None, or a list of them, one a target
        With ``threshold="gap"`` the band of sizes, in units of the standardized columns, that holds no coefficient.
    objective_ : float
        The objective at the result, of several targets their sum.
    stationarity_ : float
        Largest derivative of the objective at the result, over the largest of the loss at zero coefficients.
    n_iter_ : int
        Sweeps over the columns.
    n_features_in_, feature_names_in_ : int, ndarray
        Of the table that was fitted.
    tail_, strength_ : float
        The choice.
    tails_, strengths_ : ndarray, (tails,) and (tails, K)
        What was tried.
    cv_errors_ : ndarray, (tails, K, folds)
        Mean squared error on each fold, NaN where no sample of the fold has weight.
    cv_weights_ : ndarray, (folds,)
        Sample weight of each fold, by which the errors are averaged.

    Examples
    --------
    >>> import numpy as np
    >>> from softdiamond.sklearn import SoftDiamondRegressorCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 200))
    >>> y = 2 * X[:, 3] - X[:, 7] + 0.5 * rng.standard_normal(100)
    >>> model = SoftDiamondRegressorCV(threshold="gap").fit(X, y)
    >>> np.flatnonzero(model.support_)
    array([3, 7])
    """

    def __init__(
        self,
        *,
        tails: Sequence[float] = (0.5, 1.0, 2.0),
        strengths: Any = None,
        n_strengths: int = 20,
        cv: Any = 5,
        rule: Literal["min", "1se"] = "min",
        scale_fraction: float = 0.01,
        scale: float | None = None,
        penalty_factor: Any = None,
        threshold: Literal["gap"] | None = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        positive: bool = False,
        max_iter: int = 1000,
        tol: float = 1e-4,
        n_jobs: int | None = None,
    ) -> None:
        self.tails = tails
        self.strengths = strengths
        self.n_strengths = n_strengths
        self.cv = cv
        self.rule = rule
        self.scale_fraction = scale_fraction
        self.scale = scale
        self.penalty_factor = penalty_factor
        self.threshold = threshold
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.positive = positive
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Any:
        """Choose tail and strength by cross-validation, then fit all samples.

        Parameters
        ----------
        X : array_like or sparse, shape (n_samples, n_features)
        y : array_like, shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array_like, shape (n_samples,), or None
        **params
            For the splitter, such as ``groups``, where metadata routing is enabled.

        Raises
        ------
        ValueError
            If an input or a parameter is out of its range.
        """
        return self._fit_cv(X, y, sample_weight, params, classifier=False)

    def get_metadata_routing(self) -> MetadataRouter:
        """How metadata reach ``fit`` and the splitter."""
        return self._routing()
