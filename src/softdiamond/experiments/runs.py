"""Comparisons: which runs, in which order, and the record that each one leaves.

A run is a value (method, strength, seed, phase), a sweep a generator of finished runs. Fair by construction: every method
that has a strength gets the same number of trials on the same tuning seeds; the strength with the highest mean validation
accuracy, of equal ones the strongest, is then trained on fresh seeds, the same for every method. A tuning run is handed
data without a test set.
"""

from __future__ import annotations

import difflib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

import softdiamond
from softdiamond.experiments import UserError, data
from softdiamond.experiments.models import accuracy, pruning_curve, share_below
from softdiamond.experiments.records import Record, Store
from softdiamond.experiments.train import MODES, Method, Recipe, train


class Run(NamedTuple):
    """One training."""

    method: Method
    strength: float
    seed: int
    phase: str  # tune or final

    def __str__(self) -> str:
        strength = f" strength {self.strength:g}" if self.method.strengths else ""
        return f"{self.phase} {self.method.name}{strength} seed {self.seed}"


class Done(NamedTuple):
    """A run with its record; ``stored`` if the record was there before."""

    run: Run
    record: Record
    stored: bool


@dataclass(frozen=True)
class Comparison:
    """Data, recipe and methods; ``load`` takes the data folder if ``needs_folder``, else nothing."""

    name: str
    load: Callable[..., data.Splits]
    needs_folder: bool
    recipe: Recipe
    methods: tuple[Method, ...]
    threads: int  # of torch; more than a small net can use make it slower, most of all on a busy machine
    mode: str = "implicit"  # of the penalty, see `train`
    tuning_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = (0, 1, 2)

    def tuning_runs(self) -> list[Run]:
        """Every method, strength and tuning seed; a method without strengths has no trial."""
        grid = [(method, strength) for method in self.methods for strength in method.strengths]
        return [Run(method, strength, seed, "tune") for method, strength in grid for seed in self.tuning_seeds]

    def final_runs(self, chosen: dict[str, float]) -> list[Run]:
        """Every method at its chosen strength, by method name, and every seed."""
        return [Run(method, chosen[method.name], seed, "final") for method in self.methods for seed in self.seeds]

    def size(self) -> int:
        """Return the number of runs."""
        return len(self.tuning_runs()) + len(self.methods) * len(self.seeds)


def _methods(strengths: tuple[float, ...]) -> tuple[Method, ...]:
    soft_diamonds = [Method("soft diamond", strengths, alpha, relative_scale=1.0) for alpha in (0.5, 1.0, 1.5)]
    return Method("none", ()), Method("L2", strengths), Method("L1", strengths), *soft_diamonds


DIGITS = Comparison(
    name="digits",
    load=data.digits,
    needs_folder=False,
    recipe=Recipe(sizes=(64, 64, 32, 10), epochs=50, batch=32, rate=0.05, momentum=0.9),
    methods=_methods((0.001, 0.003, 0.01, 0.03)),
    threads=1,
)
CIFAR10_SMALL = Comparison(
    name="cifar10-small",
    load=data.cifar10,
    needs_folder=True,
    recipe=Recipe(sizes=(3072, 256, 256, 10), epochs=20, batch=128, rate=0.02, momentum=0.9),
    methods=_methods((0.005, 0.01, 0.02, 0.04)),
    threads=2,
)
COMPARISONS = {comparison.name: comparison for comparison in (DIGITS, CIFAR10_SMALL)}


def find(name: str, mode: str = "implicit") -> Comparison:
    """Return the comparison of that name in that mode, or raise a `UserError` that lists those there are."""
    if name not in COMPARISONS:
        near = difflib.get_close_matches(name.lower(), COMPARISONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no comparison {name!r}: there are {', '.join(COMPARISONS)}{hint}")
    if mode not in MODES:
        raise UserError(f"no mode {mode!r}: there are {', '.join(MODES)}")
    return replace(COMPARISONS[name], mode=mode)


def settings(comparison: Comparison, splits: data.Splits) -> dict[str, Any]:
    """Return what all runs of a comparison share, and the environment."""
    recipe = asdict(comparison.recipe)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "softdiamond": softdiamond.__version__}
    return {
        "model": {"name": "mlp", "sizes": list(recipe.pop("sizes"))},
        "optimizer": {"name": "SGD", "schedule": "cosine to 0", **recipe},
        "penalty": f"mode {comparison.mode}; scale and lambda relative to each tensor's initial rms",
        "data": splits.describe(),
        "environment": {**versions, "threads": torch.get_num_threads()},
    }


def sweep(comparison: Comparison, splits: data.Splits, store: Store) -> Iterator[Done]:
    """Perform the runs that the store lacks, and yield each of the comparison's runs with its record.

    Parameters
    ----------
    comparison : Comparison
        What to run.
    splits : Splits
        Its data.
    store : Store
        Where records come from and go to.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(comparison.threads)
    try:
        shared = settings(comparison, splits)
        tuned: list[Record] = []
        for run in comparison.tuning_runs():
            done = _recall_or_perform(run, comparison, splits.without_test(), shared, store)
            tuned.append(done.record)
            yield done
        chosen = {method.name: choose(method, tuned) for method in comparison.methods}
        for run in comparison.final_runs(chosen):
            yield _recall_or_perform(run, comparison, splits, shared, store)
    finally:
        torch.set_num_threads(threads)


def choose(method: Method, tuned: Sequence[Record]) -> float:
    """Return the strength with the highest mean validation accuracy; of equal ones the strongest.

    A strength with a diverged trial counts as accuracy 0; if all do, the weakest is returned. A method without
    strengths has strength 0. ``tuned`` are the records of tuning runs.
    """
    if not method.strengths:
        return 0.0

    own = [record for record in tuned if record["method"] == method.name]

    def merit(strength: float) -> tuple[float, float]:
        trials = [record for record in own if record["strength"] == strength]
        if not trials or any(record["status"] == "diverged" for record in trials):
            return 0.0, -strength
        return sum(record["validation_accuracy"] for record in trials) / len(trials), strength

    return max(method.strengths, key=merit)


def perform(run: Run, comparison: Comparison, splits: data.Splits, shared: dict[str, Any]) -> Record:
    """Train and measure; return the record. With no test set in the splits, the record has no test accuracy."""
    began = time.perf_counter()
    net, losses = train(splits.train, comparison.recipe, run.method, run.strength, run.seed, comparison.mode)
    finished = losses[-1] == losses[-1]  # the last loss of a run that diverged is NaN
    record: Record = {
        **_identity(run, comparison),
        "status": "finished" if finished else "diverged",
        "train_accuracy": None,
        "validation_accuracy": None,
        "test_accuracy": None,
        "share_below_1e-3": None,
        "prunable_share": None,
        "pruning_curve": None,
        "losses": losses if finished else losses[:-1],
        "settings": shared,
    }
    if finished:
        curve, prunable = pruning_curve(net, splits.validation, splits.test)
        record["train_accuracy"] = accuracy(net, splits.train)
        record["validation_accuracy"] = curve["validation"][0]
        record["test_accuracy"] = curve["test"][0] if splits.test else None
        record["share_below_1e-3"] = share_below(net, 1e-3)
        record["prunable_share"] = prunable
        record["pruning_curve"] = curve
    return record | {"timing": {"seconds": round(time.perf_counter() - began, 3)}}


def _recall_or_perform(
    run: Run, comparison: Comparison, splits: data.Splits, shared: dict[str, Any], store: Store
) -> Done:
    if record := store.get(_identity(run, comparison), shared):
        return Done(run, record, stored=True)
    record = perform(run, comparison, splits, shared)
    store.add(record)
    return Done(run, record, stored=False)


def _identity(run: Run, comparison: Comparison) -> dict[str, Any]:
    method = run.method
    return {
        "comparison": comparison.name,
        "method": method.name,
        "penalty": method.penalty,
        "alpha": method.alpha,
        "relative_scale": method.relative_scale,
        "strength": run.strength,
        "seed": run.seed,
        "phase": run.phase,
    }
