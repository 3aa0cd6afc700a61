"""The linear estimators: what they refuse, and in which words."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import KFold

from softdiamond.penalties import numba_prox
from softdiamond.sklearn import (
    SoftDiamondClassifier,
    SoftDiamondRegressor,
    SoftDiamondRegressorCV,
    _descent,
    soft_diamond_path,
)
from softdiamond.table import numba_reader

X0 = np.random.default_rng(0).standard_normal((12, 4))
Y0 = X0 @ [1.0, -1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -0.1}, "strength must be finite and not negative; got -0.1"),
        ({"strength": np.nan}, "strength must be"),
        ({"tail": 0.05}, r"tail must lie in \[0.1, 2\]; got 0.05"),
        ({"tail": 2.1}, "tail must lie in"),
        ({"scale_fraction": 0}, "scale_fraction must be finite and positive"),
        ({"scale_fraction": 1e-300}, r"scale_fraction must lie in \[1e-12, 1e\+12\]; got 1e-300"),
        ({"scale": -1.0}, "scale must be finite and positive"),
        ({"scale": 1e-300}, "scale must be within a factor 1e.12 of .*, the largest coefficient; got 1e-300"),
        ({"threshold": np.ones(2)}, 'threshold must be None or "gap"'),
        ({"penalty_factor": "a"}, "penalty_factor must be numbers; got 'a'"),
        ({"lam": -1.0}, "lam must be finite and not negative"),
        ({"tol": -1}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        ({"fit_intercept": "no"}, "fit_intercept must be True or False; got 'no'"),
        ({"positive": None}, "positive must be True or False"),
        ({"warm_start": 1}, "warm_start must be True or False"),
        ({"threshold": "wide"}, 'threshold must be None or "gap"'),
        ({"penalty_factor": [1, 2]}, "one number for each of the 4 columns"),
        ({"penalty_factor": [1, 2, -1, 1]}, "penalty_factor must be finite and not negative; column 2 has -1"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    for kind in (SoftDiamondRegressor, SoftDiamondClassifier):
        with pytest.raises(ValueError, match=message):
            kind(**parameters).fit(X0, Y0 if kind is SoftDiamondRegressor else Y0 > 0)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda m: m.fit(np.where(X0 > 1, np.nan, X0), Y0), "NaN"),
        (lambda m: m.fit(np.where(X0 > 1, np.inf, X0), Y0), "infinity"),
        (lambda m: m.fit(np.where([0, 0, 1, 0], 3.0, X0), Y0), "constant: 2"),
        (lambda m: m.fit(sparse.csc_array(np.where([0, 1, 1, 0], 0.0, X0)), Y0), "2 column.s. of X are constant: 1, 2"),
        (
            lambda m: m.set_params(fit_intercept=False).fit(np.where([0, 0, 1, 0], 0.0, X0), Y0),
            "zero in every sample: 2",
        ),
        (lambda m: m.fit(X0, Y0, sample_weight=np.zeros(12)), "[Ww]eight.*zero"),
        (
            lambda m: m.fit(X0, Y0, sample_weight=np.arange(12) == 3),
            "constant in the 1 samples of positive weight: 0, 1",
        ),
        (lambda m: m.fit(X0, Y0, sample_weight=-np.ones(12)), "not be negative"),
        (
            lambda m: m.fit(X0, Y0, sample_weight=np.ones(11)),
            r"one number for each of the 12 samples; got shape \(11,\)",
        ),
        (lambda m: m.fit(X0, Y0, sample_weight=np.ones((12, 1))), r"one number for each .* got shape \(12, 1\)"),
        (lambda m: m.fit(X0, Y0, sample_weight=np.full(12, np.nan)), "sample_weight contains NaN"),
        (lambda m: m.fit(X0, Y0, sample_weight=np.nan), "sample_weight contains NaN"),
    ],
)
def test_bad_data_are_refused(fit, message):
    with pytest.raises(ValueError, match=message):
        fit(SoftDiamondRegressor())


def test_bad_folds_and_classes_are_refused():
    with pytest.raises(ValueError, match="one class"):
        SoftDiamondClassifier().fit(X0, np.ones(12))
    with pytest.raises(ValueError, match="Cannot have number of splits"):
        SoftDiamondRegressorCV(cv=13).fit(X0, Y0)
    with pytest.raises(ValueError, match='rule must be "min" or "1se"'):
        SoftDiamondRegressorCV(rule="best").fit(X0, Y0)
    with pytest.raises(ValueError, match="tail must lie in"):
        SoftDiamondRegressorCV(tails=[0.5, 3]).fit(X0, Y0)
    with pytest.raises(ValueError, match="cv gives no folds"):
        SoftDiamondRegressorCV(cv=[]).fit(X0, Y0)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"n_strengths must be a positive integer; got {wrong}"):
            SoftDiamondRegressorCV(n_strengths=wrong).fit(X0, Y0)
        with pytest.raises(ValueError, match="n_strengths must be"):
            soft_diamond_path(X0, Y0, n_strengths=wrong)
    with pytest.raises(ValueError, match="tails must hold at least one number"):
        SoftDiamondRegressorCV(tails=[]).fit(X0, Y0)
    with pytest.raises(ValueError, match="strength must be"):
        soft_diamond_path(X0, Y0, strengths=[0.1, -1])


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1 / 3, np.pi])
@pytest.mark.parametrize("n", [12, 33, 50])
def test_constant_columns_are_refused_whatever_rounding_leaves(rng, value, n):
    X = rng.standard_normal((n, 4))
    for size in (1.0, 1e9):
        X[:, 2] = size * value
        for table in (X, sparse.csc_array(X)):  # a warning is an error here
            with pytest.raises(ValueError, match="are constant: 2"):
                SoftDiamondRegressor().fit(table, X[:, 0])


def test_a_column_of_times_is_no_constant(rng):
    """Seconds since 1970 that span minutes: a spread of 2e-8 of the mean."""
    X = rng.standard_normal((60, 8))
    y = 2 * X[:, 3] + X[:, 5] + 0.3 * rng.standard_normal(60)
    times = X.copy()
    times[:, 3] = 1.7e9 + 30 * X[:, 3]
    plain, seconds = (SoftDiamondRegressor(0.01).fit(table, y) for table in (X, times))
    np.testing.assert_allclose(30 * seconds.coef_[3], plain.coef_[3], rtol=1e-4)
    np.testing.assert_allclose(seconds.predict(times), plain.predict(X), atol=1e-3)


def test_lam_takes_the_place_of_a_strength_of_0(rng):
    X = rng.standard_normal((60, 8))
    y = 2 * X[:, 0] + 0.3 * rng.standard_normal(60)
    absolute = {"lam": 0.02, "scale": 0.05, "tol": 1e-8}
    none, some = (SoftDiamondRegressor(strength, **absolute).fit(X, y) for strength in (0.0, 0.01))
    np.testing.assert_allclose(none.coef_, some.coef_, rtol=1e-5, atol=1e-8)
    assert np.abs(none.coef_[1:]).max() < 0.5 * np.abs(SoftDiamondRegressor(0.0).fit(X, y).coef_[1:]).max()


def test_compiled_code_lets_other_threads_run():
    compiled = [
        each
        for module in (_descent, numba_prox, numba_reader)
        for each in vars(module).values()
        if hasattr(each, "targetoptions")
    ]
    assert len(compiled) > 8 and all(each.targetoptions.get("nogil") for each in compiled)


def test_the_fit_after_validation_is_no_worse_than_the_single_one():
    """Strengths that start far below the largest useful one: both are reached from above."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 300))
    y = X[:, :5].sum(axis=1) + 0.5 * rng.standard_normal(40)
    chosen = SoftDiamondRegressorCV(tails=[0.5], strengths=[1e-3], cv=2).fit(X, y)
    assert chosen.objective_ <= SoftDiamondRegressor(1e-3).fit(X, y).objective_ * (1 + 1e-6)


@pytest.mark.parametrize("rule", ["min", "1se"])
def test_a_fold_without_weight_has_no_error(rng, rule):
    X = rng.standard_normal((60, 8))
    y = 2 * X[:, 0] + 0.3 * rng.standard_normal(60)
    model = SoftDiamondRegressorCV(cv=KFold(4), tails=[0.5], n_strengths=4, rule=rule)
    model.fit(X, y, sample_weight=np.repeat([0.0, 1.0, 2.0, 1.0], 15))
    assert np.isnan(model.cv_errors_[..., 0]).all() and np.isfinite(model.cv_errors_[..., 1:]).all()
    np.testing.assert_allclose(model.cv_weights_ / model.cv_weights_.sum(), [0, 0.25, 0.5, 0.25])
    if rule == "min":
        mean = model.cv_errors_[0, :, 1:] @ [0.25, 0.5, 0.25]
        assert model.strength_ == model.strengths_[0, mean.argmin()]
        pytest.importorskip("matplotlib")
        from softdiamond import plotting

        errors = plotting.plot_path(soft_diamond_path(X, y), model).axes[-1]
        (star,) = [line for line in errors.lines if line.get_label() == "chosen"]
        assert star.get_ydata()[0] == pytest.approx(mean.min())


def test_no_penalized_coefficient_lies_in_the_band():
    for seed in (3, 9, 15):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((60, 30)) @ (np.eye(30) + 0.3 / np.sqrt(30))
        y = X[:, :5] @ np.linspace(2, 0.3, 5) + 0.5 * rng.standard_normal(60)
        model = SoftDiamondRegressor(0.005, tail=1.0, threshold="gap").fit(X, y)
        sizes = np.abs(model.coef_ * X.std(axis=0))
        below, above = model.band_
        assert below < above == pytest.approx(sizes[sizes > 0].min(), rel=1e-12)


def test_a_column_without_penalty_is_no_end_of_the_band(rng):
    X = rng.standard_normal((60, 8))
    y = 2 * X[:, 0] + 0.05 * X[:, 7] + 0.01 * rng.standard_normal(60)
    free = np.r_[np.ones(7), 0.0]
    model = SoftDiamondRegressor(0.005, threshold="gap", penalty_factor=free).fit(X, y)
    assert model.support_.tolist() == [True, *[False] * 6, True]
    assert model.band_[0] < 0.01 < 0.05 < 1 < model.band_[1]
