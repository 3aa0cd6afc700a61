"""The scripts in examples/ run as a user would run them, and show what they are meant to show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def output(name: str) -> str:
    pytest.importorskip("sklearn")
    script = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def percents(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) %(?! of)", line)]


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"sparser_digits.py", "fine_tuning.py", "wine.py"}


def test_sparser_digits():
    plain, sparse = (
        line for line in output("sparser_digits.py").splitlines() if line.startswith(("strength 0", "strength 2"))
    )
    plain, sparse = percents(plain), percents(sparse)
    assert len(plain) == len(sparse) == 4, (plain, sparse)
    assert sparse[0] > plain[0] - 1 and sparse[2] > plain[2] + 10, "as accurate, and better at 90 % removed"


def test_fine_tuning():
    lines = [percents(line) for line in output("fine_tuning.py").splitlines() if line.startswith("fine-tuned")]
    plain, _, about_trained = lines
    assert about_trained[2] < plain[2] / 2, "fewer weights move"
    assert about_trained[1] > plain[1], "and more of the old task is kept"


def test_wine(tmp_path):
    """A network and tensors of one's own, named by a card."""
    pytest.importorskip("sklearn")
    command = [
        sys.executable,
        "-m",
        "softdiamond",
        "compare",
        "wine.toml",
        "--quick",
        "--workers",
        "1",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=EXAMPLES)
    assert done.returncode == 0 and "soft diamond 0.5" in done.stdout, done.stderr
