r"""Which weights are removed: ranking by magnitude.

The weights with the lowest scores are set to 0. How the sparsity is divided among tensors:

- ``global``: score \|w\|, one threshold for all;
- ``relative``: score \|w\| / rms_0, in units of the tensor's starting root mean square: one threshold for all;
- ``layerwise``: the same sparsity of every tensor.

Whole **outputs**, the neurons and filters of hidden layers, are removed likewise, with the rms of an output's weights in the
place of \|w\|, together with its bias and its part of a normalization; and any **groups** of `softdiamond.penalties.groups`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softdiamond.penalties.groups import Layout, coupled_parameters
from softdiamond.pruning._measures import Outputs, Weights

SCOPES = ("global", "relative", "layerwise")
MIN_DENSITY_RATIO = 0.1  # density that a tensor keeps at least, in units of that of all together


@dataclass(frozen=True, eq=False)
class Units:
    """Groups that are removed whole: those of one tensor, or of several whose i-th groups go together.

    Attributes
    ----------
    layouts : mapping of str to Layout
        Of each tensor, by name, with as many groups.
    coupled : tuple of str
        Vectors with one number for each group that go with it: a bias, scale and shift of a normalization.
    """

    layouts: Mapping[str, Layout]
    coupled: tuple[str, ...] = ()

    @property
    def sizes(self) -> Tensor:
        """Weights in each group, int64."""
        return torch.stack([layout.sizes for layout in self.layouts.values()]).sum(0)

    def scores(self, weights: Weights) -> Tensor:
        """Root mean square of each group."""
        norms = [layout.norms(weights[name].detach()).square().cpu() for name, layout in self.layouts.items()]
        return (torch.stack(norms).sum(0) / self.sizes.clamp(min=1)).sqrt().float()

    def masks(self, kept: Tensor, weights: Weights) -> dict[str, Tensor]:
        """Masks of the tensors, which broadcast to them, from one of the groups."""
        masks = {}
        for name, layout in self.layouts.items():
            mask = layout.spread(kept)
            if layout.split is not None or layout.labels is not None:
                mask = mask.expand(layout.shape).reshape(weights[name].shape)
            masks[name] = mask
        return masks | dict.fromkeys(self.coupled, kept)


class Ranking:
    """The order in which weights are removed; sorted once, for the masks of any sparsity.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Named tensors; they are read here, and never changed.
    scope : {"global", "relative", "layerwise"}
        How the sparsity is divided among the tensors.
    reference : mapping of str to float, optional
        Starting rms of each tensor, for ``relative``.
    outputs : mapping of str to sequence of str, optional
        Whole outputs are removed: the first dimension of each tensor named here, and of the vectors that go with it, all of
        them in ``weights``.
    units : sequence of Units
        Groups of these tensors are removed whole; the other tensors weight by weight. For `exact_masks` alone.
    fixed : mapping of str to Tensor
        Masks of tensors in which nothing moves any more: what they have removed counts, and they give no more as long as the
        others can make up for them.

    Raises
    ------
    ValueError
        If the scope is unknown, or ``relative`` has no positive reference for a tensor.
    """

    def __init__(
        self,
        weights: Weights,
        scope: str = "global",
        reference: Mapping[str, float] | None = None,
        outputs: Outputs | None = None,
        units: Sequence[Units] = (),
        fixed: Mapping[str, Tensor] | None = None,
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
        self._weights, self._outputs, self._units = weights, outputs, {next(iter(unit.layouts)): unit for unit in units}
        self._dims = {name: w.dim() for name, w in weights.items()}
        sizes = {name: unit.sizes for name, unit in self._units.items()}
        in_units = {name for unit in units for name in (*unit.layouts, *unit.coupled)}
        if outputs is not None:
            weights = {name: weights[name].detach().flatten(1).double().square().mean(1).sqrt() for name in outputs}
        tensors = {name: w for name, w in weights.items() if name not in in_units}
        scored = {**tensors, **{name: unit.scores(weights) for name, unit in self._units.items()}}
        scale = dict.fromkeys(scored, 1.0)
        if scope == "relative":
            scale = {name: (reference or {}).get(name, 0.0) for name in scored}
            if wanting := [name for name, unit in scale.items() if not unit > 0.0]:
                raise ValueError(f"scope relative needs the starting rms of each tensor; {wanting[0]} has none")
        wide = {name: w.detach() if w.dtype == torch.float64 else w.detach().float() for name, w in scored.items()}
        self._scores = {name: w.abs() / scale[name] for name, w in wide.items()}
        for name in self._scores.keys() & (fixed or {}).keys():
            kept = (fixed or {})[name].expand(self._weights[name].shape)
            if name in self._units:
                kept = self._units[name].layouts[name].norms(kept.float()) > 0
            elif outputs is not None:
                kept = kept.flatten(1).any(1)
            score = self._scores[name]
            self._scores[name] = torch.full_like(score, -math.inf).masked_fill_(kept.to(score.device), math.inf)
        self._sizes = {name: sizes.get(name) for name in scored}
        self._groups = [[name] for name in scored] if scope == "layerwise" else [list(scored)]
        self._ranked: dict[str, Tensor] = {}

    def masks(self, sparsity: float) -> dict[str, Tensor]:
        """Masks, True where a weight stays, that prune the share ``sparsity`` of the weights, those of equal score together.

        They broadcast to the tensors; of outputs there is one for each vector that goes with them too.
        """
        if not 0.0 <= sparsity <= 1.0:
            raise ValueError(f"sparsity must be in [0, 1]; got {sparsity}")
        masks = {}
        for names in self._groups:
            if names[0] not in self._ranked:
                self._ranked[names[0]] = torch.cat([self._scores[name].flatten() for name in names]).sort().values
            ranked = self._ranked[names[0]]
            number = round(sparsity * ranked.numel())
            threshold = ranked[number - 1] if number else ranked.new_tensor(-1.0)
            masks.update({name: self._scores[name] > threshold for name in names})
        return self._spread(masks)

    def _spread(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return masks that broadcast to the tensors, of outputs one for each vector that goes with them too."""
        for name, others in (self._outputs or {}).items():
            mask = masks[name]
            masks |= dict.fromkeys(others, mask)
            masks[name] = mask.view(-1, *[1] * (self._dims[name] - 1))
        return masks

    def exact_masks(self, sparsity: float, min_density: float) -> dict[str, Tensor]:
        """Masks as of `masks`, of equal scores the first alone, so that the number of weights removed is the nearest there is.

        Each tensor keeps at least ``min_density`` of its weights (or groups, outputs), and one, as long as the sparsity can be met without.
        """
        masks: dict[str, Tensor] = {}
        for names in self._groups:
            device = self._scores[names[0]].device
            kept = self._kept([self._scores[name].to(device) for name in names], names, sparsity, min_density)
            masks |= {name: mask.view(self._scores[name].shape) for name, mask in zip(names, kept, strict=True)}
        for name, unit in self._units.items():
            masks |= unit.masks(masks.pop(name), self._weights)
        return self._spread(masks)

    def _kept(
        self, scores: Sequence[Tensor], names: Sequence[str], sparsity: float, min_density: float
    ) -> Sequence[Tensor]:
        flat = [score.flatten().clone() for score in scores]
        for each in flat:
            few = min(each.numel(), max(1, math.ceil(min_density * each.numel())))
            each[each.topk(few).indices] = math.inf
        order = torch.cat(flat).argsort(stable=True)
        if all(self._sizes[name] is None for name in names):
            number = round(sparsity * order.numel())
        else:
            whole = [self._sizes[name] for name in names]
            sizes = torch.cat(
                [torch.ones(len(s), dtype=torch.int64) if n is None else n for s, n in zip(flat, whole, strict=True)]
            )
            total = sizes[order.cpu()].cumsum(0)
            target = sparsity * float(total[-1])
            number = int((total <= target).sum())
            before = float(total[number - 1]) if number else 0.0
            number += int(number < len(total) and float(total[number]) - target < target - before)
        kept = torch.ones(order.numel(), dtype=torch.bool, device=order.device)
        kept[order[:number]] = False
        return kept.split([each.numel() for each in flat])


def hidden_outputs(model: nn.Module, weights: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return which weights of hidden layers have outputs that can be pruned, and which vectors go with these.

    Parameters
    ----------
    model : Module
        Whose linear layers and convolutions are meant.
    weights : iterable of str
        Names of its weight tensors, in order. The last is left out: its outputs are the model's own.

    Returns
    -------
    dict
        For each weight the layer's bias, and the weight and bias of a batch normalization right after it.
    """
    modules = dict(model.named_modules())
    layers = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d
    return {
        name: coupled_parameters(model, name)
        for name in list(weights)[:-1]
        if isinstance(modules[name.rpartition(".")[0]], layers)
    }
