"""The cache of decoded images: one decoding for all processes, none that is stale or damaged, and none that is needed."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from softdiamond.experiments import image_cache

SIDE, N = 4, 12
pytest.importorskip("PIL")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the cache, which is not made yet."""
    monkeypatch.setenv("SOFTDIAMOND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "IMAGES_AT_ONCE", 5)
    return tmp_path / "cache" / "images"


class Source:
    """Files that hold raw pixels, and a decoder that counts how many images it was asked for."""

    def __init__(self, place, pixels):
        self.files = [place / "first", place / "second"]
        self.pixels, self.decoded = pixels, 0
        for path, part in zip(self.files, np.split(pixels, [7]), strict=True):
            path.write_bytes(part.tobytes())

    def decode(self, chosen):
        self.decoded += len(chosen)
        whole = b"".join(path.read_bytes() for path in self.files)
        return np.frombuffer(whole, np.uint8).reshape(-1, 3, SIDE, SIDE)[chosen]

    def shared(self):
        """What a fresh process would get; each call opens the file anew."""
        return image_cache.shared(self.files, N, SIDE, self.decode)


@pytest.fixture
def source(tmp_path, rng):
    return Source(tmp_path, rng.integers(0, 256, (N, 3, SIDE, SIDE), dtype=np.uint8))


def only_file(folder):
    (path,) = folder.glob("*.pixels")
    assert not list(folder.glob("*.new")), "nothing half written is left"
    return path


def test_images_are_decoded_once_and_mapped(folder, source):
    for _ in range(3):
        pixels = source.shared()
        assert np.array_equal(pixels, source.pixels) and pixels.dtype == np.uint8
        assert not pixels.flags.writeable and isinstance(pixels, np.memmap)
    assert source.decoded == N
    assert only_file(folder).stat().st_size == source.pixels.nbytes + image_cache.CHECKSUM_BYTES


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_off_writes_nothing(monkeypatch, tmp_path, source, word):
    monkeypatch.setenv("SOFTDIAMOND_CACHE", word)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert source.shared() is None and source.decoded == 0
    assert sorted(os.listdir(tmp_path)) == before


def test_no_images_need_no_cache(folder, source):
    assert image_cache.shared(source.files, 0, SIDE, source.decode) is None
    assert not folder.exists()


def test_changed_sources_are_decoded_anew(folder, source):
    """Also where a file keeps its size and its time, and where a byte moves from one file to the next."""
    source.shared()
    first, second = source.files
    times = first.stat().st_mtime_ns
    content = bytearray(first.read_bytes())
    content[3] ^= 1
    first.write_bytes(content)
    os.utime(first, ns=(times, times))
    pixels = source.shared()
    assert source.decoded == 2 * N and pixels[0, 0, 0, 3] == source.pixels[0, 0, 0, 3] ^ 1
    whole = first.read_bytes() + second.read_bytes()
    first.write_bytes(whole[:-1])
    second.write_bytes(whole[-1:])
    source.shared()
    assert source.decoded == 3 * N and len(list(folder.glob("*.pixels"))) == 3


def test_all_that_pixels_follow_from_is_in_the_name(folder, source, monkeypatch):
    source.shared()
    image_cache.shared(source.files, N // 4, 2 * SIDE, lambda chosen: source.decode(np.arange(N)).reshape(3, 3, 8, 8))
    with monkeypatch.context() as patch:
        patch.setattr("PIL.__version__", "1.0")
        source.shared()
    monkeypatch.setattr(image_cache, "FORMAT", image_cache.FORMAT + 1)
    source.shared()
    assert source.decoded == 4 * N and len(list(folder.glob("*.pixels"))) == 4


DAMAGES = {
    "truncated": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"0",
    "empty": lambda whole: b"",
    "text": lambda whole: b"no pixels",
    "zeros": lambda whole: bytes(len(whole)),
    "a bit of a pixel": lambda whole: whole[:100] + bytes([whole[100] ^ 4]) + whole[101:],
    "a bit of the checksum": lambda whole: whole[:-1] + bytes([whole[-1] ^ 128]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_again_with_one_warning(folder, source, damage):
    source.shared()
    path = only_file(folder)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.warns(RuntimeWarning, match="cached images are decoded again") as caught:
        assert np.array_equal(source.shared(), source.pixels)
    assert len(caught) == 1 and str(path) in str(caught[0].message)
    assert only_file(folder).read_bytes() == good
    assert np.array_equal(source.shared(), source.pixels) and source.decoded == 2 * N  # without a warning


def test_the_file_of_another_key_is_not_taken(folder, source, monkeypatch):
    """One that an older version left, under the name that this version gives."""
    source.shared()
    old = only_file(folder)
    monkeypatch.setattr(image_cache, "FORMAT", image_cache.FORMAT + 1)
    source.shared()
    (new,) = set(folder.glob("*.pixels")) - {old}
    new.write_bytes(old.read_bytes())
    with pytest.warns(RuntimeWarning, match="decoded again"):
        assert np.array_equal(source.shared(), source.pixels)


def test_half_a_file_of_a_killed_writer_is_written_over(folder, source):
    source.shared()
    path = only_file(folder)
    path.with_suffix(".new").write_bytes(path.read_bytes() + b"longer")
    path.unlink()
    source.shared()
    assert only_file(folder).stat().st_size == source.pixels.nbytes + image_cache.CHECKSUM_BYTES


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path, source):
    """Its parent is a file, which stops root too."""
    (tmp_path / "file").write_text("here is no folder")
    monkeypatch.setenv("SOFTDIAMOND_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match=r"images are not cached.*file/images cannot be written \(Not a dir.*off$"):
        assert source.shared() is None
    assert source.decoded == 0, "the caller decodes what it needs"


class FullDisk:
    """A file on which half of what is written fits."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(bytes(content)[: len(bytes(content)) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(folder, source, monkeypatch):
    opened = image_cache.Path.open
    monkeypatch.setattr(
        image_cache.Path,
        "open",
        lambda path, mode="r": FullDisk(opened(path, mode)) if mode == "wb" else opened(path, mode),
    )
    with pytest.warns(RuntimeWarning, match=r"images are not cached.*\(No space left on device\)"):
        assert np.array_equal(source.shared(), source.pixels)
    assert source.decoded == N, "what was decoded for the file serves this process"
    assert not [path for path in folder.iterdir() if path.suffix in (".pixels", ".new")]


def test_a_disk_without_locks(folder, source, monkeypatch):
    class NoLock:
        def __init__(self, path):
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(image_cache, "FileLock", NoLock)
    with pytest.warns(RuntimeWarning, match="images are not cached.*flock"):
        assert source.shared() is None


def test_what_is_cached_is_read_from_a_folder_that_cannot_be_written(folder, source, monkeypatch):
    source.shared()

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(image_cache, "FileLock", denied)
    assert np.array_equal(source.shared(), source.pixels) and source.decoded == N


def test_images_that_cannot_be_decoded_leave_nothing(folder, source):
    """The caller meets the exception only where it needs a damaged image; the next call tries again."""

    def damaged(chosen):
        if 7 in chosen:
            raise OSError("image file is truncated")
        return source.decode(chosen)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_cache.shared(source.files, N, SIDE, damaged) is None
    assert [path.suffix for path in folder.iterdir()] in ([".lock"], [])
    assert np.array_equal(source.shared(), source.pixels)


PROCESS = """
import os, pathlib, sys, time
import numpy as np
from softdiamond.experiments import image_cache
place, n, hang = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "hang"
files = [place / "first", place / "second"]

def decode(chosen):
    with open(place / "calls", "a") as log:
        log.write("decoded\\n")
    if hang:
        print("decoding", flush=True)
        time.sleep(600)
    whole = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    return whole.reshape(n, 3, 4, 4)[chosen]

print("ready", flush=True)
sys.stdin.readline()
print(int(image_cache.shared(files, n, 4, decode).sum()))
"""


def start(place, behaviour="go"):
    command = [sys.executable, "-W", "error", "-c", PROCESS, str(place), str(N), behaviour]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tell(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_at_once_decode_once_even_where_the_first_is_killed(folder, source, tmp_path):
    """One holds the lock and is killed while it decodes; of the three that wait, one decodes for all."""
    first, others = start(tmp_path, "hang"), [start(tmp_path) for _ in range(3)]
    try:
        for process in [first, *others]:
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)
        tell(first)
        assert first.stdout.readline() == "decoding\n"
        for process in others:
            tell(process)
        first.send_signal(signal.SIGTERM)
        done = [process.communicate(timeout=120) for process in others]
    finally:
        for process in [first, *others]:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()
    assert done == [(f"{source.pixels.sum()}\n", "")] * 3
    assert (tmp_path / "calls").read_text() == "decoded\n" * 2
    assert source.shared() is not None and source.decoded == 0
