"""How far a comparison is and how long it will take, by a clock that the tests turn."""

import tomllib
from types import SimpleNamespace

import pytest

from softdiamond.experiments import card as cards
from softdiamond.experiments import plan
from softdiamond.experiments.progress import LINE_SECONDS, Lines, Progress, duration

TEXT = """
name = "tiny"
data = { name = "digits", train = 60, validation = 40, test = 40 }
model = { name = "mlp", options = { hidden = [8] } }
training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
methods = [{ penalty = "none" }, { penalty = "L2" }]
tuning = { strengths = [0.01, 0.1], seeds = [100], widen = 1 }
final = { seeds = [0, 1] }
"""
CARD = cards.validated(tomllib.loads(TEXT), "the test's card")
SECONDS = {"none": 10.0, "L2": 30.0}


def record(run, *, accuracy=0.5, seconds=None):
    """Return as much of a record as is read here; the strongest is the best, so that the range of L2 is widened."""
    return {
        "status": "finished" if accuracy is not None else "diverged",
        "validation_accuracy": accuracy if accuracy is None else accuracy + run.strength,
        "removal": [],
        "timing": {"seconds": {"total": SECONDS[run.method] if seconds is None else seconds}},
    }


@pytest.fixture
def session():
    """Return a comparison of which nothing is done, its clock, and the lines that it says."""
    now, records, said = [1000.0], {}, []

    def clock():
        return now[0]

    def wait(seconds):
        now[0] += seconds

    def finish(watch, run, **options):
        """As a sweep does: the record is kept first."""
        records[run] = record(run, **options)
        (watch.done if isinstance(watch, Lines) else watch.finish)(run, records[run])

    def progress(workers=1, card=CARD):
        return Progress(card, records, workers, clock)

    def lines(workers=1, card=CARD):
        return Lines(progress(workers, card), said.append, clock)

    return SimpleNamespace(records=records, said=said, wait=wait, finish=finish, progress=progress, lines=lines)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 0 min"), (11520, "3 h 12 min"), (190_800, "2 d 5 h")],
)
def test_duration(seconds, said):
    assert duration(seconds) == said


def test_time_left_is_of_the_whole_comparison(session):
    progress = session.progress()
    none, weak, strong = runs = plan.pending(CARD, {})
    progress.begin(runs)
    assert (progress.counted, progress.number) == ("tuning 0/3", 1)
    assert progress.seconds_left() is None, "nothing is known"
    session.wait(12)
    session.finish(progress, none)
    assert progress.counted == "tuning 1/3"
    assert progress.seconds_left() == 10 * (2 + 4), (
        "two of tuning, four final runs; as long as the only one that is known"
    )
    session.wait(7)
    assert progress.seconds_left() == 60 - 7
    session.wait(600)
    assert progress.seconds_left() == 0, "never less"
    session.finish(progress, weak)
    assert progress.seconds_left() == 30 + 2 * 10 + 2 * 30, "each method by its own runs"
    session.finish(progress, strong, seconds=40)
    assert progress.seconds_left() == 2 * 10 + 2 * 35, "the mean of two; final runs by those of tuning"


def test_widening_and_final_are_stages(session):
    progress, stages = session.progress(), []
    while runs := plan.pending(CARD, session.records):
        progress.begin(runs)
        stages.append((progress.counted, progress.number))
        for run in runs:
            session.finish(progress, run)
    assert stages == [("tuning 0/3", 1), ("widening 0/1", 1), ("final 0/4", 2)]
    assert progress.counted == "final 4/4" and progress.seconds_left() == 0


def test_final_runs_count_by_themselves_once_there_are_some(session):
    session.records.update({run: record(run) for run in plan.pending(CARD, {})})
    session.records.update({run: record(run) for run in plan.pending(CARD, session.records)})
    progress = session.progress()
    runs = plan.pending(CARD, session.records)
    progress.begin(runs)
    assert progress.number == 2 and progress.seconds_left() is None, "runs of another session say nothing"
    session.finish(progress, runs[0], seconds=100)
    assert progress.seconds_left() == 3 * 100


def test_time_left_with_workers(session):
    known, unknown = session.progress(workers=2), session.progress(workers=None)
    runs = plan.pending(CARD, {})
    for progress in (known, unknown):
        progress.begin(runs)
    session.wait(5)
    for progress in (known, unknown):
        session.finish(progress, runs[0], seconds=10)
    assert known.seconds_left() == 6 * 10 / 2
    assert unknown.seconds_left() == 6 * 10 / 2, "ten seconds of work in five"
    alone = session.progress(workers=64)
    alone.begin(runs)
    session.finish(alone, runs[0], seconds=10)
    assert alone.seconds_left() == 10, "no more side by side than there are"


def test_a_line_a_minute(session):
    lines = session.lines()
    none, weak, strong = runs = plan.pending(CARD, {})
    lines.stage(runs)
    assert session.said == ["[tuning 0/3] stage 1 of 2"]
    session.wait(LINE_SECONDS - 1)
    lines.epoch(none, 1, 2.5)
    session.finish(lines, none)
    assert len(session.said) == 1
    session.wait(1)
    lines.epoch(weak, 2, 0.25)
    lines.epoch(weak, 3, 0.125)
    assert session.said[1:] == ["[tuning 1/3] 59 s left; now: tune L2 strength 0.01 seed 100, epoch 2: loss 0.250"]
    session.wait(LINE_SECONDS)
    session.finish(lines, weak)
    assert session.said[2:] == ["[tuning 2/3] 2 min left; last: tune L2 strength 0.01 seed 100: validation 51.0 %"]
    session.finish(lines, strong)
    assert session.said[3].startswith("[tuning 3/3] 1 min left; last: tune L2 strength 0.1 seed 100: "), "a stage's end"
    del session.said[:]
    for _ in range(2):
        runs = plan.pending(CARD, session.records)
        lines.stage(runs)
        for run in runs:
            session.finish(lines, run)
    assert [line.partition("]")[0] for line in session.said] == [
        "[widening 0/1", "[widening 1/1", "[final 0/4", "[final 4/4"
    ]  # fmt: skip
    assert session.said[2] == "[final 0/4] stage 2 of 2"
    assert session.said[3].startswith("[final 4/4] complete in 2 min; last: final L2 "), "no time is left"


def test_no_estimate_before_a_run_is_finished(session):
    lines, runs = session.lines(), plan.pending(CARD, {})
    lines.stage(runs)
    session.wait(LINE_SECONDS)
    lines.epoch(runs[0], 1, 2.5)
    assert session.said[1] == "[tuning 0/3] now: tune none seed 100, epoch 1: loss 2.500"


def test_a_diverged_run_is_said_at_once(session):
    lines, runs = session.lines(), plan.pending(CARD, {})
    lines.stage(runs)
    session.finish(lines, runs[0], accuracy=None)
    session.finish(lines, runs[1], accuracy=None)
    assert [line.rpartition(": ")[::2] for line in session.said[1:]] == [
        ("[tuning 1/3] 1 min left; last: tune none seed 100", "diverged"),
        ("[tuning 2/3] 2 min left; last: tune L2 strength 0.01 seed 100", "diverged"),
    ]
