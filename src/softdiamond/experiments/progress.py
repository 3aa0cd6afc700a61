"""How far a comparison is: its stage, the runs done of those to do, and the time left until it is complete.

The time left follows from the mean seconds of the runs that were finished in this session, by group; before the first of
them nothing is said of it. It counts all runs that are certain: while tuning goes on, those of its stage and the fewest
final runs that its choices can ask for (`softdiamond.experiments.plan.outlook`). What widening may add is not in it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import mean

from softdiamond.experiments.card import Card
from softdiamond.experiments.plan import Record, Records, Run, RunGroup, outlook

LINE_SECONDS = 60.0  # least time between two lines of `Lines`
STAGES = 2  # tuning, its widening included, and final

Clock = Callable[[], float]


def duration(seconds: float) -> str:
    """Say a time in its two largest units: 40 s, 7 min, 3 h 12 min, 2 d 5 h."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def result(record: Record) -> str:
    """Say what came of a run, in a word or two."""
    accuracy = record["validation_accuracy"]
    return "diverged" if accuracy is None else f"validation {100 * accuracy:.1f} %"


class Progress:
    """Counts the runs of one session.

    Parameters
    ----------
    card : Card
        The comparison.
    records : mapping
        Its records; read at the beginning of each stage.
    workers : int or None
        Runs at a time; None where that is not known, as on a cluster: then what was seen in this session is taken.
    clock : callable, optional
        Seconds from any zero.
    """

    def __init__(self, card: Card, records: Records, workers: int | None, clock: Clock = time.monotonic) -> None:
        self._card, self._records, self._workers, self._clock = card, records, workers, clock
        self._began = self._latest = clock()
        self._seconds: dict[RunGroup, list[float]] = defaultdict(list)
        self._left: Counter[RunGroup] = Counter()
        self.stage, self.number, self.done, self.total = "", 1, 0, 0

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin a stage with these runs to do."""
        tuning = runs[0].phase == "tune"
        self.stage, self.number = ("tuning", 1) if tuning else ("final", STAGES)
        if tuning and all(run.strength not in self._base(run) for run in runs):
            self.stage = "widening"
        self.done, self.total = 0, len(runs)
        self._left = Counter(run.group for run in runs)
        if tuning:
            certain = outlook(self._card, self._records).certain
            self._left += Counter({group: count for group, count in certain.items() if group.phase == "final"})

    def finish(self, run: Run, record: Record) -> None:
        """Count a run."""
        self.done += 1
        self._latest = self._clock()
        self._left[run.group] -= 1
        self._seconds[run.group].append(record["timing"]["seconds"]["total"])

    def seconds_left(self) -> float | None:
        """Return the time until the whole comparison is complete; None before a run is finished."""
        if not self._seconds:
            return None
        left = +self._left
        work = sum(count * self._mean(group) for group, count in left.items())
        side_by_side = min(self._side_by_side(), max(1, left.total()))
        return max(0.0, work / side_by_side - (self._clock() - self._latest))

    def seconds_spent(self) -> float:
        """Return the time of this session."""
        return self._clock() - self._began

    @property
    def counted(self) -> str:
        """Stage, runs done, runs to do."""
        return f"{self.stage} {self.done}/{self.total}"

    def _base(self, run: Run) -> tuple[float, ...]:
        return self._card.strengths(self._card.method(run.method)) or (0.0,)

    def _side_by_side(self) -> float:
        if self._workers is not None:
            return self._workers
        work = sum(sum(seconds) for seconds in self._seconds.values())
        return max(1.0, work / max(self._latest - self._began, 1e-9))

    def _mean(self, group: RunGroup) -> float:
        """Return the mean seconds of the finished runs that are most like those of a group."""

        def difference(other: RunGroup) -> tuple[bool, ...]:
            return other.kind != group.kind, other.treatment != group.treatment, other.method != group.method

        nearest = min((difference(other), other.phase != group.phase) for other in self._seconds)
        alike = [each for each in self._seconds if (difference(each), each.phase != group.phase) == nearest]
        return mean(seconds for each in alike for seconds in self._seconds[each])


class Lines:
    """What is said where there is no terminal: at most a line a minute, beside the ends of stages and diverged runs.

    Parameters
    ----------
    progress : Progress
        It is kept up to date here.
    say : callable
        Takes a line.
    clock : callable, optional
        Seconds from any zero.
    """

    def __init__(self, progress: Progress, say: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        self._progress, self._say, self._clock = progress, say, clock
        self._last = clock()

    def stage(self, runs: Sequence[Run]) -> None:
        """Begin a stage: tuning, its widening, or the final runs."""
        self._progress.begin(runs)
        self._line(f"stage {self._progress.number} of {STAGES}")

    def epoch(self, run: Run, epoch: int, loss: float) -> None:
        """Hear of an epoch of a run that is under way."""
        if self._due():
            self._line(f"{self._left()}now: {run}, epoch {epoch}: loss {loss:.3f}")

    def done(self, run: Run, record: Record) -> None:
        """Hear of a run that is done."""
        self._progress.finish(run, record)
        stage_ends = self._progress.done == self._progress.total
        if stage_ends or record["status"] == "diverged" or self._due():
            self._line(f"{self._left()}last: {run}: {result(record)}")

    def _due(self) -> bool:
        return self._clock() - self._last >= LINE_SECONDS

    def _left(self) -> str:
        if self._progress.number == STAGES and self._progress.done == self._progress.total:
            return f"complete in {duration(self._progress.seconds_spent())}; "
        left = self._progress.seconds_left()
        return "" if left is None else f"{duration(left)} left; "

    def _line(self, text: str) -> None:
        self._last = self._clock()
        self._say(f"[{self._progress.counted}] {text}")
