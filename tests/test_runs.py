"""One run: what its record holds, when it looks at the test set, that it repeats bit by bit."""

import json
import math
import platform
import re
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as from_bytes

from softdiamond import pruning
from softdiamond.experiments import card as cards
from softdiamond.experiments import data, measure, models, runs, train
from softdiamond.experiments.checkpoint import Checkpoint
from softdiamond.experiments.plan import RECORD_PARTS, Run
from softdiamond.experiments.runs import perform

CARD = cards.parse(
    """
    name = "tiny"
    data = { name = "digits", train = 60, validation = 50, test = 40 }
    model = { name = "mlp", options = { hidden = [12] } }
    training = { optimizer = "SGD", rate = 0.1, epochs = 3, batch = 20 }
    methods = [
      { penalty = "none" }, { penalty = "L2" }, { penalty = "L1" }, { penalty = "soft diamond", alpha = 0.5 },
      { penalty = "L2", mode = "loss", name = "explosive" },
    ]
    tuning = { strengths = [0.01, 0.1], seeds = [100] }
    final = { seeds = [0, 1] }
    sparsity = { curve = [0.0, 0.5, 0.9] }
    treatments = [
      { name = "plain" }, { name = "all", options = { dropout = 0.3, batch_norm = true }, augmentation = "crop and flip" },
    ]
    [removal]
    shares = [0.0, 0.5, 0.9]
    ways = ["once", "fine-tuned", "gradual"]
    divisions = ["global", "relative", "layerwise"]
    fine_tuning_epochs = 1
    """,
    "the test's card",
)
SOFT = "soft diamond 0.5"


def tune(method=SOFT, strength=0.01, **more):
    return Run("tune", more.pop("treatment", "plain"), method, strength, 0.1, 100, **more)


def final(method=SOFT, strength=0.01, division="relative", **more):
    return Run("final", more.pop("treatment", "plain"), method, strength, 0.1, 0, division=division, **more)


KINDS = {
    "tune": tune(),
    "tune none": tune("none", 0.0),
    "tune gradual": tune(kind="gradual", share=0.9, division="global"),
    "tune all": tune(treatment="all"),
    "final": final(),
    "final lasso": final("L1"),
    "final gradual": final(kind="gradual", share=0.9),
    "final all": final(treatment="all"),
}
each_kind = pytest.mark.parametrize("run", KINDS.values(), ids=KINDS)


@pytest.fixture(scope="module")
def splits():
    return data.load(CARD.data, None)


@pytest.fixture(scope="module")
def done(splits):
    """Each kind of run, done once."""
    return {run: perform(run, CARD, splits) for run in KINDS.values()}


def timeless(outcome):
    return {key: value for key, value in outcome.record.items() if key != "timing"}


def rebuilt(run, weights, card=CARD):
    options = {**card.model.options, **card.treatment(run.treatment).options}
    net = models.build(card.model.name, options, (1, 8, 8), 10, seed=77)
    net.load_state_dict(from_bytes(weights))
    return net


def assert_equal_weights(outcome, other):
    """Equal tensors: safetensors writes its metadata in no fixed order."""
    if outcome.weights is None:
        assert other.weights is None
        return
    ours, theirs = from_bytes(outcome.weights), from_bytes(other.weights)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rows(record, **wanted):
    return [row for row in record["removal"] if wanted.items() <= row.items()]


# --- what a record holds ------------------------------------------------------------------------------------------------


@each_kind
def test_record_says_what_was_done(done, splits, run):
    outcome = done[run]
    record = outcome.record
    assert outcome.run == run == Run(**record["run"]) and record.keys() == RECORD_PARTS.keys()
    assert (record["comparison"], record["card"], record["status"]) == ("tiny", CARD.digest, "finished")
    assert len(record["losses"]) == 3 and all(map(math.isfinite, record["losses"]))
    assert 0 <= record["validation_accuracy"] <= 1 and 0 <= record["train_accuracy"] <= 1
    assert record["sparsity"].keys() >= {"zero", "gini", "hoyer", "participation"}
    assert record["data"] == splits.description and len(record["data"]["fingerprint"]) == 8
    assert record["environment"]["threads"] == 1 and record["environment"]["torch"] == torch.__version__
    seconds = record["timing"]["seconds"]
    assert 0 <= seconds["train"] <= seconds["total"] and 0 < seconds["processor"] <= 64 * seconds["train"]


def test_environment_names_the_packages_that_decide_the_bits(monkeypatch):
    packages = ("torch", "numpy", "scipy", "numba", "softdiamond")
    found = runs.environment(CARD, torch.device("cpu"))
    assert found.keys() == {"python", *packages, "device", "threads"}
    assert (found["python"], found["threads"]) == (platform.python_version(), CARD.threads)
    assert found["device"] == f"cpu {platform.machine()}"
    for name in packages:
        try:
            assert found[name] == metadata.version(name)
        except metadata.PackageNotFoundError:
            assert found[name] == "not installed", name

    def without_numba(name):
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(runs, "version", without_numba)
    assert runs.environment(CARD, torch.device("cpu")) == found | {"numba": "not installed"}


@each_kind
def test_record_is_plain_json_without_nan(done, run):
    record = done[run].record
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@each_kind
def test_removal_has_the_rows_that_are_chosen_from(done, run):
    record = done[run].record
    found = [(row["way"], row["division"], row["share"]) for row in record["removal"]]
    if run.kind == "gradual":
        assert found == [("gradual", run.division, 0.9)]
    else:
        divisions = [run.division] if run.phase == "final" else CARD.removal.divisions
        shares = [(way, share) for share in (0.0, 0.5, 0.9) for way in ("once", "fine-tuned") if way == "once" or share]
        assert sorted(found) == sorted((way, division, share) for division in divisions for way, share in shares)
    for row in record["removal"]:
        assert row["removed"] == pytest.approx(row["share"], abs=0.002) or (run.method == "L1" and row["share"] < 0.5)
        assert 0 <= row["validation"] <= 1 and (row["test"] is None) == (run.phase == "tune")
    for row in rows(record, way="once", share=0.0):
        assert row["validation"] == record["validation_accuracy"] and row["test"] == record["test_accuracy"]


@each_kind
def test_test_accuracies_are_in_final_records_alone(done, run):
    record = done[run].record
    if run.phase == "tune":
        assert record["test_accuracy"] is record["curves"] is record["prunable"] is record["weights"] is None
        assert done[run].weights is None
        assert '"test": [' not in json.dumps(record)
    else:
        assert record["test_accuracy"] * 40 == pytest.approx(round(record["test_accuracy"] * 40))
        assert done[run].weights is not None


@each_kind
def test_curves_and_prunable_share_of_final_plain_runs(done, run):
    record = done[run].record
    if run.phase == "tune" or run.kind == "gradual":
        assert record["curves"] is None and record["prunable"] is None
        return
    for division in ("global", "layerwise"):
        curve = record["curves"][division]
        assert curve["removed"] == [0.0, 0.5, 0.9] and len(curve["validation"]) == len(curve["test"]) == 3
        assert (curve["validation"][0], curve["test"][0]) == (record["validation_accuracy"], record["test_accuracy"])
        assert 0.0 <= record["prunable"][division] <= 0.9
        for share, validation, test in zip(curve["removed"], curve["validation"], curve["test"], strict=True):
            for row in rows(record, way="once", division=division, share=share):
                assert (row["validation"], row["test"]) == (validation, test)


def test_equal_cuts_are_evaluated_once_and_the_second_division_is_the_cards(splits, monkeypatch):
    card = CARD.model_copy(update={"removal": cards.Removal(), "sparsity": cards.Sparsity(curve=(0.0, 0.2, 0.4, 0.9))})
    seen = []

    def accuracy(net, examples, weights=None, *, true=models.accuracy):
        cut = torch.cat([w.flatten() for w in (weights or models.regularized(net)).values()])
        seen.append((len(examples.labels), cut.detach().clone()))
        return true(net, examples, weights)

    monkeypatch.setattr(models, "accuracy", accuracy)
    run = final("L1", 0.4, division="global")
    record = perform(run, card, splits).record
    assert record["sparsity"]["zero"] > 0.45, "shares 0, 0.2 and 0.4 are one and the same cut"
    assert list(record["curves"]) == list(record["prunable"]) == ["global"]
    assert len(record["curves"]["global"]["validation"]) == 4
    for size in (50, 40):
        own = [cut for length, cut in seen if length == size]
        assert not any(torch.equal(one, other) for i, one in enumerate(own) for other in own[:i])


def test_a_curve_is_measured_on_the_net_without_the_share(done, splits):
    run = KINDS["final all"]
    record, net = done[run].record, rebuilt(run, done[run].weights)
    weights = models.regularized(net)
    test = splits.seal().open()
    for division in ("global", "layerwise"):
        ranking = pruning.Ranking(weights, division)
        for index, share in enumerate((0.0, 0.5, 0.9)):
            kept = {name: weights[name] * mask for name, mask in ranking.masks(share).items()}
            curve = record["curves"][division]
            assert curve["validation"][index] == models.accuracy(net, splits.validation, kept)
            assert curve["test"][index] == models.accuracy(net, test, kept)


def test_removal_relative_to_the_start_is_measured_with_the_starting_rms(done, splits):
    run = final(division="relative")
    outcome = done[run]
    net = rebuilt(run, outcome.weights)
    reference = models.rms(models.build("mlp", {"hidden": [12]}, (1, 8, 8), 10, run.seed))
    weights = models.regularized(net)
    for share in (0.5, 0.9):
        kept = pruning.Ranking(weights, "relative", reference).masks(share)
        cut = {name: weights[name] * mask for name, mask in kept.items()}
        (row,) = rows(outcome.record, way="once", share=share)
        assert row["validation"] == models.accuracy(net, splits.validation, cut)
        assert row["test"] == models.accuracy(net, splits.seal().open(), cut) != outcome.record["test_accuracy"]
        assert row["removed"] == pruning.measures(cut)["zero"]


@pytest.mark.parametrize("kind", ["final", "final lasso", "final gradual", "final all"])
def test_distribution_counts_every_weight(done, kind):
    record = done[KINDS[kind]].record
    shown = record["weights"]
    assert shown["count"] == 64 * 12 + 12 * 10
    assert sum(shown["log10"]) + shown["zero"] == shown["count"] and len(shown["log10"]) == 50
    assert shown["edges"][0] == -8.0 and shown["edges"][-1] == 2.0 and len(shown["edges"]) == 51
    assert shown["zero"] == round(record["sparsity"]["zero"] * shown["count"])
    assert shown["law"] is None or (0 < shown["law"]["alpha"] <= 2 and shown["law"]["scale"] > 0)


def test_histogram_keeps_what_lies_outside_its_edges():
    w = torch.tensor([0.0, 1e-30, -1e-8, 1.0, -1.0, 99.0, 1e5])
    shown = measure._distribution({"w": w})
    assert (shown["count"], shown["zero"], sum(shown["log10"])) == (7, 1, 6)
    assert shown["log10"][0] == 2 and shown["log10"][-1] == 2 and shown["law"] is None


def test_weights_that_are_all_zero_have_a_record_too():
    shown = measure._distribution({"w": torch.zeros(100)})
    assert (shown["count"], shown["zero"], sum(shown["log10"]), shown["law"]) == (100, 100, 0, None)


# --- the test set -------------------------------------------------------------------------------------------------------


@each_kind
def test_test_set_is_opened_once_by_final_runs_after_every_choice(splits, run):
    events = []

    class Watched(data.Sealed):
        def open(self):
            events.append("open")
            return super().open()

    test = splits.seal().open()

    def seal():
        events.append("seal")
        return Watched(test)

    with pytest.MonkeyPatch.context() as patch:
        accuracy, fit = models.accuracy, runs.fit
        patch.setattr(
            models,
            "accuracy",
            lambda net, examples, *a: (
                events.append("test" if examples is test else "other") or accuracy(net, examples, *a)
            ),
        )
        for module in (runs, measure):
            patch.setattr(module, "fit", lambda *a, **k: events.append("fit") or fit(*a, **k))
        perform(run, CARD, replace(splits, seal=seal))
    if run.phase == "tune":
        assert set(events) == {"fit", "other"}
        return
    assert events.count("seal") == events.count("open") == 1
    assert events[0] == "seal", "before anything is done"
    opened = events.index("open")
    assert set(events[1:opened]) == {"fit", "other"} and set(events[opened:]) == {"open", "test"}


def test_without_its_test_set_the_data_are_the_same(splits):
    bare = splits.without_test()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^there is no test set here: choices are made on validation data$"):
            bare.seal()
    assert (bare.train, bare.validation, bare.classes) == (splits.train, splits.validation, splits.classes)
    assert bare.description == splits.description and bare.shape == splits.shape
    assert len(splits.seal().open().labels) == 40, "and the others are as they were"
    with pytest.raises(RuntimeError):
        bare.without_test().seal()


@each_kind
def test_no_part_of_a_run_can_reach_the_test_set(splits, run):
    """All but the one sealed set of a final run is handed on without it."""
    seen, sealed = [], []

    def watched(net, run, card, given, training, reference, test):
        seen.append((given, test))
        with pytest.raises(RuntimeError, match="no test set here"):
            given.seal()
        return measure.measure(net, run, card, given, training, reference, test)

    def seal():
        sealed.append(splits.seal())
        return sealed[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "measure", watched)
        perform(run, CARD, replace(splits, seal=seal))
    ((given, test),) = seen
    assert (given.train, given.validation) == (splits.train, splits.validation)
    if run.phase == "tune":
        assert test is None and sealed == []
    else:
        assert sealed == [test]
        with pytest.raises(RuntimeError, match="it is read once"):
            test.open()


def test_a_sealed_set_opens_once(splits):
    sealed = splits.seal()
    assert len(sealed.open().labels) == 40
    with pytest.raises(RuntimeError, match="it is read once"):
        sealed.open()
    assert len(splits.seal().open().labels) == 40, "each run has its own"


# --- a run is a function of card, setting and seed ----------------------------------------------------------------------


@each_kind
def test_record_and_weights_repeat_bit_by_bit(done, splits, run):
    torch.rand(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again = perform(run, CARD, splits)
    assert timeless(again) == timeless(done[run])
    assert_equal_weights(again, done[run])
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_settings_reach_the_training(done, splits):
    base = timeless(done[tune()])
    for other in (
        replace(tune(), rate=0.2),
        replace(tune(), strength=0.1),
        replace(tune(), seed=101),
        tune(treatment="all"),
    ):
        assert perform(other, CARD, splits).record["losses"] != base["losses"], other
    assert timeless(perform(tune("L2", 0.1), CARD, splits))["losses"] != base["losses"]


def test_threads_of_the_card_are_used_and_put_back(splits, monkeypatch):
    seen, fit = [], runs.fit
    monkeypatch.setattr(runs, "fit", lambda *a, **k: seen.append(torch.get_num_threads()) or fit(*a, **k))
    before = torch.get_num_threads()
    perform(tune("none", 0.0), CARD.model_copy(update={"threads": before + 1}), splits)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    monkeypatch.setattr(runs, "fit", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        perform(tune("none", 0.0), CARD.model_copy(update={"threads": before + 1}), splits)
    assert torch.get_num_threads() == before


def test_a_run_resumed_from_its_checkpoint_has_the_same_record_and_leaves_no_file(tmp_path, splits, done):
    run = KINDS["final all"]
    stem = tmp_path / "checkpoints" / "run"

    def stop(epoch, loss):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(run, CARD, splits, checkpoint=Checkpoint(stem, 0.0), on_epoch=stop)
    assert len(list(stem.parent.iterdir())) == 2
    heard = []
    outcome = perform(
        run, CARD, splits, checkpoint=Checkpoint(stem, 0.0), on_epoch=lambda epoch, loss: heard.append(epoch)
    )
    assert heard == [3] and not list(stem.parent.iterdir())
    assert timeless(outcome) == timeless(done[run])
    assert_equal_weights(outcome, done[run])


def test_a_checkpoint_that_cannot_be_deleted_does_not_cost_the_record(tmp_path, splits, done, monkeypatch):
    run = KINDS["final"]
    (tmp_path / "run.00009.pt").mkdir()  # no file, so that it cannot be unlinked
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        outcome = perform(run, CARD, splits, checkpoint=Checkpoint(tmp_path / "run"))
    assert timeless(outcome) == timeless(done[run])
    assert_equal_weights(outcome, done[run])


# --- removal ------------------------------------------------------------------------------------------------------------


def test_fine_tuned_nets_keep_exactly_their_zeros(splits, done):
    trained = []
    fit = runs.fit
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, measure):
            patch.setattr(module, "fit", lambda net, *a, **k: trained.append((net, a[1], k)) or fit(net, *a, **k))
        outcome = perform(tune(), CARD, splits)
    (net, _, _), *tuned = trained
    assert timeless(outcome) == timeless(done[tune()])
    weights = models.regularized(net)
    start = models.rms(models.build("mlp", {"hidden": [12]}, (1, 8, 8), 10, 100))
    places = [(division, share) for division in CARD.removal.divisions for share in (0.5, 0.9)]
    for (division, share), (other, training, given) in zip(places, tuned, strict=True):
        kept = pruning.Ranking(weights, division, start).masks(share)
        for name, w in models.regularized(other).items():
            assert torch.equal(w != 0, kept[name]), "the zeros of the mask, and no other"
            assert not torch.equal(w[kept[name]], weights[name][kept[name]]), "the others were trained on"
        assert (training.epochs, training.rate, training.warmup) == (1, pytest.approx(0.01), 0.0)
        assert given.get("reg") is None, "without a penalty"
        (row,) = rows(outcome.record, way="fine-tuned", division=division, share=share)
        assert row["validation"] == models.accuracy(other, splits.validation)


@pytest.mark.parametrize("division", CARD.removal.divisions)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("method", [SOFT, "none"])
def test_gradual_run_has_its_share_of_exact_zeros(splits, method, share, division):
    run = final(method, 0.01 if method == SOFT else 0.0, kind="gradual", share=share, division=division)
    outcome = perform(run, CARD, splits)
    weights = models.regularized(rebuilt(run, outcome.weights))
    zeros = {name: int((w == 0).sum()) for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    assert sum(zeros.values()) == (round(share * total) if division != "layerwise" else sum(zeros.values()))
    if division == "layerwise":
        assert zeros == {name: round(share * w.numel()) for name, w in weights.items()}
    (row,) = outcome.record["removal"]
    assert row["removed"] == outcome.record["sparsity"]["zero"] == sum(zeros.values()) / total
    assert row["validation"] == outcome.record["validation_accuracy"] and row["test"] == outcome.record["test_accuracy"]


# --- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["final", "final lasso", "final gradual", "final all"])
def test_weights_reload_and_give_the_recorded_accuracies(tmp_path, done, splits, kind):
    run = KINDS[kind]
    outcome = done[run]
    net = rebuilt(run, outcome.weights)
    assert models.accuracy(net, splits.seal().open()) == outcome.record["test_accuracy"]
    assert models.accuracy(net, splits.train) == outcome.record["train_accuracy"]
    assert models.accuracy(net, splits.validation) == outcome.record["validation_accuracy"]
    (tmp_path / "w.safetensors").write_bytes(outcome.weights)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        about = file.metadata()
    assert Run(**json.loads(about["run"])) == run and about["card"] == CARD.digest
    start = models.build(
        "mlp", {**CARD.model.options, **CARD.treatment(run.treatment).options}, (1, 8, 8), 10, run.seed
    )
    assert json.loads(about["starting_rms"]) == models.rms(start)


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [tune("explosive", 1e30), final("explosive", 1e30)], ids=["tune", "final"])
def test_a_diverged_run_is_a_record(splits, run):
    class Shut(data.Sealed):
        def open(self):
            raise AssertionError("the test set of a diverged run is not opened")

    def seal():
        assert run.phase == "final", "a tuning run asks for none"
        return Shut(splits.seal().open())

    outcome = perform(run, CARD, replace(splits, seal=seal))
    record = outcome.record
    assert record["status"] == "diverged" and len(record["losses"]) < 3 and outcome.weights is None
    assert record["removal"] == [] and record["validation_accuracy"] is record["test_accuracy"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_stems_of_runs_are_names_of_files():
    """Also of a method that its user gave a long name, with room for the endings."""
    assert tune().stem == Run(**json.loads(json.dumps(tune().__dict__))).stem
    stems = {run.stem for run in KINDS.values()}
    assert len(stems) == len(KINDS) and all(re.fullmatch("[A-Za-z0-9.-]+", stem) for stem in stems)
    for name in ("é/..\\ *?", "long " * 60):
        stem = tune(name).stem
        assert re.fullmatch("[A-Za-z0-9.-]+", stem) and len(stem) < 200
    assert tune("a b").stem != tune("a-b").stem


# --- outputs instead of weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["once", "fine-tuned", "gradual"])
def test_outputs_are_removed_under_penalties_by_group(splits, way):
    """Of 12 hidden neurons half go, with their biases, whatever the penalty; the net's own weights stay as trained."""
    plain = CARD.model_dump(mode="json")
    plain["methods"] = [
        {"penalty": "none"},
        {"penalty": "L1", "group": "output"},
        {"penalty": "soft diamond", "alpha": 0.5, "group": "output", "mode": "implicit"},
    ]
    plain["final"]["baseline"] = "none"
    plain["removal"] |= {"unit": "output", "shares": [0.0, 0.5], "gradual_from": 0.5, "gradual_tuned_at": [0.5]}
    card = cards.Card.model_validate_json(json.dumps(plain))
    assert [method.label for method in card.methods] == ["none", "L1 by output", "soft diamond 0.5 by output"]
    for method in card.methods:
        if way == "gradual":
            run = final(method.label, 0.0 if method.penalty == "none" else 0.1, kind="gradual", share=0.5)
        else:
            run = final(method.label, 0.0 if method.penalty == "none" else 0.1)
        outcome = perform(run, card, splits)
        (row,) = rows(outcome.record, way=way, share=0.5)
        assert row["removed"] == 0.5 and 0 < row["validation"] <= 1 and 0 < row["test"] <= 1
        if way != "gradual":
            assert outcome.record["prunable"]["global"] >= 0
            continue
        net = rebuilt(run, outcome.weights, card)
        gone = (net[1].weight == 0).all(dim=1)
        assert int(gone.sum()) == 6 and torch.equal(net[1].bias == 0, gone)


def test_a_method_by_output_groups_the_last_layer_by_its_inputs():
    net = models.build("mlp", {"hidden": [12]}, (1, 8, 8), 10, seed=0)
    method = cards.Method(penalty="soft diamond", alpha=0.5, group="output")
    records = [r for r in train.regularizer(net, method, 0.1).describe().records if r["regularized"]]
    assert [(r["groups"], r["group_size"]) for r in records] == [(12, 64), (12, 10)]
