"""The losses: value, negative gradient in the margins, and a bound of the curvature."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from softdiamond.sklearn._design import Array, Design


class SquaredLoss:
    """w (y - f)^2 / 2 for one column of targets."""

    curvature_bound, step_accuracy, bound_factor = 1.0, 0.0, 1.0

    def __init__(self, y: Array, w: Array) -> None:
        self.y, self.w = y.reshape(len(y), -1), w / w.sum()
        self._moments: tuple[Design, tuple[Array, float, Array]] | None = None

    def moments(self, design: Design) -> tuple[Array, float, Array]:
        """X̃ᵀ W (y - b0), the weighted square of y - b0, and b0, the best constant if there is one."""
        if self._moments is None or self._moments[0] is not design:
            b0 = self.constant * design.center
            y = self.y[:, 0] - b0
            self._moments = design, (design.moment(y), float(self.w @ y**2), b0)
        return self._moments[1]

    def value(self, f: Array) -> float:
        return float(self.w @ ((self.y - f) ** 2).sum(axis=1)) / 2

    def negative_gradient(self, f: Array) -> Array:
        """Minus the derivative of each row's loss in f."""
        return np.asarray(self.y - f)

    def subset(self, rows: Array) -> SquaredLoss:
        return SquaredLoss(self.y[rows], self.w[rows])

    def mean_loss(self, f: Array) -> float:
        """Mean squared error, which cross-validation compares."""
        return 2 * self.value(f)

    @cached_property
    def constant(self) -> Array:
        """The best constant f."""
        return np.asarray(self.w @ self.y)

    @cached_property
    def curvature(self) -> float:
        """Second derivative there."""
        return 1.0


class LogLoss:
    """w log-loss; y one-hot of shape (n, K), or (n, 1) with two classes."""

    step_accuracy, bound_factor = (
        0.1,
        0.7,
    )  # accuracy of a step against the residual; by how much tau falls from step to step

    def __init__(self, y: Array, w: Array) -> None:
        self.y, self.w = y, w / w.sum()
        self.curvature_bound = 0.25 if y.shape[1] == 1 else 0.5

    def value(self, f: Array) -> float:
        if f.shape[1] == 1:
            return float(self.w @ (np.logaddexp(0, f) - self.y * f)[:, 0])
        top = f.max(axis=1)
        log_sum = np.log(np.exp(f - top[:, None]).sum(axis=1)) + top
        return float(self.w @ (log_sum - (self.y * f).sum(axis=1)))

    def negative_gradient(self, f: Array) -> Array:
        if f.shape[1] == 1:
            return np.asarray(self.y - expit(f))
        weight = np.exp(f - f.max(axis=1)[:, None])
        return np.asarray(self.y - weight / weight.sum(axis=1)[:, None])

    def subset(self, rows: Array) -> LogLoss:
        return LogLoss(self.y[rows], self.w[rows])

    def mean_loss(self, f: Array) -> float:
        """Mean log-loss, which cross-validation compares."""
        return self.value(f)

    @cached_property
    def constant(self) -> Array:
        share = np.clip(self.w @ self.y, 1e-12, 1 - 1e-12)
        if self.y.shape[1] == 1:
            return np.log(share / (1 - share))
        logs = np.log(share)
        return np.asarray(logs - logs.mean())

    @cached_property
    def curvature(self) -> float:
        share = self.w @ self.y
        return float(max((share * (1 - share)).max(), 1e-6))


Loss = SquaredLoss | LogLoss


def one_hot(labels: Any, classes: int) -> Array:
    """Class numbers as rows of 0 and 1; one column with two classes."""
    if classes == 2:
        return np.asarray(labels, dtype=np.float64)[:, None]
    return np.eye(classes)[labels]
