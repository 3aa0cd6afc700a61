"""The regularizer's steps beside naive float64 twins (`twins`): every mode, optimizer, dtype, layout and magnitude."""

import copy
import itertools
import json
import math
import subprocess
import sys
import types

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import twins
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Generator, nn

from softdiamond import stable
from softdiamond.penalties import L1, L2, SoftDiamond, StudentT
from softdiamond.penalties.groups import layout_of
from softdiamond.regularizer import Regularizer, Rule
from softdiamond.regularizer import _steps as steps
from softdiamond.regularizer._steps import NEGLIGIBLE, TOLERANCE, implicit_step

DOUBLE, SINGLE, BRAIN, HALF = torch.float64, torch.float32, torch.bfloat16, torch.float16
DTYPES = [DOUBLE, SINGLE, BRAIN, HALF]
ALPHAS = [0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 1.9, 1.95, 1.99, 1.9999, 2.0]
PENALTIES = [*map(SoftDiamond, ALPHAS), StudentT(0.5), StudentT(1.0), StudentT(4.0), L1(), L2()]

low_precision = pytest.mark.parametrize("dtype", [BRAIN, HALF], ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These are small tensors, and many of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weight_of(value, dtype=DOUBLE) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(np.asarray(value)).to(dtype))


def single(parameter, penalty, *, lam=None, scale=None, strength=None, **settings) -> Regularizer:
    """A regularizer of one tensor of any shape."""
    return Regularizer(
        [("w", parameter)], penalty, strength, lam=lam, scale=scale, rules=[Rule("w", include=True)], **settings
    )


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy().copy()


# ---- twins beside the library --------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "Adam": (lambda groups: torch.optim.Adam(groups), 1e-2, 0.3),
    "AdamW": (lambda groups: torch.optim.AdamW(groups, weight_decay=0.0), 1e-2, 0.3),
    "SGD": (lambda groups: torch.optim.SGD(groups), 0.05, 0.1),
    "SGD momentum": (lambda groups: torch.optim.SGD(groups, momentum=0.9), 0.02, 0.05),
    "SGD dampening": (lambda groups: torch.optim.SGD(groups, momentum=0.8, dampening=0.4), 0.02, 0.1),
    "SGD nesterov": (lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True), 0.02, 0.05),
    "Adagrad": (lambda groups: torch.optim.Adagrad(groups), 0.05, 0.1),
    "RMSprop": (lambda groups: torch.optim.RMSprop(groups), 2e-3, 1.0),
    "RMSprop momentum": (lambda groups: torch.optim.RMSprop(groups, momentum=0.7), 1e-3, 1.0),
    "Muon": (lambda groups: torch.optim.Muon(groups, weight_decay=0.0), 0.02, 0.2),
}
MODES = {  # penalty and relative scale; the proximal step is large enough for its map to jump in some optimizers
    "implicit": (SoftDiamond(0.5), 1.0),
    "prox": (SoftDiamond(0.5), 0.15),
    "gradient": (SoftDiamond(1.2), 1.0),
}


def schedule(step: int) -> float:
    return 0.5 + 0.5 * math.cos(step / 12) ** 2


def training(name: str, dtype: torch.dtype):
    """A small net, its optimizer in two groups, its schedule, and a function that computes the gradients."""
    if name == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    make, lr, strength = OPTIMIZERS[name]
    bias = name != "Muon"
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(6, 7, bias=bias), nn.Tanh(), nn.Linear(7, 3, bias=bias)).to(dtype)
    x, y = torch.randn(24, 6, dtype=dtype), torch.randn(24, 3, dtype=dtype)
    groups = [{"params": net[0].parameters(), "lr": lr}, {"params": net[2].parameters(), "lr": 0.3 * lr}]
    optimizer = make(groups)

    def backward():
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()

    return net, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), backward, strength


BESIDE = [
    *(
        (name, mode, dtype, "zero")
        for name in OPTIMIZERS
        for mode in ("implicit", "gradient")
        for dtype in (DOUBLE, SINGLE)
    ),
    *(
        ("AdamW", mode, dtype, "initial")
        for mode in MODES
        for dtype in (DOUBLE, SINGLE)
        if (mode, dtype) != ("prox", SINGLE)
    ),
    ("SGD momentum", "implicit", DOUBLE, "initial"),
    *((name, "prox", DOUBLE, "zero") for name in ("SGD nesterov", "RMSprop momentum")),
    ("AdamW", "prox", SINGLE, "zero"),
]


@pytest.mark.parametrize(("name", "mode", "dtype", "center"), BESIDE, ids=str)
def test_a_hundred_steps_beside_the_twin(name, mode, dtype, center):
    """Weights and optimizer state. A float32 omega is off by up to a thousandth of the decay; Muon in float32 besides
    rounds its update to bfloat16, which makes steps of half a per cent out of any difference."""
    penalty, relative_scale = MODES[mode]
    net, optimizer, scheduler, backward, strength = training(name, dtype)
    start = copy.deepcopy(net.state_dict())
    reg = Regularizer(net, penalty, strength, relative_scale=relative_scale, center=center)
    reg.attach(optimizer, mode)
    for _ in range(100):
        backward()
        optimizer.step()
        scheduler.step()

    twin, plain, scheduler, backward, _ = training(name, dtype)
    law, kind = twins.law_of(penalty), name.split()[0]
    rows = []
    for index, group in zip((0, 2), plain.param_groups, strict=True):
        weight = twin[index].weight
        initial = numbers(start[f"{index}.weight"])
        scale, lam = twins.absolute(law, math.sqrt((initial**2).mean()), strength, relative_scale)
        rows.append((weight, initial if center == "initial" else 0.0, group, scale, lam))
    with torch.no_grad():
        for _ in range(100):
            with torch.enable_grad():
                backward()
            if mode == "gradient":
                for weight, origin, _, scale, lam in rows:
                    weight.grad += torch.tensor(twins.gradient(numbers(weight), origin, law, lam, scale)).to(dtype)
            plain.step()
            if mode != "gradient":
                for weight, origin, group, scale, lam in rows:
                    step = twins.eta(kind, group) * lam / scale**2
                    new = getattr(twins, mode)(numbers(weight), origin, law, step, scale)
                    weight.copy_(torch.tensor(new))
            scheduler.step()

    tolerance = 1e-10 if dtype == DOUBLE else 2e-2 if name == "Muon" else 1e-4 if mode == "implicit" else 5e-6
    moved = 0.0
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        rms = numbers(theirs).std() + abs(numbers(theirs)).mean()
        assert abs(numbers(ours) - numbers(theirs)).max() <= tolerance * rms
        states = optimizer.state[ours], plain.state[theirs]
        assert states[0].keys() == states[1].keys()
        for key, value in states[1].items():
            if not isinstance(value, torch.Tensor):
                assert states[0][key] == value
                continue
            size = numbers(value)
            assert abs(numbers(states[0][key]) - size).max() <= 10 * tolerance * abs(size).max(), key
    for weight, origin, *_ in rows:
        moved = max(moved, abs(numbers(weight) - origin).max())
    bare, optimizer, scheduler, backward, _ = training(name, dtype)
    for _ in range(100):
        backward()
        optimizer.step()
        scheduler.step()
    change = abs(numbers(bare[0].weight) - numbers(net[0].weight)).max()
    assert change >= 1e-2 * moved, "the penalty is too weak for this comparison to mean anything"


# ---- alpha = 2 is weight decay -------------------------------------------------------------------------------------------


def off_adamw(lr: float, strength: float) -> float:
    """Largest difference to AdamW's own decay, over 20 steps."""
    weights = []
    for own in (True, False):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False)).double()
        x, y = torch.randn(16, 5, dtype=DOUBLE), torch.randn(16, 2, dtype=DOUBLE)
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=strength if own else 0.0)
        if not own:
            Regularizer(net, SoftDiamond(2.0), strength).attach(optimizer)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        weights.append(np.concatenate([numbers(p).reshape(-1) for p in net.parameters()]))
    return float(abs(weights[0] - weights[1]).max())


def test_ridge_is_the_weight_decay_of_adamw_to_second_order():
    errors = [off_adamw(lr, 1.0) for lr in (2e-2, 1e-2, 5e-3)]
    assert errors[0] <= 20 * 2e-2**2 * 2
    assert errors[0] > 1e-5
    for coarse, fine in itertools.pairwise(errors):
        assert 3.5 < coarse / fine < 4.5


@pytest.mark.parametrize("penalty", [SoftDiamond(2.0), L2(), SoftDiamond(0.5)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.5, "dampening": 0.5},
    ],
    ids=str,
)
def test_coupled_decay_of_sgd(settings, penalty):
    """Without data gradient log w differs by what the start-up of momentum leaves out, and by second order. A soft diamond
    does the same where all weights are typical ones, for as long as they have not moved far."""
    lr, strength, steps = 1e-4, 1e-2, 2000 if penalty != SoftDiamond(0.5) else 150
    momentum, dampening = settings["momentum"], settings.get("dampening", 0.0)
    ends = []
    for own in (True, False):
        w = weight_of(np.full((2, 2), 0.3))
        optimizer = torch.optim.SGD([w], lr=lr, weight_decay=strength if own else 0.0, **settings)
        if not own:
            Regularizer([("w", w)], penalty, strength).attach(optimizer)
        for _ in range(steps):
            w.grad = torch.zeros_like(w)
            optimizer.step()
        ends.append(math.log(w[0, 0].item() / 0.3))
    eta = twins.eta("SGD", optimizer.param_groups[0])
    assert ends[1] == pytest.approx(-steps * eta * strength, rel=1e-2)
    second = 2 * steps * (eta * strength) ** 2 / (1 - momentum) + (steps * eta * strength) ** 2 * (
        penalty == SoftDiamond(0.5)
    )
    assert abs(ends[1] - ends[0]) <= strength * lr * momentum / (1 - momentum) ** 2 + second
    left = {True: momentum**2, False: momentum - dampening}[settings.get("nesterov", False)] / (1 - momentum) ** 2
    assert ends[0] - ends[1] == pytest.approx(strength * lr * left, abs=second)


# ---- properties of the implicit step --------------------------------------------------------------------------------------


def unit_of(size: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """One unit in the last place of a number of that size."""
    narrow = torch.finfo(dtype)
    exponent = np.frexp(np.maximum(size, narrow.smallest_normal))[1] - 1
    return np.ldexp(narrow.eps, exponent)


def laid_out(values: np.ndarray, layout: str, dtype: torch.dtype):
    """A tensor of these values in that layout, and the larger memory it lies in, the rest of which is `FILL`."""
    flat = torch.tensor(values.reshape(-1)).to(dtype)
    shape = values.shape
    if layout in ("rows", "columns", "corner"):
        strides = [{"rows": 2 if axis == 0 else 1, "columns": 3, "corner": 1}[layout] for axis in range(len(shape))]
        memory = torch.full([n * stride + 2 for n, stride in zip(shape, strides, strict=True)], FILL, dtype=dtype)
        view = memory[tuple(slice(1, 1 + n * s, s) for n, s in zip(shape, strides, strict=True))]
        view.copy_(flat.view(shape))
        return view, memory
    if layout == "transposed" and shape:
        tensor = torch.empty(shape[::-1], dtype=dtype).permute(*reversed(range(len(shape))))
    elif layout == "channels_last" and len(shape) == 4:
        tensor = torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)
    else:
        tensor = torch.empty(shape, dtype=dtype)
    return tensor.copy_(flat.view(shape)), None


FILL = -77.0
LAYOUTS = ["contiguous", "transposed", "channels_last", "rows", "columns", "corner"]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    return tensor.detach().contiguous().view(kind)


@st.composite
def cases(draw, dtypes=tuple(DTYPES), centered=None):
    """Values, center (or None), dtype, layout, penalty, step at unit scale, scale."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.sampled_from([(), (0,), (2, 0, 3), (1,), (5,), (3, 4), (2, 3, 2), (2, 3, 2, 2)]))
    largest, width = (60000.0, 16) if dtype == HALF else (float(np.float32(1e30)), 64 if dtype == DOUBLE else 32)
    floats = st.one_of(
        st.floats(-largest, largest, width=width),
        st.floats(-3, 3, width=width),
        st.integers(-40, 29).map(lambda k: 10.0**k if width > 16 else 2.0 ** (k / 2)),
        st.just(math.nan),
    )
    known = floats.filter(lambda value: value == value)
    values = draw(hnp.arrays(np.float64, shape, elements=floats))
    center = None
    if draw(st.booleans()) if centered is None else centered:
        near = draw(st.booleans())
        center = draw(hnp.arrays(np.float64, shape, elements=known))
        if near:  # a small distance beside a large weight
            center = np.nan_to_num(values * (1 + draw(st.floats(-0.1, 0.1))))
    penalty = draw(st.sampled_from(PENALTIES))
    step = 10 ** draw(st.floats(-12, 6))
    scale = 10 ** draw(st.one_of(st.floats(-3, 3), st.floats(-15, 15)))
    return values, center, dtype, draw(st.sampled_from(LAYOUTS)), penalty, step, scale


def check_implicit(before, center, after, dtype, penalty, step, scale):
    """All that is promised of one implicit step, on float64 copies of what went in and came out."""
    centers = np.zeros_like(before) if center is None else center
    assert np.array_equal(np.isnan(after), np.isnan(before))
    real = ~np.isnan(before)
    w, c, u = before[real], centers[real], after[real]
    law = twins.law_of(penalty)

    # between the center and where it was: no change of sign, no larger distance
    assert np.all((u >= np.minimum(w, c)) & (u <= np.maximum(w, c)))

    # the twin
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        exact = twins.implicit(w, c, law, step, scale)
        if center is not None:  # w - (what is taken off), without cancellation where the step is small
            odds = step * law.omega((w - c) / scale)
            exact = np.where(odds < 1, w - (w - c) / (1 + 1 / odds), exact)
    decay = abs(w - exact)
    if dtype == DOUBLE:
        tolerance = 1e-8 * decay + 4 * unit_of(np.maximum(abs(w), abs(c)), dtype)
    else:
        tolerance = (1e-3 + 2e-5) * decay + unit_of(np.maximum(abs(w), abs(exact)), dtype)
        if center is not None:
            tolerance += 1.01 * NEGLIGIBLE * abs(w - c)
    assert np.all(abs(u - exact) <= tolerance)

    # its own proximal objective, in units of the scale; that a result is rounded at random is another matter
    if dtype in (DOUBLE, SINGLE) and center is None:
        x, new = abs(w) / scale, abs(u) / scale
        inaccuracy = 1e-8 if dtype == DOUBLE else 3 * TOLERANCE
        gain = step * twins.fall(new, x, law)
        slack = inaccuracy * (x - new) ** 2 + 1e-9 * gain + (4 * unit_of(abs(w), DOUBLE) / scale) ** 2
        assert np.all((x - new) ** 2 / 2 <= gain + slack)


@settings(max_examples=250)
@given(cases(centered=False))
def test_implicit_step(case):
    values, _, dtype, layout, penalty, step, scale = case
    weight, memory = laid_out(values, layout, dtype)
    before = numbers(weight)
    implicit_step(weight, None, penalty, step, scale, Generator().manual_seed(1))
    check_implicit(before, None, numbers(weight), dtype, penalty, step, scale)
    assert_untouched(weight, memory)


def assert_untouched(weight, memory):
    """Nothing was written beside a weight that is part of a larger memory; ends the weight."""
    if memory is not None:
        weight.fill_(FILL)
        assert bool((memory == FILL).all())


@settings(max_examples=250)
@given(cases(centered=True))
def test_implicit_step_about_a_center(case):
    values, middle, dtype, layout, penalty, step, scale = case
    weight, memory = laid_out(values, layout, dtype)
    center, _ = laid_out(middle, "contiguous" if values.size % 2 else layout, dtype)
    before, kept = numbers(weight), numbers(center)
    implicit_step(weight, center, penalty, step, scale, Generator().manual_seed(1))
    assert np.array_equal(numbers(center), kept)
    check_implicit(before, kept, numbers(weight), dtype, penalty, step, scale)
    assert_untouched(weight, memory)


@settings(max_examples=250)
@given(cases())
def test_implicit_step_of_a_regularizer(case):
    """The same through `Regularizer.step`, with an absolute lambda; a regularizer is made while all weights are finite."""
    values, middle, dtype, layout, penalty, step, scale = case
    assume(values.size and 1e-6 <= scale <= 1e6)
    start = np.ones_like(values) if middle is None else middle
    view, _ = laid_out(start, layout, dtype)
    weight = nn.Parameter(view)
    reg = single(weight, penalty, lam=0.5, scale=scale, center="zero" if middle is None else "initial")
    with torch.no_grad():
        weight.copy_(torch.tensor(values).to(dtype))
    before, kept = numbers(weight), None if middle is None else numbers(torch.tensor(middle).to(dtype))
    reg.step(step * scale**2 / 0.5)
    check_implicit(before, kept, numbers(weight), dtype, penalty, step, scale)


@settings(max_examples=100)
@given(cases())
def test_a_step_of_zero_changes_no_bit(case):
    values, middle, dtype, layout, penalty, _, scale = case
    weight, _ = laid_out(values, layout, dtype)
    before = bits(weight).clone()
    center = None if middle is None else laid_out(middle, layout, dtype)[0]
    implicit_step(weight, center, penalty, 0.0, scale, Generator())
    assert torch.equal(bits(weight), before)


@pytest.mark.parametrize("shape", [(700, 500), (3, 400_000), (2, 3, 150_000), (40, 30, 20, 20)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_one_chunk(layout, shape, rng):
    """Every piece of a large tensor is stepped once, in any layout, and nothing beside it."""
    values = rng.standard_normal(shape)
    weight, memory = laid_out(values, layout, SINGLE)
    before = numbers(weight)
    implicit_step(weight, None, StudentT(2.0), 0.3, 0.7, Generator())
    exact = twins.implicit(before, 0.0, twins.Law("StudentT", 2.0), 0.3, 0.7)
    np.testing.assert_allclose(numbers(weight), exact, rtol=1e-3)
    assert_untouched(weight, memory)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("penalty", [SoftDiamond(0.5), SoftDiamond(2.0), StudentT(1.0), L1(), L2()], ids=str)
def test_what_is_not_finite_stays(penalty, dtype, centered):
    """A NaN is never hidden. An infinity is no finite number afterwards; in float64 without a center it stays infinite."""
    weight = torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=dtype)
    center = torch.full_like(weight, 0.5) if centered else None
    implicit_step(weight, center, penalty, 1e-3, 1.0, Generator())
    assert weight[0].isnan()
    assert not weight[:3].isfinite().any()
    assert weight[1:3].tolist() == [math.inf, -math.inf] or dtype != DOUBLE or centered
    assert weight[3] <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_huge_step_does_not_pass_the_center(dtype):
    """The distance of a large weight to a small center is rounded: what is taken off may be more than there is."""
    weight, center = torch.tensor([1.0, -1.0, 3.0], dtype=dtype), torch.tensor([1e-4, 1e-7, -1e-7], dtype=dtype)
    above = weight > center
    implicit_step(weight, center, L2(), 1e20, 1.0, Generator())
    assert torch.where(above, weight >= center, weight <= center).all()


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.6180339, 1.999, 1.99999])
def test_omega_of_the_implicit_step(alpha, rng):
    """Read from the float32 steps themselves, each where its decay is neither small nor nearly all."""
    worst, seen = 0.0, 0
    x = np.float32(10.0 ** rng.uniform(-18, 18.5, 60_000)).astype(float)
    omega = stable.omega(x, alpha)
    for power in range(math.floor(-math.log10(omega.max())), math.ceil(-math.log10(omega.min())) + 1):
        step = 10.0**power
        decay = step * omega / (1 + step * omega)
        chosen = (decay > 0.1) & (decay < 0.9)
        if alpha == 2 and not chosen.any():
            continue
        weight = torch.tensor(x[chosen], dtype=SINGLE)
        implicit_step(weight, None, SoftDiamond(alpha), step, 1.0, Generator())
        found = (x[chosen] / numbers(weight) - 1) / step
        worst = max(worst, float(abs(found / omega[chosen] - 1).max(initial=0)))
        seen += int(chosen.sum())
    print(f"alpha {alpha}: omega off by at most {worst:.3g}")
    assert seen >= x.size
    assert worst <= TOLERANCE + 2e-5


# ---- low precision --------------------------------------------------------------------------------------------------------


def followed(penalty, dtype, *, steps, decay, mode="implicit", center="zero", seed=0, n=4000):
    """Change of the mean |w - center|, as a logarithm, over many steps, in the library and in a twin of 200 longer steps; the last weights.

    A typical distance decays by ``decay`` a step. About a center, float32 distances are a thousandth of the weight.
    """
    rng = np.random.default_rng(5)
    middle = rng.uniform(0.5, 1, n) * rng.choice([-1, 1], n)
    away = middle * rng.uniform(0.6, 1, n) * (1e-3 if dtype == SINGLE and center == "initial" else 0.5)
    law, rms = twins.law_of(penalty), math.sqrt((away**2).mean())
    scale, lam = twins.absolute(law, rms, decay)
    weight = weight_of(middle if center == "initial" else away, dtype)
    reg = single(weight, penalty, lam=lam, scale=scale, center=center, seed=seed)
    origin = numbers(weight) if center == "initial" else 0.0
    with torch.no_grad():
        weight.copy_(torch.tensor(origin + away))
    first = twin = numbers(weight)
    for _ in range(steps):
        reg.step(1.0, mode)
    last = numbers(weight)
    for _ in range(200):
        twin = twins.implicit(twin, origin, law, steps / 200 * lam / scale**2, scale)
    gone, shorter = (abs((end - origin) / (first - origin)) for end in (last, twin))
    assert gone.max() <= 1
    print(penalty, dtype, f"log {np.log(gone.mean()):.5f}, twin {np.log(shorter.mean()):.5f}")
    return float(np.log(gone.mean())), float(np.log(shorter.mean())), last


@pytest.mark.parametrize("penalty", [SoftDiamond(0.5), SoftDiamond(1.5), L2(), L1()], ids=str)
@low_precision
def test_ten_thousand_small_steps(penalty, dtype):
    """A decay of 1e-5 a step is a hundredth of half a unit in the last place or less."""
    ours, twin, _ = followed(penalty, dtype, steps=10_000, decay=1e-5)
    assert twin < -0.05
    assert ours == pytest.approx(twin, rel=0.05)


@low_precision
def test_ten_thousand_tiny_steps(dtype):
    """1e-6 a step."""
    ours, twin, _ = followed(L2(), dtype, steps=10_000, decay=1e-6, n=20_000)
    assert twin == pytest.approx(-0.01, rel=1e-3)
    assert ours == pytest.approx(twin, rel=0.05)


@low_precision
def test_small_proximal_steps(dtype):
    ours, twin, _ = followed(StudentT(1.0), dtype, steps=1000, decay=1e-4, mode="prox", n=3000)
    assert twin < -0.05
    assert ours == pytest.approx(twin, rel=0.05)


@pytest.mark.parametrize(("dtype", "decay"), [(BRAIN, 2e-5), (HALF, 2e-5), (SINGLE, 2e-6)], ids=str)
def test_small_steps_about_a_center(dtype, decay):
    """In float32 too: 2e-6 of a distance of 1e-3 beside a weight of 1 is a fiftieth of its last place."""
    ours, twin, _ = followed(SoftDiamond(0.5), dtype, steps=10_000, decay=decay, center="initial")
    assert twin < -0.01
    assert ours == pytest.approx(twin, rel=0.05)


@pytest.mark.parametrize(("dtype", "center"), [(BRAIN, "zero"), (HALF, "zero"), (SINGLE, "initial")], ids=str)
def test_random_rounding_follows_the_seed(dtype, center):
    ends = [
        followed(L2(), dtype, steps=50, decay=1e-4, center=center, seed=seed, n=500)[2].tolist() for seed in (0, 0, 1)
    ]
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


@low_precision
def test_random_rounding_is_fair(dtype, rng):
    """To one of the two neighbours, in the mean the exact result; at powers of two and among subnormal numbers too."""
    tiny = torch.finfo(dtype).smallest_normal
    for start in (1.0, 1.5, -0.7, 2.0**-3, tiny, tiny * 0.75, -tiny / 4):
        weight = torch.full((200_000,), start, dtype=dtype)
        begun = float(weight[0])
        exact = begun / 1.0007
        unit = float(unit_of(np.array(abs(exact)), dtype))
        implicit_step(weight, None, L2(), 0.0007, 1.0, Generator().manual_seed(2))
        found = numbers(weight)
        assert len(np.unique(found)) <= 2
        assert abs(found - exact).max() < unit
        spread = max(found.std(), 1e-3 * unit)
        assert abs(found.mean() - exact) <= 5 * spread / math.sqrt(found.size) + 2e-3 * abs(exact - begun)


def test_the_floor_of_float32(rng):
    """Without a center a decay below about 3e-8 a step is rounded away; one of 1e-6 is followed in the mean."""
    start = rng.uniform(0.1, 2, 20_000)
    for decay, count, expected in ((1e-8, 1000, 0.0), (1e-6, 2000, -2e-3)):
        weight = weight_of(start, SINGLE)
        first = numbers(weight)
        reg = single(weight, L2(), strength=decay)
        for _ in range(count):
            reg.step(1.0)
        change = np.log(numbers(weight) / first)
        if expected == 0:
            assert np.array_equal(numbers(weight), first)
        else:
            assert change.mean() == pytest.approx(expected, rel=0.02)


# ---- a quadratic loss ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quadratic(rng):
    """Hessian, minimizer and largest eigenvalue of a quadratic loss."""
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    hessian = basis @ np.diag(np.geomspace(0.05, 2.0, 12)) @ basis.T
    return hessian, rng.standard_normal(12), 2.0


def descend(hessian, target, eta, steps, penalty, lam, scale, mode="prox"):
    """Weights after each step of plain gradient descent with the regularizer, from 3 N(0, 1)."""
    weight = weight_of(3 * np.random.default_rng(0).standard_normal((1, len(target))))
    optimizer = torch.optim.SGD([weight], lr=eta)
    Regularizer([("w", weight)], penalty, lam=lam, scale=scale).attach(optimizer, mode)
    path = [numbers(weight)[0]]
    for _ in range(steps):
        weight.grad = torch.tensor(hessian @ (path[-1] - target)).view(1, -1)
        optimizer.step()
        path.append(numbers(weight)[0])
    return np.array(path)


def full(path, hessian, target, law, lam, scale):
    away = path - target
    return np.einsum("ki,ij,kj->k", away, hessian, away) / 2 + lam * law.value(path / scale).sum(1)


SETTINGS = [(SoftDiamond(0.5), 0.3, 0.2), (SoftDiamond(1.5), 1.0, 0.5), (StudentT(1.0), 1.0, 0.1), (L1(), 0.5, 1.0)]


@pytest.mark.parametrize("share", [0.3, 0.95])
@pytest.mark.parametrize(("penalty", "lam", "scale"), SETTINGS, ids=str)
def test_the_proximal_mode_lowers_the_full_objective(penalty, lam, scale, share, quadratic):
    hessian, target, lipschitz = quadratic
    path = descend(hessian, target, share / lipschitz, 300, penalty, lam, scale)
    values = full(path, hessian, target, twins.law_of(penalty), lam, scale)
    assert np.diff(values).max() <= 1e-12 * abs(values).max()
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("share", [0.3, 0.95])
@pytest.mark.parametrize(("penalty", "lam", "scale"), SETTINGS[:3], ids=str)
def test_omega_read_before_the_optimizer_lowers_the_full_objective(penalty, lam, scale, share, quadratic):
    """The reference: majorize the penalty at the weights before the step. The library reads omega after it."""
    hessian, target, lipschitz = quadratic
    eta, law = share / lipschitz, twins.law_of(penalty)
    path = [3 * np.random.default_rng(0).standard_normal(len(target))]
    for _ in range(300):
        w = path[-1]
        pull = eta * lam * law.omega(w / scale) / scale**2
        path.append((w - eta * hessian @ (w - target)) / (1 + pull))
    values = full(np.array(path), hessian, target, law, lam, scale)
    assert np.diff(values).max() <= 1e-12 * abs(values).max()
    ends = descend(hessian, target, eta / 100, 3000, penalty, lam, scale, "implicit")
    assert full(ends, hessian, target, law, lam, scale)[-1] < 0.9 * values[0]


BIASED = [
    (SoftDiamond(0.5), 0.3, 0.5),
    (SoftDiamond(1.5), 0.5, 1.0),
    (SoftDiamond(1.0), 0.3, 0.5),
    (StudentT(3.0), 0.4, 1.0),
]


@pytest.mark.parametrize(("penalty", "lam", "scale"), BIASED, ids=str)
def test_bias_of_the_implicit_mode(penalty, lam, scale):
    """It rests at h (w - a) = -lambda omega(v) w, v the weight before the penalty's step: O(eta) from the minimum of
    L + lambda R, where the proximal mode rests. Measured in the convex region about w = a = 2, h = 1."""
    law, a = twins.law_of(penalty), 2.0

    def balance(w, omega_at):
        return w - a + lam * float(law.omega(np.array(omega_at / scale))) / scale**2 * w

    best = brentq(lambda w: balance(w, w), 1.0, a, xtol=1e-14)

    def rest(eta, mode):
        return descend(np.eye(1), np.array([a]), eta, round(40 / eta), penalty, lam, scale, mode)[-1, 0]

    def before(w, eta):  # v, from v / (1 + eta lambda omega(v)) = w
        return brentq(
            lambda v: v - w * (1 + eta * lam * float(law.omega(np.array(v / scale))) / scale**2), w, 3 * w, xtol=1e-15
        )

    biases = []
    for eta in (0.4, 0.2, 0.1, 0.05):
        ours = rest(eta, "implicit")
        expected = brentq(lambda w, eta=eta: balance(w, before(w, eta)), 1.0, a, xtol=1e-14)
        assert ours == pytest.approx(expected, abs=1e-8)
        biases.append(ours - best)
    print(penalty, [f"{bias:.3g}" for bias in biases])
    assert biases[0] > 1e-3
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(biases)]
    assert min(ratios) > 1.6 and max(ratios) < 2.4
    assert 1.8 < ratios[-1] < 2.2
    assert rest(0.4, "prox") == pytest.approx(best, abs=1e-8)


# ---- memory ------------------------------------------------------------------------------------------------------------------

PEAK = """
import json, sys
import torch
from softdiamond import Regularizer, SoftDiamond
from softdiamond.regularizer import Rule
torch.set_num_threads(1)

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

def beyond(rows, dtype, center, mode):
    def run(rows, measured):
        weight = torch.nn.Parameter(torch.ones(rows, 1000, dtype=dtype))
        reg = Regularizer([("w", weight)], SoftDiamond(0.5), 1.0, center=center)
        optimizer = torch.optim.SGD([weight], lr=1e-3, foreach=False)
        reg.attach(optimizer, mode)
        weight.grad = torch.zeros_like(weight)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        at_rest = status("VmRSS")
        optimizer.step()
        return status("VmHWM") - at_rest
    run(20, False)  # tables, and what torch loads at first use
    return run(rows, True)

cases = json.loads(sys.argv[1])
print(json.dumps([beyond(rows, getattr(torch, dtype), *rest) for rows, dtype, *rest in cases]))
"""
MEMORY = [
    (20_000, "float32", "zero", "implicit"),
    (20_000, "bfloat16", "zero", "implicit"),
    (20_000, "float32", "initial", "implicit"),
    (20_000, "bfloat16", "initial", "implicit"),
    (12_000, "float64", "zero", "implicit"),
    (20_000, "float32", "zero", "gradient"),
    (6_000, "float32", "zero", "prox"),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_no_temporary_beyond_a_chunk():
    """At most 16 MiB beyond the weights, most of them 20 million."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PEAK, json.dumps(MEMORY)], capture_output=True, text=True, timeout=300
    )
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak")
    assert done.returncode == 0, done.stderr
    peaks = dict(zip(MEMORY, json.loads(done.stdout), strict=True))
    print(peaks)
    assert max(peaks.values()) <= 16, peaks


# ---- the compiled pass -------------------------------------------------------------------------------------------------


@pytest.fixture
def uncached():
    steps.compiled.cache_clear()
    yield
    steps.compiled.cache_clear()


@pytest.mark.parametrize(
    "penalty", [SoftDiamond(0.1), SoftDiamond(0.5), SoftDiamond(1.95), StudentT(2.0), L1(), L2()], ids=str
)
def test_compiled_pass_agrees_with_the_eager_one(monkeypatch, rng, penalty):
    pytest.importorskip("numba")
    assert steps.compiled() is not None
    size = 10.0 ** rng.uniform(-40, 30, 50_000)
    given = torch.tensor(np.concatenate([size * rng.choice([-1, 1], size.size), [0.0, -0.0, np.nan, np.inf, -np.inf]]))
    given = given.float()
    for shape in ((50_005,), (5, 73, 137)):
        for step in (1e-9, 1e-4, 1e3):
            results = []
            for compiled in (True, False):
                weight = given.clone().view(shape)
                weight = weight if len(shape) == 1 else weight.transpose(0, 2)
                with monkeypatch.context() as patch:
                    if not compiled:
                        patch.setattr(steps, "compiled", lambda: None)
                    steps.implicit_step(weight, None, penalty, step, 0.02, None)
                results.append((weight if len(shape) == 1 else weight.transpose(0, 2)).flatten())
            agree = (results[0] - results[1]).abs() <= 2.0**-23 * given.abs()  # one place of the weight before
            assert (agree | (results[0].isnan() & results[1].isnan())).all()


LABELLED = {
    "each weight": lambda w: torch.arange(w.numel()).view(w.shape) // 7,
    "scattered": lambda w: torch.arange(w.numel()).mul(7).remainder(11).view(w.shape),
    "along a dimension": lambda w: torch.arange(w.shape[1]) // 3,
    "of unequal sizes": lambda w: (torch.arange(w.numel()) % 1000).clamp(max=900).view(w.shape),
}


@pytest.mark.parametrize("labels", LABELLED)
def test_compiled_groups_agree_with_the_eager_ones(monkeypatch, labels):
    pytest.importorskip("numba")
    given = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * 0.05
    given[3], given[:, 5] = 0.0, math.nan
    layout = layout_of(LABELLED[labels], given, "w", None)
    lost = torch.linspace(0, 1, layout.count, dtype=torch.float64)
    found = []
    for compiled in (True, False):
        with monkeypatch.context() as patch:
            passes = spied(patch) if compiled else patch.setattr(steps, "compiled", lambda: None)
            norms = steps.norms_for_step(layout, given)
            moved = given.clone()
            steps.group_step(moved, None, layout, lost, None)
            found.append((norms, moved))
        if compiled:
            assert passes == (["add_squares", "take_"] if layout.scattered else ["add_squares"])
    (norms, moved), (eager_norms, eager_moved) = found
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, eager_norms, rtol=1e-12, atol=0, equal_nan=True)
    torch.testing.assert_close(moved, eager_moved, rtol=0, atol=2.0**-23, equal_nan=True)
    torch.testing.assert_close(norms, layout.norms(given), rtol=1e-12, atol=0, equal_nan=True)


def spied(patch):
    """Names of the compiled passes that are called from now on."""
    kernel, calls = steps.compiled(), []
    for name in ("add_squares", "take_"):
        own = getattr(kernel, name)
        patch.setattr(kernel, name, lambda *given, own=own, name=name: (calls.append(name), own(*given))[1])
    return calls


@pytest.mark.parametrize(
    "change",
    [torch.Tensor.double, torch.Tensor.bfloat16, lambda w: w.to(memory_format=torch.channels_last)],
    ids=["float64", "bfloat16", "channels_last"],
)
def test_what_the_compiled_passes_do_not_take_is_left_to_the_eager_ones(monkeypatch, change):
    pytest.importorskip("numba")
    passes = spied(monkeypatch)
    weight = change(torch.randn(6, 2, 2, 2, generator=Generator().manual_seed(0)))
    layout = layout_of(LABELLED["scattered"], weight, "w", None)
    squares = torch.zeros(11, dtype=DOUBLE).index_add(0, layout.labels, weight.double().square().flatten())
    torch.testing.assert_close(steps.norms_for_step(layout, weight), squares.sqrt(), rtol=1e-12, atol=0)
    half = weight / 2
    steps.group_step(weight, None, layout, torch.full((11,), 0.5, dtype=DOUBLE), Generator().manual_seed(0))
    torch.testing.assert_close(weight, half, rtol=0.01, atol=0)
    assert not passes


@pytest.mark.parametrize("shape", [(400, 300), (20, 20), (30, 40), (0, 30), (40, 0)], ids=str)
@pytest.mark.parametrize(
    "group", ["output", "input", ("head", 4), LABELLED["scattered"], LABELLED["along a dimension"]]
)
def test_a_tensor_that_was_resized_is_named(group, shape):
    layer = nn.Linear(30, 40, bias=False)
    regularizer = Regularizer(layer, SoftDiamond(0.5, group=group), 1.0)
    layer.weight.data = torch.randn(shape)
    with pytest.raises(
        ValueError, match=r"weight has the shape \(.* groups were formed of \(40, 30\): where .* make a new"
    ):
        regularizer.step(0.1)


@pytest.mark.parametrize("count", [10, 5000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_group_with_nan_is_nan_whatever_the_number_of_groups(count, sign):
    x = torch.full((count,), 2.0, dtype=DOUBLE)
    x[3] = math.copysign(math.nan, sign)
    for norms in (x, x.float()):
        before = norms.clone()
        assert steps.decay_at(SoftDiamond(0.5), norms, 0.1, False).isnan().nonzero().tolist() == [[3]]
        torch.testing.assert_close(norms, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "penalty", [SoftDiamond(0.5), SoftDiamond(0.5, group=LABELLED["scattered"])], ids=["each", "group"]
)
def test_autograd_knows_that_weights_moved(penalty):
    layer = nn.Linear(30, 40, bias=False)
    regularizer = Regularizer(layer, penalty, 1.0)
    out = layer(torch.ones(2, 30, requires_grad=True)).sum()
    regularizer.step(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_labels_are_copied():
    labels = torch.tensor([[0, 1], [1, 0]])
    layout = layout_of(lambda w: labels, torch.ones(2, 2), "w", None)
    labels.fill_(10**6)
    assert layout.norms(torch.ones(2, 2)).tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_without_numba_the_eager_pass_is_used(monkeypatch, uncached):
    monkeypatch.setitem(sys.modules, "softdiamond.regularizer._kernel", None)  # as if numba were not installed
    assert steps.compiled() is None
    weight = torch.ones(3)
    steps.implicit_step(weight, None, L2(), 1.0, 1.0, None)
    torch.testing.assert_close(weight, torch.full((3,), 0.5))


def test_a_failing_compiler_is_named_once(monkeypatch, uncached):
    def fail(*arguments):
        raise RuntimeError("no compiler\ntoday")

    kernel = types.SimpleNamespace(compile_all=fail)
    monkeypatch.setitem(sys.modules, "softdiamond.regularizer._kernel", kernel)
    monkeypatch.setattr("softdiamond.regularizer._kernel", kernel, raising=False)
    weight = torch.ones(3)
    with pytest.warns(UserWarning, match=r"numba cannot compile .*no compiler today.*eager operations are used"):
        steps.implicit_step(weight, None, L2(), 1.0, 1.0, None)
    steps.implicit_step(weight, None, L2(), 1.0, 1.0, None)
    torch.testing.assert_close(weight, torch.full((3,), 0.25))
