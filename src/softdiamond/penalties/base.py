"""`Penalty`: value, gradient, omega and proximal map of a tensor from two formulas at unit scale."""

from __future__ import annotations

import functools
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softdiamond._compat import all_true
from softdiamond.penalties import prox
from softdiamond.penalties.groups import Layout, layout_of


class Radial(NamedTuple):
    """What a penalty does to the norm of d weights."""

    law: Penalty  # elementwise, on norms
    unit: float  # the norm at unit scale that is the law's x = 1
    crossover: float  # the norm at unit scale where peak and tail meet, or any one that is the same for all d


class Penalty(ABC):
    """A penalty's shape; immutable and hashable.

    A subclass is a frozen dataclass with two formulas of torch operations at unit scale, on float32 or float64 tensors.
    If R' has more than one peak, or a jump or corner, it brings its own `prox` too.
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

    def _far(self, log_x: Tensor) -> tuple[Tensor, Tensor] | None:
        """R and its derivative in log x where x is too large for its dtype; None if those of an infinite x are right there."""
        return None

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
        >>> from softdiamond import StudentT
        >>> StudentT(df=1).value(torch.tensor([0.0, 1.0, -1.0]))  # log 2
        tensor([0.0000, 0.6931, 0.6931])
        """
        if self.group is not None:
            return self._by_norm(w, scale, lambda law, x, unit: law._value(x))[1].to(w.dtype)
        x, scale = _at_unit_scale(w, scale)
        log_x = log_of_overflow(x, w, scale)
        if log_x is None or (far := self._far(log_x)) is None:
            return self._value(x).to(w.dtype)
        infinite = x.isinf()
        within = torch.where(infinite, 1.0, w.to(x.dtype)) / scale  # no infinity, whose derivative in the scale is NaN
        return torch.where(infinite, far[0], self._value(within)).to(w.dtype)

    def grad(self, w: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Gradient of the penalty, R'(w / scale) / scale; parameters as `value`.

        Examples
        --------
        >>> from softdiamond import L2
        >>> L2().grad(torch.tensor([0.5, -1.0]))
        tensor([ 0.5000, -1.0000])
        """
        if self.group is not None:
            omega = self.omega(w.double() if w.device.type != "mps" else w.float(), scale)
            return (torch.where(omega.isinf(), 0.0, omega) * w).to(w.dtype)
        x, scale = _at_unit_scale(w, scale)
        log_x = log_of_overflow(x, w, scale)
        if log_x is None or (far := self._far(log_x)) is None:
            return (self._gradient(x) / scale).to(w.dtype)
        infinite = x.isinf()
        own = w.to(x.dtype)
        within = self._gradient(torch.where(infinite, 1.0, own) / scale) / scale
        return torch.where(infinite, far[1] / torch.where(infinite, own, 1.0), within).to(w.dtype)

    def omega(self, w: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Adaptive decay, gradient / w with its limit at 0 (infinite for L1); parameters as `value`.

        By group too it has the shape of w, equal within a group.

        Examples
        --------
        >>> from softdiamond import SoftDiamond
        >>> SoftDiamond(alpha=0.5).omega(torch.tensor([0.0, 1.0]))  # omega_zero = Gamma(6) / Gamma(2) at zero
        tensor([120.0000,   1.0701])
        """
        if self.group is not None:
            layout, omega = self._by_norm(w, scale, lambda law, x, unit: law._omega(x) / unit / unit)
            return layout.spread(omega).expand(layout.shape).reshape(w.shape).to(w.dtype)
        x, scale = _at_unit_scale(w, scale)
        return (self._omega(x) / scale / scale).to(w.dtype)

    @torch.no_grad()
    def prox(self, v: Tensor, step: float, scale: float = 1.0) -> Tensor:
        r"""Global minimizer u of \|u - v\|^2 / 2 + step R(u / scale), elementwise or by group; not differentiable.

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
            If the step is negative or not finite, the scale not positive and finite, or step / scale^2 above 1e290.

        Examples
        --------
        >>> from softdiamond import L1
        >>> L1().prox(torch.tensor([0.5, -3.0]), step=1.0)
        tensor([ 0., -2.])
        """
        check_step(step)
        if self.group is not None:
            layout, kept = self._by_norm(v, scale, lambda law, x, unit: kept_share(law, x, step / unit / unit))
            return (v * layout.spread(kept).expand(layout.shape).reshape(v.shape)).to(v.dtype)
        x, scale = _at_unit_scale(v, scale)
        if step == 0:
            return v.clone()
        ratio = float(step) / scale / scale
        if ratio > 1e25:  # whose product with a curvature may leave float32
            x = v.double() / scale
        shrunk = torch.minimum(_newton(self, x.abs(), ratio) * scale, v.abs().to(x.dtype))
        return torch.copysign(shrunk, v).to(v.dtype)

    def _by_norm(
        self, w: Tensor, scale: float | Tensor, function: Callable[[Penalty, Tensor, float], Tensor]
    ) -> tuple[Layout, Tensor]:
        """Return the groups of a tensor and, for each, a function of its law, its norm in that law's unit, and the unit."""
        dtype = computed_in(w, scale)
        if isinstance(scale, Tensor):
            raise TypeError("by group the scale is one number; got a tensor")
        layout = layout_of(self.group, w)
        norms = layout.norms(w.to(dtype))
        return layout, _by_size(layout, norms, lambda d, r: _of_norm(self, d, r, float(scale), function))

    def evaluate(self, x: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Penalty, gradient and curvature of float64 arrays at unit scale: the `softdiamond.penalties.prox.Curve` of this penalty."""
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.from_numpy(np.array(x, dtype=np.float64)).requires_grad_()
            gradient = self._gradient(at)
            (curvature,) = torch.autograd.grad(gradient.sum(), at)
            return self._value(at.detach()).numpy(), gradient.detach().numpy(), curvature.numpy()


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


def shown(penalty: Any, *arguments: str) -> str:
    """Return the repr of a penalty that may act by group."""
    grouping = penalty.group
    given = [] if grouping is None else [f"group={_named(grouping) if callable(grouping) else repr(grouping)}"]
    return f"{type(penalty).__name__}({', '.join([*arguments, *given])})"


def _named(function: Any) -> str:
    """Return a name that is the same in another process."""
    if isinstance(function, functools.partial):
        keywords = [f"{key}={value!r}" for key, value in function.keywords.items()]
        return f"partial({', '.join([_named(function.func), *map(repr, function.args), *keywords])})"
    return repr(getattr(function, "__qualname__", type(function).__qualname__))


def check_step(step: float) -> None:
    """Raise ValueError if the step is negative or not finite."""
    if not isinstance(step, numbers.Real) or not 0 <= float(step) < math.inf:
        raise ValueError(f"step must be finite and not negative; got {step!r}")


def _at_unit_scale(w: Tensor, scale: float | Tensor) -> tuple[Tensor, Any]:
    """w / scale and the scale, in the dtype of the computation."""
    dtype = computed_in(w, scale)
    scale = scale.to(dtype) if isinstance(scale, Tensor) else scale
    return w.to(dtype) / scale, scale


def log_of_overflow(x: Tensor, w: Tensor, scale: float | Tensor) -> Tensor | None:
    """log(|w| / scale) where x = w / scale is infinite; 100, as good as any large number, elsewhere.

    None where no x is infinite. That is looked at in eager mode on the CPU: elsewhere the answer would be waited for, and
    where a scale of 1 or more leaves every x finite nothing is to be done at all.
    """
    if not isinstance(scale, Tensor) and scale >= 1:
        return None
    infinite = x.isinf()
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and all_true(~infinite):
        return None
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    log_x = torch.where(infinite, w.abs().to(x.dtype), 1.0).log() - log_scale
    return torch.where(infinite, log_x, 100.0)


def computed_in(w: Tensor, scale: float | Tensor) -> torch.dtype:
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
def critical_step(penalty: Penalty) -> float:
    """`softdiamond.penalties.prox.critical_step`, remembered."""
    return prox.critical_step(penalty)


@functools.lru_cache(maxsize=256)
def find_jump(penalty: Penalty, step: float) -> prox.Jump | None:
    """`softdiamond.penalties.prox.find_jump`, remembered."""
    return prox.find_jump(step, penalty)


def _newton(penalty: Penalty, size: Tensor, step: float) -> Tensor:
    """`softdiamond.penalties.prox.prox` of tensors, which are sizes.

    It starts from the step that majorizes at the size itself, u = size / (1 + step omega(size)), which at a small step is
    nearly the root; below a jump from `softdiamond.penalties.prox.inner_start`.
    """
    prox.check_unit_step(step)

    def derivatives(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            at = u.clone().requires_grad_()
            gradient = penalty._gradient(at)
            (curvature,) = torch.autograd.grad(gradient.sum(), at)
        return gradient.detach(), curvature

    jump = find_jump(penalty, step) if step > critical_step(penalty) else None
    low, high = prox.bracket(torch, size, jump)
    start = size / (1 + step * penalty._omega(size))
    if jump is not None:
        below = prox.inner_start(size, step, float(penalty._omega(size.new_zeros(1))))
        start = torch.where(size < jump.at, below, start)
    start = torch.minimum(torch.maximum(start, low), high)
    u = prox.roots(torch, size, step, derivatives, start, low, high)
    return torch.where(size.isfinite(), u, size)
