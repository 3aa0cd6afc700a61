"""Data sets: the files that are read, their division, the sealed test set, the user's own data, and augmentation."""

import io
import os
import pickle
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from softdiamond.experiments import UserError, card, data, readers

REAL = Path(os.environ["SOFTDIAMOND_DATA"]) if "SOFTDIAMOND_DATA" in os.environ else None
real = pytest.mark.skipif(REAL is None, reason="SOFTDIAMOND_DATA names no folder with cifar10 and caltech101_64")
PARTS = ("train", "validation", "test")
LAYOUT = r"expected train.parquet and test.parquet \(columns image, label\).*--data-dir.*home page is https://"


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """Undo that the look-up of a user's function puts the current folder on sys.path."""
    monkeypatch.setattr(sys, "path", sys.path[:])


def settings(name="cifar10", **changes):
    sizes = {"train": 12, "validation": 5} if ":" in name else {"train": 1, "validation": 1, "per_class": True}
    return card.Data(**({"name": name, **({} if "train" in changes else sizes)} | changes))


def load(folder, name="cifar10", **changes):
    return data.load(settings(name, **changes), folder)


def parts(splits):
    """Training, validation and test examples."""
    return splits.train, splits.validation, splits.seal().open()


def sizes(splits):
    return [len(part.labels) for part in parts(splits)]


def refusal(folder, name="cifar10", **changes):
    """The one line with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        load(folder, name, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- files of every layout ---------------------------------------------------------------------------------------------


def pixels_and_labels(rng, n, classes=10, first=0):
    """Random images; each label comes once before one comes again."""
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), (first + 7 * np.arange(n)) % classes


def encoded(pixels, kind="PNG", **options):
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_rows(path, images, labels):
    """Write encoded images and labels as one parquet file."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": each, "path": None} for each in images]
    parquet.write_table(pyarrow.table({"image": rows, "label": labels}), path, row_group_size=7)


def write_parquet(folder, rng, sizes, **options):
    written = {}
    for name, n in sizes.items():
        pixels, labels = written[name] = pixels_and_labels(rng, n, **options)
        images = [encoded(each.transpose(1, 2, 0), "WEBP", lossless=True) for each in pixels]
        write_rows(folder / f"{name}.parquet", images, labels)
    return written


def python2_pickle(pixels, **labels):
    """Bytes of {"data": pixels, "labels": labels} as Python 2 and NumPy 1 wrote them, hence the real files."""
    n, raw = len(pixels), pixels.tobytes()
    u1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    array += b"K" + bytes([n]) + b"M\x00\x0c\x86" + u1 + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    lists = b""
    for key, values in labels.items():
        name = key.encode()
        lists += b"U" + bytes([len(name)]) + name + b"](" + b"".join(b"K" + bytes([each]) for each in values) + b"e"
    return b"\x80\x02}(U\x04data" + array + lists + b"u."


CIFAR10_FILES = [f"data_batch_{number}" for number in range(1, 6)]


def write_batches(folder, rng, n):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    written = {}
    for index, name in enumerate([*CIFAR10_FILES, "test_batch"]):
        pixels, labels = written[name] = pixels_and_labels(rng, n, first=7 * n * index)
        (folder / name).write_bytes(python2_pickle(pixels, labels=labels))
    return folder, written


def write_cifar100(folder, rng, n_train, n_test):
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    written = {}
    for name, n in {"train": n_train, "test": n_test}.items():
        pixels, labels = written[name] = pixels_and_labels(rng, n, classes=100)
        coarse = [label // 5 for label in labels]
        (folder / name).write_bytes(python2_pickle(pixels, coarse_labels=coarse, fine_labels=labels))
    return written


def write_caltech256(folder, per_class, classes=range(1, 257)):
    """Write small JPEG files, of one colour for each class, in several shapes and modes, and the folder of clutter."""
    image = pytest.importorskip("PIL.Image")
    for number in [*classes, 257]:
        place = folder / "caltech256" / "256_ObjectCategories" / f"{number:03d}.thing-{number}"
        place.mkdir(parents=True)
        for index in range(per_class):
            mode, colour = [("RGB", (number % 256, 90, 200)), ("L", number % 256), ("RGB", (number % 256, 90, 200))][
                index % 3
            ]
            shape = [(8, 8), (10, 7), (6, 12)][index % 3]
            image.new(mode, shape, colour).save(place / f"{number:03d}_{index:04d}.jpg", quality=95)
        (place / "notes.txt").write_text("no image")
    return folder


def matching(shown, pixels):
    """The place in ``pixels`` of each image shown, found by its own standardized values."""

    def standard(images):
        flat = np.asarray(images, dtype=float).reshape(len(images), -1, images.shape[-1] * images.shape[-2])
        return ((flat - flat.mean(-1, keepdims=True)) / flat.std(-1, keepdims=True)).reshape(len(images), -1)

    likeness = standard(shown) @ standard(pixels).T / standard(pixels).shape[1]
    assert likeness.max(axis=1) == pytest.approx(1, abs=1e-5), "each is one of them, channel by channel"
    return likeness.argmax(axis=1)


# ---- digits --------------------------------------------------------------------------------------------------------------


def test_digits_are_divided_once_and_whole():
    splits = load(None, "digits", train=120, validation=80)
    assert sizes(splits) == [120, 80, 1597] and splits.classes == 10
    assert splits.shape == (1, 8, 8)
    rows = torch.cat([part.inputs for part in parts(splits)])
    assert rows.dtype == torch.float32 and rows.min() == 0 and rows.max() == 1
    assert len(rows.flatten(1).unique(dim=0)) == 1797, "no image lies in two parts"
    again = load(None, "digits", train=120, validation=80)
    assert again.description == splits.description
    described = {key: value for key, value in splits.description.items() if key != "fingerprint"}
    assert described == {"name": "digits", "train": 120, "validation": 80, "test": 1597, "classes": 10}


def test_digits_carry_their_labels():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    known = {tuple(row): label for row, label in zip((pixels / 16).astype(np.float32).tolist(), labels, strict=True)}
    for part in parts(load(None, "digits", train=500, validation=500)):
        assert [known[tuple(row)] for row in part.inputs.flatten(1).tolist()] == part.labels.tolist()
        assert part.labels.dtype == torch.int64


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert refusal(None, "digits") == 'digits need scikit-learn: pip install "softdiamond[cli]"'


def test_division_does_not_depend_on_global_randomness():
    one = load(None, "digits")
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert load(None, "digits").description == one.description
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("train", "validation"), [(1000, 798), (1797, 1)])
def test_too_few_images(train, validation):
    expected = f"digits has 1797 images to train and validate; {train + validation} are needed"
    assert refusal(None, "digits", train=train, validation=validation).startswith(expected)


def test_a_test_set_needs_images():
    assert refusal(None, "digits", train=1000, validation=797).startswith("digits has an empty part")
    assert sizes(load(None, "digits", train=1000, validation=796)) == [1000, 796, 1]


# ---- CIFAR ---------------------------------------------------------------------------------------------------------------


def test_cifar_from_parquet(tmp_path, rng):
    written = write_parquet(tmp_path, rng, {"train": 30, "test": 17})
    splits = load(tmp_path, train=25, validation=5)
    train, validation, test = parts(splits)
    assert [tuple(part.inputs.shape) for part in (train, validation, test)] == [(n, 3, 32, 32) for n in (25, 5, 17)]
    assert all(part.inputs.dtype == torch.float32 and part.labels.dtype == torch.int64 for part in parts(splits))
    pixels, labels = written["train"]
    places = [matching(part.inputs, pixels) for part in (train, validation)]
    assert len(set(np.concatenate(places))) == 30, "no image lies in two parts"
    assert [labels[place].tolist() for place in places] == [train.labels.tolist(), validation.labels.tolist()]
    assert matching(test.inputs, written["test"][0]).tolist() == list(range(17)), "in order"
    assert test.labels.tolist() == written["test"][1].tolist()


def test_images_are_scaled_by_the_training_images_alone(tmp_path, rng):
    written = write_parquet(tmp_path, rng, {"train": 30, "test": 6})
    bright = [encoded(each.transpose(1, 2, 0) // 4 + 190) for each in written["test"][0]]
    write_rows(tmp_path / "test.parquet", bright, written["test"][1])
    train, validation, test = parts(load(tmp_path, train=2, validation=1, per_class=True))
    mean = train.inputs.mean(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.zeros(3), atol=1e-5), "training channels have mean 0"
    assert torch.allclose(train.inputs.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4), "and standard deviation 1"
    chosen = written["train"][0][matching(train.inputs, written["train"][0])].astype(float)
    shift, scale = chosen.mean(axis=(0, 2, 3))[:, None, None], chosen.std(axis=(0, 2, 3))[:, None, None]
    raw = written["train"][0][matching(validation.inputs, written["train"][0])]
    assert validation.inputs.numpy() == pytest.approx((raw - shift) / scale, abs=1e-3)
    assert test.inputs.numpy() == pytest.approx((written["test"][0] // 4 + 190 - shift) / scale, abs=1e-3)


def test_images_of_one_colour_are_finite(tmp_path, rng):
    labels = np.arange(20) % 10
    for part in ("train", "test"):
        write_rows(tmp_path / f"{part}.parquet", [encoded(np.full((32, 32, 3), 7, np.uint8))] * 20, labels)
    assert all(float(part.inputs.abs().max()) == 0.0 for part in parts(load(tmp_path)))


@pytest.mark.parametrize("subfolder", ["", "cifar10"])
@pytest.mark.parametrize("layout", ["parquet", "torchvision"])
def test_the_subfolder_of_a_set_serves_as_well(tmp_path, rng, subfolder, layout):
    if layout == "parquet":
        write_parquet(tmp_path / subfolder, rng, {"train": 20, "test": 7})
    else:
        write_batches(tmp_path / subfolder, rng, 4)
    assert sizes(load(tmp_path)) == [10, 10, 7 if layout == "parquet" else 4]


def test_cifar_from_torchvision_folder(tmp_path, rng):
    _, written = write_batches(tmp_path, rng, 8)
    train, validation, test = parts(load(tmp_path, train=30, validation=10))
    assert [len(part.labels) for part in (train, validation, test)] == [30, 10, 8]
    pixels, labels = (np.concatenate([written[name][i] for name in CIFAR10_FILES]) for i in (0, 1))
    for part in (train, validation):
        assert labels[matching(part.inputs, pixels)].tolist() == part.labels.tolist()
    assert matching(test.inputs, written["test_batch"][0]).tolist() == list(range(8))
    assert test.labels.tolist() == written["test_batch"][1].tolist()


def test_cifar_is_the_same_from_either_layout(tmp_path, rng):
    _, written = write_batches(tmp_path / "batches", rng, 4)
    for part, names in (("train", CIFAR10_FILES), ("test", ["test_batch"])):
        pixels, labels = (np.concatenate([written[name][i] for name in names]) for i in (0, 1))
        images = [encoded(each.transpose(1, 2, 0)) for each in pixels]
        write_rows(tmp_path / "rows" / f"{part}.parquet", images, labels)
    assert load(tmp_path / "batches").description == load(tmp_path / "rows").description


def test_cifar100_has_its_fine_labels(tmp_path, rng):
    written = write_cifar100(tmp_path, rng, 200, 7)
    splits = load(tmp_path, "cifar100", train=1, validation=1, per_class=True)
    train, _, test = parts(splits)
    assert splits.classes == 100 and sorted(train.labels.tolist()) == list(range(100))
    pixels, labels = written["train"]
    assert labels[matching(train.inputs, pixels)].tolist() == train.labels.tolist()
    assert test.labels.tolist() == written["test"][1].tolist()


def test_cifar_batches_written_by_a_new_numpy(tmp_path, rng):
    folder, written = write_batches(tmp_path, rng, 4)
    before = load(tmp_path).description
    for protocol, (name, (pixels, labels)) in zip((3, 4, 4, 3), written.items(), strict=False):
        batch = {b"data": pixels.reshape(4, 3072), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    assert load(tmp_path).description == before


@pytest.mark.parametrize("place", ["data", "labels", "root"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cifar_batches_cannot_run_code(tmp_path, rng, place, protocol):
    folder, _ = write_batches(tmp_path, rng, 4)

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    content = Attack() if place == "root" else {b"data": None, b"labels": [], place.encode(): Attack()}
    (folder / "data_batch_3").write_bytes(pickle.dumps(content, protocol=protocol))
    said = refusal(tmp_path)
    assert "UnpicklingError: the file asks for" in said and "which no CIFAR batch needs" in said
    assert "io.open" in said or protocol < 3  # whose keys ask for _codecs.encode already
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["numpy.load", "numpy.core.multiarray.scalar", "builtins.eval", "numpy.ndarray.tofile"]
)
def test_the_unpickler_knows_no_other_names(tmp_path, rng, name):
    folder, _ = write_batches(tmp_path, rng, 4)
    module, _, function = name.rpartition(".")
    (folder / "test_batch").write_bytes(f"c{module}\n{function}\n.".encode())
    assert f"the file asks for {name}, which no CIFAR batch needs" in refusal(tmp_path)


# ---- Caltech-256 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caltech(tmp_path_factory):
    return write_caltech256(tmp_path_factory.mktemp("caltech"), 3)


def test_caltech256_leaves_the_clutter_out(caltech):
    splits = load(caltech, "caltech256", train=1, validation=1, per_class=True)
    assert sizes(splits) == [256, 256, 256] and splits.classes == 256
    for part in parts(splits):
        assert part.inputs.shape[1:] == (3, 64, 64)
        assert sorted(part.labels.tolist()) == list(range(256))


def test_caltech256_images_have_the_labels_of_their_folders(caltech):
    """The red channel of each image is its folder's number."""
    for part in parts(load(caltech, "caltech256", train=1, validation=1, per_class=True, test=100)):
        reds = np.polyfit(part.inputs[:, 0].mean(dim=(1, 2)).numpy(), (part.labels + 1) % 256, 1, full=True)
        assert float(reds[1][0]) / len(part.labels) < 1, "to the precision of JPEG"


def test_caltech256_without_images(tmp_path, caltech):
    (tmp_path / "caltech256" / "256_ObjectCategories" / "001.thing").mkdir(parents=True)
    assert "ValueError: no folders 001.* to 256.* with images" in refusal(tmp_path, "caltech256")
    other = write_caltech256(tmp_path / "other", 3, classes=range(1, 256))
    said = refusal(other, "caltech256", train=1, validation=1, per_class=True)
    assert said == "caltech256 has no training example of class 255: each of its 256 classes needs one"


def test_caltech256_with_a_damaged_image(tmp_path):
    folder = write_caltech256(tmp_path, 3, classes=range(1, 5))
    for path in folder.glob("caltech256/*/002.*/*.jpg"):
        path.write_bytes(path.read_bytes()[:100])
    said = refusal(folder, "caltech256", train=1, validation=1, per_class=True)
    assert said.startswith(f"cannot read Caltech-256 in {folder} (") and "caltech256/256_ObjectCategories" in said


def test_caltech256_without_a_test_image(caltech):
    said = refusal(caltech, "caltech256", train=2, validation=1, per_class=True)
    assert said.startswith("caltech256 has an empty part")


# ---- decoding ------------------------------------------------------------------------------------------------------------


def picture(*sizes):
    """A colour image of some height and width, whose red grows downwards and green to the right."""
    height, width = sizes
    down, right = np.mgrid[0:height, 0:width]
    return np.stack([down * 255 // max(1, height - 1), right * 255 // max(1, width - 1), 0 * down], -1).astype(np.uint8)


def decoded(*images, pixels=32):
    return readers.decode((io.BytesIO(each) for each in images), pixels)


def test_images_of_the_right_size_are_kept_bit_by_bit(rng):
    pixels = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(decoded(*map(encoded, pixels)), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(32, 50), (51, 32), (33, 32)])
def test_the_center_is_kept_where_the_shorter_side_fits(shape):
    image = picture(*shape)
    top, left = (shape[0] - 32) // 2, (shape[1] - 32) // 2
    assert np.array_equal(decoded(encoded(image))[0], image[top : top + 32, left : left + 32].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(64, 64), (64, 100), (100, 64), (16, 16), (20, 13), (13, 20), (200, 33), (1, 300)])
def test_other_images_are_resized_at_the_shorter_side(shape):
    """A picture that grows downwards and to the right: the same slope in both, its middle in the middle."""
    seen = decoded(encoded(picture(*shape)))[0].astype(float)
    assert seen.shape == (3, 32, 32)
    for channel, side, axis in ((0, shape[0], 1), (1, shape[1], 0)):
        if side == 1:
            continue
        profile = seen[channel].mean(axis=axis)
        kept = min(shape) / side  # share of this side that lies within the crop
        assert (profile[:16].mean() + profile[16:].mean()) / 2 == pytest.approx(127, abs=4), "the middle"
        assert profile[24:].mean() - profile[:8].mean() == pytest.approx(0.75 * 255 * kept, rel=0.1, abs=4), "the scale"
    assert not seen[2].any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_images_of_every_mode_become_colour(mode):
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.full((32, 32, 3), 255, np.uint8)).convert(mode).save(buffer, "TIFF")
    seen = decoded(buffer.getvalue())
    assert seen.shape == (1, 3, 32, 32) and seen.dtype == np.uint8 and (seen == 255).all()


def test_grey_images_have_three_equal_channels():
    seen = decoded(encoded(picture(32, 32)[:, :, 1]))[0]
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2]) and seen[0].std() > 50


# ---- the cache of decoded images -----------------------------------------------------------------------------------------


@pytest.fixture
def decodings(monkeypatch):
    """How many images each call decoded."""
    counts, decode = [], readers.decode

    def counted(files, pixels):
        images = decode(files, pixels)
        counts.append(len(images))
        return images

    monkeypatch.setattr(readers, "decode", counted)
    return counts


def test_cached_images_give_the_same_numbers(tmp_path, rng, monkeypatch, decodings):
    """Whatever is chosen, all are decoded once; without a cache those that are chosen, every time."""
    write_parquet(tmp_path, rng, {"train": 40, "test": 9})
    sets = [{"train": 25, "validation": 5}, {"train": 30, "validation": 1, "test": 4}]
    descriptions = []
    for word in ("off", str(tmp_path / "cache")):
        monkeypatch.setenv("SOFTDIAMOND_CACHE", word)
        descriptions += [[load(tmp_path, **each).description for each in sets] for _ in range(2)]
    assert descriptions == [descriptions[0]] * 4
    assert decodings == [25, 5, 9, 30, 1, 4] * 2 + [40, 9]


def test_cached_caltech256(caltech, decodings):
    wanted = {"train": 1, "validation": 1, "per_class": True}
    assert len({load(caltech, "caltech256", **wanted).description["fingerprint"] for _ in range(2)}) == 1
    assert sum(decodings) in (0, 3 * 256), "another test may have been first"


def test_a_damaged_image_matters_where_it_is_chosen(tmp_path, rng):
    write_parquet(tmp_path, rng, {"train": 40, "test": 9})
    parquet = pytest.importorskip("pyarrow.parquet")
    chosen = data._divide(readers.find("cifar10", tmp_path)[0].labels, settings(train=20, validation=10))
    before = load(tmp_path, train=20, validation=10).description
    table = parquet.read_table(tmp_path / "train.parquet")
    rows = table["image"].to_pylist()
    rows[chosen[2][0]] = {"bytes": b"RIFF", "path": None}
    parquet.write_table(table.set_column(0, "image", [rows]), tmp_path / "train.parquet")
    assert load(tmp_path, train=20, validation=10).description == before
    assert refusal(tmp_path, train=20, validation=20).startswith(
        f"cannot read CIFAR-10 in {tmp_path} (UnidentifiedImage"
    )


# ---- the division --------------------------------------------------------------------------------------------------------


def test_per_class_division_is_exact_disjoint_and_repeats(tmp_path, rng):
    written = write_parquet(tmp_path, rng, {"train": 73, "test": 20})
    splits = load(tmp_path, train=4, validation=2, per_class=True)
    assert np.bincount(splits.train.labels).tolist() == [4] * 10
    assert np.bincount(splits.validation.labels).tolist() == [2] * 10
    assert sizes(splits) == [40, 20, 20], "the test set is the one of the files"
    pixels, labels = written["train"]
    places = [matching(part.inputs, pixels) for part in (splits.train, splits.validation)]
    assert len(set(np.concatenate(places))) == 60, "no image lies in two parts"
    assert labels[places[0]].tolist() == splits.train.labels.tolist()
    assert sorted(splits.train.labels.tolist()) != splits.train.labels.tolist(), "in random order"
    assert load(tmp_path, train=4, validation=2, per_class=True).description == splits.description


def test_per_class_division_of_one_source_leaves_the_rest_to_the_test():
    splits = load(None, "digits", train=30, validation=20, per_class=True)
    train, validation, test = parts(splits)
    assert np.bincount(train.labels).tolist() == [30] * 10 and np.bincount(validation.labels).tolist() == [20] * 10
    assert len(test.labels) == 1797 - 500
    rows = torch.cat([part.inputs for part in (train, validation, test)])
    assert len(rows.flatten(1).unique(dim=0)) == 1797, "no image lies in two parts"


def test_per_class_division_of_too_few(tmp_path, rng):
    write_parquet(tmp_path, rng, {"train": 39, "test": 5})
    said = refusal(tmp_path, train=3, validation=1, per_class=True)
    assert said.startswith("cifar10 has a class of 3 images; 4 of each are needed to train and validate")
    assert sizes(load(tmp_path, train=2, validation=1, per_class=True)) == [20, 10, 5]


def test_no_class_is_left_out_of_training(rng):
    """Where the draw would, its first image of each class comes first; elsewhere the draw stays as it is."""
    labels = rng.permutation(np.arange(5000) % 100)
    drawn = np.random.default_rng(data.DIVISION_SEED).permutation(5000)
    assert len(np.unique(labels[drawn[:120]])) < 100
    first = list({labels[place]: place for place in drawn[::-1]}.values())[::-1]
    first.sort(key=drawn.tolist().index)
    divided = data._divide(labels, settings("cifar100", train=120, validation=1000))
    assert [len(part) for part in divided] == [120, 1000, 3880]
    assert np.bincount(labels[divided[0]], minlength=100).min() == 1
    assert np.concatenate(divided).tolist() == first + [place for place in drawn.tolist() if place not in set(first)]
    for train in (99, 2000):  # too few for every class; enough by themselves
        divided = data._divide(labels, settings("cifar100", train=train, validation=1000))
        assert np.concatenate(divided).tolist() == drawn.tolist()


def test_one_image_of_each_class_is_enough_to_train():
    splits = load(None, "digits", train=10, validation=5)
    assert np.bincount(splits.train.labels).tolist() == [1] * 10 and sizes(splits) == [10, 5, 1782]
    rows = torch.cat([part.inputs for part in parts(splits)])
    assert len(rows.flatten(1).unique(dim=0)) == 1797, "no image lies in two parts"
    assert "has no training example of class" in refusal(None, "digits", train=9, validation=5)


def test_training_images_do_not_depend_on_the_size_of_the_rest(tmp_path, rng):
    write_parquet(tmp_path, rng, {"train": 40, "test": 9})
    few, many = load(tmp_path, train=30, validation=1), load(tmp_path, train=30, validation=10, test=3)
    assert torch.equal(few.train.inputs, many.train.inputs) and torch.equal(few.train.labels, many.train.labels)
    assert torch.equal(few.validation.labels, many.validation.labels[:1])


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_test_images_can_be_limited(tmp_path, rng, name):
    write_parquet(tmp_path, rng, {"train": 20, "test": 9})
    folder = tmp_path if name == "cifar10" else None
    whole, few, more = (load(folder, name, test=test) for test in (None, 4, 5000))
    every, some, again = (each.seal().open() for each in (whole, few, load(folder, name, test=4)))
    assert len(some.labels) == few.description["test"] == 4 < len(every.labels)
    assert torch.equal(some.inputs, again.inputs) and torch.equal(some.labels, again.labels), "the same at every load"
    places = [[bool(torch.equal(each, other)) for other in every.inputs].index(True) for each in some.inputs]
    assert len(set(places)) == 4 and torch.equal(some.labels, every.labels[places]), "images of the test set"
    everything = more.seal().open()
    assert len(everything.labels) == more.description["test"] == len(every.labels)
    assert torch.equal(everything.inputs[:4], some.inputs), "a higher limit adds to those of a lower one"
    assert sorted(everything.inputs.flatten(1).tolist()) == sorted(every.inputs.flatten(1).tolist())
    for limited in (few, more):
        assert torch.equal(limited.train.inputs, whole.train.inputs)
        assert torch.equal(limited.validation.inputs, whole.validation.inputs)


def test_a_limited_test_set_is_drawn_at_random(tmp_path):
    """The files may hold one class after another: the first images would be of one class."""
    pixels = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
    for part in ("train", "test"):
        write_rows(tmp_path / f"{part}.parquet", [encoded(each) for each in pixels], np.arange(200) // 20)
    whole, some = load(tmp_path).seal().open(), load(tmp_path, test=50).seal().open()
    assert whole.labels.tolist() == sorted(whole.labels.tolist()), "without a limit they are in the files' order"
    assert len(set(some.labels.tolist())) == 10
    counts = torch.bincount(some.labels)
    assert counts.max() < 15, counts
    torch.rand(5)  # what others drew does not matter
    np.random.rand(5)  # noqa: NPY002
    again = load(tmp_path, test=50).seal().open()
    assert torch.equal(again.inputs, some.inputs) and torch.equal(again.labels, some.labels)


def test_a_class_without_training_images(tmp_path, rng):
    pixels, _ = pixels_and_labels(rng, 20)
    for part in ("train", "test"):
        write_rows(
            tmp_path / f"{part}.parquet", [encoded(each.transpose(1, 2, 0)) for each in pixels], np.arange(20) % 9
        )
    assert refusal(tmp_path, train=19, validation=1) == (
        "cifar10 has no training example of class 9: each of its 10 classes needs one"
    )


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("label", "said"), [(10, "from 0 to 10"), (-1, "from -1 to 9")])
def test_labels_out_of_range(tmp_path, rng, part, label, said):
    written = write_parquet(tmp_path, rng, {"train": 20, "test": 20})
    labels = written[part][1].copy()
    labels[np.flatnonzero(labels == 5)[0]] = label
    images = [encoded(each.transpose(1, 2, 0)) for each in written[part][0]]
    write_rows(tmp_path / f"{part}.parquet", images, labels)
    assert refusal(tmp_path) == f"cifar10 has labels {said}: they must be in 0 ... 9"


# ---- the fingerprint and the seal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("what", ["pixel", "label"])
def test_fingerprint_knows_every_number(tmp_path, rng, part, what):
    written = write_parquet(tmp_path, rng, {"train": 20, "test": 6})
    before = load(tmp_path).description
    pixels, labels = written[part]
    if what == "pixel":
        pixels[3, 1, 20, 20] ^= 64
    else:
        labels[[3, 4]] = labels[[4, 3]]
    write_rows(tmp_path / f"{part}.parquet", [encoded(each.transpose(1, 2, 0)) for each in pixels], labels)
    after = load(tmp_path).description
    assert after["fingerprint"] != before["fingerprint"]
    assert {**after, "fingerprint": ""} == {**before, "fingerprint": ""}


def test_fingerprint_knows_the_division():
    same = {"train": 100, "validation": 80}
    changes = [{}, {"train": 101}, {"validation": 81}, {"test": 100}, {"train": 10, "validation": 8, "per_class": True}]
    prints = {load(None, "digits", **(same | change)).description["fingerprint"] for change in changes}
    assert len(prints) == 5
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in prints)


def test_the_test_set_is_opened_once_a_run():
    splits = load(None, "digits")
    sealed = splits.seal()
    examples = sealed.open()
    assert len(examples.labels) == splits.description["test"]
    with pytest.raises(RuntimeError, match="the test set of this run was read before"):
        sealed.open()
    assert torch.equal(splits.seal().open().inputs, examples.inputs), "another run has a seal of its own"
    shown = [getattr(splits, name) for name in splits.__dataclass_fields__ if name != "seal"]
    assert not any(value is examples.inputs or value is examples for value in shown), "and there is no other way"


def test_splits_cannot_be_changed():
    splits = load(None, "digits")
    with pytest.raises(AttributeError):
        splits.train = splits.validation


# ---- damaged and missing files -------------------------------------------------------------------------------------------


def spoil_truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def spoil_garbage(path):
    path.write_bytes(b"no parquet file\n" * 100)


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_columns(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(parquet.read_table(path).rename_columns(["image", "class"]), path)


def spoil_images(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(0, "image", [[{"bytes": b"RIFF", "path": None}] * table.num_rows]), path)


def spoil_no_bytes(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(0, "image", [[{"bytes": None, "path": "a.png"}] * table.num_rows]), path)


def spoil_structure(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(0, "image", [[b"RIFF"] * table.num_rows]), path)


def spoil_label_types(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "label", [["cat"] * table.num_rows]), path)


def spoil_label_gap(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "label", [[None, *range(table.num_rows - 1)]]), path)


SPOILT = [spoil_truncate, spoil_garbage, spoil_empty, spoil_columns, spoil_images, spoil_no_bytes, spoil_structure]
SPOILT += [spoil_label_types, spoil_label_gap]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("spoil", SPOILT)
def test_damaged_parquet_is_one_clear_line(tmp_path, rng, spoil, part):
    write_parquet(tmp_path, rng, {"train": 20, "test": 7})
    spoil(tmp_path / f"{part}.parquet")
    with pytest.raises(UserError, match=rf"^cannot read CIFAR-10 in .* \(\w+: .*\); {LAYOUT}.*kriz") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_parquet_file_without_rows(tmp_path, rng):
    write_parquet(tmp_path, rng, {"train": 20, "test": 7})
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(parquet.read_table(tmp_path / "test.parquet").slice(0, 0), tmp_path / "test.parquet")
    assert refusal(tmp_path).startswith("cifar10 has an empty part")


BAD_BATCHES = {
    "truncated": lambda content: content[:-50],
    "empty": lambda content: b"",
    "garbage": lambda content: b"\x80\x02no pickle",
    "html": lambda content: b"<html>\n<body>404</body>\n</html>",
    "a list": lambda content: pickle.dumps([1, 2], protocol=4),
    "no labels": lambda content: pickle.dumps({b"data": [0] * 3072}, protocol=4),
    "bad width": lambda content: pickle.dumps({b"data": [0] * 3000, b"labels": [0]}, protocol=4),
    "real pixels": lambda content: pickle.dumps({b"data": [0.5] * 3072, b"labels": [0]}, protocol=4),
    "word labels": lambda content: pickle.dumps({b"data": np.zeros(3072, np.uint8), b"labels": [b"cat"]}, protocol=4),
    "real labels": lambda content: pickle.dumps({b"data": np.zeros(3072, np.uint8), b"labels": [1.5]}, protocol=4),
    "nested labels": lambda content: pickle.dumps({b"data": np.zeros(3072, np.uint8), b"labels": [[1]]}, protocol=4),
}


@pytest.mark.parametrize("spoil", BAD_BATCHES.values(), ids=BAD_BATCHES)
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_damaged_batches_are_one_clear_line(tmp_path, rng, spoil, name):
    folder, _ = write_batches(tmp_path, rng, 4)
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(UserError, match=rf"^cannot read CIFAR-10 in .* \(\w+: .*\); {LAYOUT}.*kriz") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_batch_is_named(tmp_path, rng):
    folder, _ = write_batches(tmp_path, rng, 4)
    (folder / "data_batch_4").unlink()
    assert "data_batch_4" in refusal(tmp_path)


@pytest.mark.parametrize("n", [3, 5])
def test_a_batch_must_have_as_many_labels_as_images(tmp_path, rng, n):
    folder, written = write_batches(tmp_path, rng, 4)
    pixels, _ = written["data_batch_1"]
    (folder / "data_batch_1").write_bytes(python2_pickle(pixels, labels=list(range(n))))
    assert "data_batch_1" in refusal(tmp_path, train=18, validation=1)


def test_long_reasons_are_cut(tmp_path, rng):
    folder, _ = write_batches(tmp_path, rng, 4)
    (folder / "test_batch").write_bytes(b"c" + b"x" * 5000 + b"\nf\n.")
    assert len(refusal(tmp_path)) < 700 + len(str(tmp_path))


@pytest.mark.parametrize("name", readers.IMAGE_SETS)
def test_missing_folders_say_what_is_expected(tmp_path, name):
    images = readers.IMAGE_SETS[name]
    absent, file = tmp_path / "absent", tmp_path / "file"
    file.write_text("a file")
    said = refusal(absent, name)
    assert said == f"{absent} is not there: expected {images.layout}"
    assert refusal(file, name) == f"{file} is a file: expected {images.layout}"
    for part in ("train.parquet and test.parquet (columns image, label)", "--data-dir", images.subfolder, images.home):
        assert part in said
    assert images.torchvision in said


UNKNOWN_TO_TORCHVISION = [name for name, images in readers.IMAGE_SETS.items() if not images.downloader]


@pytest.fixture
def no_torchvision(monkeypatch):
    monkeypatch.setattr(readers, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", readers.IMAGE_SETS)
def test_without_torchvision_nothing_is_downloaded(tmp_path, no_torchvision, name):
    images = readers.IMAGE_SETS[name]
    other = "" if name in UNKNOWN_TO_TORCHVISION else ", or torchvision, which downloads it"
    assert refusal(None, name) == f"{images.title} needs --data-dir{other}: {images.layout}"
    assert refusal(tmp_path, name) == f"no {images.title} in {tmp_path}: expected {images.layout}"


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
@pytest.mark.parametrize("subfolder", ["", "cifar10"])
def test_half_of_the_parquet_files_is_named(tmp_path, rng, torchvision, there, missing, subfolder):
    write_parquet(tmp_path / subfolder, rng, {there: 20})
    place = tmp_path / subfolder
    assert refusal(tmp_path).startswith(
        f"half of CIFAR-10 in {place}: {missing}.parquet is missing; expected train.par"
    )
    assert torchvision.calls == [], "nothing is downloaded beside it"
    write_batches(tmp_path, rng, 4)
    assert sizes(load(tmp_path)) == [10, 10, 4], "a whole set of the other layout serves"


@pytest.mark.parametrize("missing", ["pyarrow", "PIL"])
def test_image_files_without_the_extra(tmp_path, rng, monkeypatch, missing):
    write_parquet(tmp_path, rng, {"train": 20, "test": 7})
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert refusal(tmp_path) == 'image files need pyarrow and pillow: pip install "softdiamond[cli]"'


@pytest.mark.parametrize(
    ("name", "hint"), [("cifar", "cifar10"), ("CIFAR-100", "cifar100"), ("digit", "digits"), ("caltech", "caltech256")]
)
def test_unknown_names_have_a_hint(tmp_path, name, hint):
    said = refusal(None, name)
    assert said.startswith(
        f"no data set {name!r}: there are digits, cifar10, cifar100, caltech101-64, caltech256, and your"
    )
    assert said.endswith(f"; did you mean {hint}?")
    assert refusal(tmp_path, name) == said, "a folder beside it changes nothing"


@pytest.mark.parametrize("name", ["digits", "users:make"])
def test_data_that_need_no_folder_refuse_one(tmp_path, name):
    assert refusal(tmp_path, name) == f"{name} brings its own data: leave --data-dir out"


# ---- torchvision's download ------------------------------------------------------------------------------------------------


@pytest.fixture
def torchvision(monkeypatch, tmp_path, rng):
    """A stand-in whose CIFAR10 writes the files and notes its arguments; the cache lies in ``tmp_path / "cache"``."""
    calls = []

    def download(root, download=False):
        calls.append((root, download))
        write_batches(Path(root), rng, 4)

    module, datasets = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    module.__spec__ = ModuleSpec("torchvision", None)
    module.datasets = datasets
    datasets.CIFAR10, datasets.calls = download, calls
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    monkeypatch.setattr(readers.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return datasets


def test_torchvision_downloads_into_the_cache_once(torchvision, tmp_path):
    folder = tmp_path / "cache" / "softdiamond" / "data"
    assert sizes(load(None)) == [10, 10, 4]
    assert torchvision.calls == [(str(folder), True)]
    assert sizes(load(None)) == [10, 10, 4] and len(torchvision.calls) == 1, "what is there is not downloaded again"


def test_torchvision_downloads_into_the_folder_that_is_named(torchvision, tmp_path):
    (tmp_path / "mine").mkdir()
    assert sizes(load(tmp_path / "mine")) == [10, 10, 4]
    assert torchvision.calls == [(str(tmp_path / "mine"), True)]
    assert not (tmp_path / "cache").exists()


def test_torchvision_is_not_asked_where_files_are(torchvision, tmp_path, rng):
    write_parquet(tmp_path / "rows", rng, {"train": 20, "test": 7})
    assert sizes(load(tmp_path / "rows")) == [10, 10, 7]
    assert torchvision.calls == []


def test_torchvision_is_not_asked_for_a_folder_that_is_not_there(torchvision, tmp_path):
    assert "is not there" in refusal(tmp_path / "absent")
    assert torchvision.calls == [] and not (tmp_path / "absent").exists()


def test_a_set_that_torchvision_lacks_needs_a_folder(torchvision, tmp_path):
    said = refusal(None, "caltech101-64", per_class=True)
    assert said.startswith("Caltech-101 at 64 pixels needs --data-dir: train.parquet")
    assert refusal(tmp_path, "caltech101-64").startswith("no Caltech-101 at 64 pixels in")
    assert torchvision.calls == []


@pytest.mark.parametrize(
    "error", [OSError("no\nroute"), RuntimeError("HTTP Error 404"), ValueError("x" * 5000)], ids=repr
)
def test_a_download_that_fails_is_one_line(torchvision, error):
    def fail(root, download):
        raise error

    torchvision.CIFAR10 = fail
    said = refusal(None)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    assert said.startswith(
        f"torchvision cannot download CIFAR-10 ({reason}); get it from https://www.cs.toronto.edu/~kriz"
    )
    assert len(said) < 1000


def test_torchvision_that_is_broken_is_one_line(torchvision, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    del sys.modules["torchvision"].datasets
    assert refusal(None).startswith("torchvision cannot download CIFAR-10 (")


def test_a_download_that_leaves_no_files(torchvision):
    torchvision.CIFAR10 = lambda root, download: None
    assert refusal(None).startswith("no CIFAR-10 in ")


# ---- the user's own data ---------------------------------------------------------------------------------------------------

GOOD = """
import numpy as np
import torch

def pair(n, classes=3, kind=np.float32):
    x = (np.arange(n * 4).reshape(n, 2, 2) / 10).astype(kind)
    return x, np.arange(n) % classes

def three(n=12):
    return pair(n), pair(5), pair(4)
"""


@pytest.fixture
def users(tmp_path, monkeypatch, seed):
    """Write a module of the user's; return the name of its function ``make``, whose body is given."""
    name = f"users_data_{seed}"

    def write(body):
        (tmp_path / f"{name}.py").write_text(f"{GOOD}\ndef make():\n    {body}\n")
        return f"{name}:make"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop(name, None)


def test_users_data_are_taken_as_they_are(users):
    splits = load(None, users("return three()"), train=9, validation=4, test=3)
    train, validation, test = parts(splits)
    expected = torch.arange(36).view(9, 2, 2) / 10
    assert torch.equal(train.inputs, expected) and train.labels.tolist() == [0, 1, 2] * 3
    assert torch.equal(validation.inputs, expected[:4]) and torch.equal(test.inputs, expected[:3])
    assert splits.classes == 3 and splits.shape == (2, 2)
    described = {key: value for key, value in splits.description.items() if key not in ("fingerprint", "name")}
    assert described == {"train": 9, "validation": 4, "test": 3, "classes": 3}
    assert splits.description["name"].endswith(":make")


@pytest.mark.parametrize(
    "body",
    [
        "return [(torch.tensor(x), torch.tensor(y)) for x, y in three()]",
        "return [(x.astype(np.float64), y.astype(np.uint8)) for x, y in three()]",
        "return [(x.tolist(), y.tolist()) for x, y in three()]",
        "return ((x, y) for x, y in three())",
        "return [(torch.tensor(x).transpose(1, 2).contiguous().transpose(1, 2), y) for x, y in three()]",
        "return [(torch.tensor(x).requires_grad_(), y) for x, y in three()]",
    ],
    ids=["tensors", "other dtypes", "lists", "generator", "strided", "with a gradient"],
)
def test_users_data_may_have_any_dtype_and_container(users, body):
    splits = load(None, users(body))
    for part in parts(splits):
        assert part.inputs.dtype == torch.float32 and part.labels.dtype == torch.int64
        assert not part.inputs.requires_grad
    assert splits.train.inputs.flatten().tolist() == pytest.approx((np.arange(48) / 10).tolist())


def test_users_fingerprint_knows_every_number(users):
    body = "a, b, c = three(); {}; return a, b, c"
    changes = ["pass", "a[0][3, 1, 1] += 1", "b[0][0, 0, 1] += 1", "c[0][3, 1, 1] -= 1", "c[1][0] = 1", "b[1][1] = 2"]
    prints = set()
    for change in changes:
        prints.add(load(None, users(body.format(change))).description["fingerprint"])
        for name in [name for name in sys.modules if name.startswith("users_data_")]:
            path = Path(sys.modules.pop(name).__file__)
            for cached in (path.parent / "__pycache__").glob("*.pyc"):
                cached.unlink()
    assert len(prints) == len(changes)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "a, b, c = three(); a[0][3, 0, 0] = np.nan; return a, b, c",
            "has training inputs that are not finite: remove NaN",
        ),
        ("a, b, c = three(); b[0][3, 0, 0] = np.inf; return a, b, c", "has validation inputs that are not finite"),
        ("a, b, c = three(); c[0][3, 0, 0] = -np.inf; return a, b, c", "has test inputs that are not finite"),
        ("a, b, c = three(); b[1][0] = 3; return a, b, c", "has labels from 0 to 3: they must be in 0 ... 2"),
        ("a, b, c = three(); c[1][0] = 7; return a, b, c", "has labels from 0 to 7: they must be in 0 ... 2"),
        ("a, b, c = three(); a[1][0] = -1; return a, b, c", "has labels from -1 to 2: they must be in 0 ... 2"),
        ("a, b, c = three(); a[1][a[1] == 1] = 2; return a, b, c", "has no training example of class 1: each of its 3"),
        (
            "a, b, c = three(); return a, b",
            "must return three pairs (inputs, labels), to train, to validate and to test; it",
        ),
        ("a, b, c = three(); return a, b, c, c", "it returned 4"),
        ("return None", "must return three pairs (inputs, labels)"),
        ("return 3", "must return three pairs"),
        ("return [(1, 2, 3)] * 3", "must return three pairs"),
        ("a, b, c = three(); return a[0], b[0], c[0]", "must return three pairs"),
        ("a, b, c = three(); return a, b, ('words', c[1])", "must return three pairs"),
        ("a, b, c = three(); return a, b, (c[0], ['cat'] * 4)", "must return three pairs"),
        ("a, b, c = three(); return a, b, (c[0], c[1][:3])", "got inputs (4, 2, 2) with labels torch.int64 (3,)"),
        ("a, b, c = three(); return a, b, (c[0], c[1][:, None])", "with labels torch.int64 (4, 1)"),
        ("a, b, c = three(); return a, b, (c[0], c[1] * 1.0)", "with labels torch.float64 (4,)"),
        ("a, b, c = three(); return a, b, (c[0], c[1] > 0)", "with labels torch.bool (4,)"),
        ("a, b, c = three(); return a, b, (c[0][:, 0, 0], c[1])", "got inputs (4,) with labels"),
        ("a, b, c = three(); return (np.float32(1), a[1]), b, c", "got inputs () with labels torch.int64 (12,)"),
        ("a, b, c = three(); return (a[0][:0], a[1][:0]), b, c", "it has 0 where the card wants 12"),
        ("a, b, c = three(); return a, b, (c[0][:0], c[1][:0])", "it has 0 where the card wants some"),
        ("raise FileNotFoundError('no\\nthings.npy')", "and to test: FileNotFoundError: no things.npy"),
        ("raise StopIteration", "and to test: StopIteration: "),
    ],
)
def test_users_data_that_are_wrong(users, body, words):
    name = users(body)
    said = refusal(None, name)
    assert said.startswith(f"{name} ") and words in said


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [({"train": 13}, (12, 13)), ({"validation": 6}, (5, 6)), ({"test": 5}, (4, 5))],
    ids=["train", "validation", "test"],
)
def test_users_data_must_be_as_many_as_the_card_wants(users, changes, numbers):
    name = users("return three()")
    wanted = {"train": 12, "validation": 5, "test": 4}
    assert sizes(load(None, name, **wanted)) == [12, 5, 4]
    has, wants = numbers
    assert refusal(None, name, **(wanted | changes)) == (
        f"{name} must return three pairs (inputs, labels), to train, to validate and to test: "
        f"it has {has} where the card wants {wants}"
    )


def test_users_data_are_not_divided_by_class(users):
    name = users("raise AssertionError('it is not called')")
    said = refusal(None, name, train=4, validation=1, per_class=True)
    assert said == f"data.per_class is true: {name} divides its examples itself"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "no_such_module_at_all:make",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_at_all'",
        ),
        ("softdiamond:no_such_function", "cannot be imported: AttributeError: module 'softdiamond' has no attribute"),
        ("softdiamond:", "cannot be imported: AttributeError: "),
        (":make", "cannot be imported: ValueError: "),
        ("softdiamond:__version__", "is str, not a function"),
    ],
)
def test_users_functions_that_are_not_there(name, words):
    said = refusal(None, name)
    assert said.startswith(f"data set {name!r} ") and words in said


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("users_bad_module", "def make(:\n", "SyntaxError: "),
        ("users_bad_module", "1 / 0\n", "ZeroDivisionError: division by zero"),
        (".users_bad_module", "", "TypeError: "),
    ],
    ids=["syntax", "raises", "relative"],
)
def test_users_modules_that_cannot_be_imported(tmp_path, monkeypatch, name, content, error):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_bad_module.py").write_text(content)
    said = refusal(None, f"{name}:make")
    assert said.startswith(f"data set '{name}:make' cannot be imported: {error}")


def test_users_modules_are_found_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_local_module.py").write_text(f"{GOOD}\nmake = three\n")
    try:
        assert sizes(load(None, "users_local_module:make")) == [12, 5, 4]
    finally:
        sys.modules.pop("users_local_module", None)


# ---- augmentation ----------------------------------------------------------------------------------------------------------


def naive_crop_and_flip(images, generator):
    """One image after the other, with the draws that the function makes: rows, columns, mirrors."""
    n, _, height, width = images.shape
    shift = torch.randint(0, 9, (2, n, 1), generator=generator)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator, dtype=torch.bool)
    result = []
    for index, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        top, left = int(shift[0, index]), int(shift[1, index])
        cut = padded[:, top : top + height, left : left + width]
        result.append(cut[:, :, ::-1] if mirrored[index] else cut)
    return torch.tensor(np.stack(result)), shift, mirrored


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (7, 1, 8, 8), (5, 2, 9, 14), (1, 3, 5, 4), (300, 1, 1, 1)])
def test_crop_and_flip_equals_its_naive_twin(seed, shape):
    images = torch.randn(shape)
    before = images.clone()
    seen = data.crop_and_flip(images, torch.Generator().manual_seed(seed))
    expected, _, _ = naive_crop_and_flip(images, torch.Generator().manual_seed(seed))
    assert torch.equal(seen, expected) and torch.equal(images, before)


def test_crop_and_flip_draws_every_place(seed):
    """All 81 x 2 places come, about equally often; rows and columns are drawn apart."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.arange(1.0, 82.0).view(1, 1, 9, 9)
    seen = data.crop_and_flip(image.expand(16200, 1, 9, 9), generator)
    _, counts = seen.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 162 and int(counts.min()) > 50 and int(counts.max()) < 150


def test_crop_and_flip_lets_zeros_in_and_no_other_image(seed):
    """Image k holds k + 1 alone; a shift by r rows and c columns lets 32 r + 32 c - r c zeros in."""
    images = torch.arange(1.0, 51.0).view(50, 1, 1, 1).expand(50, 3, 32, 32)
    seen = data.crop_and_flip(images, torch.Generator().manual_seed(seed))
    _, shift, _ = naive_crop_and_flip(images, torch.Generator().manual_seed(seed))
    for index, image in enumerate(seen):
        rows, columns = (abs(int(shift[axis, index]) - 4) for axis in (0, 1))
        assert set(image.unique().tolist()) <= {0.0, index + 1.0}
        assert int((image[0] == 0).sum()) == 32 * rows + 32 * columns - rows * columns
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]), "all channels alike"


def test_crop_and_flip_repeats_and_leaves_global_randomness_alone(seed):
    images = torch.randn(20, 3, 8, 8)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(seed)
    first, second = data.crop_and_flip(images, generator), data.crop_and_flip(images, generator)
    assert torch.equal(first, data.crop_and_flip(images, torch.Generator().manual_seed(seed)))
    assert not torch.equal(first, second), "each batch is another"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_crop_and_flip_is_the_same_on_a_gpu(seed):
    images = torch.randn(20, 3, 32, 32)
    one, two = (data.crop_and_flip(images.to(d), torch.Generator().manual_seed(seed)) for d in ("cpu", "cuda"))
    assert two.is_cuda and torch.equal(one, two.cpu())


@pytest.mark.gpu
def test_data_are_moved_to_the_device():
    splits = data.load(settings("digits"), None, "cuda")
    assert all(part.inputs.is_cuda and part.labels.is_cuda for part in parts(splits))
    assert splits.description == load(None, "digits").description


# ---- the real files --------------------------------------------------------------------------------------------------------


@real
def test_real_cifar10():
    labels = [source.labels for source in readers.find("cifar10", REAL)]
    assert [np.bincount(each).tolist() for each in labels] == [[5000] * 10, [1000] * 10]
    splits = load(REAL, train=2000, validation=1000)
    assert sizes(splits) == [2000, 1000, 10000] and splits.shape == (3, 32, 32) and splits.classes == 10
    assert np.bincount(splits.seal().open().labels).tolist() == [1000] * 10
    assert float(splits.seal().open().inputs.mean().abs()) < 0.1, "test images are like training images"
    assert load(REAL, train=2000, validation=1000).description == splits.description


@real
def test_real_caltech101():
    labels = [source.labels for source in readers.find("caltech101-64", REAL)]
    assert np.bincount(labels[0]).tolist() == [30] * 101 and len(labels[1]) == 5647
    splits = load(REAL, "caltech101-64", train=5, validation=2, per_class=True, test=300)
    assert sizes(splits) == [505, 202, 300] and splits.shape == (3, 64, 64) and splits.classes == 101
    assert np.bincount(splits.train.labels).tolist() == [5] * 101
    assert np.bincount(splits.validation.labels).tolist() == [2] * 101
    again = load(REAL, "caltech101-64", train=5, validation=2, per_class=True, test=300)
    assert again.description == splits.description
