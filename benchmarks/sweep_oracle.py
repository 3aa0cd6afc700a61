"""A random sweep of high-precision values of the law, for the error map of `softdiamond.stable`.

    python benchmarks/sweep_oracle.py --points 3000 --out sweep.csv [--processes 2] [--seed 1] [--quick]

Same columns as tests/reference/rows.csv. Rows are appended as they are done, in an order of their own; a second call
with the same `--out` and `--seed` computes only the points that are missing (a larger `--points` extends the sweep).
`--quick` evaluates once (bounds of the method itself) in place of twice.

Point i depends on (seed, i) only. alpha: half uniform in [0.1, 2], a quarter with |alpha - 1| log-uniform in
1e-16 ... 0.05 (either side), a quarter with 2 - alpha log-uniform in 1e-16 ... 0.1. log10 x: 10 % uniform in
[-300, 300], 30 % in [-30, 10], 60 % in [-6, 3].
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))
import make_rows
import oracle


def point(seed: int, index: int) -> tuple[float, float]:
    """(alpha, x) number `index` of the sweep; see the module's docstring."""
    rng = np.random.default_rng([seed, index])
    kind = rng.random()
    if kind < 0.5:
        alpha = rng.uniform(0.1, 2.0)
    elif kind < 0.75:
        alpha = 1.0 + rng.choice([-1.0, 1.0]) * 10 ** rng.uniform(-16, np.log10(0.05))
    else:
        alpha = 2.0 - 10 ** rng.uniform(-16, -1)
    low, high = ((-300, 300), (-30, 10), (-6, 3))[rng.choice(3, p=[0.1, 0.3, 0.6])]
    return float(alpha), float(10 ** rng.uniform(low, high))


def quick_row(at: tuple[float, float]) -> list[str]:
    """As `make_rows.csv_row`, from one evaluation."""
    row = oracle.law(*at)
    return make_rows.format_row(row, row.error())


def safe_row(at: tuple[float, float], quick: bool) -> list[str]:
    """The row at `at`, or (alpha, x, message) where the oracle fails."""
    try:
        return quick_row(at) if quick else make_rows.csv_row(at)
    except ArithmeticError as error:
        return [repr(at[0]), repr(at[1]), str(error)]


def done(path: Path) -> set[tuple[str, str]]:
    """(alpha, x) of the complete lines of an earlier run; a line cut short is removed from the file."""
    if not path.exists():
        return set()
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {(row[0], row[1]) for row in csv.reader(whole.splitlines()) if len(row) == len(make_rows.HEADER)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    finished = done(options.out)
    candidates = (point(options.seed, i) for i in range(options.points))
    todo = [at for at in candidates if (repr(at[0]), repr(at[1])) not in finished]
    started, failed, worst = time.monotonic(), 0, 0.0
    with options.out.open("a", newline="") as file, multiprocessing.Pool(options.processes) as pool:
        writer = csv.writer(file, lineterminator="\n")
        if not finished:
            writer.writerow(make_rows.HEADER)
        for row in pool.imap_unordered(partial(safe_row, quick=options.quick), todo, chunksize=4):
            if len(row) == len(make_rows.HEADER):
                writer.writerow(row)
                file.flush()
                worst = max(worst, float(row[-2]))
            else:
                failed += 1
                print("not reached:", *row, file=sys.stderr)
    seconds = time.monotonic() - started
    print(f"{len(todo)} new points in {seconds:.0f} s, {failed} not reached, largest error {worst:.1e}: {options.out}")


if __name__ == "__main__":
    main()
