r"""The precomputed look-up table of one law: penalty, score, omega and curvature from one look-up.

A law is an alpha and the number d of weights that share a radius, 1 for the scalar law.

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

**Groups.** A table of d > 1 weights takes the radius in units of a power of two, ``Table.unit``, near the crossover radius
:math:`\sqrt{(d + \alpha) / \omega_d(0)}`, where a float32 could not hold both: at alpha = 0.1 and d = 65,536 it is 3e-56.

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
from softdiamond.stable import group_law
from softdiamond.table._grid import Double, Grid, Law, fit_grid, look_up

__all__ = ["Grid", "Table", "lookup_table"]

Array = NDArray[np.floating[Any]]

BUILDER = 2  # part of a stored table's identity: raise it when a built table changes
RULE = "piecewise Hermite, cells indexed by exponent and leading mantissa bits"
TOLERANCE = {"float32": 1e-6, "float64": 1e-9}

_TAIL_TERMS = 12


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
    kappa : float
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
    kappa: float
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
        power = self.alpha * k + self.d
        y = x**-self.alpha
        total, slope, bend = (
            np.polynomial.polynomial.polyval(y, self.tail * p) for p in (1, power, power * (power + 1))
        )
        slope, bend = slope / total, bend / total
        penalty = self.log_peak + (self.alpha + self.d) * np.log(x) - np.log(total)
        return penalty, slope / x, (slope**2 - bend) / x / x

    @property
    def crossover(self) -> float:
        """Radius at unit scale where omega(0) meets the tail's (d + alpha) / r^2; infinite at alpha = 2."""
        return self.unit * float(np.sqrt((self.d + self.alpha) / self.kappa)) if self.alpha < 2 else np.inf

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
        alpha, d = _one_alpha(alpha), group_law.dimension(d)
        plan = _scalar_plan(alpha) if d == 1 else _group_plan(alpha, d)
        law = _law_of(alpha, d, plan.unit)
        deeper = 0 if d == 1 else 1  # near alpha = 2 the Gaussian core of many weights ends at one radius
        double = fit_grid("float64", law, plan.low, plan.high, plan.kappa, deeper)
        scalars = alpha, plan.kappa, plan.log_peak, plan.tail
        draft = cls(*scalars, double, double, {}, d, plan.unit)
        low, high = min(plan.low, 2.0**-60), 2.0**128 if alpha < 2 else 2.0**60

        def looked_up(x: Double) -> tuple[Double, Double]:
            _, gradient, curvature = draft.evaluate(x)
            return gradient.astype(np.float64), curvature.astype(np.float64)

        single = fit_grid("float32", looked_up, low, high, plan.kappa, 2 * deeper)
        draft = cls(*scalars, single, double, {}, d, plan.unit)
        table = cls(*scalars, single, double, _certify(draft), d, plan.unit)
        if missed := _missed(table.certificate):
            raise RuntimeError(f"the table of {_named(alpha, d)} misses its tolerance in {missed}: please report this")
        return table

    @cached_property
    def nbytes(self) -> int:
        """Size of what the table stores, in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def __str__(self) -> str:
        lines = [f"Look-up table, {_named(f'{self.alpha:g}', self.d)}, {self.nbytes / 1024:.0f} KiB: {RULE}"]
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
            "d": self.d,
            "unit": self.unit,
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
            group = int(head["d"]), float(head["unit"])
            return cls(*scalars, stored["tail"], single, double, head["certificate"], *group)
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


_memory: dict[tuple[float, int], Table] = {}


def lookup_table(alpha: float, d: int = 1) -> Table:
    """Table of one alpha, from memory, from the disk cache, or built now and stored in both.

    The disk cache lies in the user's cache folder; the environment variable SOFTDIAMOND_CACHE names another folder, or
    ``off``. A file there is measured against the exact law before it is used; one that is damaged, foreign or not exact
    is rebuilt with a warning.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].
    d : int
        Number of weights of a group, 1 to 65,536; 1 is the scalar law.

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2], or d no integer in [1, 65536].

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> lookup_table(0.5) is lookup_table(0.5)
    True
    >>> round(lookup_table(0.5, 64).crossover, 6)
    0.003831
    """
    key = _one_alpha(alpha), group_law.dimension(d)
    if key not in _memory:
        _memory[key] = _from_disk(*key)
    return _memory[key]


def _from_disk(alpha: float, d: int) -> Table:
    folder = _cache_folder()
    if folder is None:
        return Table.build(alpha, d)
    path = folder / f"alpha-{alpha.hex()}-{'' if d == 1 else f'd-{d}-'}builder-{BUILDER}.npz"
    try:
        table = Table.load(path)
        if (table.alpha, table.d) != (alpha, d):
            raise ValueError(f"{str(path)!r} is the table of {_named(table.alpha, table.d)}")
        if missed := _missed(
            _certify(table)
        ):  # a few milliseconds (a group: tens), against whatever a checksum cannot see
            raise ValueError(f"{str(path)!r} is not exact in {missed}")
        return table
    except OSError:
        pass
    except (ValueError, IndexError) as error:
        warnings.warn(f"a cached table is rebuilt: {error}", RuntimeWarning, stacklevel=3)
    table = Table.build(alpha, d)
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


def _named(alpha: float | str, d: int) -> str:
    return f"alpha = {alpha}" + (f", d = {d}" if d > 1 else "")


def _checksum(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Plan:
    """What a law continues with outside the cells, and where these begin and end."""

    kappa: float
    log_peak: float
    tail: Double
    low: float
    high: float
    unit: float


def _scalar_plan(alpha: float) -> _Plan:
    kappa = float(np.exp(gammaln(3 / alpha) - gammaln(1 / alpha)))
    k = np.arange(1, _TAIL_TERMS + 1)
    size = np.exp(gammaln(alpha * k + 1) - gammaln(k + 1)) / np.pi
    sine = np.sin(np.pi * k * (2 - alpha) / 2) if alpha > 1 else -((-1.0) ** k) * np.sin(np.pi * k * alpha / 2)
    tail = size * sine if alpha < 2 else np.empty(0)
    fourth = np.exp(gammaln(5 / alpha) - gammaln(3 / alpha)) / 6  # 2 a_2 / a_1 of f / f(0) = 1 - a_1 x^2 + a_2 x^4
    low = _constant_omega_below(kappa / 2 - fourth, 1e-11)
    return _Plan(kappa, float(stable.logpdf(0.0, alpha)), tail, low, _tail_from(alpha), 1.0)


def _group_plan(alpha: float, d: int) -> _Plan:
    law = group_law.unit_law(alpha, d)
    log_crossover = (np.log(d + alpha) - law.log_omega_0) / 2
    unit = float(2.0 ** np.rint(log_crossover / np.log(2))) if alpha < 2 else 1.0
    kappa = float(np.exp(law.log_omega_0 + 2 * np.log(unit))) if alpha < 2 else 0.5
    first, second = np.exp(law.log_c[1:3] + 2 * np.log(unit) * np.array([1, 2]))
    low = _constant_omega_below(first - 2 * second / first, 1e-11)
    if alpha == 2:
        return _Plan(kappa, 0.0, np.empty(0), low, 32.0, unit)
    log_size, sine = group_law.tail_terms(alpha, d, _TAIL_TERMS)
    tail = sine * np.exp(log_size - alpha * np.log(unit) * np.arange(_TAIL_TERMS))
    high = group_law.log_tail_limit(alpha, d, _TAIL_TERMS, 1e-16) - np.log(unit)
    log_peak = law.log_peak + (d + alpha) * np.log(unit)
    return _Plan(kappa, float(log_peak), tail, low, float(2.0 ** np.ceil(high / np.log(2))), unit)


def _law_of(alpha: float, d: int, unit: float) -> Law:
    """Gradient and curvature of the exact penalty at x > 0."""

    def scalar(x: Double) -> tuple[Double, Double]:
        return np.abs(stable.score(x, alpha)), np.asarray(stable.curvature(x, alpha))

    def group(x: Double) -> tuple[Double, Double]:
        gradient, curvature = group_law.derivatives(x.ravel() * unit, alpha, d)
        return (gradient * unit).reshape(x.shape), (curvature * unit * unit).reshape(x.shape)

    return scalar if d == 1 else group


def _constant_omega_below(c: float, tolerance: float) -> float:
    """Power of two below which omega = kappa to a relative ``tolerance``: omega / kappa = 1 + c x^2 + O(x^4)."""
    return float(2.0 ** np.floor(np.log2(tolerance / max(abs(c), 1e-6)) / 2))


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


def _exact(x: Double, table: Table) -> tuple[Double, Double, Double]:
    """Penalty, omega and curvature of the exact law."""
    alpha, d, unit = table.alpha, table.d, table.unit
    if d == 1:
        return table.log_peak - stable.logpdf(x, alpha), stable.omega(x, alpha), stable.curvature(x, alpha)
    gradient, curvature = group_law.derivatives(x * unit, alpha, d)
    return stable.group_penalty(x * unit, alpha, d), gradient * unit / x, curvature * unit * unit


def _certify(table: Table) -> dict[str, dict[str, float]]:
    """Largest errors at random points of every octave and outside the cells, where the truth is a normal number."""
    rng = np.random.default_rng(20241220)
    certificate = {}
    for dtype, grid in (("float32", table.single), ("float64", table.double)):
        octaves = np.arange(int(np.log2(grid.low)) - 3, min(int(np.log2(grid.high)) + 3, 128))
        octave = np.repeat(2.0**octaves, 24 if table.d == 1 else 8)
        x = (octave * rng.uniform(1, 2, octave.size)).astype(dtype)
        wide = x.astype(np.float64)
        exact, slope, bend = _exact(wide, table)
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
