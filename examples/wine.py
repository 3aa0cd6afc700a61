"""A network and tensors of one's own for `softdiamond compare wine.toml`: functions that the card names as module:function."""

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn


def network(shape: tuple[int, ...], classes: int, *, width: int = 32) -> nn.Module:
    """Return a network for inputs of that shape; what follows the star are the options that a card may give."""
    return nn.Sequential(
        nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def tensors() -> tuple[tuple[Tensor, Tensor], ...]:
    """Return inputs and labels to train, to validate and to test: 178 wines of three growers, 13 measurements each."""
    x, y = load_wine(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    inputs, labels = torch.tensor(x, dtype=torch.float32)[order], torch.tensor(y)[order]
    inputs = (inputs - inputs[:60].mean(0)) / inputs[:60].std(0)
    return (inputs[:60], labels[:60]), (inputs[60:110], labels[60:110]), (inputs[110:], labels[110:])
