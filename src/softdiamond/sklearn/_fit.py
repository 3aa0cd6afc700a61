"""What the four estimators share: checks of the input, one fit, the path, its cross-validation."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight

from softdiamond.sklearn import _dial
from softdiamond.sklearn._design import Array, Design
from softdiamond.sklearn._solver import Loss, Penalty, Solution, best, descend_path, minimise

LEAST_TAIL, MOST_TAIL = 0.1, 2.0
WIDEST = 1e12  # factor between the scale and the largest coefficient, either way, within which nothing overflows


@dataclass(frozen=True)
class Options:
    """The parameters of an estimator that say what is minimised and how."""

    relative_scale: float
    scale: float | None
    lam: float | None
    factor: Array
    threshold: str | None
    fit_intercept: bool
    standardize: bool
    positive: bool
    max_iter: int
    tol: float


class Fitted(NamedTuple):
    """Coefficients of the columns as given, shape (p, K), intercepts (K,), and how they came about."""

    coef: Array
    intercept: Array
    objective: float
    stationarity: float
    iterations: int
    band: tuple[float, float] | None


def options_of(model: Any, p: int) -> Options:
    """Checked parameters of an estimator."""
    for name in ("relative_scale", "scale", "lam", "tol"):
        given, least = getattr(model, name, None), "not negative" if name in ("lam", "tol") else "positive"
        if given is None and name in ("scale", "lam"):
            continue
        if given is None or not _finite(given) or given < 0 or (given == 0 and least == "positive"):
            raise ValueError(f"{name} must be finite and {least}; got {given!r}")
    if not isinstance(model.max_iter, numbers.Integral) or model.max_iter < 1:
        raise ValueError(f"max_iter must be a positive integer; got {model.max_iter!r}")
    for name in ("fit_intercept", "standardize", "positive", "warm_start"):
        if not isinstance(given := getattr(model, name, False), bool | np.bool_):
            raise ValueError(f"{name} must be True or False; got {given!r}")
    if not WIDEST**-1 <= model.relative_scale <= WIDEST:
        raise ValueError(f"relative_scale must lie in [{1 / WIDEST:g}, {WIDEST:g}]; got {model.relative_scale!r}")
    if model.threshold is not None and not (isinstance(model.threshold, str) and model.threshold == "gap"):
        raise ValueError(f'threshold must be None or "gap"; got {model.threshold!r}')
    factor = np.ones(p)
    if model.penalty_factor is not None:
        try:
            factor = np.asarray(model.penalty_factor, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"penalty_factor must be numbers; got {model.penalty_factor!r}") from None
        if factor.shape != (p,):
            raise ValueError(
                f"penalty_factor must have one number for each of the {p} columns; got shape {factor.shape}"
            )
        if (wrong := np.flatnonzero(~(np.isfinite(factor) & (factor >= 0)))).size:
            raise ValueError(
                f"penalty_factor must be finite and not negative; column {wrong[0]} has {factor[wrong[0]]:g}"
            )
    return Options(
        float(model.relative_scale),
        model.scale,
        getattr(model, "lam", None),
        factor,
        model.threshold,
        model.fit_intercept,
        model.standardize,
        model.positive,
        int(model.max_iter),
        float(model.tol),
    )


def _finite(given: Any) -> bool:
    return isinstance(given, numbers.Real) and bool(np.isfinite(float(given)))


def checked_tail(tail: Any) -> float:
    if not _finite(tail) or not LEAST_TAIL <= tail <= MOST_TAIL:
        raise ValueError(f"tail must lie in [{LEAST_TAIL:g}, {MOST_TAIL:g}]; got {tail!r}")
    return float(tail)


def checked_tails(tails: Any) -> list[float]:
    checked = [checked_tail(each) for each in np.atleast_1d(np.asarray(tails, dtype=object))]
    if not checked:
        raise ValueError("tails must hold at least one number")
    return checked


def checked_count(n_strengths: Any) -> int:
    if not isinstance(n_strengths, numbers.Integral) or n_strengths < 1:
        raise ValueError(f"n_strengths must be a positive integer; got {n_strengths!r}")
    return int(n_strengths)


def checked_strength(strength: Any) -> float:
    if not _finite(strength) or strength < 0:
        raise ValueError(f"strength must be finite and not negative; got {strength!r}")
    return float(strength)


def checked_strengths(strengths: Any) -> Array:
    """Strengths in falling order."""
    checked = np.array([checked_strength(each) for each in np.atleast_1d(np.asarray(strengths, dtype=object))])
    if checked.size == 0:
        raise ValueError("strengths must hold at least one number")
    return np.asarray(np.sort(checked)[::-1])


def checked_weights(sample_weight: Any, X: Any) -> Array:
    w = np.asarray(_check_sample_weight(sample_weight, X, dtype=np.float64))
    if (w < 0).any():
        raise ValueError("sample_weight must not be negative")
    if not w.any():
        raise ValueError("sample_weight is zero for every sample: at least one must be positive")
    return w


def design_of(X: Any, w: Array, options: Options, names: Any = None) -> Design:
    """The standardised table; refuses a column that tells nothing."""
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


def relative_scale(loss: Loss, design: Design, options: Options) -> float:
    """c / r, also where c is given."""
    if options.scale is None:
        return options.relative_scale
    r = _dial.reference(loss, design)
    if not r / WIDEST <= options.scale <= r * WIDEST:
        raise ValueError(
            f"scale must be within a factor {WIDEST:g} of {r:.3g}, the largest coefficient; got {options.scale!r}"
        )
    return options.scale / r


def fit_one(
    loss: Loss, design: Design, tail: float, strengths: Array, options: Options, start: tuple[Array, Array] | None
) -> Fitted:
    """Fit the last of falling strengths; from ``start`` (coefficients as given, intercepts) if there is one."""
    r = _dial.reference(loss, design)
    unit = r * loss.curvature
    path = _dial.penalties(tail, strengths, options.relative_scale, options.factor, r, options.scale, options.lam)
    settings = options.positive, options.tol * unit, options.max_iter
    if start is None:
        ridge = strengths[-1] * options.factor
        solution = best(loss, design, path, ridge, *settings)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            b = np.where(design.varies[:, None], start[0] / design.inverse[:, None], 0.0)
        b0 = start[1] + design.mean @ start[0] if options.fit_intercept else np.zeros_like(start[1])
        if options.positive:
            b = np.maximum(b, 0.0)
        solution = minimise(loss, design, b, b0, path[-1], *settings)
    band = None
    if options.threshold == "gap":
        solution, band = _cut(loss, design, solution, path[-1], settings)
    if solution.residual > options.tol * unit:
        warnings.warn(
            f"stopped after max_iter = {options.max_iter} sweeps at a stationarity of {solution.residual / unit:.1e}, above "
            f"tol = {options.tol:g}: increase max_iter, tol or strength",
            ConvergenceWarning,
            stacklevel=3,
        )
    coef, intercept = _as_given(solution, design)
    return Fitted(coef, intercept, solution.objective, solution.residual / unit, solution.iterations, band)


def _cut(
    loss: Loss, design: Design, solution: Solution, penalty: Penalty, settings: tuple[bool, float, int]
) -> tuple[Solution, tuple[float, float] | None]:
    """Exact zeros below the gap; what is kept goes down once more without the rest."""
    b, band = _dial.gap(penalty, design.diagonal * loss.bound, solution.b)
    if band is None:
        return solution, None
    kept = np.flatnonzero(b.any(axis=1))
    if kept.size == 0:
        alone = solution._replace(b=b, b0=loss.null * design.center)
        value = loss.value(np.tile(alone.b0, (design.n, 1)))
        return alone._replace(objective=value, loss=value, residual=0.0), band
    part = Design(design.X[:, kept], design.w, design.center, bool((design.diagonal[kept] == 1).all()))
    small = replace(penalty, lam=penalty.lam[kept])
    again = minimise(loss, part, b[kept], solution.b0, small, *settings)
    b = np.zeros_like(b)
    b[kept], _ = _dial.gap(small, part.diagonal * loss.bound, again.b)
    left = np.abs(b[penalty.lam > 0])
    least = float(left[left > 0].min(initial=np.inf))  # the refit moved what is kept: the band ends below it
    return again._replace(b=b, iterations=solution.iterations + again.iterations), (min(band[0], least), least)


def _as_given(solution: Solution, design: Design) -> tuple[Array, Array]:
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
    r = _dial.reference(loss, design)
    unit = r * loss.curvature
    before = _dial.approach(tail, strengths[0], relative_scale(loss, design, options), loss.curvature)[:-1]
    falling = np.concatenate([before, strengths])
    penalties = _dial.penalties(tail, falling, options.relative_scale, options.factor, r, options.scale, None)
    solutions = descend_path(loss, design, penalties, options.positive, options.tol * unit, options.max_iter)
    rows = []
    for penalty, solution in list(zip(penalties, solutions, strict=True))[len(before) :]:
        if options.threshold == "gap":
            b, band = _dial.gap(penalty, design.diagonal * loss.bound, solution.b)
            solution = solution._replace(b=b) if band else solution
        rows.append((*_as_given(solution, design), solution.residual / unit, solution.iterations))
    coefs, intercepts, residuals, counts = zip(*rows, strict=True)
    return Path(
        strengths,
        np.stack([coef.T for coef in coefs], axis=-1),
        np.stack(intercepts, axis=-1),
        np.array(residuals),
        np.array(counts),
    )


class Validated(NamedTuple):
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
) -> Validated:
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
            table, judge = X[test], judge.only(test)
            for i, tail in enumerate(tails):
                path = path_of(loss, design, tail, grids[i], coarse)
                margins = np.stack(
                    [table @ path.coefs[k] + path.intercepts[k] for k in range(path.coefs.shape[0])], axis=1
                )
                errors[i] += [judge.error(margins[..., k]) for k in range(grids.shape[1])]
        return errors, float(rows.sum())

    if not splits:
        raise ValueError("cv gives no folds")
    coarse = replace(options, tol=10 * options.tol)  # a fold's coefficients need no more digits than its errors
    done = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(one)(train, test) for train, test in splits)
    return Validated(np.stack([e for e, _ in done], axis=-1), np.array([weight for _, weight in done]), grids)


def choose(validated: Validated, rule: str) -> tuple[int, int]:
    """Tail and strength of the least mean error; with rule "1se" the strongest of that tail within one standard error."""
    counted = validated.weights > 0
    errors, share = validated.errors[..., counted], validated.weights[counted] / validated.weights.sum()
    mean = errors @ share
    i, k = (int(each) for each in np.unravel_index(int(np.argmin(mean)), mean.shape))
    if rule == "1se":
        spread = np.sqrt(share @ (errors[i, k] - mean[i, k]) ** 2 / max(len(share) - 1, 1))
        k = int(np.flatnonzero(mean[i] <= mean[i, k] + spread)[0])
    return i, k


def one_hot(labels: Any, classes: int) -> Array:
    """Class numbers as rows of 0 and 1; one column with two classes."""
    if classes == 2:
        return np.asarray(labels, dtype=np.float64)[:, None]
    return np.eye(classes)[labels]
