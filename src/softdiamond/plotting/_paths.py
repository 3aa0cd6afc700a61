"""Paths over strengths: of a linear model's coefficients, of the columns that a network chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softdiamond.plotting._style import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from softdiamond.sklearn import Path

NAMED = 12  # most lines that the legend names


def column_path(
    path: Mapping[str, NDArray[Any]], support: NDArray[np.bool_], names: Sequence[str], chosen: int
) -> Figure:
    """Draw the norm of each column of a table, and the validation error, against the strength.

    Parameters
    ----------
    path : mapping of str to ndarray
        ``strength`` and ``validation_error`` of shape (K,), ``norms`` of shape (K, columns).
    support : ndarray
        bool of shape (columns,): those that were chosen; they are coloured and, up to twelve of them, named.
    names : sequence of str
        Of the columns.
    chosen : int
        Which strength was taken.
    """
    strengths = path["strength"]
    with drawing({"text.parse_math": False}) as new_figure:
        figure = new_figure(figsize=(6.5, 5.5))
        norms, error = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for j in np.flatnonzero(~support).tolist():
            norms.plot(strengths, path["norms"][:, j], color="#b0b0b0", linewidth=0.6, zorder=1)
        few = support.sum() <= NAMED
        for j in np.flatnonzero(support).tolist():
            norms.plot(strengths, path["norms"][:, j], marker="o", markersize=3, label=str(names[j]) if few else None)
        error.plot(strengths, path["validation_error"], color="#0072B2", marker="o", markersize=3)
        for axes in (norms, error):
            axes.axvline(strengths[chosen], color="#6b6b6b", linestyle=":")
        if len(strengths) > 1 and strengths[0] > 0:
            error.set_xscale("log")
        norms.set_yscale("log" if (path["norms"][:, support] > 0).all() else "linear")
        norms.set(ylabel="norm of a column's weights", title=f"{support.sum()} of {len(support)} columns chosen")
        error.set(xlabel="strength", ylabel="validation error")
        if few and support.any():
            norms.legend(ncols=3)
    return figure


def plot_path(path: Path, model: Any = None, lasso: tuple[Any, ...] | None = None, names: Any = None) -> Figure:
    """Draw the coefficients along a path, the cross-validation curve with its standard errors, and the chosen strength.

    Parameters
    ----------
    path : Path
        What `softdiamond.sklearn.soft_diamond_path` returns for one target.
    model : SoftDiamondRegressorCV or SoftDiamondClassifierCV, optional
        Fitted: a second panel shows its errors for each tail, and a line the strength that it chose.
    lasso : tuple, optional
        What `sklearn.linear_model.lasso_path` returns for the same data: drawn beside.
    names : sequence of str, optional
        Of the columns; their numbers if left out.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``savefig``.

    Raises
    ------
    ImportError
        If matplotlib (the extra ``plot``) is missing.
    TypeError
        If it is no path.
    ValueError
        If the path holds several targets.
    """
    if not hasattr(path, "coefs"):
        raise TypeError(
            f"plot_path draws what soft_diamond_path returns, and a fitted model beside it; got {type(path).__name__}"
        )
    if np.ndim(path.coefs) != 2:
        raise ValueError(f"plot_path draws one target; got coefficients of shape {np.shape(path.coefs)}")
    panels = 1 + (lasso is not None) + (model is not None)
    with drawing({"text.parse_math": False}) as new_figure:
        figure = new_figure(figsize=(5.0 * panels, 4.2))
        first, *others = figure.subplots(1, panels, squeeze=False)[0]
        _coefficients(first, path.strengths, path.coefs, "soft diamond", "strength", names)
        if lasso is not None:
            second = others.pop(0)
            _coefficients(second, lasso[0], lasso[1], "lasso", "alpha", names)
            second.sharey(first)
        if model is not None:
            first.axvline(model.strength_, color="#6b6b6b", linestyle=":")
            _errors(others[0], model)
    return figure


def _coefficients(axes: Axes, strengths: NDArray[Any], coefs: NDArray[Any], title: str, label: str, names: Any) -> None:
    """Draw a line for each column that is ever large; those that never are stay grey and have no name."""
    largest = np.abs(coefs).max(axis=1)
    shown = np.argsort(-largest, kind="stable")[:NAMED]
    for j in np.setdiff1d(np.arange(len(coefs)), shown):
        if largest[j] > 0:
            axes.plot(strengths, coefs[j], color="#b0b0b0", linewidth=0.6, zorder=1)
    for j in sorted(shown[largest[shown] > 0]):
        axes.plot(strengths, coefs[j], label=str(j if names is None else names[j]))
    axes.set(xscale="log", xlabel=label, ylabel="coefficient", title=title)
    axes.invert_xaxis()
    if axes.lines:
        axes.legend(ncols=2, title="column")


def _errors(axes: Axes, model: Any) -> None:
    counted = model.cv_weights_ > 0
    folds, share = int(counted.sum()), model.cv_weights_[counted] / model.cv_weights_.sum()
    means = model.cv_errors_[..., counted] @ share
    for tail, strengths, mean, all_errors in zip(model.tails_, model.strengths_, means, model.cv_errors_, strict=True):
        spread = np.sqrt((all_errors[:, counted] - mean[:, None]) ** 2 @ share / max(folds - 1, 1))
        (line,) = axes.plot(strengths, mean, marker="o", markersize=3, label=f"tail {tail:g}")
        axes.fill_between(strengths, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    i = int(np.flatnonzero(model.tails_ == model.tail_)[0])
    k = int(np.flatnonzero(model.strengths_[i] == model.strength_)[0])
    axes.plot(model.strength_, means[i, k], "*", color="#000000", markersize=12, label="chosen", zorder=5)
    axes.set(
        xscale="log",
        xlabel="strength",
        ylabel=f"error on {folds} folds, ± one standard error",
        title="cross-validation",
    )
    axes.invert_xaxis()
    axes.legend()
