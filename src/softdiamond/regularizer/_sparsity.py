r"""Exact zeros while a network trains: a share of the weights removed gradually, or a scale that goes to 0.

**Target.** The sparsity rises as t -> 1 - (1 - t)^3 between two fractions of the training
(`softdiamond.pruning.GradualPruning`); what falls below the moving threshold is set to 0 after the penalty's step and held, so that
no momentum revives it. No tensor keeps less than `MIN_DENSITY_RATIO` of the share that all keep together. Groups go whole, with
their bias and their part of a batch normalization. A tensor frozen at the first step does not count; one that is frozen later
counts with what it has lost by then, and the others make up for it.

**Homotopy.** At step k of n the relative scale is multiplied by `END` ** (k / n), and lambda = strength / omega(rms_0; c) with
it, so that the gradient at a weight of size rms_0 stays the same while c -> 0. There lambda R tends to s log\|w\| up to a
constant: R'(w) w -> alpha + 1, so lambda (alpha + 1) -> strength rms_0^2, for a group of d weights lambda (alpha + d) -> strength
rho^2, rho its reference norm. The last step is the stationary branch of that log penalty,

.. math:: u = (|v| + \sqrt{v^2 - 4 s}) / 2 \text{ where } |v| > 2 \sqrt s, \text{ else } 0,
          \qquad s = \eta\, \text{strength}\, \mathrm{rms}_0^2,

with the last eta that was not 0 (`softdiamond.penalties.prox.log_penalty_step`). What is 0 then is held from there on.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond.penalties import SoftDiamond
from softdiamond.penalties.groups import coupled_parameters
from softdiamond.pruning import MIN_DENSITY_RATIO, SCOPES, GradualPruning, Units
from softdiamond.regularizer._records import ParameterRecord, WeightGroups

PRUNING_INTERVAL = (0.0, 0.5)  # the default: fractions of the training between which the sparsity rises
END = 1e-3  # of the scale, in units of that at the start
STAGES = 200  # of the scale on its way there


class SparsityController:
    """Which weights of a regularizer are pruned while it trains, and held at 0; and how its scale goes to 0.

    Parameters
    ----------
    target : float or int, optional
        Share in (0, 1), or number, of weights to be pruned.
    total_steps : int, optional
        Of the whole training.
    pruning_interval : pair of float
        Fractions of the training between which the sparsity rises.
    scope : str
        As `softdiamond.pruning.Ranking`.
    schedule : {"homotopy"}, optional
        How the scale moves.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its range, or they do not go together.
    """

    def __init__(self, target: Any, total_steps: Any, pruning_interval: Any, scope: str, schedule: Any) -> None:
        if schedule not in (None, "homotopy"):
            raise ValueError(f'schedule must be None or "homotopy"; got {schedule!r}')
        if (target is None and schedule is None) != (total_steps is None):
            raise ValueError(
                "total_steps, the number of steps of the whole training, goes with sparsity_target or schedule, and they with it"
            )
        if total_steps is not None:
            if isinstance(total_steps, bool) or not isinstance(total_steps, numbers.Integral):
                raise TypeError(f"total_steps must be an integer; got {total_steps!r}")
            if total_steps < 1:
                raise ValueError(f"total_steps must be positive; got {total_steps}")
        self.target = None if target is None else checked_target(target)
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
        try:
            self.begin, self.end = (float(fraction) for fraction in pruning_interval)
        except (TypeError, ValueError):
            raise TypeError(
                f"pruning_interval must be two fractions of the training; got {pruning_interval!r}"
            ) from None
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(
                f"pruning_interval must be two fractions with 0 <= begin <= end <= 1; got {pruning_interval!r}"
            )
        if target is None and (scope, (self.begin, self.end)) != (SCOPES[0], PRUNING_INTERVAL):
            raise ValueError("scope and pruning_interval say how a sparsity_target is met: they go with it")
        self.scope, self.schedule = scope, schedule
        self.total = int(total_steps or 1)
        self.masks: dict[str, Tensor] = {}  # True where a weight is held at 0 whatever the target
        self._gradual: GradualPruning | None = None
        self._saved: Mapping[str, Any] | None = None  # of a target whose steps have not begun here

    # --- what is to be pruned -----------------------------------------------------------------------------------------

    def check(self, entries: Sequence[ParameterRecord], attachable: bool = False) -> None:
        """Refuse weights of which no share can be removed, or whose scale cannot go to 0.

        Raises
        ------
        TypeError
            If a weight is sharded over processes.
        ValueError
            If the target is above the number of weights, there is a center, or a penalty has no log penalty as its limit.
        """
        if self.target is not None or self.schedule is not None:
            for entry in entries:
                if hasattr(entry.parameter, "to_local"):
                    raise TypeError(f"{entry.name} is sharded over processes: its zeros cannot be chosen here")
                if entry.center is not None:
                    raise ValueError('zeros go with center="zero": about the initial weights nothing is 0')
        if self._gradual is not None and any(entry.name not in self._known for entry in entries):
            raise ValueError("add weights before the first step: the share that is removed is of all of them")
        count = sum(entry.parameter.numel() for entry in entries if entry.parameter.requires_grad)
        if isinstance(self.target, int) and self.target > count:
            raise ValueError(f"sparsity_target {self.target} is above the number of regularized weights, {count}")
        if self.schedule is not None:
            for entry in entries:
                if not isinstance(entry.penalty, SoftDiamond) or entry.penalty.alpha == 2:
                    raise ValueError(
                        f"homotopy is for soft diamonds with alpha below 2, whose limit is the log penalty; {entry.name} has "
                        f"{entry.penalty!r}"
                    )

    def _counted(self, entries: Sequence[ParameterRecord]) -> list[ParameterRecord]:
        """Return those that are trained now, or were when the target began; those frozen then, and groups with a part that is, do
        not count.
        """
        begun = self._saved if self._gradual is None else self._gradual.state_dict()
        if begun is not None:
            return [entry for entry in entries if entry.name in begun["masks"]]
        members = {entry.name: [entry] if entry.groups is None else entry.groups.members for entry in entries}
        return [entry for entry in entries if all(each.parameter.requires_grad for each in members[entry.name])]

    def _begin(self, entries: Sequence[ParameterRecord]) -> GradualPruning:
        trained = self._counted(entries)
        tensors = {entry.name: entry.parameter for entry in trained}
        blocks = dict.fromkeys(entry.groups for entry in trained if entry.groups is not None)
        units, references = [], {entry.name: entry.reference for entry in trained}
        for block in blocks:
            coupled = {name: p for name, p in block.coupled.items() if name not in tensors}
            units.append(
                Units({e.name: layout for e, layout in zip(block.members, block.layouts, strict=True)}, tuple(coupled))
            )
            tensors |= coupled
            sizes = [entry.parameter.numel() for entry in block.members]
            energy = sum(n * entry.reference**2 for n, entry in zip(sizes, block.members, strict=True))
            references[block.members[0].name] = math.sqrt(energy / sum(sizes))
        count = sum(entry.parameter.numel() for entry in trained)
        target = self.target or 0.0
        share = target / count if isinstance(target, int) else target
        self._known = {entry.name for entry in entries}
        begun = GradualPruning(
            tensors, share, self.total, begin=self.begin, end=self.end, scope=self.scope, reference=references,
            units=units, min_density_ratio=MIN_DENSITY_RATIO,
        )  # fmt: skip
        if self._saved is not None:
            begun.load_state_dict(self._saved)
            self._saved = None
        return begun

    _known: set[str] = set()  # noqa: RUF012 (replaced, never changed)

    # --- while it trains -----------------------------------------------------------------------------------------------

    def after_step(self, entries: Sequence[ParameterRecord], counts: bool) -> None:
        """Remove what is due after a step, and hold what is removed; ``counts`` is False for all but one of several optimizers."""
        if self.target is not None:
            self._gradual = self._gradual or self._begin(entries)
            if counts:
                self._gradual()
            else:
                self._gradual.hold()
        self.apply_masks(entries)

    def apply_masks(self, entries: Sequence[ParameterRecord]) -> None:
        """Set to 0 what is held whatever the target."""
        for entry in entries:
            if (mask := self.masks.get(entry.name)) is not None:
                entry.parameter.detach().masked_fill_(mask.to(entry.parameter.device), 0.0)

    def hold_current_zeros(self, entries: Sequence[ParameterRecord]) -> None:
        """Hold from now on all weights that are 0."""
        self.masks = {entry.name: entry.parameter.detach() == 0 for entry in entries}

    def scale_factor(self, steps: int) -> float:
        """Return what the scale is multiplied by after so many steps."""
        if self.schedule is None:
            return 1.0
        return float(END ** (math.floor(STAGES * min(steps / self.total, 1.0)) / STAGES))

    def is_last(self, steps: int) -> bool:
        """Whether the step after so many is the last of a homotopy."""
        return self.schedule is not None and steps == self.total - 1

    def is_over(self, steps: int) -> bool:
        """Whether a homotopy has ended."""
        return self.schedule is not None and steps >= self.total

    # --- description and state -----------------------------------------------------------------------------------------

    def notes(self, entries: Sequence[ParameterRecord], steps: int) -> list[str]:
        """Return target and progress in words."""
        notes = []
        if self.target is not None:
            what = f"{100 * self.target:g} %"
            if isinstance(self.target, int):
                count = sum(entry.parameter.numel() for entry in self._counted(entries))
                what = f"{self.target:,} of {count:,} weights ({100 * self.target / max(count, 1):.3g} %)"
            begin, end = round(self.begin * self.total), round(self.end * self.total)
            notes.append(
                f"target: {what} removed between steps {begin} and {end} of {self.total} ({self.scope}); "
                f"{100 * self.sparsity:.1f} % are removed now, at step {steps}"
            )
            blocks = dict.fromkeys(entry.groups for entry in entries if entry.groups is not None)
            if coupled := [f"{b.members[0].name} ({', '.join(b.coupled)})" for b in blocks if b.coupled]:
                notes.append(f"pruned with its outputs: {', '.join(coupled)}")
        if self.schedule is not None:
            where = (
                "over: zeros are held"
                if self.is_over(steps)
                else f"scale at {self.scale_factor(steps):.3g} of its start"
            )
            notes.append(f"homotopy: the scale goes to 0 over {self.total} steps; at step {steps} {where}")
        if self.masks and not self.is_over(steps):
            count = sum(int(mask.sum()) for mask in self.masks.values())
            notes.append(f"held at 0: {count:,} weights")
        return notes

    @property
    def sparsity(self) -> float:
        """Sparsity that the target has reached so far."""
        if self._gradual is not None:
            return self._gradual.sparsity
        return 0.0 if self._saved is None else float(self._saved["reached"])

    @property
    def settings(self) -> str:
        """What must be the same where a state is taken over."""
        target = f"sparsity_target {self.target!r}, pruning_interval {self.begin:g} to {self.end:g}, scope {self.scope}"
        return f"{target if self.target is not None else 'no sparsity_target'}, schedule {self.schedule}, total_steps {self.total}"

    def state_dict(self) -> dict[str, Any]:
        """Masks and progress."""
        gradual = self._saved if self._gradual is None else self._gradual.state_dict()
        return {"settings": self.settings, "gradual": gradual, "masks": dict(self.masks)}

    def checked_state(self, state: Any, shapes: Mapping[str, torch.Size]) -> tuple[Any, dict[str, Tensor]]:
        """Return progress and masks of a saved state, checked; nothing is taken over.

        Raises
        ------
        ValueError
            If it was saved with other settings, or is damaged.
        """
        if state is None:  # of a regularizer that had no zeros to keep
            state = {
                "settings": SparsityController(None, None, PRUNING_INTERVAL, SCOPES[0], None).settings,
                "gradual": None,
                "masks": {},
            }
        try:
            settings, gradual, masks = _renamed(str(state["settings"])), state["gradual"], dict(state["masks"])
            every = dict(masks) if gradual is None else {**gradual["masks"], **masks}
            known = gradual is None or (int(gradual["step"]) >= 0 and 0 <= float(gradual["reached"]) <= 1)
            fits = all(mask.dtype == torch.bool and _fits(mask, shapes.get(name)) for name, mask in every.items())
        except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:  # the last of shapes
            raise ValueError(f"the state's zeros are damaged: {error!r}") from None
        if settings != self.settings:
            raise ValueError(f"the state was saved with {settings}; here it is {self.settings}")
        if not (known and fits):
            raise ValueError("the state's zeros are damaged, or of other weights")
        return gradual, masks

    def load(self, state: tuple[Any, dict[str, Tensor]]) -> None:
        """Go on from what `checked_state` returned."""
        self._saved, self.masks = state
        self._gradual = None


def checked_target(target: Any) -> int | float:
    """Return a target as an int or a float; raise unless it is a number of weights or a share of them."""
    if isinstance(target, bool) or not isinstance(target, numbers.Real):
        raise TypeError(f"sparsity_target must be a share in (0, 1) or a number of weights; got {target!r}")
    if isinstance(target, numbers.Integral):
        if target < 1:
            raise ValueError(f"a sparsity_target that is an integer is a number of weights, at least 1; got {target}")
        return int(target)
    if not 0 < float(target) < 1:
        hint = f"; did you mean {float(target) / 100:g}?" if 1 < float(target) < 100 else ""
        raise ValueError(
            f"a sparsity_target that is a float is the share of the weights to be removed, in (0, 1); got {target!r}{hint}"
        )
    return float(target)


def _renamed(settings: str) -> str:
    """Return the settings of a state in today's words: those of pruning were named removal and division."""
    return settings.replace(", removal ", ", pruning_interval ").replace(", division ", ", scope ")


def _fits(mask: Tensor, shape: torch.Size | None) -> bool:
    return shape is None or torch.broadcast_shapes(mask.shape, shape) == shape


def set_coupled(block: WeightGroups, model: Any) -> None:
    """Let the outputs of one layer take their vectors with them."""
    (entry, *others) = block.members
    if others or not isinstance(model, nn.Module) or entry.penalty.group != "output" or entry.parameter.dim() < 2:
        return
    parameters = dict(model.named_parameters())
    if entry.name in parameters:
        block.coupled = {name: parameters[name] for name in coupled_parameters(model, entry.name)}
