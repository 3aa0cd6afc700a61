"""The folder of results: card, records, weights and checkpoints, each on the disk before it counts.

=====================  ==============================================================================================
``card.json``          the card; a folder holds the runs of one card
``records.jsonl``      one JSON line a run, appended and synced when the run is done
``weights/``           safetensors of each final run, named by `softdiamond.experiments.plan.Run.stem`
``checkpoints/``       of runs that take long, deleted when they are done
``.lock``              held while a comparison runs
=====================  ==============================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from softdiamond.experiments import UserError
from softdiamond.experiments.card import Card, validated
from softdiamond.experiments.plan import MEASURED, RECORD_PARTS, Record, Run, by_run

if TYPE_CHECKING:
    from softdiamond.experiments.runs import Outcome

STATUSES = ("finished", "diverged")


class Store:
    """Records of one card's runs in a folder, and the file that takes new ones.

    A last line that was cut (the process was killed while it wrote) is dropped, so that its run is done again; ``note``
    then says so. Use `open_store`.

    Raises
    ------
    UserError
        If the folder cannot be written, holds another card's runs, or a line is no record.
    """

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder, self.path = folder, folder / "records.jsonl"
        self.note = ""
        records = read_kept(folder, card)
        with _writing(self.path), self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                if not (folder / "card.json").exists():
                    raise UserError(f"{self.path} holds no records of runs: choose another --out")
                file.truncate(whole)
                self.note = f"the last line of {self.path} was cut: it is dropped and its run done again"
        with _writing(folder / "card.json"):
            _replace(folder / "card.json", (json.dumps(card.model_dump(mode="json"), indent=1) + "\n").encode())
        self.records: dict[Run, Record] = records

    def add(self, outcome: Outcome) -> None:
        """Keep weights and record; they are on the disk on return."""
        with _writing(self.path):
            if outcome.weights is not None:
                place = self.folder / "weights" / f"{outcome.run.stem}.safetensors"
                place.parent.mkdir(exist_ok=True)
                _replace(place, outcome.weights)
            line = json.dumps(outcome.record, allow_nan=False) + "\n"
            with self.path.open("ab", buffering=0) as file:  # unbuffered: nothing is left to be written at its end
                size = file.tell()
                try:
                    left = memoryview(line.encode())
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:  # a full disk: take back what was written of the line
                    file.truncate(size)
                    raise
        self.records[outcome.run] = outcome.record


@contextmanager
def open_store(folder: Path, card: Card) -> Iterator[Store]:
    """Open a folder of results, made where it is missing, for one process at a time.

    Raises
    ------
    UserError
        As `Store`, or if another process works in the folder.
    """
    _check_folder(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"another comparison is at work in {folder}: wait for its end, or choose another --out"
            ) from error
    try:
        yield Store(folder, card)
    finally:
        lock.release()


def read_card(folder: Path) -> Card:
    """Return the card of a folder of results.

    Raises
    ------
    UserError
        If the folder is none of results, or its card is damaged.
    """
    path = folder / "card.json"
    try:
        return validated(json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no results of a comparison: {path} is not there") from error
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file: give a folder of results") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())})") from error


def read_records(folder: Path) -> list[Record]:
    """Return the records of a folder; a last line that was cut is left out.

    Raises
    ------
    UserError
        If there are none, they cannot be read, or a line is no record or lacks a part of one.
    """
    path = folder / "records.jsonl"
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            Run(**record["run"])
            if record["status"] not in STATUSES:
                raise ValueError(f"status {record['status']!r}")
            wrong = [name for name, kind in RECORD_PARTS.items() if not isinstance(record.get(name, ...), kind)]
            wrong += [name for name in MEASURED if record["status"] == "finished" and record.get(name, ...) is None]
        except (ValueError, TypeError, LookupError) as error:
            advice = "delete that line or choose another --out"
            raise UserError(f"line {number} of {path} is not a record of a run: {advice}") from error
        if wrong:
            advice = "delete that line, so that its run is done again"
            raise UserError(f"line {number} of {path} is a record without a proper {wrong[0]}: {advice}")
        records.append(record)
    return records


def read_kept(folder: Path, card: Card) -> dict[Run, Record]:
    """Return what a folder holds of a card's runs: nothing, where there is no folder yet; it is left as it is.

    Raises
    ------
    UserError
        If it is a file, holds another card's runs, or a line is no record.
    """
    _check_folder(folder)
    _check_card(folder, card)
    path = folder / "records.jsonl"
    records = read_records(folder) if path.exists() else []
    if (other := _other_card(records, card)) is not None:
        raise UserError(f"{path} holds runs of another card ({other}): choose another --out")
    return by_run(records)


def read_folders(folders: Sequence[Path]) -> tuple[Card, list[Record], int]:
    """Return the card of several folders, all their records, and how many runs lie in more than one of them.

    Of such runs the first folder's is taken. Final seeds may differ: the card has them all.

    Raises
    ------
    UserError
        As `read_card` and `read_records`, or if the folders hold runs of different cards.
    """
    cards = [read_card(folder) for folder in folders]
    for folder, other in zip(folders[1:], cards[1:], strict=True):
        if different := cards[0].differences(other):
            raise UserError(
                f"{folders[0]} and {folder} hold runs of different cards ({different[0]}): one page has one card"
            )
    seeds = tuple(dict.fromkeys(seed for card in cards for seed in card.final.seeds))
    card = cards[0].model_copy(update={"final": cards[0].final.model_copy(update={"seeds": seeds})})
    records: dict[Run, Record] = {}
    twice = 0
    for folder in folders:
        own = read_records(folder)
        if (strange := _other_card(own, card)) is not None:
            raise UserError(
                f"{folder / 'records.jsonl'} holds runs of another card ({strange}) than its card.json ({card.digest}): "
                "one page has one card"
            )
        for record in own:
            run = Run(**record["run"])
            twice += run in records
            records.setdefault(run, record)
    return card, list(records.values()), twice


def _other_card(records: Sequence[Record], card: Card) -> str | None:
    """Return the digest that the first record of another card has."""
    return next((str(record["card"]) for record in records if record["card"] != card.digest), None)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --out must name a folder")


def _check_card(folder: Path, card: Card) -> None:
    if (folder / "card.json").exists() and (others := read_card(folder).differences(card)):
        more = ", and more" * (len(others) > 1)
        raise UserError(f"{folder} holds runs of another card ({others[0]}{more}): choose another --out")


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename, so that the file is whole or not there."""
    new = path.with_suffix(path.suffix + ".new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); finished runs are kept") from error
