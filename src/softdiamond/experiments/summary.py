"""What the records of a comparison show: values by seed, paired differences with their intervals, and the answer in words.

A difference is **paired**: one method minus another on the same seeds, hence on the same initial weights and batches. Its
95 % interval is Student's t; a percentile bootstrap stands beside it. p-values are corrected by Holm's method over all
methods compared with the baseline in one place (treatment, way and share). *Better* and *worse* are said only where both
intervals leave 0 out and the corrected p is below 0.05; all else is *no difference shown*.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

from softdiamond._extras import install
from softdiamond.experiments import UserError, plan
from softdiamond.experiments.card import Card
from softdiamond.experiments.plan import Choice, Objective, Record, Run

LEVEL = 0.95
RESAMPLES = 9999
DASH = "-"


@dataclass(frozen=True)
class Effect:
    """A paired difference, in the units of its values; ``relative`` to the mean of the other.

    There is no interval for a single pair, nor where all differences are equal.
    """

    mean: float
    relative: float
    pairs: int
    t_interval: tuple[float, float] | None
    bootstrap_interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """Say better, worse or no difference shown, of larger values being better."""
        if (
            self.t_interval is None
            or self.bootstrap_interval is None
            or self.p_holm is None
            or self.p_holm >= 1 - LEVEL
        ):
            return "no difference shown"
        lows, highs = zip(self.t_interval, self.bootstrap_interval, strict=True)
        if min(lows) > 0:
            return "better"
        return "worse" if max(highs) < 0 else "no difference shown"


@dataclass(frozen=True)
class Row:
    """A method under a treatment at a share removed in a way: its choice, and what its final runs measured."""

    objective: Objective
    choice: Choice
    penalty: str
    alpha: float | None
    values: dict[int, dict[str, float]]  # by seed, of finished runs
    diverged: int
    accuracy: Effect | None = None  # against the baseline; the baseline's own is None
    prunable: Effect | None = None

    @property
    def method(self) -> str:
        """Label of the method."""
        return self.objective.method

    def column(self, name: str) -> list[float]:
        """Values over seeds, in the order of the seeds; empty where it was not measured."""
        return [self.values[seed][name] for seed in sorted(self.values) if name in self.values[seed]]


@dataclass(frozen=True)
class Summary:
    """A comparison summed up.

    ``missing`` counts final runs that are still to do, ``unused`` those whose setting or seed is not the card's (a friend's
    tuning may have chosen otherwise); ``overhead`` is the time of training in units of none's on the same seed, by method.
    """

    card: Card
    rows: tuple[Row, ...]
    missing: int
    unused: int
    overhead: dict[str, float]
    answer: tuple[str, ...]

    def places(self) -> list[tuple[str, str, float]]:
        """Return treatment, way and share of the rows, each once."""
        return list(dict.fromkeys((r.objective.treatment, r.objective.way, r.objective.share) for r in self.rows))

    def best(self, treatment: str, share: float) -> tuple[Row | None, Row | None]:
        """Return the row of a soft diamond, and that of another method, that tuning found best at a share.

        Each brings the way of removing whose chosen setting had the best validation accuracy; of the gradual way, that at
        the nearest share at which it was tuned.
        """
        rows = [r for r in self.rows if (r.objective.treatment, r.objective.share) == (treatment, share) and r.values]
        sides = ([r for r in rows if (r.penalty == "soft diamond") is soft] for soft in (True, False))
        ours, theirs = (max(side, key=lambda r: r.choice.validation, default=None) for side in sides)
        return ours, theirs

    def at(self, treatment: str, way: str, share: float) -> list[Row]:
        """Return the rows of one place, in the order of the card's methods."""
        return [
            r
            for r in self.rows
            if (r.objective.treatment, r.objective.way, r.objective.share) == (treatment, way, share)
        ]


def summarize(card: Card, records: Iterable[Record]) -> Summary:
    """Sum up the records of a card's runs.

    Raises
    ------
    UserError
        If tuning is not complete, so that nothing is chosen yet, or no final run finished.
    """
    known = plan.by_run(records)
    if any(run not in known for run in plan.tuning_runs(card, known)):
        raise UserError("the comparison is not finished: call softdiamond compare again, with the same --out, to go on")
    chosen = plan.choices(card, known)
    rows = [row for each in chosen.items() if (row := _row(card, known, *each)).values or row.diverged]
    if not any(row.values for row in rows):
        raise UserError("no final run has finished: there is nothing to sum up")
    compared = _compared(card, rows)
    final = {plan.final_run(*each, seed) for each in chosen.items() for seed in card.final.seeds}
    unused = sum(run.phase == "final" and run not in final for run in known)
    summary = Summary(card, tuple(compared), len(final - known.keys()), unused, _overhead(card, final, known), ())
    return replace(summary, answer=tuple(_answer(summary)))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Effect | None:
    """Return the difference of two sets of values on the seeds that both have; without any, None.

    Where all differences are equal there is no interval, and p is that of the sign test.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    d = np.array([ours[seed] - theirs[seed] for seed in seeds])
    other = mean(theirs[seed] for seed in seeds)
    middle, relative = float(d.mean()), float(d.mean() / other) if other else float("nan")
    if len(seeds) < 2:
        return Effect(middle, relative, 1, None, None, None)
    if np.ptp(d) <= 1e-12:
        p = 1.0 if abs(middle) <= 1e-12 else 2.0 ** (1 - len(d))
        return Effect(middle, relative, len(d), None, None, p)
    t = stats.ttest_1samp(d, 0.0)
    low, high = t.confidence_interval(LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resampled = stats.bootstrap(
            (d,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    interval = (float(resampled.low), float(resampled.high))
    return Effect(middle, relative, len(d), (float(low), float(high)), interval, float(t.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _row(card: Card, known: Mapping[Run, Record], objective: Objective, choice: Choice) -> Row:
    runs = [plan.final_run(objective, choice, seed) for seed in card.final.seeds]
    own = [(run.seed, known[run]) for run in runs if run in known]
    method = card.method(objective.method)
    finished = {
        seed: record for seed, record in sorted(own, key=lambda each: each[0]) if record["status"] == "finished"
    }
    return Row(
        objective,
        choice,
        method.penalty,
        method.alpha,
        {seed: _values(record, objective, choice) for seed, record in finished.items()},
        len(own) - len(finished),
    )


def _values(record: Record, objective: Objective, choice: Choice) -> dict[str, float]:
    if objective.share == 0.0:
        values = {"test": record["test_accuracy"], "validation": record["validation_accuracy"], "removed": 0.0}
        values |= record["sparsity"] | {f"prunable_{d}": share for d, share in (record["prunable"] or {}).items()}
        return values | {"train": record["train_accuracy"]}
    wanted = (objective.way, objective.share, choice.division)
    row = next(r for r in record["removal"] if (r["way"], r["share"], r["division"]) == wanted)
    return {"test": row["test"], "validation": row["validation"], "removed": row["removed"]}


def _compared(card: Card, rows: Sequence[Row]) -> list[Row]:
    """Give every row its paired differences to the baseline in its place, corrected over the methods there."""
    result: dict[Objective, Row] = {row.objective: row for row in rows}
    for row in rows:
        base = result.get(replace(row.objective, method=card.final.baseline))
        if base is None or row.method == card.final.baseline:
            continue
        effects = {}
        for field, name in (("accuracy", "test"), ("prunable", "prunable_global")):
            ours, theirs = ({s: v[name] for s, v in r.values.items() if name in v} for r in (row, base))
            effect = paired(ours, theirs)
            if effect is not None and (row.diverged or base.diverged):  # the seeds that were left prove nothing
                effect = replace(effect, p=None)
            effects[field] = effect
        result[row.objective] = replace(row, **effects)  # type: ignore[arg-type]
    for field in ("accuracy", "prunable"):
        places: dict[Objective, list[Row]] = {}
        for row in result.values():
            if (effect := getattr(row, field)) is not None and effect.p is not None:
                places.setdefault(replace(row.objective, method=""), []).append(row)
        for together in places.values():
            for row, p in zip(together, holm([getattr(row, field).p for row in together]), strict=True):
                current = result[row.objective]
                result[row.objective] = replace(current, **{field: replace(getattr(current, field), p_holm=p)})
    return list(result.values())


def _overhead(card: Card, final: set[Run], known: Mapping[Run, Record]) -> dict[str, float]:
    """Return the time of training of each method's final plain runs in units of none's, where there is a none.

    The median over treatments and seeds of the ratio to none's run of the same treatment and seed, which was done next to it.
    """
    bare = next((method.label for method in card.methods if method.penalty == "none"), "")
    times: dict[str, dict[tuple[str, int], list[float]]] = {}
    for run in final & known.keys():
        if run.kind == "plain" and known[run]["status"] == "finished" and (seconds := _seconds(known[run])):
            times.setdefault(run.method, {}).setdefault((run.treatment, run.seed), []).append(seconds)
    units = {place: float(np.median(own)) for place, own in times.get(bare, {}).items()}
    result = {}
    for method in card.methods:
        own = times.get(method.label, {})
        if ratios := [float(np.median(own[place])) / units[place] for place in own.keys() & units.keys()]:
            result[method.label] = float(np.median(ratios))
    return result


def _seconds(record: Record) -> float | None:
    """Time of a training: of the processor on a CPU, where other work stretches the clock's; None where it was not kept."""
    seconds = record["timing"]["seconds"]
    seconds_of = "processor" if record["environment"]["device"].startswith("cpu") else "train"
    return seconds.get(seconds_of)


def _answer(summary: Summary) -> list[str]:
    """Say what the statistics show, in sentences."""
    places = [(treatment.name, 0.0) for treatment in summary.card.treatments]
    best = _best_against_best(summary, places)
    sentences = [
        each for name, share in places for each in _answer_with_all_weights(summary, name, best.get((name, share)))
    ]
    return sentences + _answer_without(summary)


Best = tuple[Row, Row, Effect | None]  # the best soft diamond, the best other method, their difference


def _best_against_best(summary: Summary, places: Iterable[tuple[str, float]]) -> dict[tuple[str, float], Best]:
    """Compare the best soft diamond with the best other method in each treatment and share; p corrected over all of them."""
    compared: dict[tuple[str, float], Best] = {}
    for treatment, share in places:
        ours, theirs = summary.best(treatment, share)
        if ours is not None and theirs is not None:
            effect = paired(*({seed: v["test"] for seed, v in row.values.items()} for row in (ours, theirs)))
            if effect is not None and (ours.diverged or theirs.diverged):  # the seeds that were left prove nothing
                effect = replace(effect, p=None)
            compared[treatment, share] = ours, theirs, effect
    p_values = holm([1.0 if effect is None or effect.p is None else effect.p for *_, effect in compared.values()])
    return {
        place: (ours, theirs, effect and replace(effect, p_holm=p))
        for (place, (ours, theirs, effect)), p in zip(compared.items(), p_values, strict=True)
    }


def _answer_with_all_weights(summary: Summary, treatment: str, best: Best | None) -> list[str]:
    """Compare the best soft diamond with the best of the others, and all with the baseline."""
    rows = [row for row in summary.at(treatment, "once", 0.0) if row.values]
    where = "" if treatment == "plain" else f"With {treatment}: "
    sentences = []
    if best is not None:
        ours, theirs, effect = best
        kinds = [sum(row.penalty == "soft diamond" for row in rows), sum(row.penalty != "soft diamond" for row in rows)]
        sentences.append(
            f"{where}{ours.method} has {_mean(ours, 'test')} % test accuracy, {theirs.method} {_mean(theirs, 'test')} %, each the "
            f"best in tuning of {kinds[0]} soft diamonds and of {kinds[1]} other methods: {phrase(effect)}."
        )
        if ours.column("prunable_global") and theirs.column("prunable_global"):
            sentences.append(
                f"At these strengths, chosen for accuracy alone, {_mean(ours, 'prunable_global')} and "
                f"{_mean(theirs, 'prunable_global')} % of their {summary.card.removal.units} can be removed by magnitude within "
                f"{summary.card.sparsity.lost:g} points of validation accuracy."
            )
    base = summary.card.final.baseline
    shown = [
        f"{row.method} is {phrase(row.accuracy)}"
        for row in rows
        if row.accuracy is not None and row.accuracy.verdict != "no difference shown"
    ]
    if any(row.accuracy is not None for row in rows):
        sentences.append(f"{where}Against {base}, of all: {'; '.join(shown) if shown else 'no difference shown'}.")
    return sentences


def _answer_without(summary: Summary) -> list[str]:
    """Compare the best soft diamond at each share with the best other method there."""
    shares = [share for share in summary.card.removal.shares if share > 0]
    best = _best_against_best(summary, itertools.product([each.name for each in summary.card.treatments], shares))
    return [
        f"{'' if treatment == 'plain' else f'With {treatment}: '}At {100 * share:g} % removed, the best in tuning: "
        f"{ours.method} ({ours.objective.way}) {_mean(ours, 'test')} %, of the others {theirs.method} "
        f"({theirs.objective.way}) {_mean(theirs, 'test')} %: {phrase(effect)}."
        for (treatment, share), (ours, theirs, effect) in best.items()
        if effect is not None
    ]


def phrase(effect: Effect | None) -> str:
    """Say a difference of shares in points, with its interval, and never better or worse where none is shown."""
    if effect is None:
        return "nothing to compare"
    points = f"{100 * effect.mean:+.1f} points"
    if effect.t_interval is None:
        why = f"the same on {effect.pairs} seeds" if effect.pairs > 1 else "one seed"
        return f"no difference shown ({points}, {why}: no interval)"
    interval = f"95 % interval {100 * effect.t_interval[0]:+.1f} to {100 * effect.t_interval[1]:+.1f}"
    if effect.verdict == "no difference shown":
        return f"no difference shown ({points}, {interval})"
    relative = "" if math.isnan(effect.relative) else f"; {abs(100 * effect.relative):.1f} % relative"
    return f"{effect.verdict} by {abs(100 * effect.mean):.1f} points ({interval}{relative})"


def _mean(row: Row, name: str) -> str:
    return f"{100 * mean(row.column(name)):.1f}"


def tables(summary: Summary) -> list[Table]:
    """Return the printable tables, one for each treatment, then one for each way of removing; all in per cent."""
    result = []
    seeds = len(summary.card.final.seeds)
    for treatment, way, share in summary.places():
        if share == 0.0:
            result.append(_table(summary, treatment, summary.at(treatment, way, share)))
    if result:
        result[-1].caption = (
            f"Accuracies and shares in %: mean ± standard deviation over {seeds} seeds. Difference: to {summary.card.final.baseline}, "
            "paired by seed, with its 95 % t interval; * where it is shown (both intervals and Holm's p). Strength: equivalent "
            "weight decay at a tensor's initial rms, chosen on validation; ! at an end of its range. Trials: trainings of "
            "tuning. Prunable: largest share that removal by magnitude, with one threshold for the net, takes at no more than "
            f"{summary.card.sparsity.lost:g} points of validation accuracy. Time: of training, in units of none's."
        )
        result[-1].caption_justify = "left"
    for way in summary.card.removal.ways:
        shares = [
            s
            for s in summary.card.removal.shares
            if any(r.objective.way == way and r.objective.share == s for r in summary.rows)
        ]
        if not any(shares):
            continue
        printed = Table(title=f"{way}: test accuracy at the share removed", title_justify="left", min_width=56)
        printed.add_column("method", no_wrap=True)
        for share in shares:
            printed.add_column(f"{100 * share:g} %", justify="right", no_wrap=True)
        for place, method in itertools.product(summary.card.treatments, summary.card.methods):
            cells = {
                r.objective.share: r
                for r in summary.rows
                if r.objective == Objective(place.name, method.label, way, r.objective.share)
            }
            printed.add_row(method.label, *(_percent(cells[s].column("test")) if s in cells else DASH for s in shares))
        result.append(printed)
    return result


def _table(summary: Summary, treatment: str, rows: Sequence[Row]) -> Table:
    title = summary.card.name + ("" if treatment == "plain" else f", {treatment}")
    printed = Table(title=title, title_justify="left")
    printed.add_column("method", no_wrap=True)
    for heading in ("trials", "strength", "test accuracy", "difference", "|w| < 1e-3", "prunable", "time"):
        printed.add_column(heading, justify="right", no_wrap=True)
    diverged = any(row.diverged for row in rows)
    if diverged:
        printed.add_column("diverged", justify="right", no_wrap=True)
    for row in rows:
        overhead = summary.overhead.get(row.method)
        cells = [
            row.method,
            str(row.choice.trials),
            f"{row.choice.strength:g} {'!' if row.choice.edge or row.choice.rate_edge else ' '}"
            if row.choice.strength
            else f"{DASH}  ",
            _percent(row.column("test")),
            _difference(row.accuracy),
            _percent(row.column("below_1e-3")),
            _percent(row.column("prunable_global")),
            f"{overhead:.2f}" if overhead else DASH,
        ]
        printed.add_row(*cells, *([str(row.diverged)] if diverged else []))
    return printed


def _difference(effect: Effect | None) -> str:
    if effect is None:
        return DASH
    if effect.t_interval is None:
        return f"{100 * effect.mean:+.1f}"
    low, high = (100 * end for end in effect.t_interval)
    star = " " if effect.verdict == "no difference shown" else "*"
    return f"{100 * effect.mean:+.1f} [{low:+.1f}, {high:+.1f}]{star}"


def _percent(values: Sequence[float]) -> str:
    """Mean and standard deviation (n - 1) in per cent."""
    if not values:
        return DASH
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def write_parquet(summary: Summary, folder: Path) -> Path:
    """Write ``summary.parquet``: a row for each row of the summary and seed, with its choice and paired difference.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"summary.parquet needs pyarrow: {install('cli')}") from error
    rows: list[dict[str, Any]] = []
    for row in summary.rows:
        choice = {key: value for key, value in asdict(row.choice).items() if key != "tried"}
        shared = {**asdict(row.objective), "penalty": row.penalty, "alpha": row.alpha, **choice}
        for field in ("accuracy", "prunable"):
            effect: Effect | None = getattr(row, field)
            low, high = (effect.t_interval if effect else None) or (None, None)
            shared |= {
                f"{field}_difference": effect.mean if effect else None,
                f"{field}_low": low,
                f"{field}_high": high,
            }
            shared |= {f"{field}_p_holm": effect.p_holm if effect else None}
        rows += [{**shared, "seed": seed, **values} for seed, values in row.values.items()]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({key: [row.get(key) for row in rows] for key in keys})
    new, path = folder / "summary.parquet.new", folder / "summary.parquet"
    pq.write_table(table, new)
    new.replace(path)
    return path
