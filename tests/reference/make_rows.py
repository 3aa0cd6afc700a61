"""Write rows.csv, the frozen high-precision rows of the symmetric alpha-stable law (unit scale, x >= 0).

    python tests/reference/make_rows.py [--processes 2] [--out tests/reference/rows.csv]

Columns:
- `alpha`, `x`: float64, written by repr (the shortest decimal that reads back to the same float);
- decimal strings of 30 significant digits: `log_pdf`, `pdf` f(x), `score` f'/f, `omega` -f'/(x f) (at 0 its limit),
  `curvature` -(log f)'', `sf` P(X > x), `central` P(0 < X < x), `dlogpdf_dalpha` d log f / d alpha (at alpha = 2 the
  left derivative);
- `error`, one bound for the whole row: relative for pdf, score, omega, sf, central; absolute for log_pdf; curvature
  over |curvature| + omega; dlogpdf_dalpha over max(1, |dlogpdf_dalpha|);
- `method`: which two evaluations agreed.

Numbers keep their own exponents: many are outside float64, where float() gives the 0 or inf that is wanted. At
alpha = 2, beyond x = 2000, pdf and sf are written 0 and dlogpdf_dalpha -inf (log_pdf, score, omega and curvature
stay exact).

Made by `oracle.verified_law`: two evaluations (two methods wherever two reach the target, otherwise one method with
another precision and length, or another angle), 32 digits demanded; `error` covers both bounds, their disagreement
and the rounding to 30 digits.
mpmath 1.3.0; about a minute.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

from mpmath import mp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import oracle

DIGITS = 30
HEADER = ("alpha", "x", *oracle.COLUMNS, "error", "method")

TINY = 2.0**-52
ALPHAS_SMALL = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ALPHAS_NEAR_1 = (
    0.9,
    0.95,
    0.99,
    0.999,
    1 - 1e-6,
    1 - 1e-12,
    1 - TINY / 2,
    1.0,
    1 + TINY,
    1 + 1e-12,
    1 + 1e-6,
    1.001,
    1.01,
    1.05,
    1.1,
)
ALPHAS_MIDDLE = (1.2, 1.3, 1.5, 1.7)
ALPHAS_NEAR_2 = (1.8, 1.9, 1.95, 1.99, 1.999, 2 - 1e-6, 2 - 1e-12, 2 - TINY, 2.0)

X_SMALL = (
    0.0,
    1e-300,
    1e-100,
    1e-30,
    1e-20,
    1e-15,
    1e-10,
    1e-7,
    1e-5,
    1e-3,
    0.03,
    0.3,
    1.0,
    3.0,
    100.0,
    1e5,
    1e30,
    1e300,
)
X_NEAR_1 = (0.0, 1e-300, 1e-10, 1e-3, 0.03, 0.3, 0.7, 0.9, 1.0, 1.1, 1.4, 3.0, 10.0, 100.0, 1e5, 1e300)
X_MIDDLE = (0.0, 1e-300, 1e-10, 1e-3, 0.03, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0, 1e5, 1e300)
X_NEAR_2 = (
    0.0,
    1e-300,
    1e-10,
    1e-3,
    0.3,
    1.0,
    2.0,
    3.0,
    5.0,
    7.0,
    10.0,
    12.0,
    15.0,
    20.0,
    27.0,
    40.0,
    100.0,
    1e5,
    1e300,
)
GRID = ((ALPHAS_SMALL, X_SMALL), (ALPHAS_NEAR_1, X_NEAR_1), (ALPHAS_MIDDLE, X_MIDDLE), (ALPHAS_NEAR_2, X_NEAR_2))


def points() -> Iterator[tuple[float, float]]:
    """(alpha, x) of every row, in the file's order."""
    for alphas, xs in GRID:
        for alpha in alphas:
            for x in xs:
                yield alpha, x


def csv_row(point: tuple[float, float]) -> list[str]:
    """One line of the file at (alpha, x), evaluated twice."""
    return format_row(*oracle.verified_law(*point))


def format_row(row: oracle.Law, error: float) -> list[str]:
    """The line of a law whose measured error is `error`, as strings; see the module's docstring."""
    columns = row.columns()
    error += 5 * 10.0**-DIGITS  # rounding to DIGITS
    with mp.workdps(DIGITS + 10):
        numbers = [mp.nstr(columns[name], DIGITS) for name in oracle.COLUMNS]
    return [repr(row.alpha), repr(row.x), *numbers, f"{error:.1e}", row.method]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("rows.csv"))
    options = parser.parse_args()
    with multiprocessing.Pool(options.processes) as pool:
        rows = pool.map(csv_row, list(points()), chunksize=4)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)
    print(f"{len(rows)} rows, largest error {max(float(row[-2]) for row in rows):.1e}: {options.out}")


if __name__ == "__main__":
    main()
