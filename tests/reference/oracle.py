"""An independent high-precision oracle for the symmetric alpha-stable law, in mpmath.

The law has the characteristic function exp(-|t|^alpha) (unit scale). For exact float64 `alpha` in [0.1, 2] and
`x >= 0`, `law(alpha, x)` gives f, f', f'', P(X > x), P(0 < X < x) and df/dalpha, each with a bound on its absolute
error. It shares no code with `softdiamond.stable`, and has no Zolotarev-Nolan integral (except as a check).

Three methods, of which a planner takes the cheapest that reaches the target:

1. `zero_series`: powers of x^2. The rest of the cosine's Taylor series is at most its first omitted term, and the
   weight exp(-t^alpha) is positive, so the truncation bound is rigorous for every alpha, whether the series converges
   (alpha > 1) or is asymptotic (alpha < 1).
2. `tail_series`: powers of x^-alpha. On the ray t = r e^(i phi), phi = min(pi/2, pi/(2 alpha)), Re t^alpha >= 0 and
   the rest of the exponential series is at most |t^alpha|^n / n!: again a rigorous truncation bound for every alpha
   (convergent for alpha < 1, asymptotic above). The exponentially small part near alpha = 2 is inside this bound.
3. `ray_quadrature`: the Fourier integral on a ray by a double-exponential rule, step halved; the error is the full
   difference of the last two steps (the real error is about its square). Needed around x = 1 near alpha = 1.

alpha = 1 and alpha = 2 use closed forms for all but df/dalpha.

Rounding: working precision covers the cancellation that the planner foresees and is raised until the measured bound
(truncation + rounding against the largest term) is below the target. `verified_law` evaluates twice, with two different
methods where two reach the target (else the same one with another precision, length or angle), and its error also
covers their disagreement. `python tests/reference/oracle.py` cross-checks everything and prints the largest
disagreements.

Needs mpmath (made with 1.3.0); gmpy2 is not needed, but makes it several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mpmath import mp, mpf
from scipy.special import gammaln

TARGET_DIGITS = 32
MAX_TERMS = 4000
QUANTITIES = ("f", "f1", "f2", "sf", "central", "fa")
COLUMNS = ("log_pdf", "pdf", "score", "omega", "curvature", "sf", "central", "dlogpdf_dalpha")
LN10 = math.log(10.0)

Sums = dict[str, mpf]


class NotReachedError(ArithmeticError):
    """The method cannot reach the target at this point."""


@dataclass(frozen=True)
class Law:
    """Values at one (alpha, x), by the names of QUANTITIES: f, f' and f'' in x, P(X > x), P(0 < X < x), df/dalpha.

    `bound` holds their absolute errors.
    """

    alpha: float
    x: float
    value: Sums
    bound: Sums
    method: str

    def columns(self) -> Sums:
        """The derived quantities, named as in COLUMNS.

        score = f'/f, omega = -f'/(x f) (at x = 0 its limit -f''/f), curvature = score^2 - f''/f, dlogpdf_dalpha = fa/f.
        At alpha = 2 the first four are exact: -x^2/4 - log(2 sqrt(pi)), its exponential, -x/2, 1/2, 1/2.
        """
        v, x = self.value, mpf(self.x)
        with mp.workdps(TARGET_DIGITS + 20 + _cancelled_in_curvature(self)):
            out = {"pdf": v["f"], "sf": v["sf"], "central": v["central"]}
            if self.alpha == 2.0:
                half = mpf(1) / 2
                out |= {"log_pdf": -x * x / 4 - mp.log(2 * mp.sqrt(mp.pi))}
                out |= {"score": -x / 2, "omega": half, "curvature": half}
            else:
                score = v["f1"] / v["f"]
                ratio = v["f2"] / v["f"]
                out |= {"log_pdf": mp.log(v["f"]), "score": score, "curvature": score * score - ratio}
                out["omega"] = -ratio if x == 0 else -score / x
            out["dlogpdf_dalpha"] = v["fa"] / v["f"] if v["f"] else -mp.inf
            return {name: +out[name] for name in COLUMNS}

    def error(self) -> float:
        """One bound for the row: the largest of the following.

        Relative error of pdf, score, omega, sf, central (absolute of log_pdf); error of curvature over
        |curvature| + omega; error of dlogpdf_dalpha over max(1, |dlogpdf_dalpha|).
        """
        v, b, c = self.value, self.bound, self.columns()
        if v["f"] == 0:  # alpha = 2, underflow beyond any use: closed forms only
            return 0.0
        of_f = b["f"] / v["f"]
        of_f1 = b["f1"] / abs(v["f1"]) if v["f1"] else mpf(0)
        of_f2 = (b["f2"] + abs(v["f2"]) * of_f) / v["f"]
        of_score = of_f + of_f1
        of_curvature = (of_f2 + 2 * c["score"] ** 2 * of_score) / (abs(c["curvature"]) + c["omega"])
        if self.alpha == 2.0:
            of_score = of_curvature = mpf(0)
        of_alpha = (b["fa"] + abs(v["fa"]) * of_f) / v["f"] / max(1, abs(c["dlogpdf_dalpha"]))
        of_central = b["central"] / v["central"] if v["central"] else mpf(0)
        return float(max(of_f, of_score, of_curvature, b["sf"] / v["sf"], of_central, of_alpha))


def _cancelled_in_curvature(row: Law) -> int:
    """Digits by which score^2 may exceed the curvature (about x^2 in a Gaussian shoulder)."""
    return max(0, int(2 * math.log10(row.x))) if 0 < row.x < 1e9 and row.alpha > 1.9 else 0


# --- 0. What size to expect, in float64 logarithms -------------------------------------------------------------------


def guess_log_pdf(alpha: float, x: float) -> float:
    """log f within a few units: the smaller of f(0) and of the first tail term (plus the Gaussian near alpha = 2).

    At alpha = 2, where only df/dalpha is wanted from a method: that of df/dalpha.
    """
    at_zero = math.lgamma(1 + 1 / alpha) - math.log(math.pi)
    if x == 0:
        return at_zero
    sine = abs(math.sin(math.pi * (2 - alpha) / 2)) if alpha < 2 else math.pi / 2
    tail = math.log(sine) + math.lgamma(alpha + 1) - (alpha + 1) * math.log(x)
    bulk = -(x**2) / 4 if alpha > 1.7 and x < 1e9 else -math.inf
    return min(at_zero, max(tail, bulk))


def plan_zero(alpha: float, x: float, digits: int) -> tuple[int, int] | None:
    """(terms, working digits) with which the series at zero reaches `digits`, or None; see `zero_series`."""
    if x == 0:
        return 2, digits + 15
    k = np.arange(1, MAX_TERMS)
    log_term = gammaln((2 * k + 1) / alpha) - gammaln(2 * k + 1) + 2 * k * math.log(x) - math.log(math.pi * alpha)
    wanted = guess_log_pdf(alpha, x) - digits * LN10
    # f2 / f carries 4 k^2 / x^2 beside f, and its size is about omega(0) or 1 / x^2, so compare f2's terms with those
    log_omega_0 = math.lgamma(3 / alpha) - math.lgamma(1 / alpha)
    spread = 2 * np.log(2 * k) + max(0.0, -2 * math.log(x) - log_omega_0)
    return _plan(log_term, log_term + spread, wanted, digits, guess_log_pdf(alpha, 0.0))


def plan_tail(alpha: float, x: float, digits: int) -> tuple[int, int] | None:
    """(terms, working digits) with which the tail series reaches `digits`, or None; see `tail_series`."""
    if x == 0:
        return None
    k = np.arange(1, MAX_TERMS)
    log_coefficient = gammaln(alpha * k + 1) - gammaln(k + 1)
    log_term = log_coefficient - (alpha * k + 1) * math.log(x)
    log_bound = log_coefficient - (alpha * k + 1) * (math.log(x) + math.log(math.sin(_ray_limit(alpha))))
    small_sf = alpha * max(0.0, -math.log(x))  # central = 1/2 - sf is then small
    wanted = guess_log_pdf(alpha, x) - digits * LN10 - small_sf
    return _plan(log_term, log_bound + 3 * np.log(k + 1.0), wanted, digits, -math.inf)


def _plan(
    log_term: np.ndarray, log_bound: np.ndarray, wanted: float, digits: int, log_first: float
) -> tuple[int, int] | None:
    """First index whose bound is below `wanted`, and digits enough for the largest term before it (or a first one)."""
    good = np.flatnonzero(log_bound < wanted)
    if not good.size:
        return None
    n = int(good[0]) + 1
    largest = max(log_first, float(np.max(log_term[:n])))
    return n + 1, digits + 15 + int(max(0.0, largest - wanted - digits * LN10) / LN10)


def _ray_limit(alpha: float) -> float:
    """Largest angle of a ray on which Re t^alpha >= 0 and Im t >= 0 grows: min(pi/2, pi/(2 alpha))."""
    return min(math.pi / 2, math.pi / (2 * alpha))


# --- 1. Series at zero -----------------------------------------------------------------------------------------------


def zero_series(alpha: float, x: float, terms: int, dps: int) -> tuple[Sums, Sums]:
    """Values and error bounds from f = sum_k T_k, T_k = (-1)^k Gamma(s) x^(2k) / (pi alpha (2k)!), s = (2k+1)/alpha.

    f' = sum 2k T_k / x, f'' = sum 2k (2k-1) T_k / x^2, central = sum x T_k / (2k+1), sf = 1/2 - central,
    df/dalpha = -sum T_k (1 + s psi(s)) / alpha. Truncation: |cos u - its first n terms| <= u^(2n)/(2n)!, likewise
    sine, so each remainder is at most the first omitted term; for df/dalpha, whose weight t^alpha log t changes sign at
    1, add 2 x^(2n) / (pi (2n)! (2n+1+alpha)^2). At x = 0 two terms are exact.
    """
    with mp.workdps(dps):
        a, q = mpf(alpha), mpf(x) ** 2
        at_zero = x == 0
        sums = _Sums(("f", "f1", "f2", "central", "fa"))
        power = 1 / mp.pi  # (-1)^k x^(2k) / (pi (2k)!)  and, for f'', the same over x^2
        power_2 = mpf(0)
        for k in range(terms + 1):
            s = (2 * k + 1) / a
            g = mp.gamma(s) / a
            t = g * power
            term = {
                "f": t,
                "f1": g * power_2 * 2 * k * mpf(x),
                "f2": g * power_2 * (2 * k) * (2 * k - 1),
                "central": t * mpf(x) / (2 * k + 1),
                "fa": -t * (1 + s * mp.psi(0, s)) / a,
            }
            if k < terms:
                sums.add(term)
            power_2 = -power / ((2 * k + 1) * (2 * k + 2))
            power = power_2 * q
        rest = {name: mpf(0) if at_zero else abs(value) for name, value in term.items()}
        if not at_zero:
            n = terms
            rest["fa"] += 2 * mpf(x) ** (2 * n) / (mp.pi * mp.factorial(2 * n) * (2 * n + 1 + a) ** 2)
        value, bound = sums.finish(rest, growth=terms**2)
        value["sf"] = mpf(1) / 2 - value["central"]
        bound["sf"] = bound["central"] + mp.eps
        return value, bound


class _Sums:
    """Sums of several series at once, each with the largest term seen, to bound the rounding error."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.total = dict.fromkeys(names, mpf(0))
        self.largest = dict.fromkeys(names, mpf(0))

    def add(self, term: Sums) -> None:
        for name, value in term.items():
            self.total[name] += value
            self.largest[name] = max(self.largest[name], abs(value))

    def finish(self, rest: Sums, growth: float) -> tuple[Sums, Sums]:
        """(totals, bounds): truncation `rest` plus 8 eps growth times the largest term."""
        return self.total, {name: rest[name] + 8 * mp.eps * growth * self.largest[name] for name in self.total}


# --- 2. Series in the tail -------------------------------------------------------------------------------------------


def tail_series(alpha: float, x: float, terms: int, dps: int) -> tuple[Sums, Sums]:
    """Values and error bounds from f = sum_{k>=1} U_k.

    U_k = (-1)^(k+1) Gamma(alpha k + 1) sin(pi alpha k / 2) x^(-alpha k - 1) / (pi k!),
    f' = -sum (alpha k + 1) U_k / x, f'' = sum (alpha k + 1)(alpha k + 2) U_k / x^2, sf = sum x U_k / (alpha k),
    df/dalpha = sum k [(psi(alpha k + 1) - log x) U_k + (pi/2) U_k with cosine for sine]; central = 1/2 - sf.
    Truncation before term n: on the ray of angle phi, with y = x sin phi, each is at most the integral of
    r^(alpha n + m) e^(-y r) / (pi n!): f: m = 0, f': 1, f'': 2, sf: -1; df/dalpha: n r^(alpha n) (|log r| + phi) / n!.
    """
    with mp.workdps(dps):
        a, z = mpf(alpha), mpf(x)
        log_x = mp.log(z)
        step = mp.exp(-a * log_x)
        sums = _Sums(("f", "f1", "f2", "sf", "fa"))
        power = -1 / (mp.pi * z)  # (-1)^(k+1) x^(-alpha k - 1) / (pi k!) at k = 0
        for k in range(1, terms):
            power *= -step / k
            ak = a * k
            size = mp.gamma(ak + 1) * power
            u = size * mp.sinpi(ak / 2)
            v = size * mp.cospi(ak / 2)
            sums.add(
                {
                    "f": u,
                    "f1": -(ak + 1) * u / z,
                    "f2": (ak + 1) * (ak + 2) * u / z**2,
                    "sf": u * z / ak,
                    "fa": k * ((mp.psi(0, ak + 1) - log_x) * u + mp.pi / 2 * v),
                }
            )
        rest = _tail_rest(a, z, terms)
        value, bound = sums.finish(rest, growth=terms**2 * (2 + abs(float(log_x))))
        value["central"] = mpf(1) / 2 - value["sf"]
        bound["central"] = bound["sf"] + mp.eps
        return value, bound


def _tail_rest(a: mpf, z: mpf, n: int) -> Sums:
    """Remainders of `tail_series` before term n >= 1."""
    phi = min(mp.pi / 2, mp.pi / (2 * a)) * (1 - mpf(10) ** -10)  # the margin keeps the rounded angle inside
    y = z * mp.sin(phi)
    an = a * n
    g = mp.gamma(an + 1) / (mp.pi * mp.factorial(n) * y ** (an + 1))
    logs = abs(mp.log(y)) + phi + mp.psi(0, an + 1) + 2 / ((an + 1) ** 2 * mp.gamma(an + 1))
    return {"f": g, "f1": g * (an + 1) / y, "f2": g * (an + 1) * (an + 2) / y**2, "sf": g * y / an, "fa": n * g * logs}


# --- 3. Quadrature on a ray ------------------------------------------------------------------------------------------


def ray_quadrature(alpha: float, x: float, digits: int, loss: int, rotation: float = 1.0) -> tuple[Sums, Sums]:
    """Values and error estimates from f = (1/pi) Re int E dt, E = exp(-t^alpha + i x t), on t = r e^(i phi).

    phi = rotation min(pi/2, pi/(4 alpha)), r = R exp(v - e^-v); trapezoidal rule in v, steps h and h/2.
    f': factor i t; f'': -t^2; df/dalpha: -t^alpha log t.
    Inside (x^alpha < 0.1): R = 1, central = (1/pi) Im int (E - exp(-t^alpha)) dt/t, sf = 1/2 - central;
    outside: R = 1/x, sf = (1/pi) Im int (exp(i x t) - E) dt/t, central = 1/2 - sf.
    |E| <= 1 on the ray, so no digits are lost but those by which a result is smaller than int |.|: `loss` digits more
    are carried for them.
    Error: |difference of the last two steps| + rounding + the cut ends.
    """
    dps = digits + loss + 10
    with mp.workdps(dps):
        phi = mpf(rotation) * min(mp.pi / 2, mp.pi / (4 * mpf(alpha)))
        nats = (digits + loss + 4) * LN10
        inside = _is_inside(alpha, x)
        low, high = _ends(alpha, float(phi), nats, inside)
        h = mpf(2) ** -max(3, math.ceil(math.log2(nats / (5.0 * float(phi)))))
        node = _ray_node(alpha, x, phi, inside)
        coarse, size = _trapezoid(node, low, high, h, mpf(0))
        for _ in range(3):
            between, size_2 = _trapezoid(node, low, high, h, h / 2)
            fine = {name: (coarse[name] + between[name]) / 2 for name in coarse}
            size = {name: max(size[name], size_2[name]) for name in size}
            gap = {name: abs(fine[name] - coarse[name]) for name in fine}
            coarse, h = fine, h / 2
            if all(gap[name] <= mpf(10) ** -(digits + loss) * size[name] for name in gap):
                break
        ends = mpf(10) ** -(digits + loss + 2)
        bound = {name: gap[name] + ends * size[name] for name in gap}
        have, other = ("central", "sf") if inside else ("sf", "central")
        fine[other] = mpf(1) / 2 - fine[have]
        bound[other] = bound[have] + mp.eps
        return fine, bound


def _is_inside(alpha: float, x: float) -> bool:
    """x^alpha < 0.1: there 1/2 - sf would lose digits of P(0 < X < x)."""
    return alpha * math.log10(x) < -1


def _ends(alpha: float, phi: float, nats: float, inside: bool) -> tuple[float, float]:
    """v between which the integrands exceed e^-nats of their scale.

    They fall like exp(-r^alpha cos(alpha phi)) inside, exp(-x r sin phi) outside (there r is in units of 1/x), times
    at most r^3; to the left at least like r^min(1, alpha).
    """
    rate, power = (math.cos(alpha * phi), alpha) if inside else (math.sin(phi), 1.0)
    high = 0.0
    while rate * math.exp(power * (high - math.exp(-high))) - 4 * high < nats:
        high += 0.25
    return -math.log((nats + 10) / min(1.0, alpha)), high


def _ray_node(alpha: float, x: float, phi: mpf, inside: bool) -> Callable[[mpf], Sums]:
    """v -> the integrands of `ray_quadrature` at v (real or imaginary part taken, dt/dv included)."""
    a, z = mpf(alpha), mpf(x)
    log_scale = mpf(0) if inside else -mp.log(z)
    cos_1, sin_1 = mp.cos_sin(phi)
    cos_2, sin_2 = mp.cos_sin(2 * phi)
    cos_3, sin_3 = mp.cos_sin(3 * phi)
    cos_a, sin_a = mp.cos_sin(a * phi)
    cos_b, sin_b = mp.cos_sin((a + 1) * phi)

    def node(v: mpf) -> Sums:
        shrink = mp.exp(-v)
        log_r = v - shrink + log_scale
        r = mp.exp(log_r)
        ra = mp.exp(a * log_r)
        jacobian = (1 + shrink) / mp.pi  # dr / (pi r dv)
        damp_a = mp.exp(-ra * cos_a)
        damp_x = mp.exp(-z * r * sin_1)
        c, s = mp.cos_sin(z * r * cos_1 - ra * sin_a)
        c, s = damp_a * damp_x * c, damp_a * damp_x * s  # E
        w = jacobian * r
        re, im = c * cos_b - s * sin_b, c * sin_b + s * cos_b  # E e^(i (alpha + 1) phi)
        out = {
            "f": w * (c * cos_1 - s * sin_1),
            "f1": -w * r * (c * sin_2 + s * cos_2),
            "f2": -w * r * r * (c * cos_3 - s * sin_3),
            "fa": -w * ra * (log_r * re - phi * im),
        }
        if inside:
            out["central"] = jacobian * (s + damp_a * mp.sin(ra * sin_a))
        else:
            out["sf"] = jacobian * (damp_x * mp.sin(z * r * cos_1) - s)
        return out

    return node


def _trapezoid(node: Callable[[mpf], Sums], low: float, high: float, h: mpf, shift: mpf) -> tuple[Sums, Sums]:
    """(sums, sums of absolute values) of h node(shift + h j) over [low, high]."""
    total: Sums = {}
    size: Sums = {}
    for j in range(math.floor(low / float(h)), math.ceil(high / float(h)) + 1):
        for name, value in node(shift + h * j).items():
            total[name] = total.get(name, 0) + value
            size[name] = size.get(name, 0) + abs(value)
    return {k: h * v for k, v in total.items()}, {k: h * v for k, v in size.items()}


# --- 4. Closed forms -------------------------------------------------------------------------------------------------


def closed_form(alpha: float, x: float) -> Sums | None:
    """All but df/dalpha at alpha = 1 (Cauchy) and alpha = 2 (Gaussian of variance 2), None elsewhere.

    Beyond x = 2000 the Gaussian's pdf and sf (below 1e-434000) are given as 0.
    """
    z = mpf(x)
    if alpha == 1.0:
        d = 1 + z * z
        f = 1 / (mp.pi * d)
        sf = mp.atan(1 / z) / mp.pi if x > 0 else mpf(1) / 2
        return {"f": f, "f1": -2 * z * f / d, "f2": (6 * z * z - 2) * f / d**2, "sf": sf, "central": mp.atan(z) / mp.pi}
    if alpha == 2.0:
        gone = x > 2000
        f = mpf(0) if gone else mp.exp(-z * z / 4) / (2 * mp.sqrt(mp.pi))
        sf = mpf(0) if gone else mp.erfc(z / 2) / 2
        return {
            "f": f,
            "f1": -z / 2 * f,
            "f2": (z * z / 4 - mpf(1) / 2) * f,
            "sf": sf,
            "central": mp.erf(z / 2) / 2 if not gone else mpf(1) / 2,
        }
    return None


def closed_form_half(x: float) -> mpf:
    """pdf at alpha = 1/2, x > 0, by the complementary error function; used only as a check.

    On t = i y: f = (1/pi) Im int_0^inf exp(-x y - p sqrt(y)) dy with p = (1 - i)/sqrt(2), and with y = s^2
    int_0^inf 2 s exp(-x s^2 - p s) ds = 1/x - p sqrt(pi) exp(p^2/(4x)) erfc(p/(2 sqrt x)) / (2 x^(3/2)).
    """
    z = mpf(x)
    p = mp.mpc(1, -1) / mp.sqrt(2)
    u = p / (2 * mp.sqrt(z))
    return mp.im(1 / z - p * mp.sqrt(mp.pi) * mp.exp(u * u) * mp.erfc(u) / (2 * z ** mpf(1.5))) / mp.pi


# --- 5. The driver ---------------------------------------------------------------------------------------------------


def plans(alpha: float, x: float, digits: int = TARGET_DIGITS + 4) -> list[tuple[float, str]]:
    """Methods that can reach `digits`, cheapest first: [(estimated microseconds, name)]."""
    found = []
    for name, plan in (("zero", plan_zero(alpha, x, digits)), ("tail", plan_tail(alpha, x, digits))):
        if plan is not None:
            terms, dps = plan
            found.append((terms * (60 + 0.6 * dps), name))
    loss = _ray_loss(alpha, x)
    if loss < 120:
        found.append((1.5e5 * ((digits + loss) / 40) ** 2, "ray"))
    return sorted(found)


def _ray_loss(alpha: float, x: float) -> int:
    """Digits by which results fall below the integrals of absolute values on the ray (raised later if not enough)."""
    if x == 0:
        return 10**6
    log_x = math.log10(x)
    if _is_inside(alpha, x):
        return int(-1.3 * log_x) + 3
    return int(max(0.0, -guess_log_pdf(alpha, x) / LN10 - log_x)) + 6


def run_method(name: str, alpha: float, x: float, extra: int, variant: int) -> tuple[Sums, Sums]:
    """One method with `extra` more digits; variant 1 = another precision and length, or another angle."""
    digits = TARGET_DIGITS + 4 + extra + (7 * variant if name != "ray" else 0)
    if name == "ray":
        return ray_quadrature(alpha, x, TARGET_DIGITS + 4, _ray_loss(alpha, x) + extra, 0.8 if variant else 1.0)
    plan = (plan_zero if name == "zero" else plan_tail)(alpha, x, digits)
    if plan is None:
        raise NotReachedError(f"{name} at alpha={alpha!r}, x={x!r}, {digits} digits")
    return (zero_series if name == "zero" else tail_series)(alpha, x, *plan)


def law_by(name: str, alpha: float, x: float, variant: int = 0) -> Law:
    """The law by one named method, precision raised until `Law.error` is below the target; else NotReachedError."""
    extra = 0
    for _ in range(5):
        value, bound = run_method(name, alpha, x, extra, variant)
        row = Law(alpha, x, value, bound, name)
        error = _error_of_method(row)
        if error < 10.0**-TARGET_DIGITS:
            return row
        extra += 4 + (int(math.log10(error) + TARGET_DIGITS) if error < 1e60 else 60)
    raise NotReachedError(f"{name} at alpha={alpha!r}, x={x!r}: error {error:.1e}")


def _error_of_method(row: Law) -> float:
    """`Law.error` of a raw method; at alpha = 1 and 2 only df/dalpha is wanted from it."""
    exact = closed_form(row.alpha, row.x)
    if exact is not None and row.alpha == 2.0:
        scale = max(exact["f"], abs(row.value["fa"]))
        return float(row.bound["fa"] / scale) if scale else 1e300
    if not row.value["f"] > 0 or not row.value["sf"] > 0 or row.value["central"] < 0:
        return 1e20
    return row.error()


def with_closed_form(row: Law) -> Law:
    """At alpha = 1 and 2, the closed forms in place of the row's values (all but fa)."""
    with mp.workdps(3 * TARGET_DIGITS):
        exact = closed_form(row.alpha, row.x)
        if exact is None:
            return row
        bound = {name: abs(v) * mpf(10) ** -(2 * TARGET_DIGITS) for name, v in exact.items()}
        return Law(row.alpha, row.x, exact | {"fa": row.value["fa"]}, bound | {"fa": row.bound["fa"]}, row.method)


def law(alpha: float, x: float) -> Law:
    """The law at (alpha, x >= 0) by the cheapest method that reaches the target; NotReachedError if none does."""
    for _, name in plans(alpha, x):
        try:
            return with_closed_form(law_by(name, alpha, x))
        except NotReachedError:
            continue
    raise NotReachedError(f"no method at alpha={alpha!r}, x={x!r}")


def verified_law(alpha: float, x: float, most_seconds: float = 3.0) -> tuple[Law, float]:
    """(law, error): evaluated twice and independently; error covers both bounds and the disagreement.

    The second evaluation takes another method if one reaches the target within about `most_seconds`,
    otherwise the same method with another precision and length, or another angle.
    """
    first = law(alpha, x)
    second = None
    for cost, name in plans(alpha, x):
        if name != first.method and cost < most_seconds * 1e6:
            try:
                second = law_by(name, alpha, x)
                break
            except NotReachedError:
                continue
    if second is None:
        second = law_by(first.method, alpha, x, variant=1)
    tag = f"{first.method}+{second.method}"
    second = with_closed_form(second)
    error = max(first.error(), second.error(), disagreement(first, second))
    return Law(alpha, x, first.value, first.bound, tag), error


def disagreement(one: Law, two: Law) -> float:
    """Largest difference of two evaluations over all columns, in the measures of `Law.error`."""
    a, b = one.columns(), two.columns()
    worst = mpf(0)
    with mp.workdps(3 * TARGET_DIGITS):
        for name in COLUMNS:
            if a[name] == b[name]:
                continue
            scale = abs(a[name])
            if name == "curvature":
                scale += a["omega"]
            elif name == "dlogpdf_dalpha":
                scale = max(1, scale)
            elif name == "log_pdf":
                scale = mpf(1)
            worst = max(worst, abs(a[name] - b[name]) / scale)
    return float(worst)


# --- 6. Checks -------------------------------------------------------------------------------------------------------


def cross_check(points: int, seed: int) -> None:
    """All pairs of methods that reach the target at random points; prints the largest disagreement of each pair."""
    rng = np.random.default_rng(seed)
    worst: dict[str, tuple[float, float, float]] = {}
    count: dict[str, int] = {}
    for _ in range(points):
        kind = rng.integers(3)
        near_1 = 1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-16, -1.3)
        near_2 = 2 - 10 ** rng.uniform(-16, -1)
        alpha = float((rng.uniform(0.1, 2), near_1, near_2)[kind])
        x = float(10 ** rng.uniform(-6, 3)) if rng.random() < 0.7 else float(10 ** rng.uniform(-25, 25))
        rows = []
        for cost, name in plans(alpha, x):
            if cost < 3e6:
                try:
                    rows.append(with_closed_form(law_by(name, alpha, x)))
                except NotReachedError:
                    count[f"{name} not reached"] = count.get(f"{name} not reached", 0) + 1
        for i, one in enumerate(rows):
            for two in rows[i + 1 :]:
                pair = "+".join(sorted((one.method, two.method)))
                count[pair] = count.get(pair, 0) + 1
                worst[pair] = max(worst.get(pair, (-1.0, 0.0, 0.0)), (disagreement(one, two), alpha, x))
        if not rows:
            print(f"no method at alpha={alpha!r}, x={x!r}")
    for pair, n in sorted(count.items()):
        gap, alpha, x = worst.get(pair, (math.nan, math.nan, math.nan))
        print(f"{pair:16s} {n:5d} points, largest disagreement {gap:.1e} at alpha={alpha!r}, x={x!r}")


def _apart(a: mpf, b: mpf) -> float:
    return float(abs(a - b) / abs(b)) if b else float(abs(a))


def check_outside_formulas() -> None:
    """Formulas that share nothing with the three methods: prints the largest relative difference of each."""
    with mp.workdps(60):
        half = max(_apart(law(0.5, x).value["f"], closed_form_half(x)) for x in (1e-4, 0.003, 0.1, 1.0, 7.0, 300.0))
        print(f"alpha = 1/2 by erfc, pdf: {half:.1e}")
        for alpha, exact in ((1.0, "Cauchy"), (2.0, "Gauss")):
            gap = 0.0
            for x in (1e-20, 0.01, 0.4, 0.9, 1.0, 1.7, 5.0, 12.0):
                closed = closed_form(alpha, x)
                assert closed is not None
                for _, name in plans(alpha, x):
                    value, _ = run_method(name, alpha, x, 60 if alpha == 2 and x > 3 else 0, 0)
                    gap = max([gap] + [_apart(value[q], closed[q]) for q in closed if closed[q]])
            print(f"{exact} closed form against the raw methods, all of {QUANTITIES[:5]}: {gap:.1e}")
        places = ((0.3, 0.01), (0.7, 2.5), (1.4, 0.6), (1.8, 5.0))
        gap = max(_apart(law(a, x).value["f"], zolotarev_pdf(a, x)) for a, x in places)
        print(f"Zolotarev-Nolan integral, pdf: {gap:.1e}")
        more = ((0.25, 0.02), (0.8, 0.5), (0.9999, 1.0), (1.00001, 1.25), (1.5, 4.0), (1.97, 9.0))
        gaps = [derivative_gaps(a, x) for a, x in more]
        worst = {name: max(g[name] for g in gaps) for name in gaps[0]}
        text = ", ".join(f"{name} {gap:.1e}" for name, gap in worst.items())
        print(f"finite differences (steps about 2^-20 x, order h^6): {text}")


def zolotarev_pdf(alpha: float, x: float) -> mpf:
    """The pdf by mp.quad (Nolan 1997): alpha x^(1/(alpha-1)) / (pi |alpha-1|) int_0^(pi/2) V exp(-x^e V) dth.

    e = alpha/(alpha-1), V = (cos th / sin(alpha th))^e cos((alpha-1) th) / cos th.
    """
    a, z = mpf(alpha), mpf(x)
    e = a / (a - 1)

    def integrand(th: mpf) -> mpf:
        v = (mp.cos(th) / mp.sin(a * th)) ** e * mp.cos((a - 1) * th) / mp.cos(th)
        return v * mp.exp(-(z**e) * v)

    total = mp.quad(integrand, [mp.pi / 2 * k / 16 for k in range(17)])
    return a * z ** (1 / (a - 1)) / (mp.pi * abs(a - 1)) * total


def derivative_gaps(alpha: float, x: float) -> dict[str, float]:
    """f' and f'' and -f = d sf/dx and fa against central differences of f, f', sf nearby, order h^6."""
    here = law(alpha, x).value

    def slope(name: str, by_alpha: bool) -> mpf:
        base = alpha if by_alpha else x
        h = math.ldexp(1.0, math.frexp(base)[1] - 21)
        estimates = []
        for step in (h, 2 * h, 4 * h):
            ends = [law(base + sign * step, x) if by_alpha else law(alpha, base + sign * step) for sign in (1, -1)]
            estimates.append((ends[0].value[name] - ends[1].value[name]) / (2 * mpf(step)))
        first = [(4 * estimates[i] - estimates[i + 1]) / 3 for i in (0, 1)]
        return (16 * first[0] - first[1]) / 15

    return {
        "f'": _apart(slope("f", False), here["f1"]),
        "f''": _apart(slope("f1", False), here["f2"]),
        "sf'": _apart(-slope("sf", False), here["f"]),
        "df/dalpha": _apart(slope("f", True), here["fa"]),
    }


def main() -> None:
    check_outside_formulas()
    cross_check(points=400, seed=20241220)


if __name__ == "__main__":
    main()
