"""Which runs a comparison still needs: a function of its card and of the records that there are.

**Tuning**: every strength (and rate) of a method, for each treatment, on the tuning seeds; a method without strengths has
one trial a rate. **Choice**: for each treatment, method, way of removing and share, the setting with the highest mean
validation accuracy there, of equal ones the strongest; or the strongest within the card's tolerance. A choice at an end of
its range adds a strength beyond it, as often as the card allows; then it is flagged, as a rate at an end is. The division of
the removed share among tensors is one for all methods, chosen on validation likewise. **Final** runs train the chosen
settings on fresh seeds, the same for all.

Nothing here reads a final record, so no choice can depend on a test set.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

from softdiamond.experiments.card import Card, Method

Record = dict[str, Any]
# What each part of a record may be; None in a diverged run, or where it is not measured.
RECORD_PARTS: Mapping[str, Any] = {
    **dict.fromkeys(("comparison", "card", "status"), str),
    **dict.fromkeys(("run", "data", "environment", "timing"), dict),
    **dict.fromkeys(("losses", "removal"), list),
    **dict.fromkeys(("train_accuracy", "validation_accuracy", "test_accuracy"), float | None),
    **dict.fromkeys(("sparsity", "curves", "prunable", "weights"), dict | None),
}
MEASURED = ("train_accuracy", "validation_accuracy", "sparsity")  # of every run that finished
GRADUAL = "gradual"
HISTOGRAM_EDGES = tuple(round(-8 + 0.2 * k, 1) for k in range(51))  # of log10 |w|; a record states those that it means


class RunGroup(NamedTuple):
    """Runs that take about the same time: they differ in strength, rate, seed and share alone."""

    phase: str
    treatment: str
    method: str
    kind: str


@dataclass(frozen=True)
class Run:
    """One training.

    ``share`` and ``division`` say what a gradual run removes. A plain run measures removal at the card's shares, a final
    one in its ``division`` alone, which was chosen before; a tuning one in all the card's divisions.
    """

    phase: str  # tune or final
    treatment: str
    method: str
    strength: float
    rate: float
    seed: int
    kind: str = "plain"  # or gradual
    share: float = 0.0
    division: str = ""
    dispersion: float = 0.0  # of an absolute setting, whose strength is lambda; 0: the setting is relative

    def __str__(self) -> str:
        treatment = "" if self.treatment == "plain" else f"{self.treatment}, "
        strength = f" strength {self.strength:g}" if self.strength else ""
        if self.dispersion:
            strength = f" lambda {self.strength:g} dispersion {self.dispersion:g}"
        removal = f" {100 * self.share:g} % gradually ({self.division})" if self.kind == "gradual" else ""
        return f"{self.phase} {treatment}{self.method}{strength}{removal} seed {self.seed}"

    @property
    def group(self) -> RunGroup:
        """The runs that take about as long as this one."""
        return RunGroup(self.phase, self.treatment, self.method, self.kind)

    @property
    def stem(self) -> str:
        """Beginning of the names of the run's files: words, and eight hexadecimal digits of all its fields."""
        fields = {key: value for key, value in asdict(self).items() if key != "dispersion" or value}
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9.]+', '-', str(self)).strip('-')[:100]}-{digest}"


Records = Mapping[Run, Record]


@dataclass(frozen=True)
class Objective:
    """What a setting is chosen for: a method under a treatment, without a share of its weights, removed in a way."""

    treatment: str
    method: str
    way: str = "once"
    share: float = 0.0

    @property
    def kind(self) -> str:
        """Kind of the runs that serve it."""
        return GRADUAL if self.way == GRADUAL else "plain"


@dataclass(frozen=True)
class Choice:
    """A chosen setting; an edge is lowest or highest where it is an end of its range, ``trials`` counts trainings."""

    strength: float
    rate: float
    division: str
    validation: float
    edge: str
    rate_edge: str
    tried: tuple[float, ...]
    trials: int
    dispersion: float = 0.0  # of an absolute setting, whose strength is lambda


def by_run(records: Iterable[Record]) -> dict[Run, Record]:
    """Index records by their run."""
    return {Run(**record["run"]): record for record in records}


def objectives(card: Card) -> list[Objective]:
    """Return all that settings are chosen for, by treatment, method, way and share."""
    return [
        Objective(treatment.name, method.label, way, share)
        for treatment, method in product(card.treatments, card.methods)
        for way, share in _ways(card)
    ]


def _ways(card: Card) -> list[tuple[str, float]]:
    removal = card.removal
    least = {"once": 0.0, "fine-tuned": 1e-12, GRADUAL: removal.gradual_from}
    return [(way, share) for way in removal.ways for share in removal.shares if share >= least[way]]


def pending(card: Card, records: Records) -> list[Run]:
    """Return the runs that can be done now and are not: those of tuning, then those it asks for, then the final ones.

    An empty list says that the comparison is complete.
    """
    tuning = tuning_runs(card, records)
    if missing := [run for run in tuning if run not in records]:
        return missing
    return [run for run in final_runs(card, records) if run not in records]


@dataclass(frozen=True)
class Outlook:
    """How many runs of each group are done, are to do in any case, and may come to them: from 0 to ``possible`` more."""

    done: Counter[RunGroup]
    certain: Counter[RunGroup]
    possible: Counter[RunGroup]


def outlook(card: Card, records: Records) -> Outlook:
    """Count what is to do until the comparison is complete.

    While tuning goes on, its choices are unknown: a range may be widened, and the objectives that plain runs serve may choose
    from one setting, which one run a seed serves, to a setting each.
    """
    tuning = tuning_runs(card, records)
    complete = all(run in records for run in tuning)
    known = tuning + (final_runs(card, records) if complete else [])
    done = Counter(run.group for run in known if run in records)
    certain = Counter(run.group for run in known if run not in records)
    possible: Counter[RunGroup] = Counter()
    for treatment, method, kind in product(card.treatments, card.methods, _kinds(card)):
        if complete:
            break
        place = treatment.name, method.label, kind
        own = _objectives_of(card, *place)
        tried = _tried(card, records, treatment.name, method, kind)
        added = _strengths_to_add(card, records, treatment.name, method, kind)
        fewest, most = len(own), len(own)  # of a gradual run every share is another run
        if kind == "plain":
            settings = (len(tried) + added) * len(_rates(card)) * len(method.dispersions or (0.0,))
            fewest, most = 1, min(len(own), settings)
        final = RunGroup("final", *place)
        certain[final] += fewest * len(card.final.seeds)
        possible[final] += (most - fewest) * len(card.final.seeds)
        possible[RunGroup("tune", *place)] += added * len(_trials(card, treatment.name, method, kind, (0.0,)))
    return Outlook(done, certain, +possible)


def _strengths_to_add(card: Card, records: Records, treatment: str, method: Method, kind: str) -> int:
    """Return the most strengths that may yet be added to a range, at both of its ends where choices lie at both."""
    base, tried = card.strengths(method), _tried(card, records, treatment, method, kind)
    if len(base) < 2 or all(run in records for run in _trials(card, treatment, method, kind, tried)):
        return 0
    ends = min(2, len(_objectives_of(card, treatment, method.label, kind)) * len(card.removal.divisions))
    rounds = math.ceil((len(tried) - len(base)) / ends)  # the fewest in which so many were added
    return ends * (card.tuning.widen - rounds)


def _objectives_of(card: Card, treatment: str, method: str, kind: str) -> list[Objective]:
    wanted = treatment, method, kind
    return [each for each in objectives(card) if (each.treatment, each.method, each.kind) == wanted]


def tuning_runs(card: Card, records: Records) -> list[Run]:
    """Return all runs of tuning that the records so far ask for."""
    runs: list[Run] = []
    for treatment, method, kind in product(card.treatments, card.methods, _kinds(card)):
        base = _trials(card, treatment.name, method, kind, card.strengths(method) or (0.0,))
        runs += base
        tried = _tried(card, records, treatment.name, method, kind)
        runs += [run for run in _trials(card, treatment.name, method, kind, tried) if run not in base]
    return runs


def final_runs(card: Card, records: Records) -> list[Run]:
    """Return the runs on fresh seeds of every chosen setting, seed by seed; tuning must be complete.

    So the methods of a pair run next to each other, and their times can be compared.
    """
    chosen = choices(card, records).items()
    return list(dict.fromkeys(final_run(*each, seed) for seed in card.final.seeds for each in chosen))


def final_run(objective: Objective, choice: Choice, seed: int) -> Run:
    """Return the run that serves an objective with a chosen setting on one seed."""
    return Run(
        "final",
        objective.treatment,
        objective.method,
        choice.strength,
        choice.rate,
        seed,
        objective.kind,
        objective.share if objective.kind == GRADUAL else 0.0,
        choice.division,
        choice.dispersion,
    )


def choices(card: Card, records: Records) -> dict[Objective, Choice]:
    """Return the setting of every objective; all tuning runs must be in the records."""
    divisions = {kind: division_of(card, records, kind) for kind in _kinds(card)}
    result = {}
    for objective in objectives(card):
        method = card.method(objective.method)
        tried = _tried(card, records, objective.treatment, method, objective.kind)
        result[objective] = _best(card, records, objective, method, tried, divisions[objective.kind])
    return result


def division_of(card: Card, records: Records, kind: str) -> str:
    """Return how removed shares are divided among tensors: the best on validation, in the mean over all methods.

    Of each division every method and share enters with its best strength on the base range.
    """
    divisions = card.removal.divisions
    if len(divisions) == 1:
        return divisions[0]
    own = [each for each in objectives(card) if each.kind == kind and each.share > 0]
    chosen = [each for each in own if each.share == tuned_share(card, each)] or own

    def merit(division: str) -> float:
        values = []
        for each in chosen:
            method = card.method(each.method)
            values.append(_best(card, records, each, method, card.strengths(method) or (0.0,), division).validation)
        return mean(values) if values else 0.0

    return max(divisions, key=merit)


def _kinds(card: Card) -> list[str]:
    plain = ["plain"] if {"once", "fine-tuned"} & set(card.removal.ways) else []
    return plain + ([GRADUAL] if GRADUAL in card.removal.ways else [])


def _rates(card: Card) -> tuple[float, ...]:
    return card.tuning.rates or (card.training.rate,)


def _trials(card: Card, treatment: str, method: Method, kind: str, strengths: Sequence[float]) -> list[Run]:
    removals = [(0.0, "")] if kind == "plain" else list(product(card.removal.gradual_tuned_at, card.removal.divisions))
    return [
        Run("tune", treatment, method.label, strength, rate, seed, kind, share, division, dispersion)
        for strength, rate, dispersion, (share, division), seed in product(
            strengths, _rates(card), method.dispersions or (0.0,), removals, card.tuning.seeds
        )
    ]


def _tried(card: Card, records: Records, treatment: str, method: Method, kind: str) -> tuple[float, ...]:
    """Return the range of strengths, widened as far as the records tell and the card allows."""
    tried = card.strengths(method)
    if not tried:
        return (0.0,)
    own = _objectives_of(card, treatment, method.label, kind)
    for _ in range(card.tuning.widen if len(tried) > 1 else 0):
        if any(run not in records for run in _trials(card, treatment, method, kind, tried)):
            break
        places = product(own, card.removal.divisions)
        edges = {_best(card, records, each, method, tried, division).edge for each, division in places}
        lower = (float(f"{tried[0] ** 2 / tried[1]:.6g}"),) if "lowest" in edges else ()
        higher = (float(f"{tried[-1] ** 2 / tried[-2]:.6g}"),) if "highest" in edges else ()
        if not lower and not higher:
            break
        tried = (*lower, *tried, *higher)
    return tried


def _best(
    card: Card, records: Records, objective: Objective, method: Method, tried: Sequence[float], division: str
) -> Choice:
    """Return the best of the settings tried: by mean validation accuracy, a diverged trial counting as 0."""
    share = tuned_share(card, objective)

    def merit(strength: float, rate: float, dispersion: float) -> float:
        pruning = (share, division) if objective.kind == GRADUAL else (0.0, "")
        trials = [
            Run(
                "tune",
                objective.treatment,
                objective.method,
                strength,
                rate,
                seed,
                objective.kind,
                *pruning,
                dispersion,
            )
            for seed in card.tuning.seeds
        ]
        values = [_validation(records[run], objective.way, share, division) for run in trials if run in records]
        return mean(values) if values and min(values) > 0.0 else 0.0

    settings = list(product(tried, _rates(card), method.dispersions or (0.0,)))
    merits = {setting: merit(*setting) for setting in settings}
    highest = max(merits.values())
    if highest == 0.0:  # all diverged: the weakest
        chosen = min(merits)
    else:
        good = [each for each, value in merits.items() if value >= highest - card.tuning.tolerance / 100 - 1e-9]
        strongest = max(good)[0]
        chosen = max((each for each in good if each[0] == strongest), key=lambda each: (merits[each], each))
    strength, rate, dispersion = chosen
    edge, rate_edge = _edge(strength, tried), _edge(rate, sorted(_rates(card)))
    trials = len(merits) * len(card.tuning.seeds)
    return Choice(strength, rate, division, merits[chosen], edge, rate_edge, tuple(tried), trials, dispersion)


def _edge(value: float, tried: Sequence[float]) -> str:
    """Say whether a value is the lowest or the highest of a range of several."""
    return {tried[0]: "lowest", tried[-1]: "highest"}.get(value, "") if len(tried) > 1 else ""


def tuned_share(card: Card, objective: Objective) -> float:
    """Return the share at which an objective is tuned: its own, or the nearest of the gradual way's, the lower of two."""
    if objective.kind != GRADUAL:
        return objective.share
    return min(sorted(card.removal.gradual_tuned_at), key=lambda share: round(abs(share - objective.share), 9))


def _validation(record: Record, way: str, share: float, division: str) -> float:
    """Return validation accuracy without a share of the weights; 0 for a diverged run."""
    if record["status"] == "diverged":
        return 0.0
    if way == "once" and share == 0.0:
        return float(record["validation_accuracy"])
    wanted: dict[str, Any] = {"way": way, "share": share, "division": division}
    rows = [row for row in record["removal"] if all(row[key] == value for key, value in wanted.items())]
    return float(rows[0]["validation"])
