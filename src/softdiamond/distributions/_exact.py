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


class Elementwise(Function):
    """A function, element by element, of tensors that broadcast: in eager mode, under ``torch.func`` and its ``vmap``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *inputs: Tensor) -> Any:
        """The mapped dimension first; the others, of one example, aligned at the end."""
        rank = max(x.dim() - (d is not None) for x, d in zip(inputs, in_dims, strict=True))
        moved = []
        for x, d in zip(inputs, in_dims, strict=True):
            if d is not None:
                x = x.movedim(d, 0)
                x = x.reshape(x.shape[0], *[1] * (rank + 1 - x.dim()), *x.shape[1:])
            moved.append(x)
        output = cls.apply(*moved)
        return output, tuple(0 for _ in output) if isinstance(output, tuple) else 0


class ExactLogpdf(Elementwise):
    @staticmethod
    def forward(z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.logpdf, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        in_z = in_alpha = None
        if ctx.needs_input_grad[0]:
            in_z = (outer[0] * ExactScore.apply(z, alpha)).sum_to_size(z.shape)
        if ctx.needs_input_grad[1]:
            in_alpha = (outer[0] * _ExactDlogpdfDalpha.apply(z, alpha)).sum_to_size(alpha.shape)
        return in_z, in_alpha


class ExactScore(Elementwise):
    @staticmethod
    def forward(z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.score, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        refuse_second_alpha(ctx.needs_input_grad[1])
        return (-outer[0] * _ExactCurvature.apply(z, alpha)).sum_to_size(z.shape), None


class _ExactCurvature(Elementwise):
    @staticmethod
    def forward(z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.curvature, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        refuse_second_alpha(ctx.needs_input_grad[1])
        raise RuntimeError("SymmetricStable has no third derivative")


class _ExactDlogpdfDalpha(Elementwise):
    @staticmethod
    def forward(z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.dlogpdf_dalpha, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        refuse_second_alpha(True)


def refuse_second_alpha(wanted: bool) -> None:
    """Raise where a second derivative through alpha is wanted."""
    if wanted:
        raise RuntimeError(
            "SymmetricStable has no second derivative through alpha: detach alpha, or give it as a Python float"
        )


class ExactCdf(Elementwise):
    @staticmethod
    def forward(z: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.cdf, z, alpha)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        z, alpha = ctx.saved_tensors
        refuse_alpha(ctx.needs_input_grad[1])
        return (outer[0] * ExactLogpdf.apply(z, alpha).exp()).sum_to_size(z.shape), None


class ExactIcdf(Elementwise):
    @staticmethod
    def forward(p: Tensor, alpha: Tensor) -> Tensor:
        return _law(stable.ppf, p, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        p, alpha, z = ctx.saved_tensors
        refuse_alpha(ctx.needs_input_grad[1])
        return (outer[0] * (-ExactLogpdf.apply(z, alpha)).exp()).sum_to_size(p.shape), None


def refuse_alpha(wanted: bool) -> None:
    """Raise where cdf or icdf would have to be differentiated in alpha."""
    if wanted:
        raise RuntimeError("cdf and icdf have no derivative in alpha: detach alpha, or give it as a Python float")


class Entropy(Elementwise):
    """Differential entropy at unit scale, and its first derivative."""

    @staticmethod
    def forward(alpha: Tensor) -> Tensor:
        return _entropy(alpha, 0)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[0] * _EntropyDerivative.apply(ctx.saved_tensors[0])


class _EntropyDerivative(Elementwise):
    @staticmethod
    def forward(alpha: Tensor) -> Tensor:
        return _entropy(alpha, 1)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        refuse_second_alpha(True)


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
