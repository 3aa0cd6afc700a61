r"""How strongly: strength in its relative form and its absolute one, lambda and scale. For the regularizers of every framework.

**Relative.** With rms_0 the root mean square of a tensor at the start (`softdiamond.parameters`),

.. math:: c = \text{relative scale} \cdot \mathrm{rms}_0, \qquad \lambda = \text{strength} / \omega(\mathrm{rms}_0; c),

so that a weight of the size rms_0 feels the decay that ``weight_decay=strength`` would give it. **relative scale** is the scale in
units of rms_0, 1 by default, in `softdiamond.Regularizer`, in Keras and in JAX alike; estimators that have no weights at the start
measure theirs in another unit, which stands at their own parameter.

**Total decay**, strength times the sum of the learning rates of all steps, is the number that carries over from one training to
another: at alpha 2 a weight that nothing holds shrinks by exp(-total decay).

**Absolute.** lambda and the scale c as they are, the same for all weights.

**In units of the scale** x = w / c a weight feels :math:`s\,\omega(x)` for each unit of step length, with the **normalized lambda**
:math:`s = \lambda / c^2`. For each unit of strength it is 1 / omega(1 / relative scale), the same number for every tensor; for each
unit of lambda 1 / c^2.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

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


class GroupScale(NamedTuple, Generic[LawT]):
    """Scale and lambda of groups of d weights, whose norm has a law of its own.

    Attributes
    ----------
    law : Penalty
        Of the norm.
    scale : float
        Of that law.
    length : float
        The norm that is the law's x = 1.
    normalized_lambda : float
        lambda / length^2 for each unit of strength (or of lambda).
    typical : float
        The reference norm as an x of the law.
    """

    law: LawT
    scale: float
    length: float
    normalized_lambda: float
    typical: float


class StrengthSettings:
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
        strength: Strength | None = None,
        *,
        lam: Strength | None = None,
        relative_scale: float | None = None,
        scale: float | None = None,
        dispersion: float | None = None,
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

    def resolve(self, penalty: Curve, relative_scale: float, reference: float) -> tuple[float, float]:
        """Return the scale c and the normalized lambda, for each unit of strength (or of lambda), of a tensor.

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
        return scale, self._normalized_lambda(penalty, penalty, scale, scale, 1 / relative_scale)

    def resolve_group(self, penalty: Grouped[LawT], relative_scale: float, rms: float, d: int) -> GroupScale[LawT]:
        r"""Return scale and normalized lambda of groups of d weights.

        Their reference norm is :math:`\rho = \sqrt d\,\mathrm{rms}_0`, the root mean square over the groups of the norm at the start
        where all have the same size. The scale puts the crossover radius :math:`\sqrt{(d + \alpha) / \omega_d(0)}`, where the peak
        of the law goes over into the tail, to where the scalar law has it at the same relative scale:

        .. math:: c_d = \text{relative scale} \cdot \rho \, \sqrt{\frac{1 + \alpha}{\omega_1(0)} \cdot \frac{\omega_d(0)}{d + \alpha}},
                  \qquad \lambda_d = \text{strength} / \omega_d(\rho; c_d).

        Groups of different sizes in one tensor have scales and lambdas of their own, as the group lasso weighs its groups by
        :math:`\sqrt d`.

        Raises
        ------
        ValueError
            If a scale or lambda is not positive and finite, d is above the tables' limit, or a dispersion is given for a
            penalty without alpha.
        """
        law, unit, crossover = penalty.radial(d)
        norm = math.sqrt(d) * rms
        if self.absolute:
            scale, _ = self.resolve(penalty, relative_scale, norm)
        else:
            scale = relative_scale * self.factor * norm * penalty.radial(1)[2] / crossover
        length = scale * unit
        typical = norm / length if length > 0 else math.inf
        return GroupScale(law, scale, length, self._normalized_lambda(penalty, law, scale, length, typical), typical)

    def _normalized_lambda(self, penalty: Any, law: Curve, scale: float, length: float, typical: float) -> float:
        """lambda / length^2 for each unit of strength or of lambda; ``typical`` is the reference in units of the length."""
        if self.absolute:
            value = 1 / length / length if length > 0 else math.inf
        else:
            omega = _omega(law, typical)
            value = 1 / omega if omega > 0 else math.inf
        if not (0 < length < math.inf and 0 < value < math.inf):
            raise ValueError(f"scale {scale:g} is out of range for {penalty!r}: choose another scale or relative_scale")
        return value

    def at(self, steps: int, own: Strength | None = None) -> float:
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
