"""The widest empty band among magnitudes: where any threshold gives the same mask."""

from __future__ import annotations

import math

from torch import Tensor


def widest_gap(magnitudes: Tensor, factor: float, minimum: int) -> tuple[float, float] | None:
    """Return the ends of the widest band without a magnitude, in units of its lower end.

    Parameters
    ----------
    magnitudes : Tensor
        Not negative, of any shape; those that are 0 are left out.
    factor : float
        The least ratio of its ends.
    minimum : int
        How many magnitudes there must be below it, and above.

    Returns
    -------
    tuple of float, or None
        The largest magnitude below the band and the smallest above; None where there is no such band.
    """
    ranked = magnitudes.double().flatten()
    ranked = ranked[ranked > 0].sort().values
    if len(ranked) < 2 * minimum:
        return None
    ratios = ranked.log().diff()[minimum - 1 : len(ranked) - minimum]
    widest = int(ratios.argmax())
    if float(ratios[widest]) < math.log(factor):
        return None
    below = widest + minimum - 1
    return float(ranked[below]), float(ranked[below + 1])
