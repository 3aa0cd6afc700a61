"""Speed of `SymmetricStable.log_prob` through the table beside `torch.distributions.StudentT.log_prob`.

    python benchmarks/log_prob.py [--points 5000000] [--rounds 9] [--no-compile]

One thread, CPU time, float32; x is a sample of the stable law. Eager, both laws validate their samples, torch's default
(said explicitly: the first ``torch.compile`` of a process turns that default off); compiled, neither does. The four
contestants (ours and StudentT, eager and under ``torch.compile``) take turns, and each ratio is the median of the ratios
of neighbours in time, so that a busy machine slows both sides alike. Everything is measured twice: with the C library's
allocator as it is, which returns 20 MB results to the system or not as it happens, so that StudentT eager takes
anything from one to four times its best; and ("kept", Linux) with memory kept by the process, which repeats well and
is the hardest comparison for us.

How to read it: milliseconds a call, then the ratio to StudentT eager (the requirement is at most 4, the aim 1.5) and,
for the compiled ones, to StudentT compiled. "backward" is forward plus backward of the sum, with a gradient in x.
Then the tables themselves: time to build one (no cache), its size, and its certificate, the largest errors measured.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch.distributions import StudentT

from softdiamond import SymmetricStable
from softdiamond.table import Table

LAWS = {"ours": SymmetricStable, "StudentT": StudentT}
ALPHAS = (0.5, 1.0, 1.5)
TABLE_ALPHAS = (0.1, 0.3, 0.5, 0.8, 1.0, 1.2, 1.5, 1.8, 1.9, 1.99, 1.999999, 2.0)


def passes(log_prob: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward with backward."""

    def forward() -> None:
        with torch.no_grad():
            log_prob(x)

    leaf = x.clone().requires_grad_()

    def both() -> None:
        leaf.grad = None
        log_prob(leaf).sum().backward()

    return {"forward": forward, "backward": both}


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round; all take turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append((time.process_time() - started) * 1e3)
    return {name: taken[1:] for name, taken in times.items()}


def ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def keep_memory() -> bool:
    """Have the C library keep freed memory, from now on; whether it can."""
    trim_threshold, mmap_threshold, size = -1, -3, 2**30
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(change(mmap_threshold, size) and change(trim_threshold, size))


def speed(points: int, rounds: int, with_compile: bool, memory: str) -> None:
    print(f"log_prob of {points} float32, ms a call (medians of {rounds} rounds), memory {memory}\n")
    names = ("ours", "StudentT") + (("ours compiled", "StudentT compiled") if with_compile else ())
    print(f"{'alpha':>5} {'pass':9}" + "".join(f"{name:>19}" for name in names), end="")
    print(f"{'ratio, eager':>14}" + (f"{'compiled/eager':>16}{'both compiled':>15}" if with_compile else ""))
    for alpha in ALPHAS:
        x = SymmetricStable(alpha).sample((points,)).float()
        laws = {name: law(alpha, validate_args=True).log_prob for name, law in LAWS.items()}
        if with_compile:
            torch.compiler.reset()  # a program for each alpha
            for name, law in LAWS.items():
                laws[f"{name} compiled"] = torch.compile(law(alpha, validate_args=False).log_prob, fullgraph=True)
        prepared = {name: passes(law, x) for name, law in laws.items()}
        for kind in ("forward", "backward"):
            taken = in_turns({name: prepared[name][kind] for name in names}, rounds)
            line = f"{alpha:5} {kind:9}" + "".join(f"{statistics.median(taken[name]):19.1f}" for name in names)
            line += f"{ratio(taken['ours'], taken['StudentT']):14.2f}"
            if with_compile:
                line += f"{ratio(taken['ours compiled'], taken['StudentT']):16.2f}"
                line += f"{ratio(taken['ours compiled'], taken['StudentT compiled']):15.2f}"
            print(line, flush=True)


def tables(rounds: int) -> None:
    print(f"\ntables: time to build (median of {rounds}), size, certificate (omega and curvature, the larger)\n")
    print(
        f"{'alpha':>10}{'build ms':>10}{'KiB':>7}{'cells':>12}{'float32':>10}{'penalty':>10}{'float64':>10}{'penalty':>10}"
    )
    for alpha in TABLE_ALPHAS:
        times = []
        for _ in range(rounds):
            started = time.process_time()
            table = Table.build(alpha)
            times.append((time.process_time() - started) * 1e3)
        cells = f"{len(table.single.rows)}+{len(table.double.rows)}"
        line = f"{alpha:10}{statistics.median(times):10.0f}{table.nbytes / 1024:7.0f}{cells:>12}"
        for errors in (table.certificate["float32"], table.certificate["float64"]):
            line += f"{max(errors['omega'], errors['curvature']):10.1e}{errors['penalty']:10.1e}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread\n")
    speed(options.points, options.rounds, not options.no_compile, "as the allocator has it")
    if keep_memory():
        print()
        speed(options.points, options.rounds, not options.no_compile, "kept")
    tables(3)


if __name__ == "__main__":
    main()
