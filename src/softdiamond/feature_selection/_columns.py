r"""A table as the inputs of a network: numeric columns as they are, those of categories as one dummy a category.

All inputs of one column are centred and divided by one number, the root of their mean variance, so that a column has the same
weight however many categories it has, and a rare category is no large input. A column that does not vary gives inputs of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "is_frame", "with_categories"]


def is_frame(table: Any) -> bool:
    """Whether it is a pandas DataFrame."""
    return hasattr(table, "iloc") and hasattr(table, "dtypes") and hasattr(table, "columns")


def _is_category(dtype: Any) -> bool:
    return str(dtype) in ("category", "object", "str", "string") or str(dtype).startswith("string")


def with_categories(table: Any) -> bool:
    """Whether it is a frame with a column of categories, strings or objects."""
    return is_frame(table) and any(map(_is_category, table.dtypes))


@dataclass(frozen=True)
class Columns:
    """How a table is read.

    Attributes
    ----------
    categories : list
        For each column its categories, sorted, or None where it is numeric.
    labels : ndarray
        int64 of shape (inputs,): the column of each input.
    """

    categories: list[list[Any] | None]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, table: Any) -> Columns:
        """Look at a checked table.

        Raises
        ------
        ValueError
            If a column of categories has missing values.
        """
        categories: list[list[Any] | None] = [None] * table.shape[1]
        if with_categories(table):
            for j, dtype in enumerate(table.dtypes):
                if _is_category(dtype):
                    found = set(_present(table, j))
                    categories[j] = sorted(found, key=lambda value: (type(value).__name__, value))
        counts = [1 if each is None else len(each) for each in categories]
        return cls(categories, np.repeat(np.arange(len(counts)), counts))

    def encode(self, table: Any) -> NDArray[np.float64]:
        """Inputs of the network, float64 of shape (rows, inputs); a category not seen before is none of those that were.

        Raises
        ------
        ValueError
            If a value is missing, infinite or no number where one is expected.
        """
        if not any(self.categories):
            return np.asarray(table, dtype=np.float64)
        out = np.empty((len(table), len(self.labels)))
        at = 0
        for j, each in enumerate(self.categories):
            if each is None:
                out[:, at] = _numbers(table, j)
                at += 1
                continue
            place = {value: i for i, value in enumerate(each)}
            codes = np.array([place.get(value, -1) for value in _present(table, j)])
            out[:, at : at + len(each)] = codes[:, None] == np.arange(len(each))
            at += len(each)
        return out

    def moments(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what is taken from each input and by what it is multiplied then, float64 of shape (inputs,)."""
        mean = inputs.mean(0)
        variance = inputs.var(0)
        size = np.maximum(np.abs(inputs).max(0), np.finfo(float).tiny)
        variance[variance <= (10 * np.finfo(float).eps * size) ** 2] = 0.0  # rounding of the mean
        count = np.bincount(self.labels)
        spread = np.sqrt(np.bincount(self.labels, weights=variance) / count)
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        return mean, factor[self.labels] * (variance > 0)


def _present(table: Any, j: int) -> list[Any]:
    column = table.iloc[:, j]
    if column.isna().any():
        raise ValueError(f"column {table.columns[j]!r} has missing values (NaN): fill them or leave out the rows")
    return list(column)


def _numbers(table: Any, j: int) -> NDArray[np.float64]:
    try:
        values = np.asarray(table.iloc[:, j].to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {table.columns[j]!r} is not numeric: {error}") from None
    if not np.isfinite(values).all():
        raise ValueError(f"column {table.columns[j]!r} contains NaN or infinity: fill them or leave out the rows")
    return values
