r"""`SymmetricStable`: the stable law as a ``torch.distributions.Distribution``.

With alpha a Python float, ``log_prob`` reads the look-up table (`softdiamond.table`) through a custom autograd function: its
first derivative is the score, its second the curvature, on any device, in any floating dtype. With alpha a tensor,
learned or one for each element, it calls the exact law (`softdiamond.stable`) on the CPU: right, and slow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from softdiamond import stable
from softdiamond.table import lookup_table

__all__ = ["SymmetricStable"]

_CHUNK = 1 << 16  # elements worked on at once on the CPU, so that intermediate results stay in its cache


class SymmetricStable(Distribution):
    r"""Symmetric alpha-stable law with density f((x - loc) / scale; alpha) / scale.

    .. math:: E e^{i t X} = e^{i t \, \mathrm{loc} - |\mathrm{scale} \, t|^\alpha}

    Parameters
    ----------
    alpha : float or Tensor
        Tail thickness in [0.1, 2]. A float reads the look-up table; a tensor the exact law, with a gradient for alpha.
    scale : float or Tensor
        Scale, positive; 1 by default.
    loc : float or Tensor
        Location.
    dispersion : float or Tensor, optional
        Dispersion scale^alpha, in place of ``scale``.
    validate_args : bool, optional
        Whether to check arguments and samples; as in every torch distribution.

    Raises
    ------
    ValueError
        If alpha lies outside [0.1, 2], scale or dispersion is not positive and finite, or both are given.

    References
    ----------
    Adigun and Kosko, Soft Diamond Regularizers for Deep Learning, arXiv:2412.20724.

    Examples
    --------
    >>> import torch
    >>> prior = SymmetricStable(alpha=1.0, scale=2.0)
    >>> prior.log_prob(torch.tensor([0.0, 2.0]))  # Cauchy: -log(2 pi), -log(4 pi)
    tensor([-1.8379, -2.5310])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "alpha": constraints.interval(stable.ALPHA_MIN, stable.ALPHA_MAX),
        "scale": constraints.positive,
        "loc": constraints.real,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        alpha: float | Tensor,
        scale: float | Tensor | None = None,
        *,
        loc: float | Tensor = 0.0,
        dispersion: float | Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if scale is not None and dispersion is not None:
            raise ValueError("give either scale or dispersion, not both: dispersion = scale ** alpha")
        checked = Distribution._validate_args if validate_args is None else validate_args
        given = [value for value in (alpha, scale, loc, dispersion) if not isinstance(value, Tensor)]
        if checked and given and not torch.compiler.is_compiling():
            _check_numbers(alpha, scale, dispersion)
        if dispersion is not None:
            if checked and isinstance(dispersion, Tensor) and not bool((dispersion > 0).all()):
                raise ValueError(f"dispersion must be positive and finite; got {dispersion}")
            scale = dispersion ** (1 / alpha)
        scale = 1.0 if scale is None else scale
        self._table_alpha: str | None = None if isinstance(alpha, Tensor) else float(alpha).hex()
        if isinstance(alpha, Tensor):
            self.alpha, self.scale, self.loc = broadcast_all(alpha, scale, loc)
        else:
            self.scale, self.loc = broadcast_all(scale, loc)
            self.alpha = torch.tensor(float(alpha), dtype=torch.float64)
        super().__init__(self.scale.shape, validate_args=validate_args)
        if checked and not torch.compiler.is_compiling() and not bool(torch.isfinite(self.scale).all()):
            raise ValueError("scale must be positive and finite; got an infinite scale")

    @property
    def dispersion(self) -> Tensor:
        """Dispersion gamma = scale^alpha."""
        return self.scale ** self.alpha.to(self.scale.dtype)

    @property
    def mean(self) -> Tensor:
        """Location where alpha > 1, else NaN: there is no mean."""
        return torch.where(self.alpha > 1, self.loc, torch.full_like(self.loc, torch.nan))

    @property
    def mode(self) -> Tensor:
        """Location."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Infinite for alpha < 2, and 2 scale^2 at alpha = 2."""
        return torch.where(self.alpha == 2, 2 * self.scale**2, torch.full_like(self.scale, torch.inf))

    def expand(self, batch_shape: Any, _instance: Any = None) -> SymmetricStable:
        """Distribution of the same parameters, expanded to ``batch_shape``."""
        new: SymmetricStable = self._get_checked_instance(SymmetricStable, _instance)
        shape = torch.Size(batch_shape)
        new._table_alpha = self._table_alpha
        new.alpha = self.alpha.expand(shape) if self._table_alpha is None else self.alpha
        new.scale, new.loc = self.scale.expand(shape), self.loc.expand(shape)
        super(SymmetricStable, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density at ``value``.

        With a fixed alpha it has first and second derivatives in value, scale and loc, and works under
        ``torch.compile(fullgraph=True)`` and ``torch.func``; float16 and bfloat16 are computed in float32.

        Raises
        ------
        ValueError
            If a value is NaN and arguments are validated.
        RuntimeError
            If a second derivative through a tensor alpha, or a third one, is asked for.
        """
        self._check_sample(value)
        z = self._standardised(value)
        scale = self.scale.to(z.dtype)
        if self._table_alpha is None:
            log_prob: Tensor = _ExactLogpdf.apply(z, self.alpha) - scale.log()
        else:
            cells = _torch_cells(self._table_alpha, z.dtype, z.device)
            needed = torch.is_grad_enabled() and z.requires_grad
            coarse, fine = _Penalty.apply(z, cells)[:2] if needed else _PenaltyAlone.apply(z, cells)
            constant = cells.log_peak - (scale if scale.device.type == "mps" else scale.double()).log()
            eighths = (8 * constant.detach()).round() / 8  # so that eighths - coarse is exact
            log_prob = (eighths.to(z.dtype) - coarse) + ((constant - eighths).to(z.dtype) - fine)
        return log_prob.to(self._result_dtype(value))

    def score(self, value: Tensor) -> Tensor:
        """Score d/dx log f at ``value``; as `log_prob`."""
        self._check_sample(value)
        z = self._standardised(value)
        if self._table_alpha is None:
            unit = _ExactScore.apply(z, self.alpha)
        else:
            unit = -_Penalty.apply(z, _torch_cells(self._table_alpha, z.dtype, z.device))[2]
        score: Tensor = unit / self.scale.to(z.dtype)
        return score.to(self._result_dtype(value))

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function at ``value``: the exact law on the CPU, with a first derivative in value, scale and loc."""
        self._check_sample(value)
        z = self._standardised(value)
        probability: Tensor = _ExactCdf.apply(z, self.alpha)
        return probability.to(self._result_dtype(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile of probabilities ``value``: the exact law on the CPU, with a first derivative in value, scale and loc."""
        p = value.to(_working(self._result_dtype(value)))
        z: Tensor = _ExactIcdf.apply(p, self.alpha)
        return (self.loc + self.scale * z).to(self._result_dtype(value))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the method of Chambers, Mallows and Stuck, differentiable in scale, loc and a tensor alpha."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=torch.float64, device=self.scale.device)
            uniform = (uniform + 2.0**-54).clamp(max=1 - 2.0**-53)
            log_exponential = torch.empty_like(uniform).exponential_().log()
            angle = math.pi * (uniform - 0.5)
            log_cosine = (math.pi * torch.minimum(uniform, 1 - uniform)).sin().log()
        alpha = self.alpha.to(uniform)
        log_size = (alpha * angle).sin().abs().log() - log_cosine / alpha
        log_size = log_size + (1 - alpha) / alpha * (((1 - alpha) * angle).cos().log() - log_exponential)
        draw = torch.copysign(log_size.exp(), angle).to(self.scale.dtype)
        return self.loc + self.scale * draw

    def entropy(self) -> Tensor:
        """Differential entropy: log scale plus a function of alpha found by quadrature with the exact law."""
        values, slopes = _unit_entropy(tuple(self.alpha.detach().double().cpu().reshape(-1).tolist()))
        value = torch.tensor(values, dtype=torch.float64).reshape(self.alpha.shape).to(self.alpha.device)
        if self.alpha.requires_grad:
            slope = torch.tensor(slopes, dtype=torch.float64).reshape(self.alpha.shape).to(self.alpha.device)
            value = value + slope * (self.alpha - self.alpha.detach())
        return value.to(self.scale.dtype) + self.scale.log()

    def __repr__(self) -> str:
        alpha = self.alpha if self._table_alpha is None else float(self.alpha)
        return f"{type(self).__name__}(alpha={alpha}, scale={self.scale}, loc={self.loc})"

    def _check_sample(self, value: Tensor) -> None:
        if self._validate_args and not torch.compiler.is_compiling():
            self._validate_sample(value)

    def _result_dtype(self, value: Tensor) -> torch.dtype:
        if value.is_floating_point() and bool(value.dim()) != bool(self.scale.dim()):  # the one with dimensions decides
            return value.dtype if value.dim() else self.scale.dtype
        return torch.promote_types(value.dtype, self.scale.dtype)  # torch.compile cannot trace torch.result_type

    def _standardised(self, value: Tensor) -> Tensor:
        dtype = _working(self._result_dtype(value))
        return (value.to(dtype) - self.loc.to(dtype)) / self.scale.to(dtype)


def _check_numbers(alpha: Any, scale: Any, dispersion: Any) -> None:
    """The one check of `stable.parameters`, of those arguments that are numbers."""
    stable.parameters(*(1.0 if isinstance(value, Tensor) else value for value in (alpha, scale, dispersion)))


def _working(dtype: torch.dtype) -> torch.dtype:
    """Dtype to compute in: float32 for the half precisions."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


# ------------------------------------------------------------------------------------------- fixed alpha: the table


class _Cells(NamedTuple):
    """A table's grid as tensors of one dtype and device; see `softdiamond.table.Grid`."""

    centre: Tensor
    penalty: tuple[Tensor, Tensor]  # in eighths, and the rest
    gradient: tuple[Tensor, ...]  # g_0, g_1, ...
    rise: tuple[Tensor, ...]  # g_0, g_1 / 2, g_2 / 3, ... of the penalty
    cell: Tensor  # `Grid.index`
    shift: int
    base: int
    low: float
    high: float
    tail: tuple[float, ...]
    alpha: float
    kappa: float
    log_peak: float


@functools.lru_cache(maxsize=256)
def _build_cells(alpha: float, dtype: torch.dtype, device: torch.device) -> _Cells:
    table = lookup_table(alpha)
    grid = table.single if dtype == torch.float32 else table.double
    centre, eighths, rest, *gradient = (torch.tensor(column, dtype=dtype, device=device) for column in grid.rows.T)
    rise = tuple(g / (k + 1) for k, g in enumerate(gradient))
    index = torch.tensor(grid.index, dtype=torch.int64, device=device)
    place = (index, grid.shift, grid.base, grid.low, grid.high, tuple(table.tail.tolist()))
    return _Cells(centre, (eighths, rest), tuple(gradient), rise, *place, alpha, table.kappa, table.log_peak)


def _torch_cells(alpha: str, dtype: torch.dtype, device: torch.device) -> _Cells:
    """Cells of an alpha in hexadecimal: torch.compile would make a float symbolic, but never a string."""
    return _build_cells(float.fromhex(alpha), dtype, device)


# What torch.compiler.assume_constant_result sets; calling it would import torch._dynamo, more than a second.
_torch_cells._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Penalty(Function):
    """Penalty at unit scale in two parts, multiples of 1/8 and the rest, and its gradient.

    The derivative of the rest is the gradient, that of the gradient the curvature.
    """

    @staticmethod
    def forward(x: Tensor, cells: _Cells) -> tuple[Tensor, Tensor, Tensor]:
        coarse, fine, gradient, _ = _look_up(x, cells, (True, True, False))
        return coarse, fine, gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[2])
        ctx.mark_non_differentiable(output[0])
        ctx.cells = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        x, gradient = ctx.saved_tensors
        total = None if outer[1] is None else outer[1] * gradient
        if outer[2] is not None:
            bent = outer[2] * _Curvature.apply(x, ctx.cells)
            total = bent if total is None else total + bent
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: _Cells) -> Any:
        return _Penalty.apply(x, cells), (in_dims[0],) * 3


class _PenaltyAlone(Function):
    """The two parts where no gradient is expected; should one be asked for all the same, it is looked up then."""

    @staticmethod
    def forward(x: Tensor, cells: _Cells) -> tuple[Tensor, Tensor]:
        return _look_up(x, cells, (True, False, False))[:2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.mark_non_differentiable(output[0])
        ctx.cells = inputs[1]

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[1] * _Penalty.apply(ctx.saved_tensors[0], ctx.cells)[2], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: _Cells) -> Any:
        return _PenaltyAlone.apply(x, cells), (in_dims[0],) * 2


class _Curvature(Function):
    @staticmethod
    def forward(x: Tensor, cells: _Cells) -> Tensor:
        return _look_up(x, cells, (False, False, True))[3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        raise RuntimeError("SymmetricStable.log_prob has no third derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, cells: _Cells) -> Any:
        return _Curvature.apply(x, cells), in_dims[0]


def _look_up(x: Tensor, cells: _Cells, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Penalty (eighths, rest), gradient and curvature, of these three what is wanted; in chunks on the CPU in eager mode."""
    flat = x.reshape(-1)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() <= _CHUNK:
        values = _chunk(flat, cells, wanted)
    else:
        each = (wanted[0], *wanted)
        values = tuple(torch.empty_like(flat) if want else flat for want in each)
        for start in range(0, flat.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            for out, value, want in zip(values, _chunk(flat[part], cells, wanted), each, strict=True):
                if want:
                    out[part] = value
    coarse, fine, gradient, curvature = (value.view(x.shape) for value in values)
    return coarse, fine, gradient, curvature


def _chunk(x: Tensor, cells: _Cells, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
    """`softdiamond.table`'s rule for flat x; see there for the mathematics. What is not wanted comes back as x."""
    integer, mantissa, bias = (torch.int32, 23, 127) if x.dtype == torch.float32 else (torch.int64, 52, 1023)
    size = x.abs()
    bits = size.view(integer)
    top = (bits >> cells.shift).sub_(cells.base).clamp_(0, cells.cell.numel() - 1)
    cell = cells.cell.index_select(0, top)
    tau = (bits & ((1 << mantissa) - 1)).bitwise_or_(bias << mantissa).view(x.dtype)
    tau = tau.sub_(cells.centre.index_select(0, cell))
    outside = _outside(size, cells)

    coarse = fine = gradient = curvature = x
    if wanted[0]:
        fine = cells.rise[-1].index_select(0, cell)
        for column in cells.rise[-2::-1]:
            fine = column.index_select(0, cell).addcmul_(fine, tau)
        fine = cells.penalty[1].index_select(0, cell).addcmul_(fine, tau, value=2)
        fine = outside(fine, lambda: cells.kappa / 2 * size * size, 0)
        coarse = outside(cells.penalty[0].index_select(0, cell), lambda: torch.zeros_like(size), None)
    if wanted[1] or wanted[2]:
        unit = ((2 * bias + 1 - (bits >> mantissa)) << mantissa).view(x.dtype)  # 2^(1 - e)
    if wanted[1]:
        gradient = cells.gradient[-1].index_select(0, cell)
        for column in cells.gradient[-2::-1]:
            gradient = column.index_select(0, cell).addcmul_(gradient, tau)
        gradient = outside(gradient.mul_(unit), lambda: cells.kappa * size, 1) * x.sign()
    if wanted[2]:
        degree = len(cells.gradient) - 1
        curvature = cells.gradient[degree].index_select(0, cell) * degree
        for k in range(degree - 1, 0, -1):
            curvature = (cells.gradient[k].index_select(0, cell) * k).addcmul_(curvature, tau)
        curvature = outside(curvature * unit * (unit / 2), lambda: torch.full_like(size, cells.kappa), 2)
    return coarse, fine, gradient, curvature


def _outside(size: Tensor, cells: _Cells) -> Callable[[Tensor, Callable[[], Tensor], int | None], Tensor]:
    """What mends a value where x lies below the cells, above them or is NaN; nothing to do where none does."""
    if size.device.type == "cpu" and not torch.compiler.is_compiling():
        least, most = size.aminmax() if size.numel() else (cells.low, cells.low)
        if cells.low <= float(least) and float(most) < cells.high:
            return lambda value, below, which: value
    beyond = _beyond(size, cells)

    def mend(value: Tensor, below: Callable[[], Tensor], which: int | None) -> Tensor:
        value = torch.where(size < cells.low, below(), value)
        value = torch.where(size >= cells.high, torch.zeros_like(size) if which is None else beyond[which], value)
        return torch.where(size == size, value, size)

    return mend


def _beyond(size: Tensor, cells: _Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Above the cells, as `softdiamond.table.Table`: the tail series, or the parabola at alpha = 2."""
    if cells.high > torch.finfo(size.dtype).max:  # only infinity is there
        return size, torch.zeros_like(size), torch.zeros_like(size)
    x = size.clamp(min=cells.high)
    if not cells.tail:
        return x * (x / 4), x / 2, torch.full_like(x, 0.5)
    y = x**-cells.alpha
    total, slope, bend = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
    for k in range(len(cells.tail), 0, -1):
        power = cells.alpha * k + 1
        total = total * y + cells.tail[k - 1]
        slope = slope * y + cells.tail[k - 1] * power
        bend = bend * y + cells.tail[k - 1] * power * (power + 1)
    slope, bend = slope / total, bend / total
    penalty = cells.log_peak + (cells.alpha + 1) * x.log() - total.log()
    return penalty, slope / x, (slope * slope - bend) / x / x


# ------------------------------------------------------------------------------------- alpha a tensor: the exact law


def _exact(function: Any, x: Tensor, alpha: Tensor) -> Tensor:
    """A function of `softdiamond.stable` at unit scale, on tensors."""
    value = function(x.detach().double().cpu().numpy(), alpha.detach().double().cpu().numpy())
    return torch.as_tensor(np.asarray(value), dtype=x.dtype, device=x.device)


def _reduced(gradient: Tensor, like: Tensor) -> Tensor:
    return gradient.sum_to_size(like.shape).to(like.dtype)


class _ExactLogpdf(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, alpha)
        return _exact(stable.logpdf, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        in_z = _reduced(outer[0] * _ExactScore.apply(z, alpha), z) if ctx.needs_input_grad[0] else None
        in_alpha = _reduced(outer[0] * _ExactTilt.apply(z, alpha), alpha) if ctx.needs_input_grad[1] else None
        return in_z, in_alpha


class _ExactScore(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, alpha)
        return _exact(stable.score, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        _refuse_second(ctx.needs_input_grad[1])
        return _reduced(-outer[0] * _exact(stable.curvature, z, alpha), z), None


class _ExactTilt(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        return _exact(stable.dlogpdf_dalpha, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        _refuse_second(True)


def _refuse_second(asked: bool) -> None:
    if asked:
        raise RuntimeError(
            "SymmetricStable has no second derivative through alpha: detach alpha, or give it as a Python float"
        )


class _ExactCdf(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        _refuse_probability_gradient(alpha)
        ctx.save_for_backward(z, alpha)
        return _exact(stable.cdf, z, alpha)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        return _reduced(outer[0] * _exact(stable.pdf, z, alpha), z), None


class _ExactIcdf(Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, alpha: Tensor) -> Tensor:
        _refuse_probability_gradient(alpha)
        z = _exact(stable.ppf, p, alpha)
        ctx.save_for_backward(z, alpha)
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        return _reduced(outer[0] / _exact(stable.pdf, z, alpha), outer[0]), None


def _refuse_probability_gradient(alpha: Tensor) -> None:
    if alpha.requires_grad:
        raise RuntimeError("cdf and icdf have no derivative in alpha: detach alpha, or give it as a Python float")


@functools.lru_cache(maxsize=64)
def _unit_entropy(alphas: tuple[float, ...]) -> tuple[list[float], list[float]]:
    r"""Entropy h at unit scale and dh / dalpha, one pair an alpha: :math:`h = -2 \int_0^\infty f \log f \, dx`, trapezoidal in log x."""
    values, slopes = [], []
    for alpha in alphas:
        step = 0.05
        u = np.arange(-45.0 - 8 / alpha, 45.0 / alpha, step) if alpha < 2 else np.arange(-45.0, 5.0, step)
        x = np.exp(np.minimum(u, 690.0))
        log_f = stable.logpdf(x, alpha)
        mass = 2 * np.exp(log_f + u) * step
        values.append(-float(np.sum(mass * log_f)))
        slope = -float(np.sum(mass * stable.dlogpdf_dalpha(x, alpha) * log_f)) if alpha < 2 else -math.inf
        slopes.append(slope)
    return values, slopes
