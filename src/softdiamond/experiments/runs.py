"""One run: a pure function of card, setting and seed to a record.

A **plain** run trains a network and measures removal afterwards, a **gradual** run removes one share while it trains. All
that a record holds outside ``timing`` repeats bit by bit on one machine's CPU.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as to_bytes
from torch import nn

import softdiamond
from softdiamond import pruning
from softdiamond.experiments import models
from softdiamond.experiments.card import Card, Training
from softdiamond.experiments.checkpoint import Checkpoint
from softdiamond.experiments.data import Examples, Splits
from softdiamond.experiments.measure import measure
from softdiamond.experiments.plan import Record, Run
from softdiamond.experiments.train import OnEpoch, fit, regularizer
from softdiamond.regularizer import Regularizer


class Start(NamedTuple):
    """A run before its first step; ``reference`` is the starting rms of each regularized tensor."""

    run: Run
    net: nn.Module
    training: Training
    reference: Mapping[str, float]
    mode: str
    reg: Regularizer | None
    gradual: pruning.GradualPruning | None

    def train(
        self, examples: Examples, checkpoint: Checkpoint | None = None, on_epoch: OnEpoch | None = None
    ) -> list[float]:
        """Train the network in place, as `softdiamond.experiments.train.fit` does; return the losses."""
        return fit(
            self.net,
            examples,
            self.training,
            self.run.seed,
            reg=self.reg,
            mode=self.mode,
            gradual=self.gradual,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )


class Outcome(NamedTuple):
    """A run's record and, of a final run, its weights as a safetensors file."""

    run: Run
    record: Record
    weights: bytes | None


def perform(
    run: Run,
    card: Card,
    splits: Splits,
    *,
    checkpoint: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Train, remove and measure.

    The test set is opened once, in a final run, after the last weight was removed or tuned; a tuning run never asks for it.

    Parameters
    ----------
    run : Run
        What to do.
    card : Card
        The comparison that it belongs to.
    splits : Splits
        The card's data.
    checkpoint : Checkpoint, optional
        Where the training can be resumed; its files are deleted at the end.
    on_epoch : callable, optional
        Called after each epoch of the training.
    """
    with threads_of(card):
        return _perform(run, card, splits, checkpoint, on_epoch)


@contextmanager
def threads_of(card: Card) -> Iterator[None]:
    """Compute with as many threads as the card says; afterwards with as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(card.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _perform(run: Run, card: Card, splits: Splits, checkpoint: Checkpoint | None, on_epoch: OnEpoch | None) -> Outcome:
    began, worked = time.perf_counter(), time.process_time()
    test = splits.seal() if run.phase == "final" else None  # the only one of this run
    splits = splits.without_test()
    start = set_up(run, card, splits)
    net = start.net
    losses = start.train(splits.train, checkpoint, on_epoch)
    trained, worked = time.perf_counter(), time.process_time() - worked
    finished = not math.isnan(losses[-1])
    record: Record = {
        "comparison": card.name,
        "card": card.digest,
        "run": asdict(run),
        "status": "finished" if finished else "diverged",
        "losses": losses if finished else losses[:-1],
        "train_accuracy": None,
        "validation_accuracy": None,
        "test_accuracy": None,
        "sparsity": None,
        "removal": [],
        "curves": None,
        "prunable": None,
        "weights": None,
        "data": splits.description,
        "environment": environment(card, splits.train.labels.device),
    }
    if finished:
        record |= measure(net, run, card, splits, start.training, start.reference, test)
    # the processor's time is that of the training alone
    seconds = {"train": trained - began, "total": time.perf_counter() - began, "processor": worked}
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    weights = None
    if finished and run.phase == "final":
        state = {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}
        about = {"run": json.dumps(asdict(run)), "card": card.digest, "starting_rms": json.dumps(start.reference)}
        weights = to_bytes(state, about)
    if checkpoint is not None:
        checkpoint.delete()
    return Outcome(run, record | {"timing": {"seconds": seconds}}, weights)


def set_up(run: Run, card: Card, splits: Splits) -> Start:
    """Return a run's network at its start, and how it is to be trained on these splits."""
    treatment, method = card.treatment(run.treatment), card.method(run.method)
    training = card.training.model_copy(
        update={"rate": run.rate, "augmentation": treatment.augmentation or card.training.augmentation}
    )
    options = {**card.model.options, **treatment.options}
    net = models.build(card.model.name, options, splits.shape, splits.classes, run.seed).to(splits.train.labels.device)
    reference = models.rms(net)
    reg = None if method.penalty == "none" else regularizer(net, method, run.strength, run.dispersion)
    gradual = _gradual(net, card, run, len(splits.train.labels), reference) if run.kind == "gradual" else None
    return Start(run, net, training, reference, method.effective_mode, reg, gradual)


def environment(card: Card, device: torch.device) -> dict[str, Any]:
    """Return the versions of the packages that decide the bits, the machine's kind, device and threads."""
    versions = {"softdiamond": softdiamond.__version__}
    for name in ("torch", "numpy", "scipy", "numba"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"python": platform.python_version(), **versions, "device": f"{device.type} {name}", "threads": card.threads}


def _gradual(
    net: nn.Module, card: Card, run: Run, examples: int, reference: Mapping[str, float]
) -> pruning.GradualPruning:
    steps = card.training.epochs * math.ceil(examples / card.training.batch)
    removal = card.removal
    weights, outputs = models.removable(net, removal.unit)
    return pruning.GradualPruning(
        weights,
        run.share,
        steps,
        begin=removal.gradual_begin,
        end=removal.gradual_end,
        scope=run.division,
        reference=reference,
        outputs=outputs,
    )
