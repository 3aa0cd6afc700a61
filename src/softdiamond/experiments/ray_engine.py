"""Performing runs as Ray tasks: on a cluster that is there, or on a local one made for the occasion.

Records are those of the local engines: a task is the same pure function of card, setting and seed, with as many threads as
the card says. Nodes of a cluster need this package, the user's own modules and, at the same place, the data folder; results
travel back through Ray, so the folder of results is the caller's alone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from softdiamond._extras import install
from softdiamond.experiments import UserError
from softdiamond.experiments.data import load
from softdiamond.experiments.engine import RETRIES, Job, OnEpoch
from softdiamond.experiments.plan import Run
from softdiamond.experiments.runs import Outcome

CONNECT_SECONDS = 10.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no report to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of a change to come
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of the runs beside one whose error was raised
}

_loaded = lru_cache(maxsize=1)(load)  # once in each worker process


class RayEngine:
    """Runs as Ray tasks, as many at a time as there are processors (and GPUs) free for them.

    Use as a context manager: at its end what it started is shut down, and its tasks are ended. A run whose worker process
    died is done again by Ray, twice at most. Ray has no way back from a running task, so there is no word of single epochs:
    ``on_epoch`` is never called.

    Parameters
    ----------
    job : Job
        What the runs share. ``checkpoints`` should be None unless all nodes see that folder.
    address : str, optional
        A cluster's address, as `ray.init` takes it; by default a local one is started.
    workers : int, optional
        Runs at a time on a local one; by default as many as this machine has processors for.

    Raises
    ------
    UserError
        If Ray is not installed, there is no cluster at the address, or none of its nodes can take a run.
    """

    def __init__(self, job: Job, address: str | None = None, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(f"the ray engine needs ray: {install('ray')}") from error
        self._ray: Any = ray
        self._address, self._workers = address, workers
        folders = {name: path.absolute() for name in ("data_dir", "checkpoints") if (path := getattr(job, name))}
        self._job = replace(job, **folders)  # a worker may have another current folder
        self._needs = {"CPU": float(job.card.threads), **({"GPU": 1.0} if job.device.startswith("cuda") else {})}
        self._started = False

    def __enter__(self) -> RayEngine:
        """Connect, or start a local cluster; in a process that is connected already, that connection is used."""
        if not self._ray.is_initialized():
            self._start()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= least for kind, least in self._needs.items()) for node in nodes):
            self.__exit__()
            needs = " and ".join(f"{least:g} {kind}" for kind, least in self._needs.items())
            raise UserError(
                f"no node of the Ray cluster has {needs}, which each run needs (threads of the card, device)"
            )
        return self

    def __exit__(self, *error: object) -> None:
        """Shut down what was started."""
        if self._started:
            self._ray.shutdown()
            self._started = False

    def _start(self) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address is None:
                cpus = self._workers and self._workers * self._job.card.threads
                self._ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                _reach(self._address)
                self._ray.init(self._address, **quiet)
        except Exception as error:  # of which kind, depends on the address
            reason = " ".join(str(error).split())
            where = "can be started here" if self._address is None else f"answers at {self._address}"
            raise UserError(f"no Ray cluster {where} ({reason})") from error
        self._started = True

    def __call__(self, runs: Sequence[Run], on_epoch: OnEpoch) -> Iterator[Outcome]:
        """Perform the runs; they come in the order in which they end."""
        work = self._ray.remote(_work).options(
            num_cpus=self._job.card.threads, num_gpus=int("GPU" in self._needs), max_retries=RETRIES
        )
        job = self._ray.put(self._job)
        waiting = {work.remote(job, run): run for run in runs}
        while waiting:
            (done,), _ = self._ray.wait(list(waiting), num_returns=1)
            run = waiting.pop(done)
            try:
                yield self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:  # an error of ours, as the local engines raise it
                raise error.cause from error
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"Ray could not perform {run} ({reason}); finished runs are kept") from error


def _reach(address: str) -> None:
    """Raise OSError at once where nothing listens at ``host:port``: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _work(job: Job, run: Run) -> Outcome:
    return job.perform(run, _loaded(job.card.data, job.data_dir, job.device))
