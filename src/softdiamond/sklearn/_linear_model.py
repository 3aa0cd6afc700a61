"""What the estimators share: the parts of a fit in order, and what follows from the coefficients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, validate_data

from softdiamond.sklearn import _fit, _parameters, _strength
from softdiamond.sklearn._cross_validation import choose, cross_validate


class LinearModel(BaseEstimator):
    """What follows from ``coef_`` and ``intercept_``, and how they are filled."""

    def _store(self, fits: list[_fit.FitResult], flat: bool) -> None:
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
        tail, strength = _parameters.checked_tail(self.tail), _parameters.checked_strength(self.strength)
        options = _parameters.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        starts = self._starts(losses(w), X.shape[1]) if self.warm_start else None
        self._finish(losses(w), design, tail, strength, None, options, flat, starts)
        return self

    def _finish(self, losses, design, tail, strength, grid, options, flat, starts) -> None:
        fits = []
        for k, loss in enumerate(losses):
            ratio = _fit.scale_fraction_of(loss, design, options)
            path = _strength.approach_strengths(tail, strength if grid is None else grid[0], ratio, loss.curvature)
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
        if params and not get_config()["enable_metadata_routing"]:
            raise ValueError(
                f"fit takes {', '.join(params)} only where metadata routing is on: "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        X, w, losses, flat = self._losses(X, y, sample_weight)
        tails = _parameters.checked_tails(self.tails)
        if self.rule not in ("min", "1se"):
            raise ValueError(f'rule must be "min" or "1se"; got {self.rule!r}')
        options = _parameters.options_of(self, X.shape[1])
        design = _fit.design_of(X, w, options, getattr(self, "feature_names_in_", None))
        if self.strengths is None:
            curvature = max(loss.curvature for loss in losses(w))
            ratio = min(_fit.scale_fraction_of(loss, design, options) for loss in losses(w))
            count = _parameters.checked_count(self.n_strengths)
            grids = [_strength.strength_grid(tail, ratio, X.shape, curvature, count) for tail in tails]
        else:
            grids = [_parameters.checked_strengths(self.strengths)] * len(tails)
        routed = process_routing(self, "fit", **params) if params else None
        splitter = check_cv(self.cv, y, classifier=classifier)
        splits = list(splitter.split(X, y, **(routed.splitter.split if routed else {})))
        validated = cross_validate(losses, X, w, splits, tails, np.stack(grids), options, self.n_jobs)
        i, k = choose(validated, self.rule)
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
