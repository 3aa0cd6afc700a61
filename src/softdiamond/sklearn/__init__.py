r"""Soft diamond estimators beside scikit-learn's Lasso: linear models under a symmetric alpha-stable prior.

.. math:: \frac{1}{2 \sum_i s_i} \sum_i s_i (y_i - x_i b - b_0)^2 + \lambda \sum_j f_j R(b_j / c)

R is the penalty of `softdiamond.table`, s the sample weights, f the ``penalty_factor``; the classifiers have the mean log-loss
in the place of squares. b is in units of the standardised columns unless ``standardize=False``. Thick tails leave large
coefficients alone and a sharp peak pulls the others to zero, so that fewer false columns come in than with lasso.

**Names.** scikit-learn's ``alpha`` is a strength. Here the strength is ``strength``, and the tail index, the alpha of the
stable law, is ``tail``: 2 is ridge, 1 the Cauchy prior, 0.5 a star.

Importing this module needs scikit-learn and numba (``pip install "softdiamond[sklearn]"``) and no torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

try:
    import numba  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('softdiamond.sklearn needs scikit-learn and numba: pip install "softdiamond[sklearn]"') from error

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, _raise_for_params, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from softdiamond.sklearn import _dial, _fit
from softdiamond.sklearn._fit import Path
from softdiamond.sklearn._solver import Logs, Squares

__all__ = [
    "Path",
    "SoftDiamondClassifier",
    "SoftDiamondClassifierCV",
    "SoftDiamondRegressor",
    "SoftDiamondRegressorCV",
    "soft_diamond_path",
]


class _Linear(BaseEstimator):
    """What follows from ``coef_`` and ``intercept_``, and how they are filled."""

    def _store(self, fits: list[_fit.Fitted], flat: bool) -> None:
        coef = np.concatenate([each.coef for each in fits], axis=1).T
        intercept = np.concatenate([each.intercept for each in fits])
        self.coef_ = coef[0] if flat else coef
        self.intercept_ = float(intercept[0]) if flat else intercept
        self.objective_ = float(sum(each.objective for each in fits))
        self.stationarity_ = max(each.stationarity for each in fits)
        self.n_iter_ = max(1, *(each.iterations for each in fits))
        self.support_ = (coef != 0).any(axis=0)
        bands = [each.band for each in fits]
        self.band_ = bands[0] if len(fits) == 1 else bands

    def _margins(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csc", "csr"], dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, w, losses, flat = self._losses(X, y, sample_weight)
        tail, strength = _fit.checked_tail(self.tail), _fit.checked_strength(self.strength)
        options = _fit.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        starts = self._starts(losses(w), X.shape[1]) if self.warm_start else None
        self._finish(losses(w), design, tail, strength, None, options, flat, starts)
        return self

    def _finish(self, losses, design, tail, strength, grid, options, flat, starts) -> None:  # type: ignore[no-untyped-def]
        fits = []
        for k, loss in enumerate(losses):
            path = _dial.approach(tail, strength, options.relative_scale, loss.curvature) if grid is None else grid
            fits.append(_fit.fit_one(loss, design, tail, path, options, None if starts is None else starts[k]))
        self._store(fits, flat)

    def _starts(self, losses: Any, p: int) -> Any:
        """The last coefficients, a start for each loss, if they fit."""
        coef = getattr(self, "coef_", None)
        outputs = [loss.y.shape[1] for loss in losses]
        if coef is None or np.atleast_2d(coef).shape != (sum(outputs), p):
            return None
        coef, intercept = np.atleast_2d(coef).T, np.atleast_1d(self.intercept_)
        edges = np.cumsum([0, *outputs])
        return [(coef[:, i:j], intercept[i:j]) for i, j in pairwise(edges)]

    def _fit_cv(self, X: Any, y: Any, sample_weight: Any, params: dict[str, Any], classifier: bool) -> Any:
        _raise_for_params(params, self, "fit")
        X, w, losses, flat = self._losses(X, y, sample_weight)
        tails = [_fit.checked_tail(each) for each in np.atleast_1d(np.asarray(self.tails, dtype=object))]
        if self.rule not in ("min", "1se"):
            raise ValueError(f'rule must be "min" or "1se"; got {self.rule!r}')
        options = _fit.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        if self.strengths is None:
            curvature = max(loss.curvature for loss in losses(w))
            grids = [_dial.grid(tail, options.relative_scale, *X.shape, curvature, self.n_strengths) for tail in tails]
        else:
            grids = [_fit.checked_strengths(self.strengths)] * len(tails)
        routed = process_routing(self, "fit", **params) if params else None
        splitter = check_cv(self.cv, y, classifier=classifier)
        splits = list(splitter.split(X, y, **(routed.splitter.split if routed else {})))
        validated = _fit.cross_validate(losses, X, w, splits, tails, np.stack(grids), options, self.n_jobs)
        i, k = _fit.choose(validated, self.rule)
        self.tails_, self.strengths_, self.cv_errors_ = np.array(tails), validated.strengths, validated.errors
        self.tail_, self.strength_ = tails[i], float(validated.strengths[i, k])
        self._finish(
            losses(w), design, self.tail_, self.strength_, validated.strengths[i, : k + 1], options, flat, None
        )
        return self

    def _routing(self) -> MetadataRouter:
        mapping = MethodMapping().add(caller="fit", callee="split")
        return MetadataRouter(owner=self).add_self_request(self).add(splitter=check_cv(self.cv), method_mapping=mapping)


class _Regression(RegressorMixin, _Linear):
    """Squares: what a regressor makes of y and of the margins."""

    def _losses(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, y = validate_data(
            self, X, y, accept_sparse="csc", dtype=np.float64, y_numeric=True, multi_output=True, ensure_min_samples=2
        )
        w, targets = _fit.checked_weights(sample_weight, X), np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        return X, w, lambda weights: [Squares(target, weights) for target in targets.T], np.ndim(y) == 1

    def predict(self, X: Any) -> Any:
        """Predicted targets, of shape (n_samples,) or (n_samples, n_targets)."""
        return self._margins(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _Classification(ClassifierMixin, _Linear):
    """Log-loss: what a classifier makes of y and of the margins."""

    def _losses(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, y = validate_data(self, X, y, accept_sparse="csc", dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        w = _fit.checked_weights(sample_weight, X)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if (present := np.unique(labels[w > 0])).size < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes; the data holds one class: {self.classes_[present]}"
            )
        rows = _fit.one_hot(labels, self.classes_.size)
        return X, w, lambda weights: [Logs(rows, weights)], False

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


class SoftDiamondRegressor(_Regression):
    """Linear regression with a soft diamond penalty.

    The tail index is the parameter ``tail`` and the strength ``strength``, because scikit-learn's ``alpha`` means strength.

    Parameters
    ----------
    strength : float
        Equivalent ridge penalty: lambda = strength / omega(r), r the size of the largest coefficient that one column alone
        would get. It is what scikit-learn calls alpha.
    tail : float
        Tail thickness in [0.1, 2], the alpha of the stable law. 2 is ridge, less is sparser.
    relative_scale : float
        The scale of the prior, c, relative to the largest coefficient that one column alone would get.
    scale, lam : float or None
        Absolute c and lambda, in units of the standardised columns; they take the place of ``relative_scale`` and ``strength``.
    penalty_factor : array_like of shape (n_features,) or None
        Factor of lambda for each column, not negative; 0 leaves a column without a penalty.
    threshold : {None, "gap"}
        With "gap" the coefficients below the band that the penalty's jump leaves empty become exact zeros, and the others
        are fitted once more without them. Where no jump certifies a band, the empty band of log|b| about the place where the
        penalty pulls hardest is taken, if it spans a factor of 10; ridge has none.
    fit_intercept, standardize : bool
        Centre the columns; divide them by their standard deviations. ``coef_`` is in the units of X in any case.
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
        With ``threshold="gap"`` the band of sizes, in units of the standardised columns, that holds no coefficient.
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
        strength=0.005,
        *,
        tail=0.5,
        relative_scale=0.01,
        scale=None,
        lam=None,
        penalty_factor=None,
        threshold=None,
        fit_intercept=True,
        standardize=True,
        positive=False,
        warm_start=False,
        max_iter=1000,
        tol=1e-4,
    ):
        self.strength = strength
        self.tail = tail
        self.relative_scale = relative_scale
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
        return self._fit(X, y, sample_weight)


class SoftDiamondClassifier(_Classification):
    """Logistic regression, binary or multinomial, with a soft diamond penalty.

    The tail index is the parameter ``tail`` and the strength ``strength``, because scikit-learn's ``alpha`` means strength.

    Parameters
    ----------
    strength : float
        Equivalent ridge penalty: lambda = strength / omega(r), r the size of the largest coefficient that one column alone
        would get. It is what scikit-learn calls alpha.
    tail : float
        Tail thickness in [0.1, 2], the alpha of the stable law. 2 is ridge, less is sparser.
    relative_scale : float
        The scale of the prior, c, relative to the largest coefficient that one column alone would get.
    scale, lam : float or None
        Absolute c and lambda, in units of the standardised columns; they take the place of ``relative_scale`` and ``strength``.
    penalty_factor : array_like of shape (n_features,) or None
        Factor of lambda for each column, not negative; 0 leaves a column without a penalty.
    threshold : {None, "gap"}
        With "gap" the coefficients below the band that the penalty's jump leaves empty become exact zeros, and the others
        are fitted once more without them. Where no jump certifies a band, the empty band of log|b| about the place where the
        penalty pulls hardest is taken, if it spans a factor of 10; ridge has none.
    fit_intercept, standardize : bool
        Centre the columns; divide them by their standard deviations. ``coef_`` is in the units of X in any case.
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
        In the units of X, of shape (1, n_features) and (1,) with two classes, else with a row for each class.
    support_ : ndarray of bool, (n_features,)
        Columns with a coefficient other than 0.
    band_ : (float, float), None, or a list of them, one a target
        With ``threshold="gap"`` the band of sizes, in units of the standardised columns, that holds no coefficient.
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
        strength=0.005,
        *,
        tail=0.5,
        relative_scale=0.01,
        scale=None,
        lam=None,
        penalty_factor=None,
        threshold=None,
        fit_intercept=True,
        standardize=True,
        positive=False,
        warm_start=False,
        max_iter=1000,
        tol=1e-4,
    ):
        self.strength = strength
        self.tail = tail
        self.relative_scale = relative_scale
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
        y : array_like, shape (n_samples,)
        sample_weight : array_like, shape (n_samples,), or None

        Raises
        ------
        ValueError
            If an input or a parameter is out of its range, or there is one class only.
        """
        return self._fit(X, y, sample_weight)


class SoftDiamondRegressorCV(_Regression):
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
    relative_scale : float
        The scale of the prior, c, relative to the largest coefficient that one column alone would get.
    scale : float or None
        Absolute c, in units of the standardised columns, in the place of ``relative_scale``.
    penalty_factor : array_like of shape (n_features,) or None
        Factor of lambda for each column, not negative; 0 leaves a column without a penalty.
    threshold : {None, "gap"}
        With "gap" the coefficients below the band that the penalty's jump leaves empty become exact zeros, and the others
        are fitted once more without them. Where no jump certifies a band, the empty band of log|b| about the place where the
        penalty pulls hardest is taken, if it spans a factor of 10; ridge has none.
    fit_intercept, standardize : bool
        Centre the columns; divide them by their standard deviations. ``coef_`` is in the units of X in any case.
    positive : bool
        Allow no negative coefficient.
    max_iter : int
        Most sweeps over the columns.
    tol : float
        Largest stationarity (see ``stationarity_``) at which the solver stops.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (n_features,) and a float, or (n_targets, n_features) and (n_targets,).
    support_ : ndarray of bool, (n_features,)
        Columns with a coefficient other than 0.
    band_ : (float, float), None, or a list of them, one a target
        With ``threshold="gap"`` the band of sizes, in units of the standardised columns, that holds no coefficient.
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
        Mean squared error on each fold.

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
        tails=(0.5, 1.0, 2.0),
        strengths=None,
        n_strengths=20,
        cv=5,
        rule="min",
        relative_scale=0.01,
        scale=None,
        penalty_factor=None,
        threshold=None,
        fit_intercept=True,
        standardize=True,
        positive=False,
        max_iter=1000,
        tol=1e-4,
        n_jobs=None,
    ):
        self.tails = tails
        self.strengths = strengths
        self.n_strengths = n_strengths
        self.cv = cv
        self.rule = rule
        self.relative_scale = relative_scale
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


class SoftDiamondClassifierCV(_Classification):
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
    n_jobs : int or None
        Threads that share the folds.
    relative_scale : float
        The scale of the prior, c, relative to the largest coefficient that one column alone would get.
    scale : float or None
        Absolute c, in units of the standardised columns, in the place of ``relative_scale``.
    penalty_factor : array_like of shape (n_features,) or None
        Factor of lambda for each column, not negative; 0 leaves a column without a penalty.
    threshold : {None, "gap"}
        With "gap" the coefficients below the band that the penalty's jump leaves empty become exact zeros, and the others
        are fitted once more without them. Where no jump certifies a band, the empty band of log|b| about the place where the
        penalty pulls hardest is taken, if it spans a factor of 10; ridge has none.
    fit_intercept, standardize : bool
        Centre the columns; divide them by their standard deviations. ``coef_`` is in the units of X in any case.
    positive : bool
        Allow no negative coefficient.
    max_iter : int
        Most sweeps over the columns.
    tol : float
        Largest stationarity (see ``stationarity_``) at which the solver stops.

    Attributes
    ----------
    coef_, intercept_ : ndarray, float or ndarray
        In the units of X, of shape (1, n_features) and (1,) with two classes, else with a row for each class.
    support_ : ndarray of bool, (n_features,)
        Columns with a coefficient other than 0.
    band_ : (float, float), None, or a list of them, one a target
        With ``threshold="gap"`` the band of sizes, in units of the standardised columns, that holds no coefficient.
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
        Mean log-loss on each fold.
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
        tails=(0.5, 1.0, 2.0),
        strengths=None,
        n_strengths=20,
        cv=5,
        rule="min",
        relative_scale=0.01,
        scale=None,
        penalty_factor=None,
        threshold=None,
        fit_intercept=True,
        standardize=True,
        positive=False,
        max_iter=1000,
        tol=1e-4,
        n_jobs=None,
    ):
        self.tails = tails
        self.strengths = strengths
        self.n_strengths = n_strengths
        self.cv = cv
        self.rule = rule
        self.relative_scale = relative_scale
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


def soft_diamond_path(
    X,
    y,
    *,
    tail=0.5,
    strengths=None,
    n_strengths=20,
    relative_scale=0.01,
    scale=None,
    penalty_factor=None,
    threshold=None,
    sample_weight=None,
    fit_intercept=True,
    standardize=True,
    positive=False,
    max_iter=1000,
    tol=1e-4,
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
    relative_scale, scale, penalty_factor, threshold, fit_intercept, standardize, positive, max_iter, tol
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
    model = SoftDiamondRegressor(
        tail=tail,
        relative_scale=relative_scale,
        scale=scale,
        penalty_factor=penalty_factor,
        threshold=threshold,
        fit_intercept=fit_intercept,
        standardize=standardize,
        positive=positive,
        max_iter=max_iter,
        tol=tol,
    )
    X, w, losses, flat = model._losses(X, y, sample_weight)
    options = _fit.options_of(model, X.shape[1])
    design = _fit.design_of(X, w, options, getattr(model, "feature_names_in_", None))
    tail = _fit.checked_tail(tail)
    if strengths is None:
        strengths = _dial.grid(tail, options.relative_scale, *X.shape, 1.0, n_strengths)
    else:
        strengths = _fit.checked_strengths(strengths)
    paths = [_fit.path_of(loss, design, tail, strengths, options) for loss in losses(w)]
    if flat:
        (path,) = paths
        return path._replace(coefs=path.coefs[0], intercepts=path.intercepts[0])
    together = (np.concatenate([getattr(path, name) for path in paths]) for name in ("coefs", "intercepts"))
    worst, count = (np.max([getattr(path, name) for path in paths], axis=0) for name in ("stationarity", "n_iter"))
    return Path(strengths, *together, worst, count)
