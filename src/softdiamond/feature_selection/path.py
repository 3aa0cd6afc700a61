r"""The path of strengths, one network for each, followed in rounds that start from the best networks so far.

One round is one training (``training``) of all networks, followed by the choice of their columns (``selection``).

**Rounds.** A column whose weights are 0 and whose effect is even (a square, a product) has a gradient of 0 in the mean, so it
never comes back; which columns of this kind survive the first round is luck. Each further round starts from the best network so
far on the validation rows, gives columns that it does not use small random weights, of another draw for each network, and
follows the path again: against the smaller residual of a network that has the easy columns the difficult ones show.

*Random subsets.* Hundreds of reinitialized columns together fit anything, and hide the one that is true. So each network gets a random
subset of the columns, `MIN_SUBSET` or as many as bring each column to two networks; the columns that it neither uses nor has in its
subset are held at 0 in this round. Where each network has at most a quarter of the table (`MAX_VISIBLE_FRACTION`), and each column is
one input, the others are left out of the round instead, which is the same in less time. (Two columns that matter only together have
to be in one subset: smaller subsets find a square more often, a product less.)

*Starts.* Where rows are few and noisy the best network may keep all columns, and no column would be reinitialized, so every second
network starts from the one with the fewest columns that is within one standard error of it (the rule of Breiman et al.,
Classification and Regression Trees, 1984, section 3.4.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from softdiamond.feature_selection import selection, training
from softdiamond.feature_selection.networks import ON_CPU, Groups, Loss, Stack
from softdiamond.feature_selection.training import PenaltyStep, Rows, Schedule
from softdiamond.penalties import Penalty

# Norm of a reinitialized column, in units of the mean norm of those in use.
REINITIALIZED_NORM = 0.3
# Columns in the random subset of a network, at least. Of 50, 100 and all columns, 100 found a product among 300 others most often and
# a square nearly as often as 50 (docs/results/features/notes.md).
MIN_SUBSET = 100
# Of all inputs: where no network has more, a round is trained on what each has. In trials with batches of 64 and layers of 8 to 64
# units a step took 0.2 to 0.8 of the time; above about twice this share, or with hundreds of rows in a batch and narrow layers, more.
MAX_VISIBLE_FRACTION = 0.25


@dataclass
class Path:
    """What the rounds found for each strength: the network with its columns, its error on the validation rows."""

    stack: Stack
    kept: Tensor
    errors: Tensor

    @property
    def best(self) -> int:
        """Network with the lowest error."""
        return int(self.errors.argmin())


def follow_path(
    sizes: Sequence[int],
    groups: Groups,
    inner: Rows,
    held_out: Rows,
    loss: Loss,
    penalty: Penalty | None,
    relative_scale: float,
    schedule: Schedule,
    rounds: int,
    early_stopping: bool,
    generator: Generator,
    on_step: Callable[[], None],
) -> tuple[Path, int]:
    """Train rounds of the path, see the top of this file; return the best of each strength, and the number of rounds."""
    device, count = inner.x.device, len(schedule.strengths)
    stack = Stack.fresh(sizes, count, generator, device)
    rms = float(stack.weights[0].square().mean().sqrt())
    # What does not vary has no gradient: its weights would stay as they started.
    varies = (inner.x != 0).any(0)[:, None, None]
    stack.weights[0].mul_(varies)
    penalty_step = None if penalty is None else PenaltyStep(penalty, relative_scale, rms, groups, sizes[1])

    def fit(stack: Stack, rows: Rows, trainable: Tensor | None) -> None:
        training.train(stack, rows, loss, penalty_step, schedule, generator, on_step, trainable)

    path: Path | None = None
    trainable: Tensor | None = None
    done = 0
    for done in range(1, rounds + 1):
        if (
            trainable is not None
            and groups.one_input_each
            and int(trainable.sum(0).max()) <= MAX_VISIBLE_FRACTION * len(trainable)
        ):
            training.train_visible(stack, inner, trainable, fit)
        else:
            fit(stack, inner, trainable)
        kept, found = selection.select(stack, groups, held_out, loss)
        if path is None:
            path, gain = Path(stack, kept, found), math.inf
        else:
            before = float(path.errors.min())
            better = found < path.errors
            path.stack.put(better.to(device), stack)
            path.kept[:, better.to(device)] = kept[:, better.to(device)]
            path.errors = torch.where(better, found, path.errors)
            gain = before - float(path.errors.min())
        if done == rounds or (early_stopping and path.errors.min() + gain <= selection.error_limit(path.errors.min())):
            break
        fewest = _network_of_fewest_columns(path, groups, held_out, loss)
        starts = [fewest if k % 2 else path.best for k in range(count)]
        stack = _reinitialized(path, starts, groups, generator)
        stack.weights[0].mul_(varies)
        if subset_size(len(groups.sizes), count) < len(groups.sizes):
            trainable = groups.spread(
                path.kept[:, starts] | _random_subsets(len(groups.sizes), count, generator).to(device)
            )
            stack.weights[0].mul_(trainable.unsqueeze(2))
    assert path is not None  # noqa: S101 - there is at least one round
    return path, done


def _network_of_fewest_columns(path: Path, groups: Groups, rows: Rows, loss: Loss) -> int:
    """Network with the fewest columns of those within one standard error of the lowest error; the weakest strength of these."""
    best = [path.best]
    own = path.stack.copies(best).with_columns(path.kept[:, best], groups)
    deviation = torch.cat([loss(own(x), y)[0] for x, y in rows.pieces()]).cpu().double().std(correction=0)
    counts = path.kept.sum(0).cpu()
    near = path.errors <= path.errors.min() + deviation / math.sqrt(len(rows))
    return int(torch.where(near, counts, counts.max() + 1).argmin())


def _reinitialized(path: Path, numbers: Sequence[int], groups: Groups, generator: Generator) -> Stack:
    """Copies of the networks of these numbers, with small random weights for the columns that each does not use."""
    stack, kept = path.stack.copies(numbers), path.kept[:, numbers]
    first = stack.weights[0]
    norms = groups.norms(first)
    wanted = [REINITIALIZED_NORM * float(own[used].mean()) for own, used in zip(norms.T, kept.T, strict=True)]
    fresh = torch.empty(first.shape, **ON_CPU).uniform_(-1, 1, generator=generator).to(first.device)
    # A number that is uniform within a bound has a third of the bound's square in the mean.
    unit = (groups.sizes.float() * first.shape[2] / 3.0).sqrt().reciprocal()
    bound = unit[:, None] * torch.tensor(wanted, **ON_CPU).to(first.device)
    fresh *= groups.spread(bound)[:, :, None]
    stack.weights[0].copy_(torch.where(groups.spread(kept)[:, :, None], first, fresh))
    return stack


def subset_size(columns: int, networks: int) -> int:
    """Columns in a random subset: `MIN_SUBSET`, or as many as bring each to two networks; all where there are no more."""
    return min(columns, max(MIN_SUBSET, math.ceil(columns / max(1, networks // 2))))


def _random_subsets(columns: int, networks: int, generator: Generator) -> Tensor:
    """Random subset of the columns for each network, bool of shape (columns, networks).

    Permutations of the columns are cut into subsets, one after another, for every second network first, so that each column is
    in the subsets of networks with either start.
    """
    size = subset_size(columns, networks)
    positions = torch.arange(math.ceil(columns / size) * size, device="cpu").view(-1, size) % columns
    permutations = [
        torch.randperm(columns, generator=generator, device="cpu") for _ in range(math.ceil(networks / len(positions)))
    ]
    chosen = torch.cat([permutation[positions] for permutation in permutations])[:networks]
    subsets = torch.zeros(networks, columns, dtype=torch.bool, device="cpu")
    subsets[[*range(0, networks, 2), *range(1, networks, 2)]] = subsets.scatter(1, chosen, True)
    return subsets.T
