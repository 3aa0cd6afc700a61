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
    return made_up | {"timing": {"seconds": {"train": seconds, "total": 3.0}}} | changes


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
    assert summary.phrase(effect) == "no difference shown (+10.0 points, no interval: 5 pairs, all equal)"
    assert summary.paired(ours, ours).p == 1.0 and summary.paired(ours, {}) is None
    single = summary.paired({0: 1.0}, {0: 0.5, 1: 3.0})
    assert summary.phrase(single) == "no difference shown (+50.0 points, no interval: 1 pair)"


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
    assert answer[0].startswith("soft diamond 1, of the soft diamonds the best on validation, has 80.")
    assert "no difference shown (+5.0 points, no interval: 5 pairs, all equal)" in answer[0] and len(answer) == 2
    records = shifted(records, "soft diamond 1", "test_accuracy", (0.0, 0.001))
    records = shifted(records, "none", "prunable", (-0.2, 0.001))
    answer = summary.summarize(made, records.values()).answer
    assert "better by 5.2 points (95 % interval +5.0 to +5.4; 6.9 % relative)" in answer[0]
    assert answer[1].startswith("It can lose 40.") and "within 0.5 points of validation accuracy, L1 37." in answer[1]
    assert answer[2].startswith("Of the others, against L1: none can lose fewer by 22.3 points (95 % interval")
    assert summary.summarize(made, shifted(records, "L1", "prunable", (0.0, 0.0)).values()).answer == answer


def test_fronts_compare_the_best_of_each_side():
    made = made_up(**FRONT)
    summed = summary.summarize(made, sweep(made).values())
    assert summed.places() == [("plain", "once", 0.0), ("plain", "once", 0.9), ("plain", "gradual", 0.9)]
    (row,) = [r for r in summed.at("plain", "gradual", 0.9) if r.method == "L1"]
    assert row.column("test") == pytest.approx([0.75 + NOISE[seed] - 0.09 for seed in range(5)])
    assert any(
        s.startswith("At 90 % removed, the best on validation: soft diamond 1 (gradual) 71.") for s in summed.answer
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
    edged = replace(summed.rows[1], choice=replace(summed.rows[1].choice, edge="highest"))
    assert "0.1 !" in _text(summary.tables(replace(summed, rows=(edged,)))[0])


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
    assert summed.missing == 8 and "8 final runs are still to do" in summed.answer[-1]


def test_parquet_has_a_row_for_each_row_and_seed(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = made_up(**FRONT)
    summed = summary.summarize(made, sweep(made).values())
    table = parquet.read_table(summary.write_parquet(summed, tmp_path)).to_pylist()
    assert len(table) == len(summed.rows) * 5 and {path.name for path in tmp_path.iterdir()} == {"summary.parquet"}
    row = next(r for r in table if (r["method"], r["way"], r["share"], r["seed"]) == ("L1", "gradual", 0.9, 2))
    assert row["test"] == pytest.approx(0.75 + NOISE[2] - 0.09) and row["strength"] == 0.1
