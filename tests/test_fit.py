"""`stable.fit`: it recovers what it is given, within its own intervals; its estimates and its alternatives are maxima; bins do no harm."""

import numpy as np
import pytest
from scipy import optimize, stats

from softdiamond import stable


def sample(alpha, n, seed, *, scale=1.0, loc=0.0):
    return stable.rvs(alpha, size=n, rng=seed, scale=scale) + loc


def level(x, alpha, scale, loc=0.0):
    """Log-likelihood, straight from the law."""
    return float(np.sum(stable.logpdf(x - loc, alpha, scale=scale)))


# --- It recovers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 1.3, 1.7, 1.95])
@pytest.mark.parametrize("loc", ["known", "free"])
def test_recovers_the_law_of_10_000_draws(alpha, loc):
    scale, place = 0.03, 5.0 if alpha > 0.4 else 0.0
    result = stable.fit(sample(alpha, 10_000, 11, scale=scale, loc=place), loc=place if loc == "known" else "free")
    true = {"alpha": alpha, "scale": scale} | ({"loc": place} if loc == "free" else {})
    assert list(result.errors) == list(true)
    for name, value in true.items():
        low, high = result.interval(name, 0.999)
        assert low <= value <= high, (name, value, result)
        assert high - low < 0.4 * max(value, scale), (name, result)  # a wide interval would prove nothing
    assert result.size == 10_000
    assert result.dispersion == pytest.approx(result.scale**result.alpha, rel=1e-15)


@pytest.mark.parametrize("alpha", [0.8, 1.5])
@pytest.mark.parametrize("loc", ["known", "free"])
def test_coverage_of_the_95_percent_intervals(alpha, loc):
    draws, scale, place = 50, 2.0, 3.0
    true = {"alpha": alpha, "scale": scale} | ({"loc": place} if loc == "free" else {})
    inside, scores = dict.fromkeys(true, 0), {name: [] for name in true}
    for seed in range(draws):
        x = sample(alpha, 1000, [22, seed], scale=scale, loc=place)
        result = stable.fit(x, loc="free" if loc == "free" else place)
        for name, value in true.items():
            low, high = result.interval(name)
            inside[name] += low <= value <= high
            scores[name].append((getattr(result, name) - value) / result.errors[name])
    for name in true:
        assert 0.85 * draws <= inside[name] <= draws, (name, inside)
        assert 0.7 < np.std(scores[name]) < 1.35, name  # errors neither too small nor too large: 50 draws
        assert abs(np.mean(scores[name])) < 0.55, name


def test_intervals():
    result = stable.fit(sample(1.5, 2000, 1, scale=3.0), loc="free")
    for name in ("alpha", "loc"):
        low, high = result.interval(name, 0.9)
        assert (low + high) / 2 == pytest.approx(getattr(result, name))
        assert high - low == pytest.approx(2 * stats.norm.ppf(0.95) * result.errors[name])
    low, high = result.interval("scale")  # on its logarithm
    assert np.sqrt(low * high) == pytest.approx(result.scale)
    assert np.log(high / low) == pytest.approx(2 * stats.norm.ppf(0.975) * result.errors["scale"] / result.scale)
    result = stable.fit(sample(1.9, 300, 1))
    low, high = result.interval("alpha", 1 - 1e-12)  # cut at the ends of the law
    assert low < result.alpha < high == 2


# --- It is the maximum -----------------------------------------------------------------------------------------------


CASES = {
    "all": {},
    "free location": {"loc": "free"},
    "another location": {"loc": 0.7},
    "alpha fixed": {"alpha": 1.2},
    "scale fixed": {"scale": 2.5},
    "alpha fixed, free location": {"alpha": 1.2, "loc": "free"},
    "scale fixed, free location": {"scale": 2.5, "loc": "free"},
    "only the location": {"alpha": 1.2, "scale": 2.5, "loc": "free"},
}


@pytest.mark.parametrize("true", [0.6, 1.4])
@pytest.mark.parametrize("case", CASES)
def test_estimates_are_the_maximum(case, true):
    """A simplex that knows only `logpdf` finds nothing higher, from the estimate and from the truth."""
    given = CASES[case]
    x = sample(true, 800, 5, scale=2.0, loc=0.5)
    result = stable.fit(x, **given)
    fixed = {"alpha": given.get("alpha"), "scale": given.get("scale")}
    fixed["loc"] = None if given.get("loc") == "free" else given.get("loc", 0.0)
    names = [name for name, value in fixed.items() if value is None]
    assert list(result.errors) == names
    for name, value in fixed.items():
        if value is not None:
            assert getattr(result, name) == value

    def loss(theta):
        values = fixed | dict(zip(names, theta, strict=True))
        if not (0.1 <= values["alpha"] <= 2 and values["scale"] > 0):
            return np.inf
        return -level(x, values["alpha"], values["scale"], values["loc"])

    estimate = [getattr(result, name) for name in names]
    assert -loss(estimate) == pytest.approx(result.log_likelihood, rel=1e-12)
    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 800}
    found = optimize.minimize(loss, np.array(estimate) + 0.02, method="Nelder-Mead", options=options)
    assert -found.fun <= result.log_likelihood + 1e-6
    for name, value in zip(names, found.x, strict=True):
        assert getattr(result, name) == pytest.approx(value, abs=2e-3 * result.errors[name]), name


@pytest.mark.parametrize("n", [200, 2000])
@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.5, 0.8, 1.5])
def test_a_free_location_is_never_less_likely_than_the_true_one(alpha, n):
    """For small alpha the likelihood has many narrow maxima in the location: one must be found that is good enough."""
    for seed in range(5):
        x = sample(alpha, n, [23, seed], scale=0.03)
        known, free = stable.fit(x), stable.fit(x, loc="free")
        assert free.log_likelihood >= known.log_likelihood - 1e-6, (seed, known.scale, free.scale)


@pytest.mark.parametrize("given", [{}, {"loc": "free"}, {"alpha": 1.4}, {"scale": 2.0, "loc": "free"}])
def test_gradient_vanishes_and_errors_are_the_observed_information(given):
    x = sample(1.4, 3000, 6, scale=2.0)
    result = stable.fit(x, **given)
    names, h = list(result.errors), 1e-3
    center = np.array([getattr(result, name) for name in names])
    size = np.array([result.errors[name] for name in names])

    def f(*moves):
        at = center + h * size * sum(np.array(move) for move in moves)
        values = {"alpha": result.alpha, "scale": result.scale, "loc": result.loc} | dict(zip(names, at, strict=True))
        return level(x, values["alpha"], values["scale"], values["loc"])

    unit = 30 * np.eye(len(names))
    hessian = np.empty((len(names), len(names)))
    for i, u in enumerate(unit):
        gradient = (f(u) - f(-u)) / (60 * h)  # in units of the standard error
        assert abs(gradient) < 1e-3 + h, names[i]
        for j, v in enumerate(unit):
            hessian[i, j] = (f(u, v) - f(u, -v) - f(-u, v) + f(-u, -v)) / (60 * h) ** 2
    errors = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    np.testing.assert_allclose(errors, 1, rtol=5e-3)


def test_nothing_to_estimate_gives_the_likelihood():
    x = sample(1.4, 500, 7)
    result = stable.fit(x, alpha=1.4, scale=1.0, loc=0.0)
    assert (result.alpha, result.scale, result.loc, result.errors) == (1.4, 1.0, 0.0, {})
    assert result.log_likelihood == pytest.approx(level(x, 1.4, 1.0), rel=1e-13)
    with pytest.raises(ValueError, match="'alpha' was not estimated; estimated: nothing"):
        result.interval("alpha")


def test_gaussian_data_puts_alpha_on_the_edge():
    x = np.random.default_rng(3).normal(size=4000) * 5
    result = stable.fit(x)
    assert result.alpha == pytest.approx(2, abs=1e-3)
    assert result.scale == pytest.approx(np.sqrt(np.mean(x**2) / 2), rel=1e-3)
    if result.alpha == 2:
        assert np.isnan(result.errors["alpha"])
        assert "on the edge" in str(result)
        assert result.log_likelihood == pytest.approx(result.alternatives["Gaussian"][0], rel=1e-10)
        spread = result.scale / np.sqrt(2 * x.size)  # of a Gaussian's scale
        assert result.errors["scale"] == pytest.approx(spread, rel=1e-3)


def test_light_tails_put_alpha_exactly_at_two():
    x = np.random.default_rng(4).uniform(-1, 1, 2000)
    result = stable.fit(x, loc="free")
    assert result.alpha == 2
    assert np.isnan(result.errors["alpha"])
    low, high = result.interval("alpha")
    assert 1.99 < low < high == 2
    assert result.loc == pytest.approx(np.mean(x), abs=1e-6)
    assert result.scale == pytest.approx(np.std(x) / np.sqrt(2), rel=1e-6)
    assert result.errors["loc"] == pytest.approx(np.std(x) / np.sqrt(x.size), rel=1e-4)


def test_tails_heavier_than_any_put_alpha_at_the_lower_edge():
    x = np.exp(np.random.default_rng(4).normal(size=500) * 60)
    result = stable.fit(np.concatenate([x, -x]))
    assert result.alpha == pytest.approx(0.1, abs=1e-4)
    assert np.isnan(result.errors["alpha"])


# --- Bins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.5, 2.0])
@pytest.mark.parametrize("loc", [0.0, "free"])
def test_bins_change_nothing_that_matters(alpha, loc, monkeypatch):
    from softdiamond.stable import _sample

    x = sample(alpha, 25_000, 8, scale=0.4, loc=0.0 if loc == 0 else 1.5)
    binned = stable.fit(x, loc=loc)
    points, _ = _sample.binned(x, np.ones(x.size))
    assert points.size < x.size  # it was binned
    monkeypatch.setattr(_sample, "_BINNED_FROM", 10**9)
    exact = stable.fit(x, loc=loc)
    for name, error in exact.errors.items():
        if np.isnan(error):
            assert np.isnan(binned.errors[name])
            assert getattr(binned, name) == getattr(exact, name)
            continue
        assert abs(getattr(binned, name) - getattr(exact, name)) < 0.01 * error, name
        assert binned.errors[name] == pytest.approx(error, rel=0.01)
    assert binned.log_likelihood == pytest.approx(level(x, binned.alpha, binned.scale, binned.loc), rel=1e-12)
    assert binned.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-3)


def test_a_million_points():
    x = sample(1.1, 1_000_000, 9, scale=1e-3)
    result = stable.fit(x)
    assert abs(result.alpha - 1.1) < 4 * result.errors["alpha"] < 0.02
    assert abs(result.scale - 1e-3) < 4 * result.errors["scale"] < 2e-5


# --- Alternatives ----------------------------------------------------------------------------------------------------------

SCIPY = {
    "Gaussian": lambda p: stats.norm(p.get("loc", 0.0), p["sd"]),
    "Laplace": lambda p: stats.laplace(p.get("loc", 0.0), p["scale"]),
    "Cauchy": lambda p: stats.cauchy(p.get("loc", 0.0), p["scale"]),
    "Student-t": lambda p: stats.t(p["df"], p.get("loc", 0.0), p["scale"]),
}
DATA = {
    "stable 0.8": sample(0.8, 1500, 1, scale=2.0),
    "stable 1.6": sample(1.6, 1500, 2, scale=0.01, loc=0.005),
    "Student-t 3": stats.t(3, scale=10).rvs(1500, random_state=3),
    "Laplace": stats.laplace(scale=1e-5).rvs(1500, random_state=4),
}


@pytest.mark.parametrize("loc", [0.0, "free"])
@pytest.mark.parametrize("data", DATA)
def test_alternatives_are_at_their_own_maxima(data, loc):
    x, free = DATA[data], loc == "free"
    result = stable.fit(x, loc=loc)
    assert set(result.alternatives) == set(SCIPY)
    for name, (value, parameters) in result.alternatives.items():
        assert ("loc" in parameters) == free, name
        assert value == pytest.approx(float(np.sum(SCIPY[name](parameters).logpdf(x))), rel=1e-10), name
        keys = list(parameters)
        theta = [np.log(parameters[key]) if key != "loc" else parameters[key] for key in keys]
        unit = np.array(
            [0.05 if key != "loc" else 0.05 * parameters.get("scale", parameters.get("sd")) for key in keys]
        )

        def loss(move, name=name, keys=keys, theta=theta, unit=unit):
            at = theta + unit * move
            moved = {key: at[i] if key == "loc" else np.exp(at[i]) for i, key in enumerate(keys)}
            return -float(np.sum(SCIPY[name](moved).logpdf(x)))

        better = -optimize.minimize(loss, np.full(len(keys), 0.3), method="Nelder-Mead", options={"fatol": 1e-6}).fun
        assert better <= value + 1e-3, (name, better, value)


def test_alternatives_against_the_fits_of_scipy():
    x = DATA["Student-t 3"]
    alternatives = stable.fit(x, loc="free").alternatives
    for name, law in {
        "Gaussian": stats.norm,
        "Laplace": stats.laplace,
        "Cauchy": stats.cauchy,
        "Student-t": stats.t,
    }.items():
        theirs = float(np.sum(law(*law.fit(x)).logpdf(x)))
        assert alternatives[name][0] == pytest.approx(theirs, abs=0.01), name
        assert alternatives[name][0] > theirs - 1e-4, name


def test_the_right_law_has_the_highest_likelihood():
    assert max(stable.fit(DATA["stable 0.8"]).alternatives.values())[0] < stable.fit(DATA["stable 0.8"]).log_likelihood
    laplace = stable.fit(DATA["Laplace"])
    assert max(laplace.alternatives.values())[0] == laplace.alternatives["Laplace"][0] > laplace.log_likelihood
    result = stable.fit(sample(1.0, 3000, 3))
    assert result.alternatives["Cauchy"][0] <= result.log_likelihood


# --- Equivariance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loc", [0.0, "free"])
@pytest.mark.parametrize("factor", [10.0, -1.0, 1e-12, 1e12, 1e-150, 1e150])
def test_a_change_of_unit_changes_only_the_unit(factor, loc):
    x = sample(1.3, 1500, 12, scale=2.0)
    one, other = stable.fit(x, loc=loc), stable.fit(factor * x, loc=loc)
    assert other.alpha == pytest.approx(one.alpha, abs=1e-3 * one.errors["alpha"])
    assert other.scale == pytest.approx(one.scale * abs(factor), rel=1e-4)
    assert other.errors["alpha"] == pytest.approx(one.errors["alpha"], rel=1e-3)
    assert other.errors["scale"] == pytest.approx(one.errors["scale"] * abs(factor), rel=1e-3)
    if loc == "free":
        assert other.loc == pytest.approx(one.loc * factor, abs=1e-3 * one.errors["loc"] * abs(factor))
    shift = x.size * np.log(abs(factor))
    assert other.log_likelihood + shift == pytest.approx(one.log_likelihood, rel=1e-9)
    for name, (value, _) in other.alternatives.items():
        assert value + shift == pytest.approx(one.alternatives[name][0], abs=1e-2), name


def test_a_free_location_moves_with_the_data():
    x = sample(0.9, 1500, 13)
    one, other = stable.fit(x, loc="free"), stable.fit(x + 100, loc="free")
    assert other.loc - 100 == pytest.approx(one.loc, abs=1e-3 * one.errors["loc"])
    assert other.alpha == pytest.approx(one.alpha, abs=1e-3 * one.errors["alpha"])
    assert other.scale == pytest.approx(one.scale, rel=1e-4)
    shifted = stable.fit(x + 100, loc=100.0)
    assert shifted.alpha == pytest.approx(stable.fit(x).alpha, abs=1e-6)


def test_shape_order_and_kind_of_the_sample_do_not_matter():
    x = sample(1.2, 600, 14)
    one = stable.fit(x)
    for other in (x.reshape(20, 30), x[::-1], x.tolist()):
        result = stable.fit(other)
        assert result.alpha == pytest.approx(one.alpha, abs=1e-6)
        assert result.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-12)
    kept = x.copy()
    stable.fit(x, loc="free")
    np.testing.assert_array_equal(x, kept)
    single = stable.fit(x.astype(np.float32))
    assert single.alpha == pytest.approx(one.alpha, abs=1e-4)


def test_samples_that_are_nearly_degenerate():
    assert stable.fit([1.0, 2.0]).size == 2
    x = sample(1.2, 400, 15)
    zeros = stable.fit(np.concatenate([np.zeros(20), x]))
    assert 0.1 <= zeros.alpha < stable.fit(x).alpha


@pytest.mark.parametrize("extreme", ["an outlier of 1e200", "a unit of 1e200", "a unit of 1e-200"])
def test_squares_beyond_float64(extreme):
    x = sample(1.2, 400, 15)
    x = np.append(x, 1e200) if "outlier" in extreme else x * float(extreme.split()[-1])
    result = stable.fit(x)
    assert np.isfinite(result.log_likelihood)
    assert np.isfinite(result.errors["alpha"])
    assert np.all(np.isfinite([value for value, _ in result.alternatives.values()]))


# --- What it prints --------------------------------------------------------------------------------------------------


def test_prints_a_small_table():
    result = stable.fit(sample(1.5, 2000, 16, scale=2.0, loc=3.0), loc="free")
    lines = str(result).splitlines()
    assert lines[0] == "Symmetric alpha-stable law, maximum likelihood, n = 2,000"
    assert lines[2].split() == ["estimate", "std.", "error", "95", "%", "interval"]
    for line, name in zip(lines[3:6], ("alpha", "scale", "loc"), strict=True):
        words = line.replace("[", " ").replace("]", " ").replace(",", " ").split()
        assert words[0] == name
        shown = [float(word) for word in words[1:]]
        np.testing.assert_allclose(shown[0], getattr(result, name), rtol=1e-5)
        np.testing.assert_allclose(shown[1], result.errors[name], rtol=1e-3)
        np.testing.assert_allclose(shown[2:], result.interval(name), rtol=1e-5)
    assert lines[7].split() == ["log-likelihood", "AIC", "parameters"]
    rows = [line.split() for line in lines[8:]]
    assert {row[0] for row in rows} == {"stable", "Gaussian", "Laplace", "Cauchy", "Student-t"}
    levels = [float(row[1]) for row in rows]
    assert levels == sorted(levels, reverse=True)
    free = {"stable": 3, "Gaussian": 2, "Laplace": 2, "Cauchy": 2, "Student-t": 3}
    for row in rows:
        assert float(row[2]) == pytest.approx(2 * free[row[0]] - 2 * float(row[1]), abs=0.03), row
    assert len({len(line) for line in lines[3:6]}) == 1
    assert max(map(len, lines)) < 120


def test_prints_what_was_fixed():
    lines = str(stable.fit(sample(1.5, 300, 16), alpha=1.5)).splitlines()
    assert lines[3].split() == ["alpha", "1.5", "fixed"]
    assert lines[5].split() == ["loc", "0", "fixed"]
    assert "fixed" not in lines[4]


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([], r"at least two observations that differ; got 0"),
        ([1.5], r"at least two observations that differ; got 1"),
        (2.0, r"at least two observations that differ; got 1"),
        ([3.5] * 5, r"constant \(all 5 values are 3\.5\): nothing to fit"),
        ([0.0, -0.0], r"constant \(all 2 values are 0\.0\)"),
        ([1.0, np.nan, 2.0, np.nan], r"must be finite; 2 of its 4 values are NaN or infinite"),
        ([1.0, np.inf, -2.0], r"must be finite; 1 of its 3 values are NaN or infinite"),
        ([np.nan], r"at least two observations"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"loc": "free"}, {"alpha": 1.5, "scale": 1.0}])
def test_bad_samples(x, message, given):
    with pytest.raises(ValueError, match=message):
        stable.fit(x, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loc": "fre"}, r"loc must be a number or \"free\"; got 'fre'"),
        ({"loc": np.nan}, r"loc must be finite or \"free\"; got nan"),
        ({"loc": np.inf}, r"loc must be finite or \"free\"; got inf"),
        ({"alpha": 3}, r"alpha must lie in \[0\.1, 2\]; got 3\.0"),
        ({"alpha": 0.01}, r"alpha must lie in \[0\.1, 2\]; got 0\.01"),
        ({"alpha": np.nan}, r"alpha must lie in \[0\.1, 2\]; got nan"),
        ({"scale": 0}, r"scale must be positive and finite; got 0\.0"),
        ({"scale": -1.0, "alpha": 1.5}, r"scale must be positive and finite; got -1\.0"),
        ({"scale": np.inf}, r"scale must be positive and finite; got inf"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(ValueError, match=message):
        stable.fit([1.0, 2.0, -0.5], **given)


@pytest.mark.parametrize(
    "given", [{"loc": None}, {"loc": [0.0, 1.0]}, {"alpha": "free"}, {"alpha": [1.0, 1.5]}, {"scale": [1.0, 2.0]}]
)
def test_settings_of_the_wrong_kind(given):
    (name,) = given
    with pytest.raises((TypeError, ValueError), match=rf"{name} must be"):
        stable.fit([1.0, 2.0, -0.5], **given)


@pytest.mark.parametrize("x", ["abc", [1.0, "b"], [1j, 2j], np.array([1j, 2j]), None])
def test_samples_of_the_wrong_kind(x):
    with pytest.raises(TypeError, match="x must be a real number or an array of real numbers"):
        stable.fit(x)


def test_bad_intervals():
    result = stable.fit(sample(1.5, 200, 17), alpha=1.5)
    with pytest.raises(ValueError, match="'beta' was not estimated; estimated: scale"):
        result.interval("beta")
    with pytest.raises(ValueError, match="'alpha' was not estimated; estimated: scale"):
        result.interval("alpha")
    for bad in (0.0, 1.0, 95, np.nan):
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got"):
            result.interval("scale", bad)


@pytest.mark.parametrize(("share", "loc"), [(0.3, 0.0), (0.9, 0.0), (0.15, "free")])
def test_many_equal_values_leave_no_maximum(share, loc, rng):
    x = rng.normal(size=1000)
    x[: int(1000 * share)] = 0.0
    with pytest.raises(
        ValueError, match=f"{int(1000 * share)} of the 1000 values equal 0.0: the likelihood has no maximum"
    ):
        stable.fit(x, loc=loc)
    assert stable.fit(x, loc=loc, scale=0.5).alpha >= 0.1  # with a known scale there is one


def test_counts_stand_for_repeated_values(rng):
    """A sample with repetitions, given by counts, has the same fit: below and above the size from which samples are binned."""
    values = stable.rvs(1.3, size=600, rng=rng)
    times = rng.integers(1, 6, size=600)
    whole, counted = stable.fit(np.repeat(values, times)), stable.fit(values, counts=times)
    assert counted.size == times.sum()
    assert [counted.alpha, counted.scale] == pytest.approx([whole.alpha, whole.scale], rel=1e-5)
    assert counted.errors["alpha"] == pytest.approx(whole.errors["alpha"], rel=1e-3)
    assert counted.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-9)
    for name, (level, parameters) in whole.alternatives.items():
        assert counted.alternatives[name][0] == pytest.approx(level, rel=1e-6)
        assert counted.alternatives[name][1] == pytest.approx(parameters, rel=1e-3)


# --- Few observations, errors of very different size, the edge of alpha ------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 11])
def test_few_values_with_a_free_location_leave_no_maximum(n):
    """At one of them the likelihood grows as scale^(alpha (n - 1) - 1)."""
    x = sample(1.5, n, 5)
    with pytest.raises(ValueError, match=f"one of the {n} values: the likelihood has no maximum"):
        stable.fit(x, loc="free")
    assert stable.fit(x, loc="free", scale=1.0).alpha >= 0.1
    assert stable.fit(x, loc="free", alpha=1.9).scale > 1e-3
    if n > 2:
        assert stable.fit(x).scale > 1e-3


@pytest.mark.parametrize("x", [[0.0, 1.0, 2.0], [0.0, *np.linspace(1, 5, 10)]])
def test_one_of_few_values_at_a_known_location_leaves_no_maximum(x):
    with pytest.raises(ValueError, match=f"1 of the {len(x)} values equal 0.0: the likelihood has no maximum"):
        stable.fit(x)
    assert stable.fit([*x, *np.linspace(-5, -1, 10)]).scale > 1e-3


@pytest.mark.parametrize("alpha", [0.12, 0.14])
def test_errors_beside_those_of_a_location_of_far_more_information(alpha):
    """The location's information is 1e20 times that of alpha and scale, whose errors are those with a known location."""
    x = sample(alpha, 2000, 3)
    known, free = stable.fit(x), stable.fit(x, loc="free")
    assert free.errors["loc"] < 1e-6
    for name in ("alpha", "scale"):
        assert free.errors[name] == pytest.approx(known.errors[name], rel=0.05), name
    h = 1e-3

    def profile(a):
        loss = lambda u: -level(x, a, np.exp(u), free.loc)  # noqa: E731
        center = np.log(free.scale)
        return -optimize.minimize_scalar(loss, bounds=(center - 0.5, center + 0.5), method="bounded").fun

    ends = [profile(free.alpha + move) for move in (-h, 0, h)]
    information = -(ends[0] - 2 * ends[1] + ends[2]) / h**2
    assert free.errors["alpha"] == pytest.approx(information**-0.5, rel=0.1)


def test_what_the_information_does_not_determine_has_no_error():
    """Seen from far out of its peak the law has no scale of its own: only scale^alpha is determined."""
    from softdiamond.stable import _likelihood

    twice = np.array([[4.0, 2e20], [2e20, 1e40]])
    np.testing.assert_array_equal(_likelihood._inverse_diagonal(twice), [np.nan, np.nan])
    apart = np.array([[4.0, 1e20, 0.0], [1e20, 1e40, 0.0], [0.0, 0.0, 9.0]])
    np.testing.assert_allclose(_likelihood._inverse_diagonal(apart), [1 / 3, 4 / 3e40, 1 / 9])


@pytest.mark.parametrize("loc", [0.0, "free"])
def test_interval_on_the_edge_is_the_profile_likelihood(loc):
    x = np.random.default_rng(4).uniform(-1, 1, 400)
    result, free = stable.fit(x, loc=loc), loc == "free"
    for confidence in (0.8, 0.95):
        low, high = result.interval("alpha", confidence)
        assert high == result.alpha == 2
        found = optimize.minimize(
            lambda theta, low=low: -level(x, low, np.exp(theta[0]), theta[1] if free else 0.0),
            [np.log(result.scale), result.loc],
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-8},
        )
        assert result.log_likelihood + found.fun == pytest.approx(stats.norm.ppf(confidence) ** 2 / 2, rel=2e-3)
    assert "on the edge" in str(result) and f"[{low:.6g}, 2]" in str(result)


def test_interval_on_the_lower_edge():
    x = np.exp(np.random.default_rng(4).normal(size=100) * 60)
    result = stable.fit(np.concatenate([x, -x]))
    low, high = result.interval("alpha")
    assert low == 0.1 < high < 0.2
    found = optimize.minimize_scalar(
        lambda u: -level(np.concatenate([x, -x]), high, np.exp(u)),
        bounds=(np.log(result.scale) - 5, np.log(result.scale) + 5),
        method="bounded",
    )
    assert result.log_likelihood + found.fun == pytest.approx(stats.norm.ppf(0.95) ** 2 / 2, rel=2e-3)


def test_coverage_near_the_edge():
    """At 1.98 about half of the estimates are on the edge, and had no interval."""
    edge = inside = 0
    for seed in range(10):
        result = stable.fit(sample(1.98, 100, [31, seed]))
        low, high = result.interval("alpha")
        edge += bool(np.isnan(result.errors["alpha"]))
        inside += low <= 1.98 <= high
    assert edge > 3
    assert inside >= 8  # 95 % of 10 is 9.5


# --- Rounded values ----------------------------------------------------------------------------------------------------


def cells(x, h, law):
    """Log-likelihood of rounded values by differences of a distribution function."""
    size = np.abs(x)
    return float(np.sum(np.log(law(-(size - h / 2)) - law(-(size + h / 2)))))


@pytest.mark.parametrize("h", [1e-9, 1e-4, 0.03, 1.0, 1e3])
def test_cells_of_the_closed_forms(h):
    """Cauchy by one arc tangent without cancellation; Gauss by its density where a cell is narrow, else as it stands."""
    from softdiamond.stable._cells import log_stable_cell

    x = np.concatenate([[0.0], 10.0 ** np.arange(-8, 12), -(10.0 ** np.arange(-4, 4))])
    true = np.log(np.arctan2(h, 1 + (np.abs(x) - h / 2) * (np.abs(x) + h / 2)) / np.pi)
    np.testing.assert_allclose(log_stable_cell(x, 1.0, 1.0, h), true, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(log_stable_cell(7 * x, 1.0, 7.0, 7 * h), true, rtol=1e-10, atol=1e-9)
    x = np.array([0.0, 0.01, -0.5, 2.0, 9.0, 30.0, 200.0])
    low, high = (np.abs(x) - h / 2) / np.sqrt(2), (np.abs(x) + h / 2) / np.sqrt(2)
    if h <= 1e-4:
        true = np.log(h) + stable.logpdf(x, 2.0) + np.log1p(h * h / 24 * (x * x / 4 - 0.5))
    else:
        true = stats.norm.logsf(low) + np.log1p(-np.exp(stats.norm.logsf(high) - stats.norm.logsf(low)))
    np.testing.assert_allclose(log_stable_cell(x, 2.0, 1.0, h), true, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("alpha", "h"), [(0.3, 0.05), (0.8, 1e-6), (1.3, 0.7), (1.9, 3.0)])
def test_cells_at_a_peak_and_far_out(alpha, h):
    """One cell of width h is as likely as the hundred that it is made of."""
    from softdiamond.stable._cells import log_stable_cell

    x = h * np.array([0.0, 1.0, -2.0, 50.0, 3e4])
    parts = x + h * (np.arange(100)[:, None] - 49.5) / 100
    whole = log_stable_cell(x, alpha, 1.0, h)
    together = np.exp(log_stable_cell(parts.ravel(), alpha, 1.0, h / 100)).reshape(100, 5).sum(axis=0)
    np.testing.assert_allclose(together, np.exp(whole), rtol=1e-8)


@pytest.mark.parametrize(("alpha", "h"), [(0.6, 0.5), (1.4, 2.0), (1.4, 0.01)])
@pytest.mark.parametrize("loc", [0.0, "free"])
def test_rounded_values_are_fitted_without_bias(alpha, h, loc):
    """Up to half of them are equal; the estimate is near that from the values before rounding, and their errors agree."""
    x = sample(alpha, 800, 7, loc=0.3 if loc == "free" else 0.0)
    rounded = np.rint(x / h) * h
    exact, result = stable.fit(x, loc=loc), stable.fit(rounded, loc=loc, rounding=h)
    for name, error in result.errors.items():
        assert abs(getattr(result, name) - getattr(exact, name)) < 1.5 * error, name
        if name != "loc":
            assert 0.9 < error / exact.errors[name] < 2.5, name
    if h == 0.01:
        assert result.log_likelihood == pytest.approx(exact.log_likelihood + 800 * np.log(h), rel=1e-3)


@pytest.mark.parametrize("given", [{}, {"alpha": 1.2}, {"scale": 1.1}, {"loc": "free"}])
def test_estimates_from_rounded_values_are_the_maximum(given):
    """A simplex that knows only `cdf` finds nothing higher; nor for the alternatives with SciPy's."""
    h = 0.8
    x = np.rint(sample(1.3, 500, 8) / h) * h
    result = stable.fit(x, rounding=h, **given)
    names = list(result.errors)
    center, size = (np.array([f(name) for name in names]) for f in (lambda n: getattr(result, n), result.errors.get))

    def loss(move):
        at = {"alpha": result.alpha, "scale": result.scale, "loc": result.loc}
        at |= dict(zip(names, center + size * move, strict=True))
        y = x - at["loc"]
        edges = np.stack([np.abs(y) - h / 2, np.abs(y) + h / 2])
        return -float(np.sum(np.log(np.diff(stable.cdf(edges, at["alpha"], scale=at["scale"]), axis=0))))

    assert -loss(np.zeros(len(names))) == pytest.approx(result.log_likelihood, rel=1e-9)
    found = optimize.minimize(
        loss, np.full(len(names), 0.3), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7}
    )
    assert -found.fun <= result.log_likelihood + 1e-5
    np.testing.assert_allclose(found.x, 0, atol=0.02)
    for name, (value, parameters) in result.alternatives.items():
        law = SCIPY[name](parameters)
        y = x - parameters.get("loc", 0.0)
        centered = SCIPY[name](parameters | ({"loc": 0.0} if "loc" in parameters else {}))
        assert value == pytest.approx(cells(y, h, centered.cdf), rel=1e-8), name
        for factor in (0.98, 1.02):
            key = "sd" if name == "Gaussian" else "scale"
            moved = SCIPY[name](
                parameters | {key: factor * parameters[key]} | ({"loc": 0.0} if "loc" in parameters else {})
            )
            assert cells(y, h, moved.cdf) < value + 1e-6, name
        assert law.std() != 0


def test_rounded_values_most_of_which_are_equal(rng):
    """0 is nine of ten values: refused as exact ones, with a remedy that does not bias; fitted as rounded ones."""
    x = sample(0.7, 5000, 9, scale=0.03)
    rounded = np.rint(x)
    assert np.mean(rounded == 0) > 0.8
    with pytest.raises(ValueError, match=r"has no maximum.*rounding=h") as refusal:
        stable.fit(rounded)
    assert "leave them out" not in str(refusal.value)
    result = stable.fit(rounded, rounding=1)
    for name, true in {"alpha": 0.7, "scale": 0.03}.items():
        low, high = result.interval(name, 0.999)
        assert low <= true <= high, name
    values, times = np.unique(rounded, return_counts=True)
    counted = stable.fit(values, counts=times, rounding=1)
    assert counted.alpha == pytest.approx(result.alpha, abs=1e-3 * result.errors["alpha"])
    assert counted.size == result.size == 5000


def test_rounded_values_beyond_the_reach_of_a_mass():
    result = stable.fit(np.append(np.rint(sample(1.2, 300, 10)), 1e200), rounding=1.0)
    assert np.isfinite(result.log_likelihood) and np.isfinite(result.errors["alpha"])
    assert np.all(np.isfinite([value for value, _ in result.alternatives.values()]))
    light = np.rint(np.append(np.random.default_rng(1).normal(size=400), [90.0]))
    at_two = stable.fit(light, rounding=1.0, alpha=2.0)
    assert at_two.log_likelihood == pytest.approx(at_two.alternatives["Gaussian"][0], rel=1e-7)


@pytest.mark.parametrize(
    ("x", "given", "message"),
    [
        (
            [0.0, 0.5, 1.2],
            {"rounding": 0.5},
            r"rounded to multiples of rounding = 0\.5 .*; 1 of 3 different ones are not",
        ),
        ([0.0, 1.0, 5.0], {"rounding": 0.0}, "positive and finite; got 0.0"),
        ([0.0, 1.0, 5.0], {"rounding": np.inf}, "positive and finite; got inf"),
        ([0.0, 1.0, 1.0], {"rounding": 1.0, "loc": "free"}, "within one step of rounding = 1.0 about the location"),
        ([-0.5, 0.5, 0.5], {"rounding": 1.0}, "within one step of rounding = 1.0 about the location"),
    ],
)
def test_bad_rounding(x, given, message):
    with pytest.raises(ValueError, match=message):
        stable.fit(x, **given)
    with pytest.raises(TypeError, match="rounding must be one number"):
        stable.fit(x, rounding="0.1")


def test_rounding_may_have_an_offset():
    x = np.rint(sample(1.3, 300, 11))
    assert stable.fit(x + 0.3, loc=0.3, rounding=1.0).alpha == pytest.approx(
        stable.fit(x, rounding=1.0).alpha, abs=1e-3
    )


@pytest.mark.parametrize("counts", [[1, 2], [1, 0, 2], [1, -1, 2], [1, np.nan, 2], [[1, 2, 3]]])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="counts must be positive"):
        stable.fit([1.0, 2.0, 3.0], counts=counts)
    with pytest.raises(ValueError, match="known location"):
        stable.fit([1.0, 2.0, 3.0], loc="free", counts=[1, 1, 1])
