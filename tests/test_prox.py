"""The proximal map in NumPy against grids, the exact law, closed forms and its own definition."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from softdiamond import stable
from softdiamond.penalties.prox import critical_step, find_jump, gap, log_penalty_step, prox
from softdiamond.table import lookup_table

EPS = np.finfo(float).eps
BAD_STEPS = [-1.0, -1e-300, np.nan, np.inf, -np.inf]


@dataclass(frozen=True)
class Student:
    """Student's t in NumPy."""

    df: float

    def evaluate(self, x):
        n, square = self.df, x * x
        return (
            (n + 1) / 2 * np.log1p(square / n),
            (n + 1) * x / (n + square),
            (n + 1) * (n - square) / (n + square) ** 2,
        )


STABLE = [0.1, 0.3, 0.5, 1.0, 1.5, 1.95, 2.0]
STUDENT = [Student(0.5), Student(1.0), Student(4.0)]
BENT = [law for law in (*STABLE, *STUDENT) if law != 2.0]  # with a critical step
FACTORS = [1e-3, 0.3, 0.99, 1.05, 10.0, 1e5]  # steps, as multiples of the critical one

each_curve = pytest.mark.parametrize("curve", [*STABLE, *STUDENT], indirect=True, ids=str)
each_bent_curve = pytest.mark.parametrize("curve", BENT, indirect=True, ids=str)


@pytest.fixture
def curve(request):
    """An alpha's table, looked up only now, in the test's own cache."""
    return lookup_table(request.param) if isinstance(request.param, float) else request.param


def steps_of(curve, factors=FACTORS) -> np.ndarray:
    critical = critical_step(curve)
    return np.array(factors) * (critical if np.isfinite(critical) else 1.0)


def sizes(step, curve, rng, n) -> np.ndarray:
    """Values of both signs: some around the jump (or around the square root of the step), some over many decades."""
    jump = find_jump(step, curve)
    middle = jump.at if jump else np.sqrt(step)
    size = middle * np.where(rng.random(n) < 0.5, 10 ** rng.uniform(-6, 4, n), rng.uniform(0.5, 1.5, n))
    return size * rng.choice([-1, 1], n)


def objective(u, v, step, curve, scale=1.0):
    return (u - v) ** 2 / 2 + step * curve.evaluate(u / scale)[0]


# ---- the minimizer -----------------------------------------------------------------------------------------------------


@each_curve
def test_global_minimum_against_a_grid(curve, rng):
    """With a scale, by prox of s R(./c) at v = c times prox of (s / c^2) R at v / c."""
    share = np.concatenate([[0.0], np.geomspace(1e-40, 1, 300), np.linspace(1e-3, 1.2, 150)])
    for unit_step in steps_of(curve) * 10 ** rng.uniform(-0.04, 0.04, (1, 1)):
        for step in unit_step:
            scale = 10 ** rng.uniform(-3, 3)
            v = scale * sizes(step, curve, rng, 60)
            u = scale * prox(v / scale, step, curve)
            step_in_v = step * scale**2
            assert np.all(u * v >= 0)
            size, row = np.abs(v), np.arange(v.size)
            grid = size[:, None] * np.sort(share)
            for _ in range(4):  # the best cell, finer and finer
                depth = objective(grid, size[:, None], step_in_v, curve, scale)
                best = depth.argmin(axis=1)
                low, high = grid[row, np.maximum(best - 1, 0)], grid[row, np.minimum(best + 1, grid.shape[1] - 1)]
                grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 25)
            least = depth.min(axis=1)
            reached = objective(np.abs(u), size, step_in_v, curve, scale)
            unit = size**2 + step_in_v * np.maximum(1, curve.evaluate(u / scale)[0])
            assert np.all(reached <= least + 4 * EPS * unit), (step, scale)
            assert np.all(reached >= least - 1e-5 * unit), (step, scale)  # and the grid did see the valley


@each_curve
@pytest.mark.parametrize("factor", FACTORS)
def test_stationary(curve, factor, rng):
    (step,) = steps_of(curve, [factor])
    v = sizes(step, curve, rng, 300)
    u = prox(v, step, curve)
    assert np.all(np.abs(u + step * curve.evaluate(u)[1] - v) <= 8 * EPS * np.abs(v))


@each_curve
def test_odd_monotone_and_shrinking(curve, rng):
    for step in steps_of(curve, [0.1, 1.2, 1e5]):
        v = np.sort(np.abs(sizes(step, curve, rng, 500)))
        u = prox(v, step, curve)
        np.testing.assert_array_equal(prox(-v, step, curve), -u)
        assert np.all((u > 0) & (u < v))
        assert np.all(np.diff(u) >= -4 * EPS * u[1:])


@each_curve
def test_shrinks_more_at_a_larger_step(curve, rng):
    v = np.abs(sizes(float(steps_of(curve, [3.0])[0]), curve, rng, 500))
    results = [prox(v, step, curve) for step in steps_of(curve, [0.0, 0.1, 1.0, 3.0, 20.0])]
    for smaller, larger in zip(results[1:], results, strict=False):
        assert np.all(smaller < larger)


@each_curve
def test_special_values(curve):
    v = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    for step in steps_of(curve, [0.0, 0.5, 30.0]):
        u = prox(v, step, curve)
        np.testing.assert_array_equal(u, v)
        np.testing.assert_array_equal(np.signbit(u[1:]), np.signbit(v[1:]))
        tiny = prox([5e-324, -1e-310, 1e-300], step, curve)
        assert np.all(np.abs(tiny) <= [5e-324, 1e-310, 1e-300]) and tiny[1] <= 0 <= tiny[0]


@each_curve
def test_huge_values_are_hardly_shrunk(curve):
    """To first order by the gradient there (alpha = 2: in proportion)."""
    v = np.array([1e12, -1e30, 1e60])
    ratio = prox(v, 0.01, curve) / v
    expected = 1 / 1.005 if curve.evaluate(v)[0][0] > 1e6 else 1.0
    np.testing.assert_allclose(ratio, expected, rtol=1e-14)


@each_curve
def test_zero_step_is_the_identity(curve, rng):
    v = rng.standard_normal(500) * 10 ** rng.uniform(-30, 30, 500)
    np.testing.assert_array_equal(prox(v, 0.0, curve), v)
    assert find_jump(0.0, curve) is None


def test_shapes_and_arguments():
    curve = Student(1.0)
    v = np.array([[0.5, -9.0, 20.0], [1.0, np.nan, 0.0]])
    given = v.copy()
    u = prox(v, 10.0, curve)
    np.testing.assert_array_equal(v, given)
    assert u.dtype == np.float64 and u.shape == (2, 3)
    np.testing.assert_array_equal(prox(v.T, 10.0, curve), u.T)
    np.testing.assert_array_equal(prox(v[:, ::-2], 10, curve), u[:, ::-2])
    np.testing.assert_array_equal(prox(v.tolist(), 10.0, curve), u)
    np.testing.assert_array_equal(prox(v.astype(np.float32), np.float32(10), curve), u)
    assert prox(0.5, 10.0, curve) == u[0, 0] and np.shape(prox(0.5, 10.0, curve)) == ()
    assert prox(np.empty((0, 3)), 10.0, curve).shape == (0, 3)
    assert prox(3, 1.0, curve) == prox(3.0, 1.0, curve)


@pytest.mark.parametrize("step", [0.5, 3.9, 4.5, 10.0, 1e3])
@pytest.mark.parametrize(("curve", "rtol"), [(Student(1.0), 1e-12), (1.0, 1e-7)], indirect=["curve"])
def test_cauchy_against_the_roots_of_a_cubic(curve, rtol, step, rng):
    """(u - v)(1 + u^2) + 2 s u = 0."""
    v = np.abs(sizes(step, curve, rng, 300))
    expected = []
    for size in v:
        roots = np.roots([1, -size, 1 + 2 * step, -size])
        real = roots.real[np.abs(roots.imag) <= 1e-6 * np.abs(roots)]
        real = real - ((real - size) * (1 + real**2) + 2 * step * real) / (3 * real**2 - 2 * size * real + 1 + 2 * step)
        expected.append(real[np.argmin((real - size) ** 2 / 2 + step * np.log1p(real**2))])
    u = prox(v, step, curve)
    jump = find_jump(step, curve)
    clear = np.ones(v.size, bool) if jump is None else np.abs(v / jump.at - 1) > 1e-6
    assert clear.sum() > 250
    np.testing.assert_allclose(u[clear], np.array(expected)[clear], rtol=rtol)


# ---- the critical step and the jump ------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [0.05, 0.5, 1.0, 4.0, 30.0])
def test_critical_step_of_student(df):
    assert critical_step(Student(df)) == pytest.approx(8 * df / (df + 1), rel=1e-12)


def test_critical_steps_known():
    assert critical_step(lookup_table(1.0)) == pytest.approx(4, rel=1e-9)
    assert critical_step(lookup_table(0.5)) == pytest.approx(0.147, abs=6e-4)
    assert critical_step(lookup_table(2.0)) == np.inf
    assert find_jump(1e6, lookup_table(2.0)) is None


@pytest.mark.parametrize("curve", [law for law in STABLE if law < 2], indirect=True)
def test_critical_step_of_the_exact_law(curve):
    def exact_curvature(log_x):
        return float(stable.curvature(np.exp(log_x), curve.alpha))

    grid = np.linspace(-40, 5, 500)
    start = grid[np.argmin(stable.curvature(np.exp(grid), curve.alpha))]
    found = minimize_scalar(
        exact_curvature, bounds=(start - 0.1, start + 0.1), method="bounded", options={"xatol": 1e-9}
    )
    assert critical_step(curve) == pytest.approx(-1 / found.fun, rel=1e-7)


@each_bent_curve
def test_no_jump_up_to_the_critical_step(curve, rng):
    """There the map is Lipschitz, at the rate 1 / (1 - step / critical)."""
    for factor in (0.5, 0.99, 1.0):
        (step,) = steps_of(curve, [factor])
        assert find_jump(step, curve) is None
        v = np.sort(np.abs(sizes(step, curve, rng, 2000)))
        if factor < 1:
            assert np.all(np.diff(prox(v, step, curve)) <= np.diff(v) / (1 - factor) + 8 * EPS * v[1:] / (1 - factor))
    assert find_jump(steps_of(curve, [1.001])[0], curve) is not None


@pytest.mark.parametrize("factor", [1.001, 1.1, 1e5])
@each_bent_curve
def test_jump_is_where_the_map_jumps(curve, factor):
    (step,) = steps_of(curve, [factor])
    jump = find_jump(step, curve)
    assert 0 < jump.below < jump.inner < jump.outer < jump.above < jump.at
    near = 1e-9  # close to the critical step the map is steep beside the jump
    u = prox(jump.at * np.array([1 - near, 1 + near]), step, curve)
    np.testing.assert_allclose(u, [jump.below, jump.above], rtol=1e-4 if factor < 1.01 else 1e-6)
    assert prox(jump.at, step, curve) == pytest.approx(jump.above, rel=1e-12)  # the larger, as documented
    assert prox(-jump.at, step, curve) == -prox(jump.at, step, curve)
    u = prox(jump.at * (1 + np.linspace(-1, 1, 201) ** 3), step, curve)
    assert np.all((u <= jump.below * (1 + 4 * EPS)) | (u >= jump.above * (1 - 4 * EPS)))
    below = np.sum(u <= jump.inner)
    assert 98 < below < 103 and np.sum(u >= jump.outer) == u.size - below
    for edge in (jump.inner, jump.outer):  # h' vanishes: sign changes across the edge
        curvature = curve.evaluate(edge * np.array([1 - 1e-6, 1 + 1e-6]))[2]
        assert np.prod(1 + step * curvature) < 0


@pytest.mark.parametrize("step", [1e20, 1e100, 1e200, 1e290])
@pytest.mark.parametrize("curve", [law for law in STABLE if law < 2], indirect=True)
def test_both_minimizers_of_a_huge_step_are_stationary(curve, step):
    """The smaller one may lie a hundred orders of magnitude below the inner end of the bracket."""
    jump = find_jump(step, curve)
    assert 0 < jump.below < jump.inner < jump.outer < jump.above < jump.at
    for u in (jump.below, jump.above, *prox(jump.at * np.array([1e-3, 0.9, 0.999, 1.001, 2]), step, curve)):
        v = u + step * float(curve.evaluate(np.array([u]))[1][0])
        assert min(abs(v / jump.at / share - 1) for share in (1, 1e-3, 0.9, 0.999, 1.001, 2)) < 1e-12, u


@pytest.mark.parametrize("factor", [1.2, 3.0, 1e3, 1e6])
@pytest.mark.parametrize("curve", [law for law in STABLE if law < 2], indirect=True)
def test_jump_of_the_exact_law(curve, factor):
    """The three roots of h(u) = at on the exact law, and the outermost two equally deep."""
    (step,) = steps_of(curve, [factor])
    jump = find_jump(step, curve)

    def excess(u, v):
        return u - step * stable.score(u, curve.alpha) - v

    def valleys(v):
        grid = v * np.geomspace(1e-22, 1, 3000)
        turns = np.flatnonzero(np.diff(np.sign(excess(grid, v))))
        assert turns.size == 3
        u = np.array([brentq(excess, grid[k], grid[k + 1], args=(v,), xtol=1e-300, rtol=1e-14) for k in turns[[0, 2]]])
        return u, (u - v) ** 2 / 2 - step * stable.logpdf(u, curve.alpha)

    places, _ = valleys(jump.at)
    np.testing.assert_allclose([jump.below, jump.above], places, rtol=1e-7)
    lead = [float(np.diff(valleys(jump.at * (1 + shift))[1])[0]) for shift in (-1e-7, 1e-7)]  # outer minus inner
    assert lead[1] < 0 < lead[0]


@pytest.mark.parametrize("step", [1e-15, 1e20, 1e35, 1e45])
@pytest.mark.parametrize("curve", [0.1, 0.3, 1.0, Student(1.0)], indirect=True, ids=str)
def test_jump_at_extreme_steps(curve, step):
    """A scale c divides the step by c^2, and for alpha = 0.1 a dispersion of 0.01 is a scale of 1e-20."""
    jump = find_jump(step, curve)
    if jump is None:
        assert step <= critical_step(curve)
        return
    u, v = np.array([jump.below, jump.above]), jump.at
    np.testing.assert_allclose(u + step * curve.evaluate(u)[1], v, rtol=1e-12)
    depth = objective(u, v, step, curve)
    assert depth[0] == pytest.approx(depth[1], rel=1e-12)


# ---- the limit of scale 0 ----------------------------------------------------------------------------------------------


def test_log_penalty_step_formula(rng):
    v = rng.standard_normal(4000) * 10 ** rng.uniform(-2, 3, 4000)
    for step in (1e-4, 0.3, 1.0, 50.0):
        u = log_penalty_step(v, step)
        size = np.abs(v)
        kept = size > 2 * np.sqrt(step)
        assert 0 < kept.sum() < kept.size
        root = np.sqrt(np.maximum(v**2 - 4 * step, 0))
        np.testing.assert_allclose(u, np.where(kept, np.sign(v) * (size + root) / 2, 0), rtol=1e-9)
        np.testing.assert_allclose(u[kept] + step / u[kept], v[kept], rtol=1e-14)
        assert np.all(np.abs(u[kept]) >= np.sqrt(step) * (1 - EPS))


def test_log_penalty_step_special_values():
    v = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e200])
    for step in (0.0, 2.0):
        u = log_penalty_step(v, step)
        np.testing.assert_array_equal(u, v)
        np.testing.assert_array_equal(np.signbit(u[1:]), np.signbit(v[1:]))
    np.testing.assert_array_equal(log_penalty_step([2.0, -2.0], 1.0), [0.0, 0.0])  # not above 2 sqrt(s)
    assert log_penalty_step(np.nextafter(2, 3), 1.0) == pytest.approx(1.0, abs=1e-7)
    assert np.shape(log_penalty_step(3.0, 1.0)) == () and log_penalty_step(np.empty((0, 2)), 1.0).shape == (0, 2)
    np.testing.assert_array_equal(log_penalty_step([1e-3, 5.0], 0.0), [1e-3, 5.0])


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.5])
def test_log_penalty_step_is_the_limit_of_the_stationary_branch(alpha):
    """u + step R'(u / c) / c = v as c falls to 0, on the exact law."""
    step = 0.2
    s = step * (alpha + 1)
    for v in (2.2 * np.sqrt(s), 5.0, 400.0):
        limit = float(log_penalty_step(v, s))
        errors = []
        for tail in (1e-3, 1e-6, 1e-9):  # order of c^alpha, by which the law differs from its tail
            scale = tail ** (1 / alpha)

            def excess(u, v=v, scale=scale):
                return u - step * stable.score(u, alpha, scale=scale) - v

            errors.append(abs(brentq(excess, limit * 0.9 if v > 2 else np.sqrt(s), v, rtol=1e-14) - limit) / limit)
        assert errors[0] < 0.01 and errors[1] < errors[0] / 100 + 1e-13 and errors[2] < 1e-8, (v, errors)


# ---- bad input, imports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BAD_STEPS)
def test_bad_steps(step):
    message = "step must be finite and not negative; got"
    with pytest.raises(ValueError, match=message):
        prox([1.0], step, Student(1.0))
    with pytest.raises(ValueError, match=message):
        find_jump(step, Student(1.0))
    with pytest.raises(ValueError, match="s must be finite"):
        log_penalty_step([1.0], step)


def test_works_without_torch():
    program = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import softdiamond as sd
print(*sd.prox.prox([0.5, 9.41, 9.42], 10.0, sd.table.lookup_table(1.0)).round(3))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.024", "0.598", "6.344"]


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("factor", [0.9, 1.1, 3.0, 50.0])
def test_gap_is_what_brute_force_leaves_empty(alpha, factor):
    """Minimize on a fine grid for many v: no minimizer lies inside the band, and they reach both its ends."""
    scale, table = 0.02, lookup_table(alpha)
    step = factor * critical_step(table) * scale**2
    band = gap(alpha, scale, step)
    if factor < 1:
        assert band is None
        return
    low, high = band
    u = np.concatenate([[0.0], np.geomspace(low / 100, 3 * high, 6000)])
    penalty = table.evaluate(u / scale)[0]
    jump = find_jump(step / scale**2, table).at * scale
    tried = np.concatenate([np.linspace(0, 2.5 * high, 300), [jump * 0.9999, jump * 1.0001]])
    found = [u[np.argmin((u - v) ** 2 / 2 + step * penalty)] for v in tried]
    fine = 2e-3
    assert not any(low * (1 + fine) < each < high * (1 - fine) for each in found)
    assert found[-2] == pytest.approx(low, rel=0.02) and found[-1] == pytest.approx(high, rel=0.02)


def test_no_gap_for_ridge_and_bad_gaps():
    assert gap(2.0, 1.0, 1e6) is None
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="scale must be positive"):
            gap(0.5, scale, 1.0)
    for step in BAD_STEPS:
        with pytest.raises(ValueError, match="step_lambda must be finite"):
            gap(0.5, 1.0, step)
    with pytest.raises(ValueError, match="alpha"):
        gap(3.0, 1.0, 1.0)
