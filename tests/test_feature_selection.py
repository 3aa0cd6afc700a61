"""Networks that choose their columns: what they choose, that the rest cannot matter, and scikit-learn's own checks."""

import itertools
import pickle

import numpy as np
import pytest
import torch

pandas = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_diabetes  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LinearRegression  # noqa: E402
from sklearn.model_selection import KFold  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks  # noqa: E402

from softdiamond import L1, Regularizer, SoftDiamond  # noqa: E402
from softdiamond.feature_selection import (  # noqa: E402
    SoftDiamondNetClassifier,
    SoftDiamondNetRegressor,
    _memory,
    networks,
    selection,
    training,
)
from softdiamond.feature_selection import path as paths  # noqa: E402
from softdiamond.feature_selection._columns import Columns  # noqa: E402
from softdiamond.feature_selection.parameters import check_parameters  # noqa: E402

QUICK = {
    "hidden_layer_sizes": (32, 16),
    "strengths": [0.5, 1.5, 4.0],
    "max_iter": 300,
    "rounds": 3,
    "learning_rate_init": 0.005,
    "random_state": 0,
}
SMALL = {
    "hidden_layer_sizes": (16,),
    "strengths": [0.05, 0.5],
    "max_iter": 60,
    "rounds": 2,
    "learning_rate_init": 0.02,
    "random_state": 0,
}
CHECKS = 50  # that scikit-learn 1.6 makes of each estimator, at least
KINDS = [SoftDiamondNetRegressor, SoftDiamondNetClassifier]
TRUE = [2, 5, 11]


def table(rng, n=400, p=20):
    """Columns 2, 5 and 11 count."""
    X = rng.uniform(-1, 1, (n, p))
    return X, 2 * X[:, 2] + np.sin(3 * X[:, 5]) + X[:, 11] ** 2 + 0.05 * rng.normal(size=n)


@pytest.fixture(scope="module")
def fitted():
    """One regressor with its rows, for the tests that only look at it."""
    X, y = table(np.random.default_rng(1))
    return SoftDiamondNetRegressor(**QUICK).fit(X, y), X, y


# ---- scikit-learn's contract ---------------------------------------------------------------------------------------------


@parametrize_with_checks([kind(**SMALL) for kind in KINDS])
def test_scikit_learn(estimator, check):
    with np.errstate(invalid="ignore"):  # one check casts NaN to integers on purpose
        check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_checks_enough(kind):
    assert sum(1 for _ in estimator_checks_generator(kind(**SMALL))) >= CHECKS


# ---- what is chosen ------------------------------------------------------------------------------------------------------


def test_true_columns_are_found(fitted):
    net, X, _ = fitted
    assert net.get_support(indices=True).tolist() == TRUE
    assert net.score(*table(np.random.default_rng(2))) > 0.97
    assert (net.feature_importances_ > 0).tolist() == net.support_.tolist()
    assert net.transform(X).tolist() == X[:, TRUE].tolist()


def test_other_columns_cannot_matter(fitted, rng):
    net, X, _ = fitted
    other = X.copy()
    other[:, ~net.support_] = rng.normal(0, 1e6, (len(X), X.shape[1] - len(TRUE)))
    assert net.predict(other).tolist() == net.predict(X).tolist()
    assert net.coefs_[0].shape[0] == len(TRUE)


def test_an_even_effect_comes_back(fitted):
    """x_11 enters as a square, whose column has no gradient at 0: the path's later rounds give it another chance."""
    net, _, _ = fitted
    assert net.support_[11]


def test_path_tells_all(fitted):
    net, X, _ = fitted
    path = net.path_
    assert path["strength"].tolist() == QUICK["strengths"]
    assert path["norms"].shape == (3, X.shape[1]) and path["columns"].shape == (3,)
    near = path["validation_error"] <= selection.error_limit(path["validation_error"].min())
    assert near[net.best_index_] and path["columns"][net.best_index_] == path["columns"][near].min()
    assert net.strength_ == path["strength"][net.best_index_]
    assert path["columns"][net.best_index_] == net.support_.sum()
    assert net.n_iter_ == 900


def test_without_noise_no_column_too_many():
    """Errors of 4e-4 and 5e-4 of the variance are one: at 1 % alone the network with all columns was taken."""
    X = np.random.default_rng(0).uniform(-1, 1, (400, 20))
    net = SoftDiamondNetRegressor(max_iter=300, strengths=[0.5, 0.68, 1.0], random_state=0).fit(
        X, X[:, 3] * X[:, 7] + X[:, 5]
    )
    assert net.get_support(indices=True).tolist() == [3, 5, 7]
    assert selection.error_limit(torch.tensor([4e-4, 1.0])).tolist() == pytest.approx([9e-4, 1.01])


def test_strong_penalty_leaves_few_columns(rng):
    X, y = table(rng)
    counts = [SoftDiamondNetRegressor(**QUICK | {"strengths": [s]}).fit(X, y).support_.sum() for s in (0.0, 40.0)]
    assert counts[0] > 3 >= counts[1] >= 1


def test_dense_truth_keeps_its_columns(rng):
    X = rng.uniform(-1, 1, (400, 8))
    net = SoftDiamondNetRegressor(**QUICK).fit(X, X @ rng.choice([-1.0, 1.0], 8))
    assert net.support_.all()


@pytest.mark.parametrize("labels", [np.array([False, True]), np.array(["no", "yes"], dtype=object), np.array([3, 7])])
def test_classifier(labels):
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (600, 12))
    y = labels[(X[:, 1] * X[:, 4] > 0).astype(int)]
    net = SoftDiamondNetClassifier(**QUICK).fit(X, y)
    assert net.support_[[1, 4]].all() and net.support_.sum() <= 4
    assert net.score(X, y) > 0.93
    proba = net.predict_proba(X)
    assert proba.shape == (600, 2)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (net.classes_[proba.argmax(1)] == net.predict(X)).all()


def test_several_outputs(rng):
    X = rng.uniform(-1, 1, (400, 10))
    Y = np.stack([X[:, 0] + X[:, 3], 100 * X[:, 3] - 50 * X[:, 7]], axis=1)
    net = SoftDiamondNetRegressor(**QUICK).fit(X, Y)
    assert net.get_support(indices=True).tolist() == [0, 3, 7]
    assert net.predict(X).shape == (400, 2)
    assert net.score(X, Y) > 0.98


def test_linear_network(rng):
    X = rng.normal(size=(300, 10))
    net = SoftDiamondNetRegressor(**QUICK | {"hidden_layer_sizes": ()}).fit(X, X[:, 4] - X[:, 8])
    assert net.get_support(indices=True).tolist() == [4, 8] and len(net.coefs_) == 1


def test_units_do_not_matter(rng):
    """Inputs and target are standardized inside."""
    X, y = table(rng)
    a, b = (SoftDiamondNetRegressor(**QUICK).fit(X * s + t, y * u + v) for s, t, u, v in [(1, 0, 1, 0), (64, 8, 32, 4)])
    assert (a.support_ == b.support_).all()
    np.testing.assert_allclose(b.predict(X * 64 + 8), a.predict(X) * 32 + 4, rtol=0.05, atol=1)


def test_probes_are_refused(rng):
    """Permuted copies of the columns of real data, each group of five as like the columns as can be."""
    X, y = load_diabetes(return_X_y=True)
    probes = np.hstack([rng.permuted(X, axis=0) for _ in range(3)])
    net = SoftDiamondNetRegressor(**QUICK).fit(np.hstack([X, probes]), y)
    assert net.support_[:10].mean() > 3 * net.support_[10:].mean()
    assert net.support_[[2, 8]].all()  # body mass index and triglycerides, which every analysis finds


# ---- frames --------------------------------------------------------------------------------------------------------------


def frame(rng, n=400, kind="category"):
    towns = rng.choice(["Bath", "Cork", "Lund", "Ulm"], n)
    data = {f"x{j}": rng.uniform(-1, 1, n) for j in range(8)}
    data["town"] = pandas.Series(towns).astype(kind)
    data["noise"] = pandas.Series(rng.choice(["a", "b", "c"], n)).astype(kind)
    data["flag"] = rng.random(n) < 0.5
    worth = {"Bath": 0.0, "Cork": 2.0, "Lund": -1.0, "Ulm": 0.5}
    return pandas.DataFrame(data), data["x3"] + np.array([worth[town] for town in towns]) + 1.0 * data["flag"]


@pytest.mark.parametrize("kind", ["category", "object", "str"])
def test_categories_are_one_group(kind, rng):
    X, y = frame(rng, kind=kind)
    net = SoftDiamondNetRegressor(**QUICK).fit(X, y)
    assert net.get_feature_names_out().tolist() == ["x3", "town", "flag"]
    assert net.feature_names_in_.tolist() == X.columns.tolist()
    assert net.support_.shape == (11,) and net.path_["norms"].shape == (3, 11)
    assert net.score(X, y) > 0.97
    assert net.coefs_[0].shape[0] == 1 + 4 + 1
    assert net.set_output(transform="pandas").transform(X).columns.tolist() == ["x3", "town", "flag"]
    assert net.set_output(transform="default").transform(X)["town"].tolist() == X["town"].tolist()


def test_frame_of_numbers_is_an_array(rng):
    X, y = table(rng)
    of_array = SoftDiamondNetRegressor(**SMALL).fit(X, y)
    names = [f"c{j}" for j in range(20)]
    of_frame = SoftDiamondNetRegressor(**SMALL).fit(pandas.DataFrame(X, columns=names), y)
    assert of_frame.predict(pandas.DataFrame(X, columns=names)).tolist() == of_array.predict(X).tolist()
    assert of_frame.get_feature_names_out().tolist() == [names[j] for j in np.flatnonzero(of_array.support_)]


def test_new_category_and_order_of_columns(rng):
    X, y = frame(rng)
    net = SoftDiamondNetRegressor(**QUICK).fit(X, y)
    other = X.head(3).astype({"town": "object"})
    other["town"] = "Oslo"
    assert np.isfinite(net.predict(other)).all()
    with pytest.raises(ValueError, match="feature names should match"):
        net.predict(X[X.columns[::-1]])
    with pytest.raises(ValueError, match="give a DataFrame"):
        net.predict(np.zeros((2, 11)))


def test_columns_encode_as_by_hand(rng):
    X, _ = frame(rng, n=50)
    columns = Columns.of(X, X.columns)
    inputs = columns.encode(X)
    assert columns.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 10]
    assert (inputs[:, 9] == (X["town"] == "Cork")).all()
    mean, factor = columns.moments(inputs)
    shown = (inputs - mean) * factor
    np.testing.assert_allclose(shown.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose([shown[:, columns.labels == j].var(0).mean() for j in range(11)], 1)


def test_numbers_of_object_type_are_numbers(rng):
    """As everywhere in scikit-learn; one stray entry in a file gives a column of numbers that type."""
    X, y = table(rng)
    of_array = SoftDiamondNetRegressor(**SMALL).fit(X, y).predict(X)
    for objects in (pandas.DataFrame(X).astype(object), pandas.DataFrame(X).astype({5: object})):
        net = SoftDiamondNetRegressor(**SMALL).fit(objects, y)
        assert net.predict(objects).tolist() == of_array.tolist()
        assert net.predict(pandas.DataFrame(X)).tolist() == of_array.tolist()
        assert net.transform(objects).shape == (400, net.support_.sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "missing values"), (None, "missing values"), ("x", "not numeric")]
)
def test_predict_refuses_what_fit_refuses(kind, value, said, rng):
    """Also in a frame of objects, which fit saw as numbers."""
    X, y = table(rng, n=40, p=12)
    frame = pandas.DataFrame(X, columns=[f"c{j}" for j in range(12)])
    net = kind(**SMALL).fit(frame, y > 0)
    holed = frame.astype(object)
    holed.iloc[1, 1] = value
    with pytest.raises(ValueError, match=f"column 'c1'.*{said}"):
        net.predict(holed)
    for empty in (frame.head(0), frame.astype(object).head(0)):
        with pytest.raises(ValueError, match=r"0 (rows|sample)"):
            net.predict(empty)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pandas.date_range("2020-01-01", periods=40), "column 'when' holds dates or times"),
        (pandas.to_timedelta(range(40), "D"), "column 'when' holds dates or times"),
        (np.arange(40) * 1j, "column 'when' holds complex numbers"),
        ([[1]] * 40, "column 'when' holds a list"),
        ([f"k{i}" for i in range(40)], "column 'when' has 40 categories; with a first layer of 2,000 at most 32 make"),
        (np.full(40, 1e200), "column 'when' has values of up to 1e\\+200: give it in another unit"),
        (np.full(40, 1e-200), "column 'when' has values of up to 1e-200: give it in another unit"),
    ],
)
@pytest.mark.parametrize("beside", [[0.0, 1.0] * 20, ["a", "b"] * 20])
def test_columns_that_cannot_be_read_are_named(column, said, beside, rng):
    X = pandas.DataFrame({"x": beside, "when": column})
    with pytest.raises(ValueError, match=said):
        SoftDiamondNetRegressor(**SMALL | {"hidden_layer_sizes": (2000,)}).fit(X, rng.normal(size=40))


@pytest.mark.parametrize("kind", ["large_string[pyarrow]", "dictionary"])
def test_strings_of_arrow_are_categories(kind, rng):
    arrow = pytest.importorskip("pyarrow")
    X, y = frame(rng, kind="object")
    plain = SoftDiamondNetRegressor(**SMALL).fit(X, y)
    dtype = pandas.ArrowDtype(arrow.dictionary(arrow.int32(), arrow.string())) if kind == "dictionary" else kind
    other = X.astype({"town": dtype, "noise": dtype})
    assert SoftDiamondNetRegressor(**SMALL).fit(other, y).predict(other).tolist() == plain.predict(X).tolist()


# ---- ways to fit ---------------------------------------------------------------------------------------------------------


def test_random_state(rng):
    X, y = table(rng, n=200)
    a, b, c = (SoftDiamondNetRegressor(**SMALL | {"random_state": s}).fit(X, y).predict(X) for s in (3, 3, 4))
    assert a.tolist() == b.tolist() != c.tolist()


def test_global_generators_are_not_touched(rng):
    X, y = table(rng, n=100)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    SoftDiamondNetRegressor(**SMALL).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_pickle_and_clone(fitted):
    net, X, _ = fitted
    assert pickle.loads(pickle.dumps(net)).predict(X).tolist() == net.predict(X).tolist()
    assert clone(net).get_params() == net.get_params()


def test_pipeline(rng):
    X, y = table(rng)
    pipe = make_pipeline(MinMaxScaler(), SoftDiamondNetRegressor(**QUICK), LinearRegression()).fit(X, y)
    assert pipe[-1].coef_.shape == (3,)
    assert pipe[:-1].get_feature_names_out().tolist() == ["x2", "x5", "x11"]
    assert 0.5 < pipe.score(X, y) < 1


def test_folds(rng):
    X, y = table(rng)
    net = SoftDiamondNetRegressor(**QUICK | {"cv": 3}).fit(X, y)
    assert net.get_support(indices=True).tolist() == TRUE and net.refitted_
    assert net.score(*table(np.random.default_rng(2))) > 0.95
    given = SoftDiamondNetRegressor(**SMALL | {"cv": KFold(2, shuffle=True, random_state=1)}).fit(X, y)
    assert np.isfinite(given.path_["validation_error"]).all()


def test_folds_in_parallel(rng):
    import joblib

    X, y = table(rng, n=120)
    alone = SoftDiamondNetRegressor(**SMALL | {"cv": 2}).fit(X, y)
    with joblib.parallel_config("threading"):
        both = SoftDiamondNetRegressor(**SMALL | {"cv": 2, "n_jobs": 2}).fit(X, y)
    np.testing.assert_allclose(both.path_["validation_error"], alone.path_["validation_error"], rtol=1e-4)
    assert (both.support_ == alone.support_).all()


def test_refit(rng):
    """On all rows, without the penalty: nearer to the truth, never a column more; not done without being asked."""
    X, y = table(rng, n=200)
    shrunk = QUICK | {"tail": 1.5, "strengths": [4.0]}
    bare, more = (SoftDiamondNetRegressor(**shrunk | {"refit": refit}).fit(X, y) for refit in (False, True))
    assert not bare.refitted_ and (bare.support_ == more.support_).all()
    test = table(np.random.default_rng(5), n=1000)
    assert more.refitted_ and more.score(*test) > bare.score(*test)


def test_folds_refit_only_where_that_predicts_better(rng):
    """Targets that are noise: a network trained on without a penalty would learn the rows by heart."""
    X, y = rng.normal(size=(90, 20)), rng.normal(size=90)
    noise = QUICK | {"cv": 3, "max_iter": 1000}
    net = SoftDiamondNetRegressor(**noise).fit(X, y)
    assert not net.refitted_
    assert net.score(rng.normal(size=(1000, 20)), rng.normal(size=1000)) > -0.3
    bare = SoftDiamondNetRegressor(**noise | {"refit": False}).fit(X, y)
    np.testing.assert_array_equal(bare.predict(X), net.predict(X))


def test_early_stopping(rng):
    X, y = table(rng, n=200)
    short = SoftDiamondNetRegressor(**SMALL | {"rounds": 30, "early_stopping": True}).fit(X, y)
    assert short.n_iter_ < 30 * 60


def test_progress_bar(rng, capsys):
    X, y = table(rng, n=60)
    SoftDiamondNetRegressor(**SMALL).fit(X, y)
    assert capsys.readouterr().out == ""
    SoftDiamondNetRegressor(**SMALL | {"verbose": 1}).fit(X, y)
    assert "path of strengths" in capsys.readouterr().out


def test_plot_path(fitted):
    pytest.importorskip("matplotlib")
    figure = fitted[0].plot_path()
    norms, error = figure.axes
    assert norms.get_title() == "3 of 20 columns chosen"
    assert {line.get_label() for line in norms.lines} >= {"x2", "x5", "x11"}
    np.testing.assert_array_equal(error.lines[0].get_ydata(), fitted[0].path_["validation_error"])


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_fit_that_is_interrupted_changes_nothing(second, failing, rng, monkeypatch):
    X, y = table(rng, n=60)
    net, calls, train = SoftDiamondNetClassifier(**SMALL), [], training.train
    if second:
        net.fit(X, y > 0)
    before = net.predict(X) if second else None

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == failing:
            raise KeyboardInterrupt
        train(*arguments)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X[:, :12], np.where(y > 0, "up", "down"))
    with pytest.raises(ValueError, match="one class"):
        net.fit(X, np.zeros(60))
    if second:
        assert (net.predict(X) == before).all() and net.n_features_in_ == 20
    else:
        for method in (net.predict, net.transform):
            with pytest.raises(NotFittedError):
                method(X)


def test_torch_may_have_other_defaults(rng):
    X, y = table(rng, n=60)
    expected = SoftDiamondNetRegressor(**SMALL).fit(X, y).predict(X)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            found = SoftDiamondNetRegressor(**SMALL).fit(X, y).predict(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.tolist() == expected.tolist()


# ---- bad input -----------------------------------------------------------------------------------------------------------

BAD = [
    ({"strengths": []}, "strengths must be"),
    ({"strengths": [1.0, -1.0]}, "not negative"),
    ({"strengths": "many"}, "strengths must be"),
    ({"strengths": [np.nan]}, "strengths must be"),
    ({"tail": 0.05}, r"tail must be a number in \[0.1, 2\]"),
    ({"tail": 2.5}, r"tail must be"),
    ({"tail": "thick"}, r"tail must be"),
    ({"device": "abacus"}, "device must be one that torch knows"),
    ({"device": "mps" if not torch.backends.mps.is_available() else "xpu"}, "not available here"),
    ({"relative_scale": 0.0}, "relative_scale must be positive"),
    ({"learning_rate_init": -1.0}, "learning_rate_init must be positive"),
    ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes must be positive"),
    ({"max_iter": 0}, "max_iter must be"),
    ({"rounds": 0}, "rounds must be"),
    ({"rounds": "many"}, 'rounds must be "auto" or a positive integer'),
    ({"batch_size": 0}, "batch_size must be"),
    ({"validation_fraction": 1.0}, "validation_fraction must lie"),
    ({"cv": []}, "cv gives no fold"),
    ({"cv": [(range(20), [])]}, "at least one of each"),
    ({"cv": [(range(20), [10**6])]}, "rows that there are"),
    ({"refit": "no"}, "refit must be True or False"),
    ({"early_stopping": 1}, "early_stopping must be True or False"),
    ({"hidden_layer_sizes": None}, "hidden_layer_sizes must be positive integers; got None"),
    ({"hidden_layer_sizes": 64.0}, "hidden_layer_sizes must be positive integers; got 64.0"),
    ({"hidden_layer_sizes": True}, "hidden_layer_sizes must be positive integers; got True"),
    ({"tail": True}, "tail must be"),
    ({"max_iter": True}, "max_iter must be"),
]


@pytest.mark.parametrize(("changed", "message"), BAD, ids=[str(changed) for changed, _ in BAD])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_parameters(kind, changed, message, rng):
    X, y = table(rng, n=40)
    with pytest.raises(ValueError, match=message):
        kind(**SMALL | changed).fit(X, y > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad, rng):
    X, y = table(rng, n=40)
    X[3, 4] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        SoftDiamondNetRegressor(**SMALL).fit(X, y)
    net = SoftDiamondNetRegressor(**SMALL).fit(np.nan_to_num(X, posinf=0), y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        net.predict(X)
    y[0] = bad
    with pytest.raises(ValueError, match="y contains"):
        SoftDiamondNetRegressor(**SMALL).fit(np.nan_to_num(X, posinf=0), y)


def test_missing_in_a_frame(rng):
    X, y = frame(rng, n=40)
    for name in ("town", "x1"):
        holed = X.copy()
        holed.loc[2, name] = None
        with pytest.raises(ValueError, match=f"column '{name}'.* (missing values|NaN)"):
            SoftDiamondNetRegressor(**SMALL).fit(holed, y)


def test_constant_columns(rng):
    """One that does not vary is never chosen, as everywhere in scikit-learn; where none varies there is nothing to choose."""
    X, y = table(rng)
    X[:, 7], X[:, 8] = 3.3, 1e9 + 0.1
    net = SoftDiamondNetRegressor(**QUICK).fit(X, y)
    assert net.get_support(indices=True).tolist() == TRUE
    X = rng.uniform(-1, 1, (200, 6))
    X[:, 0] = 3.0
    for seed in range(3):  # with so little penalty and training that the others all stay
        weak = SMALL | {"strengths": [0.05], "random_state": seed}
        assert SoftDiamondNetRegressor(**weak).fit(X, X.sum(1)).get_support(indices=True).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="all columns are constant"):
        SoftDiamondNetRegressor(**SMALL).fit(np.full((40, 3), 0.1), y[:40])


def test_one_class(rng):
    X, _ = table(rng, n=40)
    with pytest.raises(ValueError, match="y has one class, 5"):
        SoftDiamondNetClassifier(**SMALL).fit(X, np.full(40, 5))


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None] * 20,
        ["a", np.nan] * 20,
        np.array(["a", pandas.NA] * 20, dtype=object),
        np.array([0.0, np.nan] * 20),
        pandas.Series(["a", None] * 20),
        pandas.Series(["a", "b", None, "b"] * 10, dtype="category"),
        pandas.Series([1, 0, None, 1] * 10, dtype="Int64"),
    ],
    ids=["list", "list with NaN", "objects", "floats", "strings", "categories", "integers"],
)
def test_missing_labels(rng, labels):
    X, _ = table(rng, n=40)
    with pytest.raises(ValueError, match=r"y has missing values \(NaN\)"):
        SoftDiamondNetClassifier(**SMALL).fit(X, labels)


def test_constant_target(rng):
    X, _ = table(rng, n=40)
    np.testing.assert_allclose(SoftDiamondNetRegressor(**SMALL).fit(X, np.full(40, 5.0)).predict(X), 5.0, atol=0.2)


def test_too_little_memory(rng, monkeypatch):
    """Told before anything is allocated, in one line with both numbers."""
    X, y = table(rng, n=40)
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 2**10)
    with pytest.raises(
        MemoryError, match=r"40 rows of 20 inputs with 2 strengths need about 0.0 GiB and cpu has 0.0 GiB free"
    ):
        SoftDiamondNetRegressor(**SMALL).fit(X, y)
    with pytest.raises(MemoryError, match=r"in 4 folds, 3 at once, need .* or fewer folds or n_jobs"):
        SoftDiamondNetRegressor(**SMALL, cv=4, n_jobs=3).fit(X, y)


def test_need_of_memory_is_about_right():
    """3,000 columns, ten networks of 64 and 32: 54 MB of weights' worth and 2 of a batch, as numbers by size."""
    weights = 3000 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    batch = 4 * 10 * 64 * (750 + 97)
    assert _memory.required_bytes(500, [3000, 64, 32, 1], 10, 64) == 16 * 500 * 3000 + 28 * 10 * weights + batch
    five = _memory.required_bytes(500, [3000, 64, 32, 1], 10, 64, 5, 2)  # two in training, three done
    assert five == 8 * 500 * 3000 + 2 * (8 * 500 * 3000 + 28 * 10 * weights + batch) + 3 * 4 * 10 * weights


def test_group_above_the_limit(rng):
    X = pandas.DataFrame({"code": [f"k{i}" for i in range(70)] * 2, "x": rng.normal(size=140)})
    with pytest.raises(
        ValueError, match=r"column 'code' has 70 categories; with a first layer of 1,000 at most 65 make"
    ):
        SoftDiamondNetRegressor(**SMALL | {"hidden_layer_sizes": (1000,)}).fit(X, rng.normal(size=140))
    with pytest.raises(ValueError, match="a first layer of 70,000 is too wide: at most 65,536"):
        SoftDiamondNetRegressor(**SMALL | {"hidden_layer_sizes": (70_000,)}).fit(X[["x"]], rng.normal(size=140))


def test_few_rows_and_a_large_part_of_them_held_out(rng):
    X, y = table(rng, n=3, p=12)
    assert SoftDiamondNetRegressor(**SMALL, validation_fraction=0.99).fit(X, y).predict(X).shape == (3,)


# ---- the stack -----------------------------------------------------------------------------------------------------------


def modules(stack, k):
    """Network k of a stack as an nn.Sequential."""
    layers = []
    for weight, bias in zip(*stack.arrays(k), strict=True):
        layer = torch.nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("penalty", [SoftDiamond(0.5, group="input"), L1(group="input"), L1()], ids=repr)
def test_stack_trains_as_each_network_alone(penalty, rng):
    """Twin: torch's own modules, Adam and `softdiamond.Regularizer` (L1 by its proximal step) on the same batches."""
    x = torch.tensor(rng.normal(size=(50, 6)), dtype=torch.float32)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
    strengths = torch.tensor([0.5, 3.0, 6.0])
    cpu = torch.device("cpu")
    stack = networks.Stack.fresh([6, 5, 4, 1], 3, torch.Generator().manual_seed(1), cpu)
    twins = [modules(stack, k) for k in range(3)]
    groups = networks.Groups.of(np.arange(6), 6, cpu)
    rms = float(stack.weights[0].square().mean().sqrt())
    decay = training.PenaltyStep(penalty, 0.3, rms, groups, 5)
    plan = training.Schedule(strengths, 20, 50, 0.01)
    training.train(stack, training.Rows(x, y), networks.squared_error, decay, plan, torch.Generator(), lambda: None)
    for k, twin in enumerate(twins):
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        first = [("weight", twin[0].weight)]
        reg = Regularizer(first, penalty, float(strengths[k]), relative_scale=0.3)
        for t in range(20):
            rate = 0.01 * (1 + np.cos(np.pi * t / 20)) / 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            ((twin(x) - y) ** 2).mean().backward()
            optimizer.step()
            reg.strength = float(strengths[k]) * min(1.0, (t + 1) / 10)
            reg.step(rate, "prox" if isinstance(penalty, L1) else "implicit")
        weights, biases = stack.arrays(k)
        for weight, bias, layer in zip(weights, biases, twin[::2], strict=True):
            np.testing.assert_allclose(weight.T, layer.weight.detach(), rtol=2e-3, atol=2e-5)
            np.testing.assert_allclose(bias, layer.bias.detach(), rtol=2e-3, atol=2e-5)


def test_groups_of_several_inputs():
    groups = networks.Groups.of(np.array([0, 1, 1, 2]), 3, torch.device("cpu"))
    first = torch.arange(1.0, 17.0).view(4, 2, 2)
    expected = [first[[0]], first[[1, 2]], first[[3]]]
    torch.testing.assert_close(
        groups.norms(first), torch.stack([each.square().sum((0, 2)).sqrt() for each in expected])
    )
    assert groups.spread(torch.tensor([5, 6, 7])).tolist() == [5, 6, 6, 7]


def test_cut_at_the_widest_gap():
    norms = torch.tensor([[3.0, 1.0], [2.5, 0.9], [0.1, 0.8], [0.09, 0.02], [0.0001, 0.0002]])
    first, *_, everything = selection.candidate_supports(norms)
    assert first.T.tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    assert everything.all()
    assert selection.candidate_supports(torch.zeros(3, 1))[-1].sum() == 1  # one column is left, whatever happens


def test_a_cut_keeps_a_column_where_all_norms_are_zero():
    for kept in selection.candidate_supports(torch.zeros(3, 2)):
        assert kept.any(0).all()


def test_select_takes_the_fewest_within_tolerance():
    """A linear network whose last column carries noise: to leave it out costs nothing; the large gap would cost too much."""
    cpu = torch.device("cpu")
    x = torch.randn(500, 3)
    y = x[:, :1] + 0.05 * x[:, 1:2]
    stack = networks.Stack([torch.tensor([[[1.0]], [[0.05]], [[0.011]]])], [torch.zeros(1, 1)])
    kept, error = selection.select(
        stack, networks.Groups.of(np.arange(3), 3, cpu), training.Rows(x, y), networks.squared_error
    )
    assert kept[:, 0].tolist() == [True, True, False]
    assert float(error[0]) < 1e-10


def a_path():
    """Three equal linear networks of three columns: the first keeps all, the others leave one and two out."""
    first = torch.tensor([1.0, 0.1, 0.05]).view(3, 1, 1).expand(3, 3, 1).clone()
    kept = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    return paths.Path(networks.Stack([first], [torch.zeros(3, 1)]), kept, torch.zeros(3))


@pytest.mark.parametrize(("noise", "fewest"), [(0.0, 0), (0.6, 1), (2.0, 2)])
@pytest.mark.parametrize("piece", [4096, 150])
def test_fewest_columns_within_one_standard_error(noise, fewest, piece, monkeypatch):
    """Squared errors of the best are noise^2 times 1/4 and 9/4 in turn: of mean 5/4 noise^2 and standard deviation noise^2."""
    monkeypatch.setattr(training, "EVALUATION_ROWS", piece)
    rows = 400
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    errors = noise * torch.tensor([0.5, -0.5, 1.5, -1.5]).repeat(rows // 4)
    y = (x @ torch.tensor([1.0, 0.1, 0.05]) + errors).unsqueeze(1)
    path, groups = a_path(), networks.Groups.of(np.arange(3), 3, torch.device("cpu"))
    path.errors = 1.25 * noise**2 + torch.tensor([0.0, 0.005, 0.03], dtype=torch.float64)
    near = path.errors <= path.errors[0] + noise**2 / rows**0.5
    assert int(near.sum()) == fewest + 1  # what the case is meant to be
    assert paths._network_of_fewest_columns(path, groups, training.Rows(x, y), networks.squared_error) == fewest


def test_a_column_that_the_best_leaves_out_does_not_count():
    """The best network without its last column has no error; with it, an error that would make every other one near."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    path, groups = a_path(), networks.Groups.of(np.arange(3), 3, torch.device("cpu"))
    path.stack.weights[0][2, 0] = 100.0
    path.kept[2, 0] = False
    path.errors = torch.tensor([0.0, 0.1, 0.1], dtype=torch.float64)
    y = x[:, :2] @ torch.tensor([[1.0], [0.1]])
    assert paths._network_of_fewest_columns(path, groups, training.Rows(x, y), networks.squared_error) == 0


def test_weights_of_reinitialized_columns():
    """Of what a network does not use: REINITIALIZED_NORM times the mean norm of what it uses, another draw for each."""
    wide = torch.tensor([1.0, 0.1, 0.05]).view(3, 1, 1).expand(3, 3, 4000).clone()
    path = a_path()
    path.stack = networks.Stack([wide], [])
    groups = networks.Groups.of(np.arange(3), 3, torch.device("cpu"))
    found = paths._reinitialized(path, [2, 0, 1, 2], groups, torch.Generator().manual_seed(0)).weights[0]
    assert torch.equal(found[:, 1], wide[:, 0])  # uses all
    assert torch.equal(found[:2, 2], wide[:2, 1]) and torch.equal(found[:1, 3], wide[:1, 2])
    norms = torch.linalg.vector_norm(found, dim=2) / 4000**0.5
    torch.testing.assert_close(norms[1:, 0], torch.full((2,), paths.REINITIALIZED_NORM), rtol=0.05, atol=0)
    torch.testing.assert_close(norms[2, 2], torch.tensor(paths.REINITIALIZED_NORM * 0.55), rtol=0.05, atol=0)
    assert not torch.equal(found[1:, 0], found[1:, 3])


@pytest.mark.parametrize(
    ("columns", "networks", "size"),
    [(300, 16, 100), (1000, 16, 125), (3001, 16, 376), (160, 5, 100), (210, 3, 210), (130, 1, 130)],
)
def test_every_column_is_in_the_random_subsets_of_two_networks(columns, networks, size):
    subsets = paths._random_subsets(columns, networks, torch.Generator().manual_seed(0))
    assert paths.subset_size(columns, networks) == size and (subsets.sum(0) == size).all()
    assert subsets.sum(1).min() >= min(2, networks)
    if size < columns:
        assert len({tuple(each.tolist()) for each in subsets.T}) == networks, "no subset twice"
    if networks == 16:
        both = subsets[:, ::2].any(1) & subsets[:, 1::2].any(1)
        assert both.float().mean() > 0.8, "of networks with either start"


def test_of_small_tables_a_random_subset_is_the_whole():
    assert paths.subset_size(100, 16) == 100 and paths.subset_size(101, 16) == 100


def test_held_weights_stay_zero():
    """What is not free is 0 after each step, with a penalty and without; what is free moves."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    rows = training.Rows(x, x.sum(1, keepdim=True))
    groups = networks.Groups.of(np.arange(4), 4, torch.device("cpu"))
    free = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
    for decay in (None, training.PenaltyStep(L1(group="input"), 0.1, 0.3, groups, 5)):
        stack = networks.Stack.fresh([4, 5, 1], 2, torch.Generator().manual_seed(1), torch.device("cpu"))
        plan, seen = training.Schedule(torch.tensor([0.01, 0.01]), 5, 10, 0.01), []

        def tick(first=stack.weights[0], seen=seen):
            seen.append(first.detach().clone())

        training.train(stack, rows, networks.squared_error, decay, plan, torch.Generator(), tick, free)
        assert len(seen) == 5
        for before, after in itertools.pairwise(seen):
            assert torch.equal(groups.norms(before) > 0, free) and torch.equal(groups.norms(after - before) > 0, free)


@pytest.mark.parametrize("penalty", [SoftDiamond(0.5, group="input"), L1(group="input"), L1(), None], ids=str)
def test_training_on_what_is_visible_is_holding_the_rest_at_zero(penalty):
    """Networks that see 5 to 14 of 60 inputs each."""
    groups, found = networks.Groups.of(np.arange(60), 60, torch.device("cpu")), []
    x = torch.randn(100, 60, generator=torch.Generator().manual_seed(0))
    free = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.15, 0.2, 0.25])
    assert len(set(free.sum(0).tolist())) == 4
    for narrow in (False, True):
        generator = torch.Generator().manual_seed(2)
        stack = networks.Stack.fresh([60, 8, 6, 1], 4, generator, torch.device("cpu"))
        stack.weights[0].mul_(free.unsqueeze(2))
        decay = None if penalty is None else training.PenaltyStep(penalty, 0.1, 0.07, groups, 8)
        plan = training.Schedule(torch.logspace(-1, 1, 4), 40, 32, 0.002)
        rows, given = training.Rows(x, x[:, :1]), (networks.squared_error, decay, plan, generator, lambda: None)

        def fit(stack, rows, free, given=given):
            assert stack.weights[0].shape[0] == (len(free) if rows.visible is None else rows.visible.shape[1])
            training.train(stack, rows, *given, free)

        if narrow:
            training.train_visible(stack, rows, free, fit)
        else:
            fit(stack, rows, free)
        found.append(stack)
    held, seen = found
    assert (seen.weights[0][~free] == 0).all()
    for own, other in zip(seen.parameters, held.parameters, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_rounds_with_small_random_subsets_train_on_what_is_visible(several, monkeypatch):
    """Where each column is one input; with columns of several the others are held at 0."""
    calls, narrow = [], training.train_visible
    monkeypatch.setattr(paths, "MIN_SUBSET", 2)
    monkeypatch.setattr(paths, "MAX_VISIBLE_FRACTION", 1.0)
    monkeypatch.setattr(training, "train_visible", lambda *given: (calls.append(given), narrow(*given)))
    x = np.random.default_rng(0).uniform(-1, 1, (80, 40))
    frame = (
        pandas.DataFrame(x, columns=[f"x{j}" for j in range(40)]).assign(
            town=np.array(["a", "b"])[(x[:, 0] > 0).astype(int)]
        )
        if several
        else x
    )
    short = {"strengths": np.geomspace(1, 30, 40), "max_iter": 150, "rounds": 3, "refit": False, "random_state": 0}
    net = SoftDiamondNetRegressor((16,), **short).fit(frame, x[:, 3])
    assert len(calls) == (0 if several else 2) and net.support_[3]


@pytest.mark.parametrize(
    ("columns", "strengths", "rounds"),
    [
        (1, 16, 4),
        (300, 16, 4),
        (800, 16, 4),
        (1000, 16, 5),
        (3000, 16, 8),
        (100_000, 16, 8),
        (3000, 1, 4),
        (3000, 60, 4),
    ],
)
def test_more_rounds_with_random_subsets_of_more_than_a_hundred(columns, strengths, rounds):
    given = np.geomspace(0.1, 10, strengths)
    assert check_parameters(SoftDiamondNetRegressor(strengths=given), columns)[2] == rounds
    assert check_parameters(SoftDiamondNetRegressor(strengths=given, rounds=3), columns)[2] == 3


@pytest.mark.parametrize(("size", "calls"), [(4, 1), (5, 0)])
def test_what_is_held_is_left_out_where_it_is_most(size, calls, monkeypatch):
    """Of 20 columns each network uses 1 and has others in its subset: a quarter are trained alone, not more."""
    seen, own = [], torch.zeros(20, 12, dtype=torch.bool)
    own[0] = True
    monkeypatch.setattr(paths, "MIN_SUBSET", size)
    monkeypatch.setattr(paths, "_random_subsets", lambda *_: torch.arange(20)[:, None].expand(20, 12) // size == 1)
    monkeypatch.setattr(selection, "select", lambda *_: (own.clone(), torch.ones(12, dtype=torch.float64)))
    monkeypatch.setattr(training, "train_visible", lambda *given: seen.append(given))
    groups, x = networks.Groups.of(np.arange(20), 20, torch.device("cpu")), torch.randn(60, 20)
    rows, generator = training.Rows(x, x[:, :1]), torch.Generator().manual_seed(0)
    plan = training.Schedule(torch.linspace(0.1, 1, 12), 3, 20, 0.01)
    given = [networks.squared_error, SoftDiamond(0.5, group="input"), 0.1, plan, 2, False, generator, lambda: None]
    paths.follow_path([20, 6, 1], groups, rows, rows, *given)
    assert len(seen) == calls


@pytest.mark.parametrize("several", [1, 2])
def test_a_round_gives_a_network_its_own_columns_and_a_random_subset(several, monkeypatch):
    """The first round has all columns; in those after it each network starts and ends with nothing but these, drawn anew."""
    monkeypatch.setattr(paths, "MIN_SUBSET", 2)
    labels = np.repeat(np.arange(12), several)
    groups = networks.Groups.of(labels, 12, torch.device("cpu"))
    own = torch.eye(12, 8, dtype=torch.bool)  # column k is that of network k
    error = torch.tensor([5.0, 5, 1, 5, 5, 5, 5, 5], dtype=torch.float64)
    rounds, drawn, train, draw = [], [], training.train, paths._random_subsets

    def recording(stack, *given):
        start = groups.norms(stack.weights[0]) > 0
        train(stack, *given)
        rounds.append((start, groups.norms(stack.weights[0]) > 0))

    def drawing(*given):
        drawn.append(draw(*given))
        return drawn[-1]

    monkeypatch.setattr(training, "train", recording)
    monkeypatch.setattr(paths, "_random_subsets", drawing)
    monkeypatch.setattr(selection, "select", lambda *_: (own.clone(), error.clone()))
    monkeypatch.setattr(paths, "_network_of_fewest_columns", lambda *_: 6)
    x = torch.randn(60, len(labels), generator=torch.Generator().manual_seed(0))
    rows, generator = training.Rows(x, x[:, :1]), torch.Generator().manual_seed(0)
    plan = training.Schedule(torch.linspace(0.1, 1, 8), 10, 20, 0.01)
    given = [networks.squared_error, SoftDiamond(0.5, group="input"), 0.1, plan, 3, False, generator, lambda: None]
    paths.follow_path([len(labels), 6, 1], groups, rows, rows, *given)
    assert rounds[0][0].all() and rounds[0][1].all()
    assert len(drawn) == 2 and not torch.equal(*drawn)
    for subsets, (start, end) in zip(drawn, rounds[1:], strict=True):
        assert subsets.sum(0).tolist() == [3] * 8
        expected = own[:, [2, 6] * 4] | subsets
        assert torch.equal(start, expected) and torch.equal(end, expected)


def test_difficult_columns_show_among_hundreds_of_others():
    """An even column of 300 for 150 rows: where all return at once it is not found (nor for seeds 1 and 2)."""
    x = np.random.default_rng(0).uniform(-1, 1, (150, 300))
    net = SoftDiamondNetRegressor((32, 16), max_iter=300, random_state=0).fit(x, x[:, 3] + 1.5 * x[:, 5] ** 2)
    assert net.get_support(indices=True).tolist() == [3, 5]


def test_a_round_starts_from_the_best_and_from_the_fewest_columns(monkeypatch):
    seen, best, reinitialized = [], [], paths._reinitialized
    monkeypatch.setattr(paths, "_network_of_fewest_columns", lambda *_: 7)

    def spy(path, numbers, groups, generator):
        seen.append(list(numbers))
        best.append(path.best)
        return reinitialized(path, [min(k, 3) for k in numbers], groups, generator)

    monkeypatch.setattr(paths, "_reinitialized", spy)
    x = np.random.default_rng(0).uniform(size=(60, 3))
    SoftDiamondNetRegressor(**SMALL | {"strengths": [0.1, 1.0, 2.0, 4.0]}).fit(x, x[:, 0])
    assert seen == [[best[0], 7, best[0], 7]]


def test_noisy_table_leaves_most_probes_out():
    """Diabetes with five permuted copies of each column: started from the lowest error alone, more than half of them stay."""
    x, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng([1002, 7])
    rows = rng.permutation(len(y))
    x, y = x[rows], y[rows]
    x = np.hstack([x, *(np.stack([rng.permutation(column) for column in x.T], axis=1) for _ in range(5))])
    held = int(0.2 * len(y))
    n = int(0.6 * len(y)) + held
    net = SoftDiamondNetRegressor(validation_fraction=held / n, random_state=1002).fit(x[:n], y[:n])
    assert net.support_[10:].mean() < 0.2


@pytest.mark.parametrize(("tail", "columns", "unit"), [(0.3, 3, 0.3), (2.0, 900, 2.0), (0.5, 900, 1.5)])
def test_default_path_is_in_units_of_the_tail_and_of_many_columns(tail, columns, unit, rng):
    x = rng.uniform(size=(40, columns))
    net = SoftDiamondNetRegressor(tail=tail, max_iter=5, random_state=0).fit(x, x[:, 0])
    np.testing.assert_allclose(net.path_["strength"], unit * np.geomspace(0.1, 32, 16))
