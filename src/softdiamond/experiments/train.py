"""The one training loop: with a penalty as a step after the optimizer's or as a term of the loss, and with removal.

A run's seed fixes initial weights, batch order, augmentation and dropout for every method alike, so that methods are
compared in pairs. Global randomness stays as it was. On one machine's CPU, equal seed and threads give equal bits,
interrupted and resumed or not; a GPU's kernels need not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softdiamond.experiments import card, models
from softdiamond.experiments.checkpoint import Checkpoint
from softdiamond.experiments.data import Examples, crop_and_flip
from softdiamond.penalties import L1, L2, Penalty, SoftDiamond
from softdiamond.pruning import GradualPruning
from softdiamond.regularizer import Regularizer, Rule

OnEpoch = Callable[[int, float], None]  # epochs done, mean loss of the last


def regularizer(net: nn.Module, method: card.Method, strength: float, dispersion: float = 0.0) -> Regularizer:
    """Return the method's penalty on the regularized tensors of a network; a method none has none: ValueError.

    With a dispersion the setting is absolute, and ``strength`` is lambda.
    """
    if method.penalty == "none":
        raise ValueError("none has no regularizer")

    def penalty(group: str | None) -> Penalty:
        if method.penalty == "L2":
            return L2()
        return L1(group) if method.alpha is None else SoftDiamond(method.alpha, group)

    last = list(models.regularized(net))[-1]
    rules = [Rule(lambda name, _: name == last, penalty=penalty("input"))] if method.group == "output" else []
    if dispersion:
        return Regularizer(net, penalty(method.group), rules=rules, lam=strength, dispersion=dispersion)
    settings = {"relative_scale": method.relative_scale, "reference": method.reference}
    return Regularizer(net, penalty(method.group), strength, rules=rules, **settings)  # type: ignore[arg-type]


def fit(
    net: nn.Module,
    train: Examples,
    training: card.Training,
    seed: int,
    *,
    reg: Regularizer | None = None,
    mode: str = "implicit",
    gradual: GradualPruning | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[float]:
    """Train a network in place; return the mean cross-entropy of each epoch.

    Training stops at the end of an epoch whose loss or whose weights are not finite. The last loss is then NaN.

    Parameters
    ----------
    net : Module
        The network, on the device of the examples.
    train : Examples
        Training examples.
    training : card.Training
        Optimizer, schedule, batches, augmentation.
    seed : int
        Fixes batch order, augmentation and dropout.
    reg, mode : Regularizer, {"implicit", "prox", "gradient", "loss"}
        The penalty and how it acts: as `softdiamond.Regularizer.attach`, or added to the loss.
    gradual : GradualPruning, optional
        Removal that follows each step.
    checkpoint : Checkpoint, optional
        Where to go on from, and to leave the state.
    on_epoch : callable, optional
        Called after each epoch.
    """
    device = train.labels.device
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if training.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = _optimizer(net, training)
        if reg is not None and mode != "loss":
            reg.attach(optimizer, mode)
        losses: list[float] = []
        if checkpoint is not None and (state := checkpoint.load(net)) is not None:
            losses = state["losses"]
            optimizer.load_state_dict(state["optimizer"])
            generator.set_state(state["generator"])
            torch.set_rng_state(state["random"])
            if state["cuda"] is not None:
                torch.cuda.set_rng_state(state["cuda"], device)
            if reg is not None:
                reg.load_state_dict(state["reg"])
            if gradual is not None:
                gradual.load_state_dict(state["gradual"])
        forward = _forward(net, training, device)
        while len(losses) < training.epochs and not (losses and math.isnan(losses[-1])):
            losses.append(_epoch(net, forward, train, training, optimizer, generator, len(losses), reg, mode, gradual))
            if on_epoch is not None:
                on_epoch(len(losses), losses[-1])
            if checkpoint is not None and len(losses) < training.epochs and checkpoint.due():
                state = {"losses": losses, "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
                state |= {"random": torch.get_rng_state(), "reg": reg and reg.state_dict()}
                state |= {"cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}
                checkpoint.save(len(losses), net, state | {"gradual": gradual and gradual.state_dict()})
        if reg is not None:
            reg.detach()
    return losses


def _forward(net: nn.Module, training: card.Training, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the network's outputs, float32, as a function of its inputs: in the training's precision, compiled or not."""
    call = torch.compile(net) if training.compile else net

    def forward(x: Tensor) -> Tensor:
        if training.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            outputs: Tensor = call(x)
        return outputs.float()

    return forward


def _epoch(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    train: Examples,
    training: card.Training,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    epoch: int,
    reg: Regularizer | None,
    mode: str,
    gradual: GradualPruning | None,
) -> float:
    net.train()
    per_epoch = math.ceil(len(train.labels) / training.batch)
    order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
    data_loss = torch.zeros((), device=train.labels.device)
    penalty = torch.zeros_like(data_loss)
    for step, chosen in enumerate(order.split(training.batch), start=epoch * per_epoch):
        rate = training.rate * training.rate_factor(step, per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = train.inputs[chosen], train.labels[chosen]
        if training.augmentation == "crop and flip":
            x = crop_and_flip(x, generator)
        loss = nn.functional.cross_entropy(forward(x), y)
        data_loss += loss.detach() * len(y)
        if reg is not None and mode == "loss":
            loss = loss + reg.penalty_value()
            penalty += loss.detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if gradual is not None:
            gradual()
    finite = all(bool(each.isfinite().all()) for each in [data_loss, penalty, *net.parameters()])
    return float(data_loss) / len(train.labels) if finite else math.nan


def _optimizer(net: nn.Module, training: card.Training) -> torch.optim.Optimizer:
    if training.optimizer == "AdamW":
        return torch.optim.AdamW(net.parameters(), lr=training.rate, weight_decay=0.0, fused=True)
    return torch.optim.SGD(net.parameters(), lr=training.rate, momentum=training.momentum, fused=True)
