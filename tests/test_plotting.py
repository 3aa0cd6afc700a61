"""Plotting: the level curves against their equation, the pictures of the laws against closed forms, and the files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from softdiamond import plotting, stable
from softdiamond.plotting._constraint_sets import FALLING_ALPHA, FALLING_DISPERSION
from softdiamond.plotting._laws import draw_laws

SETS = [*FALLING_ALPHA, *FALLING_DISPERSION]


def penalty_of(alpha, dispersion):
    scale = dispersion ** (1.0 / alpha)
    return lambda w: stable.logpdf(0.0, alpha, scale=scale) - stable.logpdf(w, alpha, scale=scale)


# ---- constraint sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "dispersion"), SETS)
def test_the_curve_lies_on_its_level(alpha, dispersion):
    penalty = penalty_of(alpha, dispersion)
    curve = plotting.constraint_curve(penalty)
    level = penalty(np.ones(1))[0]
    np.testing.assert_allclose(penalty(curve[:, 0]) + penalty(curve[:, 1]), level, rtol=0, atol=1e-6 * level)
    for corner in [(1, 0), (0, 1), (-1, 0), (0, -1)]:
        assert np.abs(curve - corner).sum(axis=1).min() < 1e-12, corner
    np.testing.assert_array_equal(curve[0], curve[-1])
    turned = np.diff(np.unwrap(np.arctan2(curve[:, 1], curve[:, 0])))
    assert turned.min() > 0 and abs(turned.sum() - 2 * np.pi) < 1e-9, "one turn, counter-clockwise"


def test_circle_and_diamond():
    for penalty in (np.square, penalty_of(2.0, 0.5), penalty_of(2.0, 30.0)):
        np.testing.assert_allclose(np.hypot(*plotting.constraint_curve(penalty).T), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.abs(plotting.constraint_curve(np.abs)).sum(axis=1), 1.0, rtol=1e-12)


def test_cauchy_curve_has_its_closed_form():
    """(1 + u^2/c^2) (1 + v^2/c^2) = 1 + 1/c^2."""
    c2 = 0.3**2
    u, v = plotting.constraint_curve(penalty_of(1.0, 0.3)).T
    np.testing.assert_allclose((1 + u**2 / c2) * (1 + v**2 / c2), 1 + 1 / c2, rtol=1e-11)


@pytest.mark.parametrize("row", [FALLING_ALPHA, FALLING_DISPERSION])
def test_sets_shrink_from_circle_to_star(row):
    areas = []
    for alpha, dispersion in row:
        u, v = plotting.constraint_curve(penalty_of(alpha, dispersion)).T
        areas.append(0.5 * np.sum(u[:-1] * v[1:] - u[1:] * v[:-1]))
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 3.0 and areas[-1] < 1.0, areas  # the circle has pi, the diamond 2


# ---- files -----------------------------------------------------------------------------------------------------------


def check_files(paths: list[Path], out: Path, names: list[str]) -> None:
    from matplotlib.image import imread

    assert paths == [out / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for path in paths:
        if path.suffix == ".png":
            pixels = imread(path)
            assert min(pixels.shape[:2]) > 500 and pixels[..., :3].std() > 0.05, path
            np.testing.assert_array_equal(pixels[0, 0, :3], 1.0, err_msg="light background")
        else:
            text = path.read_text(encoding="utf-8")
            assert text.rstrip().endswith("</svg>") and "<dc:date>" not in text, path


def test_laws_writes_two_figures_and_loads_neither_pyplot_nor_torch(tmp_path):
    """In a process of its own, where the import alone loads no matplotlib either."""
    code = """
import sys, pathlib
import softdiamond.plotting
assert not {"matplotlib", "torch", "pydantic", "softdiamond.experiments"} & set(sys.modules)
print(*softdiamond.plotting.laws(pathlib.Path(sys.argv[1])), sep="\\n")
assert not {"matplotlib.pyplot", "torch", "pydantic", "softdiamond.experiments"} & set(sys.modules)
"""
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "folder"
    done = subprocess.run([sys.executable, "-c", code, str(out)], check=True, capture_output=True, text=True)
    check_files([Path(line) for line in done.stdout.splitlines()], out, ["laws", "constraint_sets"])


def test_laws_draws_the_closed_forms():
    pytest.importorskip("matplotlib")
    with plotting.drawing() as new_figure:
        panels = draw_laws(new_figure).axes
    cauchy = (lambda x: 1 / (np.pi * (1 + x**2)), lambda x: np.log1p(x**2), lambda x: -2 * x / (1 + x**2))
    gauss = (lambda x: np.exp(-(x**2) / 4) / np.sqrt(4 * np.pi), lambda x: x**2 / 4, lambda x: -x / 2)
    for name, (density, penalty, score) in (("Cauchy", cauchy), ("Gaussian", gauss)):
        for panel, law in zip(panels, (density, penalty, score, lambda x, score=score: -score(x) / x), strict=True):
            (line,) = [line for line in panel.lines if name in line.get_label()]
            x, y = line.get_data()
            np.testing.assert_allclose(y, law(x), rtol=1e-9, atol=1e-14, err_msg=f"{name}: {panel.get_title()}")
