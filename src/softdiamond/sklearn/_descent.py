r"""Coordinate descent on a quadratic with soft diamond or lasso penalty, compiled by numba.

.. math:: F(b) = \tfrac12 b^T G b - d^T b + \sum_j \lambda_j R(b_j / c)

G is a Gram matrix, so that dense and sparse columns, weights of rows and centering are all the same here. One
coordinate's problem is a scalar proximal map: with :math:`v = b_j + q_j / G_{jj}`, :math:`q = d - G b`,

.. math:: b_j \leftarrow c\, \mathrm{prox}_{s R}(v / c), \qquad s = \lambda_j / (c^2 G_{jj}),

its **global** minimizer (`softdiamond.penalties.numba_prox`), so that F falls at every step and no coordinate of the result can
be bettered alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from softdiamond.penalties.numba_prox import Curve, jump_interval, prox
from softdiamond.table.numba_reader import derivatives

Array = NDArray[np.float64]


@njit(cache=True, error_model="numpy", nogil=True)
def coordinate_descent(
    gram: Array, q: Array, b: Array, lam: Array, c: float, curve: Curve, positive: bool, tol: float, sweeps: int
) -> tuple[float, int]:
    """Lower F in place until the largest |dF/db_j| is at most ``tol``; return that and the number of sweeps.

    ``q = d - G b`` is kept up to date. A sweep visits all coordinates, then those that moved until they rest.
    """
    p = b.size
    active = np.arange(p)
    count, whole, residual = p, True, np.inf
    steps, lows, highs = np.zeros(p), np.full(p, np.inf), np.full(p, np.inf)
    for j in range(p):
        if gram[j, j] > 0:
            steps[j] = lam[j] / (c * c * gram[j, j])
            if j > 0 and steps[j] == steps[j - 1]:
                lows[j], highs[j] = lows[j - 1], highs[j - 1]
            else:
                lows[j], highs[j] = jump_interval(steps[j], curve)
    for sweep in range(1, sweeps + 1):
        largest, moved = 0.0, 0
        for i in range(count):
            j = active[i]
            diagonal = gram[j, j]
            if diagonal <= 0:
                continue
            v = b[j] + q[j] / diagonal
            slope = q[j] - lam[j] / c * np.copysign(derivatives(abs(b[j]) / c, curve.cells)[0], b[j])
            blocked = positive and v <= 0
            if blocked and b[j] == 0:
                continue
            if not blocked and abs(slope) <= 0.5 * tol and (abs(v) < lows[j] * c or abs(b[j]) > curve.inflection * c):
                largest = max(largest, abs(slope))
                continue
            largest = max(largest, abs(slope))
            new = 0.0 if blocked else np.copysign(c * prox(abs(v) / c, steps[j], lows[j], highs[j], curve), v)
            change = new - b[j]
            if change != 0:
                b[j] = new
                for k in range(p):
                    q[k] -= change * gram[j, k]
                if whole:
                    active[moved] = j
                    moved += 1
        if whole:
            residual = largest
            if largest <= tol:
                return residual, sweep
            count, whole = moved, False
        elif largest <= tol:
            for j in range(p):
                active[j] = j
            count, whole = p, True
    return residual, sweeps


@njit(cache=True, error_model="numpy", nogil=True)
def lasso_descent(gram: Array, q: Array, b: Array, lam: Array, positive: bool, tol: float, sweeps: int) -> None:
    """The same for lasso, F with |b_j| in the place of R: it gives a start."""
    p = b.size
    for _ in range(sweeps):
        largest = 0.0
        for j in range(p):
            if gram[j, j] <= 0:
                continue
            v = gram[j, j] * b[j] + q[j]
            new = max(v - lam[j], 0.0) + (0.0 if positive else min(v + lam[j], 0.0))
            change = new / gram[j, j] - b[j]
            if change != 0:
                largest = max(largest, abs(change) * gram[j, j])
                b[j] += change
                for k in range(p):
                    q[k] -= change * gram[j, k]
        if largest <= tol:
            return
