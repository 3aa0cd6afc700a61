"""What every test and doctest gets: a private table cache, and random numbers that its own name fixes."""

import os
import random
import sys
import zlib
from importlib.util import find_spec

import hypothesis
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the processors: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("KERAS_BACKEND", "torch")

# Doctests of modules whose extra is not installed.
EXTRAS = {"jax.py": "optax", "keras.py": "keras", "trainers/_lightning.py": "lightning", "trainers/_accelerate.py": "accelerate",
          "trainers/_transformers.py": "transformers"}  # fmt: skip
collect_ignore = [f"src/softdiamond/{file}" for file, package in EXTRAS.items() if find_spec(package) is None]

hypothesis.settings.register_profile("softdiamond", deadline=None, derandomize=True)
hypothesis.settings.load_profile("softdiamond")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tables go to a temporary folder; subprocesses inherit the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTDIAMOND_CACHE", str(tmp_path_factory.mktemp("softdiamond-cache")))
        yield


@pytest.fixture
def seed(request) -> int:
    """A number that depends on the test's name and parameters only."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def seeded(seed):
    """Fix the global generators too, for code that the test does not hand a generator to."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the legacy global generator is what has to be fixed
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


@pytest.fixture
def call(capsys):
    """Return a function of the command line's arguments: exit status, standard output and the lines of standard error."""
    from softdiamond import cli

    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
