"""``softdiamond prune`` as its user meets it: from a model of one's own and from a comparison."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from softdiamond.compression import load

pytest.importorskip("torch_pruning")

MODEL = """
import torch
def net():
    return torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))
def deep():
    layers = torch.nn.Linear(12, 30), torch.nn.ReLU(), torch.nn.Linear(30, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4)
    layers[2].weight.data *= 1e-3
    return torch.nn.Sequential(*layers)
def frozen():
    return net().requires_grad_(False)
class Untrainable(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).numpy()
def untrainable():
    return torch.nn.Sequential(Untrainable(12, 4))
def none():
    return torch.nn.ReLU()
def fails():
    raise RuntimeError("no such net")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prunable_nets.py").write_text(MODEL)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 4))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


@pytest.fixture
def prune(call):
    return lambda *arguments: call("prune", *arguments)


NET = ("prunable_nets:net", "--weights", "w.safetensors", "--shape", "8x12")


def test_prune_shrink_export(folder, prune):
    formats = ["--format", "csr", "--format", "state_dict", "--format", "safetensors"]
    status, out, err = prune(*NET, "--sparsity", 0.5, "--outputs", "--shrink", *formats, "--out", "small")
    assert (status, err) == (0, [])
    assert (
        "before: 514 parameters" in out and "removed 15 channels of 1 layers" in out and "after: 259 parameters" in out
    )
    assert "flops" in out and "ms a call of 8" in out and "bytes on disk" in out
    small = torch.load(folder / "small" / "model.pt", weights_only=True)
    assert small["0.weight"].shape == (15, 12)
    assert all(
        torch.equal(value, small[name]) for name, value in load_file(folder / "small" / "model.safetensors").items()
    )
    assert torch.equal(load(folder / "small" / "model.csr.safetensors")["0.weight"], small["0.weight"])


def test_sparsity_and_gap_threshold(folder, prune):
    status, out, _ = prune(*NET, "--sparsity", 0.9, "--format", "csr")
    assert status == 0 and "90.00 % of the weights 0" in out
    state = load(folder / "softdiamond-pruned" / "model.csr.safetensors")
    assert sum(int((w == 0).sum()) for w in state.values() if w.dim() == 2) == 432
    status, out, _ = prune(*NET, "--gap-threshold")
    assert status == 0 and "no gap: nothing was changed" in out
    status, out, _ = prune(*NET, "--gap-threshold", "--scale", 0.02, "--step-lambda", 0.0002)
    assert status == 0 and "gives this mask" in out


def weights_kept(folder):
    state = load_file(folder / "softdiamond-pruned" / "model.safetensors")
    return [int(state[name].count_nonzero()) for name in ("0.weight", "2.weight")]


def test_a_sparsity_empties_no_tensor(folder, prune):
    state = load_file(folder / "w.safetensors")
    save_file(state | {"2.weight": state["2.weight"] / 1e3}, folder / "uneven.safetensors")
    status, out, _ = prune(*NET[:2], "uneven.safetensors", "--sparsity", 0.9)
    assert status == 0 and weights_kept(folder) == [46, 2]  # 2 of 120: a tenth of the tenth that all keep, rounded up
    assert "0.weight: 314 of 360 are 0\n2.weight: 118 of 120 are 0" in out
    for scope in ("relative", "layerwise"):
        prune(*NET[:2], "uneven.safetensors", "--sparsity", 0.9, "--scope", scope)
        assert min(weights_kept(folder)) > 2, scope
    assert weights_kept(folder) == [36, 12]


def test_a_sparsity_of_outputs_empties_no_layer(folder, prune):
    status, out, _ = prune("prunable_nets:deep", "--sparsity", 0.8, "--outputs", "--shrink", "--shape", "1x12")
    assert status == 0 and "2.weight: 870 of 900 are 0" in out


def test_the_network_of_a_training_checkpoint_is_taken(folder, prune):
    state = load_file(folder / "w.safetensors")
    state["2.weight"][:] = 0
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    torch.save({"model": state, "optimizer": optimizer, "step": torch.tensor(3)}, folder / "training.pt")
    status, out, err = prune(*NET[:2], "training.pt", "--sparsity", 0.1)
    assert (status, err) == (0, []) and "before: 514 parameters, 25.00 % of the weights 0" in out
    torch.save({"model": state, "average": state}, folder / "training.pt")
    status, _, err = prune(*NET[:2], "training.pt", "--sparsity", 0.1)
    assert status == 2 and err[0].endswith(
        "holds several state dicts of the network, under model, average: save one alone"
    )


def test_weights_of_other_sizes_are_told_in_one_short_line(folder, prune):
    save_file(nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).state_dict(), folder / "small.safetensors")
    status, _, err = prune(*NET[:2], "small.safetensors", "--sparsity", 0.1)
    assert status == 2 and len(err) == 1 and err[0].count("size mismatch") == 1
    assert "do not fit: size mismatch for 0.weight: " in err[0] and err[0].endswith("(and 2 more)")


def test_no_shape_is_asked_for_where_no_input_is_needed(folder, prune):
    status, out, err = prune(*NET[:3], "--sparsity", 0.5, "--gap-threshold", "--format", "csr", "--out", "small")
    assert (status, err) == (0, []) and "flops" not in out and "a call" not in out
    assert "after: 514 parameters, 50.00 % of the weights 0, " in out and "bytes dense" in out
    assert [path.name for path in (folder / "small").iterdir()] == ["model.csr.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (NET, "nothing to do"),
        ((*NET, "--sparsity", 1.5), "in (0, 1)"),
        ((*NET, "--format", "zip"), "no format 'zip'"),
        ((*NET, "--gap-threshold", "--scale", 0.1), "go together"),
        ((*NET, "--shrink", "--scale", 0.1, "--step-lambda", 0.1), "belongs to --gap-threshold"),
        ((*NET, "--shrink", "--alpha", 0.5), "--alpha belongs to --gap-threshold"),
        ((*NET, "--shrink", "--scale", 0.1), "--scale belongs to --gap-threshold"),
        ((*NET, "--gap-threshold", "--alpha", 0.5), "--alpha goes with --scale and --step-lambda"),
        (
            (*NET, "--gap-threshold", "--scale", 0.1, "--step-lambda", 0.1, "--alpha", 3),
            "--alpha must lie in [0.1, 2]; got 3",
        ),
        (
            (*NET, "--sparsity", 0.5, "--run", "x"),
            "--run belongs to a comparison's results; prunable_nets:net is taken for a function's model",
        ),
        ((*NET, "--sparsity", 0.5, "--data-dir", "x"), "--data-dir belongs to a comparison's results"),
        (("nowhere", "--weights", "w.safetensors"), "--weights belongs to a function's model"),
        (
            ("nowhere", "--shape", "1x2"),
            "--shape belongs to a function's model; nowhere is taken for a comparison's results",
        ),
        ((*NET, "--shrink", "--outputs"), "belongs to --sparsity"),
        ((*NET, "--shrink", "--scope", "global"), "belongs to --sparsity"),
        ((*NET, "--sparsity", 0.5, "--scope", "local"), "no scope 'local': there are global, relative, layerwise"),
        ((*NET[:3], "--shrink"), "--shrink and --format onnx need --shape"),
        ((*NET[:3], "--format", "onnx"), "--shrink and --format onnx need --shape"),
        (
            (*NET[:4], "2x-12", "--shrink"),
            "--shape is the shape of an input with its batch, such as 1x3x32x32; got '2x-12'",
        ),
        ((*NET[:4], "2x13", "--shrink"), "does not take the example"),
        (("prunable_nets:none", "--shape", "1x3", "--shrink"), "no weights to prune"),
        (
            ("prunable_nets:untrainable", "--shape", "1x12", "--shrink"),
            "does not take the example, in layer 0 (Untrainable)",
        ),
        (("prunable_nets:fails", "--shape", "1x3", "--shrink"), "no such net"),
        (
            ("prunable_nets:frozen", "--shrink"),
            "no weights to prune: none of the 4 parameters is to be regularized (2 frozen",
        ),
        (("prunable_nets:what", "--shrink"), "cannot be imported"),
        (("prunable_nets:net", "--weights", "none.pt", "--shrink"), "cannot read none.pt"),
        (("prunable_nets:net", "--weights", "other.safetensors", "--shrink"), "do not fit"),
        (("prunable_nets:net", "--weights", "junk.pt", "--shrink"), "junk.pt is no file of torch.save"),
        (("prunable_nets:net", "--weights", "nan.safetensors", "--sparsity", 0.5), "no weights to prune: 0.weight"),
        (("nowhere", "--shrink"), "holds no results"),
        (("prunable_nets:fails", "--sparsity", 1.5), "in (0, 1)"),  # before the model is made
        ((*NET, "--sparsity", 0.5, "--out", "junk.pt"), "--out is a folder for the files; junk.pt is a file"),
        ((*NET, "--sparsity", 0.5, "--out", "junk.pt/x/y"), "--out is a folder for the files; junk.pt is a file"),
    ],
)
def test_bad_input(folder, prune, arguments, words):
    save_file({"x": torch.ones(3)}, folder / "other.safetensors")
    (folder / "junk.pt").write_bytes(b"junk" * 50)
    state = load_file(folder / "w.safetensors")
    save_file(state | {"0.weight": state["0.weight"].fill_(torch.nan)}, folder / "nan.safetensors")
    status, _, err = prune(*arguments)
    assert status == 2 and len(err) == 1 and words in err[0], err
    assert not (folder / "softdiamond-pruned").exists()


def test_a_run_of_a_comparison(folder, call, prune):
    card = """
name = "tiny"
threads = 1
[data]
name = "digits"
train = 100
validation = 100
test = 100
[model]
name = "mlp"
options = { hidden = [8] }
[training]
optimizer = "SGD"
rate = 0.05
epochs = 2
batch = 32
[[methods]]
penalty = "none"
[tuning]
strengths = [0.01]
seeds = [100]
[final]
seeds = [0]
baseline = "none"
"""
    (folder / "tiny.toml").write_text(card)
    assert call("compare", "tiny.toml", "--workers", 1, "--out", "results")[0] == 0
    status, out, _ = prune("results", "--sparsity", 0.25, "--outputs", "--shrink", "--format", "csr")
    assert status == 0 and "final none seed 0" in out and "validation accuracy" in out and "removed 2 channels" in out
    (weights,) = (folder / "results" / "weights").iterdir()
    assert f"(--run {weights.stem}; of 1 runs that with the highest validation accuracy)" in out
    status, _, err = prune("results", "--run", "what", "--shrink")
    assert status == 2 and err[0].endswith(f"no run 'what' in results/weights: there are {weights.stem}")
