"""Which weights are regularized, and why: the selection of a regularizer, by the default and by rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond.parameters import why_not_eligible
from softdiamond.penalties import L2, Penalty
from softdiamond.plan import skipped_record
from softdiamond.regularizer._candidates import Candidate, Named, candidates
from softdiamond.regularizer._rates import Group
from softdiamond.regularizer._records import ParameterRecord, form_groups, pooled_rms, rms_of, spans_of
from softdiamond.regularizer._rules import Rule, check_used
from softdiamond.regularizer._sparsity import set_coupled
from softdiamond.strength import StrengthSettings

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
_DTYPE_NAMES = "float16, bfloat16, float32 or float64"


@dataclass(frozen=True)
class SkippedParameter:
    """A parameter that is not regularized."""

    name: str
    parameter: Tensor
    why: str

    def plan_row(self) -> dict[str, Any]:
        """Return the row of `Plan`."""
        lazy = isinstance(self.parameter, nn.UninitializedParameter)
        shape = () if lazy else tuple(self.parameter.shape)
        return skipped_record(self.name, shape, self.why)


class Selection:
    """The parameters of a regularizer: those that are regularized, with scale and lambda, and those that are not, with the reason.

    Parameters
    ----------
    penalty : Penalty
        Of the weights that fall under no rule.
    strength : StrengthSettings
        What fixes scale and lambda.
    rules : sequence of Rule
        Exceptions.
    reference : {"tensor", "model"}
        Whether rms_0 is each tensor's own or one for all.
    center : {"zero", "initial"}
        What the penalty is about.

    Attributes
    ----------
    rows : list of ParameterRecord and SkippedParameter
        In the model's order.
    model_rms : float or None
        The one rms_0, where there is one.
    """

    def __init__(
        self, penalty: Penalty, strength: StrengthSettings, rules: Sequence[Rule], reference: str, center: str
    ) -> None:
        self.penalty, self.strength, self.rules = penalty, strength, rules
        self.reference, self.center = reference, center
        self.rows: list[ParameterRecord | SkippedParameter] = []
        self.model_rms: float | None = None
        self._by_id: dict[int, ParameterRecord] = {}

    @property
    def records(self) -> list[ParameterRecord]:
        """Those that are regularized."""
        return [row for row in self.rows if isinstance(row, ParameterRecord)]

    def begin(self, model: Named, check: Callable[[Sequence[ParameterRecord]], None]) -> None:
        """Take in the parameters of a model, of which some must be regularized and each rule must mean some; else as `add`."""
        found = self.add(model, check)
        check_used(self.rules, found, why_not)
        check_any(self.rows)

    def add(self, model: Named, check: Callable[[Sequence[ParameterRecord]], None]) -> list[Candidate]:
        """Take in the parameters that are not known yet, and return all that the model has.

        Parameters
        ----------
        model : Module or iterable of (str, Tensor)
            Under the rules and the default.
        check : callable
            Raises where the records, old and new, cannot be taken together; nothing is changed then.

        Raises
        ------
        TypeError, ValueError
            As `softdiamond.Regularizer`.
        """
        found = candidates(model)
        known = {id(row.parameter) for row in self.rows}
        names = {row.name for row in self.rows}
        rows: list[ParameterRecord | SkippedParameter] = []
        for candidate in found:
            if id(candidate.parameter) in known:
                continue
            if candidate.name in names:
                raise ValueError(
                    f"another parameter is named {candidate.name}: make a new Regularizer for a changed model"
                )
            rule, why, wanted = decide(candidate, self.rules, isinstance(model, nn.Module), self.penalty)
            if wanted:
                rows.append(record_of(candidate, rule, why, self.penalty, self.strength.relative_scale))
            else:
                rows.append(SkippedParameter(candidate.name, candidate.parameter, why))
        records = [row for row in rows if isinstance(row, ParameterRecord)]
        model_rms = (self.model_rms or pooled_rms(records)) if self.reference == "model" else None
        penalties = [self.penalty, *(rule.penalty for rule in self.rules if rule.penalty)]
        others = {alias: f"is tied: call it {candidate.name}" for candidate in found for alias in candidate.aliases}
        others |= {row.name: f"left out ({row.why})" for row in rows if isinstance(row, SkippedParameter)}
        form_groups(records, penalties, names, others)
        for record in records:
            record.reference = model_rms or record.reference
            if self.center == "initial":
                record.center = record.parameter.detach().clone()
        self._resolve_scales(records)
        check([*self.records, *records])
        for groups in dict.fromkeys(record.groups for record in records if record.groups is not None):
            set_coupled(groups, model)
        self.rows, self.model_rms = self.rows + rows, model_rms
        self._by_id |= {id(record.parameter): record for record in records}
        return found

    def resolve_scales(self) -> None:
        """Fix scale and lambda of all records, after the settings or the references have changed."""
        self._resolve_scales(self.records)

    def _resolve_scales(self, records: Sequence[ParameterRecord]) -> None:
        for record in records:
            if record.groups is None:
                record.resolve_scale(self.strength)
            elif record.groups.members[0] is record:
                record.groups.resolve_scales(self.strength)

    def set_references(self, references: Mapping[str, float], model_rms: float | None) -> None:
        """Set rms_0 of all records.

        Raises
        ------
        ValueError
            If a scale or lambda is then out of range; nothing is changed then.
        """
        before = {record.name: record.reference for record in self.records}
        try:
            self._refer_to(references)
        except ValueError:
            self._refer_to(before)
            raise
        self.model_rms = model_rms

    def _refer_to(self, references: Mapping[str, float]) -> None:
        for record in self.records:
            record.reference = references[record.name]
        self.resolve_scales()

    def held(self, groups: Iterable[Group]) -> list[ParameterRecord]:
        """Return the records of the weights in an optimizer's parameter groups."""
        found = (self._by_id.get(id(p)) for group in groups for p in group["params"])
        return [record for record in found if record is not None]

    def unregistered(self, groups: Iterable[Group]) -> int:
        """Return how many weight tensors of an optimizer's parameter groups were never looked at."""
        known = {id(row.parameter) for row in self.rows}
        return sum(p.dim() >= 2 and id(p) not in known for group in groups for p in group["params"])

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: identities are those of its own parameters."""
        return self.__dict__ | {"_by_id": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._by_id = {id(record.parameter): record for record in self.records}


def decide(
    candidate: Candidate, rules: Sequence[Rule], from_module: bool, penalty: Penalty
) -> tuple[Rule | None, str, bool]:
    """Return the rule that a weight falls under, why it is regularized or not, and which of the two.

    ``penalty`` is the one of those that fall under no rule. Where its groups span tensors, they name their weights.

    Raises
    ------
    TypeError
        If a weight that would be regularized is no real, dense, floating tensor.
    ValueError
        If it has no values yet.
    """
    rule = next((rule for rule in rules if rule.matches(candidate)), None)
    if rule is not None and rule.skip:
        return rule, f"rule {rule.target}: skip", False
    parameter, why = candidate.parameter, why_not(candidate)
    spans = spans_of(rule.penalty if rule is not None and rule.penalty is not None else penalty)
    named = {name for span in spans for name, _ in span.axes}
    if spans and candidate.name not in named:
        return rule, "in none of the groups", False
    if why and not spans and (rule is None or not rule.include):
        return rule, why, False
    lazy = isinstance(parameter, nn.UninitializedParameter)
    if lazy or parameter.is_meta:
        raise ValueError(
            f"{candidate.name} has no values yet ({'lazy' if lazy else 'meta device'}): run the model once first"
        )
    if parameter.dtype not in _DTYPES or parameter.layout != torch.strided:
        kind = f"{parameter.dtype}".removeprefix("torch.")
        if from_module and rule is None and not parameter.requires_grad:
            return None, f"frozen, {kind}", False  # quantized weights of a frozen base
        layout = "" if parameter.layout == torch.strided else f"{parameter.layout}".removeprefix("torch.") + " "
        raise TypeError(
            f"{candidate.name} is of {layout}{kind}: a penalty takes dense weights of {_DTYPE_NAMES}. "
            f"Leave it out with Rule({candidate.name!r}, skip=True)"
        )
    if parameter.numel() == 0:
        return None, "empty", False
    notes = [f"rule {rule.target}"] if rule is not None else []
    if any(isinstance(module, _EMBEDDINGS) for module in candidate.modules):
        notes.append("embedding")
    if any(isinstance(module, nn.utils.parametrize.ParametrizationList) for module in candidate.modules):
        notes.append("of a parametrization")
    if candidate.aliases:
        notes.append(f"tied to {', '.join(candidate.aliases)}")
    if rule is None:
        notes.append("named in a group" if spans else f"{parameter.dim()} dimensions")
    return rule, "; ".join(notes), True


def why_not(candidate: Candidate) -> str:
    """Return why the default leaves a parameter out, or nothing."""
    lazy = isinstance(candidate.parameter, nn.UninitializedParameter)
    shape = None if lazy else candidate.parameter.shape
    return why_not_eligible(candidate.name.split("."), shape, [type(module) for module in candidate.modules])


def eligible_parameters(model: Named) -> dict[str, Tensor]:
    """Return the parameters that a `Regularizer` takes by default, by name: frozen ones too, whatever their values are.

    Parameters
    ----------
    model : Module or iterable of (str, Tensor)
        As for a `Regularizer`: wrapped or compiled or not, or named parameters. Tied weights count once.

    Raises
    ------
    TypeError, ValueError
        As `Regularizer`, where a weight is sparse, complex or an integer, or has no values yet.

    Examples
    --------
    >>> list(eligible_parameters(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))))
    ['0.weight', '2.weight']
    """
    from_module = isinstance(model, nn.Module)
    return {c.name: c.parameter for c in candidates(model) if decide(c, (), from_module, L2())[2]}


def record_of(
    candidate: Candidate, rule: Rule | None, why: str, penalty: Penalty, relative_scale: float
) -> ParameterRecord:
    """Return the record of a weight under the rule that applies to it, the last two where that says nothing else."""
    rms, start = rms_of(candidate.name, candidate.parameter)
    return ParameterRecord(
        name=candidate.name,
        parameter=candidate.parameter,
        penalty=(rule.penalty if rule is not None else None) or penalty,
        strength=rule.strength if rule is not None else None,
        relative_scale=float((rule.relative_scale if rule is not None else None) or relative_scale),
        reference=rms,
        start=start,
        why=why,
        module=candidate.modules[0] if candidate.modules else None,
    )


def check_any(rows: Sequence[ParameterRecord | SkippedParameter]) -> None:
    """Refuse a plan under which no weight is regularized now.

    Raises
    ------
    ValueError
        With how many parameters are left out for which reason.
    """
    if any(isinstance(row, ParameterRecord) and row.parameter.requires_grad for row in rows):
        return
    if not rows:
        raise ValueError("there are no parameters to regularize")
    reasons = [row.why if isinstance(row, SkippedParameter) else "frozen" for row in rows]
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
    advice = "unfreeze some first" if "frozen" in reasons else "Rule(..., include=True) takes in more"
    raise ValueError(f"none of the {len(rows)} parameters is to be regularized ({counts}): {advice}")
