"""What a regularizer is at one moment: all that its description and its saved state are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from softdiamond.regularizer._hooks import Attachment
from softdiamond.regularizer._records import ParameterRecord
from softdiamond.regularizer._selection import Selection, SkippedParameter
from softdiamond.regularizer._stepper import Stepper
from softdiamond.strength import StrengthSettings


@dataclass(frozen=True)
class Snapshot:
    """A regularizer at one moment.

    Attributes
    ----------
    rows : tuple of ParameterRecord and SkippedParameter
        Its parameters, in the model's order.
    strength : StrengthSettings
        Strength or lambda.
    reference, center : str
        As given.
    model_rms : float or None
        The one rms_0, where there is one.
    steps : tuple of int
        Done by each optimizer, in the order of attaching.
    last_eta : mapping of str to float
        Last step length that was not 0, by name; of a homotopy.
    generators : mapping of str to Tensor
        States of the random rounding, by device.
    zeros : mapping
        State of what is removed and held.
    zeros_notes : tuple of str
        The same in words.
    attachments : tuple of Attachment
        Hooks on optimizers.
    unregistered : tuple of int
        For each of them how many weight tensors of its optimizer were never looked at.
    """

    rows: tuple[ParameterRecord | SkippedParameter, ...]
    strength: StrengthSettings
    reference: str
    center: str
    model_rms: float | None
    steps: tuple[int, ...]
    last_eta: Mapping[str, float]
    generators: Mapping[str, Tensor]
    zeros: Mapping[str, Any]
    zeros_notes: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    unregistered: tuple[int, ...]

    @classmethod
    def of(cls, selection: Selection, stepper: Stepper, attachments: tuple[Attachment, ...]) -> Snapshot:
        """Take it."""
        return cls(
            rows=tuple(selection.rows),
            strength=selection.strength,
            reference=selection.reference,
            center=selection.center,
            model_rms=selection.model_rms,
            steps=tuple(stepper.counts),
            last_eta=dict(stepper.last_eta),
            generators=stepper.generator_states(),
            zeros=stepper.sparsity.state_dict(),
            zeros_notes=tuple(stepper.sparsity.notes(selection.records, stepper.count(0))),
            attachments=attachments,
            unregistered=tuple(selection.unregistered(each.optimizer.param_groups) for each in attachments),
        )

    @property
    def records(self) -> list[ParameterRecord]:
        """The parameters that are regularized."""
        return [row for row in self.rows if isinstance(row, ParameterRecord)]

    def steps_at(self, place: int) -> int:
        """Return how many steps the optimizer at a place has done."""
        return self.steps[place] if place < len(self.steps) else 0
