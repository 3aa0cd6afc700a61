"""Penalty in the loss against the steps of `softdiamond.Regularizer`: accuracy, sparsity and time of a run.

Trains the networks of a card of `softdiamond compare` at one fixed strength, every mode on the same seeds, interleaved:

- loss: the penalty is a term of the loss; gradient: lambda R' is added to .grad; implicit and prox: steps after the optimizer's.

Commands: python studies/modes.py digits
          python studies/modes.py cifar10-small --data-dir FOLDER [--modes loss implicit]
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from softdiamond.experiments import card, runs
from softdiamond.experiments.data import load
from softdiamond.experiments.plan import Run

MODES = ("loss", "gradient", "implicit", "prox")
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("card")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
parser.add_argument("--strength", type=float, default=0.01, help="of every method")
parser.add_argument("--seeds", type=int, default=3)
arguments = parser.parse_args()

chosen = card.find(arguments.card)
none = card.Method(penalty="none")
soft_diamonds = [card.Method(penalty="soft diamond", alpha=alpha) for alpha in (0.3, 0.5, 1.0)]
methods = [
    method.model_copy(update={"mode": mode, "name": f"{method.label}, {mode}"})
    for method in [card.Method(penalty="L2"), card.Method(penalty="L1"), *soft_diamonds]
    for mode in arguments.modes
]
chosen = chosen.model_copy(update={"methods": (none, *methods)})
splits = load(chosen.data, arguments.data_dir)

records: dict[str, list[dict]] = {}
for seed in range(arguments.seeds):
    for method in chosen.methods:
        strength = 0.0 if method.penalty == "none" else arguments.strength
        run = Run("final", "plain", method.label, strength, chosen.training.rate, seed, division="global")
        record = runs.perform(run, chosen, splits).record
        records.setdefault(method.label, []).append(record)
        print(f"{run}: {record['status']}, {record['timing']['seconds']['train']:.1f} s", flush=True)


def percent(values: list[float]) -> str:
    if not values:
        return "diverged"
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def seconds(own: list[dict]) -> float:
    return mean(record["timing"]["seconds"]["train"] for record in own)


columns = ("method", "test accuracy", "|w| < 1e-3", "prunable", "s, training", "of none")
table = Table(*columns, title=f"{chosen.name}, strength {arguments.strength:g}, {arguments.seeds} seeds, in %")
for method in chosen.methods:
    own = records[method.label]
    finished = [record for record in own if record["status"] == "finished"]
    shares = (
        percent([record["test_accuracy"] for record in finished]),
        percent([record["sparsity"]["below_1e-3"] for record in finished]),
        percent([record["prunable"]["global"] for record in finished]),
    )
    shown = method.label + (" (prox)" if method.effective_mode != method.mode else "")
    table.add_row(shown, *shares, f"{seconds(own):.1f}", f"{seconds(own) / seconds(records['none']):.2f}")
Console(width=110).print(table)
