"""Pictures of the stable laws, their constraint sets, and paths over strengths; no torch.

- `laws`: densities, penalties, scores, omega and constraint sets, as files (the command ``softdiamond laws``).
- `constraint_curve`, `draw_constraint_set`, `sas_penalty`: the boundary of a penalty's constraint set.
- `plot_path`: the coefficients of a linear model along a path; `column_path`: the columns that a network chooses.
- `drawing`, `save`, `svg`, `alpha_color`, `BASELINES`, `PAGE_STYLE`: the style that all pictures of this library share.

Each picture is the same bytes for the same input and version of matplotlib. matplotlib (the extra ``plot``) is imported when a
figure is drawn; the caller's settings are neither used nor changed.
"""

from softdiamond.plotting._constraint_sets import constraint_curve, draw_constraint_set, sas_penalty
from softdiamond.plotting._laws import laws
from softdiamond.plotting._paths import column_path, plot_path
from softdiamond.plotting._style import BASELINES, PAGE_STYLE, NewFigure, alpha_color, drawing, save, svg

__all__ = [
    "BASELINES",
    "PAGE_STYLE",
    "NewFigure",
    "alpha_color",
    "column_path",
    "constraint_curve",
    "draw_constraint_set",
    "drawing",
    "laws",
    "plot_path",
    "sas_penalty",
    "save",
    "svg",
]
