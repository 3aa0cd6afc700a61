"""eta, the step length that decoupled weight decay of an optimizer would take, read from its parameter groups.

==================================  =============================================
optimizer                           eta
==================================  =============================================
SGD                                 lr (1 - dampening) / (1 - momentum)
SGD, Nesterov                       lr / (1 - momentum)
RMSprop                             lr / (1 - momentum)
AdamW, Adam and kin, Muon           lr
Adagrad                             lr / (1 + (step - 1) lr_decay)
any other                           lr, and it says so
==================================  =============================================

With momentum a gradient g moves the weight in the end by lr g / (1 - momentum): so does a decay that is part of it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

Group = dict[str, Any]
Rate = Callable[[Optimizer, Group], float]

_PLAIN = (
    *("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "Adafactor"),
    *("Adadelta", "Muon"),
)


def rate_of(optimizer: Optimizer) -> tuple[Rate, str]:
    """Return what reads eta from a group of this optimizer, and its formula; empty where only lr could be assumed.

    Raises
    ------
    ValueError
        If the optimizer is LBFGS or differentiable, or its groups have no learning rate.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS searches along a line with several losses a step, so a step of the penalty after it would spoil its "
            "curvature estimates: add reg.penalty_value() to the loss in the closure instead"
        )
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ValueError(
            "a differentiable optimizer keeps a graph that a step in place would break: add reg.penalty_value() instead"
        )
    if isinstance(optimizer, torch.optim.SGD):
        return _sgd, "lr (1 - dampening) / (1 - momentum), Nesterov lr / (1 - momentum)"
    if isinstance(optimizer, torch.optim.RMSprop):
        return _rmsprop, "lr / (1 - momentum)"
    if isinstance(optimizer, torch.optim.Adagrad):
        return _adagrad, "lr / (1 + (step - 1) lr_decay)"
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(f"{name} has parameter groups without lr: give eta=, a function of a parameter group")
    known = tuple(getattr(torch.optim, kind) for kind in _PLAIN if hasattr(torch.optim, kind))
    return _plain, "lr" if isinstance(optimizer, known) else ""


def checked_eta(eta: Any, source: str) -> float:
    """Return eta as a float; it must be finite and not negative."""
    value = float(eta) if isinstance(eta, (numbers.Real, torch.Tensor)) else math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"eta must be finite and not negative; {source} gave {eta!r}")
    return value


def given_rate(eta: Any) -> Rate:
    """Return a user's function of a group as a rate.

    Raises
    ------
    TypeError
        If it is no function.
    """
    if not callable(eta):
        raise TypeError(f"eta must be a function of a parameter group, such as lambda group: group['lr']; got {eta!r}")
    function: Callable[[Group], float] = eta
    return lambda optimizer, group: function(group)


def _sgd(optimizer: Optimizer, group: Group) -> float:
    momentum = float(group["momentum"])
    if momentum == 0:
        return float(group["lr"])
    dampening = 0.0 if group["nesterov"] else float(group["dampening"])
    return float(group["lr"]) * (1 - dampening) / _left(momentum)


def _rmsprop(optimizer: Optimizer, group: Group) -> float:
    return float(group["lr"]) / _left(float(group["momentum"]))


def _adagrad(optimizer: Optimizer, group: Group) -> float:
    steps = [int(optimizer.state[p]["step"]) for p in group["params"] if "step" in optimizer.state.get(p, {})]
    return float(group["lr"]) / (1 + max(max(steps, default=1) - 1, 0) * float(group["lr_decay"]))


def _plain(optimizer: Optimizer, group: Group) -> float:
    return float(group["lr"])


def _left(momentum: float) -> float:
    if not momentum < 1:
        raise ValueError(
            f"with momentum {momentum:g} a decay would never end: give eta=, a function of a parameter group"
        )
    return 1 - momentum
