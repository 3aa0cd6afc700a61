"""`L2`: ridge, the penalty of a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softdiamond.penalties.base import Penalty


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge, R(x) = x²/2: with a lambda it is weight decay of that strength."""

    def _value(self, x: Tensor) -> Tensor:
        return x * (x / 2)

    def _omega(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, 1.0)

    def _shrink(self, size: Tensor, step: float) -> Tensor:
        return size / (1 + step)
