"""The gap threshold: the band of sizes that holds no coefficient, and exact zeros below it."""

from __future__ import annotations

import numpy as np

from softdiamond.sklearn._design import Array
from softdiamond.sklearn._penalty import Penalty

MIN_GAP_RATIO = 10.0  # an empty band of |b| from b to 10 b is a gap where no jump certifies one


def gap_threshold(penalty: Penalty, diagonal: Array, b: Array) -> tuple[Array, tuple[float, float] | None]:
    """Coefficients with exact zeros, shape (p, K), and the largest size cut and the least kept; None where nothing certifies it.

    At a minimum each b_j is what the scalar proximal map returns, and that map leaves out a band about the steepest fall of R'
    where its step is above the critical one: what lies below is cut. Where it does not jump in every column, the
    empty band of log|b| about that place, if it spans a factor of 10.
    """
    t, size = penalty.curve, np.abs(b)
    used = (diagonal > 0) & (penalty.lam > 0)
    if not used.any() or penalty.tail == 2:
        return b, None
    place = penalty.c * t.inflection
    if (penalty.lam[used] / (penalty.c**2 * diagonal[used])).min() * -t.least_curvature <= 1 + 1e-9:
        below = size[used & ~(size > place).any(axis=1)].max(initial=0.0)
        above = size[(size > place) & used[:, None]].min(initial=np.inf)
        if not MIN_GAP_RATIO * below <= above < np.inf:
            return b, None
    kept = size > place
    cut = np.where(kept | ~used[:, None], b, 0.0)
    below, above = size[~kept & used[:, None]], size[kept & used[:, None]]  # a column without a penalty is never cut
    return cut, (float(below.max(initial=0.0)), float(above.min(initial=np.inf)))
