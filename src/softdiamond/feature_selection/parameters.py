"""The parameters of an estimator, checked in one place when it is fitted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softdiamond.feature_selection.path import MAX_VISIBLE_FRACTION, MIN_SUBSET, subset_size

DEFAULT_STRENGTHS = np.geomspace(0.1, 32, 16)  # "auto", in units of the tail
REFERENCE_COLUMNS = 300  # up to so many columns the default strengths do not depend on their number
MIN_ROUNDS, MAX_ROUNDS = 4, 8  # of rounds "auto"
DEFAULT_BATCH = 64  # of batch_size "auto"

__all__ = ["DEFAULT_BATCH", "DEFAULT_STRENGTHS", "MIN_ROUNDS", "REFERENCE_COLUMNS", "check_parameters"]


def check_parameters(net: Any, columns: int) -> tuple[NDArray[np.float64], list[int], int, torch.device]:
    r"""Return strengths, hidden layers, rounds and device of an estimator for a table of so many columns.

    Of a norm r a strength s takes the share eta s (r_0 / r)^2 in a step where r is large beside the scale, in the law's tail, with
    r_0 the norm that a column starts with. That falls as 1 / sqrt(columns) (of one input each), so above `REFERENCE_COLUMNS` columns "auto"
    rises with their number, but for ridge, which has no tail. (Below, it does not fall: what small tables lack in columns they have
    in noise.)

    The more columns are reinitialized at once (``path``), the less easily a true one among them is found, so "auto" takes more rounds
    with random subsets larger than `MIN_SUBSET`, where these rounds take less time than the first. (Of 3,000 columns and 2,000 rows
    8 rounds found the five that count in three of three trials, 4 in two.)

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """
    if not _is_real(net.tail) or not 0.1 <= float(net.tail) <= 2:
        raise ValueError(f"tail must be a number in [0.1, 2]; got {net.tail!r}")
    auto = isinstance(net.strengths, str) and net.strengths == "auto"
    more = max(1.0, columns / REFERENCE_COLUMNS) if float(net.tail) < 2 else 1.0
    given = DEFAULT_STRENGTHS * float(net.tail) * more if auto else net.strengths
    try:
        strengths = np.unique(np.asarray(given, dtype=np.float64).ravel())
    except (TypeError, ValueError):
        strengths = np.array([np.nan])
    if not len(strengths) or not np.isfinite(strengths).all() or strengths[0] < 0:
        raise ValueError(f'strengths must be "auto" or one or more numbers, not negative; got {net.strengths!r}')
    sizes = net.hidden_layer_sizes
    hidden = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else [sizes]
    if not all(map(_is_count, hidden)):
        raise ValueError(f"hidden_layer_sizes must be positive integers; got {sizes!r}")
    for name in ("relative_scale", "learning_rate_init"):
        value = getattr(net, name)
        if not _is_real(value) or not 0 < float(value) < np.inf:
            raise ValueError(f"{name} must be positive and finite; got {value!r}")
    if not _is_count(net.max_iter):
        raise ValueError(f"max_iter must be a positive integer; got {net.max_iter!r}")
    size = subset_size(columns, len(strengths))
    larger = max(1.0, size / MIN_SUBSET) if size <= MAX_VISIBLE_FRACTION * columns else 1.0
    auto = isinstance(net.rounds, str) and net.rounds == "auto"
    rounds = min(1 + math.ceil((MIN_ROUNDS - 1) * larger), MAX_ROUNDS) if auto else net.rounds
    if not _is_count(rounds):
        raise ValueError(f'rounds must be "auto" or a positive integer; got {net.rounds!r}')
    if net.batch_size != "auto" and not _is_count(net.batch_size):
        raise ValueError(f'batch_size must be "auto" or a positive integer; got {net.batch_size!r}')
    if not _is_real(net.validation_fraction) or not 0 < float(net.validation_fraction) < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1; got {net.validation_fraction!r}")
    for name in ("refit", "early_stopping"):
        if not isinstance(getattr(net, name), bool | np.bool_):
            raise ValueError(f"{name} must be True or False; got {getattr(net, name)!r}")
    return strengths, [int(size) for size in hidden], int(rounds), _checked_device(net.device)


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _checked_device(given: Any) -> torch.device:
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError):
        raise ValueError(f'device must be one that torch knows, such as "cpu" or "cuda"; got {given!r}') from None
    module = getattr(torch, device.type, None)
    there = device.type == "cpu" or (module is not None and hasattr(module, "is_available") and module.is_available())
    if not there:
        raise ValueError(f'device {given!r} is not available here; "cpu" is')
    return device
