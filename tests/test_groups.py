"""Groups: which weights belong together, the penalty of their norm, and the regularizer's steps on them, beside naive loops."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from softdiamond import L1, Regularizer, Rule, SoftDiamond, prox, stable
from softdiamond.penalties.groups import coupled_parameters, layout_of
from softdiamond.regularizer._steps import MANY, TOLERANCE
from softdiamond.table import lookup_table

DOUBLE = torch.float64
HALVES = [torch.float16, torch.bfloat16]
MODES = ["implicit", "prox", "gradient"]
SPANS = (
    {"0.weight": "output", "1.weight": "output", "1.bias": "output"},
    {"3.weight": "output", "4.weight": "output", "4.bias": "output", "7.weight": ("input head", 6)},
)


def thirds(w):
    """Groups of two sizes along the second dimension."""
    return (torch.arange(w.shape[1]) // 3).view(-1, *[1] * (w.dim() - 2))


def blocks(w, n):
    """Groups of n consecutive rows."""
    return (torch.arange(w.shape[0]) // n).view(-1, *[1] * (w.dim() - 1))


def scattered(w):
    """A group of each weight's own choosing."""
    return torch.arange(w.numel()).mul(7).remainder(5).view(w.shape)


GROUPINGS = ["output", "input", ("head", 3), ("input head", 2), thirds, scattered]
PENALTIES = [SoftDiamond(0.5), SoftDiamond(1.7), L1()]

each_grouping = pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: getattr(g, "__name__", str(g)))
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
each_mode = pytest.mark.parametrize("mode", MODES)


def by_group(penalty, grouping):
    return L1(grouping) if isinstance(penalty, L1) else SoftDiamond(penalty.alpha, grouping)


def labels_of(grouping, w) -> torch.Tensor:
    """The group of each weight of a tensor (outputs, inputs, ...), from the definition."""
    shape = (slice(None), *[None] * (w.dim() - 1))
    if callable(grouping):
        return grouping(w).expand(w.shape)
    word, heads = grouping if isinstance(grouping, tuple) else (grouping, 0)
    dim = int(word.startswith("input"))
    index = torch.arange(w.shape[dim])
    index = index // (len(index) // heads) if heads else index
    return (index[shape] if dim == 0 else index[shape[:-1]]).expand(w.shape)


def exact(penalty, name, r, d, scale):
    """Penalty, omega or gradient of the norm of d weights, without a table."""
    if isinstance(penalty, L1):
        return {"penalty": r / scale, "omega": 1 / (r * scale) if r else math.inf}[name]
    return float(getattr(stable, f"group_{name}")(r, penalty.alpha, d, scale=scale))


def weights(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


# --- which weights belong together --------------------------------------------------------------------------------------


def layers():
    torch.manual_seed(3)
    return {
        "linear": (nn.Linear(6, 4), (6,)),
        "conv": (nn.Conv2d(6, 4, 3, padding=1), (6, 5, 5)),
        "grouped conv": (nn.Conv1d(6, 4, 3, groups=2, padding=1), (6, 5)),
        "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5)),
        "transposed": (nn.ConvTranspose2d(6, 4, 3), (6, 5, 5)),
        "grouped transposed": (nn.ConvTranspose1d(6, 4, 3, groups=2), (6, 5)),
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("grouping", ["input", "output", ("head", 2), ("input head", 2)], ids=str)
def test_a_group_is_what_one_input_or_output_uses(name, grouping):
    """Without group i the layer's output does not depend on input i, or output i on anything; with it, it does."""
    layer, shape = layers()[name]
    layer.double()
    layout = layout_of(grouping, layer.weight, "weight", layer)
    number = torch.arange(layout.count, dtype=DOUBLE)
    labels = layout.spread(number).expand(layout.shape).reshape(layer.weight.shape)
    x = weights(1, *shape).requires_grad_()
    assert layout.sizes.tolist() == [int((labels == i).sum()) for i in range(layout.count)]
    word = grouping if isinstance(grouping, str) else grouping[0]
    for i in range(layout.count):
        alone = {"weight": torch.where(labels == i, layer.weight, 0.0).detach(), "bias": layer.bias.detach()}
        y = torch.func.functional_call(layer, alone, (x,))
        if word in ("input", "input head"):
            (slope,) = torch.autograd.grad(y.square().sum(), x)
            felt = slope.reshape(layout.count, -1).abs().sum(1) > 0
        else:
            unbiased = y[0] - layer.bias.view(-1, *[1] * (y.dim() - 2))
            felt = unbiased.reshape(layout.count, -1).abs().sum(1) > 1e-12
        assert felt.nonzero().flatten().tolist() == [i]


def test_embeddings_and_attention():
    table = nn.Embedding(7, 6)
    assert layout_of("output", table.weight, "w", table).kept == (1,)
    assert layout_of("input", table.weight, "w", table).kept == (0,)
    attention = nn.MultiheadAttention(6, 3, bias=False).double()
    heads = {"in_proj_weight": ("head", 3), "out_proj.weight": ("input head", 3)}
    reg = Regularizer(attention, SoftDiamond(0.5, heads), 1.0)
    assert {(r["groups"], r["group_size"]) for r in reg.describe().records if r["regularized"]} == {(3, 2 * 4 * 6)}
    x = weights(5, 1, 6)
    before = attention(x, x, x)[0]
    with torch.no_grad():  # a head is q, k and v of it, and what reads it: without head 1 the rest stays as it is
        kept = attention.in_proj_weight.view(3, 3, 2, 6)
        for entry in reg.regularized:
            number = entry.groups.layout(entry).spread(torch.arange(3.0, dtype=DOUBLE))
            entry.parameter.copy_(
                torch.where(number == 1, 0.0, entry.groups.layout(entry).unfolded(entry.parameter)).view_as(
                    entry.parameter
                )
            )
        assert not kept[:, 1].any() and kept[:, [0, 2]].all()
        assert not attention.out_proj.weight[:, 2:4].any() and attention.out_proj.weight[:, [0, 1, 4, 5]].all()
    assert not torch.equal(attention(x, x, x)[0], before)


def test_a_convolution_of_gpt2_has_its_inputs_first():
    layer = pytest.importorskip("transformers").pytorch_utils.Conv1D(12, 4)
    assert layer.weight.shape == (4, 12)
    counts = {
        grouping: layout_of(grouping, layer.weight, "w", layer).count
        for grouping in ("output", "input", ("head", 3), ("input head", 2))
    }
    assert counts == {"output": 12, "input": 4, ("head", 3): 3, ("input head", 2): 2}
    assert coupled_parameters(nn.Sequential(layer), "0.weight") == ("0.bias",)


@pytest.mark.parametrize("name", ["linear", "depthwise", "transposed", "grouped transposed"])
@pytest.mark.parametrize("grouping", ["input", "output"])
def test_a_parametrized_layer_has_the_groups_that_it_has_without(name, grouping):
    layer, _ = layers()[name]
    plain = layout_of(grouping, layer.weight, "weight", layer)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(layer))
    (record,) = (r for r in Regularizer(model, SoftDiamond(0.5, grouping), 1.0).describe().records if r["regularized"])
    assert record["name"] == "0.parametrizations.weight.original"
    assert (record["groups"], record["group_size"]) == (plain.count, plain.distinct[0])
    alone = Regularizer(model[0], SoftDiamond(0.5, grouping), 1.0).describe().records
    assert [r["groups"] for r in alone if r["regularized"]] == [plain.count]


# --- the penalty --------------------------------------------------------------------------------------------------------


@each_penalty
@each_grouping
def test_beside_a_loop_over_the_groups(penalty, grouping):
    w, scale, step = weights(6, 4), 0.7, 0.9
    grouped, labels = by_group(penalty, grouping), labels_of(grouping, w)
    value, grad, omega = (f(w, scale) for f in (grouped.value, grouped.grad, grouped.omega))
    moved = grouped.prox(w, step, scale)
    assert value.shape == (int(labels.max()) + 1,)
    for i in range(len(value)):
        own = w[labels == i]
        d, r = len(own), float(own.norm())
        assert float(value[i]) == pytest.approx(exact(penalty, "penalty", r, d, scale), rel=1e-9)
        pull = exact(penalty, "omega", r, d, scale)
        np.testing.assert_allclose(omega[labels == i], pull, rtol=1e-9)
        np.testing.assert_allclose(grad[labels == i], pull * own, rtol=1e-9)
        np.testing.assert_allclose(moved[labels == i], own * best(penalty, r, d, step, scale) / r, rtol=3e-5, atol=1e-9)


def best(penalty, r, d, step, scale):
    """Global minimizer of (u - r)^2 / 2 + step R(u / scale) by search: the valleys on a grid, each again on finer ones."""

    def depth(u):
        cost = u / scale if isinstance(penalty, L1) else stable.group_penalty(u, penalty.alpha, d, scale=scale)
        return (u - r) ** 2 / 2 + step * cost

    grid = np.sort(np.concatenate([[0.0], np.geomspace(1e-9 * r, r, 120), np.linspace(r / 60, r, 59, endpoint=False)]))
    height = np.concatenate([[np.inf], depth(grid), [np.inf]])
    found = []
    for i in np.flatnonzero((height[1:-1] <= height[:-2]) & (height[1:-1] <= height[2:])):
        u = grid[[max(i - 1, 0), min(i + 1, len(grid) - 1)]]
        for _ in range(8):
            u = np.linspace(u[0], u[-1], 13)
            k = int(np.argmin(depth(u)))
            u = u[[max(k - 1, 0), min(k + 1, len(u) - 1)]]
        found.append(u.mean())
    return found[int(np.argmin(depth(np.array(found))))]


@pytest.mark.parametrize(("alpha", "d"), [(0.3, 2), (0.5, 64), (0.5, 4096), (1.0, 9), (1.8, 64), (1.99, 1000)])
def test_the_proximal_map_jumps_where_the_valleys_are_level(alpha, d):
    """A norm just below and just above the jump of its step, against a search for the lower valley."""
    law, unit, _ = SoftDiamond(alpha).radial(d)
    for factor in (1.5, 10.0):
        step = factor * prox.critical_step(law) * unit * unit
        jump = prox.find_jump(step / unit / unit, law)
        for side in (1 - 1e-4, 1 + 1e-4):
            r = jump.at * unit * side
            w = torch.full((1, d), r / math.sqrt(d), dtype=DOUBLE)
            found = float(SoftDiamond(alpha, "output").prox(w, step).norm())
            assert found == pytest.approx(best(SoftDiamond(alpha), r, d, step, 1.0), rel=1e-4)
        assert jump.above > 1.05 * jump.below


@each_grouping
def test_derivatives(grouping):
    penalty, w = SoftDiamond(0.5, grouping), weights(6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: penalty.value(w, 0.3), (w,))
    assert torch.autograd.gradgradcheck(lambda w: penalty.value(w, 0.3), (w,))
    assert torch.autograd.gradcheck(lambda w: penalty.grad(w, 0.3), (w,))
    (slope,) = torch.autograd.grad(penalty.value(w, 0.3).sum(), w)
    torch.testing.assert_close(slope, penalty.grad(w, 0.3), rtol=1e-9, atol=1e-12)
    zero = torch.zeros_like(w).requires_grad_()
    assert not torch.autograd.grad(penalty.value(zero, 0.3).sum(), zero)[0].any()
    both = torch.stack([w, 2 * w]).detach()
    for method in (penalty.value, penalty.grad, penalty.omega):
        torch.testing.assert_close(torch.func.vmap(method)(both), torch.stack([method(each) for each in both]))
    slopes = torch.func.vmap(torch.func.grad(lambda w: penalty.value(w, 0.3).sum()))(both)
    torch.testing.assert_close(slopes[0], slope)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, about torch
@pytest.mark.parametrize("grouped", [SoftDiamond(0.5, ("input head", 2)), L1("output")], ids=repr)
def test_compiled_equals_eager(grouped):
    def both(w):
        return grouped.value(w, 0.3), grouped.grad(w, 0.3)

    torch._dynamo.reset()
    w = weights(6, 4, dtype=torch.float32).requires_grad_()
    torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="eager")(w), both(w))


@each_grouping
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_narrow_dtypes(grouping, dtype):
    w = weights(6, 4, dtype=dtype)
    penalty = SoftDiamond(0.5, grouping)
    for name in ("value", "grad", "omega"):
        found, true = getattr(penalty, name)(w, 0.3), getattr(penalty, name)(w.double(), 0.3)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), true, rtol=2 * torch.finfo(dtype).eps, atol=0)
    moved, kind = penalty.prox(w, 0.1, 0.3), torch.finfo(dtype)
    assert moved.dtype == dtype
    true = penalty.prox(w.double(), 0.1, 0.3)
    torch.testing.assert_close(moved.double(), true, rtol=4 * kind.eps, atol=kind.smallest_normal * kind.eps)


def test_zero_infinite_and_not_a_number():
    w = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0], [3.0, 4.0]])
    soft = SoftDiamond(0.5, "output")
    assert soft.value(w).isnan().tolist() == [False, False, True, False]
    assert soft.value(w)[:2].tolist() == [0, math.inf] and soft.omega(w)[1].tolist() == [0, 0]
    moved = soft.prox(w, 0.1)
    assert moved[0].tolist() == [0, 0] and moved[1].tolist() == [math.inf, 1] and moved[2].isnan().all()
    torch.testing.assert_close(L1("output").prox(w, 1.0)[[0, 3]], torch.tensor([[0.0, 0.0], [2.4, 3.2]]))
    assert not L1("output").grad(w)[0].any() and not L1("output").prox(w, 10.0)[3].any()


# --- the steps ----------------------------------------------------------------------------------------------------------


def net(dtype=DOUBLE):
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(24, 5)).to(dtype)


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator)
    model.zero_grad()
    nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y).backward()


def train(model, optimizer, steps):
    for step in steps:
        backward(model, step)
        optimizer.step()


def labelled(model, grouping):
    """Each block as a list of (name, group of each weight), from the definition."""
    if not isinstance(grouping, tuple) or not isinstance(grouping[0], dict):
        return [[(n, labels_of(grouping, p))] for n, p in model.named_parameters() if p.dim() > 1]
    own = dict(model.named_parameters())
    return [[(n, labels_of(axis, own[n])) for n, axis in span.items()] for span in grouping]


@pytest.mark.parametrize(
    ("mode", "grouping", "steps"),
    [
        *((mode, grouping, 3) for mode in ("implicit", "gradient") for grouping in ("output", "input", thirds, SPANS)),
        *(("prox", grouping, 1) for grouping in (thirds, SPANS)),
    ],
    ids=lambda value: getattr(value, "__name__", "spans" if value is SPANS else str(value)),
)
@pytest.mark.parametrize("center", ["zero", "initial"])
def test_training_beside_a_loop(mode, center, grouping, steps):
    """A few steps beside loops over the groups, with the exact law and lambda from its definition."""
    alpha, relative_scale, strength, lr = 0.7, 2.0, 0.05, 0.1
    ours, twin = net(), net()
    start = {name: p.detach().clone() for name, p in twin.named_parameters()}
    optimizer, plain = SGD(ours.parameters(), lr), SGD(twin.parameters(), lr)
    reg = Regularizer(ours, SoftDiamond(alpha, grouping), strength, relative_scale=relative_scale, center=center)
    reg.attach(optimizer, mode)
    train(ours, optimizer, range(steps))

    own, blocks = dict(twin.named_parameters()), labelled(twin, grouping)
    groups = []
    for block in blocks:
        rms = math.sqrt(sum(float(start[n].square().sum()) for n, _ in block) / sum(start[n].numel() for n, _ in block))
        for i in range(int(block[0][1].max()) + 1):
            d = sum(int((labels == i).sum()) for _, labels in block)
            shift = float(stable.group_omega(0, alpha, d) / stable.group_omega(0, alpha, 1) * (1 + alpha) / (d + alpha))
            scale, norm = relative_scale * math.sqrt(d) * rms * math.sqrt(shift), math.sqrt(d) * rms
            lam = strength / float(stable.group_omega(norm, alpha, d, scale=scale))
            groups.append((block, i, d, scale, lam))

    def each_group():
        for block, i, d, scale, lam in groups:
            parts = [
                (own[n], labels == i, start[n] if center == "initial" else torch.zeros_like(own[n]))
                for n, labels in block
            ]
            distances = [(p.detach() - middle)[mask] for p, mask, middle in parts]
            yield parts, distances, float(torch.cat(distances).norm()), d, scale, lam

    for step in range(steps):
        backward(twin, step)
        if mode == "gradient":
            for parts, distances, r, d, scale, lam in each_group():
                pull = lam * float(stable.group_omega(r, alpha, d, scale=scale))
                for (p, mask, _), distance in zip(parts, distances, strict=True):
                    p.grad[mask] += pull * distance
        plain.step()
        if mode != "gradient":
            with torch.no_grad():
                for parts, distances, r, d, scale, lam in each_group():
                    share = 1 / (1 + lr * lam * float(stable.group_omega(r, alpha, d, scale=scale)))
                    if mode == "prox":
                        share = best(SoftDiamond(alpha), r, d, lr * lam, scale) / r if r else 0.0
                    for (p, mask, middle), distance in zip(parts, distances, strict=True):
                        p[mask] = middle[mask] + share * distance
    moved = 0.0
    for (name, p), q in zip(ours.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5 if mode == "prox" else 1e-8, atol=1e-7 if mode == "prox" else 1e-10)
        moved = max(moved, float((p.detach() - start[name]).abs().max()))
    assert moved > 0.01


def test_the_loss_term_has_the_gradient_of_the_mode():
    model = net()
    with torch.no_grad():
        model[1].bias.normal_()
        model[0].weight[2] = 0.0
        model[1].weight[2] = model[1].bias[2] = 0.0
    for penalty in (SoftDiamond(0.5, SPANS), L1(SPANS), SoftDiamond(1.3, "input"), SoftDiamond(0.5, thirds)):
        ours, twin = copy.deepcopy(model), copy.deepcopy(model)
        loss = Regularizer(ours, penalty, 0.1).penalty_value()
        loss.backward()
        assert (
            loss.dtype == DOUBLE
            and Regularizer(net(torch.float32), penalty, 0.1).penalty_value().dtype == torch.float32
        )
        optimizer = SGD(twin.parameters(), 1e-3)
        for p in twin.parameters():
            p.grad = torch.zeros_like(p)
        Regularizer(twin, penalty, 0.1).attach(optimizer, "gradient")
        optimizer.step()
        for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(gradient, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("center", ["zero", "initial"])
def test_narrow_weights_decay_in_the_mean(dtype, center):
    """A decay far below the last place is kept in the mean, whatever the grouping."""
    w = nn.Parameter(torch.ones(64, 512, dtype=dtype))
    reg = Regularizer([("w", w)], SoftDiamond(0.5, "output"), 1.0, center=center)
    with torch.no_grad():
        w += w * (center == "initial")
    for _ in range(20):
        reg.step(1e-4)
    start = 1.0 if center == "zero" else 2.0
    decay = start - float(w.detach().double().mean())
    assert decay == pytest.approx(20 * 1e-4, rel=0.1)


def test_the_norm_of_a_narrow_distance_is_not_rounded():
    w = nn.Parameter(weights(4, 4096, dtype=torch.bfloat16))
    reg = Regularizer([("w", w)], SoftDiamond(0.5, "output"), 1.0, center="initial")
    center = reg.regularized[0].center.double()
    with torch.no_grad():
        w.copy_(weights(4, 4096, seed=1, dtype=torch.bfloat16) / 64)
    true = (w.double() - center).norm(dim=1)
    torch.testing.assert_close(reg.regularized[0].groups.norms(), true.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_huge_step_never_overshoots(mode):
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    reg = Regularizer(model, SoftDiamond(0.5, SPANS), 1e12)
    reg.step(1e12, mode)
    for p, old in zip(model.parameters(), before, strict=True):
        assert bool((p * old >= 0).all()) and bool((p.abs() <= old.abs()).all())


def test_the_number_of_operations_does_not_grow_with_the_groups():
    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    for grouping in ("output", "input", thirds):
        counts = []
        for n in (30, 300):
            reg = Regularizer([("w", nn.Parameter(torch.randn(n, n)))], SoftDiamond(0.5, grouping), 0.1)
            reg.step(0.1)
            with Count() as count:
                count.calls = 0
                reg.step(0.1)
            counts.append(count.calls)
        assert counts[1] <= counts[0] + 20  # a layer of 300 x 300 is taken in three pieces


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_many_small_groups_decay_as_few_do(alpha):
    """By a table, as single weights do, to its tolerance; float64 weights by omega itself."""
    w = weights(3, MANY + 5) * torch.logspace(-4, 3, MANY + 5, dtype=DOUBLE)
    lost = {}
    for dtype in (torch.float32, DOUBLE):
        mine = nn.Parameter(w.to(dtype, copy=True))
        Regularizer([("w", mine)], SoftDiamond(alpha, "input"), 0.7).step(1.0)
        lost[dtype] = (1 - mine.detach().double() / w.to(dtype).double())[0]
    ours, exact = lost[torch.float32], lost[DOUBLE]
    assert ((ours - exact).abs() <= 1.1 * TOLERANCE * exact * (1 - exact) + 3e-7).all()
    if alpha < 2:
        assert not torch.allclose(ours, exact, rtol=1e-5, atol=1e-6), "the table was not used"


def test_whole_groups_vanish():
    """Inputs that do nothing go to zero, the true ones stay; a step by weight leaves more of the former."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 30, generator=generator)
    y = x[:, :2].prod(1, keepdim=True) + x[:, 2:3]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    rule = Rule("0.weight", penalty=SoftDiamond(0.5, "input"))
    Regularizer(model, strength=0.0, rules=[rule, Rule("2.weight", skip=True)]).attach(optimizer).strength = 3.0
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    norms = model[0].weight.norm(dim=0)
    assert norms[:3].min() > 20 * norms[3:].max(), norms


# --- strength and scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "relative_scale"), [(0.3, 1.0), (0.5, 0.1), (1.0, 3.0), (1.99, 1.0)])
def test_the_crossover_lies_where_that_of_one_weight_does(alpha, relative_scale):
    """In units of the reference norm; and a group of that norm feels the strength, whatever d."""
    one = lookup_table(alpha).crossover
    for d in (1, 3, 576):
        w = nn.Parameter(weights(5, d))
        reg = Regularizer([("w", w)], SoftDiamond(alpha, "output"), 0.3, relative_scale=relative_scale)
        (record,) = reg.describe().records
        norm = math.sqrt(float(w.detach().square().sum(dim=1).mean()))
        assert math.sqrt(d) * record["reference"] == pytest.approx(norm, rel=1e-12)
        far = math.sqrt((d + alpha) / float(stable.group_omega(0, alpha, d)))
        assert record["scale"] * far / norm == pytest.approx(relative_scale * one, rel=1e-9)
        pull = record["lambda"] * float(stable.group_omega(norm, alpha, d, scale=record["scale"]))
        assert pull == pytest.approx(0.3, rel=1e-8) == record["strength"]


def test_the_reference_is_the_norm_at_the_start_also_of_tensors_that_start_at_zero():
    model = net()
    reg = Regularizer(model, SoftDiamond(0.5, SPANS), 1.0)
    parts = [dict(model.named_parameters())[name] for name in SPANS[0]]
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in parts) / 8)
    records = {record["name"]: record for record in reg.describe().records}
    for name in SPANS[0]:
        assert math.sqrt(29) * records[name]["reference"] == pytest.approx(norm, rel=1e-12)
    assert "starts at zero" in records["1.bias"]["why"] and "fan-in" not in records["1.bias"]["why"]
    shared = Regularizer(model, SoftDiamond(0.5, SPANS), 1.0, reference="model").describe().records
    assert len({record["reference"] for record in shared if record["regularized"]}) == 1


@pytest.mark.parametrize("others", [lambda w: torch.arange(4) % 2, lambda w: torch.tensor([1, 1, 0, 0])])
def test_another_partition_of_as_many_groups_is_no_resume(others):
    def regularizer(labels):
        return Regularizer(nn.Linear(4, 6), SoftDiamond(0.5, group=labels), 1.0)

    state = regularizer(lambda w: torch.arange(4) // 2).state_dict()
    regularizer(lambda w: torch.arange(w.shape[1]) // 2).load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"weight was saved with .*2 groups \(labels \w{8}\).*; here it has .*2 groups"
    ):
        regularizer(others).load_state_dict(state)


def test_columns_in_place_of_rows_are_no_resume():
    def regularizer(labels):
        return Regularizer(nn.Linear(4, 4), SoftDiamond(0.5, group=labels), 1.0)

    with pytest.raises(ValueError, match="weight was saved with"):
        regularizer(lambda w: (torch.arange(4) // 2)[:, None]).load_state_dict(
            regularizer(lambda w: torch.arange(4) // 2).state_dict()
        )


def test_a_labels_function_may_be_renamed_between_save_and_resume():
    def pairs(w):
        return torch.arange(w.shape[1]) // 2

    state = Regularizer(nn.Linear(4, 6), SoftDiamond(0.5, group=pairs), 1.0).state_dict()
    Regularizer(nn.Linear(4, 6), SoftDiamond(0.5, group=lambda w: pairs(w)), 1.0).load_state_dict(state)


@each_mode
def test_a_nan_takes_its_whole_group_in_every_mode(mode):
    layer = nn.Linear(4, 6, bias=False)
    optimizer = SGD(layer.parameters(), lr=0.1)
    Regularizer(layer, SoftDiamond(0.5, "input"), 0.1).attach(optimizer, mode)
    layer.weight.data[1, 2] = math.nan
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    assert layer.weight.isnan().any(0).tolist() == layer.weight.isnan().all(0).tolist() == [False, False, True, False]


@each_mode
@pytest.mark.parametrize("weights_first", [False, True])
def test_resume_is_exact(mode, weights_first):
    """Also where the regularizer is made of trained weights, of which none are zero any more."""
    penalty = SoftDiamond(0.5, SPANS)

    def start():
        model = net()
        return model, AdamW(model.parameters(), 1e-2, weight_decay=0.0)

    model, optimizer = start()
    reg = Regularizer(model, penalty, 0.1).attach(optimizer, mode)
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), reg.state_dict()))
    train(model, optimizer, range(3, 6))
    again, optimizer = start()
    if weights_first:
        again.load_state_dict(saved[0])
    reg = Regularizer(again, penalty, 0.1).attach(optimizer, mode)
    for thing, state in zip((again, optimizer, reg), saved, strict=True):
        thing.load_state_dict(state)
    train(again, optimizer, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"0\.weight was saved with .*group"):
        Regularizer(net(), SoftDiamond(0.5, SPANS[:1]), 0.1).load_state_dict(
            {
                **saved[2],
                **{k: {n: v for n, v in saved[2][k].items() if n in SPANS[0]} for k in ("settings", "reference")},
            }
        )


class Blocks:
    """A grouping that is an object."""

    def __call__(self, w):
        return thirds(w)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: functools.partial(blocks, n=2), "group=partial('blocks', n=2)"),
        (Blocks, "group='Blocks'"),
        (lambda: thirds, "group='thirds'"),
    ],
)
def test_resume_knows_a_function_by_its_name_not_by_its_address(make, shown):
    reg = Regularizer(net(), SoftDiamond(0.5, make()), 0.1)
    assert shown in repr(reg) and " at 0x" not in str(reg.state_dict()["settings"])
    Regularizer(net(), SoftDiamond(0.5, make()), 0.1).load_state_dict(reg.state_dict())


def test_groups_in_the_plan():
    plan = Regularizer(net(), SoftDiamond(0.5, thirds), 1.0).describe()
    (record,) = (record for record in plan.records if record["name"] == "3.weight")
    assert (record["groups"], record["group_size"]) == (3, (108, 162))
    assert record["scale"][0] < record["scale"][1] and "3 x 108 to 162" in str(plan)
    plan = Regularizer(net(), SoftDiamond(0.5, SPANS), 1.0).describe()
    own = {record["name"]: record for record in plan.records}
    assert own["1.bias"]["groups"] == 8 and own["1.bias"]["group_size"] == 29
    assert own["0.bias"]["why"] == "in none of the groups" and "8 x 29" in str(plan)
    assert "in one group with 0.weight, 1.weight" in own["1.bias"]["why"]


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grouping", "kind", "said"),
    [
        ("rows", ValueError, r'a grouping is one of "input", "output".*; got .rows.'),
        (5, ValueError, "a grouping is one of .*; got 5"),
        ("head", ValueError, r'needs their number: \("head", 8\)'),
        (("head", 0), ValueError, "number of heads must be a positive integer; got 0"),
        (("head", True), ValueError, "number of heads must be a positive integer; got True"),
        ({}, TypeError, "groups that span tensors are mappings"),
        ([], TypeError, "groups that span tensors are mappings"),
        ({"a": "rows"}, ValueError, r'an axis of a mapping is one of "input", [^;]* \("input head", n\); got .rows.'),
        ({"a": thirds}, ValueError, "an axis of a mapping is one of .*; got <function thirds"),
        (torch.arange(3), TypeError, "labels of the weights are given by a function that returns them"),
        (np.arange(3), TypeError, "labels of the weights are given by a function that returns them"),
        ([{"a": "input"}, {"a": "output"}], ValueError, "groups overlap: a is in two of them"),
    ],
)
def test_no_such_grouping(grouping, kind, said):
    for make in (lambda: SoftDiamond(0.5, group=grouping), lambda: L1(group=grouping)):
        with pytest.raises(kind, match=said):
            make()


@pytest.mark.parametrize(
    ("grouping", "kind", "said"),
    [
        (("head", 4), ValueError, "the tensor: 6 features do not divide into 4 heads"),
        (lambda w: w, TypeError, "returns a tensor of integers.*; got torch.float64"),
        (lambda w: "x", TypeError, "returns a tensor of integers.*; got str"),
        (lambda w: torch.arange(3), ValueError, r"have the shape \(3,\), which does not broadcast to \(6, 4\)"),
        (lambda w: torch.tensor([-1, 0, 0, -1]), ValueError, "groups miss weights: 2 of the tensor have a negative"),
        (lambda w: torch.tensor([0, 2, 2, 2]), ValueError, "group 1 of the tensor is empty"),
        ({"a": "input"}, TypeError, "only a Regularizer knows by name"),
    ],
)
def test_groups_that_do_not_fit(grouping, kind, said):
    for penalty in (SoftDiamond(0.5, grouping), L1(grouping)):
        with pytest.raises(kind, match=said):
            penalty.value(weights(6, 4))


def test_tensors_without_such_groups():
    for shape, said in (((3,), 'the tensor has 1 dimension, so no group "input": it needs 2'), ((0, 4), "is empty")):
        for grouping in ("input", lambda w: torch.arange(w.shape[-1])):
            if shape == (3,) and callable(grouping):
                continue
            with pytest.raises(ValueError, match=said):
                SoftDiamond(0.5, grouping).value(torch.ones(shape))
    with pytest.raises(TypeError, match="by group the scale is one number"):
        SoftDiamond(0.5, "output").value(weights(6, 4), torch.tensor(0.3))
    with pytest.raises(
        ValueError,
        match=r"^w: a soft diamond's group has at most 65,536 weights; got 70,000: make smaller .* L1\(group",
    ):
        Regularizer([("w", nn.Parameter(torch.randn(2, 70000)))], SoftDiamond(0.5, "output"), 1.0)
    assert L1("output").prox(torch.ones(2, 70000), 1.0).shape == (2, 70000)  # the lasso has no table


@pytest.mark.parametrize(
    ("spans", "rules", "said"),
    [
        ({"0.weigth": "output"}, [], r"a group names 0\.weigth, which is no parameter here; near: 0\.weight"),
        ({"0.weight": "output", "4.weight": "output"}, [], r"same number of groups: 0\.weight has 8, 4\.weight has 6"),
        (SPANS, [Rule("1.bias", skip=True)], r"1\.bias is named in a group but left out \(rule '1\.bias': skip\)"),
        (SPANS, [Rule("1.bias", include=True, penalty=L1())], r"1\.bias is named in a group but has another penalty"),
        (SPANS, [Rule("1.bias", include=True, strength=3.0)], "of one group, but rules give them another strength"),
    ],
)
def test_groups_that_name_the_wrong_weights(spans, rules, said):
    with pytest.raises(ValueError, match=said):
        Regularizer(net(), SoftDiamond(0.5, spans), 1.0, rules=rules)


def test_groups_that_are_left_out_tied_or_frozen():
    spans = SoftDiamond(0.5, SPANS[0])
    with pytest.raises(ValueError, match=r"1\.weight is named in a group but left out \(norm \(BatchNorm2d\)\)"):
        Regularizer(net(), SoftDiamond(0.5), 1.0, rules=[Rule("0.weight", penalty=spans)])
    model = net()
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0\.weight is frozen: a group is trained as a whole"):
        Regularizer(model, spans, 1.0)
    with pytest.raises(ValueError, match=r"3 frozen.*: unfreeze some first"):
        Regularizer(net().requires_grad_(False), SoftDiamond(0.5, "output"), 1.0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"1\.weight is named in a group but is tied: call it 0\.weight"):
        Regularizer(model, SoftDiamond(0.5, {"1.weight": "output"}), 1.0)


def test_one_group_needs_one_rate_for_its_proximal_step():
    model = net()
    optimizer = SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.2}], 0.1)
    Regularizer(model, SoftDiamond(0.5, SPANS[0]), 1.0).attach(optimizer, "prox")
    backward(model, 0)
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are of one group but have different learning rates"):
        optimizer.step()


def test_the_proximal_step_of_a_group_needs_one_optimizer():
    """Two would each map the group's norm for itself; the implicit step takes both."""
    model = net()
    reg = Regularizer(model, SoftDiamond(0.5, SPANS[0]), 1.0)
    one, other = SGD(model[0].parameters(), 0.1), SGD(model[1].parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"0\.weight and 1\.weight are of one group but not of one optimizer.*'implicit'"
    ):
        reg.attach(one, "prox")
    reg.attach(one).attach(other)
    before = [p.detach().clone() for p in (model[0].weight, model[1].weight)]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in (one, other):
        optimizer.step()
    assert all(p.norm() < 0.99 * old.norm() for p, old in zip((model[0].weight, model[1].weight), before, strict=True))


# ---- what goes with an output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2])
def test_outputs_of_a_transposed_convolution_go_with_their_vectors(blocks):
    net = nn.Sequential(nn.ConvTranspose2d(6, 4, 3, groups=blocks), nn.BatchNorm2d(4))
    assert coupled_parameters(net, "0.weight") == ("0.bias", "1.weight", "1.bias")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    reg = Regularizer(net, SoftDiamond(0.5, group="output"), 0.1, sparsity_target=0.5, total_steps=2).attach(optimizer)
    assert "pruned with its outputs: 0.weight (0.bias, 1.weight, 1.bias)" in " ".join(str(reg.describe()).split())
    nn.init.constant_(net[1].bias, 0.5)
    for _ in range(2):
        net(torch.randn(2, 6, 5, 5)).sum().backward()
        optimizer.step()
    found = net.eval()(torch.randn(2, 6, 5, 5))
    assert int((found == 0).all(0).flatten(1).all(1).sum()) == 2, "two channels are dead"
    assert int((net[0].bias == 0).sum()) == int((net[1].bias == 0).sum()) == 2


def test_a_normalization_of_the_next_block_stays():
    """It acts on the residual sum, in which the channel lives on."""

    def block():
        return nn.ModuleDict({"norm": nn.BatchNorm2d(4), "conv": nn.Conv2d(4, 4, 3, padding=1)})

    net = nn.Sequential(block(), block())
    assert coupled_parameters(net, "0.conv.weight") == ("0.conv.bias",)
    assert coupled_parameters(nn.Sequential(nn.Embedding(4, 6), nn.BatchNorm1d(6)), "0.weight") == (
        "1.weight",
        "1.bias",
    )


@pytest.mark.parametrize("shape", [(3, 40_000), (40, 9_000), (5_000, 20), (5, 70, 30, 30), (3, 1, 40_000)], ids=str)
def test_norms_over_rows_that_are_taken_in_pieces(shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weights = [w, w.to(memory_format=torch.channels_last)] if w.dim() == 4 else [w]
    summed = [dim for dim in range(w.dim()) if dim != 1]
    for weight in weights:
        norms = layout_of("input", weight, "w", None).norms(weight)
        torch.testing.assert_close(norms, torch.linalg.vector_norm(w.double(), dim=summed), rtol=1e-6, atol=0)
        both = torch.func.vmap(layout_of("input", weight, "w", None).norms)(torch.stack([weight, 2 * weight]))
        torch.testing.assert_close(both, torch.stack([norms, 2 * norms]), rtol=1e-6, atol=0)
