"""Exact zeros in a training: the target, the homotopy, the gap threshold; state, momentum, floors, bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from softdiamond import L1, L2, Regularizer, Rule, SoftDiamond, gap_threshold, prox, stable
from softdiamond.penalties.groups import layout_of
from softdiamond.pruning import GradualPruning, Ranking, Units, hold_zeros
from softdiamond.regularizer._steps import log_penalty_step, stationary_share
from softdiamond.table import lookup_table

STEPS = 60


def net(seed=0, dtype=torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)).to(dtype)


def data(seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 20, generator=generator)
    return x, (x[:, :5] + 0.3 * x[:, 5:10]).argmax(1)


def train(model, optimizer, steps=STEPS, each=None):
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x.to(model[0].weight.dtype)), y).backward()
        optimizer.step()
        if each is not None:
            each()


def weights(model):
    return [p for p in model.parameters() if p.dim() == 2]


def zeros(model) -> int:
    return sum(int((w == 0).sum()) for w in weights(model))


TOTAL = 20 * 40 + 40 * 30 + 30 * 5


def adamw(model, rate=1e-2):
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)


# ---- the target -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["implicit", "prox", "gradient"])
@pytest.mark.parametrize("target", [0.5, 0.95, 1234])
def test_training_ends_at_the_target(mode, target):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    penalty = L1() if mode == "prox" else SoftDiamond(1.0)
    reg = Regularizer(model, penalty, 1e-4, sparsity_target=target, total_steps=STEPS).attach(optimizer, mode)
    seen = []
    train(model, optimizer, each=lambda: seen.append(zeros(model)))
    wanted = target if isinstance(target, int) else round(target * TOTAL)
    assert seen[-1] == wanted and reg.sparsity == pytest.approx(wanted / TOTAL, abs=1 / TOTAL)
    assert seen == sorted(seen) and seen[0] < 0.1 * wanted and len(set(seen)) > 10
    assert set(seen[round(0.5 * STEPS) :]) == {wanted}, "and stays there"
    momentum = optimizer.state[model[0].weight]["momentum_buffer"][model[0].weight == 0]
    assert bool((momentum != 0).any()), "though momentum pulls"
    assert all(not bool(torch.signbit(w[w == 0]).any()) for w in weights(model)), "0, not -0"


@pytest.mark.parametrize("scope", ["global", "relative", "layerwise"])
def test_scope(scope):
    model = net()
    optimizer = adamw(model)
    settings = {"sparsity_target": 0.9, "total_steps": STEPS, "scope": scope}
    Regularizer(model, SoftDiamond(0.5), 0.1, **settings).attach(optimizer)
    train(model, optimizer)
    shares = [float((w == 0).double().mean()) for w in weights(model)]
    assert zeros(model) == pytest.approx(0.9 * TOTAL, abs=2)
    assert (max(shares) - min(shares) < 0.01) == (scope == "layerwise")


def test_a_tensor_is_not_emptied():
    """One threshold for all would take the whole of a tensor whose weights are tiny; a tenth of the common share stays."""
    model = net()
    model[2].weight.data *= 1e-6
    kept = Ranking({"a": model[0].weight, "b": model[2].weight}).masks(0.9)
    assert int(kept["b"].sum()) == 0, "without a floor"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    Regularizer(model, L2(), 0.0, sparsity_target=0.9, total_steps=10).attach(optimizer)
    train(model, optimizer, 10)
    assert int((model[2].weight != 0).sum()) == math.ceil(0.1 * (1 - 0.9) * 1200)
    assert zeros(model) == round(0.9 * TOTAL)


def test_number_is_exact_among_equal_weights():
    model = nn.Linear(10, 10)
    model.weight.data.fill_(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    Regularizer(model, L2(), 0.0, sparsity_target=37, total_steps=4).attach(optimizer)
    for _ in range(4):
        model(torch.ones(1, 10)).sum().backward()
        optimizer.step()
    assert int((model.weight == 0).sum()) == 37


def test_masks_are_no_parameters_and_the_plan_tells_the_state():
    model = net()
    optimizer = adamw(model)
    reg = Regularizer(
        model, SoftDiamond(0.5), 0.1, sparsity_target=0.98, total_steps=STEPS, pruning_interval=(0.1, 0.7)
    ).attach(optimizer)
    names = [name for name, _ in model.named_parameters()], list(model.state_dict())
    assert "target: 98 % removed between steps 6 and 42 of 60 (global); 0.0 % are removed now, at step 0" in flat(reg)
    train(model, optimizer, 30)
    assert f"{100 * reg.sparsity:.1f} % are removed now, at step 30" in flat(reg) and 0.5 < reg.sparsity < 0.98
    assert ([name for name, _ in model.named_parameters()], list(model.state_dict())) == names


def test_a_number_is_told_with_its_share():
    model = net()
    model[4].weight.requires_grad_(False)
    optimizer = adamw(model)
    reg = Regularizer(model, SoftDiamond(0.5), 0.1, sparsity_target=95, total_steps=STEPS).attach(optimizer)
    told = "target: 95 of 2,000 weights (4.75 %) removed"
    assert told in flat(reg)
    train(model, optimizer, 5)
    model[2].weight.requires_grad_(False)
    assert told in flat(reg), "what is frozen later counts"


def test_a_target_is_met_in_a_homotopy_whose_last_step_sets_more_to_0():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    settings = {"sparsity_target": 0.3, "schedule": "homotopy", "total_steps": STEPS}
    Regularizer(model, SoftDiamond(0.5), 0.05, **settings).attach(optimizer)
    counts = []
    train(model, optimizer, each=lambda: counts.append(zeros(model)))
    assert counts[-2] == pytest.approx(0.3 * TOTAL, abs=0.01 * TOTAL) and counts[-1] > 1.1 * counts[-2]


def flat(reg) -> str:
    return " ".join(str(reg.describe()).split())


def test_frozen_weights_do_not_count_and_shared_ones_count_once():
    model = net()
    model[4].weight.requires_grad_(False)
    before = model[4].weight.clone()
    tied = nn.ModuleDict({"net": model, "again": model[0]})
    optimizer = adamw(model)
    Regularizer(tied, SoftDiamond(0.5), 0.1, sparsity_target=0.9, total_steps=STEPS).attach(optimizer)
    train(model, optimizer)
    assert torch.equal(model[4].weight, before)
    assert zeros(model) == round(0.9 * (TOTAL - 150))


def test_groups_of_which_a_part_is_frozen_at_the_first_step_do_not_count():
    model = net()
    optimizer = adamw(model)
    rules = [Rule("4.weight", penalty=SoftDiamond(0.5))]
    penalty = SoftDiamond(0.5, group={"0.weight": "output", "2.weight": "input"})
    Regularizer(model, penalty, 0.1, rules=rules, sparsity_target=0.4, total_steps=10).attach(optimizer)
    model[0].weight.requires_grad_(False)
    train(model, optimizer, 10)
    assert [int((w == 0).sum()) for w in weights(model)] == [0, 0, 60]


@pytest.mark.parametrize("group", [None, "output"])
def test_weights_frozen_while_it_trains_are_left_alone_and_others_make_up(group):
    def begin(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        penalty = SoftDiamond(0.5, group=group)
        return optimizer, Regularizer(model, penalty, 1e-3, sparsity_target=0.4, total_steps=STEPS).attach(optimizer)

    model = net()
    optimizer, reg = begin(model)
    train(model, optimizer, 4)
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model[2].state_dict())
    lost = int((model[2].weight == 0).sum())
    train(model, optimizer, 4)
    again = net()
    again.load_state_dict(model.state_dict())
    for parameter in again[2].parameters():
        parameter.requires_grad_(False)
    resumed, other = begin(again)
    other.load_state_dict(reg.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (again, resumed)):
        train(each, its, STEPS - 8)
        assert all(torch.equal(value, before[key]) for key, value in each[2].state_dict().items())
        assert 0 < lost < 0.4 * 1200, "the others make up for it"
        assert zeros(each) == pytest.approx(round(0.4 * TOTAL), abs=0 if group is None else 20)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("stopped", [1, 17, 45])
@pytest.mark.parametrize(
    "settings", [{"sparsity_target": 0.9}, {"schedule": "homotopy"}, {"sparsity_target": 0.9, "schedule": "homotopy"}]
)
def test_resumes_bit_by_bit(tmp_path, stopped, settings):
    def begin():
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        reg = Regularizer(model, SoftDiamond(0.5), 0.02, total_steps=STEPS, **settings).attach(optimizer)
        return model, optimizer, reg

    whole = begin()
    train(*whole[:2])
    first = begin()
    train(*first[:2], stopped)
    torch.save([part.state_dict() for part in first], tmp_path / "state")
    second = begin()
    for part, state in zip(second, torch.load(tmp_path / "state", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*second[:2], STEPS - stopped)
    for one, two in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, two)
    again = copy.deepcopy(second[2])
    assert again.sparsity == second[2].sparsity


def test_state_of_other_settings_is_refused():
    state = Regularizer(net(), SoftDiamond(0.5), 0.1, sparsity_target=0.9, total_steps=10).state_dict()
    for other in ({}, {"sparsity_target": 0.8, "total_steps": 10}, {"schedule": "homotopy", "total_steps": 10}):
        with pytest.raises(ValueError, match=r"was saved with sparsity_target 0\.9"):
            Regularizer(net(), SoftDiamond(0.5), 0.1, **other).load_state_dict(state)
    plain = Regularizer(net(), SoftDiamond(0.5), 0.1)
    old = plain.state_dict()
    del old["zeros"], old["last_eta"]
    plain.load_state_dict(old)  # a state from before there were targets
    with pytest.raises(ValueError, match="no sparsity_target"):
        Regularizer(net(), SoftDiamond(0.5), 0.1, sparsity_target=0.9, total_steps=10).load_state_dict(old)
    state["zeros"]["masks"] = {"0.weight": torch.ones(3, 3)}
    with pytest.raises(ValueError, match="damaged"):
        Regularizer(net(), SoftDiamond(0.5), 0.1, sparsity_target=0.9, total_steps=10).load_state_dict(state)


def test_groups_go_whole_with_their_bias_and_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rules = [Rule("3.weight", penalty=SoftDiamond(0.5, group="input"))]
    reg = Regularizer(
        model, SoftDiamond(0.5, group="output"), 0.01, rules=rules, sparsity_target=0.6, total_steps=STEPS
    ).attach(optimizer)
    x, y = data()
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    gone = (model[0].weight == 0).all(1)
    assert 5 < int(gone.sum()) < 40 and torch.equal((model[0].weight == 0).any(1), gone)
    for vector in (model[0].bias, model[1].weight, model[1].bias):
        assert torch.equal(vector == 0, gone)
    columns = (model[3].weight == 0).all(0)
    assert torch.equal((model[3].weight == 0).any(0), columns) and int(columns.sum()) > 0
    share = (20 * int(gone.sum()) + 5 * int(columns.sum())) / 1000
    assert share == pytest.approx(0.6, abs=0.011), "the nearest share that whole groups make"
    assert reg.sparsity == pytest.approx(0.6)


def test_units_are_ranked_by_their_rms(rng):
    w = torch.tensor(rng.normal(size=(6, 4)))
    layout = layout_of("output", w)
    kept = Ranking({"w": w}, units=[Units({"w": layout})]).exact_masks(0.5, 0.0)["w"].flatten()
    order = np.argsort(np.square(w.numpy()).sum(1))
    assert set(np.flatnonzero(~kept.numpy())) == set(order[:3])
    nearest = Ranking({"w": w}, units=[Units({"w": layout})]).exact_masks(0.3, 0.0)["w"].flatten()
    assert set(np.flatnonzero(~nearest.numpy())) == set(order[:2]), "7.2 weights are nearer to 8 than to 4"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"sparsity_target": 1.0}, ValueError, r"in \(0, 1\); got 1.0"),
        ({"sparsity_target": 0.0}, ValueError, r"in \(0, 1\)"),
        ({"sparsity_target": 95.0}, ValueError, "did you mean 0.95"),
        ({"sparsity_target": math.nan}, ValueError, r"in \(0, 1\)"),
        ({"sparsity_target": -3}, ValueError, "at least 1"),
        ({"sparsity_target": True}, TypeError, "a share in"),
        ({"sparsity_target": "0.9"}, TypeError, "a share in"),
        ({"sparsity_target": TOTAL + 1}, ValueError, f"above the number of regularized weights, {TOTAL}"),
        ({"sparsity_target": 0.9, "total_steps": None}, ValueError, "total_steps"),
        ({"sparsity_target": None}, ValueError, "goes with sparsity_target or schedule"),
        ({"sparsity_target": 0.9, "total_steps": 0}, ValueError, "must be positive"),
        ({"sparsity_target": 0.9, "total_steps": 1.5}, TypeError, "must be an integer"),
        ({"sparsity_target": 0.9, "pruning_interval": (0.7, 0.1)}, ValueError, "begin <= end"),
        ({"sparsity_target": 0.9, "pruning_interval": 0.5}, TypeError, "two fractions"),
        ({"sparsity_target": 0.9, "scope": "Global"}, ValueError, "scope must be one of"),
        ({"sparsity_target": 0.9, "center": "initial"}, ValueError, 'center="zero"'),
        ({"scope": "layerwise", "schedule": "homotopy"}, ValueError, "go with it"),
        (
            {"pruning_interval": (0.1, 0.7), "total_steps": None},
            ValueError,
            "scope and pruning_interval say how a sparsity_target is met",
        ),
        ({"schedule": "cosine"}, ValueError, "schedule must be"),
        ({"schedule": "homotopy", "penalty": L1()}, ValueError, "soft diamonds with alpha below 2"),
        ({"schedule": "homotopy", "penalty": SoftDiamond(2.0)}, ValueError, "alpha below 2"),
        ({"schedule": "homotopy", "lam": 1.0, "scale": 0.1, "strength": None}, ValueError, "give strength"),
    ],
)
def test_bad_settings(settings, error, words):
    settings = {"penalty": SoftDiamond(0.5), "strength": 0.1, "total_steps": 10} | settings
    with pytest.raises(error, match=words):
        Regularizer(net(), **settings)


def test_homotopy_refuses_the_gradient_mode():
    model = net()
    reg = Regularizer(model, SoftDiamond(0.5), 0.1, schedule="homotopy", total_steps=10)
    with pytest.raises(ValueError, match="mode gradient is unstable"):
        reg.attach(adamw(model), mode="gradient")


def test_weights_cannot_join_once_removal_began():
    model = net()
    optimizer = adamw(model)
    reg = Regularizer(model, SoftDiamond(0.5), 0.1, sparsity_target=0.5, total_steps=10).attach(optimizer)
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match="before the first step"):
        reg.add(nn.ModuleDict({"late": nn.Linear(3, 3)}))


def test_digits_lose_little_at_95_and_98_percent():
    """A net of 50,000 weights in 1,200 steps: at most 1.5 points at 95 %, 3 at 98 %."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = (torch.from_numpy(each) for each in datasets.load_digits(return_X_y=True))
    x = ((x - x.mean()) / x.std()).float()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train_rows, test_rows = order[:1000], order[1000:]
    accuracy = {}
    for target in (None, 0.95, 0.98):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        if target is not None:
            Regularizer(model, SoftDiamond(0.5), 0.3, sparsity_target=target, total_steps=1200).attach(optimizer)
        generator = torch.Generator().manual_seed(1)
        for _ in range(1200):
            chosen = train_rows[torch.randint(0, 1000, (64,), generator=generator)]
            optimizer.zero_grad()
            cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy[target] = 100 * float((model(x[test_rows]).argmax(1) == y[test_rows]).double().mean())
        assert zeros(model) == (0 if target is None else round(target * 50432))
    assert accuracy[None] > 96
    assert accuracy[None] - accuracy[0.95] <= 1.5 and accuracy[None] - accuracy[0.98] <= 3, accuracy


# ---- homotopy ---------------------------------------------------------------------------------------------------------


def test_homotopy_ends_in_zeros_and_holds_them():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    reg = Regularizer(model, SoftDiamond(0.5), 0.02, schedule="homotopy", total_steps=STEPS).attach(optimizer)
    counts = []
    train(model, optimizer, each=lambda: counts.append(zeros(model)))
    assert counts[-2] < 0.01 * TOTAL and 0.2 * TOTAL < counts[-1] < TOTAL, (
        "zeros come with the last step, but for a few that underflow"
    )
    places = [w == 0 for w in weights(model)]
    train(model, optimizer, 20)
    assert all(torch.equal(w == 0, place) for w, place in zip(weights(model), places, strict=True)), "fine-tuned"
    assert "zeros are held" in flat(reg)


@pytest.mark.parametrize("group", [None, "output"])
def test_homotopy_keeps_the_pull_and_its_last_step_is_the_log_penalty(group):
    """Without a gradient: the scale falls by 1000, strength at rms_0 stays; the last step equals the closed form."""
    model = nn.Linear(6, 5, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = Regularizer(model, SoftDiamond(0.5, group=group), 0.3, schedule="homotopy", total_steps=10).attach(optimizer)
    rms = float(model.weight.detach().square().mean().sqrt())
    scales = []
    for step in range(10):
        record = reg.describe().records[0]
        scales.append(record["scale"])
        assert record["strength"] == pytest.approx(0.3, rel=1e-6)
        before = model.weight.detach().clone()
        model.weight.grad = torch.zeros_like(model.weight)
        if step == 9:
            optimizer.param_groups[0]["lr"] = 0.0  # the last that was not 0 counts
        optimizer.step()
    assert scales == sorted(scales, reverse=True) and scales[-1] < 0.01 * scales[0]
    if group is None:
        expected = prox.log_penalty_step(before.numpy(), 0.1 * 0.3 * rms**2)
    else:
        norms = before.norm(dim=1)
        factor = prox.log_penalty_step(norms.numpy(), 0.1 * 0.3 * 6 * rms**2) / norms.numpy()
        expected = before.numpy() * factor[:, None]
    np.testing.assert_allclose(model.weight.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_log_penalty_step_equals_that_of_numpy(rng, dtype):
    w = torch.tensor(rng.normal(size=500)).to(dtype)
    w[:3] = torch.tensor([0.0, 0.61, -0.61])
    expected = prox.log_penalty_step(w.double().numpy(), 0.09)
    log_penalty_step(w, 0.09, torch.Generator().manual_seed(0) if dtype == torch.bfloat16 else None)
    np.testing.assert_allclose(w.double().numpy(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert not bool(torch.signbit(w[w == 0]).any())
    assert float(stationary_share(torch.tensor(0.6), 0.09)) == 0.0, "at the edge itself"


# ---- gap threshold ----------------------------------------------------------------------------------------------------


def soft(alpha=0.5, scale=0.01):
    model = net(dtype=torch.float64)
    return model, Regularizer(model, SoftDiamond(alpha), lam=1.0, scale=scale)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_snap_by_a_proximal_step_has_a_true_certificate(alpha):
    model, reg = soft(alpha)
    before = copy.deepcopy(model)
    step = 1.5 * prox.critical_step(lookup_table(alpha)) * 0.01**2
    result = gap_threshold(
        model, reg, step_lambda=step, loss=lambda net: float(net(data()[0].double()).square().mean())
    )
    assert result.changed and 0 < result.removed < 1
    low, high = prox.gap(alpha, 0.01, step)
    for gap, w, old in zip(result.gaps, weights(model), weights(before), strict=True):
        moved = SoftDiamond(alpha).prox(old.detach(), step, 0.01)
        assert gap.low <= low * (1 + 1e-9) and gap.high >= high * (1 - 1e-9), "the gap lies in the band"
        for threshold in np.geomspace(gap.low, gap.high * (1 - 1e-12), 20):
            assert torch.equal(moved.abs() > threshold, w != 0), "any threshold gives this mask"
        assert torch.equal(w[w != 0], moved[w != 0])
        assert gap.removed == gap.zeros == int((w == 0).sum())
    assert result.loss_before != result.loss_after
    assert "gives this mask" in str(result) and "loss:" in str(result)


def test_snap_below_the_critical_ratio_changes_nothing():
    model, reg = soft()
    before = copy.deepcopy(model.state_dict())
    result = gap_threshold(model, reg, step_lambda=0.1 * 0.01**2)
    assert not result.changed and "no gap: nothing was changed" in str(result)
    assert all("critical 0.147" in gap.why for gap in result.gaps)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_snap_by_groups():
    model = nn.Linear(50, 40, bias=False).double()
    model.weight.data[::2] *= 0.02
    reg = Regularizer(model, SoftDiamond(0.5, group="output"), lam=1.0, scale=0.01)
    result = gap_threshold(model, reg)
    (gap,) = result.gaps
    assert result.removed == 0.5 and bool((model.weight[::2] == 0).all()) and bool((model.weight[1::2] != 0).all())
    norms = model.weight[1::2].norm(dim=1)
    assert gap.low < gap.high == pytest.approx(float(norms.detach().min()))
    again = gap_threshold(model, reg, step_lambda=1e-9)
    assert not again.changed and again.zeros == 0.5


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 2.0])
def test_snap_sees_no_band_in_draws_of_a_law(alpha, seed):
    model = nn.Linear(200, 50, bias=False)
    model.weight.data = torch.from_numpy(stable.rvs(alpha, size=(50, 200), rng=seed)).float()
    reg = Regularizer(model, SoftDiamond(0.5), lam=1.0, scale=1.0)
    assert not gap_threshold(model, reg).changed


def test_snap_sees_a_band_and_zeros_are_held_in_a_fine_tuning():
    model = net()
    for w in weights(model):
        w.data = torch.where(torch.rand_like(w) < 0.7, 1e-4 * torch.randn_like(w), w.data.sign() * (0.1 + w.data.abs()))
    optimizer = adamw(model)
    reg = Regularizer(model, SoftDiamond(0.5), 0.01).attach(optimizer)
    result = gap_threshold(model, reg)
    assert 0.6 < result.removed < 0.8 and all(1e-5 < gap.low < 0.1 <= gap.high for gap in result.gaps[:2])
    places = [w == 0 for w in weights(model)]
    train(model, optimizer, 10)
    assert all(torch.equal(w == 0, place) for w, place in zip(weights(model), places, strict=True))


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan, "1"])
def test_gap_threshold_refuses_a_bad_step(step):
    model, reg = soft()
    with pytest.raises(ValueError, match="must be positive and finite"):
        gap_threshold(model, reg, step_lambda=step)


def test_a_step_that_moves_weights_is_told_though_none_falls_below_the_band():
    model = nn.Linear(20, 20)
    model.weight.data = 5 + torch.rand(20, 20)
    before = model.weight.detach().clone()
    result = gap_threshold(model, Regularizer(model, SoftDiamond(0.5), lam=1, scale=0.1), step_lambda=0.1)
    assert not torch.equal(model.weight, before) and not result.changed
    assert "any threshold" in str(result) and "nothing was changed" not in str(result)


@pytest.mark.parametrize("wrong", [0, 1])
def test_gap_threshold_of_something_else(wrong):
    given = [*soft()]
    given[wrong] = 3
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module and its softdiamond\.Regularizer; got int"):
        gap_threshold(*given)


def test_a_gap_threshold_reports_what_it_empties():
    model, reg = soft()
    model[2].weight.data *= 1e-6
    text = str(gap_threshold(model, reg, step_lambda=1e-3))
    assert text.splitlines()[-1] == "nothing is left: all weights of 2.weight are 0"
    for layer in (model[0], model[4]):
        layer.weight.data *= 1e-6
    assert str(gap_threshold(model, reg, step_lambda=1e-3)).endswith("\nnothing is left: all weights are 0")


def test_gap_threshold_of_another_model():
    with pytest.raises(ValueError, match=r"belongs to another model: 0\.weight"):
        gap_threshold(net(), soft()[1])


def test_zeros_of_dead_outputs_are_held_with_their_vectors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 25, 2))
    model[0].weight.data[:, 2:4] = 0
    for vector in (model[0].bias, model[1].weight, model[1].bias):
        vector.data[2:4] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hold_zeros(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(8, 3, 3, 3)), torch.arange(8) % 2).backward()
        optimizer.step()
    assert all(not bool(v[2:4].any()) for v in (model[0].bias, model[1].weight, model[1].bias))
    assert bool((model[1].bias[[0, 1, 4, 5]] != 0).all()), "a shift that only starts at 0 moves"


def test_a_mask_of_another_shape_is_refused():
    model = net()
    reg = Regularizer(model, SoftDiamond(0.5), 0.1, sparsity_target=0.9, total_steps=10).attach(adamw(model))
    train(model, adamw(model), 1)
    state = reg.state_dict()
    state["zeros"]["masks"] = {"0.weight": torch.ones(7, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match="the state's zeros are damaged"):
        reg.load_state_dict(state)


def test_hold_zeros_of_a_network_without_a_regularizer():
    model = net()
    model[0].weight.data[:, 3:] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = hold_zeros(model, optimizer)
    train(model, optimizer, 5)
    assert bool((model[0].weight[:, 3:] == 0).all()) and bool((model[0].weight[:, :3] != 0).all())
    handle.remove()
    train(model, optimizer, 1)
    assert bool((model[0].weight[:, 3:] != 0).any())


def test_hold_zeros_refuses_what_would_hold_nothing():
    model, optimizer = net(), torch.optim.SGD(net().parameters())
    with pytest.raises(ValueError, match="the optimizer trains none of the model's parameters"):
        hold_zeros(model, optimizer)
    for wrong, name in (((model, 3), "int"), ((optimizer, model), "SGD")):
        with pytest.raises(TypeError, match=f"takes a torch.nn.Module and its optimizer; got {name}"):
            hold_zeros(*wrong)


def test_gradual_with_units_resumes(rng):
    w = torch.tensor(rng.normal(size=(8, 3)))
    units = [Units({"w": layout_of("output", w)})]
    one = GradualPruning({"w": w.clone()}, 0.5, 10, begin=0.0, end=0.5, units=units, min_density_ratio=0.1)
    for _ in range(10):
        one()
    assert one.sparsity == 0.5 and int((one._weights["w"] == 0).all(1).sum()) == 4
