r"""How strongly: the dial in its relative form (strength) and its absolute one (lambda, scale), and the plan that shows it.

Without torch, for the regularizers of every framework.

In units of its scale a weight x = w / c feels s omega(x) with **pull** s = lambda / c^2 for each unit of eta. Relative settings give
c = relative scale * rms_0 and s = strength / omega(1 / relative scale), the same number for every tensor.
"""

from __future__ import annotations

import io
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from softdiamond import stable
from softdiamond.penalties.prox import Curve

Strength = float | Callable[[int], float]


LawT = TypeVar("LawT", bound=Curve, covariant=True)


class Grouped(Curve, Protocol[LawT]):
    """A penalty that can act on norms."""

    def radial(self, d: int) -> tuple[LawT, float, float]:
        """Law of the norm of d weights, its unit, and the norm where its peak and tail meet."""
        ...


class Dial:
    """Strength or lambda, which may change while training, and what fixes the scale.

    Parameters
    ----------
    strength, lam : float or callable, optional
        One of them.
    relative_scale : float, optional
        With ``strength``; 1 by default.
    scale, dispersion : float, optional
        One of them, with ``lam``.

    Raises
    ------
    TypeError, ValueError
        If the settings do not go together, or one is out of its range.
    """

    def __init__(
        self,
        strength: Strength | None,
        lam: Strength | None,
        relative_scale: float | None,
        scale: float | None,
        dispersion: float | None,
    ) -> None:
        if (strength is None) == (lam is None):
            raise ValueError("give either strength, the equivalent weight decay, or lam with scale or dispersion")
        if (lam is None) != (scale is None and dispersion is None):
            raise ValueError("absolute settings go together: lam with scale or dispersion, without strength")
        if scale is not None and dispersion is not None:
            raise ValueError("give either scale or dispersion, not both: dispersion = scale ** alpha")
        if lam is not None and relative_scale is not None:
            raise ValueError("relative_scale belongs to strength: with lam, give scale or dispersion alone")
        for name, value in (("relative_scale", relative_scale), ("scale", scale), ("dispersion", dispersion)):
            if value is not None:
                check_positive(name, value)
        self.name = "strength" if lam is None else "lam"
        self.relative_scale = 1.0 if relative_scale is None else float(relative_scale)
        self.factor = 1.0  # of the relative scale, where it moves
        self._scale, self._dispersion = scale, dispersion
        self.value = checked_strength(strength if strength is not None else lam, self.name)

    @property
    def absolute(self) -> bool:
        """Whether lambda and scale were given."""
        return self.name == "lam"

    def set(self, name: str, value: Any) -> None:
        """Set strength or lam, that of the two which was given.

        Raises
        ------
        TypeError, ValueError
            If it is the other one, or out of its range.
        """
        if name != self.name:
            raise ValueError(f"this regularizer was made with {self.name}: set {self.name} instead of {name}")
        self.value = checked_strength(value, name)

    def scale_and_pull(self, penalty: Curve, relative_scale: float, reference: float) -> tuple[float, float]:
        """Return scale c and pull, lambda / c^2 for each unit of strength (or of lambda), of a tensor.

        Raises
        ------
        ValueError
            If one of them is not positive and finite, or a dispersion is given for a penalty without alpha.
        """
        relative_scale *= self.factor
        if self._dispersion is not None:
            alpha = getattr(penalty, "alpha", None)
            if alpha is None:
                raise ValueError(f"dispersion belongs to a soft diamond; for {penalty!r} give scale")
            scale = float(stable.parameters(alpha, dispersion=self._dispersion)[1])
        else:
            scale = relative_scale * reference if self._scale is None else float(self._scale)
        if self.absolute:
            pull = 1 / scale / scale if scale > 0 else math.inf
        else:
            omega = _omega(penalty, 1 / relative_scale)
            pull = 1 / omega if omega > 0 else math.inf
        if not (0 < scale < math.inf and 0 < pull < math.inf):
            raise ValueError(f"scale {scale:g} is out of range for {penalty!r}: choose another scale or relative_scale")
        return scale, pull

    def of_group(
        self, penalty: Grouped[LawT], relative_scale: float, rms: float, d: int
    ) -> tuple[LawT, float, float, float, float]:
        """Return what a `softdiamond.regularizer._entries.Part` of groups of d weights holds: law, scale, length, pull, typical.

        Raises
        ------
        ValueError
            If a scale or lambda is not positive and finite, d is above the tables' limit, or a dispersion is given for a
            penalty without alpha.
        """
        law, unit, crossover = penalty.radial(d)
        norm = math.sqrt(d) * rms
        if self.absolute:
            scale, _ = self.scale_and_pull(penalty, relative_scale, norm)
        else:
            scale = relative_scale * self.factor * norm * penalty.radial(1)[2] / crossover
        length = scale * unit
        typical = norm / length if length > 0 else math.inf
        if self.absolute:
            pull = 1 / length / length if length > 0 else math.inf
        else:
            omega = _omega(law, typical)
            pull = 1 / omega if omega > 0 else math.inf
        if not (0 < length < math.inf and 0 < pull < math.inf):
            raise ValueError(f"scale {scale:g} is out of range for {penalty!r}: choose another scale or relative_scale")
        return law, scale, length, pull, typical

    def now(self, own: Strength | None, steps: int) -> float:
        """Return the strength (or lambda) after so many steps; ``own`` is a tensor's own by a rule.

        Raises
        ------
        ValueError
            If a schedule gives anything but a number that is finite and not negative.
        """
        value = self.value if own is None else own
        if not callable(value):
            return float(value)
        given = value(steps)
        try:
            number = float(given)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(
                f"{self.name} must be finite and not negative; its schedule gave {given!r} at step {steps}"
            )
        return number


def _omega(curve: Curve, x: float) -> float:
    """R'(x) / x of x > 0."""
    with np.errstate(all="ignore"):
        _, gradient, _ = curve.evaluate(np.array([x], dtype=np.float64))
        return float(gradient[0] / x)


def checked_strength(strength: Any, name: str = "strength") -> Strength:
    """Return a function as it is, a number as a float; raise unless that is finite and not negative."""
    if callable(strength):
        function: Strength = strength
        return function
    if not isinstance(strength, numbers.Real) or isinstance(strength, bool):
        raise TypeError(f"{name} must be a number or a function of the step; got {strength!r}")
    if not 0 <= float(strength) < math.inf:
        raise ValueError(f"{name} must be finite and not negative; got {strength!r}")
    return float(strength)


def check_positive(name: str, value: Any) -> None:
    """Raise unless it is a positive finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number; got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value!r}")


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise unless it is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


class Plan:
    """What is regularized, what is not, and why: `Regularizer.describe`.

    ``print`` shows it as plain text, ``rich.print`` in colour.

    Attributes
    ----------
    records : list of dict
        One for each parameter, in the model's order: ``name``, ``shape``, ``regularized``, ``why``, ``penalty``,
        ``strength`` (now), ``scale``, ``lambda``, ``groups`` (how many), ``group_size`` (weights in each), ``reference``
        (rms_0), ``optimizer``, ``eta`` (now) and ``weight_decay`` of its parameter group; None where it is not regularized,
        the groups also where there are none, the last three where no attached optimizer holds it. Of groups of several
        sizes, scale, lambda and size are pairs: those of the smallest and of the largest.
    """

    def __init__(self, records: list[dict[str, Any]], notes: Sequence[str]) -> None:
        self.records = records
        self._notes = list(notes)

    def __rich__(self) -> Any:
        return self._table()

    def _table(self, **style: Any) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(caption="\n".join(self._notes), caption_justify="left", **style)
        table.add_column("parameter", overflow="fold")
        grouped = any(record["groups"] for record in self.records)
        headings = ["shape", "penalty", *(["groups"] if grouped else []), "strength", "scale", "lambda"]
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "penalty" else "right")
        table.add_column("why")
        for record in self.records:
            shape = "x".join(map(str, record["shape"])) or "scalar"
            if record["regularized"]:
                of = f"{record['groups']:,} x {_told(record['group_size'])}" if record["groups"] else "-"
                told = [_told(record[key]) for key in ("strength", "scale", "lambda")]
                cells = [record["name"], shape, record["penalty"], *([of] if grouped else []), *told, record["why"]]
            else:
                cells = [record["name"], shape, *["-"] * (len(headings) - 1), record["why"]]
            table.add_row(*map(Text, cells), style=None if record["regularized"] else "dim")
        return table

    def __str__(self) -> str:
        from rich.box import ASCII
        from rich.console import Console

        console = Console(file=io.StringIO(), width=120, color_system=None, legacy_windows=False)
        console.print(self._table(box=ASCII))
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())

    __repr__ = __str__


def skipped_record(name: str, shape: tuple[int, ...], why: str) -> dict[str, Any]:
    """Return the row of `Plan` for a parameter that is not regularized."""
    about = "optimizer", "eta", "weight_decay"
    unknown = "penalty", "strength", "scale", "lambda", "groups", "group_size", "reference", *about
    return {"name": name, "shape": shape, "regularized": False, "why": why, **dict.fromkeys(unknown)}


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_told, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
