"""What records show: paired differences, their intervals and verdicts, the answer in words, the tables and the file."""

import io
import itertools
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from softdiamond.experiments import UserError, card, plan, summary

BASE = {
    "name": "made-up",
    "data": {"name": "digits", "train": 10, "validation": 10},
    "model": {"name": "mlp", "options": {"hidden": [3]}},
    "training": {"optimizer": "SGD", "rate": 0.1, "epochs": 1, "batch": 8},
    "methods": [
        {"penalty": "none"},
        {"penalty": "L1"},
        {"penalty": "soft diamond", "alpha": 0.5},
        {"penalty": "soft diamond", "alpha": 1.0},
    ],
    "tuning": {"strengths": [0.01, 0.1, 1.0], "seeds": [100], "widen": 0},
    "final": {"seeds": [0, 1, 2, 3, 4], "baseline": "L1"},
}
FRONT = {"removal": {"shares": [0.0, 0.9], "ways": ["once", "gradual"], "gradual_tuned_at": [0.9]}}
TEST = {"none": 0.70, "L1": 0.75, "soft diamond 0.5": 0.75, "soft diamond 1": 0.80}
NOISE = dict(zip(range(-2, 6), (0.02, -0.02, 0.01, -0.01, 0.0, 0.012, -0.012, 0.005), strict=True))


def record(run, made, **changes):
    """A run whose test accuracy is that of `TEST` plus noise of its seed, and whose validation likes strength 0.1."""
    accuracy = TEST[run.method] + NOISE[run.seed % 100 % 5]
    validation = accuracy - 0.05 * (run.strength not in (0.0, 0.1))
    final = run.phase == "final"
    rows = []
    for way, share in itertools.product(("once", "gradual"), (0.0, 0.9)):
        if (way == "gradual") is (run.kind == "gradual") and (way == "once" or share):
            lost = share * (0.1 if way == "gradual" else 0.3)
            row = {"way": way, "division": "global", "share": share, "removed": share}
            rows.append({**row, "validation": validation - lost, "test": accuracy - lost if final else None})
    shares = dict.fromkeys(("zero", "below_1e-3", "below_1e-2", "gini", "hoyer", "participation"), 0.5)
    made_up = {"comparison": made.name, "card": made.digest, "run": asdict(run), "status": "finished", "losses": [1.0]}
    made_up |= {"train_accuracy": 0.9, "validation_accuracy": validation, "test_accuracy": accuracy if final else None}
    made_up |= {"sparsity": shares, "removal": rows, "curves": None, "weights": None}
    made_up |= {
        "prunable": {"global": accuracy / 2, "layerwise": accuracy / 3} if final and run.kind == "plain" else None
    }
    seconds = {"none": 1.0, "L1": 1.5}.get(run.method, 2.0)
    made_up["environment"] = {"device": "cpu x86_64"}
    return made_up | {"timing": {"seconds": {"train": 1.0, "total": 3.0, "processor": seconds}}} | changes


def sweep(made, **changes):
    records = {}
    while runs := plan.pending(made, records):
        records |= {run: record(run, made, **changes) for run in runs}
    return records


def made_up(**changes):
    return card.validated(BASE | changes, "made-up")


def test_rows_hold_choice_and_values():
    made = made_up()
    summed = summary.summarize(made, sweep(made).values())
    assert [row.method for row in summed.rows] == ["none", "L1", "soft diamond 0.5", "soft diamond 1"]
    assert [row.choice.strength for row in summed.rows] == [0.0, 0.1, 0.1, 0.1] and summed.missing == 0
    best = summed.rows[-1]
    assert best.column("test") == [0.80 + NOISE[seed] for seed in range(5)] and best.column("prunable_global")[0] > 0
    assert best.accuracy.mean == pytest.approx(0.05) and best.accuracy.relative == pytest.approx(
        0.05 / (0.75 + np.mean([NOISE[seed] for seed in range(5)]))
    )
    assert summed.rows[1].accuracy is None, "the baseline is not compared with itself"
    assert summed.overhead == {"none": 1.0, "L1": 1.5, "soft diamond 0.5": 2.0, "soft diamond 1": 2.0}


def test_equal_differences_have_no_interval():
    ours, theirs = ({seed: value + NOISE[seed] for seed in range(5)} for value in (0.8, 0.7))
    effect = summary.paired(ours, theirs)
    assert effect.t_interval is None and effect.p == 2.0**-4 and effect.verdict == "no difference shown"
    assert summary.phrase(effect) == "no difference shown (+10.0 points, the same on 5 seeds: no interval)"
    assert summary.paired(ours, ours).p == 1.0 and summary.paired(ours, {}) is None
    single = summary.paired({0: 1.0}, {0: 0.5, 1: 3.0})
    assert summary.phrase(single) == "no difference shown (+50.0 points, one seed: no interval)"


@given(st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=8, unique_by=lambda value: round(value, 3)))
def test_intervals_are_those_of_scipy(differences):
    base = {seed: 0.5 + 0.01 * seed for seed in range(len(differences))}
    effect = summary.paired({seed: base[seed] + d for seed, d in enumerate(differences)}, base)
    found = [base[seed] + d - base[seed] for seed, d in enumerate(differences)]
    half = stats.t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / math.sqrt(len(found))
    np.testing.assert_allclose(effect.t_interval, [np.mean(found) - half, np.mean(found) + half], rtol=1e-9, atol=1e-12)
    low, high = effect.bootstrap_interval
    assert min(found) - 1e-12 <= low <= effect.mean <= high <= max(found) + 1e-12
    assert effect.p == pytest.approx(
        stats.ttest_rel([base[s] + d for s, d in enumerate(differences)], list(base.values())).pvalue
    )


def test_holm():
    assert summary.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own procedure
    assert summary.holm([0.9, 0.8]) == [1.0, 1.0] and summary.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_corrects_upwards_in_order(p_values):
    corrected = summary.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    by_p = [q for _, q in sorted(zip(p_values, corrected, strict=True))]
    assert by_p == sorted(by_p)


@given(
    st.floats(-0.2, 0.2),
    st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)),
    st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)),
    st.floats(0, 1),
)
def test_a_page_never_says_better_where_an_interval_covers_0(mean, t, bootstrap, p):
    intervals = [(mean - low, mean + high) for low, high in (t, bootstrap)]
    effect = summary.Effect(mean, mean, 5, *intervals, p, p)
    said = summary.phrase(effect)
    shown = all(low > 0 or high < 0 for low, high in intervals) and p < 0.05
    assert ("no difference shown" in said) is not shown and ("better" in said or "worse" in said) is shown
    if shown:
        assert effect.verdict == ("better" if mean > 0 else "worse")


def test_holm_runs_over_the_methods_of_one_place():
    made = made_up()
    records = sweep(made)
    wobble = {
        run: r | {"test_accuracy": r["test_accuracy"] + 0.003 * (run.seed % 3) * len(run.method)}
        for run, r in records.items()
        if run.phase == "final"
    }
    summed = summary.summarize(made, (records | wobble).values())
    effects = [row.accuracy for row in summed.rows if row.accuracy]
    assert [e.p_holm for e in effects] == summary.holm([e.p for e in effects]) and len(effects) == 3


def shifted(records, method, key, steps):
    """The final runs with a value of one method shifted, a little more for each seed."""
    result = dict(records)
    for run, r in records.items():
        if run.phase == "final" and run.method == method:
            shift = steps[0] + steps[1] * run.seed
            result[run] = r | {
                key: {k: v + shift for k, v in r[key].items()} if isinstance(r[key], dict) else r[key] + shift
            }
    return result


def test_the_answer_follows_from_the_statistics():
    made = made_up()
    records = sweep(made)
    answer = summary.summarize(made, records.values()).answer
    assert answer == (
        "soft diamond 1 has 80.0 % test accuracy, L1 75.0 %, each the best in tuning of 2 soft diamonds and of 2 other "
        "methods: no difference shown (+5.0 points, the same on 5 seeds: no interval).",
        "At these strengths, chosen for accuracy alone, 40.0 and 37.5 % of their weights can be removed by magnitude within "
        "0.5 points of validation accuracy.",
        "Against L1, of all: no difference shown.",
    )
    records = shifted(records, "soft diamond 1", "test_accuracy", (0.0, 0.001))
    records = shifted(records, "none", "test_accuracy", (-0.1, 0.001))
    records = shifted(records, "soft diamond 1", "prunable", (0.2, 0.001))
    answer = summary.summarize(made, records.values()).answer
    better = "better by 5.2 points (95 % interval +5.0 to +5.4; 6.9 % relative)"
    worse = "worse by 14.8 points (95 % interval -15.0 to -14.6; 19.7 % relative)"
    assert answer[0].startswith("soft diamond 1 has 80.2 % test accuracy, L1 75.0 %, each the best in tuning")
    assert answer[0].endswith(f" methods: {better}.")
    assert "60.2 and 37.5 % of their weights" in answer[1] and not {"more", "fewer"} & set(answer[1].split())
    assert answer[2] == f"Against L1, of all: none is {worse}; soft diamond 1 is {better}." and len(answer) == 3


def test_the_best_other_method_need_not_be_the_baseline():
    made = made_up(final={"seeds": [0, 1, 2, 3, 4], "baseline": "none"})
    records = shifted(sweep(made), "soft diamond 1", "test_accuracy", (0.0, 0.001))
    answer = summary.summarize(made, records.values()).answer
    assert answer[0].startswith("soft diamond 1 has 80.2 % test accuracy, L1 75.0 %") and "+5.0 to +5.4" in answer[0]
    assert answer[2].startswith("Against none, of all: soft diamond 1 is better by 10.2 points")


def test_no_final_run_decides_which_is_best():
    made = made_up(**FRONT)
    records = sweep(made)
    for method, steps in (("none", (0.2, 0.01)), ("soft diamond 0.5", (0.2, 0.0)), ("soft diamond 1", (-0.3, 0.0))):
        records = shifted(records, method, "test_accuracy", steps)
        records = shifted(records, method, "validation_accuracy", steps)
    for run, r in records.items():  # once is now the better way in the final runs
        if run.phase == "final":
            rows = [
                row | dict.fromkeys(("validation", "test"), 0.99) if row["way"] == "once" else row
                for row in r["removal"]
            ]
            records[run] = r | {"removal": rows}
    summed = summary.summarize(made, records.values())
    assert np.mean(summed.at("plain", "once", 0.0)[0].column("validation")) > 0.85, (
        "none has the highest final validation"
    )
    for share, way in ((0.0, "once"), (0.9, "gradual")):
        pair = summed.best("plain", share)
        assert [(row.method, row.objective.way) for row in pair] == [("soft diamond 1", way), ("L1", way)]
        for row in pair:
            assert row.choice.validation == pytest.approx(TEST[row.method] + NOISE[0] - 0.1 * share)


def test_seeds_lost_to_divergence_leave_no_verdict():
    made = made_up()
    records = shifted(sweep(made), "soft diamond 1", "test_accuracy", (0.0, 0.001))
    records = shifted(records, "none", "test_accuracy", (-0.1, 0.001))
    empty = {"status": "diverged", "test_accuracy": None, "validation_accuracy": None, "removal": [], "prunable": None}
    for method, without in (
        ("soft diamond 1", {"soft diamond 1"}),
        ("L1", {"none", "soft diamond 0.5", "soft diamond 1"}),
    ):
        lost = {
            run: r | empty for run, r in records.items() if (run.phase, run.method, run.seed) == ("final", method, 4)
        }
        summed = summary.summarize(made, (records | lost).values())
        effects = {row.method: row.accuracy for row in summed.rows if row.accuracy}
        assert {name for name, effect in effects.items() if effect.p is None} == without
        assert all(effects[name].verdict == "no difference shown" and effects[name].p_holm is None for name in without)
        assert effects["soft diamond 1"].t_interval[0] > 0 and effects["soft diamond 1"].pairs == 4
        kept = [effect for name, effect in effects.items() if name not in without]
        assert [e.p_holm for e in kept] == summary.holm([e.p for e in kept]), (
            "the others are corrected among themselves"
        )
        assert "no difference shown (+5.2 points, 95 % interval +4.9 to +5.4)" in summed.answer[0], method
        said = "none is worse" if method != "L1" else "no difference shown"
        assert summed.answer[-1].startswith(f"Against L1, of all: {said}")


@pytest.mark.parametrize(("treatments", "word"), [(1, "better by 1.5 points"), (3, "no difference shown")])
def test_the_best_of_several_treatments_are_corrected_together(treatments, word):
    """A p of 0.04 is enough for one comparison of the best, not for each of three."""
    made = made_up(treatments=[{"name": f"number {n}"} for n in range(treatments)])
    records = sweep(made)
    for run, r in records.items():
        if run.phase == "final" and run.method == "soft diamond 1":
            gain = (0.01, 0.03, 0.0, 0.02, 0.015)[run.seed]
            records[run] = r | {"test_accuracy": TEST["L1"] + NOISE[run.seed] + gain}
    summed = summary.summarize(made, records.values())
    effect = summary.paired(*({s: v["test"] for s, v in r.values.items()} for r in summed.best("number 0", 0.0)))
    assert 0.03 < effect.p < 0.05
    best = [sentence for sentence in summed.answer if "each the best in tuning" in sentence]
    assert len(best) == treatments and all(f"other methods: {word}" in sentence for sentence in best)


def test_a_front_with_a_diverged_seed_has_no_verdict_there():
    made = made_up(**FRONT)
    records = sweep(made)
    for run, r in records.items():
        rows = [
            row | {"test": row["test"] and row["test"] + 0.001 * run.seed * (run.method == "L1")}
            for row in r["removal"]
        ]
        records[run] = r | {"removal": rows}
    assert "better by" in summary.summarize(made, records.values()).answer[-1]
    empty = {"status": "diverged", "test_accuracy": None, "validation_accuracy": None, "removal": [], "prunable": None}
    for run, r in records.items():
        if (run.phase, run.kind, run.method, run.seed) == ("final", "gradual", "L1", 4):
            records[run] = r | empty
    assert "no difference shown" in summary.summarize(made, records.values()).answer[-1]


def test_other_seeds_and_settings_are_counted_and_nothing_else():
    made = made_up()
    records = sweep(made)
    summed = summary.summarize(made, records.values())
    assert summed.unused == 0
    finals = [run for run in records if run.phase == "final" and run.method == "L1"]
    strange = [replace(finals[0], seed=5), replace(finals[0], strength=1.0), replace(finals[1], strength=1.0)]
    wrong = {"test_accuracy": 0.1, "timing": {"seconds": {"train": 99.0, "total": 99.0, "processor": 99.0}}}
    more = records | {run: record(run, made, **wrong) for run in strange}
    again = summary.summarize(made, more.values())
    assert again.unused == 3 and again == replace(summed, unused=3)


def test_overhead_is_that_of_final_finished_plain_runs():
    made = made_up(**FRONT)
    records = sweep(made)
    summed = summary.summarize(made, records.values())
    slow = {"timing": {"seconds": {"train": 50.0, "total": 50.0, "processor": 50.0}}}
    spoilt = {run: r | (slow if run.phase == "tune" or run.kind == "gradual" else {}) for run, r in records.items()}
    run = next(run for run in spoilt if (run.phase, run.method, run.kind) == ("final", "L1", "plain"))
    for seed in range(2):
        spoilt[replace(run, seed=seed)] |= slow | {"status": "diverged", "removal": [], "prunable": None}
    expected = {"none": 1.0, "L1": 1.5, "soft diamond 0.5": 2.0, "soft diamond 1": 2.0}
    assert summary.summarize(made, spoilt.values()).overhead == summed.overhead == expected
    busy = {run: 1.0 + 9.0 * run.seed for run in records}  # the machine, while a seed's runs were done
    loaded = {
        run: r | {"timing": {"seconds": {"processor": busy[run] * r["timing"]["seconds"]["processor"]}}}
        for run, r in records.items()
        if (run.phase, run.method, run.seed) != ("final", "L1", 0)
    }
    assert summary.summarize(made, loaded.values()).overhead == pytest.approx(expected), (
        "each in units of its own seed's"
    )
    old = {run: r | {"timing": {"seconds": {"train": 1.0, "total": 1.0}}} for run, r in records.items()}
    assert summary.summarize(made, old.values()).overhead == {}, "the clock's time tells nothing on a CPU"
    of_gpu = {run: r | {"environment": {"device": "cuda H"}} for run, r in old.items()}
    assert set(summary.summarize(made, of_gpu.values()).overhead.values()) == {1.0}


def test_fronts_compare_the_best_of_each_side():
    made = made_up(**FRONT)
    records = sweep(made)
    summed = summary.summarize(made, records.values())
    assert summed.places() == [("plain", "once", 0.0), ("plain", "once", 0.9), ("plain", "gradual", 0.9)]
    (row,) = [r for r in summed.at("plain", "gradual", 0.9) if r.method == "L1"]
    assert row.column("test") == pytest.approx([0.75 + NOISE[seed] - 0.09 for seed in range(5)])
    assert summed.answer[-1] == (
        "At 90 % removed, the best in tuning: soft diamond 1 (gradual) 71.0 %, of the others L1 (gradual) 66.0 %: no "
        "difference shown (+5.0 points, the same on 5 seeds: no interval)."
    )
    ours, theirs = summed.best("plain", 0.9)
    assert (ours.method, ours.objective.way, theirs.method, theirs.objective.way) == (
        "soft diamond 1",
        "gradual",
        "L1",
        "gradual",
    )
    assert summed.best("plain", 0.5) == (None, None)
    printed = "\n".join(_text(table) for table in summary.tables(summed))
    assert "gradual: test accuracy at the share removed" in printed and "90 %" in printed


def _text(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_tables_name_edges_diverged_runs_and_stars():
    made = made_up()
    records = sweep(made)
    lost = next(run for run in records if run.phase == "final" and run.method == "none")
    records[lost] |= {"status": "diverged", "test_accuracy": None, "validation_accuracy": None, "removal": []}
    summed = summary.summarize(made, records.values())
    (printed,) = summary.tables(summed)
    assert [column.header for column in printed.columns][-1] == "diverged"
    row = summed.rows[0]
    assert len(row.values) == 4 and row.diverged == 1
    assert "0.1 !" not in _text(printed)
    for field in ("edge", "rate_edge"):
        edged = replace(summed.rows[1], choice=replace(summed.rows[1].choice, **{field: "highest"}))
        assert "0.1 !" in _text(summary.tables(replace(summed, rows=(edged,)))[0]), field


def test_unfinished_comparisons():
    made = made_up()
    records = sweep(made)
    some = {run: r for run, r in records.items() if run.phase == "tune"}
    with pytest.raises(UserError, match="no final run has finished"):
        summary.summarize(made, some.values())
    some.popitem()
    with pytest.raises(UserError, match="not finished: call softdiamond compare again"):
        summary.summarize(made, some.values())
    final = {run: r for run, r in records.items() if run.phase == "tune" or run.seed < 3}
    summed = summary.summarize(made, final.values())
    assert (summed.missing, summed.unused) == (8, 0)
    assert "still to do" not in " ".join(summed.answer), "a note on the page, no part of the answer"


def test_parquet_has_a_row_for_each_row_and_seed(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = made_up(**FRONT)
    summed = summary.summarize(made, sweep(made).values())
    table = parquet.read_table(summary.write_parquet(summed, tmp_path)).to_pylist()
    assert len(table) == len(summed.rows) * 5 and {path.name for path in tmp_path.iterdir()} == {"summary.parquet"}
    row = next(r for r in table if (r["method"], r["way"], r["share"], r["seed"]) == ("L1", "gradual", 0.9, 2))
    assert row["test"] == pytest.approx(0.75 + NOISE[2] - 0.09) and row["strength"] == 0.1
