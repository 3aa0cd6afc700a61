"""Which columns a network chooses, and how well it then predicts: group soft diamonds against the alternatives.

Every method but LassoNet trains the same network (64 and 32 hidden units), on the same rows and with the same validation rows, by
`softdiamond.feature_selection`. Penalties have 16 strengths each, over the same ratio of 320, from a least one that was placed on
draws that are not among those reported (--draws counts from 0, the grids were placed on draws 1000 to 1005), with more than 300
columns raised with their number (L1, group lasso: its root); those of the soft diamonds are the estimators' default.

- none, L1 (each weight by itself), group lasso, group soft diamond with alpha 0.3, 0.5, 1 and 1.5, all by the estimators' rounds,
  which reinitialize columns; "group lasso, one round": as it is usually trained, in one round of as many steps as four
  have; "scalar omega": the law of one weight on the norm of the group (--methods "scalar omega").
- LassoNet (lassonet 0.0.21): its own training and its default path, the network with the lowest validation error.
- forest, boosting: the importances of scikit-learn's forest of 300 trees and histogram boosting (by permutation of the validation
  rows) rank the columns; of ten numbers of columns the one with which the same network, without a penalty, has the lowest
  validation error.

Two errors are recorded: of the penalized network itself, and after it was trained on with the chosen columns alone (refit), without the
penalty, on training and validation rows. For forest and boosting, whose network is not penalized, they differ by that training.

Each record is one line of docs/results/features/records.jsonl, written when it is done; what is there is not run again.

Commands: python studies/features.py --design friedman-500-300 --draws 10
          python studies/features.py --list
          python studies/features.py --table
Needs:    pip install "softdiamond[sklearn,torch]" pandas lassonet==0.0.21; pip install --no-deps ISLP==0.6.0 (college, hitters)
"""

import argparse
import copy
import json
import math
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from softdiamond.feature_selection import SoftDiamondNetClassifier, SoftDiamondNetRegressor, training
from softdiamond.feature_selection.networks import Stack, cross_entropy, squared_error
from softdiamond.feature_selection.parameters import DEFAULT_BATCH, DEFAULT_STRENGTHS, MIN_ROUNDS, REFERENCE_COLUMNS
from softdiamond.feature_selection.splits import split_rows
from softdiamond.penalties import L1, SoftDiamond

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "features"
NOISE = 0.2  # standard deviation, beside a signal of 1
HELD_OUT = 500  # validation rows of the synthetic designs
TEST = 5000
PROBES = 5  # permuted copies of each column


class ScalarOmega(SoftDiamond):
    """The law of one weight on the norm of a group, as the first trial had it."""

    def radial(self, d):
        """Return the law of one weight, whatever d."""
        return SoftDiamond(self.alpha).radial(1)


PENALTIES = {  # name: penalty, unit of its strengths
    "none": (None, 0),
    "L1": (L1(), 2),
    "group lasso": (L1(group="input"), 1),
    "group lasso, one round": (L1(group="input"), 1),
    **{f"soft diamond {tail:g}": (SoftDiamond(tail, group="input"), tail) for tail in (0.3, 0.5, 1.0, 1.5)},
    "scalar omega": (ScalarOmega(0.5, group="input"), 0.5),
}
METHODS = (*(name for name in PENALTIES if name != "scalar omega"), "LassoNet", "forest", "boosting")
REFERENCE = "group lasso"


# ---- designs -----------------------------------------------------------------------------------------------------------


def friedman(u):
    return 10 * np.sin(np.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]


def synthetic(name, draw):
    """Columns, targets, rows for training, and which columns are true."""
    kind, n, p, *more = name.split("-")
    n, p, rng = int(n), int(p), np.random.default_rng([draw, sum(map(ord, name))])
    u = rng.uniform(size=(n + HELD_OUT + TEST, p))
    truth = np.zeros(p, dtype=bool)
    if kind == "friedman":
        if (
            more
        ):  # neighbours correlated: a Gaussian copula, the columns shuffled so that true ones have noise for neighbours
            rho, z = float(more[0]), rng.normal(size=u.shape)
            for j in range(1, p):
                z[:, j] = rho * z[:, j - 1] + math.sqrt(1 - rho**2) * z[:, j]
            u = stats.norm.cdf(z)[:, rng.permutation(p)]
        signal, truth[:5] = friedman(u), True
    elif kind == "product":
        signal, truth[:2] = (u[:, 0] - 0.5) * (u[:, 1] - 0.5), True
    else:
        signal, truth[:] = u @ rng.normal(size=p), True
    signal = (signal - signal.mean()) / signal.std()
    return u, signal + NOISE * rng.normal(size=len(u)), n, truth


def real(name, draw):
    """A table with permuted copies of its columns as probes; which columns are no probes; frames are made numeric."""
    from sklearn import datasets

    if name in ("college", "hitters"):
        import pandas
        from ISLP import load_data

        target = {"college": "Grad.Rate", "hitters": "Salary"}[name]
        table = load_data(name.title()).dropna()
        x, y = pandas.get_dummies(table.drop(columns=target), drop_first=True).to_numpy(float), table[target].to_numpy()
        y = np.log(y) if name == "hitters" else y
    elif name == "california":
        x, y = datasets.fetch_california_housing(return_X_y=True)
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rng = np.random.default_rng([draw, 7])
    rows = rng.permutation(len(y))[:5000]
    x, y = x[rows], y[rows]
    keep = x.std(0) > 0
    x = x[:, keep]
    probes = [np.stack([rng.permutation(column) for column in x.T], axis=1) for _ in range(PROBES)]
    genuine = np.arange(x.shape[1] * (PROBES + 1)) < x.shape[1]
    return np.hstack([x, *probes]), y, int(0.6 * len(y)), genuine


REAL = ("digits", "breast_cancer", "diabetes", "california", "college", "hitters")
CLASSES = ("digits", "breast_cancer")
DESIGNS = (
    "friedman-500-300",
    *(f"friedman-{n}-{p}" for n in (250, 500, 2000, 10000) for p in (30, 300, 3000) if (n, p) != (500, 300)),
    "friedman-500-300-0.5",
    "friedman-500-300-0.9",
    "product-500-30",
    "product-500-300",
    "dense-500-100",
    *REAL,
)


def load(design, draw):
    """Rows for training and validation together, the share of the latter, test rows, and the true columns."""
    x, y, n, truth = (real if design in REAL else synthetic)(design, draw)
    held = HELD_OUT if design not in REAL else int(0.2 * len(y))
    if design not in CLASSES:  # errors are given in units of the target's variance
        scale = 1.0 if design not in REAL else y[: n + held].std()
        y = (y - y[: n + held].mean()) / scale
    return x[: n + held], y[: n + held], held / (n + held), x[n + held :], y[n + held :], truth


# ---- methods -----------------------------------------------------------------------------------------------------------


class Bench:
    """An estimator with a penalty of another kind, which keeps its network before the refit."""

    penalty = None

    def _penalty(self):
        return self.penalty

    def _fit_final(self, found, inputs, y, tick):
        self.max_iter = type(self)().max_iter  # a refit is as long where one round has the steps of all
        self.refit = False
        super()._fit_final(found, inputs, y, tick)
        self.bare = copy.copy(self)
        self.refit = True
        super()._fit_final(found, inputs, y, tick)


class Regressor(Bench, SoftDiamondNetRegressor):
    """With any penalty."""


class Classifier(Bench, SoftDiamondNetClassifier):
    """With any penalty."""


def network(classes, draw, fraction, name="none", columns=1):
    """Estimator with a penalty: soft diamonds at its own path, the others at `DEFAULT_STRENGTHS` in their unit.

    These too rise with more than `REFERENCE_COLUMNS` columns: what a strength of L1 takes of a norm r in a step is in the unit r_0 / r of a
    starting norm r_0, which falls as 1 / sqrt(columns).
    """
    penalty, unit = PENALTIES[name]
    kind = Classifier if classes else Regressor
    net = kind(validation_fraction=fraction, random_state=draw)
    if isinstance(penalty, SoftDiamond):
        net.set_params(tail=unit)
    else:
        net.set_params(strengths=list(unit * DEFAULT_STRENGTHS * math.sqrt(max(1.0, columns / REFERENCE_COLUMNS))))
    net.penalty = penalty
    if name.endswith("one round"):
        net.set_params(rounds=1, max_iter=MIN_ROUNDS * net.max_iter)
    return net


def error(net, x, y, classes):
    return float(np.mean(net.predict(x) != y) if classes else np.mean((net.predict(x) - y) ** 2))


def by_penalty(name, x, y, fraction, tx, ty, draw, classes):
    net = network(classes, draw, fraction, name, x.shape[1]).fit(x, y)
    record = {"strength": net.strength_, "validation": float(net.path_["validation_error"].min())}
    return net.support_, error(net.bare, tx, ty, classes), error(net, tx, ty, classes), record


def on_columns(support, x, y, fraction, tx, ty, draw, classes):
    """Errors of the same network without a penalty on some columns."""
    net = network(classes, draw, fraction).fit(x[:, support], y)
    found = float(net.path_["validation_error"].min())
    return error(net.bare, tx[:, support], ty, classes), error(net, tx[:, support], ty, classes), found


def split_of(x, y, fraction, draw, classes):
    """The rows that `network` trains on and validates with."""
    net = network(classes, draw, fraction)
    y = np.unique(y, return_inverse=True)[1] if classes else y[:, None]
    return split_rows(x, y, None, net.validation_fraction, np.random.RandomState(draw))[0]


def by_importance(name, x, y, fraction, tx, ty, draw, classes):
    from sklearn import ensemble
    from sklearn.inspection import permutation_importance

    inner, held = split_of(x, y, fraction, draw, classes)
    end = "Classifier" if classes else "Regressor"
    if name == "forest":
        trees = getattr(ensemble, f"RandomForest{end}")(300, random_state=draw, n_jobs=1).fit(x[inner], y[inner])
        importance = trees.feature_importances_
    else:
        trees = getattr(ensemble, f"HistGradientBoosting{end}")(random_state=draw).fit(x[inner], y[inner])
        importance = permutation_importance(trees, x[held], y[held], n_repeats=5, random_state=draw).importances_mean
    order = np.argsort(-importance, kind="stable")
    counts = np.unique(np.geomspace(1, x.shape[1], 10).round().astype(int))
    kept = np.argsort(order)[:, None] < counts  # (columns, counts): the first of the ranking
    support = kept[:, lowest_error(kept, x, y, inner, held, draw, classes)]
    bare, refit, found = on_columns(support, x, y, fraction, tx, ty, draw, classes)
    return support, bare, refit, {"validation": found}


def lowest_error(kept, x, y, inner, held, draw, classes):
    """Which choice of columns, ``kept`` bool of shape (columns, choices), has the lowest validation error.

    One network a choice, without a penalty, with as many steps as `MIN_ROUNDS` rounds have, as one stack: the first layer's
    other weights are 0 at the start and after each step, and the start is that of a network with these inputs alone.
    """
    net = network(classes, draw, 0.5)
    x, y = x.astype(float), np.unique(y, return_inverse=True)[1] if classes else y[:, None]
    mean, sd = x[inner].mean(0), x[inner].std(0)
    x = (x - mean) / np.where(sd > 0, sd, 1.0)
    y = y if classes else (y - y[inner].mean(0)) / y[inner].std(0)
    cpu, generator = torch.device("cpu"), torch.Generator().manual_seed(draw)
    sizes = [x.shape[1], *net.hidden_layer_sizes, y.max() + 1 if classes else 1]
    stack = Stack.fresh(sizes, kept.shape[1], generator, cpu)
    free = torch.from_numpy(kept)
    larger = math.sqrt(x.shape[1]) / torch.from_numpy(kept.sum(0)).sqrt().float()  # of the range 1 / sqrt(inputs)
    stack.weights[0].mul_(free.unsqueeze(2) * larger[:, None])
    stack.biases[0].mul_(larger[:, None])
    batch = min(DEFAULT_BATCH, len(inner))
    strengths, steps = torch.zeros(kept.shape[1]), MIN_ROUNDS * net.max_iter
    schedule = training.Schedule(strengths, steps, batch, net.learning_rate_init)
    loss = cross_entropy if classes else squared_error
    training.train(
        stack, training.rows_of(x[inner], y[inner], cpu), loss, None, schedule, generator, lambda: None, free
    )
    return int(training.errors(stack, training.rows_of(x[held], y[held], cpu), loss).argmin())


def by_lassonet(name, x, y, fraction, tx, ty, draw, classes):
    from lassonet import LassoNetClassifier, LassoNetRegressor

    inner, held = split_of(x, y, fraction, draw, classes)
    mean, sd = x[inner].mean(0), np.where(x[inner].std(0) > 0, x[inner].std(0), 1.0)
    shown = ((x - mean) / sd).astype(np.float32)
    labels = np.unique(y, return_inverse=True)[1] if classes else y.astype(np.float32)
    kind = LassoNetClassifier if classes else LassoNetRegressor
    net = kind(hidden_dims=(64, 32), verbose=0, random_state=draw, torch_seed=draw, device="cpu")
    given = {"X_val": shown[held], "y_val": labels[held], "return_state_dicts": True}
    path = net.path(shown[inner], labels[inner], **given)
    best = min(path, key=lambda item: item.val_loss)
    net.load(best.state_dict)
    predicted = net.predict(((tx - mean) / sd).astype(np.float32)).ravel()
    truth = np.searchsorted(np.unique(y), ty) if classes else ty
    bare = float(np.mean(predicted != truth) if classes else np.mean((predicted - truth) ** 2))
    support = best.selected.numpy()
    if not support.any():
        return support, bare, bare, {"validation": float(best.val_loss)}
    refit = on_columns(support, x, y, fraction, tx, ty, draw, classes)[1]
    return support, bare, refit, {"validation": float(best.val_loss), "path": len(path)}


def perform(design, draw, method):
    """One record."""
    x, y, fraction, tx, ty, truth = load(design, draw)
    run = {"LassoNet": by_lassonet, "forest": by_importance, "boosting": by_importance}.get(method, by_penalty)
    start = time.process_time()
    support, bare, refit, more = run(method, x, y, fraction, tx, ty, draw, design in CLASSES)
    seconds = time.process_time() - start
    right = int((support & truth).sum())
    record = {"design": design, "draw": draw, "method": method, "error": bare, "refit_error": refit}
    record |= {
        "columns": int(support.sum()),
        "right": right,
        "f1": 2 * right / max(1, int(support.sum() + truth.sum())),
    }
    record["wrong_share"] = int((support & ~truth).sum()) / max(1, int((~truth).sum()))
    return record | more | {"cpu_seconds": round(seconds, 2), "threads": torch.get_num_threads()}


# ---- records and table -------------------------------------------------------------------------------------------------


def stored():
    path = RESULTS / "records.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def store(record):
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def interval(values):
    """Mean with its 95 % interval (Student's t)."""
    mean = np.mean(values)
    half = (
        stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
        if len(values) > 1
        else np.nan
    )
    return mean, half


def ratio(own, reference, key):
    """Ratio of mean errors over the common draws, of three and more with its paired 95 % interval.

    The interval is Fieller's, exact for normal errors; none where it has no end or would reach below 0.
    """
    common = sorted(own.keys() & reference.keys())
    a, b = (np.array([each[draw][key] for draw in common]) for each in (own, reference))
    point = a.mean() / b.mean()
    if len(common) < 3:
        return f"{point:.2f}"
    t2 = stats.t.ppf(0.975, len(common) - 1) ** 2 / len(common)
    (va, cov), (_, vb) = np.cov(a, b)
    quadratic = np.array([b.mean() ** 2 - t2 * vb, -2 * (a.mean() * b.mean() - t2 * cov), a.mean() ** 2 - t2 * va])
    roots = np.roots(quadratic)
    if quadratic[0] <= 0 or np.iscomplex(roots).any() or roots.min() < 0:
        return f"{point:.2f}"
    return f"{point:.2f} [{roots.min():.2f}, {roots.max():.2f}]"


def shown(values, digits):
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def columns_of(records):
    return lambda key: [record[key] for record in records]


def by_method(design, records):
    """Records of a design, by method and draw."""
    methods = {}
    for record in records:
        if record["design"] == design:
            methods.setdefault(record["method"], {})[record["draw"]] = record
    return methods


def table_of(design, records):
    methods = by_method(design, records)
    wrong = "probes kept" if design in REAL else "false columns kept"
    unit = "share misclassified" if design in CLASSES else "test MSE"
    head = ("method", "draws", unit, "ratio to group lasso", "after refit", "ratio", "columns", "F1", wrong, "CPU s")
    lines = [f"## {design}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    order = [name for name in (*METHODS, "scalar omega") if name in methods]
    for name in order:
        own = methods[name]
        pick = columns_of(own.values())
        cells = [name, str(len(own)), shown(pick("error"), 4)]
        cells += [ratio(own, methods[REFERENCE], "error") if REFERENCE in methods else ""]
        cells += [shown(pick("refit_error"), 4)]
        cells += [ratio(own, methods[REFERENCE], "refit_error") if REFERENCE in methods else ""]
        cells += [f"{np.mean(pick('columns')):.1f}", "" if design in REAL else f"{np.mean(pick('f1')):.2f}"]
        cells += [
            "" if design.startswith("dense") else f"{np.mean(pick('wrong_share')):.3f}",
            f"{np.mean([record['cpu_seconds'] for record in own.values()]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary_of(designs, records):
    """One line a design: mean errors before the refit over the draws that group lasso has, and ratios.

    A method with fewer of these draws shows their number, and is not marked as the least.
    """
    ours = "soft diamond 0.5"
    head = ("design", "draws", *METHODS, f"{ours} / {REFERENCE}", "the same, after refit", f"{ours} / LassoNet")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for design in designs:
        methods = by_method(design, records)
        draws = set(methods.get(REFERENCE, ()))
        if not draws:
            continue
        common = {name: sorted(draws & set(methods.get(name, ()))) for name in METHODS}
        errors = {name: np.mean([methods[name][k]["error"] for k in own]) for name, own in common.items() if own}
        least = min(error for name, error in errors.items() if len(common[name]) == len(draws))
        cells = []
        for name in METHODS:
            if len(common[name]) < len(draws):
                cells.append(f"{errors[name]:.3f} ({len(common[name])})" if common[name] else "")
            else:
                cells.append(f"**{errors[name]:.3f}**" if errors[name] == least else f"{errors[name]:.3f}")
        pairs = ((REFERENCE, "error"), (REFERENCE, "refit_error"), ("LassoNet", "error"))
        cells += [
            ratio(methods[ours], methods[other], key) if ours in methods and other in methods else ""
            for other, key in pairs
        ]
        lines.append("| " + " | ".join((design, str(len(draws)), *cells)) + " |")
    return "\n".join(lines)


def versions():
    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "scikit-learn", "torch", "lassonet"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def write_table():
    records = stored()
    designs = [design for design in DESIGNS if any(record["design"] == design for record in records)]
    missing = [design for design in DESIGNS if design not in designs]
    notes = RESULTS / "notes.md"
    parts = ["# Which columns a network chooses", notes.read_text("utf-8").strip() if notes.exists() else ""]
    parts.append(
        "Mean over draws ± half of the 95 % interval (Student's t); the ratio of mean errors to group lasso's on the same draws with "
        "its paired 95 % interval (Fieller; none of two draws, or where it would reach below 0). Columns, F1 and share of wrong columns "
        "are those of the chosen set. CPU s: seconds of one processor for a whole method, its tuning included.\n\n"
        "Commands: `python studies/features.py --design NAME --draws 10` for each design, then `--table`. "
        f"{versions()}."
    )
    parts.append(
        "Mean test errors before the refit over the draws that group lasso has, the least of the methods with all of these in bold; "
        "in brackets the number of draws of a method that has fewer:\n\n" + summary_of(designs, records)
    )
    parts += [table_of(design, records) for design in designs]
    parts.append("Not run: " + (", ".join(missing) or "nothing") + ".")
    text = "\n\n".join(part for part in parts if part) + "\n"
    (RESULTS / "README.md").write_text(text, "utf-8")
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", nargs="+", choices=DESIGNS, default=[])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, "scalar omega"), default=METHODS)
    parser.add_argument("--table", action="store_true", help="write README.md from the records")
    parser.add_argument("--list", action="store_true", help="name the designs")
    arguments = parser.parse_args()
    if arguments.list:
        print(*DESIGNS, sep="\n")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for design in arguments.design:
        for draw in range(arguments.first, arguments.first + arguments.draws):
            for method in arguments.methods:
                if any((r["design"], r["draw"], r["method"]) == (design, draw, method) for r in stored()):
                    continue
                record = perform(design, draw, method)
                store(record)
                print(
                    f"{design} {draw} {method}: {record['error']:.4f}, refit {record['refit_error']:.4f}, "
                    f"{record['columns']} columns, {record['cpu_seconds']:.0f} s",
                    flush=True,
                )
    if arguments.table:
        write_table()


if __name__ == "__main__":
    main()
