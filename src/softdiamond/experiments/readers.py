"""Image files as arrays: folders of parquet files, torchvision's folders of the CIFAR sets and of Caltech-256.

A reader returns a list of sources, training images and, where the set has some of its own, test images. A `Source` has
its labels at once, and reads the images that are asked for: decoded ones from the cache (`image_cache`), where there is one.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from numpy.typing import NDArray

from softdiamond._extras import install
from softdiamond.experiments import UserError, image_cache
from softdiamond.experiments.image_cache import Pixels, Read

Labels = NDArray[np.int64]  # (n,)

# All that a pickled array of numbers needs, under the names of NumPy 1 and of NumPy 2.
PICKLED_NAMES = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}


class Source(NamedTuple):
    """Labels, shape (n,), and a function from chosen positions to pixels, uint8 of shape (chosen, 3, h, w)."""

    labels: Labels
    read: Read


class ImageSet(NamedTuple):
    """An image set: where it comes from, its layouts, its classes."""

    title: str
    home: str
    classes: int
    subfolder: str  # of a folder with several sets, with parquet files
    torchvision: str  # folder of torchvision's layout; empty: it has none
    pixels: int  # the side that images are given without resizing, or are brought to
    read: Callable[[Path], list[Source]] | None  # of torchvision's layout
    downloader: str = ""  # class of torchvision.datasets

    @property
    def layout(self) -> str:
        """What a folder should hold, and where to get it."""
        own = f" or torchvision's folder {self.torchvision}" if self.torchvision else ""
        return (
            f"train.parquet and test.parquet (columns image, label){own}, in the folder that --data-dir names or in its "
            f"subfolder {self.subfolder}; the data set's home page is {self.home}"
        )


def read_parquet(folder: Path, pixels: int) -> list[Source]:
    """Read ``train.parquet`` and ``test.parquet``: ``image``, a struct with encoded ``bytes``, and ``label``."""
    import pyarrow.parquet

    sources = []
    for name in PARQUET_FILES:
        path = folder / name
        labels = _labels(pyarrow.parquet.read_table(path, columns=["label"])["label"].to_numpy())
        sources.append(_cached([path], labels, pixels, _row_decoder(path, pixels)))
    return sources


def _row_decoder(path: Path, pixels: int) -> Read:
    @cache
    def column() -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path, columns=["image"])["image"]

    def read(chosen: NDArray[np.int64]) -> Pixels:
        return decode((io.BytesIO(row["bytes"]) for row in column().take(chosen).to_pylist()), pixels)

    return read


def _cached(files: Iterable[Path], labels: Labels, pixels: int, decode_chosen: Read) -> Source:
    """Return a source whose images come from the cache, which is asked when the first are read, and only then."""

    @cache
    def shared() -> Pixels | None:
        return image_cache.shared(files, len(labels), pixels, decode_chosen)

    def read(chosen: NDArray[np.int64]) -> Pixels:
        images = shared()
        return decode_chosen(chosen) if images is None else np.asarray(images[chosen])

    return Source(labels, read)


def decode(files: Iterator[Any], pixels: int) -> Pixels:
    """Decode images; one that is not ``pixels`` on each side is resized at its shorter one and cropped at its center."""
    from PIL import Image

    decoded = []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if image.size != (pixels, pixels):
            if (shorter := min(image.size)) != pixels:
                size = [max(pixels, round(side * pixels / shorter)) for side in image.size]
                image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
            left, top = (image.width - pixels) // 2, (image.height - pixels) // 2
            image = image.crop((left, top, left + pixels, top + pixels))
        decoded.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(decoded)


def read_cifar(folder: Path, parts: Sequence[Sequence[str]], key: bytes) -> list[Source]:
    """Read pickled CIFAR batches: ``data``, uint8 of shape (n, 3072), and labels under ``key``."""
    sources = []
    for names in parts:
        batches = [_unpickle(folder / name) for name in names]
        for name, batch in zip(names, batches, strict=True):
            if len(batch[key]) != len(batch[b"data"]):
                raise ValueError(f"{name} has {len(batch[b'data'])} images and {len(batch[key])} labels")
        pixels = np.concatenate([np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32) for batch in batches])
        if pixels.dtype != np.uint8:
            raise ValueError(f"{names[0]} holds pixels {pixels.dtype}")
        sources.append(
            Source(_labels(np.concatenate([np.asarray(batch[key]) for batch in batches])), pixels.__getitem__)
        )
    return sources


def read_caltech256(folder: Path) -> list[Source]:
    """Read ``NNN.class/*.jpg``: 256 classes; the folder of clutter, number 257, is left out."""
    files = [(path, int(path.parent.name[:3]) - 1) for path in sorted(folder.glob("[0-9][0-9][0-9].*/*.jpg"))]
    files = [(path, label) for path, label in files if label < 256]
    if not files:
        raise ValueError("no folders 001.* to 256.* with images")
    paths = [path for path, _ in files]
    labels = _labels(np.array([label for _, label in files]))
    return [_cached(paths, labels, 64, lambda chosen: decode((paths[i] for i in chosen), 64))]


def _labels(labels: NDArray[Any]) -> Labels:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels {labels.dtype} of shape {labels.shape}")
    return labels.astype(np.int64)


def _unpickle(path: Path) -> Mapping[bytes, Any]:
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="bytes").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays and plain containers; refuse any other name, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED_NAMES:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which no CIFAR batch needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


PARQUET_FILES = ("train.parquet", "test.parquet")
CIFAR10_PARTS = ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"])
IMAGE_SETS = {
    "cifar10": ImageSet(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        10,
        "cifar10",
        "cifar-10-batches-py",
        32,
        partial(read_cifar, parts=CIFAR10_PARTS, key=b"labels"),
        "CIFAR10",
    ),
    "cifar100": ImageSet(
        "CIFAR-100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        100,
        "cifar100",
        "cifar-100-python",
        32,
        partial(read_cifar, parts=(["train"], ["test"]), key=b"fine_labels"),
        "CIFAR100",
    ),
    "caltech101-64": ImageSet(
        "Caltech-101 at 64 pixels", "https://data.caltech.edu/records/mzrjq-6wc02", 101, "caltech101_64", "", 64, None
    ),
    "caltech256": ImageSet(
        "Caltech-256",
        "https://data.caltech.edu/records/nyy15-4j048",
        256,
        "caltech256",
        "caltech256/256_ObjectCategories",
        64,
        read_caltech256,
        "Caltech256",
    ),
}


def find(name: str, folder: Path | None) -> list[Source]:
    """Return the sources of an image set from a folder; where there is none, let torchvision download the set.

    Raises
    ------
    UserError
        If the folder holds no such files, they cannot be read, or an extra is missing.
    """
    images = IMAGE_SETS[name]
    if folder is None and images.downloader and find_spec("torchvision"):
        folder = platformdirs.user_cache_path("softdiamond") / "data"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {folder} for the download ({error.strerror}): give --data-dir") from error
    if folder is None:
        raise UserError(f"{images.title} needs --data-dir{_or_download(images)}: {images.layout}")
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'not there'}: expected {images.layout}")
    found = _sources(images, folder)
    if found is None:
        _refuse_half(images, folder)
        if images.downloader:
            found = _sources(images, folder) if _download(images, folder) else None
    if found is None:
        raise UserError(f"no {images.title} in {folder}: expected {images.layout}")
    return [Source(source.labels, partial(_read_explained, images, folder, source.read)) for source in found]


def _read_explained(images: ImageSet, folder: Path, read: Read, chosen: NDArray[np.int64]) -> Pixels:
    with reading_errors(images, folder):
        return read(chosen)


def _refuse_half(images: ImageSet, folder: Path) -> None:
    for place in (folder, folder / images.subfolder):
        missing = [name for name in PARQUET_FILES if not (place / name).is_file()]
        if len(missing) == 1:
            raise UserError(f"half of {images.title} in {place}: {missing[0]} is missing; expected {images.layout}")


def _or_download(images: ImageSet) -> str:
    return ", or torchvision, which downloads it" if images.downloader else ""


def _sources(images: ImageSet, folder: Path) -> list[Source] | None:
    with reading_errors(images, folder):
        for place in (folder, folder / images.subfolder):
            if all((place / name).is_file() for name in PARQUET_FILES):
                return read_parquet(place, images.pixels)
            if images.read is not None and images.torchvision and (place / images.torchvision).is_dir():
                return images.read(place / images.torchvision)
    return None


@contextmanager
def reading_errors(images: ImageSet, folder: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises in a reader into one line that names the folder and the layout."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"image files need pyarrow and pillow: {install('cli')}") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"cannot read {images.title} in {folder} ({reason}); expected {images.layout}") from error


def _download(images: ImageSet, folder: Path) -> bool:
    """Let torchvision download the set; return whether torchvision is installed and did."""
    if not find_spec("torchvision"):
        return False
    try:
        from torchvision import datasets

        getattr(datasets, images.downloader)(str(folder), download=True)
    except Exception as error:  # no network, no disk, a changed address
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"torchvision cannot download {images.title} ({reason}); get it from {images.home}: expected {images.layout}"
        ) from error
    return True
