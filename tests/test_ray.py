"""Performing runs as Ray tasks: the records of one process, whatever is killed in between."""

import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from softdiamond.experiments import UserError, plan
from softdiamond.experiments import card as cards
from softdiamond.experiments.engine import RETRIES, InProcess, Job
from softdiamond.experiments.ray_engine import RayEngine

pytestmark = pytest.mark.xdist_group("ray")  # one process, one Ray

TEXT = """
name = "tiny"
data = { name = "digits", train = 60, validation = 40, test = 40 }
model = { name = "mlp", options = { hidden = [8] } }
training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
methods = [{ penalty = "none" }, { penalty = "soft diamond", alpha = 0.5 }]
tuning = { strengths = [0.01, 0.1], seeds = [100], widen = 0 }
final = { seeds = [0, 1], baseline = "none" }
sparsity = { curve = [0.0, 0.9] }
removal = { shares = [0.0, 0.9], ways = ["once", "gradual"], gradual_tuned_at = [0.9] }
"""

# A user's own net: the first `deaths` trainings kill their process; `marker` has a line for each that came so far.
MORTAL = """
import math, os, signal, time
import torch
from torch import nn

class Mortal(nn.Module):
    def __init__(self, inputs, classes, marker, deaths):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
        self.marker, self.deaths, self.steps = marker, deaths, 0

    def forward(self, x):
        self.steps += 1
        if self.training and self.steps == 5:
            with open(self.marker, "a+") as file:
                file.seek(0)
                before = len(file.readlines())
                file.write("here\\n")
            if before < self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)

def make(shape, classes, *, marker, deaths):
    return Mortal(math.prod(shape), classes, marker, deaths)

def sleepy(shape, classes):
    if torch.initial_seed() == 1000:
        time.sleep(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))

class Faulty(Mortal):
    def forward(self, x):
        if self.steps == 4:
            raise ArithmeticError("my net is faulty")
        return super().forward(x)

def faulty(shape, classes):
    return Faulty(math.prod(shape), classes, "", 0)
"""


def card(**changes):
    return cards.validated(tomllib.loads(TEXT) | changes, "the test's card")


CARD = card()


def quiet(*_):
    pass


def timeless(outcomes):
    """Records by run, without their timing."""
    records = {outcome.run: outcome.record for outcome in outcomes}
    return {run: {key: value for key, value in r.items() if key != "timing"} for run, r in records.items()}


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """Ray with a local cluster of two processors, started in the folder of the module ``mortal_ray``."""
    found = pytest.importorskip("ray", reason="needs ray")
    folder = tmp_path_factory.mktemp("modules")
    (folder / "mortal_ray.py").write_text(MORTAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])  # the folder is put into it
        with RayEngine(Job(CARD, None, None), workers=2):
            yield found
        assert not found.is_initialized(), "what was started is shut down"
    sys.modules.pop("mortal_ray", None)


def performed(job, runs):
    with RayEngine(job) as engine:  # uses what the fixture started
        return list(engine(runs, quiet))


def test_records_are_those_of_one_process(ray):
    job = Job(CARD, None, None)
    records, weights = {}, {}
    while runs := plan.pending(CARD, records):
        outcomes = performed(job, runs)
        assert len(outcomes) == len(runs)
        records |= timeless(outcomes)
        weights |= {outcome.run: outcome.weights for outcome in outcomes}
    assert records == timeless(InProcess(job)(list(records), quiet))
    assert all((weights[run] is None) == (run.phase == "tune") for run in records)
    assert ray.is_initialized(), "an engine that found Ray at work leaves it at work"


def test_results_come_in_the_order_of_completion(ray):
    """The first run asked for takes far longer than the second."""
    slow = card(model={"name": "mortal_ray:sleepy"})
    runs = plan.pending(slow, {})
    runs = [replace(runs[0], seed=1000), *(replace(runs[0], seed=seed) for seed in (2, 3, 4))]
    done = [outcome.run.seed for outcome in performed(Job(slow, None, None), runs)]
    assert sorted(done) == [2, 3, 4, 1000] and done[-1] == 1000


def test_a_run_whose_worker_was_killed_is_done_again(ray, tmp_path):
    options = {"marker": str(tmp_path / "trainings"), "deaths": RETRIES}
    job = Job(card(model={"name": "mortal_ray:make", "options": options}), None, tmp_path / "checkpoints")
    runs = plan.pending(job.card, {})[:4]
    found = timeless(performed(job, runs))
    assert (tmp_path / "trainings").read_text().count("here") == len(runs) + RETRIES
    assert found == timeless(InProcess(job)(runs, quiet))


def test_a_worker_that_dies_again_and_again_is_one_clear_line(ray, tmp_path):
    options = {"marker": str(tmp_path / "trainings"), "deaths": 99}
    job = Job(card(model={"name": "mortal_ray:make", "options": options}), None, None)
    run = plan.pending(job.card, {})[0]
    with pytest.raises(UserError, match=rf"^Ray could not perform {run} \(.*\); finished runs are kept$") as caught:
        performed(job, [run])
    assert "\n" not in str(caught.value)
    assert (tmp_path / "trainings").read_text().count("here") == RETRIES + 1


def test_an_error_of_ours_reaches_the_caller_as_it_is(ray, tmp_path):
    job = Job(card(data={"name": "cifar10", "train": 10, "validation": 10}), tmp_path / "nowhere", None)
    runs = plan.pending(job.card, {})[:2]
    with pytest.raises(UserError) as here:
        InProcess(job)
    with pytest.raises(UserError) as there:
        performed(job, runs)
    assert type(there.value) is UserError and str(there.value) == str(here.value)


def test_an_error_of_the_users_net_is_shown_as_it_is(ray):
    job = Job(card(model={"name": "mortal_ray:faulty"}), None, None)
    with pytest.raises(ArithmeticError, match=r"^my net is faulty$") as caught:
        performed(job, plan.pending(job.card, {})[:1])
    assert type(caught.value) is ArithmeticError
    assert "in forward" in str(caught.value.__cause__), "the place in the worker"


def test_a_run_that_fits_no_node_does_not_wait_for_ever(ray):
    for job in (Job(card(threads=999), None, None), Job(CARD, None, None, "cuda")):
        if job.device == "cuda" and ray.cluster_resources().get("GPU"):
            continue
        with pytest.raises(UserError, match=r"^no node of the Ray cluster has (999 CPU|1 CPU and 1 GPU), which"):
            performed(job, plan.pending(CARD, {})[:1])
    assert ray.is_initialized()


def test_another_process_joins_by_address_and_leaves_the_cluster_up(ray):
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_ray import CARD, InProcess, Job, RayEngine, plan, quiet, timeless
job = Job(CARD, None, None)
runs = plan.pending(CARD, {{}})[:1]
with RayEngine(job, sys.argv[1]) as engine:
    assert timeless(engine(runs, quiet)) == timeless(InProcess(job)(runs, quiet))
"""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-W", "error", "-c", program, address]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), "and Ray says nothing"
    assert len(performed(Job(CARD, None, None), plan.pending(CARD, {})[:1])) == 1


def test_missing_ray_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'^the ray engine needs ray: pip install "softdiamond\[ray\]"$'):
        RayEngine(Job(CARD, None, None))


def test_an_address_where_nothing_answers_is_one_line_at_once():
    """In a process of its own: this one may be connected already."""
    pytest.importorskip("ray", reason="needs ray")
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_ray import CARD, Job, RayEngine, UserError
for address in sys.argv[1:]:
    try:
        RayEngine(Job(CARD, None, None), address).__enter__()
    except UserError as error:
        print(error)
"""
    addresses = ["127.0.0.1:1", "localhost:1", "[::1]:1", "nonsense"]
    command = [sys.executable, "-W", "error", "-c", program, *addresses]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert ran.stderr == ""
    for line, address in zip(ran.stdout.splitlines(), addresses, strict=True):
        assert line.startswith(f"no Ray cluster answers at {address} ("), line
