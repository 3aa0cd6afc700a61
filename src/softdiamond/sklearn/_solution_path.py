"""Starts: solutions along falling strengths, and the lower of the minima that several starts lead to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._lasso import lasso
from softdiamond.sklearn._losses import LogLoss, Loss, SquaredLoss
from softdiamond.sklearn._minimize import Solution, minimize
from softdiamond.sklearn._penalty import Penalty
from softdiamond.sklearn._ridge import ridge, ridge_path

SEPARABLE_FRACTION = (
    0.1  # share of the constant's log-loss below which a lasso tells classes apart too well to be a start
)

REWEIGHTINGS = 8  # ridge steps of the ridge start; descent does the rest


def solution_path(
    loss: Loss, design: Design, penalties: Iterable[Penalty], positive: bool, tol: float, max_iter: int
) -> Iterator[Solution]:
    """Solutions along falling penalties, each from the one before, the first from 0.

    Every strength is started from the lasso of that entry level too, itself a path, and the lower F goes on: where
    columns are correlated, the first column to enter is often a false one, which no step of one coordinate removes again. There
    are no more starts from lasso once it has more than a third as many columns as rows, or for the log-loss (where weights have to
    give what repeated rows give) once its loss is below a tenth of the constant's. Once the loss of a solution is below 0.1 % of
    the constant's the rest are the same: nothing is left to explain.
    """
    penalties, solution = list(penalties), None
    b, b0 = np.zeros((design.p, loss.y.shape[1])), loss.constant * design.center
    if isinstance(loss, LogLoss):
        of_constant = loss.value(b0 + np.zeros((design.n, 1)))
        least = 1e-3 * of_constant
    else:
        least = 1e-3 * loss.moments(design)[1] / 2
        if penalties[0].tail == 2 and not positive and (found := _ridge_path(loss, design, penalties)) is not None:
            yield from (
                minimize(loss, design, x[:, None], b0, pen, positive, tol, 0)
                for x, pen in zip(found, penalties, strict=True)
            )
            return
    start, start0, few = b, b0, True
    for penalty in penalties:
        if solution is None or solution.loss > least:
            solution = minimize(loss, design, b, b0, penalty, positive, tol, max_iter)
            if few and penalty.tail < 2 and penalty.lam.any():
                start, start0 = lasso(loss, design, penalty, positive, start, start0)
                if isinstance(loss, LogLoss):
                    few = loss.value(design.predict(start) + start0) > SEPARABLE_FRACTION * of_constant
                else:
                    few = bool(3 * np.count_nonzero(start) <= np.count_nonzero(design.w))
                other = minimize(loss, design, start, start0, penalty, positive, tol, max_iter)
                solution = min(solution, other, key=lambda each: each.objective)
            b, b0 = solution.b, solution.b0
        yield solution


def _ridge_path(loss: SquaredLoss, design: Design, penalties: Sequence[Penalty]) -> Array | None:
    sizes = [each.lam.max() / (2 * each.c**2) for each in penalties]
    factor = penalties[0].lam / penalties[0].lam.max() if penalties[0].lam.any() else penalties[0].lam
    return ridge_path(design, loss.y[:, 0], np.array(sizes), factor)


def lowest_minimum(
    loss: Loss, design: Design, path: Sequence[Penalty], strength: Array, positive: bool, tol: float, max_iter: int
) -> Solution:
    """The lower of the minima reached along the path and from ridge, for the last penalty of the path.

    ``strength``, of shape (p,), are the penalties of the ridge start.
    """
    penalty = path[-1]
    *_, found = solution_path(loss, design, path, positive, tol, max_iter)
    if penalty.tail == 2:
        return found
    start = _from_ridge(loss, design, penalty, strength, positive, tol)
    other = minimize(loss, design, start, found.b0, penalty, positive, tol, max_iter)
    return min(found, other, key=lambda each: each.objective)


def _from_ridge(loss: Loss, design: Design, penalty: Penalty, strength: Array, positive: bool, tol: float) -> Array:
    """Ridge, then ridge reweighted by omega: majorize-minimize steps of all coefficients at once."""
    b = np.zeros((design.p, loss.y.shape[1]))
    if isinstance(loss, SquaredLoss):
        b = ridge(design, loss.y[:, 0], strength, b[:, 0])
        for _ in range(REWEIGHTINGS):
            b = ridge(design, loss.y[:, 0], penalty.omega(b), b)
        b = b[:, None]
    else:
        gaussian = Penalty(2.0, 2 * penalty.c**2 * strength, penalty.c)
        start = loss.constant * design.center
        b = minimize(loss, design, b, start, gaussian, False, tol * 100, 50).b
    return np.maximum(b, 0) if positive else b
