"""Performing runs on this machine: here, or in worker processes side by side.

Each worker loads the data once and computes with as many threads as the card says, so that records do not depend on the
number of workers. Workers ignore Ctrl-C and are ended by the process that started them; they end themselves where that one
was killed.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import torch

from softdiamond._compat import kill_workers
from softdiamond.experiments import UserError, models, plan
from softdiamond.experiments.card import Card
from softdiamond.experiments.checkpoint import Checkpoint
from softdiamond.experiments.data import Splits, load
from softdiamond.experiments.plan import Run
from softdiamond.experiments.runs import Outcome, perform
from softdiamond.experiments.store import Store

OnEpoch = Callable[[Run, int, float], None]
HEARTBEAT_SECONDS = 0.5
RETRIES = 2  # after the death of a worker, while no run is finished


@dataclass(frozen=True)
class Job:
    """What all runs of a comparison share."""

    card: Card
    data_dir: Path | None
    checkpoints: Path | None  # folder, or none
    device: str = "cpu"

    def workers(self) -> int:
        """Return how many runs go side by side on this machine: as many as its cores have threads for, on a GPU 1."""
        return 1 if self.device != "cpu" else max(1, cores() // self.card.threads)

    def load(self) -> Splits:
        """Return the data on the device; before, see that the card's network can be made."""
        for treatment in self.card.treatments:
            models.maker(self.card.model.name, {**self.card.model.options, **treatment.options})
        return load(self.card.data, self.data_dir, self.device)

    def perform(self, run: Run, splits: Splits, on_epoch: Callable[[int, float], None] | None = None) -> Outcome:
        """Perform one run, with a checkpoint where there is a folder for it."""
        checkpoint = None
        if self.checkpoints is not None:
            checkpoint = Checkpoint(self.checkpoints / f"{run.stem}")
        return perform(run, self.card, splits, checkpoint=checkpoint, on_epoch=on_epoch)


class Engine(Protocol):
    """Something that performs runs in any order and yields what comes of them as it comes."""

    def __call__(self, runs: Sequence[Run], on_epoch: OnEpoch) -> Iterator[Outcome]:
        """Perform the runs."""
        ...


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_of(name: str) -> str:
    """Return the device of that name; auto is a CUDA device where there is one.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"no device {name!r}: there are cpu, cuda and auto")
    if name == "cuda" and not available:
        raise UserError("no CUDA device: torch sees none; leave --device out, or give cpu")
    return name


def sweep(
    card: Card,
    store: Store,
    engine: Engine,
    on_epoch: OnEpoch = lambda run, epoch, loss: None,
    on_stage: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> Iterator[Outcome]:
    """Perform the runs that the store lacks, keep each one's record, and yield it.

    What there is to do follows from the card and the records alone (`softdiamond.experiments.plan.pending`), so a sweep
    that was stopped goes on where it was.
    """
    while runs := plan.pending(card, store.records):
        on_stage(runs)
        for outcome in engine(runs, on_epoch):
            store.add(outcome)
            yield outcome


class InProcess:
    """One run after another in this process, on the job's data, which is loaded unless it is given."""

    def __init__(self, job: Job, splits: Splits | None = None) -> None:
        self._job, self._splits = job, splits or job.load()

    def __call__(self, runs: Sequence[Run], on_epoch: OnEpoch) -> Iterator[Outcome]:
        """Perform the runs in order."""
        for run in runs:
            yield self._job.perform(run, self._splits, partial(on_epoch, run))


class Workers:
    """A number of worker processes; where one dies (killed, out of memory), all are begun anew and unfinished runs done again.

    After three deaths without a finished run between them it is given up.

    Use as a context manager: at its end, or on an exception, the processes are gone.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._number = job, workers
        self._context = get_context("spawn")
        self._epochs: Any = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        """Enter."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._end()

    def __call__(self, runs: Sequence[Run], on_epoch: OnEpoch) -> Iterator[Outcome]:
        """Perform the runs, as many at a time as there are workers."""
        left, deaths = dict.fromkeys(runs), 0
        while left:
            try:
                for outcome in self._pass(list(left), on_epoch):
                    del left[outcome.run]
                    deaths = 0
                    yield outcome
            except BrokenProcessPool as error:
                self._end()
                deaths += 1
                if deaths > RETRIES:
                    raise UserError(
                        "worker processes died again and again (killed, or out of memory?): try --workers 1; finished "
                        "runs are kept"
                    ) from error

    def _pass(self, runs: list[Run], on_epoch: OnEpoch) -> Iterator[Outcome]:
        if self._pool is None:
            self._epochs = self._context.Queue()  # a killed worker may leave a queue locked
            self._pool = ProcessPoolExecutor(self._number, self._context, _begin, (self._job, self._epochs))
        waiting: set[Future[Outcome]] = {self._pool.submit(_work, run) for run in runs}
        while waiting:
            done, waiting = wait(waiting, HEARTBEAT_SECONDS, FIRST_COMPLETED)
            self._report(on_epoch)
            for future in done:
                yield future.result()

    def _report(self, on_epoch: OnEpoch) -> None:
        while True:
            try:
                on_epoch(*self._epochs.get_nowait())
            except queue.Empty:
                return

    def _end(self) -> None:
        if self._pool is not None:
            kill_workers(self._pool)
            self._pool = None


_job: Job
_splits: Splits | UserError  # an error in loading is raised by the first run, so that the caller sees it
_epochs: Any


def _begin(job: Job, epochs: Any) -> None:
    global _job, _splits, _epochs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _job, _epochs = job, epochs
    try:
        _splits = job.load()
    except UserError as error:
        _splits = error


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(run: Run) -> Outcome:
    if isinstance(_splits, UserError):
        raise _splits
    return _job.perform(run, _splits, lambda epoch, loss: _epochs.put((run, epoch, loss)))
