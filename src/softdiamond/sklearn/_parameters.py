"""The parameters of the estimators, the strengths and the weights of samples, checked in one place."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from softdiamond.sklearn._design import Array

MIN_TAIL, MAX_TAIL = 0.1, 2.0

MAX_SCALE_RATIO = (
    1e12  # factor between the scale and the largest coefficient, either way, within which nothing overflows
)


@dataclass(frozen=True)
class Options:
    """The parameters of an estimator that say what is minimized and how."""

    scale_fraction: float
    scale: float | None
    lam: float | None
    factor: Array
    threshold: str | None
    fit_intercept: bool
    standardize: bool
    positive: bool
    max_iter: int
    tol: float


def options_of(model: Any, p: int) -> Options:
    """Checked parameters of an estimator."""
    for name in ("scale_fraction", "scale", "lam", "tol"):
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
    if not MAX_SCALE_RATIO**-1 <= model.scale_fraction <= MAX_SCALE_RATIO:
        raise ValueError(
            f"scale_fraction must lie in [{1 / MAX_SCALE_RATIO:g}, {MAX_SCALE_RATIO:g}]; got {model.scale_fraction!r}"
        )
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
        float(model.scale_fraction),
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
    if not _finite(tail) or not MIN_TAIL <= tail <= MAX_TAIL:
        raise ValueError(f"tail must lie in [{MIN_TAIL:g}, {MAX_TAIL:g}]; got {tail!r}")
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
    n = X.shape[0]
    if sample_weight is None:
        return np.ones(n)
    if isinstance(sample_weight, numbers.Real):
        sample_weight = np.full(n, sample_weight)
    w = np.asarray(check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"))
    if w.shape != (n,):
        raise ValueError(f"sample_weight must be one number for each of the {n} samples; got shape {w.shape}")
    if (w < 0).any():
        raise ValueError("sample_weight must not be negative")
    if not w.any():
        raise ValueError("sample_weight is zero for every sample: at least one must be positive")
    return w
