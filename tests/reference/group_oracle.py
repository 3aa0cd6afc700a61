"""Two independent oracles for the law of a group of d weights (`softdiamond.stable.group_omega` ...), in mpmath; unit scale.

- `mellin`: a line integral through its saddle point (fast: any alpha, d, r). By the Gaussian scale mixture of A,
  E A^-s = Gamma(1 + 2 s / alpha) / Gamma(1 + s) is a Mellin transform, and this inverts it.
- `mixture`: the mixture itself, with the density of the positive stable A by Zolotarev's integral, a double sum of
  positive terms (slow: d up to 64, alpha to 1.9).
- `hankel`: the radial Fourier integral, d = 2 and 3 (alpha from 0.5, r to 30).

None shares a formula with the code that they test, which is Kanter's representation and Laplace's method. Each returns
log p_d(r) and omega_d(r). Needs mpmath (made with 1.3.0).
"""

from __future__ import annotations

import mpmath as mp


def mellin(r, alpha, d, dps=30):
    r"""log p_d(r) and omega_d(r), by the Mellin-Barnes integral through its saddle point.

    .. math:: (4\pi)^{d/2} p_d(r) = \frac{1}{2\pi i} \int \Gamma(s) \frac{\Gamma(1 + (d/2-s)/b)}{\Gamma(1 + d/2 - s)}
              (r^2/4)^{-s} ds, \quad 0 < Re s < d/2 + b, \; b = \alpha/2
    """
    work = dps + 10
    while True:
        with mp.workdps(work):
            try:
                value = _mellin(mp.mpf(r), mp.mpf(alpha), d, work)
            except ArithmeticError:  # too much cancels: more digits
                if work > 20 * dps + 400:
                    raise
                work += dps + 20
                continue
        if value[2] < work - dps:
            return value[:2]
        work = dps + 10 + int(value[2])


def _mellin(r, alpha, d, dps):
    b, half = alpha / 2, mp.mpf(d) / 2
    logx = 2 * mp.log(r / 2)
    top = half + b

    def log_m(s):
        return mp.loggamma(s) + mp.loggamma(1 + (half - s) / b) - mp.loggamma(1 + half - s) - s * logx

    with mp.workdps(25):

        def slope(s):
            return mp.digamma(s) - mp.digamma(1 + (half - s) / b) / b + mp.digamma(1 + half - s) - logx

        low, high = mp.mpf(-100), mp.mpf(100)  # logit of s / top
        for _ in range(60):
            mid = (low + high) / 2
            low, high = (mid, high) if slope(top / (1 + mp.exp(-mid))) < 0 else (low, mid)
        c = top / (1 + mp.exp(-mid))
    c = +c
    pole = None  # near a pole the line is moved past it, and the residue added
    if c < mp.mpf(1) / 4:
        pole, residue = mp.mpf(0), mp.loggamma(1 + half / b) - mp.loggamma(1 + half)
        c, reach = -mp.mpf(1) / 2, mp.mpf(1) / 2
    elif top - c < b / 4:
        pole, residue = top, mp.log(b) + mp.loggamma(top) - mp.loggamma(1 - b) - top * logx
        c, reach = half + b * mp.mpf(3) / 2, b / 2
    else:
        reach = min(c, top - c)
    curve = abs(mp.polygamma(1, c) + mp.polygamma(1, 1 + (half - c) / b) / b**2 - mp.polygamma(1, 1 + half - c)) + 1
    goal = (dps + 3) * mp.log(10)
    # error of the rule: exp(-2 pi y / h) times the growth on the line c +- y; the Gaussian guess, then halving
    h = min(2 * mp.pi / mp.sqrt(2 * goal * curve), 2 * mp.pi * reach / goal * mp.mpf("0.9"))
    center = log_m(mp.mpc(c, 0))
    known = mp.matrix([0, 0, 0])
    if pole is not None:
        center = mp.mpf(max(center.real, residue))
        share = 2 * mp.pi * mp.exp(residue - center)
        known = mp.matrix([share, share * pole, share])
    center = mp.re(center)

    def line(start, step):
        total = first = size = mp.mpf(0)
        t = start
        while True:
            s = mp.mpc(c, t)
            v = mp.exp(log_m(s) - center)
            if t == 0:
                v = mp.mpc(v.real)
            w = 1 if t == 0 else 2
            total += w * v.real
            first += w * (v * s).real
            size += w * abs(v)
            if abs(v) * (1 + abs(s)) < mp.mpf(10) ** (-dps - 2) and t > 0:
                return mp.matrix([total * step, first * step, size * step])
            t += step

    got = line(mp.mpf(0), h)
    gone = mp.log10(got[2] / abs(got[0] + known[0]))
    if gone > 10:
        gone_digits = int(gone) + 3
        if gone_digits > dps - 22:
            return None, None, float(gone_digits)
    for _ in range(4):
        mids = line(h / 2, h)
        new = (got + mids) / 2
        whole, before = new + known, got + known
        change = abs(whole[0] / before[0] - 1) + abs(whole[1] / before[1] - 1) * (pole != 0)
        if pole == 0:
            change += abs(new[1] / got[1] - 1)
        got, h = new, h / 2
        if change < mp.mpf(10) ** (-dps * 2 // 3):
            break
    else:
        raise ArithmeticError("mellin did not settle")
    lost = mp.log10(got[2] / abs(got[0]))
    got = got + known
    lost = max(lost if pole == 0 else 0, mp.log10((got[2]) / abs(got[0])))
    logp = center + mp.log(got[0] / (2 * mp.pi)) - half * mp.log(4 * mp.pi)
    omega = 2 * got[1] / got[0] / r**2
    return logp, omega, float(lost) + 1


def log_peak(alpha, d):
    """log p_d(0)."""
    alpha, d = mp.mpf(alpha), mp.mpf(d)
    return (1 - d) * mp.log(2) - d / 2 * mp.log(mp.pi) + mp.loggamma(d / alpha) - mp.log(alpha) - mp.loggamma(d / 2)


def penalty_omega(r, alpha, d, dps=30):
    """The pair (penalty, omega), to about dps digits also where the penalty is tiny."""
    with mp.workdps(dps):
        logp, omega = mellin(r, alpha, d, dps)
        with mp.workdps(dps + 10):
            value = log_peak(alpha, d) - logp
        if abs(value) < mp.mpf(10) ** (-dps // 3) * (1 + abs(logp)):
            extra = dps + int(-mp.log10(abs(value) / (1 + abs(logp)) + mp.mpf(10) ** -dps)) + 10
            with mp.workdps(extra):
                logp, omega = mellin(r, alpha, d, extra)
                value = log_peak(alpha, d) - logp
        return +value, +omega


def mixture(r, alpha, d, dps=20, steps=16):
    """log p_d(r) and omega_d(r) as the double trapezoidal sum over log A and phi; slow, alpha not near 2, d small."""
    with mp.workdps(dps + 5):
        r, b, half = mp.mpf(r), mp.mpf(alpha) / 2, mp.mpf(d) / 2
        step = mp.mpf(1) / steps
        small = mp.mpf(10) ** (-dps - 3)

        angles = []
        n = int(mp.ceil((dps + 4) * mp.log(10) / step))
        for j in range(-n, n + 1):
            s = j * step
            e = mp.exp(-s)
            phi, chi = mp.pi / (1 + e), mp.pi * e / (1 + e)
            v = (b * mp.log(mp.sin(b * phi)) + (1 - b) * mp.log(mp.sin((1 - b) * phi)) - mp.log(mp.sin(chi))) / (1 - b)
            angles.append((mp.exp(v), phi * chi / mp.pi**2 * step))
        q = (1 - b) / b

        def term(w):  # over w = log y, A = y^-q; g(y) = E U exp(-U y)
            y = mp.exp(w)
            g = mp.fsum(u * m * mp.exp(-u * y) for u, m in angles if u * y < 300)
            x = mp.exp(q * w)
            return g * y * x**half * mp.exp(-r * r * x / 4), x

        h = step / max(1, q)
        best, center, w = mp.mpf(-1), 0, -mp.mpf(60)
        while w < 40:
            v, _ = term(w)
            if v > best:
                best, center = v, w
            w += mp.mpf(1) / 2
        total = first = mp.mpf(0)
        for sign in (1, -1):
            j = 0 if sign == 1 else 1
            while True:
                v, x = term(center + sign * j * h)
                total += v
                first += v * x
                j += 1
                if v * (1 + x / (first / total)) < small * total:
                    break
        return mp.log(total * h) - half * mp.log(4 * mp.pi), first / total / 2


def hankel(r, alpha, d, dps=20):
    """log p_d(r) and omega_d(r) from the radial Fourier integrals of d and d + 2, d = 2 or 3."""
    with mp.workdps(dps + 10):
        r, alpha = mp.mpf(r), mp.mpf(alpha)

        def density(n):
            nu = mp.mpf(n) / 2 - 1

            def integrand(t):
                return mp.exp(-(t**alpha)) * mp.besselj(nu, r * t) * t ** (mp.mpf(n) / 2)

            end = ((dps + 12) * mp.log(10)) ** (1 / alpha)
            cuts = [0] + [mp.mpf(2) ** -k for k in range(12, 0, -1)]
            last = cuts[-1]
            while last < end:
                last += min(mp.pi / r * 4, max(mp.mpf(1) / 2, last / 2))
                cuts.append(last)
            return (2 * mp.pi) ** (-mp.mpf(n) / 2) * r ** (-nu) * mp.quad(integrand, cuts)

        p = density(d)
        return mp.log(p), 2 * mp.pi * density(d + 2) / p
