"""`SoftDiamond`: the penalty of a symmetric alpha-stable prior, elementwise and by group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softdiamond import stable
from softdiamond._compat import mark_constant
from softdiamond.penalties.base import Penalty, Radial, shown
from softdiamond.penalties.groups import Grouping, checked_grouping
from softdiamond.table import lookup_table
from softdiamond.table.torch_reader import Cells, cells_of, far_penalty, gradient_of, penalty_of


@dataclass(frozen=True, repr=False)
class SoftDiamond(Penalty):
    """Minus the logarithm of the symmetric alpha-stable density, R(x) = log f(0) - log f(x), from the look-up table.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2]. 2 is ridge; 1 Cauchy; the smaller, the sharper the peak and the thicker the tail.
    group : optional
        Which weights share one norm, see `softdiamond.penalties.groups`: ``"input"``, ``"output"``, ``("head", n)``, a function of the
        tensor, or mappings of names. None: each weight by itself.

    Raises
    ------
    TypeError
        If the grouping is of no kind that there is.
    ValueError
        If alpha is not one number in [0.1, 2], or the grouping is unknown.

    References
    ----------
    Adigun and Kosko, Soft Diamond Regularizers for Deep Learning, arXiv:2412.20724.
    """

    alpha: float = 0.5
    group: Grouping | None = None  # type: ignore[misc]
    _d: ClassVar[int] = 1

    def __post_init__(self) -> None:
        alpha, _ = stable.parameters(self.alpha)
        if alpha.ndim:
            raise ValueError(f"alpha must be one number in [0.1, 2]; got an array of shape {alpha.shape}")
        object.__setattr__(self, "alpha", float(alpha))
        object.__setattr__(self, "group", checked_grouping(self.group))
        object.__setattr__(self, "_hex", float(alpha).hex())

    def __repr__(self) -> str:
        return shown(self, f"alpha={self.alpha!r}")

    def radial(self, d: int) -> Radial:
        """Return the law of the norm of d weights; ValueError if d is above 65,536."""
        if d > stable.D_MAX:
            raise ValueError(
                f"a soft diamond's group has at most {stable.D_MAX:,} weights; got {d:,}: make smaller groups with a function of "
                "the tensor, or take L1(group=...), which has no limit"
            )
        law = _Isotropic(self.alpha, _d=d, _hex=self._hex)  # type: ignore[attr-defined]
        return Radial(law, *_unit_and_crossover(self._hex, str(d)))  # type: ignore[attr-defined]

    def _value(self, x: Tensor) -> Tensor:
        coarse, fine = penalty_of(x, self._cells(x))
        return coarse + fine

    def _omega(self, x: Tensor) -> Tensor:
        cells = self._cells(x)
        below = x.abs() < cells.low
        omega = self._gradient(torch.where(below, 1.0, x)) / torch.where(below, 1.0, x)
        omega = torch.where(below, cells.omega_zero, omega)
        return torch.where(x.isinf(), 0.5 if self.alpha == 2 else 0.0, omega)

    def _gradient(self, x: Tensor) -> Tensor:
        return gradient_of(x, self._cells(x))

    def _far(self, log_x: Tensor) -> tuple[Tensor, Tensor] | None:
        return far_penalty(log_x, self._cells(log_x)) if self.alpha < 2 else None

    def evaluate(self, x: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Penalty, gradient and curvature of float64 arrays at unit scale, straight from the table."""
        return lookup_table(self.alpha, self._d).evaluate(np.asarray(x, dtype=np.float64))

    def _cells(self, x: Tensor) -> Cells:
        return cells_of(self._hex, x.dtype, x.device, str(self._d))  # type: ignore[attr-defined]


@dataclass(frozen=True, repr=False)
class _Isotropic(SoftDiamond):
    """The law of d weights as a function of their norm, in units of its table."""

    group: ClassVar[Any] = None  # type: ignore[misc]
    _d: int = 1  # type: ignore[misc]
    _hex: str = ""

    def __post_init__(self) -> None:
        """Nothing to check: torch.compile traces this."""


@mark_constant
def _unit_and_crossover(alpha: str, d: str) -> tuple[float, float]:
    table = lookup_table(float.fromhex(alpha), int(d))
    return table.unit, table.crossover if table.alpha < 2 else math.sqrt((table.d + 2) / table.omega_zero)
