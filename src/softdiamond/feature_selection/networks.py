"""A stack of K networks of one shape, which differ in one number, evaluated as one, and their losses.

The first layer of all of them is one matrix product of the batch with a (inputs, K width) matrix, the others are batched products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

ON_CPU: Any = {"dtype": torch.float32, "device": "cpu"}  # where random numbers are drawn, whatever torch's defaults are

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs (K, n, outputs), targets -> (K, n)


def squared_error(out: Tensor, y: Tensor) -> Tensor:
    """Squared error of each network and row, the mean over outputs; y of shape (n, outputs)."""
    return (out - y).square().mean(2)


def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each network and row; y of shape (n,), classes."""
    k, n, classes = out.shape
    return functional.cross_entropy(out.reshape(k * n, classes), y.repeat(k), reduction="none").view(k, n)


@dataclass(frozen=True)
class Groups:
    """Which inputs of the network belong to one column of the table.

    Attributes
    ----------
    labels : Tensor
        int64 of shape (inputs,): the column, from 0 without gaps.
    sizes : Tensor
        int64 of shape (columns,): how many inputs each has.
    """

    labels: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, labels: NDArray[np.int64], columns: int, device: torch.device) -> Groups:
        """Count the inputs of each column."""
        own = torch.as_tensor(labels, device=device)
        return cls(own, torch.bincount(own, minlength=columns))

    @property
    def one_input_each(self) -> bool:
        """Whether each column is one input."""
        return len(self.labels) == len(self.sizes)

    def norms(self, first: Tensor) -> Tensor:
        """Norm of each column's weights, of shape (columns, K)."""
        norms: Tensor = torch.linalg.vector_norm(first, dim=2)
        if self.one_input_each:
            return norms
        squares = norms.new_zeros(len(self.sizes), norms.shape[1])
        squares.index_add_(0, self.labels, norms * norms)
        return squares.sqrt_()

    def spread(self, values: Tensor) -> Tensor:
        """Values of the columns (columns, ...) for the inputs."""
        return values if self.one_input_each else values[self.labels]


@dataclass(frozen=True)
class Stack:
    """K networks.

    Attributes
    ----------
    weights : list of Tensor
        The first of shape (inputs, K, width), the others (K, width, next width).
    biases : list of Tensor
        Of shape (K, width) each.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def fresh(cls, sizes: Sequence[int], count: int, generator: Generator, device: torch.device) -> Stack:
        """Make ``count`` equal networks as ``nn.Linear`` starts its weights, uniform within 1 / sqrt(inputs)."""
        weights, biases = [], []
        for layer, (inputs, width) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / math.sqrt(inputs)
            weight = torch.empty(inputs, width, **ON_CPU).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(width, **ON_CPU).uniform_(-bound, bound, generator=generator)
            shape = (inputs, count, width) if layer == 0 else (count, inputs, width)
            weights.append(weight.unsqueeze(1 if layer == 0 else 0).expand(shape).to(device).contiguous())
            biases.append(bias.expand(count, width).to(device).contiguous())
        return cls(weights, biases)

    @property
    def parameters(self) -> list[Tensor]:
        """All of them."""
        return [*self.weights, *self.biases]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs, of shape (K, rows, outputs), for x of shape (rows, inputs), or (rows, K, inputs) where each has its own."""
        first, *others = self.weights
        if x.dim() == 2:
            h = ((x @ first.flatten(1)).view(len(x), *first.shape[1:]) + self.biases[0]).transpose(0, 1)
        else:
            h = torch.baddbmm(self.biases[0].unsqueeze(1), x.transpose(0, 1), first.transpose(0, 1))
        for weight, bias in zip(others, self.biases[1:], strict=True):
            h = torch.baddbmm(bias.unsqueeze(1), h.relu(), weight)
        return h

    def copies(self, which: Sequence[int]) -> Stack:
        """Return copies of the networks of these numbers."""
        first, *others = self.weights
        of = torch.as_tensor(which, device=first.device)
        return Stack([first[:, of], *(w[of] for w in others)], [b[of] for b in self.biases])

    def put(self, better: Tensor, other: Stack) -> None:
        """Take over those networks of another stack that ``better``, bool of shape (K,), marks."""
        self.weights[0][:, better] = other.weights[0][:, better]
        for own, its in zip([*self.weights[1:], *self.biases], [*other.weights[1:], *other.biases], strict=True):
            own[better] = its[better]

    def with_columns(self, kept: Tensor, groups: Groups) -> Stack:
        """Return the same networks, the weights of columns not in ``kept``, bool of shape (columns, K), exactly 0."""
        first = self.weights[0] * groups.spread(kept).unsqueeze(2)
        return replace(self, weights=[first, *self.weights[1:]])

    def arrays(self, k: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Weights (inputs, width) and biases (width,) of network k."""
        first, *others = self.weights
        weights = [first[:, k], *(w[k] for w in others)]
        return [w.cpu().numpy().copy() for w in weights], [b[k].cpu().numpy().copy() for b in self.biases]
