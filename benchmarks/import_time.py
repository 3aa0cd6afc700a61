"""Time of ``import softdiamond`` over ``import numpy``, and of its modules: python benchmarks/import_time.py [REPEATS].

Each figure is the median of fresh interpreters (after one that warms the file cache); all are in milliseconds. The
budget for the first row is 200 ms.
"""

import os
import platform
import statistics
import subprocess
import sys

# one line each: what is imported first, then what is timed
ROWS = [
    ("import numpy", "import softdiamond"),
    ("import numpy", "from softdiamond import stable"),
    ("import numpy", "from softdiamond import table"),
    ("import torch", "from softdiamond import SymmetricStable"),
    ("pass", "import numpy"),
    ("pass", "import torch"),
]


def milliseconds(first: str, timed: str) -> float:
    """Time of one import in a fresh interpreter."""
    program = f"import time\n{first}\nt = time.perf_counter()\n{timed}\nprint((time.perf_counter() - t) * 1e3)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def main(repeats: int = 11) -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, n = {repeats}")
    print(f"{'timed':42} {'over':14} {'median ms':>10} {'min':>8} {'max':>8}")
    for first, timed in ROWS:
        milliseconds(first, timed)
        times = [milliseconds(first, timed) for _ in range(repeats)]
        over = "-" if first == "pass" else first
        print(f"{timed:42} {over:14} {statistics.median(times):10.1f} {min(times):8.1f} {max(times):8.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
