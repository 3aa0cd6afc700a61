"""Networks, and what is measured on a trained one: accuracy, small weights, and removal by magnitude.

The **regularized tensors** are those of two or more dimensions: weight matrices, no biases. Removal is once, after
training, by one threshold on |w| for all regularized tensors together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from softdiamond.experiments.data import Examples

REMOVED = (
    *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85),
    *(0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995),
)
STEPS_BETWEEN = 10
POINTS_LOST = 0.5


class PruningCurve(TypedDict):
    """Accuracy when the share ``removed`` of the regularized weights, the smallest, is set to 0."""

    removed: list[float]
    validation: list[float]
    test: list[float]


def mlp(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Fully connected ReLU network, all parameters from U(-b, b), b = 1 / sqrt(inputs), which is PyTorch's own start.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden units of each layer, classes.
    generator : torch.Generator
        Source of the numbers; the global one is not touched.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -1.0 / math.sqrt(inputs), 1.0 / math.sqrt(inputs), generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def regularized(net: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a penalty acts on, by name: those of two or more dimensions."""
    return {name: parameter for name, parameter in net.named_parameters() if parameter.dim() >= 2}


@torch.no_grad()
def accuracy(net: nn.Module, examples: Examples, weights: dict[str, Tensor] | None = None) -> float:
    """Share of examples classified rightly, with ``weights`` in place of the net's own tensors of those names."""
    outputs = torch.func.functional_call(net, weights or {}, (examples.inputs,))
    return int((outputs.argmax(dim=1) == examples.labels).sum()) / len(examples.labels)


@torch.no_grad()
def share_below(net: nn.Module, threshold: float) -> float:
    """Share of the regularized weights with |w| < threshold."""
    magnitudes = _magnitudes(net)
    return int((magnitudes < threshold).sum()) / len(magnitudes)


@torch.no_grad()
def pruning_curve(net: nn.Module, validation: Examples, test: Examples | None) -> tuple[PruningCurve, float]:
    """Accuracy at each share of `REMOVED`, and the prunable share.

    The **prunable share** is the largest share whose removal costs at most 0.5 points of validation accuracy, and with
    it every smaller share looked at: accuracy need not fall steadily, and an island beyond the first fall does not
    count. Looked at are `REMOVED` and, between the last of it that holds and the next, ten equal steps.

    Parameters
    ----------
    net : Module
        The trained network; it is not changed.
    validation : Examples
        Decides the prunable share.
    test : Examples or None
        Measured on the curve only; without it the curve's ``test`` is empty.
    """
    magnitudes = _magnitudes(net).sort().values
    curve: PruningCurve = {"removed": list(REMOVED), "validation": [], "test": []}
    for removed in REMOVED:
        weights = _cut(net, magnitudes, removed)
        curve["validation"].append(accuracy(net, validation, weights))
        if test is not None:
            curve["test"].append(accuracy(net, test, weights))
    enough = curve["validation"][0] - POINTS_LOST / 100 - 1e-9
    held = [value >= enough for value in curve["validation"]]
    if all(held):
        return curve, REMOVED[-1]
    first_fall = held.index(False)
    share, width = REMOVED[first_fall - 1], (REMOVED[first_fall] - REMOVED[first_fall - 1]) / STEPS_BETWEEN
    for step in range(1, STEPS_BETWEEN):
        candidate = round(REMOVED[first_fall - 1] + step * width, 6)
        if accuracy(net, validation, _cut(net, magnitudes, candidate)) < enough:
            break
        share = candidate
    return curve, share


def _magnitudes(net: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in regularized(net).values()]).abs()


def _cut(net: nn.Module, magnitudes: Tensor, removed: float) -> dict[str, Tensor]:
    """Set to 0 what is not above the threshold, the largest of the weights to remove; ``magnitudes`` rise."""
    number = round(removed * len(magnitudes))
    threshold = magnitudes[number - 1] if number else magnitudes.new_tensor(-1.0)
    return {name: torch.where(w.abs() > threshold, w, 0.0) for name, w in regularized(net).items()}
