"""The steps of a regularizer on all of its weights: implicit, proximal and log penalty after an optimizer's step, gradient before.

How one tensor moves stands in ``_steps``; here is which tensors, with what strength, in which order, and what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from softdiamond.regularizer._records import ParameterRecord, WeightGroups
from softdiamond.regularizer._selection import Selection
from softdiamond.regularizer._sparsity import SparsityController
from softdiamond.regularizer._steps import (
    add_gradient,
    group_step,
    implicit_step,
    local_part,
    log_penalty_step,
    norms_for_step,
    proximal_step,
    rounds_at_random,
)


class Stepper:
    """Takes the steps of a penalty on the weights of a selection.

    Parameters
    ----------
    selection : Selection
        The weights, and the strength.
    sparsity : SparsityController
        What is removed and held, and how the scale moves.
    seed : int
        Of the random rounding.

    Attributes
    ----------
    counts : list of int
        Steps done by each attached optimizer, in the order of attaching, the first also of `softdiamond.Regularizer.step`.
    last_eta : dict of str to float
        In a homotopy the last step length that was not 0, by name.
    """

    def __init__(self, selection: Selection, sparsity: SparsityController, seed: int) -> None:
        self.sparsity = sparsity
        self.counts: list[int] = []
        self.last_eta: dict[str, float] = {}
        self._selection, self._seed = selection, seed
        self._generators: dict[torch.device, Generator] = {}

    # --- what is counted and kept ------------------------------------------------------------------------------------

    def count(self, place: int) -> int:
        """Return how many steps the optimizer at a place has done."""
        return self.counts[place] if place < len(self.counts) else 0

    def advance(self, place: int) -> None:
        """Count a step."""
        self.counts += [0] * (place + 1 - len(self.counts))
        self.counts[place] += 1

    def generator_states(self) -> dict[str, Tensor]:
        """Return the states of the random rounding, by device."""
        return {str(device): generator.get_state() for device, generator in self._generators.items()}

    def resume(
        self, counts: list[int], last_eta: dict[str, float], generators: Mapping[torch.device, Generator]
    ) -> None:
        """Go on from a saved state."""
        self.counts, self.last_eta = counts, last_eta
        self._generators |= generators

    def _generator(self, weight: Tensor, center: Tensor | None) -> Generator | None:
        """Return the generator of a weight that is rounded at random."""
        if not rounds_at_random(weight, center):
            return None
        if weight.device not in self._generators:
            self._generators[weight.device] = Generator(weight.device).manual_seed(self._seed)
        return self._generators[weight.device]

    def _strength_of(self, record: ParameterRecord, steps: int) -> float:
        """Strength, or lambda, after so many steps."""
        return self._selection.strength.at(steps, record.strength)

    # --- the loss term -----------------------------------------------------------------------------------------------

    def value(self) -> Tensor:
        """Sum of lambda R over the weights that are being trained."""
        terms = [self._term(record) for record in self._selection.records if record.parameter.requires_grad]
        total: Tensor | None = None
        for term in terms:
            if term is not None:
                total = term if total is None else total + term.to(total.device)
        return torch.zeros(()) if total is None else total

    def _term(self, record: ParameterRecord) -> Tensor | None:
        """lambda R of a tensor; of groups that span tensors only for the first that is trained."""
        weight, strength = record.parameter, self._strength_of(record, self.count(0))
        if hasattr(weight, "to_local"):
            raise TypeError(f"{record.name} is sharded, of which no loss term is made: attach to the optimizer instead")
        if record.groups is not None:
            first = next(each for each in record.groups.members if each.parameter.requires_grad)
            if first is not record:
                return None
            term = record.groups.value(strength)
            return term if weight.dtype == torch.float64 else term.float()
        weight = weight if weight.dtype == torch.float64 else weight.float()
        center = _center_of(record)
        distance = weight if center is None else weight - center
        lam = strength * record.normalized_lambda * record.scale * record.scale
        return lam * record.penalty.value(distance, record.scale).sum()

    # --- after the optimizer's step ----------------------------------------------------------------------------------

    def step(self, moved: Iterable[tuple[ParameterRecord, float]], mode: str, place: int, first: bool) -> None:
        """Take and count the step on records, each with its eta, then remove and hold what is due.

        Parameters
        ----------
        moved : iterable of ParameterRecord and float
            Read once.
        mode : {"implicit", "prox"}
            Which step.
        place : int
            Of the optimizer, among those attached.
        first : bool
            Whether it is the one of several whose steps a sparsity target counts.
        """
        self._move(moved, mode, self.count(place))
        self.advance(place)
        self.remove_and_hold(first)

    def remove_and_hold(self, first: bool) -> None:
        """Remove what a sparsity target says is due, and hold zeros; ``first`` as of `step`."""
        self.sparsity.after_step(self._selection.records, counts=first)

    def _move(self, moved: Iterable[tuple[ParameterRecord, float]], mode: str, steps: int) -> None:
        """Take the step; groups read their norm before any of their tensors moves."""
        if self.sparsity.is_over(steps):
            return
        self._scale_at(steps)
        if self.sparsity.is_last(steps):
            mode = "log penalty"
        grouped: dict[WeightGroups, list[tuple[ParameterRecord, float]]] = {}
        for record, eta in moved:
            eta = self._never_zero(record, eta)
            if record.groups is None:
                self._move_one(record, eta, mode, steps)
            else:
                grouped.setdefault(record.groups, []).append((record, eta))
        for groups, members in grouped.items():
            self._move_groups(groups, members, mode, steps)
        if self.sparsity.is_last(steps):
            self.sparsity.hold_current_zeros(self._selection.records)

    def _never_zero(self, record: ParameterRecord, eta: float) -> float:
        """Return eta, in a homotopy the last that was not 0."""
        if self.sparsity.schedule is None:
            return eta
        eta = eta or self.last_eta.get(record.name, 0.0)
        self.last_eta[record.name] = eta
        return eta

    def _scale_at(self, steps: int) -> None:
        """Move the scales to where they are after so many steps."""
        if (factor := self.sparsity.scale_factor(steps)) != self._selection.strength.factor:
            self._selection.strength.factor = factor
            self._selection.resolve_scales()

    def _move_one(self, record: ParameterRecord, eta: float, mode: str, steps: int) -> None:
        weight, center = local_part(record.parameter), _center_of(record)
        strength, generator = self._strength_of(record, steps), self._generator(weight, center)
        if mode == "log penalty":
            log_penalty_step(weight, eta * strength * record.reference**2, generator)
            return
        take = implicit_step if mode == "implicit" else proximal_step
        take(weight, center, record.penalty, eta * (strength * record.normalized_lambda), record.scale, generator)

    def _move_groups(
        self, groups: WeightGroups, moved: Sequence[tuple[ParameterRecord, float]], mode: str, steps: int
    ) -> None:
        first, rate = moved[0]
        strength = self._strength_of(first, steps)
        if mode != "implicit" and (others := [record for record, eta in moved if eta != rate]):
            raise ValueError(
                f"{first.name} and {others[0].name} are of one group but have different learning rates: the proximal "
                "step of a group needs one; use mode='implicit'"
            )
        norms, decays = groups.norms(norms_for_step), dict[float, Tensor]()
        for record, eta in moved:
            if eta * strength == 0:
                continue
            if eta not in decays:
                decays[eta] = groups.decay(norms, eta * strength, mode)
            weight, center = record.parameter, _center_of(record)
            group_step(weight, center, groups.layout(record), decays[eta], self._generator(weight, center))

    # --- before the optimizer's step ---------------------------------------------------------------------------------

    def add_gradient(
        self,
        record: ParameterRecord,
        grad: Tensor,
        factor: float | Tensor,
        steps: int,
        rates: dict[WeightGroups, Tensor],
    ) -> None:
        """Add lambda R'(w), times a factor, to a gradient; ``rates`` keeps what groups of several tensors have in common.

        Raises
        ------
        TypeError
            If the gradient is sparse.
        """
        if grad.layout != torch.strided:
            raise TypeError(f"{record.name} has a sparse gradient, to which nothing can be added: use mode='implicit'")
        strength = self._strength_of(record, steps)
        if record.groups is not None:
            groups, layout = record.groups, record.groups.layout(record)
            if groups not in rates:
                rates[groups] = groups.decay_rates(groups.norms(), strength)
            decay = factor * layout.spread(rates[groups].to(grad.device))
            layout.unfolded(grad).add_((decay * layout.unfolded(record.distance())).to(grad.dtype))
            return
        lam_over_scale = factor * (strength * record.normalized_lambda) * record.scale
        weight, center = local_part(record.parameter), _center_of(record)
        add_gradient(local_part(grad), weight, center, record.penalty, lam_over_scale, record.scale)

    def steepness(self, record: ParameterRecord, steps: int) -> float:
        """lambda omega(0) of a tensor, the largest of its groups."""
        groups = record.groups
        largest = record.normalized_lambda * record.omega_at_zero if groups is None else groups.largest_omega
        return self._strength_of(record, steps) * largest

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy takes over: generators by their states."""
        return self.__dict__ | {"_generators": self.generator_states()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._generators = restored(state["_generators"])  # type: ignore[arg-type]


def restored(states: Mapping[str, Tensor]) -> dict[torch.device, Generator]:
    """Return generators in their saved states, of those devices that are here.

    Raises
    ------
    ValueError
        If a state is no state of a generator.
    """
    generators = {}
    for name, state in states.items():
        try:
            generator = Generator(torch.device(name))
        except RuntimeError:  # saved on another machine: its numbers are of no use here
            continue
        try:
            generators[generator.device] = generator.set_state(state.cpu())
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the state of the generator of {name} is damaged: {str(error).splitlines()[0]}") from None
    return generators


def _center_of(record: ParameterRecord) -> Tensor | None:
    center = record.current_center()
    return None if center is None else local_part(center)
