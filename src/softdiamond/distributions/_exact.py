"""The exact law in torch, for an alpha that is a tensor: by way of NumPy on the CPU, in float64."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from softdiamond import stable


def exactly(x: Tensor) -> Tensor:
    """Return x in float64 on the CPU, where the exact law is; differentiable."""
    return x.cpu().double()


def _law(function: Any, x: Tensor, alpha: Tensor) -> Tensor:
    """A function of `softdiamond.stable` at unit scale, on float64 tensors of the CPU."""
    return torch.as_tensor(np.asarray(function(x.detach().numpy(), alpha.detach().numpy())))


class ExactLogpdf(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, alpha)
        return _law(stable.logpdf, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        in_z = (outer[0] * ExactScore.apply(z, alpha)).sum_to_size(z.shape) if ctx.needs_input_grad[0] else None
        in_alpha = (
            (outer[0] * ExactDlogpdfDalpha.apply(z, alpha)).sum_to_size(alpha.shape)
            if ctx.needs_input_grad[1]
            else None
        )
        return in_z, in_alpha


class ExactScore(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, alpha)
        return _law(stable.score, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        _refuse_second(ctx.needs_input_grad[1])
        return (-outer[0] * _law(stable.curvature, z, alpha)).sum_to_size(z.shape), None


class ExactDlogpdfDalpha(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.dlogpdf_dalpha, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        _refuse_second(True)


def _refuse_second(asked: bool) -> None:
    if asked:
        raise RuntimeError(
            "SymmetricStable has no second derivative through alpha: detach alpha, or give it as a Python float"
        )


class ExactCdf(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, alpha)
        return _law(stable.cdf, z, alpha)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        return (outer[0] * _law(stable.pdf, z, alpha)).sum_to_size(z.shape), None


class ExactIcdf(Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, alpha: Tensor) -> Tensor:
        z = _law(stable.ppf, p, alpha)
        ctx.save_for_backward(z, alpha)
        ctx.shape = p.shape
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        return (outer[0] / _law(stable.pdf, z, alpha)).sum_to_size(ctx.shape), None


def refuse_alpha_gradient(alpha: Tensor) -> None:
    """Raise where cdf or icdf would have to be differentiated in alpha."""
    if torch.is_grad_enabled() and alpha.requires_grad:
        raise RuntimeError("cdf and icdf have no derivative in alpha: detach alpha, or give it as a Python float")


class Entropy(Function):
    """Differential entropy at unit scale, and its first derivative."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return _entropy(alpha, 0)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[0] * _EntropyDerivative.apply(ctx.saved_tensors[0])


class _EntropyDerivative(Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        return _entropy(alpha, 1)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        _refuse_second(True)


def _entropy(alpha: Tensor, derivative: int) -> Tensor:
    values = [_unit_entropy(a)[derivative] for a in alpha.reshape(-1).tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(alpha.shape)


@functools.lru_cache(maxsize=1024)
def _unit_entropy(alpha: float) -> tuple[float, float]:
    r"""Entropy h at unit scale and dh / dalpha: :math:`h = -2 \int_0^\infty f \log f \, dx`, trapezoidal in log x.

    At alpha = 2 the derivative from below is -inf.
    """
    step = 0.05
    u = np.arange(-45.0 - 8 / alpha, 45.0 / alpha, step) if alpha < 2 else np.arange(-45.0, 5.0, step)
    log_f = stable.logpdf(np.exp(u), alpha)
    mass = 2 * np.exp(log_f + u) * step
    derivative_in_alpha = (
        -float(np.sum(mass * stable.dlogpdf_dalpha(np.exp(u), alpha) * log_f)) if alpha < 2 else -math.inf
    )
    return -float(np.sum(mass * log_f)), derivative_in_alpha
