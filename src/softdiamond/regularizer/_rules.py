"""Rules: what some of the weights get in place of the default."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from softdiamond.penalties import Penalty, SoftDiamond
from softdiamond.regularizer._candidates import Candidate
from softdiamond.strength import Strength, check_positive, checked_strength


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
            raise TypeError(
                f"a rule's where is a name pattern, a module type or a function; got {type(self.where).__name__}"
            )
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


def check_used(rules: Sequence[Rule], found: Sequence[Candidate], why_not: Callable[[Candidate], str]) -> None:
    """Refuse a rule that matches no parameter it could act on; an earlier rule may have taken them first.

    ``why_not`` gives the reason why the default leaves a parameter out, or nothing.

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
            reasons = [why_not(candidate) for candidate in matched]
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
            kinds = sorted({type(module).__name__ for candidate in found for module in candidate.modules})
            hint = (
                f"; modules with parameters: {', '.join(kinds)}" if kinds else "; give the model, not named parameters"
            )
        else:
            hint = ""
        raise ValueError(f"{rule} matches no parameter{hint}")


def check_penalty(penalty: Any) -> None:
    """Raise TypeError unless it is a penalty."""
    if not isinstance(penalty, Penalty):
        what = f"the class {penalty.__name__}, not an instance" if isinstance(penalty, type) else repr(penalty)
        raise TypeError(f"penalty must be SoftDiamond(...), StudentT(...), L1() or L2(); got {what}")
