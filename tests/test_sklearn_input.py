"""The linear estimators: what they refuse, and in which words."""

import numpy as np
import pytest
from scipy import sparse

from softdiamond.sklearn import (
    SoftDiamondClassifier,
    SoftDiamondRegressor,
    SoftDiamondRegressorCV,
    soft_diamond_path,
)

X0 = np.random.default_rng(0).standard_normal((12, 4))
Y0 = X0 @ [1.0, -1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -0.1}, "strength must be finite and not negative; got -0.1"),
        ({"strength": np.nan}, "strength must be"),
        ({"tail": 0.05}, r"tail must lie in \[0.1, 2\]; got 0.05"),
        ({"tail": 2.1}, "tail must lie in"),
        ({"relative_scale": 0}, "relative_scale must be finite and positive"),
        ({"scale": -1.0}, "scale must be finite and positive"),
        ({"lam": -1.0}, "lam must be finite and not negative"),
        ({"tol": -1}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        ({"threshold": "wide"}, 'threshold must be None or "gap"'),
        ({"penalty_factor": [1, 2]}, "one number for each of the 4 columns"),
        ({"penalty_factor": [1, 2, -1, 1]}, "penalty_factor must be finite and not negative"),
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
        (lambda m: m.fit(X0, Y0, sample_weight=-np.ones(12)), "not be negative"),
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
    with pytest.raises(ValueError, match="strength must be"):
        soft_diamond_path(X0, Y0, strengths=[0.1, -1])
