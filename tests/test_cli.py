"""The command line as a person meets it: what it prints where, its exit status, each bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import softdiamond
from softdiamond import cli
from softdiamond.experiments import runs
from softdiamond.experiments.train import Method, Recipe

COMMAND = [sys.executable, "-c", "import sys; from softdiamond.cli import main; sys.exit(main())"]


def call(capsys, *arguments):
    """Exit status, standard output and the lines of standard error."""
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


def assert_bad(result, *words):
    """One line on standard error with these words, nothing on standard output, status 2."""
    status, out, lines = result
    assert status == 2 and out == "" and len(lines) == 1, result
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def quick(monkeypatch):
    """Make ``digits`` a comparison of eight short runs."""
    methods = (Method("none", ()), Method("L2", (0.001, 0.01)), Method("soft diamond", (0.001, 0.01), 0.5, 1.0))
    recipe = Recipe(sizes=(64, 8, 10), epochs=2, batch=64, rate=0.05, momentum=0.9)
    shrunk = replace(runs.DIGITS, recipe=recipe, methods=methods, tuning_seeds=(100,), seeds=(0, 1))
    monkeypatch.setitem(runs.COMPARISONS, "digits", shrunk)
    return shrunk


def test_version_and_help(capsys):
    assert call(capsys, "--version") == (0, f"{softdiamond.__version__}\n", [])
    for arguments in ([], ["--help"], ["-h"]):
        status, out, err = call(capsys, *arguments)
        assert status == 0 and err == [] and "compare" in out and "laws" in out, arguments


def test_flags_are_pinned():
    runner = CliRunner()
    for command, flags in {"laws": ["--out"], "compare": ["--data-dir", "--mode", "--out"]}.items():
        shown = runner.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0
        found = {word.strip(",") for word in shown.output.split() if word.startswith("--")}
        assert found == {*flags, "--help"}, command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compar"], ["compar"]),
        (["compare"], ["Missing argument"]),
        (["compare", "digits", "--strength", "1"], ["--strength"]),
        (["laws"], ["--out"]),
        (["compare", "mnist"], ["no comparison 'mnist'", "digits, cifar10-small"]),
        (["compare", "digit"], ["no comparison 'digit'", "digits, cifar10-small", "did you mean digits?"]),
        (["compare", "cifar10_small"], ["did you mean cifar10-small?"]),
        (["compare", "cifar10-small"], ["needs --data-dir", "train.parquet", "https://www.cs.toronto.edu/~kriz"]),
        (["compare", "digits", "--data-dir", "."], ["brings its own data", "--data-dir"]),
    ],
)
def test_wrong_words(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_bad(call(capsys, *arguments), *words)
    assert not list(tmp_path.iterdir()), "nothing is made"


def test_compare_from_first_call_to_repetition(capsys, monkeypatch, tmp_path, quick):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, out, lines = call(capsys, "compare", "digits")
    folder = tmp_path / "softdiamond-digits"
    assert status == 0 and sorted(path.name for path in folder.iterdir()) == [
        *("comparison.png", "comparison.svg", "records.jsonl")
    ]
    assert len(lines) == 10 and lines[0].startswith("[1/10] tune L2 strength 0.001 seed 100: validation ")
    for word in ("none", "L2", "soft diamond 0.5", "±", "test accuracy", "prunable", "|w| < 1e-3", "records.jsonl"):
        assert word in out, word
    kept = (folder / "records.jsonl").read_bytes()
    status, again, lines = call(capsys, "compare", "digits")
    assert status == 0 and again == out, "the same table, times included, from the records"
    assert lines == ["softdiamond: 10 of 10 runs were done before and are not repeated"]
    assert (folder / "records.jsonl").read_bytes() == kept


def test_cut_and_foreign_records_are_named(capsys, tmp_path, quick):
    assert call(capsys, "compare", "digits", "--out", tmp_path)[0] == 0
    path = tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    foreign = json.loads(lines[0])
    foreign["settings"]["optimizer"]["epochs"] = 99
    path.write_bytes(b"".join([json.dumps(foreign).encode() + b"\n", *lines[1:-1], lines[-1][:50]]))
    status, _, said = call(capsys, "compare", "digits", "--out", tmp_path)
    assert status == 0
    assert any("last line of" in line and "was cut" in line for line in said), said
    assert any("of another comparison or other settings, not used here: 1" in line for line in said), said
    assert "softdiamond: 8 of 10 runs were done before and are not repeated" in said

    path.write_bytes(b"garbage\n" + path.read_bytes())
    assert_bad(call(capsys, "compare", "digits", "--out", tmp_path), "line 1 of", "not a record", "--out")


def test_diverged_runs_are_named_and_kept(capsys, monkeypatch, tmp_path, quick):
    methods = (*quick.methods, Method("L1", (1e30,)))
    monkeypatch.setitem(runs.COMPARISONS, "digits", replace(quick, methods=methods))
    status, out, lines = call(capsys, "compare", "digits", "--mode", "loss", "--out", tmp_path)
    assert status == 3 and "diverged" in out
    assert "3 of 13 runs diverged, their records are kept: tune L1 strength 1e+30 seed 100; final L1" in lines[-1]
    found = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert sum(record["status"] == "diverged" for record in found) == 3 and len(found) == 13


def test_mode_is_checked_and_kept(capsys, tmp_path, quick):
    assert_bad(
        call(capsys, "compare", "digits", "--mode", "magic", "--out", tmp_path), "no mode 'magic'", "implicit, prox"
    )
    for mode in ("implicit", "loss"):
        status, out, lines = call(capsys, "compare", "digits", "--mode", mode, "--out", tmp_path)
        assert status == 0 and f"mode: {mode}" in " ".join(out.split())
    assert any("other settings, not used here: 10" in line for line in lines), (
        "records of another mode are not mixed in"
    )


@pytest.mark.parametrize("command", [["compare", "digits"], ["laws"]])
def test_out_that_cannot_be_written(capsys, tmp_path, command):
    if command == ["laws"]:
        pytest.importorskip("matplotlib")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "sub"):
        assert_bad(call(capsys, *command, "--out", out), str(out), "--out must name a folder")
    assert file.read_text() == "mine"


def test_laws_are_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, err = call(capsys, "laws", "--out", tmp_path / "new")
    assert status == 0 and err == [] and len(list((tmp_path / "new").iterdir())) == 4
    assert all(str(path) in out for path in (tmp_path / "new").iterdir())


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_data_folder_that_is_missing_empty_or_a_file(capsys, tmp_path, make):
    folder = tmp_path / "data"
    make(folder)
    result = call(capsys, "compare", "cifar10-small", "--data-dir", folder, "--out", tmp_path / "out")
    assert_bad(result, str(folder), "train.parquet", "cifar-10-batches-py", "--data-dir", "cs.toronto.edu/~kriz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("sklearn", "data", ["compare", "digits"]),
        ("pyarrow", "data", ["compare", "cifar10-small", "--data-dir", "."]),
        ("PIL", "data", ["compare", "cifar10-small", "--data-dir", "."]),
        ("matplotlib", "plot", ["laws", "--out", "."]),
    ],
)
def test_missing_extra_is_named(tmp_path, package, extra, arguments):
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_bytes(b"")
    if package == "PIL":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"image": [{"bytes": b""}], "label": [0]}), tmp_path / "train.parquet")
    program = f"import sys; sys.modules[{package!r}] = None; {COMMAND[2]}"  # as if it were not installed
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert_bad((done.returncode, done.stdout, done.stderr.splitlines()), f'pip install "softdiamond[{extra}]"')


def test_missing_matplotlib_leaves_table_and_records(capsys, monkeypatch, tmp_path, quick):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, lines = call(capsys, "compare", "digits", "--out", tmp_path)
    assert status == 0 and "soft diamond 0.5" in out and "records.jsonl" in out
    assert 'pip install "softdiamond[plot]"' in lines[-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_keeps_finished_runs(tmp_path):
    records = tmp_path / "out" / "records.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "compare", "digits", "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job is born ignoring it
    )
    try:
        deadline = time.monotonic() + 60
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


def test_output_in_ascii(tmp_path):
    """A character that the encoding lacks costs a question mark, not a traceback after all the training."""
    program = (
        "import sys; from softdiamond.cli import main; status = main(['--version']); print(chr(177)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and "?" in done.stdout, done.stderr
