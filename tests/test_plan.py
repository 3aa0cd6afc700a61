"""What is still to do, and what is chosen, from made-up records: nothing is trained here."""

import json
import math
import random
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softdiamond.experiments import plan
from softdiamond.experiments.card import Card, Data, Final, Method, Model, Removal, Training, Treatment, Tuning
from softdiamond.experiments.plan import Objective, Run, choices, division_of, final_runs, outlook, pending, tuning_runs

NONE, L1, L2 = (Method(penalty=name) for name in ("none", "L1", "L2"))
SOFT = Method(penalty="soft diamond", alpha=0.5)
ALL_WAYS = Removal(
    shares=(0.0, 0.5, 0.9, 0.96, 0.98, 0.99),
    ways=("once", "fine-tuned", "gradual"),
    divisions=("global", "relative"),
    gradual_tuned_at=(0.95, 0.98),
)

ONCE = Removal()  # nothing is removed: the choice is one for whole nets
PLAIN = Treatment(name="plain")


def made(
    *,
    methods=(NONE, L2),
    strengths=(0.1, 0.2, 0.4),
    rates=None,
    seeds=(100,),
    final=(0, 1),
    widen=0,
    tolerance=0.0,
    removal=ONCE,
    treatments=(PLAIN,),
):
    """Return a card; its data, model and training do not matter here."""
    return Card(
        name="made-up",
        data=Data(name="digits", train=10, validation=10),
        model=Model(name="mlp"),
        training=Training(optimizer="SGD", rate=0.05, epochs=1, batch=5),
        methods=methods,
        tuning=Tuning(strengths=strengths, rates=rates, seeds=seeds, widen=widen, tolerance=tolerance),
        final=Final(seeds=final, baseline=methods[0].label),
        removal=removal,
        treatments=treatments,
    )


FULL = made(
    methods=(NONE, L1, L2, SOFT),
    seeds=(100, 101),
    widen=2,
    removal=ALL_WAYS,
    treatments=(PLAIN, Treatment(name="dropout", options={"dropout": 0.5})),
)

SEVERAL = made(methods=(L1, L2), removal=ALL_WAYS, seeds=(100, 101), widen=2)


def record(card, run, accuracy):
    """Return what a run would say; ``accuracy`` is a function of run, way, share and division, None if it diverged."""
    removal = card.removal
    if run.kind == "gradual":
        places = [("gradual", run.share, run.division)]
    else:
        divisions = [run.division] if run.division else removal.divisions
        places = [(w, s, d) for d in divisions for s in removal.shares for w in removal.ways if w != "gradual"]
        places = [(way, share, division) for way, share, division in places if way == "once" or share > 0]
    whole = accuracy(run, "once", 0.0, "")
    final = run.phase == "final"
    rows = [
        {"way": w, "share": s, "division": d, "validation": accuracy(run, w, s, d), "test": 0.5 if final else None}
        for w, s, d in places
    ]
    return {
        "run": asdict(run),
        "status": "diverged" if whole is None else "finished",
        "validation_accuracy": whole,
        "test_accuracy": 0.5 if final and whole is not None else None,
        "removal": [] if whole is None else rows,
    }


def completed(card, accuracy, *, tuning_only=False):
    """Do what is pending until nothing is; return the records and the rounds it took."""
    records, rounds = {}, 0
    while runs := pending(card, records):
        if tuning_only and runs[0].phase == "final":
            break
        assert len(set(runs)) == len(runs) and not set(runs) & records.keys()
        assert len({run.phase for run in runs}) == 1
        records |= {run: record(card, run, accuracy) for run in runs}
        rounds += 1
        assert rounds <= 2 + card.tuning.widen
    return records, rounds


def peaked(at):
    """Accuracy that is highest at a strength (none: 0.5)."""
    return lambda run, *_: 0.9 - 0.1 * abs(math.log(run.strength / at)) / 10 if run.strength else 0.5


def by_strength(values, otherwise=0.5):
    return lambda run, *_: values.get(run.strength, otherwise)


def best(card, accuracy, label="L2", way="once", share=0.0):
    return choices(card, completed(card, accuracy, tuning_only=True)[0])[Objective("plain", label, way, share)]


# --- what is ahead ------------------------------------------------------------------------------------------------------


FEW_WAYS = ALL_WAYS.model_copy(update={"shares": (0.0, 0.9, 0.98), "divisions": ("relative",)})
AHEAD = {
    "once": made(widen=2),
    "rates": made(rates=(0.1, 0.2), widen=1),
    "ways": made(removal=FEW_WAYS, widen=2, treatments=FULL.treatments),
}


@pytest.mark.parametrize("card", AHEAD.values(), ids=AHEAD)
@given(chosen=st.integers(0, 2**32 - 1))
@settings(max_examples=3)
def test_outlook_holds_whatever_is_chosen(card, chosen):
    """At each stage, of each group: what will have been done lies between the least and the most that was said."""
    draw = random.Random(chosen)
    values = {}

    def accuracy(run, *place):
        return values.setdefault((run, place), draw.random())

    complete, _ = completed(card, accuracy)
    records = {}
    while True:
        ahead = outlook(card, records)
        total = Counter(run.group for run in complete)
        for group in total | ahead.certain | ahead.possible:
            least = ahead.done[group] + ahead.certain[group]
            assert least <= total[group] <= least + ahead.possible[group], group
        assert ahead.done.total() == len(records)
        if not (runs := pending(card, records)):
            break
        if runs[0].phase == "final":
            assert not ahead.possible and ahead.certain == Counter(run.group for run in runs)
        for run in runs[: draw.randint(math.ceil(len(runs) / 2), len(runs))]:  # a stage may be stopped anywhere
            records[run] = complete[run]
    assert not ahead.certain and not ahead.possible


def test_outlook_of_a_range_that_may_be_widened():
    card = made(methods=(NONE, L2), strengths=(0.1, 0.2, 0.4), seeds=(100, 101), widen=2)
    ahead = outlook(card, {})
    tune, final = (plan.RunGroup(phase, "plain", "L2", "plain") for phase in ("tune", "final"))
    assert ahead.certain[tune] == 6 and ahead.possible == {tune: 4}, "one end in a round: one objective chooses"
    assert ahead.certain[final] == 2
    records = {run: record(card, run, lambda run, *_: run.strength) for run in pending(card, {})}
    ahead = outlook(card, records)
    assert ahead.certain[tune] == 2 and ahead.possible == {tune: 2}
    records = {run: record(card, run, by_strength({0.2: 0.9})) for run in pending(card, {})}
    assert not outlook(card, records).possible, "a choice inside the range widens nothing"


# --- tuning and final runs ----------------------------------------------------------------------------------------------


def test_first_come_all_tuning_runs_as_many_for_each_method():
    runs = pending(FULL, {})
    assert {run.phase for run in runs} == {"tune"} and len(set(runs)) == len(runs)
    counts = Counter((run.treatment, run.method, run.kind) for run in runs)
    gradual = 2 * 2  # shares that are tuned, divisions
    for treatment in ("plain", "dropout"):
        for label in ("L1", "L2", "soft diamond 0.5"):
            assert counts[treatment, label, "plain"] == 3 * 2
            assert counts[treatment, label, "gradual"] == 3 * 2 * gradual
        assert counts[treatment, "none", "plain"] == 2 and counts[treatment, "none", "gradual"] == 2 * gradual
    assert {run.seed for run in runs} == {100, 101}
    assert {(run.share, run.division) for run in runs if run.kind == "plain"} == {(0.0, "")}
    assert {run.share for run in runs if run.kind == "gradual"} == {0.95, 0.98}


def test_final_runs_wait_for_the_last_trial():
    card = made()
    first = pending(card, {})
    records = {run: record(card, run, peaked(0.2)) for run in first}
    for left_out in first:
        less = {run: value for run, value in records.items() if run != left_out}
        assert pending(card, less) == [left_out]
    assert {run.phase for run in pending(card, records)} == {"final"}


@pytest.mark.parametrize(
    "card", [made(), FULL, made(rates=(0.01, 0.1), seeds=(7, 8, 9))], ids=["small", "ways", "rates"]
)
def test_a_comparison_becomes_complete_with_the_same_fresh_seeds_for_all(card):
    records, rounds = completed(card, peaked(0.2))
    assert rounds == 2 and pending(card, records) == []
    finals = [run for run in records if run.phase == "final"]
    assert set(finals) == set(final_runs(card, records))
    seeds = [run.seed for run in final_runs(card, records)]
    assert seeds == sorted(seeds), "the runs of a pair are done next to each other"
    served = {(run.treatment, run.method, run.kind, run.share, run.strength, run.rate) for run in finals}
    for each in served:
        seeds = [r.seed for r in finals if (r.treatment, r.method, r.kind, r.share, r.strength, r.rate) == each]
        assert sorted(seeds) == list(card.final.seeds)
    chosen = choices(card, records)
    assert list(chosen) == plan.objectives(card)
    for objective, choice in chosen.items():
        for seed in card.final.seeds:
            run = plan.final_run(objective, choice, seed)
            assert run in records and run.division == choice.division
            assert (run.kind == "gradual") == (run.share > 0) == (objective.way == "gradual")


def test_one_final_run_serves_all_objectives_with_its_setting():
    card = FULL.model_copy(update={"removal": ALL_WAYS.model_copy(update={"ways": ("once", "fine-tuned")})})
    finals = [run for run in completed(card, peaked(0.2))[0] if run.phase == "final"]
    assert len(finals) == 2 * 4 * 2, "treatments, methods, seeds: shares and ways agree on one strength"


def test_added_final_seeds_ask_for_their_runs_alone():
    card = made(final=(0, 1))
    records, _ = completed(card, peaked(0.2))
    more = made(final=(0, 1, 2))
    assert {(run.method, run.seed) for run in pending(more, records)} == {("none", 2), ("L2", 2)}


def test_tuning_and_final_runs_are_never_one():
    records, _ = completed(SEVERAL, peaked(0.2))
    seeds = {phase: {run.seed for run in records if run.phase == phase} for phase in ("tune", "final")}
    assert seeds == {"tune": {100, 101}, "final": {0, 1}}


def test_records_found_by_run_after_a_journey_through_json():
    records, _ = completed(SEVERAL, peaked(0.2))
    lines = [json.dumps(value) for value in records.values()]
    assert plan.by_run(json.loads(line) for line in lines) == records
    assert pending(SEVERAL, plan.by_run(json.loads(line) for line in lines)) == []


def test_order_of_records_does_not_matter():
    records, _ = completed(SEVERAL, peaked(0.37), tuning_only=True)
    expected = pending(SEVERAL, records), choices(SEVERAL, records)
    for _ in range(5):
        items = list(records.items())
        random.shuffle(items)
        shuffled = dict(items)
        assert pending(SEVERAL, shuffled) == expected[0]
        assert choices(SEVERAL, shuffled) == expected[1]


def test_objectives_of_the_ways():
    card = made(removal=ALL_WAYS, methods=(NONE,))
    ways = [(each.way, each.share) for each in plan.objectives(card)]
    assert ways == [
        *(("once", share) for share in (0.0, 0.5, 0.9, 0.96, 0.98, 0.99)),
        *(("fine-tuned", share) for share in (0.5, 0.9, 0.96, 0.98, 0.99)),
        *(("gradual", share) for share in (0.9, 0.96, 0.98, 0.99)),
    ]
    only = made(removal=ALL_WAYS.model_copy(update={"ways": ("gradual",)}))
    assert {run.kind for run in pending(only, {})} == {"gradual"}


# --- the choice ---------------------------------------------------------------------------------------------------------


def test_highest_mean_validation_accuracy_is_chosen():
    choice = best(made(), by_strength({0.1: 0.8, 0.2: 0.9, 0.4: 0.7}))
    assert choice == plan.Choice(0.2, 0.05, "global", 0.9, "", "", (0.1, 0.2, 0.4), 3)
    per_seed = {(0.1, 100): 0.8, (0.1, 101): 0.8, (0.2, 100): 0.95, (0.2, 101): 0.6, (0.4, 100): 0.7, (0.4, 101): 0.7}
    two = best(made(seeds=(100, 101)), lambda run, *_: per_seed.get((run.strength, run.seed), 0.5))
    assert (two.strength, two.validation, two.trials) == (0.1, pytest.approx(0.8), 6), "the mean decides"


def test_none_has_one_trial_a_rate_and_no_edge_of_strength():
    card = made(rates=(0.01, 0.1), widen=2)
    choice = best(card, lambda run, *_: 0.9 - run.rate if run.method == "none" else 0.5, "none")
    assert choice == plan.Choice(0.0, 0.01, "global", pytest.approx(0.89), "", "lowest", (0.0,), 2)


@pytest.mark.parametrize(
    ("rates", "at", "edge"),
    [
        (None, 0.05, ""),
        ((0.05,), 0.05, ""),
        ((0.01, 0.1), 0.01, "lowest"),
        ((0.01, 0.1), 0.1, "highest"),
        ((0.01, 0.05, 0.1), 0.05, ""),
        ((0.1, 0.01, 0.05), 0.01, "lowest"),
        ((0.1, 0.01, 0.05), 0.05, ""),
        ((0.05, 0.1, 0.01), 0.1, "highest"),
    ],
)
def test_a_rate_at_an_end_is_flagged_and_no_rate_is_added(rates, at, edge):
    card = made(rates=rates, widen=2)
    records, rounds = completed(card, lambda run, *_: 0.9 if (run.strength, run.rate) == (0.2, at) else 0.5)
    choice = choices(card, records)[Objective("plain", "L2")]
    assert (choice.strength, choice.rate, choice.edge, choice.rate_edge) == (0.2, at, "", edge)
    assert choice.trials == 3 * len(rates or (at,)) and rounds == 2
    assert {run.rate for run in records} == set(rates or (at,))


def test_the_strongest_of_equals_is_chosen_with_its_best_rate():
    assert best(made(), by_strength({0.1: 0.9, 0.2: 0.9, 0.4: 0.7})).strength == 0.2
    values = {(0.1, 0.01): 0.9, (0.1, 0.1): 0.8, (0.2, 0.01): 0.9, (0.2, 0.1): 0.85}
    card = made(rates=(0.01, 0.1))
    choice = best(card, lambda run, *_: values.get((run.strength, run.rate), 0.5))
    assert (choice.strength, choice.rate) == (0.2, 0.01)
    choice = best(card, lambda run, *_: 0.9 if run.strength == 0.2 else 0.5)
    assert (choice.strength, choice.rate) == (0.2, 0.1), "of equal rates the highest"


@pytest.mark.parametrize(
    ("tolerance", "strength"), [(0.0, 0.1), (0.4, 0.1), (0.5, 0.2), (0.9, 0.2), (1.0, 0.4), (50.0, 0.4)]
)
def test_the_strongest_within_the_tolerance_is_chosen(tolerance, strength):
    choice = best(made(tolerance=tolerance), by_strength({0.1: 0.900, 0.2: 0.895, 0.4: 0.890}))
    assert (choice.strength, choice.validation) == (strength, {0.1: 0.9, 0.2: 0.895, 0.4: 0.89}[strength])


@pytest.mark.parametrize("images", [100, 500, 4000])
@pytest.mark.parametrize("tolerance", [0.2, 0.5, 1.0])
def test_a_tolerance_is_met_exactly(images, tolerance):
    """One image in a hundred less is one point less, whatever the rounding of the fractions."""
    card = made(tolerance=tolerance, methods=(L2,), strengths=(0.1, 0.2))
    allowed = int(round(tolerance * images, 6) // 100)  # images
    wrong = []
    for right in range(allowed + 2, images + 1, images // 100):
        for lost, strength in ((allowed, 0.2), (allowed + 1, 0.1)):
            accuracy = by_strength({0.1: right / images, 0.2: (right - lost) / images})
            if best(card, accuracy).strength != strength:
                wrong.append((right, lost))
    assert not wrong


def test_tolerance_and_rates():
    values = {(0.1, 0.01): 0.9, (0.1, 0.1): 0.8, (0.2, 0.01): 0.89, (0.2, 0.1): 0.893}
    card = made(rates=(0.01, 0.1), tolerance=1.0)
    choice = best(card, lambda run, *_: values.get((run.strength, run.rate), 0.5))
    assert (choice.strength, choice.rate) == (0.2, 0.1), "the better rate of the strongest within it"
    values |= {(0.2, 0.01): 0.893, (0.2, 0.1): 0.892}
    choice = best(card, lambda run, *_: values.get((run.strength, run.rate), 0.5))
    assert (choice.strength, choice.rate) == (0.2, 0.01), "and not the highest"


def test_a_strength_that_diverged_once_is_out():
    values = {(0.2, 100): 0.95, (0.2, 101): None}
    choice = best(made(seeds=(100, 101)), lambda run, *_: values.get((run.strength, run.seed), 0.3))
    assert choice.strength == 0.4 and choice.validation == pytest.approx(0.3)


def test_where_all_diverged_the_weakest_is_taken_and_the_comparison_ends():
    card = made(widen=2, rates=(0.01, 0.1))
    records, _ = completed(card, lambda run, *_: None if run.strength else 0.5)
    choice = choices(card, records)[Objective("plain", "L2")]
    assert choice.strength == min(choice.tried) < 0.1 and (choice.rate, choice.rate_edge) == (0.01, "lowest")
    assert choice.edge == "lowest"
    assert choice.validation == 0.0 and len(choice.tried) == 3 + card.tuning.widen
    assert pending(card, records) == []
    assert all(records[run]["status"] == "diverged" for run in records if run.phase == "final" and run.method == "L2")


def test_each_way_and_share_has_its_own_choice():
    card = made(removal=ALL_WAYS.model_copy(update={"divisions": ("global",)}))
    wanted = {("once", 0.0): 0.1, ("once", 0.5): 0.2, ("fine-tuned", 0.5): 0.4, ("gradual", 0.98): 0.1}

    def accuracy(run, way, share, division):
        return 0.9 if run.strength == wanted.get((way, share)) else 0.5

    for (way, share), strength in wanted.items():
        assert best(card, accuracy, way=way, share=share).strength == strength


@pytest.mark.parametrize(
    ("share", "tuned"), [(0.9, 0.95), (0.96, 0.95), (0.965, 0.95), (0.966, 0.98), (0.98, 0.98), (0.99, 0.98)]
)
@pytest.mark.parametrize("order", [(0.95, 0.98), (0.98, 0.95)])
def test_gradual_removal_is_tuned_at_the_nearest_share_the_lower_of_two(share, tuned, order):
    removal = ALL_WAYS.model_copy(update={"shares": (0.0, share), "gradual_tuned_at": order, "divisions": ("global",)})
    strength = {0.95: 0.1, 0.98: 0.4}
    choice = best(
        made(removal=removal),
        lambda run, *_: 0.9 if strength.get(run.share) == run.strength else 0.5,
        way="gradual",
        share=share,
    )
    assert choice.strength == strength[tuned]
    assert choice.trials == 3, "of that share alone"


def test_trials_are_those_of_one_objective():
    """Settings times seeds, whatever other shares and divisions were tried beside."""
    card = made(seeds=(100, 101), rates=(0.01, 0.1), widen=1, removal=ALL_WAYS)
    records, _ = completed(card, peaked(9.9), tuning_only=True)
    counts = {(each.method, choice.trials) for each, choice in choices(card, records).items()}
    assert counts == {("none", 2 * 2), ("L2", 4 * 2 * 2)}
    for objective, choice in choices(card, records).items():
        share = plan.tuned_share(card, objective) if objective.kind == "gradual" else 0.0
        place = (objective.method, objective.kind, share, choice.division if objective.kind == "gradual" else "")
        assert choice.trials == sum((run.method, run.kind, run.share, run.division) == place for run in records)


def test_the_share_of_tuning_is_an_objectives_own_unless_it_is_gradual():
    for objective in plan.objectives(FULL):
        near = {0.9: 0.95, 0.96: 0.95, 0.98: 0.98, 0.99: 0.98}
        expected = near[objective.share] if objective.way == "gradual" else objective.share
        assert plan.tuned_share(FULL, objective) == expected, objective


def test_rounding_does_not_decide_between_two_shares_as_near():
    removal = Removal(shares=(0.0, 0.925), ways=("gradual",), gradual_tuned_at=(0.9, 0.95))
    strength = {0.9: 0.1, 0.95: 0.4}
    accuracy = {(strength[share], share): 0.9 for share in strength}
    choice = best(
        made(removal=removal),
        lambda run, *_: accuracy.get((run.strength, run.share), 0.5),
        way="gradual",
        share=0.925,
    )
    assert choice.strength == strength[0.9]


def test_methods_may_have_strengths_of_their_own():
    card = made(methods=(NONE, L2, L1.model_copy(update={"strengths": (7.0, 5.0, 6.0)})))
    assert {run.strength for run in pending(card, {}) if run.method == "L1"} == {5.0, 6.0, 7.0}
    assert best(card, peaked(6.0), "L1").tried == (5.0, 6.0, 7.0)


# --- widening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "widen", "tried", "edge"),
    [
        (0.2, 2, (0.1, 0.2, 0.4), ""),
        (0.4, 0, (0.1, 0.2, 0.4), "highest"),
        (0.4, 1, (0.1, 0.2, 0.4, 0.8), ""),
        (0.8, 2, (0.1, 0.2, 0.4, 0.8, 1.6), ""),
        (9.9, 2, (0.1, 0.2, 0.4, 0.8, 1.6), "highest"),
        (0.1, 2, (0.05, 0.1, 0.2, 0.4), ""),
        (0.01, 2, (0.025, 0.05, 0.1, 0.2, 0.4), "lowest"),
        (0.01, 4, (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4), ""),
    ],
)
def test_a_choice_at_an_end_widens_the_range_and_is_flagged_if_it_stays_there(at, widen, tried, edge):
    card = made(widen=widen, seeds=(100, 101))
    choice = best(card, peaked(at))
    assert (choice.tried, choice.edge) == (tried, edge)
    assert choice.trials == 2 * len(tried)
    expected = min(tried, key=lambda strength: abs(math.log(strength / at)))
    assert choice.strength == expected


def test_widening_keeps_the_ratio_of_its_end():
    assert best(made(strengths=(0.001, 0.003, 0.01), widen=1), peaked(9.0)).tried == (0.001, 0.003, 0.01, 0.0333333)
    assert best(made(strengths=(0.001, 0.003, 0.01), widen=1), peaked(1e-9)).tried == (0.000333333, 0.001, 0.003, 0.01)


def two_peaks(low, high):
    """Accuracy of a whole net that is highest at one strength, of a net without half its weights at another."""
    return lambda run, way, share, division: peaked(high if share else low)(run)


TWICE = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


@pytest.mark.parametrize(
    ("low", "high", "widen", "tried", "rounds", "edges"),
    [
        (0.01, 9.9, 0, TWICE[2:5], 1, ("lowest", "highest")),
        (0.01, 9.9, 1, TWICE[1:6], 2, ("lowest", "highest")),
        (0.01, 9.9, 2, TWICE, 3, ("lowest", "highest")),
        (0.05, 0.8, 1, TWICE[1:6], 2, ("lowest", "highest")),
        (0.05, 0.8, 4, TWICE, 3, ("", "")),
        (0.1, 0.4, 4, TWICE[1:6], 2, ("", "")),
        (0.1, 1.6, 2, TWICE[1:], 3, ("", "highest")),
        (0.05, 0.4, 2, TWICE[:6], 3, ("", "")),
        (0.2, 0.4, 2, TWICE[2:6], 2, ("", "")),
    ],
)
def test_a_round_widens_both_ends_where_both_are_chosen(low, high, widen, tried, rounds, edges):
    """As where a whole net wants a weak penalty, and one that loses half its weights a strong one."""
    card = made(widen=widen, removal=ONCE.model_copy(update={"shares": (0.0, 0.5)}))
    records, took = completed(card, two_peaks(low, high), tuning_only=True)
    whole, half = (choices(card, records)[Objective("plain", "L2", "once", share)] for share in (0.0, 0.5))
    assert whole.tried == half.tried == tried and took == rounds
    assert whole.trials == half.trials == len(tried)
    assert (whole.edge, half.edge) == edges
    assert (whole.strength, half.strength) == (max(low, tried[0]), min(high, tried[-1]))


def test_one_strength_is_neither_widened_nor_at_an_edge():
    choice = best(made(strengths=(0.1,), widen=2), peaked(9.9))
    assert (choice.tried, choice.edge) == ((0.1,), "")


def test_only_the_method_kind_and_treatment_at_an_edge_is_widened():
    def accuracy(run, *_):
        far = (run.treatment, run.method, run.kind) == ("dropout", "L1", "gradual")
        return peaked(99.0 if far else 0.2)(run)

    base = set(pending(FULL, {}))
    records, _ = completed(FULL, accuracy, tuning_only=True)
    added = [run for run in records if run not in base]
    assert {(run.treatment, run.method, run.kind) for run in added} == {("dropout", "L1", "gradual")}
    assert {run.strength for run in added} == {0.8, 1.6}
    assert len(added) == 2 * 2 * 2 * 2, "strengths, seeds, shares, divisions"


def test_all_rates_and_seeds_are_tried_of_an_added_strength():
    card = made(widen=1, rates=(0.01, 0.1), seeds=(100, 101))
    records, _ = completed(card, peaked(9.9), tuning_only=True)
    assert {(run.rate, run.seed) for run in records if run.strength == 0.8} == {
        (rate, seed) for rate in (0.01, 0.1) for seed in (100, 101)
    }


def test_tuning_runs_name_what_was_tried_already():
    card = made(widen=2)
    records, _ = completed(card, peaked(9.9))
    assert set(tuning_runs(card, records)) == {run for run in records if run.phase == "tune"}


# --- division of the removed share --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "gradual"])
@pytest.mark.parametrize("better", ["global", "relative"])
def test_one_division_for_all_methods_by_their_mean(kind, better):
    """One method prefers the other division, by less."""

    def accuracy(run, way, share, division):
        gain = {"L1": -0.1}.get(run.method, 0.05) if division == better else 0.0
        if (run.kind == "gradual") != (kind == "gradual"):
            gain = 0.0
        return 0.5 + gain + (0.1 if run.strength == 0.2 else 0.0)

    records, _ = completed(FULL, accuracy, tuning_only=True)
    assert division_of(FULL, records, kind) == better
    chosen = {choice.division for each, choice in choices(FULL, records).items() if each.kind == kind}
    assert chosen == {better}
    assert {run.division for run in final_runs(FULL, records) if run.kind == kind} == {better}


def test_of_equal_divisions_the_first_is_taken():
    records, _ = completed(FULL, peaked(0.2), tuning_only=True)
    assert division_of(FULL, records, "plain") == division_of(FULL, records, "gradual") == "global"
    other = made(removal=ALL_WAYS.model_copy(update={"divisions": ("relative", "global")}))
    assert division_of(other, completed(other, peaked(0.2), tuning_only=True)[0], "plain") == "relative"


def test_a_division_is_judged_on_the_base_range_alone():
    """Else a method that was widened would weigh differently."""

    def accuracy(run, way, share, division):
        if run.strength > 0.4:
            return 0.99 if division == "relative" else 0.6
        return 0.5 + (0.01 if division == "global" else 0.0) + (0.02 if run.strength == 0.4 else 0.0)

    card = made(removal=ALL_WAYS, widen=2)
    records, _ = completed(card, accuracy, tuning_only=True)
    assert any(run.strength > 0.4 for run in records)
    assert division_of(card, records, "plain") == "global"


def test_a_division_is_judged_only_at_shares_that_were_tuned():
    """Else the share at which most others are tuned would count more often than it was tried."""
    assert ALL_WAYS.shares == (0.0, 0.5, 0.9, 0.96, 0.98, 0.99), "of which 0.9 and 0.96 are tuned at 0.95"

    def accuracy(run, way, share, division):
        return 0.5 + {("relative", 0.95): 0.3, ("global", 0.98): 0.01}.get((division, run.share), 0.0)

    card = made(removal=ALL_WAYS)
    records, _ = completed(card, accuracy, tuning_only=True)
    assert division_of(card, records, "gradual") == "global"
    chosen = choices(card, records)
    assert {choice.division for each, choice in chosen.items() if each.way == "gradual"} == {"global"}
    at_both = made(removal=ALL_WAYS.model_copy(update={"shares": (0.0, 0.95, 0.98)}))
    records, _ = completed(at_both, accuracy, tuning_only=True)
    assert division_of(at_both, records, "gradual") == "relative"


@pytest.mark.parametrize("better", ["global", "relative"])
def test_of_a_whole_net_nothing_is_divided(better):
    """What is not removed has no say in the division, and the one kind none in the other's."""

    def accuracy(run, way, share, division):
        if run.kind == "gradual" or share == 0.0:
            return 0.5 if division == better else 0.9
        return 0.6 if division == better else 0.5

    records, _ = completed(SEVERAL, accuracy, tuning_only=True)
    assert division_of(SEVERAL, records, "plain") == better
    assert division_of(SEVERAL, records, "gradual") != better


def test_a_single_division_needs_no_records():
    assert division_of(made(), {}, "plain") == "global"


# --- properties ---------------------------------------------------------------------------------------------------------

VALUES = [0.0, 0.1, 0.5, 0.5, 0.9, 0.9, 0.91, 1.0]


def arbitrary(seed):
    """Return accuracies that depend on the place alone, at random; some whole nets diverge."""

    def accuracy(*place):
        values = [None, *VALUES] if place[1:] == ("once", 0.0, "") else VALUES
        return random.Random(f"{seed} {place}").choice(values)

    return accuracy


accuracies = st.integers(0, 2**32 - 1).map(arbitrary)
cards = st.builds(
    made,
    methods=st.sampled_from([(NONE, L2), (L1, L2, SOFT), (NONE,)]),
    strengths=st.sampled_from([(0.1,), (0.1, 0.2), (0.001, 0.003, 0.01)]),
    rates=st.sampled_from([None, (0.01, 0.1)]),
    seeds=st.sampled_from([(100,), (100, 101)]),
    widen=st.integers(0, 4),
    tolerance=st.sampled_from([0.0, 1.0, 40.0]),
    removal=st.sampled_from(
        [
            ONCE,
            ALL_WAYS.model_copy(update={"shares": (0.0, 0.9, 0.99)}),
            ALL_WAYS.model_copy(update={"shares": (0.0, 0.5), "ways": ("once", "fine-tuned")}),
            ALL_WAYS.model_copy(update={"shares": (0.0, 0.97), "ways": ("gradual",)}),
        ]
    ),
)


@settings(max_examples=40)
@given(cards, accuracies)
def test_no_accuracies_loop_for_ever_or_widen_without_end(card, accuracy):
    records, _ = completed(card, accuracy)  # asserts the rounds
    assert pending(card, records) == []
    chosen = choices(card, records)
    assert list(chosen) == plan.objectives(card)
    for objective, choice in chosen.items():
        base = card.strengths(card.method(objective.method)) or (0.0,)
        assert len(choice.tried) <= len(base) + (2 * card.tuning.widen if len(base) > 1 else 0)
        assert set(base) <= set(choice.tried) and list(choice.tried) == sorted(set(choice.tried))
        assert choice.strength in choice.tried
        assert choice.edge == (
            ""
            if len(choice.tried) == 1
            else {choice.tried[0]: "lowest", choice.tried[-1]: "highest"}.get(choice.strength, "")
        )
        rates = card.tuning.rates
        assert choice.rate in (rates or (card.training.rate,))
        assert choice.rate_edge == ({rates[0]: "lowest", rates[-1]: "highest"}[choice.rate] if rates else "")
        assert choice.trials == len(choice.tried) * len(rates or (0,)) * len(card.tuning.seeds)
        for seed in card.final.seeds:
            assert plan.final_run(objective, choice, seed) in records


@settings(max_examples=40)
@given(cards, accuracies, st.randoms(use_true_random=False))
def test_choices_never_depend_on_a_test_set_or_a_final_run(card, accuracy, chance):
    records, _ = completed(card, accuracy)
    expected = choices(card, records)
    asked = final_runs(card, records)
    scrambled = {}
    for run, original in records.items():
        value = json.loads(json.dumps(original))
        value["test_accuracy"] = chance.random()
        for row in value["removal"]:
            row["test"] = chance.random()
        if run.phase == "final":
            if chance.random() < 0.3:
                continue
            value["validation_accuracy"] = chance.random()
            value["status"] = chance.choice(["finished", "diverged"])
            for row in value["removal"]:
                row["validation"] = chance.random()
        scrambled[run] = value
    assert choices(card, scrambled) == expected
    assert final_runs(card, scrambled) == asked
    assert set(pending(card, scrambled)) == records.keys() - scrambled.keys()


@settings(max_examples=40)
@given(cards, accuracies, st.randoms(use_true_random=False))
def test_any_order_of_completion_leads_to_the_same_runs(card, accuracy, chance):
    """As where workers finish in another order, and a sweep is stopped and begun again."""
    expected, _ = completed(card, accuracy)
    records = {}
    while runs := pending(card, records):
        chance.shuffle(runs)
        done = runs[: chance.randint(1, len(runs))]
        records |= {run: record(card, run, accuracy) for run in done}
    assert records == expected


def test_absolute_settings_are_tried_in_pairs_and_the_best_pair_is_trained():
    absolute = Method(penalty="soft diamond", alpha=0.5, mode="gradient", dispersions=(0.1, 1.0), lambdas=(1e-6, 1e-5))
    card = made(methods=(L2, absolute))
    label = card.methods[1].label
    assert label == "soft diamond 0.5, absolute, gradient"
    runs = [run for run in tuning_runs(card, {}) if run.method == label]
    pairs = {(run.strength, run.dispersion) for run in runs}
    assert pairs == {(lam, dispersion) for lam in (1e-6, 1e-5) for dispersion in (0.1, 1.0)}
    assert all(run.dispersion == 0 for run in tuning_runs(card, {}) if run.method == "L2")

    def accuracy(run, *_):
        return 0.7 if (run.strength, run.dispersion) == (1e-5, 0.1) else 0.5

    records, _ = completed(card, accuracy, tuning_only=True)
    finals = [run for run in final_runs(card, records) if run.method == label]
    assert {(run.strength, run.dispersion) for run in finals} == {(1e-5, 0.1)}
    assert "lambda 1e-05 dispersion 0.1" in str(finals[0])


def test_run_names_tell_runs_apart():
    records, _ = completed(SEVERAL, peaked(9.9))
    assert len({run.stem for run in records}) == len(records)
    assert str(Run("tune", "plain", "L2", 0.1, 0.05, 3)) == "tune L2 strength 0.1 seed 3"
