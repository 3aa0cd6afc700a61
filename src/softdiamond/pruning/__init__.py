r"""Pruning: how sparse weights are, and how weights are pruned.

- `measures`, `sparsity_of`, `prunable_sparsity`: how sparse the weights are as they stand; the largest sparsity that costs no
  more than a stated accuracy.
- `Ranking`, `GradualPruning`, `hold_zeros`: pruning by magnitude, at once or while a network trains; zeros held in a fine-tuning.
- `widest_gap`: the widest band without a magnitude, for `softdiamond.gap_threshold`.

Weights with the lowest scores are pruned. The scope is how the sparsity is divided among tensors:

- ``global``: score \|w\|, one threshold for all;
- ``relative``: score \|w\| / rms_0, in units of the tensor's starting root mean square: one threshold for all;
- ``layerwise``: the same sparsity of every tensor.
"""

from softdiamond.pruning._gap import widest_gap
from softdiamond.pruning._gradual import GradualPruning, cubic_schedule
from softdiamond.pruning._holding import hold_zeros
from softdiamond.pruning._measures import Outputs, measures, prunable_sparsity, sparsity_of
from softdiamond.pruning._ranking import MIN_DENSITY_RATIO, SCOPES, Ranking, Units, hidden_outputs

__all__ = [
    "MIN_DENSITY_RATIO",
    "SCOPES",
    "GradualPruning",
    "Outputs",
    "Ranking",
    "Units",
    "cubic_schedule",
    "hidden_outputs",
    "hold_zeros",
    "measures",
    "prunable_sparsity",
    "sparsity_of",
    "widest_gap",
]
