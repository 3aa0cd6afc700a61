"""The log-likelihood of a sample in theta = (alpha, log scale, loc): its gradient, its maximum, the information there.

The exact gradient of the law is used for exact observations, central differences for rounded ones, whose cells have no
simple derivative in alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable._cells import log_stable_cell
from softdiamond.stable._law import law
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN
from softdiamond.stable._quantile import log_upper_quantile

Array = NDArray[np.float64]
Fixed = tuple[float | None, float | None, float | None]  # known values of theta; None where one is free

_PLACES = 30  # innermost points that are tried as the location
_SMOOTH = 0.7  # alpha above which the likelihood has one maximum in the location that a search from the mode finds
_STARTS = (0.3, 0.6, 1.0, 1.4, 1.8)
_EDGE = 1e-4
_UNDETERMINED = 1e-9  # an eigenvalue of the scaled information below this is noise of the differences


def on_edge(alpha: float) -> bool:
    """Whether an estimate of alpha stands at an end of its range, where it has no standard error."""
    return bool(min(alpha - ALPHA_MIN, ALPHA_MAX - alpha) < _EDGE)


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of observations.

    Attributes
    ----------
    points, counts : ndarray, shape (n,)
        Values, and how many observations each stands for.
    rounding : float
        Width of the cell that each value stands for; 0 where values are exact.
    """

    points: Array
    counts: Array
    rounding: float = 0.0

    def value(self, theta: Array) -> float:
        """Log-likelihood at theta."""
        x, alpha, scale = self.points - theta[2], theta[0], np.exp(theta[1])
        if self.rounding:
            return float(self.counts @ log_stable_cell(x, float(alpha), float(scale), self.rounding))
        return float(self.counts @ law(x, np.array([alpha]), np.array([scale]), "logpdf"))

    def gradient(self, theta: Array, free: list[int]) -> Array:
        """Gradient in the free ones of theta."""
        if self.rounding:
            return np.array([self._difference(theta, index) for index in free])
        alpha, scale = theta[:1], np.exp(theta[1:2])
        x = self.points - theta[2]
        score = law(x, alpha, scale, "score")
        gradient = np.zeros(3)
        if 0 in free:
            gradient[0] = self.counts @ law(x, alpha, scale, "dlogpdf_dalpha")
        gradient[1] = -(self.counts @ (1 + x * score))
        gradient[2] = -(self.counts @ score)
        return gradient[free]

    def _difference(self, theta: Array, index: int) -> float:
        """Central difference in one of theta; one-sided in alpha at an end of its range."""
        ends = np.array([theta, theta])
        ends[:, index] += np.array([-1, 1]) * 1e-4 * (theta[0], 1.0, self._width(theta))[index]
        ends[:, 0] = np.clip(ends[:, 0], ALPHA_MIN, ALPHA_MAX)
        return (self.value(ends[1]) - self.value(ends[0])) / float(ends[1, index] - ends[0, index])

    def _width(self, theta: Array) -> float:
        """Distance over which the likelihood changes with the location.

        It is the scale of the density's peak, 1 / sqrt(omega(0)), which for small alpha is far below that of the law, or
        half a cell.
        """
        omega = float(law(np.zeros(1), theta[:1], np.ones(1), "omega")[0])
        return max(float(np.exp(theta[1])) / float(np.sqrt(omega)), self.rounding / 2)

    def maximise(self, fixed: Fixed, start: Array | None = None) -> Array:
        """Maximum in the free ones of theta, from ``start`` or from the best of a few alpha."""
        free = [index for index in range(3) if fixed[index] is None]
        theta = self._start(fixed) if start is None else start.copy()
        if not free:
            return theta
        from scipy.optimize import minimize  # here: it takes longer to import than the whole law

        total = self.counts.sum()
        step = np.array([1.0, 1.0, self._width(theta)])[free]  # so that all coordinates are of order 1
        bounds = [((ALPHA_MIN, ALPHA_MAX), (-300.0, 300.0), (None, None))[index] for index in free]

        def loss(moved: Array) -> tuple[float, Array]:
            at = theta.copy()
            at[free] = moved * step
            return -self.value(at) / total, -self.gradient(at, free) * step / total

        options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 300}
        result = minimize(loss, theta[free] / step, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        theta[free] = result.x * step
        return theta

    def maximise_location(self, fixed: tuple[float | None, float | None], theta: Array) -> Array:
        """Maximum in all, the location too, from the best of many locations at the estimates so far.

        For small alpha the likelihood has a spike at every observation, so the innermost observations are tried, and a few
        order statistics about the median.
        """
        if theta[0] > _SMOOTH:
            return self.maximise((*fixed, None), theta)
        innermost = self.points[np.argsort(np.abs(self.points))[:_PLACES]]
        order = np.argsort(self.points)
        share = np.cumsum(self.counts[order])
        middle = self.points[order[np.searchsorted(share, share[-1] * np.linspace(0.45, 0.55, 11))]]
        # twice: the best place depends on (alpha, scale), and these on the place
        for _ in range(2):
            places = np.concatenate([[theta[2]], innermost, middle])
            levels = [self.value(np.array([theta[0], theta[1], place])) for place in places]
            theta[2] = places[int(np.argmax(levels))]
            theta = self.maximise((*fixed, theta[2]), theta)
        return self.maximise((*fixed, None), theta)

    def _start(self, fixed: Fixed) -> Array:
        """The best of a few alpha, each with the scale that puts the sample's median distance, 1, in its place."""
        starts = []
        for alpha in _STARTS if fixed[0] is None else (fixed[0],):
            log_scale = fixed[1]
            if log_scale is None:
                log_scale = -float(log_upper_quantile(np.array([0.25]), np.array([alpha]))[0])
            starts.append(np.array([alpha, log_scale, fixed[2] or 0.0]))
        return max(starts, key=self.value)

    def standard_errors(self, theta: Array, fixed: Fixed) -> Array:
        """Root of the diagonal of the inverse observed information; NaN for what is fixed, on the edge or undetermined."""
        free = [index for index in range(3) if fixed[index] is None and not (index == 0 and on_edge(theta[0]))]
        errors = np.full(3, np.nan)
        if not free:
            return errors
        # wider for differences of differences
        relative = 1e-3 if self.rounding else 1e-5
        inside = min(theta[0] - ALPHA_MIN, ALPHA_MAX - theta[0]) / 2
        steps = min(relative, inside), relative, (1e-2 if self.rounding else 1e-4) * self._width(theta)
        rows = []
        for index in free:
            ends = np.array([theta, theta])
            ends[:, index] += np.array([-1, 1]) * steps[index]
            rows.append((self.gradient(ends[0], free) - self.gradient(ends[1], free)) / (2 * steps[index]))
        errors[free] = np.sqrt(_inverse_diagonal((np.array(rows) + np.array(rows).T) / 2))
        return errors


def _inverse_diagonal(information: Array) -> Array:
    """Diagonal of the inverse of an information matrix, NaN for the parameters that it does not determine.

    The parameters' own information may differ by a factor of 1e40 (the location's at small alpha), beyond what an inverse
    of the matrix as it stands can resolve: it is scaled to a unit diagonal first.
    """
    own = np.diag(information)
    if not np.all(np.isfinite(information)) or np.any(own <= 0):
        return np.full(own.size, np.nan)
    size = np.sqrt(own)
    values, vectors = np.linalg.eigh(information / size[:, None] / size)
    weak = values < _UNDETERMINED
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = vectors**2 @ np.where(weak, 0.0, 1 / values) / own
    return np.where(vectors**2 @ weak > 1e-6, np.nan, variance)
