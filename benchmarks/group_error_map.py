"""The error map of the law of a group (`softdiamond.stable.group_omega` ...): worst error in every regime, against mpmath.

    python benchmarks/group_error_map.py [--seconds 600] [--seed 1] [--patience 10]

Random alpha (half uniform in [0.1, 2], the rest from a list that is dense near 1 and 2), d (from a list of powers and odd
numbers) and r (log-uniform, most between the two series), for ``--seconds``. The truth is `group_oracle.mellin` of
tests/reference in 25 digits, about 1 s a point; points that take it longer than ``--patience`` are counted and left out.

How to read it: penalty and omega relative, curvature over |curvature| + omega; the largest error, its place, the points.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import mpmath as mp
import numpy as np

from softdiamond import stable
from softdiamond.stable import group_law

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))
import group_oracle as oracle

ALPHAS = (
    0.1,
    0.11,
    0.2,
    0.3,
    0.5,
    0.7,
    0.9,
    0.999,
    1 - 1e-6,
    1 + 1e-6,
    1.01,
    1.3,
    1.5,
    1.8,
    1.9,
    1.99,
    1.9999,
    2 - 1e-8,
)
DIMENSIONS = (1, 2, 3, 4, 5, 8, 16, 25, 64, 100, 256, 576, 1000, 4096, 10_000, 65_536)
REGIMES = ("series at zero", "tail series", "mixture integral")


def some_point(rng: np.random.Generator) -> tuple[float, int, float, str]:
    alpha = float(rng.choice(ALPHAS)) if rng.random() < 0.5 else rng.uniform(0.1, 2.0)
    d = int(rng.choice(DIMENSIONS))
    law = group_law.unit_law(alpha, d)
    low, high = law.log_zero_limit, law.log_tail_limit
    log_r = low + rng.uniform(-0.15, 1.15) * (high - low)
    regime = REGIMES[0] if log_r <= low else REGIMES[1] if log_r >= high else REGIMES[2]
    return alpha, d, float(np.exp(log_r)), regime


def truth(alpha: float, d: int, r: float) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
    penalty, omega = oracle.penalty_omega(r, alpha, d, 25)
    above = oracle.penalty_omega(r, alpha, d + 2, 25)[1]
    with mp.workdps(30):
        return penalty, omega, omega + mp.mpf(r) ** 2 * omega * (omega - above)


def late(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=int, default=10)
    options = parser.parse_args()
    rng, end, left_out = np.random.default_rng(options.seed), time.monotonic() + options.seconds, 0
    names = ("penalty", "omega", "curvature")
    worst = {(regime, name): (0.0, ()) for regime in REGIMES for name in names}
    count = dict.fromkeys(REGIMES, 0)
    signal.signal(signal.SIGALRM, late)
    while time.monotonic() < end:
        alpha, d, r, regime = some_point(rng)
        try:
            signal.alarm(options.patience)
            true = truth(alpha, d, r)
        except (TimeoutError, ArithmeticError):
            left_out += 1
            continue
        finally:
            signal.alarm(0)
        count[regime] += 1
        for name, value in zip(names, true, strict=True):
            size = abs(value) + (true[1] if name == "curvature" else 0)
            error = float(abs(mp.mpf(float(getattr(stable, f"group_{name}")(r, alpha, d))) - value) / size)
            if error >= worst[regime, name][0]:
                worst[regime, name] = error, (alpha, d, r)
    print(f"{'regime':18}{'points':>7}  " + "".join(f"{name:>10}" for name in names))
    for regime in REGIMES:
        print(f"{regime:18}{count[regime]:7}  " + "".join(f"{worst[regime, name][0]:10.1e}" for name in names))
    for place, (error, at) in worst.items():
        print(f"  {' '.join(place)}: {error:.1e} at {at}")
    print(f"{left_out} points left out")


if __name__ == "__main__":
    main()
