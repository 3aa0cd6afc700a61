r"""Ridge with a penalty of its own for each column, in the primal, the dual and an iterative form.

.. math:: (\tilde X^T W \tilde X + \Omega)\, b = \tilde X^T W y

Primal: the p x p system; dual, for p > n: :math:`b = \Omega^{-1} \tilde X^T \sqrt W (I + \sqrt W \tilde X \Omega^{-1} \tilde X^T
\sqrt W)^{-1} \sqrt W y`, an n x n system; conjugate gradients with the diagonal as preconditioner where both are large.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from softdiamond.sklearn._design import Array, Design

MAX_FACTORED_SIZE = 1500  # largest side of a system that is factored
MAX_DUAL_ROWS = 500  # largest n at which forming X̃ Omega⁻¹ X̃ᵀ costs less than conjugate gradients


def ridge(design: Design, y: Array, omega: Array, start: Array) -> Array:
    """Solve one ridge problem; ``start`` serves the iterative form."""
    if design.full_gram and design.p <= max(MAX_FACTORED_SIZE, design.n):
        return _factored(design, design.moment(y), omega)
    if design.n <= MAX_DUAL_ROWS and (omega > 0).all():
        return _dual(design, y, omega)
    return start + conjugate(design, design.moment(y - design.predict(start)) - omega * start, omega)


def newton(design: Design, slope: Array, omega: Array) -> Array:
    """Solve (X̃ᵀ W X̃ + Omega) x = slope, roughly where it is large."""
    if design.full_gram and design.p <= max(MAX_FACTORED_SIZE, design.n):
        return _factored(design, slope, omega)
    return conjugate(design, slope, omega, 50, 1e-3)


def _factored(design: Design, d: Array, omega: Array) -> Array:
    matrix = design.gram + np.diag(np.where(design.diagonal > 0, omega, 1.0))
    try:
        return np.asarray(linalg.cho_solve(linalg.cho_factor(matrix), d))
    except linalg.LinAlgError:  # singular: columns repeat each other without a penalty
        return np.asarray(linalg.lstsq(matrix, d)[0])


def _dual(design: Design, y: Array, omega: Array) -> Array:
    root = np.sqrt(design.w)
    system = design.dual_gram(1 / omega)
    system.flat[:: design.n + 1] += 1
    solved = linalg.cho_solve(linalg.cho_factor(system), root * _centered(design, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(design.moment(np.where(root > 0, solved / root, 0.0)) / omega)


def ridge_path(design: Design, y: Array, penalties: Array, factor: Array) -> Array | None:
    """Solutions for Omega = penalty * factor of several penalties from one factorization, shape (K, p), or None.

    None where no side of the system is small or a factor is 0.
    """
    if min(design.n, design.p) > MAX_FACTORED_SIZE or not (factor > 0).all() or not (penalties > 0).all():
        return None
    root = np.sqrt(design.w)
    if design.full_gram and design.p <= design.n:
        half = 1 / np.sqrt(factor)
        values, vectors = linalg.eigh(design.gram * half[:, None] * half)
        along = vectors.T @ (half * design.moment(y))
        shrunk = along / (np.maximum(values, 0) + penalties[:, None])
        return np.asarray(shrunk @ vectors.T * half)
    values, vectors = linalg.eigh(design.dual_gram(1 / factor))
    along = vectors.T @ (root * _centered(design, y))
    solved = along / (np.maximum(values, 0) + penalties[:, None]) @ vectors.T
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(root > 0, solved / root, 0.0)
    return np.stack([design.moment(row) for row in rows]) / factor


def _centered(design: Design, y: Array) -> Array:
    return y - design.w @ y if design.center else y


def conjugate(design: Design, g: Array, omega: Array, steps: int = 200, tol: float = 1e-10) -> Array:
    """Solve (X̃ᵀ W X̃ + Omega) x = g by conjugate gradients: every step lowers the quadratic.

    A coordinate where g and omega are such that it must not move is given omega = inf.
    """
    inverse = np.where(np.isinf(omega), 0.0, 1 / np.where(omega + design.diagonal > 0, omega + design.diagonal, 1.0))
    finite = np.where(np.isinf(omega), 0.0, omega)
    free = inverse > 0
    x, r = np.zeros_like(g), np.where(free, g, 0.0)
    z = inverse * r
    direction, rho = z, r @ z
    goal = tol**2 * rho
    for _ in range(steps):
        if rho <= goal or rho == 0:
            break
        image = design.moment(design.predict(direction)) + finite * direction
        image = np.where(free, image, 0.0)
        curvature = direction @ image
        if curvature <= 0:
            break
        rate = rho / curvature
        x = x + rate * direction
        r = r - rate * image
        z = inverse * r
        before, rho = rho, r @ z
        direction = z + rho / before * direction
    return x
