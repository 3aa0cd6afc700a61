"""The certificate: the largest errors of a table, measured against the exact law at random points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softdiamond import stable
from softdiamond.stable import group_law
from softdiamond.table._grid import Double

if TYPE_CHECKING:
    from softdiamond.table._table import Table

TOLERANCE = {"float32": 1e-6, "float64": 1e-9}


def missed(certificate: dict[str, dict[str, float]]) -> str:
    """Dtypes in which an error is beyond the tolerance, with the errors; empty when there is none."""
    names = ("penalty", "omega", "curvature")
    bad = {d: e for d, e in certificate.items() if not max(e[name] for name in names) <= TOLERANCE[d]}
    return ", ".join(f"{dtype} ({errors})" for dtype, errors in bad.items())


def _exact(x: Double, table: Table) -> tuple[Double, Double, Double]:
    """Penalty, omega and curvature of the exact law."""
    alpha, d, unit = table.alpha, table.d, table.unit
    if d == 1:
        return table.log_peak - stable.logpdf(x, alpha), stable.omega(x, alpha), stable.curvature(x, alpha)
    gradient, curvature = group_law.derivatives(x * unit, alpha, d)
    return stable.group_penalty(x * unit, alpha, d), gradient * unit / x, curvature * unit * unit


def certify(table: Table) -> dict[str, dict[str, float]]:
    """Largest errors at random points of every octave and outside the cells, where the truth is a normal number."""
    rng = np.random.default_rng(20241220)
    certificate = {}
    for dtype, grid in (("float32", table.single), ("float64", table.double)):
        octaves = np.arange(int(np.log2(grid.low)) - 3, min(int(np.log2(grid.high)) + 3, 128))
        octave = np.repeat(2.0**octaves, 24 if table.d == 1 else 8)
        x = (octave * rng.uniform(1, 2, octave.size)).astype(dtype)
        wide = x.astype(np.float64)
        exact, exact_omega, exact_curvature = _exact(wide, table)
        penalty, gradient, curvature = (value.astype(np.float64) for value in table.evaluate(x))
        tiny, huge = np.finfo(dtype).tiny, np.finfo(dtype).max
        normal = exact < huge, exact_omega * wide > tiny, np.abs(exact_curvature) > tiny
        with np.errstate(invalid="ignore"):
            errors = (
                np.abs(penalty - exact) / np.maximum(1, exact),
                np.abs(gradient / (exact_omega * wide) - 1),
                np.abs(curvature - exact_curvature) / (np.abs(exact_curvature) + exact_omega),
            )
        names = ("penalty", "omega", "curvature")
        worst = {name: float(error[good].max()) for name, error, good in zip(names, errors, normal, strict=True)}
        certificate[dtype] = worst | {"points": float(x.size)}
    return certificate
