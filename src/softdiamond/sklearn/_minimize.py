r"""Minimize a loss plus soft diamond penalties by majorize-minimize; every step lowers the objective.

.. math:: F(b, b_0) = \sum_i w_i \ell(y_i, \tilde x_i b + b_0) + \sum_j \lambda_j R(b_j / c)

**The loss.** Squares are their own majorizer. The log-loss lies below a quadratic of curvature tau <= 1/4 (1/2 with more than two
classes, Böhning 1992) with the same Gram matrix; tau is lowered where the loss allows and raised, up to that bound, where a step
would not have stayed below. Between two of these steps the coefficients outside the core take one of Newton's method, which is
kept if it lowers the objective.

**The penalty.** Coordinate descent with the exact scalar proximal map (`_descent`) on the working set: all columns where their
Gram matrix is small, otherwise those at which the map may jump. The rest, all within the penalty's core, take a ridge step with
penalties omega(b_j) (conjugate gradients), which lies above the objective and touches it.

**Starts.** F has many minima. A path comes down from the strength at which all coefficients are in the core; each strength is
started from the result before it and from lasso, and the lower F is kept. One fit compares the end of such a path with
what ridge, followed by reweighted ridge, leads to. Nothing is random.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import linalg

from softdiamond.sklearn import _descent
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._losses import LogLoss, Loss, SquaredLoss
from softdiamond.sklearn._penalty import Penalty
from softdiamond.sklearn._ridge import conjugate, newton

MAX_NEWTON_SIZE = 300  # most coefficients outside the core that take Newton's step together


class Solution(NamedTuple):
    """Coefficients of the standardized columns, shape (p, K), intercepts (K,), and how they were reached."""

    b: Array
    b0: Array
    objective: float
    loss: float
    residual: float
    iterations: int


def minimize(
    loss: Loss, design: Design, b: Array, b0: Array, penalty: Penalty, positive: bool, tol: float, max_iter: int
) -> Solution:
    """Go down from (b, b0) until every |dF/db_j| and |dF/db_0| is at most ``tol``."""
    if isinstance(loss, SquaredLoss) and design.full_gram:
        return _minimize_gram(loss, design, b[:, 0].copy(), penalty, positive, tol, max_iter)
    b, b0, tau, outputs = b.copy(), b0.copy(), loss.curvature_bound, b.shape[1]
    f = design.predict(b) + b0
    value = loss.value(f)
    sweeps = 0
    for rounds in range(max_iter + 1):
        residuals = loss.negative_gradient(f)
        q = np.stack([design.moment(column) for column in residuals.T], axis=1)
        intercept_gradient = loss.w @ residuals if design.center else np.zeros_like(b0)
        gradient = np.abs(q - np.stack([penalty.gradient(column) for column in b.T], axis=1))
        gradient[design.diagonal == 0] = 0.0
        if positive:
            gradient[(b == 0) & (q <= 0)] = 0.0
        residual = max(float(gradient.max(initial=0.0)), float(np.abs(intercept_gradient).max()))
        scaled = penalty.divided_by(tau)
        settled = not any(_may_jump(design, q[:, k] / tau, b[:, k], scaled).any() for k in range(outputs))
        if (rounds > 0 and residual <= tol and settled) or sweeps >= max_iter * outputs or rounds == max_iter:
            break
        inner_tol = max(0.8 * tol, loss.step_accuracy * residual)
        while True:
            new = b.copy()
            for k in range(outputs):
                sweeps += _lower_quadratic(
                    design, q[:, k] / tau, new[:, k], penalty.divided_by(tau), positive, inner_tol / tau, max_iter
                )
            new0 = b0 + intercept_gradient / tau
            moved = design.predict(new) + new0
            reached, change = loss.value(moved), moved - f
            bound = value - float(loss.w @ (residuals * change - tau / 2 * change**2).sum(axis=1))
            if tau >= loss.curvature_bound or (reached <= bound and value - bound > 1e-12 * value):
                break  # a difference near rounding proves nothing: there the bound's own step is taken
            tau = min(2 * tau, loss.curvature_bound)
        b, b0, f, value = new, new0, moved, reached
        tau *= loss.bound_factor
        if isinstance(loss, LogLoss) and rounds % 2:
            b, b0, f, value = _newton_step(loss, design, b, b0, f, value, penalty, positive)
    return Solution(b, b0, value + penalty.total(b), value, residual, sweeps)


def _minimize_gram(
    loss: SquaredLoss, design: Design, b: Array, penalty: Penalty, positive: bool, tol: float, max_iter: int
) -> Solution:
    """The same for squares from the Gram matrix alone, without a pass over the rows."""
    d, square, b0 = loss.moments(design)
    sweeps = 0
    for rounds in range(max_iter + 1):
        q = d - design.gram @ b
        gradient = np.abs(q - penalty.gradient(b))
        gradient[(design.diagonal == 0) | (positive & (b == 0) & (q <= 0))] = 0.0
        residual = float(gradient.max(initial=0.0))
        if (rounds > 0 and residual <= tol) or sweeps >= max_iter or rounds == max_iter:
            break
        sweeps += _lower_quadratic(design, q, b, penalty, positive, 0.8 * tol, max_iter)
    value = (square - float(b @ (d + q))) / 2
    return Solution(b[:, None], b0, value + penalty.value(b), value, residual, sweeps)


def _newton_step(
    loss: LogLoss, design: Design, b: Array, b0: Array, f: Array, value: float, penalty: Penalty, positive: bool
) -> tuple[Array, Array, Array, float]:
    """Newton's step of the coefficients outside the core and the intercepts, divided by 4 until F falls; none if it does not.

    The quadratic of one curvature is slow where probabilities are near 0 or 1. R is replaced by its curvature where the sum
    stays convex, else by omega.
    """
    outer = np.abs(b) >= (penalty.c * penalty.curve.inflection if penalty.tail < 2 else 0.0)
    classes, rows = np.nonzero(outer.T)
    if not 0 < rows.size <= MAX_NEWTON_SIZE:
        return b, b0, f, value
    # √W X̃ of the columns with a coefficient outside the core, and √W of the intercept as one more.
    used, place = np.unique(rows, return_inverse=True)
    columns = np.column_stack([design.columns(used), np.sqrt(design.w) * design.center])
    side, probability = columns.shape[1], loss.y - loss.negative_gradient(f)
    # Of classes k and l: X̃ᵀ W diag(p_k (1[k = l] - p_l)) X̃.
    hessian = np.zeros((b.shape[1], side, b.shape[1], side))
    for k in range(b.shape[1]):
        for l in range(k + 1):
            weight = probability[:, k] * ((k == l) - probability[:, l])
            hessian[k, :, l, :] = hessian[l, :, k, :] = columns.T @ (columns * weight[:, None])
    # One row of the system for each coefficient outside the core, then one for each intercept.
    kept = np.concatenate([classes * side + place, np.arange(1, b.shape[1] + 1) * side - 1])
    matrix = hessian.reshape(b.shape[1] * side, -1)[np.ix_(kept, kept)]
    gradient = columns.T @ (np.sqrt(design.w)[:, None] * loss.negative_gradient(f))
    downhill = gradient.T.ravel()[kept]
    size = b[rows, classes]
    own = replace(penalty, lam=penalty.lam[rows])
    downhill[: rows.size] -= own.gradient(size)
    diagonal = np.arange(kept.size), np.arange(kept.size)
    # The classes' common level, and separable classes, leave the Hessian singular.
    matrix[diagonal] += 1e-10 * np.trace(matrix) + np.finfo(float).tiny
    total = value + penalty.total(b)
    for curvature in (own.second_derivative(size), own.omega(size)):
        shifted = matrix.copy()
        shifted[diagonal] += np.concatenate([curvature, np.zeros(b.shape[1])])
        try:
            step = linalg.cho_solve(linalg.cho_factor(shifted), downhill)
            step[rows.size :] -= step[rows.size :].mean() * (b.shape[1] > 1)  # the classes' common level is free
        except linalg.LinAlgError:
            continue
        for _ in range(6):
            new, new0 = b.copy(), b0 + step[rows.size :] * design.center
            new[rows, classes] = np.maximum(size + step[: rows.size], 0) if positive else size + step[: rows.size]
            moved = design.predict(new) + new0
            reached = loss.value(moved)
            if reached + penalty.total(new) < total:
                return new, new0, moved, reached
            step = step / 4
    return b, b0, f, value


def _may_jump(design: Design, q: Array, b: Array, penalty: Penalty) -> Array:
    """Columns outside the working set at which the scalar map may jump."""
    if design.full_gram:
        return np.zeros(1, bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        may = np.abs(b + q / design.diagonal) >= penalty.jump_threshold(design.diagonal)
    may[design.working] = False
    return np.asarray(may & (design.diagonal > 0))


def _lower_quadratic(
    design: Design, q: Array, b: Array, penalty: Penalty, positive: bool, tol: float, sweeps: int
) -> int:
    """Lower (b' - b)ᵀ G (b' - b) / 2 - qᵀ (b' - b) + penalty in place, from the residuals q at b; return the sweeps."""
    t, c = penalty.curve, penalty.c
    if penalty.tail == 2 and not positive:  # the quadratic is its own majorizer
        downhill, omega = q - penalty.gradient(b), penalty.omega(b)
        b += newton(design, downhill, omega)
        return 1
    if not design.full_gram:
        if (entering := _may_jump(design, q, b, penalty)).any():
            design.extend_working_set(np.flatnonzero(entering))
        rest = design.diagonal > 0
        rest[design.working] = False
        downhill = np.where(rest, q - penalty.gradient(b), 0.0)
        step = np.zeros_like(b)
        if positive:
            step = np.where(rest, np.maximum(downhill / (penalty.omega(b) + design.largest), -b), 0.0)
        elif np.abs(downhill).max() > 0.3 * tol:
            step = conjugate(design, downhill, np.where(rest, penalty.omega(b), np.inf), 50, 1e-3)
        if step.any():
            b += step
            q = q - design.moment(design.predict(step))
    working = design.working
    column, residuals = b[working], q[working]
    tol = tol if design.full_gram else 0.5 * tol
    _, used = _descent.coordinate_descent(
        design.gram, residuals, column, penalty.lam[working], c, t, positive, tol, sweeps
    )
    b[working] = column
    return int(used)
