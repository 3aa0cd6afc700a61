"""Which weights are regularized, how strongly, and why: rules and the plan's rows."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from softdiamond.parameters import why_not_eligible
from softdiamond.penalties import L2, Penalty, SoftDiamond
from softdiamond.plan import skipped_record
from softdiamond.regularizer._entries import Entry, rms_of, spans_of
from softdiamond.strength import Strength, check_positive, checked_strength

Named = nn.Module | Iterable[tuple[str, Tensor]]

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
_DTYPE_NAMES = "float16, bfloat16, float32 or float64"


@dataclass(frozen=True)
class Rule:
    """What some of the weights get in place of the default; of the rules that match a weight, the first counts.

    Parameters
    ----------
    where : str, type or callable
        A pattern of full names, as a shell has it (``"*.head.*"``, for ``head.weight`` too); a module type
        (``nn.Embedding``), whose own parameters match; or a function of (name, parameter) that returns a bool.
    skip : bool
        Leave these weights alone.
    include : bool
        Take in what the default leaves out: biases, norms, fewer than two dimensions.
    penalty : Penalty, optional
        Their penalty.
    alpha : float, optional
        Short for ``penalty=SoftDiamond(alpha)``.
    strength : float or callable, optional
        Their strength.
    relative_scale : float, optional
        Their relative scale.

    Raises
    ------
    TypeError
        If ``where`` is nothing of the above, or ``penalty`` is no penalty.
    ValueError
        If a value is out of its range, alpha and penalty are both given, ``skip`` comes with a setting, or nothing is given.

    Examples
    --------
    >>> Rule("*.bias", include=True, strength=1e-5)
    Rule('*.bias', include=True, strength=1e-05)
    """

    where: str | type | Callable[[str, Tensor], bool]
    skip: bool = False
    penalty: Penalty | None = None
    alpha: float | None = None
    strength: Strength | None = None
    relative_scale: float | None = None
    include: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.where, nn.Module) or not (isinstance(self.where, str) or callable(self.where)):
            raise TypeError(f"a rule's where is a name pattern, a module type or a function; got {_kind(self.where)}")
        given = [name for name in ("penalty", "alpha", "strength", "relative_scale") if getattr(self, name) is not None]
        given += ["include"] if self.include else []
        if self.skip and given:
            raise ValueError(f"a rule that skips takes no {' and no '.join(given)}")
        if not self.skip and not given:
            raise ValueError(f"{self} says nothing: give skip, include, penalty, alpha, strength or relative_scale")
        if self.alpha is not None:
            if self.penalty is not None:
                raise ValueError("a rule takes either alpha or penalty: alpha is short for penalty=SoftDiamond(alpha)")
            object.__setattr__(self, "penalty", SoftDiamond(self.alpha))
        if self.penalty is not None:
            check_penalty(self.penalty)
        if self.strength is not None:
            object.__setattr__(self, "strength", checked_strength(self.strength))
        if self.relative_scale is not None:
            check_positive("relative_scale", self.relative_scale)

    def __repr__(self) -> str:
        shown: dict[str, Any] = {"skip": self.skip or None, "include": self.include or None, "alpha": self.alpha}
        shown |= {"penalty": self.penalty} if self.alpha is None else {}
        shown |= {"strength": self.strength, "relative_scale": self.relative_scale}
        return f"Rule({', '.join([self.target, *(f'{k}={v!r}' for k, v in shown.items() if v is not None)])})"

    @property
    def target(self) -> str:
        """``where`` as text."""
        return repr(self.where) if isinstance(self.where, str) else getattr(self.where, "__name__", repr(self.where))

    def matches(self, candidate: Candidate) -> bool:
        """Whether the rule is for this weight."""
        if isinstance(self.where, str):
            names = (candidate.name, *candidate.aliases)
            return any(fnmatch.fnmatchcase(prefix + name, self.where) for name in names for prefix in ("", "."))
        if isinstance(self.where, type):
            return any(isinstance(module, self.where) for module in candidate.modules)
        return bool(self.where(candidate.name, candidate.parameter))


class Candidate(NamedTuple):
    """A parameter with its name, its other names, and the modules that hold it under these, if they are known."""

    name: str
    parameter: Tensor
    aliases: tuple[str, ...]
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Skipped:
    """A parameter that is not regularized."""

    name: str
    parameter: Tensor
    why: str

    def record(self) -> dict[str, Any]:
        """Return the row of `Plan`."""
        lazy = isinstance(self.parameter, nn.UninitializedParameter)
        shape = () if lazy else tuple(self.parameter.shape)
        return skipped_record(self.name, shape, self.why)


def candidates(source: Named) -> list[Candidate]:
    """Return each distinct parameter once, with all its names.

    Raises
    ------
    TypeError
        If the source is neither a module nor an iterable of (name, tensor).
    ValueError
        If a name occurs twice.
    """
    modules: dict[str, nn.Module] = {}
    if isinstance(source, nn.Module):
        model: Any = source
        while inner := _inside(model):
            model = inner
        modules = {plain_name(name): module for name, module in model.named_modules(remove_duplicate=False)}
        pairs = [(plain_name(name), p) for name, p in model.named_parameters(remove_duplicate=False)]
    else:
        pairs = _pairs(source)
    names: dict[int, list[str]] = {}
    for name, parameter in pairs:
        names.setdefault(id(parameter), []).append(name)
    by_id = {id(parameter): parameter for _, parameter in pairs}
    return [
        Candidate(
            own[0], by_id[key], tuple(own[1:]), tuple(modules[h] for n in own if (h := _holder(n, modules)) in modules)
        )
        for key, own in names.items()
    ]


def _holder(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the name of the module whose weight a parameter is or, by a parametrization, makes."""
    holder = name.rpartition(".")[0]
    if isinstance(modules.get(holder), ParametrizationList):
        return f".{holder}".rpartition(".parametrizations.")[0][1:]
    return holder


def _inside(model: nn.Module) -> Any:
    """Return what a model for data parallelism or a compiled one wraps, or None."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    return getattr(model, "_orig_mod", None)


def _kind(value: Any) -> str:
    return type(value).__name__


def plain_name(name: str) -> str:
    """Return a name without what `torch.compile` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _pairs(source: Any) -> list[tuple[str, Tensor]]:
    wanted = "a module, or an iterable of (name, parameter) such as model.named_parameters()"
    try:
        items = list(source)
    except TypeError:
        raise TypeError(f"expected {wanted}; got {_kind(source)}") from None
    pairs: list[tuple[str, Tensor]] = []
    for item in items:
        if not (
            isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Tensor)
        ):
            parts = f" of {', '.join(map(_kind, item))}" if isinstance(item, tuple) else ""
            raise TypeError(f"expected {wanted}; got an iterable of {_kind(item)}{parts}")
        pairs.append((plain_name(item[0]), item[1]))
    names = [name for name, _ in pairs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"names must differ; twice: {', '.join(sorted(repeated))}")
    return pairs


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
    parameter, why = candidate.parameter, _why_not(candidate)
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


def _why_not(candidate: Candidate) -> str:
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


def entry_of(candidate: Candidate, rule: Rule | None, why: str, penalty: Penalty, relative_scale: float) -> Entry:
    """Return the entry of a weight under the rule that applies to it, the last two where that says nothing else."""
    rms, start = rms_of(candidate.name, candidate.parameter)
    return Entry(
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


def check_used(rules: Sequence[Rule], found: Sequence[Candidate]) -> None:
    """Refuse a rule that matches no parameter it could act on; an earlier rule may have taken them first.

    Raises
    ------
    ValueError
        With the nearest names, or the module types there are.
    """
    for rule in rules:
        matched = [candidate for candidate in found if rule.matches(candidate)]
        if rule.skip or rule.include or not matched:
            reasons: list[str] = []
        else:
            reasons = [_why_not(candidate) for candidate in matched]
        if matched and not (reasons and all(reasons)):
            continue
        if matched:
            raise ValueError(
                f"{rule} matches only what the default leaves out ({reasons[0]}); include=True takes it in"
            )
        if isinstance(rule.where, str):
            names = [candidate.name for candidate in found]
            near = difflib.get_close_matches(rule.where.replace("*", ""), names, n=3, cutoff=0.3) or names[:3]
            hint = f"; near: {', '.join(near)}"
        elif isinstance(rule.where, type):
            kinds = sorted({_kind(module) for candidate in found for module in candidate.modules})
            hint = (
                f"; modules with parameters: {', '.join(kinds)}" if kinds else "; give the model, not named parameters"
            )
        else:
            hint = ""
        raise ValueError(f"{rule} matches no parameter{hint}")


def check_any(rows: Sequence[Entry | Skipped]) -> None:
    """Refuse a plan under which no weight is regularized now.

    Raises
    ------
    ValueError
        With how many parameters are left out for which reason.
    """
    if any(isinstance(row, Entry) and row.parameter.requires_grad for row in rows):
        return
    if not rows:
        raise ValueError("there are no parameters to regularize")
    reasons = [row.why if isinstance(row, Skipped) else "frozen" for row in rows]
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
    advice = "unfreeze some first" if "frozen" in reasons else "Rule(..., include=True) takes in more"
    raise ValueError(f"none of the {len(rows)} parameters is to be regularized ({counts}): {advice}")


def check_penalty(penalty: Any) -> None:
    """Raise TypeError unless it is a penalty."""
    if not isinstance(penalty, Penalty):
        what = f"the class {penalty.__name__}, not an instance" if isinstance(penalty, type) else repr(penalty)
        raise TypeError(f"penalty must be SoftDiamond(...), StudentT(...), L1() or L2(); got {what}")
