"""A network made smaller: dead channels removed with the same outputs, files that come back bit for bit, layers in compressed rows."""

import builtins
import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from softdiamond import Regularizer, Rule, SoftDiamond
from softdiamond.compression import export, load, shrink, sparse_linear
from softdiamond.experiments import models

pytest.importorskip("torch_pruning")


def lively(net: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


def prune(net: nn.Module, share=0.6) -> int:
    """Set some outputs of each hidden layer to 0 with all that goes with them; return how many."""
    tensors, outputs = models.removable(net, "output")
    count = 0
    for name, others in outputs.items():
        gone = torch.randperm(len(tensors[name]))[: int(share * len(tensors[name]))]
        count += len(gone)
        for each in (name, *others):
            tensors[each].data[gone] = 0
    return count


def vgg() -> nn.Module:
    layers = [
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, bias=False),
    ]
    layers += [
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 20, 3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(20 * 9, 30), nn.ReLU(), nn.Linear(30, 7))


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETS = {
    "mlp": lambda: models.mlp((3, 16, 16), 7, hidden=[40, 30], batch_norm=True),
    "vgg": vgg,
    "resnet18": lambda: models.resnet18((3, 16, 16), 7, width=8),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [False, True])
def test_shrunk_nets_compute_the_same(name, training):
    net = lively(NETS[name]()).train(training)
    prune(net)
    before = copy.deepcopy(net.state_dict())
    shrunk = shrink(net, IMAGES)
    small = shrunk.model
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "the net is as it was"
    assert net.training == small.training == training
    assert all(a.requires_grad for a in small.parameters())
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), net.eval()(x), rtol=1e-5, atol=1e-5)
    assert shrunk.difference < 1e-5 and shrunk.constant == 0
    assert shrunk.after.parameters < 0.6 * shrunk.before.parameters and shrunk.after.flops < 0.6 * shrunk.before.flops
    assert shrunk.before.parameters == sum(p.numel() for p in net.parameters())
    assert shrunk.after.bytes < 0.7 * shrunk.before.bytes and shrunk.after.seconds > 0
    if name != "resnet18":  # whose blocks share the channels of the stream
        assert not any(bool((w.flatten(1) == 0).all(1).any()) for w in models.regularized(small).values())
    small.train()(x).sum().backward()  # an ordinary module, which can be trained on
    torch.optim.SGD(small.parameters(), lr=0.01).step()


def test_shrunk_transformer_block():
    block = nn.TransformerEncoderLayer(16, 4, 64, batch_first=True, dropout=0.0).eval()
    block.linear1.weight.data[10:40] = 0  # constants of their bias, which move into the bias of what reads them
    block.linear2.weight.data[:, 50:55] = 0
    shrunk = shrink(block, torch.randn(2, 7, 16))
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(shrunk.model(x), block(x), rtol=1e-5, atol=1e-5)
    assert shrunk.removed == {"linear1": 35} and shrunk.model.linear1.out_features == 29
    assert "ratio" in str(shrunk)


def test_trained_by_groups_then_shrunk():
    """The whole way: a group soft diamond with a target, then fewer neurons."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    rules = [Rule("3.weight", skip=True)]
    Regularizer(net, SoftDiamond(0.5, group="output"), 0.1, rules=rules, sparsity_target=0.7, total_steps=60).attach(
        optimizer
    )
    x = torch.randn(64, 20)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), x[:, :5].argmax(1)).backward()
        optimizer.step()
    shrunk = shrink(net, x[:2])
    assert shrunk.model[0].out_features == 18 and shrunk.model[3].in_features == 18
    torch.testing.assert_close(shrunk.model.eval()(x), net.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_constant_that_cannot_be_moved_exactly_stays():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(), nn.Linear(1024, 2)
    )
    net[0].weight.data[5:] = 0
    shrunk = shrink(net, IMAGES)
    assert shrunk.constant == 3 and not shrunk.removed and "3 channels stay" in str(shrunk)
    net[2].padding = (0, 0)
    net[4] = nn.Linear(4 * 196, 2)
    assert shrink(net, IMAGES).removed == {"0": 3}, "without padding it can"


def test_a_channel_that_nothing_reads_goes_through_a_flattening():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(5 * 4, 2))
    net[4].weight.data[:, 8:12] = 0  # all four places of channel 2
    net[4].weight.data[:, 0] = 0  # one place of channel 0
    small = shrink(net, IMAGES).model
    assert torch.equal(small[0].weight, net[0].weight[[0, 1, 3, 4]])
    torch.testing.assert_close(small(IMAGES), net(IMAGES))


def test_an_emptied_layer_keeps_one_channel():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.zeros_(net[0].weight), nn.init.zeros_(net[0].bias)
    assert shrink(net, torch.randn(2, 4)).model[0].out_features == 1


def test_outputs_norms_over_channels_and_tied_weights_stay():
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    net[0].weight.data[:3] = 0
    net[2].weight.data[0] = 0
    assert not shrink(net, torch.randn(2, 4)).removed
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    tied[0].weight.data[:, 1] = 0
    assert not shrink(tied, torch.randn(2, 4)).removed


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(5, 4)

    def forward(self, x):
        return self.two(self.one(x))


class Fixed(nn.Module):
    """Its number of channels is written into its code."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(self.one(x) + torch.zeros(6))


def test_what_cannot_be_shrunk_is_refused_and_named():
    with pytest.raises(TypeError, match=r"shrink takes a torch\.nn\.Module; got int"):
        shrink(3, torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"does not take the example, in layer two \(Linear\).*nothing was changed"):
        shrink(Broken(), torch.randn(2, 4))
    net = Fixed()
    net.one.weight.data[:2], net.one.bias.data[:2] = 0, 0
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        ValueError, match=r"does not run without its dead channels, in layer one \(Linear\).*nothing was changed"
    ):
        shrink(net, torch.randn(2, 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_modules_frozen_in_a_training_net_stay_so(tmp_path):
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2))
    net[1].eval()
    modes = [module.training for module in net.modules()]
    x = torch.randn(4, 8)
    small = shrink(net, x).model
    sparse_linear(net, x)
    with pytest.raises(ValueError, match="does not take the example"):
        shrink(net, x[:, :3])
    for each in (net, small):
        assert [module.training for module in each.modules()] == modes


def test_without_torch_pruning(monkeypatch):
    without(monkeypatch, "torch_pruning")
    with pytest.raises(ImportError, match=r'pip install "softdiamond\[shrink\]"'):
        shrink(nn.Linear(2, 2), torch.ones(1, 2))


def without(monkeypatch, package):
    there = builtins.__import__

    def missing(name, *more):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)


# ---- files ------------------------------------------------------------------------------------------------------------


def sparse_net(dtype=torch.float32, share=0.98):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 40), nn.Unflatten(1, (10, 2, 2)), nn.Conv2d(10, 8, 2)
    ).to(dtype)
    for p in net.parameters():
        if p.dim() > 1:
            p.data.masked_fill_(torch.rand(p.shape) < share, 0.0)
    return net


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_compressed_rows_come_back_bit_for_bit(tmp_path, dtype):
    net = sparse_net(dtype)
    net[0].weight.data[3, 3], net[0].weight.data[7, 5] = float("nan"), float("-inf")
    done = export(net, tmp_path / "net.safetensors", "csr")
    state = load(done.path)
    assert sorted(state) == sorted(net.state_dict())
    for name, value in net.state_dict().items():
        assert state[name].dtype == dtype and state[name].shape == value.shape
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        assert torch.equal(state[name].view(bits), value.view(bits)), name
    assert done.bytes == done.path.stat().st_size < 0.25 * done.dense_bytes
    assert sparse_net(dtype).load_state_dict(state)


def test_compressed_rows_are_not_taken_where_they_lose(tmp_path):
    net = sparse_net(share=0.1)
    done = export(net, tmp_path / "net.safetensors", "csr")
    assert "lose to dense" in str(done) and "0.weight" in str(done)
    assert all(dense < rows for dense, rows in done.tensors.values())
    assert done.bytes < 1.01 * done.dense_bytes
    assert torch.equal(load(done.path)["0.weight"], net[0].weight)


def test_layout_is_as_documented(tmp_path):
    net = nn.Linear(3, 2, bias=False)
    net.weight.data = torch.tensor([[0.0, 2.0, -0.0], [0.0, 0.0, 0.0]])
    big = nn.ModuleDict({"small": net, "wide": nn.Linear(70_000, 2, bias=False)})
    big["wide"].weight.data.zero_()
    big["wide"].weight.data[1, 69_999] = 5.0
    export(big, tmp_path / "x.safetensors", "csr")
    stored = load_file(tmp_path / "x.safetensors")
    assert stored["small.weight.csr.values"].tolist() == [2.0] and stored["small.weight.csr.columns"].tolist() == [1]
    assert stored["small.weight.csr.starts"].tolist() == [0, 1, 1]
    assert stored["small.weight.csr.columns"].dtype == torch.uint8
    assert stored["wide.weight.csr.columns"].tolist() == [69_999]


def test_dense_and_state_dict(tmp_path):
    net = lively(vgg())
    export(net, tmp_path / "net.safetensors")
    state = load_file(tmp_path / "net.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(load(tmp_path / "net.safetensors")["0.weight"], net[0].weight), "a dense file is read too"
    done = export(net, tmp_path / "net.pt", "state_dict")
    other = vgg()
    other.load_state_dict(torch.load(done.path, weights_only=True))
    assert torch.equal(other[0].weight, net[0].weight) and done.bytes > 0


def test_a_transpose_is_stored_beside_what_it_shares_memory_with(tmp_path):
    net = nn.Module()
    net.register_buffer("w", torch.arange(9.0).view(3, 3))
    net.register_buffer("turned", net.w.t())
    net.register_buffer("again", net.w)
    done = export(net, tmp_path / "net.safetensors")
    state = load_file(done.path)
    assert sorted(state) == ["turned", "w"] and torch.equal(state["turned"], net.w.t())
    assert done.bytes == done.dense_bytes


def test_onnx_is_checked(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = sparse_net()
    x = torch.randn(4, 300)
    done = export(net, tmp_path / "net.onnx", "onnx", example_input=x)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(x).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs example_input"):
        export(net, tmp_path / "other.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    export(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        export(nn.Linear(3, 3), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="format must be one of"):
        export(nn.Linear(2, 2), path, "zip")


@pytest.mark.parametrize("format", ["safetensors", "csr", "state_dict", "onnx"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, format):
    for path, words in (
        (tmp_path / "none" / "x", f"there is no folder {tmp_path / 'none'}"),
        (tmp_path, "it is a folder"),
        (tmp_path / ("x" * 253), "File name too long"),  # with the ending of the file beside it
    ):
        with pytest.raises(OSError, match="cannot write") as error:
            export(nn.Linear(2, 2), path, format, example_input=torch.ones(1, 2))
        assert str(error.value) == f"cannot write {path}: {words}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")


def test_cut_compressed_rows_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(
        {"w.csr.values": torch.ones(2)}, tmp_path / "x.safetensors", {"softdiamond.csr": '{"w": {"shape": [2, 2]}}'}
    )
    with pytest.raises(ValueError, match="is damaged"):
        load(tmp_path / "x.safetensors")


def test_compressed_layers_compute_the_same():
    net = sparse_net(share=0.995)
    wide = nn.Sequential(nn.Linear(300, 2000), nn.ReLU(), nn.Linear(2000, 300), net)
    for layer in (wide[0], wide[2]):
        layer.weight.data.masked_fill_(torch.rand(layer.weight.shape) < 0.995, 0.0)
    x = torch.randn(64, 300)
    done = sparse_linear(wide, x)
    assert set(done.layers) == {"0", "2", "3.0", "3.2"} and done.before > 0 and done.after > 0
    assert "0" in done.taken, "200 times fewer multiplications"
    with torch.no_grad():
        torch.testing.assert_close(done.model(x), wide(x), rtol=1e-4, atol=1e-5)
    assert type(wide[0]) is nn.Linear
