"""Soft diamond estimators against lasso, elastic net, adaptive lasso, ridge, MCP, SCAD and logistic regression.

    python studies/linear.py recovery OUT [--draws 20] [--only NAME ...]   support, prediction and estimation on known truths
    python studies/linear.py real OUT [--draws 20]                         sets that scikit-learn ships, columns of noise added
    python studies/linear.py time OUT [--repetitions 3] [--only NAME ...]  against LassoCV, lasso_path and skglm's MCP path
    python studies/linear.py memory OUT                                    peak memory of one fit of 1,000 x 100,000 numbers
    python studies/linear.py tables OUT                                    the tables of the records in OUT, as Markdown

Needs, besides the extra ``sklearn``, skglm (pip install skglm) for MCP and SCAD. Every record is appended to ``OUT/KIND.jsonl`` as soon as
it is there, and a run goes on where it was stopped. All methods of a draw see the same rows and the same five folds, in turn;
times are of one process and, with OMP_NUM_THREADS=1, one thread. Truths: rows of a Gaussian with correlation rho^|i - j| between
columns; the signal-to-noise ratio is var(X b) / var(noise); test error is on 2,000 fresh rows, in units of the noise's variance.
"""

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from scipy import sparse, stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import ElasticNetCV, LassoCV, LogisticRegressionCV, RidgeCV, lasso_path
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, train_test_split
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from softdiamond.sklearn import (
    SoftDiamondClassifierCV,
    SoftDiamondRegressor,
    SoftDiamondRegressorCV,
    soft_diamond_path,
)

Maker = Callable[[], Any]


class ConcaveCV:
    """MCP or SCAD of skglm, its own warm path, cross-validated as LassoCV is."""

    def __init__(self, penalty: str, alphas: int = 50) -> None:
        self.penalty, self.alphas = penalty, alphas

    def path(self, X: Any, y: Any, alphas: Any) -> Any:
        """Coefficients of centered data, shape (p, K)."""
        from skglm.datafits import Quadratic
        from skglm.penalties import SCAD, MCPenalty
        from skglm.solvers import AndersonCD

        penalty = MCPenalty(1.0, 3.0) if self.penalty == "MCP" else SCAD(1.0, 3.7)
        solver = AndersonCD(fit_intercept=False, ws_strategy="fixpoint")
        if sparse.issparse(X):
            X = sparse.csc_matrix(X)
        return solver.path(X, y, Quadratic(), penalty, alphas)[1]

    def fit(self, X: Any, y: Any) -> Any:
        """Choose by five folds."""
        most = np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / len(y)
        grid = most * np.logspace(0, -3, self.alphas)
        errors = 0
        for train, test in KFold(5).split(X):
            mean, level = X[train].mean(0), y[train].mean()
            coefs = self.path(np.asfortranarray(X[train] - mean), y[train] - level, grid)
            errors = errors + ((y[test][:, None] - level - (X[test] - mean) @ coefs) ** 2).mean(0)
        coefs = self.path(np.asfortranarray(X - X.mean(0)), y - y.mean(), grid[: int(np.argmin(errors)) + 1])
        self.coef_, self.intercept_ = coefs[:, -1], y.mean() - X.mean(0) @ coefs[:, -1]
        return self

    def predict(self, X: Any) -> Any:
        """Predicted targets."""
        return X @ self.coef_ + self.intercept_


class AdaptiveLassoCV:
    """LassoCV of columns weighted by |b| of a ridge fit (Zou 2006)."""

    def fit(self, X: Any, y: Any) -> Any:
        """Choose by five folds."""
        weight = np.abs(RidgeCV(np.logspace(-2, 5, 15)).fit(X, y).coef_)
        inner = LassoCV(cv=5).fit(X * weight, y)
        self.coef_, self.intercept_ = inner.coef_ * weight, inner.intercept_
        return self

    def predict(self, X: Any) -> Any:
        """Predicted targets."""
        return X @ self.coef_ + self.intercept_


REGRESSORS: dict[str, Maker] = {
    "LassoCV": lambda: LassoCV(cv=5),
    "soft diamond": lambda: SoftDiamondRegressorCV(threshold="gap"),
    "soft diamond, 1se": lambda: SoftDiamondRegressorCV(threshold="gap", rule="1se"),
    "MCP": lambda: ConcaveCV("MCP"),
    "SCAD": lambda: ConcaveCV("SCAD"),
    "adaptive lasso": AdaptiveLassoCV,
    "ElasticNetCV": lambda: ElasticNetCV(l1_ratio=[0.5, 0.9], cv=5),
    "RidgeCV": lambda: RidgeCV(np.logspace(-2, 5, 20), cv=5),
}
CLASSIFIERS: dict[str, Maker] = {
    "LogisticRegressionCV": lambda: LogisticRegressionCV(
        Cs=20, cv=5, l1_ratios=(1.0,), solver="saga", scoring="neg_log_loss", tol=1e-3, use_legacy_attributes=False
    ),
    "soft diamond": lambda: SoftDiamondClassifierCV(threshold="gap"),
    "soft diamond, 1se": lambda: SoftDiamondClassifierCV(threshold="gap", rule="1se"),
}

BASE: dict[str, Any] = {"n": 300, "p": 500, "k": 10, "rho": 0.5, "snr": 3.0, "coefs": "equal"}
DESIGNS: dict[str, dict[str, Any]] = {
    "main": {"n": 150, "p": 400, "k": 12, "rho": 0.5, "snr": None, "coefs": "0.8 to 3"},
    "base": BASE,
    "n = 100": BASE | {"n": 100},
    "n = 2000": BASE | {"n": 2000},
    "p = 50": BASE | {"p": 50},
    "p = 20000": BASE | {"p": 20_000},
    "rho = 0": BASE | {"rho": 0.0},
    "rho = 0.9": BASE | {"rho": 0.9},
    "snr = 0.5": BASE | {"snr": 0.5},
    "snr = 10": BASE | {"snr": 10.0},
    "Gaussian": BASE | {"coefs": "Gaussian"},
    "heavy-tailed": BASE | {"coefs": "heavy-tailed"},
    "dense": BASE | {"p": 200, "k": 200, "coefs": "Gaussian"},
    "logistic": BASE | {"p": 200, "k": 6, "rho": 0.5, "snr": None, "coefs": "0.8 to 3"},
}


def columns(rng: np.random.Generator, n: int, p: int, rho: float) -> Any:
    X = rng.standard_normal((n, p))
    for j in range(1, p if rho else 1):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    return X


def draw(name: str, number: int) -> tuple[Any, Any, Any, Any, Any, float]:
    """Training rows, test rows, true coefficients and the noise's deviation."""
    design = DESIGNS[name]
    rng = np.random.default_rng([number, *name.encode()])
    n, p, k, rho = design["n"], design["p"], design["k"], design["rho"]
    kinds = {
        "equal": lambda: np.ones(k),
        "0.8 to 3": lambda: rng.uniform(0.8, 3, k),
        "Gaussian": lambda: rng.standard_normal(k),
        "heavy-tailed": lambda: rng.standard_t(1.5, k),
    }
    truth = np.zeros(p)
    truth[rng.choice(p, k, replace=False)] = kinds[design["coefs"]]() * rng.choice([-1, 1], k)
    X, fresh = columns(rng, n, p, rho), columns(rng, 2000, p, rho)
    if name == "logistic":
        y, y_fresh = ((Z @ truth + rng.logistic(size=len(Z)) > 0).astype(int) for Z in (X, fresh))
        return X, y, fresh, y_fresh, truth, 1.0
    noise = 1.0 if design["snr"] is None else float(np.sqrt((fresh @ truth).var() / design["snr"]))
    y, y_fresh = (Z @ truth + noise * rng.standard_normal(len(Z)) for Z in (X, fresh))
    return X, y, fresh, y_fresh, truth, noise


def recovered(model: Any, truth: Any) -> dict[str, float]:
    chosen, true = np.ravel(model.coef_) != 0, truth != 0
    hits = float((chosen & true).sum())
    return {
        "precision": hits / max(chosen.sum(), 1),
        "recall": hits / true.sum(),
        "F1": 2 * hits / (chosen.sum() + true.sum()),
        "chosen": int(chosen.sum()),
    }


def recovery(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The main design with all its draws, then the others draw by draw."""
    names = [name for name in DESIGNS if name in (arguments.only or DESIGNS)]
    order = [(name, i) for name in names[:1] for i in range(arguments.draws)]
    order += [(name, i) for i in range(arguments.draws) for name in names[1:]]
    for name, number in order:
        methods = CLASSIFIERS if name == "logistic" else REGRESSORS
        for method, make in methods.items():
            if name == "p = 20000" and method in ("ElasticNetCV", "soft diamond, 1se", "SCAD"):
                continue  # minutes a draw

            def measure(name: str = name, number: int = number, make: Maker = make) -> dict[str, Any]:
                X, y, fresh, y_fresh, truth, noise = draw(name, number)
                model, seconds = timed(make, X, y)
                if name == "logistic":
                    error = {"test": log_loss(y_fresh, model.predict_proba(fresh))}
                else:
                    gap = model.coef_ - truth
                    test = ((y_fresh - model.predict(fresh)) ** 2).mean() / noise**2
                    error = {"test": float(test), "estimation": float(gap @ gap / (truth @ truth))}
                found = {"tail": getattr(model, "tail_", None), "strength": getattr(model, "strength_", None)}
                return recovered(model, truth) | error | found | {"seconds": seconds}

            yield {"design": name, "draw": number, "method": method}, measure


def real(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Half of the rows to fit, half to test; as many shuffled columns as real ones, and 100 more, are noise by construction."""
    diabetes, cancer, wine = (load(return_X_y=True) for load in (load_diabetes, load_breast_cancer, load_wine))
    squares = PolynomialFeatures(2, include_bias=False).fit_transform(diabetes[0])
    keep = squares.std(axis=0) > 1e-12
    sets = {
        "diabetes": (*diabetes, REGRESSORS),
        "diabetes, squares and products": (squares[:, keep], diabetes[1], REGRESSORS),
        "breast cancer": (*cancer, CLASSIFIERS),
        "wine": (*wine, CLASSIFIERS),
    }
    for number in range(arguments.draws):
        for name, (X, y, methods) in sets.items():
            for method, make in methods.items():

                def measure(X: Any = X, y: Any = y, number: int = number, make: Maker = make) -> dict[str, Any]:
                    rng = np.random.default_rng(number)
                    pool = np.concatenate([X, X[:, rng.integers(X.shape[1], size=100)]], axis=1)
                    table = np.concatenate([X, rng.permuted(pool, axis=0)], axis=1)
                    classes = y if y.dtype.kind == "i" else None
                    parts = train_test_split(table, y, test_size=0.5, random_state=number, stratify=classes)
                    scaler = StandardScaler().fit(parts[0])
                    train, test = scaler.transform(parts[0]), scaler.transform(parts[1])
                    model, seconds = timed(make, train, parts[2])
                    chosen = (np.atleast_2d(model.coef_) != 0).any(axis=0)
                    if classes is None:
                        error = {"test": float(((parts[3] - model.predict(test)) ** 2).mean() / parts[3].var())}
                    else:
                        wrong = float((model.predict(test) != parts[3]).mean())
                        error = {"test": log_loss(parts[3], model.predict_proba(test)), "wrong": wrong}
                    real_ones, false = int(chosen[: X.shape[1]].sum()), int(chosen[X.shape[1] :].sum())
                    return error | {"real": real_ones, "false": false, "seconds": seconds}

                yield {"design": name, "draw": number, "method": method}, measure


SIZES: dict[str, tuple[int, int, float]] = {
    "main": (150, 400, 1.0),
    "(1000, 1000)": (1000, 1000, 1.0),
    "(200, 20000)": (200, 20_000, 1.0),
    "(100000, 100)": (100_000, 100, 1.0),
    "(1000, 100000)": (1000, 100_000, 1.0),
    "sparse (10000, 100000)": (10_000, 100_000, 1e-3),
}


def sized(name: str) -> tuple[Any, Any]:
    n, p, density = SIZES[name]
    if name == "main":
        return draw("main", 0)[:2]
    rng = np.random.default_rng([n, p])
    if density < 1:
        X = sparse.random_array((n, p), density=density, rng=rng, format="csc", data_sampler=rng.standard_normal)
        X = X[:, np.diff(X.indptr) > 1]
    else:
        X = rng.standard_normal((n, p))
    truth = np.zeros(X.shape[1])
    truth[rng.choice(X.shape[1], 20, replace=False)] = rng.uniform(0.8, 3, 20)
    signal = X @ truth
    return X, signal + signal.std() / 2 * rng.standard_normal(n)


def times(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The same number of penalties a side: 60 in cross-validation, 20 on a path; methods in turn, repetition by repetition."""

    def concave(X: Any, y: Any) -> Any:
        centered = X if sparse.issparse(X) else np.asfortranarray(X - X.mean(0))
        most = np.abs(centered.T @ (y - y.mean())).max() / len(y)
        return ConcaveCV("MCP").path(centered, y - y.mean(), most * np.logspace(0, -3, 20))

    ways: dict[str, Callable[[Any, Any], Any]] = {
        "LassoCV": lambda X, y: LassoCV(alphas=60, cv=5).fit(X, y),
        "soft diamond CV": lambda X, y: SoftDiamondRegressorCV(threshold="gap").fit(X, y),
        "lasso_path": lambda X, y: lasso_path(X, y, alphas=20),
        "soft diamond path": lambda X, y: soft_diamond_path(X, y),
        "MCP path": concave,
    }
    warm = sized("main")
    for way in ways.values():
        way(*warm)
    for name in arguments.only or [size for size in SIZES if size != "(1000, 100000)"]:
        X, y = sized(name)
        for repetition in range(arguments.repetitions):
            for method, way in ways.items():

                def measure(X: Any = X, y: Any = y, way: Any = way) -> dict[str, Any]:
                    start = time.perf_counter()
                    way(X, y)
                    return {"seconds": time.perf_counter() - start}

                yield {"design": name, "draw": repetition, "method": method}, measure


def memory(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """One dense table of 0.75 GiB, in a process of its own: its peak holds the table, the libraries and the fit."""
    X, y = sized("(1000, 100000)")

    def measure() -> dict[str, Any]:
        model, seconds = timed(lambda: SoftDiamondRegressor(threshold="gap"), X, y)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            "peak GiB": peak,
            "table GiB": X.nbytes / 2**30,
            "chosen": int(model.support_.sum()),
            "seconds": seconds,
        }

    yield {"design": "(1000, 100000)", "draw": 0, "method": "soft diamond"}, measure


def timed(make: Maker, X: Any, y: Any) -> tuple[Any, float]:
    model, start = make(), time.perf_counter()
    model.fit(X, y)
    return model, time.perf_counter() - start


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def interval(values: Any) -> str:
    """Mean and half the 95 % interval of Student's t."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return f"{values.mean():.3g}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3g} ± {half if half > 1e-12 else 0:.2g}"  # rounding is no spread


def table(records: list[dict[str, Any]], shown: list[str], paired: str) -> Iterator[str]:
    """One table a design: means and intervals, and the paired difference of ``paired`` from soft diamond's."""
    for name in dict.fromkeys(record["design"] for record in records):
        of = {m: {r["draw"]: r for r in records if (r["design"], r["method"]) == (name, m)} for m in
              dict.fromkeys(r["method"] for r in records if r["design"] == name)}  # fmt: skip
        ours = of.get("soft diamond", {})
        yield f"\n**{name}**, {max(map(len, of.values()))} draws\n"
        yield f"| method | {' | '.join(shown)} | {paired}: soft diamond minus this | time / LassoCV's |"
        yield "|---" * (len(shown) + 3) + "|"
        base = of.get("LassoCV") or of.get("LogisticRegressionCV") or {}
        for method, rows in of.items():
            cells = [
                interval([r[key] for r in rows.values()]) if key in next(iter(rows.values())) else "" for key in shown
            ]
            both = [ours[i][paired] - r[paired] for i, r in rows.items() if i in ours]
            ratio = [r["seconds"] / base[i]["seconds"] for i, r in rows.items() if i in base]
            cells += [
                interval(both) if both and method != "soft diamond" else "",
                f"{np.median(ratio):.2g}" if ratio else "",
            ]
            yield f"| {method} | {' | '.join(cells)} |"


def overview(records: list[dict[str, Any]]) -> Iterator[str]:
    """All designs in one table."""
    methods = ("soft diamond", "MCP", "LassoCV", "RidgeCV")
    yield f"\n| design | {' | '.join(f'F1, {m}' for m in methods[:3])} | {' | '.join(f'test, {m}' for m in methods)} |"
    yield "|---" * (2 * len(methods)) + "|"
    for name in dict.fromkeys(r["design"] for r in records):
        if name == "logistic":
            continue
        cells = [[r[key] for r in records if (r["design"], r["method"]) == (name, m)] for key, some in
                 (("F1", methods[:3]), ("test", methods)) for m in some]  # fmt: skip
        yield f"| {name} | {' | '.join(interval(cell) if cell else '' for cell in cells)} |"


def tables(out: Path) -> None:
    for line in overview(read(out / "recovery.jsonl")):
        print(line)
    for line in table(read(out / "recovery.jsonl"), ["F1", "precision", "recall", "test", "estimation"], "F1"):
        print(line)
    for line in table(read(out / "real.jsonl"), ["test", "wrong", "real", "false"], "test"):
        print(line)
    records = read(out / "time.jsonl")
    print("\n**Time**, medians in seconds (repetitions)\n\n| size | method | seconds | against |\n|---|---|---|---|")
    for name in dict.fromkeys(record["design"] for record in records):
        of = {m: [r["seconds"] for r in records if (r["design"], r["method"]) == (name, m)] for m in
              dict.fromkeys(r["method"] for r in records if r["design"] == name)}  # fmt: skip
        for method, seconds in of.items():
            baseline = "LassoCV" if "CV" in method else "lasso_path"
            against = f"{np.median(seconds) / np.median(of[baseline]):.2g} x {baseline}" if baseline in of else ""
            print(f"| {name} | {method} | {np.median(seconds):.3g} ({len(seconds)}) | {against} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["recovery", "real", "time", "memory", "tables"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    if arguments.kind == "tables":
        tables(arguments.out)
        return
    warnings.simplefilter("ignore")  # of alternatives that do not converge at the weak end of their paths
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{arguments.kind}.jsonl"
    known = {(r["design"], r["draw"], r["method"]) for r in read(path)}
    if not known:
        print(f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}")
    X, y = (part[:40] for part in draw("logistic", 0)[:2])
    for make in (*(REGRESSORS[name] for name in ("soft diamond", "MCP", "SCAD")), CLASSIFIERS["soft diamond"]):
        make().fit(X[:, :8], y)  # what is compiled or looked up at the first call
    runs = {"recovery": recovery, "real": real, "time": times, "memory": memory}[arguments.kind](arguments)
    for key, measure in runs:
        if tuple(key.values()) in known:
            continue
        record = key | measure()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)


if __name__ == "__main__":
    main()
