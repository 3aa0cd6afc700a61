"""Maximum likelihood for the stable law, with the usual rivals fitted to the same data.

The likelihood is maximised in (alpha, log scale, loc) by L-BFGS-B with the exact gradient of the law; a long sample is
first gathered into bins of relative width ``_BIN`` about a first location, whose means stand for their members (that
moves an estimate by less than a thousandth of its standard error). Final log-likelihoods are exact sums over the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from softdiamond.stable._law import law
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN
from softdiamond.stable._quantile import log_upper_quantile

Array = NDArray[np.float64]

_BIN = 0.004
_BINNED_FROM = 20_000
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
        [0.1, 2].
    size : int
        Number of observations.
    log_likelihood : float
        At the estimates.
    rivals : dict of str to tuple of (float, dict)
        For Gaussian, Laplace, Cauchy and Student-t: the log-likelihood at their own maximum, and their parameters.
    """

    alpha: float
    scale: float
    loc: float
    errors: dict[str, float]
    size: int
    log_likelihood: float
    rivals: dict[str, tuple[float, dict[str, float]]]

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
        if not 0 < level < 1:
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
                tail = f"{'on the edge':>14}"
            else:
                low, high = self.interval(name)
                tail = f"{error:14.4g}{f'[{low:.6g}, {high:.6g}]':>32}"
            lines.append(f"{name:10}{getattr(self, name):14.6g}{tail}")
        lines += ["", f"{'':10}{'log-likelihood':>18}{'AIC':>18}  parameters"]
        own = len(self.errors), self.log_likelihood, ""
        rows = {"stable": own} | {name: (len(p), value, _words(p)) for name, (value, p) in self.rivals.items()}
        for name, (count, value, words) in sorted(rows.items(), key=lambda row: -row[1][1]):
            lines.append(f"{name:10}{value:18.2f}{2 * count - 2 * value:18.2f}  {words}".rstrip())
        return "\n".join(lines)


def _words(parameters: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in parameters.items())


def fit_law(x: Array, loc: float | Literal["free"], alpha: float | None, scale: float | None) -> Fit:
    """Fit (alpha, scale, loc), each where it is not fixed; see `softdiamond.stable.fit`."""
    sample, free = _checked(x, loc)
    first = float(np.median(sample)) if free else float(loc)
    away = sample - first
    unit = scale if scale is not None else _typical(np.abs(away))
    points, counts = _binned(away / unit)

    fixed = (alpha, None if scale is None else 0.0, None if free else 0.0)
    value = _maximise(points, counts, fixed)
    estimate = {"alpha": value[0], "scale": unit * float(np.exp(value[1])), "loc": first + unit * value[2]}
    errors = _standard_errors(points, counts, value, fixed)
    turn = {"alpha": 1.0, "scale": estimate["scale"], "loc": unit}
    named = {
        name: errors[index] * turn[name] for index, name in enumerate(("alpha", "scale", "loc")) if fixed[index] is None
    }

    def exact(a: float, c: float, m: float) -> float:
        return float(np.sum(law(sample - m, np.array([a]), np.array([c]), "logpdf")))

    cauchy = _maximise(points, counts, (1.0, None, fixed[2]))
    c, m = unit * float(np.exp(cauchy[1])), first + unit * cauchy[2]
    rivals = {"Cauchy": (exact(1.0, c, m), {"scale": c} | ({"loc": m} if free else {}))}
    rivals |= _rivals(sample, first, free, points, counts, unit)
    return Fit(**estimate, errors=named, size=sample.size, log_likelihood=exact(**_short(estimate)), rivals=rivals)


def _short(estimate: dict[str, float]) -> dict[str, float]:
    return {"a": estimate["alpha"], "c": estimate["scale"], "m": estimate["loc"]}


def _checked(x: Array, loc: float | Literal["free"]) -> tuple[Array, bool]:
    free = isinstance(loc, str)
    if free and loc != "free":
        raise ValueError(f'loc must be a number or "free"; got {loc!r}')
    if not free and not np.isfinite(loc):
        raise ValueError(f'loc must be finite or "free"; got {loc!r}')
    sample = x.reshape(-1)
    if sample.size < 2:
        raise ValueError(f"a fit needs at least two observations that differ; got {sample.size}")
    if bad := int(np.sum(~np.isfinite(sample))):
        raise ValueError(f"the sample must be finite; {bad} of its {sample.size} values are NaN or infinite")
    if np.all(sample == sample[0]):
        raise ValueError(f"the sample is constant (all {sample.size} values are {float(sample[0])!r}): nothing to fit")
    return sample, free


def _typical(size: Array) -> float:
    """Median distance from the location, of those that are not zero when more than half are."""
    return float(np.median(size) or np.median(size[size > 0]))


def _binned(x: Array) -> tuple[Array, Array]:
    """Means and counts of bins of relative width ``_BIN`` in |x|, or the sample itself when it is short."""
    if x.size < _BINNED_FROM:
        return x, np.ones(x.size)
    with np.errstate(divide="ignore"):
        number = np.floor(np.log(np.maximum(np.abs(x), 1e-300)) / _BIN)
    _, place = np.unique(np.copysign(number + 1e9, x), return_inverse=True)
    counts = np.bincount(place).astype(float)
    return np.bincount(place, weights=x) / counts, counts


def _gradient(points: Array, counts: Array, value: Array, free: list[int]) -> tuple[float, Array]:
    """Log-likelihood and its gradient in the free ones of (alpha, log scale, loc)."""
    alpha, scale = np.array([value[0]]), np.array([np.exp(value[1])])
    x = points - value[2]
    gradient = np.zeros(3)
    slope = law(x, alpha, scale, "score")
    if 0 in free:
        gradient[0] = counts @ law(x, alpha, scale, "tilt")
    gradient[1] = -(counts @ (1 + x * slope))
    gradient[2] = -(counts @ slope)
    return float(counts @ law(x, alpha, scale, "logpdf")), gradient[free]


def _maximise(points: Array, counts: Array, fixed: tuple[float | None, ...]) -> Array:
    free = [index for index in range(3) if fixed[index] is None]
    start = _start(points, counts, fixed)
    if not free:
        return start
    total = counts.sum()
    bounds = [((ALPHA_MIN, ALPHA_MAX), (-50.0, 50.0), (-50.0, 50.0))[index] for index in free]

    def loss(theta: Array) -> tuple[float, Array]:
        value = start.copy()
        value[free] = theta
        level, gradient = _gradient(points, counts, value, free)
        return -level / total, -gradient / total

    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 200}
    from scipy.optimize import minimize  # here: it takes longer to import than the whole law

    result = minimize(loss, start[free], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    start[free] = result.x
    return start


def _start(points: Array, counts: Array, fixed: tuple[float | None, ...]) -> Array:
    """The best of a few alpha, each with the scale that puts the sample's median distance in its place."""
    trials = []
    for alpha in _STARTS if fixed[0] is None else (fixed[0],):
        log_scale = -float(log_upper_quantile(np.array([0.25]), np.array([alpha]))[0]) if fixed[1] is None else fixed[1]
        value = np.array([alpha, log_scale, 0.0])
        level = counts @ law(points, value[:1], np.exp(value[1:2]), "logpdf")
        trials.append((float(level), value))
    return max(trials, key=lambda trial: trial[0])[1]


def _standard_errors(points: Array, counts: Array, value: Array, fixed: tuple[float | None, ...]) -> Array:
    """Root of the diagonal of the inverse observed information, by central differences of the gradient."""
    edge = min(value[0] - ALPHA_MIN, ALPHA_MAX - value[0]) < 1e-4
    free = [index for index in range(3) if fixed[index] is None and not (index == 0 and edge)]
    errors = np.full(3, np.nan)
    if not free:
        return errors
    step = 1e-5
    rows = []
    for index in free:
        ends = []
        for sign in (-1, 1):
            moved = value.copy()
            moved[index] += sign * step
            ends.append(_gradient(points, counts, moved, free)[1])
        rows.append((ends[0] - ends[1]) / (2 * step))
    information = (np.array(rows) + np.array(rows).T) / 2
    with np.errstate(invalid="ignore"):
        errors[free] = np.sqrt(np.diag(np.linalg.pinv(information)))
    return errors


def _rivals(
    sample: Array, first: float, free: bool, points: Array, counts: Array, unit: float
) -> dict[str, tuple[float, dict[str, float]]]:
    """Gaussian, Laplace and Student-t fits: log-likelihood and parameters."""
    n = sample.size

    def place(loc: float) -> dict[str, float]:
        return {"loc": loc} if free else {}

    mean = float(np.mean(sample)) if free else first
    deviation = float(np.sqrt(np.mean((sample - mean) ** 2)))
    middle = float(np.median(sample)) if free else first
    spread = float(np.mean(np.abs(sample - middle)))
    out = {
        "Gaussian": (-n * (np.log(deviation) + np.log(2 * np.pi) / 2 + 0.5), {"sd": deviation} | place(mean)),
        "Laplace": (-n * (np.log(2 * spread) + 1), {"scale": spread} | place(middle)),
    }

    def student(log_df: float, log_scale: float, loc: float) -> Callable[[Array], Array]:
        df = np.exp(log_df)
        head = gammaln((df + 1) / 2) - gammaln(df / 2) - np.log(df * np.pi) / 2 - log_scale
        return lambda x: head - (df + 1) / 2 * np.log1p(((x - loc) / np.exp(log_scale)) ** 2 / df)

    def loss(theta: Array) -> float:
        return -float(counts @ student(theta[0], theta[1], theta[2] if free else 0.0)(points)) / float(counts.sum())

    bounds = [(-5.0, 12.0), (-50.0, 50.0), (-50.0, 50.0)][: 3 if free else 2]
    from scipy.optimize import minimize

    best = minimize(loss, np.zeros(len(bounds)), method="L-BFGS-B", bounds=bounds).x
    loc = float(best[2]) if free else 0.0
    exact = student(best[0], best[1] + np.log(unit), first + unit * loc)
    named = {"df": float(np.exp(best[0])), "scale": float(unit * np.exp(best[1]))} | place(first + unit * loc)
    out["Student-t"] = (float(np.sum(exact(sample))), named)
    return {name: (float(level), values) for name, (level, values) in out.items()}
