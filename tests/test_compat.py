"""Private names of other packages: what `softdiamond._compat` takes from them is there and does what it says."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from softdiamond import _compat


def test_importing_it_imports_no_other_package():
    others = "{'torch', 'keras', 'lightning', 'numpy'}"
    program = f"import sys, softdiamond._compat\nprint({others} & {{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_without_dispatch_modes_tensors_have_data():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        assert isinstance(torch.ones(2), FakeTensor)
        with _compat.without_dispatch_modes():
            made = torch.ones(2)
        assert isinstance(torch.ones(2), FakeTensor)
    assert not isinstance(made, FakeTensor) and made.sum() == 2


def test_mark_constant_is_what_torch_compiler_sets():
    torch = pytest.importorskip("torch")

    def ours(name: str) -> int:
        return len(name)

    def theirs(name: str) -> int:
        return len(name)

    assert _compat.mark_constant(ours) is ours
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs)


def test_all_true_works_under_vmap():
    torch = pytest.importorskip("torch")
    found = []

    def positive(row):
        found.append(_compat.all_true(row > 0))
        return row

    torch.func.vmap(positive)(torch.ones(3, 2))
    torch.func.vmap(positive)(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert found == [True, False]


def test_step_hooks_are_those_that_were_registered():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert _compat.step_hooks(optimizer) == []

    def before(*_):
        pass

    def after(*_):
        pass

    handle = optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    assert _compat.step_hooks(optimizer) == [before, after]
    handle.remove()
    assert _compat.step_hooks(optimizer) == [after]


def test_normalizes_channels():
    torch = pytest.importorskip("torch")
    yes = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm3d(2), torch.nn.InstanceNorm2d(2), torch.nn.SyncBatchNorm(2)
    assert all(map(_compat.normalizes_channels, yes))
    assert not any(map(_compat.normalizes_channels, (torch.nn.LayerNorm(2), torch.nn.Linear(2, 2))))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, when its compiler is first imported
def test_compiled_models_keep_the_model_under_that_name():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 2)
    compiled = torch.compile(model)
    assert getattr(compiled, _compat.COMPILED) is model
    assert next(iter(dict(compiled.named_parameters()))) == f"{_compat.COMPILED}.weight"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_layers_with_variables_cover_all_weights_once():
    keras = pytest.importorskip("keras")
    inner = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1)])
    found = [variable for _, own in _compat.layers_with_variables(model) for variable in own]
    assert sorted(map(id, found)) == sorted(map(id, model.weights)) and len(found) == 2 + 4 + 2
    owners = {type(layer).__name__: len(own) for layer, own in _compat.layers_with_variables(model) if own}
    assert owners == {"Dense": 2, "BatchNormalization": 4}


@pytest.mark.filterwarnings("ignore")  # of a trainer without workers and validation
def test_logs_now_every_nth_step(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.demos.boring_classes import BoringModel

    logs = []

    class Record(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            logs.append(_compat.logs_now(trainer))

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    settings = {"max_steps": 6, "limit_val_batches": 0, "log_every_n_steps": 3, "default_root_dir": tmp_path}
    lightning.Trainer(accelerator="cpu", callbacks=[Record()], **settings, **quiet).fit(BoringModel())
    assert logs == [False, False, True, False, False, True]


def _sleep() -> None:
    import time

    time.sleep(600)


def test_kill_workers_ends_the_processes_at_once():
    import multiprocessing

    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.submit(_sleep)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.is_alive()
    _compat.kill_workers(pool)
    worker.join(60)
    assert not worker.is_alive()
