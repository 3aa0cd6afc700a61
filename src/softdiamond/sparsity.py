r"""How sparse weights are, and what a network does without the smallest of them.

**Removal by magnitude** sets the weights with the lowest scores to 0. How the removed share is divided among tensors:

- ``global``: score \|w\|, one threshold for all;
- ``relative``: score \|w\| / rms_0, in units of the tensor's starting root mean square: one threshold for all;
- ``layerwise``: the same share of every tensor.

Whole **outputs**, the neurons and filters of hidden layers, are removed likewise, with the rms of an output's weights in the
place of \|w\|, together with its bias and its part of a normalization.

`Ranking` gives the masks of any share, `Gradual` removes while a network trains, `prunable_share` is the largest share that
costs no more than a stated accuracy, `measures` says how sparse the weights are as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["DIVISIONS", "Gradual", "Outputs", "Ranking", "cubic", "measures", "prunable_share", "removed_share"]

Weights = Mapping[str, Tensor]
Outputs = Mapping[str, Sequence[str]]  # weights whose first dimension counts outputs, and the vectors that go with them

DIVISIONS = ("global", "relative", "layerwise")
STEPS_BETWEEN = 10  # between two shares of a curve, where the prunable share is looked for
UPDATES = 100  # of a gradual removal's masks, at most


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
        magnitude. With a = \|w\|, n weights: ``gini``, the Gini index of a (0: all equal, towards 1: few have all);
        ``hoyer``, (sqrt(n) - sum a / sqrt(sum a^2)) / (sqrt(n) - 1), 0 to 1; ``participation``, the participation ratio
        (sum w^2)^2 / (n sum w^4): the share of weights that carry the energy, 1 to 1/n. Weights that are all zero are all
        equal: 0, 0 and 1.

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


def removed_share(weights: Weights, outputs: Outputs | None = None) -> float:
    """Share of the weights that are 0, or of the outputs whose weights are all 0."""
    if outputs is None:
        return measures(weights)["zero"]
    empty = torch.cat([(weights[name].detach().flatten(1) == 0).all(dim=1) for name in outputs])
    return float(empty.double().mean())


class Ranking:
    """The order in which weights are removed; sorted once, for the masks of any number of shares.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Named tensors; they are read here, and never changed.
    division : {"global", "relative", "layerwise"}
        How the removed share is divided among the tensors.
    reference : mapping of str to float, optional
        Starting rms of each tensor, for ``relative``.
    outputs : mapping of str to sequence of str, optional
        Whole outputs are removed: the first dimension of each tensor named here, and of the vectors that go with it, all of
        them in ``weights``.

    Raises
    ------
    ValueError
        If the division is unknown, or ``relative`` has no positive reference for a tensor.
    """

    def __init__(
        self,
        weights: Weights,
        division: str = "global",
        reference: Mapping[str, float] | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        if division not in DIVISIONS:
            raise ValueError(f"division must be one of {', '.join(DIVISIONS)}; got {division!r}")
        self._outputs, self._dims = outputs, {name: w.dim() for name, w in weights.items()}
        if outputs is not None:
            weights = {name: weights[name].detach().flatten(1).double().square().mean(1).sqrt() for name in outputs}
        units = dict.fromkeys(weights, 1.0)
        if division == "relative":
            units = {name: (reference or {}).get(name, 0.0) for name in weights}
            if wanting := [name for name, unit in units.items() if not unit > 0.0]:
                raise ValueError(f"division relative needs the starting rms of each tensor; {wanting[0]} has none")
        wide = {name: w.detach() if w.dtype == torch.float64 else w.detach().float() for name, w in weights.items()}
        self._scores = {name: w.abs() / units[name] for name, w in wide.items()}
        groups = [[name] for name in weights] if division == "layerwise" else [list(weights)]
        self._groups = [
            (names, torch.cat([self._scores[n].flatten() for n in names]).sort().values) for names in groups
        ]

    def kept(self, share: float) -> dict[str, Tensor]:
        """Masks, True where a weight stays, that remove ``share`` of the weights, those of equal score together.

        They broadcast to the tensors; of outputs there is one for each vector that goes with them too.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must be in [0, 1]; got {share}")
        masks = {}
        for names, ranked in self._groups:
            number = round(share * ranked.numel())
            threshold = ranked[number - 1] if number else ranked.new_tensor(-1.0)
            masks.update({name: self._scores[name] > threshold for name in names})
        for name, others in (self._outputs or {}).items():
            mask = masks[name]
            masks |= dict.fromkeys(others, mask)
            masks[name] = mask.view(-1, *[1] * (self._dims[name] - 1))
        return masks


def cubic(progress: float, begin: float, end: float) -> float:
    """Share of the target to have been removed: ``1 - (1 - t)^3``, t from 0 at ``begin`` to 1 at ``end``.

    References
    ----------
    Zhu and Gupta 2017, To prune, or not to prune, arXiv:1710.01878, equation 1 (with nothing removed at first).
    """
    t = min(max((progress - begin) / (end - begin), 0.0), 1.0) if end > begin else float(progress >= begin)
    return 1.0 - (1.0 - t) ** 3


class Gradual:
    """Gradual removal while a network trains: call it after each step of the optimizer.

    The removed share follows `cubic`; the masks follow the weights' scores until the target is reached, at most 100 times.
    What is removed is held at 0, until the masks of a larger share, chosen anew, may leave it out.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The parameters; they are changed in place.
    share : float
        Target, in [0, 1].
    steps : int
        Steps of the whole training.
    begin, end : float
        Fractions of the training between which the share rises. With both 0 the masks are fixed from the start.
    division, reference, outputs
        As for `Ranking`.
    """

    def __init__(
        self,
        weights: Weights,
        share: float,
        steps: int,
        *,
        begin: float,
        end: float,
        division: str = "global",
        reference: Mapping[str, float] | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        self._weights, self._share, self._steps = dict(weights), share, steps
        self._begin, self._end = begin, end
        self._division, self._reference, self._outputs = division, reference, outputs
        self._every = max(1, round((end - begin) * steps / UPDATES))
        self._step = 0
        self._reached = 0.0
        self._masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self._weights.items()}
        if end == 0.0:
            self._rank(share)

    def _rank(self, share: float) -> None:
        self._masks = Ranking(self._weights, self._division, self._reference, self._outputs).kept(share)
        self._reached = share
        self._hold()

    @torch.no_grad()
    def _hold(self) -> None:
        for name, mask in self._masks.items():
            self._weights[name].mul_(mask)

    def __call__(self) -> None:
        """Take the next step."""
        self._step += 1
        wanted = self._share * cubic(self._step / self._steps, self._begin, self._end)
        due = self._step % self._every == 0 or wanted == self._share
        if due and wanted > self._reached:
            self._rank(wanted)
        elif self._reached:
            self._hold()

    def state_dict(self) -> dict[str, Any]:
        """Masks and step, for a checkpoint."""
        return {"step": self._step, "reached": self._reached, "masks": self._masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._step, self._reached, self._masks = state["step"], state["reached"], dict(state["masks"])


def prunable_share(
    shares: Sequence[float], accuracies: Sequence[float], accuracy_of: Callable[[float], float], lost: float
) -> float:
    """Largest share whose removal costs at most ``lost`` accuracy, as does every smaller share looked at.

    Accuracy need not fall steadily, and an island beyond the first fall does not count. Looked at are ``shares`` and,
    between the last of them that holds and the next, ten equal steps.

    Parameters
    ----------
    shares, accuracies : sequence of float
        A curve of accuracy against removed share; it begins with share 0.
    accuracy_of : callable
        Accuracy after removal of a share.
    lost : float
        In the units of the accuracies.
    """
    enough = accuracies[0] - lost - 1e-9
    falls = [index for index, accuracy in enumerate(accuracies) if accuracy < enough]
    if not falls:
        return shares[-1]
    held, width = shares[falls[0] - 1], (shares[falls[0]] - shares[falls[0] - 1]) / STEPS_BETWEEN
    for step in range(1, STEPS_BETWEEN):
        candidate = round(shares[falls[0] - 1] + step * width, 6)
        if accuracy_of(candidate) < enough:
            break
        held = candidate
    return held
