r"""The precomputed look-up table of one alpha: penalty, score, omega and curvature from one look-up.

**Grid.** The leading bits of \|x\| are the index, no logarithm is taken: the exponent picks an octave [2^e, 2^(e+1)), the
leading b mantissa bits a cell of it. Each octave has the smallest b that meets the tolerance, so that the Gaussian
shoulder of an alpha near 2 gets a hundred cells and a tail gets four.

**Rule.** A cell stores its centre m, the penalty R there, and the coefficients of a polynomial in
:math:`\tau = x / 2^e - m` for the gradient of the penalty, :math:`R'(x) = 2^{1-e} \sum_k g_k \tau^k`, fitted to R' and R'' of the exact
law (Hermite interpolation, the cells' ends among the nodes, so that R, R' and R'' are continuous). Then

.. math:: R(x) = R(2^e m) + 2 \sum_k g_k \tau^{k+1} / (k+1), \qquad R''(x) = 2^{1-2e} \sum_k k g_k \tau^{k-1}:

penalty, gradient and curvature are exact derivatives of each other. The coefficients are free of units: nothing under-
or overflows between 2^-126 and 2^127.

**Two tables.** ``double`` (degree 9, for float64) is fitted to the exact law and continues analytically, with constant omega
below and the tail series (at alpha = 2 the parabola) above; ``single`` (degree 5, for float32) is fitted to ``double`` and
reaches from 2^-60 or below to the largest float32 (2^60 at alpha = 2).

**Certificate.** At build both are measured against the exact law at random points, and the largest errors are stored:
penalty in units of max(1, penalty), omega (and so score) relative, curvature in units of \|curvature\| + omega.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from softdiamond import stable
from softdiamond.table._grid import Double, Grid, fit_grid, look_up

__all__ = ["Grid", "Table", "lookup_table"]

Array = NDArray[np.floating[Any]]

BUILDER = 1  # part of a stored table's identity: raise it when a built table changes
RULE = "piecewise Hermite, cells indexed by exponent and leading mantissa bits"
TOLERANCE = {"float32": 1e-6, "float64": 1e-9}

_TAIL_TERMS = 12


@dataclass(frozen=True)
class Table:
    """Look-up table of the penalty R(x) = log f(0) - log f(x) of one alpha at unit scale.

    Make one with `lookup_table`, which caches; `Table.build` always builds.

    Attributes
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].
    kappa : float
        omega(0) = Gamma(3/alpha) / Gamma(1/alpha).
    log_peak : float
        log f(0).
    tail : ndarray of float64, (12,)
        Terms of the tail series, x f(x) = sum_k tail[k] x^(-alpha (k + 1)); empty at alpha = 2.
    single, double : Grid
        The cells for float32 and float64.
    certificate : dict
        By dtype, the largest error of "penalty", "omega" and "curvature" measured at ``points`` random points.
    """

    alpha: float
    kappa: float
    log_peak: float
    tail: Double
    single: Grid
    double: Grid
    certificate: dict[str, dict[str, float]]

    def evaluate(self, x: Array) -> tuple[Array, Array, Array]:
        """Penalty, its gradient (minus the score) and curvature at x.

        Parameters
        ----------
        x : ndarray of float32 or float64
            Points at unit scale, of any shape.

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
        grid = self.single if x.dtype == np.float32 else self.double
        with np.errstate(all="ignore"):
            penalty, gradient, curvature = look_up(grid, size)
            kappa = size.dtype.type(self.kappa)
            below = size < grid.low
            penalty = np.where(below, kappa * size * size / 2, penalty)
            gradient = np.where(below, kappa * size, gradient)
            curvature = np.where(below, kappa, curvature)
            above = size >= grid.high
            if above.any():
                beyond = self._beyond(size[above].astype(np.float64))
                penalty[above], gradient[above], curvature[above] = beyond
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
        """Adaptive decay R'(x) / x, with its limit kappa at zero; see `evaluate`."""
        x = np.asarray(x)
        gradient = self.evaluate(x)[1]
        grid = self.single if x.dtype == np.float32 else self.double
        with np.errstate(all="ignore"):
            value = np.where(np.isinf(x), gradient.dtype.type(0.5 if self.alpha == 2 else 0.0), gradient / x)
        return np.where(np.abs(x) < grid.low, gradient.dtype.type(self.kappa), value)

    def curvature(self, x: Array) -> Array:
        """Curvature R''(x); see `evaluate`."""
        return self.evaluate(x)[2]

    def _beyond(self, x: Double) -> tuple[Double, Double, Double]:
        """Penalty, gradient and curvature above the cells: the tail series, or the parabola at alpha = 2."""
        if self.alpha == 2:
            return x * (x / 4), x / 2, np.full_like(x, 0.5)
        k = np.arange(1, _TAIL_TERMS + 1)
        power = self.alpha * k + 1
        y = x**-self.alpha
        total, slope, bend = (
            np.polynomial.polynomial.polyval(y, self.tail * p) for p in (1, power, power * (power + 1))
        )
        slope, bend = slope / total, bend / total
        penalty = self.log_peak + (self.alpha + 1) * np.log(x) - np.log(total)
        return penalty, slope / x, (slope**2 - bend) / x / x

    @classmethod
    def build(cls, alpha: float) -> Table:
        """Build and certify the table of one alpha from the exact law, in about a tenth of a second.

        Raises
        ------
        ValueError
            If alpha is not one number in [0.1, 2].
        RuntimeError
            If the certificate misses the tolerance (1e-6 in float32, 1e-9 in float64): a bug, please report it.
        """
        alpha = _one_alpha(alpha)
        kappa = float(np.exp(gammaln(3 / alpha) - gammaln(1 / alpha)))
        log_peak = float(stable.logpdf(0.0, alpha))
        k = np.arange(1, _TAIL_TERMS + 1)
        size = np.exp(gammaln(alpha * k + 1) - gammaln(k + 1)) / np.pi
        sine = np.sin(np.pi * k * (2 - alpha) / 2) if alpha > 1 else -((-1.0) ** k) * np.sin(np.pi * k * alpha / 2)
        tail = size * sine if alpha < 2 else np.empty(0)

        def law(x: Double) -> tuple[Double, Double]:
            return np.abs(stable.score(x, alpha)), np.asarray(stable.curvature(x, alpha))

        low = _constant_omega_below(alpha, kappa, 1e-11)
        double = fit_grid("float64", law, low, _tail_from(alpha), kappa)
        draft = cls(alpha, kappa, log_peak, tail, double, double, {})
        low, high = min(low, 2.0**-60), 2.0**128 if alpha < 2 else 2.0**60

        def looked_up(x: Double) -> tuple[Double, Double]:
            _, gradient, curvature = draft.evaluate(x)
            return gradient.astype(np.float64), curvature.astype(np.float64)

        single = fit_grid("float32", looked_up, low, high, kappa)
        draft = cls(alpha, kappa, log_peak, tail, single, double, {})
        table = cls(alpha, kappa, log_peak, tail, single, double, _certify(draft))
        if missed := _missed(table.certificate):
            raise RuntimeError(f"the table of alpha = {alpha!r} misses its tolerance in {missed}: please report this")
        return table

    @cached_property
    def nbytes(self) -> int:
        """Size of what the table stores, in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def __str__(self) -> str:
        lines = [f"Look-up table, alpha = {self.alpha:g}, {self.nbytes / 1024:.0f} KiB: {RULE}"]
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
        arrays = self._arrays()
        head = {
            "format": "softdiamond look-up table",
            "builder": BUILDER,
            "rule": RULE,
            "alpha": self.alpha,
            "kappa": self.kappa,
            "log_peak": self.log_peak,
            "grids": {name: [g.shift, g.base, g.low, g.high] for name, g in self._grids().items()},
            "certificate": self.certificate,
        }
        text = json.dumps(head, sort_keys=True)
        path = Path(path)
        checksum = np.array(_checksum(text, arrays))
        stored: dict[str, Any] = {"head": np.array(text), "checksum": checksum, **arrays}
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                np.savez(file, **stored)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

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
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            text, checksum = str(stored.pop("head")), str(stored.pop("checksum"))
            if checksum != _checksum(text, stored):
                raise ValueError("its checksum does not match")
            head = json.loads(text)
            if head["format"] != "softdiamond look-up table" or head["builder"] != BUILDER:
                raise ValueError(f"it was written by builder {head['builder']}, this is builder {BUILDER}")
            scalars = float(head["alpha"]), float(head["kappa"]), float(head["log_peak"])
            single, double = (
                Grid(stored[f"{name}_rows"], stored[f"{name}_index"], *head["grids"][name])
                for name in ("single", "double")
            )
            return cls(*scalars, stored["tail"], single, double, head["certificate"])
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            raise
        except Exception as error:  # whatever a foreign or damaged file makes NumPy, zipfile or json raise
            raise ValueError(f"{os.fspath(path)!r} is not a usable look-up table: {error}") from error

    def _arrays(self) -> dict[str, NDArray[Any]]:
        parts = {name: {"rows": grid.rows, "index": grid.index} for name, grid in self._grids().items()}
        arrays = {f"{name}_{part}": array for name, own in parts.items() for part, array in own.items()}
        return arrays | {"tail": self.tail}

    def _grids(self) -> dict[str, Grid]:
        return {"single": self.single, "double": self.double}


_memory: dict[float, Table] = {}


def lookup_table(alpha: float) -> Table:
    """Table of one alpha, from memory, from the disk cache, or built now and stored in both.

    The disk cache lies in the user's cache folder; the environment variable SOFTDIAMOND_CACHE names another folder, or
    ``off``. A file there is measured against the exact law before it is used; one that is damaged, foreign or not exact
    is rebuilt with a warning.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2].

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> lookup_table(0.5) is lookup_table(0.5)
    True
    """
    alpha = _one_alpha(alpha)
    if alpha not in _memory:
        _memory[alpha] = _from_disk(alpha)
    return _memory[alpha]


def _from_disk(alpha: float) -> Table:
    folder = _cache_folder()
    if folder is None:
        return Table.build(alpha)
    path = folder / f"alpha-{alpha.hex()}-builder-{BUILDER}.npz"
    try:
        table = Table.load(path)
        if table.alpha != alpha:
            raise ValueError(f"{str(path)!r} is the table of alpha = {table.alpha!r}")
        if missed := _missed(_certify(table)):  # a few milliseconds, against whatever a checksum cannot see
            raise ValueError(f"{str(path)!r} is not exact in {missed}")
        return table
    except OSError:
        pass
    except (ValueError, IndexError) as error:
        warnings.warn(f"a cached table is rebuilt: {error}", RuntimeWarning, stacklevel=3)
    table = Table.build(alpha)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError:
        pass  # a cache that cannot be written costs a tenth of a second at the next start, nothing more
    return table


def _cache_folder() -> Path | None:
    given = os.environ.get("SOFTDIAMOND_CACHE", "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("softdiamond")) / "tables"


def _one_alpha(alpha: float) -> float:
    checked, _ = stable.parameters(alpha)
    if checked.ndim:
        raise ValueError(f"a table belongs to one alpha; got an array of shape {checked.shape}")
    return float(checked)


def _checksum(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _constant_omega_below(alpha: float, kappa: float, tolerance: float) -> float:
    """Power of two below which omega = kappa to a relative ``tolerance``: omega / kappa = 1 + c x^2 + O(x^4)."""
    fourth = np.exp(gammaln(5 / alpha) - gammaln(3 / alpha)) / 6  # 2 a_2 / a_1 of f / f(0) = 1 - a_1 x^2 + a_2 x^4
    c = max(abs(kappa / 2 - fourth), 1e-6)
    return float(2.0 ** np.floor(np.log2(tolerance / c) / 2))


def _tail_from(alpha: float) -> float:
    """Power of two from which ``_TAIL_TERMS`` terms of the tail series are exact to 1e-15."""
    k = _TAIL_TERMS + 1
    size = gammaln(alpha * k + 1) - gammaln(k + 1) - gammaln(alpha + 1)
    weight = np.log(k * (alpha * k + 2) ** 2)
    limit = np.exp((size + weight - np.log(1e-15)) / (alpha * (k - 1)))
    return float(2.0 ** np.ceil(np.log2(max(limit, 32.0))))


def _missed(certificate: dict[str, dict[str, float]]) -> str:
    """Dtypes in which an error is beyond the tolerance, with the errors; empty when there is none."""
    names = ("penalty", "omega", "curvature")
    bad = {d: e for d, e in certificate.items() if not max(e[name] for name in names) <= TOLERANCE[d]}
    return ", ".join(f"{dtype} ({errors})" for dtype, errors in bad.items())


def _certify(table: Table) -> dict[str, dict[str, float]]:
    """Largest errors at random points of every octave and outside the cells, where the truth is a normal number."""
    rng = np.random.default_rng(20241220)
    certificate = {}
    for dtype, grid in (("float32", table.single), ("float64", table.double)):
        octaves = np.arange(int(np.log2(grid.low)) - 3, min(int(np.log2(grid.high)) + 3, 128))
        octave = np.repeat(2.0**octaves, 24)
        x = (octave * rng.uniform(1, 2, octave.size)).astype(dtype)
        wide = x.astype(np.float64)
        slope = stable.omega(wide, table.alpha)
        bend = stable.curvature(wide, table.alpha)
        exact = table.log_peak - stable.logpdf(wide, table.alpha)
        penalty, gradient, curvature = (value.astype(np.float64) for value in table.evaluate(x))
        tiny, huge = np.finfo(dtype).tiny, np.finfo(dtype).max
        normal = exact < huge, slope * wide > tiny, np.abs(bend) > tiny
        with np.errstate(invalid="ignore"):
            errors = (
                np.abs(penalty - exact) / np.maximum(1, exact),
                np.abs(gradient / (slope * wide) - 1),
                np.abs(curvature - bend) / (np.abs(bend) + slope),
            )
        names = ("penalty", "omega", "curvature")
        worst = {name: float(error[good].max()) for name, error, good in zip(names, errors, normal, strict=True)}
        certificate[dtype] = worst | {"points": float(x.size)}
    return certificate
