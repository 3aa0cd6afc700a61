"""The stable law of each tensor of a checkpoint, from a histogram of its magnitudes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, stdtr
from torch import Tensor

from softdiamond import stable
from softdiamond.compression import OPTIMIZER_STATE, is_optimizer_state, read_tensors

PER_OCTAVE = 32  # a power of two: bins of |w| end where the leading bits of its mantissa change
SQUARABLE = 1e-145, 1e145  # the largest \|w\| of a tensor whose squares can be summed in float64
FEWEST = 200  # weights that are not 0, for a fit
LIGHT = 1.95  # alpha above which a law is called Gaussian
MISFIT = 0.1  # Kolmogorov-Smirnov distance above which a law does not fit
ENERGIES = (0.01, 0.05)
QUANTILES = 60  # of the QQ plot
PIECE = 1 << 18  # weights read at once

Array = NDArray[np.float64]


def audit(path: str | Path, on_tensor: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Look at every tensor of a checkpoint.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or what ``torch.save`` wrote of tensors (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), which is
        loaded with ``weights_only=True`` alone.
    on_tensor : callable, optional
        Called with the name of each tensor before it is read.

    Returns
    -------
    list of dict
        One for each tensor, in the file's order: ``name``, ``shape``, ``dtype``; where it was skipped, ``why``, and nothing
        else but ``not_finite``, a number, where weights are NaN or infinite; else ``why`` None, ``count``, ``zero`` (share of
        exact zeros), ``rms``, ``alpha``, ``alpha_interval``, ``scale``, ``scale_interval``, ``fits`` (law: ``log_likelihood``
        of a weight in the mean, ``ks``, ``parameters``), ``best``, ``heavy_tailed``, ``removable``, ``suggested``, ``note``,
        ``histogram`` and ``quantiles``. Where no law fits, ``best``, ``heavy_tailed`` and both values of ``suggested`` are
        None.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind, or a pickle of more than tensors.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draws = torch.from_numpy(stable.rvs(1.2, size=20_000, scale=0.05, rng=0)).float()
    ...     save_file({"layer.weight": draws.view(100, 200)}, f"{folder}/net.safetensors")
    ...     (found,) = audit(f"{folder}/net.safetensors")
    >>> abs(found["alpha"] - 1.2) < 0.03, found["heavy_tailed"]
    (True, True)
    """
    rows = []
    for name, shape, dtype, tensor in read_tensors(Path(path), on_tensor):
        row: dict[str, Any] = {"name": name, "shape": list(shape), "dtype": dtype}
        why = OPTIMIZER_STATE if is_optimizer_state(name) else tensor
        rows.append(row | ({"why": why} if isinstance(why, str) else _fit_tensor(why)))
        del tensor, why
    return rows


# ---- one tensor -------------------------------------------------------------------------------------------------------


def _fit_tensor(tensor: Tensor) -> dict[str, Any]:
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        kind = (
            "sparse" if tensor.layout != torch.strided else f"of {str(tensor.dtype).removeprefix('torch.')}, no floats"
        )
        return {"why": kind}
    if tensor.numel() == 0:
        return {"why": "empty"}
    try:
        counts, bad, total, positive = _histogram(tensor)
    except (RuntimeError, NotImplementedError) as error:  # a narrow type that this torch cannot widen
        return {"why": f"cannot be read as float32: {str(error).splitlines()[0]}"}
    if bad:
        return {"why": f"{bad:,} of {tensor.numel():,} weights are NaN or infinite", "not_finite": bad}
    shift = _shift(tensor)
    filled = np.flatnonzero(counts)
    filled = filled[filled > 0] if counts[0] else filled
    zeros = int(counts[0])
    if tensor.numel() - zeros < FEWEST:
        return {"why": f"{tensor.numel() - zeros} weights that are not 0: a fit needs {FEWEST}"}
    low, high = _edge(filled, shift), _edge(filled + 1, shift)
    if not SQUARABLE[0] < low[-1] < SQUARABLE[1]:
        return {"why": f"the largest weight, {low[-1]:.3g}, has no square in float64"}
    middle, times = (low + high) / 2, counts[filled].astype(float)
    try:
        return {"why": None, "count": tensor.numel()} | _describe(low, high, middle, times, zeros, total, positive)
    except ValueError as error:  # all weights of one size, most likely
        return {"why": f"no law can be fitted: {error}"}


def _shift(tensor: Tensor) -> tuple[int, Any, Any]:
    """Bits that do not choose a bin, and the types of the bits and of the float."""
    extra = int(math.log2(PER_OCTAVE))
    return (52 - extra, np.uint64, np.float64) if tensor.dtype == torch.float64 else (23 - extra, np.uint32, np.float32)


def _edge(number: NDArray[np.int64], shift: tuple[int, Any, Any]) -> Array:
    """Lower end of a bin."""
    bits, integer, real = shift
    with np.errstate(over="ignore"):
        return (number.astype(integer) << integer(bits)).view(real).astype(np.float64)


def _histogram(tensor: Tensor) -> tuple[NDArray[np.int64], int, float, int]:
    r"""Return how many \|w\| there are in each bin, the first holding exact zeros, how many are not finite, their sum, and how many
    are positive.
    """
    bits, integer, real = _shift(tensor)
    exponents = 1 << (11 if real is np.float64 else 8)
    size = exponents * PER_OCTAVE
    counts, total, positive = np.zeros(size, np.int64), 0.0, 0
    for piece in tensor.reshape(-1).split(PIECE) if tensor.is_contiguous() else _rows(tensor):
        w = piece.double().numpy() if real is np.float64 else piece.float().numpy()
        total += float(w.sum(dtype=np.float64))
        positive += int(np.count_nonzero(w > 0))
        size_bits = np.abs(w).view(integer)
        nonzero = size_bits[size_bits != 0]
        counts[0] += size_bits.size - nonzero.size
        numbers = np.bincount((nonzero >> integer(bits)).astype(np.int64), minlength=size)
        numbers[1] += numbers[0]  # the smallest denormals with the next bin
        counts[1:] += numbers[1:]
    last = (exponents - 1) * PER_OCTAVE
    return counts[:last], int(counts[last:].sum()), total, positive


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    for row in tensor if tensor.dim() > 1 else tensor.split(PIECE):
        yield row.reshape(-1)


def _describe(
    low: Array, high: Array, middle: Array, times: Array, zeros: int, total: float, positive: int
) -> dict[str, Any]:
    n = float(times.sum())
    energy = np.cumsum(times * middle**2)
    rms = math.sqrt(float(energy[-1]) / n)
    fit = stable.fit(middle, counts=times)
    cdfs: dict[str, Callable[[Array], Array]] = {
        "stable": lambda x: 1 - 2 * stable.sf(x, fit.alpha, scale=fit.scale),
        "Gaussian": lambda x: erf(x / fit.alternatives["Gaussian"][1]["sd"] / math.sqrt(2)),
        "Laplace": lambda x: -np.expm1(-x / fit.alternatives["Laplace"][1]["scale"]),
        "Student-t": lambda x: (
            2 * stdtr(fit.alternatives["Student-t"][1]["df"], x / fit.alternatives["Student-t"][1]["scale"]) - 1
        ),
    }
    levels = {"stable": (fit.log_likelihood, {"alpha": fit.alpha, "scale": fit.scale})}
    levels |= {name: fit.alternatives[name] for name in ("Gaussian", "Laplace", "Student-t")}
    below = np.cumsum(times) / n
    before = below - times / n
    fits: dict[str, dict[str, Any]] = {
        name: {
            "log_likelihood": level / n,
            "ks": float(max(np.abs(cdfs[name](high) - below).max(), np.abs(cdfs[name](low) - before).max())),
            "parameters": {key: float(value) for key, value in values.items()},
        }
        for name, (level, values) in levels.items()
    }
    aic = {name: len(values) - level for name, (level, values) in levels.items()}
    best = min(aic, key=lambda name: aic[name]) if min(each["ks"] for each in fits.values()) <= MISFIT else None
    interval = {name: _interval(fit, name) for name in ("alpha", "scale")}
    mean = total / (n + zeros)
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    at = np.concatenate([at, 1 - np.geomspace(1 / (2 * QUANTILES), max(2 / n, 1e-6), 20)[1:]])
    return {
        "zero": zeros / (n + zeros),
        "rms": rms,
        "alpha": fit.alpha,
        "alpha_interval": interval["alpha"],
        "scale": fit.scale,
        "scale_interval": interval["scale"],
        "fits": fits,
        "best": best,
        "heavy_tailed": None if best is None else best in ("stable", "Student-t") and fit.alpha < LIGHT,
        "removable": {f"{100 * share:g}%": _removable(share, low, high, times, energy, zeros) for share in ENERGIES},
        "suggested": {
            "alpha": None if best is None else round(min(fit.alpha, 2.0), 2),
            "relative_scale": None if best is None else float(f"{fit.scale / rms:.3g}"),
        },
        "note": _note(best, mean, rms, positive, n, zeros),
        "histogram": _coarse(low, times, {name: cdfs[name] for name in ("stable", "Gaussian")}),
        "quantiles": {
            "found": np.interp(at, np.concatenate([[0.0], below]), np.concatenate([low[:1], high])).tolist(),
            **{
                name: quantile.tolist()
                for name, quantile in (
                    ("stable", stable.isf((1 - at) / 2, fit.alpha, scale=fit.scale)),
                    ("Gaussian", _interpolated(at, cdfs["Gaussian"], high)),
                )
            },
        },
    }


def _interval(fit: stable.Fit, name: str) -> list[float] | None:
    """Return the 95 % interval, or None on the edge of alpha."""
    ends = fit.interval(name)
    return None if any(math.isnan(end) for end in ends) else [float(end) for end in ends]


def _removable(share: float, low: Array, high: Array, times: Array, energy: Array, zeros: int) -> dict[str, float]:
    """Return the share of all weights that holds so much of the energy, and the threshold below which they lie."""
    wanted = share * float(energy[-1])
    index = int(np.searchsorted(energy, wanted))
    before = float(energy[index - 1]) if index else 0.0
    part = (wanted - before) / (float(energy[index]) - before)
    count = float(times[:index].sum()) + part * float(times[index])
    threshold = float(low[index] + part * (high[index] - low[index]))
    return {"share": (count + zeros) / (float(times.sum()) + zeros), "threshold": threshold}


def _note(best: str | None, mean: float, rms: float, positive: int, n: float, zeros: int) -> str:
    notes = [] if best is not None else [f"no law fits: the KS of each is above {MISFIT}"]
    if abs(mean) > 0.5 * rms or not 0.05 < positive / n < 0.95:
        notes.append(f"not centered at 0 (mean {mean:.3g}): the law is no prior of it")
    if zeros:
        notes.append(f"{zeros:,} exact zeros left out of the fit")
    return "; ".join(notes)


def _coarse(low: Array, times: Array, cdfs: Mapping[str, Callable[[Array], Array]]) -> dict[str, list[float]]:
    """Return the shares of the weights, and of the laws, by tenths of a decade of |w|, for a picture."""
    logs = np.log10(low)
    first, last = math.floor(10 * logs[0]), math.floor(10 * logs[-1]) + 1
    counts = np.bincount(np.floor(10 * logs).astype(int) - first, weights=times, minlength=last - first)
    edges = np.arange(first, first + len(counts) + 1) / 10
    laws = {name: np.diff(cdf(10.0**edges)).tolist() for name, cdf in cdfs.items()}
    return {"log10": edges.tolist(), "share": (counts / counts.sum()).tolist(), **laws}


def _interpolated(at: Array, cdf: Callable[[Array], Array], high: Array) -> Array:
    """Quantiles of |w| by interpolation of the distribution function."""
    x = np.concatenate([[0.0], np.geomspace(float(high[0]), 10 * float(high[-1]), 2000)])
    return np.interp(at, cdf(x), x)
