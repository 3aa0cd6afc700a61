r"""The regularized tensors, `ParameterRecord`, and those that step together by group, `WeightGroups`, with the scale of a group."""

from __future__ import annotations

import difflib
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond.parameters import reference_rms
from softdiamond.penalties import Penalty
from softdiamond.penalties.base import kept_share
from softdiamond.penalties.groups import Layout, Span, layout_of, root, sizes_across
from softdiamond.regularizer._steps import decay_at, stationary_share
from softdiamond.strength import Strength, StrengthSettings


@dataclass(eq=False)
class ParameterRecord:
    """A regularized weight tensor.

    Attributes
    ----------
    name, parameter
        As the model has them.
    penalty : Penalty
        Of the weights, or of the norms of their groups.
    strength : float, callable or None
        Of its own, by a rule.
    relative_scale : float
        As it applies to this tensor.
    reference : float
        rms_0.
    start : str
        What the plan says of a tensor that starts at zero.
    why : str
        Why it is regularized.
    scale : float
        Scale c; not set for groups, which have scales of their own.
    normalized_lambda : float
        lambda / scale^2 for each unit of strength (or of lambda); not set for groups.
    omega_at_zero : float
        omega at 0, at unit scale; not set for groups.
    center : Tensor or None
        What the distance is measured from, where it is not 0.
    module : Module or None
        That holds the tensor.
    groups : WeightGroups or None
        Its groups, alone or with other tensors.
    """

    name: str
    parameter: Tensor
    penalty: Penalty
    strength: Strength | None
    relative_scale: float
    reference: float
    start: str
    why: str
    scale: float = field(init=False)
    normalized_lambda: float = field(init=False)
    omega_at_zero: float = field(init=False)
    center: Tensor | None = None
    module: nn.Module | None = None
    groups: WeightGroups | None = None

    def resolve_scale(self, strength: StrengthSettings) -> None:
        """Fix scale and lambda of weights that are in no group.

        Raises
        ------
        ValueError
            If one of them is out of range.
        """
        self.scale, self.normalized_lambda = strength.resolve(self.penalty, self.relative_scale, self.reference)
        self.omega_at_zero = float(self.penalty.omega(torch.zeros((), dtype=torch.float64)))

    def current_center(self) -> Tensor | None:
        """Return the center, where there is one, also after the model was moved or laid out anew."""
        weight, center = self.parameter, self.center
        if center is not None and (center.device != weight.device or center.stride() != weight.stride()):
            self.center = center = torch.empty_like(weight, dtype=center.dtype, requires_grad=False).copy_(center)
        return center

    def distance(self) -> Tensor:
        """Return the weights, or their distance to the center, then at least float32."""
        center, weight = self.current_center(), self.parameter
        return weight if center is None else (weight if weight.dtype == torch.float64 else weight.float()) - center

    def plan_row(self, strength: float, about: dict[str, Any]) -> dict[str, Any]:
        """Return the row of `Plan` at this strength (or lambda); ``about`` is what is known of its optimizer."""
        why = [note for note in (self.why, self.start) if note]
        why += [] if self.parameter.requires_grad else ["frozen: waits until it is trained"]
        if self.groups is not None and len(self.groups.members) > 1:
            why.append("in one group with " + ", ".join(e.name for e in self.groups.members if e is not self))
        if about["weight_decay"]:
            why.append(f"weight_decay {about['weight_decay']:g} comes on top")
        return {
            "name": self.name,
            "shape": tuple(self.parameter.shape),
            "regularized": True,
            "why": "; ".join(why),
            "penalty": _brief(self.penalty),
            **self._settings(strength),
            "reference": self.reference,
            **about,
        }

    def _settings(self, strength: float) -> dict[str, Any]:
        """Return strength, scale and lambda, of groups of several sizes from those of the smallest to those of the largest."""
        if self.groups is None:
            typical = torch.tensor(self.reference / self.scale, dtype=torch.float64)
            return {
                "strength": strength * self.normalized_lambda * float(self.penalty.omega(typical)),
                "scale": self.scale,
                "lambda": strength * self.normalized_lambda * self.scale * self.scale,
                "groups": None,
                "group_size": None,
            }
        parts = self.groups.by_size
        typical = torch.tensor(parts[0].typical, dtype=torch.float64)
        return {
            "strength": strength * parts[0].normalized_lambda * float(parts[0].law.omega(typical)),
            "scale": _ends([part.scale for part in parts]),
            "lambda": _ends([strength * part.normalized_lambda * part.length**2 for part in parts]),
            "groups": len(self.groups.sizes),
            "group_size": _ends([part.d for part in parts]),
        }


def _brief(penalty: Penalty) -> str:
    """The penalty without the names in its groups, which stand beside it."""
    spans = spans_of(penalty)
    return repr(penalty).replace(repr(penalty.group), "{...}") if spans else repr(penalty)


def _ends(values: Sequence[Any]) -> Any:
    """The one value, or the first and the last."""
    return values[0] if len(values) == 1 else (values[0], values[-1])


@dataclass(frozen=True)
class GroupsOfSize:
    """The groups of one size."""

    d: int
    chosen: Tensor  # which of the groups
    law: Penalty  # of the norm
    scale: float  # of the law
    length: float  # the norm that is the law's x = 1
    normalized_lambda: float  # lambda / length^2 for each unit of strength (or of lambda)
    typical: float  # reference norm as an x of the law


@dataclass(eq=False)
class WeightGroups:
    """Tensors whose groups have a common norm, most often one tensor; each has a layout with as many groups."""

    members: list[ParameterRecord]
    layouts: list[Layout]
    sizes: Tensor  # weights in each group
    by_size: list[GroupsOfSize] = field(default_factory=list)
    coupled: dict[str, Tensor] = field(default_factory=dict)  # parameters that are removed with the groups

    @classmethod
    def of(cls, members: Sequence[ParameterRecord], axes: Sequence[object]) -> WeightGroups:
        """Divide each tensor along its axis.

        Raises
        ------
        TypeError, ValueError
            If a tensor cannot be divided so, is sharded, or has another number of groups than the others.
        """
        layouts = []
        for record, axis in zip(members, axes, strict=True):
            if hasattr(record.parameter, "to_local"):
                raise TypeError(f"{record.name} is sharded over processes: groups need whole tensors; give it no group")
            layouts.append(layout_of(axis, record.parameter, record.name, record.module))
        groups = cls(list(members), layouts, sizes_across(layouts, [record.name for record in members]))
        groups.set_reference()
        for record in members:
            record.groups = groups
        return groups

    def set_reference(self) -> None:
        """Give all members the rms at the start of all their weights; where every one is zero, that of Glorot's start of the first."""
        started = [record for record in self.members if not record.start]
        rms = self.members[0].reference
        if started and len(self.members) > 1:
            total = math.hypot(*(record.reference * math.sqrt(record.parameter.numel()) for record in started))
            rms = total / math.sqrt(sum(record.parameter.numel() for record in self.members))
        for record in self.members:
            record.reference = rms
            record.start = "starts at zero" if started and record.start else record.start

    def resolve_scales(self, strength: StrengthSettings) -> None:
        """Fix scale and lambda of each size of group.

        Raises
        ------
        ValueError
            If one of them is out of range, or a group is larger than a table can be.
        """
        first = self.members[0]
        distinct = self.sizes.unique().tolist()
        self.by_size = []
        for d in distinct:
            chosen = (self.sizes == d).nonzero().flatten()
            try:
                setting = strength.resolve_group(first.penalty, first.relative_scale, first.reference, d)
            except ValueError as error:
                raise ValueError(f"{', '.join(record.name for record in self.members)}: {error}") from None
            self.by_size.append(GroupsOfSize(d, chosen, *setting))

    def signature(self) -> str:
        """Return what tells this partition from others: the number of groups, and a checksum of a function's labels and where they lie."""
        marks = [
            zlib.crc32(own.labels.cpu().numpy().tobytes(), zlib.crc32(repr(own.kept).encode()))
            for own in self.layouts
            if own.labels is not None
        ]
        return f"{len(self.sizes)} groups" + "".join(f" (labels {mark:08x})" for mark in marks)

    def layout(self, record: ParameterRecord) -> Layout:
        """Return how a member is divided."""
        return next(layout for each, layout in zip(self.members, self.layouts, strict=True) if each is record)

    def norms(self, norms_of: Callable[[Layout, Tensor], Tensor] = Layout.norms) -> Tensor:
        """Norm of each group's distance to its center; ``norms_of`` are those of one tensor."""
        for record, layout in zip(self.members, self.layouts, strict=True):
            if record.parameter.shape != layout.whole:
                raise ValueError(
                    f"{record.name} has the shape {tuple(record.parameter.shape)}, its groups were formed of {layout.whole}: where a "
                    "tensor was resized, make a new Regularizer"
                )
        norms = [norms_of(layout, record.distance()) for record, layout in zip(self.members, self.layouts, strict=True)]
        if len(norms) == 1:
            return norms[0]
        squares = norms[0].square()
        for each in norms[1:]:
            squares = squares + each.to(squares.device).square()
        return root(squares)

    def each(self, norms: Tensor, function: Callable[[GroupsOfSize, Tensor], Tensor]) -> Tensor:
        """Apply a function of a size's part, and of the norms as x of its law, to all groups."""
        if len(self.by_size) == 1:
            return function(self.by_size[0], norms / self.by_size[0].length)
        out = torch.empty_like(norms)
        for part in self.by_size:
            chosen = part.chosen.to(norms.device)
            out = out.index_copy(0, chosen, function(part, norms[chosen] / part.length).to(out.dtype))
        return out

    def value(self, strength: float) -> Tensor:
        """Sum of lambda R over the groups."""
        return self.each(
            self.norms(), lambda part, x: strength * part.normalized_lambda * part.length**2 * part.law.value(x)
        ).sum()

    def decay(self, norms: Tensor, step: float, mode: str) -> Tensor:
        """Share of its norm that each group loses by a step eta times strength; ``mode`` is implicit, prox or log penalty."""
        exact = any(record.parameter.dtype == torch.float64 for record in self.members)

        def implicit(part: GroupsOfSize, x: Tensor) -> Tensor:
            return decay_at(part.law, x, step * part.normalized_lambda, exact)

        def proximal(part: GroupsOfSize, x: Tensor) -> Tensor:
            return 1 - kept_share(part.law, x, step * part.normalized_lambda)

        def stationary(part: GroupsOfSize, x: Tensor) -> Tensor:  # strength rho^2, in units of length^2
            return 1 - stationary_share(x, step * part.typical**2)

        return self.each(norms, {"implicit": implicit, "prox": proximal, "log penalty": stationary}[mode])

    def decay_rates(self, norms: Tensor, strength: float) -> Tensor:
        """Gradient of lambda R over the weight, lambda omega, for each group; 0 for a group of norm 0."""
        omega = self.each(norms, lambda part, x: strength * part.normalized_lambda * part.law.omega(x))
        return torch.where(norms == 0, torch.zeros_like(omega), omega)

    @property
    def largest_omega(self) -> float:
        """Largest omega at 0 for each unit of strength."""
        at_zero = torch.zeros((), dtype=torch.float64)
        return max(part.normalized_lambda * float(part.law.omega(at_zero)) for part in self.by_size)


def form_groups(
    records: Sequence[ParameterRecord], penalties: Sequence[Penalty], known: Collection[str], others: Mapping[str, str]
) -> None:
    """Form the groups of new records: one for each tensor that is grouped by itself, one for each span of names.

    Parameters
    ----------
    records : sequence of ParameterRecord
        The new ones.
    penalties : sequence of Penalty
        All that may come with groups that span tensors.
    known : collection of str
        Names of the parameters that were there before.
    others : mapping of str to str
        Names that are no record's, and why: of parameters left out, and other names of tied ones.

    Raises
    ------
    TypeError, ValueError
        As `WeightGroups.of`; also if a span names a parameter that is not there, falls under another rule or is frozen.
    """
    for record in records:
        if record.penalty.group is not None and not spans_of(record.penalty):
            WeightGroups.of([record], [record.penalty.group])
    for penalty in dict.fromkeys(penalties):
        here = {record.name: record for record in records if record.penalty == penalty}
        for span in spans_of(penalty):
            if all(name in known for name, _ in span.axes):
                continue  # formed when these were new
            for name, _ in span.axes:
                if name not in here:
                    raise ValueError(_why_missing(name, records, others))
                if not here[name].parameter.requires_grad:
                    raise ValueError(f"{name} is frozen: a group is trained as a whole; unfreeze it or take it out")
            _check_alike([here[name] for name, _ in span.axes])
            WeightGroups.of([here[name] for name, _ in span.axes], [axis for _, axis in span.axes])


def _check_alike(members: Sequence[ParameterRecord]) -> None:
    first = members[0]
    for other in members[1:]:
        if (other.strength, other.relative_scale) != (first.strength, first.relative_scale):
            raise ValueError(
                f"{first.name} and {other.name} are of one group, but rules give them another strength or relative_scale"
            )


def _why_missing(name: str, records: Sequence[ParameterRecord], others: Mapping[str, str]) -> str:
    names = [record.name for record in records]
    if name in names:
        return f"{name} is named in a group but has another penalty, by the default or by a rule"
    if name in others:
        left_out = others[name].startswith("left out")
        way = f"; Rule({name!r}, include=True, penalty=...) with that penalty takes it in" if left_out else ""
        return f"{name} is named in a group but {others[name]}{way}"
    near = difflib.get_close_matches(name, [*names, *others], n=3, cutoff=0.3)
    return f"a group names {name}, which is no parameter here" + (f"; near: {', '.join(near)}" if near else "")


def spans_of(penalty: Penalty) -> tuple[Span, ...]:
    """Return the groups of a penalty that span tensors."""
    group = penalty.group
    return group if isinstance(group, tuple) and isinstance(group[0], Span) else ()


def rms_of(name: str, parameter: Tensor) -> tuple[float, str]:
    """Return rms_0 of a tensor, and what the plan says of one that starts at zero.

    Raises
    ------
    ValueError
        If a weight is not finite.
    """
    dtype = torch.float32 if parameter.device.type == "mps" else torch.float64
    if hasattr(parameter, "to_local"):  # a sharded tensor
        norm: Any = torch.linalg.vector_norm(parameter.detach(), dtype=dtype)
        norm = norm.full_tensor()
    else:  # in pieces, since the conversion takes memory
        norm = math.hypot(*(float(torch.linalg.vector_norm(part, dtype=dtype)) for part in _parts(parameter.detach())))
    return reference_rms(name, float(norm) / math.sqrt(parameter.numel()), parameter.shape, "first")


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Views of at most a quarter of a million elements."""
    if tensor.numel() <= 1 << 18:
        return [tensor]
    if tensor[0].numel() > 1 << 18:
        return [part for row in tensor for part in _parts(row)]
    parts: Sequence[Tensor] = tensor.split((1 << 18) // tensor[0].numel())
    return parts


def pooled_rms(records: Sequence[ParameterRecord]) -> float:
    """Root mean square of all weights, those tensors left out that start at zero; 0 if there is none."""
    started = [record for record in records if not record.start]
    total = sum(record.parameter.numel() for record in started)
    return (
        math.sqrt(sum(record.parameter.numel() * record.reference**2 for record in started) / total) if total else 0.0
    )
