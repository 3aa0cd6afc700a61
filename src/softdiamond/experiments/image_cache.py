"""Decoded images of one part of a set, kept in a file that all processes map into memory.

A file holds the pixels, uint8 of shape (n, 3, side, side), and a checksum behind them. Its name is a hash of all that the
pixels follow from: size and content of the source files, the side, Pillow's version, and `FORMAT`. So changed sources and
other versions meet another file, and a file that does not fit its name is damaged and made again. Loading the
whole of CIFAR-10 takes a sixth of the processor time of decoding it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from softdiamond._cache_folder import cache_folder

Pixels = NDArray[np.uint8]  # (n, 3, side, side)
Read = Callable[[NDArray[np.int64]], Pixels]  # from chosen positions to their images

FORMAT = 1  # raise it where the pixels that are decoded, or the layout of the file, change
CHECKSUM_BYTES = 4
IMAGES_AT_ONCE = 5000
READ_BYTES = 1 << 20


def shared(files: Iterable[Path], n: int, side: int, decode: Read) -> Pixels | None:
    """Return all ``n`` images from the cache, decoded now where they are not there.

    The process that comes first decodes, others wait for it, whether it finishes or dies. Where the cache cannot be
    written, a warning says so. Where images cannot be decoded, or the cache is switched off, there is nothing to return,
    and the caller decodes those images that it needs.

    Parameters
    ----------
    files : iterable of Path
        The source files, in the order in which the images follow from them.
    n, side : int
        Number of images, and pixels on each side.
    decode : callable
        Returns the images at the positions that it is given.
    """
    folder = cache_folder("images")
    if folder is None or n == 0:
        return None
    shape = (n, 3, side, side)
    path = folder / f"{_key(files, shape)}.pixels"
    pixels = _open(path, shape)
    if pixels is not None:
        return pixels
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                if (pixels := _open(path, shape)) is not None:  # another process was first
                    return pixels
                warnings.warn(f"cached images are decoded again: {path} is damaged", RuntimeWarning, stacklevel=2)
            pixels = _decoded(shape, decode)
            if pixels is not None:
                _write(path, pixels)
                return _open(path, shape)
    except (OSError, NotImplementedError) as error:  # a folder that is read-only or full, or on a disk without locks
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"images are not cached, each process decodes them: {folder} cannot be written ({reason}); the environment "
            "variable SOFTDIAMOND_CACHE names another folder, or off",
            RuntimeWarning,
            stacklevel=2,
        )
    return pixels


def _key(files: Iterable[Path], shape: tuple[int, ...]) -> str:
    import PIL

    digest = hashlib.sha256(f"{FORMAT} {PIL.__version__} {shape}".encode())
    for path in files:
        digest.update(f" {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()[:32]


def _open(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """Map the file; none where there is none, or where it is not whole."""
    size = int(np.prod(shape))
    try:
        if path.stat().st_size != size + CHECKSUM_BYTES:
            return None
        whole = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return None
    if _checksum(path, whole[:size]) != whole[size:].tobytes():
        return None
    return whole[:size].reshape(shape)


def _decoded(shape: tuple[int, ...], decode: Read) -> Pixels | None:
    pixels = np.empty(shape, np.uint8)
    try:
        for first in range(0, shape[0], IMAGES_AT_ONCE):
            positions = np.arange(first, min(first + IMAGES_AT_ONCE, shape[0]))
            pixels[positions[0] : positions[-1] + 1] = decode(positions)
    except Exception:  # a damaged image, which not every run needs: whoever does meets the same exception
        return None
    return pixels


def _write(path: Path, pixels: Pixels) -> None:
    new = path.with_suffix(".new")  # one writer at a time: what a killed one left is written over
    try:
        with new.open("wb") as file:
            file.write(pixels.data)
            file.write(_checksum(path, pixels))
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _checksum(path: Path, pixels: Pixels) -> bytes:
    return zlib.crc32(pixels.data, zlib.crc32(path.name.encode())).to_bytes(CHECKSUM_BYTES, "little")
