"""Training of a stack of networks on batches: Adam, and after each step that of a penalty on the first layer.

K networks share start, batches and optimizer; Adam is elementwise, so that each network is trained as it would be alone.

T steps: Adam at the rate eta_t = eta (1 + cos(pi t / T)) / 2; after each step every group of first-layer weights, all that one
column feeds, takes the implicit step of `softdiamond.Regularizer` at the strength of its network, which rises linearly over the
first half of the T steps. L1 takes its proximal step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from softdiamond.feature_selection.networks import Groups, Loss, Stack
from softdiamond.penalties import L1, Penalty
from softdiamond.strength import StrengthSettings

RAMP_FRACTION = 0.5  # part of a round over which the strength rises
EVALUATION_ROWS = 4096  # rows that are evaluated at once


class PenaltyStep:
    """The step of a penalty on the first layer of a stack, each network at its own strength.

    Parameters
    ----------
    penalty : Penalty
        By group: on the columns' norms. Elementwise: on each weight.
    relative_scale : float
        As of `softdiamond.Regularizer`: relative to the norm of a group at the start.
    rms : float
        Root mean square of the first layer's weights at the start.
    groups : Groups
        The columns.
    width : int
        Weights that each input feeds.

    Raises
    ------
    ValueError
        If a column's weights are more than a group can have, or a scale is out of range.
    """

    def __init__(self, penalty: Penalty, relative_scale: float, rms: float, groups: Groups, width: int) -> None:
        settings = StrengthSettings(1.0, relative_scale=relative_scale)
        self._groups, self._elementwise = groups, penalty.group is None
        counts = [1] if self._elementwise else groups.sizes.unique().tolist()
        self._parts = []
        for count in counts:
            d = 1 if self._elementwise else count * width
            law, _, length, normalized_lambda, _ = settings.resolve_group(penalty, relative_scale, rms, d)
            self._parts.append(((groups.sizes == count).nonzero().flatten(), law, length, normalized_lambda))

    def step_(self, first: Tensor, steps: Tensor) -> None:
        """Shrink weights (inputs, K, width) in place; ``steps``, of shape (K,), are learning rate times strength."""
        if self._elementwise:
            _, law, length, normalized_lambda = self._parts[0]
            first.mul_(_kept_share(law, first.abs() / length, normalized_lambda * steps.unsqueeze(1)))
            return
        norms = self._groups.norms(first)
        if len(self._parts) == 1:
            _, law, length, normalized_lambda = self._parts[0]
            kept = _kept_share(law, norms / length, normalized_lambda * steps)
        else:
            kept = torch.empty_like(norms)
            for chosen, law, length, normalized_lambda in self._parts:
                kept[chosen] = _kept_share(law, norms[chosen] / length, normalized_lambda * steps)
        first.mul_(self._groups.spread(kept).unsqueeze(2))


def _kept_share(law: Penalty, x: Tensor, step: Tensor) -> Tensor:
    """Share that an implicit step leaves, or, of L1, which has none at 0, the proximal step."""
    if isinstance(law, L1):
        return (1 - step / x.clamp(min=1e-30)).clamp_(min=0)
    return 1 / (1 + step * law.omega(x))


@dataclass(frozen=True)
class Rows:
    """Rows of one table on the device: x float32 (rows, inputs), y float32 (rows, outputs) or int64 (rows,).

    Where ``visible``, int64 of shape (K, inputs), is given, a `batch` shows each network these inputs alone; `pieces` do not.
    """

    x: Tensor
    y: Tensor
    visible: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the rows with these numbers."""
        x = self.x[rows]
        if self.visible is not None:
            x = x.index_select(1, self.visible.flatten()).view(len(x), *self.visible.shape)
        return x, self.y[rows]

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of at most `EVALUATION_ROWS` rows at a time."""
        return zip(self.x.split(EVALUATION_ROWS), self.y.split(EVALUATION_ROWS), strict=True)


def rows_of(x: NDArray[Any], y: NDArray[Any], device: torch.device) -> Rows:
    """Rows of two arrays: y of shape (rows,) holds classes."""
    target = torch.as_tensor(y, dtype=torch.int64 if y.ndim == 1 else torch.float32, device=device)
    return Rows(torch.as_tensor(x, dtype=torch.float32, device=device), target)


@dataclass(frozen=True)
class Schedule:
    """How a round is trained."""

    strengths: Tensor  # float32 of shape (K,)
    steps: int
    batch: int
    rate: float


def train(
    stack: Stack,
    rows: Rows,
    loss: Loss,
    penalty_step: PenaltyStep | None,
    schedule: Schedule,
    generator: Generator,
    on_step: Callable[[], None],
    trainable: Tensor | None = None,
) -> None:
    """Train one round, in place; ``on_step`` is called after each step.

    Weights of the first layer where ``trainable``, bool of shape (inputs, K), is False are put to 0 at each step.
    """
    parameters = [p.requires_grad_() for p in stack.parameters]
    optimizer = torch.optim.Adam(parameters, lr=schedule.rate, fused=rows.x.device.type in ("cpu", "cuda"))
    order, at = torch.empty(0, dtype=torch.int64), 0
    for t in range(schedule.steps):
        if at + schedule.batch > len(order):
            order, at = torch.randperm(len(rows), generator=generator, device="cpu").to(rows.x.device), 0
        batch = order[at : at + schedule.batch]
        at += schedule.batch
        rate = schedule.rate * (1 + math.cos(math.pi * t / schedule.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        x, y = rows.batch(batch)
        torch.autograd.backward([loss(stack(x), y).mean(1).sum()])
        optimizer.step()
        if penalty_step is not None:
            share = min(1.0, (t + 1) / (RAMP_FRACTION * schedule.steps))
            with torch.no_grad():
                penalty_step.step_(stack.weights[0], rate * share * schedule.strengths)
        if trainable is not None:
            with torch.no_grad():
                stack.weights[0].mul_(trainable.unsqueeze(2))
        on_step()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None


def train_visible(stack: Stack, rows: Rows, trainable: Tensor, fit: Callable[[Stack, Rows, Tensor], None]) -> None:
    """Let ``fit`` train the first layer's rows that are ``trainable`` alone, and the other layers; columns have to be one input each."""
    most = int(trainable.sum(0).max())
    visible = trainable.byte().argsort(dim=0, descending=True, stable=True)[
        :most
    ]  # padded with some that are not trainable
    at = visible.unsqueeze(2).expand(-1, -1, stack.weights[0].shape[2])
    part = replace(stack, weights=[stack.weights[0].gather(0, at), *stack.weights[1:]])
    fit(part, replace(rows, visible=visible.T), trainable.gather(0, visible))
    stack.weights[0].zero_().scatter_(0, at, part.weights[0])


@torch.no_grad()
def errors(stack: Stack, rows: Rows, loss: Loss) -> Tensor:
    """Mean loss of each network over all rows, float64 on the CPU."""
    total = torch.zeros(stack.biases[0].shape[0], dtype=torch.float64, device="cpu")
    for x, y in rows.pieces():
        total += loss(stack(x), y).mean(1).cpu().double() * len(x)
    return torch.nan_to_num(total / len(rows), nan=math.inf)
