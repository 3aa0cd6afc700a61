"""Performing runs: here and in worker processes, whatever is killed in between."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from softdiamond.experiments import UserError, data, plan
from softdiamond.experiments import card as cards
from softdiamond.experiments.engine import RETRIES, InProcess, Job, Workers, sweep
from softdiamond.experiments.runs import perform
from softdiamond.experiments.store import open_store

# A user's own net. It kills its process in the middle of a training; `marker` has a line for each training that came so far.
MORTAL = """
import math, os, signal
from torch import nn

class Mortal(nn.Module):
    def __init__(self, sizes, marker, deaths):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(sizes[0], 8), nn.ReLU(), nn.Linear(8, sizes[1]))
        self.marker, self.deaths, self.steps = marker, deaths, 0

    def forward(self, x):
        self.steps += 1
        if self.marker and self.training and self.steps == 5:
            with open(self.marker, "a+") as file:
                file.seek(0)
                before = len(file.readlines())
                file.write("here\\n")
            if before < self.deaths or (self.deaths < 0 and before % 2 == 0):  # the first ones, or every other
                os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)

def make(shape, classes, *, marker="", deaths=0):
    return Mortal((math.prod(shape), classes), marker, deaths)

def broken():
    raise ArithmeticError("my data are broken")
"""

TEXT = """
name = "tiny"
data = { name = "test_engine:points", train = 60, validation = 40, test = 40 }
model = { name = "mlp", options = { hidden = [8] } }
training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
methods = [{ penalty = "none" }, { penalty = "L2" }, { penalty = "soft diamond", alpha = 0.5 }]
tuning = { strengths = [0.01, 0.1], seeds = [100], widen = 1 }
final = { seeds = [0, 1] }
sparsity = { curve = [0.0, 0.9] }
removal = { shares = [0.0, 0.9], ways = ["once", "gradual"], gradual_tuned_at = [0.9] }
"""


def points():
    """Data that are made at once: for the digits each process of these tests would import scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(180) % 10
    inputs = torch.eye(64)[labels].reshape(180, 1, 8, 8) + 0.5 * torch.rand(180, 1, 8, 8, generator=generator)
    return tuple(zip(inputs.split([100, 40, 40]), labels.split([100, 40, 40]), strict=True))


def card(**options):
    """Return the card; with options, of the net that dies."""
    plain = tomllib.loads(TEXT)
    if options:
        plain["model"] = {"name": "mortal:make", "options": options}
    return cards.validated(plain, "the test's card")


def quiet(*_):
    pass


def timeless(outcomes):
    """Records by run, without their timing."""
    records = {outcome.run: outcome.record for outcome in outcomes}
    return {run: {key: value for key, value in r.items() if key != "timing"} for run, r in records.items()}


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    """The module of the net that dies; processes that are started find it too."""
    (tmp_path / "mortal.py").write_text(MORTAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("mortal", None)


def children():
    return {process.pid for process in multiprocessing.active_children()}


# --- a sweep ------------------------------------------------------------------------------------------------------------


def test_sweep_keeps_each_record_and_goes_on_where_it_was(tmp_path):
    tiny = card()
    job = Job(tiny, None, tmp_path / "checkpoints")
    stages, heard, done = [], [], []
    with open_store(tmp_path / "out", tiny) as store:
        for outcome in sweep(
            tiny, store, InProcess(job), lambda *told: heard.append(told), lambda runs: stages.append(runs)
        ):
            done.append(outcome)
            assert store.records[outcome.run] == outcome.record
            assert len(store.path.read_bytes().splitlines()) == len(done), "on the disk when it is yielded"
        assert plan.pending(tiny, store.records) == []
        assert [run for runs in stages for run in runs] == [outcome.run for outcome in done]
        assert [(run, epoch) for run, epoch, _ in heard] == [(o.run, epoch) for o in done for epoch in (1, 2, 3)]
        assert [loss for _, _, loss in heard] == [loss for o in done for loss in o.record["losses"]]
        assert list(sweep(tiny, store, InProcess(job))) == []
    assert (tmp_path / "checkpoints").exists() is False or not list((tmp_path / "checkpoints").iterdir())
    with open_store(tmp_path / "stopped", tiny) as store:
        for _ in sweep(tiny, store, InProcess(job)):
            if len(store.records) == 5:
                break
    with open_store(tmp_path / "stopped", tiny) as store:
        assert len(store.records) == 5
        rest = list(sweep(tiny, store, InProcess(job)))
        assert len(rest) == len(done) - 5
        found = {run: {k: v for k, v in record.items() if k != "timing"} for run, record in store.records.items()}
    assert found == timeless(done)


def test_a_wrong_option_is_found_before_the_first_run(tmp_path):
    tiny = cards.parse(TEXT + 'treatments = [{ name = "a" }, { name = "b", options = { width = 3 } }]', "card")
    job = Job(tiny, None, tmp_path / "checkpoints")
    with pytest.raises(UserError, match="width") as caught:
        job.load()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="width"):
        InProcess(job)
    with pytest.raises(UserError) as there, Workers(job, 1) as workers:
        list(workers(plan.pending(tiny, {})[:1], quiet))  # a run of the treatment that is right
    assert str(there.value) == str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_options_are_tried_before_the_data_are_read(tmp_path):
    text = TEXT.replace('"test_engine:points"', '"cifar10"').replace("hidden = [8]", "width = 3")
    with pytest.raises(UserError, match="width"):
        Job(cards.parse(text, "card"), tmp_path / "nowhere", None).load()


def test_data_that_were_loaded_before_are_not_loaded_again(monkeypatch):
    tiny = card()
    job, runs = Job(tiny, None, None), plan.pending(tiny, {})[:2]
    splits = job.load()
    expected = timeless(InProcess(job)(runs, quiet))
    with monkeypatch.context() as patch:
        patch.setattr(Job, "load", lambda self: pytest.fail("loaded again"))
        assert timeless(InProcess(job, splits)(runs, quiet)) == expected
    other = data.load(tiny.data.model_copy(update={"train": 80}), None)
    found = timeless(InProcess(job, other)(runs, quiet))
    assert all(found[run]["data"] == other.description != expected[run]["data"] for run in runs)


def test_checkpoints_lie_in_the_folder_under_the_name_of_their_run(tmp_path, monkeypatch):
    tiny = card()
    job, run = Job(tiny, None, tmp_path / "checkpoints"), plan.pending(tiny, {})[0]
    monkeypatch.setattr("softdiamond.experiments.checkpoint.Checkpoint.due", lambda self: True)

    def stop(run, epoch, loss):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(InProcess(job)([run], stop))
    names = sorted(path.name.partition(run.stem)[2] for path in (tmp_path / "checkpoints").iterdir())
    assert names == [".00002.pt", ".00002.safetensors"]
    heard = []
    (outcome,) = InProcess(job)([run], lambda run, epoch, loss: heard.append(epoch))
    assert heard == [3] and not list((tmp_path / "checkpoints").iterdir())
    assert timeless([outcome]) == timeless([perform(run, tiny, job.load())])


# --- worker processes ---------------------------------------------------------------------------------------------------


def test_workers_give_the_records_of_one_process(tmp_path):
    tiny = card()
    job = Job(tiny, None, None)
    found, heard = {}, []
    before = children()
    with Workers(job, 2) as workers, open_store(tmp_path / "workers", tiny) as store:
        found = timeless(sweep(tiny, store, workers, lambda *told: heard.append(told)))
        assert len(children() - before) == 2, "one pool for all stages"
    assert wait_for(lambda: children() <= before), "the processes are gone"
    with open_store(tmp_path / "here", tiny) as store:
        expected = timeless(sweep(tiny, store, InProcess(job)))
    assert found == expected
    told = {(run, epoch): loss for run, epoch, loss in heard}
    last = {(run, 3) for run in found if (run, 3) not in told}
    assert len(last) <= 2, "only what was under way at the end may be missing"
    assert all(found[run]["losses"][epoch - 1] == loss for (run, epoch), loss in told.items())


def test_workers_alone_load_the_data(monkeypatch):
    """The parent's memory is not spent on a second copy; the processes begin with no patch."""
    tiny = card()
    runs = plan.pending(tiny, {})[:2]
    expected = timeless(InProcess(Job(tiny, None, None))(runs, quiet))
    monkeypatch.setattr(Job, "load", lambda self: pytest.fail("loaded in the parent"))
    with Workers(Job(tiny, None, None), 1) as workers:
        assert timeless(workers(runs, quiet)) == expected


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.usefixtures("mortal")
def test_a_run_whose_worker_was_killed_is_done_again(tmp_path):
    tiny = card(marker=str(tmp_path / "trainings"), deaths=1)
    job = Job(tiny, None, tmp_path / "checkpoints")
    runs = plan.pending(tiny, {})[:4]
    with Workers(job, 2) as workers:
        found = timeless(workers(runs, quiet))
    assert (tmp_path / "trainings").read_text().count("here") > len(runs)
    assert found == timeless(InProcess(job)(runs, quiet)) and len(found) == 4


@pytest.mark.usefixtures("mortal")
def test_workers_that_die_again_and_again_are_one_clear_line(tmp_path):
    tiny = card(marker=str(tmp_path / "trainings"), deaths=99)
    with (
        Workers(Job(tiny, None, None), 1) as workers,
        pytest.raises(UserError, match=r"died again and again .*finished runs are kept$"),
    ):
        list(workers(plan.pending(tiny, {})[:1], quiet))
    assert (tmp_path / "trainings").read_text().count("here") == RETRIES + 1


@pytest.mark.usefixtures("mortal")
def test_each_of_many_runs_may_lose_its_worker(tmp_path):
    """Deaths count since the last finished run, not against a sweep of days."""
    tiny = card(marker=str(tmp_path / "trainings"), deaths=-1)
    runs = plan.pending(tiny, {})[: RETRIES + 1]
    with Workers(Job(tiny, None, None), 1) as workers:
        found = timeless(workers(runs, quiet))
    assert found.keys() == set(runs)
    assert (tmp_path / "trainings").read_text().count("here") == 2 * len(runs), "each was begun twice"


def test_a_killed_worker_is_replaced(tmp_path):
    """From outside, by its process number, at the first sign of life."""
    tiny = card()
    job = Job(tiny, None, tmp_path / "checkpoints")
    runs = plan.pending(tiny, {})
    before, killed = children(), []

    def kill(*_):
        if not killed:
            killed.append(min(children() - before))
            os.kill(killed[0], signal.SIGKILL)

    with Workers(job, 2) as workers:
        found = timeless(workers(runs, kill))
        assert killed and killed[0] not in children() - before
    assert found == timeless(InProcess(job)(runs, quiet))


@pytest.mark.skipif(sys.platform == "win32", reason="queues have no such lock")
def test_a_queue_that_a_killed_worker_left_locked_is_left_behind():
    """The workers after it are heard of."""
    tiny = card()
    runs = plan.pending(tiny, {})
    before, killed, heard = children(), [], []

    def kill(run, epoch, loss):
        if killed:
            heard.append((run, epoch, loss))
            return
        workers._epochs._wlock.acquire()  # as a worker that is killed while it writes
        killed.append(min(children() - before))
        os.kill(killed[0], signal.SIGKILL)

    with Workers(Job(tiny, None, None), 1) as workers:
        done, known = {}, 0
        for outcome in workers(runs, kill):
            done[outcome.run] = outcome.record
            known = len(killed)
    assert known == 1 and done.keys() == set(runs)
    told = {run for run, epoch, _ in heard if epoch == 3}
    assert told and all(done[run]["losses"][epoch - 1] == loss for run, epoch, loss in heard)
    assert runs[-2] in told, "long after the kill"


def test_an_error_in_loading_data_reaches_the_caller(tmp_path):
    text = TEXT.replace('"test_engine:points"', '"cifar10"')
    tiny = cards.parse(text, "card")
    with pytest.raises(UserError, match="nowhere is not there") as here:
        InProcess(Job(tiny, tmp_path / "nowhere", None))
    with pytest.raises(UserError) as there, Workers(Job(tiny, tmp_path / "nowhere", None), 1) as workers:
        list(workers(plan.pending(tiny, {})[:2], quiet))
    assert str(there.value) == str(here.value)


@pytest.mark.usefixtures("mortal")
def test_an_error_of_a_users_own_data_is_shown_as_it_is(tmp_path):
    tiny = cards.parse(TEXT.replace('"test_engine:points"', '"mortal:broken"'), "card")
    with (
        pytest.raises((ArithmeticError, UserError), match="my data are broken"),
        Workers(Job(tiny, None, None), 1) as workers,
    ):
        list(workers(plan.pending(tiny, {})[:2], quiet))


def test_workers_are_gone_after_an_error():
    tiny = card()
    before = children()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(Job(tiny, None, None), 2) as workers:
        list(workers(plan.pending(tiny, {}), stop))
    assert wait_for(lambda: children() <= before)


ORPHANS = f"""
import multiprocessing, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engine import TEXT, Job, Workers, cards, plan

def tell(*_):
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    card = cards.parse(TEXT.replace("epochs = 3", "epochs = 1000000"), "card")
    with Workers(Job(card, None, None), 2) as workers:
        list(workers(plan.pending(card, {{}}), tell))
"""


def alive(pid):
    """Whether a process runs; one that is dead and not yet fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    workers = []
    with subprocess.Popen([sys.executable, str(tmp_path / "orphans.py")], stdout=subprocess.PIPE, text=True) as parent:
        try:
            workers = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(workers) == 2 and all(map(alive, workers))
        finally:
            parent.kill()
    try:
        assert wait_for(lambda: not any(map(alive, workers)), 20.0)
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)


# --- kills at random ----------------------------------------------------------------------------------------------------

# One process that has imported all makes a child for each attempt, and kills it: no attempt waits for imports.
NURSERY = f"""
import json, os, random, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_engine import InProcess, Job, card, open_store, sweep
from softdiamond.experiments import checkpoint

checkpoint.Checkpoint.due = lambda self: True  # after every epoch

def work(folder):
    tiny = card()
    with open_store(folder, tiny) as store:
        for outcome in sweep(tiny, store, InProcess(Job(tiny, None, folder / "checkpoints"))):
            pass

def child(folder):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(folder)
            code = 0
        finally:
            os._exit(code)
    return pid

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
began = time.monotonic()
_, status = os.waitpid(child(folder / "undisturbed"), 0)
assert status == 0
seconds = time.monotonic() - began
chance = random.Random(seed)
killed = 0
while killed < 10:
    pid = child(folder / "killed")
    time.sleep(chance.uniform(0, seconds / 4))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):  # it was done before: from the start again, for the kills that are left
        assert status == 0
        print("complete", flush=True)
        (folder / "killed").rename(folder / f"complete{{killed}}-{{chance.random()}}")
    else:
        killed += 1
_, status = os.waitpid(child(folder / "killed"), 0)
assert status == 0
print("done", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_ten_times_at_random_and_begun_again_a_sweep_ends_as_undisturbed(tmp_path, seed):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", NURSERY, str(tmp_path), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0 and ran.stdout.endswith("done\n"), ran.stderr

    def found(folder):
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        assert len(lines) == len(plan.by_run(lines)), "no run is there twice"
        weights = {path.name for path in (folder / "weights").iterdir()}
        assert not list((folder / "checkpoints").iterdir())
        return {
            run: {k: v for k, v in record.items() if k != "timing"} for run, record in plan.by_run(lines).items()
        }, weights

    expected = found(tmp_path / "undisturbed")
    others = [folder for folder in tmp_path.iterdir() if folder.name != "undisturbed"]
    assert others
    for folder in others:
        assert found(folder) == expected, folder.name
