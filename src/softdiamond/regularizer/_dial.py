r"""How strongly: the dial in its relative form (strength) and its absolute one (lambda, scale), checked in one place.

In units of its scale a weight x = w / c feels s omega(x) with **pull** s = lambda / c^2 for each unit of eta. Relative settings give
c = relative scale * rms_0 and s = strength / omega(1 / relative scale), the same number for every tensor.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch

from softdiamond import stable
from softdiamond.penalty import Penalty, SoftDiamond

Strength = float | Callable[[int], float]


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

    def scale_and_pull(self, penalty: Penalty, relative_scale: float, reference: float) -> tuple[float, float]:
        """Return scale c and pull, lambda / c^2 for each unit of strength (or of lambda), of a tensor.

        Raises
        ------
        ValueError
            If one of them is not positive and finite, or a dispersion is given for a penalty without alpha.
        """
        if self._dispersion is not None:
            if not isinstance(penalty, SoftDiamond):
                raise ValueError(f"dispersion belongs to a soft diamond; for {penalty!r} give scale")
            scale = float(stable.parameters(penalty.alpha, dispersion=self._dispersion)[1])
        else:
            scale = relative_scale * reference if self._scale is None else float(self._scale)
        if self.absolute:
            pull = 1 / scale / scale if scale > 0 else math.inf
        else:
            omega = float(penalty.omega(torch.tensor(1 / relative_scale, dtype=torch.float64)))
            pull = 1 / omega if omega > 0 else math.inf
        if not (0 < scale < math.inf and 0 < pull < math.inf):
            raise ValueError(f"scale {scale:g} is out of range for {penalty!r}: choose another scale or relative_scale")
        return scale, pull

    def of_group(
        self, penalty: Penalty, relative_scale: float, rms: float, d: int
    ) -> tuple[Penalty, float, float, float, float]:
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
            scale = relative_scale * norm * penalty.radial(1).crossover / crossover
        length = scale * unit
        typical = norm / length if length > 0 else math.inf
        if self.absolute:
            pull = 1 / length / length if length > 0 else math.inf
        else:
            omega = float(law.omega(torch.tensor(typical, dtype=torch.float64)))
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
