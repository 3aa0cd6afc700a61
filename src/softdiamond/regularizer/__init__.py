r"""`Regularizer`: a penalty on the weights of a model, hooked to the optimizer that trains it.

**The strength.** For each tensor, with rms_0 its root mean square when the regularizer is made,

.. math:: c = \text{relative scale} \cdot \mathrm{rms}_0, \qquad \lambda = \text{strength} / \omega(\mathrm{rms}_0; c),

so that a weight of the typical size feels the decay that ``weight_decay=strength`` would give it, whatever the penalty, the
layer and its width; smaller weights feel more, larger ones less.

**The modes**, eta being what weight decay of that optimizer would take as its step length (`softdiamond.regularizer._rates`):

- ``implicit``: after each optimizer step w <- w / (1 + eta lambda omega(w)). One step of majorize-minimize on
  (u - w)^2 / 2 + eta lambda R(u): it lowers that objective, never changes a sign, never raises \|w\|, for any eta. omega =
  constant is decoupled weight decay. Under training it rests where grad L = -lambda omega(v) w, v the weight before this
  step: a bias of the order of eta against the minimum of L + lambda R.
- ``prox``: after each step the exact proximal map, the global minimiser of that objective. Ten times as slow or more.
- ``gradient``: before each step lambda R'(w) is added to ``.grad``, as coupled weight decay is. Unstable near 0 where
  eta lambda omega(0) > 2.

What must be exact lies in `softdiamond.penalties`; the steps and their rounding in ``_steps``.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from softdiamond.penalties import Penalty, SoftDiamond
from softdiamond.plan import Plan
from softdiamond.regularizer._describe import described
from softdiamond.regularizer._entries import Block, Entry, form_blocks, pooled_rms
from softdiamond.regularizer._hooks import MODES, Attachment, check_attachable, check_choice, warn_of_surprises
from softdiamond.regularizer._plan import (
    Candidate,
    Named,
    Rule,
    Skipped,
    candidates,
    check_any,
    check_penalty,
    check_used,
    decide,
    eligible_parameters,
    entry_of,
)
from softdiamond.regularizer._rates import Group, checked_eta, given_rate, rate_of
from softdiamond.regularizer._snap import Certificate, snap
from softdiamond.regularizer._state import restored, saved_of, take_over
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
from softdiamond.regularizer._zeros import REMOVAL, Zeros, set_beside
from softdiamond.strength import Strength, StrengthSettings

__all__ = ["Certificate", "Plan", "Regularizer", "Rule", "eligible_parameters", "snap"]


class Regularizer:
    """A penalty on the weights of a model, as a step after (or a gradient before) each step of an optimizer.

    By default it takes every weight with two or more dimensions that is no bias and belongs to no norm, each tensor with a
    scale and lambda of its own; `describe` says which and why. Frozen weights wait until they are trained.

    Parameters
    ----------
    model : Module or iterable of (str, Tensor)
        The model, wrapped or compiled or not, or named parameters. Tied weights count once.
    penalty : Penalty
        `softdiamond.SoftDiamond`, by default with alpha 0.5, ``StudentT``, ``L1`` or ``L2``.
    strength : float or callable
        Equivalent weight decay of a typical weight, not negative; or a function of the number of steps done. To begin with,
        1 / (sum of the learning rates of all steps; SGD with momentum: of lr / (1 - momentum)), then 0.3, 3 and 10 times that.
    relative_scale : float
        Scale in units of rms_0; 1 by default. The smaller, the sparser; the larger, the nearer to weight decay.
    reference : {"tensor", "model"}
        Whether rms_0 is each tensor's own or one for all weights, so that all share one prior.
    center : {"zero", "initial"}
        Whether the penalty is on the weights or on their distance to where they are now, for fine-tuning. The latter keeps
        a copy of the regularized weights.
    rules : sequence of Rule
        Exceptions by name, module type or function.
    lam : float or callable, optional
        Absolute lambda in place of ``strength``; then ``scale`` or ``dispersion`` is needed too.
    scale : float, optional
        Absolute scale c, one for all weights; with ``lam``.
    dispersion : float, optional
        Absolute dispersion c^alpha of a soft diamond, in place of ``scale``.
    sparsity_target : float or int, optional
        How many of the regularized weights end at exactly 0: a float in (0, 1) is their share, an int their number, so that
        0.95 removes 95 % and 95 removes 95 weights. They are removed gradually in this one training, smallest first, and held.
        Weights that are frozen at the first step do not count. Groups go whole, those by ``"output"`` with their bias and
        their part of a batch normalization.
    total_steps : int, optional
        Steps of the whole training; with ``sparsity_target`` or ``schedule``.
    removal : (float, float)
        Fractions of ``total_steps`` between which the removed share rises, most of it early.
    division : {"global", "relative", "layerwise"}
        How the removed share is divided among tensors: one threshold on the size of a weight, on its size in units of its
        tensor's rms_0, or the same share of each tensor. None keeps less than a tenth of what all keep together.
        With ``sparsity_target``, as ``removal``.
    schedule : {"homotopy"}, optional
        The scale goes to 0 over ``total_steps``, at the same pull on a weight of size rms_0; the last step sets small
        weights to exactly 0, and they are held from there on. For soft diamonds with alpha below 2. With a ``sparsity_target``
        too, that is met as without, and the last step may set more weights to 0.
    seed : int
        Of the random rounding of bfloat16 and float16 weights (and of float32 weights about a centre).

    Raises
    ------
    TypeError
        If the model, the penalty or a setting is not of its kind, or a weight is sparse, complex or an integer.
    ValueError
        If a setting is out of its range, both ways of giving strength or scale are used, no weight is eligible, a rule
        matches nothing, or a weight is not finite.

    References
    ----------
    Adigun and Kosko, Soft Diamond Regularizers for Deep Learning, arXiv:2412.20724.

    Examples
    --------
    >>> import torch, softdiamond as sd
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    >>> reg = sd.Regularizer(model, sd.SoftDiamond(alpha=0.5), strength=1.0).attach(optimizer)
    >>> [record["name"] for record in reg.describe().records if record["regularized"]]
    ['0.weight', '2.weight']
    """

    def __init__(
        self,
        model: Named,
        penalty: Penalty | None = None,
        strength: Strength | None = None,
        *,
        relative_scale: float | None = None,
        reference: str = "tensor",
        center: str = "zero",
        rules: Sequence[Rule] = (),
        lam: Strength | None = None,
        scale: float | None = None,
        dispersion: float | None = None,
        sparsity_target: float | int | None = None,
        total_steps: int | None = None,
        removal: tuple[float, float] = REMOVAL,
        division: str = "global",
        schedule: str | None = None,
        seed: int = 0,
    ) -> None:
        self._penalty = SoftDiamond() if penalty is None else penalty
        check_penalty(self._penalty)
        check_choice("reference", reference, ("tensor", "model"))
        check_choice("center", center, ("zero", "initial"))
        self._strength = StrengthSettings(
            strength, lam=lam, relative_scale=relative_scale, scale=scale, dispersion=dispersion
        )
        rules = [rules] if isinstance(rules, Rule) else list(rules) if isinstance(rules, Iterable) else [rules]
        if wrong := [rule for rule in rules if not isinstance(rule, Rule)]:
            raise TypeError(f"rules must be softdiamond.Rule objects; got {wrong[0]!r}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer; got {seed!r}")
        if self._strength.absolute and any(
            rule.strength is not None or rule.relative_scale is not None for rule in rules
        ):
            raise ValueError("with lam, a rule sets no strength and no relative_scale: make two regularizers instead")
        self._zeros = Zeros(sparsity_target, total_steps, removal, division, schedule)
        if schedule is not None and self._strength.absolute:
            raise ValueError("homotopy keeps the pull on a weight of size rms_0: give strength in place of lam")
        self._last_eta: dict[str, float] = {}
        self._reference, self._center = reference, center
        self._model_rms: float | None = None
        self._rules = rules
        self._seed = seed
        self._generators: dict[torch.device, Generator] = {}
        self._rows: list[Entry | Skipped] = []
        self._by_id: dict[int, Entry] = {}
        self._attached: list[weakref.ref[Attachment]] = []
        self._steps: list[int] = []
        found = self._admit(model)
        check_used(self._rules, found)
        check_any(self._rows)

    # --- which weights -----------------------------------------------------------------------------------------------

    def add(self, model: Named) -> Regularizer:
        """Take in parameters that were made later; those known already stay as they are. Returns self.

        Parameters
        ----------
        model : Module or iterable of (str, Tensor)
            As for the constructor, under the same rules.

        Raises
        ------
        TypeError, ValueError
            As the constructor; also for a new parameter under a name that is taken.
        """
        self._admit(model)
        return self

    def _admit(self, model: Named) -> list[Candidate]:
        found = candidates(model)
        known = {id(row.parameter) for row in self._rows}
        names = {row.name for row in self._rows}
        rows: list[Entry | Skipped] = []
        for candidate in found:
            if id(candidate.parameter) in known:
                continue
            if candidate.name in names:
                raise ValueError(
                    f"another parameter is named {candidate.name}: make a new Regularizer for a changed model"
                )
            rule, why, wanted = decide(candidate, self._rules, isinstance(model, torch.nn.Module), self._penalty)
            if wanted:
                rows.append(entry_of(candidate, rule, why, self._penalty, self._strength.relative_scale))
            else:
                rows.append(Skipped(candidate.name, candidate.parameter, why))
        entries = [row for row in rows if isinstance(row, Entry)]
        if self._reference == "model":
            self._model_rms = self._model_rms or pooled_rms(entries)
        penalties = [self._penalty, *(rule.penalty for rule in self._rules if rule.penalty)]
        others = {alias: f"is tied: call it {candidate.name}" for candidate in found for alias in candidate.aliases}
        others |= {row.name: f"left out ({row.why})" for row in rows if isinstance(row, Skipped)}
        form_blocks(entries, penalties, names, others)
        for entry in entries:
            entry.reference = self._model_rms or entry.reference
            if self._center == "initial":
                entry.centre = entry.parameter.detach().clone()
        self._settle(entries)
        self._zeros.check([*self._entries(), *entries])
        for block in dict.fromkeys(entry.block for entry in entries if entry.block is not None):
            set_beside(block, model)
        self._rows += rows
        self._by_id |= {id(entry.parameter): entry for entry in entries}
        return found

    def _strangers(self, groups: Sequence[Group]) -> int:
        """Return how many weight tensors of these groups were never looked at."""
        known = {id(row.parameter) for row in self._rows}
        return sum(p.dim() >= 2 and id(p) not in known for group in groups for p in group["params"])

    def _settle(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.block is None:
                entry.scale, entry.pull = self._strength.resolve(entry.penalty, entry.relative_scale, entry.reference)
                entry.kappa = float(entry.penalty.omega(torch.zeros((), dtype=torch.float64)))
            elif entry.block.members[0] is entry:
                entry.block.settle(self._strength)

    def _entries(self) -> list[Entry]:
        return [row for row in self._rows if isinstance(row, Entry)]

    # --- how strongly ------------------------------------------------------------------------------------------------

    @property
    def strength(self) -> Strength | None:
        """The strength, a number or a function of the number of steps done, settable; None where lam was given.

        Weights with a strength of their own, by a rule, keep that.
        """
        return None if self._strength.absolute else self._strength.value

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._strength.set("strength", value)

    @property
    def lam(self) -> Strength | None:
        """The absolute lambda, settable; None where strength was given."""
        return self._strength.value if self._strength.absolute else None

    @lam.setter
    def lam(self, value: Strength) -> None:
        self._strength.set("lam", value)

    def _strength_of(self, entry: Entry, steps: int) -> float:
        """Strength, or lambda, after so many steps."""
        return self._strength.at(steps, entry.strength)

    def _pull(self, entry: Entry, steps: int) -> float:
        """lambda / scale^2 after so many steps."""
        return self._strength_of(entry, steps) * entry.pull

    # --- the loss term and the steps ---------------------------------------------------------------------------------

    def penalty(self) -> Tensor:
        """Sum of lambda R over all regularized weights that are being trained, for those who add it to the loss.

        Do not also attach the regularizer. float16 and bfloat16 weights are summed in float32. A schedule of the strength
        counts the steps of attached optimizers and of `step`; in a loop without these, set ``strength`` as you go. It reads
        the parameters themselves, not those that ``torch.func.functional_call`` puts in their place.

        Returns
        -------
        Tensor
            0-d, differentiable, on the device of the first weight.

        Raises
        ------
        TypeError
            If the weights are sharded over processes (FSDP2): attach to the optimizer instead.
        """
        total: Tensor | None = None
        for entry in self._entries():
            weight = entry.parameter
            if not weight.requires_grad:
                continue
            if hasattr(weight, "to_local"):
                raise TypeError(
                    f"{entry.name} is sharded, of which no loss term is made: attach to the optimizer instead"
                )
            if entry.block is not None:
                first = next(each for each in entry.block.members if each.parameter.requires_grad)
                if first is entry:
                    term = entry.block.value(self._strength_of(entry, self._count(0)))
                    term = term if weight.dtype == torch.float64 else term.float()
                    total = term if total is None else total + term.to(total.device, total.dtype)
                continue
            weight = weight if weight.dtype == torch.float64 else weight.float()
            centre = self._centre_of(entry)
            distance = weight if centre is None else weight - centre
            lam = self._pull(entry, self._count(0)) * entry.scale * entry.scale
            term = lam * entry.penalty.value(distance, entry.scale).sum()
            total = term if total is None else total + term.to(total.device)
        return torch.zeros(()) if total is None else total

    @torch.no_grad()
    def step(self, eta: float, mode: str = "implicit") -> None:
        """Take the step on every regularized weight that is being trained: for loops without a torch optimizer.

        Parameters
        ----------
        eta : float
            Step length, the learning rate of plain gradient descent.
        mode : {"implicit", "prox"}
            Which step.

        Raises
        ------
        ValueError
            If eta is negative or not finite, or there is no such mode.
        """
        check_choice("mode", mode, MODES[:2])
        eta = checked_eta(eta, "the caller")
        moved = ((entry, eta) for entry in self._entries() if entry.parameter.requires_grad)
        self._step_all(moved, mode, self._count(0))
        self._advance(0)
        self._follow(0)

    def _step_all(self, moved: Iterable[tuple[Entry, float]], mode: str, steps: int) -> None:
        """Take the step on entries, each with its eta; groups read their norm before any of their tensors moves."""
        if self._zeros.is_over(steps):
            return
        self._scale_at(steps)
        if self._zeros.is_last(steps):
            mode = "log penalty"
        blocks: dict[Block, list[tuple[Entry, float]]] = {}
        for entry, eta in moved:
            eta = self._never_zero(entry, eta)
            if entry.block is None:
                self._step_one(entry, eta, mode, steps)
            else:
                blocks.setdefault(entry.block, []).append((entry, eta))
        for block, members in blocks.items():
            self._step_block(block, members, mode, steps)
        if self._zeros.is_last(steps):
            self._zeros.keep(self._entries())

    def _never_zero(self, entry: Entry, eta: float) -> float:
        """Return eta, in a homotopy the last that was not 0."""
        if self._zeros.schedule is None:
            return eta
        eta = eta or self._last_eta.get(entry.name, 0.0)
        self._last_eta[entry.name] = eta
        return eta

    def _scale_at(self, steps: int) -> None:
        """Move the scales to where they are after so many steps."""
        if (factor := self._zeros.factor(steps)) != self._strength.factor:
            self._strength.factor = factor
            self._settle(self._entries())

    def _follow(self, place: int) -> None:
        """Remove what is due after the step of an optimizer, one of several that step in turn."""
        first = min((attachment.place for attachment in self._attachments), default=place)
        self._zeros.follow(self._entries(), counts=place == first)

    def hold_zeros(self) -> None:
        """Hold at 0 from now on, after each step, the regularized weights that are 0: for a fine-tuning."""
        self._zeros.keep(self._entries())

    @property
    def removed(self) -> float:
        """Share of the weights that ``sparsity_target`` has removed so far."""
        return self._zeros.reached

    def _step_block(self, block: Block, moved: Sequence[tuple[Entry, float]], mode: str, steps: int) -> None:
        first, rate = moved[0]
        strength = self._strength_of(first, steps)
        if mode != "implicit" and (others := [entry for entry, eta in moved if eta != rate]):
            raise ValueError(
                f"{first.name} and {others[0].name} are of one group but have different learning rates: the proximal "
                "step of a group needs one; use mode='implicit'"
            )
        norms, decays = block.norms(norms_for_step), dict[float, Tensor]()
        for entry, eta in moved:
            if eta * strength == 0:
                continue
            if eta not in decays:
                decays[eta] = block.decay(norms, eta * strength, mode)
            weight, centre = entry.parameter, self._centre_of(entry)
            generator = self._generator(weight.device) if rounds_at_random(weight, centre) else None
            group_step(weight, centre, block.layout(entry), decays[eta], generator)

    def _step_one(self, entry: Entry, eta: float, mode: str, steps: int) -> None:
        weight, centre = local_part(entry.parameter), self._centre_of(entry)
        if mode == "log penalty":
            s = eta * self._strength_of(entry, steps) * entry.reference**2
            log_penalty_step(weight, s, self._generator(weight.device) if rounds_at_random(weight, None) else None)
            return
        take = implicit_step if mode == "implicit" else proximal_step
        step = eta * self._pull(entry, steps)
        generator = self._generator(weight.device) if rounds_at_random(weight, centre) else None
        take(weight, centre, entry.penalty, step, entry.scale, generator)

    def _add_gradient(
        self, entry: Entry, grad: Tensor, factor: float | Tensor, steps: int, slopes: dict[Block, Tensor]
    ) -> None:
        if grad.layout != torch.strided:
            raise TypeError(f"{entry.name} has a sparse gradient, to which nothing can be added: use mode='implicit'")
        if entry.block is not None:
            block, layout = entry.block, entry.block.layout(entry)
            if block not in slopes:
                slopes[block] = block.slope(block.norms(), self._strength_of(entry, steps))
            pull = factor * layout.spread(slopes[block].to(grad.device))
            layout.unfolded(grad).add_((pull * layout.unfolded(entry.distance())).to(grad.dtype))
            return
        slope = factor * self._pull(entry, steps) * entry.scale
        weight, centre = local_part(entry.parameter), self._centre_of(entry)
        add_gradient(local_part(grad), weight, centre, entry.penalty, slope, entry.scale)

    def _centre_of(self, entry: Entry) -> Tensor | None:
        centre = entry.current_centre()
        return None if centre is None else local_part(centre)

    def _generator(self, device: torch.device) -> Generator:
        if device not in self._generators:
            self._generators[device] = Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def _count(self, place: int) -> int:
        return self._steps[place] if place < len(self._steps) else 0

    def _advance(self, place: int) -> None:
        self._steps += [0] * (place + 1 - len(self._steps))
        self._steps[place] += 1

    # --- the optimizer -----------------------------------------------------------------------------------------------

    def attach(
        self, optimizer: Optimizer, mode: str = "implicit", *, eta: Callable[[Group], float] | None = None
    ) -> Regularizer:
        """Hook the penalty to the steps of an optimizer, which itself stays as it is. Returns self.

        The step follows the current learning rate of each parameter group, touches only weights that have a gradient, and is
        left out when a GradScaler leaves out the optimizer's. Several optimizers may be attached, each for its own weights.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            Any but LBFGS.
        mode : {"implicit", "prox", "gradient"}
            ``implicit``: after each step w <- w / (1 + eta lambda omega(w)). ``prox``: after each step the exact proximal map,
            many times slower for soft diamonds. ``gradient``: before each step lambda R'(w) is added to ``.grad``; a warning
            at the first step says where that is unstable.
        eta : callable, optional
            Function of a parameter group (a dict with ``lr`` and more) that returns the step length, where the default for
            this optimizer is not right.

        Raises
        ------
        TypeError
            If it is no torch optimizer.
        ValueError
            If there is no such mode, the optimizer is LBFGS or differentiable, is attached already, to this regularizer or
            for one of its weights to another, holds none of these weights or some that another attached optimizer holds, or
            with mode prox only a part of a group.

        Warns
        -----
        UserWarning
            If the optimizer decays regularized weights itself, or is of an unknown kind (lr is then taken as eta).
        """
        if not isinstance(optimizer, Optimizer):
            what = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else type(optimizer).__name__
            raise TypeError(f"attach takes a torch.optim.Optimizer; got {what}. Other loops call reg.step(eta)")
        check_choice("mode", mode, MODES)
        rate, formula = rate_of(optimizer) if eta is None else (given_rate(eta), "eta as given")
        if mode == "gradient" and self._zeros.schedule is not None:
            raise ValueError("mode gradient is unstable as the scale goes to 0: homotopy takes implicit or prox")
        check_attachable(self, optimizer, mode)
        warn_of_surprises(self, optimizer, formula)
        for group in optimizer.param_groups:
            checked_eta(rate(optimizer, group), "eta" if eta is not None else "the optimizer")
        taken = {attachment.place for attachment in self._attachments}
        place = next(i for i in range(len(taken) + 1) if i not in taken)
        attachment = Attachment(self, optimizer, mode, rate, formula or "lr, assumed", place)
        self._attached = [*map(weakref.ref, self._attachments), weakref.ref(attachment)]
        return self

    def detach(self, optimizer: Optimizer | None = None) -> None:
        """Take the hook off an optimizer, or off all. Weights and the number of steps done stay as they are.

        Raises
        ------
        ValueError
            If the given optimizer is not attached.
        """
        chosen = [a for a in self._attachments if optimizer is None or a.optimizer is optimizer]
        if optimizer is not None and not chosen:
            raise ValueError("this optimizer is not attached")
        for attachment in chosen:
            attachment.remove()
        self._attached = [weakref.ref(a) for a in self._attachments if a not in chosen]

    @property
    def _attachments(self) -> list[Attachment]:
        """Those whose optimizer is still there, in the order of attaching."""
        return [attachment for reference in self._attached if (attachment := reference()) is not None]

    def _held(self, group: Group) -> list[Entry]:
        return [self._by_id[id(p)] for p in group["params"] if id(p) in self._by_id]

    # --- what is said and kept ---------------------------------------------------------------------------------------

    def describe(self) -> Plan:
        """Return what is regularized, how strongly, what is not, and why; print it, or read its ``records``."""
        return described(self)

    def __repr__(self) -> str:
        return f"Regularizer({self._penalty!r}, {self._strength.name}={self._strength.value!r}, {len(self._entries())} tensors)"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: references, centres, steps done, random state; numbers and tensors only.

        A strength that is a number is kept too; a schedule is not, give it again.
        """
        return saved_of(self)

    def _settings_of(self, entry: Entry) -> str:
        """Return what must be the same where a state is taken over."""
        shape = "x".join(map(str, entry.parameter.shape))
        scale = f"scale {entry.scale!r}" if self._strength.absolute else f"relative scale {entry.relative_scale!r}"
        penalty, groups = entry.penalty, f", {entry.block.told()}" if entry.block is not None else ""
        if callable(penalty.group):  # its labels count, not its name
            penalty = dataclasses.replace(penalty, group=None)  # type: ignore[type-var]
        return f"{shape}, {penalty!r}{groups}, {scale}, reference {self._reference}, center {self._center}"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a regularizer that was made with the same settings for the same model.

        Raises
        ------
        ValueError
            If the state is damaged, of another version, of other weights or of other settings; nothing is changed then.
        """
        take_over(self, state)

    def _refer(self, entries: Mapping[str, Entry], references: Mapping[str, float]) -> None:
        for name, entry in entries.items():
            entry.reference = references[name]
        self._settle(list(entries.values()))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: all but the hooks, which stay with their optimizers."""
        states = {str(device): generator.get_state() for device, generator in self._generators.items()}
        return self.__dict__ | {"_attached": [], "_by_id": {}, "_generators": states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generators = restored(state["_generators"])
        self._by_id = {id(entry.parameter): entry for entry in self._entries()}
