r"""The exact symmetric alpha-stable (SaS) law in float64 NumPy.

The law has the characteristic function exp(-\|scale t\|^alpha), 0.1 <= alpha <= 2, dispersion = scale^alpha: alpha = 2 is a
Gaussian of variance 2 scale^2, alpha = 1 a Cauchy. In between there is no closed form. Five regimes cover every float64 x,
each with its mathematics in a file of its own; ``_law`` picks by z = \|x\| / scale:

=====================  =====================================================  =======  =======  =========  =======
regime                 where                                                      pdf    omega  curvature       sf
=====================  =====================================================  =======  =======  =========  =======
1 series at zero       z below a limit(alpha): 4e-22 at 0.1, 0.0036 at 0.5,   2.7e-15  1.2e-14    6.2e-15  5.2e-16
                       0.22 at 1, 1.2 at 2
2 tail series          z above a limit(alpha): 9e-6 at 0.1, 0.7 at 0.5,       1.5e-13  4.5e-14    6.9e-14  1.3e-13
                       4.4 at 1, 16 (and more, the nearer to it) at 2
3 contour integral     between the two                                        3.0e-14  1.2e-13    1.5e-12  2.1e-13
4 ray integral         between the two, alpha within 0.02 of 1                1.5e-15  7.1e-16    1.3e-15  7.7e-16
5 closed forms         alpha = 1 (beyond regime 1) and alpha = 2              1.8e-14  2.3e-16    2.0e-16  2.4e-14
=====================  =====================================================  =======  =======  =========  =======

The error columns are the largest found at 10,105 points against 50-digit arithmetic (relative; curvature over \|curvature\| +
omega), by ``python benchmarks/error_map.py --points 9000``; the score is as good as omega, d logpdf / d alpha within 6e-13 of
max(1, \|value\|), cdf(ppf(p)) = p within 3e-13. They hold where the true result is a normal float64; a result beyond comes
out as 0, inf or a subnormal of the same relative error.

The law of a group of d weights as a function of their norm (``group_penalty`` and the others, d up to 65,536; ``group_law``) has
regimes of its own, whose switch points depend on (alpha, d):

=====================  =====================================================  =======  =======  =========
regime                 where                                                  penalty    omega  curvature
=====================  =====================================================  =======  =======  =========
1 series at zero       d = 64: r below 3e-4 at 0.5, 0.09 at 1.01, 0.9 at 1.9  8.0e-15  8.7e-15    5.6e-15
2 tail series          d = 64: r above 22 at 0.5, 13 at 1.01, 26 at 1.9       6.0e-16  2.7e-16    2.0e-16
3 mixture integral     between the two (``_mixture``)                         7.2e-14  1.0e-13    2.6e-12
4 closed forms         alpha = 1 and alpha = 2                                2.0e-16  2.6e-16    1.7e-16
=====================  =====================================================  =======  =======  =========

at 255 random points (alpha, d, r) against 25 digits (``python benchmarks/group_error_map.py --seconds 240``; regime 4 at the
frozen rows). With d = 1 the scalar functions are used.

Not known: a proof of these errors. Weak: within 0.02 of alpha = 1 the scalar law is several times slower than elsewhere.
"""

from softdiamond.stable._fit import Fit, fit
from softdiamond.stable._group_functions import group_curvature, group_omega, group_penalty, group_score
from softdiamond.stable._parameters import ALPHA_MAX, ALPHA_MIN, parameters
from softdiamond.stable._scalar_functions import (
    cdf,
    curvature,
    dlogpdf_dalpha,
    isf,
    logpdf,
    omega,
    pdf,
    ppf,
    rvs,
    score,
    sf,
)
from softdiamond.stable.group_law import D_MAX

__all__ = [
    "ALPHA_MAX",
    "ALPHA_MIN",
    "D_MAX",
    "Fit",
    "cdf",
    "curvature",
    "dlogpdf_dalpha",
    "fit",
    "group_curvature",
    "group_omega",
    "group_penalty",
    "group_score",
    "isf",
    "logpdf",
    "omega",
    "parameters",
    "pdf",
    "ppf",
    "rvs",
    "score",
    "sf",
]
