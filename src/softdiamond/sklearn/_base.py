"""What the estimators share: their input, the parts of a fit in order, and what follows from the coefficients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, _raise_for_params, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from softdiamond.sklearn import _dial, _fit
from softdiamond.sklearn._solver import Logs, Squares


class Linear(BaseEstimator):
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

    def _fit_single(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, w, losses, flat = self._losses(X, y, sample_weight)
        tail, strength = _fit.checked_tail(self.tail), _fit.checked_strength(self.strength)
        options = _fit.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        starts = self._starts(losses(w), X.shape[1]) if self.warm_start else None
        self._finish(losses(w), design, tail, strength, None, options, flat, starts)
        return self

    def _finish(self, losses, design, tail, strength, grid, options, flat, starts) -> None:
        fits = []
        for k, loss in enumerate(losses):
            ratio = _fit.relative_scale(loss, design, options)
            path = _dial.approach(tail, strength if grid is None else grid[0], ratio, loss.curvature)
            if grid is not None:
                path = np.concatenate([path[:-1], grid])
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
        tails = _fit.checked_tails(self.tails)
        if self.rule not in ("min", "1se"):
            raise ValueError(f'rule must be "min" or "1se"; got {self.rule!r}')
        options = _fit.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        if self.strengths is None:
            curvature = max(loss.curvature for loss in losses(w))
            ratio = min(_fit.relative_scale(loss, design, options) for loss in losses(w))
            count = _fit.checked_count(self.n_strengths)
            grids = [_dial.grid(tail, ratio, X.shape, curvature, count) for tail in tails]
        else:
            grids = [_fit.checked_strengths(self.strengths)] * len(tails)
        routed = process_routing(self, "fit", **params) if params else None
        splitter = check_cv(self.cv, y, classifier=classifier)
        splits = list(splitter.split(X, y, **(routed.splitter.split if routed else {})))
        validated = _fit.cross_validate(losses, X, w, splits, tails, np.stack(grids), options, self.n_jobs)
        i, k = _fit.choose(validated, self.rule)
        self.tails_, self.strengths_, self.cv_errors_ = np.array(tails), validated.strengths, validated.errors
        self.cv_weights_ = validated.weights
        self.tail_, self.strength_ = tails[i], float(validated.strengths[i, k])
        self._finish(
            losses(w), design, self.tail_, self.strength_, validated.strengths[i, : k + 1], options, flat, None
        )
        return self

    def _routing(self) -> MetadataRouter:
        mapping = MethodMapping().add(caller="fit", callee="split")
        return MetadataRouter(owner=self).add_self_request(self).add(splitter=check_cv(self.cv), method_mapping=mapping)


class Regression(RegressorMixin, Linear):
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


class Classification(ClassifierMixin, Linear):
    """Log-loss: what a classifier makes of y and of the margins."""

    def _losses(self, X: Any, y: Any, sample_weight: Any) -> Any:
        X, y = validate_data(self, X, y, accept_sparse="csc", dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        w = _fit.checked_weights(sample_weight, X)
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
