"""Networks: shapes, starts, what is regularized, the user's own, and accuracy."""

import sys

import pytest
import torch
from torch import nn

from softdiamond.experiments import UserError, models
from softdiamond.experiments.data import Examples

CHEAP = {"mlp": {"hidden": [12, 7]}, "small-conv": {"channels": [4, 5], "hidden": 6}, "resnet18": {"width": 4}}
BUILT_IN = list(CHEAP.items())
BUILT_IN += [(name, options | {"dropout": 0.5}) for name, options in CHEAP.items()]
BUILT_IN += [(name, CHEAP[name] | {"batch_norm": True}) for name in ("mlp", "small-conv")]
each_model = pytest.mark.parametrize(("name", "options"), BUILT_IN, ids=str)


def build(name, options, shape=(3, 16, 16), classes=5, seed=0):
    return models.build(name, options, shape, classes, seed)


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        build(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sizes(net):
    """Shapes of the regularized tensors."""
    return [tuple(w.shape) for w in models.regularized(net).values()]


def count(net):
    return sum(p.numel() for p in net.parameters())


# ---- the built-in networks ----------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 9, 14), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("classes", [2, 10])
def test_outputs_have_one_number_for_each_class(name, options, shape, classes):
    net = build(name, options, shape, classes)
    x = torch.randn(4, *shape)
    assert net(x).shape == (4, classes)
    net.eval()
    assert net(x[:1]).shape == (1, classes)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=1e-4, atol=1e-5)  # rows do not mix in evaluation


@pytest.mark.parametrize("shape", [(20,), (4, 5), (1, 8, 8), (2, 2, 3, 4)], ids=str)
def test_the_fully_connected_net_takes_any_shape(shape):
    net = build("mlp", {"hidden": [9]}, shape, 3)
    inputs = torch.Size(shape).numel()
    assert net(torch.randn(6, *shape)).shape == (6, 3) and sizes(net) == [(9, inputs), (3, 9)]


def test_the_fully_connected_net_has_the_layers_that_are_named():
    assert sizes(build("mlp", {"hidden": []}, (4,), 2)) == [(2, 4)]
    net = build("mlp", {"hidden": [6, 5], "dropout": 0.25, "batch_norm": True}, (4,), 2)
    names = ["Flatten", *["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2, "Linear"]
    assert [type(layer).__name__ for layer in net] == names
    assert {layer.p for layer in net if isinstance(layer, nn.Dropout)} == {0.25}
    plain = [type(layer).__name__ for layer in build("mlp", {"hidden": [6, 5]}, (4,), 2)]
    assert plain == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_the_small_convolutional_net_has_the_layers_that_are_named():
    net = build("small-conv", {}, (3, 32, 32), 10)
    assert sizes(net) == [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (128, 128 * 16), (10, 128)]
    net = build("small-conv", {"channels": [4], "hidden": 6, "dropout": 0.5, "batch_norm": True}, (1, 9, 7), 2)
    names = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in net] == names
    assert sizes(net) == [(4, 1, 3, 3), (6, 4 * 4 * 3), (2, 6)]


def test_resnet18_is_the_one_of_the_cifar_sets():
    net = build("resnet18", {}, (3, 32, 32), 10)
    assert count(net) == 11_173_962
    assert len(sizes(net)) == 21 and sum(torch.Size(size).numel() for size in sizes(net)) == 11_164_352
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(nn.Conv2d) == 20 and kinds.count(nn.BatchNorm2d) == 20 and nn.MaxPool2d not in kinds
    assert all(conv.bias is None for conv in net.modules() if isinstance(conv, nn.Conv2d))
    assert net[0].stride == (1, 1) and net[0].kernel_size == (3, 3)


def test_resnet18_halves_the_image_three_times():
    net = build("resnet18", {"width": 4}, (3, 32, 32), 10)
    x, seen = torch.randn(2, 3, 32, 32), []
    for layer in net:
        x = layer(x)
        seen.append(tuple(x.shape[1:]))
    assert seen[3:11] == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2
    assert seen[-1] == (10,)


def test_a_residual_block_adds_its_input():
    """Without the convolutions only the shortcut is left."""
    net = build("resnet18", {"width": 4})
    block = net[3]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block.eval()(x), x.relu())


def test_dropout_comes_before_the_last_layer_of_resnet18():
    net = build("resnet18", {"width": 4, "dropout": 0.3})
    assert isinstance(net[-2], nn.Dropout) and net[-2].p == 0.3
    assert count(net) == count(build("resnet18", {"width": 4}))


# ---- what is regularized ------------------------------------------------------------------------------------------------


def test_regularized_tensors_are_matrices_and_filters():
    net = build("small-conv", {"channels": [4], "hidden": 6, "batch_norm": True})
    assert list(models.regularized(net)) == ["0.weight", "5.weight", "7.weight"]
    assert all(models.regularized(net)[name] is dict(net.named_parameters())[name] for name in models.regularized(net))


@each_model
def test_no_bias_and_no_norm_is_regularized(name, options):
    net = build(name, options)
    expected = {f"{place}.weight" for place, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert set(models.regularized(net)) == expected


def test_norms_of_two_dimensions_are_not_regularized():
    net = nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm((4, 8)), nn.Linear(8, 2), nn.LayerNorm((4, 2)))
    assert list(models.regularized(net)) == ["0.weight", "2.weight"], "what softdiamond.Regularizer takes by default"
    assert models.regularized(net[1]) == {}


def test_tensors_with_values_that_are_not_finite_are_regularized_ones_too():
    """They are found by what they are, and a network that starts with one is refused with its name."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight[0, 0] = torch.nan
    assert list(models.regularized(net)) == ["0.weight", "1.weight"]
    assert torch.tensor(models.rms(net)["1.weight"]).isnan()
    said = refusal("users_models:not_finite", {})
    assert said.endswith(": ValueError: 1.weight holds weights that are not finite"), said


def test_rms_of_the_regularized_tensors():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -7.0], [5.0, 5.0]]))
    assert models.rms(net) == {"0.weight": 5.0}


# ---- the start ----------------------------------------------------------------------------------------------------------


def equal(one, two):
    states = (one.state_dict(), two.state_dict())
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@each_model
def test_the_seed_alone_decides_the_weights(name, options):
    first = build(name, options, seed=7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again, other = build(name, options, seed=7), build(name, options, seed=8)
    assert torch.equal(torch.get_rng_state(), state), "global randomness stays as it was"
    assert equal(first, again)
    assert not any(
        torch.equal(a, b) for a, b in zip(*(models.regularized(n).values() for n in (first, other)), strict=True)
    )


def test_the_start_is_that_of_pytorch():
    torch.manual_seed(11)
    expected = nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.ReLU(), nn.Linear(12, 5))
    assert equal(build("mlp", {"hidden": [12]}, seed=11), expected)


def test_dropout_does_not_change_the_start():
    plain, dropout = build("mlp", CHEAP["mlp"]), build("mlp", CHEAP["mlp"] | {"dropout": 0.5})
    for one, two in zip(plain.parameters(), dropout.parameters(), strict=True):
        assert torch.equal(one, two), "treatments are paired"


def test_global_randomness_stays_when_a_network_fails():
    state = torch.get_rng_state()
    refusal("mlp", {"hidden": [-1]})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_building_leaves_a_gpus_randomness_alone():
    state = torch.cuda.get_rng_state()
    build("mlp", {"hidden": [4]}, seed=5)
    assert torch.equal(torch.cuda.get_rng_state(), state)


# ---- what is refused ----------------------------------------------------------------------------------------------------


def test_unknown_models_have_a_hint():
    listed = "there are mlp, small-conv, resnet18, and your own as module:function"
    assert refusal("resnet", {}) == f"no model 'resnet': {listed}; did you mean resnet18?"
    assert refusal("MLP", {}) == f"no model 'MLP': {listed}; did you mean mlp?"
    assert refusal("zzz", {}) == f"no model 'zzz': {listed}"


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("mlp", "hidden, dropout, batch_norm"),
        ("small-conv", "channels, hidden, dropout, batch_norm"),
        ("resnet18", "width, dropout"),
    ],
)
def test_wrong_options_name_the_right_ones(name, takes):
    said = refusal(name, CHEAP[name] | {"widht": 3})
    assert said == f"model {name}: no option 'widht'; its options are {takes}"
    with pytest.raises(UserError, match=f"its options are {takes}$"):
        models.maker(name, {"classes": 3})


def test_options_that_lack():
    assert refusal("mlp", {}) == (
        "model mlp: missing a required argument: 'hidden'; its options are hidden, dropout, batch_norm"
    )


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("mlp", {"hidden": 3}, (4,)),
        ("mlp", {"hidden": ["a"]}, (4,)),
        ("mlp", {"hidden": [4], "dropout": 1.5}, (4,)),
        ("small-conv", {}, (20,)),
        ("small-conv", {"channels": []}, (3, 8, 8)),
        ("resnet18", {"width": 0.5}, (3, 8, 8)),
        ("small-conv", {}, (3, 7, 7)),  # nothing is left after three poolings
        ("resnet18", {}, (20,)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_networks_that_cannot_be_made(name, options, shape):
    said = refusal(name, options, shape)
    assert said.startswith(f"model {name} cannot be made for inputs {shape}: ") and "Error: " in said


# ---- the user's own -----------------------------------------------------------------------------------------------------

USERS = """
import torch
from torch import nn

def network(shape, classes, *, width=8, depth: int = 1):
    inner = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth - 1)]
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), width), nn.ReLU(), *inner, nn.Linear(width, classes))

def bare(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))

def positional(shape, classes, width=8):
    return nn.Linear(width, classes)

def anything(shape, classes, **options):
    return nn.Linear(len(options), classes)

def few(shape, classes):
    return network(shape, classes - 1)

def deep(shape, classes):
    return nn.Conv2d(3, classes, 1)

def a_pair(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.RNN(torch.Size(shape).numel(), classes))

def one_row(shape, classes):
    return nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.Linear(2 * torch.Size(shape).numel(), classes))

def fails(shape, classes):
    raise RuntimeError("out of\\nideas")

def not_finite(shape, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))
    nn.init.constant_(net[1].weight, float("nan"))
    return net

def nothing(shape, classes):
    return None

def number(shape, classes):
    return 3

def one_tensor(shape, classes):
    return torch.ones(3, 3)

def no_matrices(shape, classes):
    return nn.BatchNorm1d(4)

def no_weights(shape, classes):
    return nn.Flatten()

def one_argument(shape):
    return nn.Linear(2, 2)

class Network(nn.Module):
    def __init__(self, shape, classes, *, width):
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(autouse=True)
def users_module(tmp_path, monkeypatch):
    """Let users_models be importable during the test."""
    (tmp_path / "users_models.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_models", None)


def test_users_networks():
    net = build("users_models:network", {"width": 6, "depth": 2}, (2, 3), 4, seed=3)
    assert net(torch.randn(5, 2, 3)).shape == (5, 4) and sizes(net) == [(6, 6), (6, 6), (4, 6)]
    assert equal(net, build("users_models:network", {"width": 6, "depth": 2}, (2, 3), 4, seed=3))
    assert not equal(net, build("users_models:network", {"width": 6, "depth": 2}, (2, 3), 4, seed=4))
    assert sizes(build("users_models:bare", {}, (2, 3), 4)) == [(4, 6)]
    assert sizes(build("users_models:anything", {"a": 1, "b": 2}, (2,))) == [(5, 2)]
    assert sizes(build("users_models:Network", {"width": 3}, (3,))) == [(5, 3)], "a class serves as well"


def test_users_networks_get_their_shape_as_a_tuple(monkeypatch):
    seen = []

    def make(shape, classes):
        seen.append((shape, classes))
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 9))

    monkeypatch.setitem(models.MODELS, "mine", make)
    build("mine", {}, torch.Size([3, 4]), 7)  # more outputs than classes serve as well
    assert seen == [((3, 4), 7)] and type(seen[0][0]) is tuple


def test_networks_are_tried_once_on_two_inputs(monkeypatch):
    """In evaluation mode and without gradients, so that running statistics and the seed's draws stay as they were."""
    net, seen = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.register_forward_pre_hook(lambda _, x: seen.append((x[0], net.training, torch.is_grad_enabled())))
    monkeypatch.setitem(models.MODELS, "mine", lambda shape, classes: net)
    assert build("mine", {}, (4,), 2) is net
    assert len(seen) == 1 and seen[0][1:] == (False, False) and torch.equal(seen[0][0], torch.zeros(2, 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


NO_NETWORK = "not a torch.nn.Module with weight matrices or filters"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fails", "RuntimeError: out of ideas"),
        ("nothing", f"TypeError: it made NoneType, {NO_NETWORK}"),
        ("number", f"TypeError: it made int, {NO_NETWORK}"),
        ("one_tensor", f"TypeError: it made Tensor, {NO_NETWORK}"),
        ("no_matrices", "ValueError: expected 2D or 3D input (got 4D input)"),
        ("no_weights", f"TypeError: it made Flatten, {NO_NETWORK}"),
        ("positional", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (96x16 and 8x5)"),
        ("few", "ValueError: of 2 inputs it makes outputs (2, 4), not (2, 5)"),
        ("deep", "ValueError: of 2 inputs it makes outputs (2, 5, 16, 16), not (2, 5)"),
        ("a_pair", "AttributeError: 'tuple' object has no attribute 'dim'"),
        ("one_row", "ValueError: of 2 inputs it makes outputs (1, 5), not (2, 5)"),
    ],
)
def test_users_networks_that_are_wrong(name, reason):
    said = refusal(f"users_models:{name}", {})
    assert said == f"model users_models:{name} cannot be made for inputs (3, 16, 16): {reason}"


def test_users_options_that_are_wrong():
    said = refusal("users_models:network", {"widht": 3})
    assert said == "model users_models:network: no option 'widht'; its options are width, depth"
    assert refusal("users_models:bare", {"width": 3}).endswith("'width'; its options are none")
    assert "too many positional arguments" in refusal("users_models:one_argument", {})


def test_users_options_before_a_star_are_listed_too():
    build("users_models:positional", {"width": 3}, (3,))
    assert refusal("users_models:positional", {"width": 3, "widht": 3}).endswith("'widht'; its options are width")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("users_models:absent", "cannot be imported: AttributeError: module 'users_models' has no attribute 'absent'"),
        ("no_such_module_at_all:network", "cannot be imported: ModuleNotFoundError: No module named 'no_such"),
        ("users_models:USERS", "cannot be imported: AttributeError: "),
        ("users_models:__name__", "is str, not a function"),
        ("users_models:", "cannot be imported: AttributeError: "),
    ],
)
def test_users_functions_that_are_not_there(name, words):
    said = refusal(name, {})
    assert said.startswith(f"model {name!r} ") and words in said


# ---- accuracy -----------------------------------------------------------------------------------------------------------


class Sign(nn.Module):
    """Class 1 where the weighted sum is positive; notes the size of each batch and whether it is in training mode."""

    def __init__(self, *weights):
        super().__init__()
        self.linear = nn.Linear(len(weights), 1, bias=False)
        self.linear.weight.data = torch.tensor([weights])
        self.seen = []

    def forward(self, x):
        self.seen.append((len(x), self.training, torch.is_grad_enabled()))
        y = self.linear(x)
        return torch.cat([-y, y], dim=1)


@pytest.mark.parametrize("n", [1, 999, 1000, 1001, 2500])
def test_accuracy_is_the_share_of_right_answers(rng, n):
    x = torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32)
    right = torch.tensor(rng.random(n) < 0.7)
    right[-1] = True  # the last batch counts
    labels = torch.where(right, (x[:, 0] > 0).long(), (x[:, 0] <= 0).long())
    net = Sign(1.0, 0.0, 0.0)
    assert models.accuracy(net, Examples(x, labels)) == int(right.sum()) / n
    batches = [1000] * (n // 1000) + [n % 1000] * (n % 1000 > 0)
    assert net.seen == [(size, False, False) for size in batches], "in evaluation mode, without gradients, in batches"


def test_accuracy_uses_running_statistics_and_changes_nothing():
    net = build("mlp", {"hidden": [8], "dropout": 0.9, "batch_norm": True}, (4,), 3)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    examples = Examples(torch.randn(60, 4), torch.randint(0, 3, (60,)))
    whole = models.accuracy(net, examples)
    each = [models.accuracy(net, Examples(x[None], y[None])) for x, y in zip(*examples, strict=True)]
    assert sum(each) / 60 == pytest.approx(whole), "an example's answer does not depend on its batch"
    assert not net.training and models.accuracy(net, examples) == whole
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_accuracy_with_other_weights():
    x = torch.tensor([[1.0, -1.0], [2.0, -3.0], [-1.0, 1.0]]).repeat(500, 1)
    examples = Examples(x, (x[:, 0] > 0).long())
    net = Sign(1.0, 0.0)
    assert models.accuracy(net, examples) == 1.0
    assert models.accuracy(net, examples, {"linear.weight": torch.tensor([[0.0, 1.0]])}) == 0.0
    assert models.accuracy(net, examples, {"linear.weight": torch.tensor([[-2.0, -1.5]])}) == pytest.approx(1 / 3)
    assert models.accuracy(net, examples, {}) == models.accuracy(net, examples, None) == 1.0
    assert net.linear.weight.tolist() == [[1.0, 0.0]], "the net keeps its own"


def test_accuracy_with_some_other_weights_keeps_the_rest():
    net = build("mlp", {"hidden": [8]}, (4,), 3)
    examples = Examples(torch.randn(200, 4), torch.randint(0, 3, (200,)))
    weights = {"1.weight": torch.randn(8, 4)}
    expected = models.accuracy(net, examples, weights)
    with torch.no_grad():
        net[1].weight.copy_(weights["1.weight"])
    assert models.accuracy(net, examples) == expected


# ---- what can be removed -----------------------------------------------------------------------------------------------


@each_model
def test_outputs_removed_leave_nothing_of_themselves(name, options):
    """With an output's tensors at 0, what its layer and norm hand on is 0, whatever the input."""
    net = build(name, options).eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    tensors, outputs = models.removable(net, "output")
    last = list(models.regularized(net))[-1]
    assert list(outputs) == [each for each in models.regularized(net) if each != last]
    modules = dict(net.named_modules())
    for weight, others in outputs.items():
        for each in (weight, *others):
            tensors[each].data[1] = 0.0
        seen = []
        after = modules[(others[-1] if others else weight).rpartition(".")[0]]
        handle = after.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        net(torch.randn(3, 3, 16, 16))
        handle.remove()
        assert bool((seen[0][:, 1] == 0).all()) and bool((seen[0][:, 0] != 0).any()), weight


def test_by_weight_all_regularized_tensors_are_removable():
    net = build("small-conv", CHEAP["small-conv"])
    tensors, outputs = models.removable(net, "weight")
    assert list(tensors) == list(models.regularized(net)) and outputs is None


def test_outputs_of_a_net_without_hidden_layers_cannot_be_removed():
    with pytest.raises(UserError, match="needs a hidden linear or convolutional layer"):
        models.removable(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "output")
