"""Soft diamonds in JAX: derivatives, transformations of functions, the optax transforms, bad input."""

import warnings

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from softdiamond import stable  # noqa: E402
from softdiamond.jax import add_soft_diamond, implicit_soft_diamond, matrices, omega, soft_diamond  # noqa: E402


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def tree(rng) -> dict:
    return {
        "dense": {"kernel": jnp.asarray(rng.normal(size=(6, 4)) * 0.3, jnp.float32), "bias": jnp.zeros(4)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "bias": jnp.ones(3)},
    }


def gradients(rng, params) -> dict:
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), params)


# --- the penalty ---------------------------------------------------------------------------------------------------------


def test_derivatives(x64, rng):
    """Value, gradient and Hessian are derivatives of each other, in both modes; in the scale too."""
    from jax.test_util import check_grads

    x = jnp.asarray(np.concatenate([rng.normal(size=5), [1e-9, 300.0, -2e7]]))
    check_grads(lambda w: soft_diamond(w, 0.5, 0.7).sum(), (x[:6],), order=2, rtol=1e-5)
    check_grads(lambda c: soft_diamond(x[:6], 0.5, c).sum(), (jnp.asarray(0.7),), order=1, rtol=1e-5)
    hessian = jax.hessian(lambda w: soft_diamond(w, 0.5).sum())(x)
    np.testing.assert_allclose(jnp.diag(hessian), stable.curvature(np.asarray(x), 0.5), rtol=1e-8)
    assert not (hessian - jnp.diag(jnp.diag(hessian))).any()


def test_transformations_agree(rng):
    x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    plain = soft_diamond(x, 0.7, 0.1)
    for other in (
        jax.jit(soft_diamond, static_argnums=1)(x, 0.7, 0.1),
        jax.vmap(lambda row: soft_diamond(row, 0.7, 0.1))(x),
        soft_diamond(x, 0.7, jnp.full((4,), 0.1)),
    ):
        np.testing.assert_allclose(other, plain, rtol=1e-6)
    slope = jax.vmap(jax.vmap(jax.grad(lambda w: soft_diamond(w, 0.7, 0.1))))(x)
    np.testing.assert_allclose(slope, omega(x, 0.7, 0.1) * x, rtol=2e-6)


def test_there_is_no_third_derivative():
    with pytest.raises(NotImplementedError, match="no third derivative"):
        jax.grad(jax.grad(jax.grad(soft_diamond)))(1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_computed_wide(dtype):
    x = jnp.linspace(-3, 3, 21).astype(dtype)
    assert soft_diamond(x).dtype == omega(x).dtype == dtype
    np.testing.assert_array_equal(soft_diamond(x), soft_diamond(x.astype(jnp.float32)).astype(dtype))


# --- the transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mask", [None, {"dense": True, "out": {"kernel": True, "bias": False}}], ids=["all", "mask"])
@pytest.mark.parametrize("strength", [0.3, lambda count: 0.1 / (1 + count)], ids=["number", "schedule"])
@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
def test_alpha_2_is_weight_decay_to_the_last_bit(compiled, mask, strength, wide, rng, request):
    if wide:
        request.getfixturevalue("x64")
    params = jax.tree.map(lambda w: w.astype(jnp.float64 if wide else jnp.float32), tree(rng))
    ours, theirs = add_soft_diamond(strength, alpha=2.0, mask=mask), optax.add_decayed_weights(strength, mask=mask)
    states = [transform.init(params) for transform in (ours, theirs)]
    for _ in range(3):
        updates = gradients(rng, params)
        results = []
        for i, transform in enumerate((ours, theirs)):
            update = jax.jit(transform.update) if compiled else transform.update
            new, states[i] = update(updates, states[i], params)
            results.append(new)
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_array_equal(a, b)
        params = optax.apply_updates(params, results[0])


@pytest.mark.parametrize("alpha", [0.5, 1.3])
def test_coupled_gradient_is_the_exact_one(alpha, x64, rng):
    w = jnp.asarray(rng.normal(size=(30, 20)) * 0.05)
    transform = add_soft_diamond(1e-2, alpha=alpha, relative_scale=0.5)
    got, _ = transform.update(jnp.zeros_like(w), transform.init(w), w)
    rms = float(jnp.sqrt(jnp.mean(w**2)))
    scale = 0.5 * rms
    lam = 1e-2 / (stable.omega(rms / scale, alpha) / scale**2)
    np.testing.assert_allclose(got, -lam * stable.score(np.asarray(w), alpha, scale=scale), rtol=1e-8)


def test_implicit_step_follows_its_definition(x64, rng):
    """The learning rate a schedule, the reference that of the start."""

    def rate(count):
        return 0.5 / (1 + count)

    w = jnp.asarray(rng.normal(size=(30, 20)) * 0.05)
    chain = optax.chain(optax.sgd(rate), implicit_soft_diamond(rate, strength=0.4, alpha=0.5))
    state, scale = chain.init(w), float(jnp.sqrt(jnp.mean(w**2)))
    lam = 0.4 / (stable.omega(1.0, 0.5) / scale**2)
    for count in range(4):
        g = jnp.asarray(rng.normal(size=w.shape) * 0.01)
        updates, state = jax.jit(chain.update)(g, state, w)
        eta = float(rate(count))
        v = np.asarray(w - eta * g)
        expected = v / (1 + eta * lam * stable.omega(v, 0.5, scale=scale))
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-9)


def test_implicit_step_at_alpha_2_is_decoupled_decay(x64, rng):
    w, g = (jnp.asarray(rng.normal(size=(5, 4))) for _ in range(2))
    chain = optax.chain(optax.sgd(0.1), implicit_soft_diamond(0.1, strength=3.0, alpha=2.0))
    updates, _ = chain.update(g, chain.init(w), w)
    np.testing.assert_allclose(w + updates, (w - 0.1 * g) / (1 + 0.1 * 3.0), rtol=1e-14)


def test_implicit_step_never_overshoots(rng):
    w = jnp.asarray(rng.normal(size=500) * 10.0 ** rng.integers(-6, 2, 500), jnp.float32)
    transform = implicit_soft_diamond(1.0, strength=1e4, alpha=0.3)
    updates, _ = transform.update(jnp.zeros_like(w), transform.init(w), w)
    new = w + updates
    assert (jnp.abs(new) <= jnp.abs(w)).all()
    assert (new * w >= -1e-7 * w * w).all()


def test_accumulated_gradients_are_one_step(rng):
    """optax.MultiSteps hands every second update on; in between nothing moves."""
    params = tree(rng)["dense"]
    chain = optax.chain(optax.sgd(0.1), implicit_soft_diamond(0.1, strength=1.0, mask=matrices))
    several = optax.MultiSteps(chain, every_k_schedule=2)
    one, two = gradients(rng, params), gradients(rng, params)
    state = several.init(params)
    first, state = several.update(one, state, params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))
    second, state = several.update(two, state, params)
    whole, _ = chain.update(jax.tree.map(lambda a, b: (a + b) / 2, one, two), chain.init(params), params)
    for a, b in zip(jax.tree.leaves(second), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_step_that_is_left_out_leaves_the_weights_alone(rng):
    """optax.apply_if_finite, which a loss scale needs."""
    params = tree(rng)["dense"]
    chain = optax.apply_if_finite(implicit_soft_diamond(0.1, strength=1.0), max_consecutive_errors=3)
    bad = jax.tree.map(lambda w: jnp.full_like(w, jnp.inf), params)
    updates, state = chain.update(bad, chain.init(params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.inner_state.count) == 0


def test_states_are_arrays_and_resume(rng, tmp_path):
    """Stopped, written as plain arrays and read again, a training goes on as if it had never stopped."""
    params = tree(rng)["dense"]
    rate = optax.cosine_decay_schedule(0.1, 6)
    chain = optax.chain(optax.adam(rate), implicit_soft_diamond(rate, strength=1.0, mask=matrices))
    state = chain.init(params)
    steps = [gradients(rng, params) for _ in range(6)]
    update = jax.jit(chain.update)

    def go(params, state, some):
        for g in some:
            updates, state = update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    whole, _ = go(params, state, steps)
    half, state = go(params, state, steps[:3])
    leaves, structure = jax.tree.flatten((half, state))
    np.savez(tmp_path / "checkpoint.npz", *map(np.asarray, leaves))
    with np.load(tmp_path / "checkpoint.npz") as file:
        half, state = jax.tree.unflatten(structure, [jnp.asarray(file[name]) for name in file.files])
    again, _ = go(half, state, steps[3:])
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_strength_can_be_injected_and_changed(rng):
    w = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    make = optax.inject_hyperparams(add_soft_diamond, static_args=("alpha", "relative_scale"))
    transform = make(strength=0.1, alpha=0.5)
    state = transform.init(w)
    update = jax.jit(transform.update)
    one, state = update(jnp.zeros_like(w), state, w)
    state.hyperparams["strength"] = jnp.asarray(0.2)
    two, _ = update(jnp.zeros_like(w), state, w)
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_optax_finds_the_state_of_each_leaf(rng):
    params = tree(rng)
    transform = add_soft_diamond(0.1, mask=matrices)
    state = transform.init(params)
    doubled = optax.tree_map_params(transform, lambda leaf: 2 * leaf, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


def test_leaves_that_start_at_zero_take_the_rms_of_glorots_start():
    state = add_soft_diamond(0.1).init({"w": jnp.zeros((3, 5, 4, 2)), "b": jnp.zeros(3)})
    np.testing.assert_allclose(state.reference["w"], np.sqrt(2 / (15 * 6)), rtol=1e-6)
    assert jnp.isfinite(state.reference["b"])


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0,)])
def test_empty_leaves_are_taken_along(shape):
    w = jnp.zeros(shape)
    transform = add_soft_diamond(0.1)
    state = transform.init(w)
    assert jnp.isfinite(state.reference)
    assert transform.update(w, state, w)[0].shape == shape


def test_narrow_parameters_keep_their_dtype(rng):
    w = jnp.asarray(rng.normal(size=(5, 4)), jnp.bfloat16)
    for transform in (add_soft_diamond(1.0), implicit_soft_diamond(1.0, strength=1.0)):
        updates, _ = transform.update(jnp.zeros_like(w), transform.init(w), w)
        assert updates.dtype == jnp.bfloat16 and updates.any()


def test_matrices_are_what_the_torch_regularizer_takes():
    """Of layers that are scanned, biases and norms have two dimensions too; of `flax.nnx` the last name is an attribute."""

    @jax.tree_util.register_pytree_with_keys_class
    class Variable:
        def __init__(self, value):
            self.value = value

        def tree_flatten_with_keys(self):
            return ((jax.tree_util.GetAttrKey("value"), self.value),), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    two = jnp.ones((4, 3))
    layer = {"kernel": two, "bias": two, "unbiased_kernel": two, "step": jnp.ones((4, 3), int), "gain": jnp.ones(3)}
    nested = {
        "LayerNorm_0": {"scale": two},
        "norms": [{"scale": two}],
        "nnx": {"bias": Variable(two), "w": Variable(two)},
    }
    assert matrices(layer) == {"kernel": True, "bias": False, "unbiased_kernel": True, "step": False, "gain": False}
    mask = matrices(nested)
    assert not mask["LayerNorm_0"]["scale"] and not mask["norms"][0]["scale"]
    assert (mask["nnx"]["bias"].value, mask["nnx"]["w"].value) == (False, True)


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: soft_diamond(1.0, 0.05), ValueError, "alpha"),
        (lambda: soft_diamond(1.0, 2.1), ValueError, "alpha"),
        (lambda: soft_diamond(1.0, [0.5, 1.0]), ValueError, "one number"),
        (lambda: soft_diamond(1.0, 0.5, -1.0), ValueError, "scale"),
        (lambda: soft_diamond(1), TypeError, "floating"),
        (lambda: jax.jit(soft_diamond)(1.0, 0.5), TypeError, "static"),
        (lambda: add_soft_diamond(-1e-4), ValueError, "strength must be finite and not negative; got -0.0001"),
        (lambda: add_soft_diamond("much"), TypeError, "strength must be a number"),
        (lambda: add_soft_diamond(0.1, alpha=0.0), ValueError, "alpha"),
        (lambda: add_soft_diamond(0.1, relative_scale=0.0), ValueError, "relative_scale"),
        (lambda: implicit_soft_diamond(-0.1, strength=0.1), ValueError, "learning_rate"),
        (lambda: add_soft_diamond(0.1).init({"w": jnp.ones(3, int)}), TypeError, "floating"),
        (lambda: add_soft_diamond(0.1).init({"w": jnp.array([1.0, jnp.nan])}), ValueError, "w holds weights that are not fin"),
        (lambda: add_soft_diamond(0.1).init(jnp.array([jnp.inf])), ValueError, "the array holds weights that are not finite"),
        (lambda: add_soft_diamond(0.1, 0.5), TypeError, "positional"),
        (lambda: implicit_soft_diamond(0.1, 1.0), TypeError, "positional"),
        (lambda: add_soft_diamond(0.1, mask={"w": True}).init({"v": jnp.ones(3)}), ValueError, "mask has not the structure"),
        (lambda: add_soft_diamond(0.1, mask=lambda p: [True]).init({"v": jnp.ones(3)}), ValueError, "mask has not the str"),
        (lambda: add_soft_diamond(0.1, mask={"w": "yes"}), ValueError, "True and False; got 'yes'"),
        (lambda: add_soft_diamond(0.1, mask=lambda p: {"v": 1}).init({"v": jnp.ones(3)}), ValueError, "True and False"),
    ],
)  # fmt: skip
def test_bad_input(make, error, words):
    with warnings.catch_warnings(), pytest.raises(error, match=words) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


def test_parameters_are_needed():
    transform = add_soft_diamond(0.1)
    with pytest.raises(ValueError, match="current parameters are needed"):
        transform.update(jnp.ones(3), transform.init(jnp.ones(3)))
