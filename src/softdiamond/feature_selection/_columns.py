r"""A table as the inputs of a network: numeric columns as they are, those of categories as one dummy a category.

All inputs of one column are centered and divided by one number, the root of their mean variance, so that a column has the same
weight however many categories it has, and a rare category is no large input. A column that does not vary gives inputs of 0.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softdiamond.stable import D_MAX

__all__ = ["Columns", "by_column", "is_frame"]

LARGEST, SMALLEST = 1e150, 1e-150  # absolute values whose squares are float64 numbers


def is_frame(table: Any) -> bool:
    """Whether it is a pandas DataFrame."""
    return hasattr(table, "iloc") and hasattr(table, "dtypes") and hasattr(table, "columns")


def by_column(table: Any) -> bool:
    """Whether it is a frame with a column that is not of a numeric type: of categories, strings, objects, dates."""
    return is_frame(table) and any(getattr(dtype, "kind", "O") not in "biuf" for dtype in table.dtypes)


@dataclass(frozen=True)
class Columns:
    """How a table is read.

    Attributes
    ----------
    categories : list
        For each column its categories, sorted, or None where it is numeric.
    labels : ndarray
        int64 of shape (inputs,): the column of each input.
    names : list
        What messages call the columns.
    """

    categories: list[list[Any] | None]
    labels: NDArray[np.int64]
    names: list[str]

    @classmethod
    def of(cls, table: Any, names: Iterable[Any]) -> Columns:
        """Look at a checked table whose columns have these names.

        Raises
        ------
        ValueError
            If a column of categories has missing values.
        """
        categories: list[list[Any] | None] = [None] * table.shape[1]
        if by_column(table):
            for j, dtype in enumerate(table.dtypes):
                if getattr(dtype, "kind", "O") not in "biufcmM":
                    categories[j] = _categories(table, j)
        counts = [1 if each is None else len(each) for each in categories]
        return cls(categories, np.repeat(np.arange(len(counts)), counts), [f"column {name!r}" for name in names])

    def check_counts(self, width: int) -> None:
        """Raise ValueError if a column's inputs, each with ``width`` weights, are more than one group can have."""
        counts = np.bincount(self.labels)
        if (most := int(counts.max())) * width <= D_MAX:
            return
        if most == 1:
            raise ValueError(f"a first layer of {width:,} is too wide: at most {D_MAX:,}, the weights of one group")
        raise ValueError(
            f"{self.names[int(counts.argmax())]} has {most:,} categories; with a first layer of {width:,} at most "
            f"{D_MAX // width:,} make one group: merge rare ones, give numbers in their place, or narrow the layer"
        )

    def check_range(self, inputs: NDArray[np.float64]) -> None:
        """Raise ValueError if squares of a column's values over- or underflow."""
        size = np.abs(inputs).max(0)
        if (bad := (size > LARGEST) | ((size > 0) & (size < SMALLEST))).any():
            j = int(bad.argmax())
            raise ValueError(
                f"{self.names[self.labels[j]]} has values of up to {size[j]:.1g}: give it in another unit, between {SMALLEST:g} "
                f"and {LARGEST:g}"
            )

    def encode(self, table: Any) -> NDArray[np.float64]:
        """Inputs of the network, float64 of shape (rows, inputs); a category not seen before is none of those that were.

        Raises
        ------
        ValueError
            If a value is missing, infinite or no number where one is expected.
        """
        if not is_frame(table):
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


def _categories(table: Any, j: int) -> list[Any] | None:
    """Categories of a column that is of no numeric type; None if all its values are numbers nevertheless."""
    values = _present(table, j)
    try:
        found = set(values)
    except TypeError:
        kind = next(type(value).__name__ for value in values if type(value).__hash__ is None)
        raise ValueError(f"column {table.columns[j]!r} holds a {kind}: give numbers, strings or categories") from None
    declared = str(table.dtypes.iloc[j]).startswith(("category", "dictionary"))
    if not declared and all(map(_is_number, found)):
        return None
    return sorted(found, key=lambda value: (type(value).__name__, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, (bool, complex, np.complexfloating))


def _numbers(table: Any, j: int) -> NDArray[np.float64]:
    name, kind = table.columns[j], getattr(table.dtypes.iloc[j], "kind", "O")
    if kind in "mMc":
        what = "complex numbers" if kind == "c" else "dates or times"
        raise ValueError(
            f"column {name!r} holds {what}: give real numbers made of them (days since a date, the month, ...)"
        )
    try:
        values = np.asarray(table.iloc[:, j].to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} is not numeric: {error}") from None
    if np.isnan(values).any():
        raise ValueError(f"column {name!r} has missing values (NaN): fill them or leave out the rows")
    if np.isinf(values).any():
        raise ValueError(f"column {name!r} contains infinity")
    return values
