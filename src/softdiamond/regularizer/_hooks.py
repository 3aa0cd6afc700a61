"""The hook that a regularizer puts on an optimizer, which itself is not wrapped, subclassed or changed."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from softdiamond._compat import step_hooks
from softdiamond.regularizer._entries import Block, Entry
from softdiamond.regularizer._rates import Rate, checked_eta

if TYPE_CHECKING:
    from softdiamond.regularizer import Regularizer

MODES = "implicit", "prox", "gradient"


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ValueError unless it is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


class Attachment:
    """The hook on one optimizer: which weights its step moves, by what eta, and what is done to them.

    The optimizer owns it, and through it the regularizer; both of these know it, and it the optimizer, by weak reference only,
    so that a training that is dropped is freed at once.
    """

    def __init__(
        self, regularizer: Regularizer, optimizer: Optimizer, mode: str, rate: Rate, formula: str, place: int
    ) -> None:
        self.regularizer, self.mode = regularizer, mode
        self._optimizer = weakref.ref(optimizer)
        self.rate, self.formula, self.place = rate, formula, place
        self._warned = False
        self._groups = len(optimizer.param_groups)
        # A compiled optimizer.step leaves the hook to plain Python: it would be compiled anew for each learning rate.
        hook = torch.compiler.disable(self._before if mode == "gradient" else self._after)
        hook.attachment = self
        register = optimizer.register_step_pre_hook if mode == "gradient" else optimizer.register_step_post_hook
        self._handles = [register(hook)]
        if mode == "gradient":
            self._handles.append(optimizer.register_step_post_hook(torch.compiler.disable(self._follow)))

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

    def _moved(self) -> Iterator[tuple[Entry, float]]:
        """Entries that the optimizer's step moves, each with its eta."""
        reg = self.regularizer
        if len(self.optimizer.param_groups) > self._groups:
            self._look_for_strangers()
        for group in self.optimizer.param_groups:
            held = [entry for entry in reg._held(group) if entry.parameter.grad is not None]
            if held:
                eta = checked_eta(self.rate(self.optimizer, group), f"the group's {self.formula}")
                yield from ((entry, eta) for entry in held)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        reg = self.regularizer
        if self._is_left_out():
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a regularizer's step cannot be captured in a CUDA graph: capture forward and backward only"
            )
        reg._step_all(self._moved(), self.mode, reg._count(self.place))
        reg._advance(self.place)
        reg._follow(self.place)

    @torch.no_grad()
    def _follow(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._is_left_out():
            self.regularizer._follow(self.place)

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
        reg, optimizer = self.regularizer, self.optimizer
        scale = getattr(optimizer, "grad_scale", None)  # of a GradScaler, where a fused optimizer divides by it itself
        factor = 1.0 if scale is None else scale
        steps = reg._count(self.place)
        signs = {id(p): -1.0 for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
        slopes: dict[Block, Tensor] = {}  # of groups, read once
        for entry, eta in self._moved():
            self._warn_if_unstable(entry, eta, steps)
            sign = signs.get(id(entry.parameter), 1.0)
            reg._add_gradient(entry, entry.parameter.grad, factor * sign, steps, slopes)  # type: ignore[arg-type]
        reg._advance(self.place)

    def _warn_if_unstable(self, entry: Entry, eta: float, steps: int) -> None:
        if self._warned:
            return
        steepest = entry.pull * entry.kappa if entry.block is None else entry.block.steepest
        ratio = eta * self.regularizer._strength_of(entry, steps) * steepest
        if 2 < ratio < math.inf:
            self._warned = True
            warnings.warn(
                f"mode gradient is unstable for {entry.name}: eta lambda omega(0) = {ratio:.3g} is above 2, so small weights "
                "will jump about zero instead of settling there; use mode='implicit', or a larger relative_scale",
                stacklevel=2,
            )

    def _look_for_strangers(self) -> None:
        """Say once which weights of a group that came later are unknown."""
        new = self.optimizer.param_groups[self._groups :]
        self._groups = len(self.optimizer.param_groups)
        if strangers := self.regularizer._strangers(new):
            warnings.warn(
                "a parameter group that was added holds weight tensors that the regularizer does not know "
                f"({strangers}): reg.add(model) takes them in",
                stacklevel=2,
            )


def check_attachable(regularizer: Regularizer, optimizer: Optimizer, mode: str) -> None:
    """Refuse an optimizer that holds none of the regularized weights, some that take a step already, or part of a group to prox.

    Raises
    ------
    ValueError
        With what is in the way.
    """
    held = [entry for group in optimizer.param_groups for entry in regularizer._held(group)]
    if not held:
        raise ValueError(
            f"this {type(optimizer).__name__} holds none of the {len(regularizer._entries())} regularized weight tensors: "
            "was it made from another model, or was the model replaced since?"
        )
    for entry in held if mode == "prox" else []:
        members = [] if entry.block is None else entry.block.members
        if elsewhere := [other.name for other in members if other not in held]:
            raise ValueError(
                f"{entry.name} and {elsewhere[0]} are of one group but not of one optimizer: the proximal step of a group "
                "needs all its tensors; use mode='implicit'"
            )
    for attachment in Attachment.on(optimizer):
        if attachment.regularizer is regularizer:
            raise ValueError("this optimizer is attached already")
        if twice := [entry.name for entry in held if id(entry.parameter) in attachment.regularizer._by_id]:
            raise ValueError(
                f"another Regularizer is attached to this optimizer for {twice[0]}: detach() that one first, or make a "
                "new optimizer (was a cell of a notebook run twice?)"
            )
    groups = [group for attachment in regularizer._attachments for group in attachment.optimizer.param_groups]
    others = {id(entry.parameter) for group in groups for entry in regularizer._held(group)}
    if shared := [entry.name for entry in held if id(entry.parameter) in others]:
        raise ValueError(
            f"another attached optimizer holds {shared[0]} too: each weight takes the step of one optimizer"
        )


def warn_of_surprises(regularizer: Regularizer, optimizer: Optimizer, formula: str) -> None:
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
        for _ in regularizer._held(group)
        if group.get("weight_decay")
    ]
    if decays:
        warnings.warn(
            f"the optimizer has weight_decay={decays[0]:g} for {len(decays)} of the regularized tensors"
            + (" (AdamW's default is 0.01)" if name == "AdamW" else "")
            + ", on top of the penalty: set weight_decay=0 for them unless you want both",
            stacklevel=3,
        )
