"""Maximum likelihood for the stable law, with the usual alternatives fitted to the same data.

The likelihood is maximised in (alpha, log scale, loc) by L-BFGS-B with the exact gradient of the law; a long sample is
first gathered into bins of relative width ``_BIN`` about a first location, whose means stand for their members (that
moves an estimate by about a thousandth of its standard error at a million observations). Final log-likelihoods are
exact sums over the sample.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from softdiamond.stable._law import law
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN, parameters, real_numbers
from softdiamond.stable._quantile import log_upper_quantile

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[np.float64]

_BIN = 0.004
_BINNED_FROM = 20_000
_INNERMOST = 2_000  # points nearest to the location that stay out of the bins
_PLACES = 30  # of them that are tried as the location
_SMOOTH = 0.7  # alpha above which the likelihood has one maximum in the location that a search from the mode finds
_STARTS = (0.3, 0.6, 1.0, 1.4, 1.8)


@dataclass(frozen=True)
class Fit:
    """A fitted stable law.

    Attributes
    ----------
    alpha, scale, loc : float
        Estimates, or the fixed values.
    errors : dict of str to float
        Standard errors of the estimated parameters, from the observed information; NaN for an alpha on the edge of
        [0.1, 2], and where the information does not determine one.
    size : int
        Number of observations.
    log_likelihood : float
        At the estimates.
    alternatives : dict of str to tuple of (float, dict)
        For Gaussian, Laplace, Cauchy and Student-t: the log-likelihood at their own maximum, and their parameters.
    """

    alpha: float
    scale: float
    loc: float
    errors: dict[str, float]
    size: int
    log_likelihood: float
    alternatives: dict[str, tuple[float, dict[str, float]]]

    @property
    def dispersion(self) -> float:
        """Dispersion gamma = scale^alpha."""
        return float(self.scale**self.alpha)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of "alpha", "scale" (on its log) or "loc", from the normal approximation.

        Raises
        ------
        ValueError
            If the parameter was not estimated, or the level lies outside (0, 1).
        """
        if name not in self.errors:
            raise ValueError(f"{name!r} was not estimated; estimated: {', '.join(self.errors) or 'nothing'}")
        if not isinstance(level, numbers.Real) or not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1); got {level!r}")
        centre, width = getattr(self, name), ndtri((1 + level) / 2) * self.errors[name]
        if name == "scale":
            return float(centre * np.exp(-width / centre)), float(centre * np.exp(width / centre))
        low, high = float(centre - width), float(centre + width)
        return (max(low, ALPHA_MIN), min(high, ALPHA_MAX)) if name == "alpha" else (low, high)

    def __str__(self) -> str:
        lines = [f"Symmetric alpha-stable law, maximum likelihood, n = {self.size:,}", ""]
        lines.append(f"{'':10}{'estimate':>14}{'std. error':>14}{'95 % interval':>32}")
        for name in ("alpha", "scale", "loc"):
            error = self.errors.get(name)
            if error is None:
                tail = f"{'fixed':>14}"
            elif np.isnan(error):
                edge = name == "alpha" and _on_edge(self.alpha)
                tail = f"{'on the edge' if edge else 'undetermined':>14}"
            else:
                low, high = self.interval(name)
                tail = f"{error:14.4g}{f'[{low:.6g}, {high:.6g}]':>32}"
            lines.append(f"{name:10}{getattr(self, name):14.6g}{tail}")
        lines += ["", f"{'':10}{'log-likelihood':>18}{'AIC':>18}  parameters"]
        own = len(self.errors), self.log_likelihood, ""
        rows = {"stable": own} | {name: (len(p), value, _words(p)) for name, (value, p) in self.alternatives.items()}
        for name, (count, value, words) in sorted(rows.items(), key=lambda row: -row[1][1]):
            lines.append(f"{name:10}{value:18.2f}{2 * count - 2 * value:18.2f}  {words}".rstrip())
        return "\n".join(lines)


def _words(parameters: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in parameters.items())


def fit(
    x: ArrayLike,
    *,
    loc: float | Literal["free"] = 0.0,
    alpha: float | None = None,
    scale: float | None = None,
    counts: ArrayLike | None = None,
) -> Fit:
    """Fit the law by maximum likelihood.

    Parameters
    ----------
    x : array_like
        The sample, of any shape; at least two values that differ, all finite.
    loc : float or "free"
        Location: a known one, or "free" to estimate it. (The law's functions have no location: pass them x - loc.) For
        alpha below about 0.4 the likelihood has a spike at every observation near the location, and its standard error
        means little.
    alpha, scale : float, optional
        A known tail thickness or scale; estimated when left out.
    counts : array_like, optional
        How many observations each value of x stands for, positive, of the shape of x: for a sample gathered in bins. Needs a
        known location.

    Returns
    -------
    Fit
        Estimates, standard errors from the observed information, the log-likelihood beside that of Gaussian,
        Laplace, Cauchy and Student-t fits of the same data; prints itself as a table.

    Raises
    ------
    ValueError
        If the sample is empty, has one value or is constant, has NaN or infinities, so many equal values that the
        likelihood has no maximum, or a fixed parameter is out of range, or the counts do not fit.

    Examples
    --------
    >>> from softdiamond import stable
    >>> result = stable.fit(stable.rvs(1.2, size=20_000, rng=0, scale=3.0))
    >>> bool(abs(result.alpha - 1.2) < 4 * result.errors["alpha"])
    True
    """
    x, counts = real_numbers("x", x), None if counts is None else real_numbers("counts", counts)
    times = _checked_counts(x, counts, loc)
    sample, free = _checked(x, loc, alpha, scale, times)
    place = _densest(sample) if free else float(loc)
    unit = scale if scale is not None else _typical(np.abs(sample - place), times)
    if counts is None:
        points, counts = _binned((sample - place) / unit)
    else:
        points, counts = (sample - place) / unit, times

    fixed = (alpha, None if scale is None else 0.0)
    value = _maximise(points, counts, (*fixed, 0.0))
    if free:
        value = _maximise_location(points, counts, fixed, value)
    estimate = {
        "alpha": float(value[0]),
        "scale": unit * float(np.exp(value[1])),
        "loc": place + unit * float(value[2]),
    }
    errors = _standard_errors(points, counts, value, (*fixed, None if free else 0.0))
    of_one = {"alpha": 1.0, "scale": estimate["scale"], "loc": unit}
    estimated = {"alpha": alpha is None, "scale": scale is None, "loc": free}
    named = {name: float(errors[i] * of_one[name]) for i, name in enumerate(of_one) if estimated[name]}

    def exact(a: float, c: float, m: float) -> float:
        return float(times @ law(sample - m, np.array([a]), np.array([c]), "logpdf"))

    level = exact(estimate["alpha"], estimate["scale"], estimate["loc"])
    cauchy = _maximise(points, counts, (1.0, None, 0.0))
    if free:
        cauchy = _maximise_location(points, counts, (1.0, None), cauchy)
    c, m = unit * float(np.exp(cauchy[1])), place + unit * cauchy[2]
    alternatives = {"Cauchy": (exact(1.0, c, m), {"scale": c} | ({"loc": m} if free else {}))}
    alternatives |= _alternatives(sample, times, place, free, points, counts, unit)
    return Fit(
        **estimate, errors=named, size=round(float(times.sum())), log_likelihood=level, alternatives=alternatives
    )


def _checked_counts(x: Array, counts: Array | None, loc: float | Literal["free"]) -> Array:
    """Return how many observations each value stands for."""
    if counts is None:
        return np.ones(x.size)
    if isinstance(loc, str):
        raise ValueError("counts need a known location: give loc a number")
    if counts.shape != x.shape or not np.all(np.isfinite(counts) & (counts > 0)):
        raise ValueError(f"counts must be positive, one for each value of x; got shapes {counts.shape} and {x.shape}")
    return np.asarray(counts.reshape(-1), dtype=float)


def _checked(
    x: Array, loc: float | Literal["free"], alpha: float | None, scale: float | None, times: Array
) -> tuple[Array, bool]:
    for name, given in (("alpha", alpha), ("scale", scale)):
        if given is not None and not isinstance(given, numbers.Real):
            raise TypeError(f"{name} must be one number, or None to estimate it; got {given!r}")
    parameters(1.0 if alpha is None else alpha, 1.0 if scale is None else scale)
    free = isinstance(loc, str)
    if free and loc != "free":
        raise ValueError(f'loc must be a number or "free"; got {loc!r}')
    if not free and not isinstance(loc, numbers.Real):
        raise TypeError(f'loc must be one number or "free"; got {loc!r}')
    if not free and not np.isfinite(loc):
        raise ValueError(f'loc must be finite or "free"; got {loc!r}')
    sample = x.reshape(-1)
    if sample.size < 2:
        raise ValueError(f"a fit needs at least two observations that differ; got {sample.size}")
    if bad := int(np.sum(~np.isfinite(sample))):
        raise ValueError(f"the sample must be finite; {bad} of its {sample.size} values are NaN or infinite")
    if np.all(sample == sample[0]):
        raise ValueError(f"the sample is constant (all {sample.size} values are {float(sample[0])!r}): nothing to fit")
    if scale is None:
        _refuse_ties(sample, times, None if free else float(loc), ALPHA_MIN if alpha is None else float(alpha))
    return sample, free


def _refuse_ties(sample: Array, times: Array, loc: float | None, least: float) -> None:
    """Refuse a share of equal values above alpha / (1 + alpha) at the location: as scale -> 0 the likelihood then grows
    without bound, n_equal log(1/scale) against (n - n_equal) alpha log(scale).
    """
    values, place = np.unique(sample, return_inverse=True)
    counts = np.bincount(place, weights=times)
    most = int(np.argmax(counts)) if loc is None else int(np.searchsorted(values, loc))
    if most == values.size or (loc is not None and values[most] != loc):
        return
    total = float(times.sum())
    if counts[most] > 1 and counts[most] * (1 + least) > least * total:
        raise ValueError(
            f"{counts[most]:.0f} of the {total:.0f} values equal {float(values[most])!r}: the likelihood has no maximum; "
            "leave them out, or give scale"
        )


def _densest(sample: Array) -> float:
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


def _typical(size: Array, times: Array) -> float:
    """Median distance from the location, of those that are not zero when more than half are."""
    return _median(size, times) or _median(size[size > 0], times[size > 0])


def _median(values: Array, times: Array) -> float:
    """Median of values that stand for so many; the mean of the two in the middle."""
    order = np.argsort(values)
    below = np.cumsum(times[order])
    middle = [int(np.searchsorted(below, below[-1] / 2, side)) for side in ("left", "right")]
    return float(np.mean(values[order][np.minimum(middle, values.size - 1)]))


def _binned(x: Array) -> tuple[Array, Array]:
    """Means and counts of bins of relative width ``_BIN`` in |x|; a short sample, and the innermost points, as they are."""
    if x.size < _BINNED_FROM:
        return x, np.ones(x.size)
    order = np.argsort(np.abs(x))
    inner, x = x[order[:_INNERMOST]], x[order[_INNERMOST:]]
    with np.errstate(divide="ignore"):
        number = np.floor(np.log(np.maximum(np.abs(x), 1e-300)) / _BIN)
    _, place = np.unique(np.copysign(number + 1e9, x), return_inverse=True)
    counts = np.bincount(place).astype(float)
    means = np.bincount(place, weights=x) / counts
    return np.concatenate([inner, means]), np.concatenate([np.ones(inner.size), counts])


def _gradient(points: Array, counts: Array, value: Array, free: list[int]) -> tuple[float, Array]:
    """Log-likelihood and its gradient in the free ones of (alpha, log scale, loc)."""
    alpha, scale = np.array([value[0]]), np.array([np.exp(value[1])])
    x = points - value[2]
    gradient = np.zeros(3)
    score = law(x, alpha, scale, "score")
    if 0 in free:
        gradient[0] = counts @ law(x, alpha, scale, "dlogpdf_dalpha")
    gradient[1] = -(counts @ (1 + x * score))
    gradient[2] = -(counts @ score)
    return float(counts @ law(x, alpha, scale, "logpdf")), gradient[free]


def _maximise(points: Array, counts: Array, fixed: tuple[float | None, ...], start: Array | None = None) -> Array:
    """Maximum in the free ones of (alpha, log scale, loc), from ``start`` or from the best of `_start`."""
    free = [index for index in range(3) if fixed[index] is None]
    begin = _start(points, counts, fixed) if start is None else start.copy()
    if not free:
        return begin
    from scipy.optimize import minimize  # here: it takes longer to import than the whole law

    total = counts.sum()
    step = np.array([1.0, 1.0, _peak_width(begin)])[free]  # so that all coordinates are of order 1
    bounds = [((ALPHA_MIN, ALPHA_MAX), (-300.0, 300.0), (None, None))[index] for index in free]

    def loss(theta: Array) -> tuple[float, Array]:
        value = begin.copy()
        value[free] = theta * step
        level, gradient = _gradient(points, counts, value, free)
        return -level / total, -gradient * step / total

    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 300}
    result = minimize(loss, begin[free] / step, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    begin[free] = result.x * step
    return begin


def _maximise_location(points: Array, counts: Array, fixed: tuple[float | None, ...], value: Array) -> Array:
    """Maximum in all, from the best of many locations at the estimates so far.

    For small alpha the likelihood has a spike at every observation, so the innermost observations are tried, and a few
    order statistics about the median.
    """
    if value[0] > _SMOOTH:
        return _maximise(points, counts, (*fixed, None), value)
    order = np.argsort(np.abs(points))
    middle = np.argsort(points)
    middle = middle[np.searchsorted(np.cumsum(counts[middle]), counts.sum() * np.linspace(0.45, 0.55, 11))]
    for _ in range(2):
        places = np.concatenate([[value[2]], points[order[:_PLACES]], points[middle]])
        scale = np.exp(value[1:2])
        levels = [float(counts @ law(points - place, value[:1], scale, "logpdf")) for place in places]
        value[2] = places[int(np.argmax(levels))]
        value = _maximise(points, counts, (*fixed, value[2]), value)
    return _maximise(points, counts, (*fixed, None), value)


def _peak_width(value: Array) -> float:
    """Scale of the peak, 1 / sqrt(omega(0)), which for small alpha is far below that of the law."""
    return float(np.exp(value[1])) / float(np.sqrt(law(np.zeros(1), value[:1], np.ones(1), "omega")[0]))


def _start(points: Array, counts: Array, fixed: tuple[float | None, ...]) -> Array:
    """The best of a few alpha, each with the scale that puts the sample's median distance in its place."""
    trials = []
    for alpha in _STARTS if fixed[0] is None else (fixed[0],):
        log_scale = -float(log_upper_quantile(np.array([0.25]), np.array([alpha]))[0]) if fixed[1] is None else fixed[1]
        value = np.array([alpha, log_scale, fixed[2] or 0.0])
        level = counts @ law(points, value[:1], np.exp(value[1:2]), "logpdf")
        trials.append((float(level), value))
    return max(trials, key=lambda trial: trial[0])[1]


def _on_edge(alpha: float) -> bool:
    return bool(min(alpha - ALPHA_MIN, ALPHA_MAX - alpha) < 1e-4)


def _standard_errors(points: Array, counts: Array, value: Array, fixed: tuple[float | None, ...]) -> Array:
    """Root of the diagonal of the inverse observed information, by central differences of the gradient."""
    free = [index for index in range(3) if fixed[index] is None and not (index == 0 and _on_edge(value[0]))]
    errors = np.full(3, np.nan)
    if not free:
        return errors
    rows = []
    for index in free:
        step = 1e-5 if index < 2 else 1e-4 * _peak_width(value)
        ends = []
        for sign in (-1, 1):
            moved = value.copy()
            moved[index] += sign * step
            ends.append(_gradient(points, counts, moved, free)[1])
        rows.append((ends[0] - ends[1]) / (2 * step))
    information = (np.array(rows) + np.array(rows).T) / 2
    variance = np.diag(np.linalg.pinv(information))
    errors[free] = np.sqrt(np.where(variance > 0, variance, np.nan))
    return errors


def _alternatives(
    sample: Array, times: Array, first: float, free: bool, points: Array, counts: Array, unit: float
) -> dict[str, tuple[float, dict[str, float]]]:
    """Gaussian, Laplace and Student-t fits: log-likelihood and parameters."""
    n = float(times.sum())
    largest = float(np.max(np.abs(sample - first)))
    away = (sample - first) / largest  # squares stay within float64

    def place(loc: float) -> dict[str, float]:
        return {"loc": first + largest * loc} if free else {}

    mean = float(times @ away) / n if free else 0.0
    deviation = largest * float(np.sqrt(times @ (away - mean) ** 2 / n))
    middle = _median(away, times) if free else 0.0
    spread = largest * float(times @ np.abs(away - middle)) / n
    out = {
        "Gaussian": (-n * (np.log(deviation) + np.log(2 * np.pi) / 2 + 0.5), {"sd": deviation} | place(mean)),
        "Laplace": (-n * (np.log(2 * spread) + 1), {"scale": spread} | place(middle)),
    }

    def student(log_df: float, log_scale: float, loc: float) -> Callable[[Array], Array]:
        df = np.exp(log_df)
        head = gammaln((df + 1) / 2) - gammaln(df / 2) - np.log(df * np.pi) / 2 - log_scale

        def log_density(x: Array) -> Array:
            with np.errstate(divide="ignore"):
                log_square = 2 * (np.log(np.abs(x - loc)) - log_scale)
            return np.asarray(head - (df + 1) / 2 * np.logaddexp(0.0, log_square - log_df))

        return log_density

    def loss(theta: Array) -> float:
        return -float(counts @ student(theta[0], theta[1], theta[2] if free else 0.0)(points)) / float(counts.sum())

    bounds = [(-5.0, 12.0), (-300.0, 300.0), (None, None)][: 3 if free else 2]
    from scipy.optimize import minimize

    best = minimize(loss, np.zeros(len(bounds)), method="L-BFGS-B", bounds=bounds).x
    loc = float(best[2]) if free else 0.0
    exact = student(best[0], best[1] + np.log(unit), first + unit * loc)
    named = {"df": float(np.exp(best[0])), "scale": float(unit * np.exp(best[1]))}
    named |= {"loc": first + unit * loc} if free else {}
    out["Student-t"] = (float(times @ exact(sample)), named)
    return {name: (float(level), values) for name, (level, values) in out.items()}
