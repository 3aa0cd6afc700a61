r"""Penalties on weights: `SoftDiamond`, `L1`, `L2` and `StudentT`, elementwise on tensors.

Each is a shape R at unit scale, R(0) = 0; with a scale c the penalty of a weight is R(w / c). Its

- **value** is R(w / c),
- **gradient** R'(w / c) / c, an odd function,
- **omega** gradient / w, the strength of the decay that a weight of this size feels,
- **prox** the global minimiser of (u - v)^2 / 2 + step R(u / c), even where it jumps (`softdiamond.prox`).

==============  ======================  ==================  ==================================
penalty         R(x)                    omega(x)            -log of the prior, up to a constant
==============  ======================  ==================  ==================================
`SoftDiamond`   log f(0) - log f(x)     R'(x) / x           symmetric alpha-stable
`StudentT`      (n+1)/2 log(1 + x²/n)   (n + 1)/(n + x²)    Student's t, n degrees of freedom
`L1`            \|x\|                   1 / \|x\|           Laplace
`L2`            x²/2                    1                   Gauss of variance 1
==============  ======================  ==================  ==================================

SoftDiamond(1) and StudentT(1) are both Cauchy; SoftDiamond(2) is x²/4, Gauss of variance 2. float16 and bfloat16 are
computed in float32. Values and gradients are differentiable (``SoftDiamond``: value twice, gradient once; in reverse
mode) under autograd, ``torch.func`` and ``torch.compile(fullgraph=True)``; by group the second derivative of a value is
NaN at a norm of 0, where that of the gradient is right, and a function of the tensor as grouping does not compile whole.

**Groups.** ``SoftDiamond(alpha, group=...)`` and ``L1(group=...)`` act on the norm r of a group of d weights, see
`softdiamond.groups`: R(r / c) is minus the log of the isotropic law on R^d (`softdiamond.stable.group_penalty`), or r / c, the
group lasso. A group has one value and one omega; the gradient is omega w, and the proximal map shortens each group by the
scalar map of its norm, jump and all.

A new penalty is a class like those below: ``_value`` and ``_omega`` at unit scale.
"""

from __future__ import annotations

import functools
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softdiamond import prox, stable
from softdiamond._lookup import Cells, cells_of, gradient_of, penalty_of
from softdiamond.groups import Grouping, Layout, checked_grouping, layout_of
from softdiamond.table import lookup_table

__all__ = ["L1", "L2", "Penalty", "SoftDiamond", "StudentT"]


class Radial(NamedTuple):
    """What a penalty does to the norm of d weights."""

    law: Penalty  # elementwise, on norms
    unit: float  # the norm at unit scale that is the law's x = 1
    crossover: float  # the norm at unit scale where peak and tail meet, or any one that is the same for all d


class Penalty(ABC):
    """A penalty's shape; immutable and hashable.

    A subclass is a frozen dataclass with two formulas of torch operations at unit scale, on float32 or float64 tensors.
    If R' has more than one peak, or a jump or corner, it brings its own ``_shrink`` too.
    """

    group: ClassVar[Any] = None  # a field of those that act by group

    def radial(self, d: int) -> Radial:
        """Return the elementwise penalty on the norm of d weights."""
        raise TypeError(f"{self!r} does not act by group")

    @abstractmethod
    def _value(self, x: Tensor) -> Tensor:
        """R(x)."""

    @abstractmethod
    def _omega(self, x: Tensor) -> Tensor:
        """R'(x) / x, with its limit at 0."""

    def _gradient(self, x: Tensor) -> Tensor:
        """R'(x)."""
        return x * self._omega(x)

    def _shrink(self, size: Tensor, step: float) -> Tensor:
        """Global minimiser of (u - size)^2 / 2 + step R(u) for size >= 0."""
        return _newton(self, size, step)

    def value(self, w: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Penalty R(w / scale).

        Parameters
        ----------
        w : Tensor
            Weights, floating, of any shape and device.
        scale : float or Tensor
            Scale c > 0; a tensor broadcasts. By group a number.

        Returns
        -------
        Tensor
            Of the dtype of w and of its shape, or of that of w and scale broadcast; NaN where w is NaN. By group one value
            for each, of shape (groups,).

        Raises
        ------
        TypeError
            If w is not a real floating tensor.
        ValueError
            If a number ``scale`` is not positive and finite.

        Examples
        --------
        >>> StudentT(df=1).value(torch.tensor([0.0, 1.0, -1.0]))  # log 2
        tensor([0.0000, 0.6931, 0.6931])
        """
        if self.group is not None:
            return self._by_norm(w, scale, lambda law, x, unit: law._value(x))[1].to(w.dtype)
        x, _ = _at_unit_scale(w, scale)
        return self._value(x).to(w.dtype)

    def grad(self, w: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Gradient of the penalty, R'(w / scale) / scale; parameters as `value`.

        Examples
        --------
        >>> L2().grad(torch.tensor([0.5, -1.0]))
        tensor([ 0.5000, -1.0000])
        """
        if self.group is not None:
            omega = self.omega(w.double() if w.device.type != "mps" else w.float(), scale)
            return (torch.where(omega.isinf(), 0.0, omega) * w).to(w.dtype)
        x, scale = _at_unit_scale(w, scale)
        return (self._gradient(x) / scale).to(w.dtype)

    def omega(self, w: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Adaptive decay, gradient / w with its limit at 0 (infinite for L1); parameters as `value`.

        By group too it has the shape of w, equal within a group.

        Examples
        --------
        >>> SoftDiamond(alpha=0.5).omega(torch.tensor([0.0, 1.0]))  # kappa = Gamma(6) / Gamma(2) at zero
        tensor([120.0000,   1.0701])
        """
        if self.group is not None:
            layout, omega = self._by_norm(w, scale, lambda law, x, unit: law._omega(x) / unit / unit)
            return layout.spread(omega).expand(layout.shape).reshape(w.shape).to(w.dtype)
        x, scale = _at_unit_scale(w, scale)
        return (self._omega(x) / scale / scale).to(w.dtype)

    @torch.no_grad()
    def prox(self, v: Tensor, step: float, scale: float = 1.0) -> Tensor:
        r"""Global minimiser u of \|u - v\|^2 / 2 + step R(u / scale), elementwise or by group; not differentiable.

        Parameters
        ----------
        v : Tensor
            Floating, of any shape and device.
        step : float
            Not negative.
        scale : float
            Scale c > 0.

        Returns
        -------
        Tensor
            Of the shape and dtype of v; NaN where v is NaN, infinite where v is.

        Raises
        ------
        TypeError
            If v is not a real floating tensor.
        ValueError
            If the step is negative or not finite, or the scale not positive and finite.

        Examples
        --------
        >>> L1().prox(torch.tensor([0.5, -3.0]), step=1.0)
        tensor([ 0., -2.])
        """
        _check_step(step)
        if self.group is not None:
            layout, kept = self._by_norm(v, scale, lambda law, x, unit: kept_share(law, x, step / unit / unit))
            return (v * layout.spread(kept).expand(layout.shape).reshape(v.shape)).to(v.dtype)
        x, scale = _at_unit_scale(v, scale)
        if step == 0:
            return v.clone()
        pull = float(step) / scale / scale
        if pull > 1e25:  # whose product with a curvature may leave float32
            x = v.double() / scale
        shrunk = torch.minimum(self._shrink(x.abs(), pull) * scale, v.abs().to(x.dtype))
        return torch.copysign(shrunk, v).to(v.dtype)

    def _by_norm(
        self, w: Tensor, scale: float | Tensor, function: Callable[[Penalty, Tensor, float], Tensor]
    ) -> tuple[Layout, Tensor]:
        """Return the groups of a tensor and, for each, a function of its law, its norm in that law's unit, and the unit."""
        dtype = _computed_in(w, scale)
        if isinstance(scale, Tensor):
            raise TypeError("by group the scale is one number; got a tensor")
        layout = layout_of(self.group, w)
        norms = layout.norms(w.to(dtype))
        return layout, _by_size(layout, norms, lambda d, r: _of_norm(self, d, r, float(scale), function))

    def evaluate(self, x: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Penalty, gradient and curvature of float64 arrays at unit scale: the `softdiamond.prox.Curve` of this penalty."""
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.from_numpy(np.array(x, dtype=np.float64)).requires_grad_()
            gradient = self._gradient(at)
            (bend,) = torch.autograd.grad(gradient.sum(), at)
            return self._value(at.detach()).numpy(), gradient.detach().numpy(), bend.numpy()


@dataclass(frozen=True, repr=False)
class SoftDiamond(Penalty):
    """Minus the logarithm of the symmetric alpha-stable density, R(x) = log f(0) - log f(x), from the look-up table.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2]. 2 is ridge; 1 Cauchy; the smaller, the sharper the peak and the thicker the tail.
    group : optional
        Which weights share one norm, see `softdiamond.groups`: ``"input"``, ``"output"``, ``("head", n)``, a function of the
        tensor, or mappings of names. None: each weight by itself.

    Raises
    ------
    TypeError
        If the grouping is of no kind that there is.
    ValueError
        If alpha is not one number in [0.1, 2], or the grouping is unknown.

    References
    ----------
    Adigun and Kosko, Soft Diamond Regularizers for Deep Learning, arXiv:2412.20724.
    """

    alpha: float = 0.5
    group: Grouping | None = None  # type: ignore[misc]
    _d: ClassVar[int] = 1

    def __post_init__(self) -> None:
        alpha, _ = stable.parameters(self.alpha)
        if alpha.ndim:
            raise ValueError(f"alpha must be one number in [0.1, 2]; got an array of shape {alpha.shape}")
        object.__setattr__(self, "alpha", float(alpha))
        object.__setattr__(self, "group", checked_grouping(self.group))
        object.__setattr__(self, "_hex", float(alpha).hex())

    def __repr__(self) -> str:
        return _shown(self, f"alpha={self.alpha!r}")

    def radial(self, d: int) -> Radial:
        """Return the law of the norm of d weights; ValueError if d is above 65,536."""
        if d > stable.D_MAX:
            raise ValueError(
                f"a soft diamond's group has at most {stable.D_MAX:,} weights; got {d:,}: make smaller groups with a function of "
                "the tensor, or take L1(group=...), which has no limit"
            )
        law = _Isotropic(self.alpha, _d=d, _hex=self._hex)  # type: ignore[attr-defined]
        return Radial(law, *_unit_and_crossover(self._hex, str(d)))  # type: ignore[attr-defined]

    def _value(self, x: Tensor) -> Tensor:
        coarse, fine = penalty_of(x, self._cells(x))
        return coarse + fine

    def _omega(self, x: Tensor) -> Tensor:
        cells = self._cells(x)
        below = x.abs() < cells.low
        omega = self._gradient(torch.where(below, 1.0, x)) / torch.where(below, 1.0, x)
        omega = torch.where(below, cells.kappa, omega)
        return torch.where(x.isinf(), 0.5 if self.alpha == 2 else 0.0, omega)

    def _gradient(self, x: Tensor) -> Tensor:
        return gradient_of(x, self._cells(x))

    def evaluate(self, x: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Penalty, gradient and curvature of float64 arrays at unit scale, straight from the table."""
        return lookup_table(self.alpha, self._d).evaluate(np.asarray(x, dtype=np.float64))

    def _cells(self, x: Tensor) -> Cells:
        return cells_of(self._hex, x.dtype, x.device, str(self._d))  # type: ignore[attr-defined]


@dataclass(frozen=True, repr=False)
class _Isotropic(SoftDiamond):
    """The law of d weights as a function of their norm, in units of its table."""

    group: ClassVar[Any] = None  # type: ignore[misc]
    _d: int = 1  # type: ignore[misc]
    _hex: str = ""

    def __post_init__(self) -> None:
        """Nothing to check: torch.compile traces this."""


def _unit_and_crossover(alpha: str, d: str) -> tuple[float, float]:
    table = lookup_table(float.fromhex(alpha), int(d))
    return table.unit, table.crossover if table.alpha < 2 else math.sqrt((table.d + 2) / table.kappa)


_unit_and_crossover._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as `softdiamond._lookup.cells_of`


@dataclass(frozen=True)
class StudentT(Penalty):
    """Minus the logarithm of Student's t density, the closed-form neighbour: R(x) = (df + 1)/2 log(1 + x²/df).

    Parameters
    ----------
    df : float
        Degrees of freedom, positive. 1 is Cauchy.

    Raises
    ------
    ValueError
        If df is not positive and finite.
    """

    df: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.df, numbers.Real) or not 0 < self.df < math.inf:
            raise ValueError(f"df must be positive and finite; got {self.df!r}")
        object.__setattr__(self, "df", float(self.df))

    def _value(self, x: Tensor) -> Tensor:
        size = x.abs()
        large = size > 1e15  # whose square may overflow, and beside which df is nothing
        ordinary = torch.where(large, 0.0, x)
        above = 2 * torch.where(large, size, 1.0).log() - math.log(self.df)
        return (self.df + 1) / 2 * torch.where(large, above, (ordinary * ordinary / self.df).log1p())

    def _omega(self, x: Tensor) -> Tensor:
        return (self.df + 1) / (self.df + x * x)

    def _gradient(self, x: Tensor) -> Tensor:
        large = x.abs() > 1e15
        ordinary, beyond = torch.where(large, 0.0, x), torch.where(large, x, 1.0)
        return torch.where(large, (self.df + 1) / beyond, ordinary * self._omega(ordinary))


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge, R(x) = x²/2: with a lambda it is weight decay of that strength."""

    def _value(self, x: Tensor) -> Tensor:
        return x * (x / 2)

    def _omega(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, 1.0)

    def _shrink(self, size: Tensor, step: float) -> Tensor:
        return size / (1 + step)


@dataclass(frozen=True, repr=False)
class L1(Penalty):
    r"""Lasso, R(x) = \|x\|: its prox is soft thresholding, its gradient sign(x), 0 at 0.

    Parameters
    ----------
    group : optional
        Which weights share one norm, see `SoftDiamond`: the group lasso.

    Raises
    ------
    TypeError, ValueError
        If the grouping is of no kind that there is.
    """

    group: Grouping | None = None  # type: ignore[misc]

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", checked_grouping(self.group))

    def __repr__(self) -> str:
        return _shown(self)

    def radial(self, d: int) -> Radial:
        """Return the lasso, whatever d."""
        return Radial(L1(), 1.0, 1.0)

    def _value(self, x: Tensor) -> Tensor:
        return x.abs()

    def _omega(self, x: Tensor) -> Tensor:
        return 1 / x.abs()

    def _gradient(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, x.sign())

    @torch.no_grad()
    def prox(self, v: Tensor, step: float, scale: float = 1.0) -> Tensor:
        """Soft thresholding at step / scale, in two passes; see `Penalty.prox`."""
        if self.group is not None:
            return super().prox(v, step, scale)
        _check_step(step)
        dtype = _computed_in(v, scale)
        shrunk = nn.functional.softshrink(v.to(dtype), float(step) / float(scale))
        return shrunk.copysign_(v).to(v.dtype)


def _by_size(layout: Layout, norms: Tensor, function: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Apply a function of (number of weights, norms of the groups of that size), of which there are few, to all groups."""
    if len(layout.distinct) == 1:
        return function(layout.distinct[0], norms)
    out = torch.empty_like(norms)
    for d in layout.distinct:
        chosen = (layout.sizes == d).nonzero().flatten().to(norms.device)
        out = out.index_copy(0, chosen, function(d, norms[chosen]))
    return out


def _of_norm(
    penalty: Penalty, d: int, norms: Tensor, scale: float, function: Callable[[Penalty, Tensor, float], Tensor]
) -> Tensor:
    law, unit, _ = penalty.radial(d)
    return function(law, norms / (scale * unit), scale * unit)


def kept_share(law: Penalty, x: Tensor, step: float) -> Tensor:
    """Share of its norm that the proximal map leaves to a group; of an infinite one all."""
    ordinary = (x > 0) & ~x.isinf()
    return torch.where(ordinary, law.prox(x, step) / torch.where(ordinary, x, 1.0), x.clamp(max=1))


def _shown(penalty: Any, *arguments: str) -> str:
    grouping = penalty.group
    given = [] if grouping is None else [f"group={_named(grouping) if callable(grouping) else repr(grouping)}"]
    return f"{type(penalty).__name__}({', '.join([*arguments, *given])})"


def _named(function: Any) -> str:
    """Return a name that is the same in another process."""
    if isinstance(function, functools.partial):
        keywords = [f"{key}={value!r}" for key, value in function.keywords.items()]
        return f"partial({', '.join([_named(function.func), *map(repr, function.args), *keywords])})"
    return repr(getattr(function, "__qualname__", type(function).__qualname__))


def _check_step(step: float) -> None:
    if not isinstance(step, numbers.Real) or not 0 <= float(step) < math.inf:
        raise ValueError(f"step must be finite and not negative; got {step!r}")


def _at_unit_scale(w: Tensor, scale: float | Tensor) -> tuple[Tensor, Any]:
    """w / scale and the scale, in the dtype of the computation."""
    dtype = _computed_in(w, scale)
    scale = scale.to(dtype) if isinstance(scale, Tensor) else scale
    return w.to(dtype) / scale, scale


def _computed_in(w: Tensor, scale: float | Tensor) -> torch.dtype:
    """Check both; return the dtype in which they are computed."""
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise TypeError(f"a penalty takes a real floating tensor; got {w.dtype if isinstance(w, Tensor) else repr(w)}")
    dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
    if isinstance(scale, Tensor):
        return dtype
    if not isinstance(scale, numbers.Real):
        raise TypeError(f"scale must be a number or a tensor; got {scale!r}")
    if not 0 < float(scale) < math.inf:
        raise ValueError(f"scale must be positive and finite; got {scale!r}")
    extreme = not 1e-10 < scale < 1e10  # whose square, or that of w / scale, may leave float32
    return torch.float64 if extreme else dtype


@functools.lru_cache(maxsize=256)
def _critical_step(penalty: Penalty) -> float:
    return prox.critical_step(penalty)


@functools.lru_cache(maxsize=256)
def _find_jump(penalty: Penalty, step: float) -> prox.Jump | None:
    return prox.find_jump(step, penalty)


def _newton(penalty: Penalty, size: Tensor, step: float) -> Tensor:
    """`softdiamond.prox.prox` in torch, of sizes: Newton's method, kept by bisection in the bracket where h rises.

    It starts from the step that majorizes at the size itself, u = size / (1 + step omega(size)), which at a small step is
    nearly the root.
    """
    low, high = torch.zeros_like(size), size
    if step > _critical_step(penalty) and (jump := _find_jump(penalty, step)):
        beyond = size >= jump.at
        low = torch.where(beyond, size.clamp(max=jump.outer), low)
        high = torch.where(beyond, high, size.clamp(max=jump.inner))
    u = (size / (1 + step * penalty._omega(size))).clamp(low, high)
    kind = torch.finfo(size.dtype)
    close = 0.01 * kind.eps**0.5  # a step of Newton's method from here is exact to rounding
    for _ in range(200):
        with torch.inference_mode(False), torch.enable_grad():
            at = u.clone().requires_grad_()
            gradient = penalty._gradient(at)
            (bend,) = torch.autograd.grad(gradient.sum(), at)
        excess = u + step * gradient.detach() - size
        low, high = torch.where(excess <= 0, u, low), torch.where(excess >= 0, u, high)
        new = u - excess / (1 + step * bend)
        new = torch.where((new >= low) & (new <= high), new, (low + high) / 2)
        moved = (new - u).abs() > close * new + kind.smallest_normal
        u = torch.where(excess == 0, u, new)
        if not bool((moved & (excess != 0)).any()):
            break
    return torch.where(size.isfinite(), u, size)
