"""`L1`: lasso and group lasso, the penalty of a Laplace prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softdiamond.penalties.base import Penalty, Radial, check_step, computed_in, shown
from softdiamond.penalties.groups import Grouping, checked_grouping


@dataclass(frozen=True, repr=False)
class L1(Penalty):
    r"""Lasso, R(x) = \|x\|: its prox is soft thresholding, its gradient sign(x), 0 at 0.

    Parameters
    ----------
    group : optional
        Which weights share one norm, see `SoftDiamond`: the group lasso.

    Raises
    ------
    TypeError, ValueError
        If the grouping is of no kind that there is.
    """

    group: Grouping | None = None  # type: ignore[misc]

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", checked_grouping(self.group))

    def __repr__(self) -> str:
        return shown(self)

    def radial(self, d: int) -> Radial:
        """Return the lasso, whatever d."""
        return Radial(L1(), 1.0, 1.0)

    def _value(self, x: Tensor) -> Tensor:
        return x.abs()

    def _omega(self, x: Tensor) -> Tensor:
        return 1 / x.abs()

    def _gradient(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, x.sign())

    @torch.no_grad()
    def prox(self, v: Tensor, step: float, scale: float = 1.0) -> Tensor:
        """Soft thresholding at step / scale, in two passes; see `Penalty.prox`."""
        if self.group is not None:
            return super().prox(v, step, scale)
        check_step(step)
        dtype = computed_in(v, scale)
        threshold = min(float(step) / float(scale), torch.finfo(dtype).max)
        shrunk = nn.functional.softshrink(v.to(dtype), threshold)
        return shrunk.copysign_(v).to(v.dtype)
