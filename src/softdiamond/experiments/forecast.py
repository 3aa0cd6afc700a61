"""What a comparison will cost on this machine: its runs, their time and memory, from a few timed steps; no run is done.

**Training**: for each treatment, method and kind of run, some epochs on the first batches, with the card's batch,
augmentation and threads, after some steps that are not timed (the first ones compile and build tables). The median epoch is
scaled to all batches and epochs; the time that a run takes to set up comes to it. **Measuring**: for each treatment, kind
and phase, `softdiamond.experiments.measure.measure` on growing parts of the data, until the data's share of its time is
`MEASURING_SECONDS`, or they are whole; a line through the first and the last of these times gives that of the whole. The net
that is measured is an untrained one, so the search for the prunable share may be shorter than in a run. In the place of the
test set, which stays closed, stand as many validation examples.

Times are those of one process, and are divided by the number of workers. Processes side by side are slower than one alone
where they share caches, memory or cores with others. Starting them, and loading the data in each, is not counted.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from statistics import median

import torch
from rich.table import Table

from softdiamond.experiments.card import Card
from softdiamond.experiments.data import Examples, Sealed, Splits
from softdiamond.experiments.measure import measure
from softdiamond.experiments.plan import Outlook, Records, Run, RunGroup, outlook, tuning_runs
from softdiamond.experiments.progress import Clock, duration
from softdiamond.experiments.runs import set_up, threads_of

WARMING = (2, 2)  # steps of an epoch, epochs: these are not timed, but say how many the timed ones can be
TRAINING_SECONDS = 1.0  # of the timed steps of a method, about
LEAST_EPOCHS, MOST_EPOCHS = 3, 20
MEASURING_SECONDS = 1.0
FIRST_PART, GROWTH = 1 / 64, 4  # of the data, on which measuring is timed


@dataclass(frozen=True)
class Row:
    """Runs of a group, and the seconds of one of them."""

    group: RunGroup
    done: int
    certain: int
    possible: int
    training: float
    measuring: float

    @property
    def seconds(self) -> float:
        """Of one run."""
        return self.training + self.measuring


@dataclass(frozen=True)
class Forecast:
    """Rows, tuning before final, and memory in bytes: most of this process so far, which did what a worker does.

    ``memory`` is None where the system does not tell; ``device_memory`` is that of a CUDA device, else 0.
    """

    card: Card
    rows: tuple[Row, ...]
    workers: int
    memory: int | None
    device_memory: int

    def seconds(self, *, with_possible: bool = False) -> float:
        """Return the time of the runs that are to do in any case, or of these and of all that may come to them."""
        return sum(self._stage_seconds(phase, with_possible) for phase in ("tune", "final"))

    def runs(self, phase: str) -> tuple[int, int, int]:
        """Return how many runs of a phase are done, to do in any case, and possible."""
        own = [row for row in self.rows if row.group.phase == phase]
        return sum(row.done for row in own), sum(row.certain for row in own), sum(row.possible for row in own)

    def _stage_seconds(self, phase: str, with_possible: bool) -> float:
        counts = [(row, row.certain + row.possible * with_possible) for row in self.rows if row.group.phase == phase]
        longest = max((row.seconds for row, count in counts if count), default=0.0)
        return max(longest, sum(count * row.seconds for row, count in counts) / self.workers)


def forecast(
    card: Card,
    records: Records,
    splits: Splits,
    workers: int,
    *,
    on_group: Callable[[str], None] = lambda group: None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """Time what is to do. Neither the records nor the splits are changed, and the test set is not opened.

    Parameters
    ----------
    card : Card
        The comparison.
    records : mapping
        What is done of it.
    splits : Splits
        Its data, on the device.
    workers : int
        Runs at a time.
    on_group : callable, optional
        Called with what is timed next.
    clock : callable, optional
        Seconds from any zero.
    """
    ahead = outlook(card, records)
    with threads_of(card):
        rows = tuple(_rows(card, records, splits, ahead, on_group, clock))
    device = splits.train.labels.device
    device_memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Forecast(card, rows, workers, peak_memory(), device_memory)


def peak_memory() -> int | None:
    """Return the most memory that this process had so far, in bytes; None on a system that does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _rows(
    card: Card,
    records: Records,
    splits: Splits,
    ahead: Outlook,
    on_group: Callable[[str], None],
    clock: Clock,
) -> Iterator[Row]:
    examples: dict[tuple[str, str, str], Run] = {}  # the first of each, with the weakest strength
    for run in tuning_runs(card, records):
        examples.setdefault((run.treatment, run.method, run.kind), run)
    training: dict[tuple[str, str, str], float] = {}
    measuring: dict[tuple[str, str, str], float] = {}  # by phase, treatment and kind: methods are measured alike
    for phase, (place, run) in product(("tune", "final"), examples.items()):
        group = RunGroup(phase, *place)
        if not ahead.certain[group] + ahead.possible[group]:
            yield Row(group, ahead.done[group], 0, 0, 0.0, 0.0)
            continue
        on_group(", ".join(place))
        if place not in training:
            training[place] = training_seconds(run, card, splits, clock)
        alike = phase, run.treatment, run.kind
        if alike not in measuring:
            shown = replace(run, phase=phase, division=run.division or card.removal.divisions[0] * (phase == "final"))
            measuring[alike] = measuring_seconds(shown, card, splits, clock)
        counts = ahead.done[group], ahead.certain[group], ahead.possible[group]
        yield Row(group, *counts, training[place], measuring[alike])


def training_seconds(run: Run, card: Card, splits: Splits, clock: Clock = time.perf_counter) -> float:
    """Time a few steps of a run's training; return the seconds of its whole training."""
    whole = math.ceil(len(splits.train.labels) / card.training.batch)
    epochs = _steps(run, card, splits, *WARMING, clock)
    step = max(min(epochs) / min(WARMING[0], whole), 1e-9)
    steps = min(whole, max(WARMING[0], round(TRAINING_SECONDS / LEAST_EPOCHS / step)))
    count = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(TRAINING_SECONDS / (steps * step))))
    began = clock()
    epochs = _steps(run, card, splits, steps, count, clock)
    setting_up = max(0.0, clock() - began - sum(epochs))
    timed = min(len(splits.train.labels), steps * card.training.batch)
    return setting_up + median(epochs) * card.training.epochs * len(splits.train.labels) / timed


def measuring_seconds(run: Run, card: Card, splits: Splits, clock: Clock = time.perf_counter) -> float:
    """Measure a run's net, at its start, on parts of the data; return the seconds of measuring it on all of them."""
    start = set_up(run, card, splits.without_test())

    def seconds(share: float) -> float:
        few, test = _part(splits, share), _stand_in(splits, share) if run.phase == "final" else None
        began = clock()
        measure(start.net, run, card, few, start.training, start.reference, test)
        return clock() - began

    share = FIRST_PART
    seconds(share)  # the first one imports and compiles
    first = spent = seconds(share)
    while share < 1.0 and spent - first < MEASURING_SECONDS:
        share = min(1.0, GROWTH * share)
        spent = seconds(share)
    return spent + max(0.0, spent - first) / max(share - FIRST_PART, 1e-9) * (1.0 - share)


def _steps(run: Run, card: Card, splits: Splits, steps: int, epochs: int, clock: Clock) -> list[float]:
    """Train a net of its own on so many batches; return the seconds of each epoch: of one at least, if it diverges."""
    short = card.model_copy(update={"training": card.training.model_copy(update={"epochs": epochs})})
    few = replace(splits.without_test(), train=_first(splits.train, steps * card.training.batch))
    start = set_up(run, short, few)
    times = [clock()]
    start.train(few.train, on_epoch=lambda *_: times.append(clock()))
    return [later - earlier for earlier, later in pairwise(times)]


def _part(splits: Splits, share: float) -> Splits:
    train, validation = (
        _first(part, math.ceil(share * len(part.labels))) for part in (splits.train, splits.validation)
    )
    return replace(splits.without_test(), train=train, validation=validation)


def _first(examples: Examples, count: int) -> Examples:
    return Examples(examples.inputs[:count], examples.labels[:count])


def _stand_in(splits: Splits, share: float) -> Sealed:
    """Return validation examples, as many as a share of the test set."""
    count = math.ceil(share * splits.description["test"])
    chosen = torch.arange(count, device=splits.validation.labels.device) % len(splits.validation.labels)
    return Sealed(Examples(splits.validation.inputs[chosen], splits.validation.labels[chosen]))


def table(found: Forecast) -> Table:
    """Return a printable table of the runs, those of a stage together."""
    printed = Table(title=f"{found.card.name}: runs, and seconds of one", title_justify="left")
    optional = {
        "treatment": len(found.card.treatments) > 1,
        "removal": any(row.group.kind != "plain" for row in found.rows),
    }
    for heading in ("stage", "treatment", "method", "removal"):
        if optional.get(heading, True):
            printed.add_column(heading, no_wrap=True)
    for heading in ("done", "to do", "may be added", "training", "measuring"):
        printed.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        group = row.group
        names = {
            "stage": "tuning" if group.phase == "tune" else "final",
            "treatment": group.treatment,
            "method": group.method,
            "removal": "after training" if group.kind == "plain" else group.kind,
        }
        cells = [name for heading, name in names.items() if optional.get(heading, True)]
        to_do = row.certain + row.possible > 0
        seconds = [f"{each:.3g}" if to_do else "" for each in (row.training, row.measuring)]
        printed.add_row(*cells, str(row.done), str(row.certain), str(row.possible), *seconds)
    return printed


def sentences(found: Forecast) -> list[str]:
    """Return what the table sums to: runs, time, memory, and how they were found."""
    (tuned, tuning, widening), (done, final, more) = found.runs("tune"), found.runs("final")
    if not tuning + widening + final + more:
        return [f"All {tuned + done} runs are done."]
    workers = f"{found.workers} worker{'s' * (found.workers > 1)}"
    at_least = "at least " * bool(more)
    lines = [
        f"Tuning: {tuned} runs done, {tuning} to do; widening may add {widening}.",
        f"Final: {done} runs done, {at_least}{final} to do"
        + (f", {final + more} if each share takes a setting of its own." if more else "."),
    ]
    time_left = f"Time on this machine with {workers}: {duration(found.seconds())}"
    if widening + more:
        time_left += f"; {duration(found.seconds(with_possible=True))} with all that may be added"
    lines.append(f"{time_left}.")
    lines.append(
        "Found from some steps of each method and a measuring on parts of the data, in one process on the machine as busy as it "
        "is, divided by the number of workers; side by side they are somewhat slower, and starting them is not counted."
    )
    if found.memory is not None:
        each = f"Memory: {found.memory / 1e9:.2f} GB a process, the most that this one had, which loaded, trained and measured"
        processes = found.workers + (found.workers > 1)  # and the one that starts them
        lines.append(f"{each}; {processes * found.memory / 1e9:.2f} GB in all." if processes > 1 else f"{each}.")
    if found.device_memory:
        lines.append(f"Memory of the device: {found.device_memory / 1e9:.2f} GB a worker.")
    return lines
