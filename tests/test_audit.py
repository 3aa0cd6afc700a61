"""Audit of a checkpoint: known laws are found, odd tensors are skipped and said, bad files refused, the page needs no network."""

import argparse
import json
import math
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

import softdiamond
from softdiamond import stable
from softdiamond.audit import audit, page
from softdiamond.cli import main
from softdiamond.compression import OPTIMIZER_NAMES, is_optimizer_state


def one(tmp_path, tensor, ending="safetensors"):
    path = tmp_path / f"x.{ending}"
    save_file({"w": tensor}, path) if ending == "safetensors" else torch.save({"w": tensor}, path)
    (row,) = audit(path)
    return row


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 1.5, 1.9])
def test_known_laws_are_found(tmp_path, alpha, seed):
    w = torch.from_numpy(stable.rvs(alpha, size=200_000, scale=0.02, rng=seed)).float()
    row = one(tmp_path, w.view(400, 500))
    assert row["alpha"] == pytest.approx(alpha, abs=0.02) and row["scale"] == pytest.approx(0.02, rel=0.02)
    low, high = row["alpha_interval"]
    assert low < row["alpha"] < high and high - low < 0.04
    assert row["best"] in ("stable", "Student-t" if alpha == 1 else "stable") and row["heavy_tailed"]
    assert row["fits"]["stable"]["ks"] < 0.005 < row["fits"]["Gaussian"]["ks"]


@pytest.mark.parametrize("law", ["Gaussian", "Laplace", "Student-t"])
def test_alternatives_are_found(tmp_path, law, rng):
    draws = {
        "Gaussian": rng.normal(0, 0.1, 50_000),
        "Laplace": rng.laplace(0, 0.1, 50_000),
        "Student-t": 0.1 * rng.standard_t(4, 50_000),
    }
    row = one(tmp_path, torch.from_numpy(draws[law]))
    assert row["heavy_tailed"] == (law == "Student-t")
    assert row["best"] == law or (law == "Gaussian" and row["alpha"] > 1.99)
    ks = stats.kstest(
        np.abs(draws["Gaussian"]), lambda x: stats.halfnorm.cdf(x, scale=np.sqrt(np.mean(draws["Gaussian"] ** 2)))
    )
    if law == "Gaussian":
        assert row["fits"]["Gaussian"]["ks"] == pytest.approx(ks.statistic, abs=2e-3)
        exact = stats.norm.logpdf(draws[law], scale=np.sqrt(np.mean(draws[law] ** 2))).mean()
        assert row["fits"]["Gaussian"]["log_likelihood"] == pytest.approx(exact, abs=1e-3)


def test_energy_rms_zeros_and_suggestion_equal_naive_ones(tmp_path, rng):
    w = rng.normal(size=20_000) * np.exp(rng.normal(size=20_000))
    w[:5000] = 0
    row = one(tmp_path, torch.from_numpy(w).float())
    size = np.sort(np.abs(w))
    energy = np.cumsum(size**2) / np.sum(size**2)
    for share, key in ((0.01, "1%"), (0.05, "5%")):
        assert row["removable"][key]["share"] == pytest.approx(np.mean(energy <= share), abs=3e-3)
        assert row["removable"][key]["threshold"] == pytest.approx(size[np.sum(energy <= share)], rel=0.03)
    assert row["zero"] == 0.25 and "5,000 exact zeros" in row["note"]
    assert row["rms"] == pytest.approx(np.sqrt(np.mean(w[5000:] ** 2)), rel=1e-3)
    assert row["suggested"]["relative_scale"] == pytest.approx(row["scale"] / row["rms"], rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_every_float_type_and_ending(tmp_path, dtype, ending, seed):
    w = torch.from_numpy(stable.rvs(1.5, size=30_000, scale=0.02, rng=seed)).to(dtype)
    row = one(tmp_path, w, ending)
    assert row["alpha"] == pytest.approx(1.5, abs=0.04) and row["why"] is None
    assert json.loads(json.dumps(row, allow_nan=False))["shape"] == [30_000]


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e200])
def test_weights_without_a_square_are_skipped_and_said(tmp_path, size, rng):
    row = one(tmp_path, torch.from_numpy(size * rng.normal(size=1000)))
    assert "has no square in float64" in row["why"] and "rms" not in row


def test_what_has_no_fit_is_skipped_and_said(tmp_path):
    broken = torch.randn(1000)
    broken[3] = math.nan
    content = {
        "model": {
            "weight": torch.randn(30, 30),
            "steps": torch.arange(5),
            "few": torch.randn(10),
            "empty": torch.empty(0),
        },
        "nan": broken,
        "same": torch.full((1000,), 0.5),
        "sparse": torch.eye(10).to_sparse(),
        "norm": 1 + 0.01 * torch.randn(1000),
        "rest": [1, "text", None, (torch.randn(20, 20).T,)],
    }
    torch.save(content, tmp_path / "x.pt")
    rows = {row["name"]: row for row in audit(tmp_path / "x.pt")}
    reasons = {"model.steps": "int64", "model.few": "10 weights", "model.empty": "empty", "sparse": "sparse"}
    reasons["nan"] = "1 of 1,000 weights are NaN"
    for name, words in reasons.items():
        assert words in rows[name]["why"], name
    assert rows["model.weight"]["why"] is None and rows["rest.3.0"]["why"] is None
    assert "not centered at 0" in rows["norm"]["note"]
    assert len(rows) == 9


def trained():
    net = torch.nn.Linear(30, 20)
    optimizers = torch.optim.AdamW(net.parameters()), torch.optim.SGD(net.parameters(), momentum=0.9)
    net(torch.randn(8, 30)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    return net.state_dict(), *(optimizer.state_dict() for optimizer in optimizers)


def test_what_an_optimizer_keeps_is_no_weight(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    model, adam, sgd = trained()
    by_name = {"optim": {"state": {"weight": adam["state"][0]}, "param_groups": []}}
    flat = {"optimizer.state.weight": torch.randn(30, 20), "fc.exp_avg_sq": torch.rand(30, 20)}
    content = {
        "model": model,
        "optimizer": adam,
        "training": [{"opt": sgd}],
        "optimizer_b": flat,
        **by_name,
        "epoch": 3,
    }
    torch.save(content, tmp_path / "x.pt")
    rows = audit(tmp_path / "x.pt")
    state = [row["name"] for row in rows if row["why"] == "state of an optimizer"]
    assert [row["name"] for row in rows if row["name"] not in state] == ["model.weight", "model.bias"]
    for name in ("optimizer.state.0.exp_avg", "training.0.opt.state.0.momentum_buffer", "optim.state.weight.step"):
        assert name in state
    assert main(["audit", str(tmp_path / "x.pt"), "--out", str(tmp_path / "x.html")]) == 0
    out = capsys.readouterr().out
    assert f"{len(rows)} tensors, 1 fitted, 0 heavy-tailed" in out and out.count("skipped: state") == 1
    assert f"({len(state)} tensors)" in out and "optimizer.state.0.exp_avg" not in out
    assert all(line[-1] in "┓┃┩│┘" for line in out.splitlines()[:-1]), "no column is cut"
    text = (tmp_path / "x.html").read_text("utf-8")
    assert f"{len(rows)} tensors; 1, of 600 weights, have a fit" in text and "skipped: state of an optimizer" in text
    torch.save(adam, tmp_path / "x.pt")
    assert {row["why"] for row in audit(tmp_path / "x.pt")} == {"state of an optimizer"}
    torch.save({"model": model, "optimizer_head": model, **adam}, tmp_path / "x.pt")
    fitted = [row["name"] for row in audit(tmp_path / "x.pt") if row["why"] is None]
    assert fitted == ["model.weight", "optimizer_head.weight"], (
        "what stands beside it, or has such a name, is looked at"
    )
    save_file(flat | {"state.0.weight": model["weight"]}, tmp_path / "x.safetensors")
    assert [row["name"] for row in audit(tmp_path / "x.safetensors") if row["why"] is None] == ["state.0.weight"]


def test_the_public_name_is_there_without_an_import_of_its_own(tmp_path):
    """``import softdiamond as sd; sd.audit.audit(path)``, as README names it."""
    save_file({"w": torch.ones(3)}, tmp_path / "net.safetensors")
    code = f"import softdiamond as sd; print(sd.audit.audit({str(tmp_path / 'net.safetensors')!r})[0]['name'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "w"), done.stderr
    assert "audit" in softdiamond.__all__


def test_the_names_of_optimizer_state_are_those_that_command_and_page_state(tmp_path, capsys):
    assert all(is_optimizer_state(f"layer.{name}.0") for name in OPTIMIZER_NAMES)
    assert not any(is_optimizer_state(name) for name in ("layer.weight", "my_optimizer_net.weight", "exp_average"))
    listed = f"{', '.join(OPTIMIZER_NAMES[:-1])} or {OPTIMIZER_NAMES[-1]}"
    assert main(["audit", "--help"]) == 0
    assert listed in " ".join(capsys.readouterr().out.replace("│", " ").split())
    page.write([], "net", tmp_path / "page.html")
    assert listed in " ".join((tmp_path / "page.html").read_text().split())


def test_tensors_that_are_not_finite_are_named_first_and_last(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    tensors = {"a[b]": torch.full((300,), torch.nan), "c": torch.randn(300), "d": torch.full((3,), torch.inf)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert main(["audit", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "x.html")]) == 0
    out, said = capsys.readouterr().out, "NaN or infinite weights in 2 of 3 tensors: a[b], d"
    assert out.splitlines()[-1].endswith(f"; {said}") and "removable" in out and "suggested" in out
    text = (tmp_path / "x.html").read_text("utf-8")
    assert f"<strong>{said}.</strong>" in text and "removable at 5 %" in text and "suggested alpha, scale" in text
    save_file({"c": tensors["c"]}, tmp_path / "x.safetensors")
    assert main(["audit", str(tmp_path / "x.safetensors")]) == 0
    assert "NaN" not in capsys.readouterr().out


def test_atoms_are_steps_of_the_distribution_function(tmp_path, rng):
    """The largest difference is just below an atom."""
    w = 0.4 * np.round(rng.standard_normal(100_000) / 0.4)
    save_file({"w": torch.from_numpy(w).float()}, tmp_path / "x.safetensors")
    (row,) = audit(tmp_path / "x.safetensors")
    size = np.abs(w[w != 0])
    sd = row["fits"]["Gaussian"]["parameters"]["sd"]
    exact = stats.kstest(size, stats.halfnorm(scale=sd).cdf).statistic
    assert exact > 0.2 and row["fits"]["Gaussian"]["ks"] == pytest.approx(exact, abs=0.02)


def test_no_law_fits(tmp_path, capsys, rng):
    pytest.importorskip("matplotlib")
    two_sizes = rng.choice([-1, 1], 6000) * np.repeat([1e-6, 1.0], 3000) * (1 + 0.01 * rng.normal(size=6000))
    row = one(tmp_path, torch.from_numpy(two_sizes))
    assert min(law["ks"] for law in row["fits"].values()) > 0.1 and row["note"].startswith("no law fits: ")
    assert row["best"] is None and row["heavy_tailed"] is None
    assert row["suggested"] == {"alpha": None, "relative_scale": None}
    fitting = one(tmp_path, torch.from_numpy(rng.normal(size=200)))
    assert row.keys() == fitting.keys() and fitting["best"] is not None, "200 draws of a law fit"
    save_file({"w": torch.from_numpy(two_sizes)}, tmp_path / "x.safetensors")
    assert main(["audit", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "x.html")]) == 0
    assert "1 tensors, 1 fitted, 0 heavy-tailed, 1 that no law fits" in capsys.readouterr().out
    text = (tmp_path / "x.html").read_text("utf-8")
    assert "none, KS from 0." in text and "no law fits: the KS of each is above 0.1" in text


def test_tiny_and_huge_weights(tmp_path, rng):
    for size in (1e-36, 1e30):
        row = one(tmp_path, torch.from_numpy(rng.normal(size=2000) * size).float())
        assert row["why"] is None and row["rms"] == pytest.approx(size, rel=0.1)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.safetensors", b"\x10", "is damaged"),
        ("x.safetensors", b"junk" * 50, "is damaged"),
        ("x.pt", b"junk" * 50, "x.pt is no file of torch.save"),
        ("x.pt", b"", "x.pt is empty"),
        ("x.pt", pickle.dumps({"w": np.ones(3)}), "x.pt is a plain pickle: refused"),
        ("x.pt", b"PK\x03\x04 and no more", "x.pt is damaged: its end is missing"),
        ("x.txt", b"text", "of an unknown kind"),
    ],
)
def test_bad_files(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert main(["audit", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.splitlines()) == 1


def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"w": torch.ones(3), "x": Evil()}, tmp_path / "x.pt")
    assert main(["audit", str(tmp_path / "x.pt")]) == 2
    out, err = capsys.readouterr()
    assert "refused" in err and "ran" not in out and "state_dict" in err
    needs = {"torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2), "argparse.Namespace": {"a": argparse.Namespace()}}
    for name, content in needs.items():
        torch.save(content, tmp_path / "y.pt")
        assert main(["audit", str(tmp_path / "y.pt")]) == 2
        err = capsys.readouterr().err
        assert f"which needs {name}: refused" in err and len(err.splitlines()) == 1
    torch.save({"w": torch.ones(3)}, tmp_path / "y.pt", pickle_protocol=4)
    assert main(["audit", str(tmp_path / "y.pt")]) == 2
    assert "damaged, or a pickle of more than tensors: refused" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:  # a TorchScript archive, as far as torch.load looks
        for name in ("y/version", "y/data.pkl", "y/constants.pkl"):
            archive.writestr(name, "3\n")
    assert main(["audit", str(tmp_path / "y.pt")]) == 2
    assert "a TorchScript archive: refused" in capsys.readouterr().err


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_checkpoint(tmp_path, capsys, zipped):
    torch.save({"w": torch.randn(100, 100)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert audit(tmp_path / "x.pt")[0]["why"] is None
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:20_000])
    assert main(["audit", str(tmp_path / "x.pt")]) == 2
    assert "x.pt is damaged" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "none.pt")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_command_prints_a_table_json_alone_and_a_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    save_file(
        {"one.weight": torch.randn(50, 40), "two<b>": torch.randn(30, 40), "n": torch.arange(3)},
        tmp_path / "x.safetensors",
    )
    assert main(["audit", str(tmp_path / "x.safetensors")]) == 0
    out, err = capsys.readouterr()
    assert "one.weight" in out and "skipped" in out and "3 tensors, 2 fitted, 0 heavy-tailed" in out and err == ""
    page = tmp_path / "folder" / "page.html"
    assert main(["audit", str(tmp_path / "x.safetensors"), "--json", "--out", str(page)]) == 0
    out, err = capsys.readouterr()
    tensors = json.loads(out)["tensors"]
    assert {"name", "shape", "alpha", "alpha_interval", "scale", "scale_interval"} <= set(tensors[1])
    assert str(page) in err
    text = page.read_text("utf-8")
    assert (
        text.count("<svg") == 2
        and "two&lt;b&gt;" in text
        and "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    )
    assert "mathdefault" not in text
    assert main(["audit", str(tmp_path / "x.safetensors"), "--out", "page.txt"]) == 2


def test_streams(tmp_path):
    """Each tensor is told before it is read, in the file's order; a file is opened anew so that it is let go."""
    save_file({f"w{n}": torch.randn(300, 10) for n in range(5)}, tmp_path / "x.safetensors")
    seen = []
    rows = audit(tmp_path / "x.safetensors", seen.append)
    assert seen == [row["name"] for row in rows] and len(rows) == 5
