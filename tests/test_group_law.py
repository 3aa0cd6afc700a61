"""The law of a group of d weights: against frozen high-precision rows, its closed forms, limits, identities and bad input."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gamma, gammaln

from softdiamond import stable

FUNCTIONS = {
    "penalty": stable.group_penalty,
    "score": stable.group_score,
    "omega": stable.group_omega,
    "curvature": stable.group_curvature,
}
BOUNDS = {"penalty": 1e-11, "omega": 1e-11, "curvature": 1e-10}  # the errors found are 1e-13, 1e-13, 1e-11
ALPHAS = [0.1, 0.35, 0.5, 0.9, 1 - 1e-9, 1.0, 1.01, 1.5, 1.9, 1.9999, 2 - 1e-9, 2 - 2.0**-52, 2.0]
DIMENSIONS = [1, 2, 3, 9, 64, 4096, 65536]

each_alpha = pytest.mark.parametrize("alpha", ALPHAS)
each_d = pytest.mark.parametrize("d", DIMENSIONS)
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
alphas = st.one_of(
    st.floats(0.1, 2.0),
    st.floats(1e-15, 0.1).map(lambda gap: 2 - gap),
    st.floats(-0.05, 0.05).map(lambda gap: 1 + gap),
)
dimensions = st.floats(0, 16).map(lambda log: round(2**log))


def crossover(alpha: float, d: int) -> float:
    """Radius where the tail's (d + alpha) / r^2 meets omega(0)."""
    return np.exp((np.log(d + alpha) - gammaln((d + 2) / alpha) + gammaln(d / alpha) + np.log(d)) / 2)


def radii(alpha: float, d: int, n: int = 60) -> np.ndarray:
    """Radii from far inside to far outside the crossover."""
    return crossover(alpha, d) * np.geomspace(1e-3, 1e2 if alpha > 0.3 else 1e8, n)


# --- against the frozen rows ---------------------------------------------------------------------------------------


def read_rows():
    with (Path(__file__).parent / "reference" / "group_rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


ROWS = read_rows()


def test_rows_are_better_than_what_they_test():
    assert len(ROWS) >= 400
    assert max(float(row["error"]) for row in ROWS) < 1e-17
    assert {row["method"] for row in ROWS} == {"mellin", "mellin mixture", "mellin hankel"}
    assert {int(row["d"]) for row in ROWS} == set(DIMENSIONS)


@each_d
def test_rows(d):
    rows = [row for row in ROWS if row["d"] == str(d)]
    alpha, r, omega = (np.array([float(row[name]) for row in rows]) for name in ("alpha", "r", "omega"))
    for name, bound in BOUNDS.items():
        true = np.array([float(row[name]) for row in rows])
        error = np.abs(FUNCTIONS[name](r, alpha, d) - true) / (np.abs(true) + (omega if name == "curvature" else 0))
        assert error.max() <= bound, f"{name}: {error.max():.1e} at {alpha[error.argmax()]!r}, {r[error.argmax()]!r}"
    np.testing.assert_allclose(stable.group_score(r, alpha, d), -r * omega, rtol=BOUNDS["omega"])


# --- what is known in closed form --------------------------------------------------------------------------------


@each_d
def test_multivariate_cauchy(d):
    r = np.geomspace(1e-8, 1e8, 100)
    np.testing.assert_allclose(stable.group_penalty(r, 1.0, d), (d + 1) / 2 * np.log1p(r * r), rtol=1e-13)
    np.testing.assert_allclose(stable.group_omega(r, 1.0, d), (d + 1) / (1 + r * r), rtol=1e-13)
    curvature = (d + 1) * (1 - r * r) / (1 + r * r) ** 2
    np.testing.assert_allclose(stable.group_curvature(r, 1.0, d), curvature, atol=1e-15 * d, rtol=1e-12)


@each_d
def test_gauss(d):
    r = np.geomspace(1e-8, 1e8, 100)
    np.testing.assert_allclose(stable.group_penalty(r, 2.0, d), r * r / 4, rtol=1e-15)
    for name, true in (("omega", 0.5), ("curvature", 0.5), ("score", -r / 2)):
        np.testing.assert_array_equal(FUNCTIONS[name](r, 2.0, d), true * np.ones_like(r))


@pytest.mark.parametrize("d", [1, 2, 5, 64])
def test_near_one_and_two_it_is_near_the_closed_forms(d):
    r = np.geomspace(0.01, 3, 40)
    for alpha, near in ((1.0, 1 + 1e-10), (1.0, 1 - 1e-10), (2.0, 2 - 1e-10)):
        np.testing.assert_allclose(stable.group_omega(r, near, d), stable.group_omega(r, alpha, d), rtol=2e-7)


@each_alpha
def test_one_weight_is_the_scalar_law(alpha):
    r = np.geomspace(1e-30, 1e30, 400)
    for name in ("score", "omega", "curvature"):
        np.testing.assert_array_equal(
            FUNCTIONS[name](r, alpha, 1, scale=0.3), getattr(stable, name)(r, alpha, scale=0.3)
        )
    penalty, difference = stable.group_penalty(r, alpha, 1), stable.logpdf(0.0, alpha) - stable.logpdf(r, alpha)
    np.testing.assert_allclose(penalty, difference, rtol=1e-12, atol=1e-12)
    small = penalty < 1e-30
    np.testing.assert_allclose(penalty[small], (r * stable.omega(r, alpha) * r / 2)[small], rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0, 1.3, 1.7])
@pytest.mark.parametrize("d", [2, 3])
def test_projections(alpha, d):
    """The scalar law is their margin: p_3 = -f'(r) / (2 pi r), so omega_1 = 2 pi p_3 / f; d = 2 as its projection."""
    r = np.geomspace(0.05, 20, 30) * crossover(alpha, 1)
    if d == 3:
        log_ratio = np.log(stable.omega(r, alpha) / stable.omega(0.0, alpha)) + stable.logpdf(r, alpha)
        np.testing.assert_allclose(stable.group_penalty(r, alpha, 3), stable.logpdf(0.0, alpha) - log_ratio, rtol=1e-9)
        return
    s = np.arange(-6, 6, 1 / 64)  # f(r) = 2 int_0^inf p_2(sqrt(r^2 + y^2)) dy, by a double-exponential rule
    y = np.exp(np.pi / 2 * np.sinh(s))
    weight = y * np.pi / 2 * np.cosh(s) / 64
    keep = (y < 1e100) & (y > 1e-100)
    y, weight = y[keep], weight[keep]
    density = np.exp(-stable.group_penalty(np.hypot(r[:, None], y), alpha, 2)) * gamma(2 / alpha) / (2 * np.pi * alpha)
    np.testing.assert_allclose(2 * density @ weight, stable.pdf(r, alpha), rtol=1e-9)


# --- limits --------------------------------------------------------------------------------------------------------


@each_alpha
@each_d
def test_omega_at_zero(alpha, d):
    log = gammaln((d + 2) / alpha) - gammaln(d / alpha) - np.log(d)
    lost = 2e-15 * abs(gammaln((d + 2) / alpha))
    assert np.log(stable.group_omega(0.0, alpha, d)) == pytest.approx(log, abs=1e-12 + lost)
    assert stable.group_curvature(0.0, alpha, d) == pytest.approx(stable.group_omega(0.0, alpha, d), rel=1e-14)
    assert stable.group_penalty(0.0, alpha, d) == 0 == stable.group_score(0.0, alpha, d)


def test_where_gamma_overflows():
    """Gamma((d + 2) / alpha) has three million digits here; its ratio by mpmath."""
    assert stable.group_omega(0.0, 0.1, 65536) == pytest.approx(3.2602026038964384e111, rel=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS[:-1])
@each_d
def test_tail(alpha, d):
    r = np.array([1e120, 1e150])
    np.testing.assert_allclose(stable.group_omega(r, alpha, d) * r * r, d + alpha, rtol=1e-9)
    np.testing.assert_allclose(-stable.group_curvature(r, alpha, d) * r * r, d + alpha, rtol=1e-9)
    r = np.array([1e120, 1e150, 1e300])
    np.testing.assert_allclose(-stable.group_score(r, alpha, d) * r, d + alpha, rtol=1e-9)
    np.testing.assert_allclose(np.diff(stable.group_penalty(r, alpha, d)), (d + alpha) * np.diff(np.log(r)), rtol=1e-9)


@each_alpha
@each_d
def test_extremes(alpha, d):
    tail = alpha < 2
    for scale in (1e-300, 1e-3, 1.0, 1e300):
        r = np.array([0.0, 5e-324, 1e-300, 1e-150, 1e-30, 1.0, 1e30, 1e150, 1e300, np.inf, np.nan])
        found = {name: f(r, alpha, d, scale=scale) for name, f in FUNCTIONS.items()}
        for name, value in found.items():
            assert np.isnan(value[-1]) and not np.isnan(value[:-1]).any(), name
        omega, penalty = found["omega"][:-1], found["penalty"][:-1]
        assert np.all(omega[1:] <= omega[:-1]) and np.all(omega >= 0)
        assert np.all(penalty[1:] >= penalty[:-1])
        assert found["penalty"][-2] == np.inf and found["omega"][-2] == (0 if tail else 0.5 / scale / scale)
        assert found["score"][-2] == 0 if tail else found["score"][-2] < 0


# --- identities ----------------------------------------------------------------------------------------------------


@each_alpha
@pytest.mark.parametrize("d", [1, 2, 3, 9, 64, 1000])
def test_next_dimension_but_one(alpha, d):
    """omega_d = 2 pi p_(d+2) / p_d, and so omega_d(r) / omega_d(0) = exp(R_d - R_(d+2))."""
    r = radii(alpha, d)
    gap = stable.group_penalty(r, alpha, d) - stable.group_penalty(r, alpha, d + 2)
    rounding = 1e-15 * stable.group_penalty(r, alpha, d + 2).max()
    share = stable.group_omega(r, alpha, d) / stable.group_omega(0.0, alpha, d)
    np.testing.assert_allclose(share, np.exp(gap), rtol=1e-11 + rounding)
    curvature = 1 + r * r * (stable.group_omega(r, alpha, d) - stable.group_omega(r, alpha, d + 2))
    np.testing.assert_allclose(
        stable.group_curvature(r, alpha, d) / stable.group_omega(r, alpha, d), curvature, atol=1e-11 * d
    )


@given(alphas, dimensions, st.floats(-2, 3))
def test_each_is_the_derivative_of_the_one_before(alpha, d, place):
    r = crossover(alpha, d) * 10**place
    h = r * 2.0**-9 / np.sqrt(d)
    at = r + h * np.array([-2, -1, 1, 2])
    weight = np.array([1, -8, 8, -1]) / 12 / h
    penalty, gradient = stable.group_penalty(at, alpha, d), -stable.group_score(at, alpha, d)
    lost = 1e-12 * np.abs(weight).max() * max(1.0, penalty.max() * 1e-3)
    score = -stable.group_score(r, alpha, d)
    assert weight @ penalty == pytest.approx(score, rel=1e-5, abs=lost)
    curvature = stable.group_curvature(r, alpha, d)
    assert weight @ gradient == pytest.approx(
        curvature, abs=1e-4 * (abs(curvature) + score / r) * max(1, (h / r) ** 4 * d**4)
    )


@given(alphas, dimensions, st.floats(-3, 3), st.floats(-9, 1))
def test_penalty_rises_and_omega_falls(alpha, d, place, step):
    r = crossover(alpha, d) * 10**place * np.array([1, 1 + 10**step])
    penalty, omega = stable.group_penalty(r, alpha, d), stable.group_omega(r, alpha, d)
    assert penalty[1] > penalty[0] * (1 - 1e-12) > 0
    assert 0 < omega[1] <= omega[0] * (1 + 1e-12)
    assert omega[0] <= stable.group_omega(0.0, alpha, d) * (1 + 1e-12)


@each_function
@each_alpha
def test_scale(alpha, function):
    r = radii(alpha, 9)
    unit = function(r, alpha, 9)
    power = {"penalty": 0, "score": 1, "omega": 2, "curvature": 2}[function.__name__.removeprefix("group_")]
    for scale in (0.01, 7.0):
        scaled = function(scale * r, alpha, 9, scale=scale)
        np.testing.assert_allclose(scaled * scale**power, unit, rtol=1e-11, atol=1e-13 * np.abs(unit).max())
        by_dispersion = function(scale * r, alpha, 9, dispersion=scale**alpha)
        np.testing.assert_allclose(by_dispersion, scaled, rtol=1e-10, atol=1e-12 * np.abs(scaled).max())


@each_function
def test_arrays_broadcast(function):
    r, alpha, scale = np.array([[0.0], [1.0], [2.0]]), np.array([0.5, 1.0, 1.3, 2.0]), np.array([1.0, 2.0, 3.0, 4.0])
    table = function(r, alpha, 5, scale=scale)
    assert table.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            one = function(r[i, 0], alpha[j], 5, scale=scale[j])
            assert np.ndim(one) == 0 and one == pytest.approx(table[i, j], rel=1e-13, abs=1e-300)
    assert function(np.empty((2, 0)), 0.5, 3).shape == (2, 0)
    assert function([1, 2], 0.5, np.int64(3)).dtype == np.float64
    long = function(np.full(70_000, 1.5), 0.5, 3)
    assert np.all(long == long[0])


# --- bad input -----------------------------------------------------------------------------------------------------


@each_function
def test_bad_input(function):
    for d in (0, -1, 65537, 10**30):
        with pytest.raises(ValueError, match=rf"d, .* must lie in \[1, 65536\]; got {d}"):
            function(1.0, 0.5, d)
    for d in (2.0, "two", None, [1, 2], np.array([1, 2])):
        with pytest.raises(TypeError, match=r"d, .* must be an integer; got"):
            function(1.0, 0.5, d)
    for r in (-1.0, [1.0, -1e-300], -np.inf):
        with pytest.raises(ValueError, match="r is the norm of a group and must not be negative; got -"):
            function(r, 0.5, 3)
    with pytest.raises(TypeError, match="r must be a real number"):
        function("far", 0.5, 3)
    for alpha in (0.05, 2.1, np.nan):
        with pytest.raises(ValueError, match=r"alpha must lie in \[0\.1, 2\]; got"):
            function(1.0, alpha, 3)
    with pytest.raises(ValueError, match="scale must be positive and finite; got"):
        function(1.0, 0.5, 3, scale=0.0)
    with pytest.raises(ValueError, match="either scale or dispersion, not both"):
        function(1.0, 0.5, 3, scale=1.0, dispersion=1.0)
    with pytest.raises(ValueError, match="do not broadcast"):
        function(np.ones(3), np.full(2, 0.5), 3)
