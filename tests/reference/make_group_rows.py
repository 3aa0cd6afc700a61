"""Write group_rows.csv, the frozen high-precision rows of the law of a group of d weights (unit scale).

    python tests/reference/make_group_rows.py [--processes 2] [--out tests/reference/group_rows.csv] [--seconds 20]

Columns: `alpha`, `d`, `r` (float64 by repr); decimal strings of 20 digits: `penalty` log p_d(0) - log p_d(r), `omega`,
`curvature` omega + r omega'(r), by omega' = r omega_d (omega_d - omega_(d+2)); `error`, relative for penalty and omega, the
disagreement of two evaluations and the rounding; `method`: `mellin` with `mixture` or `hankel` where one of these can,
otherwise `mellin` with itself, 12 digits longer. Points whose evaluation takes longer than ``--seconds`` are left out
(a few near alpha = 2 at large d). mpmath 1.3.0; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import signal
import sys
from pathlib import Path

import mpmath as mp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import group_oracle as oracle

DIGITS = 20
ALPHAS = (0.1, 0.3, 0.5, 0.9, 0.999, 1.0, 1.001, 1.5, 1.9, 1.9999, 2 - 1e-9)
DIMENSIONS = (1, 2, 3, 9, 64, 4096, 65536)
RADII = (1e-6, 0.03, 0.4, 1.0, 3.0, 1e4)  # in units of the crossover radius sqrt((d + alpha) / omega(0))
HEADER = ("alpha", "d", "r", "penalty", "omega", "curvature", "error", "method")


def points() -> list[tuple[float, int, float]]:
    """(alpha, d, r) of every row, in the file's order."""
    found = []
    for alpha in ALPHAS:
        for d in DIMENSIONS:
            log_omega = math.lgamma((d + 2) / alpha) - math.lgamma(d / alpha) - math.log(d)
            crossover = math.exp((math.log(d + alpha) - log_omega) / 2)
            found += [(alpha, d, float(f"{crossover * radius:.3g}")) for radius in RADII]
    return found


def second(alpha: float, d: int, r: float, omega: mp.mpf) -> tuple[mp.mpf, str]:
    """Omega by another method where there is one, or by more digits."""
    if d in (2, 3) and alpha >= 0.5 and 0.1 < r < 30:
        return oracle.hankel(r, alpha, d)[1], "mellin hankel"
    log_reach = math.log(r * r * omega / (d + alpha))  # 0 in the tail, where the sum is long
    if d <= 64 and 0.3 <= alpha <= 1.5 and abs(log_reach) < 3:
        return oracle.mixture(r, alpha, d, 18)[1], "mellin mixture"
    return oracle.penalty_omega(r, alpha, d, 37)[1], "mellin"


def csv_row(job: tuple[float, int, float, int]) -> list[str] | None:
    """One line of the file, or None where it takes too long."""
    alpha, d, r, seconds = job

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        penalty, omega = oracle.penalty_omega(r, alpha, d, 25)
        above = oracle.penalty_omega(r, alpha, d + 2, 25)[1]
        other, method = second(alpha, d, r, omega)
    except (TimeoutError, ArithmeticError):
        return None
    finally:
        signal.alarm(0)
    with mp.workdps(30):
        curvature = omega + mp.mpf(r) ** 2 * omega * (omega - above)
        error = float(abs(other / omega - 1)) + 10.0 ** (1 - DIGITS)
        numbers = [mp.nstr(value, DIGITS) for value in (penalty, omega, curvature)]
    return [repr(alpha), str(d), repr(r), *numbers, f"{error:.1e}", method]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("group_rows.csv"))
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    with multiprocessing.Pool(options.processes) as pool:
        rows = pool.map(csv_row, [(*point, options.seconds) for point in points()], chunksize=4)
    done = [row for row in rows if row is not None]
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(done)
    print(f"{len(done)} of {len(rows)} rows, largest error {max(float(row[-2]) for row in done):.1e}: {options.out}")


if __name__ == "__main__":
    main()
