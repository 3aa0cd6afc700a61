"""Which columns a network keeps: cuts at the widest gaps of its log norms, chosen by the validation error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softdiamond.feature_selection import training
from softdiamond.feature_selection.networks import Groups, Loss, Stack
from softdiamond.feature_selection.training import Rows

NORM_FLOOR = 0.01  # norms below this share of the largest count as equal: they are the noise of Adam
MAX_CUTS = 5  # cuts that are tried
# A cut with fewer columns is taken at an error that is higher by this share, or by this much, in units of the standardized targets'
# variance, or nats: without noise the error has no floor.
RELATIVE_TOLERANCE = 0.01
ABSOLUTE_TOLERANCE = 5e-4


def candidate_supports(norms: Tensor) -> list[Tensor]:
    """Columns that each network may keep, the widest gap first, all of them last; bool of shape (columns, K).

    The gaps are those of the sorted log norms, floored at `NORM_FLOOR` of the largest, which is always kept.
    """
    size = norms / norms.amax(0).clamp(min=1e-30)
    ordered = size.clamp(min=NORM_FLOOR).log().sort(0, descending=True).values
    largest = torch.zeros_like(size, dtype=torch.bool)
    largest[size.argmax(0), torch.arange(size.shape[1], device=size.device)] = True  # also where all are 0
    everything = (size > 0) | largest
    if len(size) == 1:
        return [everything]
    wide = (ordered[:-1] - ordered[1:]).topk(min(MAX_CUTS, len(size) - 1), dim=0).indices
    middle = (ordered.gather(0, wide) + ordered.gather(0, wide + 1)) / 2
    return [*((size.clamp(min=NORM_FLOOR).log() > each) | largest for each in middle), everything]


def error_limit(best: Any) -> Any:
    """Error up to which fewer columns are taken, of the lowest error that there is."""
    return best + (RELATIVE_TOLERANCE * best).clip(ABSOLUTE_TOLERANCE)


def select(stack: Stack, groups: Groups, rows: Rows, loss: Loss) -> tuple[Tensor, Tensor]:
    """Choose the columns of each network: the fewest whose error is within `error_limit` of the best of the `candidate_supports`.

    Returns
    -------
    kept : Tensor
        bool of shape (columns, K).
    errors : Tensor
        float64 of shape (K,): error of the networks with these columns alone.
    """
    choices = candidate_supports(groups.norms(stack.weights[0]))
    tried = torch.stack([training.errors(stack.with_columns(kept, groups), rows, loss) for kept in choices])
    counts = torch.stack([kept.sum(0).cpu() for kept in choices])
    counts = torch.where(tried <= error_limit(tried.amin(0)), counts, counts.max() + 1)
    best = counts.argmin(0)
    networks = torch.arange(len(best))
    kept = torch.stack(choices)[best, :, networks].T.contiguous()
    return kept, tried[best, networks]
