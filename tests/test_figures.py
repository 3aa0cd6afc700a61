"""Figures: the level curves against their equation, the files, and what the records may and may not be."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softdiamond import figures, stable

SETS = [*figures.FALLING_ALPHA, *figures.FALLING_DISPERSION]


def penalty_of(alpha, dispersion):
    scale = dispersion ** (1.0 / alpha)
    return lambda w: stable.logpdf(0.0, alpha, scale=scale) - stable.logpdf(w, alpha, scale=scale)


# ---- constraint sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "dispersion"), SETS)
def test_the_curve_lies_on_its_level(alpha, dispersion):
    penalty = penalty_of(alpha, dispersion)
    curve = figures.constraint_curve(penalty)
    level = penalty(np.ones(1))[0]
    np.testing.assert_allclose(penalty(curve[:, 0]) + penalty(curve[:, 1]), level, rtol=0, atol=1e-6 * level)
    for corner in [(1, 0), (0, 1), (-1, 0), (0, -1)]:
        assert np.abs(curve - corner).sum(axis=1).min() < 1e-12, corner
    np.testing.assert_array_equal(curve[0], curve[-1])
    turned = np.diff(np.unwrap(np.arctan2(curve[:, 1], curve[:, 0])))
    assert turned.min() > 0 and abs(turned.sum() - 2 * np.pi) < 1e-9, "one turn, counter-clockwise"


def test_circle_and_diamond():
    for penalty in (np.square, penalty_of(2.0, 0.5), penalty_of(2.0, 30.0)):
        np.testing.assert_allclose(np.hypot(*figures.constraint_curve(penalty).T), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.abs(figures.constraint_curve(np.abs)).sum(axis=1), 1.0, rtol=1e-12)


def test_cauchy_curve_has_its_closed_form():
    """(1 + u^2/c^2) (1 + v^2/c^2) = 1 + 1/c^2."""
    c2 = 0.3**2
    u, v = figures.constraint_curve(penalty_of(1.0, 0.3)).T
    np.testing.assert_allclose((1 + u**2 / c2) * (1 + v**2 / c2), 1 + 1 / c2, rtol=1e-11)


@pytest.mark.parametrize("row", [figures.FALLING_ALPHA, figures.FALLING_DISPERSION])
def test_sets_shrink_from_circle_to_star(row):
    areas = []
    for alpha, dispersion in row:
        u, v = figures.constraint_curve(penalty_of(alpha, dispersion)).T
        areas.append(0.5 * np.sum(u[:-1] * v[1:] - u[1:] * v[:-1]))
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 3.0 and areas[-1] < 1.0, areas  # the circle has pi, the diamond 2


# ---- records and files ----------------------------------------------------------------------------------------------


def record(method: str = "L2", alpha: float | None = None, **changes: Any) -> dict[str, Any]:
    run = {"comparison": "digits", "method": method, "alpha": alpha, "strength": 1e-3, "seed": 0, "phase": "final"}
    run |= {"status": "finished", "validation_accuracy": 0.95, "test_accuracy": 0.94}
    run |= {"share_below_1e-3": 0.5, "prunable_share": 0.8}
    run["pruning_curve"] = {"removed": [0.0, 0.9, 0.99], "validation": [0.95, 0.8, 0.3], "test": [0.94, 0.78, 0.31]}
    return run | changes


def tuned(strength: float, **changes: Any) -> dict[str, Any]:
    return record(phase="tune", strength=strength, test_accuracy=None, pruning_curve=None, **changes)


def full() -> list[dict[str, Any]]:
    records = [record("none", strength=None, seed=seed, test_accuracy=0.9 + 0.01 * seed) for seed in range(3)]
    for method, alpha in [("L2", None), ("L1", None), ("soft_diamond", 0.5), ("soft_diamond", 1.5)]:
        own: dict[str, Any] = {"method": method, "alpha": alpha}
        records += [tuned(s, validation_accuracy=0.95 - 10 * s, **own) for s in (1e-4, 1e-3, 1e-2)]
        records += [record(seed=seed, test_accuracy=0.93 + 0.01 * seed, **own) for seed in range(3)]
    lost = {"status": "diverged", "validation_accuracy": None, "test_accuracy": None, "pruning_curve": None}
    return [*records, record("L1", **(lost | {"strength": 1.0, "phase": "tune"}))]


def check_files(paths: list[Path], out: Path, names: list[str]) -> None:
    from matplotlib.image import imread

    assert paths == [out / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for path in paths:
        if path.suffix == ".png":
            pixels = imread(path)
            assert min(pixels.shape[:2]) > 600 and pixels[..., :3].std() > 0.05, path
            np.testing.assert_array_equal(pixels[0, 0, :3], 1.0, err_msg="light background")
        else:
            text = path.read_text(encoding="utf-8")
            assert text.rstrip().endswith("</svg>") and "<dc:date>" not in text, path


def drawn(records: list[dict[str, Any]]) -> Any:
    with figures._drawing() as new_figure:
        return figures._draw_comparison(new_figure, *figures._sort_out(records))


def test_laws_writes_two_figures(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "folder"
    check_files(figures.laws(out), out, ["laws", "constraint_sets"])


def test_laws_draws_the_closed_forms():
    pytest.importorskip("matplotlib")
    with figures._drawing() as new_figure:
        panels = figures._draw_laws(new_figure).axes
    cauchy = (lambda x: 1 / (np.pi * (1 + x**2)), lambda x: np.log1p(x**2), lambda x: -2 * x / (1 + x**2))
    gauss = (lambda x: np.exp(-(x**2) / 4) / np.sqrt(4 * np.pi), lambda x: x**2 / 4, lambda x: -x / 2)
    for name, (density, penalty, score) in (("Cauchy", cauchy), ("Gaussian", gauss)):
        for panel, law in zip(panels, (density, penalty, score, lambda x, score=score: -score(x) / x), strict=True):
            (line,) = [line for line in panel.lines if name in line.get_label()]
            x, y = line.get_data()
            np.testing.assert_allclose(y, law(x), rtol=1e-9, atol=1e-14, err_msg=f"{name}: {panel.get_title()}")


def test_comparison_writes_the_same_bytes_again_and_leaves_settings_alone(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    paths = figures.comparison(full(), tmp_path / "first")
    check_files(paths, tmp_path / "first", ["comparison"])
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        again = figures.comparison(full(), tmp_path / "second")
        assert dict(matplotlib.rcParams) == before
    for path, twin in zip(paths, again, strict=True):
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_comparison_shows_what_the_records_say():
    pytest.importorskip("matplotlib")
    figure = drawn(full())
    by_share, by_method, by_strength = figure.axes
    names = ["none", "L2", "L1", r"soft diamond, $\alpha$ = 0.5", r"soft diamond, $\alpha$ = 1.5"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*names, "chosen strength"]
    rows = [tick.get_text().split("\n") for tick in by_method.get_yticklabels()]
    assert rows == [[name, "91.00 ± 1.00" if name == "none" else "94.00 ± 1.00"] for name in names]
    np.testing.assert_allclose(by_share.lines[0].get_xydata(), [[0.01, 31], [0.1, 78], [1, 94]], rtol=1e-12)
    stars = [line for line in by_strength.lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [list(star.get_xdata()) for star in stars] == [[1e-3]] * 4
    np.testing.assert_allclose([star.get_ydata()[0] for star in stars], 94.0)
    assert "final runs: 15; seeds: 3; diverged and left out: 1." in figure.get_supxlabel()


@pytest.mark.parametrize(
    "records",
    [
        [record()],
        [record("none", strength=None)],
        [record("none", strength=0.0, pruning_curve=None)],
        [record(), *(tuned(s, method="L1") for s in (1e-3, 1e-2))],
        [record("SoftDiamond 0.5", 0.5), record("group", 0.5), record("StudentT"), record("dropout", strength=None)],
        [record(pruning_curve={"removed": [0.0, 0.9995, 1.0], "validation": [1, 1, 0], "test": [0.9, 0.5, 0.1]})],
    ],
    ids=["one run", "no strength", "no curve", "L1 still tuning", "other methods", "all removed"],
)
def test_comparison_draws_what_there_is(records, tmp_path):
    pytest.importorskip("matplotlib")
    check_files(figures.comparison(records, tmp_path), tmp_path, ["comparison"])
    labels = [text.get_text() for text in drawn(records).legends[0].get_texts()]
    assert len(set(labels)) == len({run["method"] for run in records}) + 1, labels


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "0 records .* no finished final run"),
        ([tuned(1e-3), tuned(1e-2)], "2 records .* no finished final run"),
        ([record(status="diverged"), tuned(1e-3)], r"2 records \(1 diverged\) hold no finished final run"),
        ([record(), record(comparison="cifar10-small")], r"several comparisons \(cifar10-small, digits\)"),
        ([record(), {"method": "L2"}], "record 1 lacks comparison, alpha, strength"),
        ([record(test_accuracy=None)], "test_accuracy of a final run of L2 is None"),
        ([record(test_accuracy=94.0)], r"test_accuracy of a final run of L2 is 94.0: must be in \[0, 1\]"),
        ([record(), tuned(1e-3, validation_accuracy=float("nan"))], "validation_accuracy of a tune run of L2 is nan"),
    ],
)
def test_bad_records_are_a_value_error(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        figures.comparison(records, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the optional dependency ----------------------------------------------------------------------------------------


def test_import_loads_neither_matplotlib_nor_torch_and_drawing_no_pyplot(tmp_path):
    code = """
import sys, pathlib
import softdiamond.figures
assert not {"matplotlib", "torch"} & set(sys.modules)
softdiamond.figures.laws(pathlib.Path(sys.argv[1]))
assert not {"matplotlib.pyplot", "torch"} & set(sys.modules)
"""
    pytest.importorskip("matplotlib")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    genuine = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    for draw in (lambda: figures.laws(tmp_path), lambda: figures.comparison([record()], tmp_path)):
        with pytest.raises(ImportError, match=r'^figures need matplotlib: pip install "softdiamond\[plot\]"$'):
            draw()
