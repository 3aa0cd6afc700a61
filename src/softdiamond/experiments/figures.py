"""Pictures of what the records of a comparison show.

Each is written as ``NAME.png`` and ``NAME.svg``, the same bytes for the same input and version of matplotlib.
matplotlib (the extra ``plot``) is imported when a figure is drawn; the caller's settings are neither used nor changed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softdiamond import stable
from softdiamond.experiments import plan
from softdiamond.experiments.plan import Record, Run
from softdiamond.plotting import (
    BASELINES,
    PAGE_STYLE,
    NewFigure,
    alpha_color,
    draw_constraint_set,
    drawing,
    sas_penalty,
    save,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from softdiamond.experiments.card import Method
    from softdiamond.experiments.summary import Row, Summary

__all__ = ["Inline", "comparison", "inline"]

Array = NDArray[np.float64]
Look = dict[str, Any]  # keyword arguments of a line: color, linestyle, marker, label

KEPT_TICKS = [1 - removed / 100 for removed in (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)]
LEAST_SHARE = 1e-5  # of weights, for each decade: bottom of the histograms

SIDES: tuple[Look, Look] = (
    {"color": "#0072B2", "marker": "o", "label": "soft diamonds"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s", "label": "all others"},
)
LINES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
RECORDS_STYLE = {"text.parse_math": False, "axes.titlelocation": "left", "lines.markersize": 4.0}


def comparison(summary: Summary, records: Iterable[Record], out: Path) -> list[Path]:
    """Draw the pictures of a comparison into a folder; return the files, ``NAME.png`` and ``NAME.svg`` of each."""
    with drawing(RECORDS_STYLE) as new_figure:
        pictures = _pictures(summary, records)
        return [file for each in pictures for file in save(_sheet(new_figure, each), out, each.name)]


class Inline(NamedTuple):
    """A picture for a page: panels and what they show in words, the width of each, labels and samples of the legend."""

    name: str
    title: str
    panels: list[tuple[str, str]]  # SVG file as text, words
    inches: float
    legend: list[tuple[str, str]]  # label, SVG file as text


def inline(summary: Summary, records: Iterable[Record]) -> list[Inline]:
    """Return the pictures that `comparison` draws, panel by panel, with their words as text and no background."""
    shown = []
    with drawing(RECORDS_STYLE | PAGE_STYLE) as new_figure:
        for picture in _pictures(summary, records):
            drawn = [(each := new_figure(figsize=panel.size), panel.on(each.subplots())) for panel in picture.panels]
            panels = [(svg(figure), _words(axes)) for figure, axes in drawn]
            legend = [(look["label"], svg(_sample(new_figure, look))) for look in picture.looks]
            shown.append(Inline(picture.name, picture.title, panels, picture.panels[0].size[0], legend))
    return shown


# ---- the pictures of a comparison -------------------------------------------------------------------------------------


class _Panel(NamedTuple):
    title: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (4.4, 3.3)

    def on(self, axes: Axes) -> Axes:
        self.draw(axes)
        axes.set_title(self.title)
        return axes


class _Picture(NamedTuple):
    name: str
    title: str
    panels: Sequence[_Panel]
    looks: Sequence[Look] = ()  # of the legend


class _Source(NamedTuple):
    """A comparison as the pictures read it."""

    summary: Summary
    known: Mapping[Run, Record]
    looks: Mapping[str, Look]

    def rows(self, treatment: str, way: str = "once", share: float = 0.0) -> list[Row]:
        """Rows of a place with a final run that finished."""
        return [row for row in self.summary.at(treatment, way, share) if row.values]

    def finals(self, row: Row) -> list[Record]:
        """Records of a row's final runs that finished."""
        return [self.known[plan.final_run(row.objective, row.choice, seed)] for seed in sorted(row.values)]

    def facets(self, draw: Callable[..., None], *rest: str, **more: Any) -> list[_Panel]:
        """Return a panel for each treatment that has final runs with all weights kept."""
        places = {self.titled(each.name, *rest): self.rows(each.name) for each in self.summary.card.treatments}
        return [_Panel(title, partial(draw, self, rows), **more) for title, rows in places.items() if rows]

    def titled(self, treatment: str, *rest: str) -> str:
        """Return a panel's title: the treatment, if there are several, and the rest."""
        return ": ".join([*[treatment] * (len(self.summary.card.treatments) > 1), *rest])


def _pictures(summary: Summary, records: Iterable[Record]) -> list[_Picture]:
    source = _Source(summary, plan.by_run(records), _looks(summary.card.methods))
    named, legend = (4.8, 0.8 + 0.5 * len(source.looks)), list(source.looks.values())
    pictures = [
        _Picture("accuracy", "Test accuracy by method", source.facets(_draw_accuracies, size=named)),
        _Picture("removal", "Accuracy after removal", source.facets(_draw_removal), legend),
        _Picture("front", "Accuracy against sparsity", _front(source), legend),
        _Picture("tuning", "The choice of strength", _tuning(source), legend),
        _Picture("learning", "Learning curves", source.facets(_draw_learning), legend),
        _Picture("weights", "The weights after training", _weights(source)),
        _Picture("sets", "The constraint sets of the penalties used", _sets(source)),
    ]
    return [picture for picture in pictures if picture.panels]


def _draw_accuracies(source: _Source, rows: Sequence[Row], axes: Axes) -> None:
    names = []
    for place, row in enumerate(rows):
        look, values = source.looks[row.method], 100 * np.array(row.column("test"))
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        scatter = 0.15 * np.linspace(-1, 1, len(values)) * (len(values) > 1)
        axes.plot(values, place + scatter, "o", color=look["color"], mfc="none", markersize=5)
        axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=look["color"], linewidth=2.4)
        names.append(f"{textwrap.fill(look['label'], 26)}\n{values.mean():.1f}{spread}")
    axes.set(xlabel="test accuracy, %", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=names)
    axes.locator_params(axis="x", nbins=6)


def _draw_removal(source: _Source, rows: Sequence[Row], axes: Axes) -> None:
    for row in rows:
        curves = [record["curves"]["global"] for record in source.finals(row)]
        accuracies = zip(*(curve["test"] for curve in curves), strict=True)
        _band(axes, dict(zip(curves[0]["removed"], accuracies, strict=True)), source.looks[row.method])
    _removed_axis(axes, source.summary.card.removal.units)


def _band(axes: Axes, accuracies: Mapping[float, Sequence[float]], look: Look) -> None:
    """Draw mean ± standard deviation (n - 1) of the accuracies at each removed share."""
    mean = np.array([100 * np.mean(each) for each in accuracies.values()])
    spread = np.array([100 * np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in accuracies.values()])
    kept = [1.0 - share for share in accuracies]
    axes.plot(kept, mean, **look)
    axes.fill_between(kept, mean - spread, mean + spread, color=look["color"], alpha=0.12, linewidth=0)


def _removed_axis(axes: Axes, units: str) -> None:
    kept = [float(x) for line in axes.lines for x in np.asarray(line.get_xdata())]
    most, least = 1.08 * max(kept), 0.92 * min(kept)
    axes.set_xlim(most, least)  # before the log scale: one share alone has no range
    axes.set(xscale="log", xlabel=f"{units} removed, % (kept share on a log axis)", ylabel="test accuracy, %")
    axes.set_xticks([tick for tick in KEPT_TICKS if least <= tick <= most])
    axes.xaxis.set_major_formatter(lambda tick, _: f"{100 * (1 - tick):.3g}")
    axes.set_xticks([], minor=True)


def _front(source: _Source) -> list[_Panel]:
    panels, units = [], source.summary.card.removal.units
    for treatment in [each.name for each in source.summary.card.treatments if any(source.summary.card.removal.shares)]:
        rows = [row for row in source.summary.rows if row.values and row.objective.treatment == treatment]
        for way in dict.fromkeys(row.objective.way for row in rows if row.objective.share > 0):
            of = {method: [r for r in rows if (r.method, r.objective.way) == (method, way)] for method in source.looks}
            sides = [(source.looks[method], own) for method, own in of.items()]
            panels.append(_Panel(source.titled(treatment, way), partial(_draw_front, sides, units)))
        pairs = [source.summary.best(treatment, share) for share in source.summary.card.removal.shares]
        sides = [(look, [r for pair in pairs if (r := pair[n])]) for n, look in enumerate(SIDES)]
        if rows:
            best = partial(_draw_front, sides, units, legend=True)
            panels.append(_Panel(source.titled(treatment, "best in tuning"), best))
    return panels


def _draw_front(sides: Sequence[tuple[Look, Sequence[Row]]], units: str, axes: Axes, legend: bool = False) -> None:
    for look, rows in sides:
        _band(axes, dict(sorted({row.objective.share: row.column("test") for row in rows}.items())), look)
    _removed_axis(axes, units)
    if legend:
        axes.legend(loc="lower left")


def _tuning(source: _Source) -> list[_Panel]:
    removal = source.summary.card.removal
    panels = source.facets(_draw_strengths, *["all weights kept"] * ("gradual" in removal.ways))
    for treatment in dict.fromkeys(name for name, way, _ in source.summary.places() if way == "gradual"):
        shares = [share for name, way, share in source.summary.places() if (name, way) == (treatment, "gradual")]
        tuned, share = min(product(sorted(removal.gradual_tuned_at), shares), key=lambda pair: abs(pair[0] - pair[1]))
        draw = partial(_draw_strengths, source, source.rows(treatment, "gradual", share), share=tuned)
        panels.append(_Panel(source.titled(treatment, f"{100 * tuned:g} % removed gradually"), draw))
    return panels


def _draw_strengths(source: _Source, rows: Sequence[Row], axes: Axes, share: float = 0.0) -> None:
    strengths: set[float] = set()
    for row in rows:
        look, means = source.looks[row.method], _trials(source, row, share)
        good = {strength: mean for strength, mean in means.items() if not math.isnan(mean)}
        if set(means) == {0.0}:
            axes.axhline(means[0.0], **look | {"marker": ""})
            continue
        strengths |= set(means)
        axes.plot(list(good), list(good.values()), **look)
        if (chosen := row.choice.strength) in good:
            axes.plot([chosen], [good[chosen]], "*", color=look["color"], ms=15, mec="#ffffff", mew=0.8, zorder=5)
        if lost := sorted(means.keys() - good.keys()):
            axes.plot(lost, [0.03] * len(lost), "x", color=look["color"], ms=7, transform=axes.get_xaxis_transform())
    axes.set(xscale="log", xlabel="strength", ylabel="validation accuracy, %")
    axes.xaxis.set_major_formatter("{x:.3g}")
    if 0 < len(strengths) <= 9:
        axes.set_xticks(sorted(strengths), [f"{strength:.3g}" for strength in sorted(strengths)])
        axes.tick_params(axis="x", labelrotation=30 if len(strengths) > 6 else 0)
    axes.set_xticks([], minor=True)


def _trials(source: _Source, row: Row, share: float) -> dict[float, float]:
    """Mean validation accuracy in per cent by strength, at the chosen rate; NaN where a trial diverged."""
    kind = ("gradual", share, row.choice.division) if share else ("plain", 0.0, "")
    values: dict[float, list[float]] = {}
    for run, record in source.known.items():
        place = (run.phase, run.treatment, run.method, run.rate, run.kind, run.share, run.division)
        if place == ("tune", row.objective.treatment, row.method, row.choice.rate, *kind):
            accuracy = math.nan if record["status"] == "diverged" else 100 * record["validation_accuracy"]
            values.setdefault(run.strength, []).append(accuracy)
    return {strength: float(np.mean(values[strength])) for strength in sorted(values)}


def _draw_learning(source: _Source, rows: Sequence[Row], axes: Axes) -> None:
    for row in rows:
        losses = np.mean([record["losses"] for record in source.finals(row)], axis=0)
        axes.plot(np.arange(1, len(losses) + 1), losses, markevery=max(1, len(losses) // 8), **source.looks[row.method])
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    axes.set(xlabel="epoch", ylabel="training loss, nats")
    axes.locator_params(axis="x", integer=True)
    if 0 < 20 * values.min() < values.max():
        axes.set(yscale="log", ylabel="training loss, nats (log axis)")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_yticks([], minor=True)


def _weights(source: _Source) -> list[_Panel]:
    """Return a panel for each method under the first treatment."""
    rows = next(filter(None, (source.rows(each.name) for each in source.summary.card.treatments)), [])
    draws = {row.method: partial(_draw_weights, source.finals(row), source.looks[row.method]["color"]) for row in rows}
    return [_Panel(source.titled(rows[0].objective.treatment, name), draw, (3.3, 2.6)) for name, draw in draws.items()]


def _draw_weights(records: Sequence[Record], color: Any, axes: Axes) -> None:
    distributions, words = [record["weights"] for record in records], "no stable law fits"
    edges = np.array(distributions[0].get("edges", plan.HISTOGRAM_EDGES))
    zero = 100 * np.mean([each["zero"] / each["count"] for each in distributions])
    heights = np.mean([np.array(each["log10"]) / each["count"] for each in distributions], axis=0) / np.diff(edges)
    axes.stairs(np.maximum(heights, LEAST_SHARE), edges, baseline=LEAST_SHARE, fill=True, color=color, alpha=0.35)
    if laws := [(each["law"]["alpha"], each["law"]["scale"]) for each in distributions if each["law"]]:
        alpha, scale = np.mean(laws, axis=0)
        alpha = min(max(float(alpha), 0.1), 2.0)  # a mean of the fit's own bounds can round beyond them
        log_w = np.linspace(edges[0], edges[-1], 300)
        density = stable.pdf(10**log_w, alpha, scale=scale) * 2 * 10**log_w * math.log(10)
        axes.plot(log_w, np.maximum(density, LEAST_SHARE / 10), color=color)
        words = f"α = {alpha:.2f}{' or less' * (alpha <= 0.1)}, scale = {scale:.2g}"
    axes.text(0.03, 0.97, f"{words}\nexactly 0: {zero:.3g} %", transform=axes.transAxes, va="top", linespacing=1.4)
    axes.set(yscale="log", ylim=(LEAST_SHARE, 50), xlim=(-8.2, 1.2), xlabel="log₁₀ |w|", ylabel="share per decade")
    axes.set_yticks([1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"])
    axes.set_yticks([], minor=True)


def _sets(source: _Source) -> list[_Panel]:
    panels: dict[str, _Panel] = {}
    for method in [each for each in source.summary.card.methods if each.penalty != "none" and each.group is None]:
        name, alpha, scale = method.penalty, method.alpha, method.relative_scale or 1.0
        penalty = {"L2": np.square, "L1": np.abs}.get(name) or partial(sas_penalty, alpha=alpha or 2.0, scale=scale)
        title = name if alpha is None else f"soft diamond, α = {alpha:g}\nscale = {scale:g} rms"
        draw = partial(draw_constraint_set, penalty, source.looks[method.label]["color"])
        panels.setdefault(title, _Panel(title, draw, (2.2, 2.5)))
    return list(panels.values())


# ---- looks, drawing, files --------------------------------------------------------------------------------------------


def _looks(methods: Iterable[Method]) -> dict[str, Look]:
    """Colour by penalty and alpha, line by how many have that colour before, marker by method."""
    from matplotlib.colors import to_hex

    looks: dict[str, Look] = {}
    for method, marker in zip(methods, cycle("osD^vPX<>p"), strict=False):
        color, line = BASELINES.get(method.penalty, ("", "-"))
        color = to_hex(alpha_color(method.alpha) if method.alpha is not None else color)
        if before := sum(look["color"] == color for look in looks.values()):
            line = [each for each in LINES if each != line][(before - 1) % 3]
        looks[method.label] = {"color": color, "linestyle": line, "marker": marker, "label": method.label.strip("_ ")}
    return looks


def _sheet(new_figure: NewFigure, picture: _Picture) -> Figure:
    """Return all panels of a picture on one sheet, with the legend below."""
    width, height = np.max([panel.size for panel in picture.panels], axis=0)
    columns = min(int(13.5 / width), len(picture.panels))
    lines, below = math.ceil(len(picture.panels) / columns), math.ceil(len(picture.looks) / 4)
    figure = new_figure(figsize=(max(width * columns, 6.0), height * lines + 0.4 + 0.25 * below))
    for number, panel in enumerate(picture.panels, start=1):
        panel.on(figure.add_subplot(lines, columns, number))
    figure.suptitle(picture.title, fontsize=11)
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    if handles := [drawn[look["label"]] for look in picture.looks if look["label"] in drawn]:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), handlelength=3)
    return figure


def _sample(new_figure: NewFigure, look: Look) -> Figure:
    figure = new_figure(figsize=(0.5, 0.15), layout=None)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=(), yticks=(), xlim=(0, 2))
    axes.plot([0, 0, 0], markevery=(1, 2), **look)
    return figure


def _words(axes: Axes) -> str:
    """Say what a panel shows: title, axes, where its lines begin and end, and what is written on it."""
    parts = [axes.get_title(loc="left"), " against ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))]
    for line in [line for line in axes.lines if not str(line.get_label()).startswith("_")]:
        if len(y := np.asarray(line.get_ydata(), dtype=float)):
            parts.append(f"{line.get_label()} from {y[0]:.3g} to {y[-1]:.3g}")
    parts += [] if axes.get_ylabel() else [label.get_text() for label in axes.get_yticklabels()]
    return "; ".join(part.replace("\n", " ") for part in [*parts, *(text.get_text() for text in axes.texts)] if part)
