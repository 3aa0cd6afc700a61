"""The kept results: whole, of the cards that ship, and told by their pages as their records have it."""

from pathlib import Path

import pytest
from markupsafe import escape

from softdiamond.experiments import card, plan, store, summary

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/card.json"))
WHOLE = [folder for folder in FOLDERS if (folder / "report.html").exists()]  # the others are under way


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_records_are_of_the_shipped_card(folder):
    kept, shipped = store.read_card(folder), card.find(folder.name)
    assert kept.differences(shipped) == []
    assert {record["card"] for record in store.read_records(folder)} == {shipped.digest}


@pytest.mark.parametrize("folder", WHOLE, ids=lambda folder: folder.name)
def test_results_are_whole_and_told_rightly(folder):
    kept, shipped = store.read_card(folder), card.find(folder.name)
    assert kept.final.seeds == shipped.final.seeds
    records = store.read_records(folder)
    assert plan.pending(kept, plan.by_run(records)) == []
    summed = summary.summarize(kept, records)
    assert summed.missing == summed.unused == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    for sentence in summed.answer:
        assert str(escape(sentence)) in page, f"make it again: softdiamond report docs/results/{folder.name}"
