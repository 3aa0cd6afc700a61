r"""The error map of `softdiamond.stable`: worst error of every function in every regime, against 50-digit arithmetic.

    python benchmarks/error_map.py [--points 6000] [--out sweep.csv] [--processes 2] [--seed 1] [--quick]

Points: two thirds of ``--points`` are a sweep over the whole domain, log-uniform in x; one third lies between the two
series, in the integral regimes; to them come about 1,100 hard places: just below and just above every switch, alpha
within 1e-16 ... 0.05 of 1 and of 2, x = 0, subnormals, 1e300 and the largest float. Each is evaluated twice by
``tests/reference/oracle.py`` (0.1 s a point; ``--quick``: once) and the rows go to ``--out``, in the columns of
tests/reference/rows.csv, as they are done; a second call computes only what is missing, so that a larger ``--points``
extends the sweep, and all that the file holds is measured. Point i depends on (seed, i) only.

How to read it: one line a function and regime, with the number of points, the largest error, its place, and the bound
that it must meet; a ``*`` marks a miss, and then the exit status is 1. Measures: pdf relative (below 1e-280, log pdf
relative); score, omega, sf (the worse of sf(x) and cdf(-x)) relative; curvature over \|curvature\| + omega;
dlogpdf_dalpha over max(1, \|value\|); quantile: cdf(ppf(p)) against p and sf(isf(q)) against q, relative. The line "not
normal" holds the results that are 0, subnormal or beyond the largest float: there one unit of the smallest subnormal
is granted besides, and an overflow must be inf.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import platform
import sys
import time
from functools import partial
from pathlib import Path

import mpmath
import numpy as np
import scipy
from mpmath import mpf

from softdiamond import stable
from softdiamond.stable import _ray, _series

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))
import make_rows
import oracle

BOUNDS = {
    "pdf": 1e-11,
    "score": 1e-9,
    "omega": 1e-9,
    "curvature": 1e-9,
    "sf": 1e-10,
    "dlogpdf_dalpha": 1e-8,
    "dlogpdf_dalpha, alpha > 1.999": np.inf,
    "quantile": 1e-10,
}
REGIMES = ("1 series at zero", "2 tail series", "3 contour", "4 ray", "5 closed form", "not normal")
TINY, LARGEST, LEAST = mpf(2) ** -1022, mpf(np.finfo(float).max), mpf(2) ** -1074

# --- points ----------------------------------------------------------------------------------------------------------

BELOW_ONE = 1 - 2.0**-53
BAND_EDGES = [float(np.nextafter(edge, to)) for edge in (1 - _ray.BAND, 1 + _ray.BAND) for to in (0, edge, 9)]
CROWDED = [BELOW_ONE, 1.0, 1 + 2.0**-52, 1 - 1e-12, 1 + 1e-12, 1 - 1e-5, 1 + 1e-5, *BAND_EDGES, 1.5, 1.8, 1.95]
CROWDED += [float(np.nextafter(1.8, 2)), 1.99, 1.999, 2 - 1e-6, 2 - 1e-12, 2 - 2.0**-51, 2 - 2.0**-52, 2.0]
SPARSE = [0.1, 0.11, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
SPARSE += [0.95, 0.97, 0.99, 0.999, 1 - 1e-8, 1 + 1e-8, 1.001, 1.01, 1.03, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 1.7]
SPARSE += [1.75, 1.85, 1.9, 1.97, 1.98, 2 - 1e-4, 2 - 1e-9, 2 - 1e-14]
EXTREMES = [0.0, 5e-324, 1e-310, 1e-300, 1e-150, 1e150, 1e300, float(np.finfo(float).max)]


def anywhere(seed: int, index: int) -> tuple[float, float]:
    """Point `index` of the sweep over the domain.

    alpha: half uniform in [0.1, 2], a quarter with |alpha - 1| log-uniform in 1e-16 ... 0.05 (either side), a quarter
    with 2 - alpha log-uniform in 1e-16 ... 0.1. log10 x: 10 % uniform in [-300, 300], 30 % in [-30, 10], 60 % in [-6, 3].
    """
    rng = np.random.default_rng([seed, index])
    alpha = some_alpha(rng)
    low, high = ((-300, 300), (-30, 10), (-6, 3))[rng.choice(3, p=[0.1, 0.3, 0.6])]
    return alpha, float(10 ** rng.uniform(low, high))


def between(seed: int, index: int) -> tuple[float, float]:
    """Point `index` of the sweep between the two series; alpha as in `anywhere`."""
    rng = np.random.default_rng([seed, index, 1])
    alpha = some_alpha(rng)
    return alpha, float(np.exp(rng.uniform(*span(alpha))))


def some_alpha(rng: np.random.Generator) -> float:
    kind = rng.random()
    if kind < 0.5:
        return float(rng.uniform(0.1, 2.0))
    if kind < 0.75:
        return float(1.0 + rng.choice([-1.0, 1.0]) * 10 ** rng.uniform(-16, np.log10(0.05)))
    return float(2.0 - 10 ** rng.uniform(-16, -1))


def span(alpha: float) -> tuple[float, float]:
    """Logarithms of the switch points of the two series."""
    at = np.array([alpha])
    return float(np.log(_series.zero_limit(at))[0]), float(_series.log_tail_limit(at)[0])


# of 7,000 alphas at nine places below the switch to the tail series, compared with that series (1.5e-12 in regime 3)
WORST_CURVATURE = (0.10609152288072018, 1.8499775385537295e-05)


def hard_places() -> list[tuple[float, float]]:
    places = [WORST_CURVATURE]
    for alpha in SPARSE + CROWDED:
        low, high = span(alpha)
        zero = float(_series.zero_limit(np.array([alpha]))[0])
        xs = [
            zero,
            float(np.nextafter(zero, np.inf)),
            np.exp(high) * (1 - 1e-12),
            np.exp(high) * (1 + 1e-12),
            *EXTREMES,
        ]
        if alpha in CROWDED:
            xs += list(np.exp(np.linspace(low, high, 14)[1:-1]))
        places += [(alpha, float(x)) for x in xs]
    return places


# --- high-precision rows ---------------------------------------------------------------------------------------------


def row_of(at: tuple[float, float], quick: bool) -> list[str]:
    """The row at `at`, or (alpha, x, message) where the oracle fails."""
    try:
        if not quick:
            return make_rows.csv_row(at)
        row = oracle.law(*at)
        return make_rows.format_row(row, row.error())
    except ArithmeticError as error:
        return [repr(at[0]), repr(at[1]), str(error)]


def read(path: Path) -> list[list[str]]:
    """The complete lines of an earlier run; one cut short is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [row for row in csv.reader(whole.splitlines()) if len(row) == len(make_rows.HEADER)][1:]


def extend(path: Path, points: list[tuple[float, float]], processes: int, quick: bool) -> None:
    """Append the rows of those points that the file lacks, in whatever order they are done."""
    finished = {(row[0], row[1]) for row in read(path)}
    todo = [at for at in dict.fromkeys(points) if (repr(at[0]), repr(at[1])) not in finished]
    started = time.monotonic()
    with path.open("a", newline="") as file, multiprocessing.Pool(processes) as pool:
        writer = csv.writer(file, lineterminator="\n")
        if not finished and not path.stat().st_size:
            writer.writerow(make_rows.HEADER)
        for row in pool.imap_unordered(partial(row_of, quick=quick), todo, chunksize=4):
            if len(row) == len(make_rows.HEADER):
                writer.writerow(row)
                file.flush()
            else:
                print("the oracle does not reach its target at", *row, file=sys.stderr)
    if todo:
        print(f"{len(todo)} new points in {time.monotonic() - started:.0f} s: {path}")


# --- errors ----------------------------------------------------------------------------------------------------------


def error(got: float, exact: mpf, size: mpf) -> tuple[float, bool]:
    """(|got - exact| / size, whether the result is normal), with a unit of the smallest subnormal granted if not."""
    if abs(exact) > LARGEST:
        return (0.0 if got == np.copysign(np.inf, float(exact)) else np.inf), False
    if not np.isfinite(got):
        return np.inf, size >= TINY
    apart = abs(mpf(got) - exact)
    if size >= TINY:
        return float(apart / size), True
    return float((apart - LEAST) / size) if apart > LEAST else 0.0, False


def errors_of(rows: list[list[str]]) -> list[tuple[str, str, float, float, float]]:
    """(function, regime, error, alpha, x) of every row and function that has a value there."""
    alpha, x = (np.array([float(row[i]) for row in rows]) for i in (0, 1))
    names = ("pdf", "logpdf", "score", "omega", "curvature", "sf", "dlogpdf_dalpha")
    got = {name: getattr(stable, name)(x, alpha) for name in names} | {"cdf": stable.cdf(-x, alpha)}
    closed, plain = regimes(alpha, x), regimes(alpha, x, cauchy=False)
    found = []
    for i, row in enumerate(rows):
        exact = {name: mpf(text) for name, text in zip(oracle.COLUMNS, row[2:], strict=False)}
        of_curvature = abs(exact["curvature"]) + exact["omega"]
        here = {name: float(values[i]) for name, values in got.items()}
        slow = exact["pdf"] < mpf("1e-280")
        checks = [(name, here[name], exact[name], abs(exact[name])) for name in ("pdf", "score", "omega", "sf")]
        if slow:
            checks.append(("pdf", here["logpdf"], exact["log_pdf"], abs(exact["log_pdf"])))
            if exact["pdf"] >= TINY:
                del checks[0]
        checks += [("sf", here["cdf"], exact["sf"], exact["sf"])]
        checks += [("curvature", here["curvature"], exact["curvature"], of_curvature)]
        by_alpha = exact["dlogpdf_dalpha"]
        if mpmath.isfinite(by_alpha):
            label = "dlogpdf_dalpha" if alpha[i] <= 1.999 else "dlogpdf_dalpha, alpha > 1.999"
            checks.append((label, here["dlogpdf_dalpha"], by_alpha, max(mpf(1), abs(by_alpha))))
        for name, value, true, size in checks:
            off, normal = error(value, true, size)
            regime = (plain if name.startswith("dlog") else closed)[i] if normal or size == 0 == true else "not normal"
            found.append((name, regime, off, alpha[i], x[i]))
    return found + quantile_errors(alpha, x)


def quantile_errors(alpha: np.ndarray, x: np.ndarray) -> list[tuple[str, str, float, float, float]]:
    """Errors of the round trips, at sf of the sweep's points and at as many random probabilities of both tails."""
    rng = np.random.default_rng(1)
    tails = 0.5 * 10 ** (-300 * rng.random(x.size) ** 3)
    alpha = np.tile(alpha, 3)
    q = np.concatenate([stable.sf(x, alpha[: x.size]), tails, rng.random(x.size)])
    keep = q >= np.finfo(float).tiny
    alpha, q = alpha[keep], q[keep]
    found = []
    for quantile, function, sign in ((stable.isf, stable.sf, 1), (stable.ppf, stable.cdf, -1)):
        at = quantile(q, alpha)
        beyond = np.isinf(at)  # right where even the largest float is exceeded with a probability above q
        back = np.where(beyond, np.minimum(q, function(sign * np.finfo(float).max, alpha)), function(at, alpha))
        regime = np.where(beyond, "not normal", regimes(alpha, np.abs(at)))
        found += [("quantile", *one) for one in zip(regime, np.abs(back - q) / q, alpha, at, strict=True)]
    return found


def regimes(alpha: np.ndarray, x: np.ndarray, cauchy: bool = True) -> np.ndarray:
    """Name of the regime that `softdiamond.stable._law` picks at each point."""
    with np.errstate(divide="ignore"):
        log_x = np.log(x)
    conditions = [
        x <= _series.zero_limit(alpha),
        (alpha == 2) | ((alpha == 1) & cauchy),
        log_x >= _series.log_tail_limit(alpha),
        np.abs(alpha - 1) <= _ray.BAND,
    ]
    return np.select(conditions, [REGIMES[i] for i in (0, 4, 1, 3)], REGIMES[2])


def report(rows: list[list[str]]) -> bool:
    """Print the map; whether every bound is met."""
    found = errors_of(rows)
    own = max(float(row[-2]) for row in rows)
    print(f"softdiamond.stable at {len(rows)} points, whose own error is at most {own:.1e}")
    print(f"NumPy {np.__version__}, SciPy {scipy.__version__}, mpmath {mpmath.__version__}, {platform.machine()}\n")
    print(f"{'function':30}{'regime':18}{'checks':>7}  {'worst':>8}  {'bound':>6}   place")
    good = True
    for name, bound in BOUNDS.items():
        for regime in REGIMES:
            errors = [one[2:] for one in found if one[:2] == (name, regime)]
            if not errors:
                continue
            worst, alpha, x = max(errors, key=lambda one: np.nan_to_num(one[0], nan=np.inf))
            missed = not worst <= bound
            good &= not missed
            limit = f"{bound:6.0e}" if bound < np.inf else "     -"
            place = f"alpha = {float(alpha)!r}, x = {x:.6g}"
            print(f"{name:30}{regime:18}{len(errors):7}  {worst:8.1e}  {limit} {'*' if missed else ' '} {place}")
    print("\nevery bound is met" if good else "\n* a bound is missed")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=6000, help="of the random sweep (default 6000: ten minutes)")
    parser.add_argument("--out", type=Path, default=Path("error_map.csv"), help="file of the high-precision rows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="evaluate once, which trusts each method's own bound")
    options = parser.parse_args()
    inner = options.points // 3
    points = hard_places() + [anywhere(options.seed, i) for i in range(options.points - inner)]
    points += [between(options.seed, i) for i in range(inner)]
    extend(options.out, points, options.processes, options.quick)
    raise SystemExit(0 if report(read(options.out)) else 1)


if __name__ == "__main__":
    main()
