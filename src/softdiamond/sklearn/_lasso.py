"""Lasso as a start: columns enter where those of the penalty can."""

from __future__ import annotations

import numpy as np

from softdiamond.sklearn import _descent
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._losses import Loss, Squares
from softdiamond.sklearn._penalty import Penalty

MAJORIZED = 5  # quadratics of the log-loss for one lasso of its path


def lasso(loss: Loss, design: Design, penalty: Penalty, positive: bool, b: Array, b0: Array) -> tuple[Array, Array]:
    """Lasso coefficients, (p, K), whose columns enter where those of the penalty can, from b to a coarse tolerance: a start."""
    scaled = penalty.over(loss.curvature)
    entry = scaled.entry(design.diagonal)
    level = scaled.slope(np.full(design.p, scaled.c))
    jumps = np.isfinite(entry)
    level[jumps] = entry[jumps] * design.diagonal[jumps]
    level *= loss.curvature
    b = b.copy()
    if isinstance(loss, Squares):
        _soften(design, loss.moments(design)[0], b[:, 0], level, positive)
        return b, b0
    for _ in range(MAJORIZED):
        f = design.predict(b) + b0
        pull = loss.pull(f)
        for k in range(b.shape[1]):
            at = design.gram @ b[:, k] if design.whole else design.moment(design.predict(b[:, k]))
            _soften(design, design.moment(pull[:, k]) / loss.bound + at, b[:, k], level / loss.bound, positive)
        b0 = b0 + loss.w @ pull / loss.bound * design.center
    return b, b0


def _soften(design: Design, d: Array, b: Array, level: Array, positive: bool) -> None:
    """Lower bᵀ G b / 2 - dᵀ b + levelᵀ |b| in place, the working set growing as columns enter."""
    for _ in range(30):
        working = design.working
        q = d - (design.gram @ b if design.whole else design.moment(design.predict(b)))
        against = (q if positive else np.abs(q)) > level * 1.01
        against[working] = False
        new = np.flatnonzero(against)
        if not design.whole and new.size:
            design.work_on(new[np.argsort(-np.abs(q[new]), kind="stable")[:100]])
            working = design.working
        pull, column = q[working], b[working]
        _descent.soften(design.gram, pull, column, level[working], positive, 1e-2 * float(level.max(initial=0.0)), 200)
        b[working] = column
        if not new.size:
            break
