"""The card of a comparison: what ships, what is refused and with which words, its digest, its differences."""

import copy
import json
import math
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softdiamond.experiments import UserError, card

SHIPPED = list(card.shipped())
KEYS = ["name", "title", "data", "model", "training", "methods", "tuning", "final", "sparsity", "removal", "treatments"]
KEYS += ["threads", "device", "quick"]


def plain():
    """A card that states every key, as plain values."""
    return {
        "name": "every-key",
        "title": "All keys",
        "data": {"name": "cifar10", "train": 800, "validation": 400, "test": 300, "per_class": False},
        "model": {"name": "mlp", "options": {"hidden": [64, 32], "dropout": 0.1, "batch_norm": False}},
        "training": {
            "optimizer": "SGD",
            "rate": 0.05,
            "momentum": 0.8,
            "schedule": "cosine",
            "warmup": 1.5,
            "epochs": 7,
            "batch": 32,
            "augmentation": "none",
        },
        "methods": [
            {"penalty": "none", "name": "nothing"},
            {"penalty": "L2", "mode": "implicit", "reference": "tensor", "strengths": [0.1, 0.2, 0.3]},
            {"penalty": "soft diamond", "alpha": 0.5, "relative_scale": 3.0, "name": "soft"},
        ],
        "tuning": {
            "strengths": [0.01, 0.02, 0.03],
            "rates": [0.05, 0.1],
            "seeds": [10, 11],
            "tolerance": 0.5,
            "widen": 1,
        },
        "final": {"seeds": [0, 1, 2], "baseline": "L2"},
        "sparsity": {"curve": [0.0, 0.4, 0.8], "lost": 0.25},
        "removal": {
            "shares": [0.0, 0.5, 0.9],
            "ways": ["once", "gradual"],
            "divisions": ["global", "relative"],
            "fine_tuning_epochs": 3,
            "fine_tuning_rate": 0.2,
            "gradual_from": 0.7,
            "gradual_tuned_at": [0.9],
            "gradual_begin": 0.2,
            "gradual_end": 0.6,
        },
        "treatments": [
            {"name": "as it is"},
            {"name": "dropout", "options": {"dropout": 0.5}, "augmentation": "crop and flip"},
        ],
        "threads": 2,
        "quick": False,
    }


def leaves(value, place=()):
    """Yield the place and value of every number, word and list of such in a card's plain values."""
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, (*place, key))
    else:
        yield place, value


def table(values, place):
    for key in place[:-1]:
        values = values[key]
    return values


def changed(*changes):
    """The card of every key with other values at some places; None removes the key."""
    values = plain()
    for place, value in changes:
        holder = table(values, place.split(".") if isinstance(place, str) else place)
        last = place.split(".")[-1] if isinstance(place, str) else place[-1]
        if value is None:
            del holder[last]
        else:
            holder[last] = value
    return values


def read(values):
    return card.validated(values, "mine.toml")


def refusal(values):
    """The one line with which plain values are refused, less the name of the file."""
    with pytest.raises(UserError) as caught:
        read(values)
    said = str(caught.value)
    assert said.startswith("mine.toml: ") and "\n" not in said
    return said.removeprefix("mine.toml: ")


PLACES = [".".join(map(str, place)) for place, _ in leaves(plain())]
LEAVES = list(leaves(plain()))
each_leaf = pytest.mark.parametrize(("place", "value"), LEAVES, ids=PLACES)


def other_value(value):
    """A value of the same kind that its place allows too."""
    special = {
        "SGD": "AdamW",
        "cosine": "constant",
        "none": "L1",
        "tensor": "model",
        "implicit": "prox",
        "crop and flip": "none",
        "L2": "L1",
    }
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return special.get(value, value + "x")
    if isinstance(value, list):
        if isinstance(value[0], str):
            return value[:1]
        return [*value[:-1], value[-1] + (0.001 if isinstance(value[-1], float) else 1)]
    return value + (1 if isinstance(value, int) else 0.01)


def pair(place, value):
    """Two valid cards that differ at one place, and what the second has there."""
    new = {"final.baseline": "soft", "training.augmentation": "crop and flip"}.get(".".join(map(str, place)))
    new = new or other_value(value)
    baseline = ("final.baseline", "soft" if place[:2] == ("methods", 1) else "L2")  # not the method that is changed
    return read(changed(baseline)), read(changed(baseline, (place, new))), new


# ---- what ships ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cards_are_read_and_written_back(name):
    found = card.find(name)
    assert found.name == name, "a card is called like its file"
    assert found == card.parse(card.text(name), name) and not found.quick and found.title
    written = found.model_dump(mode="json", exclude_none=True)
    again = read(written)
    assert again == found and again.digest == found.digest and again.differences(found) == []
    assert re.fullmatch("[0-9a-f]{12}", found.digest)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cards_are_fair(name):
    found = card.find(name)
    labels = [method.label for method in found.methods]
    lasso = {method.label for method in found.methods if method.penalty == "L1"}
    assert labels[0] == "none" and "L2" in labels and lasso and found.final.baseline in {"L2", *lasso}
    assert len({len(found.strengths(method)) for method in found.methods[1:] if method.dispersions is None}) == 1
    assert found.strengths(found.methods[0]) == ()
    assert not set(found.tuning.seeds) & set(found.final.seeds)


@pytest.mark.parametrize("content", [*(card.text(name) for name in SHIPPED), None], ids=[*SHIPPED, "every key"])
def test_quick_cards_are_small_and_valid(content):
    found = read(plain()) if content is None else card.parse(content, "shipped")
    quick = found.quick_version()
    assert quick.quick and quick == read(quick.model_dump(mode="json", exclude_none=True))
    assert quick.digest != found.digest and quick.name == found.name, "its runs are never taken for the card's"
    assert quick.training.epochs == 2 and quick.training.warmup == 0 and quick.removal.fine_tuning_epochs == 1
    assert quick.data.train <= 512 and quick.data.validation <= 256 and quick.data.test <= 256
    assert len(quick.final.seeds) == 2 and len(quick.tuning.seeds) == 1 and quick.tuning.widen == 0
    assert {len(quick.strengths(method)) for method in quick.methods} == {0, 2}
    assert [method.label for method in quick.methods] == [method.label for method in found.methods]
    assert quick.treatments == found.treatments and quick.removal.shares == found.removal.shares
    assert not found.quick and quick.quick_version() == quick


@pytest.mark.parametrize(("train", "expected"), [(1, 1), (2, 2), (20, 2)])
def test_quick_cards_take_two_images_of_each_class(train, expected):
    quick = read(changed(("data.per_class", True), ("data.train", train), ("data.test", None))).quick_version()
    assert (quick.data.train, quick.data.validation, quick.data.test) == (expected, 2, 256)


def test_quick_cards_make_nothing_larger():
    values = changed(("training.epochs", 1), ("data.train", 20), ("data.validation", 10), ("data.test", 5))
    values["final"]["seeds"], values["tuning"]["strengths"] = [3], [0.1]
    del values["methods"][1]["strengths"]
    quick = read(values).quick_version()
    assert quick.training.epochs == 1 and quick.final.seeds == (3,) and quick.tuning.strengths == (0.1,)
    assert (quick.data.train, quick.data.validation, quick.data.test) == (20, 10, 5)


def test_cards_cannot_be_changed():
    found = read(plain())
    with pytest.raises(ValueError, match="frozen"):
        found.training.epochs = 3


# ---- labels, strengths and look-ups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"penalty": "none"}, "none"),
        ({"penalty": "L2"}, "L2"),
        ({"penalty": "L1", "reference": "model"}, "L1, one rms"),
        ({"penalty": "L1", "mode": "prox"}, "L1, prox"),
        ({"penalty": "soft diamond", "alpha": 1.0}, "soft diamond 1"),
        ({"penalty": "soft diamond", "alpha": 0.5, "relative_scale": 1.0}, "soft diamond 0.5"),
        ({"penalty": "soft diamond", "alpha": 0.5, "relative_scale": 0.3}, "soft diamond 0.5, scale 0.3"),
        (
            {"penalty": "soft diamond", "alpha": 2, "relative_scale": 3, "reference": "model", "mode": "loss"},
            "soft diamond 2, scale 3, one rms, loss",
        ),
        ({"penalty": "L2", "mode": "gradient", "name": "ridge"}, "ridge"),
    ],
    ids=str,
)
def test_labels_say_what_differs_from_the_default(values, label):
    assert card.Method.model_validate_json(json.dumps(values)).label == label


def test_strengths_rise_and_are_a_methods_own_or_those_of_the_tuning():
    values = changed(("tuning.strengths", [0.03, 0.01, 0.02]))
    values["methods"][1]["strengths"] = [0.3, 0.1, 0.2]
    found = read(values)
    assert [found.strengths(method) for method in found.methods] == [(), (0.1, 0.2, 0.3), (0.01, 0.02, 0.03)]


def test_methods_and_treatments_are_found_by_name():
    found = read(plain())
    assert found.method("soft") is found.methods[2] and found.method("L2") is found.methods[1]
    assert found.treatment("dropout") is found.treatments[1]


def test_whole_numbers_serve_as_real_ones():
    assert read(changed(("training.rate", 1), ("tuning.tolerance", 0))).training.rate == 1.0


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "right", "known"),
    [
        ("trainnig", "training", KEYS),
        ("training.epoch", "epochs", ["optimizer", "rate", "momentum", "schedule", "warmup", "epochs", "batch"]),
        ("data.valdation", "validation", ["name", "train", "validation", "test", "per_class"]),
        ("model.option", "options", ["name", "options"]),
        ("tuning.seed", "seeds", ["strengths", "total_decays", "rates", "seeds", "tolerance", "widen"]),
        ("final.base_line", "baseline", ["seeds", "baseline"]),
        ("sparsity.curves", "curve", ["curve", "lost"]),
        ("removal.division", "divisions", ["unit", "shares", "ways", "divisions", "fine_tuning_epochs"]),
        (
            ("methods", 2, "alhpa"),
            "alpha",
            ["penalty", "alpha", "relative_scale", "mode", "reference", "group", "strengths"],
        ),
        (("treatments", 1, "augment"), "augmentation", ["name", "options", "augmentation"]),
        ("zzz", None, KEYS),
    ],
    ids=str,
)
def test_unknown_keys_are_refused_with_a_hint(place, right, known):
    said = refusal(changed((place, 1)))
    parts = place.split(".") if isinstance(place, str) else [str(p + 1) if isinstance(p, int) else p for p in place]
    assert said.startswith(f"{'.'.join(parts)} is no key of a card: there are {', '.join(known)}")
    assert said.endswith(f"; did you mean {right}?" if right else known[-1])


def test_a_misspelt_key_is_named_rather_than_the_one_that_lacks():
    assert refusal(changed(("training.epochs", None), ("training.epoch", 3))).startswith("training.epoch is no key")


WRONG = {
    int: [(True, "true"), (2.0, "2.0"), (2.5, "2.5"), ("2", "'2'"), ([2], None), (float("nan"), "nan")],
    float: [(True, "true"), ("0.1", "'0.1'"), (float("nan"), "nan"), (float("inf"), "inf"), ([0.1], None)],
    bool: [(0, "0"), ("true", "'true'")],
    str: [(1, "1"), (True, "true")],
    list: [(0.1, "0.1"), ("0.1", "'0.1'"), (True, "true")],
}


@each_leaf
def test_values_of_another_type_are_refused(place, value):
    if "options" in place:
        return  # the model's function judges these
    for wrong, shown in WRONG[type(value)]:
        said = refusal(changed((place, wrong)))
        key = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
        assert re.match(f"{re.escape(key)}( is {re.escape(shown)})?: " if shown else re.escape(key), said), said
        assert "should be" in said


@each_leaf
def test_missing_keys_are_named_or_have_a_default(place, value):
    required = {"name", "train", "validation", "optimizer", "rate", "epochs", "batch", "penalty", "seeds", "alpha"}
    required = required - ({"name"} if place[0] == "methods" else set())
    values = changed((place, None))
    if place == ("tuning", "strengths"):
        assert refusal(values) == "tuning: give either strengths or total_decays"
    elif place[-1] in required and "options" not in place:
        said = refusal(values)
        key = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
        assert (
            said == f"{key} is missing" or said == "methods.3: alpha is missing: a soft diamond needs one in [0.1, 2]"
        )
    else:
        read(values)


def test_total_decay_is_strength_times_the_sum_of_the_learning_rates():
    settings = {"rate": 0.5, "momentum": 0.75, "schedule": "cosine", "warmup": 1.0, "epochs": 3, "batch": 40}
    values = changed(("tuning.strengths", None), ("tuning.rates", None), ("tuning.total_decays", [0.3, 3.0]))
    values["training"] |= {"optimizer": "SGD", **settings}
    values["data"] |= {"per_class": False, "train": 100}
    for method in values["methods"]:
        method.pop("strengths", None)
    found = read(values)
    steps = 3 * 3
    expected = sum(0.5 / 0.25 * min(1, (t + 1) / 3) * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps))
    assert found.sum_of_rates == pytest.approx(expected, rel=1e-12)
    assert found.strengths(found.methods[1]) == pytest.approx((0.3 / expected, 3.0 / expected), rel=1e-5)
    values["training"]["optimizer"] = "AdamW"
    assert read(values).sum_of_rates == pytest.approx(expected * 0.25, rel=1e-12), "Adam's momentum does not add up"
    values["data"] |= {"per_class": True, "train": 10}
    assert "data.classes is missing" in refusal(values)
    values["data"]["classes"] = 10
    assert read(values).sum_of_rates == pytest.approx(expected * 0.25, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(("tuning", "total_decays"), [1.0])], "tuning: give either strengths or total_decays"),
        (
            [(("tuning", "total_decays"), [1.0]), (("tuning", "strengths"), None)],
            "tuning: total_decays belong to one learning rate",
        ),
        ([(("methods", 2, "dispersions"), [0.1])], "methods.3: dispersions and lambdas go together"),
        (
            [(("methods", 2, "dispersions"), [0.1]), (("methods", 2, "lambdas"), [0.1])],
            "methods.3: with dispersions and lambdas, leave strengths, relative_scale and reference out",
        ),
        ([(("methods", 1, "lambdas"), [0.1])], "methods.2: dispersions and lambdas belong to a soft diamond"),
    ],
)
def test_settings_that_do_not_go_together(changes, words):
    values = plain()
    for place, value in changes:
        holder, last = table(values, place), place[-1]
        holder.pop(last, None) if value is None else holder.update({last: value})
    assert words in refusal(values)


@pytest.mark.parametrize("place", ["data", "model", "training", "methods", "tuning", "final"])
def test_missing_tables_are_named(place):
    assert refusal(changed((place, None))) == f"{place} is missing"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("methods", 2, "alpha"), 0.0999, "methods.3.alpha is 0.0999: should be greater than or equal to 0.1"),
        (("methods", 2, "alpha"), 2.0001, "methods.3.alpha is 2.0001: should be less than or equal to 2"),
        (("methods", 1, "alpha"), 0.5, "methods.2: alpha and relative_scale belong to a soft diamond, not to L2"),
        (("methods", 1, "group"), "output", "methods.2: group belongs to L1 and to a soft diamond, not to L2"),
        (("methods", 1, "relative_scale"), 2.0, "methods.2: alpha and relative_scale belong to a soft diamond, not"),
        (("methods", 0, "strengths"), [1.0], "methods.1: none has no strengths"),
        (("methods", 1, "penalty"), "L3", "methods.2.penalty is 'L3': should be 'none', 'L2', 'L1' or 'soft diamond'"),
        (("methods", 1, "mode"), "proxy", "should be 'implicit', 'prox', 'gradient' or 'loss'"),
        (("methods", 1, "reference"), "net", "should be 'tensor' or 'model'"),
        (("methods", 1, "strengths"), [0.1, 0.0, 0.2], "methods.2.strengths.2 is 0.0: should be greater than 0"),
        (("methods", 1, "strengths"), [], "methods.2.strengths: "),
        ("methods", [], "methods: "),
        ("treatments", [], "treatments: "),
        ("name", "../mine", "name is '../mine': "),
        ("name", "", "name is '': "),
        ("data.train", 0, "data.train is 0: should be greater than or equal to 1"),
        ("data.test", -3, "data.test is -3: should be greater than or equal to 1"),
        ("training.optimizer", "Adam", "training.optimizer is 'Adam': should be 'SGD' or 'AdamW'"),
        ("training.rate", 0.0, "training.rate is 0.0: should be greater than 0"),
        ("training.momentum", 1.0, "training.momentum is 1.0: should be less than 1"),
        ("training.schedule", "step", "should be 'cosine' or 'constant'"),
        ("training.warmup", -0.1, "training.warmup is -0.1: should be greater than or equal to 0"),
        ("training.augmentation", "flip", "should be 'none' or 'crop and flip'"),
        ("tuning.strengths", [0.1, -0.1, 0.2], "tuning.strengths.2 is -0.1: should be greater than 0"),
        ("tuning.strengths", [], "tuning.strengths: "),
        ("tuning.rates", [0.0], "tuning.rates.1 is 0.0: should be greater than 0"),
        ("tuning.seeds", [], "tuning.seeds: "),
        ("tuning.seeds", [2**32], "tuning.seeds.1 is 4294967296: should be less than 4294967296"),
        ("tuning.tolerance", 100.1, "tuning.tolerance is 100.1: should be less than or equal to 100"),
        ("tuning.widen", 11, "tuning.widen is 11: should be less than or equal to 10"),
        ("final.seeds", [5, -1], "final.seeds.2 is -1: should be greater than or equal to 0"),
        ("final.seeds", [5, 11, 10], "seed 10 is in tuning.seeds and in final.seeds: final seeds must be fresh"),
        ("final.baseline", "l2", "final.baseline is 'l2': must be one of nothing, L2, soft"),
        ("sparsity.curve", [0.1, 0.2], "sparsity.curve: must begin with 0 and rise"),
        ("sparsity.curve", [0.0, 0.2, 0.2], "sparsity.curve: must begin with 0 and rise"),
        ("sparsity.curve", [], "sparsity.curve: must begin with 0 and rise"),
        ("sparsity.curve", [0.0, 1.0], "sparsity.curve.2 is 1.0: should be less than 1"),
        ("sparsity.lost", -1, "sparsity.lost is -1: should be greater than or equal to 0"),
        ("removal.shares", [0.5], "removal.shares: must begin with 0 and rise"),
        ("removal.shares", [0.0, 0.9, 0.5], "removal.shares: must begin with 0 and rise"),
        ("removal.ways", ["twice"], "removal.ways.1 is 'twice': should be 'once', 'fine-tuned' or 'gradual'"),
        ("removal.divisions", ["all"], "should be 'global', 'relative' or 'layerwise'"),
        ("removal.gradual_begin", 0.6, "removal: gradual_begin must be below gradual_end"),
        ("removal.gradual_end", 1.1, "removal.gradual_end is 1.1: should be less than or equal to 1"),
        ("removal.gradual_tuned_at", [], "removal: gradual_tuned_at must name a share"),
        ("removal.gradual_from", 1.0, "removal.gradual_from is 1.0: should be less than 1"),
        ("threads", 0, "threads is 0: should be greater than or equal to 1"),
        ("data", 3, "data is 3: should be an object"),
        ("methods", {"penalty": "L2"}, "methods: should be a valid array"),
        (("methods", 1), "L2", "methods.2 is 'L2': should be an object"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(place, value, words):
    assert words in refusal(changed((place, value)))


@pytest.mark.parametrize("alpha", [0.1, 2, 2.0])
def test_the_ends_of_alpha_are_allowed(alpha):
    assert read(changed((("methods", 2, "alpha"), alpha))).methods[2].alpha == alpha


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (("methods", 1, "strengths"), [0.1, 0.2, 0.1]),
        ("tuning.strengths", [0.1, 0.2, 0.1]),
        ("tuning.rates", [1, 2.0, 1.0]),
        ("tuning.seeds", [15, 16, 15]),
        ("final.seeds", [5, 6, 5]),
        ("removal.ways", ["once", "gradual", "once"]),
        ("removal.divisions", ["global", "layerwise", "global"]),
        ("removal.gradual_tuned_at", [0.9, 0.8, 0.9]),
    ],
    ids=str,
)
def test_what_stands_there_twice_is_refused(place, values):
    key = place if isinstance(place, str) else "methods.2.strengths"
    assert refusal(changed((place, values))) == f"{key}: {values[-1]} stands there twice"


def test_methods_and_treatments_have_names_of_their_own():
    values = plain()
    values["methods"] += [{"penalty": "L1", "name": "L2"}]
    assert refusal(values) == "two methods are called 'L2': give one another name"
    values["methods"][-1]["name"] = "lasso"
    assert read(values).method("lasso").penalty == "L1"
    said = refusal(changed((("treatments", 1, "name"), "as it is")))
    assert said == "two treatments are called 'as it is': give one another name"


@pytest.mark.parametrize("strengths", [[0.1, 0.2], [0.1, 0.2, 0.3, 0.4]], ids=len)
def test_methods_must_have_as_many_strengths(strengths):
    low, high = sorted([len(strengths), 3])
    said = refusal(changed((("methods", 1, "strengths"), strengths)))
    assert said == f"methods have {low}, {high} strengths: each needs as many"


def test_a_gradual_way_alone_needs_a_share_that_is_removed_gradually():
    largest = plain()["removal"]["shares"][-1]
    alone = ("removal.ways", ["gradual"])
    assert read(changed(alone, ("removal.gradual_from", largest))).removal.ways == ("gradual",)
    said = refusal(changed(alone, ("removal.gradual_from", 0.95)))
    assert said == "removal: no share of shares reaches gradual_from, 0.95: nothing is removed gradually"
    assert read(changed(("removal.gradual_from", 0.95))).removal.ways == ("once", "gradual"), "the other way removes"


def test_the_baseline_is_l2_where_none_is_named():
    assert read(changed(("final.baseline", None))).final.baseline == "L2"
    values = changed(("final.baseline", None), (("methods", 1, "penalty"), "L1"))
    assert refusal(values) == "final.baseline is 'L2': must be one of nothing, L1, soft"


@pytest.mark.parametrize(("values", "words"), [([plain()], "should be an object"), ({}, "name is missing")], ids=len)
def test_what_is_no_card_at_all_is_refused(values, words):
    assert refusal(values) == words


# ---- files ---------------------------------------------------------------------------------------------------------------


def test_a_card_of_the_user_is_read_from_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(card.text("digits").replace("epochs = 50", "epochs = 7 # größer"), encoding="utf-8")
    assert card.find(str(path)).training.epochs == 7
    path.rename(tmp_path / "mine")
    assert card.find(str(tmp_path / "mine")).training.epochs == 7, "whatever it is called, if it is there"


def said_of(name):
    with pytest.raises(UserError) as caught:
        card.find(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = \n", "is not valid TOML: .*line 1"),
        ("[data]\ntrain = 5\ntrain = 6\n", "is not valid TOML: .*line 3"),
        ("name = 'a'\n[data\n", "is not valid TOML: .*line 2"),
        ("", ": name is missing"),
        ("name = 'a'\n", ": data is missing"),
    ],
)
def test_bad_toml_is_one_line_that_names_the_file(tmp_path, content, words):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    assert re.match(re.escape(str(path)) + " ?" + words, said_of(str(path)))


def test_a_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "absent.toml")
    assert said_of(path) == f"cannot read the card {path!r} (No such file or directory)"


def test_a_folder_is_no_card(tmp_path):
    path = tmp_path / "folder.toml"
    path.mkdir()
    assert said_of(str(path)) == f"cannot read the card {str(path)!r} (Is a directory)"
    assert said_of(str(tmp_path)).startswith("no card ")


@pytest.mark.parametrize("content", ["name = 'ä'".encode("latin-1"), "name = 'a'".encode("utf-16")])
def test_a_file_that_is_no_utf8(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert said_of(str(path)) == f"cannot read the card {str(path)!r} (it is no UTF-8 text, or no path)"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b.toml", "a\nb.toml"], ids=["long", "null", "two lines"])
def test_names_that_are_no_path(name):
    assert said_of(name).startswith(f"cannot read the card {name!r} (")


@pytest.mark.parametrize(
    ("name", "right"),
    [("digit", "digits"), ("CIFAR10-small", "cifar10-small"), ("DIGITS", "digits"), ("zzz", None)],
)
def test_unknown_names_of_cards_have_a_hint(name, right):
    expected = f"no card {name!r}: there are {', '.join(SHIPPED)}, and your own as a path that ends in .toml"
    assert said_of(name) == (f"{expected}; did you mean {right}?" if right else expected)


ODD = {"huge number": "name = " + "9" * 5000, "deep list": "name = " + "[" * 5000}
ODD |= {"huge number in hex": "name = 0x" + "f" * 5000, "deep table": ".".join("a" * 5000) + " = 1"}
ODD |= {"key of two lines": '"a\\nb" = 1'}


@pytest.mark.parametrize("kind", ODD)
def test_odd_toml_is_one_line(kind):
    with pytest.raises(UserError, match=r"^mine.*\Z"):
        card.parse(ODD[kind], "mine")


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(card.text("digits"), encoding="utf-8-sig")
    assert card.find(str(path)).name == "digits"


# ---- the digest and differences ------------------------------------------------------------------------------------------


def reordered(value):
    """The same with the keys of every table in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(each) for key, each in reversed(value.items())}
    return [reordered(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", SHIPPED)
def test_digest_ignores_comments_and_layout(name):
    content = card.text(name)
    bare = "\n".join(line.split("#")[0].strip() for line in content.splitlines() if line.split("#")[0].strip())
    assert "#" in content and "#" not in bare
    assert card.parse(bare, name) == card.find(name)
    assert card.parse(bare, name).digest == card.find(name).digest
    assert card.parse(content + "\n# a comment\n", name).digest == card.find(name).digest


def test_digest_ignores_title_final_seeds_and_the_order_of_keys():
    found = read(plain())
    for values in (
        changed(("title", "Another")),
        changed(("title", None)),
        changed(("final.seeds", [7])),
        changed(("final.seeds", [0, 1, 2, 3, 4])),
        reordered(plain()),
    ):
        other = read(values)
        assert other.digest == found.digest and other.differences(found) == found.differences(other) == []


def test_digest_ignores_that_a_default_is_stated():
    """So a key that a later version adds changes no old digest."""
    stated, silent = tomllib.loads(card.text("digits")), tomllib.loads(card.text("digits"))
    stated["training"]["warmup"] = 0.0
    stated["sparsity"] = {"lost": 0.5}
    stated["treatments"] = [{"name": "plain"}]
    stated["methods"][1]["mode"] = "implicit"
    del silent["threads"]
    assert read(stated).digest == read(silent).digest == card.find("digits").digest


CHANGEABLE = [leaf for leaf in LEAVES if leaf[1] != "soft diamond"]  # no other penalty takes an alpha


@pytest.mark.parametrize(("place", "value"), CHANGEABLE, ids=[".".join(map(str, place)) for place, _ in CHANGEABLE])
def test_digest_changes_with_any_other_value(place, value):
    one, other, new = pair(place, value)
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
    if key in ("title", "final.seeds"):
        assert other.digest == one.digest and one.differences(other) == []
        return
    assert other.digest != one.digest
    assert one.differences(other) == [f"{key}: {value} and {new}"]
    assert other.differences(one) == [f"{key}: {new} and {value}"]


@given(st.permutations(range(3)), st.integers(0, 2))
def test_digest_knows_the_order_of_methods(order, first):
    values = plain()
    values["methods"] = [values["methods"][i] for i in order]
    assert (read(values).digest == read(plain()).digest) == (list(order) == [0, 1, 2])


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_digest_knows_every_digit_of_a_number(one, two):
    digests = [read(changed(("training.rate", rate))).digest for rate in (one, two)]
    assert (digests[0] == digests[1]) == (one == two)


def test_digest_stays_what_it_was():
    """Records on users' disks are named by it: a change of this value makes them do their runs again."""
    assert read(plain()).digest == "8fd55b2022f4"


def test_differences_name_what_one_card_lacks():
    values = changed((("treatments", 1, "options"), {"batch_norm": True}))
    assert read(plain()).differences(read(values)) == [
        "treatments.2.options.dropout: 0.5 and None",
        "treatments.2.options.batch_norm: None and True",
    ]
    fewer = copy.deepcopy(plain())
    del fewer["methods"][2]
    said = read(plain()).differences(read(fewer))
    assert "methods.3.alpha: 0.5 and None" in said and all(line.startswith("methods.3.") for line in said)


@pytest.mark.parametrize(("value", "other"), [(1.0, 1), (1.0, True), (1, True)], ids=str)
def test_differences_name_a_change_of_type(value, other):
    one, two = (read(changed(("model.options.dropout", each))) for each in (value, other))
    assert one.digest != two.digest
    assert one.differences(two) == [f"model.options.dropout: {value} and {other}"]
