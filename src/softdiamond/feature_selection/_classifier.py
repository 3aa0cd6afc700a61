"""The network that classifies by the columns that it chooses."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from softdiamond.feature_selection import networks
from softdiamond.feature_selection._estimator import Array, SoftDiamondNet


class SoftDiamondNetClassifier(ClassifierMixin, SoftDiamondNet):
    """A network that classifies by the columns that it chooses.

    Its parameters and attributes are those of `SoftDiamondNetRegressor`, and

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
        The classes.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).uniform(-1, 1, (400, 20))
    >>> net = SoftDiamondNetClassifier(max_iter=300, random_state=0).fit(X, X[:, 3] * X[:, 7] > 0)
    >>> net.get_support(indices=True)
    array([3, 7])
    """

    _loss = staticmethod(networks.cross_entropy)

    def _targets(self, y: Any) -> NDArray[Any]:
        if _any_missing(y):
            raise ValueError("y has missing values (NaN): leave out the rows")
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]}: a classifier needs at least two")
        return codes.astype(np.int64)

    def _scaled(self, y: NDArray[Any], fitted: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        return y, np.zeros(1), np.ones(1)

    def _outputs(self, y: NDArray[Any]) -> int:
        return len(self.classes_)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, float64 of shape (rows, classes)."""
        out = self._raw(X)
        out = np.exp(out - out.max(1, keepdims=True))
        return np.asarray(out / out.sum(1, keepdims=True))

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the classes, of shape (rows,)."""
        best = self._raw(X).argmax(1)
        return np.asarray(self.classes_[best])


def _any_missing(y: Any) -> bool:
    """Whether a label is None, NaN or what a Series takes for it."""
    if hasattr(y, "isna"):
        return bool(np.any(y.isna()))
    values = np.asarray(y, dtype=object if isinstance(y, list | tuple) else None)
    return values.dtype.kind in "fO" and any(map(_is_missing, values.ravel()))


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN or what pandas takes for it."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, numbers.Real) and value != value)
