"""The saved state of a regularizer: written from a snapshot, read and checked as a whole before anything is taken over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from softdiamond.regularizer._records import ParameterRecord
from softdiamond.regularizer._snapshot import Snapshot

VERSION = 1  # of the format, whose keys "dial" (strength or lam) and "centre" stay as they were first written


@dataclass(frozen=True)
class SavedState:
    """What `Regularizer.state_dict` wrote."""

    steps: list[int]
    strength_name: str
    strength: float | None
    settings: dict[str, str]
    reference: dict[str, float]
    model_reference: float | None
    center: dict[str, Tensor]
    generators: dict[str, Tensor]
    zeros: Any  # of `softdiamond.regularizer._sparsity`, which reads it
    last_eta: dict[str, float]

    @classmethod
    def read(cls, state: Any) -> SavedState:
        """Read a state of the format of this version.

        Raises
        ------
        ValueError
            If it is of another version, or something is missing or not of its kind.
        """
        if not isinstance(state, Mapping) or "version" not in state:
            raise ValueError("this is no state of a Regularizer: it has no version")
        if state["version"] != VERSION:
            raise ValueError(f"the state is of version {state['version']!r}; this softdiamond reads version {VERSION}")
        try:
            ((name, strength),) = state["dial"].items()
            shared = state["model_reference"]
            saved = cls(
                steps=[_count(count) for count in state["steps"]],
                strength_name=str(name),
                strength=None if strength is None else _number(strength),
                settings={name: str(text) for name, text in state["settings"].items()},
                reference={name: _number(rms) for name, rms in state["reference"].items()},
                model_reference=None if shared is None else _number(shared),
                center={name: _tensor(center) for name, center in state["centre"].items()},
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

    def check(self, snapshot: Snapshot) -> None:
        """Compare with the regularizer that is to take it over.

        Raises
        ------
        ValueError
            If its weights or settings are others, or one has a strength and the other a lambda.
        """
        records = {record.name: record for record in snapshot.records}
        if missing := sorted(records.keys() - self.reference.keys()):
            raise ValueError(f"the state lacks regularized weights ({len(missing)}): {', '.join(missing[:3])}")
        if unknown := sorted(self.reference.keys() - records.keys()):
            raise ValueError(
                f"the state has weights that are not regularized here ({len(unknown)}): {', '.join(unknown[:3])}"
            )
        if self.strength_name != snapshot.strength.name:
            raise ValueError(
                f"the state was made with {self.strength_name}, this regularizer with {snapshot.strength.name}"
            )
        for name, record in records.items():
            if self.settings[name] != (here := settings_of(record, snapshot)):
                raise ValueError(f"{name} was saved with {self.settings[name]}; here it has {here}")
        centers = {name: record.center for name, record in records.items() if record.center is not None}
        if self.center.keys() != centers.keys():
            raise ValueError("the state's centers are of other weights")
        for name, center in centers.items():
            if self.center[name].shape != center.shape:
                raise ValueError(f"the state's center of {name} has the shape {tuple(self.center[name].shape)}")


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


def saved_of(snapshot: Snapshot) -> dict[str, Any]:
    """Return the state of a regularizer; numbers and tensors only."""
    value, records = snapshot.strength.value, snapshot.records
    return {
        "version": VERSION,
        "steps": list(snapshot.steps),
        "dial": {snapshot.strength.name: None if callable(value) else value},
        "settings": {record.name: settings_of(record, snapshot) for record in records},
        "reference": {record.name: record.reference for record in records},
        "model_reference": snapshot.model_rms,
        "centre": {record.name: record.center for record in records if record.center is not None},
        "generators": dict(snapshot.generators),
        "zeros": dict(snapshot.zeros),
        "last_eta": dict(snapshot.last_eta),
    }


def settings_of(record: ParameterRecord, snapshot: Snapshot) -> str:
    """Return what must be the same where a state is taken over."""
    shape = "x".join(map(str, record.parameter.shape))
    absolute = snapshot.strength.absolute
    scale = f"scale {record.scale!r}" if absolute else f"relative scale {record.relative_scale!r}"
    penalty, groups = record.penalty, f", {record.groups.signature()}" if record.groups is not None else ""
    if callable(penalty.group):  # its labels count, not its name
        penalty = dataclasses.replace(penalty, group=None)  # type: ignore[type-var]
    return f"{shape}, {penalty!r}{groups}, {scale}, reference {snapshot.reference}, center {snapshot.center}"
