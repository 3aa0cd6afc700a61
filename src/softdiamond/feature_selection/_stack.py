r"""A stack of networks that differ in one number, the strength of the penalty on their columns, trained as one.

K multilayer perceptrons of one shape share start, batches and optimizer. The first layer of all of them is one matrix
product of the batch with a (inputs, K width) matrix, the others are batched products; Adam is elementwise, so that each
network is trained as it would be alone.

**One round** of T steps: Adam at the rate eta_t = eta (1 + cos(pi t / T)) / 2; after each step every group of first-layer
weights, all that one column feeds, takes the implicit step of `softdiamond.Regularizer` at the strength of its network, which
rises linearly over the first half of the round. L1 takes its proximal step.

**Rounds.** A column whose weights are 0 and whose effect is even (a square, a product) has a gradient of 0 in the mean, so it
never comes back; which columns of this kind survive the first round is luck. Each further round starts from the best network so
far on the validation rows, gives columns that it does not use small random weights, of another draw for each network, and
follows the path again: against the smaller residual of a network that has the easy columns the difficult ones show.

*Hands.* Hundreds of returning columns together fit anything, and hide the one that is true. So each network is dealt `CHANCES`
columns at random, or as many as bring each column to two networks; those that it neither uses nor is dealt are held at 0 in this
round. Where what each network sees is at most a quarter of the table (`NARROW`), and each column is one input, the others are left
out of the round instead, which is the same in less time. (Two columns that matter only together have to be in one hand: smaller
hands find a square more often, a product less.)

*Starts.* Where rows are few and noisy the best may keep everything and leave nothing to give another chance, so every second
network starts from the one with the fewest columns that is within one standard error of it (the rule of Breiman et al.,
Classification and Regression Trees, 1984, section 3.4.3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from softdiamond.penalties import L1, Penalty
from softdiamond.strength import StrengthSettings

KICK = 0.3  # norm of a returning column, in units of the mean norm of those in use
CHANCES = 100  # columns dealt to a network in one round, at least
# Of all inputs: where no network sees more, a round is trained on what each sees. In trials with batches of 64 and layers of 8 to 64
# units a step took 0.2 to 0.8 of the time; above about twice this share, or with hundreds of rows in a batch and narrow layers, more.
NARROW = 0.25
RISE = 0.5  # part of a round over which the strength rises
FLOOR = 0.01  # norms below this share of the largest are one: Adam's noise
PIECE = 4096  # rows that are evaluated at once
CANDIDATES = 5  # cuts that are tried
TOLERANCE = 0.01  # a cut with fewer columns is taken at an error higher by this share,
NEGLIGIBLE = 5e-4  # or by this much, in units of the standardised targets' variance, or nats: without noise the error has no floor

HERE: Any = {"dtype": torch.float32, "device": "cpu"}  # where random numbers are drawn, whatever torch's defaults are

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs (K, n, outputs), targets -> (K, n)


def squared(out: Tensor, y: Tensor) -> Tensor:
    """Squared error of each network and row, the mean over outputs; y of shape (n, outputs)."""
    return (out - y).square().mean(2)


def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each network and row; y of shape (n,), classes."""
    k, n, classes = out.shape
    return functional.cross_entropy(out.reshape(k * n, classes), y.repeat(k), reduction="none").view(k, n)


@dataclass(frozen=True)
class Groups:
    """Which inputs of the network belong to one column of the table.

    Attributes
    ----------
    labels : Tensor
        int64 of shape (inputs,): the column, from 0 without gaps.
    sizes : Tensor
        int64 of shape (columns,): how many inputs each has.
    """

    labels: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, labels: NDArray[np.int64], columns: int, device: torch.device) -> Groups:
        """Count the inputs of each column."""
        own = torch.as_tensor(labels, device=device)
        return cls(own, torch.bincount(own, minlength=columns))

    @property
    def alone(self) -> bool:
        """Whether each column is one input."""
        return len(self.labels) == len(self.sizes)

    def norms(self, first: Tensor) -> Tensor:
        """Norm of each column's weights, of shape (columns, K)."""
        norms: Tensor = torch.linalg.vector_norm(first, dim=2)
        if self.alone:
            return norms
        squares = norms.new_zeros(len(self.sizes), norms.shape[1])
        squares.index_add_(0, self.labels, norms * norms)
        return squares.sqrt_()

    def spread(self, values: Tensor) -> Tensor:
        """Values of the columns (columns, ...) for the inputs."""
        return values if self.alone else values[self.labels]


@dataclass(frozen=True)
class Stack:
    """K networks.

    Attributes
    ----------
    weights : list of Tensor
        The first of shape (inputs, K, width), the others (K, width, next width).
    biases : list of Tensor
        Of shape (K, width) each.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def fresh(cls, sizes: Sequence[int], count: int, generator: Generator, device: torch.device) -> Stack:
        """Make ``count`` equal networks as ``nn.Linear`` starts its weights, uniform within 1 / sqrt(inputs)."""
        weights, biases = [], []
        for layer, (inputs, width) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / math.sqrt(inputs)
            weight = torch.empty(inputs, width, **HERE).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(width, **HERE).uniform_(-bound, bound, generator=generator)
            shape = (inputs, count, width) if layer == 0 else (count, inputs, width)
            weights.append(weight.unsqueeze(1 if layer == 0 else 0).expand(shape).to(device).contiguous())
            biases.append(bias.expand(count, width).to(device).contiguous())
        return cls(weights, biases)

    @property
    def parameters(self) -> list[Tensor]:
        """All of them."""
        return [*self.weights, *self.biases]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs, of shape (K, rows, outputs), for x of shape (rows, inputs), or (rows, K, inputs) where each has its own."""
        first, *others = self.weights
        if x.dim() == 2:
            h = ((x @ first.flatten(1)).view(len(x), *first.shape[1:]) + self.biases[0]).transpose(0, 1)
        else:
            h = torch.baddbmm(self.biases[0].unsqueeze(1), x.transpose(0, 1), first.transpose(0, 1))
        for weight, bias in zip(others, self.biases[1:], strict=True):
            h = torch.baddbmm(bias.unsqueeze(1), h.relu(), weight)
        return h

    def copies(self, which: Sequence[int]) -> Stack:
        """Return copies of the networks of these numbers."""
        first, *others = self.weights
        of = torch.as_tensor(which, device=first.device)
        return Stack([first[:, of], *(w[of] for w in others)], [b[of] for b in self.biases])

    def put(self, better: Tensor, other: Stack) -> None:
        """Take over those networks of another stack that ``better``, bool of shape (K,), marks."""
        self.weights[0][:, better] = other.weights[0][:, better]
        for own, its in zip([*self.weights[1:], *self.biases], [*other.weights[1:], *other.biases], strict=True):
            own[better] = its[better]

    def with_columns(self, kept: Tensor, groups: Groups) -> Stack:
        """Return the same networks, the weights of columns not in ``kept``, bool of shape (columns, K), exactly 0."""
        first = self.weights[0] * groups.spread(kept).unsqueeze(2)
        return replace(self, weights=[first, *self.weights[1:]])

    def arrays(self, k: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Weights (inputs, width) and biases (width,) of network k."""
        first, *others = self.weights
        weights = [first[:, k], *(w[k] for w in others)]
        return [w.cpu().numpy().copy() for w in weights], [b[k].cpu().numpy().copy() for b in self.biases]


class Decay:
    """The step of a penalty on the first layer of a stack, each network at its own strength.

    Parameters
    ----------
    penalty : Penalty
        By group: on the columns' norms. Elementwise: on each weight.
    relative_scale : float
        Scale in units of ``rms``, as of `softdiamond.Regularizer`.
    rms : float
        Root mean square of the first layer's weights at the start.
    groups : Groups
        The columns.
    width : int
        Weights that each input feeds.

    Raises
    ------
    ValueError
        If a column's weights are more than a group can have, or a scale is out of range.
    """

    def __init__(self, penalty: Penalty, relative_scale: float, rms: float, groups: Groups, width: int) -> None:
        settings = StrengthSettings(1.0, relative_scale=relative_scale)
        self._groups, self._elementwise = groups, penalty.group is None
        counts = [1] if self._elementwise else groups.sizes.unique().tolist()
        self._parts = []
        for count in counts:
            d = 1 if self._elementwise else count * width
            law, _, length, pull, _ = settings.resolve_group(penalty, relative_scale, rms, d)
            self._parts.append(((groups.sizes == count).nonzero().flatten(), law, length, pull))

    def step_(self, first: Tensor, steps: Tensor) -> None:
        """Shrink weights (inputs, K, width) in place; ``steps``, of shape (K,), are learning rate times strength."""
        if self._elementwise:
            _, law, length, pull = self._parts[0]
            first.mul_(_kept(law, first.abs() / length, pull * steps.unsqueeze(1)))
            return
        norms = self._groups.norms(first)
        if len(self._parts) == 1:
            _, law, length, pull = self._parts[0]
            kept = _kept(law, norms / length, pull * steps)
        else:
            kept = torch.empty_like(norms)
            for chosen, law, length, pull in self._parts:
                kept[chosen] = _kept(law, norms[chosen] / length, pull * steps)
        first.mul_(self._groups.spread(kept).unsqueeze(2))


def _kept(law: Penalty, x: Tensor, step: Tensor) -> Tensor:
    """Share that an implicit step leaves, or, of L1, which has none at 0, the proximal step."""
    if isinstance(law, L1):
        return (1 - step / x.clamp(min=1e-30)).clamp_(min=0)
    return 1 / (1 + step * law.omega(x))


@dataclass(frozen=True)
class Rows:
    """Rows of one table on the device: x float32 (rows, inputs), y float32 (rows, outputs) or int64 (rows,).

    Where ``seen``, int64 of shape (K, inputs seen), is given, a `batch` shows each network these inputs alone; `pieces` do not.
    """

    x: Tensor
    y: Tensor
    seen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the rows with these numbers."""
        x = self.x[rows]
        if self.seen is not None:
            x = x.index_select(1, self.seen.flatten()).view(len(x), *self.seen.shape)
        return x, self.y[rows]

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of at most `PIECE` rows at a time."""
        return zip(self.x.split(PIECE), self.y.split(PIECE), strict=True)


@dataclass(frozen=True)
class Schedule:
    """How a round is trained."""

    strengths: Tensor  # float32 of shape (K,)
    steps: int
    batch: int
    rate: float


def train(
    stack: Stack,
    rows: Rows,
    loss: Loss,
    decay: Decay | None,
    plan: Schedule,
    generator: Generator,
    tick: Callable[[], None],
    free: Tensor | None = None,
) -> None:
    """Train one round, in place; ``tick`` is called after each step.

    Weights of the first layer where ``free``, bool of shape (inputs, K), is False are put to 0 at each step.
    """
    parameters = [p.requires_grad_() for p in stack.parameters]
    optimizer = torch.optim.Adam(parameters, lr=plan.rate, fused=rows.x.device.type in ("cpu", "cuda"))
    order, at = torch.empty(0, dtype=torch.int64), 0
    for t in range(plan.steps):
        if at + plan.batch > len(order):
            order, at = torch.randperm(len(rows), generator=generator, device="cpu").to(rows.x.device), 0
        batch = order[at : at + plan.batch]
        at += plan.batch
        rate = plan.rate * (1 + math.cos(math.pi * t / plan.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        x, y = rows.batch(batch)
        torch.autograd.backward([loss(stack(x), y).mean(1).sum()])
        optimizer.step()
        if decay is not None:
            share = min(1.0, (t + 1) / (RISE * plan.steps))
            with torch.no_grad():
                decay.step_(stack.weights[0], rate * share * plan.strengths)
        if free is not None:
            with torch.no_grad():
                stack.weights[0].mul_(free.unsqueeze(2))
        tick()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None


def train_seen(stack: Stack, rows: Rows, free: Tensor, fit: Callable[[Stack, Rows, Tensor], None]) -> None:
    """Let ``fit`` train the first layer's rows that are ``free`` alone, and the other layers; columns have to be one input each."""
    most = int(free.sum(0).max())
    seen = free.byte().argsort(dim=0, descending=True, stable=True)[:most]  # padded with some that are not free
    at = seen.unsqueeze(2).expand(-1, -1, stack.weights[0].shape[2])
    part = replace(stack, weights=[stack.weights[0].gather(0, at), *stack.weights[1:]])
    fit(part, replace(rows, seen=seen.T), free.gather(0, seen))
    stack.weights[0].zero_().scatter_(0, at, part.weights[0])


@torch.no_grad()
def errors(stack: Stack, rows: Rows, loss: Loss) -> Tensor:
    """Mean loss of each network over all rows, float64 on the CPU."""
    total = torch.zeros(stack.biases[0].shape[0], dtype=torch.float64, device="cpu")
    for x, y in rows.pieces():
        total += loss(stack(x), y).mean(1).cpu().double() * len(x)
    return torch.nan_to_num(total / len(rows), nan=math.inf)


def cuts(norms: Tensor) -> list[Tensor]:
    """Columns that each network may keep, the widest gap first, all of them last; bool of shape (columns, K).

    The gaps are those of the sorted log norms, floored at `FLOOR` of the largest, which is always kept.
    """
    size = norms / norms.amax(0).clamp(min=1e-30)
    ordered = size.clamp(min=FLOOR).log().sort(0, descending=True).values
    largest = torch.zeros_like(size, dtype=torch.bool)
    largest[size.argmax(0), torch.arange(size.shape[1], device=size.device)] = True  # also where all are 0
    everything = (size > 0) | largest
    if len(size) == 1:
        return [everything]
    wide = (ordered[:-1] - ordered[1:]).topk(min(CANDIDATES, len(size) - 1), dim=0).indices
    middle = (ordered.gather(0, wide) + ordered.gather(0, wide + 1)) / 2
    return [*((size.clamp(min=FLOOR).log() > each) | largest for each in middle), everything]


def allowed(best: Any) -> Any:
    """Error up to which fewer columns are taken, of the lowest error that there is."""
    return best + (TOLERANCE * best).clip(NEGLIGIBLE)


def select(stack: Stack, groups: Groups, rows: Rows, loss: Loss) -> tuple[Tensor, Tensor]:
    """Choose the columns of each network: the fewest whose error is within `allowed` of the best of the `cuts`.

    Returns
    -------
    kept : Tensor
        bool of shape (columns, K).
    errors : Tensor
        float64 of shape (K,): error of the networks with these columns alone.
    """
    choices = cuts(groups.norms(stack.weights[0]))
    tried = torch.stack([errors(stack.with_columns(kept, groups), rows, loss) for kept in choices])
    counts = torch.stack([kept.sum(0).cpu() for kept in choices])
    counts = torch.where(tried <= allowed(tried.amin(0)), counts, counts.max() + 1)
    best = counts.argmin(0)
    networks = torch.arange(len(best))
    kept = torch.stack(choices)[best, :, networks].T.contiguous()
    return kept, tried[best, networks]


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


def follow(
    sizes: Sequence[int],
    groups: Groups,
    inner: Rows,
    held_out: Rows,
    loss: Loss,
    penalty: Penalty | None,
    relative_scale: float,
    plan: Schedule,
    rounds: int,
    early_stopping: bool,
    generator: Generator,
    tick: Callable[[], None],
) -> tuple[Path, int]:
    """Train rounds of the path, see the top of this file; return the best of each strength, and the number of rounds."""
    device, count = inner.x.device, len(plan.strengths)
    stack = Stack.fresh(sizes, count, generator, device)
    rms = float(stack.weights[0].square().mean().sqrt())
    # What does not vary has no gradient: its weights would stay as they started.
    varies = (inner.x != 0).any(0)[:, None, None]
    stack.weights[0].mul_(varies)
    decay = None if penalty is None else Decay(penalty, relative_scale, rms, groups, sizes[1])

    def fit(stack: Stack, rows: Rows, free: Tensor | None) -> None:
        train(stack, rows, loss, decay, plan, generator, tick, free)

    path: Path | None = None
    free: Tensor | None = None
    done = 0
    for done in range(1, rounds + 1):
        if free is not None and groups.alone and int(free.sum(0).max()) <= NARROW * len(free):
            train_seen(stack, inner, free, fit)
        else:
            fit(stack, inner, free)
        kept, found = select(stack, groups, held_out, loss)
        if path is None:
            path, gain = Path(stack, kept, found), math.inf
        else:
            before = float(path.errors.min())
            better = found < path.errors
            path.stack.put(better.to(device), stack)
            path.kept[:, better.to(device)] = kept[:, better.to(device)]
            path.errors = torch.where(better, found, path.errors)
            gain = before - float(path.errors.min())
        if done == rounds or (early_stopping and path.errors.min() + gain <= allowed(path.errors.min())):
            break
        fewest = _fewest(path, groups, held_out, loss)
        starts = [fewest if k % 2 else path.best for k in range(count)]
        stack = _kicked(path, starts, groups, generator)
        stack.weights[0].mul_(varies)
        if hand(len(groups.sizes), count) < len(groups.sizes):
            free = groups.spread(path.kept[:, starts] | _dealt(len(groups.sizes), count, generator).to(device))
            stack.weights[0].mul_(free.unsqueeze(2))
    assert path is not None  # noqa: S101 - there is at least one round
    return path, done


def _fewest(path: Path, groups: Groups, rows: Rows, loss: Loss) -> int:
    """Network with the fewest columns of those within one standard error of the lowest error; the weakest strength of these."""
    best = [path.best]
    own = path.stack.copies(best).with_columns(path.kept[:, best], groups)
    deviation = torch.cat([loss(own(x), y)[0] for x, y in rows.pieces()]).cpu().double().std(correction=0)
    counts = path.kept.sum(0).cpu()
    near = path.errors <= path.errors.min() + deviation / math.sqrt(len(rows))
    return int(torch.where(near, counts, counts.max() + 1).argmin())


def _kicked(path: Path, numbers: Sequence[int], groups: Groups, generator: Generator) -> Stack:
    """Copies of the networks of these numbers, with small random weights for the columns that each does not use."""
    stack, kept = path.stack.copies(numbers), path.kept[:, numbers]
    first = stack.weights[0]
    norms = groups.norms(first)
    wanted = [KICK * float(own[used].mean()) for own, used in zip(norms.T, kept.T, strict=True)]
    fresh = torch.empty(first.shape, **HERE).uniform_(-1, 1, generator=generator).to(first.device)
    # A number that is uniform within a bound has a third of the bound's square in the mean.
    unit = (groups.sizes.float() * first.shape[2] / 3.0).sqrt().reciprocal()
    bound = unit[:, None] * torch.tensor(wanted, **HERE).to(first.device)
    fresh *= groups.spread(bound)[:, :, None]
    stack.weights[0].copy_(torch.where(groups.spread(kept)[:, :, None], first, fresh))
    return stack


def hand(columns: int, networks: int) -> int:
    """How many columns a network is dealt: `CHANCES`, or as many as bring each to two networks; all where there are no more."""
    return min(columns, max(CHANCES, math.ceil(columns / max(1, networks // 2))))


def _dealt(columns: int, networks: int, generator: Generator) -> Tensor:
    """Deal columns to networks, deck after deck, every second network first; bool of shape (columns, networks)."""
    size = hand(columns, networks)
    places = torch.arange(math.ceil(columns / size) * size, device="cpu").view(-1, size) % columns
    decks = [
        torch.randperm(columns, generator=generator, device="cpu") for _ in range(math.ceil(networks / len(places)))
    ]
    hands = torch.cat([deck[places] for deck in decks])[:networks]
    dealt = torch.zeros(networks, columns, dtype=torch.bool, device="cpu")
    dealt[[*range(0, networks, 2), *range(1, networks, 2)]] = dealt.scatter(1, hands, True)
    return dealt.T
