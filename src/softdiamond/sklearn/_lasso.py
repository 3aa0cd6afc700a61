"""Lasso as a start: columns enter where those of the penalty can."""

from __future__ import annotations

import numpy as np

from softdiamond.sklearn import _descent
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._losses import Loss, SquaredLoss
from softdiamond.sklearn._penalty import Penalty

LASSO_MAJORIZATIONS = 5  # quadratics of the log-loss for one lasso of its path


def lasso(loss: Loss, design: Design, penalty: Penalty, positive: bool, b: Array, b0: Array) -> tuple[Array, Array]:
    """Lasso coefficients, (p, K), whose columns enter where those of the penalty can, from b to a coarse tolerance: a start."""
    scaled = penalty.divided_by(loss.curvature)
    entry = scaled.jump_threshold(design.diagonal)
    level = scaled.gradient(np.full(design.p, scaled.c))
    jumps = np.isfinite(entry)
    level[jumps] = entry[jumps] * design.diagonal[jumps]
    level *= loss.curvature
    b = b.copy()
    if isinstance(loss, SquaredLoss):
        _lasso_descent(design, loss.moments(design)[0], b[:, 0], level, positive)
        return b, b0
    for _ in range(LASSO_MAJORIZATIONS):
        f = design.predict(b) + b0
        residuals = loss.negative_gradient(f)
        for k in range(b.shape[1]):
            at = design.gram @ b[:, k] if design.full_gram else design.moment(design.predict(b[:, k]))
            _lasso_descent(
                design,
                design.moment(residuals[:, k]) / loss.curvature_bound + at,
                b[:, k],
                level / loss.curvature_bound,
                positive,
            )
        b0 = b0 + loss.w @ residuals / loss.curvature_bound * design.center
    return b, b0


def _lasso_descent(design: Design, d: Array, b: Array, level: Array, positive: bool) -> None:
    """Lower bᵀ G b / 2 - dᵀ b + levelᵀ |b| in place, the working set growing as columns enter."""
    for _ in range(30):
        working = design.working
        q = d - (design.gram @ b if design.full_gram else design.moment(design.predict(b)))
        against = (q if positive else np.abs(q)) > level * 1.01
        against[working] = False
        new = np.flatnonzero(against)
        if not design.full_gram and new.size:
            design.extend_working_set(new[np.argsort(-np.abs(q[new]), kind="stable")[:100]])
            working = design.working
        residuals, column = q[working], b[working]
        _descent.lasso_descent(
            design.gram, residuals, column, level[working], positive, 1e-2 * float(level.max(initial=0.0)), 200
        )
        b[working] = column
        if not new.size:
            break
