"""What is asked of a sample before a fit, and what is read off it: a first location, a unit, bins."""

from __future__ import annotations

import numbers
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable._parameters import ALPHA_MIN, parameters

Array = NDArray[np.float64]

_BIN = 0.004  # relative width
_BINNED_FROM = 20_000
_INNERMOST = 2_000  # points nearest to the location that stay out of the bins


def check_settings(loc: object, alpha: object, scale: object, rounding: object) -> None:
    """Refuse what a fit cannot be given as its known parameters."""
    for name, given in (("alpha", alpha), ("scale", scale), ("rounding", rounding)):
        if given is not None and not isinstance(given, numbers.Real):
            raise TypeError(f"{name} must be one number, or None; got {given!r}")
    parameters(1.0 if alpha is None else float(alpha), 1.0 if scale is None else float(scale))  # type: ignore[arg-type]
    if isinstance(rounding, numbers.Real) and not 0 < float(rounding) < np.inf:
        raise ValueError(f"rounding is the width h of a cell, positive and finite; got {rounding!r}")
    if isinstance(loc, str) and loc != "free":
        raise ValueError(f'loc must be a number or "free"; got {loc!r}')
    if not isinstance(loc, (str, numbers.Real)):
        raise TypeError(f'loc must be one number or "free"; got {loc!r}')
    if isinstance(loc, numbers.Real) and not np.isfinite(float(loc)):
        raise ValueError(f'loc must be finite or "free"; got {loc!r}')


def checked_counts(x: Array, counts: Array | None, loc: float | Literal["free"]) -> Array:
    """Return how many observations each value stands for."""
    if counts is None:
        return np.ones(x.size)
    if isinstance(loc, str):
        raise ValueError("counts need a known location: give loc a number")
    if counts.shape != x.shape or not np.all(np.isfinite(counts) & (counts > 0)):
        raise ValueError(f"counts must be positive, one for each value of x; got shapes {counts.shape} and {x.shape}")
    return np.asarray(counts.reshape(-1), dtype=float)


def check_values(sample: Array) -> None:
    """Refuse a sample (n,) that no law can be fitted to."""
    if sample.size < 2:
        raise ValueError(f"a fit needs at least two observations that differ; got {sample.size}")
    if bad := int(np.sum(~np.isfinite(sample))):
        raise ValueError(f"the sample must be finite; {bad} of its {sample.size} values are NaN or infinite")
    if np.all(sample == sample[0]):
        raise ValueError(f"the sample is constant (all {sample.size} values are {float(sample[0])!r}): nothing to fit")


def check_bounded(values: Array, counts: Array, loc: float | None, alpha: float | None) -> None:
    """Refuse a share of equal values of alpha / (1 + alpha) or more at the location.

    As scale -> 0 the likelihood then grows without bound (or up to a bound that it does not reach):
    n_equal log(1 / scale) against (n - n_equal) alpha log(scale). With a free location one value alone can be such a share:
    of up to 11 where alpha may be 0.1.
    """
    least = ALPHA_MIN if alpha is None else alpha
    most = int(np.argmax(counts)) if loc is None else int(np.searchsorted(values, loc))
    if most == values.size or (loc is not None and values[most] != loc):
        return
    equal, total = float(counts[most]), float(counts.sum())
    if equal * (1 + least) >= least * total:
        share = f"{equal:.0f} of the {total:.0f} values equal {float(values[most])!r}"
        if loc is None and equal == 1:
            share = f"a free location can be at one of the {total:.0f} values"
        raise ValueError(
            f"{share}: the likelihood has no maximum, it grows as the scale goes to 0 there. Give scale, or a larger sample "
            "(more than 1 + 1 / alpha values for each that is at the location, alpha 0.1 where it is estimated), or "
            "rounding=h if the values are rounded to multiples of h"
        )


def check_rounded(values: Array, loc: float | None, rounding: float, scale: float | None) -> None:
    """Refuse values that are not rounded to steps of ``rounding``, and those that one step about the location holds."""
    steps = (values - values[0]) / rounding
    slack = 1e-6 + 8 * np.finfo(float).eps * np.max(np.abs(values)) / rounding
    if bad := int(np.sum(np.abs(steps - np.rint(steps)) > slack)):
        raise ValueError(
            f"the values must be rounded to multiples of rounding = {rounding!r} (or to such multiples and one offset); "
            f"{bad} of {values.size} different ones are not"
        )
    first, last = float(values[0]), float(values[-1])
    reach = rounding / 2 * (1 + slack)
    if scale is None and (last - first <= 2 * reach if loc is None else max(last - loc, loc - first) <= reach):
        raise ValueError(
            f"all values are within one step of rounding = {rounding!r} about the location: the likelihood has no "
            "maximum as the scale goes to 0; give scale, or values that are rounded less"
        )


def densest(sample: Array) -> float:
    """Half-sample mode: the shortest interval with half of the points, again and again, until few are left.

    Where the peak is narrow (alpha well below 1) it is far nearer to the location than the median is.
    """
    left = np.sort(sample)
    while left.size > 3:
        half = (left.size + 1) // 2
        start = int(np.argmin(left[half - 1 :] - left[: left.size - half + 1]))
        if left[start + half - 1] == left[start]:
            return float(left[start])
        left = left[start : start + half]
    return float(np.median(left))


def typical_distance(size: Array, times: Array) -> float:
    """Median distance from the location, of those that are not zero when more than half are."""
    return median(size, times) or median(size[size > 0], times[size > 0])


def median(values: Array, times: Array) -> float:
    """Median of values that stand for so many; the mean of the two in the middle."""
    order = np.argsort(values)
    below = np.cumsum(times[order])
    middle = [int(np.searchsorted(below, below[-1] / 2, side)) for side in ("left", "right")]
    return float(np.mean(values[order][np.minimum(middle, values.size - 1)]))


def binned(x: Array, counts: Array) -> tuple[Array, Array]:
    """Means and counts of bins of relative width ``_BIN`` in |x|; a short sample, and the innermost points, as they are."""
    if x.size < _BINNED_FROM:
        return x, counts
    order = np.argsort(np.abs(x))
    inner, rest = order[:_INNERMOST], order[_INNERMOST:]
    with np.errstate(divide="ignore"):
        number = np.floor(np.log(np.maximum(np.abs(x[rest]), 1e-300)) / _BIN)
    _, place = np.unique(np.copysign(number + 1e9, x[rest]), return_inverse=True)
    total = np.bincount(place, weights=counts[rest])
    means = np.bincount(place, weights=x[rest] * counts[rest]) / total
    return np.concatenate([x[inner], means]), np.concatenate([counts[inner], total])
