"""The defaults of a soft diamond against their alternatives, on validation data alone.

Tunes each candidate as `softdiamond compare` tunes the methods of a card (its strengths, widening, tuning seeds, one thread) and
shows its best mean validation accuracy, the difference to the default on the same seeds, and how sparse the nets are. No test set
is opened. Finished runs are kept in the folder of --out: the same command goes on where it was stopped.

Commands: python studies/defaults.py digits
          python studies/defaults.py cifar10-small --data-dir FOLDER
          python studies/defaults.py caltech101-64 --data-dir FOLDER --candidates "default" "one prior" "scale 3"
"""

import argparse
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from softdiamond.experiments import card as cards
from softdiamond.experiments import plan
from softdiamond.experiments.engine import InProcess, Job
from softdiamond.experiments.store import open_store

CANDIDATES = {
    "default": {},
    "one prior": {"reference": "model"},
    "scale 3": {"relative_scale": 3.0},
    "scale 0.3": {"relative_scale": 0.3},
    "gradient": {"mode": "gradient"},
}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("card")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--out", type=Path, help="by default softdiamond-defaults-CARD")
parser.add_argument("--alpha", type=float, default=0.5)
parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
parser.add_argument("--seeds", type=int, help="tuning seeds, from 100 on; by default those of the card")
arguments = parser.parse_args()

shipped = cards.find(arguments.card)
tuning = shipped.tuning
if arguments.seeds:
    tuning = tuning.model_copy(update={"seeds": tuple(range(100, 100 + arguments.seeds))})
methods = tuple(
    cards.Method(penalty="soft diamond", alpha=arguments.alpha, name=name, **CANDIDATES[name])
    for name in arguments.candidates
)
changed = {"methods": methods, "tuning": tuning, "final": cards.Final(seeds=(0,), baseline=methods[0].label)}
card = shipped.model_copy(update=changed)
job = Job(card, arguments.data_dir, None)
with open_store(arguments.out or Path(f"softdiamond-defaults-{card.name}"), card) as store:
    perform = InProcess(job)
    while runs := [run for run in plan.tuning_runs(card, store.records) if run not in store.records]:
        for outcome in perform(runs, lambda run, epoch, loss: None):
            store.add(outcome)
            print(f"{outcome.run}: {outcome.record['validation_accuracy']}", flush=True)

table = Table(title=f"{card.name}: best of tuning on seeds {', '.join(map(str, tuning.seeds))}, in %")
for heading in ("candidate", "strength", "validation", "difference by seed", "|w| < 1e-3", "Gini"):
    table.add_column(heading)
first: list[float] = []
for (treatment, method), choice in {
    (each.treatment, each.method): chosen
    for each, chosen in plan.choices(card, store.records).items()
    if each.kind == "plain" and each.share == 0.0
}.items():
    own = [
        store.records[plan.Run("tune", treatment, method, choice.strength, choice.rate, seed)] for seed in tuning.seeds
    ]
    accuracies = [100 * record["validation_accuracy"] for record in own]
    first = accuracies if method == methods[0].label else first
    differences = ", ".join(f"{ours - theirs:+.1f}" for ours, theirs in zip(accuracies, first, strict=True))
    below, gini = (mean(record["sparsity"][name] for record in own) for name in ("below_1e-3", "gini"))
    where = method if treatment == "plain" else f"{treatment}: {method}"
    table.add_row(
        where, f"{choice.strength:g}", f"{mean(accuracies):.2f}", differences, f"{100 * below:.1f}", f"{gini:.3f}"
    )
Console(width=110).print(table)
