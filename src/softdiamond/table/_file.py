"""Named arrays and a head of JSON in one .npz file: no pickle, a checksum over all of it, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write(path: str | os.PathLike[str], head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write the file in the place of any old one."""
    path, text = Path(path), json.dumps(head, sort_keys=True)
    checksum = np.array(_checksum(text, arrays))
    stored: dict[str, Any] = {"head": np.array(text), "checksum": checksum, **arrays}
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            np.savez(file, **stored)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return head and arrays.

    Raises
    ------
    ValueError
        If it is no such file, or its checksum is another. What NumPy, zipfile and json raise on a damaged one comes as it is.
    """
    content = Path(path).read_bytes()  # whole: an OSError is then one of the disk, not of a damaged archive's addresses
    if content[:4] != b"PK\x03\x04":  # NumPy would take it for a pickle, and advise to load that
        raise ValueError("it is no .npz archive")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if not {"head", "checksum"} <= set(file.files):
            raise ValueError("it has no head and checksum: another program wrote it")
        stored = {name: _plain(file, name) for name in file.files}
    text, checksum = str(stored.pop("head")), str(stored.pop("checksum"))
    if checksum != _checksum(text, stored):
        raise ValueError("its checksum does not match")
    return json.loads(text), stored


def _plain(file: Any, name: str) -> NDArray[Any]:
    """Return an array of numbers or text; NumPy refuses another with the advice to allow pickles."""
    try:
        return np.asarray(file[name])
    except ValueError:
        raise ValueError(f"{name!r} in it is damaged or no array of numbers") from None


def _checksum(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
