"""Soft diamonds in Keras: the regularizer, a built model, the implicit step; on torch here, on the other backends again below."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from softdiamond import stable  # noqa: E402
from softdiamond.keras import ImplicitStep, SoftDiamond, regularize  # noqa: E402

AGAIN = "definition or gathered or loss_scale or feels_it or (one_step and keras-implicit and 0.5) or 0.5-keras"
BACKEND = keras.backend.backend()


def array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(variable)))


def net(**of_dense) -> keras.Model:
    keras.utils.set_random_seed(1)
    keras.backend.clear_session()
    layers = keras.layers
    hidden, out = layers.Dense(5, "tanh", name="hidden", **of_dense), layers.Dense(3, name="out", **of_dense)
    return keras.Sequential([keras.Input((6,)), hidden, layers.BatchNormalization(name="bn"), out], name="net")


def batches(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8 * count, 6)).astype("float32"), rng.normal(size=(8 * count, 3)).astype("float32")


def fit(model, *callbacks, count=4, epochs=1, **settings):
    x, y = batches(count)
    return model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **settings)


# --- the regularizer -----------------------------------------------------------------------------------------------------


def test_value_is_that_of_the_exact_law(rng):
    w = (rng.normal(size=(40, 30)) * 0.05).astype("float32")
    scale, rms = 0.5 * 0.04, 0.04
    lam = 1e-2 / (stable.omega(rms / scale, 0.7) / scale**2)
    value = SoftDiamond(0.7, strength=1e-2, relative_scale=0.5, reference=0.04)(keras.ops.convert_to_tensor(w))
    exact = lam * stable.group_penalty(np.abs(w.astype(float)) / scale, 0.7, 1).sum()
    np.testing.assert_allclose(float(value), exact, rtol=1e-5)


def test_alpha_2_is_ridge(rng):
    w = keras.ops.convert_to_tensor(rng.normal(size=(4, 3)).astype("float32"))
    np.testing.assert_allclose(
        float(SoftDiamond(2.0, strength=0.1)(w)), float(keras.regularizers.L2(0.05)(w)), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(64, 32), (3, 3, 8, 16), (7,)])
def test_without_values_the_reference_is_that_of_the_start(shape):
    """Of Keras's default start, Glorot's uniform."""
    drawn = array(keras.initializers.GlorotUniform(0)((*shape[:-1], 64 * shape[-1])[:0] or shape))
    w = keras.ops.ones(shape)
    rms = float(np.sqrt((drawn.astype(float) ** 2).mean()))
    by_default, by_hand = (float(SoftDiamond(0.5, strength=1.0, reference=r)(w)) for r in (None, rms))
    spread = 3 / np.sqrt(drawn.size)
    assert abs(by_default / by_hand - 1) < 2 * spread + 0.02


def test_configuration_goes_round():
    made = SoftDiamond(0.3, strength=1e-4, relative_scale=2.0, reference=0.1)
    assert SoftDiamond.from_config(made.get_config()).get_config() == made.get_config()
    serialized = keras.regularizers.serialize(made)
    assert serialized["registered_name"] == "softdiamond>SoftDiamond"
    assert repr(keras.regularizers.deserialize(serialized)) == repr(made)
    assert keras.saving.get_registered_object("softdiamond>SoftDiamond") is SoftDiamond
    assert isinstance(keras.regularizers.get(serialized), SoftDiamond)


def test_a_saved_model_keeps_it(tmp_path):
    model = net()
    regularize(model, alpha=0.5, strength=1e-2)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert len(again.losses) == 2
    np.testing.assert_allclose(array(sum(again.losses)), array(sum(model.losses)), rtol=1e-6)
    assert (
        again.get_layer("hidden").kernel_regularizer.get_config()
        == model.get_layer("hidden").kernel.regularizer.get_config()
    )


# --- a built model -------------------------------------------------------------------------------------------------------


def test_a_built_model_gets_the_plan_of_the_torch_regularizer():
    torch = pytest.importorskip("torch")
    import softdiamond as sd

    model = net()
    plan = regularize(model, alpha=0.5, strength=1e-2, relative_scale=0.7)
    twin = [
        (v.path, torch.from_numpy(array(v).copy()).requires_grad_())
        for v in model.trainable_weights
        if v.path.endswith("kernel")
    ]
    theirs = sd.Regularizer(twin, sd.SoftDiamond(0.5), 1e-2, relative_scale=0.7).describe()
    ours = [record for record in plan.records if record["regularized"]]
    assert len(ours) == 2
    for a, b in zip(ours, theirs.records, strict=True):
        assert a.keys() == b.keys() and a["penalty"] == b["penalty"]
        for key in ("strength", "scale", "lambda", "reference"):
            np.testing.assert_allclose(a[key], b[key], rtol=1e-6, err_msg=key)
    why = {record["name"].split("/", 1)[-1]: record["why"] for record in plan.records}
    assert any("bias" in told for told in why.values()) and any("norm" in told for told in why.values())
    assert str(plan).splitlines()[1].split() == str(theirs).splitlines()[1].split(), "the same table"


def test_a_compiled_model_feels_it_at_the_next_step():
    one, two = net(), net()
    for model in (one, two):
        model.compile(keras.optimizers.SGD(0.01), "mse")
        fit(model, count=1)
    regularize(two, alpha=0.5, strength=0.5)
    for model in (one, two):
        fit(model, count=1)
    assert np.abs(array(one.get_layer("out").kernel) - array(two.get_layer("out").kernel)).max() > 1e-4


def test_where_chooses_and_groups_have_settings_of_their_own():
    model = net()
    regularize(model, alpha=0.5, strength=1e-2, where="*out/kernel")
    regularize(model, alpha=1.0, strength=1e-3, where=lambda path, variable: "hidden" in path)
    assert model.get_layer("out").kernel.regularizer.alpha == 0.5
    assert model.get_layer("hidden").kernel.regularizer.alpha == 1.0


def test_frozen_layers_wait():
    model = net()
    model.get_layer("hidden").trainable = False
    plan = regularize(model, alpha=0.5, strength=1e-2)
    assert any("frozen" in record["why"] for record in plan.records)
    assert len(model.losses) == 1
    model.get_layer("hidden").trainable = True
    assert len(model.losses) == 2


def test_a_transformer_block_is_taken_whole():
    """Layers within layers, with kernels of three dimensions."""
    inputs = keras.Input((4, 8))
    attended = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LayerNormalization()(attended)))
    plan = regularize(model, alpha=0.5, strength=1e-2)
    taken = [record for record in plan.records if record["regularized"]]
    assert len(taken) == 5 and len(model.losses) == 5


def towers() -> keras.Model:
    """Two networks in one, whose layers have the same names."""

    def tower():
        inputs = keras.Input((6,))
        return keras.Model(inputs, keras.layers.Dense(3, name="hidden")(inputs))

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.add([tower()(inputs), tower()(inputs)]))


def test_weights_that_share_a_path_are_all_taken():
    model = towers()
    plan = regularize(model, alpha=0.5, strength=1e-2, where="*hidden/kernel")
    path = model.trainable_weights[0].path
    assert [record["name"] for record in plan.records if record["regularized"]] == [path, f"{path}#2"]
    assert len(model.losses) == 2
    again = towers()
    again.compile(keras.optimizers.SGD(0.1), "mse")
    before = [array(weight).copy() for weight in again.trainable_weights]
    first = again.trainable_weights[0]
    steps = [ImplicitStep(strength=1.0, where=lambda _, v, one=one: (v is first) == one) for one in (True, False)]
    nothing = np.zeros((8, 6), "float32"), np.zeros((8, 3), "float32")  # no gradient: the penalty alone moves
    again.fit(*nothing, verbose=0, callbacks=steps)
    moved = [bool(np.any(v != array(w))) for v, w in zip(before, again.trainable_weights, strict=True)]
    assert moved == [True, False, True, False], "both kernels, no bias"


# --- the implicit step ---------------------------------------------------------------------------------------------------


class Watch(keras.callbacks.Callback):
    """Weights before and after each batch of the callbacks around it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        self.seen.append(array(self.model.get_layer("out").kernel).copy())


@pytest.mark.parametrize(("make", "factor"), [
    (lambda: keras.optimizers.SGD(0.05), 1.0),
    (lambda: keras.optimizers.SGD(0.05, momentum=0.8), 5.0),
    (lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)), 1.0),
])  # fmt: skip
def test_the_step_follows_its_definition(make, factor):
    model, before, after = net(), Watch(), Watch()
    model.compile(make(), "mse")
    step = ImplicitStep(strength=0.2, alpha=0.5)
    fit(model, before, step, after)
    scheduled = not isinstance(make().get_config()["learning_rate"], float)
    path = model.get_layer("out").kernel.path
    scale = step.references[path]
    lam = 0.2 / (stable.omega(1.0, 0.5) / scale**2)
    for count, (v, w) in enumerate(zip(before.seen, after.seen, strict=True)):
        eta = factor * 0.05 * (0.5 ** (count / 2) if scheduled else 1.0)
        expected = v / (1 + eta * lam * stable.omega(v.astype(float), 0.5, scale=scale))
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-9)
        assert np.abs(v - w).max() > 1e-4


def test_gathered_gradients_are_one_step():
    model, before, after = net(), Watch(), Watch()
    model.compile(keras.optimizers.SGD(0.05, gradient_accumulation_steps=2), "mse")
    fit(model, before, ImplicitStep(strength=0.5), after)
    moved = [bool(np.any(v != w)) for v, w in zip(before.seen, after.seen, strict=True)]
    assert moved == [False, True, False, True]


def test_a_step_that_a_loss_scale_leaves_out_is_left_out():
    model, before, after = net(), Watch(), Watch()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)), "mse")
    x, y = batches(3)
    x[8:16] = np.inf  # the second batch
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[before, ImplicitStep(strength=0.5), after])
    moved = [bool(np.any(v != w)) for v, w in zip(before.seen, after.seen, strict=True)]
    assert moved[:2] == [True, False]


def test_strength_changes_while_training():
    """As a function of the number of steps done, and set by another callback."""

    class Turn(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            step.strength = 0.0 if batch < 2 else 0.5

    moved = {}
    for name in ("schedule", "set"):
        model, before, after = net(), Watch(), Watch()
        model.compile(keras.optimizers.SGD(0.05), "mse")
        step = ImplicitStep(strength=(lambda done: 0.0 if done < 2 else 0.5) if name == "schedule" else 0.0)
        fit(model, *([] if name == "schedule" else [Turn()]), before, step, after)
        moved[name] = [bool(np.any(v != w)) for v, w in zip(before.seen, after.seen, strict=True)]
    assert moved["schedule"] == moved["set"] == [False, False, True, True]


def test_resumed_with_its_references_it_goes_on():
    whole = net()
    whole.compile(keras.optimizers.SGD(0.05), "mse")
    step = ImplicitStep(strength=0.5)
    fit(whole, step)
    fit(whole, step)
    half = net()
    half.compile(keras.optimizers.SGD(0.05), "mse")
    first = ImplicitStep(strength=0.5)
    fit(half, first)
    fit(half, ImplicitStep(strength=0.5, references=first.references))
    for a, b in zip(whole.weights, half.weights, strict=True):
        np.testing.assert_array_equal(array(a), array(b))


def test_resumed_with_its_optimizer_the_schedule_goes_on(tmp_path):
    model = net()
    model.compile(keras.optimizers.SGD(0.05), "mse")
    fit(model, ImplicitStep(strength=0.5), count=2)
    model.save(tmp_path / "model.keras")
    asked, half = [], keras.models.load_model(tmp_path / "model.keras")
    step = ImplicitStep(strength=lambda done: asked.append(done) or 0.5)
    asked.clear()  # it is asked for 0 when it is made
    fit(half, step, count=2)
    assert asked == [2, 2, 2, 3], "for each weight of the plan, then for each step"


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: SoftDiamond(0.05), ValueError, "alpha"),
        (lambda: SoftDiamond(2.5), ValueError, "alpha"),
        (lambda: SoftDiamond(0.5, strength=-1.0), ValueError, "strength must be finite and not negative; got -1.0"),
        (lambda: SoftDiamond(0.5, strength="much"), TypeError, "strength"),
        (lambda: SoftDiamond(0.5, strength=lambda step: 1.0), TypeError, "ImplicitStep"),
        (lambda: SoftDiamond(0.5, relative_scale=0.0), ValueError, "relative_scale"),
        (lambda: SoftDiamond(0.5, strength=1.0, reference=-1.0), ValueError, "reference"),
        (lambda: ImplicitStep(strength=-1.0), ValueError, "strength"),
        (lambda: SoftDiamond(0.5, 1.0), TypeError, "positional"),
        (lambda: ImplicitStep(0.5), TypeError, "positional"),
        (lambda: regularize(net(), 0.5), TypeError, "positional"),
        (lambda: regularize("model"), TypeError, "expected a keras.Model; got str"),
        (lambda: regularize(keras.Sequential([keras.layers.Dense(3)])), ValueError, "not built"),
        (lambda: regularize(net(), where="*nothing*"), ValueError, "means none of the"),
        (lambda: regularize(net(), where=3), TypeError, "pattern of paths"),
        (lambda: [regularize(model) for model in [net()] * 2], ValueError, "kernel has a regularizer already"),
        (lambda: regularize(net(kernel_regularizer="l2")), ValueError, "kernel has a regularizer already"),
    ],
)  # fmt: skip
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


def test_twice_in_one_training():
    model = net()
    model.compile(keras.optimizers.SGD(0.05), "mse")
    with pytest.raises(ValueError, match="two ImplicitStep callbacks move"):
        fit(model, ImplicitStep(strength=0.1), ImplicitStep(strength=0.1))
    fit(model, ImplicitStep(strength=0.1, where="*out*"), ImplicitStep(strength=0.2, where="*hidden*"))
    regularize(model, where="*out/kernel")
    with pytest.raises(ValueError, match="has a SoftDiamond in the loss already"):
        fit(model, ImplicitStep(strength=0.1))


def test_weight_decay_on_top_warns():
    model = net()
    model.compile(keras.optimizers.AdamW(1e-3), "mse")
    with pytest.warns(UserWarning, match=r"weight_decay=0.004 \(AdamW's default is 0.004\)"):
        fit(model, ImplicitStep(strength=0.1), count=1)


# --- digits, and the other backends --------------------------------------------------------------------------------------


def test_digits_as_accurate_as_torch():
    """Three seeds of the same small net by either; the means differ by less than the seeds do."""
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    from sklearn.datasets import load_digits

    import softdiamond as sd

    pixels, labels = load_digits(return_X_y=True)
    x, order = (pixels / 16).astype("float32"), np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1200], order[1200:]
    epochs, size, strength = 10, 64, 2.0

    def by_keras(seed):
        keras.utils.set_random_seed(seed)
        dense = keras.layers.Dense
        model = keras.Sequential([keras.Input((64,)), dense(64, "relu"), dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(4e-3), loss)
        step = ImplicitStep(strength=strength)
        model.fit(x[train], labels[train], batch_size=size, epochs=epochs, verbose=0, callbacks=[step])
        small = np.mean([np.mean(np.abs(array(layer.kernel)) < 1e-3) for layer in model.layers])
        return np.mean(model.predict(x[test], verbose=0).argmax(1) == labels[test]), small

    def by_torch(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        with torch.no_grad():
            for layer in (model[0], model[2]):  # Keras's start
                torch.nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()
        optimizer = torch.optim.Adam(model.parameters(), lr=4e-3, eps=1e-7)
        sd.Regularizer(model, sd.SoftDiamond(0.5), strength).attach(optimizer)
        inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
        for _ in range(epochs):
            for part in torch.from_numpy(train)[torch.randperm(len(train))].split(size):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs[part]), targets[part]).backward()
                optimizer.step()
        small = np.mean([float((layer.weight.abs() < 1e-3).float().mean()) for layer in (model[0], model[2])])
        return float((model(inputs[test]).argmax(1) == targets[test]).float().mean()), small

    theirs, ours = (np.array([by(seed) for seed in range(3)]) for by in (by_torch, by_keras))
    spread = max(theirs[:, 0].std(ddof=1), ours[:, 0].std(ddof=1), 0.003)
    assert theirs[:, 0].mean() > 0.93
    assert abs(theirs[:, 0].mean() - ours[:, 0].mean()) < 3 * spread, (theirs, ours)
    assert abs(theirs[:, 1].mean() - ours[:, 1].mean()) < 0.05, "and as sparse"
    assert ours[:, 1].mean() > 0.3


@pytest.mark.skipif(os.environ.get("SOFTDIAMOND_KERAS_AGAIN") == "yes", reason="this is the run again")
@pytest.mark.parametrize("backend", sorted({"jax", "tensorflow", "torch"} - {BACKEND}))
def test_again_on_another_backend(backend):
    """This module and Keras's part of `test_frameworks.py`."""
    if find_spec(backend) is None:
        pytest.skip(f"could not import {backend!r}, a backend of Keras")
    here = Path(__file__).parent
    modules = [str(here / name) for name in ("test_keras.py", "test_frameworks.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-k", AGAIN, *modules]
    environment = os.environ | {"KERAS_BACKEND": backend, "SOFTDIAMOND_KERAS_AGAIN": "yes"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=here.parent)
    assert done.returncode == 0, done.stdout[-4000:]
