"""Ways to a net of which most weights are exactly 0, side by side: accuracy, zeros, time of training.

Same net, same data, same number of tuning trainings for every method that has a setting, and up to two settings more at an end of
its range that was chosen; settings are chosen on validation data for each share, final runs are on fresh seeds, the test set is read
for these alone. Finished trainings are kept in OUT/records.jsonl: the same command goes on where it was stopped.

- once, fine-tuned: no penalty, the smallest weights removed after training (`torch.nn.utils.prune`), then a short training;
- gradual none, L2, L1, soft diamond: `Regularizer(..., sparsity_target=...)`, all with the same schedule of removal;
- torchao L1, group lasso: proximal steps of torchao's `prototype.pat`, rows as groups; homotopy: `schedule="homotopy"`;
  snap: soft diamond, then `softdiamond.gap_threshold`. Of these a net counts for all shares up to its own, and beyond with its
  smallest weights removed.

Commands: python studies/sparsity.py digits --out OUT
          python studies/sparsity.py mlp --data-dir FOLDER --out OUT    (and small-conv, resnet18)
          python studies/sparsity.py digits --out OUT --part variants   (what makes the target better; also mlp)
          python studies/sparsity.py mlp --data-dir FOLDER --out OUT --part files   (bytes, flops and time of a call)
          python studies/sparsity.py digits --out OUT --part show       (tables and the figure from the records)
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch
from scipy import stats
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

import softdiamond as sd
from softdiamond.compression import export, shrink, sparse_linear
from softdiamond.experiments import card, models
from softdiamond.experiments.data import Splits, load
from softdiamond.pruning import GradualPruning, Ranking, cubic_schedule, hold_zeros, measures
from softdiamond.regularizer import _sparsity

SHARES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
CARD = """
name = "sparsity"
[data]
name = "{data}"
train = {train}
validation = {validation}
[model]
name = "{model}"
options = {options}
[training]
optimizer = "{optimizer}"
rate = {rate}
momentum = 0.9
schedule = "cosine"
epochs = {epochs}
batch = {batch}
[[methods]]
penalty = "none"
[tuning]
strengths = [1.0]
seeds = [100]
[final]
seeds = [0]
baseline = "none"
"""
CIFAR = {"data": "cifar10", "train": 8000, "validation": 4000, "optimizer": "SGD", "rate": 0.02, "batch": 128}
CONV = "{ channels = [16, 32, 64], hidden = 64 }"
PROBLEMS = {
    "digits": {
        "data": "digits", "train": 800, "validation": 400, "model": "mlp", "options": "{ hidden = [256, 128] }",
        "optimizer": "AdamW", "rate": 0.001, "epochs": 92, "batch": 64,
    },  # 13 batches an epoch: 1,196 steps
    "mlp": CIFAR | {"model": "mlp", "options": "{ hidden = [256, 256] }", "epochs": 20},
    "small-conv": CIFAR | {"model": "small-conv", "options": CONV, "epochs": 6},
    "resnet18": CIFAR | {"model": "resnet18", "options": "{}", "epochs": 30},
}  # fmt: skip
# Settings tried, as many for every method, and up to two more at an end that was chosen: strengths, lambdas of torchao.
GRADUAL = {"gradual L2": sd.L2(), "gradual L1": sd.L1(), "gradual soft diamond": sd.SoftDiamond(0.5)}
GRIDS = {
    "digits": {"gradual L2": (0.3, 1, 3, 10), "gradual L1": (0.1, 0.3, 1, 3), "gradual soft diamond": (0.1, 0.3, 1, 3),
               "torchao L1": (0.1, 0.2, 0.4, 0.8), "torchao group lasso": (0.1, 0.2, 0.4, 0.8),
               "homotopy": (3, 6, 10, 16), "snap": (1, 3, 6, 10)},
    "cifar": {"gradual L2": (0.002, 0.0043, 0.0093, 0.02), "gradual L1": (0.002, 0.0043, 0.0093, 0.02),
              "gradual soft diamond": (0.002, 0.0043, 0.0093, 0.02), "torchao L1": (0.0003, 0.001, 0.002, 0.004),
              "torchao group lasso": (0.0003, 0.001, 0.002, 0.004), "homotopy": (0.0043, 0.0093, 0.02, 0.043),
              "snap": (0.0043, 0.0093, 0.02, 0.043)},
    "small-conv": {"gradual L2": (0.006, 0.014, 0.03, 0.06), "gradual L1": (0.006, 0.014, 0.03, 0.06),
                   "gradual soft diamond": (0.006, 0.014, 0.03, 0.06), "torchao L1": (0.001, 0.003, 0.006, 0.012),
                   "torchao group lasso": (0.001, 0.003, 0.006, 0.012), "homotopy": (0.014, 0.03, 0.06, 0.13),
                   "snap": (0.014, 0.03, 0.06, 0.13)},
}  # fmt: skip
TUNED_AT = (0.95, 0.99)  # of a gradual removal; the nearest serves the other shares
WIDENED = 2
SNAPPED = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # scales of a last proximal step, in units of the rms at the start


def loaded(problem: str, folder: Path | None) -> tuple[card.Card, Splits]:
    chosen = card.parse(CARD.format(**PROBLEMS[problem]), problem)
    return chosen, load(chosen.data, folder)


def steps_of(chosen: card.Card, splits: Splits) -> int:
    return chosen.training.epochs * math.ceil(len(splits.train.labels) / chosen.training.batch)


def fresh(chosen: card.Card, splits: Splits, seed: int) -> torch.nn.Module:
    return models.build(chosen.model.name, chosen.model.options, splits.shape, splits.classes, seed)


def optimizer_of(groups, training: card.Training, rate: float = 0.0) -> torch.optim.Optimizer:
    rate = rate or training.rate
    if training.optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=training.momentum, fused=True)


def train(net, splits: Splits, training: card.Training, seed: int, optimizer, steps: int) -> float:
    """Train with a cosine to 0, return seconds of the processor; batches depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    began, step = time.process_time(), 0
    net.train()
    while step < steps:
        for chosen in torch.randperm(len(splits.train.labels), generator=generator).split(training.batch):
            if step == steps:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            cross_entropy(net(splits.train.inputs[chosen]), splits.train.labels[chosen]).backward()
            optimizer.step()
            step += 1
    return time.process_time() - began


def cut(net, share: float):
    """Copy without the smallest weights, by PyTorch's own pruning."""
    net = copy.deepcopy(net)
    names = models.regularized(net)
    owners = [(net.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
    prune.global_unstructured(owners, prune.L1Unstructured, amount=share)
    for module, name in owners:
        prune.remove(module, name)
    return net


def zeros(net) -> float:
    return measures(models.regularized(net))["zero"]


def torchao_optimizer(net, training: card.Training, group_type: str, prox_type: str, lam: float):
    from torchao.prototype.pat.optim import PruneOptimizer

    weights = list(models.regularized(net).values())
    others = [p for p in net.parameters() if all(p is not w for w in weights)]
    pruned = {"params": weights, "prox_type": prox_type, "group_type": group_type, "reg_lambda": lam}
    return PruneOptimizer(optimizer_of([pruned, {"params": others}], training))


def row(net, splits: Splits, test, share: float) -> dict:
    result = {"share": share, "zeros": zeros(net), "validation": models.accuracy(net, splits.validation)}
    return result | {"test": None if test is None else models.accuracy(net, test)}


def perform(run: dict, chosen: card.Card, splits: Splits) -> dict:
    """Train as a run says and measure; only a final run opens the test set."""
    method, strength, seed, training = run["method"], run["strength"], run["seed"], chosen.training
    net, steps = fresh(chosen, splits, seed), steps_of(chosen, splits)
    test = splits.seal().open() if run["phase"] == "final" else None
    if method.startswith("torchao"):
        kind = ("Dim0Grouper", "ProxGroupLasso") if "group" in method else ("ElemGrouper", "ProxLasso")
        seconds = train(net, splits, training, seed, torchao_optimizer(net, training, *kind, strength), steps)
        return {"seconds": seconds, "own": zeros(net), "rows": list(at_least(net, splits, test))}
    optimizer = optimizer_of(net.parameters(), training)
    settings = run.get("settings", {})
    reg = None
    if method.startswith("gradual") or method == "variant":
        penalty = GRADUAL.get(method, sd.SoftDiamond(settings.pop("alpha", 0.5)) if method == "variant" else sd.L2())
        mode = "prox" if method == "gradual L1" else "implicit"
        change = settings.pop("change", None)
        reg = sd.Regularizer(net, penalty, strength, sparsity_target=run["share"], total_steps=steps, **settings)
        reg.attach(optimizer, mode)
        with changed(change, reg, strength, steps):
            seconds = train(net, splits, training, seed, optimizer, steps)
        return {"seconds": seconds, "own": zeros(net), "rows": [row(net, splits, test, run["share"])]}
    if method in ("homotopy", "snap"):
        more = {"schedule": "homotopy", "total_steps": steps} if method == "homotopy" else {}
        reg = sd.Regularizer(net, sd.SoftDiamond(0.5), strength, **more).attach(optimizer)
        rms = mean(record["reference"] for record in reg.describe().records if record["regularized"])
    seconds = train(net, splits, training, seed, optimizer, steps)
    if method == "snap":
        return {"seconds": seconds, "own": zeros(net), "rows": list(snapped(net, rms, splits, test))}
    if method == "fine-tuned":
        return {"seconds": seconds, "own": 0.0, "rows": list(fine_tuned(net, chosen, splits, test, seed, steps))}
    return {"seconds": seconds, "own": zeros(net), "rows": list(at_least(net, splits, test))}


def at_least(net, splits: Splits, test) -> Iterator[dict]:
    """The net at each share: as it is where it has the zeros, else without its smallest weights too."""
    for share in (0.0, *SHARES):
        yield row(net if zeros(net) >= share else cut(net, share), splits, test, share)


def snapped(net, rms: float, splits: Splits, test) -> Iterator[dict]:
    """For each share the smallest step that meets it; beyond the largest, the smallest weights are removed too."""
    start = copy.deepcopy(net.state_dict())
    critical = sd.prox.critical_step(sd.table.lookup_table(0.5))
    done = []
    for scale in (rms * each for each in SNAPPED):
        net.load_state_dict(start)
        reg = sd.Regularizer(net, sd.SoftDiamond(0.5), lam=1.0, scale=scale)
        result = sd.gap_threshold(net, reg, step_lambda=1.5 * critical * scale**2)
        done.append((scale, result.zeros, copy.deepcopy(net)))
    for share in SHARES:
        enough = [each for each in done if each[1] >= share]
        scale, _, best = min(enough, key=lambda each: each[1]) if enough else max(done, key=lambda each: each[1])
        yield row(best if enough else cut(best, share), splits, test, share) | {"scale": scale, "cut": not enough}


def fine_tuned(net, chosen: card.Card, splits: Splits, test, seed: int, steps: int) -> Iterator[dict]:
    for share in SHARES:
        tuned = cut(net, share)
        optimizer = optimizer_of(tuned.parameters(), chosen.training, 0.1 * chosen.training.rate)
        hold_zeros(tuned, optimizer)
        train(tuned, splits, chosen.training, seed, optimizer, steps // 10)
        yield row(tuned, splits, test, share)


# ---- variants of the target ------------------------------------------------------------------------------------------


class Free(GradualPruning):
    """Pruned weights may move between two updates of the masks, until the target is reached."""

    def hold(self) -> None:
        """Hold only now and then."""
        if self._reached == self._target or self._step % self._every == 0:
            super().hold()


class Regrowing(GradualPruning):
    """At each update pruned weights with the largest gradients come back, a tenth of what is kept, fewer towards the end."""

    def _rank(self, share: float) -> None:
        super()._rank(share)
        left = 1 - share / self._target
        if left <= 0:
            return
        weights = {name: w for name, w in self._weights.items() if w.grad is not None}
        slopes = {name: torch.where(self._masks[name], 0.0, w.grad.abs()) for name, w in weights.items()}
        kept = sum(int(mask.sum()) for mask in self._masks.values())
        some = 0.1 * left * kept / sum(w.numel() for w in weights.values())
        for name, mask in Ranking(slopes).masks(1 - some).items():
            self._masks[name] = self._masks[name] | mask


class changed:
    """Run with a variant of the removal or of the strength in place."""

    def __init__(self, change: str | None, reg, strength: float, steps: int) -> None:
        self.change, self.before = change, _sparsity.GradualPruning
        if change == "off after":
            reg.strength = lambda step: strength if step < 0.7 * steps else 0.0
        if change == "rising":
            reg.strength = lambda step: strength * cubic_schedule(step / steps, 0.1, 0.7)
        if change == "falling":
            reg.strength = lambda step: strength * (1 - cubic_schedule(step / steps, 0.1, 0.7))

    def __enter__(self) -> None:
        _sparsity.GradualPruning = {"free": Free, "regrowing": Regrowing}.get(self.change, self.before)

    def __exit__(self, *error: object) -> None:
        _sparsity.GradualPruning = self.before


OLD = {"pruning_interval": (0.1, 0.7)}
VARIANTS = {
    "removal 0.1 to 0.7": OLD,
    "removal 0.1 to 0.9": {"pruning_interval": (0.1, 0.9)},
    "removal 0.1 to 0.5": {"pruning_interval": (0.1, 0.5)},
    "removal 0 to 0.5": {"pruning_interval": (0.0, 0.5)},
    "removal 0 to 0.3": {"pruning_interval": (0.0, 0.3)},
    "division relative": OLD | {"scope": "relative"},
    "division layerwise": OLD | {"scope": "layerwise"},
    "relative scale 0.3": OLD | {"relative_scale": 0.3},
    "relative scale 3": OLD | {"relative_scale": 3.0},
    "alpha 1": OLD | {"alpha": 1.0},
    "alpha 1.5": OLD | {"alpha": 1.5},
    "scale to 0": OLD | {"schedule": "homotopy"},
    "strength off after removal": OLD | {"change": "off after"},
    "strength rising": OLD | {"change": "rising"},
    "strength falling": OLD | {"change": "falling"},
    "free between updates": OLD | {"change": "free"},
    "regrowing by gradient": OLD | {"change": "regrowing"},
}


# ---- which runs there are -----------------------------------------------------------------------------------------------


class Records:
    """Finished runs, in a file that grows."""

    def __init__(self, out: Path, chosen: card.Card, splits: Splits) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.chosen, self.splits = out / "records.jsonl", chosen, splits
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.done = {json.dumps(record["run"], sort_keys=True): record for record in map(json.loads, lines)}

    def of(self, **run) -> dict:
        """Return the record of a run, done now where it is not there."""
        key = json.dumps(run, sort_keys=True)
        if key not in self.done:
            result = perform(json.loads(key), self.chosen, self.splits)
            record = {"run": json.loads(key), **result}
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            self.done[key] = record
            told = ", ".join(f"{r['share']:g}: {100 * r['validation']:.1f}" for r in record["rows"])
            print(f"{key}: {record['seconds']:.1f} s; {100 * record['own']:.2f} % zeros; validation {told}", flush=True)
        return self.done[key]


def validation(records: list[dict], share: float) -> float:
    return mean(next(r["validation"] for r in record["rows"] if r["share"] == share) for record in records)


def compare(problem: str, records: Records, arguments) -> None:
    """Tune, then do the final runs seed by seed, so that whatever is finished holds all methods on the same seeds."""
    grids = GRIDS.get(problem, GRIDS["cifar"])
    methods = arguments.methods or ["once", "fine-tuned", "gradual none", *grids]
    tuning = range(100, 100 + arguments.tuning_seeds)
    finals: list[tuple[str, float, float | None]] = []
    for method in methods:
        gradual = method.startswith("gradual")
        places = [share if gradual else None for share in SHARES]
        if method not in grids:
            finals += [(method, 0.0, place) for place in dict.fromkeys(places)]
            continue
        strengths = sorted(grids[method][:: 1 + gradual])  # two places, so half as many
        for _ in range(1 + WIDENED):
            for at, strength in product(TUNED_AT if gradual else (None,), strengths):
                for seed in tuning:
                    records.of(phase="tune", method=method, strength=strength, seed=seed, share=at)
            chosen = picks(problem, records)
            ends = [(strengths[0], strengths[1]), (strengths[-1], strengths[-2])]
            taken = {chosen[method, share] for share in SHARES}
            more = [float(f"{end * end / inner:.2g}") for end, inner in ends if end in taken]
            if not more:
                break
            strengths = sorted({*strengths, *more})
        finals += [(method, chosen[method, share], place) for share, place in zip(SHARES, places, strict=True)]
    for seed in range(arguments.seeds):
        for method, strength, share in dict.fromkeys(finals):
            records.of(phase="final", method=method, strength=strength, seed=seed, share=share)


def try_variants(records: Records, arguments) -> None:
    for share in arguments.shares:
        for strength in arguments.strengths:
            for name, settings in VARIANTS.items():
                if arguments.methods and name not in arguments.methods:
                    continue
                for seed in range(100, 100 + arguments.tuning_seeds):
                    run = {"phase": "tune", "method": "variant", "strength": strength, "seed": seed, "share": share}
                    records.of(**run, settings=settings)
    table: dict[str, dict] = {}
    for record in records.done.values():
        run = record["run"]
        if run.get("method") == "variant":
            name = next(
                name for name, settings in VARIANTS.items() if json.loads(json.dumps(settings)) == run["settings"]
            )
            key = (run["share"], run["strength"])
            table.setdefault(name, {}).setdefault(key, []).append(100 * record["rows"][0]["validation"])
    columns = sorted({key for cells in table.values() for key in cells})
    print(
        "validation accuracy, %: share, strength |",
        " | ".join(f"{share:g}, {strength:g}" for share, strength in columns),
    )
    for name, cells in table.items():
        print(f"| {name} |", " | ".join(told(cells.get(column, [])) for column in columns), "|")


def told(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") if values else ""


# ---- what the zeros pay ------------------------------------------------------------------------------------------------


def files(records: Records, chosen: card.Card, splits: Splits, arguments) -> None:
    """Train with a target, by weight and by neuron or filter; measure file, flops and time of a call, dense and smaller."""
    strength = arguments.strengths[0]
    for unit, shares in (("weight", (0.9, 0.95, 0.98, 0.99)), ("output", (0.5, 0.8, 0.9))):
        for share in shares:
            key = json.dumps({"files": unit, "share": share, "strength": strength})
            if key in records.done:
                continue
            net, steps = fresh(chosen, splits, 0), steps_of(chosen, splits)
            last = list(models.regularized(net))[-1]
            rules = [sd.Rule(last, skip=True)] if unit == "output" else []
            optimizer = optimizer_of(net.parameters(), chosen.training)
            group = "output" if unit == "output" else None
            penalty = sd.SoftDiamond(0.5, group=group)
            reg = sd.Regularizer(net, penalty, strength, rules=rules, sparsity_target=share, total_steps=steps)
            reg.attach(optimizer)
            train(net, splits, chosen.training, 0, optimizer, steps)
            test = splits.seal().open()
            result = {"accuracy": models.accuracy(net, test), "zeros": zeros(net), "bytes": {}, "seconds": {}}
            net.eval()
            for format in ("safetensors", "csr", "state_dict"):
                result["bytes"][format] = export(net, records.path.parent / "net.tmp", format).bytes
            (records.path.parent / "net.tmp").unlink()
            for batch in (1, 128):
                shrunk = shrink(net, test.inputs[:batch])
                rows = sparse_linear(net, test.inputs[:batch])
                result["seconds"][batch] = {
                    "dense": shrunk.before.seconds, "shrunk": shrunk.after.seconds, "dense again": rows.before,
                    "compressed rows": rows.after, "layers in rows": rows.taken,
                }  # fmt: skip
                result["flops"] = [shrunk.before.flops / batch, shrunk.after.flops / batch]
                result["parameters"] = [shrunk.before.parameters, shrunk.after.parameters]
                result["shrunk bytes"] = shrunk.after.bytes
            record = {"run": json.loads(key), **result}
            with records.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


def show(problem: str, records: Records) -> None:
    """Print the tables in Markdown, of the seeds that all methods have, and draw accuracy against the share of zeros."""
    found: dict[tuple[str, float, float], dict[int, float]] = {}
    cost: dict[str, list[float]] = {}
    for record in records.done.values():
        run = record["run"]
        if run.get("phase") != "final":
            continue
        cost.setdefault(run["method"], []).append(record["seconds"])
        for each in record["rows"]:
            cell = found.setdefault((run["method"], each["share"], run["strength"]), {})
            cell[run["seed"]] = 100 * each["test"]
    picked, shares = picks(problem, records), (0.0, *SHARES)
    cells = {(method, share): found.get((method, share, picked.get((method, share), 0.0)), {})
             for method in cost for share in shares}  # fmt: skip
    whole = sorted(set.intersection(*(set(cell) for (_, share), cell in cells.items() if share)))
    kept = {key: [cell[seed] for seed in whole] for key, cell in cells.items() if set(whole) <= set(cell)}
    print(f"{problem}: test accuracy, % (mean ± standard deviation over {len(whole)} seeds)\n")
    print("| removed |", " | ".join(f"{100 * share:g} %" for share in shares), "| s, training |")
    print("|---" * (len(shares) + 2) + "|")
    for method, seconds in cost.items():
        print(f"| {method} |", " | ".join(told(kept.get((method, s), [])) for s in shares), f"| {mean(seconds):.1f} |")
    ours = "gradual soft diamond"
    print(f"\n{ours} minus the other, paired by seed: mean ± half the 95 % interval of Student's t\n")
    print("| removed |", " | ".join(f"{100 * share:g} %" for share in SHARES), "|")
    print("|---" * (len(SHARES) + 1) + "|")
    for method in cost:
        if method != ours:
            gaps = [[a - b for a, b in zip(kept[ours, s], kept[method, s], strict=True)] for s in SHARES]
            print(f"| {method} |", " | ".join(interval(gap) for gap in gaps), "|")
    draw(problem, {m: [mean(kept[m, s]) for s in SHARES] for m in cost}, records.path.parent)


def interval(values: list[float]) -> str:
    n = len(values)
    return f"{mean(values):+.1f}" + (
        f" ± {stats.t.ppf(0.975, n - 1) * stdev(values) / math.sqrt(n):.1f}" if n > 1 else ""
    )


def picks(problem: str, records: Records) -> dict[tuple[str, float], float]:
    """Return the strength chosen for each method and share, from the tuning records."""
    grids = GRIDS.get(problem, GRIDS["cifar"])
    picked = {}
    for method in grids:
        gradual = method.startswith("gradual")
        for share in SHARES:
            at = min(TUNED_AT, key=lambda each: abs(math.log((1 - each) / (1 - share)))) if gradual else None
            tried: dict[float, list[dict]] = {}
            for record in records.done.values():
                run = record["run"]
                if run.get("phase") == "tune" and run["method"] == method and run["share"] == at:
                    tried.setdefault(run["strength"], []).append(record)
            if tried:
                picked[method, share] = max(tried, key=lambda strength: validation(tried[strength], at or share))
    return picked


def draw(problem: str, curves: dict[str, list[float]], out: Path) -> None:
    from softdiamond.experiments.figures import KEPT_TICKS
    from softdiamond.plotting import drawing

    with drawing() as new_figure:
        figure = new_figure(figsize=(7.5, 4.5))
        axes = figure.subplots()
        lines = {"gradual": "-", "torchao": "--", "once": ":", "fine-tuned": ":", "homotopy": "-.", "snap": "-."}
        for method, values in curves.items():
            axes.plot([1 - s for s in SHARES], values, lines[method.split()[0]], marker="o", markersize=3, label=method)
        ticks = [tick for tick in KEPT_TICKS if 0.004 < tick <= 0.2]
        axes.set(xscale="log", xlabel="weights removed", ylabel="test accuracy, %", title=problem)
        axes.set_xticks(ticks, [f"{100 * (1 - tick):g} %" for tick in ticks])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.legend(ncols=2)
        figure.savefig(out / "accuracy.svg", metadata={"Date": None})
        figure.savefig(out / "accuracy.png", dpi=160)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("compare", "variants", "files", "show"), default="compare")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument(
        "--epochs", type=int, help="fewer than the problem's: for bytes and times, which need no training"
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.99, 0.995])
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.epochs:
        PROBLEMS[arguments.problem]["epochs"] = arguments.epochs
    chosen, splits = loaded(arguments.problem, arguments.data_dir)
    records = Records(arguments.out, chosen, splits)
    if arguments.part == "compare":
        compare(arguments.problem, records, arguments)
    elif arguments.part == "variants":
        try_variants(records, arguments)
    elif arguments.part == "files":
        files(records, chosen, splits, arguments)
    else:
        show(arguments.problem, records)
