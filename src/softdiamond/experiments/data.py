"""Data sets as tensors in memory, divided once into training, validation and test examples.

The division depends on the data set alone, never on a run's seed. Every choice is made on validation; a tuning run is
given `Splits.without_test`, so that it has no test set to look at.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softdiamond.experiments import UserError

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (n, 3, 32, 32) and labels (n,)
Choose = Callable[[int], NDArray[np.int64]]  # from the number of images in a file to those wanted

DIVISION_SEED = 0
CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_LAYOUT = (
    "train.parquet and test.parquet (columns image, label) or torchvision's folder cifar-10-batches-py, in the folder "
    f"that --data-dir names or in its subfolder cifar10; the data set's home page is {CIFAR_HOME}"
)
CIFAR_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
# All that a pickled array of numbers needs, under the names of NumPy 1 and of NumPy 2.
PICKLED_NAMES = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}


class Examples(NamedTuple):
    """Inputs, float32 of shape (n, features), and labels, int64 of shape (n,)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Splits:
    """A data set's three parts; ``fingerprint`` is a checksum of all its numbers."""

    name: str
    train: Examples
    validation: Examples
    test: Examples | None
    fingerprint: str

    def without_test(self) -> Splits:
        """Return the same data with no test set."""
        return replace(self, test=None)

    def describe(self) -> dict[str, Any]:
        """Return name, sizes and checksum, for a record."""
        sizes = {"train": len(self.train.labels), "validation": len(self.validation.labels)}
        return {"name": self.name, **sizes, "fingerprint": self.fingerprint}


def digits(train: int = 500, validation: int = 500) -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in [0, 1]; what the two parts leave is for the test.

    Raises
    ------
    UserError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('digits need scikit-learn: pip install "softdiamond[data]"') from error
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(DIVISION_SEED).permutation(len(labels))
    inputs = torch.from_numpy((pixels[order] / 16.0).astype(np.float32))
    return _divide("digits", inputs, torch.from_numpy(labels[order].astype(np.int64)), train, validation)


def cifar10(folder: Path, train: int = 8_000, validation: int = 4_000) -> Splits:
    """Return CIFAR-10 from a folder: a part of its training images to train and to validate, its whole test set.

    Pixels are centred and scaled by the mean and standard deviation of each channel over the chosen training images.

    Parameters
    ----------
    folder : Path
        Holds, itself or in its subfolder ``cifar10``, either ``train.parquet`` and ``test.parquet`` (columns
        ``image``, a struct with the encoded image in ``bytes``, and ``label``) or torchvision's folder
        ``cifar-10-batches-py``.
    train, validation : int
        Number of images, drawn without replacement from the training images in the order of the files.

    Raises
    ------
    UserError
        If the folder holds no such files, they cannot be read or have too few images, or an extra is not installed.
    """

    def some(available: int) -> NDArray[np.int64]:
        if available < train + validation:
            raise UserError(f"{folder} has {available} training images of CIFAR-10; {train + validation} are needed")
        return np.random.default_rng(DIVISION_SEED).permutation(available)[: train + validation]

    read_train, read_test = _find_cifar10(folder)
    try:
        parts = [read_train(some), read_test(np.arange)]
    except UserError:
        raise
    except ImportError as error:
        raise UserError('parquet files need pyarrow and pillow: pip install "softdiamond[data]"') from error
    except Exception as error:  # a damaged file can raise nearly anything in the three readers
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"cannot read CIFAR-10 in {folder} ({reason}); expected {CIFAR_LAYOUT}") from error
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts])).float()
    by_channel = images[:train].transpose(0, 1).flatten(1)
    mean, deviation = by_channel.mean(dim=1).view(3, 1, 1), by_channel.std(dim=1).view(3, 1, 1)
    images.sub_(mean).div_(deviation.clamp_min(1e-6))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    return _divide("cifar10", images.flatten(1), labels, train, validation)


def _divide(name: str, inputs: Tensor, labels: Tensor, train: int, validation: int) -> Splits:
    """Cut in order: training, validation, and the rest to test."""
    fingerprint = zlib.crc32(labels.numpy().tobytes(), zlib.crc32(inputs.numpy().data))
    sizes = [train, validation, len(labels) - train - validation]
    parts = zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)
    for_training, for_validation, for_test = (Examples(x, y) for x, y in parts)
    return Splits(name, for_training, for_validation, for_test, f"{fingerprint:08x}")


def _find_cifar10(folder: Path) -> list[Callable[[Choose], Images]]:
    """Return the reader of the training images and that of the test images."""
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'not there'}: expected {CIFAR_LAYOUT}")
    for place in (folder, folder / "cifar10"):
        parquet = [place / "train.parquet", place / "test.parquet"]
        if all(path.is_file() for path in parquet):
            return [partial(_read_parquet, path) for path in parquet]
        batches = [[place / "cifar-10-batches-py" / name for name in names] for names in (CIFAR_TRAIN, ["test_batch"])]
        if all(path.is_file() for paths in batches for path in paths):
            return [partial(_read_batches, paths) for paths in batches]
    raise UserError(f"no CIFAR-10 in {folder}: expected {CIFAR_LAYOUT}")


def _read_parquet(path: Path, choose: Choose) -> Images:
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(path, columns=["image", "label"])
    table = table.take(choose(table.num_rows))
    pixels = []
    for row in table["image"].to_pylist():
        with Image.open(io.BytesIO(row["bytes"])) as image:
            pixels.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    return _checked(path, np.stack(pixels), table["label"].to_numpy())


def _read_batches(paths: list[Path], choose: Choose) -> Images:
    batches = []
    for path in paths:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        pixels = np.asarray(batch[b"data"])
        batches.append(_checked(path, pixels.reshape(len(pixels), 3, 32, 32), np.asarray(batch[b"labels"])))
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    chosen = choose(len(labels))
    return pixels[chosen], labels[chosen]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays and plain containers; refuse any other name, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED_NAMES:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which no CIFAR-10 batch needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _checked(path: Path, pixels: NDArray[Any], labels: NDArray[Any]) -> Images:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, 32, 32) or labels.shape != pixels.shape[:1]:
        raise ValueError(f"{path.name} holds pixels {pixels.dtype} {pixels.shape} and labels {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{path.name} holds labels outside 0 ... 9")
    return pixels, labels.astype(np.int64)
