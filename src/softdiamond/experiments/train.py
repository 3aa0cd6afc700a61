"""The training loop, and the penalty that it adds to the loss.

A run's seed fixes its initial weights and the order of its batches for every method alike, so that methods are compared
in pairs. Nothing reads or sets the global random state. On one machine, equal seed and number of threads give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softdiamond import stable
from softdiamond.experiments import UserError
from softdiamond.experiments.data import Examples
from softdiamond.experiments.models import mlp, regularized
from softdiamond.prior import SymmetricStable

Term = Callable[[Tensor], Tensor]  # lambda R summed over one tensor


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


def penalty_term(method: Method, strength: float, start: Tensor) -> Term:
    r"""Return w -> lambda sum_i R(w_i) for one tensor, with its own scale and lambda from its initial weights.

    .. math:: c = \text{relative scale} \cdot \rho, \quad \lambda = \text{strength} / \omega(\rho), \quad
              \rho = \text{rms}(w \text{ at start}), \quad \omega(w) = R'(w) / w

    so that on a weight of magnitude rho every penalty pulls as weight decay of that strength does. L2: R = w^2 / 2,
    omega = 1. L1: R = \|w\|, omega = 1 / \|w\|. Soft diamond: R = log f(0) - log f(w / c).

    Parameters
    ----------
    method : Method
        Any but none.
    strength : float
        Equivalent weight decay at the tensor's initial rms.
    start : Tensor
        The tensor's initial weights.

    Raises
    ------
    UserError
        If all initial weights are 0, which leaves no scale.
    """
    rms = float(start.detach().double().square().mean().sqrt())
    if not rms > 0.0:
        raise UserError(f"a tensor of shape {tuple(start.shape)} starts with rms {rms}: it must be positive")
    if method.penalty == "L2":
        return lambda w: (0.5 * strength) * w.square().sum()
    if method.penalty == "L1":
        return lambda w: (strength * rms) * w.abs().sum()
    if method.penalty != "soft diamond" or method.alpha is None or method.relative_scale is None:
        raise ValueError(f"{method}: the penalties are L2, L1 and soft diamond, which needs alpha and relative_scale")
    scale = method.relative_scale * rms
    lam = strength / float(stable.omega(rms, method.alpha, scale=scale))
    prior = SymmetricStable(method.alpha, scale=scale, validate_args=False)  # NaN weights are the loop's to find
    at_zero = prior.log_prob(torch.zeros((), dtype=start.dtype))
    return lambda w: lam * (at_zero - prior.log_prob(w)).sum()


def train(
    train: Examples, recipe: Recipe, method: Method, strength: float, seed: int
) -> tuple[nn.Sequential, list[float]]:
    """Train one network; return it with the mean cross-entropy of each epoch.

    Training stops at the end of an epoch whose loss, penalty included, or whose weights are not finite. The last loss
    is then NaN.

    Parameters
    ----------
    train : Examples
        Training examples.
    recipe : Recipe
        Network, optimizer and schedule.
    method, strength
        The penalty, see `penalty_term`; none takes no strength.
    seed : int
        Fixes initial weights and batch order.
    """
    generator = torch.Generator().manual_seed(seed)
    net = mlp(recipe.sizes, generator)
    weights = list(regularized(net).values())
    terms = [] if method.penalty == "none" else [penalty_term(method, strength, weight) for weight in weights]
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum, fused=True)
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
            for term, weight in zip(terms, weights, strict=False):
                loss = loss + term(weight)
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
