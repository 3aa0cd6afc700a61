"""`sparse_linear`: linear layers by compressed rows, where that is quicker."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond.compression._calls import evaluated, inputs_of, naming_layer
from softdiamond.compression._profile import latencies

GAIN = 0.95  # time, in units of the dense layer's, below which compressed rows take its place


class SparseLinear(nn.Module):
    """A linear layer whose weight is held in compressed rows, for inference on the CPU.

    Parameters
    ----------
    linear : Linear
        Whose weight and bias it takes.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            self.register_buffer("weight", linear.weight.detach().to_sparse_csr())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b."""
        y = torch.mm(self.weight, x.reshape(-1, x.shape[-1]).t()).t().reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class SparseLinearResult:
    """What `sparse_linear` returns.

    Attributes
    ----------
    model : Module
        A copy with compressed rows in some linear layers.
    layers : dict of str to (float, float)
        Of each linear layer, seconds of a call dense and compressed, measured on what it reads.
    taken : list of str
        Layers that were replaced.
    before, after : float
        Seconds of a call of the model and of the copy.
    """

    model: nn.Module
    layers: dict[str, tuple[float, float]]
    taken: list[str]
    before: float
    after: float


def sparse_linear(model: nn.Module, example_input: Any) -> SparseLinearResult:
    """Return a copy whose linear layers work by compressed rows, where that was measured to be quicker here and now.

    Parameters
    ----------
    model : Module
        On the CPU, for inference.
    example_input : Tensor, or tuple of them
        What one call takes; its batch decides which layers gain.

    Raises
    ------
    ValueError
        If the model does not take the example.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(20, 10), nn.ReLU())
    >>> sparse_linear(net, torch.randn(4, 20)).taken  # dense weights gain nothing
    []
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    copied = copy.deepcopy(model).eval()
    with naming_layer("the model does not take the example", copied):
        read = inputs_of(copied, inputs)
    layers: dict[str, tuple[float, float]] = {}
    taken = []
    for name, module in list(copied.named_modules()):
        if type(module) is not nn.Linear or name not in read or read[name].dtype != torch.float32:
            continue
        rows = SparseLinear(module)
        one, two = latencies([module, rows], (read[name],))
        layers[name] = (one, two)
        if two < GAIN * one and name:
            copied.set_submodule(name, rows)
            taken.append(name)
    with evaluated(model):
        before, after = latencies([model, copied], inputs)
    return SparseLinearResult(copied, layers, taken, before, after)
