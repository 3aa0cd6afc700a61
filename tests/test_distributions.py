"""SymmetricStable against the exact law, its own derivatives, torch's Cauchy and Normal, torch.compile and torch.func."""

import itertools
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.distributions import Cauchy, Distribution, Normal, StudentT, constraints

from softdiamond import SymmetricStable, stable
from softdiamond.table import torch_reader

ALPHAS = [0.1, 0.15, 0.3, 0.5, 0.8, 1.0, 1.2, 1.5, 1.9, 1.999, 2.0]
FEW = [0.3, 0.5, 1.0, 1.5, 2.0]
DOUBLE = torch.float64

each_alpha = pytest.mark.parametrize("alpha", ALPHAS)
few_alpha = pytest.mark.parametrize("alpha", FEW)


@pytest.fixture(autouse=True)
def validation(request):
    """As in a fresh process: on, but under torch.compile, which turns it off for the whole process when it is first used."""
    torch.distributions.Distribution.set_default_validate_args("compil" not in request.node.name)
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(params=["float", "tensor"])
def make(request):
    """The same law by both ways: alpha a float (the table) and alpha a tensor (the exact law)."""

    def of(alpha, *args, **kwargs):
        return SymmetricStable(
            torch.tensor(alpha, dtype=DOUBLE) if request.param == "tensor" else alpha, *args, **kwargs
        )

    return of


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def leaf(value) -> torch.Tensor:
    """A float64 tensor that asks for a gradient."""
    return torch.as_tensor(value, dtype=DOUBLE).clone().requires_grad_()


def assert_equal(a: torch.Tensor, b: torch.Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


# ---- values against the exact law --------------------------------------------------------------------------------------


def spread(rng, scale: float, dtype: torch.dtype, n: int = 20_000) -> torch.Tensor:
    """Values of both signs over 50 decades around the scale, and zero."""
    size = scale * 10.0 ** rng.uniform(-25, 25, n)
    return torch.tensor(np.append(size * rng.choice([-1, 1], n), 0.0), dtype=dtype)


def off(value: torch.Tensor, exact: np.ndarray, unit: np.ndarray) -> float:
    """Largest error in the unit, over the places where the exact value is a normal number of value's dtype, and zero."""
    kind = torch.finfo(value.dtype)
    keep = (exact == 0) | ((np.abs(exact) >= kind.tiny) & (np.abs(exact) <= kind.max))
    error = np.abs(value.detach().double().numpy() - exact)[keep] / unit[keep]
    return np.inf if np.isnan(error).any() else float(error.max())


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.03, 1.0, 40.0, 1e3])
@pytest.mark.parametrize(("dtype", "in_value", "in_gradient"), [(torch.float32, 2e-6, 5e-6), (DOUBLE, 1e-9, 1e-9)])
@each_alpha
def test_log_prob_and_its_gradient(alpha, dtype, in_value, in_gradient, scale, rng):
    c = torch.tensor(scale, dtype=dtype)
    x = spread(rng, scale, dtype).requires_grad_()
    log_prob = SymmetricStable(alpha, c).log_prob(x)
    (gradient,) = grad(log_prob.sum(), x)
    assert log_prob.dtype == gradient.dtype == dtype
    wide = x.detach().double().numpy()
    exact, derivative = stable.logpdf(wide, alpha, scale=float(c)), stable.score(wide, alpha, scale=float(c))
    assert off(log_prob, exact, np.maximum(1, np.abs(exact))) <= in_value
    assert off(gradient, derivative, np.where(derivative == 0, 1, np.abs(derivative))) <= in_gradient
    assert (
        off(SymmetricStable(alpha, c).score(x), derivative, np.where(derivative == 0, 1, np.abs(derivative)))
        <= in_gradient
    )


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.03, 1.0])
@each_alpha
def test_float32_log_prob_where_its_terms_cancel(alpha, scale, rng):
    """log f(0), the penalty and log scale may each be near 20 where log_prob is near 0."""
    c = torch.tensor(scale)
    x = torch.tensor(float(c) * 10 ** rng.uniform(-2, 12 if alpha < 2 else 1.5, 60_000), dtype=torch.float32)
    exact = stable.logpdf(x.double(), alpha, scale=float(c))
    near = np.abs(exact) < 2
    if near.any():
        unit = np.maximum(1, np.abs(exact))
        assert off(SymmetricStable(alpha, c).log_prob(x)[near], exact[near], unit[near]) <= 2e-6


@each_alpha
def test_score_is_the_gradient(alpha, make, rng):
    x = spread(rng, 2.0, DOUBLE, 500).requires_grad_()
    law = make(alpha, double(2.0)[0], loc=0.0)
    assert_equal(law.score(x), grad(law.log_prob(x).sum(), x)[0], rtol=1e-14)
    np.testing.assert_allclose(law.score(x).detach(), stable.score(x.detach(), alpha, scale=2.0), rtol=1e-9)


@each_alpha
def test_tensor_alpha_is_the_exact_law(alpha, rng):
    x = spread(rng, 1.0, DOUBLE, 500)
    law = SymmetricStable(torch.tensor(alpha, dtype=DOUBLE), 0.3, loc=0.25)
    np.testing.assert_allclose(law.log_prob(x), stable.logpdf(x - 0.25, alpha, scale=0.3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@each_alpha
def test_infinity(alpha, dtype, make):
    x = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    law = make(alpha, torch.tensor(2.0, dtype=dtype))
    assert_equal(law.log_prob(x), torch.full_like(x, -torch.inf))
    assert_equal(law.score(x), -x if alpha == 2 else torch.zeros_like(x))
    assert_equal(law.cdf(x), torch.tensor([1.0, 0.0], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@few_alpha
def test_half_precision_is_computed_in_float32(alpha, dtype, make, rng):
    x = torch.tensor(rng.standard_normal(200) * 10, dtype=dtype)
    half, single = make(alpha, torch.tensor(0.5, dtype=dtype)), make(alpha, 0.5)
    for name in ("log_prob", "score", "cdf"):
        value = getattr(half, name)(x)
        assert value.dtype == dtype, name
        assert_equal(value, getattr(single, name)(x.float()).to(dtype))
    p = torch.tensor([0.25, 0.5, 0.9], dtype=dtype)
    assert half.icdf(p).dtype == dtype
    assert_equal(half.icdf(p), single.icdf(p.float()).to(dtype))
    assert half.rsample((3,)).dtype == dtype
    x.requires_grad_()
    (gradient,) = grad(half.log_prob(x).sum(), x)
    assert gradient.dtype == dtype and torch.isfinite(gradient).all()


# ---- derivatives -------------------------------------------------------------------------------------------------------

# zero, where omega changes most, the shoulder, the far end of the cells, the tail beyond them
PLACES = [0.0, 1e-3, -0.02, 0.4, -1.7, 4.2, -12.5, 40.0, 300.0]


@few_alpha
def test_first_and_second_derivatives(alpha):
    inputs = leaf(PLACES), leaf(1.3), leaf(0.011)
    assert gradcheck(lambda x, c, m: SymmetricStable(alpha, c, loc=m).log_prob(x), inputs, atol=1e-7, rtol=1e-6)
    assert gradgradcheck(lambda x, c, m: SymmetricStable(alpha, c, loc=m).log_prob(x), inputs, atol=1e-6, rtol=1e-5)
    assert gradcheck(lambda x, c, m: SymmetricStable(alpha, c, loc=m).score(x), inputs, atol=1e-6, rtol=1e-5)


@few_alpha
def test_second_derivative_is_the_curvature(alpha, rng):
    x = spread(rng, 1.0, DOUBLE, 2000).requires_grad_()
    (gradient,) = grad(SymmetricStable(alpha).log_prob(x).sum(), x, create_graph=True)
    (second,) = grad(gradient.sum(), x)
    wide = x.detach().numpy()
    exact, omega = stable.curvature(wide, alpha), stable.omega(wide, alpha)
    assert off(-second, exact, np.abs(exact) + omega) <= 1e-9


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_third_derivative_is_refused(alpha):
    x = leaf([0.3, 1.0])
    (first,) = grad(SymmetricStable(alpha).log_prob(x).sum(), x, create_graph=True)
    (second,) = grad(first.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        grad(second.sum(), x)


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 1.5, 1.99])
def test_tensor_alpha_has_every_first_derivative(alpha):
    inputs = leaf(PLACES), leaf(1.3), leaf(0.011), leaf(alpha)
    assert gradcheck(lambda x, c, m, a: SymmetricStable(a, c, loc=m).log_prob(x), inputs, atol=1e-6, rtol=1e-5)


def test_one_alpha_for_each_element(rng):
    alpha, x = leaf([0.3, 0.9, 1.0, 1.7, 2.0]), double(0.1, -2.0, 3.0, 0.0, 1.0)
    law = SymmetricStable(alpha, 2.0)
    assert law.batch_shape == (5,)
    np.testing.assert_allclose(law.log_prob(x).detach(), stable.logpdf(x, alpha.detach(), scale=2.0), rtol=1e-13)
    (by_alpha,) = grad(law.log_prob(x).sum(), alpha)
    np.testing.assert_allclose(by_alpha, stable.dlogpdf_dalpha(x, alpha.detach(), scale=2.0), rtol=1e-12)
    wide = torch.tensor(rng.standard_normal((7, 3, 5)))
    assert law.log_prob(wide).shape == (7, 3, 5)
    (by_alpha,) = grad(law.log_prob(wide).sum(), alpha)
    exact = stable.dlogpdf_dalpha(wide, alpha.detach(), scale=2.0).sum(axis=(0, 1))
    np.testing.assert_allclose(by_alpha, exact, rtol=1e-10)
    one = leaf(1.3)
    (by_alpha,) = grad(SymmetricStable(one, torch.ones(5, dtype=DOUBLE)).log_prob(wide).sum(), one)
    np.testing.assert_allclose(by_alpha, stable.dlogpdf_dalpha(wide, 1.3).sum(), rtol=1e-10)


def test_gradient_through_a_dispersion():
    """scale = dispersion^(1/alpha), in both parameters."""
    inputs = leaf([0.2, -3.0]), leaf(0.4), leaf(1.4)
    assert gradcheck(lambda x, g, a: SymmetricStable(a, dispersion=g).log_prob(x), inputs, atol=1e-6, rtol=1e-5)
    assert gradcheck(lambda x, g: SymmetricStable(1.4, dispersion=g).log_prob(x), inputs[:2], atol=1e-6, rtol=1e-5)


def test_tensor_alpha_that_is_not_learned_has_second_derivatives():
    inputs = leaf(PLACES), leaf(1.3)
    alpha = torch.tensor(1.5, dtype=DOUBLE)
    assert gradgradcheck(lambda x, c: SymmetricStable(alpha, c).log_prob(x), inputs, atol=1e-6, rtol=1e-5)


def test_second_derivative_through_alpha_is_refused():
    alpha, x = leaf(1.5), leaf([0.3, 2.0])
    for first, second in ((alpha, alpha), (alpha, x), (x, alpha)):
        (derivative,) = grad(SymmetricStable(alpha).log_prob(x).sum(), first, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative through alpha"):
            grad(derivative.sum(), second)
    with pytest.raises(RuntimeError, match="no second derivative through alpha"):
        grad(SymmetricStable(alpha).score(x).sum(), alpha)


def test_learning_alpha_and_scale():
    """Gradient descent on the likelihood of 3000 draws comes near the truth."""
    x = torch.tensor(stable.rvs(1.2, size=3000, rng=5, scale=0.5))
    alpha, log_scale = leaf(1.8), leaf(0.7)
    optimizer = torch.optim.Adam([alpha, log_scale], lr=0.05)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = -SymmetricStable(alpha, log_scale.exp()).log_prob(x).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(alpha.item() - 1.2) < 0.1 and abs(log_scale.exp().item() - 0.5) < 0.05, (alpha, log_scale.exp())
    assert losses[-1] < losses[0] - 0.1


# ---- shapes and dtypes -------------------------------------------------------------------------------------------------


def test_shapes(make):
    law = make(1.5, torch.ones(3, 1), loc=torch.zeros(4))
    assert law.batch_shape == (3, 4) and law.event_shape == ()
    assert law.scale.shape == law.loc.shape == (3, 4)
    for name in ("mean", "mode", "variance", "stddev", "dispersion"):
        assert getattr(law, name).shape == (3, 4), name
    assert law.entropy().shape == (3, 4)
    for shape in ((), (4,), (3, 4), (5, 3, 4), (0, 3, 4), (3, 1)):
        full = torch.broadcast_shapes(shape, (3, 4))
        for name in ("log_prob", "score", "cdf", "icdf"):
            assert getattr(law, name)(torch.full(shape, 0.4)).shape == full, (name, shape)
    for shape in ((), (2,), (0,), (6, 2)):
        assert law.sample(shape).shape == law.rsample(torch.Size(shape)).shape == (*shape, 3, 4)
    assert make(0.5).batch_shape == ()
    assert make(0.5).log_prob(torch.tensor(0.1)).shape == ()
    assert make(0.5).log_prob(torch.empty(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="not broadcastable"):
        law.log_prob(torch.zeros(5))


def test_expand(make):
    law = make(1.5, torch.tensor([0.5, 2.0]), loc=1.0, validate_args=False)
    wide = law.expand((3, 2))
    assert type(wide) is SymmetricStable and wide.batch_shape == (3, 2) and law.batch_shape == (2,)
    assert not wide._validate_args
    x = torch.linspace(-3, 3, 6).reshape(3, 2)
    for name in ("log_prob", "score", "cdf"):
        assert_equal(getattr(wide, name)(x), getattr(law, name)(x))
    assert_equal(wide.icdf(x.sigmoid()), law.icdf(x.sigmoid()))
    for name in ("mean", "mode", "variance", "dispersion"):
        assert_equal(getattr(wide, name), getattr(law, name).expand(3, 2))
    assert_equal(wide.entropy(), law.entropy().expand(3, 2))
    assert wide.rsample((4,)).shape == (4, 3, 2)
    assert torch.distributions.Independent(wide, 1).log_prob(x).shape == (3,)
    with pytest.raises(ValueError, match="within the support"):
        make(1.5, validate_args=True).expand((3,)).log_prob(torch.full((3,), torch.nan))


def test_scale_by_dispersion(make):
    for alpha in FEW:
        law = make(alpha, dispersion=0.3)
        assert_equal(law.scale.double(), torch.tensor(0.3 ** (1 / alpha), dtype=DOUBLE), rtol=1e-6)
        assert_equal(law.dispersion.double(), torch.tensor(0.3, dtype=DOUBLE), rtol=1e-6)


@pytest.mark.parametrize("value_shape", [(), (2,)])
@pytest.mark.parametrize("scale_shape", [(), (2,)])
def test_dtypes_promote_as_in_student_t(scale_shape, value_shape):
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    wrong = []
    for in_scale in kinds:
        for in_value in [*kinds, torch.int64]:
            scale, value = torch.full(scale_shape, 2.0, dtype=in_scale), torch.full(value_shape, 3, dtype=in_value)
            expected = StudentT(torch.ones_like(scale), torch.zeros_like(scale), scale).log_prob(value).dtype
            if (got := SymmetricStable(0.5, scale).log_prob(value).dtype) != expected:
                wrong.append(f"scale {in_scale}, value {in_value}: {got}, StudentT {expected}")
    assert not wrong, "\n".join(wrong)


def test_float64_scale_of_one_element_computes_float32_values_in_float64():
    scale = torch.full((1,), 0.3, dtype=DOUBLE)
    x = torch.linspace(-2, 2, 5)
    value = SymmetricStable(0.5, scale).log_prob(x)
    assert value.dtype == DOUBLE
    np.testing.assert_allclose(value, stable.logpdf(x.double(), 0.5, scale=0.3), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_large_tensors_equal_their_pieces(dtype, rng):
    """Longer than a chunk, and not a multiple of one; non-contiguous too."""
    n = 3 * torch_reader.CHUNK + 17
    x = torch.tensor(rng.standard_cauchy((n, 2)), dtype=dtype)[:, 1].requires_grad_()
    assert not x.is_contiguous()
    law = SymmetricStable(0.5, 0.7)

    def both(part):
        (derivative,) = grad(law.log_prob(part).sum(), part, create_graph=True)
        return law.log_prob(part), derivative, grad(derivative.sum(), part)[0]

    pieces = [both(part) for part in x.split(5001)]
    for whole, parts in zip(both(x), zip(*pieces, strict=True), strict=True):
        assert_equal(whole, torch.cat(parts))
    grid = x.detach()[: 300 * 300].reshape(300, 300)
    assert_equal(law.log_prob(grid.T), law.log_prob(grid).T)


def test_value_is_left_alone(make):
    x = torch.linspace(-2, 2, 9)
    before = x.clone()
    law = make(0.5, 0.3)
    for name in ("log_prob", "score", "cdf"):
        getattr(law, name)(x)
    assert_equal(x, before)


# ---- validation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 2.1, -1.0, np.nan, np.inf])
def test_alpha_out_of_range(alpha, make):
    with pytest.raises(ValueError, match="alpha"):
        make(alpha)


@pytest.mark.parametrize("name", ["scale", "dispersion"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 1.0])  # at 0.5 the square of a negative dispersion would be a fine scale
def test_bad_scale_or_dispersion(alpha, as_tensor, value, name, make):
    with pytest.raises(ValueError, match=r"scale|dispersion"):
        make(alpha, **{name: torch.tensor([1.0, value]) if as_tensor else value})


@pytest.mark.parametrize("scale", [1.0, torch.tensor(1.0)])
def test_scale_and_dispersion_together(scale, make):
    with pytest.raises(ValueError, match="not both"):
        make(1.0, scale, dispersion=1.0)


def test_bad_loc(make):
    with pytest.raises(ValueError, match="loc"):
        make(1.0, loc=torch.nan)


def test_arguments_are_named_after_scale():
    with pytest.raises(TypeError, match="positional"):
        SymmetricStable(1.0, 1.0, 0.0)


def test_nan_value(make):
    x = torch.tensor([0.0, torch.nan, 1.0])
    for name in ("log_prob", "score", "cdf"):
        with pytest.raises(ValueError, match="within the support"):
            getattr(make(0.5), name)(x)
        value = getattr(make(0.5, validate_args=False), name)(x)
        assert torch.isnan(value).tolist() == [False, True, False], name
    single = make(0.5, validate_args=False)
    y = x.clone().requires_grad_()
    assert torch.isnan(grad(single.log_prob(y).sum(), y)[0]).tolist() == [False, True, False]


def test_validation_touches_only_itself():
    """Neither an import nor a use changes torch's validation, default dtype, seed or threads."""
    program = """
import torch
from torch.distributions import Distribution, StudentT
def state():
    return (Distribution._validate_args, StudentT._validate_args, torch.get_default_dtype(), torch.get_num_threads(),
            torch.initial_seed(), torch.get_rng_state().tolist(), torch.is_grad_enabled())
before = state()
from softdiamond import SymmetricStable
for check in (None, True, False):
    for alpha in (0.5, torch.tensor(0.5)):
        law = SymmetricStable(alpha, validate_args=check)
        law.log_prob(torch.zeros(3)); law.cdf(torch.zeros(3)); law.entropy(); repr(law); law.expand((2,))
assert state() == before
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_torchs_own_switch_is_obeyed(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", False)
    assert torch.isnan(SymmetricStable(0.5).log_prob(torch.tensor([torch.nan]))).all()
    with pytest.raises(ValueError, match="scale"):
        SymmetricStable(0.5, -1.0, validate_args=True)


def test_constraints_and_names():
    assert set(SymmetricStable.arg_constraints) == {"alpha", "scale", "loc"}
    within = SymmetricStable.arg_constraints["alpha"]
    assert within.check(double(0.09, 0.1, 1.0, 2.0, 2.01)).tolist() == [False, True, True, True, False]
    assert SymmetricStable.support is constraints.real and SymmetricStable.has_rsample
    assert SymmetricStable.arg_constraints["scale"] is constraints.positive


def test_repr():
    assert repr(SymmetricStable(0.5, 2.0)) == "SymmetricStable(alpha=0.5, scale=2.0, loc=0.0)"
    text = repr(SymmetricStable(torch.tensor([0.5, 1.0]), loc=3.0))
    assert text.startswith("SymmetricStable(alpha=") and "scale=" in text and "loc=" in text


# ---- torch.compile and torch.func --------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler(monkeypatch, tmp_path):
    """No graph and no kernel from before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def needs_compiler():
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "c++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler (g++ or clang++), and none was found")


torch_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, about torch


@torch_warns
@pytest.mark.parametrize(("alpha", "dtype", "rtol"), [(0.5, torch.float32, 1e-6), (1.5, DOUBLE, 1e-12)])
def test_compiled_log_prob_and_backward_equal_eager(alpha, dtype, rtol, fresh_compiler, rng):
    needs_compiler()

    def log_prob(x, scale, loc):
        return SymmetricStable(alpha, scale, loc=loc).log_prob(x)

    points, found = spread(rng, 0.3, dtype, 3000), []
    for function in (log_prob, torch.compile(log_prob, fullgraph=True)):
        x, scale, loc = points.clone(), torch.tensor(0.3, dtype=dtype), torch.tensor(0.01, dtype=dtype)
        alone = function(x, scale, loc)
        for parameter in (x, scale, loc):
            parameter.requires_grad_()
        value = function(x, scale, loc)
        value.mean().backward()
        assert_equal(alone, value.detach(), rtol=rtol, atol=rtol)
        found.append((value.detach(), x.grad, scale.grad, loc.grad))
    for name, eager, compiled in zip(("value", "x", "scale", "loc"), *found, strict=True):
        assert compiled.dtype == dtype, name
        sums = 1 if name in ("value", "x") else 100  # scale and loc get a sum of 3000 gradients, in another order
        assert_equal(compiled, eager, rtol=sums * rtol, atol=sums * rtol)


@torch_warns
def test_no_recompilation_when_scale_changes(fresh_compiler):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    x = torch.linspace(-3, 3, 50)

    @torch.compile(fullgraph=True, backend=counter)
    def log_prob(x, scale):
        return SymmetricStable(0.5, scale).log_prob(x)

    for scale in (1.0, 0.3, 7.0, 1e-3):
        assert_equal(log_prob(x, torch.tensor(scale)), SymmetricStable(0.5, scale).log_prob(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1

    law = SymmetricStable(0.5, torch.tensor(1.0))  # a law made once, whose scale is changed in place
    counter.frame_count = 0
    torch._dynamo.reset()
    own = torch.compile(lambda x: law.log_prob(x), fullgraph=True, backend=counter)
    for scale in (1.0, 0.3, 7.0):
        law.scale.fill_(scale)
        assert_equal(own(x), law.log_prob(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


@torch_warns
def test_a_python_scale_recompiles_once_at_most(fresh_compiler):
    """torch fixes a float at the first call and makes it a variable at the second."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    x = torch.linspace(-3, 3, 50)

    @torch.compile(fullgraph=True, backend=counter)
    def log_prob(x, scale):
        return SymmetricStable(0.5, scale).log_prob(x)

    for scale in (1.0, 0.3, 7.0, 1e-3, 2.0):
        assert_equal(log_prob(x, scale), SymmetricStable(0.5, scale).log_prob(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count <= 2


@few_alpha
def test_vmap_grad_and_jacrev(alpha, rng):
    from torch.func import grad as func_grad
    from torch.func import jacrev, vmap

    x = torch.tensor(rng.standard_normal((4, 6)))
    law = SymmetricStable(alpha, double(0.4)[0], loc=double(0.1)[0], validate_args=False)
    assert_equal(vmap(law.log_prob)(x), law.log_prob(x))
    assert_equal(vmap(law.log_prob, in_dims=1, out_dims=1)(x), law.log_prob(x))
    assert_equal(vmap(vmap(law.score))(x), law.score(x), rtol=1e-14)
    assert_equal(func_grad(lambda v: law.log_prob(v).sum())(x), law.score(x), rtol=1e-14)
    assert_equal(vmap(vmap(func_grad(law.log_prob)))(x), law.score(x), rtol=1e-14)
    assert_equal(func_grad(lambda v: vmap(law.log_prob)(v).sum())(x), law.score(x), rtol=1e-14)
    assert_equal(jacrev(law.log_prob)(x[0]), torch.diag(law.score(x[0])), rtol=1e-14)
    second = vmap(func_grad(func_grad(law.log_prob)))(x[0])
    np.testing.assert_allclose((-second).numpy(), stable.curvature(x[0] - 0.1, alpha, scale=0.4), rtol=1e-8, atol=1e-9)
    scales = torch.tensor(rng.uniform(0.1, 3, 6))

    def of_scale(scale, v):
        return SymmetricStable(alpha, scale, validate_args=False).log_prob(v)

    expected = SymmetricStable(alpha, scales).log_prob(x)
    assert_equal(vmap(of_scale, in_dims=(0, 1), out_dims=1)(scales, x), expected, rtol=1e-14)
    assert_equal(vmap(of_scale, in_dims=(0, None), out_dims=1)(scales, x[:, 0]), of_scale(scales, x[:, :1]), rtol=1e-14)
    per_scale = vmap(func_grad(of_scale), in_dims=(0, 0))(scales, x[0])
    z = x[0] / scales
    expected = -(1 + z.numpy() * stable.score(z, alpha)) / scales.numpy()
    np.testing.assert_allclose(per_scale, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["log_prob", "score", "cdf", "icdf"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_vmap_with_arguments_that_are_checked(alpha, name, make, rng):
    """As torch's own Normal: validation, on by default, does not stop vmap over parameters and values."""
    from torch.func import vmap

    value, scale, loc = torch.rand(4, 3, dtype=DOUBLE), 0.1 + torch.rand(4, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    checked = vmap(lambda v, c, m: getattr(make(alpha, c, loc=m, validate_args=True), name)(v))(value, scale, loc)
    assert_equal(checked, getattr(make(alpha, scale[:, None], loc=loc[:, None]), name)(value), rtol=1e-13)
    by_dispersion = vmap(lambda v, g: getattr(make(alpha, dispersion=g, validate_args=True), name)(v))(value, scale)
    assert_equal(by_dispersion, getattr(make(alpha, dispersion=scale[:, None]), name)(value), rtol=1e-13)
    with pytest.raises(RuntimeError, match="vmap"):  # torch's Normal says no more
        vmap(lambda v, c: getattr(make(alpha, c, validate_args=True), name)(v))(value, -scale)


def test_vmap_and_grad_over_alpha(rng):
    """The exact law is mapped too, and differentiated: alpha, its entropy, and what refuses alpha."""
    from torch.func import grad as func_grad
    from torch.func import vmap

    alpha, x = double(0.4, 1.0, 1.7), torch.tensor(rng.standard_normal((3, 5)))
    log_prob = vmap(lambda a, v: SymmetricStable(a, 2.0).log_prob(v))(alpha, x)
    np.testing.assert_allclose(log_prob, stable.logpdf(x, alpha[:, None], scale=2.0), rtol=1e-13)
    inner = vmap(lambda v: SymmetricStable(alpha, 2.0).log_prob(v), in_dims=1, out_dims=1)(x)
    assert_equal(inner, log_prob, rtol=1e-13)
    by_alpha = vmap(func_grad(lambda a, v: SymmetricStable(a, 2.0).log_prob(v).sum()))(alpha, x)
    expected = stable.dlogpdf_dalpha(x, alpha[:, None], scale=2.0).sum(axis=1)
    np.testing.assert_allclose(by_alpha, expected, rtol=1e-12)
    twice = vmap(vmap(func_grad(func_grad(lambda v, a: SymmetricStable(a).log_prob(v))), in_dims=(0, None)))(x, alpha)
    np.testing.assert_allclose(-twice, stable.curvature(x, alpha[:, None]), rtol=1e-12)
    entropy = vmap(lambda a: SymmetricStable(a).entropy())(alpha)
    assert_equal(entropy, SymmetricStable(alpha).entropy().double(), rtol=1e-6)
    with pytest.raises(RuntimeError, match="no derivative in alpha"):
        func_grad(lambda a: SymmetricStable(a).cdf(x[0]).sum())(alpha[0])


def test_second_derivative_of_the_cdf_is_that_of_the_density(make):
    inputs = leaf([-5.0, -0.3, 0.4, 2.0]), leaf(1.3), leaf(0.1)
    assert gradgradcheck(lambda x, c, m: make(1.5, c, loc=m).cdf(x), inputs, atol=1e-6, rtol=1e-5)


# ---- cdf, icdf, draws --------------------------------------------------------------------------------------------------


@each_alpha
def test_cdf_and_icdf(alpha, make):
    law = make(alpha, double(0.7)[0], loc=double(-0.2)[0])
    p = torch.tensor([1e-4, 0.01, 0.2, 0.4999, 0.5, 0.6, 0.9, 0.999], dtype=DOUBLE)
    x = law.icdf(p)
    np.testing.assert_allclose(x, stable.ppf(p, alpha, scale=0.7) - 0.2, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(law.cdf(x), stable.cdf(x + 0.2, alpha, scale=0.7), rtol=1e-12)
    assert_equal(law.cdf(x), p, rtol=1e-8)
    assert_equal(law.icdf(double(0.0, 1.0)), double(-torch.inf, torch.inf))
    assert law.icdf(double(0.5)) == law.cdf(double(0.5)) * 0 - 0.2
    assert torch.isnan(law.icdf(double(torch.nan))).all()
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        law.icdf(double(1.5))


@few_alpha
def test_gradients_of_cdf_and_icdf(alpha, make):
    scale, loc = leaf(1.3), leaf(0.1)
    x, p = leaf([-5.0, -0.3, 0.4, 2.0, 40.0]), leaf([0.01, 0.2, 0.5, 0.75, 0.98])
    assert gradcheck(lambda x, c, m: make(alpha, c, loc=m).cdf(x), (x, scale, loc), atol=1e-6, rtol=1e-5)
    assert gradcheck(lambda p, c, m: make(alpha, c, loc=m).icdf(p), (p, scale, loc), atol=1e-5, rtol=1e-4)
    one = leaf(0.3)  # one probability, many scales
    (derivative,) = grad(make(alpha, torch.ones(4, dtype=DOUBLE)).icdf(one).sum(), one)
    np.testing.assert_allclose(derivative, 4 / stable.pdf(stable.ppf(0.3, alpha), alpha), rtol=1e-9)


@pytest.mark.parametrize("name", ["cdf", "icdf"])
def test_probabilities_refuse_a_gradient_in_alpha(name):
    with pytest.raises(RuntimeError, match="no derivative in alpha"):
        getattr(SymmetricStable(leaf(1.5)), name)(double(0.3))


@each_alpha
def test_draws_follow_the_law(alpha, make):
    law = make(alpha, double(0.3)[0], loc=double(1.5)[0])
    x = law.sample((20_000,)).numpy()
    assert x.dtype == np.float64 and not np.isnan(x).any()
    assert scipy.stats.kstest((x - 1.5) / 0.3, lambda z: stable.cdf(z, alpha)).pvalue > 1e-3
    # near zero and in the tail, where a law with the wrong alpha differs most
    z = np.abs(x - 1.5) / 0.3
    for q in (0.02, 0.98):
        share = np.mean(z <= stable.isf((1 - q) / 2, alpha))
        assert abs(share - q) < 4.5 * np.sqrt(q * (1 - q) / z.size), q


def test_draws_with_one_alpha_for_each_element():
    alpha = double(0.4, 1.0, 1.6, 2.0)
    x = SymmetricStable(alpha, double(1.0, 2.0, 3.0, 4.0)).sample((5000,))
    for k in range(4):
        assert scipy.stats.kstest(x[:, k] / (k + 1), lambda z, k=k: stable.cdf(z, float(alpha[k]))).pvalue > 1e-3, k


def test_draws_are_reproducible(make):
    law = make(0.7, torch.ones(3))
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(law.sample((5,)))
    assert_equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(law.sample((5,)), law.sample((5,)))


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 1.4, 1.9])
def test_gradient_of_draws(alpha):
    """Each draw is a smooth function of the parameters at a fixed seed."""
    parameters = leaf([alpha, alpha + 0.05]), leaf(1.3), leaf(0.1)

    def draw(a, c, m):
        torch.manual_seed(7)
        return SymmetricStable(a, c, loc=m).rsample((3,)).asinh()  # tames the tail for finite differences

    assert gradcheck(draw, parameters, atol=1e-5, rtol=1e-4)
    fixed = SymmetricStable(alpha, parameters[1], loc=parameters[2])
    x = fixed.rsample((50,))
    assert_equal(grad(x.sum(), parameters[2], retain_graph=True)[0], double(50.0)[0])
    z = ((x - parameters[2]) / parameters[1]).detach()
    assert_equal(grad(x.sum(), parameters[1])[0], z.sum(), rtol=1e-9)
    assert not fixed.sample((2,)).requires_grad


def test_gradient_of_draws_at_2():
    alpha = leaf(2.0)
    (derivative,) = grad(SymmetricStable(alpha).rsample((100,)).asinh().sum(), alpha)
    assert torch.isfinite(derivative)


# ---- moments and entropy -----------------------------------------------------------------------------------------------


def test_moments(make):
    """Mean undefined at and below 1, variance infinite below 2."""
    for alpha, mean, variance in (
        (0.5, np.nan, np.inf), (1.0, np.nan, np.inf), (1 + 1e-9, 3.0, np.inf), (1.9, 3.0, np.inf), (2.0, 3.0, 8.0),
    ):  # fmt: skip
        law = make(alpha, 2.0, loc=3.0)
        np.testing.assert_array_equal([float(law.mean), float(law.variance), float(law.mode)], [mean, variance, 3.0])
        np.testing.assert_allclose(float(law.stddev), np.sqrt(variance), rtol=1e-6)
    law = SymmetricStable(double(0.5, 1.5, 2.0), loc=1.0)
    np.testing.assert_array_equal(law.mean, [np.nan, 1, 1])
    np.testing.assert_array_equal(law.variance, [np.inf, np.inf, 2])


def entropy_by_quadrature(alpha: float) -> float:
    """-2 int_0^inf f log f dx with u = log x, by SciPy on the exact law."""

    def integrand(u):
        log_f = stable.logpdf(np.exp(u), alpha)
        return -2 * np.exp(log_f + u) * log_f

    edges = np.concatenate([np.linspace(-40 - 9 / alpha, -10, 8), np.linspace(-8, 8, 12), [40 / alpha + 10]])
    if alpha == 2:
        edges = np.append(np.linspace(-40, 3, 12), 4.0)
    pieces = itertools.pairwise(edges)
    return sum(scipy.integrate.quad(integrand, *piece, epsabs=1e-12, epsrel=1e-11, limit=400)[0] for piece in pieces)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.9, 1.5, 1.99])
def test_entropy_against_quadrature(alpha, make):
    entropy = make(alpha, double(2.5)[0]).entropy()
    np.testing.assert_allclose(entropy, entropy_by_quadrature(alpha) + np.log(2.5), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.5])
def test_entropy_against_draws(alpha):
    log_f = stable.logpdf(stable.rvs(alpha, size=40_000, rng=1, scale=0.2), alpha, scale=0.2)
    error = log_f.std() / np.sqrt(log_f.size)
    assert abs(float(SymmetricStable(alpha, 0.2).entropy()) + log_f.mean()) < 4 * error


def test_entropy_closed_forms(make):
    for scale in (0.01, 1.0, 30.0):
        c = double(scale)[0]
        np.testing.assert_allclose(make(1.0, c).entropy(), np.log(4 * np.pi * scale), rtol=1e-10)
        np.testing.assert_allclose(make(2.0, c).entropy(), 0.5 * np.log(4 * np.pi * np.e * scale**2), rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.5, 1.9])
def test_entropy_gradient(alpha):
    assert gradcheck(lambda a, c: SymmetricStable(a, c).entropy(), (leaf([alpha]), leaf([0.3])), atol=1e-6, rtol=1e-6)


# ---- divergence ----------------------------------------------------------------------------------------------------------


def kl(p, q) -> float:
    return float(torch.distributions.kl_divergence(p, q))


@pytest.mark.parametrize(
    ("c", "b", "move"),
    [(1, 1, 0), (1, 2, 3), (1e-3, 5, 1), (5, 1e-3, -1), (1, 1.0001, 1e-5), (1, 1, 1e6), (1e-6, 1e6, 0)],
)
def test_divergence_of_two_cauchy_laws(c, b, move, make):
    """Chyzak and Nielsen (2019): log(1 + ((c - b)^2 + move^2) / (4 c b)), to full relative accuracy also where it is tiny."""
    c, b, move = double(c)[0], double(b)[0], double(move)[0]
    exact = float(torch.log1p(((c - b) ** 2 + move**2) / (4 * c * b)))
    assert kl(make(1.0, c, loc=3.0 * c), make(1.0, b, loc=3.0 * c + move)) == pytest.approx(exact, rel=3e-9, abs=1e-300)


def test_divergence_of_gaussian_laws_and_normals(make):
    p, q = (double(0.5)[0], double(2.0)[0]), (double(3.0)[0], double(-1.0)[0])
    ours, theirs = [make(2.0, c, loc=m) for c, m in (p, q)], [Normal(m, 2**0.5 * c) for c, m in (p, q)]
    exact = kl(*theirs)
    for pair in (ours, (ours[0], theirs[1]), (theirs[0], ours[1])):
        assert kl(*pair) == pytest.approx(exact, rel=1e-14)
    assert kl(make(1.5), make(2.0)) == kl(make(1.5), Normal(0.0, 1.0)) == np.inf
    assert 0 < kl(Normal(0.0, 1.0), make(1.5)) < np.inf
    assert kl(make(2.0), make(2.0)) == 0


@pytest.mark.parametrize(
    ("alpha", "beta", "scale", "loc"),
    [(0.5, 1.5, 1.0, 0.3), (1.9, 0.3, 0.02, 2.0), (2.0, 1.2, 3.0, -1.0), (0.7, 0.7, 2.0, 0.0), (1.99, 1.01, 0.5, 40.0)],
)
def test_divergence_against_quadrature(alpha, beta, scale, loc):
    """int p log(p / q) by SciPy, piece by piece on both sides of both locations."""

    def integrand(u, end, sign):
        x = end + sign * np.exp(u)
        log_p, log_q = stable.logpdf(x, alpha), stable.logpdf(x - loc, beta, scale=scale)
        return np.exp(log_p + u) * (log_p - log_q)

    far = 25.0 / min(alpha, 1.0) if alpha < 2 else 3.7  # a Gaussian's density is below exp(-400) there
    pieces = [(min(0.0, loc), -1, far), (max(0.0, loc), 1, far)]
    if loc:
        half = np.log(abs(loc) / 2)
        pieces += [(min(0.0, loc), 1, half), (max(0.0, loc), -1, half)]
    value = 0.0
    for end, sign, high in pieces:
        edges = np.append(np.arange(-42.0 - 6 / alpha, high, 5.0), high)
        value += sum(
            scipy.integrate.quad(integrand, *piece, args=(end, sign), epsabs=1e-11)[0]
            for piece in itertools.pairwise(edges)
        )
    p, q = SymmetricStable(alpha, double(1.0)[0]), SymmetricStable(beta, double(scale)[0], loc=loc)
    assert kl(p, q) == pytest.approx(value, rel=1e-7)


def test_divergence_against_draws():
    p, q = SymmetricStable(0.3, double(1.0)[0]), SymmetricStable(0.8, double(0.2)[0], loc=0.1)
    x = p.sample((40_000,))
    ratio = p.log_prob(x) - q.log_prob(x)
    assert abs(kl(p, q) - ratio.mean()) < 4 * ratio.std() / 200


def test_gradients_of_the_divergence():
    def of(a, b, c, e, m):
        return torch.distributions.kl_divergence(SymmetricStable(a, c), SymmetricStable(b, e, loc=m))

    inputs = leaf([0.7, 1.4]), leaf([1.3, 0.5]), leaf(1.2), leaf(0.6), leaf([0.3, 0.0])
    assert gradcheck(of, inputs, atol=1e-6, rtol=1e-6)
    assert gradcheck(lambda c, e, m: of(2.0, 2.0, c, e, m), inputs[2:], atol=1e-6, rtol=1e-6)
    assert gradcheck(lambda b, c, e, m: of(2.0, b, c, e, m), inputs[1:], atol=1e-6, rtol=1e-6)
    (first,) = grad(of(0.7, 1.3, inputs[2], 1.0, 0.0) ** 2, inputs[2], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad(first + inputs[2] ** 3, inputs[2])


def test_divergence_broadcasts_and_is_mapped(make):
    from torch.func import vmap

    scale = double(0.5, 1.0, 3.0)
    p, q = make(1.5, scale), make(0.5, torch.ones(2, 1))
    each = torch.distributions.kl_divergence(p, q)
    assert each.shape == (2, 3) and each.dtype == DOUBLE
    assert_equal(each[0], each[1])
    assert (each > 0).all()
    mapped = vmap(lambda c: torch.distributions.kl_divergence(make(1.5, c), make(0.5, torch.ones(()))))(scale)
    assert_equal(mapped, each[0])
    assert torch.distributions.kl_divergence(SymmetricStable(1.5), SymmetricStable(1.4)).dtype == torch.float32


# ---- beside torch's own laws -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("twin", ["Cauchy", "Normal"])
def test_twin(twin, dtype, make):
    """Cauchy at alpha = 1, Normal of standard deviation sqrt(2) scale at alpha = 2, in all that they share."""
    loc, scale = torch.tensor([0.5, -2.0], dtype=dtype), torch.tensor([0.3, 4.0], dtype=dtype)
    ours = make(1.0 if twin == "Cauchy" else 2.0, scale, loc=loc)
    theirs = Cauchy(loc, scale) if twin == "Cauchy" else Normal(loc, 2**0.5 * scale)
    rtol = 3e-6 if dtype == torch.float32 else 1e-9
    for name in ("batch_shape", "event_shape", "support", "has_rsample"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("mean", "mode", "variance", "stddev", "loc"):
        assert_equal(getattr(ours, name), getattr(theirs, name), rtol=rtol)
    for name in ("entropy", "perplexity"):
        assert_equal(getattr(ours, name)(), getattr(theirs, name)(), rtol=rtol)
    x = torch.linspace(-60, 60, 241, dtype=dtype)[:, None].requires_grad_()
    for name in ("log_prob", "cdf"):
        a, b = getattr(ours, name)(x), getattr(theirs, name)(x)
        assert_equal(a, b, rtol=rtol, atol=rtol)
        assert_equal(grad(a.sum(), x)[0], grad(b.sum(), x)[0], rtol=10 * rtol, atol=rtol)
    p = torch.linspace(0.02, 0.98, 49, dtype=dtype)[:, None].requires_grad_()
    a, b = ours.icdf(p), theirs.icdf(p)
    assert_equal(a, b, rtol=10 * rtol, atol=rtol)
    assert_equal(grad(a.sum(), p)[0], grad(b.sum(), p)[0], rtol=20 * rtol, atol=rtol)
    assert ours.sample((3,)).shape == theirs.sample((3,)).shape
    assert ours.rsample((3,)).dtype == theirs.rsample((3,)).dtype
    assert ours.expand((4, 2)).batch_shape == theirs.expand((4, 2)).batch_shape
    assert scipy.stats.ks_2samp(ours.sample((9000,))[:, 1], theirs.sample((9000,))[:, 1]).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------- found by reviewers


def test_integer_tensors_become_floats():
    prior = SymmetricStable(torch.tensor(1), scale=torch.tensor(2))
    assert prior.sample((5,)).dtype == torch.get_default_dtype() and prior.mean.isnan()
    assert SymmetricStable(1, scale=torch.tensor(3)).sample((5,)).is_floating_point()


def test_scale_too_small_for_float32():
    with pytest.raises(ValueError, match=r"scale must be at least 1e-30 in torch.float32, or a float64 tensor; got 1"):
        SymmetricStable(0.1, dispersion=1e-4, validate_args=True)  # explicit: torch.compile turns the default off
    double = SymmetricStable(0.1, dispersion=torch.tensor(1e-4, dtype=torch.float64))
    true = stable.logpdf(0.1, 0.1, dispersion=1e-4)
    assert float(double.log_prob(torch.tensor(0.1, dtype=torch.float64))) == pytest.approx(float(true), abs=1e-9)
    assert double.log_prob(torch.tensor([0.1])).dtype == torch.float32
    assert float(double.log_prob(torch.tensor([0.1]))[0]) == pytest.approx(float(true), rel=2e-6)


def test_tensor_alpha_is_exact_in_float32_too():
    """z is formed in float64: in float32 it would overflow."""
    alpha = torch.tensor(0.1, dtype=torch.float64)
    scale = torch.tensor(1e-45, dtype=torch.float64)
    got = SymmetricStable(alpha, scale).log_prob(torch.tensor([1.0]))
    assert float(got[0]) == pytest.approx(float(stable.logpdf(1.0, 0.1, scale=1e-45)), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.9])
def test_log_prob_where_z_leaves_float32(alpha):
    """With loc and scale its derivatives too; at alpha = 2 it is minus infinity, as the exact law has it."""
    results = []
    for dtype in (torch.float32, torch.float64):
        value = torch.tensor([1e36, -1e38, 2.0], dtype=dtype, requires_grad=True)
        scale = torch.tensor(1e-3, dtype=dtype, requires_grad=True)
        law = SymmetricStable(alpha, scale, loc=torch.tensor(0.5, dtype=dtype))
        found = law.log_prob(value)
        slopes = torch.autograd.grad(found.sum(), (value, scale))
        results.append([found.detach().double(), law.score(value).detach().double(), *(s.double() for s in slopes)])
    np.testing.assert_allclose(results[1][0], stable.logpdf(value.detach().numpy() - 0.5, alpha, scale=1e-3), rtol=1e-9)
    for single, double in zip(*results, strict=True):
        torch.testing.assert_close(single, double, rtol=2e-6, atol=0)
    assert SymmetricStable(2.0, 1e-3).log_prob(torch.tensor([1e36])).item() == -np.inf


def test_export_leaves_the_cache_sound():
    alpha = 0.4321  # of no other test

    class Model(torch.nn.Module):
        def forward(self, x):
            return SymmetricStable(alpha, validate_args=False).log_prob(x)

    x = torch.tensor([0.5, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(Model(), (x,))
    eager = SymmetricStable(alpha).log_prob(x)
    assert type(eager) is torch.Tensor
    torch.testing.assert_close(exported.module()(x), eager)


def test_second_derivative_of_the_entropy_is_refused():
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(SymmetricStable(alpha).entropy() ** 2, alpha, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative through alpha"):
        torch.autograd.grad(first, alpha)


def test_quantile_of_a_law_being_learned():
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        x = SymmetricStable(alpha).icdf(torch.tensor(0.9, dtype=torch.float64))
    assert float(x) == pytest.approx(float(stable.ppf(0.9, 1.5)))
    with pytest.raises(RuntimeError, match="no derivative in alpha"):
        SymmetricStable(alpha).cdf(x)


@pytest.mark.parametrize("alpha", [torch.tensor(3.0), torch.tensor([1.0, 0.01])])
def test_a_tensor_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in \[0.1, 2\]; got"):
        SymmetricStable(alpha, validate_args=True)


def test_an_alpha_that_is_neither_number_nor_tensor():
    with pytest.raises(TypeError, match="alpha must be a number or a tensor"):
        SymmetricStable([0.5, 1.0])


@pytest.mark.gpu
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.9, 2.0])
def test_cuda_equals_the_cpu(alpha):
    x = torch.randn(100_000) * torch.logspace(-6, 6, 100_000)
    on_cpu, on_gpu = x.clone().requires_grad_(), x.cuda().requires_grad_()
    values = [
        SymmetricStable(alpha, 0.1).log_prob(on_cpu),
        SymmetricStable(alpha, torch.tensor(0.1).cuda()).log_prob(on_gpu),
    ]
    torch.testing.assert_close(values[1].cpu(), values[0], rtol=1e-6, atol=2e-6)
    for value in values:
        value.sum().backward()
    torch.testing.assert_close(on_gpu.grad.cpu(), on_cpu.grad, rtol=1e-6, atol=0)
