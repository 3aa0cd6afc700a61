"""Rows to train on and rows to validate with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import check_cv, train_test_split


def split_rows(
    X: Any, y: NDArray[Any], cv: Any, validation_fraction: float, random: np.random.RandomState
) -> list[tuple[Any, Any]]:
    """Training and validation rows: those of each fold of ``cv``, or of one split where that is None.

    Raises
    ------
    ValueError
        If ``cv`` gives no folds, or one that is no two selections of rows.
    """
    classes = y if y.ndim == 1 else None
    if cv is not None:
        folds = list(check_cv(cv, classes, classifier=classes is not None).split(X, classes))
        if not folds:
            raise ValueError(f"cv gives no fold; got {cv!r}")
        for fold in folds:
            if not _is_fold(fold, len(y)):
                raise ValueError(
                    "each fold of cv must be rows to train on and rows to validate with, at least one of each and of the "
                    f"{len(y)} rows that there are; got {cv!r}"
                )
        return folds
    rows = np.arange(len(y))
    held = min(max(1, round(validation_fraction * len(rows))), len(rows) - 1)
    counts = None if classes is None else np.bincount(classes)
    stratified = counts is not None and counts.min() >= 2 and len(counts) <= min(held, len(rows) - held)
    inner, held_out = train_test_split(
        rows, test_size=held, random_state=random, stratify=classes if stratified else None
    )
    return [(inner, held_out)]


def _is_fold(fold: Any, rows: int) -> bool:
    """Whether it is two selections of rows, none of them empty."""
    try:
        inner, held_out = (np.arange(rows)[part] for part in fold)
    except (IndexError, TypeError, ValueError):
        return False
    return inner.ndim == held_out.ndim == 1 and len(inner) > 0 and len(held_out) > 0
