"""Which parameters are eligible, and their initial rms: the one rule, and that each framework follows it."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from softdiamond.parameters import expected_rms, reference_rms, why_not_eligible


class BatchNorm2d: ...


class ABN(BatchNorm2d): ...


class LlamaRMSNorm: ...


class LayerNormalization: ...


class NormedLinear: ...


class NormalHead: ...


CASES = [  # path, shape, owners, what the reason begins with
    ("0.weight", (3, 4), (), ""),
    ("0.bias", (3,), (), "bias"),
    ("attention.in_proj_bias", (3, 4), (), "bias"),
    ("scan.Dense_0.bias", (12, 64), (), "bias"),
    ("biases", (2, 2), (), "bias"),
    ("relBias", (2, 2), (), "bias"),
    ("bias.weight", (2, 2), (), ""),
    ("unbiased_kernel", (2, 2), (), ""),
    ("debiased", (2, 2), (), ""),
    ("norm.weight", (2, 2), (), "norm, by its name"),
    ("layers.LayerNorm_0.scale", (12, 64), (), "norm, by its name"),
    ("input_layernorm.weight", (2, 2), (), "norm, by its name"),
    ("batch_normalization.gamma", (2, 2), (), "norm, by its name"),
    ("norms.0.weight", (2, 2), (), "norm, by its name"),
    ("norm_scale", (12, 64), (), "norm, by its name"),
    ("PreNorm_0.Dense_0.kernel", (2, 2), (), ""),
    ("normal_head.kernel", (2, 2), (), ""),
    ("enormous.kernel", (2, 2), (), ""),
    ("0.weight", (2, 2), (BatchNorm2d,), "norm (BatchNorm2d)"),
    ("0.weight", (2, 2), (ABN,), "norm (ABN)"),
    ("0.weight", (2, 2), (LlamaRMSNorm,), "norm (LlamaRMSNorm)"),
    ("0.weight", (2, 2), (LayerNormalization,), "norm (LayerNormalization)"),
    ("0.weight", (2, 2), (NormedLinear,), ""),
    ("0.weight", (2, 2), (NormalHead,), ""),
    ("norm.weight", (2, 2), (NormalHead,), ""),
    ("a.weight", (2, 2), (NormalHead, ABN), "norm (ABN)"),
    ("scale", (5,), (), "fewer than 2 dimensions"),
    ("scalar", (), (), "fewer than 2 dimensions"),
    ("not_known_yet", None, (), ""),
    ("bias", None, (), "bias"),
    ("0", (2, 2), (), ""),
]


@pytest.mark.parametrize(("path", "shape", "owners", "reason"), CASES)
def test_the_rule(path, shape, owners, reason):
    assert why_not_eligible(path.split("."), shape, owners) == reason


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((64, 32), (32, 64)), ((8, 16, 3, 5), (16 * 15, 8 * 15)), ((7,), (7, 7)), ((), (1, 1))],
)
def test_expected_rms_is_that_of_glorot(shape, fans):
    expected = math.sqrt(2 / sum(fans))
    assert expected_rms(shape, "first") == pytest.approx(expected, rel=1e-15)
    last = (*shape[2:], *shape[:2][::-1])
    assert expected_rms(last, "last") == pytest.approx(expected, rel=1e-15)


def test_expected_rms_is_what_torch_draws():
    torch = pytest.importorskip("torch")
    w = torch.nn.init.xavier_normal_(torch.empty(300, 40, 3, 3))
    assert expected_rms(w.shape, "first") == pytest.approx(float(w.square().mean().sqrt()), rel=0.02)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0)])
def test_empty_tensors_have_a_finite_reference(shape):
    assert 0 < expected_rms(shape, "first") <= 1 and 0 < expected_rms(shape, "last") <= 1


def test_reference_is_the_rms_where_there_is_one():
    assert reference_rms("w", 0.3, (4, 4), "first") == (0.3, "")
    assert reference_rms("w", 0.0, (4, 4), "first") == (0.5, "starts at zero: scale of Glorot's start")
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="w holds weights that are not finite"):
            reference_rms("w", bad, (4, 4), "first")


# --- the same network in three frameworks --------------------------------------------------------------------------------

SHAPES = {"Dense_0": (6, 5), "LayerNorm_0": (5,), "Dense_1": (5, 5), "Dense_2": (5, 3)}  # Dense_1 starts at zero


def values(rng):
    kernels = {name: rng.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
    kernels["Dense_1"] = np.zeros(SHAPES["Dense_1"], "f4")
    return kernels


def of_torch(kernels):
    torch = pytest.importorskip("torch")
    from softdiamond import L2, Regularizer

    net = torch.nn.ModuleDict(
        {n: torch.nn.LayerNorm(s) if len(s) == 1 else torch.nn.Linear(*s) for n, s in SHAPES.items()}
    )
    with torch.no_grad():
        for name, module in net.items():
            module.weight.copy_(torch.tensor(kernels[name].T))
    records = Regularizer(net, L2(), 1.0).describe().records
    return {r["name"].split(".")[0]: r["reference"] for r in records if r["regularized"]}


def of_jax(kernels):
    pytest.importorskip("jax")
    from softdiamond.jax import add_soft_diamond, matrices

    params = {
        n: {"scale" if len(s) == 1 else "kernel": kernels[n], "bias": np.zeros(s[-1:], "f4")} for n, s in SHAPES.items()
    }
    mask = matrices(params)
    state = add_soft_diamond(1.0).init(params)
    return {n: float(state.reference[n]["kernel"]) for n in SHAPES if mask[n].get("kernel")}


def of_keras(kernels):
    keras = pytest.importorskip("keras")
    from softdiamond.keras import regularize

    layers = [
        keras.layers.LayerNormalization(name=n) if len(s) == 1 else keras.layers.Dense(s[1], name=n)
        for n, s in SHAPES.items()
    ]
    model = keras.Sequential([keras.Input((6,)), *layers])
    for layer in layers:
        _, *rest = layer.get_weights()
        layer.set_weights([kernels[layer.name], *rest])
    return {r["name"].split("/")[-2]: r["reference"] for r in regularize(model).records if r["regularized"]}


@pytest.mark.parametrize("framework", [of_jax, of_keras])
def test_frameworks_take_the_same_weights_with_the_same_reference(framework, rng):
    kernels = values(rng)
    ours = of_torch(kernels)
    assert list(ours) == ["Dense_0", "Dense_1", "Dense_2"]
    theirs = framework(kernels)
    assert theirs == pytest.approx(ours, rel=1e-6)


def test_it_needs_no_framework():
    """Not even NumPy."""
    code = "import sys, softdiamond.parameters; assert not {'numpy', 'torch', 'jax', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
