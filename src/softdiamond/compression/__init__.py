"""Compression: from zeros to a smaller network, a smaller file, a quicker call, and back.

- `shrink`: the same network without its dead filters and neurons.
- `export`, `load`: files, dense or in compressed rows, and what each costs.
- `sparse_linear`: linear layers in compressed rows where that was measured to be quicker.
- `read_tensors`, `load_weights`: the tensors of a checkpoint, without its code; into a network.
- `softdiamond.compression.pipeline`: all of it in order, for ``softdiamond prune``.
- `profile`: parameters, operations, bytes and time of a call.
"""

from softdiamond.compression._calls import naming_layer
from softdiamond.compression._checkpoint import (
    OPTIMIZER_NAMES,
    OPTIMIZER_STATE,
    is_optimizer_state,
    load_weights,
    read_tensors,
)
from softdiamond.compression._export import ExportResult, export, load
from softdiamond.compression._profile import Profile, dense_bytes, profile
from softdiamond.compression._shrink import ShrinkResult, shrink
from softdiamond.compression._sparse_linear import SparseLinearResult, sparse_linear

__all__ = [
    "OPTIMIZER_NAMES",
    "OPTIMIZER_STATE",
    "ExportResult",
    "Profile",
    "ShrinkResult",
    "SparseLinearResult",
    "dense_bytes",
    "export",
    "is_optimizer_state",
    "load",
    "load_weights",
    "naming_layer",
    "profile",
    "read_tensors",
    "shrink",
    "sparse_linear",
]
