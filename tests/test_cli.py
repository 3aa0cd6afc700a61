"""The command line as a person meets it: what it prints where, its exit status, each bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import softdiamond
from softdiamond import cli
from softdiamond.cli.app import app
from softdiamond.experiments import card as cards

COMMAND = [sys.executable, "-m", "softdiamond"]
CARD = """
name = "tiny"
[data]
name = "digits"
train = 100
validation = 100
test = 100
[model]
name = "mlp"
options = { hidden = [8] }
[training]
optimizer = "SGD"
rate = 0.05
epochs = 2
batch = 64
[[methods]]
penalty = "none"
[[methods]]
penalty = "L2"
[[methods]]
penalty = "soft diamond"
alpha = 0.5
[tuning]
strengths = [0.001, 0.01]
seeds = [100]
widen = 0
[final]
seeds = [0, 1]
"""
RESULTS = {"card.json", "records.jsonl", "summary.parquet", "report.html", "weights"}


def assert_bad(result, *words):
    """One line on standard error with these words, nothing on standard output, status 2."""
    status, out, lines = result
    assert status == 2 and out == "" and len(lines) == 1, result
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Make the folder with a card of eleven short runs the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(CARD)
    return tmp_path


@pytest.fixture
def compare(call, tiny):
    return lambda *arguments: call("compare", "tiny.toml", "--workers", 1, *arguments)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Results of the card, made once."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "tiny.toml").write_text(CARD)
    results = folder / "softdiamond-tiny"
    assert cli.main(["compare", str(folder / "tiny.toml"), "--workers", "1", "--out", str(results)]) == 0
    return results


@pytest.fixture
def finished(kept, tiny):
    """Give the current folder a finished comparison, a copy that may be changed."""
    return shutil.copytree(kept, tiny / kept.name)


def test_version_and_help(call):
    assert call("--version") == (0, f"{softdiamond.__version__}\n", [])
    for arguments in ([], ["--help"], ["-h"]):
        status, out, err = call(*arguments)
        assert status == 0 and err == []
        assert all(command in out for command in ("claims", "compare", "laws", "report")), arguments


def test_flags_are_pinned():
    runner = CliRunner()
    compare = "--address --data-dir --device --engine --list --out --plan --quick --show-card --workers"
    for command, flags in {"laws": "--out", "report": "--out", "claims": "--add --out", "compare": compare}.items():
        shown = runner.invoke(app, [command, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0
        found = {word.strip(",:") for word in shown.output.replace("│", " ").split() if word.startswith("--")}
        assert found == {*flags.split(), "--help"}, command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compar"], ["compar"]),
        (["compare"], ["which card?", "--list"]),
        (["compare", "digits", "--strength", "1"], ["--strength"]),
        (["laws"], ["--out"]),
        (["report"], ["Missing argument"]),
        (["compare", "mnist"], ["no card 'mnist'", "digits", "cifar10-small", ".toml"]),
        (["compare", "mnist", "--plan"], ["no card 'mnist'", "digits", "cifar10-small", ".toml"]),
        (["compare", "--plan"], ["which card?", "--list"]),
        (["compare", "cifar10-small", "--plan"], ["needs --data-dir", "train.parquet"]),
        (["compare", "digits", "--plan", "--engine", "ray", "--address", "x:1"], ["--plan", "--address"]),
        (["compare", "digit"], ["no card 'digit'", "did you mean digits?"]),
        (["compare", "cifar10_small"], ["did you mean cifar10-small?"]),
        (["compare", "mine.toml"], ["cannot read the card 'mine.toml'", "No such file"]),
        (["compare", "cifar10-small"], ["needs --data-dir", "train.parquet", "https://www.cs.toronto.edu/~kriz"]),
        (["compare", "digits", "--data-dir", "."], ["brings its own data", "--data-dir"]),
        (["compare", "digits", "--workers", "0"], ["--workers"]),
        (["compare", "digits", "--engine", "slurm"], ["no engine 'slurm'", "local and ray"]),
        (["compare", "digits", "--address", "x:1"], ["--engine ray"]),
        (["compare", "digits", "--engine", "ray", "--address", "x:1", "--workers", "2"], ["--workers", "--address"]),
        (["compare", "digits", "--device", "tpu"], ["no device 'tpu'", "cpu, cuda and auto"]),
        (["report", "nowhere"], ["nowhere holds no results", "card.json"]),
    ],
)
def test_wrong_words(call, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_bad(call(*arguments), *words)
    assert not list(tmp_path.iterdir()), "nothing is made"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("alpha = 0.5", "alpha = 2.5", ["methods.3.alpha is 2.5", "less than or equal to 2"]),
        ("epochs = 2", "epoch = 2", ["training.epoch is no key", "did you mean epochs?"]),
        ("batch = 64", 'batch = "64"', ["training.batch is '64'", "integer"]),
        ("hidden = [8]", "hiden = [8]", ["model mlp", "hiden", "hidden, dropout, batch_norm"]),
        ('"mlp"', '"perceptron"', ["no model 'perceptron'", "mlp, small-conv, resnet18", "module:function"]),
        ('name = "digits"', 'name = "mine:missing"', ["data set 'mine:missing' cannot be imported"]),
        ("train = 100", "train = 2000", ["digits has 1797 images", "2100 are needed", "data.train"]),
    ],
)
def test_wrong_card(compare, tiny, old, new, words):
    (tiny / "tiny.toml").write_text(CARD.replace(old, new, 1))
    assert_bad(compare(), *words)
    assert [path.name for path in tiny.iterdir() if path.suffix != ".toml"] == [], "nothing is made"


def test_cards_are_listed_and_shown(call, tmp_path):
    status, out, err = call("compare", "--list")
    assert status == 0 and err == []
    for name in ("digits", "cifar10-small", "caltech101-64", "cifar10", "cifar100", "caltech256", "front"):
        assert f"\n{name} " in f"\n{out}", name
    status, out, err = call("compare", "digits", "--show-card")
    assert (status, out, err) == (0, cards.shipped()["digits"], [])
    (tmp_path / "mine.toml").write_text(out)
    assert cards.find(str(tmp_path / "mine.toml")) == cards.find("digits")


def test_compare_from_first_call_to_repetition_and_report(call, compare, tiny):
    pytest.importorskip("matplotlib")
    status, out, lines = compare()
    folder = tiny / "softdiamond-tiny"
    assert status == 0 and {path.name for path in folder.iterdir()} > RESULTS
    assert len((folder / "records.jsonl").read_bytes().splitlines()) == 11
    assert lines[0] == "[tuning 0/5] stage 1 of 2" and "[final 0/6] stage 2 of 2" in lines
    ends = [line for line in lines if line.startswith(("[tuning 5/5] ", "[final 6/6] complete in "))]
    assert "; last: tune soft diamond 0.5 strength 0.01 seed 100: validation " in ends[0]
    assert "; last: final soft diamond 0.5 strength 0.0" in ends[1] and ends[1] == lines[-1]
    for word in (
        "none",
        "L2",
        "soft diamond 0.5",
        "±",
        "test accuracy",
        "prunable",
        "no difference shown",
    ):
        assert word in out, word
    written = out.splitlines()[-1]
    assert written.startswith("Written to softdiamond-tiny: summary.parquet, accuracy.png")
    names = written.partition(": ")[2].split(", ")
    results = {"card.json", "records.jsonl", "weights", ".lock"}
    assert set(names) == {path.name for path in folder.iterdir()} - results and "report.html" in names
    kept, page = (folder / "records.jsonl").read_bytes(), (folder / "report.html").read_bytes()
    assert len(list((folder / "weights").iterdir())) == 6 and not (folder / "checkpoints").exists()
    status, again, lines = compare()
    assert status == 0 and again == out, "the same table, times included, from the records"
    assert lines == ["softdiamond: 11 runs were done before and are not repeated"]
    assert (folder / "records.jsonl").read_bytes() == kept
    (folder / "report.html").unlink()
    status, again, lines = call("report", folder.name)
    assert status == 0 and again == out and lines == []
    assert (folder / "report.html").read_bytes() == page


@pytest.fixture
def brief(monkeypatch):
    """Steps are timed for a moment."""
    from softdiamond.experiments import forecast

    for name in ("TRAINING_SECONDS", "MEASURING_SECONDS"):
        monkeypatch.setattr(forecast, name, 0.01)


@pytest.mark.usefixtures("brief")
def test_plan_of_a_comparison_that_is_not_begun(compare, tiny):
    status, out, lines = compare("--plan")
    assert status == 0 and lines == [] and [path.name for path in tiny.iterdir()] == ["tiny.toml"], "nothing is made"
    for method, strengths in {"none": 1, "L2": 2, "soft diamond 0.5": 2}.items():
        rows = [row.split("│") for row in out.splitlines() if f"│ {method} " in row]
        assert [row[1].strip() for row in rows] == ["tuning", "final"]
        assert [int(row[4]) for row in rows] == [strengths, 2] and all(float(row[6]) > 0 for row in rows), method
    for sentence in (
        "Tuning: 0 runs done, 5 to do",
        "Final: 0 runs done, 6 to do.",
        "Time on this machine with 1 worker:",
    ):
        assert sentence in out, sentence


@pytest.mark.usefixtures("brief")
def test_plan_of_a_comparison_that_was_stopped(compare, finished, tiny):
    path = finished / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])  # and one that was cut
    before = {each: each.stat().st_mtime_ns for each in finished.rglob("*")}
    status, out, said = compare("--plan")
    assert status == 0 and "Tuning: 5 runs done, 0 to do" in out and "Final: 4 runs done, 2 to do." in out
    assert said == ["softdiamond: 9 runs were done before and are not repeated"]
    assert {each: each.stat().st_mtime_ns for each in finished.rglob("*")} == before, "nothing is written"
    path.write_bytes(b"".join(lines))
    status, out, _ = compare("--plan")
    assert status == 0 and out.splitlines()[-1] == "All 11 runs are done."
    (tiny / "tiny.toml").write_text(CARD.replace("rate = 0.05", "rate = 0.06"))
    assert_bad(compare("--plan"), "another card", "training.rate", "--out")
    (tiny / "file").write_text("mine")
    assert_bad(compare("--plan", "--out", "file"), "file is a file", "--out")


def test_plan_without_half_of_the_data(call, tmp_path):
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    for _ in range(2):  # no file, then one of two
        result = call("compare", "cifar10-small", "--plan", "--data-dir", folder, "--out", out)
        assert_bad(result, str(folder), "train.parquet and test.parquet", "--data-dir")
        (folder / "train.parquet").write_bytes(b"")
    assert not out.exists()


def test_quick_is_said_and_kept_apart(compare, tiny):
    status, out, _ = compare("--quick")
    assert "A quick run: it proves that the card runs, and its numbers mean nothing." in out.splitlines()
    assert "no difference shown" not in out and "in tuning" not in out, "no answer"
    assert status == 0 and "quick" in (tiny / "softdiamond-tiny-quick" / "report.html").read_text().lower()
    assert_bad(compare("--out", "softdiamond-tiny-quick"), "another card", "quick", "--out")


def test_models_and_data_of_the_user(tiny):
    """The README's example: a network and tensors of one's own, in a file beside the card."""
    (tiny / "mine.py").write_text(
        "import torch\n"
        "def network(shape, classes, *, width):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(shape[0], width), torch.nn.ReLU(), torch.nn.Linear(width, classes))\n"
        "def tensors():\n"
        "    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))\n"
        "    y = (x[:, 0] > 0).long()\n"
        "    return (x[:100], y[:100]), (x[100:200], y[100:200]), (x[200:], y[200:])\n"
    )
    own = (
        CARD.replace('"mlp"', '"mine:network"')
        .replace("hidden = [8]", "width = 16")
        .replace('"digits"', '"mine:tensors"')
    )
    (tiny / "tiny.toml").write_text(own)
    done = subprocess.run(
        [*COMMAND, "compare", "tiny.toml", "--workers", "2"], capture_output=True, text=True, cwd=tiny
    )
    assert done.returncode == 0 and "soft diamond 0.5" in done.stdout, done.stderr


def test_friends_runs_beside_yours(call, compare, tiny, finished):
    finished.rename("mine")
    (tiny / "tiny.toml").write_text(CARD.replace("seeds = [0, 1]", "seeds = [1, 2, 3]"))
    assert compare("--out", "theirs")[0] == 0
    status, out, lines = call("report", "mine", "theirs", "--out", "both")
    assert status == 0 and "over 4 seeds" in " ".join(out.split()) and (tiny / "both" / "report.html").exists()
    assert lines == ["softdiamond: 8 runs lie in several folders: those of the first are taken"]
    (tiny / "tiny.toml").write_text(CARD.replace("rate = 0.05", "rate = 0.06"))
    assert compare("--out", "other")[0] == 0
    both = call("report", "mine", "other", "--out", "new")
    assert_bad(both, "different cards", "training.rate: 0.05 and 0.06")
    assert_bad(call("report", "mine", "theirs"), "several folders", "--out")
    assert not (tiny / "new").exists()


def test_report_of_unfinished_comparisons(call, tiny, finished):
    finished.rename("out")
    path = tiny / "out" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    status, out, _ = call("report", "out")
    assert status == 0 and "not finished" not in out
    assert "not finished: 2 final runs" in (tiny / "out" / "report.html").read_text(encoding="utf-8")
    path.write_bytes(b"".join(lines[:3]))
    assert_bad(call("report", "out"), "not finished", "softdiamond compare")
    path.write_bytes(b"garbage\n" + path.read_bytes())
    assert_bad(call("report", "out"), "line 1 of", "not a record")


def test_cut_records_are_done_again(compare, finished):
    path = finished / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    status, _, said = compare()
    assert status == 0 and len(path.read_bytes().splitlines()) == 11
    assert "was cut" in said[0] and "softdiamond: 10 runs were done before and are not repeated" in said
    path.write_bytes(b"garbage\n" + path.read_bytes())
    assert_bad(compare(), "line 1 of", "not a record", "--out")


def test_diverged_runs_are_a_result(compare, tiny):
    wild = '[[methods]]\npenalty = "L1"\nmode = "loss"\nstrengths = [1e30, 1e31]\n[tuning]'
    (tiny / "tiny.toml").write_text(CARD.replace("[tuning]", wild))
    status, out, lines = compare()
    assert status == 0 and "diverged" in out
    said = [line for line in lines if line.endswith(": diverged")]
    assert len(said) == 4 and all("L1, loss" in line for line in said), "each is said when it comes"
    assert lines[-1] == "softdiamond: 4 of 15 runs diverged: they are kept, and shown as such"
    assert "diverged" in (tiny / "softdiamond-tiny" / "report.html").read_text()


@pytest.mark.parametrize("command", [["compare", "digits", "--workers", "1"], ["laws"]])
def test_out_that_cannot_be_written(call, tmp_path, command):
    if command == ["laws"]:
        pytest.importorskip("matplotlib")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "sub"):
        assert_bad(call(*command, "--out", out), str(out))
    assert file.read_text() == "mine"


def test_laws_are_drawn(call, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, err = call("laws", "--out", tmp_path / "new")
    assert status == 0 and err == [] and len(list((tmp_path / "new").iterdir())) == 4
    assert all(str(path) in out for path in (tmp_path / "new").iterdir())


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_data_folder_that_is_missing_empty_or_a_file(call, tmp_path, make):
    folder = tmp_path / "data"
    make(folder)
    result = call("compare", "cifar10-small", "--data-dir", folder, "--out", tmp_path / "out")
    assert_bad(result, str(folder), "train.parquet", "cifar-10-batches-py", "--data-dir", "cs.toronto.edu/~kriz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("sklearn", "cli", ["compare", "digits"]),
        ("pyarrow", "cli", ["compare", "cifar10-small", "--data-dir", "."]),
        ("PIL", "cli", ["compare", "cifar10-small", "--data-dir", "."]),
        ("ray", "ray", ["compare", "digits", "--engine", "ray"]),
        ("matplotlib", "plot", ["laws", "--out", "."]),
    ],
)
def test_missing_extra_is_named(tmp_path, package, extra, arguments):
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_bytes(b"")
    if package == "PIL":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pyarrow.table({"image": [{"bytes": b""}] * 12_000, "label": [n % 10 for n in range(12_000)]})
        for name in ("train.parquet", "test.parquet"):
            parquet.write_table(table, tmp_path / name)
    start = "import sys; from softdiamond.cli import main; sys.exit(main())"
    program = f"import sys; sys.modules[{package!r}] = None; {start}"  # as if it were not installed
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert_bad((done.returncode, done.stdout, done.stderr.splitlines()), f'pip install "softdiamond[{extra}]"')


def test_missing_matplotlib_leaves_table_and_records(call, compare, monkeypatch, tiny):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, lines = compare()
    assert status == 0 and "soft diamond 0.5" in out and (tiny / "softdiamond-tiny" / "records.jsonl").exists()
    assert out.splitlines()[-1] == "Written to softdiamond-tiny: summary.parquet"
    needs = 'figures need matplotlib: pip install "softdiamond[plot]"'
    missing = [f"softdiamond: no {what}: {needs}" for what in ("figures", "report.html")]
    assert lines[-2:] == missing
    status, again, lines = call("report", "softdiamond-tiny")
    assert (status, again, lines) == (2, out, missing)


@pytest.mark.usefixtures("finished")
def test_report_to_a_file_says_what_it_cannot_write(call, tiny):
    pytest.importorskip("matplotlib")
    (tiny / "file").write_text("mine")
    status, out, lines = call("report", "softdiamond-tiny", "--out", "file")
    assert status == 2 and "soft diamond 0.5" in out and "Written" not in out and (tiny / "file").read_text() == "mine"
    whats = ("summary.parquet", "figures", "report.html")
    assert lines == [f"softdiamond: no {what}: cannot write to file (File exists)" for what in whats]


def test_other_data_are_refused(compare, monkeypatch, tiny):
    monkeypatch.setattr(sys, "path", [*sys.path])  # the folder is put into it
    own = (
        "import torch\n"
        "def tensors():\n"
        "    x = torch.randn(300, 6, generator=torch.Generator().manual_seed({seed}))\n"
        "    y = (x[:, 0] > 0).long()\n"
        "    return (x[:100], y[:100]), (x[100:200], y[100:200]), (x[200:], y[200:])\n"
    )
    (tiny / "tiny.toml").write_text(CARD.replace('"digits"', '"mine:tensors"'))

    def compare_those_of(seed, *arguments):
        """As a new process would, which imports the module as it is now."""
        (tiny / "mine.py").write_text(own.format(seed=seed))
        result = compare(*arguments)
        del sys.modules["mine"]
        return result

    assert compare_those_of(0)[0] == 0
    path = tiny / "softdiamond-tiny" / "records.jsonl"
    kept = path.read_bytes()
    before = json.loads(kept.splitlines()[0])["data"]["fingerprint"]
    status, out, lines = compare_those_of(12)
    assert status == 2 and out == "" and path.read_bytes() == kept
    last = lines[-1]
    assert f"holds runs on other data (checksum {before}, here " in last and last.endswith("): choose another --out")
    here = last.partition(", here ")[2].partition(")")[0]
    status, *_ = compare_those_of(12, "--out", "new")
    line = (tiny / "new" / "records.jsonl").read_text().splitlines()[0]
    assert status == 0 and json.loads(line)["data"]["fingerprint"] == here != before


def test_another_environment_is_said(compare, finished):
    path = finished / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    here = records[0]["environment"]["torch"]
    for record in records:
        record["environment"]["torch"] = "1.0"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    status, _, lines = compare()
    assert status == 0 and lines == [
        "softdiamond: 11 runs were done before and are not repeated",
        f"softdiamond: the runs before were made with torch 1.0 (here {here}): results may differ in their last bits",
    ]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_keeps_finished_runs(tiny, workers):
    (tiny / "tiny.toml").write_text(CARD.replace("epochs = 2", "epochs = 40"))
    records = tiny / "softdiamond-tiny" / "records.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "compare", "tiny.toml", "--workers", workers],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job is born ignoring it
        cwd=tiny,
    )
    try:
        deadline = time.monotonic() + 120
        while not (records.exists() and records.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < deadline and process.poll() is None, "no run was finished"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    *_, last = stderr.decode().splitlines()
    assert last == "softdiamond: stopped; finished runs are kept; call the same command again to continue"
    assert "Traceback" not in stderr.decode()
    assert all(json.loads(line) for line in records.read_text().splitlines())


@pytest.mark.usefixtures("finished")
def test_report_needs_no_torch(tiny):
    program = (
        "import sys; from softdiamond.cli import main; status = main(); sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "softdiamond-tiny"], capture_output=True, text=True, cwd=tiny
    )
    assert done.returncode == 0 and "Written to softdiamond-tiny: " in done.stdout, done.stderr


def test_output_in_ascii(tmp_path):
    """A character that the encoding lacks costs a question mark, not a traceback after all the training."""
    program = (
        "import sys; from softdiamond.cli import main; status = main(['--version']); print(chr(177)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and "?" in done.stdout, done.stderr
