"""The look-up table against the exact law, at every exponent and every cell's border; its certificate, files and cache."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softdiamond import stable, table
from softdiamond.table import Table, _cache, _certificate, _file, _grid, _table, lookup_table

ALPHAS = [
    0.1, 0.12, 0.15, 0.3, 0.5, 0.8, 0.99, 1.0, 1 + 1e-9, 1.2, 1.5, 1.9, 1.999, 2 - 1e-6, 2 - 1e-12, 2 - 2.0**-52, 2.0,
]  # fmt: skip
GROUP_ALPHAS = [0.1, 0.3, 0.5, 0.9, 1.0, 1.01, 1.5, 1.9, 1.9999, 2.0]
DIMENSIONS = [2, 9, 64, 4096, 65536]
DTYPES = [np.float32, np.float64]
BOUND = {np.float32: 1e-6, np.float64: 1e-9}  # what the table promises
INTEGER = {np.float32: np.int32, np.float64: np.int64}

each_alpha = pytest.mark.parametrize("alpha", ALPHAS)
each_group_alpha = pytest.mark.parametrize("alpha", GROUP_ALPHAS)
each_d = pytest.mark.parametrize("d", DIMENSIONS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def built():
    """Tables of this file's tests, each built once."""
    tables: dict[tuple[float, int], Table] = {}

    def of(alpha: float, d: int = 1) -> Table:
        if (alpha, d) not in tables:
            tables[alpha, d] = Table.build(alpha, d)
        return tables[alpha, d]

    return of


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder (not made yet) and an empty memory, as in a fresh process."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SOFTDIAMOND_CACHE", str(folder))
    monkeypatch.setattr(_cache, "_memory", {})
    return folder / "tables"


# ---- what the results are measured with --------------------------------------------------------------------------------


def every_exponent(dtype, each: int, rng) -> np.ndarray:
    """Random mantissas and signs in every binade of the dtype, the subnormals included, and each binade's two ends."""
    mantissa = np.finfo(dtype).nmant
    exponent = np.arange(2 ** (np.finfo(dtype).bits - mantissa - 1) - 1)  # the last one is of inf and NaN
    fraction = rng.integers(0, 1 << mantissa, (exponent.size, each))
    fraction[:, :2] = 0, (1 << mantissa) - 1
    size = ((exponent[:, None] << mantissa) | fraction).astype(INTEGER[dtype]).view(dtype).ravel()
    return np.copysign(size, rng.choice([-1.0, 1.0], size.size)).astype(dtype)


def grid_of(lookup: Table, dtype) -> table.Grid:
    return lookup.single if dtype == np.float32 else lookup.double


def borders(lookup: Table, dtype) -> np.ndarray:
    """Where each cell begins, and where the last one ends (if that is a finite float)."""
    grid = grid_of(lookup, dtype)
    begins = np.flatnonzero(np.diff(grid.index, prepend=-1)) + grid.base
    starts = (begins << grid.shift).astype(INTEGER[dtype]).view(dtype)
    return np.append(starts, dtype(grid.high)) if grid.high <= float(np.finfo(dtype).max) else starts


def law(x: np.ndarray, alpha: float) -> dict[str, np.ndarray]:
    """The exact law in float64; the penalty's own size where the difference of two logarithms has lost it."""
    x = x.astype(np.float64)
    omega, curvature = stable.omega(x, alpha), stable.curvature(x, alpha)
    penalty = stable.logpdf(0.0, alpha) - stable.logpdf(x, alpha)
    with np.errstate(over="ignore"):
        penalty = np.where(penalty < 1e-11, x * omega * x / 2, penalty)
    return {"penalty": penalty, "score": stable.score(x, alpha), "omega": omega, "curvature": curvature}


def group_law(x: np.ndarray, lookup: Table) -> dict[str, np.ndarray]:
    """The exact law of a group in the table's unit of radius."""
    r, power = np.abs(x).astype(np.float64) * lookup.unit, {"penalty": 0, "score": 1, "omega": 2, "curvature": 2}
    laws = {name: getattr(stable, f"group_{name}")(r, lookup.alpha, lookup.d) for name in power}
    laws = {name: value * lookup.unit ** power[name] for name, value in laws.items()}
    return laws | {"score": np.copysign(laws["score"], -x)}


def unit_of(name: str, true: dict[str, np.ndarray]) -> np.ndarray:
    """The unit in which a result's error is counted."""
    if name == "penalty":
        return np.maximum(1.0, true["penalty"])
    return np.abs(true[name]) + (true["omega"] if name == "curvature" else 0.0)


def results(lookup: Table, x: np.ndarray) -> dict[str, np.ndarray]:
    found = {name: getattr(lookup, name)(x) for name in ("penalty", "score", "omega", "curvature")}
    for name, value in found.items():
        assert value.dtype == x.dtype and value.shape == x.shape, name
    return {name: value.astype(np.float64) for name, value in found.items()}


def errors(lookup: Table, x: np.ndarray) -> dict[str, tuple[float, float]]:
    """By result: the largest error where the true one is a normal float of x's dtype, and its place.

    A smaller one may be off by one unit of the smallest subnormal on top; where the true one overflows, so must the result.
    """
    true = law(x, lookup.alpha) if lookup.d == 1 else group_law(x, lookup)
    kind, found = np.finfo(x.dtype), results(lookup, x)
    tiny, huge, step = float(kind.tiny), float(kind.max), float(kind.smallest_subnormal)
    worst = {}
    for name, value in found.items():
        size, unit = np.abs(true[name]), unit_of(name, true)
        over = size > huge
        np.testing.assert_array_equal(value[over], np.copysign(np.inf, true[name][over]), err_msg=name)
        # the curvature may be small because it changes sign; it counts as a subnormal where its unit is small too
        under = (size < tiny) & ((unit < 4 * tiny) | (name == "penalty"))
        with np.errstate(all="ignore"):
            off = np.abs(value - true[name])
            bad = under & ~(off <= BOUND[x.dtype.type] * size + step)
            assert not bad.any(), f"{name} at {x[bad][0]!r}: {off[bad][0]!r} off {true[name][bad][0]!r}"
            error = np.where(under | over, 0.0, off / unit)
        error[np.isnan(error)] = np.inf  # a NaN, or infinity for a finite result
        worst[name] = float(error.max(initial=0.0)), float(x[error.argmax()])
    return worst


def assert_accurate(lookup: Table, x: np.ndarray) -> None:
    for name, (error, place) in errors(lookup, x).items():
        assert error <= BOUND[x.dtype.type], f"alpha = {lookup.alpha!r}: {name} at {place!r}"


# ---- accuracy ----------------------------------------------------------------------------------------------------------


@each_dtype
@each_alpha
def test_accuracy_at_every_exponent(alpha, dtype, built, rng):
    assert_accurate(built(alpha), every_exponent(dtype, 48 if dtype == np.float32 else 12, rng))


@each_dtype
@each_alpha
def test_accuracy_on_both_sides_of_every_border(alpha, dtype, built):
    at = borders(built(alpha), dtype)
    for x in (np.nextafter(at, dtype(0)), at, np.nextafter(at, dtype(np.inf))):
        assert_accurate(built(alpha), x)


@pytest.mark.parametrize("octave", [-13, -4, 1])  # where omega bends, the steepest cells, the shoulder
def test_every_mantissa_of_an_octave(octave, built):
    """float32 against float64, all 2^23 of them; float64 against the law at one in 128."""
    lookup = built(0.5)
    assert lookup.single.low <= 2.0**octave < lookup.double.high
    bits = np.arange(2**23, dtype=np.int32) | ((octave + 127) << 23)
    assert_accurate(lookup, bits[::128].view(np.float32).astype(np.float64))
    for part in bits.reshape(-1, 2**16):
        x = part.view(np.float32)
        penalty, gradient, curvature = lookup.evaluate(x)
        true = dict(zip(("penalty", "score", "curvature"), lookup.evaluate(x.astype(np.float64)), strict=True))
        true["omega"] = true["score"] / x
        found = {"penalty": penalty, "score": gradient, "curvature": curvature, "omega": lookup.omega(x)}
        for name, value in found.items():
            off = np.abs(value - true[name]) / unit_of(name, true)
            assert off.max() <= 1e-6 - 1e-9, f"{name} at {x[off.argmax()]!r}"


@each_dtype
@each_alpha
def test_zero_infinity_and_nan(alpha, dtype, built):
    omega_zero = {0.5: 120.0, 1.0: 2.0, 2.0: 0.5}.get(alpha, float(stable.omega(0.0, alpha)))
    for zero in (dtype(0.0), dtype(-0.0)):
        found = results(built(alpha), np.array([zero]))
        assert found["penalty"] == 0 and found["score"] == 0, found
        np.testing.assert_allclose([found["omega"], found["curvature"]], omega_zero, rtol=BOUND[dtype])
    gradient = built(alpha).evaluate(np.array([0.0, -0.0], dtype))[1]
    np.testing.assert_array_equal(np.signbit(gradient), [False, True])
    found = results(built(alpha), np.array([np.inf, -np.inf], dtype))
    np.testing.assert_array_equal(found["penalty"], np.inf)
    np.testing.assert_array_equal(found["score"], [-np.inf, np.inf] if alpha == 2 else 0.0)
    np.testing.assert_array_equal(found["omega"], 0.5 if alpha == 2 else 0.0)
    np.testing.assert_array_equal(found["curvature"], 0.5 if alpha == 2 else 0.0)
    for name, value in results(built(alpha), np.array([np.nan, -np.nan], dtype)).items():
        assert np.isnan(value).all(), name


# ---- penalty, gradient and curvature as one function and its derivatives -----------------------------------------------


@each_alpha
def test_each_is_the_derivative_of_the_one_before(alpha, built, rng):
    """Five-point differences in float64; x and the steps are short binary fractions, so x + k h is exact."""
    octave = 2.0 ** rng.integers(-60, 60, 4000)
    x = octave * (1 + rng.integers(0, 2**20, octave.size) / 2**20)
    h = octave * 2.0**-11
    stencil = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
    penalty_slope, gradient_slope = np.zeros_like(x), np.zeros_like(x)
    for k, weight in stencil.items():
        penalty, gradient, _ = built(alpha).evaluate(x + k * h)
        penalty_slope += weight * penalty / h
        gradient_slope += weight * gradient / h
    _, gradient, curvature = built(alpha).evaluate(x)
    lost = 1e-16 * np.maximum(1, built(alpha).penalty(x)) / h  # to rounding in the penalty's sum
    near = np.abs(penalty_slope - gradient) <= 1e-8 * gradient + 10 * lost
    assert near.all(), x[~near]
    near = np.abs(gradient_slope - curvature) <= 1e-7 * (np.abs(curvature) + gradient / x)
    assert near.all(), x[~near]


@each_dtype
@each_alpha
def test_no_jump_at_a_border(alpha, dtype, built):
    """Cells meet in R, R' and R''; so do the cells with what continues them below and above."""
    lookup, at = built(alpha), borders(built(alpha), dtype)
    before = np.nextafter(at, dtype(0))
    found, found_before, true, true_before = (
        results(lookup, at),
        results(lookup, before),
        law(at, alpha),
        law(before, alpha),
    )
    bound = {np.float32: 4e-7, np.float64: 1e-10}[dtype]
    for name in ("penalty", "score", "curvature"):
        with np.errstate(invalid="ignore"):
            jump = np.abs((found[name] - found_before[name]) - (true[name] - true_before[name])) / unit_of(name, true)
        normal = (unit_of(name, true) >= np.finfo(dtype).tiny) & (np.abs(true[name]) <= float(np.finfo(dtype).max))
        jump = np.where(normal, np.where(np.isnan(jump), np.inf, jump), 0)
        assert jump.max() <= bound, f"{name} at {at[jump.argmax()]!r}"


@each_dtype
@each_alpha
def test_penalty_rises_and_omega_falls(alpha, dtype, built, rng):
    x = np.abs(np.concatenate([every_exponent(dtype, 12, rng), borders(built(alpha), dtype)]))
    x = np.unique(x)
    penalty, omega = built(alpha).penalty(x), built(alpha).omega(x)
    rounding = {np.float32: 6 * 2.0**-24, np.float64: 2e-12}[dtype]  # float64: the cells' sum meets the tail series
    assert np.all(penalty[1:] >= penalty[:-1] * (1 - rounding))
    highest = np.minimum.accumulate(omega)[:-1]
    assert np.all(omega > 0) or alpha < 2, "0 only where (alpha + 1) / x^2 underflows"
    assert np.all(omega[1:] <= highest * (1 + BOUND[dtype] / 2))


@each_dtype
def test_even_and_odd(dtype, built, rng):
    x = np.abs(every_exponent(dtype, 8, rng))
    right, left = built(0.7).evaluate(x), built(0.7).evaluate(-x)
    for sign, a, b in zip((1, -1, 1), right, left, strict=True):
        np.testing.assert_array_equal(sign * a, b)


@each_dtype
def test_closed_forms(dtype, built, rng):
    """Cauchy: log(1 + x^2), 2 x / (1 + x^2), 2 (1 - x^2) / (1 + x^2)^2. Gauss: x^2 / 4, x / 2, 1/2."""
    x = rng.uniform(-30, 30, 2000).astype(dtype)
    wide = x.astype(np.float64)
    u = 1 + wide**2
    cauchy = np.log(u), 2 * wide / u, 2 * (2 - u) / u**2
    gauss = wide**2 / 4, wide / 2, np.full_like(wide, 0.5)
    for alpha, forms in ((1.0, cauchy), (2.0, gauss)):
        for value, form in zip(built(alpha).evaluate(x), forms, strict=True):
            np.testing.assert_allclose(value, form, rtol=2 * BOUND[dtype], atol=BOUND[dtype] / 3)


@each_dtype
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 5)])
def test_shapes(shape, dtype, built, rng):
    x = rng.standard_normal(shape).astype(dtype)
    for value in (*built(1.2).evaluate(x), built(1.2).score(x), built(1.2).omega(x), built(1.2).penalty(x)):
        assert np.shape(value) == shape and value.dtype == dtype


@each_dtype
def test_strided_input_is_read_right_and_left_alone(dtype, built, rng):
    x = rng.standard_normal((40, 30)).astype(dtype)
    before = x.copy()
    for view in (x.T, x[::3, ::-2], np.asfortranarray(x), np.broadcast_to(x[:1], (4, 30))):
        for a, b in zip(built(0.5).evaluate(view), built(0.5).evaluate(view.copy()), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(x, before)


# ---- certificate and size ----------------------------------------------------------------------------------------------


@each_dtype
@each_alpha
def test_certificate_is_honest(alpha, dtype, built, rng):
    """Another 96 points in each octave find no error far above the certified one."""
    certified = built(alpha).certificate[np.dtype(dtype).name]
    assert certified["points"] >= 300
    found = errors(built(alpha), every_exponent(dtype, 96 if dtype == np.float32 else 24, rng))
    for name in ("penalty", "omega", "curvature"):
        error, place = found[name]
        assert (certified[name] > 0 or alpha == 2) and certified[name] <= BOUND[dtype], name  # x / 2 may be exact
        assert error <= 2.5 * certified[name] + np.finfo(dtype).eps / 2, (
            f"{name} at {place!r}: certified {certified[name]:.1e}"
        )


def test_a_table_that_misses_its_tolerance_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(_grid, "_DEEPEST", 2)
    with pytest.raises(RuntimeError, match=r"alpha = 1\.5 misses its tolerance"):
        Table.build(1.5)


def test_any_alpha_builds_within_its_tolerance_and_size():
    rng = np.random.default_rng(3)
    near = 10.0 ** -np.arange(1, 16)
    for alpha in [*rng.uniform(0.1, 2, 40), *(1 - near), *(1 + near), *(2 - near), *(0.1 + near[1:] / 10)]:
        lookup = Table.build(alpha)
        assert lookup.alpha == alpha
        assert lookup.nbytes < 256 * 1024, alpha
        for dtype in DTYPES:
            measured = lookup.certificate[np.dtype(dtype).name]
            assert max(measured[name] for name in ("penalty", "omega", "curvature")) <= BOUND[dtype], alpha


@each_alpha
def test_nbytes_counts_every_array(alpha, built):
    lookup = built(alpha)
    arrays = [lookup.tail]
    for grid in (lookup.single, lookup.double):
        arrays += [value for value in vars(grid).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 5
    assert lookup.nbytes == sum(array.nbytes for array in arrays) < 256 * 1024


@each_dtype
@each_alpha
def test_cells_are_numbered_in_order(alpha, dtype, built):
    grid = grid_of(built(alpha), dtype)
    assert grid.rows.dtype == dtype
    np.testing.assert_array_equal(np.unique(grid.index), np.arange(len(grid.rows)))
    assert np.all(np.diff(grid.index) >= 0)
    ends = np.array([grid.base, grid.base + grid.index.size]) << grid.shift
    low, high = ends.astype(INTEGER[dtype]).view(dtype).astype(np.float64)
    assert low == grid.low and high == (np.inf if grid.high > float(np.finfo(dtype).max) else grid.high)
    mantissa, _ = np.frexp(borders(built(alpha), dtype)[: len(grid.rows)].astype(np.float64))
    assert np.all(grid.rows[:, 0] > 2 * mantissa), "a center lies above its cell's beginning"


def test_prints_its_certificate(built):
    text = str(built(0.5))
    assert "alpha = 0.5" in text and "KiB" in text
    for dtype in ("float32", "float64"):
        assert dtype in text and f"omega {built(0.5).certificate[dtype]['omega']:.1e}" in text


def test_building_twice_gives_the_same_bits():
    assert_same(Table.build(0.77), Table.build(0.77))


# ---- groups ------------------------------------------------------------------------------------------------------------


@each_d
@each_group_alpha
def test_group_table_is_accurate(alpha, d, built, rng):
    """At every exponent within the cells and eight beyond, at every border, and as certified."""
    lookup = built(alpha, d)
    assert (lookup.alpha, lookup.d) == (alpha, d)
    for dtype in DTYPES:
        grid = grid_of(lookup, dtype)
        x = every_exponent(dtype, 4, rng)
        ends = max(grid.low / 256, 1e-100), min(grid.high, 1e20) * 256
        near = x[(np.abs(x) > ends[0]) & (np.abs(x) < ends[1])]
        near = rng.choice(near, 1500, replace=False) if near.size > 1500 else near
        at = borders(lookup, dtype)
        at = at[:: 1 + at.size // 300]
        for points in (near, at, np.nextafter(at, dtype(0))):
            assert_accurate(lookup, points)
        certified = lookup.certificate[np.dtype(dtype).name]
        assert certified["points"] >= 100
        for name, (error, place) in errors(lookup, near).items():
            if name != "score":
                assert certified[name] <= BOUND[dtype]
                assert error <= 4 * certified[name] + 1e-11 + np.finfo(dtype).eps, f"{name} at {place!r}"


@each_d
@each_group_alpha
def test_group_table_is_whole(alpha, d, built, rng):
    """Zero, infinity and NaN; R rises, omega falls; each is the derivative of the one before."""
    lookup = built(alpha, d)
    omega_zero = float(stable.group_omega(0.0, alpha, d)) * lookup.unit**2
    for dtype in DTYPES:
        penalty, gradient, curvature = lookup.evaluate(np.array([0.0, np.inf, np.nan], dtype))
        assert penalty[0] == gradient[0] == 0 and curvature[0] == pytest.approx(omega_zero, rel=BOUND[dtype])
        assert penalty[1] == np.inf and (gradient[1] == 0) == (alpha < 2) and np.isnan(penalty[2])
        assert lookup.omega(np.array([0.0], dtype))[0] == pytest.approx(omega_zero, rel=BOUND[dtype])
        x = np.unique(np.abs(np.concatenate([every_exponent(dtype, 4, rng), borders(lookup, dtype)])))
        penalty, omega = lookup.penalty(x), lookup.omega(x)
        rounding = {np.float32: 6 * 2.0**-24, np.float64: 1e-11}[dtype]
        assert np.all(penalty[1:] >= penalty[:-1] * (1 - rounding))
        assert np.all(omega[1:] <= np.minimum.accumulate(omega)[:-1] * (1 + BOUND[dtype] / 2))
    x = 2.0 ** rng.uniform(-8, 8, 400)
    h = 2.0**-13 * x / np.sqrt(d)
    high, low = lookup.evaluate(x + h), lookup.evaluate(x - h)
    wide = (x + h) - (x - h)
    penalty, gradient, curvature = lookup.evaluate(x)
    lost = 4e-16 * np.maximum(1, penalty) / h
    np.testing.assert_array_less(np.abs((high[0] - low[0]) / wide - gradient), 1e-4 * gradient + lost)
    scale = np.abs(curvature) + gradient / x
    np.testing.assert_array_less(np.abs((high[1] - low[1]) / wide - curvature), 2e-3 * scale)


@pytest.mark.parametrize(("alpha", "d"), [(2 - 1e-9, 65536), (2 - 2.0**-52, 65536), (2 - 2.0**-52, 3), (0.1, 30000)])
def test_group_table_at_the_edge(alpha, d):
    lookup = Table.build(alpha, d)
    assert lookup.nbytes < 3 * 2**20


@each_d
def test_group_table_of_cauchy(d, built):
    lookup, x = built(1.0, d), np.geomspace(1e-3, 1e6, 200)
    penalty, gradient, _curvature = lookup.evaluate(x)
    r = x * lookup.unit
    np.testing.assert_allclose(penalty, (d + 1) / 2 * np.log1p(r * r), rtol=2e-9)
    np.testing.assert_allclose(gradient, (d + 1) * r / (1 + r * r) * lookup.unit, rtol=1e-9)


def test_crossover_and_unit(built):
    assert built(0.5).crossover == pytest.approx(np.sqrt(1.5 / 120)) and built(0.5).unit == 1
    assert built(0.5, 64).crossover == pytest.approx(0.0038314, rel=1e-4)
    assert built(1.0, 9).crossover == pytest.approx(1, rel=1e-12)
    assert built(2.0).crossover == built(2.0, 9).crossover == np.inf
    for d in DIMENSIONS:
        lookup = built(0.1, d)
        assert 0.7 < lookup.crossover / lookup.unit < 1.5 and np.frexp(lookup.unit)[0] == 0.5
        omega = float(stable.group_omega(0.0, 0.1, d))
        assert lookup.crossover == pytest.approx(np.sqrt((d + 0.1) / omega), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.9, 2.0])
def test_group_round_trip(alpha, built, tmp_path):
    built(alpha, 9).save(tmp_path / "t.npz")
    assert_same(Table.load(tmp_path / "t.npz"), built(alpha, 9))


def test_cache_keeps_groups_apart(cache, monkeypatch):
    builds = count_builds(monkeypatch)
    tables = [lookup_table(0.5, d) for d in (1, 2, 9)]
    assert lookup_table(0.5) is tables[0] and lookup_table(0.5, np.int64(9)) is tables[2]
    assert [lookup.d for lookup in tables] == [1, 2, 9] and len(os.listdir(cache)) == 3
    monkeypatch.setattr(_cache, "_memory", {})
    for lookup in tables:
        assert_same(lookup_table(0.5, lookup.d), lookup)
    assert len(builds) == 3
    Table.build(0.5, 3).save(next(path for path in cache.iterdir() if "-d-9-" in path.name))
    monkeypatch.setattr(_cache, "_memory", {})
    with pytest.warns(RuntimeWarning, match=r"rebuilt: .* is the table of alpha = 0\.5, d = 3"):
        assert_same(lookup_table(0.5, 9), tables[2])


@pytest.mark.parametrize("make", [lookup_table, Table.build], ids=["lookup_table", "build"])
def test_bad_d(make):
    for d in (0, -3, 65537):
        with pytest.raises(ValueError, match=rf"d, .* must lie in \[1, 65536\]; got {d}"):
            make(0.5, d)
    for d in (2.0, None, "nine"):
        with pytest.raises(TypeError, match=r"d, .* must be an integer; got"):
            make(0.5, d)


@each_dtype
@pytest.mark.parametrize("d", [1, 2, 64, 65536])
@each_group_alpha
def test_torch_reads_the_same_table(alpha, d, dtype, built, rng):
    """`softdiamond.table.torch_reader` against the table and the law, its second derivative, and beyond the cells."""
    torch = pytest.importorskip("torch")
    from softdiamond.table import torch_reader

    lookup = built(alpha, d)
    x = np.sort(np.concatenate([[0.0], 2.0 ** rng.uniform(-40, 40, 500)])).astype(dtype)
    at = torch.tensor(x, requires_grad=True)
    cells = torch_reader.convert(lookup, at.dtype, at.device)
    coarse, fine = torch_reader.penalty_of(at, cells)
    (gradient,) = torch.autograd.grad((coarse + fine).sum(), at, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), at)
    found = coarse.detach().double() + fine.detach().double(), gradient.detach(), curvature
    scale = lookup.curvature(x.astype(np.float64)), lookup.omega(x.astype(np.float64))
    bound = {np.float32: 2e-6, np.float64: 1e-12 * max(1.0, d / 100)}[dtype]
    for name, value, true in zip(["R", "g", "c"], found, lookup.evaluate(x.astype(np.float64)), strict=True):
        size = {"R": np.maximum(1, true), "g": np.abs(true), "c": np.abs(scale[0]) + scale[1]}[name]
        off = np.abs(value.numpy().astype(np.float64) - true)
        assert np.all(off <= bound * size + np.finfo(dtype).smallest_subnormal), f"{name} at {x[(off / size).argmax()]}"


# ---- every reader takes degree and layout from the table ----------------------------------------------------------------


def readings(lookup: Table, x: np.ndarray) -> dict[str, tuple]:
    """Penalty, gradient and curvature at x > 0 by each reader."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("numba")
    from softdiamond.table import array_reader, numba_reader, torch_reader

    cells = torch_reader.convert(lookup, torch.from_numpy(x).dtype, torch.device("cpu"))
    at = torch.from_numpy(x).requires_grad_()
    coarse, fine = torch_reader.penalty_of(at, cells)
    gradient = torch_reader.gradient_of(at, cells)
    (curvature,) = torch.autograd.grad(gradient.sum(), at)
    found = {"torch": ((coarse + fine).detach().numpy(), gradient.detach().numpy(), curvature.numpy())}
    found["arrays"] = array_reader.evaluate(np, x, array_reader.convert(lookup, x.dtype.name))
    if x.dtype == np.float64:
        own = numba_reader.convert(lookup)
        read = numba_reader.values, numba_reader.gradients, numba_reader.curvatures
        found["numba"] = tuple(function(x, 1.0, own) for function in read)
    return found


@pytest.mark.parametrize("nodes", [2, 4, 5, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_reader_takes_the_degree_from_the_table(nodes, dtype, monkeypatch):
    """Compiled code that had the degree of 5 nodes written in read a table of 4 with slopes that were off by 1.2e-8."""
    ends = np.polynomial.Legendre.basis(nodes - 1).deriv().roots() if nodes > 2 else []
    monkeypatch.setattr(_grid, "_NODES", dict.fromkeys(["float32", "float64"], np.array([-1.0, *ends, 1.0])))
    monkeypatch.setattr(_certificate, "TOLERANCE", {"float32": 1e-5, "float64": 1e-5})  # two nodes are not exact
    lookup = Table.build(0.5)
    assert lookup.grid(dtype).degree == 2 * nodes - 1
    x = np.concatenate([2.0 ** np.linspace(-30, 30, 301), [2.0**-62, 2.0**60]]).astype(dtype)
    true = lookup.evaluate(x)
    scale = np.maximum(1, true[0]), true[1], np.abs(true[2]) + true[1] / x
    for reader, found in readings(lookup, x).items():
        for name, value, expected, size in zip(["R", "R'", "R''"], found, true, scale, strict=True):
            error = (np.abs(np.asarray(value) - expected) / size).max()
            assert error < (1e-6 if dtype == "float32" else 1e-13), (reader, name, error)


def broken(grid: table.Grid) -> dict[str, table.Grid]:
    """Grids that no reader could read."""
    return {
        "coefficients": {"rows": grid.rows[:, :4]},
        "float32 or float64": {"rows": grid.rows.astype(np.float16)},
        "octave": {"index": grid.index[:-1]},
        "first octave": {"base": grid.base + 1},
        "index of rows": {"rows": grid.rows[:-1]},
    }


@pytest.mark.parametrize("what", ["coefficients", "float32 or float64", "octave", "first octave", "index of rows"])
def test_a_grid_of_another_layout_is_refused(what, built, tmp_path):
    good = built(1.0)
    for grid in (good.single, good.double):
        with pytest.raises(ValueError, match=what):
            replace(grid, **broken(grid)[what])


@pytest.mark.parametrize("reader", ["array_reader", "numba_reader"])
def test_readers_of_one_weight_refuse_the_table_of_a_group(reader, built):
    module = pytest.importorskip(f"softdiamond.table.{reader}")
    arguments = ["float64"] if reader == "array_reader" else []
    with pytest.raises(ValueError, match="d = 2"):
        module.convert(built(1.0, 2), *arguments)


# ---- files -------------------------------------------------------------------------------------------------------------


def content(lookup: Table) -> dict[str, object]:
    """All that a table holds, arrays as (dtype, shape, bytes)."""
    flat: dict[str, object] = {}
    for name, value in vars(lookup).items():
        parts = vars(value) if isinstance(value, table.Grid) else {"": value}
        for part, item in parts.items():
            flat[f"{name} {part}"] = (
                (item.dtype, item.shape, item.tobytes()) if isinstance(item, np.ndarray) else (type(item), item)
            )
    flat.pop("nbytes ", None)  # cached when first asked for
    return flat


def assert_same(a: Table, b: Table) -> None:
    assert content(a) == content(b)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_round_trip(alpha, built, tmp_path):
    path = tmp_path / "a table.npz"
    built(alpha).save(path)
    assert_same(Table.load(path), built(alpha))
    built(alpha).save(str(path))  # over the old one, and by name
    assert_same(Table.load(str(path)), built(alpha))
    assert os.listdir(tmp_path) == ["a table.npz"]


SAVED = {  # penalty, gradient and curvature in float64 of tables that an earlier version wrote, as that version read them
    "table_alpha_0.9.npz": (
        [0.0, 1.4668729694188487e-06, 0.12164869740268963, 1.729453149656453, 7.54374710219789, 87.60047362413431],
        [
            0.0,
            0.002933743051545863,
            0.7495207935106236,
            -0.7541249392382896,
            0.037833365688574816,
            1.9000000000000002e-20,
        ],
        [
            2.9337488261337263,
            2.9337315023949837,
            1.7677170811202594,
            -0.2547460755613799,
            -0.0007532857957530356,
            -1.9e-40,
        ],
    ),
    "table_alpha_1.5_d_3.npz": (
        [0.0, 1.8521054072521603e-06, 0.16470036577461716, 4.4328855304571935, 19.458292885591856, 209.0919555618086],
        [0.0, 0.003704210321758434, 1.084785947497283, -2.4785321580264936, 0.09015327514302292, 4.5e-20],
        [
            3.704211307250217,
            3.7042083507748718,
            3.440343073035968,
            -1.000163408308706,
            -0.0018076661157276064,
            -4.5e-40,
        ],
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_table_saved_earlier_loads_with_the_same_values(name):
    loaded = Table.load(Path(__file__).parent / "saved" / name)
    x = np.array([0, 1e-3, 0.3, -2, 50, 1e20])
    for values, wanted in zip(loaded.evaluate(x), SAVED[name], strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-14)
    for values, wanted in zip(loaded.evaluate(x[:-1].astype(np.float32)), SAVED[name], strict=True):
        np.testing.assert_allclose(values, wanted[:-1], rtol=1e-6)
    head, _ = _file.read(Path(__file__).parent / "saved" / name)
    assert loaded.certificate == head["certificate"], "and with the errors that were measured then"


def test_file_has_no_pickle(built, tmp_path):
    path = tmp_path / "t.npz"
    built(0.5).save(path)
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    assert all(array.dtype != object for array in stored.values())
    head = json.loads(str(stored["head"]))
    assert head["alpha"] == 0.5 and head["builder"] == _table.BUILDER and head["rule"] == _table.RULE
    assert head["certificate"] == built(0.5).certificate


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        Table.load(tmp_path / "nowhere.npz")


def load_fails(path: Path) -> str:
    """What the one ValueError says; it names the file, and nothing else is warned about."""
    with pytest.raises(ValueError, match="not a usable look-up table") as caught:
        Table.load(path)
    assert str(path) in str(caught.value)
    assert "pickle" not in str(caught.value).replace(str(path), ""), "advice to load what may run code"
    return str(caught.value)


def other_npz(file):
    np.savez(file, weights=np.arange(3))


FOREIGN = {
    "empty": lambda file: None,
    "text": lambda file: file.write(b"alpha = 0.5\n"),
    "another npz": other_npz,
    "npy": lambda file: np.save(file, np.arange(3)),
    "pickle": lambda file: pickle.dump({"alpha": 0.5}, file),
    "zip magic only": lambda file: file.write(b"PK\x03\x04"),
    "npz of objects": lambda file: np.savez(file, head=np.array({}, dtype=object), checksum=np.array("")),
    "npz of objects beside a head": lambda file: np.savez(file, head="{}", checksum="", tail=np.array([{}])),
    "random bytes": lambda file: file.write(np.random.default_rng(1).bytes(5000)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file(kind, tmp_path):
    path = tmp_path / "foreign.npz"
    with path.open("wb") as file:
        FOREIGN[kind](file)
    load_fails(path)


def test_truncated_file(built, tmp_path):
    path = tmp_path / "t.npz"
    built(0.5).save(path)
    whole = path.read_bytes()
    for length in [1, 10, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1000, len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        load_fails(path)


def test_a_flipped_byte(built, tmp_path, rng):
    """In an array's bytes it is an error; in a field of the zip that says nothing (a date) the table is still the same."""
    path = tmp_path / "t.npz"
    built(0.5).save(path)
    whole = path.read_bytes()
    rows = whole.find(built(0.5).single.rows.tobytes()[:64])
    assert rows > 0, "the arrays are stored as they are"
    inside = [rows, rows + 1, rows + built(0.5).single.rows.nbytes - 1]
    anywhere = [*range(300), *range(len(whole) - 700, len(whole)), *rng.integers(0, len(whole), 200)]
    refused = 0
    for place in [*inside, *anywhere]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            loaded = Table.load(path)
        except ValueError as error:
            message = str(error)
            refused += 1
        else:
            assert place not in inside, place
            assert_same(loaded, built(0.5))
            continue
        assert str(path) in message and "not a usable look-up table" in message, place
    assert refused > len(anywhere) / 2


def resave(path: Path, **changed: np.ndarray) -> None:
    """The same file with some of its arrays changed and the checksum left as it was."""
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    np.savez(path, **(stored | changed))


def test_checksum_covers_head_and_arrays(built, tmp_path):
    path = tmp_path / "t.npz"
    for name in ("head", "tail", "single_rows", "single_index", "double_rows", "double_index"):
        built(0.5).save(path)
        with np.load(path) as file:
            value = file[name]
        changed = np.array(str(value).replace("0.5", "0.6", 1)) if name == "head" else value.copy()
        if name != "head":
            changed.flat[-1] = np.nextafter(changed.flat[-1], 9) if changed.dtype.kind == "f" else changed.flat[-1] + 1
        resave(path, **{name: changed})
        assert "checksum" in load_fails(path), name
    built(0.5).save(path)
    resave(path, tail=built(0.5).tail.reshape(3, 4))
    assert "checksum" in load_fails(path)


def test_file_of_another_builder(built, tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    with monkeypatch.context() as patch:
        patch.setattr(_table, "BUILDER", _table.BUILDER + 1)
        built(0.5).save(path)
    assert f"builder {_table.BUILDER + 1}" in load_fails(path)


def test_failing_save_leaves_the_old_file(built, tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    built(0.5).save(path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    for place, name in ((np, "savez"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(OSError, match="disk full"):
                built(1.0).save(path)
        assert os.listdir(tmp_path) == ["t.npz"], name
        assert_same(Table.load(path), built(0.5))


def test_save_without_a_folder(built, tmp_path):
    with pytest.raises(FileNotFoundError):
        built(0.5).save(tmp_path / "no folder" / "t.npz")


def test_a_reader_never_sees_half_a_file(built, tmp_path):
    """While one thread saves over and over, every load succeeds."""
    path, stop = tmp_path / "t.npz", threading.Event()
    built(0.5).save(path)

    def write():
        while not stop.is_set():
            built(0.5).save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            assert Table.load(path).alpha == 0.5
    finally:
        stop.set()
        writer.join()


# ---- cache -------------------------------------------------------------------------------------------------------------


def count_builds(monkeypatch) -> list[float]:
    built, build = [], Table.build

    def counted(alpha, d=1):
        built.append(alpha)
        return build(alpha, d)

    monkeypatch.setattr(Table, "build", counted)
    return built


def test_memory_and_disk(cache, monkeypatch):
    builds = count_builds(monkeypatch)
    first = lookup_table(1.0)
    for same in (1, 1.0, np.float64(1.0), np.float32(1.0), np.array(1.0)):
        assert lookup_table(same) is first
    monkeypatch.setattr(_cache, "_memory", {})
    again = lookup_table(1.0)
    assert again is not first
    assert_same(again, first)
    assert builds == [1.0], "the second came from the disk"
    lookup_table(1 + 2.0**-52)
    assert len(builds) == 2, "neighbouring floats are two alphas"
    assert len(os.listdir(cache)) == 2


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_off_writes_nothing(word, cache, monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.setenv("SOFTDIAMOND_CACHE", word)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: pytest.fail("asked for the user's folder"))
    monkeypatch.chdir(tmp_path)
    builds = count_builds(monkeypatch)
    assert lookup_table(0.9) is lookup_table(0.9)
    assert builds == [0.9]
    assert os.listdir(tmp_path) == []


def test_default_folder_is_the_users(cache, monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.delenv("SOFTDIAMOND_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    lookup_table(0.9)
    (path,) = (tmp_path / "softdiamond").rglob("*.npz")
    assert Table.load(path).alpha == 0.9
    assert not cache.exists()


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def damage_flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_text(path: Path) -> None:
    path.write_text("not a table")


def damage_alpha(path: Path) -> None:
    Table.build(1.3).save(path)


def damage_rows(path: Path) -> None:
    """A table that is wrong and yet whole, with the right checksum, as a builder of another layout would leave it."""
    whole = Table.load(path)
    rows = np.delete(whole.single.rows, 1, axis=1)
    replace(whole, single=replace(whole.single, rows=rows)).save(path)


def damage_npz(path: Path) -> None:
    np.savez(path, head=np.array("{}"), checksum=np.array(""))


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_flip, damage_empty, damage_text, damage_alpha, damage_rows, damage_npz],
    ids=lambda f: f.__name__,
)
def test_bad_cache_file_is_rebuilt_with_one_warning(damage, cache, monkeypatch):
    good = lookup_table(0.9)
    (path,) = cache.iterdir()
    damage(path)
    monkeypatch.setattr(_cache, "_memory", {})
    with pytest.warns(RuntimeWarning, match="rebuilt") as caught:
        assert_same(lookup_table(0.9), good)
    assert len(caught) == 1 and str(path) in str(caught[0].message)
    assert "pickle" not in str(caught[0].message).replace(str(path), "")
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert_same(Table.load(path), good)
    assert list(cache.iterdir()) == [path]
    monkeypatch.setattr(_cache, "_memory", {})
    assert_same(lookup_table(0.9), good)  # and now without a warning


def test_folder_that_cannot_be_made(cache, monkeypatch, tmp_path):
    """Its parent is a file, which stops root too: the table is built, quietly, and kept in memory."""
    (tmp_path / "file").write_text("here is no folder")
    monkeypatch.setenv("SOFTDIAMOND_CACHE", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lookup = lookup_table(0.9)
    assert_same(lookup, Table.build(0.9))
    assert lookup_table(0.9) is lookup
    assert [str(warning.message) for warning in caught] == []


def test_folder_in_the_place_of_the_file(cache, monkeypatch):
    lookup_table(0.9)
    (path,) = cache.iterdir()
    path.unlink()
    path.mkdir()
    monkeypatch.setattr(_cache, "_memory", {})
    assert lookup_table(0.9).alpha == 0.9
    assert list(cache.iterdir()) == [path], "no temporary file is left"


START = """
import hashlib, sys
from softdiamond.table import lookup_table
print("ready", flush=True)
sys.stdin.readline()
table = lookup_table(0.77)
print(hashlib.sha256(table.single.rows.tobytes() + table.double.rows.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_eight_processes_at_once(damaged, cache):
    """All wait until all are ready, then ask for the same table; with a damaged file in its place each may warn."""
    good = Table.build(0.77)
    if damaged:
        cache.mkdir(parents=True)
        (cache / f"alpha-{(0.77).hex()}-builder-{_table.BUILDER}.npz").write_bytes(b"PK\x03\x04 damaged")
    command = [sys.executable, "-W", "default" if damaged else "error", "-c", START]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(8)]
    ready = [process.stdout.readline() for process in processes]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [process.communicate(timeout=120) for process in processes]
    assert ready == ["ready\n"] * 8, [errors for _, errors in done]
    expected = hashlib.sha256(good.single.rows.tobytes() + good.double.rows.tobytes()).hexdigest()
    assert [output.strip() for output, _ in done] == [expected] * 8, [errors for _, errors in done]
    assert [process.returncode for process in processes] == [0] * 8
    (path,) = cache.iterdir()
    assert_same(Table.load(path), good)


def test_import_builds_nothing_and_nothing_is_downloaded(cache):
    program = f"""
import pathlib, sys
def no_network(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "urllib")):
        raise RuntimeError(f"network: {{event}}")
sys.addaudithook(no_network)
from softdiamond import table
from softdiamond.table import _cache
assert _cache._memory == {{}} and not pathlib.Path({str(cache)!r}).exists()
table.lookup_table(0.5)
assert list(pathlib.Path({str(cache)!r}).iterdir())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lookup_table, Table.build], ids=["lookup_table", "build"])
@pytest.mark.parametrize("alpha", [0.05, np.nextafter(0.1, 0), np.nextafter(2, 3), 0, -1.0, np.inf, np.nan])
def test_alpha_out_of_range(alpha, make):
    with pytest.raises(ValueError, match=r"alpha must lie in \[0\.1, 2\]; got"):
        make(alpha)


@pytest.mark.parametrize("make", [lookup_table, Table.build], ids=["lookup_table", "build"])
@pytest.mark.parametrize("alpha", [np.array([0.5, 1.0]), [1.0], np.empty(0), "half", {}])
def test_alpha_that_is_not_one_number(alpha, make):
    with pytest.raises((ValueError, TypeError), match="alpha"):
        make(alpha)


@pytest.mark.parametrize("method", ["evaluate", "penalty", "score", "omega", "curvature"])
@pytest.mark.parametrize(
    "x",
    [np.arange(3), np.arange(3, dtype=np.float16), np.ones(3, complex), np.array(["a"]), [1, 2], np.ones(2, ">f8")],
    ids=lambda x: str(np.asarray(x).dtype),
)
def test_other_dtypes_are_refused(x, method, built):
    with pytest.raises(TypeError, match="float32 or float64; got"):
        getattr(built(1.0), method)(x)


def test_parabola_where_the_square_of_x_overflows():
    assert float(lookup_table(2.0).penalty(np.array([1.5e154]))[0]) == pytest.approx(0.75e154**2, rel=1e-14)
