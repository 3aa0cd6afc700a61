"""How sparse weights are, and the largest sparsity at no cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Outputs = Mapping[str, Sequence[str]]  # weights whose first dimension counts outputs, and the vectors that go with them

STEPS_BETWEEN = 10  # between two sparsities of a curve, where the prunable one is searched for


@torch.no_grad()
def measures(weights: Weights) -> dict[str, float]:
    r"""Sparsity of all the weights together, in float64.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Named tensors, any shape and float dtype.

    Returns
    -------
    dict
        ``zero``, ``below_1e-3``, ``below_1e-2``: shares of weights that are exactly 0, and below the threshold in
        magnitude; ``below_1e-2_of_largest``: below a hundredth of the largest magnitude. With a = \|w\|, n weights:
        ``gini``, the Gini index of a (0: all equal, towards 1: few have all); ``hoyer``, (sqrt(n) - sum a / sqrt(sum a^2)) /
        (sqrt(n) - 1), 0 to 1; ``participation``, the participation ratio (sum w^2)^2 / (n sum w^4): the share of weights
        that carry the energy, 1 to 1/n. Weights that are all zero are all equal: 0, 0 and 1, and none lies below a
        hundredth of the largest.

    Raises
    ------
    ValueError
        If there is no weight, or one is not finite.

    References
    ----------
    Hurley and Rickard 2009, Comparing measures of sparsity, IEEE Trans. Inf. Theory 55.
    """
    a = torch.cat([w.detach().flatten().double() for w in weights.values()]).abs() if weights else torch.empty(0)
    n = a.numel()
    if n == 0:
        raise ValueError("no weights to measure: the tensors are empty")
    if not bool(a.isfinite().all()):
        raise ValueError("weights must be finite")
    below = {"zero": (a == 0).sum(), "below_1e-3": (a < 1e-3).sum(), "below_1e-2": (a < 1e-2).sum()}
    below["below_1e-2_of_largest"] = (a < 1e-2 * a.max()).sum()
    result = {name: int(count) / n for name, count in below.items()}
    if float(a.max()) == 0.0:
        return result | {"gini": 0.0, "hoyer": 0.0, "participation": 1.0}
    a = (a / a.max()).sort().values
    total, energy = float(a.sum()), float(a.square().sum())
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=a.device)
    return result | {
        "gini": max(0.0, 2.0 * float((rank * a).sum()) / (n * total) - (n + 1) / n),
        "hoyer": max(0.0, (math.sqrt(n) - total / math.sqrt(energy)) / (math.sqrt(n) - 1)) if n > 1 else 0.0,
        "participation": energy**2 / (n * float(a.pow(4).sum())),
    }


def sparsity_of(weights: Weights, outputs: Outputs | None = None) -> float:
    """Share of the weights that are 0, or of the outputs whose weights are all 0."""
    if outputs is None:
        return measures(weights)["zero"]
    empty = torch.cat([(weights[name].detach().flatten(1) == 0).all(dim=1) for name in outputs])
    return float(empty.double().mean())


def prunable_sparsity(
    sparsities: Sequence[float], accuracies: Sequence[float], accuracy_of: Callable[[float], float], lost: float
) -> float:
    """Largest sparsity that costs at most ``lost`` accuracy, as does every smaller one tried.

    Accuracy need not fall steadily, and an island beyond the first fall does not count. Tried are ``sparsities`` and,
    between the last of them that holds and the next, ten equal steps.

    Parameters
    ----------
    sparsities, accuracies : sequence of float
        A curve of accuracy against sparsity; it begins with 0.
    accuracy_of : callable
        Accuracy at a sparsity.
    lost : float
        In the units of the accuracies.
    """
    enough = accuracies[0] - lost - 1e-9
    falls = [index for index, accuracy in enumerate(accuracies) if accuracy < enough]
    if not falls:
        return sparsities[-1]
    held, width = sparsities[falls[0] - 1], (sparsities[falls[0]] - sparsities[falls[0] - 1]) / STEPS_BETWEEN
    for step in range(1, STEPS_BETWEEN):
        candidate = round(sparsities[falls[0] - 1] + step * width, 6)
        if accuracy_of(candidate) < enough:
            break
        held = candidate
    return held
