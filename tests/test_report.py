"""The page: its words, its safety, its bytes; and the page in a browser. `comparison` fakes records without training."""

import builtins
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest

from softdiamond import _html
from softdiamond.experiments import page as report
from softdiamond.experiments import plan, summary
from softdiamond.experiments.card import Card

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALONE = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
ALONE += ["--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run"]
VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
METHODS = ({"penalty": "none"}, {"penalty": "L1"}, {"penalty": "soft diamond", "alpha": 0.5})


# ---- a comparison without training ------------------------------------------------------------------------------------


def card_of(methods=METHODS, treatments=("plain", "dropout"), front=True, seeds=3, **changes) -> Card:
    """A card; `front` adds two shares and the gradual way."""
    plain = {
        "name": "made-up",
        "title": "A made-up comparison",
        "data": {"name": "digits", "train": 500, "validation": 400},
        "model": {"name": "mlp"},
        "training": {"optimizer": "SGD", "rate": 0.1, "epochs": 4, "batch": 50},
        "methods": list(methods),
        "treatments": [{"name": name} for name in treatments],
        "tuning": {"strengths": [0.001, 0.01, 0.1], "seeds": [100, 101], "widen": 0},
        "final": {"seeds": list(range(seeds)), "baseline": "L1"},
        "sparsity": {"curve": [0.0, 0.5, 0.9]},
        "removal": {"shares": [0.0, 0.5, 0.9], "ways": ["once", "fine-tuned", "gradual"], "gradual_tuned_at": [0.9]},
    }
    if not front:
        plain.pop("removal")
    return Card.model_validate_json(json.dumps(plain | changes))


def record_of(card: Card, run: plan.Run, gain: float, noise: float) -> dict:
    """A finished record: accuracy depends on the strength (best at 0.01), the share, the seed; `gain` is soft diamonds'."""
    soft = run.method.startswith("soft")
    strength = -0.01 * abs(np.log10(run.strength / 0.01)) if run.strength else 0.0
    jitter = noise * np.sin(37.0 * run.seed + 11.0 * len(run.method) + 5.0 * run.share)
    base = 0.8 + strength + jitter + gain * soft

    def row(way, division, share):
        accuracy = base - 0.3 * share
        return {"way": way, "division": division, "share": share, "removed": share} | dict.fromkeys(TESTED, accuracy)

    ways = [way for way in card.removal.ways if way != "gradual"]
    removal = [row("gradual", run.division, run.share)] if run.kind == "gradual" else []
    if run.kind == "plain":
        places = product(ways, card.removal.divisions, card.removal.shares)
        removal = [row(*place) for place in places if place[0] == "once" or place[2] > 0]
    curve = list(card.sparsity.curve)
    final = run.phase == "final"
    curves = {"removed": curve, "validation": curve, "test": [base - 0.5 * share for share in curve]}
    counts = np.round(1e4 * np.exp(-((np.arange(50) - 34) ** 2) / 20)).astype(int).tolist()
    law = {"alpha": 1.5, "scale": 0.05} if soft else None
    return {
        "comparison": card.name,
        "card": card.digest,
        "run": vars(run).copy(),
        "status": "finished",
        "losses": [2.0, 0.5, 0.1, 0.05],
        "train_accuracy": 1.0,
        "validation_accuracy": base,
        "test_accuracy": base if final else None,
        "sparsity": dict.fromkeys((*report.SHARES, *report.INDICES), 0.25),
        "removal": removal,
        "curves": {"global": curves, "layerwise": curves} if final and run.kind == "plain" else None,
        "prunable": {"global": 0.5 + gain + noise * run.seed, "layerwise": 0.4}
        if final and run.kind == "plain"
        else None,
        "weights": {"count": sum(counts) + 10, "zero": 10, "log10": counts, "law": law} if final else None,
        "data": {
            "name": "digits",
            "train": 500,
            "validation": 400,
            "test": 797,
            "classes": 10,
            "fingerprint": "0a1b2c3d",
        },
        "environment": {"python": "3.12.0", "torch": "2.9.0", "device": "cpu x86_64", "threads": 1},
        "timing": {"seconds": {"train": 1.0, "total": 2.0, "processor": 1.5 if soft else 1.0}},
    }


TESTED = ("validation", "test")


def comparison(card: Card, gain: float = 0.0, noise: float = 0.01, lost=()) -> list[dict]:
    """All records that a card asks for; runs of which `lost` is true diverge."""
    known: dict[plan.Run, dict] = {}
    while pending := plan.pending(card, known):
        for run in pending:
            known[run] = record_of(card, run, gain, noise)
            if lost and lost(run):
                empty = (
                    "train_accuracy",
                    "validation_accuracy",
                    "test_accuracy",
                    "sparsity",
                    "curves",
                    "prunable",
                    "weights",
                )
                known[run] |= dict.fromkeys(empty) | {"status": "diverged", "removal": [], "losses": [2.0]}
    return list(known.values())


def page_of(card: Card, records: list[dict]) -> str:
    return report.page(summary.summarize(card, records), records)


@pytest.fixture(scope="module")
def plain():
    """Card, records and page of three methods that do not differ, two treatments and a front."""
    pytest.importorskip("matplotlib")
    card = card_of()
    records = comparison(card)
    return card, records, page_of(card, records)


class Reader(HTMLParser):
    """Collects elements, texts and ids; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def words(text: str) -> str:
    """All that a reader of the page sees, spaces made one."""
    return " ".join("".join(Reader(text).text).split())


# ---- what the page says -----------------------------------------------------------------------------------------------


def test_the_page_opens_with_the_answer_and_says_what_it_must(plain):
    card, records, text = plain
    shown = words(text)
    answer = summary.summarize(card, records).answer
    assert len(answer) > 3
    for sentence in answer:
        assert sentence in shown
    assert shown.index(answer[0]) < shown.index("Accuracy with all weights kept")
    for part in (
        "Holm's p",
        "bootstrap interval",
        "relative, %",
        "trials",
        "training time",
        "Gini",
        "Hoyer",
        "participation",
    ):
        assert part in shown, part
    for part in (
        "What this comparison does not show",
        "Every run",
        "softdiamond report DIR",
        "0a1b2c3d",
        card.digest,
        "2.9.0",
    ):
        assert part in shown, part
    assert shown.count("Accuracy with all weights kept") == 2, "a table for each treatment"
    assert "1.50" in shown, "soft diamond's time in units of none's"
    assert not any(note in shown for note in ("a quick run", "not finished", "runs diverged."))


def test_no_word_says_more_than_the_intervals(plain):
    card, records, text = plain
    assert all(
        not row.accuracy or row.accuracy.verdict == "no difference shown"
        for row in summary.summarize(card, records).rows
    )
    assert "better" not in text.lower() and "significant" not in text.lower()
    assert "no difference shown" in words(text)


@pytest.mark.parametrize(("gain", "word", "other"), [(0.05, "better", "worse"), (-0.05, "worse", "better")])
def test_a_shown_difference_is_said(gain, word, other):
    pytest.importorskip("matplotlib")
    card = card_of(seeds=6, front=False, treatments=("plain",))
    text = page_of(card, comparison(card, gain, noise=0.001))
    assert f">{word}</td>" in text and f">{other}</td>" not in text
    assert f'class="{"up" if gain > 0 else "down"}"' in text


def test_every_run_is_in_the_table(plain):
    _, records, text = plain
    table = text[text.index('class="sortable"') :]
    assert table[: table.index("</table>")].count("<tr>") == len(records) + 1


def test_every_value_of_the_card_is_shown(plain):
    card, _, text = plain
    shown = words(text)
    for key in (
        "gradual_tuned_at",
        "fine_tuning_rate",
        "momentum",
        "per_class",
        "tolerance",
        "widen",
        "threads",
        "relative_scale",
    ):
        assert key in shown, key
    assert all(f"{seed}" in shown for seed in card.tuning.seeds)


def test_notes_of_a_quick_an_unfinished_and_a_diverged_comparison():
    pytest.importorskip("matplotlib")
    card = card_of(front=False)
    records = comparison(
        card, lost=lambda run: (run.method, run.seed) == ("L1", 2) or run.strength == 0.1 or run.seed == 101
    )
    shown = words(page_of(card, records[:-2]))
    assert "The comparison is not finished: 2 final runs are still to do." in shown
    lost = sum(record["status"] == "diverged" for record in records[:-2])
    assert lost > 10 and f"{lost} of {len(records) - 2} runs diverged." in shown
    quick = card.model_copy(update={"quick": True})
    text = page_of(quick, comparison(quick))
    assert re.search(r'<p class="note" role="note">This was a quick run', text)
    assert "prove that everything works" in words(text).partition("What this comparison does not show")[2]


def test_a_choice_at_the_edge_of_its_range_is_flagged():
    pytest.importorskip("matplotlib")
    changes = {"tuning": {"strengths": [0.01, 0.1], "seeds": [100], "widen": 0}}
    card = card_of(front=False, **changes)
    shown = words(page_of(card, comparison(card)))
    assert "lowest tried" in shown and "lie at an end of the range tried" in shown
    assert "highest tried" not in shown


def test_a_rate_at_the_edge_of_its_range_is_flagged():
    pytest.importorskip("matplotlib")
    changes = {"tuning": {"strengths": [0.001, 0.01, 0.1], "rates": [0.05, 0.1], "seeds": [100], "widen": 0}}
    card = card_of(front=False, treatments=("plain",), **changes)
    text = page_of(card, comparison(card))
    assert text.count('<td class="flag n">0.1<small>highest tried</small></td>') == len(METHODS)
    assert "lowest tried" not in text and "lie at an end" not in text, "no strength is at an end"


def test_runs_of_other_seeds_are_a_note():
    pytest.importorskip("matplotlib")
    card, more = card_of(front=False), card_of(front=False, seeds=5)
    shown = words(page_of(card, comparison(more)))
    extra = 2 * len(METHODS) * len(card.treatments)
    assert f"{extra} final runs have other settings or seeds than those chosen here, and are not shown." in shown
    assert "not finished" not in shown and shown.index(f"{extra} final runs") < shown.index(
        "each the best in tuning of"
    )


def test_a_partly_finished_front_has_a_page():
    pytest.importorskip("matplotlib")
    front = {"shares": [0.0, 0.9], "ways": ["once", "gradual"], "gradual_tuned_at": [0.9]}
    card = card_of(METHODS[1:], treatments=("plain",), seeds=2, removal=front)
    records = comparison(card)
    tuning = [record for record in records if record["run"]["phase"] == "tune"]
    finals = [record for record in records if record["run"]["phase"] == "final"]
    assert {record["run"]["kind"] for record in finals} == {"plain", "gradual"} and len(finals) == 8
    for record in (record for record in finals if record["run"]["seed"] == 0):
        shown = words(page_of(card, [*tuning, record]))
        assert "The comparison is not finished: 7 final runs are still to do." in shown
        assert "There is nothing to compare" in shown and "better" not in shown.lower()
    assert "not finished" not in words(page_of(card, records))


def test_laws_at_the_bound_of_the_fit_are_drawn():
    """The mean of seven times 0.1 is below 0.1, where there is no law."""
    pytest.importorskip("matplotlib")
    assert np.mean([0.1] * 7) < 0.1
    card = card_of(treatments=("plain",), front=False, seeds=7)
    records = comparison(card)
    for record in records:
        if record["weights"] and record["weights"]["law"]:
            record["weights"]["law"]["alpha"] = 0.1
    assert "α = 0.10 or less, scale = 0.05" in page_of(card, records)


def test_the_sparsity_table_has_no_verdict_and_methods_are_shown_as_they_act():
    pytest.importorskip("matplotlib")
    methods = [*METHODS, {"penalty": "L1", "mode": "loss"}]
    card = card_of(methods, treatments=("plain",), front=False)
    records = comparison(card, gain=0.05, noise=0.001)
    tables = {
        table.caption: table
        for pair in report._main_tables(summary.summarize(card, records), report._Shown(1))
        for table in pair
    }
    accuracy, sparsity = tables["Accuracy with all weights kept"], tables["Sparsity of the same nets"]
    assert {"Holm's p", "verdict"} <= set(accuracy.head) and not {"Holm's p", "verdict"} & set(sparsity.head)
    assert {len(row) for row in sparsity.rows} == {len(sparsity.head)}
    assert {len(row) for row in accuracy.rows} == {len(accuracy.head)}
    said = {"better", "worse", "more", "fewer", "no difference shown"}
    assert not [cell for row in sparsity.rows for cell in row if cell.text in said or cell.kind in ("up", "down")]
    (listed,) = (table for table in report._lists(card) if table.caption == "methods")
    modes = {row[0].text: row[list(listed.head).index("mode")].text for row in listed.rows}
    assert list(modes.values()) == ["not set", "prox", "implicit", "loss"], modes


def test_one_seed_shows_no_difference():
    pytest.importorskip("matplotlib")
    card = card_of(seeds=1, front=False)
    text = page_of(card, comparison(card, gain=0.1))
    assert "no interval" in words(text) and "better" not in text.lower()


def test_a_card_without_kept_weights_still_has_a_page():
    pytest.importorskip("matplotlib")
    card = card_of(removal={"shares": [0.0, 0.9], "ways": ["gradual"], "gradual_tuned_at": [0.9]})
    text = page_of(card, comparison(card))
    assert "do not include “once”" in words(text) and "figure-front" in text and "figure-accuracy" not in text


def test_several_rates_are_a_column():
    pytest.importorskip("matplotlib")
    card = card_of(tuning={"strengths": [0.01, 0.1], "rates": [0.05, 0.1], "seeds": [100], "widen": 0})
    text = page_of(card, comparison(card))
    assert text.count('<th scope="col" class="n">rate</th>') == 4, "accuracy of two treatments, front, runs"


# ---- safety, size, bytes ----------------------------------------------------------------------------------------------


def assert_offline(text: str) -> None:
    for tag, attributes in Reader(text).elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert name in ("href", "xlink:href") and value.startswith("#"), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "image")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))


def test_the_page_needs_no_network_and_parses(plain):
    _, _, text = plain
    assert_offline(text)
    ids = [attributes["id"] for _, attributes in Reader(text).elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids are unique"
    used = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert set(used) <= set(ids), set(used) - set(ids)
    assert len(text.encode()) < 3e6


def test_six_hundred_runs_stay_small():
    pytest.importorskip("matplotlib")
    methods = [*METHODS[:2], *({"penalty": "soft diamond", "alpha": alpha} for alpha in (0.5, 1.0, 1.5))]
    card = card_of(methods, seeds=60, front=False)
    records = comparison(card)
    assert len(records) > 600
    assert len(page_of(card, records).encode()) < 3e6


def test_hostile_names_are_text():
    pytest.importorskip("matplotlib")
    evil = ["<script>alert(1)</script>", '" onload="alert(1)" id="x', "$\\frac{1$ & <!-- --> ]]>", "{{ 7 * 7 }}"]
    methods = [METHODS[1], *({"penalty": "L2", "name": name} for name in evil)]
    card = card_of(methods, treatments=("<b>one", "</svg></style></script><img src=x onerror=alert(1)>"), title=evil[0])
    text = page_of(card, comparison(card))
    reader = Reader(text)
    assert sum(tag == "script" for tag, _ in reader.elements) == 1
    assert not [a for _, attributes in reader.elements for a in attributes if a.startswith("on")]
    assert not [tag for tag, _ in reader.elements if tag in ("img",)]
    for name in evil:
        assert " ".join(name.split()) in words(text), name
    assert_offline(text)


def test_every_figure_has_a_title_words_and_panels(plain):
    _, _, text = plain
    found = re.findall(r"<figure\b.*?</figure>", text, re.DOTALL)
    assert len(found) == 7
    for number, figure in enumerate(found, start=1):
        assert f"<h3>Figure {number}. " in figure and re.search(r"<p>\s*[A-Z].{40,}", figure)
        panels = re.findall(r'<div class="panel"><svg ([^>]*)>', figure)
        assert panels
        for attributes in panels:
            (alternative,) = re.findall(r'role="img" aria-label="([^"]{30,})"', attributes)
            assert not re.search(r"\bnan\b|None", alternative), alternative
    legends = re.findall(r'<ul class="legend">.*?</ul>', text, re.DOTALL)
    assert legends and all(len(re.findall(r"<li>", legend)) == 3 for legend in legends)


def test_equal_records_give_equal_bytes_and_old_pages_are_replaced_whole(plain, tmp_path, monkeypatch):
    card, records, text = plain
    summed = summary.summarize(card, records)
    path = report.write(summed, records, tmp_path / "new")
    assert path == tmp_path / "new" / "report.html" and path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_html.os, "replace", full)
    monkeypatch.setattr(report, "page", lambda *_: "another")
    with pytest.raises(OSError, match="No space left"):
        report.write(summed, records, tmp_path / "new")
    assert path.read_text(encoding="utf-8") == text and list(path.parent.iterdir()) == [path]


def test_missing_matplotlib_names_the_extra(plain, tmp_path, monkeypatch):
    card, records, _ = plain
    summed, genuine = summary.summarize(card, records), builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ImportError, match=r'^figures need matplotlib: pip install "softdiamond\[plot\]"$'):
        report.write(summed, records, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "color", ["#000000", "#1b1d21", "#440154", "#3b528b", "#21918c", "#d55e00", "#0072b2", "#6b6b6b"]
)
def test_dark_colours_can_be_seen(color):
    def luminance(text):
        return _html.luminance(*(int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)))

    assert (luminance(_html.dark(color)) + 0.05) / (luminance("#14161a") + 0.05) > 4.0


# ---- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    if (path := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ALONE)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, plain, tmp_path):
    """Open the page in a new context; at the end, nothing was asked of a network and nothing was complained of."""
    path = tmp_path / "report.html"
    path.write_text(plain[2], encoding="utf-8")
    asked, said, contexts = [], [], []

    def go(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert set(asked) == {path.as_uri()} and not said, (asked, said)


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_runs_over_the_side(visit, width):
    page = visit(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """[...document.querySelectorAll("p, li, h1, h2, h3, figure, .panel, .scroll, dl")]
        .filter(each => each.getClientRects().length && each.getBoundingClientRect().right > innerWidth + 0.5).length"""
    assert page.evaluate(outside) == 0


def test_a_click_or_a_key_sorts_the_runs(visit):
    page = visit()
    head = page.locator("table.sortable th", has_text="validation")
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map(row => +row.cells[%d].textContent)"
    place = head.evaluate("each => each.cellIndex")
    before = page.evaluate(column % place)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and page.evaluate(column % place) == sorted(before) != before
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and page.evaluate(column % place) == sorted(
        before, reverse=True
    )
    other = page.locator("table.sortable th", has_text="method")
    other.locator("button").click()
    assert head.get_attribute("aria-sort") is None and other.get_attribute("aria-sort") == "ascending"


def test_without_scripts_the_table_is_whole(visit, plain):
    page = visit(java_script_enabled=False)
    assert page.locator("table.sortable tbody tr").count() == len(plain[1])
    assert page.locator("table.sortable button").count() == 0


CONTRASTS = """() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const luminance = text => rgb(text).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const page = luminance(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("p, td, th, li, a, figcaption, caption, dt, svg text")].map(each => {
    const style = getComputedStyle(each), own = luminance(each instanceof SVGElement ? style.fill : style.color);
    return (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05);
  });
}"""


def test_dark_mode_is_dark_and_all_text_can_be_read(visit):
    backgrounds = []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 500 and min(contrasts) >= 4.5, (scheme, min(contrasts))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 22, 26)"]


def test_it_prints_on_white_with_every_run(visit, plain):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    table = page.locator(".scroll.runs")
    assert table.evaluate("each => each.scrollHeight <= each.clientHeight + 1"), (
        "no run is hidden in a box that scrolls"
    )
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_panels_are_drawn_within_their_frames(visit):
    """No text of a figure leaves its panel, in a font that is not matplotlib's."""
    page = visit(viewport={"width": 1280, "height": 800})
    cut = """[...document.querySelectorAll(".panel svg")].flatMap(svg => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2;
      }).map(text => text.textContent);
    })"""
    assert page.evaluate(cut) == []
