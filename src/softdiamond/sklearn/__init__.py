r"""Soft diamond estimators beside scikit-learn's Lasso: linear models under a symmetric alpha-stable prior.

.. math:: \frac{1}{2 \sum_i s_i} \sum_i s_i (y_i - x_i b - b_0)^2 + \lambda \sum_j f_j R(b_j / c)

R is the penalty of `softdiamond.table`, s the sample weights, f the ``penalty_factor``; the classifiers have the mean log-loss
in the place of squares. b is in units of the standardized columns unless ``standardize=False``. Thick tails leave large
coefficients alone and a sharp peak pulls the others to zero, so that fewer false columns come in than with lasso.

**Names.** scikit-learn's ``alpha`` is a strength. Here the strength is ``strength``, and the tail index, the alpha of the
stable law, is ``tail``: 2 is ridge, 1 the Cauchy prior, 0.5 a star.

Importing this module needs scikit-learn and numba (``pip install "softdiamond[sklearn]"``) and no torch.
"""

from softdiamond._extras import require

require("sklearn")

from softdiamond.sklearn._classification import SoftDiamondClassifier, SoftDiamondClassifierCV
from softdiamond.sklearn._fit import Path
from softdiamond.sklearn._path import soft_diamond_path
from softdiamond.sklearn._regression import SoftDiamondRegressor, SoftDiamondRegressorCV

__all__ = [
    "Path",
    "SoftDiamondClassifier",
    "SoftDiamondClassifierCV",
    "SoftDiamondRegressor",
    "SoftDiamondRegressorCV",
    "soft_diamond_path",
]
