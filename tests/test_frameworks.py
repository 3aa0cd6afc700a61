"""The same numbers in NumPy, torch, JAX and Keras: penalty, gradient and omega at the same vectors, and one step of training.

Keras has one backend a process: `test_keras.py` runs this module again under the others that are installed.
"""

import numpy as np
import pytest

from softdiamond import stable
from softdiamond.table import array_reader, lookup_table

ALPHAS = [0.1, 0.5, 1.3, 2.0]
SCALES = [1.0, 3e-5]
TOLERANCE = {"float32": 1e-6, "float64": 1e-9}
FRAMEWORKS = ["numpy", "torch", "jax", "keras"]

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture
def wide_jax(dtype):
    """float64 in JAX, also under Keras, where it is asked for."""
    try:
        import jax
    except ImportError:
        yield
        return
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == "float64")
    yield
    jax.config.update("jax_enable_x64", before)


def points(dtype: str) -> np.ndarray:
    """Weights of every size that a scale of 1 leaves a normal number, the ends of octaves among them."""
    rng = np.random.default_rng(7)
    reach = 40 if dtype == "float32" else 90
    ends = (2.0 ** np.arange(-reach, reach)).astype(dtype)
    spread = (2.0 ** rng.uniform(-reach, reach, 2000)).astype(dtype)
    sizes = np.concatenate([[0.0], ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf), spread]).astype(dtype)
    return sizes * rng.choice([-1, 1], sizes.size).astype(dtype)


def in_numpy(x, alpha, scale):
    cells = array_reader.cells_of(alpha, x.dtype.name)
    with np.errstate(all="ignore"):
        at = x / x.dtype.type(scale)
        penalty, gradient, _ = array_reader.evaluate(np, at, cells)
        far, beyond, _ = array_reader.far_penalty(np, x, scale, cells)
        penalty = np.where(far, beyond, penalty)
        return penalty, gradient / x.dtype.type(scale), array_reader.omega(np, at, cells) / x.dtype.type(scale) ** 2


def in_torch(x, alpha, scale):
    import torch

    from softdiamond import SoftDiamond

    w, penalty = torch.from_numpy(x).requires_grad_(), SoftDiamond(alpha)
    value = penalty.value(w, scale)
    (gradient,) = torch.autograd.grad(value.sum(), w)
    return value.detach().numpy(), gradient.numpy(), penalty.omega(w.detach(), scale).numpy()


def in_jax(x, alpha, scale):
    import jax

    from softdiamond.jax import omega, soft_diamond

    @jax.jit
    @jax.vmap
    def all_three(w):
        return *jax.value_and_grad(soft_diamond)(w, alpha, scale), omega(w, alpha, scale)

    return all_three(x)


def _in_keras(x, alpha, scale):
    """The regularizer's value, a sum, and its gradient by the backend's own differentiation; and the value as a function."""
    import keras

    from softdiamond.keras import SoftDiamond

    regularizer = SoftDiamond(alpha, strength=1.0, reference=scale)
    lam = float(1 / (lookup_table(alpha).omega(np.array([1.0]))[0] / scale**2))

    def penalty(w):
        return regularizer(w) / lam

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        w = torch.from_numpy(x).requires_grad_()
        value = penalty(w)
        (gradient,) = torch.autograd.grad(value, w)
    elif backend == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(penalty))(x)
    else:
        import tensorflow as tf

        w = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = penalty(w)
        gradient = tape.gradient(value, w)
    return keras.ops.convert_to_numpy(value).reshape(1), keras.ops.convert_to_numpy(gradient), penalty


def in_keras(x, alpha, scale):
    """Point by point."""
    import keras

    from softdiamond.keras import _cells, _compiled, _look_up

    _, gradient, penalty = _in_keras(x, alpha, scale)
    at = keras.ops.convert_to_tensor(x / x.dtype.type(scale))
    value = keras.ops.convert_to_numpy(_look_up(alpha, x.dtype.name)(at)[0])
    few = np.linspace(0, len(x) - 1, 7).astype(int)
    alone = [float(keras.ops.convert_to_numpy(penalty(keras.ops.convert_to_tensor(x[i : i + 1])))) for i in few]
    np.testing.assert_allclose(value[few], alone, rtol=TOLERANCE[x.dtype.name], err_msg="the sum of one")
    omega = _compiled(lambda x: array_reader.omega(keras.ops, x, _cells(alpha, x)))
    omega = keras.ops.convert_to_numpy(omega(at)) / x.dtype.type(scale) ** 2
    return value, gradient, omega


@each_dtype
@each_framework
@pytest.mark.parametrize("alpha", ALPHAS)
def test_same_numbers(framework, alpha, dtype, wide_jax):
    """As the table in NumPy has them, whose own error against the exact law its certificate states."""
    pytest.importorskip(framework)
    table, x = lookup_table(alpha), points(dtype)
    for scale in SCALES:
        at = x / x.dtype.type(scale)
        penalty, gradient, _ = table.evaluate(at)
        expected = penalty, gradient / x.dtype.type(scale), table.omega(at) / x.dtype.type(scale) ** 2
        got = globals()[f"in_{framework}"](x, alpha, scale)
        for name, wanted, value in zip(("penalty", "gradient", "omega"), expected, got, strict=True):
            value = np.asarray(value)
            assert value.dtype == dtype, (name, value.dtype)
            normal = (np.abs(wanted) > np.finfo(dtype).tiny) & np.isfinite(wanted)
            assert normal.sum() > 1500, "most points count"
            np.testing.assert_allclose(
                value[normal], wanted[normal], rtol=TOLERANCE[dtype], atol=0, err_msg=f"{name}, {scale}"
            )


@each_framework
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_law_itself(framework, alpha):
    """In float32, against the exact law at the numbers that the weights are."""
    pytest.importorskip(framework)
    x = points("float32")
    x = x[(np.abs(x) > 1e-5) & (np.abs(x) < 1e5)]
    penalty, gradient, omega = globals()[f"in_{framework}"](x, alpha, 1.0)
    exact = x.astype(float)
    np.testing.assert_allclose(penalty, stable.group_penalty(np.abs(exact), alpha, 1), rtol=2e-6)
    np.testing.assert_allclose(gradient, -stable.score(exact, alpha), rtol=2e-6)
    np.testing.assert_allclose(omega, stable.omega(exact, alpha), rtol=2e-6)


@pytest.mark.parametrize("error", [-3e-5, 3e-5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rough_logarithm_does_no_harm(dtype, error):
    """The octave is put right where a namespace's logarithm is off, below a power of two or at it."""

    class Rough:
        def __getattr__(self, name):
            return getattr(np, name)

        def log2(self, x):
            return np.log2(x) + x.dtype.type(error)

    x, table = points(dtype), lookup_table(0.5)
    with np.errstate(all="ignore"):
        got = array_reader.evaluate(Rough(), x, array_reader.cells_of(0.5, dtype))
    for value, wanted in zip(got, table.evaluate(x), strict=True):
        normal = np.abs(wanted) > np.finfo(dtype).tiny
        np.testing.assert_allclose(value[normal], wanted[normal], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("framework", ["numpy", "jax", "keras"])  # torch's are in test_penalties.py
def test_penalty_where_x_leaves_float32(framework, alpha):
    """x = w / scale overflows, R(x), about (alpha + 1) log x, does not, nor is its gradient (alpha + 1) / w flushed to 0."""
    pytest.importorskip(framework)
    w = np.array([1e36, -3e37, 1e25, -1e14, 2.0], np.float32)
    scale = 1e-3
    true = lookup_table(alpha).evaluate(w.astype(float) / scale)
    expected = true[0], true[1] / scale
    if framework == "keras":
        parts = [_in_keras(w[i : i + 1], alpha, scale)[:2] for i in range(len(w))]
        value, gradient = (np.concatenate(part) for part in zip(*parts, strict=True))
    else:
        value, gradient, _ = map(np.asarray, globals()[f"in_{framework}"](w, alpha, scale))
    assert value.dtype == gradient.dtype == np.float32
    np.testing.assert_allclose(value, expected[0], rtol=2e-6)
    if framework != "numpy":  # whose reader differentiates at unit scale alone
        np.testing.assert_allclose(gradient, expected[1], rtol=2e-6)
    if alpha == 0.5 and framework != "keras":
        assert globals()[f"in_{framework}"](w[:1], alpha, 1e-3)[0][0] == pytest.approx(135.86174)


def test_jax_differentiates_in_a_scale_where_x_overflows():
    jax = pytest.importorskip("jax")
    from softdiamond.jax import omega, soft_diamond

    slope = jax.grad(lambda c: soft_diamond(np.float32([1e36, 2.0]), 0.5, c).sum())(np.float32(1e-3))
    x = 2.0 / 1e-3
    assert float(slope) == pytest.approx(-(1.5 + float(lookup_table(0.5).evaluate(np.array([x]))[1][0]) * x) / 1e-3)
    assert float(omega(np.float32(1e18), 0.5, 1e-3)) == pytest.approx(1.5e-36), "x^2 overflows"
    for scale in (1e-50, 1e50):
        with pytest.raises(ValueError, match="range of float32"):
            soft_diamond(np.float32(1.0), 0.5, scale)


@each_framework
def test_what_is_no_number(framework):
    pytest.importorskip(framework)
    if framework == "keras":
        pytest.skip("keras: the regularizer sums")
    x = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    for alpha in (0.5, 2.0):
        penalty, gradient, omega = map(np.asarray, globals()[f"in_{framework}"](x, alpha, 1.0))
        assert np.isnan([penalty[0], gradient[0], omega[0]]).all()
        assert np.isposinf(penalty[1:3]).all() and penalty[3] == gradient[3] == 0
        assert omega[1] == omega[2] == (0.5 if alpha == 2 else 0.0)


# --- one step of training ------------------------------------------------------------------------------------------------


RATE, STRENGTH = 0.1, 0.05


def network() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Kernels (in, out) and biases of a small net, inputs and targets; float32."""
    rng = np.random.default_rng(3)
    shapes = [(6, 5), (5,), (5, 3), (3,)]
    parts = [rng.normal(size=shape) * 0.3 for shape in shapes] + [rng.normal(size=(8, 6)), rng.normal(size=(8, 3))]
    *weights, x, y = (part.astype(np.float32) for part in parts)
    return weights, x, y


def step_torch(weights, x, y, alpha, mode, strength=STRENGTH):
    import torch
    from torch import nn

    import softdiamond as sd

    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(value.T.copy()))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    sd.Regularizer(model, sd.SoftDiamond(alpha), strength).attach(optimizer, mode=mode)
    nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    optimizer.step()
    return [parameter.detach().numpy().T for parameter in model.parameters()]


def step_jax(weights, x, y, alpha, mode):
    import jax
    import jax.numpy as jnp
    import optax

    from softdiamond.jax import add_soft_diamond, implicit_soft_diamond, matrices

    def loss(w):
        return jnp.mean((jnp.tanh(x @ w[0] + w[1]) @ w[2] + w[3] - y) ** 2)

    if mode == "implicit":
        optimizer = optax.chain(
            optax.sgd(RATE), implicit_soft_diamond(RATE, strength=STRENGTH, alpha=alpha, mask=matrices)
        )
    else:
        optimizer = optax.chain(add_soft_diamond(STRENGTH, alpha=alpha, mask=matrices), optax.sgd(RATE))
    params = [jnp.asarray(w) for w in weights]

    @jax.jit
    def train(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates)

    return train(params, optimizer.init(params))


def step_keras(weights, x, y, alpha, mode):
    import keras

    from softdiamond.keras import ImplicitStep, regularize

    layers = [keras.Input((6,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.set_weights(weights)
    model.compile(keras.optimizers.SGD(RATE), "mse")
    if mode == "gradient":
        regularize(model, alpha=alpha, strength=STRENGTH)
    callbacks = [ImplicitStep(strength=STRENGTH, alpha=alpha)] if mode == "implicit" else []
    model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
    return [keras.ops.convert_to_numpy(keras.ops.stop_gradient(variable.value)) for variable in model.weights]


@pytest.mark.parametrize("mode", ["implicit", "gradient"])
@pytest.mark.parametrize("framework", ["jax", "keras"])
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_one_step_of_training(framework, alpha, mode):
    pytest.importorskip(framework)
    """In torch, which in implicit mode reads omega to 1e-3 only, and in the others."""
    weights, x, y = network()
    ours = step_torch(weights, x, y, alpha, mode)
    bare = step_torch(weights, x, y, alpha, mode, strength=0.0)
    theirs = globals()[f"step_{framework}"](weights, x, y, alpha, mode)
    assert max(np.abs(a - b).max() for a, b in zip(ours, bare, strict=True)) > 1e-3, "the penalty is felt"
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(b), a, rtol=1e-5, atol=1e-5)


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch):
    from importlib import metadata

    from softdiamond._extras import require

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    words = r"keras 3.* or newer is needed and is not installed: pip install --upgrade \"softdiamond\[keras\]"
    with pytest.raises(ImportError, match=words):
        require("keras")


def test_a_version_is_as_new_as_the_same_with_zeros(monkeypatch):
    from importlib import metadata

    from softdiamond._extras import require

    monkeypatch.setattr(metadata, "requires", lambda name: ["some-package>=2.0.0; extra == 'keras'"])
    monkeypatch.setattr(metadata, "version", lambda name: "2.0")
    require("keras")
    monkeypatch.setattr(metadata, "version", lambda name: "1.9")
    with pytest.raises(ImportError, match=r"1\.9 is installed"):
        require("keras")
