"""Regularizer as its user meets it: what it takes, how strongly, what it says, the optimizer it hangs on, bad input.

The numbers of one step are in `test_regularizer_steps.py`.
"""

import copy
import gc
import io
import json
import math
import pickle
import re
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import ddp_worker
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam, AdamW, RMSprop

from softdiamond import L1, L2, Regularizer, Rule, SoftDiamond, StudentT, stable

DOUBLE = torch.float64
MODES = ["implicit", "prox", "gradient"]
SOFT = SoftDiamond(0.5)
KAPPA = 120.0  # omega of SOFT at zero

each_mode = pytest.mark.parametrize("mode", MODES)


def net(dtype=torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(step: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator).to(dtype), torch.randn(8, 3, generator=generator).to(dtype)


def train(model, optimizer, steps=4, *, closure=False, extra=None, scaler=None, unscale=False, sign=1.0) -> None:
    """Steps on the batches with these numbers (a count, or a range)."""
    for number in range(steps) if isinstance(steps, int) else steps:
        x, y = batch(number, next(model.parameters()).dtype)

        def loss_with_gradient(x=x, y=y):
            optimizer.zero_grad()
            loss = sign * mse_loss(model(x), y) + (0 if extra is None else extra())
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss

        if closure:
            assert torch.is_tensor(optimizer.step(loss_with_gradient))
        elif scaler is None:
            loss_with_gradient()
            optimizer.step()
        else:
            loss_with_gradient()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()


def idle(optimizer) -> None:
    """A step without a data gradient: plain SGD then moves nothing by itself."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()


def twins(count=2, dtype=torch.float32) -> list[nn.Sequential]:
    first = net(dtype)
    return [first, *(copy.deepcopy(first) for _ in range(count - 1))]


def sgd(model, lr=0.1, **settings) -> SGD:
    return SGD(model.parameters(), lr=lr, **settings)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, model) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def assert_close(a, b, *, rtol=0.0, atol=0.0) -> None:
    a, b = (weights(x) if isinstance(x, nn.Module) else x for x in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def records(reg) -> dict[str, dict]:
    return {record["name"]: record for record in reg.describe().records}


def taken(reg) -> list[str]:
    return [record["name"] for record in reg.describe().records if record["regularized"]]


def rms(tensor) -> float:
    return float(np.sqrt(np.mean(np.square(tensor.detach().double().numpy()))))


# ---- what is regularized -----------------------------------------------------------------------------------------------


class Zoo(nn.Module):
    """One of each kind of layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(3)
        self.ln = nn.LayerNorm(6)
        self.wide_ln = nn.LayerNorm((4, 4))
        self.group = nn.GroupNorm(2, 4)
        self.rms = nn.RMSNorm((2, 3))
        self.emb = nn.Embedding(10, 4)
        self.mha = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(4, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.gain = nn.Parameter(torch.ones(5))
        self.table = nn.Parameter(torch.randn(2, 3, 4))
        self.temperature = nn.Parameter(torch.tensor(1.0))


ZOO = {  # name: regularized, a part of the reason
    "linear.weight": (True, "2 dimensions"),
    "linear.bias": (False, "bias"),
    "conv.weight": (True, "4 dimensions"),
    "conv.bias": (False, "bias"),
    "bn.weight": (False, "norm (BatchNorm2d)"),
    "bn.bias": (False, "bias"),
    "ln.weight": (False, "norm (LayerNorm)"),
    "wide_ln.weight": (False, "norm (LayerNorm)"),
    "wide_ln.bias": (False, ""),
    "group.weight": (False, "norm (GroupNorm)"),
    "rms.weight": (False, "norm (RMSNorm)"),
    "emb.weight": (True, "embedding"),
    "mha.in_proj_weight": (True, "2 dimensions"),
    "mha.in_proj_bias": (False, "bias"),
    "mha.out_proj.weight": (True, "2 dimensions"),
    "mha.out_proj.bias": (False, "bias"),
    "lstm.weight_hh_l0": (True, "2 dimensions"),
    "lstm.bias_hh_l0": (False, ""),
    "normed.bias": (False, "bias"),
    "normed.parametrizations.weight.original1": (True, "2 dimensions"),
    "gain": (False, "fewer than 2 dimensions"),
    "table": (True, "3 dimensions"),
    "temperature": (False, "fewer than 2 dimensions"),
}


def test_default_rule():
    found = records(Regularizer(Zoo(), SOFT, 5e-4))
    for name, (regularized, why) in ZOO.items():
        assert found[name]["regularized"] is regularized and why in found[name]["why"], found[name]


def test_every_parameter_has_one_record():
    model = Zoo()
    model.linear.weight.requires_grad_(False)
    shown = [(record["name"], record["shape"]) for record in Regularizer(model, SOFT, 5e-4).describe().records]
    assert shown == [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    assert all(record["why"] for record in Regularizer(model, SOFT, 5e-4).describe().records)


def test_biases_of_attention_are_biases():
    """bias_k and bias_v have three dimensions."""
    found = records(Regularizer(nn.MultiheadAttention(8, 2, add_bias_kv=True), SOFT, 5e-4))
    assert [name for name, record in found.items() if record["regularized"]] == ["in_proj_weight", "out_proj.weight"]
    assert found["bias_k"]["why"] == found["bias_v"]["why"] == "bias"


def test_only_the_regularized_move():
    model = Zoo()
    before = weights(model)
    reg = Regularizer(model, SOFT, 5e-2)
    reg.step(0.1)
    assert changed(before, model) == set(taken(reg))


def test_penalty_is_soft_diamond_half_by_default():
    found = records(Regularizer(net(), strength=1e-3)).values()
    assert {record["penalty"] for record in found if record["regularized"]} == {repr(SOFT)}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight


def test_tied_weights_count_once():
    model = Tied()
    loose = copy.deepcopy(model.emb.weight)
    reg = Regularizer(model, SOFT, 1e-2)
    assert [record["name"] for record in reg.describe().records] == ["emb.weight", "body.weight", "body.bias"]
    assert "tied to head.weight" in records(reg)["emb.weight"]["why"]
    reg.step(0.1)
    Regularizer([("loose", loose)], SOFT, 1e-2).step(0.1)
    torch.testing.assert_close(model.emb.weight, loose, rtol=0, atol=0)


@pytest.mark.parametrize("where", ["head.weight", "*emb*", nn.Embedding, nn.Linear])
def test_rule_finds_tied_weights_under_each_of_their_homes(where):
    assert "emb.weight" not in taken(
        Regularizer(Tied(), SOFT, 1e-2, rules=[Rule("body.*", 0, L2()), Rule(where, True)])
    )


def test_frozen_weights_wait_and_join():
    model = net()
    model[0].requires_grad_(False)
    optimizer = SGD(model[2].parameters(), lr=0.1)
    reg = Regularizer(model, SOFT, 1e-1).attach(optimizer)
    found = records(reg)["0.weight"]
    assert found["regularized"] and "frozen" in found["why"] and "in no attached optimizer" in found["why"]
    before = weights(model)
    idle(optimizer)
    reg.step(0.1)
    assert changed(before, model) == {"2.weight"}

    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})
    found = records(reg)["0.weight"]
    assert "frozen" not in found["why"] and found["optimizer"] == "SGD" and found["eta"] == 0.05
    joined = copy.deepcopy(model[0])
    idle(optimizer)  # warnings are errors: nothing is said of weights that are known
    Regularizer(joined, SOFT, 1e-1).step(0.05)
    assert changed(before, model) == {"0.weight", "2.weight"}
    assert_close(model[0], joined)


def test_unfrozen_weights_that_a_rule_skips_are_not_unregistered():
    model = net()
    model[0].requires_grad_(False)
    optimizer = SGD(model[2].parameters(), lr=0.1)
    Regularizer(model, SOFT, 1e-1, rules=[Rule("0.weight", skip=True)]).attach(optimizer)
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    before = weights(model)
    idle(optimizer)
    assert changed(before, model) == {"2.weight"}


def test_frozen_from_the_start_in_one_group():
    """All parameters are given to the optimizer, some of them frozen, as many scripts do."""
    model = net()
    model[0].requires_grad_(False)
    optimizer = sgd(model)
    Regularizer(model, SOFT, 1e-1).attach(optimizer)
    before = weights(model)
    train(model, optimizer, 2)
    assert changed(before, model) == {"2.weight", "2.bias"}
    model[0].requires_grad_(True)
    before = weights(model)
    idle(optimizer)
    assert changed(before, model) == {"0.weight", "2.weight"}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_frozen_quantized_weights_are_left_out_with_a_reason(dtype):
    model = net()
    model.register_parameter("packed", nn.Parameter(torch.ones(4, 4).to(dtype), requires_grad=False))
    found = records(Regularizer(model, SOFT, 1e-3))
    assert not found["packed"]["regularized"]
    assert "frozen" in found["packed"]["why"] and str(dtype).removeprefix("torch.") in found["packed"]["why"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_frozen_float8_weights_are_left_out(dtype):
    model = net()
    model.register_parameter("packed", nn.Parameter(torch.ones(4, 4).to(dtype), requires_grad=False))
    assert not records(Regularizer(model, SOFT, 1e-3))["packed"]["regularized"]


def test_empty_weights_are_left_out():
    model = net()
    model.empty = nn.Parameter(torch.ones(0, 4))
    assert records(Regularizer(model, SOFT, 1e-3))["empty"]["why"] == "empty"


# ---- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["2.*", "*2.weight", "[2].weight", lambda name, p: p.shape == (3, 5)])
def test_rule_by_pattern_and_function(where):
    reg = Regularizer(net(), SOFT, 1e-3, rules=[Rule(where, skip=True)])
    assert taken(reg) == ["0.weight"]
    assert "rule" in records(reg)["2.weight"]["why"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (nn.Embedding, {"emb.weight"}),
        (nn.modules.conv._ConvNd, {"conv.weight"}),
        (nn.MultiheadAttention, {"mha.in_proj_weight"}),
    ],
)
def test_rule_by_module_type(kind, names):
    model = Zoo()
    all_names, reg = (
        set(taken(Regularizer(model, SOFT, 1e-3))),
        Regularizer(model, SOFT, 1e-3, rules=[Rule(kind, True)]),
    )
    assert all_names - set(taken(reg)) == names
    assert all(f"rule {kind.__name__}" in records(reg)[name]["why"] for name in names)


@pytest.mark.parametrize("where", ["*.bias", lambda name, p: p.dim() == 1])
def test_rule_includes_what_the_default_leaves_out(where):
    model = net()
    reg = Regularizer(model, SOFT, 1e-3, rules=[Rule(where, include=True, strength=2e-4)])
    assert taken(reg) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert records(reg)["0.bias"]["strength"] == pytest.approx(2e-4)
    assert records(reg)["0.bias"]["scale"] == pytest.approx(rms(model[0].bias))


def test_rule_includes_a_norm_and_a_scalar():
    reg = Regularizer(Zoo(), SOFT, 1e-3, rules=[Rule(nn.LayerNorm, include=True), Rule("temperature", include=True)])
    assert {"ln.weight", "wide_ln.weight", "temperature"} <= set(taken(reg))


@pytest.mark.parametrize(
    ("settings", "penalty", "strength", "relative"),
    [
        ({"alpha": 1.0}, SoftDiamond(1.0), 1e-3, 1.0),
        ({"penalty": StudentT(2.0)}, StudentT(2.0), 1e-3, 1.0),
        ({"penalty": L1(), "strength": 3e-3}, L1(), 3e-3, 1.0),
        ({"relative_scale": 0.25}, SOFT, 1e-3, 0.25),
        ({"strength": 0.0}, SOFT, 0.0, 1.0),
        ({"strength": lambda step: 4e-3}, SOFT, 4e-3, 1.0),
    ],
)
def test_settings_of_a_rule(settings, penalty, strength, relative):
    model = net()
    found = records(Regularizer(model, SOFT, 1e-3, rules=[Rule("2.weight", **settings)]))
    size = rms(model[2].weight)
    assert found["2.weight"]["penalty"] == repr(penalty)
    assert found["2.weight"]["strength"] == pytest.approx(strength)
    assert found["2.weight"]["scale"] == pytest.approx(relative * size)
    lam = strength / float(penalty.omega(torch.tensor(size, dtype=DOUBLE), relative * size))
    assert found["2.weight"]["lambda"] == pytest.approx(lam)
    assert found["0.weight"]["penalty"] == repr(SOFT) and found["0.weight"]["strength"] == pytest.approx(1e-3)


def test_first_matching_rule_wins():
    rules = [
        Rule("0.*", include=True, strength=2e-3),
        Rule(nn.Linear, include=True, strength=3e-3),
        Rule("*.weight", skip=True),
    ]
    found = records(Regularizer(net(), SOFT, 1e-3, rules=rules))
    assert [found[name]["strength"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")] == pytest.approx(
        [2e-3, 2e-3, 3e-3, 3e-3]
    )
    assert "rule '0.*'" in found["0.weight"]["why"] and "rule Linear" in found["2.weight"]["why"]


def test_own_strength_of_a_rule_stays_when_the_strength_is_set():
    reg = Regularizer(net(), SOFT, 1e-3, rules=[Rule("2.*", strength=5e-3)])
    reg.strength = 2e-3
    assert [records(reg)[name]["strength"] for name in ("0.weight", "2.weight")] == pytest.approx([2e-3, 5e-3])


def test_one_rule_without_a_list():
    assert taken(Regularizer(net(), SOFT, 1e-3, rules=Rule("0.*", skip=True))) == ["2.weight"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("linaer.weight", alpha=1.0), ["'linaer.weight'", "matches no parameter", "linear.weight"]),
        (Rule("convolution.*", skip=True), ["'convolution.*'", "conv.weight"]),
        (Rule(nn.Conv3d, strength=1.0), ["Conv3d", "Conv2d", "Embedding"]),
        (Rule(lambda name, p: False, alpha=1.0), ["matches no parameter"]),
    ],
)
def test_rule_that_matches_nothing(rule, words):
    with pytest.raises(ValueError, match="matches no parameter") as caught:
        Regularizer(Zoo(), SOFT, 1e-3, rules=[rule])
    assert all(word in str(caught.value) for word in words), caught.value


def test_rule_by_type_needs_the_model():
    with pytest.raises(ValueError, match="give the model, not named parameters"):
        Regularizer(net().named_parameters(), SOFT, 1e-3, rules=[Rule(nn.Linear, alpha=1.0)])


def test_broad_rules_leave_biases_alone():
    reg = Regularizer(net(), SOFT, 1e-3, rules=[Rule("2.*", strength=2e-3), Rule(nn.Linear, alpha=1.0)])
    assert taken(reg) == ["0.weight", "2.weight"]
    with pytest.raises(
        ValueError, match=r"matches only what the default leaves out \(bias\); include=True takes it in"
    ):
        Regularizer(net(), SOFT, 1e-3, rules=[Rule("*.bias", strength=1e-5)])


def test_pattern_with_a_leading_star_finds_the_top_level():
    model = nn.ModuleDict({"head": nn.Linear(3, 2), "body": nn.Linear(3, 3)})
    assert taken(Regularizer(model, SOFT, 1e-3, rules=[Rule("*.head.*", skip=True)])) == ["body.weight"]


def test_rule_shows_as_it_was_written():
    for rule in (
        Rule("*.bias", include=True, strength=1e-5),
        Rule("a", skip=True),
        Rule("a", penalty=L1()),
        Rule("a", alpha=1.0),
    ):
        assert eval(repr(rule), {"Rule": Rule, "L1": L1}) == rule


# ---- named parameters and wrapped models -------------------------------------------------------------------------------


def test_named_parameters():
    model = Zoo()
    named, whole = (records(Regularizer(source, SOFT, 1e-3)) for source in (model.named_parameters(), model))
    assert list(named) == list(whole)
    for name, record in whole.items():
        if "ln" not in name and "rms" not in name:  # whose kind the name does not tell
            assert named[name]["regularized"] == record["regularized"], name
        if named[name]["regularized"] and record["regularized"]:
            assert [named[name][key] for key in ("scale", "lambda")] == [record[key] for key in ("scale", "lambda")]


def test_named_parameters_tell_norms_by_name():
    pairs = [("layers.0.norm1.weight", torch.ones(3, 3)), ("layers.0.fc.weight", torch.ones(3, 3))]
    reg = Regularizer([(name, tensor.requires_grad_()) for name, tensor in pairs], SOFT, 1e-3)
    assert taken(reg) == ["layers.0.fc.weight"] and "norm" in records(reg)["layers.0.norm1.weight"]["why"]


def test_named_plain_tensors_are_trained_too():
    w = torch.randn(4, 3).requires_grad_()
    reg = Regularizer(iter([("w", w)]), SOFT, 1e-1)
    before = w.detach().clone()
    reg.step(0.1)
    assert (w.abs() < before.abs()).all()


@pytest.fixture
def alone(tmp_path):
    """A process group of this process only."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model[0] = compiled(model[0])
    return model


WRAPPERS = {
    "compiled": compiled,
    "compiled inside": compiled_inside,
    "DataParallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "DDP of compiled": lambda model: nn.parallel.DistributedDataParallel(compiled(model)),
    "compiled DDP": lambda model: compiled(nn.parallel.DistributedDataParallel(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models_have_plain_names(wrapper, alone):
    wrapped = WRAPPERS[wrapper](net())
    reg = Regularizer(wrapped, SOFT, 1e-3, rules=[Rule("2.weight", strength=2e-3)])
    assert [record["name"] for record in reg.describe().records] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    by_type = Regularizer(wrapped, SOFT, 1e-3, rules=[Rule(nn.Linear, include=True, strength=2e-3)])
    assert len(taken(by_type)) == 4


def test_compiled_model_trains_the_same():
    plain, other = twins()
    fast = torch.compile(other, backend="aot_eager")
    for model in (plain, fast):
        optimizer = Adam(model.parameters(), lr=0.01)
        Regularizer(model, SOFT, 1e-1).attach(optimizer)
        train(model, optimizer)
    assert_close(plain, other, rtol=1e-5, atol=1e-6)


# ---- strength and scale ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_relative_strength_and_scale(alpha, relative):
    model = net()
    found = records(Regularizer(model, SoftDiamond(alpha), 5e-4, relative_scale=relative))
    for name in ("0.weight", "2.weight"):
        size = rms(model.get_parameter(name))
        record = found[name]
        assert record["reference"] == pytest.approx(size, rel=1e-12)
        assert record["scale"] == pytest.approx(relative * size, rel=1e-12)
        omega = float(stable.omega(size, alpha, scale=relative * size))
        assert record["lambda"] == pytest.approx(5e-4 / omega, rel=1e-7)
        assert record["strength"] == pytest.approx(5e-4, rel=1e-9)


def test_alpha_2_is_weight_decay():
    model, plain = twins(dtype=DOUBLE)
    optimizer = sgd(model)
    Regularizer(model, SoftDiamond(2.0), 0.3).attach(optimizer)
    before = weights(model)
    idle(optimizer)
    for name in ("0.weight", "2.weight"):
        assert_close(model.get_parameter(name).detach(), before[name] / (1 + 0.1 * 0.3), rtol=1e-9)
    assert_close(plain, before)


def test_reference_model():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(20)
    both = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()])
    found = records(Regularizer(model, SOFT, 5e-4, reference="model", relative_scale=0.5))
    for name in ("0.weight", "2.weight"):
        assert found[name]["reference"] == pytest.approx(rms(both), rel=1e-12)
        assert found[name]["scale"] == pytest.approx(rms(both) / 2, rel=1e-12)
    assert found["0.weight"]["lambda"] == found["2.weight"]["lambda"]
    assert found["0.weight"]["strength"] == pytest.approx(5e-4)


def test_reference_model_leaves_out_tensors_at_zero():
    model = net()
    nn.init.zeros_(model[2].weight)
    found = records(Regularizer(model, SOFT, 5e-4, reference="model"))
    assert found["0.weight"]["scale"] == found["2.weight"]["scale"] == pytest.approx(rms(model[0].weight))


def test_scales_follow_the_width():
    """The same strength for each layer; lambda as c^2."""
    model = nn.Sequential(*(nn.Linear(n, 8, bias=False) for n in (16, 64, 1024)))
    found = [records(Regularizer(model, SOFT, 5e-4))[f"{i}.weight"] for i in range(3)]
    for record, n in zip(found, (16, 64, 1024), strict=True):
        assert record["scale"] == pytest.approx(1 / math.sqrt(3 * n), rel=0.2)
        assert record["strength"] == pytest.approx(5e-4)
        assert record["lambda"] / record["scale"] ** 2 == pytest.approx(found[0]["lambda"] / found[0]["scale"] ** 2)


@pytest.mark.parametrize(("shape", "fans"), [((4, 6), 10), ((8, 3, 3, 3), 27 + 72), ((5, 1), 6)])
def test_tensor_that_starts_at_zero_takes_the_rms_of_glorots_start(shape, fans):
    b = nn.Parameter(torch.zeros(shape))
    reg = Regularizer([("lora_B", b)], SOFT, 5e-2, relative_scale=0.5)
    record = records(reg)["lora_B"]
    assert record["reference"] == pytest.approx(math.sqrt(2 / fans))
    assert record["scale"] == pytest.approx(0.5 * math.sqrt(2 / fans))
    assert record["strength"] == pytest.approx(5e-2)
    assert "starts at zero" in record["why"]
    assert "starts at zero" in " ".join(str(reg.describe()).split())
    reg.step(0.1)
    assert (b == 0).all()


def test_absolute_scale():
    found = records(Regularizer(net(), SOFT, lam=1e-5, scale=0.02))
    for name in ("0.weight", "2.weight"):
        assert found[name]["scale"] == 0.02 and found[name]["lambda"] == pytest.approx(1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_absolute_dispersion(alpha):
    """lambda R of the law of this dispersion."""
    model = net(DOUBLE)
    reg = Regularizer(model, SoftDiamond(alpha), lam=1e-5, dispersion=0.01)
    record = records(reg)["0.weight"]
    assert record["scale"] == pytest.approx(0.01 ** (1 / alpha)) and record["lambda"] == pytest.approx(1e-5)
    omega = stable.omega(rms(model[0].weight), alpha, dispersion=0.01)
    assert record["strength"] == pytest.approx(1e-5 * float(omega), rel=1e-6)


def test_same_numbers_by_strength_and_by_lambda():
    one, two = twins(dtype=DOUBLE)
    found = records(relative := Regularizer(one[0], SOFT, 5e-2))["weight"]
    relative.step(0.3)
    Regularizer(two[0], SOFT, lam=found["lambda"], scale=found["scale"]).step(0.3)
    assert_close(one, two, rtol=1e-12)


@each_mode
def test_strength_as_a_function_of_the_step(mode):
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.1 * (step + 1)

    one, two = twins(dtype=DOUBLE)
    optimizer, fixed = sgd(one), sgd(two)
    reg = Regularizer(one, SOFT, schedule).attach(optimizer, mode=mode)
    still = Regularizer(two, SOFT, 7.0).attach(fixed, mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that mode gradient is unstable
        for step in range(3):
            still.strength = 0.1 * (step + 1)
            idle(optimizer)
            idle(fixed)
            assert_close(one, two)
    assert sorted(set(seen)) == [0, 1, 2]
    assert records(reg)["0.weight"]["strength"] == pytest.approx(0.4)
    assert reg.strength is schedule and reg.lam is None


def test_strength_set_while_training():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 1e-1).attach(optimizer)
    idle(optimizer)
    reg.strength = 0.0
    assert reg.strength == 0.0
    before = weights(model)
    idle(optimizer)
    assert changed(before, model) == set()
    reg.strength = 2e-1
    idle(optimizer)
    assert changed(before, model) == {"0.weight", "2.weight"}
    assert records(reg)["0.weight"]["strength"] == pytest.approx(2e-1)


def test_lam_set_while_training():
    reg = Regularizer(net(), SOFT, lam=1e-5, scale=0.1)
    reg.lam = 3e-5
    assert reg.lam == 3e-5 and reg.strength is None and records(reg)["0.weight"]["lambda"] == pytest.approx(3e-5)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1.0, ValueError, "not negative"),
        (math.nan, ValueError, "finite"),
        (math.inf, ValueError, "finite"),
        ("1e-3", TypeError, "number or a function"),
        (True, TypeError, "number or a function"),
        (None, TypeError, "number or a function"),
    ],
)
def test_bad_strength_set_later(value, error, words):
    reg = Regularizer(net(), SOFT, 1e-3)
    with pytest.raises(error, match=words):
        reg.strength = value
    assert reg.strength == 1e-3
    with pytest.raises(ValueError, match="made with strength"):
        reg.lam = 1e-3


@pytest.mark.parametrize("given", [-1e-3, math.nan, "much", None])
def test_bad_value_of_a_schedule(given):
    reg = Regularizer(net(), SOFT, lambda step: given)
    with pytest.raises(ValueError, match=r"schedule gave .* at step 0"):
        reg.step(0.1)


# ---- describe ----------------------------------------------------------------------------------------------------------


def attached(model, **settings):
    model.optimizer = sgd(model, **settings)  # kept: a regularizer does not keep its optimizers
    return Regularizer(model, SOFT, 5e-4).attach(model.optimizer)


def test_records_of_an_attached_model():
    model = net()
    reg = attached(model, momentum=0.9)
    found = records(reg)["0.weight"]
    assert list(found) == [
        *("name", "shape", "regularized", "why", "penalty", "strength", "scale", "lambda", "groups", "group_size"),
        *("reference", "optimizer", "eta", "weight_decay"),
    ]
    assert found["shape"] == (5, 6) and found["optimizer"] == "SGD" and found["weight_decay"] == 0
    assert found["eta"] == pytest.approx(0.1 / (1 - 0.9))
    assert json.loads(json.dumps(found)) == found | {"shape": [5, 6]}
    assert list(records(reg)["0.bias"]) == list(found)
    assert {key for key, value in records(reg)["0.bias"].items() if value is None} == set(found) - {
        *("name", "shape", "regularized", "why"),
    }  # fmt: skip


def test_records_without_an_optimizer():
    found = records(Regularizer(net(), SOFT, 5e-4))["0.weight"]
    assert found["optimizer"] is found["eta"] is found["weight_decay"] is None
    assert "not attached to an optimizer" in str(Regularizer(net(), SOFT, 5e-4).describe())


def test_description_is_plain_text(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    model = Zoo()
    model.a_block_with_quite_a_long_name_as_they_are_found_in_real_models = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2))
    )
    text = str(attached(model).describe())
    assert "\x1b" not in text and "\t" not in text
    assert max(map(len, text.splitlines())) <= 120
    joined = "".join(text.split())
    for part in ("conv.weight", "4x3x3x3", "SoftDiamond(alpha=0.5)", "0.0005", "norm(BatchNorm2d)", "attachedtoSGD"):
        assert part in joined, part
    for name in dict(model.named_parameters()):
        assert name[:20] in text, name


def test_description_can_be_printed_anywhere():
    """Where the output is piped on Windows (cp1252) or the locale is C (ASCII), print must not end the training."""
    text = str(attached(net()).describe())
    text.encode("cp1252")
    text.encode("ascii")


def test_description_takes_names_literally():
    reg = Regularizer([("[red]w[/red]", torch.ones(2, 2).requires_grad_())], SOFT, 5e-4)
    assert "[red]w[/red]" in str(reg.describe())


@pytest.mark.parametrize("width", [80, 120, 200])
def test_description_in_a_terminal(width):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(attached(net()).describe())
    text = console.file.getvalue()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width
    assert "0.weight" in plain and "0.bias" in plain


def test_description_says_what_counts():
    model = net()
    optimizer = AdamW(model.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match="weight_decay"):
        reg = Regularizer(model, SOFT, 5e-4).attach(optimizer)
    text = " ".join(str(reg.describe()).split())
    for part in ("2 tensors, 45 weights", "attached to AdamW, mode implicit, eta = lr", "relative to the rms of each"):
        assert part in text, text
    assert records(reg)["0.weight"]["weight_decay"] == 0.01
    assert "weight_decay 0.01 comes on top" in records(reg)["0.weight"]["why"]


def test_description_names_weights_in_no_attached_optimizer():
    model = net()
    optimizer = SGD(model[0].parameters(), lr=0.1)
    reg = Regularizer(model, SOFT, 5e-4).attach(optimizer)
    assert "in no attached optimizer" in records(reg)["2.weight"]["why"]
    assert "in no attached optimizer" not in records(reg)["0.weight"]["why"]
    assert records(reg)["2.weight"]["eta"] is None


def test_description_follows_the_learning_rate():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 5e-4).attach(optimizer)
    optimizer.param_groups[0]["lr"] = 0.025
    assert records(reg)["0.weight"]["eta"] == 0.025


def test_description_states_the_cost_of_a_center():
    text = " ".join(str(Regularizer(nn.Linear(512, 512), SOFT, 5e-4, center="initial").describe()).split())
    assert "initial weights" in text and "1.0 MiB" in text


def test_describe_changes_nothing():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 5e-4).attach(optimizer)
    before, state = weights(model), reg.state_dict()
    str(reg.describe()), repr(reg)
    assert changed(before, model) == set()
    assert_states_equal(reg.state_dict(), state)


def test_repr():
    assert repr(Regularizer(net(), SOFT, 5e-4)) == "Regularizer(SoftDiamond(alpha=0.5), strength=0.0005, 2 tensors)"


# ---- the hook on the optimizer -----------------------------------------------------------------------------------------


def hooks(optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def assert_states_equal(a, b) -> None:
    """Two state_dicts, whose leaves are tensors, numbers and None."""
    flat = [torch.utils._pytree.tree_flatten(state) for state in (a, b)]
    assert flat[0][1] == flat[1][1]
    for x, y in zip(flat[0][0], flat[1][0], strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, (x, y)


@each_mode
def test_attach_returns_self_and_the_hook_keeps_it_alive(mode):
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 1e-3)
    assert reg.attach(optimizer, mode=mode) is reg
    gone = weakref.ref(reg)
    del reg
    gc.collect()
    before = weights(model)
    idle(optimizer)
    assert changed(before, model) == {"0.weight", "2.weight"}
    del optimizer
    gc.collect()
    assert gone() is None


@each_mode
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
def test_optimizer_stays_as_it_is(kind, mode):
    model = net()
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0)
    train(model, optimizer, 2)
    public = set(dir(optimizer))
    state = copy.deepcopy(optimizer.state_dict())
    Regularizer(model, SOFT, 1e-3).attach(optimizer, mode=mode)
    assert type(optimizer) is kind and isinstance(optimizer, torch.optim.Optimizer)
    assert set(dir(optimizer)) == public
    assert_states_equal(optimizer.state_dict(), state)
    train(model, optimizer, 1)
    optimizer.load_state_dict(state)
    assert_states_equal(optimizer.state_dict(), state)
    before = weights(model)
    train(model, optimizer, 1)
    assert changed(before, model) == set(before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_of_the_optimizer_are_plain(copied):
    model = net()
    optimizer = sgd(model, momentum=0.9)
    Regularizer(model, SOFT, 1e-3).attach(optimizer)
    train(model, optimizer, 1)
    twin = copied(optimizer)
    assert hooks(twin) == 0 and hooks(optimizer) == 1
    assert_states_equal(twin.state_dict(), optimizer.state_dict())
    train(model, optimizer, 1)


def test_learning_rate_schedule():
    model, plain = twins(dtype=DOUBLE)
    optimizer = sgd(model)
    Regularizer(model, SOFT, 0.3).attach(optimizer)
    other = Regularizer(plain, SOFT, 0.3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for step in range(4):
        idle(optimizer)
        schedule.step()
        other.step(0.1 * 0.5**step)
        assert_close(model, plain, rtol=1e-12)
    optimizer.param_groups[0]["lr"] = 0.0
    before = weights(model)
    idle(optimizer)
    assert changed(before, model) == set()


@each_mode
def test_learning_rate_as_a_tensor(mode):
    one, two = twins()
    for model, lr in ((one, 0.01), (two, torch.tensor(0.01, dtype=DOUBLE))):
        optimizer = AdamW(model.parameters(), lr=lr, weight_decay=0)
        Regularizer(model, SOFT, 0.1).attach(optimizer, mode=mode)
        train(model, optimizer)
    assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_groups_have_their_own_rates():
    model, plain = twins(dtype=DOUBLE)
    optimizer = SGD([{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters(), "lr": 0.01}])
    reg = Regularizer(model, SOFT, 0.3).attach(optimizer)
    assert [records(reg)[name]["eta"] for name in ("0.weight", "2.weight")] == [0.2, 0.01]
    idle(optimizer)
    Regularizer(plain[0], SOFT, 0.3).step(0.2)
    Regularizer(plain[2], SOFT, 0.3).step(0.01)
    assert_close(model, plain, rtol=1e-12)


def test_several_optimizers():
    model, plain = twins(dtype=DOUBLE)
    first, second = SGD(model[0].parameters(), lr=0.2), RMSprop(model[2].parameters(), lr=0.01, momentum=0.5)
    reg = Regularizer(model, SOFT, 0.3).attach(first).attach(second)
    assert [records(reg)[name]["optimizer"] for name in ("0.weight", "2.weight")] == ["SGD", "RMSprop"]
    idle(first)
    idle(first)
    idle(second)
    twice = Regularizer(plain[0], SOFT, 0.3)
    twice.step(0.2)
    twice.step(0.2)
    Regularizer(plain[2], SOFT, 0.3).step(0.01 / 0.5)
    assert_close(model, plain, rtol=1e-12)


def test_several_optimizers_count_their_own_steps():
    model = net()
    seen = []
    reg = Regularizer(model, SOFT, lambda step: seen.append(step) or 1e-2)
    first, second = SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    reg.attach(first).attach(second)
    idle(first)
    idle(first)
    idle(second)
    assert seen == [0, 1, 0]


def test_two_regularizers_on_one_optimizer():
    model, plain = twins(dtype=DOUBLE)
    optimizer = sgd(model)
    Regularizer(model, SOFT, 0.1, rules=[Rule("0.*", skip=True)]).attach(optimizer)
    Regularizer(model, L1(), lam=1e-3, scale=1.0, rules=[Rule("2.*", skip=True)]).attach(optimizer, mode="prox")
    idle(optimizer)
    Regularizer(plain[2], SOFT, 0.1).step(0.1)
    Regularizer(plain[0], L1(), lam=1e-3, scale=1.0).step(0.1, mode="prox")
    assert_close(model, plain)


def test_same_weights_in_two_attached_optimizers():
    model = net()
    first = sgd(model)
    reg = Regularizer(model, SOFT, 1e-3).attach(first)
    late = SGD(model[2].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"another attached optimizer holds 2\.weight"):
        reg.attach(late)
    assert hooks(late) == 0


def test_attach_twice():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 1e-3).attach(optimizer)
    with pytest.raises(ValueError, match="attached already"):
        reg.attach(optimizer, mode="prox")
    assert hooks(optimizer) == 1


def test_lbfgs_is_refused_with_the_reason():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match=r"LBFGS .* line .* reg\.penalty_value\(\)"):
        Regularizer(model, SOFT, 1e-3).attach(optimizer)
    assert hooks(optimizer) == 0


class Signed(torch.optim.Optimizer):
    """An optimizer that torch does not have."""

    def __init__(self, params, **defaults):
        super().__init__(params, defaults)

    def step(self, closure=None):
        return None


def test_unknown_optimizer_takes_lr_and_says_so():
    model, plain = twins()
    optimizer = Signed(model.parameters(), lr=0.2)
    with pytest.warns(UserWarning, match=r"Signed is not known: its lr is taken .* eta=") as caught:
        reg = Regularizer(model, SOFT, 0.3).attach(optimizer)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "lr, assumed" in str(reg.describe())
    idle(optimizer)
    Regularizer(plain, SOFT, 0.3).step(0.2)
    assert_close(model, plain)


def test_kin_of_a_known_optimizer_is_known():
    class MyAdam(Adam):
        pass

    model = net()
    Regularizer(model, SOFT, 0.3).attach(MyAdam(model.parameters(), lr=0.01))  # warnings are errors


def test_optimizer_without_lr_asks_for_eta():
    model = net()
    optimizer = Signed(model.parameters(), rate=0.2)
    with pytest.raises(ValueError, match="groups without lr: give eta="):
        Regularizer(model, SOFT, 0.3).attach(optimizer)


def test_eta_given_as_a_function_of_the_group():
    model, plain = twins()
    optimizer = Signed(model.parameters(), rate=0.2)
    reg = Regularizer(model, SOFT, 0.3).attach(optimizer, eta=lambda group: group["rate"] / 2)
    assert records(reg)["0.weight"]["eta"] == 0.1
    idle(optimizer)
    Regularizer(plain, SOFT, 0.3).step(0.1)
    assert_close(model, plain)


def test_eta_of_the_records_is_a_number():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 0.3).attach(optimizer, eta=lambda group: torch.tensor(group["lr"]))
    assert type(records(reg)["0.weight"]["eta"]) is float


@pytest.mark.parametrize("given", [-0.1, math.nan, math.inf, None, "0.1"])
def test_eta_that_is_no_step_length(given):
    model = net()
    optimizer = sgd(model)
    with pytest.raises(ValueError, match="eta must be finite and not negative"):
        Regularizer(model, SOFT, 0.3).attach(optimizer, eta=lambda group: given)
    assert hooks(optimizer) == 0


@pytest.mark.parametrize("given", [0.1, "lr"])
def test_eta_that_is_no_function(given):
    model = net()
    with pytest.raises(TypeError, match="eta"):
        Regularizer(model, SOFT, 0.3).attach(sgd(model), eta=given)


def test_weight_decay_on_top_warns_once():
    model = net()
    optimizer = AdamW([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=1e-3)
    with pytest.warns(UserWarning, match=r"weight_decay=0\.01 for 2 of the regularized .* weight_decay=0") as caught:
        Regularizer(model, SOFT, 1e-3).attach(optimizer)
    assert len(caught) == 1 and caught[0].filename == __file__
    train(model, optimizer, 2)


def test_weight_decay_of_others_does_not_warn():
    model = net()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.0},
        {"params": biases, "weight_decay": 0.01},
    ]
    Regularizer(model, SOFT, 1e-3).attach(AdamW(groups, lr=1e-3))


@each_mode
def test_detach_leaves_no_trace(mode):
    """After it the training is bit by bit what it would have been without."""
    model, plain = twins()
    optimizer, other = (Adam(m.parameters(), lr=0.01) for m in (model, plain))
    attributes = set(vars(optimizer))
    reg = Regularizer(model, SOFT, 0.1).attach(optimizer, mode=mode)
    assert hooks(optimizer) == 1 + (mode == "gradient")
    reg.detach()
    assert hooks(optimizer) == 0 and set(vars(optimizer)) == attributes
    train(model, optimizer)
    train(plain, other)
    assert_close(model, plain)
    assert_states_equal(optimizer.state_dict(), other.state_dict())
    assert records(reg)["0.weight"]["optimizer"] is None
    reg.detach()
    reg.attach(optimizer, mode="prox")
    assert hooks(optimizer) == 1


def test_detach_takes_all_optimizers():
    model = net()
    optimizers = [SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    reg = Regularizer(model, SOFT, 0.1).attach(optimizers[0]).attach(optimizers[1])
    reg.detach()
    before = weights(model)
    for optimizer in optimizers:
        idle(optimizer)
    assert changed(before, model) == set() and sum(map(hooks, optimizers)) == 0


@each_mode
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_closures(kind, mode):
    with_closure, without, keyword = models = twins(3, DOUBLE)
    optimizers = [kind(m.parameters(), lr=0.02) for m in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        Regularizer(model, SOFT, 0.1).attach(optimizer, mode=mode)
    train(with_closure, optimizers[0], closure=True)
    train(without, optimizers[1])
    original = optimizers[2].step
    optimizers[2].step = lambda closure: original(closure=closure)
    train(keyword, optimizers[2], closure=True)
    assert_close(with_closure, without)
    assert_close(keyword, without)


@each_mode
def test_closure_runs_once_and_with_gradients_enabled(mode):
    model = net()
    optimizer = sgd(model)
    Regularizer(model, SOFT, 1e-3).attach(optimizer, mode=mode)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = mse_loss(model(batch(0)[0]), batch(0)[1])
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(closure().item(), rel=1) and calls[0] is True
    assert len(calls) == 2


@each_mode
def test_gradient_accumulation_is_one_step(mode):
    model, plain = twins(dtype=DOUBLE)
    optimizer, other = sgd(model), sgd(plain)
    seen = []
    Regularizer(model, SOFT, lambda step: seen.append(step) or 0.1).attach(optimizer, mode=mode)
    Regularizer(plain, SOFT, 0.1).attach(other, mode=mode)
    for step in range(2):
        x, y = batch(step, DOUBLE)
        for part in (slice(0, 4), slice(4, 8)):
            (mse_loss(model(x[part]), y[part]) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    train(plain, other, 2)
    assert set(seen) == {0, 1}
    assert_close(model, plain, rtol=1e-12)


@each_mode
def test_weights_without_a_gradient_are_left_alone(mode):
    model = net()
    optimizer = sgd(model)
    Regularizer(model, SOFT, 0.1).attach(optimizer, mode=mode)
    before = weights(model)
    model[2](torch.randn(4, 5)).sum().backward()
    optimizer.step()
    assert changed(before, model) == {"2.weight", "2.bias"}
    optimizer.zero_grad()
    before = weights(model)
    optimizer.step()
    assert changed(before, model) == set()


def make_optimizer(kind, fused, model):
    return kind(model.parameters(), lr=0.01, fused=fused, weight_decay=0)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [SGD, AdamW])
@each_mode
def test_grad_scaler(mode, kind, fused, unscale):
    model, plain = twins()
    optimizer, other = (make_optimizer(kind, fused, m) for m in (model, plain))
    Regularizer(model, SOFT, 0.3).attach(optimizer, mode=mode)
    Regularizer(plain, SOFT, 0.3).attach(other, mode=mode)
    train(model, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), unscale=unscale)
    train(plain, other)
    assert_close(model, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [SGD, AdamW])
@each_mode
def test_step_that_grad_scaler_leaves_out(mode, kind, fused, unscale):
    model = net()
    optimizer = make_optimizer(kind, fused, model)
    reg = Regularizer(model, SOFT, 0.3).attach(optimizer, mode=mode)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(model, optimizer, 1, scaler=scaler, unscale=unscale)
    before, state = weights(model), reg.state_dict()
    train(model, optimizer, 1, scaler=scaler, unscale=unscale, sign=math.inf)
    assert scaler.get_scale() == 512.0  # it did leave the step out
    assert changed(before, model) == set()
    assert_states_equal(reg.state_dict(), state)
    train(model, optimizer, 1, scaler=scaler, unscale=unscale)
    assert changed(before, model) == set(before)


@pytest.mark.parametrize("kind", [SGD, Adam])
@each_mode
def test_maximize(mode, kind):
    """The penalty pulls to zero even where the optimizer climbs."""
    model, plain = twins(dtype=DOUBLE)
    optimizer, other = kind(model.parameters(), lr=0.01, maximize=True), kind(plain.parameters(), lr=0.01)
    Regularizer(model, SOFT, 0.3).attach(optimizer, mode=mode)
    Regularizer(plain, SOFT, 0.3).attach(other, mode=mode)
    train(model, optimizer, sign=-1.0)
    train(plain, other)
    assert_close(model, plain, rtol=1e-12, atol=1e-14)


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 3)

    def forward(self, x):
        return self.first(x) if not hasattr(self, "later") else self.later(self.first(x))


def test_parameters_added_later():
    model = Growing()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 0.1).attach(optimizer)
    model.later = nn.Linear(3, 3)
    optimizer.add_param_group({"params": model.later.parameters()})
    before = weights(model)
    with pytest.warns(UserWarning, match=r"does not know \(1\): reg\.add\(model\)"):
        train(model, optimizer, 1)
    train(model, optimizer, 1)
    plain = copy.deepcopy(model)
    assert reg.add(model) is reg
    assert taken(reg) == ["first.weight", "later.weight"]
    assert records(reg)["first.weight"]["reference"] == pytest.approx(rms(before["first.weight"]))
    assert records(reg)["later.weight"]["reference"] == pytest.approx(rms(model.later.weight))
    assert records(reg)["later.weight"]["optimizer"] == "SGD"
    idle(optimizer)
    Regularizer(plain.later, SOFT, 0.1).step(0.1)
    assert_close(model.later, plain.later)
    state = reg.state_dict()
    reg.add(model)
    assert_states_equal(reg.state_dict(), state)


def test_biases_added_later_do_not_warn():
    model = net()
    optimizer = SGD([model[0].weight, model[2].weight], lr=0.1)
    Regularizer(model, SOFT, 0.1).attach(optimizer)
    optimizer.add_param_group({"params": [model[0].bias, model[2].bias]})
    idle(optimizer)


def test_add_follows_the_rules_and_the_reference():
    model = Growing()
    reg = Regularizer(model, SOFT, 0.1, reference="model", center="initial", rules=[Rule(nn.Linear, strength=0.2)])
    size = records(reg)["first.weight"]["reference"]
    model.later = nn.Linear(3, 3)
    reg.add(model)
    assert taken(reg) == ["first.weight", "later.weight"]
    assert records(reg)["later.weight"]["reference"] == size
    assert records(reg)["later.weight"]["strength"] == pytest.approx(0.2)
    before = weights(model)
    reg.step(0.1)
    assert changed(before, model) == set()  # each at its center


def test_add_refuses_another_parameter_of_a_known_name():
    model = net()
    reg = Regularizer(model, SOFT, 0.1)
    with pytest.raises(ValueError, match=r"another parameter is named 0\.weight"):
        reg.add(net())
    assert taken(reg) == ["0.weight", "2.weight"]


def sparse_net():
    return nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))


def sparse_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.tensor([1, 1, 3])).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("mode", ["implicit", "prox"])
def test_sparse_gradients(mode):
    model = sparse_net()
    plain = copy.deepcopy(model)
    optimizer, other = sgd(model), sgd(plain)
    Regularizer(model, SOFT, 0.3).attach(optimizer, mode=mode)
    step = Regularizer(plain, SOFT, 0.3)
    for _ in range(2):
        sparse_step(model, optimizer)
        sparse_step(plain, other)
        step.step(0.1, mode=mode)
    assert_close(model, plain)


def test_sparse_gradients_in_mode_gradient():
    model = sparse_net()
    optimizer = sgd(model)
    Regularizer(model, SOFT, 0.03).attach(optimizer, mode="gradient")
    with pytest.raises(TypeError, match=r"0\.weight has a sparse gradient.*mode='implicit'"):
        sparse_step(model, optimizer)


@each_mode
def test_instability_is_said_once(mode):
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 0.5).attach(optimizer, mode=mode)
    lam, c = records(reg)["0.weight"]["lambda"], records(reg)["0.weight"]["scale"]
    assert 0.1 * lam * KAPPA / c**2 > 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, 3)
    if mode == "gradient":
        (warning,) = caught
        words = str(warning.message)
        assert "0.weight" in words and "above 2" in words and "mode='implicit'" in words
        assert f"{0.1 * lam * KAPPA / c**2:.3g}" in words
    else:
        assert not caught


def test_stable_gradient_mode_says_nothing():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 0.17).attach(optimizer, mode="gradient")
    lam, c = records(reg)["0.weight"]["lambda"], records(reg)["0.weight"]["scale"]
    assert 1.8 < 0.1 * lam * KAPPA / c**2 < 2
    train(model, optimizer)


# ---- without the hook --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_penalty_is_the_sum_over_the_exact_law(alpha):
    model = net(DOUBLE)
    reg = Regularizer(model, SoftDiamond(alpha), 5e-3, relative_scale=0.5)
    expected = 0.0
    for name in ("0.weight", "2.weight"):
        record, w = records(reg)[name], model.get_parameter(name).detach().numpy()
        peak = stable.logpdf(0.0, alpha, scale=record["scale"])
        expected += record["lambda"] * float(np.sum(peak - stable.logpdf(w, alpha, scale=record["scale"])))
    total = reg.penalty_value()
    assert total.shape == () and total.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("center", ["zero", "initial"])
@pytest.mark.parametrize("penalty", [SOFT, L1(), L2(), StudentT(2.0)])
def test_penalty_in_the_loss_is_mode_gradient(penalty, center):
    model, plain = twins(dtype=DOUBLE)
    optimizer, other = sgd(model, lr=0.02), sgd(plain, lr=0.02)
    reg = Regularizer(model, penalty, 0.1, center=center)
    Regularizer(plain, penalty, 0.1, center=center).attach(other, mode="gradient")
    before = weights(model)
    train(model, optimizer, extra=reg.penalty_value)
    train(plain, other)
    assert_close(model, plain, rtol=1e-9)
    assert changed(before, model) == set(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_penalty_of_low_precision_weights_is_summed_wide(dtype):
    model = nn.Linear(300, 300).to(dtype)
    total = Regularizer(model, SOFT, 5e-3).penalty_value()
    wide = Regularizer(copy.deepcopy(model).double(), SOFT, 5e-3).penalty_value()
    assert total.dtype == torch.float32 and total.item() == pytest.approx(wide.item(), rel=1e-5)
    total.backward()
    assert model.weight.grad.dtype == dtype and model.weight.grad.abs().sum() > 0 and model.bias.grad is None


def test_penalty_leaves_out_what_is_frozen():
    model = net()
    both = Regularizer(model, SOFT, 5e-3)
    whole = both.penalty_value().item()
    model[0].requires_grad_(False)
    assert 0 < both.penalty_value().item() < whole
    model[2].requires_grad_(False)
    assert both.penalty_value().item() == 0


@pytest.mark.parametrize("mode", ["implicit", "prox"])
def test_step_is_the_step_of_the_hook(mode):
    model, plain = twins()
    optimizer = sgd(model)
    Regularizer(model, SOFT, 0.3).attach(optimizer, mode=mode)
    other = Regularizer(plain, SOFT, 0.3)
    before = weights(model)
    for _ in range(3):
        idle(optimizer)
        other.step(0.1, mode=mode)
    assert_close(model, plain)
    assert changed(before, model) == {"0.weight", "2.weight"}


def test_step_counts_for_the_schedule():
    seen = []
    reg = Regularizer(net()[0], SOFT, lambda step: seen.append(step) or 0.1)
    reg.step(0.1)
    reg.step(torch.tensor(0.1))
    assert seen == [0, 1]


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf, "0.1", None, [0.1]])
def test_bad_eta_of_a_step(eta):
    model = net()
    reg = Regularizer(model, SOFT, 0.3)
    before = weights(model)
    with pytest.raises(ValueError, match="eta must be finite and not negative"):
        reg.step(eta)
    assert changed(before, model) == set()


def test_step_has_no_mode_gradient():
    with pytest.raises(ValueError, match="mode must be one of implicit, prox; got 'gradient'"):
        Regularizer(net(), SOFT, 0.3).step(0.1, mode="gradient")


# ---- about the starting weights ----------------------------------------------------------------------------------------

DTYPES = [DOUBLE, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("penalty", [SOFT, L1(), SoftDiamond(2.0)])
@each_mode
def test_starting_weights_are_fixed_points(mode, penalty, dtype):
    model = net(dtype)
    optimizer = sgd(model, lr=0.01)
    reg = Regularizer(model, penalty, 0.3, center="initial").attach(optimizer, mode=mode)
    before = weights(model)
    for _ in range(3):
        idle(optimizer)
    assert changed(before, model) == set()
    total = reg.penalty_value()
    total.backward()
    assert total.item() == 0 and all((model[i].weight.grad == 0).all() for i in (0, 2))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@each_mode
def test_centered_steps_are_steps_of_the_distance(mode, dtype):
    model = net(dtype)
    start = weights(model)
    settings = {"lam": 1e-4, "scale": 0.05}
    optimizer = sgd(model)
    Regularizer(model, SOFT, **settings, center="initial").attach(optimizer, mode=mode)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    away = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in away.named_parameters():
            p.sub_(start[name])
    before = weights(away)
    other = sgd(away)
    Regularizer(away, SOFT, **settings).attach(other, mode=mode)
    for _ in range(3):
        idle(optimizer)
        idle(other)
        for name in ("0.weight", "2.weight"):
            distance = model.get_parameter(name).detach() - start[name]
            assert_close(distance, away.get_parameter(name).detach(), atol=1e-12 if dtype == DOUBLE else 1e-6)
    assert all((away[i].weight.abs() < before[f"{i}.weight"].abs()).all() for i in (0, 2))


@each_mode
def test_center_pulls_towards_the_start(mode):
    """In training: the stronger, the nearer the end is to the start."""
    ends = []
    for strength in (0.0, 0.1, 0.4):
        torch.manual_seed(3)
        model = net()
        start = weights(model)
        optimizer = sgd(model, lr=0.02)
        Regularizer(model, SOFT, strength, center="initial").attach(optimizer, mode=mode)
        train(model, optimizer, 12)
        ends.append(sum(float((model.get_parameter(n).detach() - start[n]).norm()) for n in ("0.weight", "2.weight")))
    assert ends[0] > 1.01 * ends[1] > 1.01 * 1.01 * ends[2] > 0


@pytest.mark.parametrize("dtype", DTYPES)
@each_mode
def test_center_when_the_dtype_of_the_model_changes(mode, dtype):
    model = net()
    start = weights(model)
    reg = Regularizer(model, SOFT, 0.3, center="initial")
    model.to(dtype)
    optimizer = sgd(model, lr=0.01)
    reg.attach(optimizer, mode=mode)
    with torch.no_grad():
        model[0].weight.add_(0.5)
    distance = (model[0].weight.double() - start["0.weight"]).abs().sum()
    for _ in range(3):
        idle(optimizer)
    assert model[0].weight.dtype == dtype
    assert (model[0].weight.double() - start["0.weight"]).abs().sum() < distance
    reg.penalty_value().backward()
    assert reg.penalty_value().item() > 0


# ---- state -------------------------------------------------------------------------------------------------------------

RESUMED = {  # settings of the regularizer, mode, dtype
    "float32": ({"strength": 0.1}, "implicit", torch.float32),
    "float64": ({"strength": 0.1}, "implicit", DOUBLE),
    "bfloat16": ({"strength": 0.1}, "implicit", torch.bfloat16),
    "float16": ({"strength": 0.1}, "prox", torch.float16),
    "center": ({"strength": 0.1, "center": "initial"}, "implicit", torch.float32),
    "center, bfloat16": ({"strength": 0.1, "center": "initial"}, "implicit", torch.bfloat16),
    "center, gradient": ({"strength": 0.1, "center": "initial"}, "gradient", torch.float32),
    "schedule": ({"strength": lambda step: 0.2 / (1 + step)}, "implicit", torch.float32),
    "schedule of a rule": (
        {"strength": 0.1, "rules": [Rule("0.weight", strength=lambda step: 0.1 * step)]},
        "prox",
        torch.float32,
    ),
    "one rms": ({"strength": 0.1, "reference": "model"}, "implicit", torch.float32),
    "absolute": ({"lam": 1e-4, "dispersion": 0.3}, "implicit", torch.float32),
    "numpy": ({"strength": np.float64(0.1), "relative_scale": np.float32(0.5)}, "implicit", torch.float32),
}


def saved(*states):
    buffer = io.BytesIO()
    torch.save(list(states), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_resume_is_as_if_never_stopped(case, kind):
    settings, mode, dtype = RESUMED[case]

    def make(model):
        optimizer = kind(model.parameters(), lr=0.02, **({"momentum": 0.5} if kind is SGD else {"eps": 1e-4}))
        return model, optimizer, Regularizer(model, SOFT, **settings).attach(optimizer, mode=mode)

    through, stopped = twins(dtype=dtype)
    start = weights(through)
    model, optimizer, _ = make(through)
    train(model, optimizer, 10)
    parts = make(stopped)
    train(*parts[:2], 5)
    states = saved(*(part.state_dict() for part in parts))

    fresh = make(net(dtype))
    for part, state in zip(fresh, states, strict=True):
        part.load_state_dict(state)
    for name, record in records(parts[2]).items():
        assert records(fresh[2])[name] == record
    train(*fresh[:2], range(5, 10))
    assert_close(fresh[0], model)
    assert_states_equal(fresh[1].state_dict(), optimizer.state_dict())
    assert changed(start, model) == set(start)


def test_resume_needs_the_state():
    """The test above can fail: a regularizer made in the middle goes another way."""
    ends = []
    for resumed in (True, False):
        torch.manual_seed(5)
        model = net(torch.bfloat16)
        optimizer = sgd(model)
        reg = Regularizer(model, SOFT, lambda step: 0.1 * step).attach(optimizer)
        train(model, optimizer, 5)
        state = reg.state_dict()
        reg.detach()
        reg = Regularizer(model, SOFT, lambda step: 0.1 * step).attach(optimizer)
        if resumed:
            reg.load_state_dict(state)
        train(model, optimizer, range(5, 8))
        ends.append(model)
    assert changed(weights(ends[0]), ends[1])


def test_resume_keeps_a_strength_that_was_changed():
    model = net()
    reg = Regularizer(model, SOFT, 0.1)
    reg.strength = 0.4
    other = Regularizer(model, SOFT, 0.1)
    with pytest.warns(
        UserWarning, match=r"state's strength 0\.4 takes the place of 0\.1; set reg\.strength after loading"
    ):
        other.load_state_dict(saved(reg.state_dict())[0])
    assert other.strength == 0.4


def test_resume_of_two_optimizers():
    def make(model):
        optimizers = SGD(model[0].parameters(), lr=0.1), Adam(model[2].parameters(), lr=0.1)
        reg = Regularizer(model, SOFT, lambda step: 0.1 * (1 + step))
        return optimizers, reg.attach(optimizers[0]).attach(optimizers[1])

    model = net()
    (first, second), reg = make(model)
    idle(first)
    idle(first)
    idle(second)
    twin = copy.deepcopy(model)
    (one, two), other = make(twin)
    two.load_state_dict(copy.deepcopy(second.state_dict()))
    other.load_state_dict(saved(reg.state_dict())[0])
    for optimizer in (first, second, one, two):
        idle(optimizer)
    assert_close(model, twin)
    assert [records(other)[name]["strength"] for name in ("0.weight", "2.weight")] == pytest.approx([0.4, 0.3])


def test_added_parameters_resume_with_one_rms():
    """reference="model": weights added after a resume share the rms of the first start."""
    model = Growing()
    reg = Regularizer(model, SOFT, 0.1, reference="model")
    state = reg.state_dict()
    with torch.no_grad():
        model.first.weight.mul_(3)
    resumed = Regularizer(model, SOFT, 0.1, reference="model")
    resumed.load_state_dict(state)
    model.later = nn.Linear(3, 3)
    assert records(resumed.add(model))["later.weight"] == records(reg.add(model))["later.weight"]


def test_state_holds_its_own_values():
    """A state that was taken stays as it was while training goes on."""
    model = net(torch.bfloat16)
    reg = Regularizer(model, SOFT, 0.1, center="initial")
    reg.step(0.1)
    state, kept = reg.state_dict(), saved(reg.state_dict())[0]
    with torch.no_grad():
        model[0].weight.add_(1)
    reg.step(0.1)
    assert_states_equal(state, kept)


def broken(**changes):
    return lambda state: state | changes


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


WRONG_STATES = {
    "missing weights": (lambda state: Regularizer(net()[0:1], SOFT, 0.1).state_dict(), r"lacks .*\(1\): 2\.weight"),
    "unknown weights": (
        lambda state: Regularizer(nn.Sequential(*net(), nn.Linear(3, 3)), SOFT, 0.1).state_dict(),
        r"not regularized here \(1\): 3\.weight",
    ),
    "other center": (
        lambda state: Regularizer(net(), SOFT, 0.1, center="initial").state_dict(),
        "center initial; here",
    ),
    "version": (broken(version=99), r"version 99; this softdiamond reads version 1"),
    "empty": (lambda state: {}, "no state of a Regularizer"),
    "None": (lambda state: None, "no state of a Regularizer"),
    "list": (lambda state: [1, 2], "no state of a Regularizer"),
    "of the model": (lambda state: net().state_dict(), "no state of a Regularizer"),
    "of an optimizer": (lambda state: sgd(net()).state_dict(), "no state of a Regularizer"),
    "without steps": (without("steps"), "no state of a Regularizer"),
    "steps are text": (broken(steps="abc"), "no state of a Regularizer"),
    "a step is None": (broken(steps=[None]), "no state of a Regularizer"),
    "dial is text": (broken(dial="much"), "state"),
    "dial is negative": (broken(dial={"strength": -1.0}), "-1.0 where a finite number"),
    "reference is NaN": (broken(reference={"0.weight": math.nan, "2.weight": 1.0}), "state"),
    "second reference is zero": (broken(reference={"0.weight": 1.0, "2.weight": 0.0}), "state"),
    "reference is text": (broken(reference={"0.weight": "x", "2.weight": 1.0}), "state"),
    "generator of a device that is not here": (broken(generators={"xpu:7": torch.zeros(16, dtype=torch.uint8)}), ""),
    "generator is a number": (broken(generators={"cpu": 5}), "state"),
}


@pytest.mark.parametrize("case", WRONG_STATES)
def test_wrong_state(case):
    """One clear ValueError, and nothing is taken over."""
    make, words = WRONG_STATES[case]
    reg = Regularizer(net(), SOFT, 0.1)
    reg.step(0.1)
    before = reg.state_dict()
    if case.startswith("generator of a device"):  # is left out: it is of use on that device only
        reg.load_state_dict(make(before))
    else:
        with pytest.raises(ValueError, match=words):
            reg.load_state_dict(make(before))
    assert_states_equal(reg.state_dict(), before)


def test_state_of_the_other_center():
    reg = Regularizer(net(), SOFT, 0.1, center="initial")
    with pytest.raises(ValueError, match=r"center zero; here it has .* center initial"):
        reg.load_state_dict(Regularizer(net(), SOFT, 0.1).state_dict())
    state = reg.state_dict()
    state["centre"] = {name: torch.zeros(2, 2) for name in state["centre"]}
    with pytest.raises(ValueError, match=r"center of 0\.weight has the shape \(2, 2\)"):
        reg.load_state_dict(state)


def test_state_of_a_strength_where_lambda_was_given():
    """A strength is no lambda."""
    reg = Regularizer(net(), SOFT, lam=1e-5, scale=0.1)
    with pytest.raises(ValueError, match="strength"):
        reg.load_state_dict(Regularizer(net(), SOFT, 5e-2).state_dict())
    assert reg.lam == 1e-5


# ---- two processes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes saved."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, str(Path(ddp_worker.__file__))]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.xdist_group("two processes")  # which are started once
@pytest.mark.parametrize("kind", ddp_worker.KINDS)
@pytest.mark.parametrize(("mode", "center"), ddp_worker.CASES)
def test_two_processes(mode, center, kind, two_processes):
    """DDP and FSDP2: the ranks agree bit by bit, and with one process that sees both halves of each batch."""
    first, second = (saved[f"{kind} {mode} {center}"] for saved in two_processes)
    if kind == "fsdp-groups":
        assert "is sharded over processes: groups need whole tensors" in first
        return
    assert isinstance(first, dict), first
    assert_close(first["weights"], second["weights"])
    assert first["records"] == second["records"]
    model = ddp_worker.model(torch.bfloat16 if kind == "ddp-bfloat16" else torch.float32)
    start = weights(model)
    group = ddp_worker.GROUPS.get(kind)
    reg = ddp_worker.train(model, mode, center, dtype=next(model.parameters()).dtype, group=group)
    one_rank = ddp_worker.model()
    ddp_worker.train(one_rank, mode, center, slice(0, 4), group=group)
    assert [name for name, _, _ in first["records"]] == list(records(reg))
    for (_, reference, lam), record in zip(first["records"], records(reg).values(), strict=True):
        assert reference == pytest.approx(record.get("reference")) and lam == pytest.approx(record.get("lambda"))
    if kind == "ddp-bfloat16":
        assert_close(first["weights"], weights(model), atol=0.05)
    else:
        assert_close(first["weights"], weights(model), rtol=1e-4, atol=1e-6)
        assert max(float((first["weights"][n] - w).abs().max()) for n, w in weights(one_rank).items()) > 1e-3
    assert changed(start, model) == set(start)


# ---- bad input ---------------------------------------------------------------------------------------------------------

BAD_SETTINGS = [
    ({"strength": -1e-3}, ValueError, "strength must be finite and not negative; got -0.001"),
    ({"strength": math.nan}, ValueError, "strength must be finite"),
    ({"strength": math.inf}, ValueError, "strength must be finite"),
    ({"strength": "5e-4"}, TypeError, "strength must be a number or a function"),
    ({"strength": True}, TypeError, "strength must be a number"),
    ({"strength": [1e-3]}, TypeError, "strength must be a number"),
    ({"strength": 1j}, TypeError, "strength must be a number"),
    ({}, ValueError, "give either strength"),
    ({"strength": 1e-3, "relative_scale": 0.0}, ValueError, "relative_scale must be positive"),
    ({"strength": 1e-3, "relative_scale": math.inf}, ValueError, "relative_scale must be positive and finite"),
    ({"strength": 1e-3, "relative_scale": "1"}, TypeError, "relative_scale must be a number"),
    ({"strength": 1e-3, "relative_scale": 1e-200}, ValueError, "choose another .*relative_scale"),
    ({"lam": 1e-5, "scale": 0.0}, ValueError, "scale must be positive"),
    ({"lam": 1e-5, "scale": -1.0}, ValueError, "scale must be positive"),
    ({"lam": 1e-5, "scale": math.nan}, ValueError, "scale must be positive"),
    ({"lam": 1e-5, "scale": True}, TypeError, "scale must be a number"),
    ({"lam": 1e-5, "scale": 1e-300}, ValueError, "scale 1e-300 is out of range"),
    ({"lam": 1e-5, "dispersion": 0.0}, ValueError, "dispersion must be positive"),
    ({"lam": -1e-5, "scale": 1.0}, ValueError, "lam must be finite and not negative"),
    ({"lam": "1", "scale": 1.0}, TypeError, "lam must be a number"),
    ({"lam": 1e-5, "scale": 1.0, "dispersion": 1.0}, ValueError, "either scale or dispersion, not both"),
    ({"lam": 1e-5}, ValueError, "lam with scale or dispersion"),
    ({"strength": 1e-3, "lam": 1e-5, "scale": 1.0}, ValueError, "either strength.* or lam"),
    ({"strength": 1e-3, "scale": 1.0}, ValueError, "without strength"),
    ({"strength": 1e-3, "dispersion": 1.0}, ValueError, "without strength"),
    ({"lam": 1e-5, "scale": 1.0, "relative_scale": 1.0}, ValueError, "relative_scale belongs to strength"),
    ({"penalty": L1(), "lam": 1e-5, "dispersion": 1.0}, ValueError, "dispersion belongs to a soft diamond"),
    (
        {"lam": 1e-5, "dispersion": 1.0, "rules": [Rule("0.*", penalty=StudentT(1.0))]},
        ValueError,
        "dispersion belongs to a soft diamond",
    ),
    ({"lam": 1e-5, "scale": 1.0, "rules": [Rule("*", strength=1.0)]}, ValueError, "with lam, a rule sets no strength"),
    ({"strength": 1e-3, "reference": "layer"}, ValueError, "reference must be one of tensor, model; got 'layer'"),
    ({"strength": 1e-3, "center": "start"}, ValueError, "center must be one of zero, initial; got 'start'"),
    ({"strength": 1e-3, "center": None}, ValueError, "center must be one of"),
    ({"strength": 1e-3, "rules": ["*.bias"]}, TypeError, "rules must be .*Rule objects; got '.*bias'"),
    ({"strength": 1e-3, "rules": [Rule("*", skip=True), Rule]}, TypeError, "rules must be .*Rule objects"),
    ({"strength": 1e-3, "rules": "*.bias"}, TypeError, "rules must be"),
    ({"strength": 1e-3, "rules": None}, TypeError, "rules must be"),
    ({"strength": 1e-3, "rules": 3}, TypeError, "rules must be"),
    ({"penalty": SoftDiamond, "strength": 1e-3}, TypeError, "the class SoftDiamond, not an instance"),
    ({"penalty": "l1", "strength": 1e-3}, TypeError, "penalty must be .*got 'l1'"),
    ({"penalty": 5e-4, "strength": None}, (TypeError, ValueError), "penalty must be"),
]


@pytest.mark.parametrize(("settings", "error", "words"), BAD_SETTINGS)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words) as caught:
        Regularizer(net(), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [0.0, 0.099, 2.001, -1.0, math.nan, math.inf])
def test_alpha_outside_its_range(alpha):
    with pytest.raises(ValueError, match="alpha"):
        SoftDiamond(alpha)
    with pytest.raises(ValueError, match="alpha"):
        Rule("*", alpha=alpha)


def trained(tensor):
    return tensor.requires_grad_()


def frozen_net():
    return net().requires_grad_(False)


def with_parameter(parameter):
    model = net()
    model.odd = parameter
    return model


def not_finite(value):
    model = net()
    with torch.no_grad():
        model[0].weight[1, 2] = value
    return model


SPARSE = torch.eye(3).to_sparse()
BAD_MODELS = {
    "only biases": (lambda: nn.BatchNorm1d(3), ValueError, r"none of the 2 parameters .*norm.* include=True"),
    "all frozen": (frozen_net, ValueError, "2 frozen"),
    "module without parameters": (nn.Tanh, ValueError, "no parameters"),
    "empty list": (list, ValueError, "no parameters"),
    "None": (lambda: None, TypeError, r"a module, or an iterable of \(name, parameter\)"),
    "number": (lambda: 3, TypeError, "a module, or an iterable"),
    "text": (lambda: "model", TypeError, "a module, or an iterable"),
    "class": (lambda: nn.Linear, TypeError, "a module, or an iterable"),
    "tensors": (lambda: net().parameters(), TypeError, r"model\.named_parameters\(\); got an iterable of Parameter"),
    "one tensor": (lambda: torch.ones(3, 3), TypeError, "a module, or an iterable"),
    "state_dict": (lambda: net().state_dict(), TypeError, "a module, or an iterable"),
    "optimizer": (lambda: sgd(net()), TypeError, "a module, or an iterable"),
    "triples": (lambda: [("a", torch.ones(2, 2), 1)], TypeError, "a module, or an iterable"),
    "pairs the other way round": (lambda: [(torch.ones(2, 2), "a")], TypeError, "a module, or an iterable"),
    "same name twice": (
        lambda: [("a", trained(torch.ones(2, 2))), ("a", trained(torch.ones(2, 2)))],
        ValueError,
        "names must differ; twice: a",
    ),
    "sparse": (lambda: with_parameter(nn.Parameter(SPARSE)), TypeError, "odd is of sparse_coo float32: .*skip=True"),
    "named sparse": (lambda: [("s", trained(torch.eye(3).to_sparse()))], TypeError, "s is of sparse_coo float32"),
    "complex": (lambda: with_parameter(nn.Parameter(torch.ones(2, 2) * 1j)), TypeError, "odd is of complex64"),
    "named integers": (lambda: [("q", torch.ones(2, 2, dtype=torch.int8))], TypeError, "q is of int8"),
    "named bool": (lambda: [("q", torch.ones(2, 2, dtype=torch.bool))], TypeError, "q is of bool"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), ValueError, "weight has no values yet .*meta"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), ValueError, r"0\.weight has no values yet .*run the model once"),
    "lazy norm first": (
        lambda: nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3)),
        ValueError,
        "no values yet .*run the model once",
    ),
    "NaN": (lambda: not_finite(math.nan), ValueError, r"0\.weight holds weights that are not finite"),
    "infinity": (lambda: not_finite(math.inf), ValueError, r"0\.weight holds weights that are not finite"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case):
    make, error, words = BAD_MODELS[case]
    with pytest.raises(error, match=words) as caught:
        Regularizer(make(), SOFT, 1e-3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parameter",
    [
        nn.Parameter(torch.eye(3).to_sparse()),
        nn.Parameter(torch.ones(2, 2) * 1j),
        nn.Parameter(torch.full((2, 2), math.nan)),
        nn.Parameter(torch.ones(2, 2, device="meta")),
        nn.UninitializedParameter(),
    ],
    ids=["sparse", "complex", "NaN", "meta", "lazy"],
)
def test_what_cannot_be_regularized_can_be_skipped(parameter):
    found = records(Regularizer(with_parameter(parameter), SOFT, 1e-3, rules=[Rule("odd", skip=True)]))
    assert not found["odd"]["regularized"] and found["0.weight"]["regularized"]


def test_lazy_norm_beside_real_weights():
    """The norm is left out anyhow."""
    assert taken(Regularizer(nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(3, 3)), SOFT, 1e-3)) == ["1.weight"]


def test_refused_parameters_leave_the_regularizer_as_it_was():
    model = net()
    reg = Regularizer(model, SOFT, 1e-3)
    with pytest.raises(ValueError, match="not finite"):
        reg.add([("a", trained(torch.ones(2, 2))), ("b", trained(torch.full((2, 2), math.nan)))])
    assert taken(reg) == ["0.weight", "2.weight"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: {"where": 3}, TypeError, "where is a name pattern, a module type or a function; got int"),
        (lambda: {"where": None}, TypeError, "where is a name pattern"),
        (lambda: {"where": nn.Linear(2, 2)}, TypeError, "where is a name pattern, a module type or a function"),
        (lambda: {"where": "*", "alpha": 1.0, "penalty": L1()}, ValueError, "either alpha or penalty"),
        (lambda: {"where": "*", "skip": True, "strength": 1.0}, ValueError, "skips takes no strength"),
        (lambda: {"where": "*", "skip": True, "alpha": 1.0}, ValueError, "skips takes no alpha"),
        (lambda: {"where": "*", "strength": -1.0}, ValueError, "strength must be finite and not negative"),
        (lambda: {"where": "*", "strength": "1"}, TypeError, "strength must be a number"),
        (lambda: {"where": "*", "relative_scale": 0.0}, ValueError, "relative_scale must be positive"),
        (lambda: {"where": "*", "relative_scale": "1"}, TypeError, "relative_scale must be a number"),
        (lambda: {"where": "*", "penalty": L1}, TypeError, "the class L1, not an instance"),
        (lambda: {"where": "*", "penalty": 1e-3}, TypeError, "penalty must be"),
    ],
)
def test_bad_rules(make, error, words):
    with pytest.raises(error, match=words):
        Rule(**make())


def test_bad_attachments():
    model = net()
    reg = Regularizer(model, SOFT, 1e-3)
    optimizer = sgd(model)
    for mode in ("explicit", None, "Implicit"):
        with pytest.raises(ValueError, match="mode must be one of implicit, prox, gradient"):
            reg.attach(optimizer, mode=mode)
    for thing in (model, "adam", None, SGD, torch.optim.lr_scheduler.StepLR(optimizer, 1)):
        with pytest.raises(TypeError, match=r"attach takes a torch\.optim\.Optimizer; got .*reg\.step\(eta\)"):
            reg.attach(thing)
    assert hooks(optimizer) == 0


def test_optimizer_that_holds_none_of_the_weights():
    model = net()
    reg = Regularizer(model, SOFT, 1e-3)
    for optimizer in (sgd(net()), SGD([model[0].bias, model[2].bias], lr=0.1)):
        with pytest.raises(ValueError, match="SGD holds none of the 2 regularized"):
            reg.attach(optimizer)
        assert hooks(optimizer) == 0


def test_momentum_1_asks_for_eta():
    model = net()
    with pytest.raises(ValueError, match=r"momentum 1 .* give eta="):
        Regularizer(model, SOFT, 1e-3).attach(sgd(model, momentum=1.0))


# --- what a review found -------------------------------------------------------------------------------------------------


def decayed(model, optimizer):
    """Weights after one step without a gradient of the data."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_default_dtype_does_not_matter(dtype):
    model, twin = net(), net()
    twin.load_state_dict(model.state_dict())
    Regularizer(model, SOFT, 1.0).step(0.1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        Regularizer(twin, SOFT, 1.0).step(0.1)
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_cell_run_twice_does_not_decay_twice():
    model = net()
    optimizer = sgd(model)
    first = Regularizer(model, SOFT, 1.0).attach(optimizer)
    with pytest.raises(
        ValueError, match=r"another Regularizer is attached to this optimizer for 0\.weight: detach\(\)"
    ):
        Regularizer(model, SOFT, 1.0).attach(optimizer)
    first.detach()
    Regularizer(model, SOFT, 1.0).attach(optimizer)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_work_and_are_not_attached(how):
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model.bfloat16(), SOFT, 1.0, center="initial").attach(optimizer)
    decayed(model, optimizer)
    both = model, reg
    other, copied = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert "not attached" in str(copied.describe()) and "attached to SGD" in str(reg.describe())
    another = sgd(other)
    copied.attach(another)
    for mine, theirs in zip(decayed(model, optimizer), decayed(other, another), strict=True):
        assert torch.equal(mine, theirs), "the copy goes on like the original, random rounding included"


def test_a_dropped_training_is_freed_at_once():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 1.0).attach(optimizer)
    watched = weakref.ref(model[0].weight)
    gc.collect()
    gc.disable()
    try:
        del model, optimizer, reg
        assert watched() is None, "no cycle waits for the garbage collector"
    finally:
        gc.enable()


def test_an_optimizer_can_be_replaced():
    model = net()
    optimizer = sgd(model)
    reg = Regularizer(model, SOFT, 1.0).attach(optimizer)
    optimizer = sgd(model)  # the old one is gone, and its hook with it
    gc.collect()
    reg.attach(optimizer)
    other = sgd(model)
    with pytest.raises(ValueError, match="this optimizer is not attached"):
        reg.detach(other)
    reg.detach(optimizer)
    reg.attach(other)
    assert str(reg.describe()).count("attached to SGD") == 1


def test_adagrad_decays_with_its_rate():
    model = net()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1, lr_decay=0.5)
    Regularizer(model, L2(), 1.0).attach(optimizer)
    for step in range(5):
        before = model[0].weight.detach().clone()
        after = decayed(model, optimizer)[0]
        torch.testing.assert_close(after, before / (1 + 0.1 / (1 + 0.5 * step)))


def test_differentiable_optimizers_are_refused():
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match=r"differentiable optimizer .* reg\.penalty_value\(\)"):
        Regularizer(model, SOFT, 1.0).attach(optimizer)


@pytest.mark.parametrize("strength", [2.5e-8, 1e-7])
def test_bfloat16_feels_decays_below_the_floor_of_float32(strength):
    weight = torch.nn.Parameter(torch.full((400, 500), 1.5, dtype=torch.bfloat16))
    reg = Regularizer([("weight", weight)], L2(), strength)
    for _ in range(200):
        reg.step(1.0)
    fall = 1 - float(weight.detach().double().mean()) / 1.5
    spread = (200 * strength * 2**-8) ** 0.5 / weight.numel() ** 0.5
    assert abs(fall - 200 * strength) < 5 * spread < 200 * strength, (fall, 200 * strength)


def test_a_center_follows_the_memory_format():
    model = torch.nn.Conv2d(3, 4, 3)
    reg = Regularizer(model, SOFT, 1.0, center="initial")
    start = model.weight.detach().clone()
    model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.weight.add_(0.1)
    reg.step(0.5)
    twin = torch.nn.Conv2d(3, 4, 3)
    twin.load_state_dict({"weight": start, "bias": model.bias})
    other = Regularizer(twin, SOFT, 1.0, center="initial")
    with torch.no_grad():
        twin.weight.add_(0.1)
    other.step(0.5)
    torch.testing.assert_close(model.weight, twin.weight, rtol=0, atol=1e-7)
    assert reg.state_dict()["centre"]["weight"].stride() == model.weight.stride()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_steps_of_the_optimizer_do_not_compile_the_hook():
    model = torch.nn.Linear(4, 3)
    optimizer = AdamW(model.parameters(), lr=torch.tensor(0.1), weight_decay=0.0)
    reg = Regularizer(model, SOFT, 1.0).attach(optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    torch._dynamo.utils.counters.clear()
    for rate in (0.1, 0.05, 0.025, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002):
        model.weight.grad, model.bias.grad = torch.zeros(3, 4), torch.zeros(3)
        optimizer.param_groups[0]["lr"].fill_(rate)
        step()
    assert reg.state_dict()["steps"] == [10]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_a_skipped_name_that_is_filled_anew_is_not_passed_over():
    model = net()
    model.extra = torch.nn.Parameter(torch.ones(3))
    reg = Regularizer(model, SOFT, 1.0)
    model.extra = torch.nn.Parameter(torch.ones(4, 4))
    with pytest.raises(ValueError, match="another parameter is named extra"):
        reg.add(model)


def test_damaged_generator_changes_nothing():
    reg = Regularizer(net().bfloat16(), SOFT, 1.0)
    state = reg.state_dict() | {"steps": [77], "generators": {"cpu": torch.zeros(3)}}
    with pytest.raises(ValueError, match="generator of cpu is damaged"):
        reg.load_state_dict(state)
    assert reg.state_dict()["steps"] == []


def test_infinite_weights_are_never_made_finite():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    reg = Regularizer([("weight", weight)], SOFT, 1.0)
    with torch.no_grad():
        weight[0, 0], weight[0, 1] = torch.inf, torch.nan
    reg.step(0.1)
    assert not weight[0].isfinite().any() and weight[1].isfinite().all()


@pytest.mark.parametrize(
    "other",
    [
        lambda: Regularizer(net(), SoftDiamond(1.0), 1.0),
        lambda: Regularizer(net(), SOFT, 1.0, relative_scale=2.0),
        lambda: Regularizer(net(), SOFT, 1.0, reference="model"),
    ],
)
def test_state_of_other_settings(other):
    state = other().state_dict()
    with pytest.raises(ValueError, match=r"0\.weight was saved with .*; here it has"):
        Regularizer(net(), SOFT, 1.0).load_state_dict(state)


def test_rule_without_a_setting_says_nothing():
    with pytest.raises(ValueError, match="says nothing"):
        Rule("2.*")
