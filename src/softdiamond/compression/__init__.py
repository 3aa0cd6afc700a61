"""Compression: from zeros to a smaller network, a smaller file, a quicker call, and back.

- `shrink`: the same network without its dead filters and neurons.
- `export`, `read_sparse`: files, dense or in compressed rows, and what each costs.
- `compressed`: linear layers in compressed rows where that was measured to be quicker.
- `read_tensors`: the tensors of a checkpoint, without its code.
- `sizes`: parameters, operations, bytes and time of a call.
"""

from softdiamond.compression._calls import naming_layer
from softdiamond.compression._checkpoint import OPTIMIZER_NAMES, OPTIMIZER_STATE, is_optimizer_state, read_tensors
from softdiamond.compression._export import Exported, export, read_sparse
from softdiamond.compression._profile import Size, dense_bytes, sizes
from softdiamond.compression._shrink import Shrunk, shrink
from softdiamond.compression._sparse_linear import Compressed, compressed

__all__ = [
    "OPTIMIZER_NAMES",
    "OPTIMIZER_STATE",
    "Compressed",
    "Exported",
    "Shrunk",
    "Size",
    "compressed",
    "dense_bytes",
    "export",
    "is_optimizer_state",
    "naming_layer",
    "read_sparse",
    "read_tensors",
    "shrink",
    "sizes",
]
