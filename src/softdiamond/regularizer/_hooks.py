"""The hook that a regularizer puts on an optimizer, which itself is not wrapped, subclassed or changed."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from softdiamond._compat import step_hooks
from softdiamond.regularizer._rates import Rate, checked_eta
from softdiamond.regularizer._records import ParameterRecord, WeightGroups
from softdiamond.regularizer._selection import Selection
from softdiamond.regularizer._stepper import Stepper

MODES = "implicit", "prox", "gradient"


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ValueError unless it is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


class Attachments:
    """The hooks of one regularizer, in the order of attaching; those whose optimizer is gone are left out."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[Attachment]] = []

    def __iter__(self) -> Iterator[Attachment]:
        return iter([attachment for reference in self._references if (attachment := reference()) is not None])

    def add(self, attachment: Attachment) -> None:
        """Put a hook at the end."""
        self._references = [*map(weakref.ref, self), weakref.ref(attachment)]

    def remove(self, attachment: Attachment) -> None:
        """Take a hook off its optimizer."""
        attachment.remove()
        self._references = [weakref.ref(each) for each in self if each is not attachment]

    def free_place(self) -> int:
        """Return the first place that none of the hooks has: each counts its own steps there."""
        taken = {attachment.place for attachment in self}
        return next(place for place in range(len(taken) + 1) if place not in taken)

    def is_first(self, place: int) -> bool:
        """Whether a place is that of the first of several optimizers, whose steps a sparsity target counts."""
        return place == min((attachment.place for attachment in self), default=place)


class Attachment:
    """The hook on one optimizer: which weights its step moves, by what eta, and what is done to them.

    The optimizer owns it, and through it the regularizer, its ``owner``; both of these know it, and it the optimizer, by weak
    reference only, so that a training that is dropped is freed at once.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str,
        rate: Rate,
        formula: str,
        *,
        owner: object,
        selection: Selection,
        stepper: Stepper,
        others: Attachments,
    ) -> None:
        self.owner, self.selection, self.mode = owner, selection, mode
        self._stepper, self._others = stepper, others
        self._optimizer = weakref.ref(optimizer)
        self.rate, self.formula, self.place = rate, formula, others.free_place()
        self._warned = False
        self._groups = len(optimizer.param_groups)
        # A compiled optimizer.step leaves the hook to plain Python: it would be compiled anew for each learning rate.
        hook = torch.compiler.disable(self._before if mode == "gradient" else self._after)
        hook.attachment = self
        register = optimizer.register_step_pre_hook if mode == "gradient" else optimizer.register_step_post_hook
        self._handles = [register(hook)]
        if mode == "gradient":
            self._handles.append(optimizer.register_step_post_hook(torch.compiler.disable(self._remove_and_hold)))

    @staticmethod
    def on(optimizer: Optimizer) -> list[Attachment]:
        """Return the attachments of all regularizers on an optimizer."""
        found = [getattr(hook, "attachment", None) for hook in step_hooks(optimizer)]
        return [attachment for attachment in found if isinstance(attachment, Attachment)]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, which lives as long as its hook."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise ReferenceError("the optimizer is gone")
        return optimizer

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _moved(self) -> Iterator[tuple[ParameterRecord, float]]:
        """Records of the weights that the optimizer's step moves, each with its eta."""
        if len(self.optimizer.param_groups) > self._groups:
            self._warn_of_unregistered()
        for group in self.optimizer.param_groups:
            held = [record for record in self.selection.held([group]) if record.parameter.grad is not None]
            if held:
                eta = checked_eta(self.rate(self.optimizer, group), f"the group's {self.formula}")
                yield from ((record, eta) for record in held)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_left_out():
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a regularizer's step cannot be captured in a CUDA graph: capture forward and backward only"
            )
        self._stepper.step(self._moved(), self.mode, self.place, self._others.is_first(self.place))

    @torch.no_grad()
    def _remove_and_hold(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._is_left_out():
            self._stepper.remove_and_hold(self._others.is_first(self.place))

    def _is_left_out(self) -> bool:
        """Whether a GradScaler makes this step of a fused optimizer, which fires its hooks all the same, do nothing."""
        found = getattr(self.optimizer, "found_inf", None)
        return found is not None and bool(found)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._is_left_out():
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer itself
        if closure is None:
            self._add_gradients()
            return None

        def with_penalty() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._add_gradients()
            return loss

        return args[:1], {**kwargs, "closure": with_penalty}

    @torch.no_grad()
    def _add_gradients(self) -> None:
        optimizer, stepper = self.optimizer, self._stepper
        scale = getattr(optimizer, "grad_scale", None)  # of a GradScaler, where a fused optimizer divides by it itself
        factor = 1.0 if scale is None else scale
        steps = stepper.count(self.place)
        signs = {id(p): -1.0 for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
        rates: dict[WeightGroups, Tensor] = {}  # of groups, read once
        for record, eta in self._moved():
            self._warn_if_unstable(record, eta, steps)
            sign = signs.get(id(record.parameter), 1.0)
            stepper.add_gradient(record, record.parameter.grad, factor * sign, steps, rates)  # type: ignore[arg-type]
        stepper.advance(self.place)

    def _warn_if_unstable(self, record: ParameterRecord, eta: float, steps: int) -> None:
        if self._warned:
            return
        ratio = eta * self._stepper.steepness(record, steps)
        if 2 < ratio < math.inf:
            self._warned = True
            warnings.warn(
                f"mode gradient is unstable for {record.name}: eta lambda omega(0) = {ratio:.3g} is above 2, so small weights "
                "will jump about zero instead of settling there; use mode='implicit', or a larger relative_scale",
                stacklevel=2,
            )

    def _warn_of_unregistered(self) -> None:
        """Warn once of the weights of a group that came later and that the selection does not have."""
        new = self.optimizer.param_groups[self._groups :]
        self._groups = len(self.optimizer.param_groups)
        if unregistered := self.selection.unregistered(new):
            warnings.warn(
                "a parameter group that was added holds weight tensors that the regularizer does not know "
                f"({unregistered}): reg.add(model) takes them in",
                stacklevel=2,
            )


def check_attachable(selection: Selection, attachments: Attachments, optimizer: Optimizer, mode: str) -> None:
    """Refuse an optimizer that holds none of the selected weights, some that take a step already, or part of a group to prox.

    Raises
    ------
    ValueError
        With what is in the way.
    """
    held = selection.held(optimizer.param_groups)
    if not held:
        raise ValueError(
            f"this {type(optimizer).__name__} holds none of the {len(selection.records)} regularized weight tensors: "
            "was it made from another model, or was the model replaced since?"
        )
    for record in held if mode == "prox" else []:
        members = [] if record.groups is None else record.groups.members
        if elsewhere := [other.name for other in members if other not in held]:
            raise ValueError(
                f"{record.name} and {elsewhere[0]} are of one group but not of one optimizer: the proximal step of a group "
                "needs all its tensors; use mode='implicit'"
            )
    for attachment in Attachment.on(optimizer):
        if attachment.selection is selection:
            raise ValueError("this optimizer is attached already")
        theirs = {id(record.parameter) for record in attachment.selection.records}
        if twice := [record.name for record in held if id(record.parameter) in theirs]:
            raise ValueError(
                f"another Regularizer is attached to this optimizer for {twice[0]}: detach() that one first, or make a "
                "new optimizer (was a cell of a notebook run twice?)"
            )
    groups = [group for attachment in attachments for group in attachment.optimizer.param_groups]
    others = {id(record.parameter) for record in selection.held(groups)}
    if shared := [record.name for record in held if id(record.parameter) in others]:
        raise ValueError(
            f"another attached optimizer holds {shared[0]} too: each weight takes the step of one optimizer"
        )


def warn_of_surprises(selection: Selection, optimizer: Optimizer, formula: str) -> None:
    """Warn where the step length is a guess, and where the optimizer decays regularized weights itself."""
    name = type(optimizer).__name__
    if not formula:
        warnings.warn(
            f"{name} is not known: its lr is taken as the step length of the penalty; if that is wrong, give eta=",
            stacklevel=3,
        )
    decays = [
        group["weight_decay"]
        for group in optimizer.param_groups
        for _ in selection.held([group])
        if group.get("weight_decay")
    ]
    if decays:
        warnings.warn(
            f"the optimizer has weight_decay={decays[0]:g} for {len(decays)} of the regularized tensors"
            + (" (AdamW's default is 0.01)" if name == "AdamW" else "")
            + ", on top of the penalty: set weight_decay=0 for them unless you want both",
            stacklevel=3,
        )
