"""Whether a fit has room: an estimate of what it allocates, beside what the machine has."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["check_room", "needed"]


def needed(rows: int, inputs: int, sizes: Sequence[int], networks: int) -> int:
    """Bytes of a fit: the table twice in float32 and once in float64, and each weight seven times.

    The seven are the weights with their gradient and the two moments of Adam, the best of the path, the next round's start,
    and one more while columns are tried.
    """
    weights = sum(a * b + b for a, b in itertools.pairwise(sizes))
    return 16 * rows * inputs + 28 * networks * weights


def available(device: torch.device) -> int | None:
    """Bytes free on a device, None where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_room(rows: int, inputs: int, sizes: Sequence[int], networks: int, device: torch.device) -> None:
    """Refuse a fit that does not fit.

    Raises
    ------
    MemoryError
        Before anything is allocated.
    """
    wanted, free = needed(rows, inputs, sizes, networks), available(device)
    if free is not None and wanted > free:
        raise MemoryError(
            f"{rows} rows of {inputs} inputs with {networks} strengths need about {wanted / 2**30:.1f} GiB and {device} has "
            f"{free / 2**30:.1f} GiB free: give fewer strengths, a narrower first layer, or fewer columns"
        )
