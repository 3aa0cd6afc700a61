"""A saved state, read and checked as a whole before anything is taken over."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from softdiamond.regularizer import Regularizer

VERSION = 1


@dataclass(frozen=True)
class SavedState:
    """What `Regularizer.state_dict` wrote."""

    steps: list[int]
    dial_name: str
    dial: float | None
    settings: dict[str, str]
    reference: dict[str, float]
    model_reference: float | None
    centre: dict[str, Tensor]
    generators: dict[str, Tensor]
    zeros: Any  # of `softdiamond.regularizer._zeros`, which reads it
    last_eta: dict[str, float]

    @classmethod
    def read(cls, state: Any, version: int) -> SavedState:
        """Read a state of this version.

        Raises
        ------
        ValueError
            If it is of another version, or something is missing or not of its kind.
        """
        if not isinstance(state, Mapping) or "version" not in state:
            raise ValueError("this is no state of a Regularizer: it has no version")
        if state["version"] != version:
            raise ValueError(f"the state is of version {state['version']!r}; this softdiamond reads version {version}")
        try:
            ((name, dial),) = state["dial"].items()
            shared = state["model_reference"]
            saved = cls(
                steps=[_count(count) for count in state["steps"]],
                dial_name=str(name),
                dial=None if dial is None else _number(dial),
                settings={name: str(text) for name, text in state["settings"].items()},
                reference={name: _number(rms) for name, rms in state["reference"].items()},
                model_reference=None if shared is None else _number(shared),
                centre={name: _tensor(centre) for name, centre in state["centre"].items()},
                generators={name: _tensor(numbers) for name, numbers in state["generators"].items()},
                zeros=state.get("zeros"),
                last_eta={name: _number(eta) for name, eta in state.get("last_eta", {}).items()},
            )
            if saved.settings.keys() != saved.reference.keys():
                raise ValueError("settings and references are of other weights")
            if any(rms == 0 for rms in saved.reference.values()):
                raise ValueError("a reference of 0")
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"this is no state of a Regularizer, or a damaged one: {error}") from None
        return saved

    def check(self, settings: Mapping[str, str], centres: Mapping[str, Tensor], dial_name: str) -> None:
        """Compare with the regularizer that is to take it over.

        Raises
        ------
        ValueError
            If its weights, settings or kind of dial are others.
        """
        names = settings.keys()
        if missing := sorted(names - self.reference.keys()):
            raise ValueError(f"the state lacks regularized weights ({len(missing)}): {', '.join(missing[:3])}")
        if unknown := sorted(self.reference.keys() - names):
            raise ValueError(
                f"the state has weights that are not regularized here ({len(unknown)}): {', '.join(unknown[:3])}"
            )
        if self.dial_name != dial_name:
            raise ValueError(f"the state was made with {self.dial_name}, this regularizer with {dial_name}")
        for name in names:
            if self.settings[name] != settings[name]:
                raise ValueError(f"{name} was saved with {self.settings[name]}; here it has {settings[name]}")
        if self.centre.keys() != centres.keys():
            raise ValueError("the state's centres are of other weights")
        for name, centre in centres.items():
            if self.centre[name].shape != centre.shape:
                raise ValueError(f"the state's centre of {name} has the shape {tuple(self.centre[name].shape)}")


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


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, str) or not 0 <= number < math.inf:
        raise ValueError(f"{value!r} where a finite number is expected")
    return number


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} where a number of steps is expected")
    return value


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{value!r} where a tensor is expected")
    return value


def saved_of(reg: Regularizer) -> dict[str, Any]:
    """Return the state of a regularizer; numbers and tensors only."""
    value = reg._strength.value
    return {
        "version": VERSION,
        "steps": list(reg._steps),
        "dial": {reg._strength.name: None if callable(value) else value},
        "settings": {entry.name: reg._settings_of(entry) for entry in reg._entries()},
        "reference": {entry.name: entry.reference for entry in reg._entries()},
        "model_reference": reg._model_rms,
        "centre": {entry.name: entry.centre for entry in reg._entries() if entry.centre is not None},
        "generators": {str(device): generator.get_state() for device, generator in reg._generators.items()},
        "zeros": reg._zeros.state_dict(),
        "last_eta": dict(reg._last_eta),
    }


def take_over(reg: Regularizer, state: dict[str, Any]) -> None:
    """Take over a state; see `Regularizer.load_state_dict`."""
    entries = {entry.name: entry for entry in reg._entries()}
    centred = {name: entry.centre for name, entry in entries.items() if entry.centre is not None}
    saved = SavedState.read(state, VERSION)
    saved.check({name: reg._settings_of(entry) for name, entry in entries.items()}, centred, reg._strength.name)
    zeros = reg._zeros.read(saved.zeros, {name: entry.parameter.shape for name, entry in entries.items()})
    generators = restored(saved.generators)
    before = {name: entry.reference for name, entry in entries.items()}
    try:
        reg._refer(entries, saved.reference)
    except ValueError:
        reg._refer(entries, before)
        raise
    reg._generators |= generators
    for name, entry in entries.items():
        if entry.centre is not None:
            entry.centre.copy_(saved.centre[name])
    reg._model_rms = saved.model_reference
    if saved.dial is not None and not callable(reg._strength.value):
        if saved.dial != reg._strength.value:
            warnings.warn(
                f"the state's {reg._strength.name} {saved.dial:g} takes the place of {reg._strength.value:g}; set "
                f"reg.{reg._strength.name} after loading to change it",
                stacklevel=3,
            )
        reg._strength.set(reg._strength.name, saved.dial)
    reg._steps, reg._last_eta = saved.steps, saved.last_eta
    reg._zeros.take_over(zeros)
