"""The training loop, with the penalty as a step after the optimizer's or as a term of the loss.

A run's seed fixes its initial weights and the order of its batches for every method alike, so that methods are compared
in pairs. Nothing reads or sets the global random state. On one machine, equal seed and number of threads give equal bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from softdiamond.experiments.data import Examples
from softdiamond.experiments.models import mlp
from softdiamond.penalty import L1, L2, SoftDiamond
from softdiamond.regularizer import Regularizer

MODES = ("implicit", "prox", "gradient", "loss")


@dataclass(frozen=True)
class Method:
    """A penalty and the strengths to try; ``alpha`` and ``relative_scale`` belong to the soft diamond alone."""

    penalty: str  # none, L2, L1 or soft diamond
    strengths: tuple[float, ...]
    alpha: float | None = None
    relative_scale: float | None = None

    @property
    def name(self) -> str:
        """The penalty, and alpha where there is one."""
        return self.penalty if self.alpha is None else f"{self.penalty} {self.alpha:g}"


@dataclass(frozen=True)
class Recipe:
    """All that the methods of a comparison share: an MLP under SGD with momentum and a cosine from ``rate`` to 0."""

    sizes: tuple[int, ...]
    epochs: int
    batch: int
    rate: float
    momentum: float


def regularizer(net: nn.Module, method: Method, strength: float) -> Regularizer:
    """Return the method's penalty on the weight matrices of a network, with one strength for all.

    Raises
    ------
    ValueError
        If the method's penalty is none or unknown, or settings are out of their range.
    """
    if method.penalty == "soft diamond" and method.alpha is not None and method.relative_scale is not None:
        return Regularizer(net, SoftDiamond(method.alpha), strength, relative_scale=method.relative_scale)
    if method.penalty not in ("L1", "L2"):
        raise ValueError(f"{method}: the penalties are L2, L1 and soft diamond, which needs alpha and relative_scale")
    return Regularizer(net, L2() if method.penalty == "L2" else L1(), strength)


def mode_of(method: Method, mode: str) -> str:
    """Return how a method's penalty acts: L1 has its proximal step (soft thresholding) in place of an implicit one."""
    return "prox" if method.penalty == "L1" and mode == "implicit" else mode


def train(
    train: Examples, recipe: Recipe, method: Method, strength: float, seed: int, mode: str = "implicit"
) -> tuple[nn.Sequential, list[float]]:
    """Train one network; return it with the mean cross-entropy of each epoch.

    Training stops at the end of an epoch whose loss or whose weights are not finite. The last loss is then NaN.

    Parameters
    ----------
    train : Examples
        Training examples.
    recipe : Recipe
        Network, optimizer and schedule.
    method, strength
        The penalty, see `regularizer`; none takes no strength.
    seed : int
        Fixes initial weights and batch order.
    mode : {"implicit", "prox", "gradient", "loss"}
        As `softdiamond.Regularizer.attach`, or added to the loss; L1 takes its proximal step for implicit.
    """
    generator = torch.Generator().manual_seed(seed)
    net = mlp(recipe.sizes, generator)
    reg = None if method.penalty == "none" else regularizer(net, method, strength)
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum, fused=True)
    if reg is not None and mode != "loss":
        reg.attach(optimizer, mode_of(method, mode))
    steps = recipe.epochs * math.ceil(len(train.labels) / recipe.batch)
    losses: list[float] = []
    step = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(train.labels), generator=generator)
        inputs, labels = train.inputs[order].split(recipe.batch), train.labels[order].split(recipe.batch)
        data_loss, penalty = torch.zeros(()), torch.zeros(())
        for x, y in zip(inputs, labels, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            loss = nn.functional.cross_entropy(net(x), y)
            data_loss += loss.detach() * len(y)
            if reg is not None and mode == "loss":
                loss = loss + reg.penalty()
            penalty += loss.detach()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        finite = all(bool(weight.isfinite().all()) for weight in [data_loss, penalty, *net.parameters()])
        losses.append(float(data_loss) / len(train.labels) if finite else math.nan)
        if not finite:
            break
    return net, losses
