"""Penalty in the loss against the steps of `softdiamond.Regularizer`: accuracy, sparsity and time of a run.

Trains the networks of `softdiamond compare` at fixed strengths, every mode on the same seeds, interleaved:

- loss: the penalty is a term of the loss; gradient: lambda R' is added to .grad; implicit and prox: steps after the optimizer's.

Commands: python benchmarks/modes.py digits
          python benchmarks/modes.py cifar10-small --data-dir FOLDER [--modes loss implicit]
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from rich.console import Console
from rich.table import Table

from softdiamond.experiments import runs
from softdiamond.experiments.train import MODES, Method

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("comparison", choices=sorted(runs.COMPARISONS))
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
parser.add_argument("--strength", type=float, default=0.01, help="of every method")
parser.add_argument("--seeds", type=int, default=3)
arguments = parser.parse_args()

comparison = runs.find(arguments.comparison)
splits = comparison.load(arguments.data_dir) if comparison.needs_folder else comparison.load()
torch.set_num_threads(comparison.threads)
shared = runs.settings(comparison, splits)
soft_diamonds = [Method("soft diamond", (), alpha, 1.0) for alpha in (0.3, 0.5, 1.0)]
methods = [Method("L2", ()), Method("L1", ()), *soft_diamonds]

records: dict[tuple[str, str], list[dict]] = {}
for seed in range(arguments.seeds):
    run = runs.Run(Method("none", ()), 0.0, seed, "final")
    records.setdefault(("none", "-"), []).append(runs.perform(run, comparison, splits, shared))
    for method in methods:
        for mode in arguments.modes:
            run = runs.Run(method, arguments.strength, seed, "final")
            record = runs.perform(run, replace(comparison, mode=mode), splits, shared)
            records.setdefault((method.name, mode), []).append(record)
            print(f"{run} {mode}: {record['status']}, {record['timing']['seconds']:.1f} s", flush=True)


def percent(own: list[dict], key: str) -> str:
    values = [100 * record[key] for record in own if record["status"] == "finished"]
    return (
        f"{mean(values):.1f} ± {stdev(values):.1f}"
        if len(values) > 1
        else "diverged"
        if not values
        else f"{values[0]:.1f}"
    )


columns = ("method", "mode", "test accuracy", "|w| < 1e-3", "prunable", "s/run", "of none")
table = Table(*columns, title=f"{comparison.name}, strength {arguments.strength:g}, {arguments.seeds} seeds, in %")
bare = mean(record["timing"]["seconds"] for record in records["none", "-"])
for (name, mode), own in records.items():
    seconds = mean(record["timing"]["seconds"] for record in own)
    shares = (percent(own, key) for key in ("test_accuracy", "share_below_1e-3", "prunable_share"))
    shown = f"{mode} (prox)" if name == "L1" and mode == "implicit" else mode
    table.add_row(name, shown, *shares, f"{seconds:.1f}", f"{seconds / bare:.2f}")
Console(width=110).print(table)
