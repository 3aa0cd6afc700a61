"""The linear estimators: against brute force, closed forms, scikit-learn's own checks, and each other's forms."""

import pickle
import threading
import tracemalloc
import warnings
from collections import Counter
from itertools import product
from threading import Event, Thread

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV, LogisticRegression, Ridge, lasso_path
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.utils.estimator_checks import parametrize_with_checks

from softdiamond import prox
from softdiamond.penalties import numba_prox
from softdiamond.penalties.numba_prox import curve_of, jump_interval
from softdiamond.sklearn import (
    SoftDiamondClassifier,
    SoftDiamondClassifierCV,
    SoftDiamondRegressor,
    SoftDiamondRegressorCV,
    _cross_validation,
    _ridge,
    _solution_path,
    soft_diamond_path,
)
from softdiamond.sklearn._design import Design
from softdiamond.sklearn._gap import gap_threshold
from softdiamond.sklearn._lasso import lasso
from softdiamond.sklearn._losses import LogLoss, SquaredLoss, one_hot
from softdiamond.sklearn._minimize import minimize
from softdiamond.sklearn._penalty import Penalty
from softdiamond.sklearn._solution_path import lowest_minimum
from softdiamond.sklearn._strength import omega_at, penalties_of, reference_size, strength_max
from softdiamond.table import lookup_table, numba_reader

CHECKED = [
    SoftDiamondRegressor(),
    SoftDiamondClassifier(),
    SoftDiamondRegressorCV(n_strengths=3, cv=2, tails=(0.5, 2.0)),
    SoftDiamondClassifierCV(n_strengths=3, cv=2, tails=(0.5, 2.0)),
]
CONTRACT = list(parametrize_with_checks(CHECKED).args[1])  # a list: pytest refuses scikit-learn's generator
TIGHT = {"tol": 1e-9, "max_iter": 20_000}


def sample(rng, n=60, p=8, true=3, noise=0.3):
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3)
    b = np.zeros(p)
    b[:true] = np.linspace(2, 1, true)
    return X, X @ b + 1 + noise * rng.standard_normal(n), b


def penalty_at(tail, c, lam, b):
    return float(np.sum(lam * lookup_table(tail).evaluate(np.asarray(b, dtype=np.float64) / c)[0]))


# ---- scikit-learn's contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "check"), CONTRACT)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_contract(estimator, check):
    check(estimator)


def test_contract_is_whole():
    """Each estimator meets as many checks as scikit-learn's own LassoCV, and none is declared to fail."""
    counts = Counter(type(estimator).__name__ for estimator, _ in CONTRACT)
    own = len(list(parametrize_with_checks([LassoCV()]).args[1]))
    assert len(counts) == len(CHECKED) and min(counts.values()) >= own >= 40, counts


# ---- the compiled kernel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [0.1, 0.5, 1.0, 1.5, 1.99, 2.0])
def test_compiled_curve_and_map_equal_the_table_and_the_exact_map(tail):
    t, table = curve_of(tail), lookup_table(tail)
    x = np.concatenate([[0.0], np.geomspace(1e-14, 1e6, 300)])
    penalty, gradient, curvature = table.evaluate(x)
    np.testing.assert_allclose(numba_reader.values(x, 1.0, t.cells), penalty, rtol=1e-13)
    np.testing.assert_allclose(numba_reader.gradients(-x, 1.0, t.cells), -gradient, rtol=1e-13)
    np.testing.assert_allclose(numba_reader.curvatures(x, 1.0, t.cells), curvature, rtol=1e-12)
    np.testing.assert_allclose(numba_reader.omegas(x[1:], 1.0, t.cells), gradient[1:] / x[1:], rtol=1e-13)
    v = np.geomspace(1e-6, 1e4, 200)
    for step in np.geomspace(1e-2 / t.cells.omega_zero, 1e3, 7):
        mapped = [numba_prox.prox(each, step, *jump_interval(step, t), t) for each in v]
        np.testing.assert_allclose(mapped, prox.prox(v, step, table), rtol=1e-8, err_msg=f"step {step}")


# ---- what is minimized ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tail", "lam"), list(product([0.5, 1.0, 1.7], [0.02, 0.2, 1.0])))
def test_orthonormal_columns_give_the_scalar_map(rng, tail, lam):
    X = np.linalg.qr(rng.standard_normal((40, 6)))[0] * np.sqrt(40)
    y = X @ np.array([3.0, 1.0, 0.5, 0.2, 0.05, 0.0]) + 0.1 * rng.standard_normal(40)
    flags = {"fit_intercept": False, "standardize": False}
    model = SoftDiamondRegressor(tail=tail, scale=0.1, lam=lam, **flags, **TIGHT).fit(X, y)
    expected = 0.1 * prox.prox(X.T @ y / 40 / 0.1, lam / 0.01, lookup_table(tail))
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("tail", "p"), list(product([0.5, 1.0, 1.5], [1, 2])))
@pytest.mark.parametrize("lam", [0.01, 0.1, 0.5])
def test_no_point_of_a_grid_is_lower(rng, tail, p, lam):
    """Brute force: a grid over all coefficients, polished by Newton-like steps, finds nothing below."""
    X = rng.standard_normal((30, p)) @ (np.eye(p) + 0.4)
    y = X @ np.array([1.5, 0.3])[:p] + 0.3 * rng.standard_normal(30)
    model = SoftDiamondRegressor(tail=tail, scale=0.05, lam=lam, fit_intercept=False, standardize=False, **TIGHT).fit(
        X, y
    )

    def objective(b):
        return float(((y - X @ b) ** 2).mean() / 2) + penalty_at(tail, 0.05, lam, b)

    axis = np.concatenate([-np.geomspace(3, 1e-4, 40), [0.0], np.geomspace(1e-4, 3, 40)])
    grid = np.array(list(product(*[axis] * p)))
    values = ((y[:, None] - X @ grid.T) ** 2).mean(axis=0) / 2
    values += lam * lookup_table(tail).evaluate(grid / 0.05)[0].sum(axis=1)
    best = min(optimize.minimize(objective, grid[i], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).fun
               for i in np.argsort(values)[:3])  # fmt: skip
    assert model.objective_ == pytest.approx(objective(model.coef_), rel=1e-9)
    assert model.objective_ <= best + 1e-9


@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])
def test_tail_2_is_ridge(rng, shape):
    X, y, _ = sample(rng, *shape)
    weights = rng.uniform(0.5, 2, len(y))
    ours = SoftDiamondRegressor(0.3, tail=2, standardize=False, **TIGHT).fit(X, y, weights)
    theirs = Ridge(0.3 * weights.sum()).fit(X, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-9)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-7)
    labels = (y > np.median(y)).astype(int)
    ours = SoftDiamondClassifier(0.1, tail=2, standardize=False, **TIGHT).fit(X, labels)
    theirs = LogisticRegression(C=1 / (0.1 * len(y)), tol=1e-10, max_iter=1000).fit(X, labels)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-6)
    path = soft_diamond_path(X, y, tail=2, strengths=[0.3], standardize=False, sample_weight=weights)
    np.testing.assert_allclose(
        path.coefs[:, 0], Ridge(0.3 * weights.sum()).fit(X, y, weights).coef_, rtol=1e-6, atol=1e-9
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), tail=st.sampled_from([0.3, 0.5, 1.0, 1.8]), strength=st.floats(1e-3, 0.3),
       wide=st.booleans(), positive=st.booleans())  # fmt: skip
def test_stationary_at_convergence(seed, tail, strength, wide, positive):
    """Every derivative of the objective as its formula says, from the table; and no coordinate can be bettered alone."""
    X, y, _ = sample(np.random.default_rng(seed), *((15, 30) if wide else (40, 6)))
    model = SoftDiamondRegressor(
        strength, tail=tail, scale=0.03, standardize=False, positive=positive, tol=1e-6, max_iter=20_000
    )
    model.fit(X, y)
    lam = strength / (omega_at(tail, 0.03, _reference(X, y)))
    b, table = model.coef_, lookup_table(tail)
    q = X.T @ (y - model.predict(X)) / len(y)
    derivative = lam * table.evaluate(b / 0.03)[1] / 0.03 - q
    derivative[(b == 0) & (q <= 0) & positive] = 0
    worst = np.abs(derivative).max() / _reference(X, y)
    assert worst == pytest.approx(model.stationarity_, abs=1e-9)
    assert worst <= 1e-6
    diagonal = ((X - X.mean(axis=0)) ** 2).mean(axis=0)
    for j in range(X.shape[1]):
        v = b[j] + q[j] / diagonal[j]
        step, t = lam / (0.03**2 * diagonal[j]), curve_of(tail)
        v = max(v, 0.0) if positive else v
        alone = np.copysign(0.03 * numba_prox.prox(abs(v) / 0.03, step, *jump_interval(step, t), t), v)

        def cost(u, j=j, v=v):
            return diagonal[j] * (u - v) ** 2 / 2 + penalty_at(tail, 0.03, lam, [u])

        assert cost(b[j]) <= cost(alone) + 1e-6 * max(1.0, cost(0.0))


def _reference(X, y):
    return np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / len(y)


@pytest.mark.parametrize("kind", ["squares", "two classes", "three classes"])
@pytest.mark.parametrize("whole", [True, False])
def test_objective_falls_at_every_step(rng, kind, whole):
    X, y, _ = sample(rng, 50, 30)
    design = Design(X, np.ones(50), True, True)
    if not whole:
        design = _small_working_set(design)
    edges = {"squares": None, "two classes": [np.median(y)], "three classes": np.quantile(y, [0.3, 0.7])}[kind]
    loss = (
        SquaredLoss(y, design.w) if edges is None else LogLoss(one_hot(np.digitize(y, edges), len(edges) + 1), design.w)
    )
    penalty = Penalty(0.5, np.full(30, 1e-3), 0.02)
    b, b0 = 0.3 * rng.standard_normal((30, loss.y.shape[1])), loss.constant.copy()
    values = []
    for _ in range(25):
        solution = minimize(loss, design, b, b0, penalty, False, 0.0, 1)
        b, b0 = solution.b, solution.b0
        values.append(solution.objective)
    assert np.all(np.diff(values) <= 1e-13) and values[0] - values[-1] > 1e-3


def test_reweighted_ridge_falls_at_every_step(rng):
    X, y, _ = sample(rng, 50, 30)
    design, y = Design(X, np.ones(50), True, True), y - y.mean()
    penalty, b, values = Penalty(0.5, np.full(30, 1e-3), 0.02), np.ones(30), []
    for _ in range(20):
        values.append(design.w @ (y - design.predict(b)) ** 2 / 2 + penalty.value(b))
        b = _ridge.ridge(design, y, penalty.omega(b), b)
    assert np.all(np.diff(values) <= 1e-13) and values[0] - values[-1] > 1


def _small_working_set(design):
    design.full_gram, design.working, design.gram = False, np.empty(0, np.intp), np.empty((0, 0))
    return design


# ---- one problem in several forms -------------------------------------------------------------------------------------


def test_dual_primal_and_iterative_ridge_agree(rng):
    X, y, _ = sample(rng, 20, 40)
    omega = rng.uniform(0.1, 10, 40)
    for table, center in product((X, sparse.csc_array(np.where(np.abs(X) > 1, X, 0))), (True, False)):
        design = Design(table, rng.uniform(0, 1, 20) * (np.arange(20) > 2), center, True)
        primal = _ridge._factored(design, design.moment(y), omega)
        np.testing.assert_allclose(_ridge._dual(design, y, omega), primal, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(_ridge.conjugate(design, design.moment(y), omega), primal, rtol=1e-7, atol=1e-9)
        along = _ridge.ridge_path(design, y, np.array([0.5, 2.0]), omega)
        np.testing.assert_allclose(
            along[1], _ridge._factored(design, design.moment(y), 2 * omega), rtol=1e-8, atol=1e-11
        )


@pytest.mark.parametrize("positive", [False, True])
def test_working_set_reaches_what_all_columns_reach(rng, positive, monkeypatch):
    """Where the Gram matrix of all columns is too large, the same path is found from that of a few."""
    X, y, _ = sample(rng, 40, 120)
    flags = {"strengths": [0.05, 0.01, 0.003], "positive": positive, "tol": 1e-7, "max_iter": 5000}
    for tail in (0.5, 1.0):
        whole = soft_diamond_path(X, y, tail=tail, **flags)
        with monkeypatch.context() as patch:
            patch.setattr("softdiamond.sklearn._design.MAX_GRAM_COLUMNS", 10)
            few = soft_diamond_path(X, y, tail=tail, **flags)
        np.testing.assert_allclose(few.coefs, whole.coefs, rtol=1e-3, atol=1e-5)


def test_columns_that_may_jump_enter_the_working_set(rng):
    X = rng.standard_normal((40, 120))
    y = X[:, :2] @ [3.0, -2.0] + 0.1 * rng.standard_normal(40)
    designs = Design(X, np.ones(40), True, True), _small_working_set(Design(X, np.ones(40), True, True))
    penalty, zero = Penalty(0.5, np.full(120, 0.1), 0.02), np.zeros((120, 1))
    loss = SquaredLoss(y, np.ones(40))
    whole, few = (minimize(loss, each, zero, loss.constant, penalty, False, 1e-8, 5000) for each in designs)
    assert 0 < designs[1].working.size < 60 and few.residual <= 1e-8
    assert few.objective == pytest.approx(whole.objective, rel=0.05) and np.abs(few.b).max() > 0.5


@pytest.mark.parametrize("model", [SoftDiamondRegressor(0.01, threshold="gap"), SoftDiamondClassifier(0.01)])
@pytest.mark.parametrize("shape", [(60, 8), (30, 50)])
def test_sparse_and_dense_agree(rng, model, shape):
    X, y, _ = sample(rng, *shape)
    X = np.where(np.abs(X) > 0.6, X, 0)
    y = y if isinstance(model, SoftDiamondRegressor) else np.digitize(y, [0, 2])
    dense = clone(model).fit(X, y)
    for form in (sparse.csc_array(X), sparse.csr_matrix(X)):
        other = clone(model).fit(form, y)
        np.testing.assert_allclose(other.coef_, dense.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.predict(form), dense.predict(X))
    assert clone(model).fit(np.asfortranarray(X), y).objective_ == pytest.approx(dense.objective_, rel=1e-9)


def test_weights_are_repeated_rows(rng):
    X, y, _ = sample(rng)
    times = rng.integers(0, 4, len(y))
    for model, target in ((SoftDiamondRegressor(0.01), y), (SoftDiamondClassifier(0.01), np.digitize(y, [0, 2]))):
        weighted = clone(model).fit(X, target, sample_weight=times)
        repeated = clone(model).fit(np.repeat(X, times, axis=0), np.repeat(target, times))
        np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-9)
        assert weighted.objective_ == pytest.approx(repeated.objective_, rel=1e-9)


def test_class_weights_are_sample_weights(rng):
    X, y, _ = sample(rng, 80)
    y = (y > np.quantile(y, 0.8)).astype(int)
    weighted = SoftDiamondClassifier(**TIGHT).fit(X, y, sample_weight=np.where(y, 2.5, 0.625))
    for each in ("balanced", {0: 0.625, 1: 2.5}):
        by_class = SoftDiamondClassifier(class_weight=each, **TIGHT).fit(X, y)
        np.testing.assert_allclose(by_class.coef_, weighted.coef_, rtol=1e-7)
        assert by_class.predict(X).mean() > SoftDiamondClassifier(**TIGHT).fit(X, y).predict(X).mean()
    times = np.where(y, 3, 1)
    balanced = SoftDiamondClassifier(class_weight="balanced", **TIGHT).fit(X, y, sample_weight=times)
    repeated = SoftDiamondClassifier(class_weight="balanced", **TIGHT).fit(
        np.repeat(X, times, axis=0), np.repeat(y, times)
    )
    np.testing.assert_allclose(balanced.coef_, repeated.coef_, rtol=1e-6)
    with pytest.raises(ValueError, match=r"class_weight must not be negative; got \{0: -1"):
        SoftDiamondClassifier(class_weight={0: -1, 1: 1}).fit(X, y)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("edges", [(0.0,), (-1.0, 1.0)])
def test_lasso_of_the_log_loss_is_that_of_scikit_learn(rng, edges, whole):
    X, y, _ = sample(rng, 80)
    labels = np.digitize(y + rng.logistic(size=80), edges)
    design = Design(X, np.ones(80), True, True)
    if not whole:
        design = _small_working_set(design)
    loss, penalty = LogLoss(one_hot(labels, len(edges) + 1), design.w), Penalty(0.5, np.full(8, 2e-4), 0.01)
    b, b0 = np.zeros((8, loss.y.shape[1])), loss.constant
    for _ in range(60):
        b, b0 = lasso(loss, design, penalty, False, b, b0)
    level = loss.curvature * penalty.divided_by(loss.curvature).jump_threshold(design.diagonal)[0]
    other = LogisticRegression(C=1 / (80 * level), l1_ratio=1.0, solver="saga", tol=1e-8, max_iter=100_000)
    expected = other.fit((X - X.mean(0)) / X.std(0), labels).coef_.T
    assert (expected == 0).any() and (np.abs(expected) > 0.1).any()
    np.testing.assert_allclose(b, expected, atol=0.05)


def test_a_start_from_lasso_leads_a_classifier_to_lower_minima(monkeypatch):
    def reached():
        lowest = []
        for seed in (0, 1, 2):
            rng = np.random.default_rng(seed)
            X = rng.standard_normal((150, 60))
            for j in range(1, 60):
                X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(1 - 0.9**2) * X[:, j]
            y = X[:, ::10] @ [2.0, -2.0, 1.5, 1.0, -1.0, 3.0] + rng.logistic(size=150) > 0
            lowest += [SoftDiamondClassifier(strength).fit(X, y).objective_ for strength in (0.01, 0.003)]
        return np.array(lowest)

    started = reached()
    monkeypatch.setattr(_solution_path, "lasso", lambda loss, design, penalty, positive, b, b0: (b, b0))
    alone = reached()
    assert started.mean() < alone.mean() - 1e-3


def test_no_penalty_starts_from_no_lasso(rng, monkeypatch):
    """Whose columns would all enter the working set."""
    monkeypatch.setattr(_solution_path, "lasso", lambda *_: pytest.fail("a lasso of level 0"))
    X, y, _ = sample(rng, 40, 60)
    SoftDiamondRegressor(0.0).fit(X, y)
    SoftDiamondClassifier(0.0).fit(X, y > 0)


def test_a_column_constant_in_a_fold_warns_of_nothing(rng):
    X, y, _ = sample(rng)
    X[:, 4] = np.arange(len(y)) < 12
    SoftDiamondRegressorCV(n_strengths=4, cv=KFold(5)).fit(X, y)
    SoftDiamondClassifierCV(n_strengths=4, cv=KFold(5)).fit(X, y > np.median(y))


def test_units_of_data_change_nothing(rng):
    """One strength means the same after y and the columns are measured in other units."""
    X, y, _ = sample(rng)
    units = 10 ** rng.uniform(-3, 3, X.shape[1])
    one = SoftDiamondRegressor(0.01, **TIGHT).fit(X, y)
    other = SoftDiamondRegressor(0.01, **TIGHT).fit(X * units + 5, 1e4 * y - 7)
    np.testing.assert_allclose(other.coef_ * units / 1e4, one.coef_, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("tail", [0.3, 0.5, 1.0])
def test_largest_useful_strength(rng, tail):
    """Just above `strength_max` all coefficients of orthonormal columns are in the core, just below one is out."""
    X = np.linalg.qr(rng.standard_normal((40, 7)) - rng.standard_normal(7))[0]
    X = np.linalg.qr(X - X.mean(axis=0))[0]
    y = X @ np.linspace(1, 2, 7)
    most = strength_max(tail, 0.01)
    above, below = (SoftDiamondRegressor(most * f, tail=tail, threshold="gap").fit(X, y) for f in (1.001, 0.999))
    assert not above.coef_.any() and np.flatnonzero(below.coef_).tolist() == [6]


# ---- the gap ----------------------------------------------------------------------------------------------------------


def test_gap_gives_exact_zeros_and_finds_the_truth(rng):
    X, y, b = sample(rng, 100, 200, 4)
    model = SoftDiamondRegressorCV(threshold="gap").fit(X, y)
    assert np.array_equal(model.support_, b != 0) and np.array_equal(model.coef_ != 0, model.support_)
    below, above = model.band_
    sizes = np.abs(model.coef_[model.support_] * X.std(axis=0)[model.support_])
    assert below < above <= sizes.min() * 1.05
    assert SoftDiamondRegressor(0.01).fit(X, y).band_ is None


def test_band_is_empty_as_the_jump_says(rng):
    X, y, _ = sample(rng, 60, 90, 5)
    design, loss = Design(X, np.ones(60), True, True), SquaredLoss(y, np.ones(60))
    r = reference_size(loss, design)
    for strength in (0.03, 0.003):
        (penalty,) = penalties_of(0.5, np.array([strength]), 0.01, np.ones(90), r, None, None)
        solution = lowest_minimum(loss, design, [penalty], np.full(90, strength), False, 1e-9 * r, 5000)
        jump = prox.find_jump(penalty.lam[0] / penalty.c**2, lookup_table(0.5))
        below, above = penalty.c * jump.below, penalty.c * jump.above
        cut, band = gap_threshold(penalty, design.diagonal, solution.b)
        assert 0 < band[0] <= below < above <= band[1]
        assert np.array_equal(cut != 0, np.abs(solution.b) >= above)


def test_ridge_has_no_gap(rng):
    X, y, _ = sample(rng)
    model = SoftDiamondRegressor(0.1, tail=2, threshold="gap").fit(X, y)
    assert model.band_ is None and model.support_.all()


# ---- cross-validation, and what users expect --------------------------------------------------------------------------


def test_cross_validation_is_that_of_the_single_estimator(rng):
    X, y, _ = sample(rng)
    model = SoftDiamondRegressorCV(strengths=[0.05, 0.01], tails=[1.0], cv=KFold(3), tol=1e-7).fit(X, y)
    single = SoftDiamondRegressor(model.strength_, tail=1.0, tol=1e-7)
    k = int(np.flatnonzero(model.strengths_[0] == model.strength_)[0])
    predicted = cross_val_predict(single, X, y, cv=KFold(3))
    assert model.cv_errors_[0, k].mean() == pytest.approx(((y - predicted) ** 2).mean(), rel=1e-3)
    assert model.cv_errors_.shape == (1, 2, 3)
    np.testing.assert_allclose(model.coef_, single.fit(X, y).coef_, rtol=1e-3, atol=1e-4)


def test_one_standard_error_is_no_weaker(rng):
    X, y, _ = sample(rng, noise=3)
    least, cautious = (SoftDiamondRegressorCV(rule=rule, tails=[0.5]).fit(X, y) for rule in ("min", "1se"))
    assert cautious.strength_ > least.strength_
    mean = least.cv_errors_[0].mean(axis=1)
    k = int(np.argmin(mean))
    bound = mean[k] + least.cv_errors_[0, k].std(ddof=1) / np.sqrt(5)
    assert cautious.strength_ == least.strengths_[0][np.flatnonzero(mean <= bound)[0]]


def test_real_data_and_feature_names(rng):
    X, y = load_diabetes(return_X_y=True)
    noise = rng.standard_normal((len(y), 50))
    soft = SoftDiamondRegressorCV(threshold="gap").fit(np.hstack([X, noise]), y)
    lasso = LassoCV(cv=5).fit(np.hstack([X, noise]), y)
    assert soft.support_[[2, 8]].all() and soft.support_[10:].sum() <= 2 < (lasso.coef_[10:] != 0).sum()
    assert soft.score(np.hstack([X, noise]), y) > 0.4


def test_several_targets_and_classes(rng):
    X, y, _ = sample(rng)
    targets = np.stack([y, -2 * y + X[:, 5]], axis=1)
    both = SoftDiamondRegressor(0.01).fit(X, targets)
    np.testing.assert_allclose(both.coef_[1], SoftDiamondRegressor(0.01).fit(X, targets[:, 1]).coef_, rtol=1e-9)
    assert both.predict(X).shape == targets.shape and both.intercept_.shape == (2,)
    assert soft_diamond_path(X, targets, strengths=[0.1, 0.01]).coefs.shape == (2, 8, 2)
    model = SoftDiamondClassifierCV(tails=[0.5]).fit(X, np.array(["low", "mid", "top"])[np.digitize(y, [-1, 3])])
    assert (
        model.coef_.shape == (3, 8) and model.score(X, np.array(["low", "mid", "top"])[np.digitize(y, [-1, 3])]) > 0.85
    )
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))


def test_warm_start_positive_factor_pickle(rng):
    X, y, _ = sample(rng, true=5)
    model = SoftDiamondRegressor(0.01, warm_start=True).fit(X, y)
    assert model.n_iter_ > 1
    before = model.coef_.copy()
    model.fit(X, y)
    assert model.n_iter_ == 1 and np.allclose(model.coef_, before, rtol=1e-4)
    assert (SoftDiamondRegressor(0.001, positive=True).fit(X, -y).coef_ >= 0).all()
    free = SoftDiamondRegressor(5.0, penalty_factor=[0, *[1] * 7], threshold="gap").fit(X, y)
    assert free.coef_[0] == pytest.approx(np.polyfit(X[:, 0], y, 1)[0], rel=1e-4) and not free.coef_[1:].any()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_groups_are_routed_to_the_splitter(rng):
    X, y, _ = sample(rng)
    groups = np.repeat(np.arange(6), 10)
    with sklearn.config_context(enable_metadata_routing=True):
        model = SoftDiamondRegressorCV(tails=[0.5], cv=GroupKFold(3).set_split_request(groups=True)).fit(
            X, y, groups=groups
        )
    plain = SoftDiamondRegressorCV(tails=[0.5], cv=list(GroupKFold(3).split(X, y, groups))).fit(X, y)
    np.testing.assert_array_equal(model.cv_errors_, plain.cv_errors_)
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        SoftDiamondRegressorCV().fit(X, y, groups=groups)


def test_unfinished_fit_says_what_to_do(rng):
    X, y, _ = sample(rng, 30, 60)
    with pytest.warns(ConvergenceWarning, match="increase max_iter"):
        SoftDiamondRegressor(1e-4, max_iter=2, tol=1e-10).fit(X, y)


def test_fits_in_threads_leave_the_warning_filters_as_they_were(rng, monkeypatch):
    """Three fits overlap, the first to start is the first to end: a filter that one saved and restored would be left behind."""
    X, y, _ = sample(rng)
    at_work, may_end = [Event() for _ in range(3)], [Event() for _ in range(3)]
    path_of = _cross_validation.path_of

    def waiting(*arguments):
        number = int(threading.current_thread().name)
        at_work[number].set()
        assert may_end[number].wait(60)
        return path_of(*arguments)

    def fit():
        SoftDiamondRegressorCV(tails=[0.5], n_strengths=2, cv=2).fit(X, y)

    monkeypatch.setattr(_cross_validation, "path_of", waiting)
    filters = list(warnings.filters)
    threads = [Thread(target=fit, name=str(number)) for number in range(3)]
    for thread, started in zip(threads, at_work, strict=True):
        thread.start()
        assert started.wait(60)
    for thread, gate in zip(threads, may_end, strict=True):
        gate.set()
        thread.join()
    assert warnings.filters == filters
    with pytest.warns(ConvergenceWarning):
        SoftDiamondRegressor(1e-4, max_iter=2, tol=1e-10).fit(*sample(rng, 30, 60)[:2])


# ---- size, and the figure ---------------------------------------------------------------------------------------------


def test_sparse_table_is_never_made_dense(rng):
    X = sparse.random_array((2000, 20_000), density=1e-3, rng=rng, format="csc")
    X = X[:, np.diff(X.indptr) > 1]
    y = X[:, [3, 70]] @ [2.0, -3.0] + 0.01 * rng.standard_normal(2000)
    SoftDiamondRegressor(0.01, threshold="gap").fit(X[:, :30], y)  # compiles
    tracemalloc.start()
    model = SoftDiamondRegressor(0.01, threshold="gap").fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.flatnonzero(model.coef_).tolist() == [3, 70]
    assert peak < X.shape[0] * X.shape[1] * 8 / 5  # bytes of the dense table


def test_wide_dense_table_is_not_copied(rng):
    X = rng.standard_normal((100, 20_000))
    y = X[:, [3, 70]] @ [2.0, -3.0] + 0.1 * rng.standard_normal(100)
    SoftDiamondRegressor(0.01, threshold="gap").fit(X[:, :30], y)
    tracemalloc.start()
    model = SoftDiamondRegressor(0.01, threshold="gap").fit(X, y)
    SoftDiamondRegressor(200.0, tail=2).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.flatnonzero(model.coef_).tolist() == [3, 70]
    assert peak < 6 * 32e6  # blocks of 32 MB, whatever the table


def test_plot_path_shows_path_errors_and_choice(rng, tmp_path):
    pytest.importorskip("matplotlib")
    from softdiamond import plotting

    X, y, _ = sample(rng)
    path = soft_diamond_path(X, y, threshold="gap")
    model = SoftDiamondRegressorCV(threshold="gap", tails=(0.5, 2.0)).fit(X, y)
    figure = plotting.plot_path(path, model, lasso_path(X, y), names=list("abcdefgh"))
    ours, lasso, errors = figure.axes
    drawn = {line.get_label(): line for line in ours.lines}
    np.testing.assert_array_equal(drawn["a"].get_ydata(), path.coefs[0])
    assert drawn["a"].get_xdata()[0] == path.strengths[0] and lasso.get_title() == "lasso"
    (star,) = [line for line in errors.lines if line.get_label() == "chosen"]
    assert star.get_xdata()[0] == model.strength_
    assert star.get_ydata()[0] == pytest.approx(min(model.cv_errors_.mean(axis=-1).ravel()))
    figure.savefig(tmp_path / "path.png")
    assert len(plotting.plot_path(path).axes) == 1
    with pytest.raises(ValueError, match="one target"):
        plotting.plot_path(soft_diamond_path(X, np.stack([y, y], axis=1)))
    with pytest.raises(TypeError, match=r"what soft_diamond_path returns, .*; got SoftDiamondRegressorCV"):
        plotting.plot_path(model)
