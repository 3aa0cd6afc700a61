"""What is measured on a trained network: accuracy, sparsity, and what is left of both when weights are removed.

Removal is by magnitude, after training: **once**, as the weights are, or **fine-tuned**, with a short masked training
without a penalty. A gradual run has removed its share already. The test set is opened in one place, in `measure`, after
the last weight was removed or tuned; a tuning run has none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softdiamond import stable
from softdiamond.experiments import models
from softdiamond.experiments.card import Card, Training
from softdiamond.experiments.data import Sealed, Splits
from softdiamond.experiments.plan import Record, Run
from softdiamond.experiments.train import fit
from softdiamond.pruning import Gradual, Outputs, Ranking, measures, prunable_share, removed_share

FITTED = 4000  # weights to which the stable law is fitted
BINS = np.arange(-8.0, 2.01, 0.2)  # edges of the histogram of log10 |w|
CURVES = ("global", "layerwise")  # divisions of the curves of accuracy against removed share

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Removed:
    """A network without a share of its weights: its row of the record, and, where they are not its own, its weights."""

    row: Record
    net: nn.Module
    weights: Weights | None = None


def measure(
    net: nn.Module,
    run: Run,
    card: Card,
    splits: Splits,
    training: Training,
    reference: Mapping[str, float],
    test: Sealed | None,
) -> Record:
    """Measure on training and validation data, settle everything, and then, in a final run, on the test set.

    Parameters
    ----------
    net : Module
        The trained network; it is left in evaluation mode.
    run, card, splits
        What was trained, and on what.
    training : card.Training
        How; a fine-tuning follows it.
    reference : mapping of str to float
        Starting rms of each regularized tensor.
    test : Sealed or None
        The run's test set; a tuning run has none.
    """
    weights = {name: w.detach() for name, w in models.regularized(net).items()}
    units, outputs = models.removable(net, card.removal.unit)
    units = {name: w.detach() for name, w in units.items()}
    removed = list(_removed(net, units, outputs, run, card, splits, training, reference))
    for each in removed:
        each.row["validation"] = models.accuracy(each.net, splits.validation, each.weights)
        each.row["test"] = None
    record: Record = {
        "train_accuracy": models.accuracy(net, splits.train),
        "validation_accuracy": models.accuracy(net, splits.validation),
        "sparsity": measures(weights),
        "removal": [each.row for each in removed],
    }
    if test is None:
        return record
    rankings = {division: Ranking(units, division, outputs=outputs) for division in CURVES if run.kind == "plain"}
    curves = {division: _curve(net, units, ranking, card, splits) for division, ranking in rankings.items()}
    record["prunable"] = {division: curve.pop("prunable") for division, curve in curves.items()} or None
    record["weights"] = _distribution(weights)

    examples = test.open()  # nothing is chosen from here on
    record["test_accuracy"] = models.accuracy(net, examples)
    for each in removed:
        each.row["test"] = models.accuracy(each.net, examples, each.weights)
    for division, curve in curves.items():
        cuts = (_cut(units, rankings[division], share) for share in curve["removed"])
        curve["test"] = [models.accuracy(net, examples, cut) for cut in cuts]
    record["curves"] = curves or None
    return record


def _cut(weights: Weights, ranking: Ranking, share: float) -> dict[str, Tensor]:
    return {name: weights[name] * kept for name, kept in ranking.kept(share).items()}


def _curve(net: nn.Module, weights: Weights, ranking: Ranking, card: Card, splits: Splits) -> dict[str, Any]:
    """Validation accuracy against the share removed, and the prunable share."""

    def accuracy(share: float) -> float:
        return models.accuracy(net, splits.validation, _cut(weights, ranking, share))

    shares = list(card.sparsity.curve)
    accuracies = [accuracy(share) for share in shares]
    prunable = prunable_share(shares, accuracies, accuracy, card.sparsity.lost / 100)
    return {"removed": shares, "validation": accuracies, "prunable": prunable}


def _removed(
    net: nn.Module,
    weights: Weights,
    outputs: Outputs | None,
    run: Run,
    card: Card,
    splits: Splits,
    training: Training,
    reference: Mapping[str, float],
) -> Iterator[Removed]:
    """Yield the networks of which a record tells: without a share of their weights or outputs, removed in the card's ways."""
    if run.kind == "gradual":
        row = {"way": "gradual", "division": run.division, "share": run.share}
        yield Removed(row | {"removed": removed_share(weights, outputs)}, net)
        return
    for division in [run.division] if run.division else card.removal.divisions:
        ranking = Ranking(weights, division, reference, outputs)
        for share in card.removal.shares:
            cut = _cut(weights, ranking, share)
            row = {"division": division, "share": share, "removed": removed_share(cut, outputs)}
            if "once" in card.removal.ways:
                yield Removed({"way": "once", **row}, net, cut)
            if "fine-tuned" in card.removal.ways and share > 0:
                removal = {"share": share, "division": division, "reference": reference}
                yield Removed({"way": "fine-tuned", **row}, _fine_tuned(net, removal, card, splits, training, run.seed))


def _fine_tuned(
    net: nn.Module, removal: Mapping[str, Any], card: Card, splits: Splits, training: Training, seed: int
) -> nn.Module:
    """Return a copy of a network without a share of its weights, trained on for a few epochs without a penalty."""
    tuned = copy.deepcopy(net)
    epochs, rate = card.removal.fine_tuning_epochs, training.rate * card.removal.fine_tuning_rate
    short = training.model_copy(update={"epochs": epochs, "rate": rate, "warmup": 0.0})
    weights, outputs = models.removable(tuned, card.removal.unit)
    fixed = Gradual(weights, steps=1, begin=0.0, end=0.0, outputs=outputs, **removal)
    fit(tuned, splits.train, short, seed, gradual=fixed)
    return tuned


def _distribution(weights: Weights) -> Record:
    """Return the histogram of log10 |w| of the weights that are not 0, and the stable law fitted to a sample of all."""
    w = torch.cat([each.flatten() for each in weights.values()]).double().cpu().numpy()
    nonzero = w[w != 0]
    logs = np.clip(np.log10(np.abs(nonzero)), BINS[0], BINS[-1] - 1e-9)
    counts = np.histogram(logs, BINS)[0]
    sample = np.random.default_rng(0).choice(w, min(FITTED, len(w)), replace=False)
    law = None
    if len(np.unique(sample)) > 10:
        try:
            fitted = stable.fit(sample)
            law = {"alpha": float(fitted.alpha), "scale": float(fitted.scale)}
        except (ValueError, RuntimeError):  # a sample that no law fits, most of it exactly 0
            law = None
    return {"count": len(w), "zero": int(len(w) - len(nonzero)), "log10": counts.tolist(), "law": law}
