"""The folder of results: what a kill, a full disk, another card or another process can do to it."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from softdiamond.experiments import UserError
from softdiamond.experiments import card as cards
from softdiamond.experiments.plan import MEASURED, RECORD_PARTS, Run
from softdiamond.experiments.runs import Outcome
from softdiamond.experiments.store import open_store, read_card, read_folders, read_records

TEXT = """
name = "tiny"
title = "A title"
data = { name = "digits", train = 60, validation = 50, test = 40 }
model = { name = "mlp", options = { hidden = [12] } }
training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
methods = [{ penalty = "none" }, { penalty = "L2" }]
tuning = { strengths = [0.01, 0.1], seeds = [100] }
final = { seeds = [0, 1] }
"""


def card(old="", new=""):
    assert old in TEXT
    return cards.parse(TEXT.replace(old, new), "the test's card")


CARD = card()


def outcome(seed, weights=None, status="finished"):
    run = Run("final" if weights else "tune", "plain", "L2", 0.1, 0.1, seed)
    record = {"run": asdict(run), "card": CARD.digest, "status": status, "losses": [0.1 + seed]}
    record |= {"comparison": "tiny", "train_accuracy": 0.9, "validation_accuracy": 0.8, "sparsity": {}, "removal": []}
    record |= {name: {} for name in ("data", "environment", "timing")}
    return Outcome(run, record | dict.fromkeys(("test_accuracy", "curves", "prunable", "weights")), weights)


def filled(folder, number=3):
    with open_store(folder, CARD) as opened_store:
        for seed in range(number):
            opened_store.add(outcome(seed))
    return folder / "records.jsonl"


# --- records ------------------------------------------------------------------------------------------------------------


def test_each_record_is_on_the_disk_when_add_returns(tmp_path):
    with open_store(tmp_path / "new" / "out", CARD) as kept:
        assert kept.records == {} and kept.note == "" and kept.folder == tmp_path / "new" / "out"
        for seed in range(3):
            kept.add(outcome(seed, weights=b"weights" if seed == 1 else None))
            lines = kept.path.read_text().splitlines()
            assert [json.loads(line) for line in lines] == [outcome(each, each == 1).record for each in range(seed + 1)]
            assert kept.records[outcome(seed, seed == 1).run] == json.loads(lines[-1])
    files = [path.name for path in (tmp_path / "new" / "out" / "weights").iterdir()]
    assert files == [f"{outcome(1, True).run.stem}.safetensors"]
    assert (tmp_path / "new" / "out" / "weights" / files[0]).read_bytes() == b"weights"
    with open_store(tmp_path / "new" / "out", CARD) as again:
        assert again.records == kept.records and list(again.records) == list(kept.records)
    assert read_records(tmp_path / "new" / "out") == list(kept.records.values())


def test_weights_are_there_before_their_record(tmp_path):
    """A kill between the two leaves weights without a record, never a record without weights."""
    with open_store(tmp_path, CARD) as kept:
        bad = outcome(0, weights=b"weights")
        bad.record["losses"] = [float("nan")]
        with pytest.raises(ValueError, match="JSON compliant"):
            kept.add(bad)
        assert kept.path.read_bytes() == b"" and len(list((tmp_path / "weights").iterdir())) == 1


def test_nan_is_no_record(tmp_path):
    with open_store(tmp_path, CARD) as kept:
        bad = outcome(0)
        bad.record["losses"] = [float("nan")]
        with pytest.raises(ValueError, match="JSON compliant"):
            kept.add(bad)
        assert kept.path.read_bytes() == b"" and not kept.records


def test_last_line_cut_at_every_byte_is_dropped(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    second = whole.rstrip(b"\n").rfind(b"\n") + 1
    for size in range(second, len(whole)):
        path.write_bytes(whole[:size])
        assert len(read_records(tmp_path)) == 2, "reading leaves a half line out"
        assert path.read_bytes() == whole[:size], "and the file as it is"
        with open_store(tmp_path, CARD) as kept:
            assert ("was cut" in kept.note) == (size > second)
            assert path.read_bytes() == whole[:second] and len(kept.records) == 2
            kept.add(outcome(2))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize(
    "line", ["garbage", "[1]", "{}", '"text"', "", '{"run": {}, "status": "finished"}', "\x00\x00", "\xff"]
)
def test_a_line_that_is_no_record_is_named_and_left(tmp_path, line, number):
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines()
    lines.insert(number - 1, line.encode("latin-1"))
    damaged = b"\n".join(lines) + b"\n"
    path.write_bytes(damaged)
    for read in (lambda: read_records(tmp_path), lambda: open_store(tmp_path, CARD).__enter__()):
        with pytest.raises(
            UserError, match=rf"^line {number} of .*records\.jsonl is not a record of a run: delete"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


def test_a_record_needs_a_known_status_and_all_keys_of_its_run(tmp_path):
    path = filled(tmp_path, 1)
    good = json.loads(path.read_text())
    for bad in ({**good, "status": "odd"}, {**good, "run": {**good["run"], "new": 1}}, {"run": good["run"]}):
        path.write_text(json.dumps(bad) + "\n")
        with pytest.raises(UserError, match="line 1 of"):
            read_records(tmp_path)


@pytest.mark.parametrize("value", [None, "of another kind"])
@pytest.mark.parametrize("key", [key for key in RECORD_PARTS if key not in ("run", "status")])
def test_a_part_that_a_record_lacks_or_has_of_another_kind_is_named(tmp_path, key, value):
    """As one of another version may: a page is refused, not broken off."""
    path = filled(tmp_path)
    records = read_records(tmp_path)
    if value is None:
        del records[1][key]
    else:
        records[1][key] = value if RECORD_PARTS[key] is not str else 1
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for read in (lambda: read_folders([tmp_path]), lambda: open_store(tmp_path, CARD).__enter__()):
        with pytest.raises(UserError, match=rf"^line 2 of .*records\.jsonl is a record without a proper {key}: delete"):
            read()


@pytest.mark.parametrize("key", MEASURED)
def test_a_finished_run_has_its_measures_and_a_diverged_one_need_not(tmp_path, key):
    path = filled(tmp_path, 1)
    record = json.loads(path.read_text()) | {key: None}
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"without a proper {key}"):
        read_records(tmp_path)
    path.write_text(json.dumps(record | {"status": "diverged"}) + "\n")
    assert len(read_records(tmp_path)) == 1


@pytest.mark.parametrize("content", ["my notes", '{"a": 1}', "1", "my notes\n", '{"a": 1}\nmore', "\n"])
def test_a_foreign_file_is_left_alone(tmp_path, content):
    """Not every file of that name, without a line's end, is a record that was cut; nor is it at a second call."""
    path = tmp_path / "records.jsonl"
    path.write_text(content)
    for _ in range(3):
        with (
            pytest.raises(UserError, match=r"records\.jsonl .*choose another --out") as caught,
            open_store(tmp_path, CARD),
        ):
            pass
        assert "\n" not in str(caught.value)
        assert path.read_text() == content
        assert {file.name for file in tmp_path.iterdir()} <= {"records.jsonl", ".lock"}, "no card is put beside it"


def test_records_of_another_card_are_refused_where_card_json_is_missing(tmp_path):
    path = filled(tmp_path)
    before = path.read_bytes()
    (tmp_path / "card.json").unlink()
    for _ in range(2):
        with (
            pytest.raises(UserError, match=rf"holds runs of another card \({CARD.digest}\): choose another --out$"),
            open_store(tmp_path, card("epochs = 3", "epochs = 4")),
        ):
            pass
        assert path.read_bytes() == before and not (tmp_path / "card.json").exists()
    with open_store(tmp_path, CARD) as kept:
        assert len(kept.records) == 3, "to their own card they are at hand"
    assert read_card(tmp_path) == CARD


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("digest", ["0123456789", ""])
def test_one_record_of_another_card_is_refused_beside_the_right_card(tmp_path, digest, number):
    """As where two files of records were put together by hand."""
    path = filled(tmp_path)
    records = read_records(tmp_path)
    records[number]["card"] = digest
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"cut')
    before = path.read_bytes(), (tmp_path / "card.json").read_bytes()
    with (
        pytest.raises(UserError, match=rf"holds runs of another card \({digest}\): choose another --out$"),
        open_store(tmp_path, card("A title", "Another")),
    ):
        pass
    assert (path.read_bytes(), (tmp_path / "card.json").read_bytes()) == before
    with pytest.raises(
        UserError, match=rf"runs of another card \({digest}\) than its card.json \({CARD.digest}\): one page"
    ):
        read_folders([tmp_path])


def test_the_card_is_written_last(tmp_path):
    """Where the records are refused, the title of the card stays as it was."""
    path = filled(tmp_path)
    whole, before = path.read_bytes(), (tmp_path / "card.json").read_bytes()
    path.write_bytes(whole + b"garbage\n")
    with pytest.raises(UserError, match="line 4 of"), open_store(tmp_path, card("A title", "Another")):
        pass
    assert (tmp_path / "card.json").read_bytes() == before
    path.write_bytes(whole)
    with open_store(tmp_path, card("A title", "Another")):
        pass
    assert read_card(tmp_path).title == "Another"


# --- the card -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("epochs = 3", "epochs = 4", "training.epochs: 3 and 4"),
        ("train = 60", "train = 61", "data.train: 60 and 61"),
        ("hidden = [12]", "hidden = [12, 8]", "model.options.hidden: [12] and [12, 8]"),
        ("0.01, 0.1]", "0.01, 0.2]", "tuning.strengths: [0.01, 0.1] and [0.01, 0.2]"),
        ("rate = 0.1, epochs = 3", "rate = 0.2, epochs = 4", "training.rate: 0.1 and 0.2, and more"),
        ('{ penalty = "L2" }', '{ penalty = "L2", mode = "prox" }', "methods.2.mode"),
    ],
)
def test_a_folder_holds_one_card(tmp_path, old, new, says):
    if "mode" in new:
        new += ', { penalty = "L2" }'
    path = filled(tmp_path)
    before = path.read_bytes(), (tmp_path / "card.json").read_bytes()
    with pytest.raises(UserError) as caught, open_store(tmp_path, card(old, new)):
        pass
    assert "holds runs of another card" in str(caught.value) and says in str(caught.value)
    assert (path.read_bytes(), (tmp_path / "card.json").read_bytes()) == before
    with open_store(tmp_path, CARD):
        pass  # and the lock is free


def test_final_seeds_may_be_added_and_the_title_changed(tmp_path):
    filled(tmp_path)
    more = card("seeds = [0, 1]", "seeds = [0, 1, 2]")
    with open_store(tmp_path, more) as kept:
        assert len(kept.records) == 3
    assert read_card(tmp_path) == more
    with open_store(tmp_path, card("A title", "Another")):
        pass
    assert read_card(tmp_path).title == "Another"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"name": "tiny"}', "\xff"])
def test_a_damaged_card_is_one_clear_line(tmp_path, content):
    filled(tmp_path)
    (tmp_path / "card.json").write_bytes(content.encode("latin-1"))
    for read in (lambda: read_card(tmp_path), lambda: open_store(tmp_path, CARD).__enter__()):
        with pytest.raises(UserError, match=r"card\.json") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_reading_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match="holds no results of a comparison"):
        read_card(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*records\.jsonl"):
        read_records(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: give a folder of results"):
        read_card(tmp_path / "file")


# --- places that cannot be written --------------------------------------------------------------------------------------


def test_out_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file: --out must name a folder"), open_store(tmp_path / "file", CARD):
        pass
    with pytest.raises(UserError, match=r"cannot write .*inside \("), open_store(tmp_path / "file" / "inside", CARD):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir(mode=0o555)
    with pytest.raises(UserError, match=r"cannot write .*out \(Permission denied\)"), open_store(folder, CARD):
        pass


class Full(io.FileIO):
    """A file on a disk that is full after some bytes."""

    space = 0

    def write(self, content):
        if Full.space <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(bytes(content)[: Full.space])
        Full.space -= written
        return written

    def truncate(self, size=None):
        before = os.fstat(self.fileno()).st_size
        result = super().truncate(size)
        Full.space += before - os.fstat(self.fileno()).st_size
        return result


@pytest.fixture
def full_disk(monkeypatch):
    """All files that are written share the space; what is taken back is free again."""
    original = Path.open

    def open_file(self, mode="r", buffering=-1, *args, **kwargs):
        if mode.strip("b") in ("r", "a+"):
            return original(self, mode, buffering, *args, **kwargs)
        raw = Full(self, mode.replace("b", ""))
        if buffering == 0:
            return raw
        return (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)

    monkeypatch.setattr(Path, "open", open_file)


LINE = len(json.dumps(outcome(2).record)) + 1


@pytest.mark.parametrize("space", [0, 1, 10, LINE // 2, LINE // 2 + 1, LINE - 1])
def test_a_full_disk_takes_half_a_line_back(tmp_path, full_disk, space):
    Full.space = 10**9
    path = filled(tmp_path, 2)
    before = path.read_bytes()
    with open_store(tmp_path, CARD) as kept:
        Full.space = space
        with pytest.raises(
            UserError, match=r"^cannot write .*records\.jsonl \(No space left .*finished runs are kept$"
        ):
            kept.add(outcome(2))
        assert path.read_bytes() == before, "nothing of the line is left, not when the file is closed either"
        assert outcome(2).run not in kept.records
        Full.space = 10**9
        kept.add(outcome(3))
    assert len(path.read_bytes().splitlines()) == 3 and len(read_records(tmp_path)) == 3


@pytest.mark.parametrize("space", [0, 3])
def test_a_full_disk_leaves_no_half_weights(tmp_path, full_disk, space):
    Full.space = 10**9
    with open_store(tmp_path, CARD) as kept:
        Full.space = space
        with pytest.raises(UserError, match="No space left"):
            kept.add(outcome(0, weights=b"weights"))
        Full.space = 10**9
        assert list((tmp_path / "weights").iterdir()) == [] and kept.path.read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file size")
def test_a_real_limit_of_file_size_takes_half_a_line_back(tmp_path):
    """The system itself refuses in the middle of a line."""
    path = filled(tmp_path, 2)
    before = path.read_bytes()
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store import CARD, UserError, open_store, outcome
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_store(Path({str(tmp_path)!r}), CARD) as kept:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + LINE // 2},) * 2)
    try:
        kept.add(outcome(2))
    except UserError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "cannot write" in ran.stdout and ran.stderr == ""
    assert path.read_bytes() == before


# --- one process at a time ----------------------------------------------------------------------------------------------

HOLDER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store import CARD, UserError, open_store
try:
    with open_store(Path(sys.argv[1]), CARD):
        print("open", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def start_holder(folder):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_process_is_told_and_a_killed_one_frees_the_folder(tmp_path):
    filled(tmp_path)
    with start_holder(tmp_path) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(
                UserError, match=r"another comparison is at work in .* wait for its end, or choose another"
            ):
                open_store(tmp_path, CARD).__enter__()
        finally:
            holder.send_signal(signal.SIGKILL)
    with open_store(tmp_path, CARD) as kept:
        assert len(kept.records) == 3
        with start_holder(tmp_path) as second:
            told, _ = second.communicate(timeout=120)
    assert told.startswith(f"another comparison is at work in {tmp_path}") and told.count("\n") == 1


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), open_store(tmp_path, CARD):
        raise ZeroDivisionError
    with open_store(tmp_path, CARD):
        pass
