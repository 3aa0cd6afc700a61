"""A saved state, read and checked as a whole before anything is taken over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SavedState:
    """What `Regularizer.state_dict` wrote."""

    steps: list[int]
    dial_name: str
    dial: float | None
    reference: dict[str, float]
    model_reference: float | None
    centre: dict[str, Tensor]
    generators: dict[str, Tensor]

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
                reference={name: _number(rms) for name, rms in state["reference"].items()},
                model_reference=None if shared is None else _number(shared),
                centre={name: _tensor(centre) for name, centre in state["centre"].items()},
                generators={name: _tensor(numbers) for name, numbers in state["generators"].items()},
            )
            if any(rms == 0 for rms in saved.reference.values()):
                raise ValueError("a reference of 0")
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"this is no state of a Regularizer, or a damaged one: {error}") from None
        return saved

    def check(self, names: set[str], centres: Mapping[str, Tensor], dial_name: str) -> None:
        """Compare with the regularizer that is to take it over.

        Raises
        ------
        ValueError
            If its weights, centres or kind of dial are others.
        """
        if missing := sorted(names - self.reference.keys()):
            raise ValueError(f"the state lacks regularized weights ({len(missing)}): {', '.join(missing[:3])}")
        if unknown := sorted(self.reference.keys() - names):
            raise ValueError(
                f"the state has weights that are not regularized here ({len(unknown)}): {', '.join(unknown[:3])}"
            )
        if self.dial_name != dial_name:
            raise ValueError(f"the state was made with {self.dial_name}, this regularizer with {dial_name}")
        if self.centre.keys() != centres.keys():
            raise ValueError("the state was made with another center: give the same one to this regularizer")
        for name, centre in centres.items():
            if self.centre[name].shape != centre.shape:
                raise ValueError(f"the state's centre of {name} has the shape {tuple(self.centre[name].shape)}")


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
