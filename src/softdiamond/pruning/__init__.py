r"""Pruning: how sparse weights are, and how weights are removed.

- `measures`, `prunable_share`: how sparse the weights are as they stand; the largest share that costs no more than a stated
  accuracy.
- `Ranking`, `Gradual`, `hold_zeros`: removal by magnitude, at once or while a network trains; zeros held in a fine-tuning.

Weights removed by magnitude have the lowest scores. How the removed share is divided among tensors:

- ``global``: score \|w\|, one threshold for all;
- ``relative``: score \|w\| / rms_0, in units of the tensor's starting root mean square: one threshold for all;
- ``layerwise``: the same share of every tensor.
"""

from softdiamond.pruning._gradual import Gradual, cubic
from softdiamond.pruning._holding import hold_zeros
from softdiamond.pruning._measures import Outputs, measures, prunable_share, removed_share
from softdiamond.pruning._ranking import DIVISIONS, LEAST, Ranking, Units

__all__ = [
    "DIVISIONS",
    "LEAST",
    "Gradual",
    "Outputs",
    "Ranking",
    "Units",
    "cubic",
    "hold_zeros",
    "measures",
    "prunable_share",
    "removed_share",
]
