"""The record store: one JSON line a run, on the disk as soon as the run is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softdiamond.experiments import UserError

Record = dict[str, Any]

IDENTITY = ("comparison", "method", "penalty", "alpha", "relative_scale", "strength", "seed", "phase")
OPENING = b'{"comparison"'  # of every record
STATUSES = ("finished", "diverged")


class Store:
    """The records of ``folder/records.jsonl``, by identity and settings, and the file that takes new ones.

    A last line that was cut (the process was killed while it wrote) is dropped, so that its run is done again; ``note``
    then says so.

    Parameters
    ----------
    folder : Path
        Made if it is missing.

    Raises
    ------
    UserError
        If the folder is a file or cannot be written, or a line of the records, other than a cut last one, is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "records.jsonl"
        self.note = ""
        self._records: dict[str, Record] = {}
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: --out must name a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                file.seek(0)
                *lines, rest = file.read().split(b"\n")
                for number, line in enumerate(lines, start=1):
                    self._keep(line, number)
                if rest and (lines or rest[: len(OPENING)] == OPENING[: len(rest)]):  # cut while it was written
                    file.truncate(file.seek(0, os.SEEK_END) - len(rest))
                    self.note = f"the last line of {self.path} was cut: it is dropped and its run done again"
                elif rest:
                    self._keep(rest, 1)
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): --out must name a folder") from error

    def _keep(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            self._records[_key(record)] = record
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            advice = "delete that line or choose another --out"
            raise UserError(f"line {number} of {self.path} is not a record of a run: {advice}") from error

    def get(self, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> Record | None:
        """Return the record of a run under these settings, if there is one."""
        return self._records.get(_key({**identity, "status": STATUSES[0], "settings": settings}))

    def add(self, record: Record) -> None:
        """Append a record; it is on the disk on return."""
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}); finished runs are kept") from error
        self._records[_key(record)] = record

    def count_others(self, settings: Mapping[str, Any]) -> int:
        """Return how many of the records were made under other settings."""
        return sum(_hash(record["settings"]) != _hash(settings) for record in self._records.values())


def _hash(settings: Mapping[str, Any]) -> str:
    """Hash of all settings but the environment (versions, threads)."""
    text = json.dumps({key: value for key, value in settings.items() if key != "environment"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _key(record: Mapping[str, Any]) -> str:
    if record["status"] not in STATUSES:
        raise ValueError(f"status {record['status']!r}")
    return json.dumps([*(record[name] for name in IDENTITY), _hash(record["settings"])])
