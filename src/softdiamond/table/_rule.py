r"""The interpolation rule's arithmetic, once for every reader: a cell's polynomials, and the series above the cells.

Plain arithmetic on whatever holds the numbers: NumPy arrays, tensors, the arrays of a namespace, or, compiled by numba, numbers.
In a cell :math:`R' \propto \sum_k g_k \tau^k`; the degree is len(g) - 1, that of the table. Above the cells
:math:`x^d f(x) = \sum_k a_k y^{k+1}` with :math:`y = x^{-\alpha}`.
"""

from __future__ import annotations

from typing import Any


def polynomial(g: Any, tau: Any) -> Any:
    """sum_k g_k tau^k."""
    total = g[len(g) - 1]
    for k in range(len(g) - 2, -1, -1):
        total = total * tau + g[k]
    return total


def derivative(g: Any, tau: Any) -> Any:
    """sum_k k g_k tau^(k-1)."""
    total = g[len(g) - 1] * (len(g) - 1)
    for k in range(len(g) - 2, 0, -1):
        total = total * tau + g[k] * k
    return total


def mean(g: Any, tau: Any) -> Any:
    """sum_k g_k tau^k / (k+1): the polynomial's mean between 0 and tau."""
    total = g[len(g) - 1] / len(g)
    for k in range(len(g) - 2, -1, -1):
        total = total * tau + g[k] / (k + 1)
    return total


def tail_sums(y: Any, alpha: float, d: int, tail: Any) -> tuple[Any, Any, Any]:
    """sum_k a_k y^k, the same with each term times p_k, and times p_k (p_k + 1), where p_k = alpha (k+1) + d."""
    total = first = second = 0.0 * y
    for k in range(len(tail) - 1, -1, -1):
        power = alpha * (k + 1) + d
        total = total * y + tail[k]
        first = first * y + tail[k] * power
        second = second * y + tail[k] * (power * (power + 1))
    return total, first, second


def beyond(xp: Any, x: Any, alpha: float, d: int, log_peak: float, tail: Any) -> tuple[Any, Any, Any]:
    """Penalty, gradient and curvature above the cells: the tail series, or the parabola at alpha = 2, which has none."""
    if not len(tail):
        return x * (x / 4), x / 2, xp.full_like(x, 0.5)
    penalty, first, second = tail_series(xp, xp.log(x), x**-alpha, alpha, d, log_peak, tail)
    return penalty, first / x, (first * first - second) / x / x


def tail_series(xp: Any, log_x: Any, y: Any, alpha: float, d: int, log_peak: float, tail: Any) -> tuple[Any, Any, Any]:
    """Penalty as a function of log x and y = x^-alpha, its derivative x R'(x) in log x, and x^2 f''(x) / f(x)."""
    total, first, second = tail_sums(y, alpha, d, tail)
    return log_peak + (alpha + d) * log_x - xp.log(total), first / total, second / total
