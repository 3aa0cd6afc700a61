"""The style of every figure, its colours and files, and where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softdiamond._extras import install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NewFigure = Callable[..., "Figure"]

STYLE: dict[str, Any] = {"font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8.5, "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "lines.linewidth": 1.7}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "svg.hashsalt": "softdiamond"}

PAGE_STYLE = {"svg.fonttype": "none", "font.size": 10, "axes.titlesize": 11, "xtick.labelsize": 9, "ytick.labelsize": 9}

BASELINES = {
    "none": ("#6b6b6b", ":"),
    "L2": ("#D55E00", "--"),
    "L1": ("#E69F00", "-."),
}  # colours of Okabe and Ito, lines


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


def alpha_color(alpha: float) -> Any:
    """Viridis from dark (thick tails) to green (Gaussian), without its pale end."""
    from matplotlib import colormaps

    return colormaps["viridis"](min(max(0.47 * (alpha - 0.4), 0.0), 0.76))


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg`` into a folder, created where it is missing; return the two files."""
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=200)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [out / f"{name}.png", out / f"{name}.svg"]


def svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file without a background."""
    figure.savefig(text := StringIO(), format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
