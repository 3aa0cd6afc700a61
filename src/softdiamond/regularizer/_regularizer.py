"""`Regularizer`: a penalty on the weights of a model, hooked to the optimizer that trains it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from softdiamond.penalties import Penalty, SoftDiamond
from softdiamond.plan import Plan
from softdiamond.regularizer._candidates import Named
from softdiamond.regularizer._describe import described
from softdiamond.regularizer._hooks import (
    MODES,
    Attachment,
    Attachments,
    check_attachable,
    check_choice,
    warn_of_surprises,
)
from softdiamond.regularizer._rates import Group, checked_eta, given_rate, rate_of
from softdiamond.regularizer._records import ParameterRecord
from softdiamond.regularizer._rules import Rule, check_penalty
from softdiamond.regularizer._selection import Selection
from softdiamond.regularizer._snapshot import Snapshot
from softdiamond.regularizer._sparsity import PRUNING_INTERVAL, SparsityController
from softdiamond.regularizer._state import SavedState, saved_of
from softdiamond.regularizer._stepper import Stepper, restored
from softdiamond.strength import Strength, StrengthSettings


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
        0.95 removes 95 % and 95 removes 95 weights. They are pruned gradually in this one training, smallest first, and held.
        Weights that are frozen at the first step do not count. Groups go whole, those by ``"output"`` with their bias and
        their part of a batch normalization.
    total_steps : int, optional
        Steps of the whole training; with ``sparsity_target`` or ``schedule``.
    pruning_interval : (float, float)
        Fractions of ``total_steps`` between which the sparsity rises, most of it early.
    scope : {"global", "relative", "layerwise"}
        How the sparsity is divided among tensors: one threshold on the size of a weight, on its size in units of its
        tensor's rms_0, or the same sparsity of each tensor. None keeps less than a tenth of what all keep together.
        With ``sparsity_target``, as ``pruning_interval``.
    schedule : {"homotopy"}, optional
        The scale goes to 0 over ``total_steps``, at the same gradient at a weight of size rms_0; the last step sets small
        weights to exactly 0, and they are held from there on. For soft diamonds with alpha below 2. With a ``sparsity_target``
        too, that is met as without, and the last step may set more weights to 0.
    seed : int
        Of the random rounding of bfloat16 and float16 weights (and of float32 weights about a center).

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
        pruning_interval: tuple[float, float] = PRUNING_INTERVAL,
        scope: str = "global",
        schedule: str | None = None,
        seed: int = 0,
    ) -> None:
        penalty = SoftDiamond() if penalty is None else penalty
        check_penalty(penalty)
        check_choice("reference", reference, ("tensor", "model"))
        check_choice("center", center, ("zero", "initial"))
        settings = StrengthSettings(
            strength, lam=lam, relative_scale=relative_scale, scale=scale, dispersion=dispersion
        )
        rules = [rules] if isinstance(rules, Rule) else list(rules) if isinstance(rules, Iterable) else [rules]
        if wrong := [rule for rule in rules if not isinstance(rule, Rule)]:
            raise TypeError(f"rules must be softdiamond.Rule objects; got {wrong[0]!r}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer; got {seed!r}")
        if settings.absolute and any(rule.strength is not None or rule.relative_scale is not None for rule in rules):
            raise ValueError("with lam, a rule sets no strength and no relative_scale: make two regularizers instead")
        self._sparsity = SparsityController(sparsity_target, total_steps, pruning_interval, scope, schedule)
        if schedule is not None and settings.absolute:
            raise ValueError("homotopy keeps the decay of a weight of size rms_0: give strength in place of lam")
        self._selection = Selection(penalty, settings, rules, reference, center)
        self._stepper = Stepper(self._selection, self._sparsity, seed)
        self._attachments = Attachments()
        self._selection.begin(model, self._sparsity.check)

    # --- which weights, how strongly ---------------------------------------------------------------------------------

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
        self._selection.add(model, self._sparsity.check)
        return self

    @property
    def regularized(self) -> tuple[ParameterRecord, ...]:
        """The regularized parameters, frozen ones too, each with its penalty, reference, scale and groups; not to be changed."""
        return tuple(self._selection.records)

    @property
    def strength(self) -> Strength | None:
        """The strength, a number or a function of the number of steps done, settable; None where lam was given.

        Weights with a strength of their own, by a rule, keep that.
        """
        return None if self._selection.strength.absolute else self._selection.strength.value

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._selection.strength.set("strength", value)

    @property
    def lam(self) -> Strength | None:
        """The absolute lambda, settable; None where strength was given."""
        return self._selection.strength.value if self._selection.strength.absolute else None

    @lam.setter
    def lam(self, value: Strength) -> None:
        self._selection.strength.set("lam", value)

    @property
    def current_strength(self) -> float:
        """Strength (or lambda) after the steps done so far, as a number; without those of rules."""
        return self._selection.strength.at(self._stepper.count(0))

    # --- the loss term and the steps ---------------------------------------------------------------------------------

    def penalty_value(self) -> Tensor:
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
        return self._stepper.value()

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
        moved = [(record, eta) for record in self._selection.records if record.parameter.requires_grad]
        self._stepper.step(moved, mode, 0, self._attachments.is_first(0))

    def hold_zeros(self) -> None:
        """Hold at 0 from now on, after each step, the regularized weights that are 0: for a fine-tuning."""
        self._sparsity.hold_current_zeros(self._selection.records)

    @property
    def sparsity(self) -> float:
        """Share of the weights that ``sparsity_target`` has pruned so far."""
        return self._sparsity.sparsity

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
        if mode == "gradient" and self._sparsity.schedule is not None:
            raise ValueError("mode gradient is unstable as the scale goes to 0: homotopy takes implicit or prox")
        check_attachable(self._selection, self._attachments, optimizer, mode)
        warn_of_surprises(self._selection, optimizer, formula)
        for group in optimizer.param_groups:
            checked_eta(rate(optimizer, group), "eta" if eta is not None else "the optimizer")
        attachment = Attachment(
            optimizer, mode, rate, formula or "lr, assumed",
            owner=self, selection=self._selection, stepper=self._stepper, others=self._attachments,
        )  # fmt: skip
        self._attachments.add(attachment)
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
            self._attachments.remove(attachment)

    # --- description and state ---------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._selection, self._stepper, tuple(self._attachments))

    def describe(self) -> Plan:
        """Return what is regularized, how strongly, what is not, and why; print it, or read its ``records``."""
        return described(self._snapshot())

    def __repr__(self) -> str:
        settings, count = self._selection.strength, len(self._selection.records)
        return f"Regularizer({self._selection.penalty!r}, {settings.name}={settings.value!r}, {count} tensors)"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: references, centers, steps done, random state; numbers and tensors only.

        A strength that is a number is kept too; a schedule is not, give it again.
        """
        return saved_of(self._snapshot())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a regularizer that was made with the same settings for the same model.

        Raises
        ------
        ValueError
            If the state is damaged, of another version, of other weights or of other settings; nothing is changed then.
        """
        saved, records = SavedState.read(state), self._selection.records
        saved.check(self._snapshot())
        zeros = self._sparsity.checked_state(saved.zeros, {record.name: record.parameter.shape for record in records})
        generators = restored(saved.generators)
        self._selection.set_references(saved.reference, saved.model_reference)
        for record in records:
            if record.center is not None:
                record.center.copy_(saved.center[record.name])
        settings = self._selection.strength
        if saved.strength is not None and not callable(settings.value):
            if saved.strength != settings.value:
                warnings.warn(
                    f"the state's {settings.name} {saved.strength:g} takes the place of {settings.value:g}; set "
                    f"reg.{settings.name} after loading to change it",
                    stacklevel=2,
                )
            settings.set(settings.name, saved.strength)
        self._stepper.resume(saved.steps, saved.last_eta, generators)
        self._sparsity.load(zeros)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: all but the hooks, which stay with their optimizers."""
        return self.__dict__ | {"_attachments": Attachments()}
