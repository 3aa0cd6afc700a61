"""The exact law: frozen and live high-precision references, the seams between regimes, the law's own properties, quantiles,
variates, shapes and types, errors, memory.

Every number is compared by `errors`. The bounds are 10 to 100 times what is measured, and far inside what is promised
(pdf and sf 1e-11 and 1e-10, score, omega and curvature 1e-9, dlogpdf_dalpha 1e-8).
"""

import csv
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mpmath import mp
from reference import oracle
from scipy import integrate, special, stats

from softdiamond import stable
from softdiamond.stable import _closed, _contour, _ray, _series

TINY = np.finfo(float).tiny
SUBNORMAL = 5e-324
ALPHAS = (0.1, 0.25, 0.5, 0.8, 0.979, 0.981, 1.0, 1 + 1e-9, 1.02, 1.2, 1.5, 1.79, 1.81, 1.95, 1.999, 2.0)

# column of the reference: (its function, bound)
BOUNDS = {
    "log_pdf": (stable.logpdf, 1e-13),
    "pdf": (stable.pdf, 1e-12),
    "score": (stable.score, 1e-12),
    "omega": (stable.omega, 1e-12),
    "curvature": (stable.curvature, 1e-11),
    "sf": (stable.sf, 1e-12),
    "dlogpdf_dalpha": (stable.dlogpdf_dalpha, 1e-11),
}
DENSITY_LIKE = ("logpdf", "pdf", "score", "omega", "curvature", "dlogpdf_dalpha")
AT_POINTS = (*DENSITY_LIKE, "cdf", "sf")
AT_PROBABILITIES = ("ppf", "isf")
ALL = AT_POINTS + AT_PROBABILITIES


# --- The error metric ------------------------------------------------------------------------------------------------


def errors(got, true, size=None):
    """|got - true| / size, size = |true| by default: the metric of this file.

    0 where the two are the same number, infinities and NaN included; inf where only one of them is NaN or infinite.
    Where size is below the normal floats, one unit of the smallest subnormal is free, for the rounding: a true 0 (or
    one that rounds to it) must come out as 0, give or take that unit.
    """
    got, true = np.broadcast_arrays(np.asarray(got, dtype=float), np.asarray(true, dtype=float))
    size = np.abs(true) if size is None else np.broadcast_to(np.asarray(size, dtype=float), true.shape)
    with np.errstate(all="ignore"):
        gap = np.abs(got - true)
        gap = np.where(size < TINY, np.maximum(gap - SUBNORMAL, 0.0), gap)
        error = np.where(gap == 0, 0.0, gap / size)
    same = (got == true) | (np.isnan(got) & np.isnan(true))
    comparable = np.isfinite(got) & np.isfinite(true)
    return np.where(same, 0.0, np.where(comparable, error, np.inf))


def assert_close(got, true, bound, size=None, **where):
    """Every error within the bound; the message holds the worst place, by the coordinates given in ``where``."""
    error = errors(got, true, size)
    if np.all(error <= bound):
        return
    worst = np.unravel_index(np.argmax(error), error.shape)
    pick = {name: np.broadcast_to(value, error.shape)[worst] for name, value in where.items()}
    place = ", ".join(f"{name}={float(value)!r}" for name, value in pick.items())
    got, true = np.broadcast_to(got, error.shape)[worst], np.broadcast_to(true, error.shape)[worst]
    raise AssertionError(
        f"error {error[worst]:.3g} > {bound:g} at {place}: got {float(got)!r}, true {float(true)!r}; "
        f"{int(np.sum(error > bound))} of {error.size} are beyond the bound"
    )


def assert_column(column, got, true, **where):
    """One column against the reference's ``true`` columns, by its bound and measure."""
    size = None
    if column == "curvature":
        size = np.abs(true["curvature"]) + true["omega"]
    elif column == "dlogpdf_dalpha":
        size = np.maximum(1, np.abs(true["dlogpdf_dalpha"]))
    elif column == "log_pdf":
        size = np.maximum(1, np.abs(true["log_pdf"]))
    assert_close(got, true[column], BOUNDS[column][1], size, **where)


def test_the_metric_treats_zero_infinity_and_nan_on_purpose():
    inf, nan = np.inf, np.nan
    got = [1.0, 1.1, inf, -inf, 1.0, inf, nan, 1.0, nan, inf]
    true = [1.0, 1.0, inf, inf, inf, 1.0, nan, nan, 1.0, nan]
    np.testing.assert_allclose(errors(got, true), [0, 0.1, 0, inf, inf, inf, 0, inf, inf, inf])
    got = [0.0, SUBNORMAL, 2 * SUBNORMAL, 1e-310, -1e-300, 2e-308, 3 * SUBNORMAL, 2 * TINY]
    true = [0.0, 0.0, 0.0, 1e-310 + SUBNORMAL, 0.0, 0.0, SUBNORMAL, TINY]
    np.testing.assert_array_equal(errors(got, true), [0, 0, inf, 0, inf, inf, 1, 1])
    assert errors(1e-5, 0.0, size=1.0) == 1e-5
    with pytest.raises(AssertionError, match=r"error 0\.5 > 0\.1 at x=7\.0: got 1\.5, true 1\.0; 1 of 2"):
        assert_close([1.0, 1.5], 1.0, 0.1, x=[3, 7])


# --- Against the frozen rows -----------------------------------------------------------------------------------------


def read_rows():
    with (Path(__file__).parent / "reference" / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "method"}


ROWS = read_rows()


def by_call(function, x, alpha, how):
    """The same points in one call, in one call for each alpha, or one by one: they take different paths in the code."""
    if how == "mixed":
        return function(x, alpha)
    if how == "one by one":
        return np.array([function(*pair) for pair in zip(x, alpha, strict=True)])
    out = np.empty_like(x)
    for value in np.unique(alpha):
        out[alpha == value] = function(x[alpha == value], value)
    return out


def test_rows_are_better_than_what_they_test():
    assert len(ROWS["alpha"]) >= 600
    assert np.max(ROWS["error"]) < 1e-25
    assert set(np.unique(ROWS["alpha"])) >= {0.1, 0.5, 1 - 2**-53, 1.0, 1 + 2**-52, 1.5, 2 - 2**-52, 2.0}


@pytest.mark.parametrize("how", ["mixed", "an alpha at a time", "one by one"])
@pytest.mark.parametrize("column", BOUNDS)
def test_rows(column, how):
    alpha, x = ROWS["alpha"], ROWS["x"]
    got = by_call(BOUNDS[column][0], x, alpha, how)
    true = dict(ROWS)
    if column == "pdf":  # where it is tiny it is as good as exp(log_pdf) can be, and test_rows[log_pdf] holds
        assert_close(got, true["pdf"], 1e-11, alpha=alpha, x=x)
        large = true["pdf"] > 1e-100
        got, alpha, x, true = got[large], alpha[large], x[large], {"pdf": true["pdf"][large]}
    assert_column(column, got, true, alpha=alpha, x=x)


@pytest.mark.parametrize("how", ["mixed", "an alpha at a time", "one by one"])
def test_rows_lower_tail_and_center(how):
    alpha, x = ROWS["alpha"], ROWS["x"]
    assert_close(by_call(stable.cdf, -x, alpha, how), ROWS["sf"], BOUNDS["sf"][1], alpha=alpha, x=-x)
    assert_close(by_call(stable.cdf, x, alpha, how), 0.5 + ROWS["central"], 1e-14 * 4, alpha=alpha, x=x)
    assert_close(by_call(stable.sf, -x, alpha, how), 0.5 + ROWS["central"], 1e-14 * 4, alpha=alpha, x=-x)


@pytest.mark.parametrize("shift", [-1000, -40, 1, 900])
@pytest.mark.parametrize("name", AT_POINTS)
def test_rows_at_another_scale(name, shift):
    """With a scale of 2^shift every value is the one at unit scale times a power of two."""
    power = {"pdf": -1, "score": -1, "omega": -2, "curvature": -2}.get(name, 0)
    function, scale = getattr(stable, name), math.ldexp(1.0, shift)
    with np.errstate(over="ignore", under="ignore"):
        exact = np.ldexp(np.ldexp(ROWS["x"], shift), -shift) == ROWS["x"]
        alpha, x = ROWS["alpha"][exact], ROWS["x"][exact]
        unit = function(x, alpha)
        normal = (np.abs(unit) >= TINY) | (x < 1e100)
        true = np.ldexp(unit, power * shift) - (shift * np.log(2) if name == "logpdf" else 0)
    got = function(np.ldexp(x, shift), alpha, scale=scale)
    assert np.sum(normal) > 400
    bound = {"pdf": 1e-12, "logpdf": 1e-14}.get(name, 1e-15)
    assert_close(got[normal], true[normal], bound, alpha=alpha[normal], x=x[normal])


# --- The seams between regimes ---------------------------------------------------------------------------------------


def zero_limit(alpha):
    return float(_series.zero_limit(np.float64(alpha)))


def tail_limit(alpha):
    return float(np.exp(_series.log_tail_limit(np.float64(alpha))))


def seam_points():
    """(alpha, x) on both sides of every switch: next to it, and up to a factor of 1.4 away."""
    rng = np.random.default_rng(20)
    low, high = 1 - _ray.BAND, 1 + _ray.BAND
    before_2 = np.nextafter(2.0, 0.0)
    for alpha in (0.1, *rng.uniform([0.12, 0.6, 1.03, 1.4, 1.8], [0.5, 0.95, 1.3, 1.75, 1.99]), before_2):
        yield from ((alpha, x) for x in (zero_limit(alpha), np.nextafter(zero_limit(alpha), 9.0)))
        yield from ((alpha, tail_limit(alpha) * (1 + sign * 1e-14)) for sign in (-1, 1))
        far = rng.uniform(1.1, 1.4, 2)
        yield from ((alpha, x) for x in (zero_limit(alpha) * far[0], tail_limit(alpha) / far[1]))
    for edge in (low, high):
        for alpha in (np.nextafter(edge, 0.0), edge, np.nextafter(edge, 2.0)):
            yield alpha, rng.uniform(0.3, 4.0)
    for alpha in (np.nextafter(1.0, 0.0), np.nextafter(1.0, 2.0)):
        yield from ((alpha, x) for x in (zero_limit(1.0) * 1.1, 0.99, tail_limit(1.0) * 0.9))
    yield from ((alpha, tail_limit(alpha) * (1 - 1e-14)) for alpha in (1.8, np.nextafter(1.8, 2.0)))  # its own seam
    yield from ((before_2, x) for x in (3.0, 8.0))


def test_both_sides_of_every_seam_against_the_live_oracle():
    places = np.array(list(seam_points()))
    alpha, x = places.T
    columns = [oracle.law(float(a), float(z)).columns() for a, z in places]
    true = {name: np.array([float(row[name]) for row in columns]) for name in oracle.COLUMNS}
    for column, (function, _) in BOUNDS.items():
        for how in ("mixed", "one by one"):
            assert_column(column, by_call(function, x, alpha, how), true, alpha=alpha, x=x)
    assert_close(stable.cdf(x, alpha), 0.5 + true["central"], 1e-14 * 4, alpha=alpha, x=x)


TOGETHER = (("logpdf",), ("omega", "curvature"), ("sf", "central"), ("dlogpdf_dalpha",))  # as the driver asks for them
SIX = [name for names in TOGETHER for name in names]


def six(regime, x, alpha):
    """The six outputs of a regime, called directly; those times x^2 (``x_gradient``, ``x2_second``) divided by it."""
    place = np.log(x) if regime is _series.tail_series else x
    part = {}
    with np.errstate(all="ignore"):
        for names in TOGETHER:
            part |= regime(place, alpha, frozenset(names))
    if "x_gradient" in part:
        part["omega"] = part["x_gradient"] / x**2
        part["curvature"] = (part["x_gradient"] ** 2 - part["x2_second"]) / x**2
    return {name: part[name] for name in SIX}


def assert_same_law(one, two, **where):
    """Two answers of `six`, each by the measure of the accuracy that is promised."""
    measures = {
        "logpdf": (1e-12, 1.0),
        "omega": (2e-12, None),
        "curvature": (1e-11, np.abs(two["curvature"]) + two["omega"]),
        "sf": (2e-12, None),
        "central": (1e-12, None),
        "dlogpdf_dalpha": (1e-11, np.maximum(1, np.abs(two["dlogpdf_dalpha"]))),
    }
    for name, (bound, size) in measures.items():
        try:
            assert_close(one[name], two[name], bound, size, **where)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def integral(x, alpha):
    """The regime between the two series, whichever it is at alpha."""
    ray = np.abs(alpha - 1) <= _ray.BAND
    one, two = six(_ray.ray_integral, x[ray], alpha[ray]), six(_contour.contour_integral, x[~ray], alpha[~ray])
    out = {name: np.empty_like(x) for name in SIX}
    for name in SIX:
        out[name][ray], out[name][~ray] = one[name], two[name]
    return out


def many_alphas():
    rng = np.random.default_rng(21)
    near_1 = 1 + rng.choice([-1, 1], 100) * 10 ** rng.uniform(-15, -1.5, 100)
    return np.concatenate([np.linspace(0.1, 1.999, 400), near_1, 2 - 10 ** rng.uniform(-15.5, -1, 100)])


def test_seam_of_the_series_at_zero():
    alpha = many_alphas()
    x = _series.zero_limit(alpha)
    assert_same_law(six(_series.zero_series, x, alpha), integral(x, alpha), alpha=alpha, x=x)


def test_seam_of_the_tail_series():
    alpha = many_alphas()
    x = np.exp(_series.log_tail_limit(alpha))
    assert_same_law(six(_series.tail_series, x, alpha), integral(x, alpha), alpha=alpha, x=x)


@pytest.mark.parametrize("side", [-1, 1])
def test_seam_of_the_band_about_one(side):
    x = np.geomspace(zero_limit(1.0), tail_limit(1.0), 200)
    alpha = np.full(x.shape, 1 + side * _ray.BAND)
    one, two = (six(regime, x, alpha) for regime in (_ray.ray_integral, _contour.contour_integral))
    assert_same_law(one, two, alpha=alpha, x=x)


@pytest.mark.parametrize("alpha", [1.0, 1 - 2**-53, 1 + 2**-52])
def test_every_regime_at_alpha_one_is_the_cauchy_law(alpha):
    regimes = {_series.zero_series: (1e-9, 0.2), _ray.ray_integral: (0.05, 50.0), _series.tail_series: (4.5, 1e9)}
    for regime, (low, high) in regimes.items():
        x = np.geomspace(low, high, 100)
        got = six(regime, x, np.full(x.shape, alpha))
        cauchy = _closed.cauchy(np.log(x))
        np.testing.assert_allclose(cauchy["logpdf"], stats.cauchy.logpdf(x), rtol=1e-14)
        np.testing.assert_allclose(cauchy["sf"], stats.cauchy.sf(x), rtol=1e-14)
        cauchy["omega"] = 2 / (1 + x**2)
        cauchy["curvature"] = 2 * (1 - x**2) / (1 + x**2) ** 2
        assert_same_law(got, cauchy | {"dlogpdf_dalpha": got["dlogpdf_dalpha"]}, x=x)


def test_just_below_two_the_bulk_is_the_gaussian():
    x = np.geomspace(1e-6, 8.0, 200)
    alpha = np.nextafter(2.0, 0.0)
    for function in (stable.logpdf, stable.omega, stable.curvature, stable.sf, stable.dlogpdf_dalpha):
        assert_close(function(x, alpha), function(x, 2.0), 2e-9, x=x)


# --- Properties of the law -------------------------------------------------------------------------------------------

near = st.builds(
    lambda center, sign, log: center + sign * 10**log, st.just(1.0), st.sampled_from([-1, 1]), st.floats(-16, -1)
)
alphas = st.one_of(st.floats(0.1, 2.0), near, st.floats(-16, -1).map(lambda log: 2 - 10**log), st.sampled_from(ALPHAS))
sizes = st.one_of(st.floats(-6, 3), st.floats(-300, 300)).map(lambda log: 10**log)
points = st.one_of(sizes, sizes.map(lambda x: -x), st.just(0.0), st.floats(allow_nan=False))
scales = st.floats(-100, 100).map(lambda log: 10**log)


@given(x=points, alpha=alphas, scale=scales)
@example(x=5e-324, alpha=1.5, scale=1.0)
@example(x=np.inf, alpha=2.0, scale=1.0)
def test_even_laws_and_odd_score(x, alpha, scale):
    for name in ("logpdf", "pdf", "omega", "curvature", "dlogpdf_dalpha"):
        function = getattr(stable, name)
        assert function(-x, alpha, scale=scale) == function(x, alpha, scale=scale), name
    assert stable.score(-x, alpha, scale=scale) == -stable.score(x, alpha, scale=scale)
    assert stable.cdf(-x, alpha, scale=scale) == stable.sf(x, alpha, scale=scale)
    both = stable.sf(x, alpha, scale=scale) + stable.cdf(x, alpha, scale=scale)
    assert abs(both - 1) <= 1e-13  # two sums, not one subtracted from 1: each is good to 2e-13 of itself
    assert stable.score(x, alpha, scale=scale) * np.sign(x) <= 0


@given(x=points, y=points, alpha=alphas)
def test_unimodal_with_falling_omega_and_survival(x, y, alpha):
    """omega falls because it is a mean over the Gaussian scale mixture; rounding may break a tie."""
    inner, outer = sorted([abs(x), abs(y)])
    assert stable.logpdf(inner, alpha) >= stable.logpdf(outer, alpha) - 1e-12 * abs(stable.logpdf(outer, alpha))
    assert stable.omega(inner, alpha) >= stable.omega(outer, alpha) * (1 - 1e-12)
    assert stable.omega(outer, alpha) > 0 or outer > 1e150
    low, high = sorted([x, y])
    assert stable.sf(low, alpha) >= stable.sf(high, alpha) * (1 - 1e-12)
    assert stable.cdf(low, alpha) <= stable.cdf(high, alpha) * (1 + 1e-12)


@given(x=st.floats(-50, 50).map(lambda log: 10**log), alpha=alphas, scale=scales)
def test_scaling_law(x, alpha, scale):
    z = x / scale
    rounding = 4e-16 * (2 + stable.omega(z, alpha) * z**2)  # of z, times the law's own slope
    bound = 1e-13 + rounding
    assert_close(
        stable.logpdf(x, alpha, scale=scale), stable.logpdf(z, alpha) - np.log(scale), bound, 1 + abs(np.log(x))
    )
    curved = abs(stable.curvature(z, alpha)) + stable.omega(z, alpha)
    assert_close(stable.score(x, alpha, scale=scale), stable.score(z, alpha) / scale, 1e-12)
    assert_close(stable.omega(x, alpha, scale=scale), stable.omega(z, alpha) / scale**2, 1e-12)
    if z < 100:
        got, true = stable.curvature(x, alpha, scale=scale), stable.curvature(z, alpha) / scale**2
        assert_close(got, true, 1e-11, curved / scale**2)
    assert_close(stable.sf(x, alpha, scale=scale), stable.sf(z, alpha), bound)


@pytest.mark.parametrize("name", ALL)
def test_dispersion_is_scale_to_the_alpha(name):
    alpha, scale = np.array(ALPHAS), np.geomspace(1e-6, 1e6, len(ALPHAS))
    function, x = getattr(stable, name), 0.3 * (scale if name in AT_POINTS else 1)
    got, true = function(x, alpha, dispersion=scale**alpha), function(x, alpha, scale=scale)
    size = np.abs(true) + (stable.omega(x, alpha, scale=scale) if name == "curvature" else 0)
    assert_close(got, true, 1e-11, size, alpha=alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_values_at_zero(alpha):
    omega_0 = special.gamma(3 / alpha) / special.gamma(1 / alpha)
    assert_close(stable.pdf(0.0, alpha), special.gamma(1 + 1 / alpha) / np.pi, 1e-13)
    for name, true in {"omega": omega_0, "curvature": omega_0}.items():
        assert_close(getattr(stable, name)(np.array([0.0, -0.0, 1e-300, 5e-324]), alpha), true, 1e-12)
    for x in (0.0, -0.0):
        assert stable.score(x, alpha) == 0
        assert not np.signbit(stable.score(x, alpha))
        assert stable.sf(x, alpha) == stable.cdf(x, alpha) == 0.5


@pytest.mark.parametrize("alpha", [alpha for alpha in ALPHAS if alpha < 2])
def test_leading_term_of_the_tail(alpha):
    x = np.array([1e200, 1e290])
    lead = special.gamma(alpha) * np.sin(np.pi * (2 - alpha) / 2) / np.pi
    assert_close(stable.logpdf(x, alpha), np.log(alpha * lead) - (alpha + 1) * np.log(x), 1e-13)
    assert_close(stable.sf(x, alpha), lead * np.exp(-alpha * np.log(x)), 1e-11)
    assert_close(stable.score(x, alpha), -(alpha + 1) / x, 1e-13)


# The law's functions are derivatives of each other; Gauss-Legendre on short panels makes of it equations exact to rounding.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def panels(alpha):
    """Ends and nodes (panel, node), with weights, of panels in log x from far inside the bulk to far in the tail."""
    low = np.log(zero_limit(alpha)) - 3
    high = min(np.log(tail_limit(alpha)) + 3, np.log(10) if alpha > 1.95 else 99)
    ends = np.linspace(low, high, int((high - low) / 0.25))
    half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    x = np.exp(middle[:, None] + half[:, None] * NODES)
    return np.exp(ends), x, half[:, None] * WEIGHTS * x


@pytest.mark.parametrize("alpha", ALPHAS)
def test_density_is_the_derivative_of_the_distribution(alpha):
    ends, x, weights = panels(alpha)
    mass = np.sum(weights * stable.pdf(x, alpha), axis=1)
    assert_close(-np.diff(stable.sf(ends, alpha)), mass, 1e-11, mass + 1e-3 * stable.sf(ends[1:], alpha), x=ends[1:])
    assert_close(np.diff(stable.cdf(ends, alpha)), mass, 1e-13, 1.0, x=ends[1:])
    total = 2 * (mass.sum() + stable.cdf(ends[0], alpha) - 0.5 + stable.sf(ends[-1], alpha))
    assert abs(total - 1) < 1e-13


@pytest.mark.parametrize("alpha", ALPHAS)
def test_score_is_the_derivative_of_logpdf(alpha):
    ends, x, weights = panels(alpha)
    rise = np.sum(weights * stable.score(x, alpha), axis=1)
    level = stable.logpdf(ends, alpha)
    assert_close(np.diff(level), rise, 2e-14, 1 + np.abs(level[1:]), x=ends[1:])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_curvature_is_minus_the_derivative_of_score(alpha):
    ends, x, weights = panels(alpha)
    fall = -np.sum(weights * stable.curvature(x, alpha), axis=1)
    score = stable.score(ends, alpha)
    assert_close(np.diff(score), fall, 1e-12, np.abs(score[1:]) + np.abs(score[:-1]), x=ends[1:])


@pytest.mark.parametrize("x", [0.0, 1e-30, 1e-7, 1e-3, 0.05, 0.3, 1.0, 1.5, 4.0, 10.0, 14.0, 1e3, 1e100])
def test_dlogpdf_dalpha_is_the_derivative_in_alpha(x):
    ends = np.concatenate(
        [np.linspace(0.1, 0.97, 40), 1 + np.linspace(-0.025, 0.025, 11), np.linspace(1.05, 1.995, 60)]
    )
    half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    alpha = middle[:, None] + half[:, None] * NODES
    rise = np.sum(half[:, None] * WEIGHTS * stable.dlogpdf_dalpha(x, alpha), axis=1)
    level = stable.logpdf(x, ends)
    assert_close(np.diff(level), rise, 1e-13, 1 + np.abs(level[1:]), alpha=ends[1:])


def test_dlogpdf_dalpha_is_at_fixed_scale():
    x, alpha, scale, h = 3.0, 1.3, 2.5, 1e-4
    rise = stable.logpdf(x, alpha + h, scale=scale) - stable.logpdf(x, alpha - h, scale=scale)
    assert_close(stable.dlogpdf_dalpha(x, alpha, scale=scale), rise / (2 * h), 1e-7)
    assert stable.dlogpdf_dalpha(x, alpha, dispersion=scale**alpha) == pytest.approx(rise / (2 * h), rel=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0, 1.2, 1.5, 1.8, 1.99, 2.0])
def test_pdf_integrates_to_one_by_quad(alpha):
    inside = integrate.quad(stable.pdf, 0, 5, args=(alpha,), points=[0.01, 0.1, 1], epsabs=1e-13, epsrel=1e-12)[0]
    assert 2 * (inside + stable.sf(5.0, alpha)) == pytest.approx(1, rel=1e-11)
    outside = integrate.quad(lambda u: stable.pdf(5 / u, alpha) * 5 / u**2, 0, 1, epsabs=1e-13, epsrel=1e-10)[0]
    assert outside == pytest.approx(stable.sf(5.0, alpha), abs=1e-10)


@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.5, 0.9, 1.1, 1.5, 1.9])
def test_characteristic_function(alpha, t):
    """2 int_0^inf f(x) cos(t x) dx = exp(-t^alpha), so that the sum of two SaS variables is one."""
    inside = integrate.quad(lambda x: stable.pdf(x, alpha) * np.cos(t * x), 0, 1, points=[0.01, 0.1], epsabs=1e-12)[0]
    outside = integrate.quad(stable.pdf, 1, np.inf, args=(alpha,), weight="cos", wvar=t, epsabs=1e-11, limlst=500)[0]
    assert 2 * (inside + outside) == pytest.approx(np.exp(-(t**alpha)), abs=1e-9)


@pytest.mark.parametrize("alpha", [0.7, 1.4])
def test_sum_of_two_is_stable(alpha, rng):
    scale = (2.0**alpha + 0.5**alpha) ** (1 / alpha)
    both = [stable.rvs(alpha, size=20_000, rng=rng, scale=c) for c in (2.0, 0.5)]
    assert stats.kstest(sum(both), lambda x: stable.cdf(x, alpha, scale=scale)).pvalue > 1e-3


# --- Closed forms, and SciPy where it is right -----------------------------------------------------------------------


def test_alpha_one_half_by_fresnel_integrals():
    x = np.geomspace(0.02, 1e5, 200)
    sine, cosine = special.fresnel(1 / np.sqrt(2 * np.pi * x))
    wave = (0.5 - sine) * np.sin(1 / (4 * x)) + (0.5 - cosine) * np.cos(1 / (4 * x))
    assert_close(stable.pdf(x, 0.5), wave / np.sqrt(2 * np.pi * x**3), 1e-10, x=x)


def test_alpha_two_thirds_by_whittaker_function():
    """f = z^(2/3) U(7/6, 4/3, z) / (2 sqrt(3 pi) x), z = 4 / (27 x^2); U by mpmath, SciPy's has 6 digits here."""
    x = np.geomspace(0.003, 1e4, 60)
    z = 4 / (27 * x**2)
    kummer = np.array([float(mp.hyperu(mp.mpf(7) / 6, mp.mpf(4) / 3, value)) for value in z])
    true = z ** (2 / 3) * kummer / (2 * np.sqrt(3 * np.pi) * x)
    assert_close(stable.pdf(x, 2 / 3), true, 1e-12, x=x)


def test_alpha_one_is_cauchy():
    x = np.concatenate([[0.0], np.geomspace(1e-300, 1e150, 301)])
    assert_close(stable.logpdf(x, 1.0, scale=3.0), stats.cauchy.logpdf(x, scale=3.0), 1e-14, x=x)
    assert_close(stable.sf(x, 1.0), np.arctan2(1.0, x) / np.pi, 1e-13, x=x)
    assert_close(stable.score(x, 1.0), -2 * x / (1 + x * x), 1e-13, x=x)
    mild = x[x < 1e70]
    curvature = 2 * (1 - mild) * (1 + mild) / (1 + mild * mild) ** 2
    assert_close(stable.curvature(mild, 1.0), curvature, 1e-13, 2 / (1 + mild * mild), x=mild)


def test_alpha_two_is_gaussian():
    x = np.concatenate([[0.0], np.geomspace(1e-300, 60, 200)])
    sd = 3 * np.sqrt(2)
    assert_close(stable.logpdf(x, 2.0, scale=3.0), stats.norm.logpdf(x, scale=sd), 1e-14, x=x)
    assert_close(stable.sf(x, 2.0, scale=3.0), stats.norm.sf(x, scale=sd), 1e-12, x=x)
    assert_close(stable.score(x, 2.0), -x / 2, 1e-15, x=x)
    for function in (stable.omega, stable.curvature):
        assert_close(function([*x, 1e300, np.inf], 2.0), 0.5, 1e-15)


@pytest.mark.parametrize("alpha", [0.6, 0.9, 1.3, 1.7])
def test_scipy_agrees_in_the_middle(alpha):
    x = np.array([0.4, 1.0, 2.5, 6.0])
    law = stats.levy_stable(alpha, 0.0, scale=1.5)
    np.testing.assert_allclose(stable.pdf(x, alpha, scale=1.5), law.pdf(x), rtol=1e-6)
    np.testing.assert_allclose(stable.sf(x, alpha, scale=1.5), law.sf(x), rtol=1e-6)


# --- Quantiles -------------------------------------------------------------------------------------------------------

PROBABILITIES = np.concatenate([
    10.0 ** np.array([-300, -290, -200, -100, -50, -20, -10, -5, -3, -2]),
    [0.1, 0.24, 0.25, 0.26, 0.3, 0.4, 0.49, 0.4999, 0.5 - 1e-9, 0.5 - 2**-54],
])  # fmt: skip
QUANTILE_ALPHAS = (*ALPHAS, 0.3, 0.9999, 1 + 1e-14, 1.7, 1.99, 2 - 1e-9, 2 - 2**-52)


@pytest.mark.parametrize("alpha", QUANTILE_ALPHAS)
def test_quantiles_invert(alpha):
    p = PROBABILITIES
    x = stable.isf(p, alpha)
    finite = np.isfinite(x)
    assert np.all(x[1:] <= x[:-1])
    assert np.all(finite[p > 1e-10])
    assert np.all(x[finite] > 0)
    assert_close(stable.sf(x[finite], alpha), p[finite], 1e-11, p=p[finite])
    lower = stable.ppf(p, alpha)
    np.testing.assert_array_equal(lower, -x)
    assert_close(stable.cdf(lower[finite], alpha), p[finite], 1e-11, p=p[finite])


@pytest.mark.parametrize("alpha", QUANTILE_ALPHAS)
def test_quantiles_next_to_the_median(alpha):
    """Where sf is 1/2 to rounding the quantile still has all its digits: x = (1/2 - q) / f(0)."""
    away = 2.0 ** -np.array([54, 50, 45] if alpha > 0.3 else [54])
    x = stable.isf(0.5 - away, alpha)
    assert_close(x * stable.pdf(0.0, alpha), away, 1e-10, away=away)
    np.testing.assert_array_equal(stable.ppf(0.5 - away, alpha), -x)


@pytest.mark.parametrize("alpha", QUANTILE_ALPHAS)
def test_quantiles_above_one_half(alpha):
    q = np.array([2**-53, 1e-12, 1e-6, 0.01, 0.2, 0.3, 0.45])
    p = 1 - q
    exact = 1 - p  # exact: the tail that the float p leaves
    for x, sign in ((stable.ppf(p, alpha), 1), (stable.isf(p, alpha), -1)):
        assert np.all(sign * x > 0)
        finite = np.isfinite(x)
        assert finite.sum() >= 6
        assert_close(stable.sf(sign * x[finite], alpha), exact[finite], 1e-11, p=p[finite])
    assert_close(stable.cdf(stable.ppf(p, alpha), alpha), p, 1e-13, p=p)


@pytest.mark.parametrize("alpha", QUANTILE_ALPHAS)
def test_quantiles_at_the_ends(alpha):
    np.testing.assert_array_equal(stable.ppf([0.0, 0.5, 1.0, np.nan], alpha), [-np.inf, 0.0, np.inf, np.nan])
    np.testing.assert_array_equal(stable.isf([0.0, 0.5, 1.0, np.nan], alpha), [np.inf, 0.0, -np.inf, np.nan])
    for value in (stable.ppf(0.5, alpha), stable.isf(0.5, alpha)):
        assert not np.signbit(value)
    assert stable.isf(5e-324, alpha) > 30


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.8, 0.99])
def test_quantile_is_infinite_beyond_float64_only(alpha):
    """sf = lead x^-alpha there, so the quantile of q is (lead / q)^(1 / alpha)."""
    lead = special.gamma(alpha) * np.sin(np.pi * alpha / 2) / np.pi
    edge = np.exp(np.log(lead) - alpha * np.log(np.finfo(float).max))
    assert stable.isf(edge * (1 - 1e-10), alpha) == np.inf
    below = stable.isf(edge * (1 + 1e-10), alpha)
    assert 1e308 < below < np.inf
    assert stable.isf(edge * (1 - 1e-10), alpha, scale=1e-3) == pytest.approx(below * 1e-3, rel=1e-8)
    assert stable.ppf(edge * (1 + 1e-10), alpha, scale=2.0) == -np.inf


def test_quantiles_of_extreme_scales():
    for scale in (5e-324, 1e-310, 1e-300, 1e300):
        unit = stable.isf([0.25, 0.4999], 1.5)
        assert_close(stable.isf([0.25, 0.4999], 1.5, scale=scale), unit * scale, 1e-11)
    for q, true in ((1e-150, 1e100), (1e-160, 1e120)):  # lead / q, squared: at unit scale the second is beyond float64
        assert_close(stable.isf(q, 0.5, scale=1e-200), true / (2 * np.pi), 1e-11)


@given(p=st.floats(0, 1), r=st.floats(0, 1), alpha=alphas)
def test_quantiles_are_monotone(p, r, alpha):
    low, high = sorted([p, r])
    a, b = stable.ppf(low, alpha), stable.ppf(high, alpha)
    assert a <= b or a - b <= 1e-12 * abs(a)


def test_quantiles_broadcast():
    p, alpha = np.array([[1e-5], [0.2], [0.7]]), np.array([0.3, 1.0, 1.6, 2.0])
    for function in (stable.ppf, stable.isf):
        table = function(p, alpha, scale=[1.0, 2.0, 0.5, 1.0])
        assert table.shape == (3, 4)
        for (i, j), value in np.ndenumerate(table):
            one = function(float(p[i, 0]), float(alpha[j]), scale=[1.0, 2.0, 0.5, 1.0][j])
            assert value == pytest.approx(one, rel=1e-12)


# --- Shapes and types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_scalars_give_scalars(name):
    function = getattr(stable, name)
    for value in (0.25, np.float64(0.25), np.float32(0.25), np.array(0.25)):
        result = function(value, 1.5, scale=2.0)
        assert isinstance(result, np.float64)
        assert result == function([0.25], [1.5], scale=[2.0])[0]
    assert isinstance(function(1, 1, dispersion=1), np.float64)


@pytest.mark.parametrize("name", ALL)
def test_arrays_broadcast_as_in_numpy(name):
    function = getattr(stable, name)
    x, alpha, scale = np.linspace(0.05, 0.95, 3)[:, None, None], np.array([0.5, 1.0, 1.01, 1.7])[:, None], [1.0, 3.0]
    got = function(x, alpha, scale=scale)
    assert got.shape == (3, 4, 2)
    assert got.dtype == np.float64
    for place, value in np.ndenumerate(got):
        one = function(x[place[0], 0, 0], alpha[place[1], 0], scale=scale[place[2]])
        assert value == pytest.approx(one, rel=1e-12, abs=1e-13), place
    assert function([0.1, 0.2], 1.5).shape == (2,)
    assert function(0.1, [1.5, 1.6]).shape == (2,)
    assert function(0.1, 1.5, scale=[[1.0]]).shape == (1, 1)
    for empty in (np.empty(0), np.empty((2, 0, 3))):
        assert function(empty, 1.5).shape == empty.shape
        assert function(0.3, np.full((2, 0, 3), 1.5)).shape == (2, 0, 3)
    with pytest.raises(ValueError, match="do not broadcast"):
        function([0.1, 0.2], [1.0, 1.1, 1.2])


@pytest.mark.parametrize("name", ALL)
def test_any_real_array_layout_and_kind(name):
    function = getattr(stable, name)
    x = np.linspace(0, 1, 24).reshape(4, 6)
    expected = function(x, 1.3)
    for other in (np.asfortranarray(x), x.tolist(), np.repeat(x, 2, axis=1)[:, ::2], x[::-1, ::-1][::-1, ::-1]):
        np.testing.assert_array_equal(function(other, 1.3), expected)
    np.testing.assert_array_equal(function(np.float32(x), 1.3), function(np.float32(x).astype(float), 1.3))
    np.testing.assert_array_equal(function(np.array([0, 1]), 1.3), function([0.0, 1.0], 1.3))
    np.testing.assert_array_equal(function([False, True], 1.3), function([0.0, 1.0], 1.3))
    np.testing.assert_array_equal(function(range(2), 1.3), function([0.0, 1.0], 1.3))
    assert function(0.5, 1.3, scale=10**20) == function(0.5, 1.3, scale=1e20)  # NumPy makes an object of this integer


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_not_modified(name):
    x, alpha, scale = np.array([0.0, 0.2, np.nan, 1.0]), np.array([1.5, 1.0, 2.0, 0.3]), np.array([1.0, 2.0, 3.0, 4.0])
    kept = x.copy(), alpha.copy(), scale.copy()
    for array in (x, alpha, scale):
        array.flags.writeable = False
    getattr(stable, name)(x, alpha, scale=scale)
    getattr(stable, name)(x, alpha, dispersion=scale)
    for array, copy in zip((x, alpha, scale), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.01, 1.5, 2.0])
@pytest.mark.parametrize("name", ALL)
def test_nan_in_x_gives_nan_there_only(name, alpha):
    function = getattr(stable, name)
    assert np.isnan(function(np.nan, alpha))
    got = function([np.nan, 0.0, 0.3, 1.0, np.nan], alpha)
    np.testing.assert_array_equal(np.isnan(got), [True, False, False, False, True])
    np.testing.assert_array_equal(got[1:4], function([0.0, 0.3, 1.0], alpha))


@pytest.mark.parametrize("name", AT_POINTS)
def test_mixed_alpha_equals_alpha_by_alpha(name, rng):
    function = getattr(stable, name)
    pool = np.array([0.1, 0.35, 0.5, 0.99, 1.0, 1.01, 1.3, 1.9, 1.9999, 2.0])
    alpha, x = rng.choice(pool, 6000), rng.choice([-1, 1], 6000) * 10 ** rng.uniform(-25, 5, 6000)
    x[::50] = 0.0
    mixed, apart = function(x, alpha), by_call(function, x, alpha, "an alpha at a time")
    size = np.abs(apart) + (stable.omega(x, alpha) if name == "curvature" else 0)
    assert_close(mixed, apart, 1e-12, size, alpha=alpha, x=x)
    scale = 10 ** rng.uniform(-3, 3, 6000)
    size = np.abs(apart) + (stable.omega(x, alpha) if name == "curvature" else 0)
    power = {"pdf": 1, "score": 1, "omega": 2, "curvature": 2}.get(name, 0)
    unit = function(x * scale, alpha, scale=scale) * scale**power + (np.log(scale) if name == "logpdf" else 0)
    assert_close(unit, apart, 1e-11, size + (name == "logpdf") * 10, alpha=alpha, x=x)


# --- The ends of float64 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.01, 1.5, 1.9999, 2.0])
def test_infinite_x(alpha):
    x = np.array([-np.inf, np.inf])
    heavy = alpha < 2
    expected = {
        "logpdf": [-np.inf, -np.inf],
        "pdf": [0, 0],
        "score": [0, 0] if heavy else [np.inf, -np.inf],
        "omega": [0, 0] if heavy else [0.5, 0.5],
        "curvature": [0, 0] if heavy else [0.5, 0.5],
        "dlogpdf_dalpha": [-np.inf, -np.inf],
        "cdf": [0, 1],
        "sf": [1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(stable, name)(x, alpha), values, err_msg=name)
        if heavy or name not in ("omega", "curvature"):  # the Gaussian's own are 1 / (2 scale^2)
            np.testing.assert_array_equal(getattr(stable, name)(x, alpha, scale=1e300), values, err_msg=name)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.01, 1.5, 1.9999])
def test_ratio_above_the_largest_float(alpha):
    """x / scale = 1e600: the leading term of the tail, taken in logarithms."""
    x, scale = 1e300, 1e-300
    log_z = 600 * np.log(10)
    lead = special.gamma(alpha + 1) * np.sin(np.pi * (2 - alpha) / 2) / np.pi
    assert_close(stable.logpdf(x, alpha, scale=scale), np.log(lead / scale) - (alpha + 1) * log_z, 1e-13)
    assert_close(stable.sf(x, alpha, scale=scale), np.exp(np.log(lead / alpha) - alpha * log_z), 1e-11)
    assert_close(stable.cdf(-x, alpha, scale=scale), np.exp(np.log(lead / alpha) - alpha * log_z), 1e-11)
    assert_close(stable.score(x, alpha, scale=scale), -(alpha + 1) / x, 1e-13)
    assert stable.omega(x, alpha, scale=scale) == stable.curvature(x, alpha, scale=scale) == 0
    turn = special.digamma(alpha + 1) + np.pi / 2 / np.tan(np.pi * alpha / 2) - log_z
    assert_close(stable.dlogpdf_dalpha(x, alpha, scale=scale), turn, 1e-12)
    assert stable.sf(-x, alpha, scale=scale) == 1


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.01, 1.5, 2.0])
def test_ratio_below_the_smallest_float(alpha):
    """x / scale = 1e-600: the limit at zero."""
    x, scale = 1e-300, 1e300
    assert_close(stable.logpdf(x, alpha, scale=scale), stable.logpdf(0.0, alpha) - np.log(scale), 1e-14)
    assert stable.score(x, alpha, scale=scale) == stable.omega(x, alpha, scale=scale) == 0
    assert stable.sf(x, alpha, scale=scale) == 0.5
    assert_close(stable.dlogpdf_dalpha(x, alpha, scale=scale), stable.dlogpdf_dalpha(0.0, alpha), 1e-13)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.01, 1.5, 2.0])
def test_results_are_right_where_their_factors_overflow(alpha):
    """scale^2 and x^2 leave float64, score and omega do not; z = x / scale is exact here."""
    for shift in (-1000, -540, 540, 1000):
        scale = math.ldexp(1.0, shift)
        for z in (math.ldexp(1.0, -40), 0.25, 1.0, 8.0, 1024.0):
            score, omega = stable.score(z, alpha), stable.omega(z, alpha)
            with np.errstate(over="ignore", under="ignore"):
                assert_close(stable.score(z * scale, alpha, scale=scale), np.ldexp(score, -shift), 1e-14, z=z)
                assert_close(stable.omega(z * scale, alpha, scale=scale), np.ldexp(omega, -2 * shift), 1e-14, z=z)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_subnormal_x_and_scale(alpha):
    x = np.array([5e-324, 1e-310, -3e-320])
    omega_0 = stable.omega(0.0, alpha)
    for name in ("logpdf", "pdf", "omega", "curvature", "sf", "cdf", "dlogpdf_dalpha"):
        assert_close(getattr(stable, name)(x, alpha), getattr(stable, name)(0.0, alpha), 1e-13, x=x)
    assert_close(stable.score(x, alpha), -omega_0 * x, 1e-13, x=x)
    scale = 2.0**-1074
    assert_close(stable.logpdf(3 * scale, alpha, scale=scale), stable.logpdf(3.0, alpha) - np.log(scale), 1e-13)
    assert_close(stable.sf(3 * scale, alpha, scale=scale), stable.sf(3.0, alpha), 1e-13)
    assert stable.score(3 * scale, alpha, scale=scale) == -np.inf
    assert stable.pdf(0.0, alpha, scale=scale) == np.inf


# --- Errors ----------------------------------------------------------------------------------------------------------


def calls(**parameters):
    """Every function of the law with these parameters, as (name, call)."""
    for name in ALL:
        yield name, lambda name=name: getattr(stable, name)(0.3, **parameters)
    yield "rvs", lambda: stable.rvs(**parameters)


def assert_all_raise(error, message, **parameters):
    for name, call in calls(**parameters):
        with pytest.raises(error, match=message):
            pytest.fail(f"{name} returned {call()!r}")


@pytest.mark.parametrize(
    ("alpha", "shown"),
    [(0.05, r"0\.05"), (2.1, r"2\.1"), (np.nan, "nan"), (np.inf, "inf"), (-1, r"-1\.0"), (np.nextafter(2, 3), "2.000000"),
     ([1.0, 1.5, 3.0], r"3\.0"), ([[0.5], [np.nan]], "nan")],
)  # fmt: skip
def test_alpha_out_of_range(alpha, shown):
    assert_all_raise(ValueError, rf"alpha must lie in \[0\.1, 2\]; got {shown}", alpha=alpha)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, r"0\.0"), (-1.5, r"-1\.5"), (np.inf, "inf"), (np.nan, "nan"), ([1, -2], r"-2\.0")]
)
@pytest.mark.parametrize("which", ["scale", "dispersion"])
def test_scale_and_dispersion_out_of_range(which, value, shown):
    assert_all_raise(ValueError, rf"{which} must be positive and finite; got {shown}", alpha=1.5, **{which: value})


def test_scale_and_dispersion_at_once():
    assert_all_raise(ValueError, "either scale or dispersion, not both", alpha=1.5, scale=1.0, dispersion=1.0)


@pytest.mark.parametrize("dispersion", [1e-40, 1e40])
def test_dispersion_whose_scale_leaves_float64(dispersion):
    message = rf"dispersion {dispersion!r} belongs to a scale .* beyond the range of float64; give scale instead"
    assert_all_raise(ValueError, message.replace("+", r"\+"), alpha=0.1, dispersion=dispersion)
    message = message.replace("+", r"\+")
    assert_all_raise(ValueError, message, alpha=[1.5, 0.1], dispersion=[1.0, dispersion])


NOT_REAL = {
    "word": "abc",
    "numeral": "1.5",
    "complex": 1.5 + 0j,
    "array of complex": np.array([1.5 + 1j]),
    "ragged": [1.0, [1.0, 1.1]],
    "None": None,
    "date": np.datetime64("1970-01-01"),
    "object": object(),
}


@pytest.mark.parametrize("kind", NOT_REAL)
def test_points_that_are_no_real_numbers(kind):
    for name in ALL:
        letter = {"ppf": "p", "isf": "q"}.get(name, "x")
        with pytest.raises(TypeError, match=f"{letter} must be a real number or an array of real numbers; got"):
            pytest.fail(f"{name} returned {getattr(stable, name)(NOT_REAL[kind], 1.5)!r}")


@pytest.mark.parametrize("kind", NOT_REAL)
def test_parameters_that_are_no_real_numbers(kind):
    value = NOT_REAL[kind]
    assert_all_raise(TypeError, "alpha must be a real number or an array of real numbers; got", alpha=value)
    if value is not None:  # the default of both
        for which in ("scale", "dispersion"):
            message = f"{which} must be a real number or an array of real numbers; got"
            assert_all_raise(TypeError, message, alpha=1.5, **{which: value})


@pytest.mark.parametrize("value", [-1e-300, 1.0000000000000002, np.inf, -np.inf, [0.5, 2.0]])
def test_probabilities_out_of_range(value):
    shown = np.ravel(value)[-1].item()
    for name, letter in (("ppf", "p"), ("isf", "q")):
        with pytest.raises(ValueError, match=rf"{letter} must lie in \[0, 1\]; got {shown!r}"):
            getattr(stable, name)(value, 1.5)


def test_scale_is_keyword_only():
    for name in ALL:
        with pytest.raises(TypeError, match="positional"):
            getattr(stable, name)(0.3, 1.5, 2.0)
    with pytest.raises(TypeError, match="gamma"):
        stable.logpdf(0.3, 1.5, gamma=2.0)


# --- Variates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.999, 1.0, 1.5, 1.999, 2.0])
def test_variates_follow_the_law(alpha, rng):
    sample = stable.rvs(alpha, size=20_000, rng=rng, scale=3.0)
    assert stats.kstest(sample, lambda x: stable.cdf(x, alpha, scale=3.0)).pvalue > 1e-3
    far = np.abs(stable.rvs(alpha, size=20_000, rng=rng))  # the tail by itself
    start = stable.isf(0.02, alpha)
    assert stats.kstest(far[far > start], lambda x: 1 - stable.sf(x, alpha) / 0.02).pvalue > 1e-3
    assert stats.binomtest(int(np.sum(far > start)), far.size, 0.04).pvalue > 1e-3
    assert stats.binomtest(int(np.sum(sample > 0)), sample.size, 0.5).pvalue > 1e-3


def test_variates_are_finite_at_the_smallest_alpha():
    draws = stable.rvs(0.1, size=1_000_000, rng=4)
    assert np.all(np.isfinite(draws))
    assert np.all(draws != 0)


class _Extreme(np.random.Generator):
    """Uniforms and exponentials at the ends of their ranges, all pairs of them."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def random(self, size):
        return np.resize([0.0, 1 - 2.0**-53, 0.5, 2.0**-53, 0.25], size)

    def standard_exponential(self, size):
        return np.resize(np.repeat([0.0, 1e-300, 1.0, 700.0], 5), size)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_variates_of_extreme_uniforms_are_never_nan(alpha):
    assert not np.any(np.isnan(stable.rvs(alpha, size=20, rng=_Extreme())))


def test_variates_have_the_shape_asked_for():
    assert isinstance(stable.rvs(1.5, rng=0), np.float64)
    for size, shape in ((5, (5,)), ((2, 3), (2, 3)), ((), ()), (0, (0,)), (np.int64(4), (4,)), ([2, 2], (2, 2))):
        assert np.shape(stable.rvs(1.5, size=size, rng=0)) == shape
    assert stable.rvs([0.5, 1.5], rng=0).shape == (2,)
    assert stable.rvs([[0.5], [1.5]], scale=[1.0, 2.0, 3.0], rng=0).shape == (2, 3)
    assert stable.rvs([0.5, 1.5], size=(4, 2), rng=0).shape == (4, 2)


def test_variates_of_many_parameters(rng):
    alpha, scale = np.array([0.4, 1.0, 1.7]), np.array([[10.0], [0.1]])
    draws = stable.rvs(alpha, size=(4000, 2, 3), rng=rng, scale=scale)
    for (i, j), c in np.ndenumerate(np.broadcast_to(scale, (2, 3))):
        assert stats.kstest(draws[:, i, j], lambda x, j=j, c=c: stable.cdf(x, alpha[j], scale=c)).pvalue > 1e-3


def test_variates_are_reproducible():
    one = stable.rvs(1.3, size=10, rng=7)
    np.testing.assert_array_equal(one, stable.rvs(1.3, size=10, rng=7))
    np.testing.assert_array_equal(one, stable.rvs(1.3, size=10, rng=np.random.default_rng(7)))
    assert not np.any(one == stable.rvs(1.3, size=10, rng=8))
    assert not np.any(stable.rvs(1.3, size=10) == stable.rvs(1.3, size=10))
    source = np.random.default_rng(7)
    assert not np.any(stable.rvs(1.3, size=10, rng=source) == stable.rvs(1.3, size=10, rng=source))


def test_variates_scale():
    unit = stable.rvs(0.7, size=100, rng=3)
    np.testing.assert_allclose(stable.rvs(0.7, size=100, rng=3, scale=5.0), 5 * unit, rtol=1e-15)
    np.testing.assert_allclose(stable.rvs(0.7, size=100, rng=3, dispersion=5.0**0.7), 5 * unit, rtol=1e-14)


@pytest.mark.parametrize("size", [3, (), (2, 1), (2, 3)])
def test_variates_of_parameters_that_do_not_fit_the_size(size):
    with pytest.raises(ValueError, match=r"common shape \(2,\) do not broadcast to size"):
        stable.rvs([0.5, 1.5], size=size)


# --- Memory and chunks -----------------------------------------------------------------------------------------------


def test_memory_on_a_million_points_of_mixed_alpha(rng):
    n = 1_000_000
    alpha, x = rng.uniform(0.1, 2.0, n), 10 ** rng.uniform(-30, 30, n)
    tracemalloc.start()
    try:
        out = stable.curvature(x, alpha)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (peak - out.nbytes) / 2**20 < 300, f"{(peak - out.nbytes) / 2**20:.0f} MiB"


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["logpdf", "curvature", "sf"])
def test_pieces_equal_the_whole(name, mixed, rng):
    """Also across the blocks of the driver (65,536 points) and of the integrals (512, 2,048, 4,096, 16,384)."""
    function, n = getattr(stable, name), 30_000 if mixed else 200_000
    x = 10 ** rng.uniform(-8, 4, n)
    alpha = rng.choice([0.3, 0.99, 1.2, 1.9], n) if mixed else np.float64(1.2)
    size = np.abs(stable.omega(x, alpha)) if name == "curvature" else 0
    whole = function(x, alpha)
    cuts = np.array([1, 2, 513, 2048, 2049, 4097, 16_385, 20_000])
    pieces = [function(x[some], alpha[some] if mixed else alpha) for some in np.split(np.arange(n), cuts)]
    assert_close(np.concatenate(pieces), whole, 1e-12, np.abs(whole) + size, x=x)


def test_gauss_where_the_square_of_x_overflows():
    """x^2 is beyond float64, x^2 / 4 is not."""
    for x, scale in ((1.5e154, 1.0), (2.5e154, 1.0), (1.5e4, 1e-150)):
        assert float(stable.logpdf(x, 2.0, scale=scale)) == pytest.approx(-((x / scale / 2) ** 2), rel=1e-14)
