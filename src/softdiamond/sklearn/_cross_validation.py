"""Cross-validation over tails and strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from softdiamond.sklearn._design import Array
from softdiamond.sklearn._fit import design_of, path_of
from softdiamond.sklearn._parameters import Options


class CrossValidationResult(NamedTuple):
    """Cross-validation errors, shape (tails, K, folds), weights of the folds, and strengths (tails, K).

    The errors of a fold without weight are NaN.
    """

    errors: Array
    weights: Array
    strengths: Array


def cross_validate(
    make_loss: Any,
    X: Any,
    w: Array,
    splits: Sequence[Any],
    tails: Sequence[float],
    grids: Array,
    options: Options,
    n_jobs: Any,
) -> CrossValidationResult:
    """Mean validation loss of every tail and strength on every fold.

    ``make_loss(w)`` is the list of losses, one a target; a fold is its training weights.
    """

    def one(train: Any, test: Any) -> tuple[Array, float]:
        masked = np.zeros_like(w)
        masked[train] = w[train]
        if not masked.any():
            raise ValueError("a fold leaves no sample of positive weight to fit: use fewer folds or shuffle")
        if not w[test].any():
            return np.full((len(tails), grids.shape[1]), np.nan), 0.0
        errors = np.zeros((len(tails), grids.shape[1]))
        design = design_of(X, masked, options, names=False)
        rows = np.zeros_like(w)
        rows[test] = w[test]
        for loss, judge in zip(make_loss(masked), make_loss(rows), strict=True):
            table, judge = X[test], judge.subset(test)
            for i, tail in enumerate(tails):
                path = path_of(loss, design, tail, grids[i], coarse)
                margins = np.stack(
                    [table @ path.coefs[k] + path.intercepts[k] for k in range(path.coefs.shape[0])], axis=1
                )
                errors[i] += [judge.mean_loss(margins[..., k]) for k in range(grids.shape[1])]
        return errors, float(rows.sum())

    if not splits:
        raise ValueError("cv gives no folds")
    coarse = replace(options, tol=10 * options.tol)  # a fold's coefficients need no more digits than its errors
    done = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(one)(train, test) for train, test in splits)
    return CrossValidationResult(
        np.stack([e for e, _ in done], axis=-1), np.array([weight for _, weight in done]), grids
    )


def choose(validated: CrossValidationResult, rule: str) -> tuple[int, int]:
    """Tail and strength of the least mean error; with rule "1se" the strongest of that tail within one standard error."""
    counted = validated.weights > 0
    errors, share = validated.errors[..., counted], validated.weights[counted] / validated.weights.sum()
    mean = errors @ share
    i, k = (int(each) for each in np.unravel_index(int(np.argmin(mean)), mean.shape))
    if rule == "1se":
        spread = np.sqrt(share @ (errors[i, k] - mean[i, k]) ** 2 / max(len(share) - 1, 1))
        k = int(np.flatnonzero(mean[i] <= mean[i, k] + spread)[0])
    return i, k
