"""The constraint sets ``{w : R(w1) + R(w2) <= R(1)}`` that penalties make in the plane."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softdiamond import stable
from softdiamond.plotting._style import BASELINES, NewFigure, alpha_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

FALLING_ALPHA = [(alpha, 0.5) for alpha in (2.0, 1.5, 1.0, 0.8, 0.5)]  # (alpha, dispersion): from circle to star
FALLING_DISPERSION = [(1.0, dispersion) for dispersion in (3.0, 1.0, 0.3, 0.1, 0.01)]


def constraint_curve(penalty: Callable[[Array], Array], points: int = 128) -> Array:
    """Boundary of ``{w in R^2 : R(w1) + R(w2) <= R(1)}``, a closed curve that meets the axes at 1.

    On each ray ``w = t (cos th, sin th)`` the sum rises with ``t``; bisection finds ``t`` to the last bits. It lies in
    [0, 1] because ``R`` is concave in ``w^2`` (omega does not increase), so that no such set leaves the unit circle.

    Parameters
    ----------
    penalty : callable
        ``R``: even and vectorized, ``R(0) = 0``, rising on [0, 1] and concave in ``w^2``.
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


def sas_penalty(w: Array, alpha: float, scale: float = 1.0) -> Array:
    """Return ``R(w) = log f(0) - log f(w/c)``."""
    return np.asarray(stable.logpdf(0.0, alpha, scale=scale) - stable.logpdf(w, alpha, scale=scale))


def draw_constraint_set(penalty: Callable[[Array], Array], color: Any, axes: Axes) -> None:
    """Draw one set, beside that of L1, dashed."""
    curve = constraint_curve(penalty, points=48)
    axes.fill(*curve.T, color=color, alpha=0.22, linewidth=0)
    axes.plot(*constraint_curve(np.abs, points=1).T, color="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(*curve.T, color=color)
    axes.set(aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1), xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    axes.set(xlabel="weight w₁ / rms", ylabel="weight w₂ / rms")


def draw_sets(new_figure: NewFigure) -> Figure:
    """Draw the sets from circle to star, as alpha falls and as the dispersion falls."""
    figure = new_figure(figsize=(12.6, 5.0))
    panels = figure.subplots(2, 6, sharex=True, sharey=True)
    sets: list[Any] = [(panels[0, 0], np.square, "L2 (ridge): circle", BASELINES["L2"][0])]
    sets += [(panels[1, 0], np.abs, "L1 (lasso): diamond", BASELINES["L1"][0])]
    for axes, (alpha, dispersion) in zip(panels[:, 1:].flat, FALLING_ALPHA + FALLING_DISPERSION, strict=True):
        penalty = partial(sas_penalty, alpha=alpha, scale=dispersion ** (1.0 / alpha))
        sets.append((axes, penalty, rf"$\alpha$ = {alpha:g},  $\gamma$ = {dispersion:g}", alpha_color(alpha)))
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
