r"""The mixture integral of the group law: all of its moments between the two series, for any d, in positive terms.

By Kanter the A of `softdiamond.stable.group_law` is :math:`e^{\Lambda(\phi)} E^{-q}` with :math:`q = (2 - \alpha)/\alpha`,
E ~ Exp(1), :math:`\phi` uniform on :math:`(0, \pi)`, and, with :math:`b = \alpha/2`,

.. math:: \Lambda(\phi) = \log \sin b\phi + q \log \sin((1 - b) \phi) - \tfrac1b \log \sin \phi,

which rises from :math:`\Lambda_0` at 0 to infinity at :math:`\pi` and is smooth in alpha up to alpha = 2. With
:math:`\nu = 1 + qd/2` (``shape``, that of a gamma law) and :math:`w = \log E`

.. math:: E\big[A^{-d/2} e^{-r^2/4A}\big] = \frac1\pi \int_0^\pi e^{-\Lambda d/2} I(\rho) \, d\phi, \quad
          I(\rho) = \int e^{-e^w + \nu w - \rho e^{qw}} dw, \quad \rho = \tfrac{r^2}{4} e^{-\Lambda(\phi)}:

every integrand is positive, no digit is lost.

**Inner integral.** I depends on one number. About its mode, where :math:`e^w = a = \nu/(1 + e^{-\sigma})` and
:math:`q \rho e^{qw} = \nu - a`, it is Laplace's approximation times :math:`e^{C(\sigma)}`, and C is smooth and bounded on
the whole line: it is tabulated (trapezoidal rule on each integral) and interpolated, with the mean and the variance of 1/A.

**Outer integral.** :math:`\phi = \pi \tanh(t/2)` makes the integrand even and analytic in t and lets it decay exponentially,
so the trapezoidal rule converges geometrically for every d; the step is halved until a radius has settled.

**Penalty.** Exponents are kept relative to those at r = 0, known in closed form, so that the penalty is a difference of small
numbers; a small one is :math:`-\log(1 - K)`, with :math:`K = 1 - p_d(r)/p_d(0)` the mean of the positive
:math:`-\mathrm{expm1}(-\rho e^{qw})` over the law at r = 0.

Kanter, Annals of Probability 3 (1975) 697-707; Zolotarev, One-dimensional Stable Distributions (AMS, 1986).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, zeta

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

_LARGE_GAP = 0.4  # of 1 - p_d(r) / p_d(0); above it the penalty is a difference of logarithms
_DROP = 40.0  # an integrand is followed until it has fallen by exp(-40)
_SETTLED = 3e-8  # a halving of the outer step that changes less than this has squared the error away
_MOST_NODES = 1 << 14
_PAIRS = 1 << 16  # (radius, node) pairs held at once
_POINTS = 12  # of the interpolation
_LATTICE = 16  # lattice points a unit of sigma, or of log rho
_EXTENTS = 8  # windows a unit of log rho


class Mixture:
    """The integrals at unit scale of one (alpha, d), alpha neither 1 nor 2 (there they are known)."""

    def __init__(self, alpha: float, d: int) -> None:
        self.half, self.b, self.q = d / 2, alpha / 2, (2 - alpha) / alpha
        rest = self.q * self.half
        self.shape, self.rest, self.log_rest = 1 + rest, rest, float(np.log(rest))
        self.lambda_0 = float(np.log(self.b) + self.q * np.log((2 - alpha) / 2))
        # log of e^{d Lambda_0 / 2} E[A^{-d/2}] over shape^shape e^{-shape}, free of the large logarithms
        self.log_at_0 = _stirling(d / alpha) - _stirling(self.half) - _stirling(rest) + _stirling_ratio(rest)

    # --- p, and the mean and variance of 1/A --------------------------------------------------------------------------

    def moments(self, log_z: Array) -> tuple[Array, Array, Array]:
        """Penalty, log omega, and the variance of 1/A over its squared mean, at each radius (n,)."""
        log_rho = self._log_rho(log_z)
        low, high, count = self._windows(log_rho)
        # sigma is monotone in Lambda, so the ends of the windows bound what the table must hold
        ends = (self._shift(log_rho - self._angle(end)[0]) - self.log_rest for end in (low, high))
        table = _Table(self.q, self.shape, *(float(f(end)) for f, end in zip((np.min, np.max), ends, strict=True)))
        out = np.empty((3, log_z.size))
        for n in np.unique(count):
            (own,) = np.nonzero(count == n)
            for part in np.array_split(own, own.size * int(n) // _PAIRS + 1):
                out[:, part] = self._outer(log_rho[part], low[part], high[part], int(n), table)
        unit = self.q * np.log(self.shape) - self.lambda_0 - np.log(2)
        return self.log_at_0 - out[0], out[1] + unit, out[2]

    def _outer(self, log_rho: Array, low: Array, high: Array, n: int, table: _Table) -> tuple[Array, Array, Array]:
        """Log of the outer integral, log mean of 1/A (relative), its relative variance."""
        step = (high - low) / n
        top, x0, sums = self._sums(log_rho, low, step, np.arange(n + 1, dtype=np.float64), table, None, None)
        # a refinement adds the midpoints of the nodes so far: no node is evaluated twice, and settled radii drop out
        left = np.arange(log_rho.size)
        while left.size and n <= _MOST_NODES:
            between: Array = np.arange(n, dtype=np.float64) + 0.5
            more = np.empty((3, left.size))
            for j in np.array_split(np.arange(left.size), left.size * n // _PAIRS + 1):
                i = left[j]
                more[:, j] = self._sums(log_rho[i], low[i], step[i], between, table, top[i], x0[i])[2]
            change = np.abs(more[:2] / sums[:2, left] - 1).sum(axis=0)
            sums[:, left] += more
            step[left] /= 2
            left = left[~(change < 2 * _SETTLED)]
            n *= 2
        mean = sums[1] / sums[0]
        # about x0, the mean of the first sweep: a difference of two large second moments would lose the digits
        variance = sums[2] / sums[0] - (mean - x0) ** 2
        return top + np.log(sums[0] * step / np.pi), np.log(mean), variance / mean**2

    def _sums(
        self, log_rho: Array, low: Array, step: Array, j: Array, table: _Table, top: Array | None, x0: Array | None
    ) -> tuple[Array, Array, Array]:
        """Scale of the outer integrand, a mean of x = 1/A, and on that scale the sums of 1, x, (x - x0)^2.

        The nodes are low + step j. Without a scale given these are all the nodes, and the ends count half.
        """
        lam, log_measure = self._angle(low[:, None] + step[:, None] * j)
        log_f, sigma, log_x = self._laplace(lam, log_rho[:, None])
        c0, c1, c2 = table(sigma)
        # Laplace's approximation is off by a factor exp(C) that is smooth in sigma alone
        log_f += log_measure + c0
        whole = top is None
        if top is None:
            top = log_f.max(axis=1)
        weight = np.exp(log_f - top[:, None])
        if whole:
            weight[:, [0, -1]] /= 2
        x = np.exp(log_x + c1)
        total, first = weight.sum(axis=1), (weight * x).sum(axis=1)
        if x0 is None:
            x0 = first / total
        # spread of x between the nodes, and within each: x^2 times its relative variance, exp(c2)
        second = (weight * ((x - x0[:, None]) ** 2 + x * x * np.exp(c2))).sum(axis=1)
        return top, x0, np.stack([total, first, second])

    def _laplace(self, lam: Array, log_rho: Array) -> tuple[Array, Array, Array]:
        """Log of the outer integrand but for its measure and C; sigma; log of 1/A at the mode.

        The first and last are relative to Lambda = Lambda_0 and E = shape.
        """
        delta = self._shift(log_rho - lam)
        a, c = self._split(delta)
        down = self._down(delta)[1]
        log_f = (c - c / self.q - self.shape * down) - np.log(a + self.q * c) / 2 - self.half * lam
        return log_f, delta - self.log_rest, -lam - self.q * down

    def _split(self, delta: Array) -> tuple[Array, Array]:
        """a = e^w at the mode and shape - a, to full relative accuracy."""
        grown = np.exp(delta) / self.rest
        return self.shape / (1 + 1 / grown), self.shape / (1 + grown)

    def _log_rho(self, log_z: Array) -> Array:
        """Log of rho at phi = 0."""
        return np.asarray(2 * log_z - 2 * np.log(2) - self.lambda_0)

    def _shift(self, log_rho: Array) -> Array:
        """Mode of the inner integrand as delta = sigma + log(q d / 2), zero where rho = d / 2: by Newton's method.

        With g = -log(a) the equation is delta + (1 - q) g(delta) = log(d / 2) - log rho, convex for q < 1, else concave.
        """
        q, shape, rest = self.q, self.shape, self.rest
        # from the asymptote on the side where Newton's method for a convex (concave) function never overshoots
        target = np.log(self.half) - log_rho
        right, left = target + (1 - q) * np.log(shape), (target - (1 - q) * np.log(rest / shape)) / q
        delta = np.minimum(right, left) if q < 1 else np.maximum(right, left)
        for _ in range(40):
            soft = self._down(delta)[0]
            step = (delta + (1 - q) * soft - target) / (1 - (1 - q) / (1 + np.exp(delta) / rest))
            delta = delta - step
            if np.all(np.abs(step) < 1e-9 * (1 + np.abs(delta))):
                break
        return np.asarray(delta)

    def _down(self, delta: Array) -> tuple[Array, Array]:
        """-log a and log(shape / a), each accurate where it is small."""
        log_shape, rest = np.log(self.shape), self.rest
        bounded = np.clip(delta, -500.0, 1.0)  # below, the logarithm is linear
        near = np.log1p(rest / self.shape * np.expm1(-bounded)) + np.maximum(-500.0 - delta, 0.0)
        far = np.log1p(rest * np.exp(-np.maximum(delta, 1.0)))
        return np.where(delta < 1, near, far - log_shape), np.where(delta < 1, near + log_shape, far)

    def _angle(self, t: Array) -> tuple[Array, Array]:
        """Lambda - Lambda_0, and log d phi / dt, at phi = pi tanh(t / 2), t >= 0."""
        b, q, one_b = self.b, self.q, self.b * self.q
        decay = np.exp(-t)
        near, far = -np.expm1(-t) / (1 + decay), 2 * decay / (1 + decay)  # phi / pi, 1 - phi / pi
        # near and far are measured from their own ends: 1 - near would lose the digits that d multiplies
        right = near > 0.5
        small = np.where(right, far, near)
        first: Array = _log_sinc(np.where(right, b * far + one_b, b * near)) + q * _log_sinc(one_b * near)
        lam = first - _log_sinc(small) / b  # sin((1 - b) phi) as sin of the same; sin(b phi) as sin(b chi + pi (1 - b))
        far = np.where(right, far, 1.0)
        lam += np.where(right, np.log1p(one_b / (b * far)) + q * np.log(near / far), 0.0)
        return lam, np.asarray(np.log(2 * np.pi) - t - 2 * np.log1p(decay))

    def _windows(self, log_rho: Array) -> tuple[Array, Array, Ints]:
        """For each radius the ends in t of what matters and a first number of steps: from the two scans beside it."""
        place = np.floor(log_rho * _EXTENTS)
        lattice = np.unique(np.concatenate([place, place + 1]))
        low, high, width = self._integrand_extent(lattice / _EXTENTS)
        i = np.searchsorted(lattice, place)
        low, high = np.minimum(low[i], low[i + 1]), np.maximum(high[i], high[i + 1])
        # the trapezoidal rule needs a few nodes across the width of the peak
        needed = np.clip((high - low) / np.minimum(width[i], width[i + 1]), 16, _MOST_NODES / 2)
        return low, high, np.exp2(np.ceil(np.log2(needed))).astype(np.intp)

    def _integrand_extent(self, log_rho: Array) -> tuple[Array, Array, Array]:
        """Ends in t of the outer integrand, and the width of its peak, if narrow."""
        mode = self._mode(log_rho)
        # probes crowd on both sides of the mode, whose width is not known yet
        away = 2.0 ** np.arange(-10, 6.8, 0.4) - 2.0**-10
        inward = np.minimum(1, mode)[:, None] * 2.0 ** -np.arange(0, 11, 0.5)
        before = np.linspace(0, 1, 49)[:-1] * mode[:, None]
        t = np.sort(np.concatenate([before, mode[:, None] - inward, mode[:, None] + away], axis=1), axis=1)
        lam, log_measure = self._angle(t)
        log_f = self._laplace(lam, log_rho[:, None])[0] + log_measure
        keep = log_f > log_f.max(axis=1)[:, None] - _DROP - 4
        first = np.maximum(np.argmax(keep, axis=1) - 1, 0)
        last = np.minimum(keep.shape[1] - np.argmax(keep[:, ::-1], axis=1), keep.shape[1] - 1)
        rows = np.arange(log_rho.size)
        small = 1e-4 * np.maximum(mode, 1e-4)
        gradient = (self._angle(mode + small)[0] - self._angle(np.abs(mode - small))[0]) / (2 * small)
        a, c = self._split(self._shift(log_rho - self._angle(mode)[0]))
        curvature = gradient**2 * (c / self.q) * a / (a + self.q * c)
        return t[rows, first], t[rows, last], 1 / np.sqrt(1 + curvature)

    def _mode(self, log_rho: Array) -> Array:
        """The t at which -(d/2) Lambda + log I is largest: rho e^{qw} = d/2 there; zero if it decreases from the start."""
        want = log_rho - np.log(self.half)  # Lambda - Lambda_0
        low, high = np.zeros_like(want), np.full_like(want, 700.0)
        for _ in range(60):
            middle = (low + high) / 2
            up = self._angle(middle)[0] < want
            low, high = np.where(up, middle, low), np.where(up, high, middle)
        return np.where(want > 0, (low + high) / 2, 0.0)

    # --- the penalty ----------------------------------------------------------------------------------------------------

    def penalty(self, log_z: Array) -> Array:
        """log p(0) - log p, to full relative accuracy."""
        gap = self._gap(log_z)
        value = -np.log1p(-gap)
        large = gap > _LARGE_GAP
        if large.any():
            value[large] = self.moments(log_z[large])[0]
        return np.asarray(value)

    def _gap(self, log_z: Array) -> Array:
        """K = 1 - p(r) / p(0), from the law at r = 0; one half or more where it is plainly large."""
        log_rho = self._log_rho(log_z) + self.q * np.log(self.shape)  # in units of E = shape
        out = np.full(log_rho.size, 0.5)
        keep = log_rho < 5 + 2 * self.q
        if not keep.any():
            return out
        # the inner mean depends on log rho - Lambda only: one lattice of it serves every radius and every node
        point = log_rho[keep]
        bottom, margin = float(np.floor(point.min() - _DROP - 2)), _POINTS // 2 + 1
        cells = int(np.ceil((point.max() - bottom) * _LATTICE)) + 1
        lattice = bottom + np.arange(-margin, cells + margin + 1) / _LATTICE
        fit = _Interpolant(_log_inner_gap(lattice, self.q, self.shape)[None] - lattice, margin)
        end, n = self._end_at_0(), 32
        total, before = np.zeros_like(point), np.full_like(point, np.inf)
        while n <= _MOST_NODES and np.abs(total / before - 1).max() > _SETTLED:
            lam, log_measure = self._angle(np.linspace(0, end, n + 1, dtype=np.float64))
            weight = np.exp(log_measure - log_measure[0] - self.half * lam)
            weight[[0, -1]] /= 2
            weight /= weight.sum()
            before, total = total, np.empty_like(point)
            for own in np.array_split(np.arange(point.size), point.size * n // _PAIRS + 1):
                at = point[own, None] - lam
                total[own] = np.exp(fit((at - bottom) * _LATTICE)[0] + at) @ weight
            n *= 2
        out[keep] = total
        return out

    def _end_at_0(self) -> float:
        """The t at which the outer integrand at r = 0 has fallen by exp(-40), from above, to 1 %."""
        t: Array = np.geomspace(1e-4, 100.0, 1400)
        lam, log_measure = self._angle(t)
        return float(t[np.argmax(log_measure - np.log(np.pi / 2) - self.half * lam < -_DROP)])


_ZETA = [float(zeta(2 * k) / k) for k in range(1, 9)]


def _log_sinc(x: Array) -> Array:
    """log(sin(pi x) / (pi x)), 0 <= x < 1, to full relative accuracy near 0, where d multiplies it."""
    square = x * x
    series = np.full_like(x, _ZETA[-1])
    for term in _ZETA[-2::-1]:
        series *= square
        series += term
    return np.where(x < 0.1, -square * series, np.log(np.sinc(x)))


# --- the inner integral -----------------------------------------------------------------------------------------------


def _split_shape(sigma: Array, shape: float) -> tuple[Array, Array]:
    """a = shape / (1 + e^-sigma) and shape - a, each to full relative accuracy."""
    decay = np.exp(-np.abs(sigma))
    major, minor = shape / (1 + decay), shape * decay / (1 + decay)
    right = sigma > 0
    return np.where(right, major, minor), np.where(right, minor, major)


class _Table:
    """C(sigma), log mean of e^{q x} (x = w - mode) and log of its variance over its squared mean, interpolated."""

    def __init__(self, q: float, shape: float, low: float, high: float) -> None:
        margin = _POINTS // 2 + 1
        grown = float(log_rising(shape + q, np.array(q))) - q * np.log(shape)  # of E x^2 / E x at r = 0
        flat = 44 + max(0.0, grown + np.log(shape / q))  # beyond, C no longer depends on rho
        low, high = max(min(low, flat - 4), -400.0), max(min(high, flat), -398.0)
        self.low = np.floor(low * _LATTICE) / _LATTICE
        cells = int(np.ceil((high - self.low) * _LATTICE)) + 1
        sigma = self.low + (np.arange(-margin, cells + margin + 1)) / _LATTICE
        a, c = _split_shape(sigma, shape)
        total, mean, spread = _inner(a, c, q)
        self.fit = _Interpolant(np.stack([total + np.log(a + q * c) / 2, mean, spread]), margin)

    def __call__(self, sigma: Array) -> list[Array]:
        return self.fit((sigma - self.low) * _LATTICE)


def _inner(a: Array, c: Array, q: float) -> tuple[Array, Array, Array]:
    """Log of int e^{-f}, f = a (expm1 x - x) + c (expm1(q x) / q - x); log mean and log relative variance of e^{qx}."""
    nodes, steps = _grid(a, c, q)
    out = np.empty((3, a.size))
    for own in np.array_split(np.arange(a.size), nodes.size // _PAIRS + 1):
        x = nodes[own]
        grown = np.expm1(q * x)
        weight = np.exp(-a[own, None] * (np.expm1(x) - x) - c[own, None] * (grown / q - x))
        total = weight.sum(axis=1)
        mean = (weight * grown).sum(axis=1) / total
        variance = (weight * (grown - mean[:, None]) ** 2).sum(axis=1) / total
        out[:, own] = np.log(total * steps[own]), np.log1p(mean), np.log(variance) - 2 * np.log1p(mean)
    return out[0], out[1], out[2]


def _log_inner_gap(log_rho: Array, q: float, shape: float) -> Array:
    """Log of the mean of -expm1(-rho e^{q x}) under the weight exp(-shape (expm1 x - x))."""
    x = _grid(np.array([shape]), np.zeros(1), q)[0][0]
    weight = np.exp(-shape * (np.expm1(x) - x))
    weight /= weight.sum()
    out = np.empty(log_rho.size)
    for own in np.array_split(np.arange(log_rho.size), log_rho.size * x.size // _PAIRS + 1):
        unit = np.minimum(log_rho[own], 0)[:, None]  # nothing underflows
        exponent = log_rho[own, None] + q * x
        gap = np.where(exponent < -40, np.exp(exponent - unit), -np.expm1(-np.exp(exponent)) * np.exp(-unit))
        out[own] = np.log(gap @ weight) + unit[:, 0]
    return out


def _grid(a: Array, c: Array, q: float) -> tuple[Array, Array]:
    r"""Nodes and steps of the trapezoidal rule for e^{-f} and e^{-f + 2 q x}, f as in `_inner`.

    For f = a (expm1 x - x) alone its error is \|Gamma(a + i tau)\| / Gamma(a), tau = 2 pi / step.
    """

    def f(x: Array) -> Array:
        return np.asarray(a * (np.expm1(x) - x) + c * (np.expm1(q * x) / q - x))

    low, high = -_reach(lambda x: f(-x), a.shape), _reach(lambda x: f(x) - 2 * q * x, a.shape)
    most = max(1.0, q)
    tau = np.sqrt((22 * most) ** 2 + 64 * most * (a + q * c))
    count = int(np.ceil(((high - low) * tau).max() / (2 * np.pi)))
    step = (high - low) / count
    return low[:, None] + step[:, None] * np.arange(count + 1), step


def _reach(f: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """Where a convex f, zero at zero, reaches 40: a little above."""
    low, high = np.zeros(shape), np.full(shape, 1e-3)
    for _ in range(60):
        short = f(high) < _DROP
        if not short.any():
            break
        high = np.where(short, 2 * high, high)
    for _ in range(10):
        middle = (low + high) / 2
        short = f(middle) < _DROP
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high


class _Interpolant:
    """Rows of lattice values, interpolated by the polynomial through the 12 nearest points; constant beyond."""

    def __init__(self, values: Array, margin: int) -> None:
        self.cells = values.shape[1] - 2 * margin - 1
        start = margin - _POINTS // 2 + 1 + np.arange(self.cells)
        nearest = np.stack([values[:, start + i] for i in range(_POINTS)])  # (points, rows, cells)
        self.coefficients = np.einsum("kp,prc->krc", _LAGRANGE, nearest)

    def __call__(self, place: Array) -> list[Array]:
        place = np.clip(place, 0.0, self.cells - 1e-9)
        cell = place.astype(np.intp)
        part = place - cell - 0.5
        value = [row.take(cell) for row in self.coefficients[-1]]
        for coefficients in self.coefficients[-2::-1]:
            for row, more in zip(value, coefficients, strict=True):
                row *= part
                row += more.take(cell)
        return value


def _lagrange() -> Array:
    """Matrix from values at the points -5.5, ..., 5.5 to coefficients in powers of x."""
    points = np.arange(_POINTS) - (_POINTS - 1) / 2
    out = np.empty((_POINTS, _POINTS))
    for i in range(_POINTS):
        others = np.delete(points, i)
        out[:, i] = np.poly(others)[::-1] / np.prod(points[i] - others)
    return out


_LAGRANGE = _lagrange()

# --- gamma functions ----------------------------------------------------------------------------------------------------


def log_rising(x: float, more: Array) -> Array:
    """Log of Gamma(x + more) / Gamma(x), more >= 0, without the cancellation of two large logarithms."""
    if x < 12:
        return np.asarray(gammaln(x + more) - gammaln(x))
    end = x + more
    return np.asarray((x - 0.5) * np.log1p(more / x) + more * np.log(end) - more + (_remainder(end) - _remainder(x)))


def _stirling(x: float) -> float:
    """Log Gamma(1 + x) - (x log x - x), of the size of log x."""
    if x < 12:
        return float(gammaln(1 + x) - (x * np.log(x) - x if x > 0 else 0.0))
    return float(np.log(2 * np.pi * x) / 2 + _remainder(x))


def _stirling_ratio(rest: float) -> float:
    """Log Gamma(1 + rest) - (shape log shape - shape), shape = 1 + rest."""
    shape = 1 + rest
    if shape < 12:
        return float(gammaln(shape) - shape * np.log(shape) + shape)
    return float(np.log(2 * np.pi / shape) / 2 + _remainder(shape))


def _remainder(x: Array | float) -> Array:
    """Binet's function: log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2, for x >= 12."""
    x = np.asarray(x, dtype=float)
    y = 1 / (x * x)
    value = np.zeros_like(y)
    for term in (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        value = value * y + term
    return np.asarray(value / x)
