"""The style of every figure, and where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from softdiamond._extras import install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NewFigure = Callable[..., "Figure"]

STYLE: dict[str, Any] = {"font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8.5, "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "lines.linewidth": 1.7}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "svg.hashsalt": "softdiamond"}


@contextmanager
def drawing(more: Mapping[str, Any] | None = None) -> Iterator[NewFigure]:
    """Lend a maker of figures under the module's own style; the caller's settings come back at the end."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"figures need matplotlib: {install('plot')}") from error
    with style.context(["default", STYLE | dict(more or {})]):
        yield partial(Figure, layout="constrained")
