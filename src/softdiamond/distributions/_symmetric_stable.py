r"""`SymmetricStable`: the stable law as a ``torch.distributions.Distribution``.

With alpha a Python float, ``log_prob`` reads the look-up table (`softdiamond.table`) through a custom autograd function: its
first derivative is the score, its second the curvature, on any device, in any floating dtype. With alpha a tensor,
learned or one for each element, it calls the exact law (`softdiamond.stable`) on the CPU: right, and slow.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from softdiamond import stable
from softdiamond._compat import all_true
from softdiamond.distributions._exact import (
    Entropy,
    ExactCdf,
    ExactIcdf,
    ExactLogpdf,
    ExactScore,
    exactly,
    refuse_alpha,
)
from softdiamond.penalties.base import log_of_overflow
from softdiamond.table.torch_reader import cells_of, far_penalty, gradient_of, penalty_of

_SCALE_MIN = 1e-30  # in float32


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
        if not isinstance(alpha, (numbers.Real, Tensor)):
            raise TypeError(f"alpha must be a number or a tensor; got {alpha!r}")
        if scale is not None and dispersion is not None:
            raise ValueError("give either scale or dispersion, not both: dispersion = scale ** alpha")
        checked = self._validate_args if validate_args is None else validate_args
        checked = checked and not torch.compiler.is_compiling()
        if checked:
            _check_given(alpha, scale, dispersion)
        if dispersion is not None:
            scale = dispersion ** (1 / alpha)
        scale = 1.0 if scale is None else scale
        alpha, scale, loc = _as_float(alpha), _as_float(scale), _as_float(loc)
        self._table_alpha: str | None = None if isinstance(alpha, Tensor) else float(alpha).hex()
        if isinstance(alpha, Tensor):
            self.alpha, self.scale, self.loc = broadcast_all(alpha, scale, loc)
        else:
            self.scale, self.loc = broadcast_all(scale, loc)
            self.alpha = torch.tensor(float(alpha), dtype=torch.float64)
        if checked:
            _check_size(self.scale, scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

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
        ``torch.compile(fullgraph=True)``; float16 and bfloat16 are computed in float32, and everything in float64 if scale
        or loc is. A tensor alpha is not for ``torch.compile``. Both work under ``torch.func``, ``vmap`` too (reverse mode:
        no ``jvp``).

        Raises
        ------
        ValueError
            If a value is NaN and arguments are validated.
        RuntimeError
            If a second derivative through a tensor alpha, or a third one, is asked for.
        """
        self._check_sample(value)
        if self._table_alpha is None:
            log_prob: Tensor = ExactLogpdf.apply(self._exact(value), exactly(self.alpha)) - exactly(self.scale).log()
        else:
            scale = self.scale.to(self._table_dtype(value))
            distance, z = self._standardized(value)
            cells = cells_of(self._table_alpha, z.dtype, z.device)
            log_z = log_of_overflow(z, distance, scale) if cells.tail else None
            within = z if log_z is None else torch.where(z.isinf(), 1.0, distance) / scale
            coarse, fine = penalty_of(within, cells)
            constant = cells.log_peak - (scale if scale.device.type == "mps" else scale.double()).log()
            eighths = (8 * constant.detach()).round() / 8  # so that eighths - coarse is exact
            log_prob = (eighths.to(z.dtype) - coarse) + ((constant - eighths).to(z.dtype) - fine)
            if log_z is not None:
                log_prob = torch.where(z.isinf(), constant.to(z.dtype) - far_penalty(log_z, cells)[0], log_prob)
        return log_prob.to(value.device, self._result_dtype(value))

    def score(self, value: Tensor) -> Tensor:
        """Score d/dx log f at ``value``; as `log_prob`."""
        self._check_sample(value)
        if self._table_alpha is None:
            score: Tensor = ExactScore.apply(self._exact(value), exactly(self.alpha)) / exactly(self.scale)
        else:
            distance, z = self._standardized(value)
            scale = self.scale.to(z.dtype)
            cells = cells_of(self._table_alpha, z.dtype, z.device)
            log_z = log_of_overflow(z, distance, scale) if cells.tail else None
            if log_z is None:
                score = -gradient_of(z, cells) / scale
            else:
                infinite = z.isinf()
                within = gradient_of(torch.where(infinite, 1.0, distance) / scale, cells) / scale
                score = -torch.where(
                    infinite, far_penalty(log_z, cells)[1] / torch.where(infinite, distance, 1.0), within
                )
        return score.to(value.device, self._result_dtype(value))

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function at ``value``: the exact law on the CPU, with derivatives in value, scale and loc."""
        self._check_sample(value)
        refuse_alpha(torch.is_grad_enabled() and self.alpha.requires_grad)
        probability: Tensor = ExactCdf.apply(self._exact(value), exactly(self.alpha))
        return probability.to(value.device, self._result_dtype(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile of probabilities ``value``: the exact law on the CPU, with derivatives in value, scale and loc."""
        refuse_alpha(torch.is_grad_enabled() and self.alpha.requires_grad)
        z: Tensor = ExactIcdf.apply(exactly(value), exactly(self.alpha))
        x = exactly(self.loc) + exactly(self.scale) * z
        return x.to(value.device, self._result_dtype(value))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the method of Chambers, Mallows and Stuck, differentiable in scale, loc and a tensor alpha."""
        shape = self._extended_shape(torch.Size(sample_shape))
        device = torch.device("cpu") if self.scale.device.type == "mps" else self.scale.device  # mps has no float64
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=torch.float64, device=device)
            uniform = (uniform + 2.0**-54).clamp(max=1 - 2.0**-53)
            log_exponential = torch.empty_like(uniform).exponential_().log()
            angle = math.pi * (uniform - 0.5)
            log_cosine = (math.pi * torch.minimum(uniform, 1 - uniform)).sin().log()
        alpha = self.alpha.to(device, torch.float64)
        log_size = (alpha * angle).sin().abs().log() - log_cosine / alpha
        log_size = log_size + (1 - alpha) / alpha * (((1 - alpha) * angle).cos().log() - log_exponential)
        draw = torch.copysign(log_size.exp(), angle).to(self.scale.device, self.scale.dtype)
        return self.loc + self.scale * draw

    def entropy(self) -> Tensor:
        """Differential entropy: log scale plus a function of alpha found by quadrature with the exact law."""
        unit: Tensor = Entropy.apply(exactly(self.alpha))
        return unit.to(self.scale.device, self.scale.dtype) + self.scale.log()

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

    def _table_dtype(self, value: Tensor) -> torch.dtype:
        """float64 where value or scale is, else float32."""
        return torch.float64 if torch.float64 in (value.dtype, self.scale.dtype) else torch.float32

    def _standardized(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """value - loc, and that / scale, which may be infinite where the first is not."""
        dtype = self._table_dtype(value)
        distance = value.to(dtype) - self.loc.to(dtype)
        return distance, distance / self.scale.to(dtype)

    def _exact(self, value: Tensor) -> Tensor:
        """(value - loc) / scale for the exact law."""
        return (exactly(value) - exactly(self.loc)) / exactly(self.scale)


def _check_given(alpha: Any, scale: Any, dispersion: Any) -> None:
    """The one check of `stable.parameters`, of those arguments that are numbers; of tensors what works under vmap too."""
    if isinstance(alpha, Tensor):
        if not all_true((alpha >= stable.ALPHA_MIN) & (alpha <= stable.ALPHA_MAX)):
            stable.parameters(exactly(alpha.detach()).numpy())  # says what is allowed
        alpha = 1.0
    stable.parameters(alpha, *(1.0 if isinstance(value, Tensor) else value for value in (scale, dispersion)))
    if isinstance(dispersion, Tensor) and not all_true(dispersion > 0):
        raise ValueError(f"dispersion must be positive and finite; got {dispersion}")


def _as_float(value: float | Tensor) -> float | Tensor:
    """An integer tensor in the default dtype, anything else as it is."""
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value.to(torch.get_default_dtype())
    return value


def _check_size(scale: Tensor, given: float | Tensor) -> None:
    """A scale must be finite in its dtype, and large enough that x / scale does not overflow at once."""
    positive = all_true(torch.as_tensor(given > 0))  # else torch's own constraint says so
    if not all_true(~torch.isinf(scale)):
        raise ValueError(f"scale must be positive and finite in {scale.dtype}; got {given}")
    if positive and scale.dtype != torch.float64 and not all_true(scale >= _SCALE_MIN):
        raise ValueError(
            f"scale must be at least {_SCALE_MIN:g} in {scale.dtype}, or a float64 tensor; got {given} "
            "(a dispersion has the scale dispersion ** (1 / alpha))"
        )
