"""The page of a comparison: one HTML file that needs no network, made from records alone.

All that the page says in numbers comes from `softdiamond.experiments.summary`; this module arranges it. The page's words for
a difference are those of `Effect.verdict`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from softdiamond._html import dark_colors, svg_element, template, write_whole
from softdiamond.experiments import figures

if TYPE_CHECKING:
    from softdiamond.experiments.card import Card
    from softdiamond.experiments.plan import Record
    from softdiamond.experiments.summary import Effect, Row, Summary

__all__ = ["write"]

SHARES = {"zero": "exactly 0, %", "below_1e-3": "|w| < 0.001, %", "below_1e-2": "|w| < 0.01, %"}
INDICES = {"gini": "Gini", "hoyer": "Hoyer", "participation": "participation"}
NUMBER = re.compile(r"[+−]?\d|<\d|^$")
GLOSSARY = {
    "Strength": "the weight decay that pulls as hard on a weight at its tensor's starting rms (root mean square).",
    "Trials": "trainings from which a method's setting was chosen, on validation images.",
    "Difference": "a method minus the baseline on the same seeds, hence the same starting weights and batches; in points, "
    "that is, per cent minus per cent. Relative: in per cent of the baseline's mean.",
    "t interval": "Student's 95 % interval of the mean difference over seeds.",
    "Bootstrap interval": "95 % percentile interval from resampled seeds.",
    "Holm's p": "p of the paired t test, corrected by Holm's method for all methods in the same place.",
    "Verdict": "a direction is named only where both intervals leave 0 out and Holm's p is below 0.05.",
    "Exactly 0, |w| < 0.001, |w| < 0.01": "share of the regularized weights that are 0, or smaller in magnitude.",
    "Gini": "inequality of the magnitudes: 0 if all are equal, towards 1 if few have all.",
    "Hoyer": "(√n − Σ|w| / √Σw²) / (√n − 1): 0 if all are equal, 1 if one weight alone is not 0.",
    "Participation": "(Σw²)² / (n Σw⁴): the share of weights that carry the energy; low is sparse.",
    "Prunable": "the largest share of weights (of outputs, where the card removes these) that can be set to 0, smallest "
    "first, within the card's loss of validation accuracy; global: one threshold for the net; layerwise: the same share of each tensor.",
    "Training time": "of the plain trainings, in units of none's on the same seed, their median; on a CPU the processor's time, "
    "which other work beside it stretches little.",
    "Once, fine-tuned, gradual": "weights (or outputs) removed after training; the same, then a short training of the rest; "
    "or during training.",
    "Division": "how a removed share is spread over tensors: global, relative (to the starting rms) or layerwise.",
    "Diverged": "the loss or a weight was no longer finite.",
}


class Cell(NamedTuple):
    """Text of a table's cell, a class for its look, and a second line."""

    text: str
    kind: str = ""
    more: str = ""


class Table(NamedTuple):
    """A table: rows begin with the name of the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone."""
        return [all(NUMBER.match(row[i].text) for row in self.rows) and i > 0 for i in range(len(self.head))]


def write(summary: Summary, records: Sequence[Record], out: Path) -> Path:
    """Write ``report.html`` into a folder, whole or not at all, and return its path.

    Parameters
    ----------
    summary : Summary
        The comparison summed up.
    records : sequence of Record
        The records that it sums up.
    out : Path
        The folder, created where it is missing.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    return write_whole(page(summary, records), out / "report.html")


def page(summary: Summary, records: Sequence[Record]) -> str:
    """Return the text of the page; equal input gives equal text."""
    pictures = figures.inline(summary, records)
    card, shown = summary.card, _Shown(_decimals(summary, records))
    drawn = [_drawn(picture) for picture in pictures]
    notes = []
    if summary.missing:
        notes.append(f"The comparison is not finished: {summary.missing} final runs are still to do.")
    if summary.unused:
        notes.append(
            f"{summary.unused} final runs have other settings or seeds than those chosen here, and are not shown."
        )
    return template(resources.files("softdiamond.experiments") / "templates", "page.html.j2").render(
        card=card,
        title=card.title or card.name,
        answer=summary.answer,
        missing=" ".join(notes),
        diverged=sum(record["status"] == "diverged" for record in records),
        count=len(records),
        main=list(_main_tables(summary, shown)),
        front=list(_front_tables(summary, shown)),
        every=_every_difference(summary, shown),
        pictures=drawn,
        dark=dark_colors(str(drawn)),
        limits=list(_limits(summary, records)),
        parts=list(_parts(card)),
        lists=list(_lists(card)),
        environments=_kinds(records, "environment", "The environments"),
        overhead=bool(summary.overhead),
        data=_kinds(records, "data", "The data"),
        runs=_runs(card, records),
        glossary=GLOSSARY,
    )


def _drawn(picture: figures.Inline) -> dict[str, Any]:
    """Return a picture with its panels and the legend's samples as SVG elements."""
    panels = [
        svg_element(svg, f"{picture.name}-{n}", f"{picture.title}: {words}")
        for n, (svg, words) in enumerate(picture.panels)
    ]
    legend = [(label, svg_element(svg, f"{picture.name}-sample-{n}")) for n, (label, svg) in enumerate(picture.legend)]
    return picture._asdict() | {"panels": panels, "legend": legend}


# ---- tables -----------------------------------------------------------------------------------------------------------


class _Shown(NamedTuple):
    """Numbers as texts; accuracies and their differences with the decimals that the test set supports."""

    decimals: int

    def percent(self, values: Sequence[float], decimals: int | None = None) -> str:
        """Return mean ± standard deviation (n - 1) in per cent."""
        return _mean([100 * value for value in values], self.decimals if decimals is None else decimals)

    def points(self, value: float) -> str:
        return signed(100 * value, self.decimals)

    def interval(self, ends: tuple[float, float] | None) -> str:
        return f"{self.points(ends[0])} to {self.points(ends[1])}" if ends else ""

    def effect(self, effect: Effect | None) -> list[Cell]:
        """Return the cells of `EFFECT`."""
        if effect is None:
            return [*[Cell("")] * 5, Cell("baseline", "quiet")]
        relative = "" if effect.relative != effect.relative else signed(100 * effect.relative, self.decimals)
        texts = [self.points(effect.mean), self.interval(effect.t_interval), self.interval(effect.bootstrap_interval)]
        return [*map(Cell, [*texts, relative, p_value(effect.p_holm)]), Cell(effect.verdict, _kind(effect))]


def _decimals(summary: Summary, records: Sequence[Record]) -> int:
    """Return two where one test image moves a mean accuracy by less than 0.05 points, else one."""
    images = max(record["data"]["test"] for record in records)
    return 2 if images * len(summary.card.final.seeds) > 100 / 0.05 else 1


EFFECT = ("difference, points", "95 % t interval", "bootstrap interval", "relative, %", "Holm's p", "verdict")


def _mean(values: Sequence[float], decimals: int) -> str:
    if not values:
        return ""
    return f"{mean(values):.{decimals}f}" + (f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else "")


def signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return (text if float(text) else f"{0:.{decimals}f}").replace("-", "−")


def p_value(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _kind(effect: Effect | None) -> str:
    return {"better": "up", "worse": "down"}.get(effect.verdict if effect else "", "")


def _titled(card: Card, text: str, treatment: str) -> str:
    return f"{text}, {treatment}" if len(card.treatments) > 1 else text


def _setting(row: Row, rates: bool) -> list[Cell]:
    """Trials, strength with its flag, and the rate where several were tried."""
    edge, strength = row.choice.edge, row.choice.strength
    flag = f"{edge} tried" if edge else ""
    cells = [Cell(str(row.choice.trials)), Cell(f"{strength:.3g}" if strength else "", "flag" if edge else "", flag)]
    flag = f"{row.choice.rate_edge} tried" if row.choice.rate_edge else ""
    return [*cells, Cell(f"{row.choice.rate:g}", "flag" if flag else "", flag)] if rates else cells


def _main_tables(summary: Summary, shown: _Shown) -> Iterator[tuple[Table, Table]]:
    """Accuracy and sparsity with all weights kept, for each treatment."""
    card = summary.card
    rates = len(card.tuning.rates or ()) > 1
    timed = bool(summary.overhead)
    setting = ["method", "trials", "strength", *["rate"] * rates]
    for treatment in card.treatments:
        rows = summary.at(treatment.name, "once", 0.0)
        if not rows:
            continue
        accuracy, sparsity = [], []
        for row in rows:
            base = row.method == card.final.baseline
            time = f"{summary.overhead[row.method]:.2f}" if row.method in summary.overhead else ""
            lost = Cell(str(row.diverged), "bad" if row.diverged else "")
            against = shown.effect(row.accuracy) if row.accuracy or base else [Cell("")] * 6
            test = Cell(shown.percent(row.column("test")))
            accuracy.append([Cell(row.method), *_setting(row, rates), test, *against, *[Cell(time)] * timed, lost])
            cells = [Cell(shown.percent(row.column(name), 1)) for name in SHARES]
            cells += [Cell(f"{mean(column):.3f}" if (column := row.column(name)) else "") for name in INDICES]
            prunable = _Shown(1).effect(row.prunable) if row.prunable or base else [Cell("")] * 6
            layerwise = Cell(shown.percent(row.column("prunable_layerwise"), 1))
            difference = prunable[0]._replace(more=prunable[1].text)
            cells += [Cell(shown.percent(row.column("prunable_global"), 1)), difference, layerwise]
            sparsity.append([Cell(row.method), *cells])
        head = [*setting, "test accuracy, %", *EFFECT, *["training time"] * timed, "diverged"]
        first = Table(_titled(card, "Accuracy with all weights kept", treatment.name), head, accuracy)
        head = ["method", *SHARES.values(), *INDICES.values(), "prunable, global, %"]
        head += ["difference, points, 95 % t interval", "prunable, layerwise, %"]
        yield first, Table(_titled(card, "Sparsity of the same nets", treatment.name), head, sparsity)


def _front_tables(summary: Summary, shown: _Shown) -> Iterator[Table]:
    """Test accuracy by method and share, for each treatment and way, with the difference below it."""
    card = summary.card
    for treatment, way in dict.fromkeys((t, w) for t, w, share in summary.places() if share > 0):
        shares = [share for t, w, share in summary.places() if (t, w) == (treatment, way)]
        rows = []
        for method in card.methods:
            cells = [Cell(method.label)]
            for share in shares:
                row = next((row for row in summary.at(treatment, way, share) if row.method == method.label), None)
                if row is None:  # not finished
                    cells.append(Cell(""))
                    continue
                effect = row.accuracy
                more = f"{shown.points(effect.mean)} [{shown.interval(effect.t_interval)}]" if effect else ""
                word = f" {effect.verdict}" if effect and _kind(effect) else ""
                cells.append(Cell(shown.percent(row.column("test")), _kind(effect), more + word))
            rows.append(cells)
        caption = _titled(
            card, f"Test accuracy in per cent without a share of the {card.removal.units}, {way}", treatment
        )
        yield Table(caption, ["method", *(f"{100 * share:g} % removed" for share in shares)], rows)


def _every_difference(summary: Summary, shown: _Shown) -> Table:
    """Everything about the rows at a share above 0."""
    several, rates = len(summary.card.treatments) > 1, len(summary.card.tuning.rates or ()) > 1
    rows = []
    for row in (row for row in summary.rows if row.objective.share > 0):
        place = [Cell(row.objective.treatment)] if several else []
        place += [Cell(row.objective.way), Cell(f"{100 * row.objective.share:g}"), Cell(row.choice.division)]
        values = [Cell(shown.percent(row.column(name))) for name in ("validation", "test")]
        base = row.method == summary.card.final.baseline
        against = shown.effect(row.accuracy) if row.accuracy or base else [Cell("")] * 6
        lost = Cell(str(row.diverged), "bad" if row.diverged else "")
        rows.append([Cell(row.method), *place, *_setting(row, rates), *values, *against, lost])
    head = ["method", *["treatment"] * several, "way", "removed, %", "division", "trials", "strength"]
    head += [*["rate"] * rates, "validation, %", "test, %", *EFFECT, "diverged"]
    return Table("Every setting and difference of the front", head, rows)


def _runs(card: Card, records: Sequence[Record]) -> Table:
    several, rates = len(card.treatments) > 1, len(card.tuning.rates or ()) > 1
    rows = []
    for record in records:
        run = record["run"]
        removal = f"{100 * run['share']:g} % gradually, {run['division']}" if run["kind"] == "gradual" else "plain"
        cells = [Cell(run["method"]), Cell(run["phase"]), *[Cell(run["treatment"])] * several]
        cells += [Cell(f"{run['strength']:.3g}" if run["strength"] else ""), *[Cell(f"{run['rate']:g}")] * rates]
        cells += [Cell(removal), Cell(str(run["seed"]))]
        cells += [Cell(record["status"], "bad" if record["status"] == "diverged" else "")]
        for name in ("validation_accuracy", "test_accuracy"):
            cells.append(Cell("" if record[name] is None else f"{100 * record[name]:.2f}"))
        cells += [Cell(f"{record['losses'][-1]:#.4g}" if record["losses"] else "")]
        rows.append([*cells, Cell(f"{record['timing']['seconds']['train']:.2f}")])
    head = ["method", "phase", *["treatment"] * several, "strength", *["rate"] * rates, "kind", "seed", "status"]
    head += ["validation, %", "test, %", "last loss", "seconds"]
    return Table("Every run", head, rows)


# ---- the card, the environment, the limits ----------------------------------------------------------------------------


def _parts(card: Card) -> Iterator[Table]:
    """Return the card's tables of values, defaults too."""
    plain = card.model_dump(mode="json")
    parts = {"card": {key: value for key, value in plain.items() if not isinstance(value, dict | list)}}
    parts["card"]["digest"] = card.digest
    for name, part in (parts | {key: value for key, value in plain.items() if isinstance(value, dict)}).items():
        yield Table(name, ["key", "value"], [[Cell(key), _value(value)] for key, value in part.items()])


def _lists(card: Card) -> Iterator[Table]:
    """Return the card's methods and treatments."""
    for name, named in (("methods", card.methods), ("treatments", card.treatments)):
        every = [each.model_dump(mode="json") for each in named]
        if name == "methods":  # as they act: L1's implicit step is its prox
            every = [{**values, "mode": each.effective_mode} for values, each in zip(every, card.methods, strict=True)]
        keys = [key for key in every[0] if key != "name"]
        labels = [method.label for method in card.methods] if name == "methods" else [each["name"] for each in every]
        rows = [[Cell(label), *(_value(each[key]) for key in keys)] for label, each in zip(labels, every, strict=True)]
        yield Table(name, ["name", *keys], rows)


def _value(value: Any) -> Cell:
    if value is None or value in ("", {}):
        return Cell("not set", "quiet")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, dict):
        return Cell("; ".join(f"{key} = {_value(each).text}" for key, each in value.items()))
    return Cell(", ".join(_value(each).text for each in value) if isinstance(value, list) else str(value))


def _kinds(records: Sequence[Record], key: str, caption: str) -> Table:
    """Return the distinct values of a mapping in the records, with how many have each."""
    counts: dict[str, int] = {}
    for record in records:
        text = json.dumps(record[key])
        counts[text] = counts.get(text, 0) + 1
    kinds = [json.loads(text) for text in counts]
    names = list(dict.fromkeys(name for kind in kinds for name in kind))
    rows = [
        [Cell(f"{count} runs"), *(Cell(str(kind.get(name, ""))) for name in names)]
        for kind, count in zip(kinds, counts.values(), strict=True)
    ]
    return Table(caption, ["runs", *names], rows)


def _limits(summary: Summary, records: Sequence[Record]) -> Iterator[str]:
    """Say what the comparison does not show."""
    card, data = summary.card, records[0]["data"]
    seeds = len(card.final.seeds)
    if card.quick:
        yield "This was a quick run, to prove that everything works: no number here says anything about the methods."
    if summary.missing:
        yield f"{summary.missing} final runs are still to do: every number may change."
    yield (
        f"One network ({card.model.name}), one data set ({card.data.name}, {data['train']} training examples), one "
        "optimizer and schedule: it says nothing of others."
    )
    if seeds == 1:
        yield "One seed: there is no interval, so that no difference can be shown."
    else:
        yield (
            f"{seeds} seeds, which change starting weights, the order of examples, augmentation and dropout, but not which "
            "examples train and test. A difference that is not shown may still be there."
        )
    accuracy = mean([value for row in summary.rows if not row.objective.share for value in row.column("test")] or [0.0])
    half = 196 * (accuracy * (1 - accuracy) / data["test"]) ** 0.5
    yield (
        f"The test set is itself a sample: with {data['test']} examples, chance in which they are moves one accuracy by about "
        f"±{half:.1f} points, and the intervals, which are over seeds, do not hold that."
    )
    yield (
        f"Validation has {data['validation']} examples, one is {100 / data['validation']:.2g} points: settings closer than "
        "a few of them were told apart by chance."
    )
    yield (
        "Strengths were chosen for accuracy, not for sparsity, of equal ones the strongest: with all weights kept, a method might "
        "be sparser at another strength at no cost that could be seen. The intervals do not hold the chance in that choice."
    )
    if card.tuning.rates is None:
        yield f"The learning rate, {card.training.rate:g}, was the same for all methods and was not tuned."
    trials = {row.choice.trials for row in summary.rows if row.penalty != "none" and row.objective.kind == "plain"}
    bare = {row.choice.trials for row in summary.rows if row.penalty == "none" and row.objective.kind == "plain"}
    if bare and trials and max(bare) < max(trials):
        yield (
            f"A method without a penalty has no strength to choose: {max(bare)} trial{'s' * (max(bare) > 1)}, against up to "
            f"{max(trials)} of the others, which gives them more chances."
        )
    if edges := [row for row in summary.rows if row.choice.edge]:
        names = dict.fromkeys(f"{_titled(card, row.method, row.objective.treatment)}" for row in edges)
        yield (
            f"{len(edges)} of {len(summary.rows)} chosen strengths lie at an end of the range tried ({'; '.join(names)}): one "
            "beyond it might do more."
        )
    if any(row.objective.kind == "gradual" for row in summary.rows):
        shares = ", ".join(f"{100 * share:g}" for share in card.removal.gradual_tuned_at)
        yield f"Gradual removal was tuned at {shares} % alone; other shares have the setting of the nearest."
    if len(card.treatments) > 1:
        yield "Methods are compared within a treatment; treatments are not compared with each other."
    yield (
        "p is corrected for the methods of one place, not for the number of places on this page; seeds can be added to a "
        "comparison that was looked at, which no p holds."
    )
    yield (
        "Zeros save no time here: removal of single weights makes no net faster without code or hardware for it, and none "
        "was timed."
    )
    yield (
        "Times may have been measured with other runs at work beside: small differences in them mean nothing."
        + " They mix several environments." * (len(_kinds(records, "environment", "").rows) > 1)
    )
    if (kinds := len(_kinds(records, "data", "").rows)) > 1:
        yield f"The runs saw {kinds} different states of the data, so that they are not quite comparable."
