"""What is measured on a trained network: accuracy, sparsity, and what is left of both when weights are removed.

Removal is by magnitude, after training: **once**, as the weights are, or **fine-tuned**, with a short masked training
without a penalty. A gradual run has removed its share already. The test set is opened in one place, in `measure`, after
the last weight was removed or tuned; a tuning run has none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softdiamond import stable
from softdiamond.experiments import models
from softdiamond.experiments.card import Card, Training
from softdiamond.experiments.data import Examples, Sealed, Splits
from softdiamond.experiments.plan import GRADUAL, HISTOGRAM_EDGES, Record, Run
from softdiamond.experiments.train import fit
from softdiamond.pruning import GradualPruning, Outputs, Ranking, measures, prunable_sparsity, sparsity_of

FITTED = 4000  # weights to which the stable law is fitted
CURVES = ("global", "layerwise")  # divisions of the curves of accuracy against removed share: the first always

Weights = Mapping[str, Tensor]
Accuracy = Callable[[str, float], float]  # of the network without a share of its weights: division, share


@dataclass(frozen=True)
class Removed:
    """A network without a share of its weights: its row of the record, and the network, where it was trained on."""

    row: Record
    net: nn.Module | None = None


class Cuts:
    """A trained network without the smallest of its weights, for any division and share."""

    def __init__(
        self, net: nn.Module, weights: Weights, outputs: Outputs | None, reference: Mapping[str, float]
    ) -> None:
        self._net, self._weights, self._outputs, self._reference = net, weights, outputs, reference
        self._rankings: dict[str, Ranking] = {}

    def weights(self, division: str, share: float) -> dict[str, Tensor]:
        """Return the tensors without that share."""
        if share == 0.0:
            return dict(self._weights)
        if division not in self._rankings:
            self._rankings[division] = Ranking(self._weights, division, self._reference, self._outputs)
        kept = self._rankings[division].masks(share)
        return {name: self._weights[name] * mask for name, mask in kept.items()}

    def accuracy(self, examples: Examples) -> Accuracy:
        """Return the accuracy on some examples as a function of division and share; equal cuts are evaluated once.

        Of one division, cuts are nested: those that keep as many weights are equal.
        """
        known: dict[tuple[str, int], float] = {}
        whole = _nonzero(self._weights)

        def accuracy(division: str, share: float) -> float:
            cut = self.weights(division, share)
            left = _nonzero(cut)
            place = ("" if left == whole else division, left)
            if place not in known:
                known[place] = models.accuracy(self._net, examples, cut)
            return known[place]

        return accuracy


def _nonzero(weights: Weights) -> int:
    return sum(int(w.count_nonzero()) for w in weights.values())


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
    cuts = Cuts(net, units, outputs, reference)
    removed = list(_removed(net, cuts, units, outputs, run, card, splits, training, reference))
    on_validation = cuts.accuracy(splits.validation)
    for each in removed:
        each.row["validation"] = _accuracy_of(each, on_validation, splits.validation)
        each.row["test"] = None
    record: Record = {
        "train_accuracy": models.accuracy(net, splits.train),
        "validation_accuracy": on_validation("global", 0.0),
        "sparsity": measures(weights),
        "removal": [each.row for each in removed],
    }
    if test is None:
        return record
    curves = {}
    if run.kind == "plain":
        divisions = [division for division in CURVES if division == CURVES[0] or division in card.removal.divisions]
        curves = {division: _curve(on_validation, division, card) for division in divisions}
    record["prunable"] = {division: curve.pop("prunable") for division, curve in curves.items()} or None
    record["weights"] = _distribution(weights)

    examples = test.open()  # nothing is chosen from here on
    on_test = cuts.accuracy(examples)
    record["test_accuracy"] = on_test("global", 0.0)
    for each in removed:
        each.row["test"] = _accuracy_of(each, on_test, examples)
    for division, curve in curves.items():
        curve["test"] = [on_test(division, share) for share in curve["removed"]]
    record["curves"] = curves or None
    return record


def _accuracy_of(removed: Removed, accuracy: Accuracy, examples: Examples) -> float:
    if removed.net is not None:
        return models.accuracy(removed.net, examples)
    row = removed.row
    return accuracy(row["division"], 0.0 if row["way"] == GRADUAL else row["share"])


def _curve(accuracy: Accuracy, division: str, card: Card) -> dict[str, Any]:
    """Validation accuracy against the share removed, and the prunable share."""
    shares = list(card.sparsity.curve)
    accuracies = [accuracy(division, share) for share in shares]
    lost = card.sparsity.lost / 100
    prunable = prunable_sparsity(shares, accuracies, lambda share: accuracy(division, share), lost)
    return {"removed": shares, "validation": accuracies, "prunable": prunable}


def _removed(
    net: nn.Module,
    cuts: Cuts,
    weights: Weights,
    outputs: Outputs | None,
    run: Run,
    card: Card,
    splits: Splits,
    training: Training,
    reference: Mapping[str, float],
) -> Iterator[Removed]:
    """Yield the networks of which a record tells: without a share of their weights or outputs, removed in the card's ways."""
    if run.kind == GRADUAL:
        row = {"way": GRADUAL, "division": run.division, "share": run.share}
        yield Removed(row | {"removed": sparsity_of(weights, outputs)})
        return
    for division in [run.division] if run.division else card.removal.divisions:
        for share in card.removal.shares:
            removed = sparsity_of(cuts.weights(division, share), outputs)
            row = {"division": division, "share": share, "removed": removed}
            if "once" in card.removal.ways:
                yield Removed({"way": "once", **row})
            if "fine-tuned" in card.removal.ways and share > 0:
                removal = {"sparsity": share, "scope": division, "reference": reference}
                yield Removed({"way": "fine-tuned", **row}, _fine_tuned(net, removal, card, splits, training, run.seed))


def _fine_tuned(
    net: nn.Module, removal: Mapping[str, Any], card: Card, splits: Splits, training: Training, seed: int
) -> nn.Module:
    """Return a copy of a network without a share of its weights, trained on for a few epochs without a penalty."""
    tuned = copy.deepcopy(net)
    epochs, rate = card.removal.fine_tuning_epochs, training.rate * card.removal.fine_tuning_rate
    short = training.model_copy(update={"epochs": epochs, "rate": rate, "warmup": 0.0})
    weights, outputs = models.removable(tuned, card.removal.unit)
    fixed = GradualPruning(weights, steps=1, begin=0.0, end=0.0, outputs=outputs, **removal)
    fit(tuned, splits.train, short, seed, gradual=fixed)
    return tuned


def _distribution(weights: Weights) -> Record:
    """Return the histogram of log10 |w| of the weights that are not 0, its edges, and the stable law fitted to a sample of all."""
    w = torch.cat([each.flatten() for each in weights.values()]).double().cpu().numpy()
    nonzero = w[w != 0]
    logs = np.clip(np.log10(np.abs(nonzero)), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1] - 1e-9)
    counts = np.histogram(logs, HISTOGRAM_EDGES)[0]
    sample = np.random.default_rng(0).choice(w, min(FITTED, len(w)), replace=False)
    law = None
    if len(np.unique(sample)) > 10:
        try:
            fitted = stable.fit(sample)
            law = {"alpha": float(fitted.alpha), "scale": float(fitted.scale)}
        except (ValueError, RuntimeError):  # a sample that no law fits, most of it exactly 0
            law = None
    return {
        "count": len(w),
        "zero": int(len(w) - len(nonzero)),
        "log10": counts.tolist(),
        "edges": list(HISTOGRAM_EDGES),
        "law": law,
    }
