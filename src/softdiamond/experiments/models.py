"""Networks: a fully connected one, a small convolutional one, the ResNet-18 of the CIFAR sets, or the user's own.

The **regularized tensors** are weight matrices and filters, no biases, no norms.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softdiamond.experiments import UserError
from softdiamond.experiments.entry_points import entry_point
from softdiamond.pruning import hidden_outputs
from softdiamond.regularizer import eligible_parameters

if TYPE_CHECKING:
    from softdiamond.experiments.data import Examples

EVALUATED = 600_000  # numbers of the inputs at a time: larger batches of images fall out of the cache


def mlp(
    shape: Sequence[int], classes: int, *, hidden: Sequence[int], dropout: float = 0.0, batch_norm: bool = False
) -> nn.Module:
    """Fully connected ReLU network on the flattened input; dropout and batch normalization on hidden layers."""
    sizes = [int(torch.Size(shape).numel()), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if batch_norm else []), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def small_conv(
    shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (32, 64, 128),
    hidden: int = 128,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Module:
    """3 x 3 convolutions, each followed by ReLU and 2 x 2 max pooling, then two dense layers."""
    depth, height, width = shape
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([depth, *channels]):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *([nn.BatchNorm2d(outputs)] if batch_norm else [])]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        height, width = height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(channels[-1] * height * width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []), nn.Linear(hidden, classes))


class _Block(nn.Module):
    """Two 3 x 3 convolutions about a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = nn.functional.relu(self.norm1(self.conv1(x)))
        return nn.functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(shape: Sequence[int], classes: int, *, width: int = 64, dropout: float = 0.0) -> nn.Module:
    """ResNet-18 for small images: a 3 x 3 stem without pooling, four stages of two blocks (He et al. 2015)."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = [width, width, 2 * width, 4 * width, 8 * width]
    for stage, (inputs, outputs) in enumerate(pairwise(channels)):
        layers += [_Block(inputs, outputs, 1 if stage == 0 else 2), _Block(outputs, outputs, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(channels[-1], classes))


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "small-conv": small_conv, "resnet18": resnet18}


def maker(name: str, options: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Return the function of that name, or of ``module:function``, that makes a network of the input's shape.

    Raises
    ------
    UserError
        If there is none, or it does not take one of the options.
    """
    make = entry_point("model", name, MODELS)
    try:
        inspect.signature(make).bind((1,), 2, **options)
    except TypeError as error:
        named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(inspect.signature(make).parameters.values())[2:]  # after the shape and the number of classes
        takes = [each.name for each in parameters if each.kind in named]
        unknown = [f"no option {option!r}" for option in options if option not in takes]
        reason = unknown[0] if unknown else str(error)
        raise UserError(f"model {name}: {reason}; its options are {', '.join(takes) or 'none'}") from error
    return make


def build(name: str, options: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """Make a network with PyTorch's own start; the seed alone decides its weights, global randomness stays as it was.

    Raises
    ------
    UserError
        If the user's function fails, or makes no network with weights to regularize.
    """
    make = maker(name, options)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        try:
            net = make(tuple(shape), classes, **options)
            if isinstance(net, nn.Module):
                with torch.no_grad():
                    outputs = net.eval()(torch.zeros(2, *shape))
                if outputs.dim() != 2 or len(outputs) != 2 or outputs.shape[1] < classes:
                    raise ValueError(f"of 2 inputs it makes outputs {tuple(outputs.shape)}, not (2, {classes})")
            if not isinstance(net, nn.Module) or not regularized(net):
                raise TypeError(f"it made {type(net).__name__}, not a torch.nn.Module with weight matrices or filters")
            if wrong := [name for name, value in net.named_parameters() if not value.isfinite().all()]:
                raise ValueError(f"{wrong[0]} holds weights that are not finite")
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"model {name} cannot be made for inputs {tuple(shape)}: {reason}") from error
    return net


def regularized(net: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a penalty acts on, by name: those that `softdiamond.Regularizer` takes by default."""
    return eligible_parameters(net)


def removable(net: nn.Module, unit: str) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]] | None]:
    """Return the tensors from which units are removed, by name, and, of outputs, which tensors go with each weight.

    By weight these are the regularized tensors. By output they are those of linear layers and convolutions but the last,
    whose outputs are the classes; with each go its layer's bias and the weight and bias of a norm right after it.

    Raises
    ------
    UserError
        If outputs are wanted and there is no hidden layer.
    """
    weights = regularized(net)
    if unit == "weight":
        return weights, None
    parameters, outputs = dict(net.named_parameters()), hidden_outputs(net, weights)
    if not outputs:
        raise UserError("removal of outputs needs a hidden linear or convolutional layer; the network has none")
    return {each: parameters[each] for name, others in outputs.items() for each in (name, *others)}, outputs


@torch.no_grad()
def rms(net: nn.Module) -> dict[str, float]:
    """Root mean square of each regularized tensor."""
    return {name: float(w.double().square().mean().sqrt()) for name, w in regularized(net).items()}


@torch.no_grad()
def accuracy(net: nn.Module, examples: Examples, weights: Mapping[str, Tensor] | None = None) -> float:
    """Share of examples classified rightly, with ``weights`` in place of the net's own tensors of those names.

    The net is put into evaluation mode.
    """
    net.eval()
    right, size = 0, min(1000, max(1, EVALUATED // examples.inputs[0].numel()))
    for x, y in zip(examples.inputs.split(size), examples.labels.split(size), strict=True):
        outputs = torch.func.functional_call(net, dict(weights), (x,)) if weights else net(x)
        right += int((outputs.argmax(dim=1) == y).sum())
    return right / len(examples.labels)
