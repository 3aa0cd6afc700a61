"""The comparison's training loop against a plain PyTorch loop written out, and the time of each penalty beside none's.

On the net and batches of `softdiamond compare cifar10-small` (3072-256-256-10, 8,000 examples, batches of 128, SGD with
momentum, a cosine), on random numbers in the place of images, one thread. Each figure is the median over interleaved
repetitions of the ratio to the plain loop of the same repetition.

Command: python benchmarks/loop.py [--epochs 5] [--repetitions 7]
"""

import argparse
import math
import time
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from softdiamond.experiments import card, models, runs
from softdiamond.experiments.data import Examples, Sealed, Splits
from softdiamond.experiments.plan import Run
from softdiamond.experiments.train import fit, regularizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--repetitions", type=int, default=7)
arguments = parser.parse_args()

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
CARD = card.find("cifar10-small")
TRAINING = CARD.training.model_copy(update={"epochs": arguments.epochs})
TRAIN = Examples(
    torch.randn(8_000, 3, 32, 32, generator=generator), torch.randint(0, 10, (8_000,), generator=generator)
)
VALIDATION, TEST = (Examples(TRAIN.inputs[:n], TRAIN.labels[:n]) for n in (4_000, 8_000))
SPLITS = Splits(TRAIN, VALIDATION, lambda: Sealed(TEST), 10, {})


def network() -> nn.Module:
    return models.build(CARD.model.name, CARD.model.options, (3, 32, 32), 10, seed=0)


def plain() -> None:
    """What one would write for one training."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=TRAINING.rate, momentum=TRAINING.momentum, fused=True)
    steps = TRAINING.epochs * math.ceil(len(TRAIN.labels) / TRAINING.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(TRAINING.epochs):
        for batch in torch.randperm(len(TRAIN.labels)).split(TRAINING.batch):
            loss = nn.functional.cross_entropy(net(TRAIN.inputs[batch]), TRAIN.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def ours(label: str) -> None:
    net, method = network(), CARD.method(label)
    reg = None if method.penalty == "none" else regularizer(net, method, 0.01)
    fit(net, TRAIN, TRAINING, 0, reg=reg, mode=method.effective_mode)


def whole(label: str) -> None:
    """A final run, with all that is measured on it, of as many epochs as the card has."""
    shortened = CARD.model_copy(update={"training": TRAINING})
    runs.perform(Run("final", "plain", label, 0.01, TRAINING.rate, 0, division="global"), shortened, SPLITS)


ways = {"plain loop": plain}
ways |= {f"our loop, {method.label}": lambda label=method.label: ours(label) for method in CARD.methods}
ways |= {f"a whole final run, {label}": lambda label=label: whole(label) for label in ("none", "soft diamond 0.5")}
seconds: dict[str, list[float]] = {name: [] for name in ways}
for repetition in range(arguments.repetitions + 1):  # the first warms up
    for name, way in ways.items():
        began = time.perf_counter()
        way()
        if repetition:
            seconds[name].append(time.perf_counter() - began)

table = Table("", "s", "of the plain loop", title=f"{TRAINING.epochs} epochs, {arguments.repetitions} repetitions")
for name, own in seconds.items():
    ratios = [ours / theirs for ours, theirs in zip(own, seconds["plain loop"], strict=True)]
    table.add_row(name, f"{median(own):.2f}", f"{median(ratios):.3f}  ({min(ratios):.2f} to {max(ratios):.2f})")
Console(width=100).print(table)
