"""`StudentT`: the penalty of Student's t prior."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from softdiamond.penalties.base import Penalty


@dataclass(frozen=True)
class StudentT(Penalty):
    """Minus the logarithm of Student's t density, the closed-form neighbour: R(x) = (df + 1)/2 log(1 + x²/df).

    Parameters
    ----------
    df : float
        Degrees of freedom, positive. 1 is Cauchy.

    Raises
    ------
    ValueError
        If df is not positive and finite.
    """

    df: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.df, numbers.Real) or not 0 < self.df < math.inf:
            raise ValueError(f"df must be positive and finite; got {self.df!r}")
        object.__setattr__(self, "df", float(self.df))

    def _value(self, x: Tensor) -> Tensor:
        size = x.abs()
        large = size > 1e15  # whose square may overflow, and beside which df is nothing
        ordinary = torch.where(large, 0.0, x)
        above = 2 * torch.where(large, size, 1.0).log() - math.log(self.df)
        return (self.df + 1) / 2 * torch.where(large, above, (ordinary * ordinary / self.df).log1p())

    def _omega(self, x: Tensor) -> Tensor:
        large = x.abs() > 1e15
        ordinary, beyond = torch.where(large, 0.0, x), torch.where(large, x, 1.0)  # either has a derivative everywhere
        return torch.where(large, (self.df + 1) / beyond / beyond, (self.df + 1) / (self.df + ordinary * ordinary))

    def _gradient(self, x: Tensor) -> Tensor:
        large = x.abs() > 1e15
        ordinary, beyond = torch.where(large, 0.0, x), torch.where(large, x, 1.0)
        return torch.where(large, (self.df + 1) / beyond, ordinary * self._omega(ordinary))

    def _far(self, log_x: Tensor) -> tuple[Tensor, Tensor]:
        return (self.df + 1) / 2 * (2 * log_x - math.log(self.df)), torch.full_like(log_x, self.df + 1)
