"""The penalty of the coefficients of standardized columns, with the factor of each column."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from softdiamond.penalties.numba_prox import Curve, curve_of, jump_interval
from softdiamond.sklearn._design import Array
from softdiamond.table import numba_reader


@dataclass(frozen=True)
class Penalty:
    """sum_j lam_j R(b_j / c) of one tail; ``lam`` has shape (p,)."""

    tail: float
    lam: Array
    c: float

    @property
    def curve(self) -> Curve:
        return curve_of(self.tail)

    def value(self, b: Array) -> float:
        return float(self.lam @ numba_reader.values(b, self.c, self.curve.cells))

    def total(self, b: Array) -> float:
        """Of coefficients of shape (p, K)."""
        return sum(self.value(column) for column in b.T)

    def gradient(self, b: Array) -> Array:
        return np.asarray(self.lam * numba_reader.gradients(b, self.c, self.curve.cells))

    def omega(self, b: Array) -> Array:
        return np.asarray(self.lam * numba_reader.omegas(b, self.c, self.curve.cells))

    def second_derivative(self, b: Array) -> Array:
        """Second derivatives."""
        return np.asarray(self.lam * numba_reader.curvatures(b, self.c, self.curve.cells))

    def divided_by(self, tau: float) -> Penalty:
        return self if tau == 1 else replace(self, lam=self.lam / tau)

    def jump_threshold(self, diagonal: Array) -> Array:
        """Per column of this curvature the least |b + q / diagonal| with an outer root; infinite where none jumps."""
        step = np.where(diagonal > 0, self.lam / (self.c**2 * np.where(diagonal > 0, diagonal, 1.0)), 0.0)
        steps, which = np.unique(step, return_inverse=True)
        least = np.array([jump_interval(each, self.curve)[0] for each in steps])
        return np.asarray(self.c * least[which])
