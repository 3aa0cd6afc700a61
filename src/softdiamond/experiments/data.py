"""Data sets as tensors in memory, divided once into training, validation and test examples; and augmentation.

The division depends on the data set alone, never on a run's seed. Every choice is made on validation. The test set is not
a field beside the others: `softdiamond.experiments.runs.perform` breaks one `Sealed` value for a final run, which opens
once, none for a tuning run, and hands all else `Splits.without_test`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from softdiamond._extras import install
from softdiamond.experiments import UserError, card
from softdiamond.experiments.entry_points import entry_point
from softdiamond.experiments.readers import IMAGE_SETS, Source, find

DIVISION_SEED = 0
PADDING = 4  # pixels on each side, of which a random crop takes as many away


class Examples(NamedTuple):
    """Inputs, float32 of shape (n, ...), and labels, int64 of shape (n,)."""

    inputs: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        return Examples(self.inputs.to(device), self.labels.to(device))


class Sealed:
    """The test examples of one run: they can be read once, after all that is to be measured on them is settled."""

    def __init__(self, examples: Examples) -> None:
        self._examples: Examples | None = examples

    def open(self) -> Examples:
        """Return the examples; a second time raises RuntimeError."""
        if self._examples is None:
            raise RuntimeError("the test set of this run was read before: it is read once, after every choice")
        examples, self._examples = self._examples, None
        return examples


@dataclass(frozen=True)
class Splits:
    """A data set's parts; ``seal`` makes the test set of one run, ``description`` has a checksum of all numbers."""

    train: Examples
    validation: Examples
    seal: Callable[[], Sealed]
    classes: int
    description: dict[str, Any]

    def without_test(self) -> Splits:
        """Return the same, from which no test set can be had."""
        return replace(self, seal=_no_test)

    @property
    def shape(self) -> torch.Size:
        """Shape of one input."""
        return self.train.inputs.shape[1:]


def _no_test() -> Sealed:
    raise RuntimeError("there is no test set here: choices are made on validation data")


def load(data: card.Data, folder: Path | None, device: str = "cpu") -> Splits:
    """Return a card's data: digits, an image set from a folder, or what the user's ``module:function`` returns.

    Images are float32 of shape (n, 3, side, side), centered and scaled by mean and standard deviation of each channel over
    the training images.

    Raises
    ------
    UserError
        If there is no such data set or folder, files cannot be read, images are too few, an input is not finite, a label
        is out of range, a class has no training image, or an extra is not installed.
    """
    if folder is not None and (data.name == "digits" or ":" in data.name):
        raise UserError(f"{data.name} brings its own data: leave --data-dir out")
    if data.name == "digits":
        sources: list[Source] = [_digits()]
        classes = 10
    elif data.name in IMAGE_SETS:
        sources, classes = find(data.name, folder), IMAGE_SETS[data.name].classes
    else:
        return _users(data, device)
    if data.classes not in (None, classes):
        raise UserError(f"{data.name} has {classes} classes; data.classes of the card is {data.classes}")
    for part in sources:
        _check_labels(data.name, part.labels, classes)
    train, validation, rest = _divide(sources[0].labels, data)
    chosen = rest
    if len(sources) > 1:
        chosen = np.arange(len(sources[1].labels))
        chosen = np.random.default_rng(DIVISION_SEED).permutation(chosen) if data.test else chosen
    _check_labels(data.name, sources[-1].labels[chosen], classes)
    parts = [(sources[0], train), (sources[0], validation), (sources[-1], chosen[: data.test])]
    examples: list[Examples] = []
    for source, places in parts:  # one after the other: the memory for raw pixels is that of one part
        inputs = torch.from_numpy(np.ascontiguousarray(source.read(places))).float()
        if data.name != "digits":
            if not examples:
                mean, deviation = _by_channel(inputs)
            inputs.sub_(mean).div_(deviation)
        examples.append(Examples(inputs, torch.from_numpy(source.labels[places])))
    return _checked(data.name, examples, classes, device)


def _by_channel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (at least 1e-6) of each channel, shape (3, 1, 1), of images of shape (n, 3, h, w)."""
    channels = images.transpose(0, 1).flatten(1)
    return channels.mean(dim=1).view(3, 1, 1), channels.std(dim=1).view(3, 1, 1).clamp_min(1e-6)


def _digits() -> Source:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f"digits need scikit-learn: {install('cli')}") from error
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return Source(labels.astype(np.int64), images.__getitem__)


def _divide(labels: NDArray[np.int64], data: card.Data) -> list[NDArray[np.int64]]:
    """Draw without replacement: training, validation, and the rest."""
    order = np.random.default_rng(DIVISION_SEED).permutation(len(labels))
    if data.per_class:
        kinds = [order[labels[order] == label] for label in np.unique(labels)]
        if (fewest := min(map(len, kinds))) < data.train + data.validation:
            raise UserError(
                f"{data.name} has a class of {fewest} images; {data.train + data.validation} of each are needed to train "
                "and validate (data.train and data.validation of the card)"
            )
        cuts = [np.split(kind, [data.train, data.train + data.validation]) for kind in kinds]
        parts = [np.concatenate(part) for part in zip(*cuts, strict=True)]
        shuffle = np.random.default_rng(DIVISION_SEED)
        return [shuffle.permutation(part) for part in parts]
    if len(labels) < data.train + data.validation:
        raise UserError(
            f"{data.name} has {len(labels)} images to train and validate; {data.train + data.validation} are needed "
            "(data.train and data.validation of the card)"
        )
    first = np.unique(labels[order], return_index=True)[1]
    if data.train >= len(first) and first.max() >= data.train:  # the draw leaves a class out: one of each comes first
        order = np.concatenate([order[np.sort(first)], np.delete(order, first)])
    return np.split(order, [data.train, data.train + data.validation, len(order)])[:3]


def _users(data: card.Data, device: str) -> Splits:
    """Return what the user's function makes: three pairs of inputs and labels, tensors or arrays."""
    make = entry_point("data set", data.name, dict.fromkeys(["digits", *IMAGE_SETS], _digits))
    expected = f"{data.name} must return three pairs (inputs, labels), to train, to validate and to test"
    if data.per_class:
        raise UserError(f"data.per_class is true: {data.name} divides its examples itself")
    try:
        pairs = [(torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu()) for x, y in make()]
    except Exception as error:
        raise UserError(f"{expected}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if len(pairs) != 3:
        raise UserError(f"{expected}; it returned {len(pairs)}")
    examples = []
    for (x, y), wanted in zip(pairs, (data.train, data.validation, data.test), strict=True):
        if x.dim() < 2 or y.dim() != 1 or y.dtype.is_floating_point or y.dtype == torch.bool or len(x) != len(y):
            raise UserError(f"{expected}: got inputs {tuple(x.shape)} with labels {y.dtype} {tuple(y.shape)}")
        if len(y) < (wanted or 1):
            raise UserError(f"{expected}: it has {len(y)} where the card wants {wanted or 'some'}")
        examples.append(Examples(x[:wanted].float(), y[:wanted].long()))
    return _checked(data.name, examples, int(examples[0].labels.max()) + 1, device)


def _check_labels(name: str, labels: Any, classes: int) -> None:
    if len(labels) == 0:
        raise UserError(f"{name} has an empty part: every one of training, validation and test needs examples")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise UserError(f"{name} has labels from {lowest} to {highest}: they must be in 0 ... {classes - 1}")


def _checked(name: str, examples: Iterable[Examples], classes: int, device: str) -> Splits:
    checksum = 0
    parts = dict(zip(("training", "validation", "test"), examples, strict=True))
    for kind, (x, y) in parts.items():
        _check_labels(name, y, classes)
        if not bool(x.isfinite().all()):
            raise UserError(f"{name} has {kind} inputs that are not finite: remove NaN and infinite values")
        checksum = zlib.crc32(y.numpy().tobytes(), zlib.crc32(x.contiguous().numpy().data, checksum))
    if empty := sorted(set(range(classes)) - set(parts["training"].labels.tolist())):
        raise UserError(f"{name} has no training example of class {empty[0]}: each of its {classes} classes needs one")
    train, validation, test = (part.to(torch.device(device)) for part in parts.values())
    sizes = {"train": len(train.labels), "validation": len(validation.labels), "test": len(test.labels)}
    description = {"name": name, **sizes, "classes": classes, "fingerprint": f"{checksum:08x}"}
    return Splits(train, validation, lambda: Sealed(test), classes, description)


def crop_and_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift each image of a batch by up to 4 pixels (zeros come in) and mirror it or not, as is usual for CIFAR.

    torchvision's own random crop takes one place for a whole batch, and a loop over images is slow.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
        A batch.
    generator : Generator
        A CPU generator, so that every device draws the same.
    """
    n, channels, height, width = images.shape
    shift = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator, dtype=torch.bool)
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    padded = nn.functional.pad(images, [PADDING] * 4)
    place = (rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]).flatten(1).to(images.device)
    flat = padded.flatten(2).gather(2, place[:, None, :].expand(n, channels, -1))
    return flat.view(n, channels, height, width)
