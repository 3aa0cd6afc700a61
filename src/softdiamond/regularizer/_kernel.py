"""Steps of float32 weights on the CPU in one pass, compiled by numba; imported only where numba is there.

The implicit step of each weight, the norms of groups that are given by labels, and what these take from the weights. The same
arithmetic as the eager operations of ``_steps``, which torch may fuse: results agree to the last place. Compiled code does not
look where an array ends: `softdiamond.regularizer._records.WeightGroups` sees to it that there is a label for each value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def _bits_of(typing_context: Any, x: Any) -> Any:
    """Bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@njit(cache=True, nogil=True, error_model="numpy")
def _decay(weights: Any, table: Any, steepness: Any, shift: Any, first: Any, last: Any) -> None:
    for i in range(weights.size):
        w = weights[i]
        cell = min(max(_bits_of(steepness * w * w) >> shift, first), last)  # type: ignore[call-arg]
        weights[i] = w - w * table[cell]


def decay_(weights: Any, table: Any, steepness: float, shift: int, first: int, last: int) -> None:
    """Decay a flat float32 array in place by the table of `softdiamond.regularizer._steps.Decays`."""
    _decay(weights, table, np.float32(steepness), np.int32(shift), np.int32(first), np.int32(last))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_squares(values: Any, labels: Any, sums: Any) -> None:
    if values.size == 0:
        return
    label, total = labels[0], 0.0  # of neighbours with one label: their sum stays in a register
    for i in range(values.size):
        if labels[i] != label:
            sums[label] += total
            label, total = labels[i], 0.0
        value = np.float64(values[i])
        total += value * value
    sums[label] += total


def add_squares(values: Any, labels: Any, sums: Any) -> None:
    """Add the squares of flat values, float32 or float64, to the float64 sums of their groups, which the int32 ``labels`` number."""
    _add_squares(values, labels, sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _take(weights: Any, labels: Any, lost: Any) -> None:
    for i in range(weights.size):
        weights[i] -= weights[i] * lost[labels[i]]


def take_(weights: Any, labels: Any, lost: Any) -> None:
    """Take from flat float32 weights, in place, the share that their groups lose, float32."""
    _take(weights, labels, lost)


def compile_all() -> None:
    """Compile, or read from the cache, so that what a compiler has to say is said here."""
    nothing, none = np.empty(0, np.float32), np.empty(0, np.int32)
    decay_(nothing, nothing, 1.0, 13, 0, 0)
    for values in (nothing, nothing.astype(np.float64)):
        add_squares(values, none, np.empty(0, np.float64))
    take_(nothing, none, nothing)
