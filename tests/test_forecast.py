"""The forecast of a comparison against runs that are done, by a clock that a network drives: it is paid for each example."""

import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from softdiamond import stable
from softdiamond.experiments import card as cards
from softdiamond.experiments import data, runs
from softdiamond.experiments.engine import InProcess, Job, sweep
from softdiamond.experiments.forecast import forecast, peak_memory, sentences, table
from softdiamond.experiments.store import open_store

CARD = cards.parse(
    """
    name = "paid"
    data = { name = "test_forecast:points", train = 320, validation = 160, test = 96 }
    model = { name = "test_forecast:paid" }
    training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
    methods = [{ penalty = "none" }, { penalty = "soft diamond", alpha = 0.5 }]
    tuning = { strengths = [0.01, 0.1], seeds = [100], widen = 1 }
    final = { seeds = [0, 1], baseline = "none" }
    sparsity = { curve = [0.0, 0.9], lost = 100 }  # the prunable share needs no search
    treatments = [{ name = "plain" }, { name = "dear", options = { price = 3.0 } }]
    [removal]
    shares = [0.0, 0.5, 0.9]
    ways = ["once", "fine-tuned", "gradual"]
    gradual_tuned_at = [0.9]
    """,
    "the test's card",
)
PLAIN = CARD.model_copy(update={"removal": CARD.removal.model_copy(update={"ways": ("once",)})})

now = 0.0  # what the clock shows


def clock():
    return now


class Paid(nn.Module):
    """A linear classifier; an example costs a hundredth of a second in training, a thousandth otherwise."""

    def __init__(self, inputs, classes, price):
        super().__init__()
        self.linear, self.price = nn.Linear(inputs, classes), price

    def forward(self, x):
        global now
        now += len(x) * self.price * (0.01 if self.training else 0.001)
        return self.linear(x.flatten(1))


def paid(shape, classes, *, price=1.0):
    return Paid(math.prod(shape), classes, price)


def points():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320 + 160 + 96) % 4
    inputs = torch.eye(8)[labels] + 0.1 * torch.randn(len(labels), 8, generator=generator)
    return tuple(zip(inputs.split([320, 160, 96]), labels.split([320, 160, 96]), strict=True))


@pytest.fixture(scope="module", autouse=True)
def no_law():
    """The fit of the stable law takes longer than all else here, and the clock does not see it."""

    def fit(sample):
        raise ValueError("none is wanted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stable, "fit", fit)
        yield


@pytest.fixture(scope="module")
def splits():
    return data.load(CARD.data, None)


@pytest.fixture(scope="module")
def told(splits):
    """Return the forecast of the whole card with one worker; no test set can be had."""
    before = torch.get_rng_state(), torch.get_num_threads()
    closed = replace(splits, seal=lambda: pytest.fail("the test set was asked for"))
    found = forecast(CARD, {}, closed, 1, clock=clock)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == torch.get_num_threads()
    return found


@pytest.fixture(scope="module")
def done(splits, tmp_path_factory):
    """Return the card's records, and the seconds of training and of measuring of each run."""
    seconds = {}
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(runs.time, "perf_counter", clock)
        job = Job(CARD, None, None)
        with open_store(tmp_path_factory.mktemp("paid"), CARD) as store:
            for run, record, _ in sweep(CARD, store, InProcess(job, splits)):
                told = record["timing"]["seconds"]
                seconds[run] = told["train"], told["total"] - told["train"]
            return dict(store.records), seconds


def test_seconds_are_those_of_runs(told, done):
    """Within a tenth: parts of the data are not whole batches."""
    records, seconds = done
    by_group = {row.group: row for row in told.rows}
    assert by_group.keys() == {run.group for run in records}
    for run, (training, measuring) in seconds.items():
        row = by_group[run.group]
        assert row.training == pytest.approx(training, rel=0.1), run
        assert row.measuring == pytest.approx(measuring, rel=0.1), run


def test_a_part_of_the_data_says_what_all_of_them_cost(splits, told, monkeypatch):
    """However soon the growing of the part ends."""
    monkeypatch.setattr("softdiamond.experiments.forecast.MEASURING_SECONDS", 0.01)
    found = forecast(PLAIN, {}, splits, 1, clock=clock)
    expected = {row.group: row.measuring for row in told.rows}
    monkeypatch.setattr("softdiamond.experiments.forecast.MEASURING_SECONDS", 1e9)
    whole = forecast(PLAIN, {}, splits, 1, clock=clock)
    for row, other in zip(found.rows, whole.rows, strict=True):
        assert row.measuring == pytest.approx(other.measuring, rel=0.1), row.group
        assert other.measuring < expected[row.group], "without fine-tuning"


def test_total_is_the_time_of_the_comparison(told, done):
    records, seconds = done
    total = sum(map(sum, seconds.values()))
    assert 0.9 * told.seconds() < total < 1.1 * told.seconds(with_possible=True)
    assert len(records) <= sum(row.certain + row.possible for row in told.rows)
    assert replace(told, workers=2).seconds() == pytest.approx(told.seconds() / 2)
    longest = [max(row.seconds for row in told.rows if row.group.phase == phase) for phase in ("tune", "final")]
    assert replace(told, workers=10**6).seconds() == pytest.approx(sum(longest)), "no run is divided"


def test_what_is_done_is_not_to_do(splits, done):
    records, seconds = done
    kept = dict(itertools.islice(records.items(), len(records) - 3))
    found = forecast(CARD, kept, splits, 1, clock=clock)
    assert found.runs("final")[1:] == (3, 0) and found.runs("tune")[1:] == (0, 0)
    assert found.seconds() == pytest.approx(sum(map(sum, list(seconds.values())[-3:])), rel=0.1)
    complete = forecast(CARD, records, splits, 1, clock=clock)
    assert complete.seconds() == 0 and sentences(complete) == [f"All {len(records)} runs are done."]
    assert sum(row.done for row in complete.rows) == len(records)


def test_a_method_that_diverges_has_its_time(splits):
    wild = cards.Method(penalty="L1", mode="loss", strengths=(1e30, 1e31))
    card = PLAIN.model_copy(update={"methods": (wild,), "treatments": CARD.treatments[:1]})
    assert forecast(card, {}, splits, 1, clock=clock).seconds() > 0


def test_table_and_sentences(told):
    shown = table(told)
    headings = [column.header for column in shown.columns]
    assert headings == [
        "stage", "treatment", "method", "removal", "done", "to do", "may be added", "training", "measuring"
    ]  # fmt: skip
    assert len(shown.rows) == len(told.rows)
    plain = replace(told, rows=tuple(row for row in told.rows if row.group.kind == "plain"), card=PLAIN)
    assert "removal" not in [column.header for column in table(plain).columns]
    (_, tuning, widening), (_, final, more) = told.runs("tune"), told.runs("final")
    said = " ".join(sentences(replace(told, workers=2, memory=10**9, device_memory=3 * 10**9)))
    assert f"Tuning: 0 runs done, {tuning} to do; widening may add {widening}." in said
    assert f"Final: 0 runs done, at least {final} to do, {final + more} if" in said
    assert re.search(r"with 2 workers: [^;]*; .* with all that may be added\.", said)
    assert "Memory: 1.00 GB a process" in said and "; 3.00 GB in all." in said, "two workers and what starts them"
    assert "Memory of the device: 3.00 GB a worker." in said
    unknown = " ".join(sentences(replace(told, memory=None)))
    assert "Memory" not in unknown and "with 1 worker:" in unknown


def test_memory_of_this_process_grows():
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    block = torch.ones(50_000_000)
    assert peak_memory() >= 4 * len(block)
    assert before > 10_000_000
