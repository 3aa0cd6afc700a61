"""Speed of `softdiamond.stable` beside SciPy, levy-stable and Pyro; accuracy near zero; memory.

    python benchmarks/law.py [--points 100000] [--rounds 7] [--memory-points 1000000] [--groups]

One thread, CPU time (so that a busy machine disturbs little). Rivals: ``scipy.stats.levy_stable.logpdf``;
``levy.logpdf`` (pip install levy-stable: interpolates a table, refuses alpha < 0.5);
``pyro.distributions.StableWithLogProb.log_prob`` (pip install pyro-ppl, float64, its numerical integrator); ``-`` where one
is not installed. Rivals are timed on fewer points, shown in the head of their column.

How to read it: microseconds a point, medians of rounds in which all take turns. "draws": x is a sample of the law
itself; "integral": x is log-uniform between the two series, where every point costs an integral, the worst case.
"times SciPy" is the ratio to SciPy in the same rows of the same run; the requirement is at most 2 us a point and a
ratio of at least 20 (5 at alpha 0.5) on the draws. Near zero the score of an alternative, which has none, is the
central difference of its log-density over +-10 %; errors are relative, against tests/reference/oracle.py; 1 means
that the density is flat there. Memory is the peak of what the call allocates (tracemalloc), the result included; the
work is cut into blocks, so it does not grow with the number of points, but for the result. Groups (``--groups``: these alone):
norms log-uniform between the two series, where every one costs an integral, and the seconds to build a table.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import scipy
import scipy.stats

from softdiamond import stable, table
from softdiamond.stable import _series, group_law

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))

ALPHAS = (0.5, 0.8, 1.2, 1.5, 1.9)
Logpdf = Callable[[np.ndarray, float], np.ndarray]


def alternatives() -> dict[str, tuple[Logpdf, int]]:
    """By name: an alternative's logpdf(x, alpha) and on how many points to time it; those that can be imported."""
    found: dict[str, tuple[Logpdf, int]] = {"SciPy": (lambda x, a: scipy.stats.levy_stable.logpdf(x, a, 0.0), 2000)}
    try:
        import levy

        found["levy-stable"] = (lambda x, a: levy.logpdf(x, alpha=a, beta=0.0), 100_000)
    except ImportError:
        pass
    try:
        import torch
        from pyro.distributions import StableWithLogProb

        torch.set_num_threads(1)

        def pyro_logpdf(x: np.ndarray, alpha: float) -> np.ndarray:
            law = StableWithLogProb(torch.tensor(alpha, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
            return law.log_prob(torch.from_numpy(x)).numpy()

        found["Pyro"] = (pyro_logpdf, 10_000)
    except ImportError:
        pass
    return found


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, over rounds in which all take turns, after one that is not counted."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(all_but_first[1:]) for name, all_but_first in times.items()}


def places(kind: str, alpha: float | np.ndarray, n: int) -> np.ndarray:
    """The points of a row of the tables; shuffled, so that a part of them is like the whole."""
    rng = np.random.default_rng(7)
    if kind == "draws":
        return stable.rvs(alpha, size=n, rng=rng)
    at = np.atleast_1d(np.asarray(alpha, dtype=float))
    low, high = np.log(_series.zero_limit(at)), _series.log_tail_limit(at)
    return np.exp(rng.uniform(low, high, size=n))


def speed_beside_alternatives(points: int, rounds: int) -> None:
    others = alternatives()
    names = ("SciPy", "levy-stable", "Pyro")
    sizes = {name: min(points, others[name][1]) if name in others else 0 for name in names}
    print(f"logpdf of one alpha, us a point ({points} points; alternatives: as shown)\n")
    head = "".join(f"{f'{name} ({sizes[name]})' if name in others else name:>22}" for name in names)
    print(f"{'alpha':>5} {'x':10}{'softdiamond':>12}{head}{'times SciPy':>13}")
    for kind in ("draws", "integral"):
        for alpha in ALPHAS:
            x = places(kind, alpha, points)
            calls = {"ours": partial(stable.logpdf, x, alpha)}
            calls |= {name: partial(logpdf, x[: sizes[name]], alpha) for name, (logpdf, _) in others.items()}
            taken = in_turns(calls, rounds)
            cost = {name: taken[name] / sizes[name] * 1e6 for name in others}
            ours = taken["ours"] / points * 1e6
            line = "".join(f"{cost[name]:22.3f}" if name in cost else f"{'-':>22}" for name in names)
            print(f"{alpha:5} {kind:10}{ours:12.3f}{line}{cost['SciPy'] / ours:13.0f}", flush=True)


def speed_of_the_rest(points: int, rounds: int) -> None:
    print(f"\nevery function, us a point ({points} points, draws); mixed: {points // 10} points, as many alphas\n")
    names = ("logpdf", "score", "omega", "curvature", "sf", "dlogpdf_dalpha", "ppf")
    print(f"{'alpha':>7}" + "".join(f"{name:>16}" for name in names))
    mixed = np.random.default_rng(3).uniform(0.1, 2.0, points // 10)
    for label, alpha in [*((f"{a}", a) for a in (0.5, 1.0, 1.01, 1.5, 1.9)), ("mixed", mixed)]:
        n = points if np.ndim(alpha) == 0 else alpha.size
        x = places("draws", alpha, n)
        p = np.random.default_rng(5).random(n)
        calls = {name: partial(getattr(stable, name), p if name == "ppf" else x, alpha) for name in names}
        taken = in_turns(calls, max(1, rounds // 2))
        print(f"{label:>7}" + "".join(f"{taken[name] / n * 1e6:16.3f}" for name in names), flush=True)


def speed_of_groups(points: int, rounds: int) -> None:
    print(f"\nlaw of a group, us a norm between the two series ({points} norms), and seconds to build its table\n")
    names = ("group_penalty", "group_omega", "group_curvature")
    print(f"{'alpha':>7}{'d':>7}" + "".join(f"{name:>17}" for name in names) + f"{'table, s':>10}{'KiB':>6}")
    for alpha in (0.1, 0.5, 0.9, 1.01, 1.5, 1.9, 1.9999):
        for d in (2, 64, 4096, 65536):
            law = group_law.unit_law(alpha, d)
            r = np.exp(np.random.default_rng(7).uniform(law.log_zero_limit, law.log_tail_limit, points))
            taken = in_turns({name: partial(getattr(stable, name), r, alpha, d) for name in names}, rounds)
            started = time.process_time()
            size = table.Table.build(alpha, d).nbytes
            line = "".join(f"{taken[name] / points * 1e6:17.1f}" for name in names)
            print(f"{alpha:7}{d:7}{line}{time.process_time() - started:10.2f}{size / 1024:6.0f}", flush=True)


def speed_of_fit(points: int) -> None:
    print(f"\nfit of {points} draws (scale 0.01), seconds\n")
    for alpha in (0.5, 1.0, 1.5):
        x = stable.rvs(alpha, size=points, rng=11, scale=0.01)
        for loc in (0.0, "free"):
            started = time.process_time()
            result = stable.fit(x, loc=loc)
            taken = time.process_time() - started
            away = (result.alpha - alpha) / result.errors["alpha"]
            print(f"alpha {alpha}, loc {loc!s:5} {taken:6.2f} s   alpha-hat {result.alpha:.5f} ({away:+.1f} errors)")


def accuracy_near_zero() -> None:
    try:
        import oracle
    except ImportError:
        print("\naccuracy near zero: needs mpmath")
        return
    others = alternatives()
    names = ["softdiamond", *others]
    print("\nrelative error of the score near zero (alternatives: central difference of logpdf over x +- 10 %)\n")
    print(f"{'alpha':>5}{'x':>9}" + "".join(f"{name:>14}" for name in names))
    for alpha in ALPHAS:
        for x in (1e-4, 1e-3, 1e-2, 0.1):
            exact = float(oracle.law(alpha, x).columns()["score"])
            high, low = 1.1 * x, 0.9 * x
            step = high - low
            mean = float(
                (oracle.law(alpha, high).columns()["log_pdf"] - oracle.law(alpha, low).columns()["log_pdf"]) / step
            )
            errors = [abs(float(stable.score(x, alpha)) / exact - 1)]
            for logpdf, _ in others.values():
                upper, lower = logpdf(np.array([high, low]), alpha)
                errors.append(abs((upper - lower) / step / mean - 1))
            print(f"{alpha:5}{x:9.0e}" + "".join(f"{e:14.1e}" for e in errors))


def memory(points: int) -> None:
    print(f"\nmemory at {points} points of mixed alpha, MiB (the limit at 10 million: 1024)\n")
    print(f"{'function':>16}{'peak':>8}{'of it the result':>18}{'seconds':>9}")
    rng = np.random.default_rng(2)
    alpha, x = rng.uniform(0.1, 2.0, points), np.exp(rng.normal(size=points))
    for name in ("logpdf", "curvature"):
        tracemalloc.start()
        started = time.process_time()
        out = getattr(stable, name)(x, alpha)
        taken = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{name:>16}{peak / 2**20:8.0f}{out.nbytes / 2**20:18.0f}{taken:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fit-points", type=int, default=1_000_000)
    parser.add_argument("--memory-points", type=int, default=1_000_000)
    parser.add_argument("--groups", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the alternatives
    print(
        f"NumPy {np.__version__}, SciPy {scipy.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
    print(f"one thread of {os.cpu_count()}\n")
    if options.groups:
        speed_of_groups(options.points, options.rounds)
        return
    speed_beside_alternatives(options.points, options.rounds)
    accuracy_near_zero()
    speed_of_the_rest(options.points, options.rounds)
    speed_of_groups(options.points // 10, options.rounds)
    speed_of_fit(options.fit_points)
    memory(options.memory_points)


if __name__ == "__main__":
    main()
