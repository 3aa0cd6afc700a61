"""The page of the claims, one HTML file that needs no network, and its JSON, both from `softdiamond.experiments.verdicts` alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softdiamond._html import template, write_whole
from softdiamond.experiments.page import p_value, signed
from softdiamond.experiments.verdicts import count_verdicts, numbered, plain

if TYPE_CHECKING:
    from softdiamond.experiments.claims import Quantity
    from softdiamond.experiments.verdicts import Finding, JudgedClaim, JudgedReading, Verdicts

KINDS = {"shown": "up", "not shown": "", "contradicted": "down", "not tested": "quiet"}  # classes for their look
WIDTH = 140  # of a bar, in its own units


def write(verdicts: Verdicts, out: Path) -> list[Path]:
    """Write ``claims.html`` and ``claims.json`` into a folder, created where it is missing, each whole or not at all."""
    values = json.dumps(plain(verdicts), indent=1, allow_nan=False, ensure_ascii=False)
    return [write_whole(page(verdicts), out / "claims.html"), write_whole(values + "\n", out / "claims.json")]


def page(verdicts: Verdicts) -> str:
    """Return the text of the page; equal input gives equal text."""
    twice = sum(each.twice for each in verdicts.evidence)
    notes = [f"{twice} runs lie in several folders: those of the first are taken."] if twice else []
    unfinished = [each.card for each in verdicts.evidence if each.summary is not None and each.summary.missing]
    if unfinished:
        notes.append(f"Not finished, so that every number may change: {', '.join(unfinished)}.")
    return template(resources.files("softdiamond.experiments") / "templates", "claims.html.j2").render(
        answer=count_verdicts(verdicts),
        notes=notes,
        readings=sum(len(each.readings) for each in verdicts.claims),
        runs=sum(each.runs for each in verdicts.evidence),
        claims=[_claim(number, each) for number, each in enumerate(verdicts.claims, start=1)],
        evidence=verdicts.evidence,
        kinds=KINDS,
        dark={},
    )


def _claim(number: int, judged: JudgedClaim) -> dict[str, Any]:
    bounds: dict[Quantity, float] = {}  # of the bars: one for a quantity and unit
    for each in judged.readings:
        quantity = each.reading.quantity
        bounds[quantity] = max(_bound(each.findings), bounds.get(quantity, 0.0))
    return {
        "sentence": judged.claim.sentence,
        "version": judged.claim.version,
        "source": judged.claim.source,
        "remark": judged.claim.remark,
        "verdict": judged.verdict,
        "counts": judged.counts,
        "count": f"{len(judged.readings)} reading{'s' * (len(judged.readings) > 1)}: {judged.counts}",
        "amounts": bool(judged.claim.amounts),
        "readings": [
            {"number": numbered(number, at), **_reading(reading, bounds[reading.reading.quantity])}
            for at, reading in enumerate(judged.readings, start=1)
        ],
    }


def _reading(judged: JudgedReading, bound: float) -> dict[str, Any]:
    return {
        "words": judged.reading.words,
        "verdict": judged.verdict,
        "bound": (signed(-100 * bound, 2), signed(100 * bound, 2)) if bound and _bound(judged.findings) else None,
        "rows": [_row(finding, judged, bound) for finding in judged.findings],
    }


def _bound(findings: Sequence[Finding]) -> float:
    """Return the largest magnitude that a bar of these findings shows; 0 where none is tested."""
    tested = [finding for finding in findings if finding.difference is not None]
    shown = [value for each in tested for value in (each.difference, each.claimed, *(each.interval or ()))]
    return max((abs(value) for value in shown if value is not None), default=0.0)


def _row(finding: Finding, reading: JudgedReading, bound: float) -> dict[str, Any]:
    place = finding.place
    notes = [f"in its place {place.stand_in}"] if place.stand_in else []
    counts = finding in reading.counted
    if not counts and place.stand_in:
        notes.append("does not count")
    row = {
        "name": place.name,
        "verdict": finding.verdict,
        "why": finding.why,
        "command": finding.command,
        "counts": counts,
    }
    row |= {"notes": [*notes, *finding.notes]}
    if finding.effect is None or finding.difference is None:
        return row
    interval, unfair = finding.interval, finding.unfair

    def across(value: float) -> float:
        return round(WIDTH / 2 * (1 + value / bound), 1) if bound else WIDTH / 2

    return row | {
        "ours": finding.our_method,
        "theirs": finding.their_method,
        "our_mean": f"{100 * (finding.our_mean or 0.0):.2f}",
        "their_mean": f"{100 * (finding.their_mean or 0.0):.2f}",
        "difference": signed(100 * finding.difference, 2),
        "interval": f"{signed(100 * interval[0], 2)} to {signed(100 * interval[1], 2)}" if interval else "",
        "claimed": "" if finding.claimed is None else signed(100 * finding.claimed, 2),
        "n": finding.effect.pairs,
        "p": p_value(finding.effect.p_holm),
        "unfair": signed(100 * unfair.difference, 2) if unfair else "not measured",
        "among": f"best of {unfair.ours} runs, against seed {unfair.seed}" if unfair else "",
        "bar": {
            "middle": across(finding.difference),
            "ends": [across(end) for end in interval] if interval else None,
            "claimed": None if finding.claimed is None else across(finding.claimed),
        },
    }
