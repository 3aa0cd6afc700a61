"""What records say of the claims: each reading tested at each place, and a verdict from the rules below alone.

The difference is paired by seed over final runs, each method at the setting that validation chose. A finding at one place is

- **shown** where the difference is above what the reading asks: its 95 % t and bootstrap intervals lie above and p, corrected by
  Holm's method over all findings of the claim in one quantity and unit, is below 0.05 (`summary.Effect.verdict`); where the
  sentence has a figure, the t interval must reach it too;
- **contradicted** where it is below in the same sense;
- **not tested** without records of the shipped card, or where they do not hold the methods or the quantity;
- **not shown** otherwise, and where runs of either method diverged.

A **reading** is contradicted if it is at any place, not shown if it is not at any, not tested if a place is not tested, else
shown. A **claim** is shown if all its readings are; contradicted if one is and none is shown; not shown if one is not, or some
are shown and others contradicted; else not tested.

Beside the fair difference stands `Unfair`, the reading that many papers use; it enters no verdict.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_args

from rich.markup import escape
from rich.table import Table

from softdiamond.experiments import UserError, plan, store, summary
from softdiamond.experiments import card as cards
from softdiamond.experiments.claims import CLAIMS, Claim, Methods, Place, Quantity, Reading
from softdiamond.experiments.summary import Effect, Row, Summary

Verdict = Literal["shown", "not shown", "contradicted", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NO_CARD = "no comparison of the library has this data set"
COMPLETE = "complete"


@dataclass(frozen=True)
class Evidence:
    """The records of a card: the folders that have them, what they show, and how to go on.

    ``seeds`` counts final seeds, with those of added folders; ``state`` is `COMPLETE` or says what is missing, ``command``
    would fill it ("" where nothing is missing); ``older`` are folders of an older card of that name, which are left alone;
    ``twice`` counts runs that lie in several folders, ``data`` the different states of the data set that the runs saw.
    """

    card: str
    digest: str
    seeds: int
    folders: tuple[Path, ...]
    older: tuple[Path, ...]
    summary: Summary | None
    runs: int
    twice: int
    data: int
    state: str
    command: str


@dataclass(frozen=True)
class Unfair:
    """The best of the grid on the test set, one seed: what the same records can be made to say.

    The best value among all final runs of the methods on our side (every method that the reading means, every seed), minus
    that of the other method's run on the lowest seed that it finished, in the reading's unit. Chosen on the test set, and not
    paired. Tuning runs are never given the test set, so the rest of the grid cannot enter: with it the figure could only be
    larger.
    """

    difference: float
    ours: int  # runs among which the best was looked for
    seed: int


@dataclass(frozen=True)
class Finding:
    """A reading at one place.

    ``effect`` is the paired difference less what the reading asks for at ``least``, None where it is not tested; ``why`` says
    why, ``notes`` what is to be known beside.
    """

    place: Place
    least: float
    claimed: float | None = None
    why: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    our_method: str = ""
    their_method: str = ""
    our_mean: float | None = None
    their_mean: float | None = None
    effect: Effect | None = None
    unfair: Unfair | None = None

    @property
    def difference(self) -> float | None:
        """Mean of the paired difference, in the reading's unit."""
        return None if self.effect is None else self.effect.mean + self.least

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % t interval."""
        if self.effect is None or self.effect.t_interval is None:
            return None
        low, high = self.effect.t_interval
        return low + self.least, high + self.least

    @property
    def verdict(self) -> Verdict:
        """The verdict at this place."""
        if self.effect is None:
            return "not tested"
        if self.effect.verdict == "worse":
            return "contradicted"
        reached = self.claimed is None or (self.interval is not None and self.interval[1] >= self.claimed)
        return "shown" if self.effect.verdict == "better" and reached else "not shown"


@dataclass(frozen=True)
class JudgedReading:
    """A reading and its findings, one a place, in the order of the places."""

    reading: Reading
    findings: tuple[Finding, ...]

    @property
    def counted(self) -> tuple[Finding, ...]:
        """The findings that count: of the places of one name the first that is tested, else the first."""
        first: dict[str, Finding] = {}
        for finding in self.findings:
            known = first.setdefault(finding.place.name, finding)
            if known.verdict == "not tested" and finding.verdict != "not tested":
                first[finding.place.name] = finding
        return tuple(first.values())

    @property
    def verdict(self) -> Verdict:
        """The verdict over all places."""
        found = {finding.verdict for finding in self.counted}
        order: tuple[Verdict, ...] = ("contradicted", "not shown", "not tested")
        return next((verdict for verdict in order if verdict in found), "shown")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and its readings."""

    claim: Claim
    readings: tuple[JudgedReading, ...]

    def count(self, verdict: Verdict) -> int:
        """Return how many readings have a verdict."""
        return sum(reading.verdict == verdict for reading in self.readings)

    @property
    def verdict(self) -> Verdict:
        """The verdict over all readings."""
        if self.count("shown") == len(self.readings):
            return "shown"
        if self.count("contradicted"):
            return "not shown" if self.count("shown") else "contradicted"
        return "not shown" if self.count("not shown") else "not tested"

    @property
    def counts(self) -> str:
        """Say how many readings have which verdict."""
        return ", ".join(f"{number} {verdict}" for verdict in VERDICTS if (number := self.count(verdict)))


@dataclass(frozen=True)
class Verdicts:
    """All claims judged, and the evidence by card."""

    claims: tuple[JudgedClaim, ...]
    evidence: tuple[Evidence, ...]


def judge(folders: Sequence[Path], claims: Sequence[Claim] = CLAIMS) -> Verdicts:
    """Judge claims by the records in folders of results, or in folders that hold such.

    Runs of one card in several folders are pooled, as `store.read_folders` does: final seeds may differ, and of a run that lies
    in several the first folder's counts. Folders of cards that no claim rests on are left alone.

    Raises
    ------
    UserError
        If a folder holds no results, or those of a card that is needed are damaged.
    """
    by_card: dict[str, list[Path]] = {}
    for folder in dict.fromkeys(found for given in folders for found in _results(given)):
        by_card.setdefault(store.read_card(folder).name, []).append(folder)
    places = [place for claim in claims for reading in claim.readings for place in reading.places]
    names = dict.fromkeys(place.card for place in places if place.card)
    evidence = {name: _evidence(name, by_card.get(name, []), folders[0]) for name in names}
    return Verdicts(tuple(_judged(claim, evidence) for claim in claims), tuple(evidence.values()))


def _results(folder: Path) -> list[Path]:
    """Return the folders of results: the folder itself, or those in it."""
    if (folder / "card.json").exists():
        return [folder]
    if found := sorted(path.parent for path in folder.glob("*/card.json")):
        return found
    why = "neither it nor a folder in it has a card.json" if folder.is_dir() else "there is no such folder"
    raise UserError(f"{folder} holds no results of a comparison: {why}; softdiamond compare makes them")


def _evidence(name: str, folders: Sequence[Path], given: Path) -> Evidence:
    shipped = cards.find(name)
    digest = shipped.digest
    own = [folder for folder in folders if store.read_card(folder).digest == digest]
    older = [folder for folder in folders if folder not in own]
    home = given.parent if (given / "card.json").exists() else given
    empty = Evidence(name, digest, len(shipped.final.seeds), tuple(own), tuple(older), None, 0, 0, 0, "", "")
    if not own:
        new = home / (f"{name}-{digest}" if older else name)  # a folder holds one card: the older one's is taken
        state = "no records"
        if older:
            state = f"the records in {', '.join(map(str, older))} are of an older card or of a changed one"
        return replace(empty, state=state, command=_command(name, new))
    card, records, twice = store.read_folders(own)
    states = {json.dumps(record["data"], sort_keys=True) for record in records}
    counts = {"seeds": len(card.final.seeds), "runs": len(records), "twice": twice, "data": len(states)}
    empty = replace(empty, **counts, command=_command(name, own[0]))  # type: ignore[arg-type]
    try:
        summed = summary.summarize(card, records)
    except UserError:  # the records are sound, but there are not enough
        known = plan.by_run(records)
        tuned = all(run in known for run in plan.tuning_runs(card, known))
        return replace(empty, state="no final run has finished" if tuned else "tuning is not finished")
    if summed.missing:
        return replace(empty, summary=summed, state=f"{summed.missing} final runs are still to do")
    return replace(empty, summary=summed, state=COMPLETE, command="")


def _command(name: str, out: Path) -> str:
    return f"softdiamond compare {name} --data-dir FOLDER --out {shlex.quote(str(out))}"


def _judged(claim: Claim, evidence: dict[str, Evidence]) -> JudgedClaim:
    """Find everything, then correct p over the findings of the claim in one quantity and unit."""
    found = [[_finding(claim, reading, place, evidence) for place in reading.places] for reading in claim.readings]
    families: dict[Quantity, list[tuple[int, int, Effect, float]]] = {}
    for i, findings in enumerate(found):
        for j, finding in enumerate(findings):
            if finding.effect is not None and finding.effect.p is not None:
                place = i, j, finding.effect, finding.effect.p
                families.setdefault(claim.readings[i].quantity, []).append(place)
    for family in families.values():
        for (i, j, effect, _), p in zip(family, summary.holm([p for *_, p in family]), strict=True):
            found[i][j] = replace(found[i][j], effect=replace(effect, p_holm=p))
    readings = zip(claim.readings, found, strict=True)
    return JudgedClaim(claim, tuple(JudgedReading(reading, tuple(findings)) for reading, findings in readings))


def _finding(claim: Claim, reading: Reading, place: Place, evidence: dict[str, Evidence]) -> Finding:
    empty = Finding(place, reading.least, claim.amounts.get(place.name))
    if not place.card:
        return replace(empty, why=NO_CARD)
    known = evidence[place.card]
    if known.summary is None:
        return replace(empty, why=known.state, command=known.command)
    summed, column = known.summary, reading.quantity.column
    treatment = next((each.name for each in summed.card.treatments if place.matches(each)), "")
    sides = [_rows(summed, treatment, methods) for methods in (reading.ours, reading.theirs)]
    for rows, methods in zip(sides, (reading.ours, reading.theirs), strict=True):
        if not rows:
            in_card = any(methods.matches(method) for method in summed.card.methods)
            why = f"no final run of {methods.words} has finished" if in_card else f"the card has no {methods.words}"
            return replace(empty, why=why, command=known.command if in_card else "")
    ours, theirs = (max(rows, key=lambda row: row.choice.validation) for rows in sides)
    pairs = {
        seed: (ours.values[seed][column], theirs.values[seed][column])
        for seed in sorted(ours.values.keys() & theirs.values.keys())
        if column in ours.values[seed] and column in theirs.values[seed]
    }
    changes = {seed: reading.quantity.change(*pair) for seed, pair in pairs.items()}
    found = replace(empty, our_method=ours.method, their_method=theirs.method, notes=tuple(_notes(known, ours, theirs)))
    if not pairs or any(math.isnan(change) for change in changes.values()):
        why = "not defined, where the other has 0 or all" if pairs else "not measured in these records"
        if not ours.values.keys() & theirs.values.keys():
            why = "no seed that both methods have finished"
        return replace(found, why=why, command=known.command)
    effect = summary.paired(
        {seed: change - reading.least for seed, change in changes.items()}, dict.fromkeys(changes, 0.0)
    )
    if effect is not None and (ours.diverged or theirs.diverged):  # the seeds that were left prove nothing
        effect = replace(effect, p=None)
    return replace(
        found,
        our_mean=mean(pair[0] for pair in pairs.values()),
        their_mean=mean(pair[1] for pair in pairs.values()),
        effect=effect,
        unfair=_unfair(reading, sides[0], theirs),
    )


def _rows(summed: Summary, treatment: str, methods: Methods) -> list[Row]:
    """Return the rows of the methods meant, with all weights kept."""
    rows = summed.at(treatment, "once", 0.0)
    return [row for row in rows if row.values and methods.matches(summed.card.method(row.method))]


def _notes(known: Evidence, ours: Row, theirs: Row) -> Iterator[str]:
    """Say what is to be known beside a finding."""
    done = len(ours.values.keys() & theirs.values.keys())
    diverged = ours.diverged + theirs.diverged
    if diverged:
        yield f"{diverged} of their final runs diverged: nothing is shown"
    elif done < known.seeds:
        yield f"{done} of {known.seeds} seeds so far"
    if known.data > 1:
        yield f"the runs saw {known.data} different states of the data"
    for row in (ours, theirs):
        if row.choice.edge:
            yield f"strength of {row.method}: {row.choice.edge} tried"


def _unfair(reading: Reading, ours: Sequence[Row], theirs: Row) -> Unfair | None:
    """Return the figure of `Unfair`."""
    column = reading.quantity.column
    values = [value for row in ours for value in row.column(column)]
    seeds = [seed for seed in theirs.values if column in theirs.values[seed]]
    if not values or not seeds:
        return None
    seed = min(seeds)
    change = reading.quantity.change(max(values), theirs.values[seed][column])
    return None if math.isnan(change) else Unfair(change, len(values), seed)


def numbered(claim: int, reading: int) -> str:
    """Return the number of a reading, the same on page and terminal."""
    return f"{claim}.{reading}"


def count_verdicts(verdicts: Verdicts) -> str:
    """Say in one sentence how many claims have which verdict."""
    claims = verdicts.claims
    counted = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    return f"Of {len(claims)} sentences: {', '.join(f'{number} {verdict}' for verdict, number in counted.items())}."


def tables(verdicts: Verdicts) -> list[Table]:
    """Return the tables for a terminal: the sentences, and what was tested."""
    sentences = Table(title="Sentences of the abstracts of arXiv:2412.20724", title_justify="left")
    for heading in ("", "sentence", "of", "verdict", "its readings"):
        sentences.add_column(heading, no_wrap=heading in ("", "of", "verdict"))
    for number, claim in enumerate(verdicts.claims, start=1):
        sentences.add_row(str(number), escape(claim.claim.sentence), claim.claim.version, claim.verdict, claim.counts)
    tested = Table(title="What was tested", title_justify="left")
    for heading in ("", "test", "on", "difference", "n", "unfair", "verdict"):
        tested.add_column(
            heading, justify="right" if heading in ("difference", "n", "unfair") else "left", no_wrap=heading == ""
        )
    for i, claim in enumerate(verdicts.claims, start=1):
        for j, judged in enumerate(claim.readings, start=1):
            first = [numbered(i, j), escape(judged.reading.words)]
            for finding in judged.findings:
                if finding.effect is not None:
                    unfair = "" if finding.unfair is None else f"{100 * finding.unfair.difference:+.2f}"
                    cells = [escape(_place(finding.place)), _difference(finding), str(finding.effect.pairs), unfair]
                    tested.add_row(*first, *cells, finding.verdict)
                    first = ["", ""]
    tested.caption = (
        "Difference: mean over n seeds, paired, with its 95 % t interval, in the test's unit. Unfair: the best of the grid on the test "
        "set against one seed, as many papers have it; it enters no verdict."
    )
    tested.caption_justify = "left"
    return [sentences, *([tested] if tested.row_count else [])]


def missing(verdicts: Verdicts) -> list[str]:
    """Say what the records lack, card by card, with the command that would fill it."""
    return [
        f"{each.card}: {each.state}{': ' * bool(each.command)}{each.command}"
        for each in verdicts.evidence
        if each.state != COMPLETE
    ]


def _place(place: Place) -> str:
    return f"{place.name} (in its place {place.stand_in})" if place.stand_in else place.name


def _difference(finding: Finding) -> str:
    difference, interval = finding.difference, finding.interval
    text = "" if difference is None else f"{100 * difference:+.2f}"
    return text if interval is None else f"{text} [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"


def plain(verdicts: Verdicts) -> dict[str, Any]:
    """Return everything as values for JSON; differences, intervals and amounts are shares, 0.01 one point or one per cent."""

    def finding_of(finding: Finding) -> dict[str, Any]:
        effect = finding.effect
        return {
            "name": finding.place.name,
            "card": finding.place.card,
            "stand_in": finding.place.stand_in,
            "verdict": finding.verdict,
            "why": finding.why,
            "command": finding.command,
            "notes": list(finding.notes),
            "ours": finding.our_method,
            "theirs": finding.their_method,
            "our_mean": finding.our_mean,
            "their_mean": finding.their_mean,
            "difference": finding.difference,
            "interval": finding.interval,
            "n": effect.pairs if effect else 0,
            "p": effect.p if effect else None,
            "p_holm": effect.p_holm if effect else None,
            "claimed": finding.claimed,
            "unfair": finding.unfair and asdict(finding.unfair),
        }

    def reading_of(judged: JudgedReading) -> dict[str, Any]:
        reading = judged.reading
        counted = [judged.findings.index(finding) for finding in judged.counted]
        return {
            "test": reading.words,
            "quantity": reading.quantity.column,
            "unit": reading.quantity.unit,
            "least": reading.least,
            "verdict": judged.verdict,
            "findings": [finding_of(each) | {"counts": i in counted} for i, each in enumerate(judged.findings)],
        }

    return {
        "claims": [
            {
                "sentence": each.claim.sentence,
                "source": each.claim.source,
                "verdict": each.verdict,
                "readings": [reading_of(reading) for reading in each.readings],
            }
            for each in verdicts.claims
        ],
        "records": [
            {
                "card": each.card,
                "digest": each.digest,
                "seeds": each.seeds,
                "folders": [str(folder) for folder in each.folders],
                "older": [str(folder) for folder in each.older],
                "runs": each.runs,
                "twice": each.twice,
                "data": each.data,
                "state": each.state,
                "command": each.command,
            }
            for each in verdicts.evidence
        ],
    }
