"""The claims: verdicts from made records of which every figure is known, the page and the command that tell them."""

import functools
import json
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser
from statistics import mean, stdev

import pytest
from scipy import stats

from softdiamond import cli
from softdiamond.experiments import UserError, card, plan, store, summary, verdicts
from softdiamond.experiments import claims_page as page
from softdiamond.experiments.claims import (
    ACCURACIES,
    ACCURACY,
    CLAIMS,
    COMBINED,
    IMAGES,
    L2,
    NONE,
    PAPERS,
    SOFT,
    SPARSITIES,
    Claim,
    Place,
    Reading,
    soft,
)

CARD = """
name = "{name}"
data = {{ name = "digits", train = 10, validation = 10 }}
model = {{ name = "mlp", options = {{ hidden = [3] }} }}
training = {{ optimizer = "SGD", rate = 0.1, epochs = 1, batch = 8 }}
methods = [
  {{ penalty = "none" }},
  {{ penalty = "L2" }},
  {{ penalty = "L1", reference = "model" }},
  {{ penalty = "soft diamond", alpha = 0.5 }},
{more}
]
{treatments}
tuning = {{ strengths = [0.1, 1.0], seeds = [100], widen = 0 }}
final = {{ seeds = [0, 1, 2, 3, 4], baseline = "L2" }}
"""
OTHERS = """
  { penalty = "soft diamond", alpha = 0.5, reference = "model" },
  { penalty = "soft diamond", alpha = 1.0 },
  { penalty = "soft diamond", alpha = 1.5 },
"""
LOSS = '{ name = "soft diamond in the loss", penalty = "soft diamond", alpha = 0.5, mode = "gradient" },'
TREATMENTS = """treatments = [
  { name = "bare" },
  { name = "D", options = { dropout = 0.2 } },
  { name = "B", options = { batch_norm = true } },
  { name = "A", augmentation = "crop and flip" },
  { name = "DBA", options = { dropout = 0.2, batch_norm = true }, augmentation = "crop and flip" },
]"""
NAMES = ("cifar10-wide", "cifar100-wide", "caltech256-wide", "caltech101-wide")
CARDS = {name: CARD.format(name=name, more=OTHERS + LOSS * (name == "cifar10-wide"), treatments="") for name in NAMES}
COMBINATIONS = "cifar10-wide-combinations"
CARDS[COMBINATIONS] = CARD.format(name=COMBINATIONS, more="", treatments=TREATMENTS)
SETS = ("cifar10-wide", "cifar100-wide", "caltech256-wide")
NOISE = (0.004, -0.003, 0.002, -0.004, 0.001, 0.003, -0.002)
SHARES = ("zero", "below_1e-3", "below_1e-2", "below_1e-2_of_largest", "gini", "hoyer", "participation")


@pytest.fixture(autouse=True)
def made_cards(monkeypatch):
    monkeypatch.setattr(card, "shipped", lambda: CARDS)
    monkeypatch.setattr(summary, "RESAMPLES", 199)


def record(made, run, gain, changes):
    """Accuracy 0.7, `gain` more of a soft diamond, plus noise of method and seed; validation likes 0.1, and alpha 1 most."""
    method = made.method(run.method)
    place = made.methods.index(method)
    ours = method.penalty == "soft diamond"
    accuracy = 0.7 + gain * ours + NOISE[(run.seed + 3 * place) % len(NOISE)]
    validation = accuracy + 0.05 * (method.alpha == 1.0) - 0.1 * (run.strength not in (0.0, 0.1))
    final = run.phase == "final"
    values = {
        "comparison": made.name,
        "card": made.digest,
        "run": asdict(run),
        "status": "finished",
        "losses": [1.0],
        "train_accuracy": 0.9,
        "validation_accuracy": validation,
        "test_accuracy": accuracy if final else None,
        "sparsity": dict.fromkeys(SHARES, 0.4 + gain * ours + NOISE[(2 * run.seed + place) % len(NOISE)]),
        "removal": [],
        "curves": None,
        "prunable": {"global": accuracy / 2, "layerwise": 0.1} if final else None,
        "weights": None,
        "data": {"name": "digits", "fingerprint": "0a1b"},
        "environment": {"device": "cpu x86_64"},
        "timing": {"seconds": {"train": 1.0, "total": 2.0, "processor": 1.0}},
    }
    return values | (changes(run, values) if changes else {})


def folder(base, name, gain=0.05, changes=None, text="", seeds=None, keep=None, called=""):
    """A folder of results of a made card, with the runs of which `keep` is true; `changes` to a record by run and record."""
    made = card.parse(text or CARDS[name], name)
    if seeds:
        made = made.model_copy(update={"final": made.final.model_copy(update={"seeds": tuple(seeds)})})
    place = base / (called or name)
    place.mkdir(parents=True)
    (place / "card.json").write_text(json.dumps(made.model_dump(mode="json")))
    known = sweep(made.model_dump_json(), gain, changes)
    lines = [json.dumps(each) + "\n" for run, each in known.items() if keep is None or keep(run)]
    (place / "records.jsonl").write_text("".join(lines))
    return place


@functools.cache
def sweep(text, gain, changes):
    """All records that a card asks for."""
    made, known = card.Card.model_validate_json(text), {}
    while pending := plan.pending(made, known):
        known |= {run: record(made, run, gain, changes) for run in pending}
    return known


def claim_of(*readings, amounts=None):
    return Claim("A sentence.", "v1", readings, amounts or {})


PLAIN = claim_of(Reading(SOFT, NONE, ACCURACY, IMAGES))


def judged(claim, *folders):
    return verdicts.judge(folders, [claim]).claims[0]


def findings(claim, *folders):
    return judged(claim, *folders).readings[0].findings


# ---- the verdict of a finding, of a reading, of a claim -----------------------------------------------------------------


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, "shown"), (0.0, "not shown"), (-0.05, "contradicted")])
def test_a_difference_on_every_data_set(tmp_path, gain, verdict):
    for name in SETS:
        folder(tmp_path, name, gain)
    judgement = judged(PLAIN, tmp_path)
    assert judgement.verdict == judgement.readings[0].verdict == verdict
    first = judgement.readings[0].findings[0]
    assert first.effect.pairs == 5 and first.interval[0] < first.difference < first.interval[1]
    assert first.our_method == "soft diamond 1", "the one that validation likes most"
    assert {each.verdict for each in judgement.readings[0].counted} == {verdict}


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.05, 0.05, 0.0), "not shown"), ((0.05, 0.0, -0.05), "contradicted"), ((0.05, 0.05, -0.05), "contradicted")],
)
def test_one_data_set_decides(tmp_path, gains, verdict):
    for name, gain in zip(SETS, gains, strict=True):
        folder(tmp_path, name, gain)
    assert judged(PLAIN, tmp_path).verdict == verdict


def test_what_is_missing_is_not_tested_with_the_command_that_fills_it(tmp_path):
    folder(tmp_path, "cifar10-wide")
    judgement = judged(PLAIN, tmp_path)
    assert judgement.verdict == "not tested" and judgement.counts == "1 not tested"
    tested, *others = judgement.readings[0].findings
    assert tested.verdict == "shown" and {each.verdict for each in others} == {"not tested"}
    for finding in others:
        name = finding.place.card
        assert finding.why == "no records" and finding.effect is None and finding.interval is None
        assert finding.command == f"softdiamond compare {name} --data-dir FOLDER --out {tmp_path / name}"
    failed = folder(tmp_path / "more", "cifar100-wide", 0.0)
    assert judged(PLAIN, tmp_path, failed).verdict == "not shown", "it cannot be shown any more"


def test_records_of_an_older_card_are_not_tested_and_left_alone(tmp_path):
    older = CARDS["cifar10-wide"].replace("batch = 8", "batch = 16")
    old = folder(tmp_path, "cifar10-wide", text=older)
    shipped = card.find("cifar10-wide").digest
    (finding, *_) = findings(PLAIN, tmp_path)
    assert finding.verdict == "not tested" and "of an older card" in finding.why and str(old) in finding.why
    assert finding.command.endswith(f"--out {tmp_path / f'cifar10-wide-{shipped}'}"), "compare refuses the old folder"
    new = folder(tmp_path, "cifar10-wide", 0.05, called="again")
    judgement = verdicts.judge([tmp_path], [PLAIN])
    (evidence, *_) = judgement.evidence
    assert (evidence.folders, evidence.older, evidence.state) == ((new,), (old,), verdicts.COMPLETE)
    assert judgement.claims[0].readings[0].findings[0].verdict == "shown"


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (lambda run: run.phase == "tune" and run.strength < 1, "tuning is not finished"),
        (lambda run: run.phase == "tune", "no final run has finished"),
        (
            lambda run: run.phase == "tune" or "soft" not in run.method,
            "no final run of the soft diamond that tuning found best",
        ),
    ],
)
def test_unfinished_comparisons_are_not_tested(tmp_path, keep, why):
    place = folder(tmp_path, "cifar10-wide", keep=keep)
    (finding, *_) = findings(PLAIN, tmp_path)
    assert finding.verdict == "not tested" and finding.why.startswith(why)
    assert finding.command.endswith(f"--out {place}"), "the same folder goes on"


def test_a_card_without_the_methods_is_not_tested(tmp_path):
    folder(tmp_path, "cifar100-wide")
    (finding,) = findings(claim_of(Reading(PAPERS, NONE, ACCURACY, IMAGES[1:2])), tmp_path)
    assert finding.verdict == "not tested" and "the card has no soft" in finding.why.replace("the soft", "soft", 1)
    assert finding.command == ""


def test_some_seeds_are_computed_and_said(tmp_path):
    folder(tmp_path, "cifar10-wide", keep=lambda run: run.phase == "tune" or run.seed < 3)
    judgement = verdicts.judge([tmp_path], [PLAIN])
    finding = judgement.claims[0].readings[0].findings[0]
    assert finding.effect.pairs == 3 and "3 of 5 seeds so far" in finding.notes
    assert judgement.evidence[0].state == "16 final runs are still to do" and judgement.evidence[0].command


def test_diverged_runs_show_nothing(tmp_path):
    lost = dict.fromkeys(("train_accuracy", "validation_accuracy", "test_accuracy", "sparsity", "prunable"))

    def changes(run, _):
        return lost | {"status": "diverged"} if (run.method, run.seed) == ("none", 2) else {}

    folder(tmp_path, "cifar10-wide", changes=changes)
    (finding, *_) = findings(PLAIN, tmp_path)
    assert finding.effect.pairs == 4 and finding.effect.p is None and finding.verdict == "not shown"
    assert "1 of their final runs diverged: nothing is shown" in finding.notes


def test_one_seed_shows_nothing(tmp_path):
    folder(tmp_path, "cifar10-wide", keep=lambda run: run.phase == "tune" or run.seed == 0)
    (finding, *_) = findings(PLAIN, tmp_path)
    assert finding.verdict == "not shown" and finding.interval is None and finding.effect.pairs == 1


def test_caltech_101_counts_only_in_the_place_of_caltech_256(tmp_path):
    for name in ("cifar10-wide", "cifar100-wide"):
        folder(tmp_path, name, 0.05)
    folder(tmp_path, "caltech101-wide", -0.05)
    reading = judged(PLAIN, tmp_path).readings[0]
    *_, whole, stand_in = reading.findings
    assert (whole.verdict, stand_in.verdict) == ("not tested", "contradicted")
    assert stand_in in reading.counted and whole not in reading.counted and reading.verdict == "contradicted"
    folder(tmp_path, "caltech256-wide", 0.05)
    reading = judged(PLAIN, tmp_path).readings[0]
    assert reading.findings[-1].verdict == "contradicted" and reading.findings[-1] not in reading.counted
    assert reading.verdict == "shown"


def test_readings_that_disagree_show_nothing(tmp_path):
    folder(tmp_path, "cifar10-wide", 0.05)
    ahead, behind, level = (Reading(*pair, ACCURACY, IMAGES[:1]) for pair in ((SOFT, NONE), (NONE, SOFT), (L2, NONE)))
    nowhere = Reading(SOFT, NONE, ACCURACY, IMAGES[1:2])
    for readings, verdict in (
        ((ahead,), "shown"),
        ((ahead, behind), "not shown"),
        ((ahead, level), "not shown"),
        ((behind, level), "contradicted"),
        ((behind, nowhere), "contradicted"),
        ((ahead, nowhere), "not tested"),
        ((level, nowhere), "not shown"),
        ((nowhere,), "not tested"),
    ):
        judgement = judged(claim_of(*readings), tmp_path)
        assert judgement.verdict == verdict, judgement.counts
    assert judged(claim_of(ahead, behind, nowhere), tmp_path).counts == "1 shown, 1 contradicted, 1 not tested"


# ---- the quantities, against hand computation ----------------------------------------------------------------------------


def by_hand(place, ours, theirs, value):
    """Values of two methods by seed, of the final runs at the chosen strength."""
    kept = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    finals = [each for each in kept if each["run"]["phase"] == "final"]
    return [
        {each["run"]["seed"]: value(each) for each in finals if each["run"]["method"] == method}
        for method in (ours, theirs)
    ]


def test_all_three_meanings_of_a_per_cent(tmp_path):
    place = folder(tmp_path, "cifar10-wide", 0.02)
    claim = claim_of(*(Reading(soft(0.5), L2, quantity, IMAGES[:1]) for quantity in ACCURACIES))
    found = [reading.findings[0] for reading in judged(claim, tmp_path).readings]
    ours, theirs = by_hand(place, "soft diamond 0.5", "L2", lambda each: each["test_accuracy"])
    for finding, meaning in zip(
        found,
        (
            lambda a, b: a - b,
            lambda a, b: a / b - 1,
            lambda a, b: ((1 - b) - (1 - a)) / (1 - b),
        ),
        strict=True,
    ):
        changes = [meaning(ours[seed], theirs[seed]) for seed in range(5)]
        half = stats.t.ppf(0.975, 4) * stdev(changes) / math.sqrt(5)
        assert finding.difference == pytest.approx(mean(changes))
        assert finding.interval == pytest.approx((mean(changes) - half, mean(changes) + half))
        assert finding.effect.p == pytest.approx(stats.ttest_1samp(changes, 0).pvalue)
        assert finding.our_mean == pytest.approx(mean(ours.values()))
    assert found[0].difference < found[1].difference < found[2].difference


def test_a_per_cent_of_no_error_is_not_defined(tmp_path):
    folder(tmp_path, "cifar10-wide", changes=lambda run, kept: (kept["test_accuracy"] and {"test_accuracy": 1.0}) or {})
    (finding,) = findings(claim_of(Reading(SOFT, NONE, ACCURACIES[2], IMAGES[:1])), tmp_path)
    assert finding.verdict == "not tested" and "not defined" in finding.why


def test_every_definition_of_sparsity_reads_its_own_measure(tmp_path):
    def changes(run, kept):
        one = 0.2 * (run.method == "soft diamond 1")
        shares = {name: 0.1 * place + one for place, name in enumerate(SHARES)}
        jitter = NOISE[(run.seed + len(run.method)) % 7]
        return {"sparsity": {name: value + jitter for name, value in shares.items()}}

    place = folder(tmp_path, "cifar10-wide", changes=changes)
    claim = claim_of(*(Reading(SOFT, NONE, quantity, IMAGES[:1]) for quantity in SPARSITIES))
    found = [reading.findings[0] for reading in judged(claim, tmp_path).readings]
    for finding, name in zip(found[:3], ("below_1e-3", "below_1e-2", "below_1e-2_of_largest"), strict=True):
        ours, theirs = by_hand(place, "soft diamond 1", "none", lambda each, name=name: each["sparsity"][name])
        assert (finding.our_mean, finding.their_mean) == pytest.approx((mean(ours.values()), mean(theirs.values())))
        assert finding.difference == pytest.approx(finding.our_mean - finding.their_mean)
    assert len({round(finding.their_mean, 6) for finding in found}) == 4
    ours, theirs = by_hand(place, "soft diamond 1", "none", lambda each: each["prunable"]["global"])
    assert found[3].difference == pytest.approx(mean(ours.values()) - mean(theirs.values()))


def test_what_old_records_did_not_measure_is_not_tested(tmp_path):
    def changes(run, kept):
        return {"sparsity": {name: 0.1 for name in SHARES if name != "below_1e-2_of_largest"}}

    folder(tmp_path, "cifar10-wide", changes=changes)
    (finding,) = findings(claim_of(Reading(SOFT, NONE, SPARSITIES[2], IMAGES[:1])), tmp_path)
    assert finding.verdict == "not tested" and finding.why == "not measured in these records"


def test_more_may_be_asked_than_a_difference(tmp_path):
    folder(tmp_path, "cifar10-wide", 0.02)
    by_least = {}
    for least in (-0.005, 0.0, 0.01, 0.04):
        (finding,) = findings(claim_of(Reading(SOFT, NONE, ACCURACY, IMAGES[:1], least)), tmp_path)
        by_least[least] = finding
    assert [each.verdict for each in by_least.values()] == ["shown", "shown", "shown", "contradicted"]
    assert (
        len({(round(each.difference, 9), *(round(end, 9) for end in each.interval)) for each in by_least.values()}) == 1
    )
    assert by_least[0.01].effect.p > by_least[0.0].effect.p


def test_the_figure_of_a_sentence_must_be_reached(tmp_path):
    folder(tmp_path, "cifar10-wide", 0.02)
    reading = Reading(SOFT, NONE, ACCURACY, IMAGES[:1])
    for amount, verdict in ((0.02, "shown"), (0.0457, "not shown")):
        (finding,) = findings(claim_of(reading, amounts={"CIFAR-10": amount}), tmp_path)
        assert finding.verdict == verdict and finding.claimed == amount and finding.interval[0] > 0


def test_p_is_corrected_over_all_of_a_claim_in_one_quantity(tmp_path):
    for name in SETS:
        folder(tmp_path, name, 0.003)
    readings = [Reading(SOFT, other, quantity, IMAGES[:3]) for quantity in ACCURACIES[:2] for other in (NONE, L2)]
    together = judged(claim_of(*readings), tmp_path).readings
    for half in (together[:2], together[2:]):
        effects = [finding.effect for reading in half for finding in reading.findings]
        assert [each.p_holm for each in effects] == summary.holm([each.p for each in effects]) and len(effects) == 6


def test_the_unfair_reading_is_the_best_run_against_one_seed(tmp_path):
    place = folder(tmp_path, "cifar10-wide", 0.0)
    kept = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    finals = [each for each in kept if each["run"]["phase"] == "final"]
    ours = [each["test_accuracy"] for each in finals if each["run"]["method"].startswith("soft")]
    (theirs,) = (
        each["test_accuracy"] for each in finals if (each["run"]["method"], each["run"]["seed"]) == ("none", 0)
    )
    (finding, *_) = findings(PLAIN, tmp_path)
    assert len(ours) == 25 and finding.unfair == verdicts.Unfair(max(ours) - theirs, 25, 0)
    (half,) = findings(claim_of(Reading(soft(0.5), NONE, ACCURACIES[2], IMAGES[:1])), tmp_path)
    ours = [each["test_accuracy"] for each in finals if each["run"]["method"] == "soft diamond 0.5"]
    assert half.unfair.difference == pytest.approx((max(ours) - theirs) / (1 - theirs)) and half.unfair.ours == 5


def test_other_regularizers_are_told_by_what_they_are(tmp_path):
    """The treatments of the made card have names of their own; each place finds its own, by its figures."""
    gains = {"bare": 0.0, "D": 0.01, "B": 0.02, "A": 0.03, "DBA": 0.04}

    def changes(run, kept):
        if kept["test_accuracy"] is None or not run.method.startswith("soft"):
            return {}
        return {"test_accuracy": kept["test_accuracy"] + gains[run.treatment]}

    folder(tmp_path, "cifar10-wide-combinations", 0.0, changes)
    found = findings(claim_of(Reading(soft(0.5), NONE, ACCURACY, COMBINED)), tmp_path)
    bare = findings(claim_of(Reading(soft(0.5), NONE, ACCURACY, (Place("x", "cifar10-wide-combinations"),))), tmp_path)
    assert [each.difference - bare[0].difference for each in found] == pytest.approx([0.01, 0.02, 0.03])


# ---- folders ---------------------------------------------------------------------------------------------------------------


def test_a_friends_folder_is_pooled_and_counted_once(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    folder(mine, "cifar10-wide")
    folder(theirs, "cifar10-wide", seeds=(3, 4, 5, 6), changes=lambda run, kept: {"train_accuracy": 0.1})
    alone, both = (verdicts.judge(folders, [PLAIN]) for folders in ([mine], [mine, theirs / "cifar10-wide"]))
    assert [each.claims[0].readings[0].findings[0].effect.pairs for each in (alone, both)] == [5, 7]
    _, records, twice = store.read_folders([mine / "cifar10-wide", theirs / "cifar10-wide"])
    (evidence, *_) = both.evidence
    assert evidence.twice == twice > 0 and evidence.runs == len(records) and evidence.seeds == 7
    assert verdicts.judge([mine, mine], [PLAIN]).evidence[0].twice == 0, "a folder that is given twice is one"


def test_other_data_are_said(tmp_path):
    folder(tmp_path / "mine", "cifar10-wide")
    folder(
        tmp_path / "other", "cifar10-wide", seeds=(7, 8), changes=lambda run, kept: {"data": {"fingerprint": "ffff"}}
    )
    finding = findings(PLAIN, tmp_path / "mine", tmp_path / "other")[0]
    assert "the runs saw 2 different states of the data" in finding.notes


def test_folders_without_results_and_damaged_ones_are_named(tmp_path):
    with pytest.raises(UserError, match="neither it nor a folder in it has a card"):
        verdicts.judge([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        verdicts.judge([tmp_path / "nowhere"])
    place = folder(tmp_path, "cifar10-wide")
    with (place / "records.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"line \d+ of .*records.jsonl is not a record"):
        verdicts.judge([tmp_path], [PLAIN])


def test_cards_that_no_claim_rests_on_are_left_alone(tmp_path):
    folder(tmp_path, "cifar10-wide")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "card.json").write_text(
        json.dumps(card.parse(CARD.format(name="mine", more="", treatments=""), "").model_dump(mode="json"))
    )
    (other / "records.jsonl").write_text("damaged\n")
    assert [each.card for each in verdicts.judge([tmp_path], [PLAIN]).evidence] == list(
        dict.fromkeys(p.card for p in IMAGES)
    )


SHIPPED = card.shipped()  # before any test replaces it


def test_the_shipped_cards_have_what_the_claims_ask_for(monkeypatch):
    monkeypatch.setattr(card, "shipped", lambda: SHIPPED)
    needed = {place.card for claim in CLAIMS for reading in claim.readings for place in reading.places if place.card}
    shipped = {name: card.find(name) for name in sorted(needed)}
    for reading in (reading for claim in CLAIMS for reading in claim.readings):
        for place in (place for place in reading.places if place.card):
            kept = shipped[place.card]
            assert len([each for each in kept.treatments if place.matches(each)]) == 1, place
            for methods in (reading.ours, reading.theirs):
                assert any(methods.matches(method) for method in kept.methods), (place.card, methods.words)
            assert kept.sparsity.lost == 0.5, "the fourth definition of sparsity"
            assert "once" in kept.removal.ways and kept.removal.unit == "weight"


# ---- the claims themselves ---------------------------------------------------------------------------------------------


def test_every_claim_has_a_test_that_can_be_told():
    assert len({(claim.sentence, claim.version) for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.version for claim in CLAIMS} == {"v1", "v2"}
    for claim in CLAIMS:
        words = [reading.words for reading in claim.readings]
        assert words and len(
            {(each, reading.places) for each, reading in zip(words, claim.readings, strict=True)}
        ) == len(words)
        names = {place.name for reading in claim.readings for place in reading.places}
        assert claim.amounts.keys() <= names
        for amount in claim.amounts.values():
            assert f"{100 * amount:.2f}%" in claim.sentence, "the figure is the sentence's own"
    assert len(CLAIMS[0].readings) == 12, "two soft diamonds, against none and L2, in three meanings"


def test_translation_is_not_tested_and_says_why(tmp_path):
    folder(tmp_path, "cifar10-wide")
    translation = next(claim for claim in CLAIMS if claim.readings[0].places[0].name == "IWSLT-2016")
    judgement = judged(translation, tmp_path)
    assert judgement.verdict == "not tested" and judgement.readings[0].findings[0].why == verdicts.NO_CARD


# ---- page, JSON, command --------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects elements and texts; complains of tags that do not match."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def seen(text):
    return " ".join("".join(Reader(text).text).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of results of all cards but Caltech-256's, and all claims judged by them."""
    patch = pytest.MonkeyPatch()
    patch.setattr(card, "shipped", lambda: CARDS)
    base = tmp_path_factory.mktemp("results")
    for name, gain in (
        ("cifar10-wide", 0.06),
        ("cifar100-wide", 0.0),
        ("caltech101-wide", 0.05),
        ("cifar10-wide-combinations", -0.05),
    ):
        folder(base, name, gain)
    yield base, verdicts.judge([base])
    patch.undo()


def test_the_page_tells_every_finding(whole):
    _, judgement = whole
    shown = seen(page.page(judgement))
    values = verdicts.plain(judgement)
    assert verdicts.count_verdicts(judgement) in shown
    for claim in values["claims"]:
        assert claim["sentence"] in shown and claim["source"] in shown
        for reading in claim["readings"]:
            assert f"{reading['test']}: {reading['verdict']}" in shown
            for finding in reading["findings"]:
                if finding["verdict"] == "not tested":
                    assert f"not tested: {finding['why']}{' ' * bool(finding['command'])}".strip() in shown
                    continue
                assert f"{100 * finding['difference']:+.2f}".replace("-", "−").lstrip("+") in shown
                assert f"best of {finding['unfair']['ours']} runs, against seed 0" in shown
    verdict_of = {claim["sentence"]: claim["verdict"] for claim in values["claims"]}
    assert verdict_of["They also outperformed L2 regularizers on all the test cases."] == "not shown"
    assert verdict_of[CLAIMS[7].sentence] == "contradicted"
    assert "Caltech-256in its place Caltech-101, of the same authors and layout" in shown
    assert "softdiamond compare caltech256-wide --data-dir FOLDER --out" in shown


def test_no_verdict_is_written_by_hand(whole, tmp_path):
    """With other figures the same code says the contrary: outside the rules each verdict on the page is a judged one."""
    for name in SETS:
        folder(tmp_path, name, -0.05)
    _, judgement = whole
    contrary = verdicts.judge([tmp_path])
    for each in (judgement, contrary):
        text = page.page(each)
        found = re.findall(r'<span class="verdict [a-z]*">([a-z ]+)</span>', text)
        expected = [claim.verdict for claim in each.claims]
        for claim in each.claims:
            expected.append(claim.verdict)
            for reading in claim.readings:
                expected.append(reading.verdict)
                expected += [finding.verdict for finding in reading.findings]
        assert found == expected
    first, second = ([claim["verdict"] for claim in verdicts.plain(each)["claims"]] for each in (judgement, contrary))
    assert first != second and "shown" not in second and second.count("contradicted") > 5


def test_a_page_needs_no_network_and_repeats(whole):
    _, judgement = whole
    text = page.page(judgement)
    assert text == page.page(judgement)
    ids = [attributes["id"] for _, attributes in Reader(text).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in Reader(text).elements:
        assert tag not in ("script", "link", "img", "iframe") and "src" not in attributes
        assert attributes.get("href", "#answer").startswith("#") and attributes.get("href", "#answer")[1:] in ids
    assert "url(" not in text and "@import" not in text and not re.search(r"\bnan\b|None", seen(text))


def test_hostile_names_are_text(tmp_path, monkeypatch):
    evil = "<img src=x onerror=alert(1)>[bold]"
    text = CARDS["cifar10-wide"].replace(
        '{ penalty = "none" }',
        json.dumps({"penalty": "none", "name": evil})
        .replace(":", " =")
        .replace('"penalty"', "penalty")
        .replace('"name"', "name"),
    )
    monkeypatch.setattr(card, "shipped", lambda: CARDS | {"cifar10-wide": text})
    folder(tmp_path / "<b>&", "cifar10-wide", text=text)
    judgement = verdicts.judge([tmp_path / "<b>&"])
    shown = page.page(judgement)
    assert not [tag for tag, _ in Reader(shown).elements if tag in ("img", "b") and evil in tag]
    assert evil in seen(shown) and "<img" not in shown and "<b>&" not in shown and "<b>& " not in shown


@pytest.fixture
def call(capsys):
    def called(*arguments):
        status = cli.main(["claims", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return called


def test_the_command_writes_page_and_json(call, whole, tmp_path):
    base, judgement = whole
    status, out, lines = call(base, "--out", tmp_path / "new")
    assert (
        status == 0
        and lines == []
        and out.splitlines()[-1] == f"Written to {tmp_path / 'new'}: claims.html, claims.json"
    )
    assert json.loads((tmp_path / "new" / "claims.json").read_text()) == json.loads(
        json.dumps(verdicts.plain(judgement))
    )
    assert (tmp_path / "new" / "claims.html").read_text() == page.page(judgement)
    for sentence in (*verdicts.missing(judgement), verdicts.count_verdicts(judgement)):
        assert sentence in out
    assert out.count("┃ verdict") == 2 and "contradicted" in out


def test_the_command_pools_folders_of_the_current_one_with_a_friends(call, tmp_path, monkeypatch):
    folder(tmp_path / "mine", "caltech101-wide")
    folder(tmp_path / "theirs", "caltech101-wide", seeds=(4, 5))
    monkeypatch.chdir(tmp_path / "mine")
    status, _, lines = call("--add", tmp_path / "theirs", "--out", tmp_path / "new")
    assert status == 0
    assert re.fullmatch(r"softdiamond: \d+ runs lie in several folders: those of the first are taken", *lines)
    records = json.loads((tmp_path / "new" / "claims.json").read_text())["records"]
    (one,) = (each for each in records if each["runs"])
    assert one["card"] == "caltech101-wide" and one["seeds"] == 6 and one["folders"][0] == "caltech101-wide"
    assert len(one["folders"]) == 2


def test_bad_input_of_the_command_is_one_line(call, tmp_path):
    base = folder(tmp_path / "base", "caltech101-wide")
    for arguments, words in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path], "neither it nor a folder in it has a card.json"),
        ([base, "--add", tmp_path], "neither it nor a folder in it has a card.json"),
    ):
        status, out, lines = call(*arguments, "--out", tmp_path / "out")
        assert status == 2 and out == "" and len(lines) == 1 and words in lines[0]
    place = folder(tmp_path, "cifar10-wide")
    (place / "records.jsonl").write_text("no record\n")
    status, out, lines = call(tmp_path, "--out", tmp_path / "out")
    assert status == 2 and len(lines) == 1 and "line 1 of" in lines[0] and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    status, _, lines = call(base, "--out", tmp_path / "file")
    assert status == 2 and len(lines) == 1 and "cannot write" in lines[0] and (tmp_path / "file").read_text() == "mine"
