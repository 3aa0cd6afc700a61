r"""The regularized tensors, `Entry`, and those that step together by group, `Block`, with the scale of a group."""

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
from softdiamond.penalties.groups import Layout, Span, joined, layout_of, root
from softdiamond.regularizer._steps import decay_at, stationary_share
from softdiamond.strength import Strength, StrengthSettings


@dataclass(eq=False)
class Entry:
    """A regularized weight tensor."""

    name: str
    parameter: Tensor
    penalty: Penalty
    strength: Strength | None  # of its own, by a rule
    relative_scale: float
    reference: float  # rms_0
    start: str  # what to say of one that starts at zero
    why: str
    scale: float = field(init=False)
    pull: float = field(init=False)  # lambda / scale^2 for each unit of strength (or of lambda)
    kappa: float = field(init=False)  # omega at 0, at unit scale
    centre: Tensor | None = None
    module: nn.Module | None = None  # that holds it
    block: Block | None = None  # its groups, alone or with other tensors

    def current_centre(self) -> Tensor | None:
        """Return the centre, where there is one, also after the model was moved or laid out anew."""
        weight, centre = self.parameter, self.centre
        if centre is not None and (centre.device != weight.device or centre.stride() != weight.stride()):
            self.centre = centre = torch.empty_like(weight, dtype=centre.dtype, requires_grad=False).copy_(centre)
        return centre

    def distance(self) -> Tensor:
        """Return the weights, or their distance to the centre, then at least float32."""
        centre, weight = self.current_centre(), self.parameter
        return weight if centre is None else (weight if weight.dtype == torch.float64 else weight.float()) - centre

    def record(self, strength: float, about: dict[str, Any]) -> dict[str, Any]:
        """Return the row of `Plan` at this strength (or lambda); ``about`` is what is known of its optimizer."""
        why = [note for note in (self.why, self.start) if note]
        why += [] if self.parameter.requires_grad else ["frozen: waits until it is trained"]
        if self.block is not None and len(self.block.members) > 1:
            why.append("in one group with " + ", ".join(e.name for e in self.block.members if e is not self))
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
        if self.block is None:
            typical = torch.tensor(self.reference / self.scale, dtype=torch.float64)
            return {
                "strength": strength * self.pull * float(self.penalty.omega(typical)),
                "scale": self.scale,
                "lambda": strength * self.pull * self.scale * self.scale,
                "groups": None,
                "group_size": None,
            }
        parts = self.block.parts
        typical = torch.tensor(parts[0].typical, dtype=torch.float64)
        return {
            "strength": strength * parts[0].pull * float(parts[0].law.omega(typical)),
            "scale": _ends([part.scale for part in parts]),
            "lambda": _ends([strength * part.pull * part.length**2 for part in parts]),
            "groups": len(self.block.sizes),
            "group_size": _ends([part.d for part in parts]),
        }


def _brief(penalty: Penalty) -> str:
    """The penalty without the names in its groups, which are told beside it."""
    spans = spans_of(penalty)
    return repr(penalty).replace(repr(penalty.group), "{...}") if spans else repr(penalty)


def _ends(values: Sequence[Any]) -> Any:
    """The one value, or the first and the last."""
    return values[0] if len(values) == 1 else (values[0], values[-1])


@dataclass(frozen=True)
class Part:
    """The groups of one size."""

    d: int
    chosen: Tensor  # which of the groups
    law: Penalty  # of the norm
    scale: float  # of the law
    length: float  # the norm that is the law's x = 1
    pull: float  # lambda / length^2 for each unit of strength (or of lambda)
    typical: float  # reference norm as an x of the law


@dataclass(eq=False)
class Block:
    """Tensors whose groups have a common norm, most often one tensor; each has a layout with as many groups."""

    members: list[Entry]
    layouts: list[Layout]
    sizes: Tensor  # weights in each group
    parts: list[Part] = field(default_factory=list)
    beside: dict[str, Tensor] = field(default_factory=dict)  # vectors that are removed with the groups

    @classmethod
    def of(cls, members: Sequence[Entry], axes: Sequence[object]) -> Block:
        """Divide each tensor along its axis.

        Raises
        ------
        TypeError, ValueError
            If a tensor cannot be divided so, is sharded, or has another number of groups than the others.
        """
        layouts = []
        for entry, axis in zip(members, axes, strict=True):
            if hasattr(entry.parameter, "to_local"):
                raise TypeError(f"{entry.name} is sharded over processes: groups need whole tensors; give it no group")
            layouts.append(layout_of(axis, entry.parameter, entry.name, entry.module))
        block = cls(list(members), layouts, joined(layouts, [entry.name for entry in members]))
        block.refer()
        for entry in members:
            entry.block = block
        return block

    def refer(self) -> None:
        """Give all members the rms at the start of all their weights; where every one is zero, that of Glorot's start of the first."""
        started = [entry for entry in self.members if not entry.start]
        rms = self.members[0].reference
        if started and len(self.members) > 1:
            total = math.hypot(*(entry.reference * math.sqrt(entry.parameter.numel()) for entry in started))
            rms = total / math.sqrt(sum(entry.parameter.numel() for entry in self.members))
        for entry in self.members:
            entry.reference = rms
            entry.start = "starts at zero" if started and entry.start else entry.start

    def settle(self, strength: StrengthSettings) -> None:
        """Fix scale and lambda of each size of group.

        Raises
        ------
        ValueError
            If one of them is out of range, or a group is larger than a table can be.
        """
        first = self.members[0]
        distinct = self.sizes.unique().tolist()
        self.parts = []
        for d in distinct:
            chosen = (self.sizes == d).nonzero().flatten()
            try:
                setting = strength.resolve_group(first.penalty, first.relative_scale, first.reference, d)
            except ValueError as error:
                raise ValueError(f"{', '.join(entry.name for entry in self.members)}: {error}") from None
            self.parts.append(Part(d, chosen, *setting))

    def told(self) -> str:
        """What tells this partition from others: the number of groups, and a checksum of a function's labels and where they lie."""
        marks = [
            zlib.crc32(own.labels.cpu().numpy().tobytes(), zlib.crc32(repr(own.kept).encode()))
            for own in self.layouts
            if own.labels is not None
        ]
        return f"{len(self.sizes)} groups" + "".join(f" (labels {mark:08x})" for mark in marks)

    def layout(self, entry: Entry) -> Layout:
        """Return how a member is divided."""
        return next(layout for each, layout in zip(self.members, self.layouts, strict=True) if each is entry)

    def norms(self, norms_of: Callable[[Layout, Tensor], Tensor] = Layout.norms) -> Tensor:
        """Norm of each group's distance to its centre; ``norms_of`` are those of one tensor."""
        for entry, layout in zip(self.members, self.layouts, strict=True):
            if entry.parameter.shape != layout.whole:
                raise ValueError(
                    f"{entry.name} has the shape {tuple(entry.parameter.shape)}, its groups were formed of {layout.whole}: where a "
                    "tensor was resized, make a new Regularizer"
                )
        norms = [norms_of(layout, entry.distance()) for entry, layout in zip(self.members, self.layouts, strict=True)]
        if len(norms) == 1:
            return norms[0]
        squares = norms[0].square()
        for each in norms[1:]:
            squares = squares + each.to(squares.device).square()
        return root(squares)

    def each(self, norms: Tensor, function: Callable[[Part, Tensor], Tensor]) -> Tensor:
        """Apply a function of a size's part, and of the norms as x of its law, to all groups."""
        if len(self.parts) == 1:
            return function(self.parts[0], norms / self.parts[0].length)
        out = torch.empty_like(norms)
        for part in self.parts:
            chosen = part.chosen.to(norms.device)
            out = out.index_copy(0, chosen, function(part, norms[chosen] / part.length).to(out.dtype))
        return out

    def value(self, strength: float) -> Tensor:
        """Sum of lambda R over the groups."""
        return self.each(self.norms(), lambda part, x: strength * part.pull * part.length**2 * part.law.value(x)).sum()

    def decay(self, norms: Tensor, step: float, mode: str) -> Tensor:
        """Share of its norm that each group loses by a step eta times strength; ``mode`` is implicit, prox or log penalty."""
        exact = any(entry.parameter.dtype == torch.float64 for entry in self.members)

        def implicit(part: Part, x: Tensor) -> Tensor:
            return decay_at(part.law, x, step * part.pull, exact)

        def proximal(part: Part, x: Tensor) -> Tensor:
            return 1 - kept_share(part.law, x, step * part.pull)

        def stationary(part: Part, x: Tensor) -> Tensor:  # strength rho^2, in units of length^2
            return 1 - stationary_share(x, step * part.typical**2)

        return self.each(norms, {"implicit": implicit, "prox": proximal, "log penalty": stationary}[mode])

    def slope(self, norms: Tensor, strength: float) -> Tensor:
        """Gradient of lambda R over the weight, lambda omega, for each group; 0 for a group of norm 0."""
        omega = self.each(norms, lambda part, x: strength * part.pull * part.law.omega(x))
        return torch.where(norms == 0, torch.zeros_like(omega), omega)

    @property
    def steepest(self) -> float:
        """Largest omega at 0 for each unit of strength."""
        at_zero = torch.zeros((), dtype=torch.float64)
        return max(part.pull * float(part.law.omega(at_zero)) for part in self.parts)


def form_blocks(
    entries: Sequence[Entry], penalties: Sequence[Penalty], known: Collection[str], others: Mapping[str, str]
) -> None:
    """Form the blocks of new entries: one for each tensor that is grouped by itself, one for each span of names.

    Parameters
    ----------
    entries : sequence of Entry
        The new ones.
    penalties : sequence of Penalty
        All that may come with groups that span tensors.
    known : collection of str
        Names of the parameters that were there before.
    others : mapping of str to str
        Names that are no entry's, and why: of parameters left out, and other names of tied ones.

    Raises
    ------
    TypeError, ValueError
        As `Block.of`; also if a span names a parameter that is not there, falls under another rule or is frozen.
    """
    for entry in entries:
        if entry.penalty.group is not None and not spans_of(entry.penalty):
            Block.of([entry], [entry.penalty.group])
    for penalty in dict.fromkeys(penalties):
        here = {entry.name: entry for entry in entries if entry.penalty == penalty}
        for span in spans_of(penalty):
            if all(name in known for name, _ in span.axes):
                continue  # formed when these were new
            for name, _ in span.axes:
                if name not in here:
                    raise ValueError(_why_missing(name, entries, others))
                if not here[name].parameter.requires_grad:
                    raise ValueError(f"{name} is frozen: a group is trained as a whole; unfreeze it or take it out")
            _check_alike([here[name] for name, _ in span.axes])
            Block.of([here[name] for name, _ in span.axes], [axis for _, axis in span.axes])


def _check_alike(members: Sequence[Entry]) -> None:
    first = members[0]
    for other in members[1:]:
        if (other.strength, other.relative_scale) != (first.strength, first.relative_scale):
            raise ValueError(
                f"{first.name} and {other.name} are of one group, but rules give them another strength or relative_scale"
            )


def _why_missing(name: str, entries: Sequence[Entry], others: Mapping[str, str]) -> str:
    names = [entry.name for entry in entries]
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


def pooled_rms(entries: Sequence[Entry]) -> float:
    """Root mean square of all weights, those tensors left out that start at zero; 0 if there is none."""
    started = [entry for entry in entries if not entry.start]
    total = sum(entry.parameter.numel() for entry in started)
    return math.sqrt(sum(entry.parameter.numel() * entry.reference**2 for entry in started) / total) if total else 0.0
