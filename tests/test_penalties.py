"""Penalties: one list, and every property on each of them; the exact law, closed forms, autograd, compiler, bad input."""

import copy
import functools
import math
import os
import pickle
import shutil
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from softdiamond import prox, stable
from softdiamond.penalties import L1, L2, Penalty, SoftDiamond, StudentT

PENALTIES = [
    SoftDiamond(0.1),
    SoftDiamond(0.3),
    SoftDiamond(0.5),
    SoftDiamond(1),
    SoftDiamond(1.5),
    SoftDiamond(1.95),
    SoftDiamond(2),
    StudentT(0.5),
    StudentT(1),
    StudentT(4),
    L1(),
    L2(),
]


@dataclass(frozen=True)
class Welsch(Penalty):
    """1 - exp(-x^2 / 2): a penalty as a user would add it, two formulas and no more."""

    def _value(self, x):
        return 1 - torch.exp(-x * x / 2)

    def _omega(self, x):
        return torch.exp(-x * x / 2)


WITH_TOY = [*PENALTIES, Welsch()]
SMOOTH = [penalty for penalty in WITH_TOY if not isinstance(penalty, L1)]
DOUBLE = torch.float64
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, DOUBLE]
STEPS = [1e-3, 0.2, 10.0]

each_penalty = pytest.mark.parametrize("penalty", WITH_TOY, ids=repr)
each_smooth_penalty = pytest.mark.parametrize("penalty", SMOOTH, ids=repr)
each_soft_diamond = pytest.mark.parametrize("penalty", [p for p in PENALTIES if isinstance(p, SoftDiamond)], ids=repr)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def leaf(value) -> torch.Tensor:
    """A float64 tensor that asks for a gradient."""
    return torch.as_tensor(value, dtype=DOUBLE).clone().requires_grad_()


def assert_equal(a, b, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def spread(rng, n=2000, decades=(-20, 12), dtype=DOUBLE) -> torch.Tensor:
    """Values of both signs over many decades, and zero."""
    size = 10.0 ** rng.uniform(*decades, n)
    return torch.tensor(np.append(size * rng.choice([-1, 1], n), 0.0), dtype=dtype)


@functools.cache
def jump_at(penalty, step, scale) -> float | None:
    jump = prox.find_jump(step / scale**2, penalty)
    return scale * jump.at if jump else None


def around_the_jump(penalty, step, scale, rng, n=300, dtype=DOUBLE) -> torch.Tensor:
    """Values of both signs, half of them within a factor of two of the jump or, where there is none, of the step."""
    middle = jump_at(penalty, step, scale) or step / scale
    size = middle * np.where(rng.random(n) < 0.5, rng.uniform(0.5, 2, n), 10 ** rng.uniform(-5, 3, n))
    return torch.tensor(size * rng.choice([-1, 1], n), dtype=dtype)


def clear_of_the_jump(v, penalty, step, scale, margin) -> np.ndarray:
    at, size = jump_at(penalty, step, scale), v.double().abs().numpy()
    return np.full(size.shape, True) if at is None else np.abs(size / at - 1) > margin


def methods(penalty):
    return {"value": penalty.value, "grad": penalty.grad, "omega": penalty.omega}


# ---- the shape of a penalty --------------------------------------------------------------------------------------------


@each_dtype
@each_penalty
def test_even_odd_and_zero_at_zero(penalty, dtype, rng):
    w = spread(rng, 500, (-4, 4), dtype)
    assert_equal(penalty.value(-w), penalty.value(w))
    assert_equal(penalty.omega(-w), penalty.omega(w))
    assert_equal(penalty.grad(-w), -penalty.grad(w))
    zero = torch.zeros(2, dtype=dtype) * torch.tensor([1, -1], dtype=dtype)
    assert_equal(penalty.value(zero), zero.abs())
    assert_equal(penalty.grad(zero).abs(), zero.abs())
    assert (penalty.omega(zero) > 0).all()


@each_penalty
def test_value_rises_and_omega_falls(penalty, rng):
    eps, table = torch.finfo(DOUBLE).eps, 2e-9  # the table keeps omega to 1e-9
    w = spread(rng, 20_000, (-25, 30)).abs().sort().values
    value, omega = penalty.value(w), penalty.omega(w)
    assert (value.diff() >= -4 * eps * value[1:].clamp(min=1)).all()
    assert (value >= 0).all() and (penalty.value(double(0.0, 0.1, 1.0, 3.0)).diff() > 0).all()
    assert (omega[2:] <= omega[1:-1] * (1 + table)).all()
    assert (omega >= 0).all() and (omega[w <= 30] > 0).all()


@each_penalty
def test_gradient_is_omega_times_w(penalty, rng):
    for dtype, rtol in ((DOUBLE, 1e-14), (torch.float32, 1e-6)):
        for scale in (1.0, 0.03):
            w = spread(rng, 2000, (-10, 10), dtype)[:-1]
            assert_equal(penalty.omega(w, scale) * w, penalty.grad(w, scale), rtol=rtol, atol=torch.finfo(dtype).tiny)


@each_penalty
def test_gradient_is_the_derivative_of_value(penalty, rng):
    for dtype, rtol in ((DOUBLE, 1e-12), (torch.float32, 2e-6)):
        for scale in (1.0, 0.03, torch.tensor(40.0)):
            w = spread(rng, 2000, (-10, 10), dtype).requires_grad_()
            (slope,) = grad(penalty.value(w, scale).sum(), w)
            assert slope.dtype == dtype
            assert_equal(slope, penalty.grad(w, scale).detach(), rtol=rtol, atol=torch.finfo(dtype).tiny)


PLACES = [1e-3, -0.02, 0.4, -1.7, 4.2, -12.5]


@each_smooth_penalty
def test_derivatives_by_differences(penalty):
    """Value twice, gradient once; in the scale too."""
    inputs = leaf(PLACES), leaf(1.3)
    if penalty == SoftDiamond(0.1):  # omega is 1e25 at zero: differences need a place of slower change
        inputs = leaf([0.5, -1.7, 4.2, -12.5]), leaf(1.3)
    assert gradcheck(penalty.value, inputs, atol=1e-7, rtol=1e-5)
    assert gradcheck(penalty.grad, inputs, atol=1e-7, rtol=1e-5)
    assert gradgradcheck(penalty.value, inputs, atol=1e-6, rtol=1e-5)


@each_smooth_penalty
def test_second_derivative_of_value_is_that_of_the_gradient(penalty, rng):
    """At zero too, where it is omega."""
    w = spread(rng, 500, (-12, 3)).requires_grad_()
    (slope,) = grad(penalty.value(w, 0.5).sum(), w, create_graph=True)
    (twice,) = grad(slope.sum(), w)
    (once,) = grad(penalty.grad(w, 0.5).sum(), w)
    omega = penalty.omega(w.detach(), 0.5)
    assert w[-1] == 0
    assert_equal(once[-1], omega[-1], rtol=1e-12)
    assert ((twice - once).abs() <= 1e-11 * omega + 1e-300).all()


@each_penalty
def test_scaling(penalty, rng):
    for scale in (1e-6, 0.3, 1.0, 250.0):
        w = scale * spread(rng, 500, (-6, 4))[:-1]
        assert_equal(penalty.value(w, scale), penalty.value(w / scale), rtol=1e-14)
        assert_equal(penalty.grad(w, scale), penalty.grad(w / scale) / scale, rtol=1e-14)
        assert_equal(penalty.omega(w, scale), penalty.omega(w / scale) / scale**2, rtol=1e-14)


@each_penalty
def test_tensor_scale_broadcasts(penalty, rng):
    w, scales = torch.tensor(rng.standard_normal((5, 3))), double(0.1, 1.0, 30.0)
    for name, method in methods(penalty).items():
        columns = torch.stack([method(w[:, k], float(scales[k])) for k in range(3)], dim=1)
        assert_equal(method(w, scales), columns, rtol=1e-14)
        assert method(w, scales.float()).dtype == DOUBLE, name
        assert method(w.half(), scales).dtype == torch.float16, name
        assert_equal(method(w, torch.tensor(0.3, dtype=DOUBLE)), method(w, 0.3), rtol=1e-14)


# ---- values ------------------------------------------------------------------------------------------------------------


def exact(penalty, x: np.ndarray) -> dict[str, np.ndarray]:
    """Value, gradient and omega: the exact law, or the formula in long double."""
    if isinstance(penalty, SoftDiamond):
        value = stable.logpdf(0.0, penalty.alpha) - stable.logpdf(x, penalty.alpha)
        return {"value": value, "grad": -stable.score(x, penalty.alpha), "omega": stable.omega(x, penalty.alpha)}
    x = x.astype(np.longdouble)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        if isinstance(penalty, StudentT):
            n = np.longdouble(penalty.df)
            value, omega = (n + 1) / 2 * np.log1p(x * x / n), (n + 1) / (n + x * x)
        elif isinstance(penalty, L1):
            value, omega = np.abs(x), 1 / np.abs(x)
        elif isinstance(penalty, L2):
            value, omega = x * x / 2, np.ones_like(x)
        else:
            value, omega = -np.expm1(-x * x / 2), np.exp(-x * x / 2)
        slope = np.sign(x) if isinstance(penalty, L1) else x * omega
        return {"value": value.astype(float), "grad": slope.astype(float), "omega": omega.astype(float)}


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-9), (torch.float32, 1e-6)], ids=str)
@each_penalty
def test_against_the_exact_law_and_closed_forms(penalty, dtype, tolerance, rng):
    """From subnormal weights to 1e30, wherever the true result is a normal number: value within tolerance of max(1, value)."""
    small = -44 if dtype == torch.float32 else -322
    x = torch.cat([spread(rng, 3000, (small, 30), dtype), spread(rng, 3000, (-4, 4), dtype)])
    true, kind = exact(penalty, x.double().numpy()), torch.finfo(dtype)
    if isinstance(penalty, Welsch):
        tolerance *= 10  # exp(-x^2 / 2) has the rounding error of x^2 / 2
    for name, method in methods(penalty).items():
        found = method(x)
        assert found.dtype == dtype and not found.isnan().any(), name
        normal = (true[name] == 0) | ((np.abs(true[name]) >= kind.tiny) & (np.abs(true[name]) <= kind.max))
        error, unit = np.abs(found.double().numpy()[normal] - true[name][normal]), np.abs(true[name][normal])
        unit = np.maximum(1, unit) if name == "value" else np.where(unit == 0, 1, unit)
        assert normal.sum() > 2000 and (error / unit).max() <= tolerance, name
        if name != "value":
            beneath = np.abs(true[name]) < kind.tiny
            assert (np.abs(found.double().numpy()[beneath]) <= 1.01 * kind.tiny).all(), name


@each_soft_diamond
def test_small_values_are_relatively_accurate(penalty, rng):
    """Near zero R is omega_zero x^2 / 2; the law's own difference of logarithms has no digits there."""
    omega_zero = float(stable.omega(0.0, penalty.alpha))
    x = torch.tensor(10 ** rng.uniform(-12, -7.5, 200)) / omega_zero**0.5
    assert_equal(penalty.value(x), omega_zero / 2 * x * x, rtol=1e-8)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@each_penalty
def test_half_precision_is_computed_in_float32(penalty, dtype, rng):
    """The dtype of w comes out, and what comes out is the float32 result, rounded once."""
    w = spread(rng, 500, (-3, 3), dtype)
    for scale in (1.0, 0.3, torch.tensor(0.3)):
        for name, method in methods(penalty).items():
            assert method(w, scale).dtype == dtype, name
            assert_equal(method(w, scale), method(w.float(), scale).to(dtype))
    shrunk = penalty.prox(w, 0.5, 0.3)
    assert shrunk.dtype == dtype
    assert_equal(shrunk, penalty.prox(w.float(), 0.5, 0.3).to(dtype))
    w.requires_grad_()
    (slope,) = grad(penalty.value(w, 0.3).float().sum(), w)
    assert slope.dtype == dtype and not slope.isnan().any()


@each_dtype
@each_penalty
def test_agreement_with_float64(penalty, dtype, rng):
    """Within a few eps of the dtype, relative to the result (value: to max(1, value)); float32 by the table's 1e-6."""
    w = spread(rng, 1000, (-3, 3), dtype)
    eps = max(2 * torch.finfo(dtype).eps, 1e-5 if isinstance(penalty, Welsch) else 2e-6)
    for name, method in methods(penalty).items():
        found, wide = method(w, 0.5).double(), method(w.double(), 0.5)
        keep = wide.abs().gt(torch.finfo(dtype).tiny) & wide.abs().lt(torch.finfo(dtype).max)
        unit = wide.abs().clamp(min=1) if name == "value" else wide.abs()
        assert keep.sum() > 200 and ((found - wide).abs()[keep] <= eps * unit[keep]).all(), name
    w = w[::4]
    found, wide = penalty.prox(w, 0.7, 0.5).double(), penalty.prox(w.double(), 0.7, 0.5)
    clear = torch.tensor(clear_of_the_jump(w, penalty, 0.7, 0.5, 1e-4))
    assert ((found - wide).abs()[clear] <= 10 * eps * w.double().abs()[clear]).all()


def test_twins(rng):
    """SoftDiamond(1) is StudentT(1), SoftDiamond(2) is L2 at half the strength; by table and by formula."""
    w = spread(rng, 2000, (-8, 8))
    for one, other, strength in ((SoftDiamond(1), StudentT(1), 1), (SoftDiamond(2), L2(), 0.5)):
        for scale in (1.0, 0.05):
            assert_equal(one.value(w, scale), strength * other.value(w, scale), rtol=1e-9, atol=1e-9)
            assert_equal(one.grad(w, scale), strength * other.grad(w, scale), rtol=1e-9)
            assert_equal(one.omega(w, scale), strength * other.omega(w, scale), rtol=1e-9)
    for step in (0.1, 3.0, 50.0):
        v = around_the_jump(StudentT(1), step, 1.0, rng)
        clear = torch.tensor(clear_of_the_jump(v, StudentT(1), step, 1.0, 1e-6))
        assert_equal(SoftDiamond(1).prox(v, step)[clear], StudentT(1).prox(v, step)[clear], rtol=1e-7)
        assert_equal(SoftDiamond(2).prox(v, step), L2().prox(v, step / 2), rtol=1e-9)


def test_default_parameters():
    assert SoftDiamond() == SoftDiamond(0.5) and StudentT() == StudentT(1)


# ---- the proximal map --------------------------------------------------------------------------------------------------


@each_penalty
def test_prox_is_the_global_minimum(penalty, rng):
    """No point of a grid, coarse everywhere and fine beside the result, lies lower."""
    share = torch.tensor(np.concatenate([[0.0], np.geomspace(1e-30, 1, 200), np.linspace(0, 1, 100)]))
    beside = torch.tensor(1 + np.concatenate([s * np.geomspace(1e-6, 0.1, 20) for s in (-1, 1)]))
    scale = 0.3
    for step in STEPS:
        v = around_the_jump(penalty, step, scale, rng, 50)[:, None]
        u = penalty.prox(v, step, scale)
        other = torch.cat([v * share, u * beside], dim=1)

        def depth(u, v=v, step=step):
            return (u - v) ** 2 / 2 + step * penalty.value(u, scale)

        unit = v**2 + step * penalty.value(u, scale).clamp(min=1)
        assert (depth(u) <= depth(other) + 1e-15 * unit).all(), step


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 4e-15), (torch.float32, 4e-6)], ids=str)
@each_penalty
def test_prox_is_stationary(penalty, dtype, tolerance, rng):
    """u + step R'(u / c) / c = v; for L1 a zero where |v| is within the step."""
    scale = 0.3
    for step in STEPS:
        v = around_the_jump(penalty, step, scale, rng, dtype=dtype).double()
        u = penalty.prox(v.to(dtype), step, scale).double()
        residual = (u + step * penalty.grad(u, scale) - v).abs() / v.abs()
        if isinstance(penalty, L1):
            within = v.abs() <= step / scale * (1 + tolerance)
            residual = torch.where(u == 0, torch.where(within, 0.0, 1.0), residual)
        assert residual.max() <= tolerance, step


@each_dtype
@pytest.mark.parametrize("scale", [1.0, 0.3])
@each_penalty
def test_prox_keeps_the_sign_and_never_grows(penalty, scale, dtype, rng):
    v = spread(rng, 500, (-4, 4), dtype)
    for step in (1e-6, 0.1):
        u = penalty.prox(v, step, scale)
        assert_equal(u.signbit(), v.signbit())
        assert (u.abs() <= v.abs()).all(), step
        assert_equal(penalty.prox(-v, step, scale), -u)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@each_penalty
def test_prox_at_step_zero_is_the_identity(penalty, scale, rng):
    v = spread(rng, 1000, (-6, 6))
    assert_equal(penalty.prox(v, 0, scale), v)
    assert_equal(penalty.prox(v.float(), 0.0, scale), v.float())


@each_penalty
def test_prox_is_monotone(penalty, rng):
    """And firmly so where continuous: it rises at no more than 1 / (1 - step / critical), convex penalties at 1."""
    scale, eps = 0.5, torch.finfo(DOUBLE).eps
    critical = prox.critical_step(penalty) * scale**2
    for step in (*STEPS, *(f * critical for f in (0.9, 1.1) if np.isfinite(critical))):
        v = around_the_jump(penalty, step, scale, rng).sort().values
        rise, run = penalty.prox(v, step, scale).diff(), v.diff()
        slack = 16 * eps * v.abs()[1:].maximum(v.abs()[:-1])
        assert (rise >= -slack).all(), step
        if step < critical:
            assert (rise <= (run + slack) / (1 - step / critical)).all(), step


@each_smooth_penalty
def test_prox_agrees_with_numpy(penalty, rng):
    """By prox of s R(./c) at v = c times prox of (s / c^2) R at v / c."""
    for step, scale in ((1e-3, 0.3), (0.2, 1.0), (10.0, 0.3)):
        v = around_the_jump(penalty, step, scale, rng)
        clear = clear_of_the_jump(v, penalty, step, scale, 1e-10)
        expected = scale * prox.prox(v.numpy() / scale, step / scale**2, penalty)
        np.testing.assert_allclose(penalty.prox(v, step, scale).numpy()[clear], expected[clear], rtol=1e-10)


@pytest.mark.parametrize("step", [0.2, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_prox_closed_forms(scale, step, rng):
    v = spread(rng, 500, (-3, 3))
    assert_equal(L2().prox(v, step, scale), v / (1 + step / scale**2), rtol=1e-14)
    assert_equal(SoftDiamond(2).prox(v, step, scale), v / (1 + step / scale**2 / 2), rtol=1e-9)
    soft = v.sign() * (v.abs() - step / scale).clamp(min=0)
    assert_equal(L1().prox(v, step, scale), soft, rtol=1e-14, atol=1e-15)
    assert 50 < (soft == 0).sum() < 450


@each_smooth_penalty
def test_prox_moves_by_the_gradient_at_a_small_step(penalty, rng):
    v = torch.tensor(rng.uniform(0.2, 5, 200))
    moved = (v - penalty.prox(v, 1e-9, 0.3)) / 1e-9
    assert_equal(moved, penalty.grad(v, 0.3), rtol=1e-5, atol=1e-6)


SMALL_SCALES = [1e-15, 1e-22]  # for alpha = 0.1 a dispersion of 0.01 is a scale of 1e-20
MODERATE = [1e-3, 0.01, 0.1, 0.5, 1.0, -3.0]


@pytest.mark.parametrize("scale", SMALL_SCALES)
@each_penalty
def test_float32_at_small_scales(penalty, scale):
    """What float32 can hold comes out."""
    w = torch.tensor(MODERATE)
    for method in methods(penalty).values():
        wide = method(w.double(), scale)
        wide = torch.where(wide.abs() < 1e-30, 0, wide)
        assert_equal(method(w, scale), wide.float(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("scale", SMALL_SCALES)
@each_penalty
def test_float32_prox_at_small_scales(penalty, scale):
    w = torch.tensor(MODERATE)
    wide = penalty.prox(w.double(), 1e-3, scale)
    assert (penalty.prox(w, 1e-3, scale).double() - wide).abs().max() <= 1e-5


# ---- shapes and special values -----------------------------------------------------------------------------------------


@each_penalty
def test_shapes(penalty, rng):
    w = torch.tensor(rng.standard_normal((6, 8)))
    both = {**methods(penalty), "prox": lambda w: penalty.prox(w, 0.7)}
    for name, method in both.items():
        full = method(w)
        given = w.clone()
        assert full.shape == (6, 8) and torch.equal(w, given), name
        for view in (w.T, w[::2, 1::3], w[:, :1].expand(6, 5), w.flip(0), w.view(2, 3, 8).permute(2, 0, 1)):
            assert_equal(method(view), method(view.contiguous()), rtol=1e-14)
        assert_equal(method(w.T), full.T, rtol=1e-14)
        assert_equal(method(w[2, 3]), full[2, 3], rtol=1e-14)
        assert method(torch.empty(0, 3)).shape == (0, 3), name
        assert method(torch.empty(0, dtype=torch.float16)).dtype == torch.float16, name
        assert_equal(method(torch.nn.Parameter(w)).detach(), full, rtol=1e-14)


@each_penalty
def test_large_tensors_equal_their_parts(penalty, rng):
    """A large tensor is worked on in chunks."""
    w = torch.tensor(rng.standard_normal((3, 50_000)), dtype=torch.float32)
    for method in methods(penalty).values():
        assert_equal(method(w), torch.cat([method(part) for part in w.split(7001, dim=1)], dim=1), rtol=1e-6)


@each_dtype
@each_penalty
def test_nan_stays_nan(penalty, dtype):
    w = torch.tensor([torch.nan, 0.5, -torch.nan, -3.0], dtype=dtype)
    lost = torch.tensor([True, False, True, False])
    for name, method in {**methods(penalty), "prox": lambda w, c=1.0: penalty.prox(w, 10.0, c)}.items():
        for scale in (1.0, 0.3):
            assert_equal(method(w, scale).isnan(), lost), name
            assert_equal(method(w, scale)[~lost], method(w[~lost], scale))


@each_dtype
@each_penalty
def test_infinity(penalty, dtype):
    inf = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    for scale in (1.0, 0.3):
        for step in (0.0, 0.1, 100.0):
            assert_equal(penalty.prox(inf, step, scale), inf)
        value = penalty.value(inf, scale)
        assert_equal(value, torch.ones_like(inf) if isinstance(penalty, Welsch) else inf.abs())


@each_dtype
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_and_omega_at_infinity(penalty, dtype):
    """Infinite for the parabolas, of size 1 for L1, else 0."""
    inf = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    one = torch.ones_like(inf)
    if penalty in (L2(), SoftDiamond(2)):
        slope, omega = inf, one * (1.0 if penalty == L2() else 0.5)
    else:
        slope, omega = inf.sign() if isinstance(penalty, L1) else one * 0, one * 0
    assert_equal(penalty.grad(inf), slope)
    assert_equal(penalty.omega(inf), omega)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@each_penalty
def test_prox_at_every_magnitude(penalty, dtype):
    sizes = 10.0 ** np.arange(-45 if dtype == torch.float32 else -323, 31)
    v = torch.tensor(np.append(sizes, -sizes), dtype=dtype)
    for step in (1e-3, 30.0):
        u = penalty.prox(v, step)
        assert u.isfinite().all() and (u.abs() <= v.abs()).all() and (u * v.sign() >= 0).all()
        residual = (u.double() + step * penalty.grad(u.double()) - v.double()).abs() / v.double().abs()
        normal = u.abs() >= torch.finfo(dtype).tiny
        assert normal.sum() > 40 and residual[normal].max() <= (4e-6 if dtype == torch.float32 else 4e-15), step


# ---- torch.func, torch.compile, modes ----------------------------------------------------------------------------------


@each_penalty
def test_grad_vmap_and_jacrev(penalty, rng):
    from torch.func import grad as func_grad
    from torch.func import jacrev, vmap

    w = torch.tensor(rng.uniform(0.1, 4, (4, 5)) * rng.choice([-1, 1], (4, 5)))
    for method in methods(penalty).values():
        assert_equal(vmap(method)(w), method(w))
        assert_equal(vmap(method, in_dims=1, out_dims=1)(w), method(w))
    slope = penalty.grad(w)
    assert_equal(func_grad(lambda w: penalty.value(w).sum())(w), slope, rtol=1e-12)
    assert_equal(vmap(vmap(func_grad(penalty.value)))(w), slope, rtol=1e-12)
    leaf_w = w.clone().requires_grad_()
    (bend,) = grad(penalty.grad(leaf_w).sum(), leaf_w)
    assert_equal(vmap(vmap(func_grad(func_grad(penalty.value))))(w), bend, rtol=1e-11, atol=1e-14)
    assert_equal(vmap(vmap(func_grad(penalty.grad)))(w), bend, rtol=1e-11, atol=1e-14)
    hessian = jacrev(jacrev(lambda w: penalty.value(w).sum()))(w[0])
    assert_equal(hessian, torch.diag(bend[0]), rtol=1e-11, atol=1e-14)
    scales = torch.tensor(rng.uniform(0.1, 3, 5))
    assert_equal(vmap(penalty.value, in_dims=(1, 0), out_dims=1)(w, scales), penalty.value(w, scales), rtol=1e-14)
    per_scale = vmap(func_grad(penalty.value), in_dims=(0, 0))(w[0], scales)
    assert_equal(per_scale, penalty.grad(w[0], scales), rtol=1e-12)


@each_penalty
def test_without_gradients(penalty, rng):
    """The same numbers under no_grad and inference_mode; 17.3 is a step of no other test, so nothing is cached yet."""
    w = torch.tensor(rng.standard_normal(50) * 20)
    expected = [method(w, 0.4) for method in methods(penalty).values()]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = [method(w, 0.4) for method in methods(penalty).values()]
            fresh = w * 1.0  # under inference_mode an inference tensor
            shrunk = penalty.prox(fresh, 17.3)
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b, rtol=1e-14)
        assert_equal(shrunk.clone(), penalty.prox(w, 17.3))


@each_penalty
def test_gradients_of_weights_that_ask_for_them(penalty):
    w = leaf([0.3, -2.0])
    assert penalty.value(w).requires_grad
    shrunk = penalty.prox(w, 0.3)
    assert not shrunk.requires_grad
    assert_equal(shrunk, penalty.prox(w.detach(), 0.3))
    penalty.value(w, 0.5).sum().backward()
    assert_equal(w.grad, penalty.grad(w.detach(), 0.5), rtol=1e-12)


def test_a_step_of_descent_lowers_a_value():
    for penalty in WITH_TOY:
        w = leaf([0.3, -2.0])
        optimizer = torch.optim.SGD([w], lr=1e-3)
        before = penalty.value(w).sum()
        before.backward()
        optimizer.step()
        assert penalty.value(w).sum() < before


@pytest.fixture
def fresh_compiler(monkeypatch, tmp_path):
    """No graph and no kernel from before."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "c++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler (g++ or clang++), and none was found")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, about torch
@pytest.mark.parametrize(
    ("penalty", "dtype", "rtol", "backend"),
    [
        (SoftDiamond(0.5), torch.float32, 2e-6, "inductor"),
        (SoftDiamond(1.5), DOUBLE, 1e-12, "aot_eager"),
        (StudentT(4), DOUBLE, 1e-12, "aot_eager"),
    ],
    ids=str,
)
def test_compiled_equals_eager(penalty, dtype, rtol, backend, fresh_compiler, rng):
    def both(w):
        return penalty.value(w, 0.3), penalty.grad(w, 0.3)

    compiled = torch.compile(both, fullgraph=True, backend=backend)
    points, found = spread(rng, 2000, (-8, 8), dtype), []
    for function in (both, compiled):
        w = points.clone().requires_grad_()
        value, slope = function(w)
        value.sum().backward()
        found.append((value.detach(), slope.detach(), w.grad, *(function(points) if backend != "inductor" else ())))
    for eager, ours in zip(*found, strict=True):
        assert ours.dtype == dtype
        assert_equal(ours, eager, rtol=rtol, atol=rtol)


# ---- the objects -------------------------------------------------------------------------------------------------------


@each_penalty
def test_copies(penalty):
    for twin in (copy.copy(penalty), copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty)), eval(repr(penalty))):
        assert twin == penalty and hash(twin) == hash(penalty) and repr(twin) == repr(penalty)
        assert_equal(twin.value(double(0.3, 5.0)), penalty.value(double(0.3, 5.0)))


def test_equal_only_to_their_like():
    assert len(set(WITH_TOY)) == len(WITH_TOY)
    assert SoftDiamond(1) != StudentT(1) and SoftDiamond(2) != L2()
    assert SoftDiamond(1) == SoftDiamond(1.0) == SoftDiamond(alpha=np.float64(1))
    assert len({StudentT(2), StudentT(2.0), StudentT(df=np.int64(2))}) == 1


@each_penalty
def test_immutable(penalty):
    for name in ("alpha", "df", "strength"):
        with pytest.raises(FrozenInstanceError):
            setattr(penalty, name, 0.3)


def test_repr():
    shown = [repr(penalty) for penalty in (SoftDiamond(1), StudentT(4), L1(), L2())]
    assert shown == ["SoftDiamond(alpha=1.0)", "StudentT(df=4.0)", "L1()", "L2()"]


def test_two_formulas_make_a_penalty():
    class Half(Penalty):
        def _value(self, x):
            return x.abs()

    with pytest.raises(TypeError, match="abstract"):
        Half()
    assert prox.critical_step(Welsch()) == pytest.approx(np.exp(1.5) / 2, rel=1e-9)
    assert prox.find_jump(2.3, Welsch()) is not None


# ---- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [np.nan, 0.05, 2.1, -1, np.inf, 0])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in \[0.1, 2\]; got"):
        SoftDiamond(alpha)


@pytest.mark.parametrize("alpha", [np.array([0.5, 1.0]), [0.5], torch.tensor([0.5])], ids=repr)
def test_alpha_that_is_an_array(alpha):
    with pytest.raises(ValueError, match=r"alpha must be one number in \[0.1, 2\]; got an array of shape"):
        SoftDiamond(alpha)


@pytest.mark.parametrize("alpha", ["x", "0.5", None, 1j])
def test_alpha_that_is_no_number(alpha):
    with pytest.raises(TypeError, match="alpha must be a real number"):
        SoftDiamond(alpha)


@pytest.mark.parametrize("df", [0, -1, np.nan, np.inf, "x", None, 1j])
def test_bad_df(df):
    with pytest.raises((ValueError, TypeError), match="df must be positive and finite; got"):
        StudentT(df)


@pytest.mark.parametrize(
    "w", [torch.tensor([1, 2]), torch.tensor([True]), torch.tensor([1j]), np.ones(2), [0.5], 0.5, None], ids=repr
)
@each_penalty
def test_weights_that_are_no_floating_tensor(penalty, w):
    for method in (*methods(penalty).values(), lambda w: penalty.prox(w, 1.0)):
        with pytest.raises(TypeError, match="takes a real floating tensor; got"):
            method(w)


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, np.nan, np.inf])
@each_penalty
def test_bad_scale(penalty, scale):
    for method in (*methods(penalty).values(), lambda w, c: penalty.prox(w, 1.0, c)):
        with pytest.raises(ValueError, match="scale must be positive and finite; got"):
            method(torch.ones(2), scale)


@pytest.mark.parametrize("step", [-1, -1e-300, np.nan, np.inf, -np.inf])
@each_penalty
def test_bad_step(penalty, step):
    with pytest.raises(ValueError, match="step must be finite and not negative; got"):
        penalty.prox(torch.ones(2), step)


# ---- extreme scales ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.9])
def test_penalty_where_x_leaves_the_dtype(alpha, dtype):
    """x = w / scale overflows, R(x), about (alpha + 1) log x, does not: the tail series in log x is right."""
    most = torch.finfo(dtype).max
    for scale in (0.5, 1e-3, 1e-9, 1e-11, 1e-40, 1e-300):
        w = torch.tensor([most, -most / 8, most / 1000, 3.0], dtype=dtype, requires_grad=True)
        log_x = w.detach().double().abs().log() - math.log(scale)
        far = log_x > 200  # where one term of the tail is enough
        value = SoftDiamond(alpha).value(w, scale)
        one_term = stable.logpdf(0.0, alpha) - math.log(
            alpha * math.sin(math.pi * alpha / 2) * math.gamma(alpha) / math.pi
        )
        expected = (one_term + (alpha + 1) * log_x)[far]
        rtol = {torch.float64: 1e-8, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
        torch.testing.assert_close(value.detach().double()[far], expected, rtol=rtol, atol=0)
        assert value.isfinite().all()
        (slope,) = torch.autograd.grad(value.sum(), w)
        both = torch.stack([slope, SoftDiamond(alpha).grad(w.detach(), scale)])
        if far.all():
            torch.testing.assert_close(both * w.detach(), torch.full_like(both, alpha + 1))


def test_penalty_where_x_overflows_is_that_of_float64():
    """The same in float32 and float64, whichever of the two the scale makes of it."""
    for penalty in (SoftDiamond(0.5), StudentT(1.0)):
        for scale in (1e-3, 1e-9, 1e-11, torch.tensor(1e-3)):
            single = penalty.value(torch.tensor([1e36]), scale)
            double = penalty.value(torch.tensor([1e36], dtype=torch.float64), float(scale))
            torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    assert SoftDiamond(0.5).value(torch.tensor([1e36]), 1e-3).item() == pytest.approx(135.86174)
    assert SoftDiamond(0.5).value(torch.tensor([math.inf]), 1e-3).item() == math.inf
    assert SoftDiamond(0.5).grad(torch.tensor([math.inf]), 1e-3).item() == 0
    assert SoftDiamond(0.5).grad(torch.tensor([-1e36]), 1e-3).item() == pytest.approx(-1.5e-36)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, about torch
@pytest.mark.parametrize("transform", ["vmap", "compile"])
def test_an_overflowing_x_under_transforms(transform):
    w, penalty = torch.tensor([1e36, 1.0, -3e38]), SoftDiamond(0.5)

    def value(w):
        return penalty.value(w, 1e-3)

    changed = torch.func.vmap(value) if transform == "vmap" else torch.compile(value, backend="eager", fullgraph=True)
    torch.testing.assert_close(changed(w), value(w))


def test_a_scale_is_differentiated_where_x_overflows():
    """As in float64, where nothing overflows."""
    for penalty in (SoftDiamond(0.5), StudentT(1.0)):
        slopes = []
        for dtype in (torch.float32, torch.float64):
            scale = torch.tensor(1e-3, dtype=dtype, requires_grad=True)
            value = penalty.value(torch.tensor([1e36, 2.0], dtype=dtype), scale)
            slopes.append(grad(value.sum(), scale)[0].item())
        assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


def test_prox_names_the_scale_that_is_too_small():
    v = torch.tensor([1.0, 1e10])
    for call in (lambda: SoftDiamond(0.5).prox(v, 1.0, 1e-300), lambda: prox.gap(0.5, 1e-300, 1.0)):
        with pytest.raises(ValueError, match="scale is too small for this step"):
            call()
    with pytest.raises(ValueError, match=r"step / scale\^2 must be at most 1e\+290; got 1e\+300"):
        prox.prox([1.0], 1e300, SoftDiamond(0.5))
    assert L2().prox(v, 1.0, 1e-300).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.9])
def test_prox_of_tiny_scales_is_the_global_minimizer(alpha):
    """At scale 1e-140 the objective of v = 1e10 is least near v, of v = 1 at 0: v^2 / 2 against (alpha + 1) log(v / scale)."""
    mapped = SoftDiamond(alpha).prox(torch.tensor([1.0, 1e10]), 1.0, 1e-140)
    assert mapped[0].abs() < 1e-20 and mapped[1] == 1e10
    jump = prox.find_jump(1e280, SoftDiamond(alpha))
    for u in (jump.below, jump.above):  # both stationary
        assert u + 1e280 * float(SoftDiamond(alpha).evaluate(np.array([u]))[1][0]) == pytest.approx(jump.at, rel=1e-6)


@pytest.mark.parametrize(("step", "scale"), [(1.0, 1e-310), (1e300, 1.0), (1e300, 1e-300)])
def test_soft_thresholding_above_all_weights(step, scale):
    v = torch.tensor([1.0, -3e38, math.inf])
    torch.testing.assert_close(L1().prox(v, step, scale), torch.tensor([0.0, -0.0, math.inf]))
