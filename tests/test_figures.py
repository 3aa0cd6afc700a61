"""Figures: the files, and what the pictures of a comparison show."""

import builtins

import numpy as np
import pytest
from test_plotting import check_files
from test_report import METHODS, card_of, comparison

from softdiamond import plotting
from softdiamond.experiments import figures, plan, summary

# ---- a comparison ----------------------------------------------------------------------------------------------------

ALL = ["accuracy", "removal", "front", "tuning", "learning", "weights", "sets"]


def made(card=None, **options):
    """A made-up comparison, summed up, and its records."""
    records = comparison(card := card or card_of(), **options)
    return summary.summarize(card, records), records


def panels(summed, records, name):
    """Axes of one picture, drawn."""
    with plotting.drawing(figures.RECORDS_STYLE) as new_figure:
        (picture,) = (each for each in figures._pictures(summed, records) if each.name == name)
        return [panel.on(new_figure().subplots()) for panel in picture.panels]


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def test_comparison_writes_the_same_bytes_again_and_leaves_settings_alone(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    summed, records = made(card_of(treatments=("plain",)))
    paths = figures.comparison(summed, records, tmp_path / "first")
    check_files(paths, tmp_path / "first", ALL)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        again = figures.comparison(summed, records, tmp_path / "second")
        assert dict(matplotlib.rcParams) == before
    for path, twin in zip(paths, again, strict=True):
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_the_pictures_show_what_the_records_say():
    pytest.importorskip("matplotlib")
    card = card_of(treatments=("plain",))
    summed, records = made(card)
    labels = [method.label for method in card.methods]

    (accuracy,) = panels(summed, records, "accuracy")
    rows = {row.method: 100 * np.mean(row.column("test")) for row in summed.at("plain", "once", 0.0)}
    shown = [tick.get_text().split("\n") for tick in accuracy.get_yticklabels()]
    assert [name for name, _ in shown] == labels
    np.testing.assert_allclose([float(text.split(" ± ")[0]) for _, text in shown], list(rows.values()), atol=0.051)

    (removal,) = panels(summed, records, "removal")
    for label, curve in lines(removal).items():
        np.testing.assert_allclose(curve[:, 0], [1.0, 0.5, 0.1])
        np.testing.assert_allclose(curve[:, 1], rows[label] - np.array([0, 25, 45]), atol=1e-9)

    assert removal.get_xlim() == pytest.approx((1.08, 0.092))
    assert [tick.get_text() for tick in removal.get_xticklabels()] == ["0", "50", "80", "90"]

    once, fine_tuned, gradual, best = panels(summed, records, "front")
    assert [len(lines(axes)["L1"]) for axes in (once, fine_tuned, gradual)] == [3, 2, 1]
    assert list(lines(best)) == ["soft diamonds", "all others"]
    at_half = [row for row in summed.rows if row.objective.share == 0.5 and row.penalty != "soft diamond"]
    highest = max(at_half, key=lambda row: np.mean(row.column("validation")))
    np.testing.assert_allclose(lines(best)["all others"][1], [0.5, 100 * np.mean(highest.column("test"))])

    kept, pruned = panels(summed, records, "tuning")
    assert (kept.get_title(loc="left"), pruned.get_title(loc="left")) == ("all weights kept", "90 % removed gradually")
    for axes in (kept, pruned):
        stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]
        assert stars == [0.01, 0.01], "of L1 and of the soft diamond; none has no strength"
        assert len(lines(axes)["L1"]) == 3
    tried = [
        r for r in records if r["run"]["phase"] == "tune" and (r["run"]["method"], r["run"]["kind"]) == ("L1", "plain")
    ]
    middle = 100 * np.mean([r["validation_accuracy"] for r in tried if r["run"]["strength"] == 0.01])
    np.testing.assert_allclose(lines(kept)["L1"][1], [0.01, middle])

    (learning,) = panels(summed, records, "learning")
    np.testing.assert_allclose(lines(learning)["none"], [[1, 2.0], [2, 0.5], [3, 0.1], [4, 0.05]])

    *others, soft = panels(summed, records, "weights")
    assert all("no stable law fits" in axes.texts[0].get_text() for axes in others)
    assert "α = 1.50, scale = 0.05\nexactly 0: " in soft.texts[0].get_text()
    log_w, density = soft.lines[0].get_data()
    np.testing.assert_allclose(np.trapezoid(density, log_w), 1.0, atol=0.01, err_msg="a density of log10 |w|")
    bars = soft.patches[0].get_data()
    zero = records[-1]["weights"]["zero"] / records[-1]["weights"]["count"]
    np.testing.assert_allclose(np.sum(bars.values * np.diff(bars.edges)), 1.0 - zero, atol=0.01)

    assert [axes.get_title(loc="left") for axes in panels(summed, records, "sets")] == [
        "L1",
        "soft diamond, α = 0.5\nscale = 1 rms",
    ]


def test_a_picture_has_a_panel_for_each_treatment():
    pytest.importorskip("matplotlib")
    summed, records = made()
    titles = {name: [axes.get_title(loc="left") for axes in panels(summed, records, name)] for name in ALL}
    assert titles["accuracy"] == titles["removal"] == titles["learning"] == ["plain", "dropout"]
    assert titles["front"][:4] == [f"plain: {each}" for each in ("once", "fine-tuned", "gradual", "best in tuning")]
    assert len(titles["front"]) == 8 and len(titles["tuning"]) == 4 and len(titles["weights"]) == 3


def test_a_diverged_trial_is_a_cross_at_the_foot():
    pytest.importorskip("matplotlib")
    summed, records = made(card_of(front=False, treatments=("plain",)), lost=lambda run: run.strength == 0.1)
    (axes,) = panels(summed, records, "tuning")
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"] == [[0.1], [0.1]]
    assert len(lines(axes)["L1"]) == 2


DOUBLES = [
    *METHODS[1:],
    {"penalty": "soft diamond", "alpha": 0.5, "relative_scale": 3.0},
    {"penalty": "L1", "mode": "loss"},
]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"front": False}, [name for name in ALL if name != "front"]),
        ({"seeds": 1}, ALL),
        ({"methods": DOUBLES}, ALL),
        ({"methods": [{"penalty": "L1"}, {"penalty": "none", "name": "_$x_"}]}, ALL),
        ({"methods": [{"penalty": "none", "name": "L1"}]}, [name for name in ALL if name != "sets"]),
    ],
    ids=["no front", "one seed", "twice the same penalty", "odd names", "no penalty"],
)
def test_comparison_draws_what_there_is(options, names, tmp_path):
    pytest.importorskip("matplotlib")
    summed, records = made(card_of(treatments=("plain",), **options))
    assert [picture.name for picture in figures.inline(summed, records)] == names
    with plotting.drawing():
        looks = figures._looks(summed.card.methods).values()
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in looks}) == len(looks)
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == len(looks), "told apart without markers"


def test_a_histogram_is_drawn_over_the_edges_that_its_records_state():
    class Axes:  # keeps what it is asked to draw
        def __getattr__(self, name):
            return lambda *arguments, **_: drawn.setdefault(name, arguments)

    for edges in (None, [-4.0, -2.0, 0.0]):
        drawn = {}
        weights = {"count": 10, "zero": 1, "law": None, "log10": [4] * (len(edges or plan.HISTOGRAM_EDGES) - 1)}
        figures._draw_weights([{"weights": weights | ({"edges": edges} if edges else {})}], "red", Axes())
        np.testing.assert_array_equal(drawn["stairs"][1], edges or plan.HISTOGRAM_EDGES)


# ---- the optional dependency ----------------------------------------------------------------------------------------


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    genuine, summed = builtins.__import__, made()

    def blocked(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    for draw in (lambda: plotting.laws(tmp_path), lambda: figures.comparison(*summed, tmp_path)):
        with pytest.raises(ImportError, match=r'^figures need matplotlib: pip install "softdiamond\[plot\]"$'):
            draw()
