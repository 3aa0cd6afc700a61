"""What the trainers share: the optimizer within its wrappers, the hook for the time of a training, the metrics to log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from softdiamond.regularizer import MODES, Regularizer, check_choice, local_part

Source = Regularizer | Callable[[nn.Module], Regularizer]


@torch.no_grad()
def metrics(regularizer: Regularizer) -> dict[str, float]:
    """Return what is worth logging of a regularizer.

    Returns
    -------
    dict
        ``soft_diamond/penalty``, the sum of lambda R; ``soft_diamond/strength`` (or ``lam``), as it is now;
        ``soft_diamond/below_1e-3``, the share of the regularized weights whose magnitude is below 1e-3.

    Examples
    --------
    >>> import softdiamond as sd
    >>> reg = sd.Regularizer([("w", torch.nn.Parameter(torch.tensor([[1.0, 0.0]])))], sd.L2(), 0.1)
    >>> metrics(reg)
    {'soft_diamond/penalty': 0.05, 'soft_diamond/strength': 0.1, 'soft_diamond/below_1e-3': 0.5}
    """
    weights = [local_part(record.parameter) for record in regularizer.regularized]
    small = sum(int((weight.abs() < 1e-3).sum()) for weight in weights)
    name = "lam" if regularizer.strength is None else "strength"
    return {
        "soft_diamond/penalty": float(regularizer.penalty_value()),
        f"soft_diamond/{name}": regularizer.current_strength,
        "soft_diamond/below_1e-3": small / sum(weight.numel() for weight in weights),
    }


def plain(optimizer: Any) -> Optimizer:
    """Return the optimizer that a trainer has wrapped: the one whose steps fire hooks."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


class Hooked:
    """A regularizer that is hooked to the optimizers of a trainer for the time of a training.

    Parameters
    ----------
    source : Regularizer or callable
        The regularizer, or a function of the model that makes it.
    mode : str
        As of `softdiamond.Regularizer.attach`.
    """

    def __init__(self, source: Source, mode: str) -> None:
        if not isinstance(source, Regularizer) and (isinstance(source, nn.Module) or not callable(source)):
            raise TypeError(
                f"expected a softdiamond.Regularizer, or a function of the model that makes one; got {type(source).__name__}"
            )
        check_choice("mode", mode, MODES)
        self._source, self._mode = source, mode
        self.regularizer = source if isinstance(source, Regularizer) else None
        self._pending: dict[str, Any] | None = None
        self._optimizers: list[Optimizer] = []

    def begin(self, model: nn.Module, optimizers: Sequence[Any]) -> None:
        """Make the regularizer where that is still to be done, take over a state that waits, attach."""
        self.end()  # what a training that broke off has left
        if self.regularizer is None:
            made = self._source(model)  # type: ignore[operator]
            if not isinstance(made, Regularizer):
                raise TypeError(
                    f"the function of the model must return a softdiamond.Regularizer; got {type(made).__name__}"
                )
            self.regularizer = made
        if self._pending is not None:
            self.regularizer.load_state_dict(self._pending)
            self._pending = None
        reg, found = self.regularizer, [plain(optimizer) for optimizer in optimizers]
        own = {id(record.parameter) for record in reg.regularized}
        holding = [o for o in found if any(id(p) in own for group in o.param_groups for p in group["params"])]
        for optimizer in holding or found[:1]:
            reg.attach(optimizer, self._mode)
            self._optimizers.append(optimizer)

    def end(self) -> None:
        """Take the hooks off again."""
        for optimizer in self._optimizers:
            if self.regularizer is not None:
                self.regularizer.detach(optimizer)
        self._optimizers = []

    def state(self) -> dict[str, Any]:
        """Return the state that waits, else the regularizer's; empty before there is one."""
        if self._pending is not None:
            return self._pending
        return {} if self.regularizer is None else self.regularizer.state_dict()

    def keep(self, state: dict[str, Any]) -> None:
        """Take over a state when the training begins."""
        self._pending = state or None
