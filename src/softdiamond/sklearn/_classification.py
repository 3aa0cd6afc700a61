"""Logistic regression with a soft diamond penalty: one strength, or chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softdiamond.sklearn._linear_model import LinearModel
from softdiamond.sklearn._losses import LogLoss, one_hot
from softdiamond.sklearn._parameters import checked_weights


class Classification(ClassifierMixin, LinearModel):
    """What is common to the classifiers: the log-loss, class weights, and predictions."""

    def _losses(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, y = validate_data(self, X, y, accept_sparse="csc", dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        w = checked_weights(sample_weight, X)
        self.classes_, labels = np.unique(y, return_inverse=True)
        factor = compute_sample_weight(self.class_weight, y)
        if isinstance(self.class_weight, str):  # "balanced": by the weight of a class, as if its rows were repeated
            factor = 1 / np.maximum(np.bincount(labels, w), np.finfo(float).tiny)[labels]
        if (factor < 0).any():
            raise ValueError(f"class_weight must not be negative; got {self.class_weight!r}")
        w = w * factor
        if (present := np.unique(labels[w > 0])).size < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes; the data holds one class: {self.classes_[present]}"
            )
        rows = one_hot(labels, self.classes_.size)
        return X, w, lambda weights: [LogLoss(rows, weights)], False

    def decision_function(self, X: Any) -> Any:
        """Margins, of shape (n_samples,) with two classes, else (n_samples, n_classes)."""
        margins = self._margins(X)
        return margins[:, 0] if margins.shape[1] == 1 else margins

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, in the order of ``classes_``."""
        margins = self._margins(X)
        if margins.shape[1] > 1:
            return softmax(margins, axis=1)
        return np.concatenate([expit(-margins), expit(margins)], axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Any:
        """Most probable class of each sample."""
        margins = self._margins(X)
        best = (margins[:, 0] > 0).astype(int) if margins.shape[1] == 1 else margins.argmax(axis=1)
        return self.classes_[best]


class SoftDiamondClassifier(Classification):
    """Logistic regression, binary or multinomial, with a soft diamond penalty.

    The tail index is the parameter ``tail`` and the strength ``strength``, because scikit-learn's ``alpha`` means strength.

    Parameters
    ----------
    strength : float
        Equivalent ridge penalty: lambda = strength / omega(r), r the size of the largest coefficient that one column alone
        would get. It is what scikit-learn calls alpha.
    tail : float
        Tail thickness in [0.1, 2], the alpha of the stable law. 2 is ridge, less is sparser.
    scale_fraction, scale, lam, penalty_factor, threshold, fit_intercept, standardize, positive, max_iter, tol
        See `SoftDiamondRegressor`.
    class_weight : dict, "balanced" or None
        Factors of the sample weights by class, as in scikit-learn.
    warm_start : bool
        Start from the last result alone instead of from the path, ridge and lasso.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (1, n_features) and (1,) with two classes, else with a row for each class.
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
    classes_ : ndarray
        The labels.

    Examples
    --------
    >>> import numpy as np
    >>> from softdiamond.sklearn import SoftDiamondClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 200))
    >>> y = np.where(3 * X[:, 3] + rng.logistic(size=100) > 0, "yes", "no")
    >>> model = SoftDiamondClassifier(strength=0.01, threshold="gap").fit(X, y)
    >>> np.flatnonzero(model.support_)
    array([3])
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
        class_weight: Any = None,
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
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the samples.

        Parameters
        ----------
        X : array_like or sparse, shape (n_samples, n_features)
        y : array_like, shape (n_samples,)
        sample_weight : array_like, shape (n_samples,), or None

        Raises
        ------
        ValueError
            If an input or a parameter is out of its range, or there is one class only.
        """
        return self._fit_single(X, y, sample_weight)


class SoftDiamondClassifierCV(Classification):
    """Logistic regression with a soft diamond penalty whose tail and strength are chosen by cross-validation.

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
    class_weight : dict, "balanced" or None
        Factors of the sample weights by class, as in scikit-learn.
    n_jobs : int or None
        Threads that share the folds.
    scale_fraction, scale, penalty_factor, threshold, fit_intercept, standardize, positive, max_iter, tol
        See `SoftDiamondRegressor`.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (1, n_features) and (1,) with two classes, else with a row for each class.
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
        Mean log-loss on each fold, NaN where no sample of the fold has weight.
    cv_weights_ : ndarray, (folds,)
        Sample weight of each fold, by which the errors are averaged.
    classes_ : ndarray
        The labels.

    Examples
    --------
    >>> import numpy as np
    >>> from softdiamond.sklearn import SoftDiamondClassifierCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 200))
    >>> y = (3 * X[:, 3] + rng.logistic(size=100) > 0).astype(int)
    >>> model = SoftDiamondClassifierCV(threshold="gap").fit(X, y)
    >>> bool(model.support_[3])
    True
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
        class_weight: Any = None,
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
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Any:
        """Choose tail and strength by cross-validation, then fit all samples.

        Parameters
        ----------
        X : array_like or sparse, shape (n_samples, n_features)
        y : array_like, shape (n_samples,)
        sample_weight : array_like, shape (n_samples,), or None
        **params
            For the splitter, such as ``groups``, where metadata routing is enabled.

        Raises
        ------
        ValueError
            If an input or a parameter is out of its range, or there is one class only.
        """
        return self._fit_cv(X, y, sample_weight, params, classifier=True)

    def get_metadata_routing(self) -> MetadataRouter:
        """How metadata reach ``fit`` and the splitter."""
        return self._routing()
