"""What the records of one comparison say, a row a method, and the table that prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rich.table import Table

from softdiamond.experiments.records import Record
from softdiamond.experiments.runs import Comparison

DASH = "-"


@dataclass(frozen=True)
class Row:
    """One method: its choice, and what its finished final runs measured, a value a seed."""

    method: str
    trials: int
    strength: float
    edge: str  # lowest or highest if the chosen strength is an end of its grid, else empty
    test_accuracy: list[float]
    share_below: list[float]
    prunable_share: list[float]
    seconds: list[float]
    diverged: int  # of the method's runs, tuning included


def rows(comparison: Comparison, records: Sequence[Record]) -> list[Row]:
    """Sum up the records of a whole sweep."""
    result = []
    for method in comparison.methods:
        own = [record for record in records if record["method"] == method.name]
        finals = [record for record in own if record["phase"] == "final"]
        finished = [record for record in finals if record["status"] == "finished"]
        strength = finals[0]["strength"]
        ends = {max(method.strengths): "highest", min(method.strengths): "lowest"} if len(method.strengths) > 1 else {}
        result.append(
            Row(
                method=method.name,
                trials=len(own) - len(finals),
                strength=strength,
                edge=ends.get(strength, ""),
                test_accuracy=[record["test_accuracy"] for record in finished],
                share_below=[record["share_below_1e-3"] for record in finished],
                prunable_share=[record["prunable_share"] for record in finished],
                seconds=[record["timing"]["seconds"] for record in finals],
                diverged=sum(record["status"] == "diverged" for record in own),
            )
        )
    return result


def table(comparison: Comparison, summed: Sequence[Row]) -> Table:
    """Return the printable table; shares and accuracies in per cent, mean and standard deviation over seeds."""
    seeds = len(comparison.seeds)
    lines = [
        f"Accuracies and shares in %: mean ± standard deviation over {seeds} seeds. Strength: equivalent weight decay at a",
        "tensor's initial rms, chosen for the best validation accuracy, of equal ones the strongest. Trial: one training",
        "of one strength on one tuning seed; none has no strength to choose, hence no trials. Prunable: largest share that",
        "removal by magnitude takes at no more than 0.5 points of validation accuracy, as does every smaller share.",
        f"s/run: training and measuring of a final run. The penalty's mode: {comparison.mode}"
        + (" (of L1 its prox)." if comparison.mode == "implicit" else "."),
    ]
    if any(row.edge for row in summed):
        lines.append("! the chosen strength is the lowest or the highest of its grid: a better one may lie beyond it.")
    if any(row.diverged for row in summed):
        lines.append("Diverged runs (a loss or a weight that is not finite) are left out of the means.")
    printed = Table(title=comparison.name, caption=" ".join(lines), caption_justify="left", title_justify="left")
    printed.add_column("method", no_wrap=True)
    for heading in ("trials", "strength", "test accuracy", "|w| < 1e-3", "prunable", "s/run"):
        printed.add_column(heading, justify="right", no_wrap=True)
    diverged = any(row.diverged for row in summed)
    if diverged:
        printed.add_column("diverged", justify="right", no_wrap=True)
    for row in summed:
        cells = [
            row.method,
            str(row.trials),
            f"{row.strength:g} {'!' if row.edge else ' '}" if row.trials else f"{DASH}  ",
            *(_percent(values) for values in (row.test_accuracy, row.share_below, row.prunable_share)),
            f"{mean(row.seconds):.1f}",
        ]
        printed.add_row(*cells, *([str(row.diverged)] if diverged else []))
    return printed


def _percent(values: Sequence[float]) -> str:
    """Mean and standard deviation (n - 1) in per cent."""
    if not values:
        return DASH
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"
