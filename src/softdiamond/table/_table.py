"""`Table`: the cells of one law, what continues them on both sides, and NumPy's reader of them."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softdiamond import stable
from softdiamond.stable import group_law
from softdiamond.table._certificate import certify, missed
from softdiamond.table._expansions import expansions_of, law_of
from softdiamond.table._file import read, write
from softdiamond.table._grid import Double, Grid, fit_grid, look_up
from softdiamond.table._rule import beyond

Array = NDArray[np.floating[Any]]

BUILDER = 2  # part of a stored table's identity: raise it when a built table changes
RULE = "piecewise Hermite, cells indexed by exponent and leading mantissa bits"


@dataclass(frozen=True)
class Table:
    """Look-up table of the penalty R(x) = log f(0) - log f(x) of one alpha at unit scale.

    A table of d > 1 is that of a group: f is the density on R^d as a function of the radius ``unit`` x, see
    `softdiamond.stable.group_penalty`; gradient, omega and curvature are those of R in x. So a group of scale c and norm r
    has x = r / (c unit) and omega(x) / (c unit)^2.

    Make one with `lookup_table`, which caches; `Table.build` always builds.

    Attributes
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].
    omega_zero : float
        omega(0) = Gamma((d+2)/alpha) / (d Gamma(d/alpha)) unit^2.
    log_peak : float
        log f(0); with d > 1 for an f whose ``tail[0]`` is 1.
    tail : ndarray of float64, (12,)
        Terms of the tail series, x^d f(x) = sum_k tail[k] x^(-alpha (k + 1)); empty at alpha = 2.
    single, double : Grid
        The cells for float32 and float64.
    certificate : dict
        By dtype, the largest error of "penalty", "omega" and "curvature" measured at ``points`` random points.
    d : int
        Number of weights of the group; 1 for the scalar law.
    unit : float
        The radius that x = 1 stands for, a power of two; 1 where d = 1 or alpha = 2.
    """

    alpha: float
    omega_zero: float
    log_peak: float
    tail: Double
    single: Grid
    double: Grid
    certificate: dict[str, dict[str, float]]
    d: int = 1
    unit: float = 1.0

    def evaluate(self, x: Array) -> tuple[Array, Array, Array]:
        """Penalty, its gradient (minus the score) and curvature at x.

        Parameters
        ----------
        x : ndarray of float32 or float64
            Points at unit scale, of any shape; of a group norms in units of ``unit``.

        Returns
        -------
        penalty, gradient, curvature : ndarray
            Of the shape and dtype of x; NaN where x is NaN. At infinity: infinite, 0 (alpha < 2), 0 (alpha < 2).

        Raises
        ------
        TypeError
            If x is neither float32 nor float64.

        Examples
        --------
        >>> import numpy as np
        >>> from softdiamond.table import lookup_table
        >>> penalty, gradient, curvature = lookup_table(1.0).evaluate(np.array([1.0]))
        >>> bool(abs(penalty[0] - np.log(2)) < 1e-9)
        True
        """
        x = np.asarray(x)
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"a table takes float32 or float64; got {x.dtype}")
        size = np.abs(x).reshape(-1)
        grid = self.grid(x.dtype)
        with np.errstate(all="ignore"):
            penalty, gradient, curvature = look_up(grid, size)
            omega_zero = size.dtype.type(self.omega_zero)
            below = size < grid.low
            penalty = np.where(below, omega_zero * size * size / 2, penalty)
            gradient = np.where(below, omega_zero * size, gradient)
            curvature = np.where(below, omega_zero, curvature)
            above = size >= grid.high
            if above.any():
                wide = size[above].astype(np.float64)
                above_it = beyond(np, wide, self.alpha, self.d, self.log_peak, self.tail)
                penalty[above], gradient[above], curvature[above] = above_it
            lost = np.isnan(size)
            penalty[lost] = gradient[lost] = curvature[lost] = np.nan
        shape = x.shape
        return penalty.reshape(shape), np.copysign(gradient.reshape(shape), x), curvature.reshape(shape)

    def penalty(self, x: Array) -> Array:
        """Penalty R(x); see `evaluate`."""
        return self.evaluate(x)[0]

    def score(self, x: Array) -> Array:
        """Score d/dx log f = -R'(x); see `evaluate`."""
        return -self.evaluate(x)[1]

    def omega(self, x: Array) -> Array:
        """Adaptive decay R'(x) / x, with its limit omega_zero at zero; see `evaluate`."""
        x = np.asarray(x)
        gradient = self.evaluate(x)[1]
        grid = self.grid(x.dtype)
        with np.errstate(all="ignore"):
            value = np.where(np.isinf(x), gradient.dtype.type(0.5 if self.alpha == 2 else 0.0), gradient / x)
        return np.where(np.abs(x) < grid.low, gradient.dtype.type(self.omega_zero), value)

    def curvature(self, x: Array) -> Array:
        """Curvature R''(x); see `evaluate`."""
        return self.evaluate(x)[2]

    def grid(self, dtype: Any) -> Grid:
        """Cells for float32 or float64."""
        return self.single if np.dtype(dtype) == np.float32 else self.double

    @property
    def crossover(self) -> float:
        """Radius at unit scale where omega(0) meets the tail's (d + alpha) / r^2; infinite at alpha = 2."""
        return self.unit * float(np.sqrt((self.d + self.alpha) / self.omega_zero)) if self.alpha < 2 else np.inf

    @classmethod
    def build(cls, alpha: float, d: int = 1) -> Table:
        """Build and certify the table of one alpha from the exact law.

        That takes about 0.03 s for d = 1, up to 0.2 s for a group with alpha from 0.5 to 1.9, 0.6 s at alpha = 0.1, and 1 s for
        65,536 weights within 0.001 of alpha = 2, where it holds 1 MiB (``python benchmarks/law.py --groups``).

        Raises
        ------
        ValueError
            If alpha is not one number in [0.1, 2], or d no integer in [1, 65536].
        RuntimeError
            If the certificate misses the tolerance (1e-6 in float32, 1e-9 in float64): a bug, please report it.
        """
        alpha, d = one_alpha(alpha), group_law.dimension(d)
        plan = expansions_of(alpha, d)
        law = law_of(alpha, d, plan.unit)
        deeper = 0 if d == 1 else 1  # near alpha = 2 the Gaussian core of many weights ends at one radius
        double = fit_grid("float64", law, plan.low, plan.high, plan.omega_zero, deeper)
        scalars = alpha, plan.omega_zero, plan.log_peak, plan.tail
        draft = cls(*scalars, double, double, {}, d, plan.unit)
        low, high = min(plan.low, 2.0**-60), 2.0**128 if alpha < 2 else 2.0**60

        def looked_up(x: Double) -> tuple[Double, Double]:
            _, gradient, curvature = draft.evaluate(x)
            return gradient.astype(np.float64), curvature.astype(np.float64)

        single = fit_grid("float32", looked_up, low, high, plan.omega_zero, 2 * deeper)
        draft = cls(*scalars, single, double, {}, d, plan.unit)
        table = cls(*scalars, single, double, certify(draft), d, plan.unit)
        if missing := missed(table.certificate):
            raise RuntimeError(f"the table of {named(alpha, d)} misses its tolerance in {missing}: please report this")
        return table

    @cached_property
    def nbytes(self) -> int:
        """Size of what the table stores, in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def __str__(self) -> str:
        lines = [f"Look-up table, {named(f'{self.alpha:g}', self.d)}, {self.nbytes / 1024:.0f} KiB: {RULE}"]
        for dtype, grid in (("float32", self.single), ("float64", self.double)):
            errors = self.certificate[dtype]
            lines.append(
                f"  {dtype}: {len(grid.rows)} cells on [{grid.low:.3g}, {grid.high:.3g}), largest error at "
                f"{errors['points']:.0f} points: penalty {errors['penalty']:.1e}, omega {errors['omega']:.1e}, "
                f"curvature {errors['curvature']:.1e}"
            )
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a .npz file (no pickle, with a checksum), atomically.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        head = {
            "format": "softdiamond look-up table",
            "builder": BUILDER,
            "rule": RULE,
            "alpha": self.alpha,
            "kappa": self.omega_zero,
            "log_peak": self.log_peak,
            "d": self.d,
            "unit": self.unit,
            "grids": {name: [g.shift, g.base, g.low, g.high] for name, g in self._grids().items()},
            "certificate": self.certificate,
        }
        write(path, head, self._arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """Read a table that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, is no table, or was written by another version of the builder.
        """
        try:
            head, stored = read(path)
            if head.get("format") != "softdiamond look-up table":
                raise ValueError("it holds something else")
            if head["builder"] != BUILDER:
                raise ValueError(f"it was written by builder {head['builder']}, this is builder {BUILDER}")
            scalars = float(head["alpha"]), float(head["kappa"]), float(head["log_peak"])
            single, double = (
                Grid(stored[f"{name}_rows"], stored[f"{name}_index"], *head["grids"][name])
                for name in ("single", "double")
            )
            group = int(head["d"]), float(head["unit"])
            return cls(*scalars, stored["tail"], single, double, head["certificate"], *group)
        except _UNUSABLE as error:
            raise ValueError(f"{os.fspath(path)!r} is not a usable look-up table: {error}") from error

    def _arrays(self) -> dict[str, NDArray[Any]]:
        parts = {name: {"rows": grid.rows, "index": grid.index} for name, grid in self._grids().items()}
        arrays = {f"{name}_{part}": array for name, own in parts.items() for part, array in own.items()}
        return arrays | {"tail": self.tail}

    def _grids(self) -> dict[str, Grid]:
        return {"single": self.single, "double": self.double}


# What NumPy, zipfile, zlib and json raise on damaged files and heads. An OSError of the disk itself is passed on.
_UNUSABLE = (
    ValueError,  # NumPy's header, json, `Grid`, and this format's own refusals
    KeyError,  # a part that is missing, of the archive or of the head
    TypeError,  # a part of the head that is of another kind
    AttributeError,  # a head that is no object
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted member
    SyntaxError,  # NumPy's header of an array
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,  # a size in a damaged header
)


def one_alpha(alpha: float) -> float:
    """Return alpha, checked."""
    checked, _ = stable.parameters(alpha)
    if checked.ndim:
        raise ValueError(f"a table belongs to one alpha; got an array of shape {checked.shape}")
    return float(checked)


def named(alpha: float | str, d: int) -> str:
    """Name a law in messages."""
    return f"alpha = {alpha}" + (f", d = {d}" if d > 1 else "")
