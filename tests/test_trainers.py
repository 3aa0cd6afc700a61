"""The regularizer in Lightning, Transformers and Accelerate: hooked, logged, kept in checkpoints; one process and two.

What must come out is what a plain PyTorch loop gives with the regularizer attached to its optimizer.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import softdiamond as sd

lightning = pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

import trainers_worker as work  # noqa: E402

from softdiamond.trainers import LightningCallback, TransformersCallback, metrics  # noqa: E402

pytestmark = [
    pytest.mark.xdist_group("trainers"),  # one process imports all three
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # the trainers' own
    pytest.mark.filterwarnings("ignore:.*(does not have many workers|pin_memory|litlogger|is not compatible).*"),
]

MODES = ["implicit", "gradient"]
TRAINERS = ["lightning", "transformers", "accelerate"]
each = pytest.mark.parametrize("trainer", TRAINERS)


def same(a: dict, b: dict) -> None:
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-5, atol=1e-7, msg=name)


@each
@pytest.mark.parametrize("mode", MODES)
def test_as_a_plain_loop(trainer, mode, tmp_path):
    plain, reg = work.loop(mode=mode)
    ours, other = getattr(work, f"by_{trainer}")(tmp_path, mode=mode)
    same(plain, ours)
    assert reg.state_dict()["steps"] == other.state_dict()["steps"] == [work.STEPS]
    assert trainer == "accelerate" or "not attached" in str(other.describe()), "the hook is gone after the training"
    bare, _ = work.loop(strength=0.0)
    assert max(float((bare[k] - plain[k]).abs().max()) for k in bare) > 1e-4, "the penalty is felt"


@each
@pytest.mark.parametrize("mode", MODES)
def test_gathered_gradients_are_one_step(trainer, mode, tmp_path):
    plain, _ = work.loop(mode=mode, gather=2)
    ours, reg = getattr(work, f"by_{trainer}")(tmp_path, mode=mode, gather=2)
    same(plain, ours)
    assert reg.state_dict()["steps"] == [work.STEPS // 2]


@each
def test_a_step_that_a_loss_scale_leaves_out_is_left_out(trainer, tmp_path):
    """The second batch overflows: neither the optimizer nor the penalty moves a weight, and the step does not count."""
    plain, _ = work.loop(overflow=1)
    ours, reg = getattr(work, f"by_{trainer}")(tmp_path, overflow=1)
    same(plain, ours)
    assert reg.state_dict()["steps"] == [work.STEPS - 1]


@each
@pytest.mark.parametrize("center", ["zero", "initial"])
def test_a_checkpoint_keeps_the_state(trainer, center, tmp_path):
    """Stopped halfway and resumed by new objects, the training ends where it would have ended."""
    whole, _ = getattr(work, f"by_{trainer}")(tmp_path / "whole", center=center, strength=lambda done: 0.1 * (done + 1))
    settings = {"center": center, "strength": lambda done: 0.1 * (done + 1)}
    getattr(work, f"by_{trainer}")(tmp_path / "half", stop=work.STEPS // 2, **settings)
    again, reg = getattr(work, f"by_{trainer}")(tmp_path / "half", resume=True, **settings)
    same(whole, again)
    assert reg.state_dict()["steps"] == [work.STEPS]


@each
def test_what_is_logged(trainer, tmp_path):
    """Penalty, strength and sparsity reach the loggers that the trainer has."""
    seen: list[dict] = []
    _, reg = getattr(work, f"by_{trainer}")(tmp_path, seen=seen)
    names = {"soft_diamond/penalty", "soft_diamond/strength", "soft_diamond/below_1e-3"}
    told = [logs for logs in seen if names <= logs.keys()]
    assert len(told) == work.STEPS, seen
    assert {name: told[-1][name] for name in names} == pytest.approx(metrics(reg), rel=1e-5)
    assert told[-1]["soft_diamond/penalty"] > 0


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder in which two processes leave their results."""
    folder = tmp_path_factory.mktemp("two")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    environment |= {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(work.free_port()),
        "OMP_NUM_THREADS": "1",
    }
    worker = Path(work.__file__)
    started = []
    for rank in ("0", "1"):
        own = environment | {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": "0"}
        started.append(
            subprocess.Popen(
                [sys.executable, str(worker), str(folder)], env=own, cwd=worker.parent,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    for process in started:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output[-4000:]
    return folder


@each
def test_two_processes(trainer, two_processes):
    """DDP over gloo: both end with the same weights, those of one process with the whole batches."""
    results = [torch.load(two_processes / f"{trainer}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=0, msg=name)
    same(work.loop()[0], results[0])


# --- a regularizer that is made later, several trainings, bad input ------------------------------------------------------


@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_a_function_makes_it_when_training_begins(trainer, tmp_path):
    plain, _ = work.loop()
    ours, reg = getattr(work, f"by_{trainer}")(tmp_path, later=True)
    same(plain, ours)
    assert reg is not None


def test_resuming_without_a_state_says_so(tmp_path):
    work.by_transformers(tmp_path, stop=2)
    for path in tmp_path.rglob("soft_diamond.pt"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"resumes at step 2, but .*soft_diamond\.pt is not there"):
        work.by_transformers(tmp_path, resume=True)


def test_a_used_callback_resumes_where_the_checkpoint_is(tmp_path):
    """An earlier checkpoint's state takes the place of what a longer training has left; without it, that does not pass."""
    _, fresh = work.by_transformers(tmp_path, stop=2)
    path = tmp_path / "checkpoint-2" / "soft_diamond.pt"
    saved = torch.load(path, weights_only=True)
    optimizer = work.sgd(net := work.model())
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    state, control = transformers.TrainerState(global_step=2), transformers.TrainerControl()
    callback = TransformersCallback(work.make(net))
    callback.regularizer.load_state_dict(saved | {"steps": [10]})
    callback.on_train_begin(arguments, state, control, model=net, optimizer=optimizer)
    assert callback.regularizer.state_dict()["steps"] == fresh.state_dict()["steps"] == [2]
    callback.on_train_end(arguments, state, control)
    path.unlink()
    callback.on_train_begin(arguments, state, control, model=net, optimizer=optimizer)  # has the state already
    callback.on_train_end(arguments, state, control)
    callback.regularizer.load_state_dict(saved | {"steps": [10]})
    with pytest.raises(FileNotFoundError, match="resumes at step 2"):
        callback.on_train_begin(arguments, state, control, model=net, optimizer=optimizer)


@pytest.mark.parametrize("later", [False, True], ids=["made", "made later"])
def test_a_state_that_waits_is_kept(later):
    """A checkpoint written between the reading of one and the training has what was read."""
    reg = work.make(work.model())
    waits = reg.state_dict() | {"steps": [4]}
    callback = LightningCallback((lambda _: reg) if later else reg)
    callback.load_state_dict(waits)
    assert callback.state_dict()["steps"] == [4]


@each
def test_attached_twice(trainer, tmp_path):
    with pytest.raises(ValueError, match=r"attached already|another attached optimizer"):
        getattr(work, f"by_{trainer}")(tmp_path, twice=True)


@pytest.mark.parametrize("callback", [LightningCallback, TransformersCallback])
def test_bad_settings(callback):
    with pytest.raises(TypeError, match=r"expected a softdiamond\.Regularizer, or a function"):
        callback(sd.SoftDiamond(0.5))
    with pytest.raises(TypeError, match=r"expected a softdiamond\.Regularizer, .*; got Linear$"):
        callback(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="mode must be one of implicit, prox, gradient; got 'hard'"):
        callback(sd.Regularizer(work.model(), strength=1.0), mode="hard")


def test_each_asks_only_for_its_own_package():
    program = (
        "import sys; from softdiamond.trainers import {name}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program.format(name="with_accelerate")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {"lightning", "transformers"}.isdisjoint(done.stdout.split()) and "accelerate" in done.stdout.split()
