"""Gradual pruning by magnitude while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from softdiamond.pruning._measures import Outputs, Weights
from softdiamond.pruning._ranking import Ranking, Units

UPDATES = 100  # of the masks, at most


def cubic_schedule(progress: float, begin: float, end: float) -> float:
    """Share of the target sparsity that is due: ``1 - (1 - t)^3``, t from 0 at ``begin`` to 1 at ``end``.

    References
    ----------
    Zhu and Gupta 2017, To prune, or not to prune, arXiv:1710.01878, equation 1 (with nothing removed at first).
    """
    t = min(max((progress - begin) / (end - begin), 0.0), 1.0) if end > begin else float(progress >= begin)
    return 1.0 - (1.0 - t) ** 3


class GradualPruning:
    """Gradual pruning while a network trains: call it after each step of the optimizer.

    The sparsity follows `cubic_schedule`; the masks follow the weights' scores until the target is reached, at most 100 times.
    What is pruned is held at 0, until the masks of a larger sparsity, chosen anew, may leave it out. A parameter that is frozen
    meanwhile (``requires_grad_(False)``) keeps its mask, a group of which a part is frozen too: what was removed there counts,
    and the others make up for the rest, under a scope that lets them and as far as they can.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The parameters; they are changed in place.
    sparsity : float
        Target, in [0, 1].
    steps : int
        Steps of the whole training.
    begin, end : float
        Fractions of the training between which the sparsity rises. With both 0 the masks are fixed from the start.
    scope, reference, outputs, units
        As for `Ranking`.
    min_density_ratio : float, optional
        Least density (share of weights kept) of a tensor, in units of that of all together; then the number pruned is exact. By
        default there is none, and weights of equal score go together.
    """

    def __init__(
        self,
        weights: Weights,
        sparsity: float,
        steps: int,
        *,
        begin: float,
        end: float,
        scope: str = "global",
        reference: Mapping[str, float] | None = None,
        outputs: Outputs | None = None,
        units: Sequence[Units] = (),
        min_density_ratio: float | None = None,
    ) -> None:
        self._weights, self._target, self._steps = dict(weights), sparsity, steps
        self._begin, self._end = begin, end
        self._scope, self._reference, self._outputs, self._units = scope, reference, outputs, units
        self._min_density_ratio = min_density_ratio
        self._every = max(1, round((end - begin) * steps / UPDATES))
        self._step = 0
        self._reached = 0.0
        self._masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self._weights.items()}
        if end == 0.0:
            self._rank(sparsity)

    def _rank(self, sparsity: float) -> None:
        fixed = {name: self._masks[name] for name in self._frozen()}
        ranking = Ranking(self._weights, self._scope, self._reference, self._outputs, self._units, fixed)
        ratio = self._min_density_ratio
        kept = ranking.masks(sparsity) if ratio is None else ranking.exact_masks(sparsity, ratio * (1 - sparsity))
        kept = {name: mask.to(self._weights[name].device) for name, mask in kept.items()}
        self._masks = self._masks | kept | fixed
        self._reached = sparsity
        self.hold()

    def _frozen(self) -> set[str]:
        """Names of the tensors that are not trained, and of what goes with them."""
        frozen = {name for name, w in self._weights.items() if isinstance(w, nn.Parameter) and not w.requires_grad}
        for unit in self._units:
            if frozen & unit.layouts.keys():
                frozen |= {*unit.layouts, *unit.coupled}
        for name, others in (self._outputs or {}).items():
            if name in frozen:
                frozen |= set(others)
        return frozen

    @property
    def sparsity(self) -> float:
        """Sparsity now: the share of the weights that is pruned."""
        return self._reached

    @torch.no_grad()
    def hold(self) -> None:
        """Set to 0 what is pruned."""
        for name, mask in self._masks.items():
            self._weights[name].masked_fill_(~mask.to(self._weights[name].device), 0.0)  # a product would leave -0

    def __call__(self) -> None:
        """Take the next step."""
        self._step += 1
        wanted = self._target * cubic_schedule(self._step / self._steps, self._begin, self._end)
        due = self._step % self._every == 0 or wanted == self._target
        if due and wanted > self._reached:
            self._rank(wanted)
        elif self._reached:
            self.hold()

    def state_dict(self) -> dict[str, Any]:
        """Masks and step, for a checkpoint."""
        return {"step": self._step, "reached": self._reached, "masks": self._masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._step, self._reached, self._masks = state["step"], state["reached"], dict(state["masks"])
