"""The stable laws: densities, penalties, scores, omega."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softdiamond import stable
from softdiamond.plotting._constraint_sets import draw_sets, sas_penalty
from softdiamond.plotting._style import NewFigure, alpha_color, drawing, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAWS = {0.5: "", 1.0: " (Cauchy)", 1.5: "", 2.0: " (Gaussian)"}


def laws(out: Path) -> list[Path]:
    """Draw ``laws`` (the stable laws) and ``constraint_sets`` (the sets that they make); return the four files.

    Parameters
    ----------
    out : Path
        Folder for the files, created where it is missing.
    """
    with drawing() as new_figure:
        return [*save(draw_laws(new_figure), out, "laws"), *save(draw_sets(new_figure), out, "constraint_sets")]


def draw_laws(new_figure: NewFigure) -> Figure:
    """Draw density, penalty, score and omega at unit scale."""
    figure = new_figure(figsize=(9.6, 7.6))
    ((densities, penalties), (scores, omegas)) = figure.subplots(2, 2)
    near_zero = penalties.inset_axes((0.35, 0.57, 0.3, 0.36))
    w, w_near, w_log = np.linspace(-8.0, 8.0, 1601), np.linspace(-0.3, 0.3, 301), np.geomspace(1e-3, 1e3, 601)
    w_asinh = 0.01 * np.sinh(np.linspace(-1.0, 1.0, 1601) * math.asinh(100 / 0.01))
    for alpha, name in LAWS.items():
        look: dict[str, Any] = {"color": alpha_color(alpha), "label": rf"$\alpha$ = {alpha:g}{name}"}
        densities.semilogy(w, stable.pdf(w, alpha), **look)
        penalties.plot(w, sas_penalty(w, alpha), **look)
        near_zero.plot(w_near, sas_penalty(w_near, alpha), **look)
        scores.plot(w_asinh, stable.score(w_asinh, alpha), **look)
        omegas.loglog(w_log, stable.omega(w_log, alpha), **look)
    densities.set(title="a   Density: sharp peak, thick tails", xlim=(-8, 8), ylim=(1e-4, 1))
    densities.set_ylabel(r"density $\times$ scale  $f(w/c)$")
    densities.legend(loc="lower center", handlelength=1.4)
    penalties.set(title="b   Penalty: a soft corner, then a logarithm", xlim=(-8, 8), ylim=(0, 10))
    penalties.set_ylabel(r"$R(w) = \log f(0) - \log f(w/c)$")
    near_zero.set(title="near zero", xlim=(-0.3, 0.3), ylim=(0, 1), xticks=(-0.3, 0, 0.3), yticks=(0, 0.5, 1))
    scores.set(title=r"c   Score: the score of a large weight fades if $\alpha < 2$", xlim=(-100, 100), ylim=(-10, 10))
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
