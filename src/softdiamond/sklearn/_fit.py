"""One fit, and the path: from parameters to coefficients in the units of the table."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from softdiamond.sklearn import _strength
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._gap import gap_threshold
from softdiamond.sklearn._losses import Loss
from softdiamond.sklearn._minimize import Solution, minimize
from softdiamond.sklearn._parameters import MAX_SCALE_RATIO, Options
from softdiamond.sklearn._penalty import Penalty
from softdiamond.sklearn._solution_path import lowest_minimum, solution_path


class FitResult(NamedTuple):
    """Coefficients of the columns as given, shape (p, K), intercepts (K,), and how they came about."""

    coef: Array
    intercept: Array
    objective: float
    stationarity: float
    iterations: int
    band: tuple[float, float] | None


def design_of(X: Any, w: Array, options: Options, names: Any = None) -> Design:
    """The standardized table; refuses a column that does not vary."""
    if sparse.issparse(X):
        X = sparse.csc_array(X)
    design = Design(X, w, options.fit_intercept, options.standardize)
    if names is not False and not design.varies.all():
        constant = np.flatnonzero(~design.varies)
        shown = ", ".join(str(j if names is None else names[j]) for j in constant[:5]) + ", ..." * (constant.size > 5)
        what = "constant" if options.fit_intercept else "zero in every sample"
        if not w.all():
            what += f" in the {np.count_nonzero(w)} samples of positive weight"
        raise ValueError(
            f"{constant.size} column(s) of X are {what}: {shown}. Remove them, for example with "
            "sklearn.feature_selection.VarianceThreshold"
        )
    return design


def scale_fraction_of(loss: Loss, design: Design, options: Options) -> float:
    """c / r, also where c is given."""
    if options.scale is None:
        return options.scale_fraction
    r = _strength.reference_size(loss, design)
    if not r / MAX_SCALE_RATIO <= options.scale <= r * MAX_SCALE_RATIO:
        raise ValueError(
            f"scale must be within a factor {MAX_SCALE_RATIO:g} of {r:.3g}, the largest coefficient; got {options.scale!r}"
        )
    return options.scale / r


def fit_one(
    loss: Loss, design: Design, tail: float, strengths: Array, options: Options, start: tuple[Array, Array] | None
) -> FitResult:
    """Fit the last of falling strengths; from ``start`` (coefficients as given, intercepts) if there is one."""
    r = _strength.reference_size(loss, design)
    unit = r * loss.curvature
    path = _strength.penalties_of(
        tail, strengths, options.scale_fraction, options.factor, r, options.scale, options.lam
    )
    settings = options.positive, options.tol * unit, options.max_iter
    if start is None:
        ridge = strengths[-1] * options.factor
        solution = lowest_minimum(loss, design, path, ridge, *settings)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            b = np.where(design.varies[:, None], start[0] / design.inverse[:, None], 0.0)
        b0 = start[1] + design.mean @ start[0] if options.fit_intercept else np.zeros_like(start[1])
        if options.positive:
            b = np.maximum(b, 0.0)
        solution = minimize(loss, design, b, b0, path[-1], *settings)
    band = None
    if options.threshold == "gap":
        solution, band = _threshold(loss, design, solution, path[-1], settings)
    if solution.residual > options.tol * unit:
        warnings.warn(
            f"stopped after max_iter = {options.max_iter} sweeps at a stationarity of {solution.residual / unit:.1e}, above "
            f"tol = {options.tol:g}: increase max_iter, tol or strength",
            ConvergenceWarning,
            stacklevel=3,
        )
    coef, intercept = _in_units_of_the_table(solution, design)
    return FitResult(coef, intercept, solution.objective, solution.residual / unit, solution.iterations, band)


def _threshold(
    loss: Loss, design: Design, solution: Solution, penalty: Penalty, settings: tuple[bool, float, int]
) -> tuple[Solution, tuple[float, float] | None]:
    """Exact zeros below the gap; what is kept goes down once more without the rest."""
    b, band = gap_threshold(penalty, design.diagonal * loss.curvature_bound, solution.b)
    if band is None:
        return solution, None
    kept = np.flatnonzero(b.any(axis=1))
    if kept.size == 0:
        alone = solution._replace(b=b, b0=loss.constant * design.center)
        value = loss.value(np.tile(alone.b0, (design.n, 1)))
        return alone._replace(objective=value, loss=value, residual=0.0), band
    part = Design(design.X[:, kept], design.w, design.center, bool((design.diagonal[kept] == 1).all()))
    small = replace(penalty, lam=penalty.lam[kept])
    again = minimize(loss, part, b[kept], solution.b0, small, *settings)
    b = np.zeros_like(b)
    b[kept], _ = gap_threshold(small, part.diagonal * loss.curvature_bound, again.b)
    left = np.abs(b[penalty.lam > 0])
    least = float(left[left > 0].min(initial=np.inf))  # the refit moved what is kept: the band ends below it
    return again._replace(b=b, iterations=solution.iterations + again.iterations), (min(band[0], least), least)


def _in_units_of_the_table(solution: Solution, design: Design) -> tuple[Array, Array]:
    coef = solution.b * design.inverse[:, None]
    intercept = solution.b0 - design.mean @ coef if design.center else np.zeros_like(solution.b0)
    return coef, np.asarray(intercept)


class Path(NamedTuple):
    """Coefficients along falling strengths.

    Attributes
    ----------
    strengths : ndarray, (K,)
    coefs : ndarray, (p, K), or (targets, p, K) with several targets or classes
    intercepts : ndarray, (K,) or (targets, K)
    stationarity : ndarray, (K,)
        Largest derivative of the objective over that of the loss at zero coefficients.
    n_iter : ndarray of int, (K,)
    """

    strengths: Array
    coefs: Array
    intercepts: Array
    stationarity: Array
    n_iter: Any


def path_of(loss: Loss, design: Design, tail: float, strengths: Array, options: Options) -> Path:
    """Path of one loss, coefs of shape (K', p, K) for K' outputs."""
    r = _strength.reference_size(loss, design)
    unit = r * loss.curvature
    before = _strength.approach_strengths(tail, strengths[0], scale_fraction_of(loss, design, options), loss.curvature)[
        :-1
    ]
    falling = np.concatenate([before, strengths])
    penalties = _strength.penalties_of(tail, falling, options.scale_fraction, options.factor, r, options.scale, None)
    solutions = solution_path(loss, design, penalties, options.positive, options.tol * unit, options.max_iter)
    rows = []
    for penalty, solution in list(zip(penalties, solutions, strict=True))[len(before) :]:
        if options.threshold == "gap":
            b, band = gap_threshold(penalty, design.diagonal * loss.curvature_bound, solution.b)
            solution = solution._replace(b=b) if band else solution
        rows.append((*_in_units_of_the_table(solution, design), solution.residual / unit, solution.iterations))
    coefs, intercepts, residuals, counts = zip(*rows, strict=True)
    return Path(
        strengths,
        np.stack([coef.T for coef in coefs], axis=-1),
        np.stack(intercepts, axis=-1),
        np.array(residuals),
        np.array(counts),
    )
