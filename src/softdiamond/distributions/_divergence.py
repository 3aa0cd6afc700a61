r"""Kullback-Leibler divergence of two stable laws, and of a stable law and torch's Normal.

With the first law at unit scale about 0, density p, and the second of density :math:`q(z) = \rho f(\delta + \rho z; \alpha_q)`,
:math:`\rho` the first scale over the second and :math:`\delta` the difference of the locations over the second scale,

.. math:: \mathrm{KL} = \int p \log\frac pq = \int p \, (e^{-s} - 1 + s) \, dz, \quad s = \log p - \log q:

both laws have mass one, so the integrand may be taken positive, and two laws that are nearly equal lose no digits. Its
derivatives are

.. math:: \partial_{\alpha_p} = \int p \, s \, \partial_\alpha \log p, \quad \partial_{\alpha_q} = -E_p[\partial_\alpha \log f],
          \quad \partial_\rho = -\tfrac1\rho - E_p[z \, (\log f)'], \quad \partial_\delta = -E_p[(\log f)'].

The line is cut at the two locations. On each piece the distance to its ends is taken on a logarithmic scale, on which both
laws are smooth however narrow their peaks and however far their tails, and the trapezoidal rule does the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal, register_kl

from softdiamond import stable
from softdiamond.distributions._exact import Elementwise, exactly
from softdiamond.distributions._symmetric_stable import SymmetricStable

Array = NDArray[np.float64]

_STEP = 0.05


class _Divergence(Elementwise):
    """The divergence of (alpha_p, alpha_q, rho, delta), with its four derivatives."""

    @staticmethod
    def forward(alpha_p: Tensor, alpha_q: Tensor, ratio: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.broadcast_tensors(alpha_p, alpha_q, ratio, shift)
        rows = torch.stack([x.detach().reshape(-1) for x in inputs], dim=1).numpy()
        different, which = np.unique(rows, axis=0, return_inverse=True)
        values = np.array([_divergence(*(float(value) for value in row)) for row in different]).reshape(-1, 5)
        each = torch.as_tensor(values[which.reshape(-1)])
        return tuple(each[:, i].reshape(inputs[0].shape) for i in range(5))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        inputs, derivatives = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        gradients = (outer[0] * _FirstDerivative.apply(d, *inputs) for d in derivatives)
        return tuple(gradient.sum_to_size(x.shape) for gradient, x in zip(gradients, inputs, strict=True))


class _FirstDerivative(Elementwise):
    """A derivative that depends on the inputs, so that a second one is refused and not silently zero."""

    @staticmethod
    def forward(derivative: Tensor, *inputs: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        raise RuntimeError("the divergence of SymmetricStable has no second derivative")


def _divergence(alpha_p: float, alpha_q: float, ratio: float, shift: float) -> tuple[float, ...]:
    """The divergence and its derivatives in the four arguments."""
    if np.isnan([ratio, shift]).any():
        return (np.nan,) * 5
    if alpha_q == 2 and alpha_p < 2:  # log q falls as z^2, p has no variance
        return (np.inf, *(np.nan,) * 4)
    if alpha_p == alpha_q == 2:
        more = ratio - 1
        value = more + more**2 / 2 - np.log1p(more) + shift**2 / 4
        return (value, np.nan, np.nan, ratio - 1 / ratio, shift / 2)
    z, y, weight = _nodes(alpha_p, alpha_q, ratio, abs(shift))
    log_p, log_q = stable.logpdf(z, alpha_p), np.log(ratio) + stable.logpdf(y, alpha_q)
    p, s = np.exp(log_p), log_p - log_q
    score = stable.score(y, alpha_q)
    mean = weight * p
    in_p = np.nan if alpha_p == 2 else float(np.sum(mean * s * stable.dlogpdf_dalpha(z, alpha_p)))
    return (
        float(np.sum(weight * _excess(p, np.exp(log_q), s))),
        in_p,
        -float(np.sum(mean * stable.dlogpdf_dalpha(y, alpha_q))),
        -1 / ratio - float(np.sum(mean * z * score)),
        # the nodes lie on the side of a negative shift
        float(np.sum(mean * score)) * np.sign(shift),
    )


def _excess(p: Array, q: Array, s: Array) -> Array:
    """Return q - p + p s = p (e^-s - 1 + s), which is never negative, to full relative accuracy."""
    series = p * s * s * (1 / 2 - s * (1 / 6 - s * (1 / 24 - s * (1 / 120 - s / 720))))
    return np.asarray(np.where(np.abs(s) < 1e-2, series, q - p + p * s))


def _nodes(alpha_p: float, alpha_q: float, ratio: float, shift: float) -> tuple[Array, Array, Array]:
    """Points z, their y = ratio z - shift, and weights; the first law is about z = 0, the second about y = 0."""
    # to where either law, or either tail, has fallen to exp(-45)
    low = min(-45 - 8 / alpha_p, -45 - 8 / alpha_q - np.log(ratio))
    high = max(45 / alpha_p, 45 / alpha_q - np.log(ratio))
    u = np.arange(low, high, _STEP)
    away = np.exp(u)
    if shift == 0:
        return away, ratio * away, 2 * _STEP * away
    place = shift / ratio
    reach = max(45.0, np.log(place) - low)
    t = np.arange(-reach, reach, _STEP)  # z = place / (1 + e^-t), each end's distance to full accuracy
    near, far = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(t))
    z = np.concatenate([-away, place + away, place * near])
    y = np.concatenate([-shift - ratio * away, ratio * away, -shift * far])
    return z, y, _STEP * np.concatenate([away, away, place * near * far])


def _kl_stable_stable(p: SymmetricStable, q: SymmetricStable) -> Tensor:
    scale = exactly(q.scale)
    shift = (exactly(p.loc) - exactly(q.loc)) / scale
    value: Tensor = _Divergence.apply(exactly(p.alpha), exactly(q.alpha), exactly(p.scale) / scale, shift)[0]
    return value.to(p.scale.device, torch.promote_types(p.scale.dtype, q.scale.dtype))


def _kl_stable_normal(p: SymmetricStable, q: Normal) -> Tensor:
    return _kl_stable_stable(p, _of_normal(q))


def _kl_normal_stable(p: Normal, q: SymmetricStable) -> Tensor:
    return _kl_stable_stable(_of_normal(p), q)


def _of_normal(law: Normal) -> SymmetricStable:
    return SymmetricStable(2.0, law.scale / 2**0.5, loc=law.loc, validate_args=False)


register_kl(SymmetricStable, SymmetricStable)(_kl_stable_stable)
register_kl(SymmetricStable, Normal)(_kl_stable_normal)
register_kl(Normal, SymmetricStable)(_kl_normal_stable)
