r"""Columns as the solver sees them: weighted, centered and scaled, without a copy of the table.

With weights w of the rows (sum 1), means m and deviations s of the columns, :math:`\tilde X = (X - 1 m^T) / s`. Only products
with it are formed: :math:`\tilde X b`, :math:`\tilde X^T (w r)`, :math:`\tilde X^T W \tilde X` of the columns that the
solver works on, and :math:`\tilde X D \tilde X^T` for the dual form of ridge. Sparse X stays sparse. A cross-validation fold is the
same table with other weights: zero on the rows left out.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
Index = NDArray[np.intp]

BLOCK_NUMBERS = 4_000_000  # numbers of a dense block of columns: 32 MB
MAX_GRAM_COLUMNS = 1024  # columns up to which the whole Gram matrix is formed at once
MAX_GRAM_COLUMNS_TALL = 4096  # the same where there are more rows than columns


class Design:
    """One table under one set of weights.

    Parameters
    ----------
    X : ndarray or csc_array, shape (n, p), float64
        The table; not changed.
    w : ndarray, shape (n,)
        Not negative, with a positive sum.
    center, scale : bool
        Subtract each column's mean; divide by its deviation from what was subtracted.
    """

    def __init__(self, X: Any, w: Array, center: bool, scale: bool) -> None:
        self.X, self.w, self.center = X, w / w.sum(), center
        self.n, self.p = X.shape
        self.sparse = sparse.issparse(X)
        self.mean = np.asarray(X.T @ self.w).ravel() if center else np.zeros(self.p)
        variance = self._variance()
        # What rounding leaves of a constant column, in one pass over a sparse table and in two over a dense one.
        relative = 1e-14 if self.sparse else (4 * self.n * np.finfo(float).eps) ** 2
        floor = relative * (variance + self.mean**2) + np.finfo(float).tiny
        self.varies = variance > floor
        with np.errstate(divide="ignore"):
            inverse = 1 / np.sqrt(variance) if scale else np.ones(self.p)
        self.inverse = np.where(self.varies, inverse, 0.0)
        self.diagonal = np.where(self.varies, 1.0 if scale else variance, 0.0)
        self.full_gram = self.p <= (MAX_GRAM_COLUMNS_TALL if self.n >= self.p else MAX_GRAM_COLUMNS)
        self.working = np.empty(0, np.intp)
        self.gram = np.empty((0, 0))
        if self.full_gram:
            self.extend_working_set(np.arange(self.p))

    @cached_property
    def largest(self) -> float:
        """Largest eigenvalue of X̃ᵀ W X̃ by the power method, with a margin."""
        x = np.full(self.p, 1 / np.sqrt(self.p)) * np.where(np.arange(self.p) % 2, 1.0, -0.7)
        for _ in range(40):
            image = self.moment(self.predict(x))
            size = float(np.linalg.norm(image))
            x = image / size if size > 0 else x
        return 1.2 * size

    def _variance(self) -> Array:
        if self.sparse:
            square = np.asarray(self.X.multiply(self.X).T @ self.w).ravel()
            return np.maximum(square - self.mean**2, 0.0)  # of a constant column rounding may leave less than 0
        variance = np.empty(self.p)
        for block in self._blocks():
            part = self.X[:, block] - self.mean[block]
            variance[block] = self.w @ (part * part)
        return variance

    def _blocks(self) -> list[slice]:
        width = max(1, BLOCK_NUMBERS // self.n)
        return [slice(start, min(start + width, self.p)) for start in range(0, self.p, width)]

    def predict(self, b: Array) -> Array:
        """X̃ b, b of shape (p,) or (p, K)."""
        scaled = (b.T * self.inverse).T
        few = np.flatnonzero(scaled if scaled.ndim == 1 else scaled.any(axis=1))
        if few.size < self.p // 8:
            return np.asarray(self.X[:, few] @ scaled[few] - self.mean[few] @ scaled[few])
        return np.asarray(self.X @ scaled - self.mean @ scaled)

    def moment(self, r: Array) -> Array:
        """X̃ᵀ (w r), r of shape (n,)."""
        weighted = self.w * r
        return np.asarray(self.X.T @ weighted - self.mean * weighted.sum()) * self.inverse

    def extend_working_set(self, new: Index) -> None:
        """Take columns into the working set: extend its Gram matrix."""
        old = self.working
        both = np.concatenate([old, new])
        gram = np.empty((both.size, both.size))
        gram[: old.size, : old.size] = self.gram
        gram[old.size :, :] = self._products(new, both)
        gram[: old.size, old.size :] = gram[old.size :, : old.size].T
        gram.flat[:: both.size + 1] = self.diagonal[both]  # free of rounding: equal columns take equal steps
        self.working, self.gram = both, gram

    def _products(self, left: Index, right: Index) -> Array:
        """X̃ᵀ W X̃ of the columns named."""
        if self.sparse:
            weighted = self.X[:, left].multiply(self.w[:, None]).tocsc()
            products = (weighted.T @ self.X[:, right]).toarray() - np.outer(self.mean[left], self.mean[right])
            return products * self.inverse[left][:, None] * self.inverse[right]
        width = max(1, BLOCK_NUMBERS // self.n)
        same = left.size == right.size
        products = np.empty((left.size, right.size))
        for start in range(0, left.size, width):
            rows = slice(start, start + width)
            a = self.columns(left[rows])
            for first in range(0, right.size, width):
                block = slice(first, first + width)
                b = a if same and first == start else self.columns(right[block])
                products[rows, block] = a.T @ b
        return products

    def columns(self, which: Any) -> Array:
        """Dense √W X̃ of some columns."""
        columns = self.X[:, which]
        columns = columns.toarray() if self.sparse else columns - self.mean[which]
        if self.sparse:
            columns -= self.mean[which]
        columns *= self.inverse[which]
        columns *= np.sqrt(self.w)[:, None]
        return np.asarray(columns)

    def dual_gram(self, weight: Array) -> Array:
        """√W X̃ diag(weight) X̃ᵀ √W, shape (n, n): what the dual form of ridge needs."""
        if self.sparse:
            d = weight * self.inverse**2
            half = self.X.multiply(np.sqrt(d)).tocsr()
            drift = self.X @ (d * self.mean)
            product = (half @ half.T).toarray() - drift[:, None] - drift + self.mean @ (d * self.mean)
            root = np.sqrt(self.w)
            return np.asarray(product * root[:, None] * root)
        total = np.zeros((self.n, self.n))
        for block in self._blocks():
            part = self.columns(block) * np.sqrt(weight[block])
            total += part @ part.T
        return total
