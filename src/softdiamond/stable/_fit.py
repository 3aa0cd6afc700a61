"""Maximum likelihood for the stable law, with the usual alternatives fitted to the same data.

The likelihood is maximised in (alpha, log scale, loc) by L-BFGS-B; a long sample is first gathered into bins of relative
width 0.004 about a first location, whose means stand for their members (that moves an estimate by about a thousandth of its
standard error at a million observations). Final log-likelihoods are exact sums over the sample.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from softdiamond.stable import _sample
from softdiamond.stable._alternatives import fit_alternatives
from softdiamond.stable._likelihood import Fixed, Likelihood, on_edge
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN, real_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted stable law.

    Attributes
    ----------
    alpha, scale, loc : float
        Estimates, or the fixed values.
    errors : dict of str to float
        Standard errors of the estimated parameters, from the observed information; NaN for an alpha on the edge of
        [0.1, 2] (`interval` has a one-sided interval there; the other errors are those at that alpha), and where the
        information does not determine one.
    size : int
        Number of observations.
    log_likelihood : float
        At the estimates; of the cells where the sample is rounded, in the alternatives too.
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
    _profile: _Profile | None = field(default=None, repr=False, compare=False)  # where alpha is on the edge

    @property
    def dispersion(self) -> float:
        """Dispersion gamma = scale^alpha."""
        return float(self.scale**self.alpha)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of "alpha", "scale" (on its log) or "loc", from the normal approximation.

        For an alpha on the edge of [0.1, 2] it is one-sided, by profile likelihood: from the edge to the alpha at which the
        log-likelihood, maximised in the other parameters, is ``ndtri(level)**2 / 2`` below its maximum.

        Raises
        ------
        ValueError
            If the parameter was not estimated, or the level lies outside (0, 1).
        """
        if name not in self.errors:
            raise ValueError(f"{name!r} was not estimated; estimated: {', '.join(self.errors) or 'nothing'}")
        if not isinstance(level, numbers.Real) or not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1); got {level!r}")
        if name == "alpha" and self._profile is not None:
            end = self._profile.end(max(float(ndtri(level)), 0.0) ** 2 / 2)
            return (end, ALPHA_MAX) if self.alpha > 1 else (ALPHA_MIN, end)
        center, width = getattr(self, name), ndtri((1 + level) / 2) * self.errors[name]
        if name == "scale":
            return float(center * np.exp(-width / center)), float(center * np.exp(width / center))
        low, high = float(center - width), float(center + width)
        return (max(low, ALPHA_MIN), min(high, ALPHA_MAX)) if name == "alpha" else (low, high)

    def __str__(self) -> str:
        lines = [f"Symmetric alpha-stable law, maximum likelihood, n = {self.size:,}", ""]
        lines.append(f"{'':10}{'estimate':>14}{'std. error':>14}{'95 % interval':>32}")
        for name in ("alpha", "scale", "loc"):
            error = self.errors.get(name)
            if error is None:
                tail = f"{'fixed':>14}"
            elif np.isnan(error) and (name != "alpha" or self._profile is None):
                tail = f"{'undetermined':>14}"
            else:
                low, high = self.interval(name)
                shown = f"{'on the edge':>14}" if np.isnan(error) else f"{error:14.4g}"
                tail = f"{shown}{f'[{low:.6g}, {high:.6g}]':>32}"
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
    rounding: float | None = None,
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
    rounding : float, optional
        Step h to whose multiples the values are rounded: each then stands for the cell from x - h/2 to x + h/2, and the
        likelihood is made of the cells' probabilities, differences of the distribution function. It stays bounded however
        many values are equal.

    Returns
    -------
    Fit
        Estimates, standard errors from the observed information, the log-likelihood beside that of Gaussian,
        Laplace, Cauchy and Student-t fits of the same data; prints itself as a table.

    Raises
    ------
    ValueError
        If the sample is empty, has one value or is constant, has NaN or infinities, so many equal values at the location
        (with a free one, so few values: up to 11) that the likelihood has no maximum, or a fixed parameter is out of range,
        or the counts do not fit, or the values are not rounded as ``rounding`` says.

    Examples
    --------
    >>> from softdiamond import stable
    >>> result = stable.fit(stable.rvs(1.2, size=20_000, rng=0, scale=3.0))
    >>> bool(abs(result.alpha - 1.2) < 4 * result.errors["alpha"])
    True
    """
    values, given = real_numbers("x", x), None if counts is None else real_numbers("counts", counts)
    _sample.check_settings(loc, alpha, scale, rounding)
    times, sample = _sample.checked_counts(values, given, loc), values.reshape(-1)
    _sample.check_values(sample)
    free = isinstance(loc, str)
    place = _sample.densest(sample) if isinstance(loc, str) else float(loc)
    different, which = np.unique(sample, return_inverse=True)
    each = np.bincount(which, weights=times).astype(np.float64)
    if rounding is not None:
        _sample.check_rounded(different, None if free else place, float(rounding), scale)
        sample, times = different, each
    elif scale is None:
        _sample.check_bounded(different, each, None if free else place, alpha)
    exact = Likelihood(sample, times, 0.0 if rounding is None else float(rounding))

    # all is measured from a first location in units of a typical distance, so that theta is of order 1
    unit = float(scale) if scale is not None else _sample.typical_distance(np.abs(sample - place), times)
    points = (sample - place) / unit
    binned = (points, times) if counts is not None else _sample.binned(points, times)
    likelihood = Likelihood(*binned, exact.rounding / unit)
    known: Fixed = None if alpha is None else float(alpha), None if scale is None else 0.0, None if free else 0.0
    theta = _maximum(likelihood, known)
    errors = likelihood.standard_errors(theta, known) * np.array([1.0, unit * np.exp(theta[1]), unit])
    estimate = theta[0], np.log(unit) + theta[1], place + unit * theta[2]
    names = ("alpha", "scale", "loc")

    cauchy = _maximum(likelihood, (1.0, None, known[2]))
    c, m = unit * float(np.exp(cauchy[1])), place + unit * float(cauchy[2])
    level = exact.value(np.array([1.0, np.log(c), m]))
    return Fit(
        alpha=float(theta[0]),
        scale=unit * float(np.exp(theta[1])),
        loc=float(estimate[2]),
        errors={name: float(errors[i]) for i, name in enumerate(names) if known[i] is None},
        size=round(float(times.sum())),
        log_likelihood=exact.value(np.array(estimate)),
        alternatives={"Cauchy": (level, {"scale": c} | ({"loc": m} if free else {}))}
        | fit_alternatives(exact, place, free, likelihood, unit),
        _profile=_Profile(likelihood, known, theta) if alpha is None and on_edge(theta[0]) else None,
    )


def _maximum(likelihood: Likelihood, known: Fixed) -> Array:
    theta = likelihood.maximise((known[0], known[1], 0.0))
    return theta if known[2] is not None else likelihood.maximise_location((known[0], known[1]), theta)


@dataclass(frozen=True)
class _Profile:
    """The likelihood maximised in all but alpha, for the interval of an alpha on the edge of its range."""

    likelihood: Likelihood
    known: Fixed
    theta: Array

    def drop(self, alpha: float) -> float:
        """Return by how much the log-likelihood is below its maximum at the best (scale, loc) for this alpha."""
        start = np.array([alpha, self.theta[1], self.theta[2]])
        best = self.likelihood.maximise((alpha, self.known[1], self.known[2]), start)
        return self.likelihood.value(self.theta) - self.likelihood.value(best)

    def end(self, goal: float) -> float:
        """The alpha, on the inner side of the edge, at which the log-likelihood is ``goal`` below its maximum."""
        from scipy.optimize import brentq

        edge = float(self.theta[0])
        inward, far = (-1.0, ALPHA_MIN) if edge > 1 else (1.0, ALPHA_MAX)
        if goal == 0:
            return edge
        near, step = edge, 0.02
        while True:
            beyond = max(edge - step, far) if inward < 0 else min(edge + step, far)
            if self.drop(beyond) > goal:
                return float(brentq(lambda alpha: self.drop(alpha) - goal, near, beyond, xtol=1e-6))
            if beyond == far:
                return far
            near, step = beyond, 2 * step
