r"""Zeros: how sparse weights are, how weights are removed, and how a network gets smaller for it.

- `measures`, `prunable_share`: how sparse the weights are as they stand; the largest share that costs no more than a stated
  accuracy.
- `Ranking`, `Gradual`, `hold_zeros`: removal by magnitude, at once or while a network trains; zeros held in a fine-tuning.
- `shrink`: the same network without its dead filters and neurons.
- `export`, `read_sparse`: files, dense or in compressed rows, and what each costs.
- `compressed`: linear layers in compressed rows where that was measured to be quicker.

Weights removed by magnitude have the lowest scores. How the removed share is divided among tensors:

- ``global``: score \|w\|, one threshold for all;
- ``relative``: score \|w\| / rms_0, in units of the tensor's starting root mean square: one threshold for all;
- ``layerwise``: the same share of every tensor.
"""

from softdiamond.sparsity._call import Size
from softdiamond.sparsity._export import Compressed, Exported, compressed, export, read_sparse
from softdiamond.sparsity._measures import Outputs, measures, prunable_share, removed_share
from softdiamond.sparsity._removal import DIVISIONS, LEAST, Gradual, Ranking, Units, cubic, hold_zeros
from softdiamond.sparsity._shrink import Shrunk, shrink

__all__ = [
    "DIVISIONS",
    "LEAST",
    "Compressed",
    "Exported",
    "Gradual",
    "Outputs",
    "Ranking",
    "Shrunk",
    "Size",
    "Units",
    "compressed",
    "cubic",
    "export",
    "hold_zeros",
    "measures",
    "prunable_share",
    "read_sparse",
    "removed_share",
    "shrink",
]
