r"""The precomputed look-up table of one law: penalty, score, omega and curvature from one look-up.

A law is an alpha and the number d of weights that share a radius, 1 for the scalar law.

**Grid.** The leading bits of \|x\| are the index, no logarithm is taken: the exponent picks an octave [2^e, 2^(e+1)), the
leading b mantissa bits a cell of it. Each octave has the smallest b that meets the tolerance, so that the Gaussian
shoulder of an alpha near 2 gets a hundred cells and a tail gets four.

**Rule.** A cell stores its center m, the penalty R there, and the coefficients of a polynomial in
:math:`\tau = x / 2^e - m` for the gradient of the penalty, :math:`R'(x) = 2^{1-e} \sum_k g_k \tau^k`, fitted to R' and R'' of the exact
law (Hermite interpolation, the cells' ends among the nodes, so that R, R' and R'' are continuous). Then

.. math:: R(x) = R(2^e m) + 2 \sum_k g_k \tau^{k+1} / (k+1), \qquad R''(x) = 2^{1-2e} \sum_k k g_k \tau^{k-1}:

penalty, gradient and curvature are exact derivatives of each other. The coefficients are free of units: nothing under-
or overflows between 2^-126 and 2^127.

**Two tables.** ``double`` (degree 9, for float64) is fitted to the exact law and continues analytically, with constant omega
below and the tail series (at alpha = 2 the parabola) above; ``single`` (degree 5, for float32) is fitted to ``double`` and
reaches from 2^-60 or below to the largest float32 (2^60 at alpha = 2).

**Groups.** A table of d > 1 weights takes the radius in units of a power of two, ``Table.unit``, near the crossover radius
:math:`\sqrt{(d + \alpha) / \omega_d(0)}`, where a float32 could not hold both: at alpha = 0.1 and d = 65,536 it is 3e-56.

**Certificate.** At build both are measured against the exact law at random points, and the largest errors are stored:
penalty in units of max(1, penalty), omega (and so score) relative, curvature in units of \|curvature\| + omega.
"""

from softdiamond.table._cache import lookup_table
from softdiamond.table._grid import Grid
from softdiamond.table._table import Table

__all__ = ["Grid", "Table", "lookup_table"]
