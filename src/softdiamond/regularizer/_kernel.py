"""The implicit step of float32 weights on the CPU in one pass, compiled by numba; imported only where numba is there.

The same arithmetic as the eager operations of ``_steps``, which torch may fuse: results agree to the last place.
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
