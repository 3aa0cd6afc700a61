"""Measures of sparsity, removal by magnitude at once and gradually, and the prunable share, against naive loops."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from softdiamond import pruning
from softdiamond.pruning import SCOPES, GradualPruning, Ranking, cubic_schedule, measures, prunable_sparsity, widest_gap

SHARES = [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.875, 0.99, 1.0]
REFERENCE = {"a": 2.0, "b": 0.01, "c": 0.5}


def some_weights(rng, dtype=torch.float32):
    """Three tensors of different sizes, shapes and magnitudes."""
    shapes = {"a": ((8, 5), 2.0), "b": ((4, 3, 3, 3), 0.01), "c": ((7, 1), 0.5)}
    return {name: torch.tensor(rng.normal(0, sd, shape), dtype=dtype) for name, (shape, sd) in shapes.items()}


def flat(weights):
    return torch.cat([w.detach().flatten() for w in weights.values()])


def gone(masks):
    return int((~flat(masks)).sum())


# ---- measures ----------------------------------------------------------------------------------------------------------


def naive(values):
    """The docstring's formulas in plain loops: the Gini index as the mean difference of all pairs."""
    a = [abs(float(value)) for value in values]
    n, total, energy = len(a), math.fsum(a), math.fsum(x * x for x in a)
    pairs = math.fsum(abs(x - y) for x in a for y in a)
    return {
        "zero": sum(x == 0 for x in a) / n,
        "below_1e-3": sum(x < 1e-3 for x in a) / n,
        "below_1e-2": sum(x < 1e-2 for x in a) / n,
        "below_1e-2_of_largest": sum(x < 1e-2 * max(a) for x in a) / n,
        "gini": pairs / (2 * n * total),
        "hoyer": (math.sqrt(n) - total / math.sqrt(energy)) / (math.sqrt(n) - 1),
        "participation": energy**2 / (n * math.fsum(x**4 for x in a)),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_measures_equal_naive_loops(rng, dtype):
    values = rng.normal(size=300) * 10 ** rng.uniform(-4, 1, 300)
    values[rng.random(300) < 0.2] = 0.0
    w = torch.tensor(values).to(dtype)
    before = w.clone()
    weights = {"a": w[:120].view(4, 3, 10), "b": w[120:299].view(-1, 1), "c": w[299].reshape(())}
    assert measures(weights) == pytest.approx(naive(w.double().tolist()), rel=1e-12, abs=1e-13)
    assert torch.equal(w, before)
    assert all(type(value) is float for value in measures(weights).values())


def test_measures_of_tensors_of_several_dtypes(rng):
    a, b = torch.tensor(rng.normal(size=20)), torch.tensor(rng.normal(size=30)).bfloat16()
    expected = naive([*a.tolist(), *b.double().tolist()])
    assert measures({"a": a, "b": b}) == pytest.approx(expected, rel=1e-12)


def test_measures_of_a_parameter_need_no_gradient():
    result = measures({"a": nn.Parameter(torch.tensor([3.0, -4.0]))})
    assert result["participation"] == pytest.approx(25**2 / (2 * (81 + 256)))


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("size", [1.0, -0.3, 1e-30, 1e30])
def test_equal_weights(n, size):
    result = measures({"a": torch.full((n,), size)})
    assert [result[name] for name in ("gini", "hoyer", "participation")] == pytest.approx([0, 0, 1], abs=1e-14)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_one_weight_that_is_not_zero(n):
    w = torch.zeros(n)
    w[n // 2] = -0.005
    result = measures({"a": w})
    assert [result[name] for name in ("gini", "hoyer", "participation")] == pytest.approx([1 - 1 / n, 1, 1 / n])
    below = [result[name] for name in ("zero", "below_1e-3", "below_1e-2")]
    assert below == pytest.approx([1 - 1 / n, 1 - 1 / n, 1], rel=1e-15)


def test_weights_that_are_all_zero():
    assert measures({"a": torch.zeros(3, 2), "b": torch.zeros(5)}) == {
        **dict.fromkeys(["zero", "below_1e-3", "below_1e-2"], 1.0),
        "below_1e-2_of_largest": 0.0,
        "gini": 0.0,
        "hoyer": 0.0,
        "participation": 1.0,
    }


def test_thresholds_are_not_reached_by_themselves():
    w = torch.tensor([1e-3, 1e-2, -1e-3, -1e-2, 0.00099, -0.0099, 0.0], dtype=torch.float64)
    result = measures({"a": w})
    assert [7 * result[name] for name in ("zero", "below_1e-3", "below_1e-2")] == pytest.approx([1, 2, 5])


@pytest.mark.parametrize(
    ("name", "threshold", "dtype"), [("below_1e-3", 1e-3, torch.bfloat16), ("below_1e-2", 1e-2, torch.float32)], ids=str
)
def test_thresholds_are_float64(name, threshold, dtype):
    w = torch.tensor([threshold], dtype=dtype)
    assert float(w) < threshold
    assert measures({"a": w})[name] == 1.0


@given(
    st.lists(st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=2, max_size=30),
    st.floats(1e-200, 1e200),
    st.randoms(use_true_random=False),
)
@example([1.0, 2.0], 1e-200, None)
@example([1.0, 2.0, 0.0], 1e200, None)
def test_shape_measures_ignore_scale_sign_and_order(values, factor, random):
    w = torch.tensor(values, dtype=torch.float64)
    other = [-factor * value for value in values]
    if random is not None:
        random.shuffle(other)
    one, two = measures({"a": w}), measures({"a": torch.tensor(other, dtype=torch.float64)})
    for name in ("gini", "hoyer", "participation"):
        assert two[name] == pytest.approx(one[name], rel=1e-9, abs=1e-9)
        assert 0.0 <= one[name] <= 1.0 + 1e-12


@pytest.mark.parametrize("weights", [{}, {"a": torch.empty(0)}, {"a": torch.empty(0, 3), "b": torch.empty(0)}], ids=len)
def test_nothing_to_measure(weights):
    with pytest.raises(ValueError, match="no weights to measure"):
        measures(weights)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_measures_refuse_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="must be finite"):
        measures({"a": torch.ones(3), "b": torch.tensor([1.0, bad])})


# ---- the widest gap ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e6) | st.just(0.0), max_size=14), st.floats(1.01, 50), st.integers(1, 4))
@example([1.0, 2.0], 2.0, 1)
def test_the_widest_gap_is_that_of_a_loop_over_neighbours(values, factor, minimum):
    ranked = sorted(value for value in values if value > 0)
    gaps = list(itertools.pairwise(ranked))[minimum - 1 : max(len(ranked) - minimum, 0)]
    found = widest_gap(torch.tensor(values, dtype=torch.float64), factor, minimum)
    widest = max((math.log(high) - math.log(low) for low, high in gaps), default=-math.inf)
    if found is None:
        assert widest < math.log(factor) * (1 + 1e-12)
    else:
        assert found in gaps and math.log(found[1]) - math.log(found[0]) == pytest.approx(widest, abs=1e-12)
        assert widest >= math.log(factor) * (1 - 1e-12)


# ---- pruning at once ---------------------------------------------------------------------------------------------------


def naive_masks(weights, share, scope):
    """Sort pairs (score, place) in Python; remove the first of them and what ties with the last."""
    unit = {name: REFERENCE[name] if scope == "relative" else 1.0 for name in weights}
    scores = {name: [abs(float(x)) / unit[name] for x in w.flatten().double()] for name, w in weights.items()}
    groups = [[name] for name in weights] if scope == "layerwise" else [list(weights)]
    masks = {}
    for names in groups:
        ranked = sorted(score for name in names for score in scores[name])
        number = round(share * len(ranked))
        worst = ranked[number - 1] if number else -1.0
        for name in names:
            masks[name] = torch.tensor([score > worst for score in scores[name]]).view(weights[name].shape)
    return masks


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", SHARES)
def test_masks_equal_naive_ones_and_remove_the_share(rng, scope, share):
    weights = some_weights(rng, torch.float64)
    before = {name: w.clone() for name, w in weights.items()}
    masks = Ranking(weights, scope, REFERENCE).masks(share)
    expected = naive_masks(weights, share, scope)
    assert all(torch.equal(masks[name], expected[name]) for name in weights) and list(masks) == list(weights)
    assert all(mask.dtype == torch.bool and mask.shape == weights[name].shape for name, mask in masks.items())
    assert all(torch.equal(weights[name], before[name]) for name in weights), "weights are only read"
    if scope == "layerwise":
        assert [gone({name: mask}) for name, mask in masks.items()] == [
            round(share * w.numel()) for w in before.values()
        ]
    else:
        assert gone(masks) == round(share * flat(weights).numel())


def test_one_ranking_serves_any_number_of_shares_in_any_order(rng):
    weights = some_weights(rng)
    ranking = Ranking(weights)
    for share in (0.9, 0.1, 0.5, 0.9):
        masks, fresh = ranking.masks(share), Ranking(weights).masks(share)
        assert all(torch.equal(masks[name], fresh[name]) for name in weights)


def test_higher_share_removes_all_that_a_lower_removes(rng):
    ranking = Ranking(some_weights(rng), "relative", REFERENCE)
    kept = [flat(ranking.masks(share)) for share in SHARES]
    assert all(bool((more <= less).all()) for less, more in itertools.pairwise(kept))


def test_ties_are_removed_together():
    weights = {"a": torch.tensor([0.0, 1.0, -1.0, 1.0, 2.0]), "b": torch.tensor([[-1.0, 3.0, 0.0, 1.0, -3.0]])}
    ranking = Ranking(weights)
    assert [gone(ranking.masks(share)) for share in (0.0, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9)] == [0, 2, 2, 7, 7, 8, 10]
    layerwise = Ranking(weights, "layerwise").masks(0.4)
    assert {name: gone({name: mask}) for name, mask in layerwise.items()} == {"a": 4, "b": 3}


def test_narrow_dtypes_are_ranked(rng):
    weights = some_weights(rng, torch.bfloat16)
    for scope in ("global", "layerwise"):
        masks, expected = Ranking(weights, scope).masks(0.5), naive_masks(weights, 0.5, scope)
        assert all(torch.equal(masks[name], expected[name]) for name in weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_division_by_the_rms_makes_no_ties(dtype):
    w = (1.5 + torch.finfo(dtype).eps * torch.arange(50)).to(dtype)
    assert len(w.unique()) == 50
    ranking = Ranking({"a": w}, "relative", {"a": 1.4})
    assert [gone(ranking.masks(count / 50)) for count in range(51)] == list(range(51))


def test_relative_is_global_after_division_by_the_rms(rng):
    weights = some_weights(rng, torch.float64)
    divided = {name: w / REFERENCE[name] for name, w in weights.items()}
    for share in SHARES:
        one, two = Ranking(weights, "relative", REFERENCE).masks(share), Ranking(divided).masks(share)
        assert all(torch.equal(one[name], two[name]) for name in weights)
    plain = Ranking(weights).masks(0.5)
    relative = Ranking(weights, "relative", REFERENCE).masks(0.5)
    assert gone({"b": plain["b"]}) > gone({"b": relative["b"]}), "the smallest tensor loses less than by one threshold"


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.floats(0, 1))
def test_no_kept_weight_is_smaller_than_a_removed_one(values, share):
    w = torch.tensor(values, dtype=torch.float32)
    kept = Ranking({"a": w}).masks(share)["a"]
    size = w.abs()
    assert int((~kept).sum()) >= round(share * len(values))
    if bool(kept.any()) and not bool(kept.all()):
        assert size[kept].min() > size[~kept].max()


@pytest.mark.parametrize("scope", ["Global", "", "per layer", None])
def test_unknown_scope(scope):
    with pytest.raises(ValueError, match="scope must be one of global, relative, layerwise; got"):
        Ranking({"a": torch.ones(2)}, scope)


@pytest.mark.parametrize("reference", [None, {}, {"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": math.nan}])
def test_relative_without_a_starting_rms(reference):
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    with pytest.raises(ValueError, match=r"needs the starting rms of each tensor; [ab] has none"):
        Ranking(weights, "relative", reference)
    Ranking(weights, "global", reference)


@pytest.mark.parametrize("share", [-1e-9, 1.0001, math.nan, math.inf])
def test_impossible_sparsity(share):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\]"):
        Ranking({"a": torch.ones(2)}).masks(share)


# ---- gradual pruning ---------------------------------------------------------------------------------------------------


def test_cubic_closed_values():
    assert [cubic_schedule(p, 0.0, 1.0) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1 - 27 / 64, 7 / 8, 1.0]
    assert [cubic_schedule(p, 0.1, 0.7) for p in (0.0, 0.05, 0.1)] == [0.0, 0.0, 0.0]
    assert [cubic_schedule(p, 0.1, 0.7) for p in (0.7, 0.8, 1.0)] == [1.0, 1.0, 1.0]
    assert cubic_schedule(0.4, 0.1, 0.7) == pytest.approx(7 / 8)


def test_cubic_of_no_width_is_a_step():
    assert [cubic_schedule(p, 0.0, 0.0) for p in (0.0, 0.01, 1.0)] == [1.0, 1.0, 1.0]
    assert [cubic_schedule(p, 0.5, 0.5) for p in (0.0, 0.4999, 0.5, 1.0)] == [0.0, 0.0, 1.0, 1.0]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0.5, 1))
def test_cubic_rises_within_bounds(one, two, begin, end):
    low, high = sorted((one, two))
    assert 0.0 <= cubic_schedule(low, begin, end) <= cubic_schedule(high, begin, end) <= 1.0


def zeros(weights):
    return int((flat(weights) == 0).sum())


def network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    return net, {name: p for name, p in net.named_parameters() if p.dim() > 1}


def batches(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(steps)
    ]


def steps_of(net, optimizer, gradual, data):
    """Train on some batches and yield after each step."""
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        gradual()
        yield


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("steps", [30, 400])
def test_gradual_reaches_the_target_and_holds_it(seed, scope, steps):
    """Momentum keeps on pushing what is removed; after the end it is 0 all the same, and the same weights are."""
    net, weights = network(seed)
    reference = {name: float(w.detach().square().mean().sqrt()) for name, w in weights.items()}
    gradual = GradualPruning(weights, 0.9, steps, begin=0.1, end=0.7, scope=scope, reference=reference)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    removed, places = [], []
    for _ in steps_of(net, optimizer, gradual, batches(seed, steps)):
        removed.append(zeros(weights))
        places.append(flat(weights) == 0)
    assert not any(removed[: steps // 10]), "nothing before the beginning"
    assert removed == sorted(removed), "the share only rises"
    target = sum(round(0.9 * w.numel()) for w in weights.values()) if scope == "layerwise" else round(0.9 * 180)
    end = round(0.7 * steps)
    assert removed[end - 1 :] == [target] * (steps - end + 1)
    assert removed[round(0.4 * steps) - 1] == pytest.approx(7 / 8 * target, rel=0.03), "half way"
    assert all(torch.equal(place, places[end - 1]) for place in places[end:]), "the masks rest"
    assert len(set(removed)) > 10, "and it rose gradually"
    pushed = optimizer.state[weights["0.weight"]]["momentum_buffer"][weights["0.weight"] == 0]
    assert bool((pushed != 0).any()), "momentum did want to bring removed weights back"


def test_gradual_equals_its_naive_twin(seed):
    """Written from the docstring: at most 100 rankings between begin and end, zeros after each step."""
    steps, share, begin, end = 300, 0.8, 0.2, 0.9
    net, weights = network(seed)
    twin = copy.deepcopy(net)
    theirs = {name: p for name, p in twin.named_parameters() if p.dim() > 1}
    data = batches(seed, steps)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    list(steps_of(net, optimizer, GradualPruning(weights, share, steps, begin=begin, end=end), data))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    masks, rankings, last = {name: torch.ones_like(w) for name, w in theirs.items()}, 0, 0.0
    for step, (x, y) in enumerate(data, start=1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
        t = min(max((step / steps - begin) / (end - begin), 0), 1)
        wanted = share * (1 - (1 - t) ** 3)
        if wanted > last and (step % 2 == 0 or t == 1):  # 0.7 * 300 / 100, rounded
            size = np.concatenate([w.detach().abs().flatten().numpy() for w in theirs.values()])
            number = round(wanted * size.size)
            threshold = np.sort(size)[number - 1] if number else -1.0
            masks = {name: (w.detach().abs() > float(threshold)).float() for name, w in theirs.items()}
            rankings, last = rankings + 1, wanted
        with torch.no_grad():
            for name, w in theirs.items():
                w *= masks[name]
    assert 50 < rankings <= 106
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert zeros(weights) == round(0.8 * 180)


@pytest.mark.parametrize(
    ("steps", "begin", "end"), [(50, 0.1, 0.7), (1000, 0.1, 0.7), (7777, 0.0, 1.0), (7777, 0.3, 0.3)]
)
def test_gradual_ranks_a_hundred_times_at_most(monkeypatch, steps, begin, end):
    sparsities = []

    class Counting(Ranking):
        def masks(self, sparsity):
            sparsities.append(sparsity)
            return super().masks(sparsity)

    monkeypatch.setattr(pruning._gradual, "Ranking", Counting)
    weights = {"a": torch.linspace(1, 2, 50)}
    gradual = GradualPruning(weights, 0.5, steps, begin=begin, end=end)
    for _ in range(steps):
        gradual()
    assert len(sparsities) <= 101
    assert len(sparsities) == 1 if begin == end else len(sparsities) >= min(90, round((end - begin) * steps) - 1)
    assert sparsities[-1] == 0.5 and zeros(weights) == 25
    assert sparsities == sorted(set(sparsities)), "each is higher than the last"


def test_fixed_masks(seed):
    """begin = end = 0: chosen from the weights as they are given, before any step, and never again."""
    net, weights = network(seed)
    chosen = {name: mask.clone() for name, mask in Ranking(weights, "layerwise").masks(0.7).items()}
    untouched = {name: w.detach().clone() for name, w in weights.items()}
    gradual = GradualPruning(weights, 0.7, 1, begin=0.0, end=0.0, scope="layerwise")
    for name, w in weights.items():
        assert torch.equal(w.detach(), untouched[name] * chosen[name]), "at once, and the rest as it was"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    for _ in steps_of(net, optimizer, gradual, batches(seed, 20)):
        assert all(torch.equal(w.detach() != 0, chosen[name]) for name, w in weights.items())


def test_nothing_to_remove(rng):
    for begin, end in ((0.0, 0.0), (0.1, 0.7)):
        weights = some_weights(rng)
        before = flat(weights)
        gradual = GradualPruning(weights, 0.0, 10, begin=begin, end=end)
        for _ in range(10):
            gradual()
        assert torch.equal(flat(weights), before)


def test_removed_weights_are_held_though_they_are_written_to(rng):
    weights = some_weights(rng)
    gradual = GradualPruning(weights, 0.5, 10, begin=0.0, end=0.5)
    for step in range(10):
        for w in weights.values():
            w.add_(torch.tensor(rng.normal(size=w.shape), dtype=w.dtype))
        gradual()
        if step >= 4:
            assert zeros(weights) == round(0.5 * flat(weights).numel())


@pytest.mark.parametrize("stopped", [1, 30, 100, 101, 209, 210, 250, 299])
def test_gradual_resumes_bit_by_bit(seed, stopped, tmp_path):
    data = batches(seed, 300)

    def begin():
        net, weights = network(seed)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        return net, optimizer, GradualPruning(weights, 0.9, 300, begin=0.1, end=0.7), weights

    whole, optimizer, whole_removal, weights = begin()
    list(steps_of(whole, optimizer, whole_removal, data))

    first = begin()[:3]
    list(steps_of(*first, data[:stopped]))
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint")
    second = begin()[:3]
    for part, state in zip(second, torch.load(tmp_path / "checkpoint"), strict=True):
        part.load_state_dict(state)
    list(steps_of(*second, data[stopped:]))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second[0].parameters(), strict=True))
    one, two = whole_removal.state_dict(), second[2].state_dict()
    assert one["step"] == two["step"] == 300 and one["reached"] == two["reached"] == 0.9
    assert all(torch.equal(one["masks"][name], two["masks"][name]) for name in weights)


def test_a_state_is_not_changed_by_later_steps(rng):
    weights = some_weights(rng)
    gradual = GradualPruning(weights, 0.5, 10, begin=0.0, end=1.0)
    gradual()
    state = gradual.state_dict()
    before = {name: mask.clone() for name, mask in state["masks"].items()}
    for _ in range(9):
        gradual()
    assert state["step"] == 1 and all(torch.equal(state["masks"][name], before[name]) for name in weights)


# ---- the prunable share ------------------------------------------------------------------------------------------------

CURVE = [0.0, 0.5, 0.6, 0.7, 0.8, 0.9]


def prunable(accuracy_of, lost, curve=CURVE):
    """Return the share and the shares asked for beyond the curve."""
    asked = []

    def ask(share):
        asked.append(share)
        return accuracy_of(share)

    return prunable_sparsity(curve, [accuracy_of(share) for share in curve], ask, lost), asked


def test_prunable_share_stops_at_the_first_fall():
    """Accuracy falls by 0.6 points at 76.5 % removed and is back from 78 to 85 %: the island does not count."""
    share, asked = prunable(lambda share: 0.889 if 0.765 < share < 0.78 or share > 0.795 else 0.8951, 0.005)
    assert share == pytest.approx(0.76) and asked == pytest.approx([0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77])


def test_an_island_of_the_curve_does_not_count():
    share, asked = prunable(lambda share: 0.1 if 0.52 < share < 0.65 else 0.9, 0.005)
    assert share == pytest.approx(0.52) and asked == pytest.approx([0.51, 0.52, 0.53])


def test_prunable_share_at_the_edges():
    assert prunable(lambda share: 0.9, 0.005) == (0.9, [])
    assert prunable(lambda share: 0.9 if share < 0.899 else 0.0, 0.005)[0] == pytest.approx(0.89)
    assert prunable(lambda share: 0.9 if share == 0.0 else 0.0, 0.005) == (0.0, [0.05])
    assert prunable(lambda share: 0.9 if share <= 0.5 else 0.0, 0.0) == (0.5, [0.51])
    assert prunable(lambda share: 0.9, 0.0, curve=[0.0]) == (0.0, [])


def test_exactly_the_allowed_loss_is_allowed():
    assert prunable(lambda share: 0.895 if share > 0.3 else 0.9, 0.005)[0] == 0.9
    assert prunable(lambda share: 0.8949 if share > 0.3 else 0.9, 0.005)[0] == pytest.approx(0.3)


def test_accuracy_may_rise(rng):
    assert prunable(lambda share: 0.5 + share / 3, 0.0) == (0.9, [])


# ---- whole outputs -----------------------------------------------------------------------------------------------------

OUTPUTS = {"conv.weight": ("conv.bias",), "dense.weight": ()}


def some_layers(rng):
    shapes = {"conv.weight": ((6, 3, 2, 2), 0.1), "conv.bias": ((6,), 1.0), "dense.weight": ((9, 5), 2.0)}
    return {name: torch.tensor(rng.normal(0, sd, shape) + 1e-3) for name, (shape, sd) in shapes.items()}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_outputs_go_by_the_rms_of_their_weights(rng, scope, share):
    weights, reference = some_layers(rng), {"conv.weight": 0.1, "dense.weight": 2.0}
    masks = Ranking(weights, scope, reference, OUTPUTS).masks(share)
    assert list(masks["conv.bias"]) == list(masks["conv.weight"].flatten()) and masks["dense.weight"].shape == (9, 1)
    unit = reference if scope == "relative" else dict.fromkeys(OUTPUTS, 1.0)
    scores = {
        (name, row): math.sqrt(sum(float(w) ** 2 for w in weights[name][row].flatten()) / weights[name][row].numel())
        / unit[name]
        for name in OUTPUTS
        for row in range(len(weights[name]))
    }
    for names in [[name] for name in OUTPUTS] if scope == "layerwise" else [list(OUTPUTS)]:
        ranked = sorted((key for key in scores if key[0] in names), key=lambda key: scores[key])
        wanted = set(ranked[: round(share * len(ranked))])
        found = {(name, row) for name in names for row in range(len(weights[name])) if not bool(masks[name][row].all())}
        assert found == wanted
    cut = {name: w * masks[name] for name, w in weights.items()}
    removed = sum(int((~masks[name]).sum()) for name in OUTPUTS) / 15
    assert pruning.sparsity_of(cut, OUTPUTS) == pytest.approx(removed)


def test_gradual_removal_takes_outputs_whole_with_their_biases(rng):
    weights = some_layers(rng)
    gradual = GradualPruning(weights, 0.6, 40, begin=0.1, end=0.7, outputs=OUTPUTS)
    for _ in range(40):
        for w in weights.values():
            w += torch.tensor(rng.normal(0, 0.01, w.shape))
        gradual()
    assert pruning.sparsity_of(weights, OUTPUTS) == pytest.approx(9 / 15)
    gone = (weights["conv.weight"].flatten(1) == 0).all(dim=1)
    assert torch.equal(weights["conv.bias"] == 0, gone) and int(gone.sum()) > 0
    other = GradualPruning(some_layers(rng), 0.6, 40, begin=0.1, end=0.7, outputs=OUTPUTS)
    other.load_state_dict(gradual.state_dict())
    other()
    assert other.state_dict()["reached"] == 0.6
