"""`L2`: ridge, the penalty of a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softdiamond.penalties.base import Penalty, check_step, computed_in


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge, R(x) = x²/2: with a lambda it is weight decay of that strength."""

    def _value(self, x: Tensor) -> Tensor:
        return x * (x / 2)

    def _omega(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, 1.0)

    @torch.no_grad()
    def prox(self, v: Tensor, step: float, scale: float = 1.0) -> Tensor:
        """Division by 1 + step / scale^2; see `Penalty.prox`."""
        check_step(step)
        dtype = computed_in(v, scale)
        wide = v.to(dtype)
        return torch.where(wide.isinf(), wide, wide / (1 + float(step) / scale / scale)).to(v.dtype)
