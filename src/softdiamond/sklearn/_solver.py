r"""Minimise a loss plus soft diamond penalties by majorize-minimize; every step lowers the objective.

.. math:: F(b, b_0) = \sum_i w_i \ell(y_i, \tilde x_i b + b_0) + \sum_j \lambda_j R(b_j / c)

**The loss.** Squares are their own majorizer. The log-loss lies below a quadratic of curvature tau <= 1/4 (1/2 with more than two
classes, Böhning 1992) with the same Gram matrix; tau is lowered where the loss allows and raised, up to that bound, where a step
would not have stayed below; what lies outside the core takes a step of
Newton's method in between, kept if it is lower.

**The penalty.** Coordinate descent with the exact scalar proximal map (`_descent`) on the working set: all columns where their
Gram matrix is small, otherwise those at which the map may jump. The rest, all within the penalty's core, take a ridge step with
penalties omega(b_j) (conjugate gradients), which lies above the objective and touches it.

**Starts.** F has many minima. A path comes down from the strength at which all coefficients are in the core; each strength is
started from the result before it and from lasso, and the lower F is kept. One fit compares the end of such a path with
what ridge, followed by reweighted ridge, leads to. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.special import expit

from softdiamond.sklearn import _descent
from softdiamond.sklearn._descent import Curve, curve
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._ridge import conjugate, newton, ridge, ridge_path

NEWTON = 300  # most coefficients outside the core that take Newton's step together
MAJORIZED = 5  # quadratics of the log-loss for one lasso of its path
SEPARATED = 0.1  # share of the constant's log-loss below which a lasso tells classes apart too well to be a start
REWEIGHTED = 8  # ridge steps of the ridge start; descent does the rest


@dataclass(frozen=True)
class Penalty:
    """sum_j lam_j R(b_j / c) of one tail; ``lam`` has shape (p,)."""

    tail: float
    lam: Array
    c: float

    @property
    def curve(self) -> Curve:
        return curve(self.tail)

    def value(self, b: Array) -> float:
        return float(self.lam @ _descent.penalties(b, self.c, self.curve))

    def total(self, b: Array) -> float:
        """Of coefficients of shape (p, K)."""
        return sum(self.value(column) for column in b.T)

    def slope(self, b: Array) -> Array:
        return np.asarray(self.lam * _descent.gradients(b, self.c, self.curve))

    def omega(self, b: Array) -> Array:
        return np.asarray(self.lam * _descent.omegas(b, self.c, self.curve))

    def bend(self, b: Array) -> Array:
        """Second derivatives."""
        return np.asarray(self.lam * [_descent.slopes(abs(x) / self.c, self.curve)[1] / self.c**2 for x in b])

    def over(self, tau: float) -> Penalty:
        return self if tau == 1 else replace(self, lam=self.lam / tau)

    def entry(self, diagonal: Array) -> Array:
        """Per column of this curvature the least |b + q / diagonal| with an outer root; infinite where none jumps."""
        step = np.where(diagonal > 0, self.lam / (self.c**2 * np.where(diagonal > 0, diagonal, 1.0)), 0.0)
        steps, which = np.unique(step, return_inverse=True)
        least = np.array([_descent.fall(each, self.curve)[0] for each in steps])
        return np.asarray(self.c * least[which])


class Squares:
    """w (y - f)^2 / 2 for one column of targets."""

    bound, inexact, trust = 1.0, 0.0, 1.0

    def __init__(self, y: Array, w: Array) -> None:
        self.y, self.w = y.reshape(len(y), -1), w / w.sum()
        self._moments: tuple[Design, tuple[Array, float, Array]] | None = None

    def moments(self, design: Design) -> tuple[Array, float, Array]:
        """X̃ᵀ W (y - b0), the weighted square of y - b0, and b0, the best constant if there is one."""
        if self._moments is None or self._moments[0] is not design:
            b0 = self.null * design.center
            y = self.y[:, 0] - b0
            self._moments = design, (design.moment(y), float(self.w @ y**2), b0)
        return self._moments[1]

    def value(self, f: Array) -> float:
        return float(self.w @ ((self.y - f) ** 2).sum(axis=1)) / 2

    def pull(self, f: Array) -> Array:
        """Minus the derivative of each row's loss in f."""
        return np.asarray(self.y - f)

    def only(self, rows: Array) -> Squares:
        return Squares(self.y[rows], self.w[rows])

    def error(self, f: Array) -> float:
        """What cross-validation compares: the mean squared error."""
        return 2 * self.value(f)

    @cached_property
    def null(self) -> Array:
        """The best constant f."""
        return np.asarray(self.w @ self.y)

    @cached_property
    def curvature(self) -> float:
        """Second derivative there."""
        return 1.0


class Logs:
    """w log-loss; y one-hot of shape (n, K), or (n, 1) with two classes."""

    inexact, trust = 0.1, 0.7  # accuracy of a step against the residual; by how much tau falls from step to step

    def __init__(self, y: Array, w: Array) -> None:
        self.y, self.w = y, w / w.sum()
        self.bound = 0.25 if y.shape[1] == 1 else 0.5

    def value(self, f: Array) -> float:
        if f.shape[1] == 1:
            return float(self.w @ (np.logaddexp(0, f) - self.y * f)[:, 0])
        top = f.max(axis=1)
        log_sum = np.log(np.exp(f - top[:, None]).sum(axis=1)) + top
        return float(self.w @ (log_sum - (self.y * f).sum(axis=1)))

    def pull(self, f: Array) -> Array:
        if f.shape[1] == 1:
            return np.asarray(self.y - expit(f))
        weight = np.exp(f - f.max(axis=1)[:, None])
        return np.asarray(self.y - weight / weight.sum(axis=1)[:, None])

    def only(self, rows: Array) -> Logs:
        return Logs(self.y[rows], self.w[rows])

    def error(self, f: Array) -> float:
        """What cross-validation compares: the mean log-loss."""
        return self.value(f)

    @cached_property
    def null(self) -> Array:
        share = np.clip(self.w @ self.y, 1e-12, 1 - 1e-12)
        if self.y.shape[1] == 1:
            return np.log(share / (1 - share))
        logs = np.log(share)
        return np.asarray(logs - logs.mean())

    @cached_property
    def curvature(self) -> float:
        share = self.w @ self.y
        return float(max((share * (1 - share)).max(), 1e-6))


Loss = Squares | Logs


class Solution(NamedTuple):
    """Coefficients of the standardised columns, shape (p, K), intercepts (K,), and how they were reached."""

    b: Array
    b0: Array
    objective: float
    loss: float
    residual: float
    iterations: int


def minimise(
    loss: Loss, design: Design, b: Array, b0: Array, penalty: Penalty, positive: bool, tol: float, max_iter: int
) -> Solution:
    """Go down from (b, b0) until every |dF/db_j| and |dF/db_0| is at most ``tol``."""
    if isinstance(loss, Squares) and design.whole:
        return _minimise_gram(loss, design, b[:, 0].copy(), penalty, positive, tol, max_iter)
    b, b0, tau, outputs = b.copy(), b0.copy(), loss.bound, b.shape[1]
    f = design.predict(b) + b0
    value = loss.value(f)
    sweeps = 0
    for rounds in range(max_iter + 1):
        pull = loss.pull(f)
        q = np.stack([design.moment(column) for column in pull.T], axis=1)
        drift = loss.w @ pull if design.center else np.zeros_like(b0)
        slope = np.abs(q - np.stack([penalty.slope(column) for column in b.T], axis=1))
        slope[design.diagonal == 0] = 0.0
        if positive:
            slope[(b == 0) & (q <= 0)] = 0.0
        residual = max(float(slope.max(initial=0.0)), float(np.abs(drift).max()))
        scaled = penalty.over(tau)
        calm = not any(_entering(design, q[:, k] / tau, b[:, k], scaled).any() for k in range(outputs))
        if (rounds > 0 and residual <= tol and calm) or sweeps >= max_iter * outputs or rounds == max_iter:
            break
        goal = max(0.8 * tol, loss.inexact * residual)
        while True:
            new = b.copy()
            for k in range(outputs):
                sweeps += _improve(design, q[:, k] / tau, new[:, k], penalty.over(tau), positive, goal / tau, max_iter)
            new0 = b0 + drift / tau
            moved = design.predict(new) + new0
            reached, change = loss.value(moved), moved - f
            above = value - float(loss.w @ (pull * change - tau / 2 * change**2).sum(axis=1))
            if tau >= loss.bound or (reached <= above and value - above > 1e-12 * value):
                break  # a difference near rounding proves nothing: there the bound's own step is taken
            tau = min(2 * tau, loss.bound)
        b, b0, f, value = new, new0, moved, reached
        tau *= loss.trust
        if isinstance(loss, Logs) and rounds % 2:
            b, b0, f, value = _newton_step(loss, design, b, b0, f, value, penalty, positive)
    return Solution(b, b0, value + penalty.total(b), value, residual, sweeps)


def _minimise_gram(
    loss: Squares, design: Design, b: Array, penalty: Penalty, positive: bool, tol: float, max_iter: int
) -> Solution:
    """The same for squares from the Gram matrix alone, without a pass over the rows."""
    d, square, b0 = loss.moments(design)
    sweeps = 0
    for rounds in range(max_iter + 1):
        q = d - design.gram @ b
        slope = np.abs(q - penalty.slope(b))
        slope[(design.diagonal == 0) | (positive & (b == 0) & (q <= 0))] = 0.0
        residual = float(slope.max(initial=0.0))
        if (rounds > 0 and residual <= tol) or sweeps >= max_iter or rounds == max_iter:
            break
        sweeps += _improve(design, q, b, penalty, positive, 0.8 * tol, max_iter)
    value = (square - float(b @ (d + q))) / 2
    return Solution(b[:, None], b0, value + penalty.value(b), value, residual, sweeps)


def _newton_step(
    loss: Logs, design: Design, b: Array, b0: Array, f: Array, value: float, penalty: Penalty, positive: bool
) -> tuple[Array, Array, Array, float]:
    """Newton's step of the coefficients outside the core and the intercepts, halved until F falls; nothing if it does not.

    The quadratic of one curvature is slow where probabilities are near 0 or 1. R is replaced by its curvature where the sum
    stays convex, else by omega.
    """
    outer = np.abs(b) >= (penalty.c * penalty.curve.steepest if penalty.tail < 2 else 0.0)
    classes, rows = np.nonzero(outer.T)
    if not 0 < rows.size <= NEWTON:
        return b, b0, f, value
    used, place = np.unique(rows, return_inverse=True)
    columns = np.column_stack([design.columns(used), np.sqrt(design.w) * design.center])
    side, probability = columns.shape[1], loss.y - loss.pull(f)
    hessian = np.zeros((b.shape[1], side, b.shape[1], side))
    for k in range(b.shape[1]):
        for l in range(k + 1):
            weight = probability[:, k] * ((k == l) - probability[:, l])
            hessian[k, :, l, :] = hessian[l, :, k, :] = columns.T @ (columns * weight[:, None])
    kept = np.concatenate([classes * side + place, np.arange(1, b.shape[1] + 1) * side - 1])
    matrix = hessian.reshape(b.shape[1] * side, -1)[np.ix_(kept, kept)]
    pull = columns.T @ (np.sqrt(design.w)[:, None] * loss.pull(f))
    slope = pull.T.ravel()[kept]
    size = b[rows, classes]
    own = replace(penalty, lam=penalty.lam[rows])
    slope[: rows.size] -= own.slope(size)
    ease = np.arange(kept.size), np.arange(kept.size)
    matrix[ease] += 1e-10 * np.trace(matrix) + np.finfo(float).tiny
    total = value + penalty.total(b)
    for bend in (own.bend(size), own.omega(size)):
        bent = matrix.copy()
        bent[ease] += np.concatenate([bend, np.zeros(b.shape[1])])
        try:
            step = linalg.cho_solve(linalg.cho_factor(bent), slope)
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


def _entering(design: Design, q: Array, b: Array, penalty: Penalty) -> Array:
    """Columns outside the working set at which the scalar map may jump."""
    if design.whole:
        return np.zeros(1, bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        may = np.abs(b + q / design.diagonal) >= penalty.entry(design.diagonal)
    may[design.working] = False
    return np.asarray(may & (design.diagonal > 0))


def _improve(design: Design, q: Array, b: Array, penalty: Penalty, positive: bool, tol: float, sweeps: int) -> int:
    """Lower (b' - b)ᵀ G (b' - b) / 2 - qᵀ (b' - b) + penalty in place, from the pull q at b; return the sweeps."""
    t, c = penalty.curve, penalty.c
    if penalty.tail == 2 and not positive:  # the quadratic is its own majorizer
        slope, omega = q - penalty.slope(b), penalty.omega(b)
        b += newton(design, slope, omega)
        return 1
    if not design.whole:
        if (entering := _entering(design, q, b, penalty)).any():
            design.work_on(np.flatnonzero(entering))
        rest = design.diagonal > 0
        rest[design.working] = False
        slope = np.where(rest, q - penalty.slope(b), 0.0)
        step = np.zeros_like(b)
        if positive:
            step = np.where(rest, np.maximum(slope / (penalty.omega(b) + design.largest), -b), 0.0)
        elif np.abs(slope).max() > 0.3 * tol:
            step = conjugate(design, slope, np.where(rest, penalty.omega(b), np.inf), 50, 1e-3)
        if step.any():
            b += step
            q = q - design.moment(design.predict(step))
    working = design.working
    column, pull = b[working], q[working]
    _, used = _descent.descend(
        design.gram, pull, column, penalty.lam[working], c, t, positive, tol if design.whole else 0.5 * tol, sweeps
    )
    b[working] = column
    return int(used)


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


def descend_path(
    loss: Loss, design: Design, penalties: Iterable[Penalty], positive: bool, tol: float, max_iter: int
) -> Iterator[Solution]:
    """Solutions along falling penalties, each from the one before, the first from 0.

    Every strength is started from the lasso of that entry level too, itself a path, and the lower F goes on: where
    columns are correlated, the first column in is often a false one that no single coordinate can leave again. A lasso is
    past all use, and ends these starts, with more than a third as many columns as rows, for the log-loss (of which repeated rows and
    weights must tell the same) once it leaves under a tenth of the loss of the constant. Once a solution leaves under 0.1 % of
    the loss of the constant the rest are the same: nothing is left to explain.
    """
    penalties, solution = list(penalties), None
    b, b0 = np.zeros((design.p, loss.y.shape[1])), loss.null * design.center
    if isinstance(loss, Logs):
        null = loss.value(b0 + np.zeros((design.n, 1)))
        least = 1e-3 * null
    else:
        least = 1e-3 * loss.moments(design)[1] / 2
        if penalties[0].tail == 2 and not positive and (found := _ridge_path(loss, design, penalties)) is not None:
            yield from (
                minimise(loss, design, x[:, None], b0, pen, positive, tol, 0)
                for x, pen in zip(found, penalties, strict=True)
            )
            return
    start, start0, few = b, b0, True
    for penalty in penalties:
        if solution is None or solution.loss > least:
            solution = minimise(loss, design, b, b0, penalty, positive, tol, max_iter)
            if few and penalty.tail < 2 and penalty.lam.any():
                start, start0 = lasso(loss, design, penalty, positive, start, start0)
                if isinstance(loss, Logs):
                    few = loss.value(design.predict(start) + start0) > SEPARATED * null
                else:
                    few = bool(3 * np.count_nonzero(start) <= np.count_nonzero(design.w))
                other = minimise(loss, design, start, start0, penalty, positive, tol, max_iter)
                solution = min(solution, other, key=lambda each: each.objective)
            b, b0 = solution.b, solution.b0
        yield solution


def _ridge_path(loss: Squares, design: Design, penalties: Sequence[Penalty]) -> Array | None:
    sizes = [each.lam.max() / (2 * each.c**2) for each in penalties]
    factor = penalties[0].lam / penalties[0].lam.max() if penalties[0].lam.any() else penalties[0].lam
    return ridge_path(design, loss.y[:, 0], np.array(sizes), factor)


def best(
    loss: Loss, design: Design, path: Sequence[Penalty], strength: Array, positive: bool, tol: float, max_iter: int
) -> Solution:
    """The lower of the minima reached along the path and from ridge, for the last penalty of the path.

    ``strength``, of shape (p,), are the penalties of the ridge start.
    """
    penalty = path[-1]
    *_, found = descend_path(loss, design, path, positive, tol, max_iter)
    if penalty.tail == 2:
        return found
    start = _from_ridge(loss, design, penalty, strength, positive, tol)
    other = minimise(loss, design, start, found.b0, penalty, positive, tol, max_iter)
    return min(found, other, key=lambda each: each.objective)


def _from_ridge(loss: Loss, design: Design, penalty: Penalty, strength: Array, positive: bool, tol: float) -> Array:
    """Ridge, then ridge reweighted by omega: majorize-minimize steps of all coefficients at once."""
    b = np.zeros((design.p, loss.y.shape[1]))
    if isinstance(loss, Squares):
        b = ridge(design, loss.y[:, 0], strength, b[:, 0])
        for _ in range(REWEIGHTED):
            b = ridge(design, loss.y[:, 0], penalty.omega(b), b)
        b = b[:, None]
    else:
        gaussian = Penalty(2.0, 2 * penalty.c**2 * strength, penalty.c)
        start = loss.null * design.center
        b = minimise(loss, design, b, start, gaussian, False, tol * 100, 50).b
    return np.maximum(b, 0) if positive else b
