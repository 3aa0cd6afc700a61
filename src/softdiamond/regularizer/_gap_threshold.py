r"""`gap_threshold`: small weights set to exactly 0 where a band without weights says which are small.

Two kinds of band:

- **after one proximal step.** The exact proximal map of eta lambda R jumps where eta lambda / c^2 is above its critical value, and
  leaves a band empty (`softdiamond.penalties.prox.gap`). The step is taken, and what lies below the band is set to 0.
- **as they are.** The widest band of \|w\| without a weight, at least a factor `FACTOR` wide, with `WEIGHTS` weights and a share `SHARE`
  of the tensor's on either side. By chance such a band is rare: with k weights above it in a tail of thickness alpha its
  probability is FACTOR^(-alpha k). For norms of groups, of which there are few, a factor `FACTOR_OF_NORMS` and one on either side.

Either way any threshold in the band gives the same mask; that is what the result certifies.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softdiamond.penalties.base import critical_step, find_jump, kept_share
from softdiamond.pruning import widest_gap
from softdiamond.regularizer._records import ParameterRecord, WeightGroups

if TYPE_CHECKING:
    from softdiamond.regularizer import Regularizer

FACTOR, WEIGHTS, SHARE = 2.0, 50, 1e-3
FACTOR_OF_NORMS = 10.0


@dataclass(frozen=True)
class Gap:
    """What was done to one tensor, or to the groups of several.

    Attributes
    ----------
    name : str
        Of the tensors.
    low, high : float or None
        Ends of the band without weights (norms): the largest set to 0, the smallest kept. None where there is no band.
    removed, zeros, count : int
        Weights that were set to 0 here, that are 0 now, and all.
    why : str
        How the band came about, or why there is none.
    """

    name: str
    low: float | None
    high: float | None
    removed: int
    zeros: int
    count: int
    why: str


@dataclass(frozen=True)
class GapThresholdResult:
    """What `gap_threshold` did: any threshold from ``low`` to ``high`` of a band gives the same mask.

    Attributes
    ----------
    gaps : list of Gap
        One for each tensor, or span of groups.
    loss_before, loss_after : float or None
        Where a loss was given.
    """

    gaps: list[Gap]
    loss_before: float | None
    loss_after: float | None

    @property
    def changed(self) -> bool:
        """Whether anything was set to 0."""
        return any(gap.removed for gap in self.gaps)

    @property
    def removed(self) -> float:
        """Share of the regularized weights that was set to 0 here."""
        return sum(gap.removed for gap in self.gaps) / sum(gap.count for gap in self.gaps)

    @property
    def zeros(self) -> float:
        """Share of the regularized weights that are 0 now."""
        return sum(gap.zeros for gap in self.gaps) / sum(gap.count for gap in self.gaps)

    def __str__(self) -> str:
        lines = []
        for gap in self.gaps:
            found = (
                "unchanged" if gap.low is None else f"any threshold in [{gap.low:.4g}, {gap.high:.4g}] gives this mask"
            )
            lines.append(f"{gap.name}: {found}; {gap.zeros:,} of {gap.count:,} are 0 ({gap.why})")
        lines.append(f"set to 0: {100 * self.removed:.2f} % of the weights; {100 * self.zeros:.2f} % are 0 now")
        if all(gap.low is None for gap in self.gaps):
            lines[-1] = f"no gap: nothing was changed; {100 * self.zeros:.2f} % of the weights are 0"
        if empty := [gap.name for gap in self.gaps if gap.zeros == gap.count]:
            which = "" if len(empty) == len(self.gaps) else f" of {', '.join(empty)}"
            lines.append(f"nothing is left: all weights{which} are 0")
        if self.loss_before is not None and self.loss_after is not None:
            lines.append(f"loss: {self.loss_before:.6g} before, {self.loss_after:.6g} after")
        return "\n".join(lines)


@torch.no_grad()
def gap_threshold(
    model: nn.Module,
    regularizer: Regularizer,
    *,
    step_lambda: float | None = None,
    loss: Callable[[nn.Module], float] | None = None,
) -> GapThresholdResult:
    r"""Set small weights to exactly 0 where an empty band separates them from the others; elsewhere change nothing.

    The regularizer holds the zeros from then on, in a fine-tuning with an optimizer it is attached to.

    Parameters
    ----------
    model : Module
        The trained model.
    regularizer : Regularizer
        That it was trained with.
    step_lambda : float, optional
        eta lambda of a final exact proximal step; where it is large enough for a tensor's scale, the step leaves a band empty.
        By default no step is taken, and a band is searched for among the weights as they are.
    loss : callable, optional
        Of the model, a number: stated before and after.

    Raises
    ------
    TypeError
        If it is no module, or no regularizer.
    ValueError
        If step_lambda is not positive and finite, or the regularizer belongs to another model.

    Examples
    --------
    >>> import softdiamond as sd
    >>> net = nn.Linear(100, 10)
    >>> reg = sd.Regularizer(net, sd.SoftDiamond(0.5), strength=1.0)
    >>> print(str(sd.gap_threshold(net, reg)).splitlines()[-1])
    no gap: nothing was changed; 0.00 % of the weights are 0
    """
    from softdiamond.regularizer import Regularizer

    for wanted, given in ((nn.Module, model), (Regularizer, regularizer)):
        if not isinstance(given, wanted):
            raise TypeError(
                f"gap_threshold takes a torch.nn.Module and its softdiamond.Regularizer; got {type(given).__name__}"
            )
    if step_lambda is not None and not (isinstance(step_lambda, numbers.Real) and 0 < float(step_lambda) < math.inf):
        raise ValueError(f"step_lambda, eta lambda of the last step, must be positive and finite; got {step_lambda!r}")
    entries = regularizer.regularized
    own = {id(parameter) for parameter in model.parameters()}
    if foreign := [entry.name for entry in entries if id(entry.parameter) not in own]:
        raise ValueError(f"the regularizer belongs to another model: {foreign[0]} is not in this one")
    before = None if loss is None else float(loss(model))
    gaps = []
    for entry in entries:
        if entry.groups is None:
            gaps.append(_threshold_weights(entry, step_lambda))
        elif entry.groups.members[0] is entry:
            gaps.append(_threshold_groups(entry.groups, step_lambda))
    result = GapThresholdResult(gaps, before, None)
    if result.changed:
        regularizer.hold_zeros()
    return GapThresholdResult(gaps, before, None if loss is None else float(loss(model)))


def _threshold_weights(entry: ParameterRecord, step_lambda: float | None) -> Gap:
    weight = entry.parameter.detach()
    if entry.center is not None:
        return _unchanged([entry], "about a center nothing is 0")
    if step_lambda is None:
        band, why = _found_gap(weight.abs(), FACTOR, max(WEIGHTS, math.ceil(SHARE * weight.numel())))
    else:
        step = step_lambda / entry.scale / entry.scale
        band, why = _empty_band(entry.penalty, step, entry.scale)
        if band is not None:
            weight.copy_(entry.penalty.prox(weight, step_lambda, entry.scale))
    if band is None:
        return _unchanged([entry], why)
    size = weight.abs()
    small = size <= math.sqrt(band[0]) * math.sqrt(band[1])
    return _removed([entry], size, small, [small], why)


def _threshold_groups(block: WeightGroups, step_lambda: float | None) -> Gap:
    if any(entry.center is not None for entry in block.members):
        return _unchanged(block.members, "about a center nothing is 0")
    norms = block.norms()
    if step_lambda is None:
        band, why = _found_gap(norms, FACTOR_OF_NORMS, 1)
    else:
        found = [_empty_band(part.law, step_lambda / part.length**2, part.length) for part in block.by_size]
        band, why = min(found, key=lambda each: each[0] is not None)  # none at all if one size of group has none
        if band is not None:
            if len(found) > 1:  # one threshold for all sizes only where their bands overlap
                band = max(b[0] for b, _ in found if b), min(b[1] for b, _ in found if b)
            if band[0] >= band[1]:
                return _unchanged(block.members, "groups of several sizes have no band in common")
            kept = block.each(norms, lambda part, x: kept_share(part.law, x, step_lambda / part.length**2))
            for entry, layout in zip(block.members, block.layouts, strict=True):
                share = layout.spread(kept.to(entry.parameter.device, entry.parameter.dtype))
                layout.unfolded(entry.parameter.detach()).mul_(share)
            norms = block.norms()
    if band is None:
        return _unchanged(block.members, why)
    small = norms <= math.sqrt(band[0]) * math.sqrt(band[1])
    masks = [
        layout.spread(small.to(entry.parameter.device)).expand(layout.shape).reshape(entry.parameter.shape)
        for entry, layout in zip(block.members, block.layouts, strict=True)
    ]
    return _removed(block.members, norms, small, masks, why)


def _empty_band(penalty: Any, step: float, scale: float) -> tuple[tuple[float, float] | None, str]:
    """Return the band that the proximal map at unit scale leaves out, in units of the scale, and how it came about or why there is none."""
    jump = find_jump(penalty, step)
    if jump is None:
        return (
            None,
            f"no gap: step_lambda / scale^2 = {step:.3g} is not above the critical {critical_step(penalty):.3g}",
        )
    return (jump.below * scale, jump.above * scale), "proximal step"


def _found_gap(magnitudes: Tensor, factor: float, minimum: int) -> tuple[tuple[float, float] | None, str]:
    """Return the widest gap among the weights as they are, and how it came about or why there is none."""
    gap = widest_gap(magnitudes, factor, minimum)
    none = f"no gap: no empty band a factor {factor:g} wide with {minimum} on either side"
    return gap, none if gap is None else "empty band seen"


def _removed(
    entries: Sequence[ParameterRecord], sizes: Tensor, small: Tensor, masks: Sequence[Tensor], why: str
) -> Gap:
    """Set what is small to 0 and return the result."""
    below, above = sizes[small], sizes[~small]
    low = float(below.max()) if below.numel() else 0.0
    high = float(above.min()) if above.numel() else math.inf
    removed = 0
    for entry, mask in zip(entries, masks, strict=True):
        weight = entry.parameter.detach()
        removed += int((mask & (weight != 0)).sum())
        weight.masked_fill_(mask, 0.0)
    zeros = sum(int((entry.parameter == 0).sum()) for entry in entries)
    return Gap(_names(entries), low, high, removed, zeros, _count(entries), why)


def _unchanged(entries: Sequence[ParameterRecord], why: str) -> Gap:
    zeros = sum(int((entry.parameter == 0).sum()) for entry in entries)
    return Gap(_names(entries), None, None, 0, zeros, _count(entries), why)


def _names(entries: Sequence[ParameterRecord]) -> str:
    return ", ".join(entry.name for entry in entries)


def _count(entries: Sequence[ParameterRecord]) -> int:
    return sum(entry.parameter.numel() for entry in entries)
