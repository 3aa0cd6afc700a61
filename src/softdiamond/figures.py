"""Pictures: the stable laws, their constraint sets, and a comparison of regularizers read from its records.

Each is written as ``NAME.png`` and ``NAME.svg``, the same bytes for the same input and version of matplotlib.
matplotlib (the extra ``plot``) is imported when a figure is drawn; the caller's settings are neither used nor changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softdiamond import stable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison", "constraint_curve", "laws"]

Array = NDArray[np.float64]
Record = Mapping[str, Any]
Method = tuple[str, float | None]  # name and alpha
Look = dict[str, Any]  # keyword arguments of a line: color, linestyle, label
NewFigure = Callable[..., "Figure"]

LAWS = {0.5: "", 1.0: " (Cauchy)", 1.5: "", 2.0: " (Gaussian)"}
FALLING_ALPHA = [(alpha, 0.5) for alpha in (2.0, 1.5, 1.0, 0.8, 0.5)]  # (alpha, dispersion): from circle to star
FALLING_DISPERSION = [(1.0, dispersion) for dispersion in (3.0, 1.0, 0.3, 0.1, 0.01)]
KEPT_TICKS = {1 - removed / 100: f"{removed:g}" for removed in (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)}
RECORD_KEYS = ("comparison", "method", "alpha", "strength", "seed", "phase", "status")
_method: Callable[[Record], Method] = itemgetter("method", "alpha")

RIVALS = {"none": ("#6b6b6b", ":"), "l2": ("#D55E00", "--"), "l1": ("#E69F00", "-.")}  # colours of Okabe and Ito
OTHERS = (("#CC79A7", (0, (6, 1))), ("#56B4E9", (0, (3, 1, 1, 1))), ("#000000", (0, (1, 1))))
STYLE: dict[str, Any] = {"font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8.5, "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "lines.linewidth": 1.7}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "svg.hashsalt": "softdiamond"}


def laws(out: Path) -> list[Path]:
    """Draw ``laws`` (the stable laws) and ``constraint_sets`` (the sets that they make); return the four files.

    Parameters
    ----------
    out : Path
        Folder for the files, created where it is missing.
    """
    with _drawing() as new_figure:
        return [*_save(_draw_laws(new_figure), out, "laws"), *_save(_draw_sets(new_figure), out, "constraint_sets")]


def comparison(records: Sequence[Record], out: Path) -> list[Path]:
    """Draw one comparison of regularizers: accuracy against removed share, accuracy, and the choice of strength.

    Diverged runs are left out and counted in the caption. Means and standard deviations (n - 1) run over seeds.
    Returns the two files, ``comparison.png`` and ``comparison.svg``.

    Parameters
    ----------
    records : sequence of mappings
        The records of one comparison, one a run, in any order; accuracies and shares between 0 and 1.
    out : Path
        Folder for the files, created where it is missing.

    Raises
    ------
    ValueError
        If the records are of several comparisons, lack a key, or hold no final run that finished.
    """
    finished, diverged = _sort_out(records)
    with _drawing() as new_figure:
        return _save(_draw_comparison(new_figure, finished, diverged), out, "comparison")


def constraint_curve(penalty: Callable[[Array], Array], points: int = 128) -> Array:
    """Boundary of ``{w in R^2 : R(w1) + R(w2) <= R(1)}``, a closed curve that meets the axes at 1.

    On each ray ``w = t (cos th, sin th)`` the sum rises with ``t``; bisection finds ``t`` to the last bits. It lies in
    [0, 1] because ``R`` is concave in ``w^2`` (omega does not increase), so that no such set leaves the unit circle.

    Parameters
    ----------
    penalty : callable
        ``R``: even and vectorised, ``R(0) = 0``, rising on [0, 1] and concave in ``w^2``.
    points : int
        Rays in each eighth of the plane. They crowd at the axes, where a star has its thin arms.

    Returns
    -------
    ndarray, shape (8 * points + 1, 2), float64
        The curve counter-clockwise from (1, 0) back to (1, 0).

    Examples
    --------
    >>> diamond = constraint_curve(np.abs, points=4)
    >>> diamond.shape, bool(np.allclose(np.abs(diamond).sum(axis=1), 1.0, rtol=1e-12))
    ((33, 2), True)
    """
    angle = np.concatenate([[0.0], np.geomspace(1e-4, np.pi / 4, points)])
    low, high = np.zeros(points + 1), np.ones(points + 1)
    for _ in range(60):
        middle = (low + high) / 2
        inside = penalty(middle * np.cos(angle)) + penalty(middle * np.sin(angle)) < penalty(np.ones(1))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    eighth = high * np.exp(1j * angle)
    quarter = np.concatenate([eighth[:-1], 1j * eighth[:0:-1].conj()])  # mirrored at the diagonal
    curve = np.concatenate([quarter, 1j * quarter, -quarter, -1j * quarter, quarter[:1]])
    return np.stack([curve.real, curve.imag], axis=1)


def _penalty(w: Array, alpha: float, scale: float = 1.0) -> Array:
    """``R(w) = log f(0) - log f(w/c)``."""
    return np.asarray(stable.logpdf(0.0, alpha, scale=scale) - stable.logpdf(w, alpha, scale=scale))


def _draw_laws(new_figure: NewFigure) -> Figure:
    figure = new_figure(figsize=(9.6, 7.6))
    ((densities, penalties), (scores, omegas)) = figure.subplots(2, 2)
    near_zero = penalties.inset_axes((0.35, 0.57, 0.3, 0.36))
    w, w_near, w_log = np.linspace(-8.0, 8.0, 1601), np.linspace(-0.3, 0.3, 301), np.geomspace(1e-3, 1e3, 601)
    w_asinh = 0.01 * np.sinh(np.linspace(-1.0, 1.0, 1601) * math.asinh(100 / 0.01))
    for alpha, name in LAWS.items():
        look: Look = {"color": _alpha_color(alpha), "label": rf"$\alpha$ = {alpha:g}{name}"}
        densities.semilogy(w, stable.pdf(w, alpha), **look)
        penalties.plot(w, _penalty(w, alpha), **look)
        near_zero.plot(w_near, _penalty(w_near, alpha), **look)
        scores.plot(w_asinh, stable.score(w_asinh, alpha), **look)
        omegas.loglog(w_log, stable.omega(w_log, alpha), **look)
    densities.set(title="a   Density: sharp peak, thick tails", xlim=(-8, 8), ylim=(1e-4, 1))
    densities.set_ylabel(r"density $\times$ scale  $f(w/c)$")
    densities.legend(loc="lower center", handlelength=1.4)
    penalties.set(title="b   Penalty: a soft corner, then a logarithm", xlim=(-8, 8), ylim=(0, 10))
    penalties.set_ylabel(r"$R(w) = \log f(0) - \log f(w/c)$")
    near_zero.set(title="near zero", xlim=(-0.3, 0.3), ylim=(0, 1), xticks=(-0.3, 0, 0.3), yticks=(0, 0.5, 1))
    scores.set(title=r"c   Score: the pull on a large weight fades if $\alpha < 2$", xlim=(-100, 100), ylim=(-10, 10))
    scores.set_ylabel(r"score $\times$ scale  (asinh axes)")
    scores.set_xscale("asinh", linear_width=0.01)
    scores.set_yscale("asinh", linear_width=0.1)
    decades = (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100)
    scores.set_xticks(decades, [f"${tick:g}$" for tick in decades])
    scores.set_yticks(decades[1:-1], [f"${tick:g}$" for tick in decades[1:-1]])
    omegas.set(title=r"d   Adaptive decay: $\omega(w) = R'(w)/w$", ylabel=r"$\omega\, \times$ scale$^2$")
    omegas.set(xlim=(1e-3, 1e3), ylim=(1e-6, 1e3))
    omegas.text(1.3e-3, 160, r"$\Gamma(3/\alpha)\,/\,\Gamma(1/\alpha)$ at zero")
    omegas.text(5, 0.75, "$(\\alpha+1)\\,(c/w)^2$ in the tail,\n1/2 throughout at $\\alpha = 2$")
    for axes in (densities, penalties, scores, omegas):
        axes.set_xlabel("weight $w$ / scale $c$")
    return figure


def _draw_sets(new_figure: NewFigure) -> Figure:
    figure = new_figure(figsize=(12.6, 5.0))
    panels = figure.subplots(2, 6, sharex=True, sharey=True)
    sets: list[Any] = [(panels[0, 0], np.square, "L2 (ridge): circle", RIVALS["l2"][0])]
    sets += [(panels[1, 0], np.abs, "L1 (lasso): diamond", RIVALS["l1"][0])]
    for axes, (alpha, dispersion) in zip(panels[:, 1:].flat, FALLING_ALPHA + FALLING_DISPERSION, strict=True):
        penalty = partial(_penalty, alpha=alpha, scale=dispersion ** (1.0 / alpha))
        sets.append((axes, penalty, rf"$\alpha$ = {alpha:g},  $\gamma$ = {dispersion:g}", _alpha_color(alpha)))
    for axes, penalty, title, color in sets:
        curve = constraint_curve(penalty)
        axes.fill(*curve.T, color=color, alpha=0.22, linewidth=0)
        axes.plot(*constraint_curve(np.abs).T, color="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(*curve.T, color=color)
        axes.set(title=title, aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    panels[0, 0].set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), ylabel="falling $\\alpha$\nweight $w_2$")
    panels[1, 0].set_ylabel("falling dispersion $\\gamma$\nweight $w_2$")
    figure.supxlabel("weight $w_1$", fontsize=9)
    figure.suptitle(r"Constraint sets $R(w_1) + R(w_2) \leq R(1)$, which meet the axes at 1; dashed: L1", fontsize=10.5)
    return figure


def _sort_out(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Check the records; return those of finished and those of diverged runs."""
    for number, record in enumerate(records):
        if missing := [key for key in RECORD_KEYS if key not in record]:
            raise ValueError(f"record {number} lacks {', '.join(missing)}")
    if len(names := sorted({str(record["comparison"]) for record in records})) > 1:
        raise ValueError(f"records of several comparisons ({', '.join(names)}): pass those of one")
    diverged = [record for record in records if record["status"] == "diverged"]
    finished = [record for record in records if record["status"] != "diverged"]
    if not any(record["phase"] == "final" for record in finished):
        raise ValueError(f"{len(records)} records ({len(diverged)} diverged) hold no finished final run to compare")
    for record in finished:
        key = "test_accuracy" if record["phase"] == "final" else "validation_accuracy"
        if (accuracy := record.get(key)) is None or not 0.0 <= accuracy <= 1.0:
            raise ValueError(f"{key} of a {record['phase']} run of {record['method']} is {accuracy}: must be in [0, 1]")
    return finished, diverged


def _draw_comparison(new_figure: NewFigure, finished: list[Record], diverged: list[Record]) -> Figure:
    figure = new_figure(figsize=(12.6, 4.6))
    by_share, by_method, by_strength = figure.subplots(1, 3, width_ratios=(1.2, 0.9, 1.1))
    finals = [record for record in finished if record["phase"] == "final"]
    looks = _looks({_method(record) for record in finished})
    for method, look in looks.items():
        own = [record for record in finals if _method(record) == method]
        _draw_removal(by_share, [curve for record in own if (curve := record.get("pruning_curve"))], look)
        _draw_strengths(by_strength, [record for record in finished if _method(record) == method], look)
    _draw_accuracies(by_method, finals, looks)
    smallest_kept = min([kept for line in by_share.lines for kept in line.get_xdata()], default=0.01)
    by_share.set(title="a   After removal by magnitude", ylabel="test accuracy, %", xscale="log")
    by_share.set_xticks(list(KEPT_TICKS), list(KEPT_TICKS.values()))
    by_share.set_xticks([], minor=True)
    by_share.set(xlim=(1.1, 0.9 * smallest_kept), xlabel="share of weights removed, %  (kept share on a log axis)")
    by_strength.set(title="c   Tuning", xlabel="strength (equivalent weight decay)", ylabel="validation accuracy, %")
    if 0 < len(tried := sorted({run["strength"] for run in finished if run["strength"]})) <= 8:
        by_strength.set_xticks(tried, [f"{strength:g}" for strength in tried])
        by_strength.set_xticks([], minor=True)
    by_strength.plot([], [], "*", color="#333333", markersize=10, label="chosen strength")
    figure.legend(*by_strength.get_legend_handles_labels(), loc="outside upper center", ncols=7, handlelength=2.4)
    counts = f"final runs: {len(finals)}; seeds: {len({run['seed'] for run in finals})}; diverged and left out: "
    caption = f"{finals[0]['comparison']}; {counts}{len(diverged)}. Bands and ± are one standard deviation over seeds."
    figure.supxlabel(caption, fontsize=8.5)
    return figure


def _draw_removal(axes: Axes, curves: list[Mapping[str, list[float]]], look: Look) -> None:
    tests: dict[float, list[float]] = {}
    for removed, test in [pair for curve in curves for pair in zip(curve["removed"], curve["test"], strict=True)]:
        if removed < 1.0:  # all removed has no place on a logarithmic axis
            tests.setdefault(1.0 - removed, []).append(100 * test)
    if kept := sorted(tests):
        mean, spread = np.array([_mean_and_spread(tests[share]) for share in kept]).T
        axes.plot(kept, mean, marker="o", markersize=3, **look)
        axes.fill_between(kept, mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)


def _draw_accuracies(axes: Axes, finals: list[Record], looks: Mapping[Method, Look]) -> None:
    rows: list[str] = []
    for method, look in looks.items():
        if accuracies := [100 * record["test_accuracy"] for record in finals if _method(record) == method]:
            row, n, (mean, spread) = len(rows), len(accuracies), _mean_and_spread(accuracies)
            axes.plot(accuracies, row + 0.15 * np.linspace(-1, 1, n) * (n > 1), "o", color=look["color"], mfc="none")
            axes.plot([mean, mean], [row - 0.3, row + 0.3], color=look["color"], linewidth=2.4)
            rows.append(f"{look['label']}\n{mean:.2f}" + (f" ± {spread:.2f}" if n > 1 else ""))
    axes.set(title="b   All weights kept: seeds and mean", xlabel="test accuracy, %", ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), rows)


def _draw_strengths(axes: Axes, runs: list[Record], look: Look) -> None:
    tried: dict[float, list[float]] = {}
    runs = [run for run in runs if run.get("validation_accuracy") is not None]
    for run in [run for run in runs if run["phase"] == "tune"] or runs:  # without tuning: validation of the final runs
        tried.setdefault(run["strength"] or 0.0, []).append(100 * run["validation_accuracy"])
    means = {strength: float(np.mean(tried[strength])) for strength in sorted(tried)}
    if positive := [strength for strength in means if strength > 0]:
        axes.semilogx(positive, [means[strength] for strength in positive], marker="o", markersize=3, **look)
    else:  # a method without a strength
        axes.axhline(means.get(0.0, math.nan), **look)
    chosen = sorted({run["strength"] for run in runs if run["phase"] == "final"} & set(positive))
    axes.plot(chosen, [means[s] for s in chosen], "*", color=look["color"], markersize=13, markeredgecolor="white")


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1); a single value has spread 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _looks(methods: set[Method]) -> dict[Method, Look]:
    """Colour, line and label of each method: the rivals first, then soft diamonds with rising alpha."""
    looks: dict[Method, Look] = {}
    for name, alpha in sorted(methods, key=lambda m: (m[1] or 0.0, [*RIVALS, m[0].lower()].index(m[0].lower()), m[0])):
        color, line = RIVALS.get(name.lower(), OTHERS[len(looks) % len(OTHERS)])
        label = name.replace("_", " ") + (rf", $\alpha$ = {alpha:g}" if alpha and f"{alpha:g}" not in name else "")
        if alpha is not None:
            color, line = _alpha_color(alpha), "-" if alpha not in [a for _, a in looks] else line
        looks[name, alpha] = {"color": color, "linestyle": line, "label": label}
    return looks


def _alpha_color(alpha: float) -> Any:
    """Viridis from dark (thick tails) to green (Gaussian), without its pale end."""
    from matplotlib import colormaps

    return colormaps["viridis"](min(max(0.47 * (alpha - 0.4), 0.0), 0.76))


@contextmanager
def _drawing() -> Iterator[NewFigure]:
    """Lend a maker of figures under the module's own style; the caller's settings come back at the end."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "softdiamond[plot]"') from error
    with style.context(["default", STYLE]):
        yield partial(Figure, layout="constrained")


def _save(figure: Figure, out: Path, name: str) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=200)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [out / f"{name}.png", out / f"{name}.svg"]
