"""Whether a fit has enough memory: an estimate of what it allocates, against what the machine has free."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["check_memory", "required_bytes"]


def required_bytes(rows: int, sizes: Sequence[int], networks: int, batch: int, folds: int = 1, at_once: int = 1) -> int:
    """Bytes of a fit: the table once in float64; of each fold in training the table twice in float32, the weights and a batch.

    Each weight counts seven times: the weights with their gradient and the two moments of Adam, the best of the path, the next
    round's start, and one more while columns are tried. A batch has the outputs of all layers of each network, and a quarter of the
    inputs, which each may have of its own. A fold that is done keeps the best of its path. The processes of folds that are trained
    at once share the float64 table.
    """
    table, weights = rows * sizes[0], networks * sum(a * b + b for a, b in itertools.pairwise(sizes))
    shown = 4 * networks * batch * (sizes[0] // 4 + sum(sizes[1:]))
    return 8 * table + at_once * (8 * table + 28 * weights + shown) + (folds - at_once) * 4 * weights


def available_bytes(device: torch.device) -> int | None:
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


def check_memory(
    rows: int, sizes: Sequence[int], networks: int, batch: int, folds: int, at_once: int, device: torch.device
) -> None:
    """Refuse a fit that does not fit: ``folds`` of them, ``at_once`` trained side by side.

    Raises
    ------
    MemoryError
        Before anything is allocated.
    """
    wanted, free = required_bytes(rows, sizes, networks, batch, folds, at_once), available_bytes(device)
    many = f" in {folds} folds, {at_once} at once," if folds > 1 else ""
    if free is not None and wanted > free:
        raise MemoryError(
            f"{rows} rows of {sizes[0]} inputs with {networks} strengths{many} need about {wanted / 2**30:.1f} GiB and {device} "
            f"has {free / 2**30:.1f} GiB free: give fewer strengths, a narrower first layer, a smaller batch, or fewer columns"
            + (", or fewer folds or n_jobs" if folds > 1 else "")
        )
