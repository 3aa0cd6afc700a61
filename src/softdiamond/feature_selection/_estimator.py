"""What the estimators share: a fit in order, and what follows from the network that was fitted."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from softdiamond.feature_selection import selection, training
from softdiamond.feature_selection._columns import Columns, by_column, is_frame
from softdiamond.feature_selection._memory import check_memory
from softdiamond.feature_selection.networks import Groups, Stack
from softdiamond.feature_selection.parameters import DEFAULT_BATCH, check_parameters
from softdiamond.feature_selection.path import Path, follow_path
from softdiamond.feature_selection.splits import split_rows
from softdiamond.penalties import Penalty, SoftDiamond

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Array = NDArray[np.float64]


@dataclass(frozen=True)
class _SplitResult:
    """What one split of the rows gives."""

    path: Path
    groups: Groups
    rows: tuple[Any, Any]  # to train and to validate, as indices
    scaling: tuple[Array, Array, Array, Array]  # mean and factor of the inputs, mean and scale of the targets
    rounds: int
    generator: torch.Generator


class SoftDiamondNet(SelectorMixin, BaseEstimator):
    """What regressor and classifier share."""

    _loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64, 32),
        *,
        tail: float = 0.5,
        relative_scale: float = 0.1,
        strengths: str | Sequence[float] = "auto",
        validation_fraction: float = 0.2,
        cv: Any = None,
        max_iter: int = 1000,
        rounds: int | str = "auto",
        early_stopping: bool = False,
        learning_rate_init: float = 0.002,
        batch_size: int | str = "auto",
        refit: bool = True,
        device: str | torch.device = "cpu",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.tail = tail
        self.relative_scale = relative_scale
        self.strengths = strengths
        self.validation_fraction = validation_fraction
        self.cv = cv
        self.max_iter = max_iter
        self.rounds = rounds
        self.early_stopping = early_stopping
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.refit = refit
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    # --- what the two differ in --------------------------------------------------------------------------------------

    @abstractmethod
    def _targets(self, y: Any) -> NDArray[Any]:
        """Checked targets: float64 (rows, outputs), or int64 (rows,)."""

    @abstractmethod
    def _scaled(self, y: NDArray[Any], fitted: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        """Targets as the network is targets them, with the mean and scale that the rows ``fitted`` have."""

    @abstractmethod
    def _outputs(self, y: NDArray[Any]) -> int:
        """How many outputs the network has."""

    # --- fit ---------------------------------------------------------------------------------------------------------

    def _penalty(self) -> Penalty | None:
        """Penalty on the first layer; a subclass may put another one here."""
        return SoftDiamond(self.tail, group="input")

    def fit(self, X: Any, y: Any) -> Any:
        """Choose the columns and train the network.

        Parameters
        ----------
        X : array or DataFrame of shape (rows, columns)
            Numbers; columns of a frame may hold categories, strings or other objects. A column of objects that are all numbers
            is numeric. In a prediction a category that fit did not see counts as none of those that it saw, and all columns have to
            be given, also those that were not chosen.
        y : array of shape (rows,) or (rows, outputs)
            Targets.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of its range, a value is missing or infinite, a column holds dates or more categories than one
            group can have, no column varies, there are too few rows to split, or there is one class only.
        MemoryError
            If the networks would not fit into memory.
        """
        fresh = copy.copy(self)
        with torch.inference_mode(False), torch.enable_grad():
            fresh._fit(X, y)
        self.__dict__ = fresh.__dict__
        return self

    def _fit(self, X: Any, y: Any) -> None:
        X, y = self._checked_data(X, y)
        strengths, hidden, rounds, device = check_parameters(self, X.shape[1])
        columns = self._columns = Columns.of(X, getattr(self, "feature_names_in_", range(X.shape[1])))
        outputs = self._outputs(y)
        random = check_random_state(self.random_state)
        splits = split_rows(X, y, self.cv, self.validation_fraction, random)
        at_once = 1 if len(splits) == 1 else min(len(splits), effective_n_jobs(self.n_jobs))
        sizes = [len(columns.labels), *hidden, outputs]
        columns.check_counts(sizes[1])
        check_memory(len(X), sizes, len(strengths), self._batch(len(X)), len(splits), at_once, device)
        inputs = columns.encode(X)
        columns.check_range(inputs)
        if not columns.moments(inputs)[1].any():
            raise ValueError("all columns are constant: there is nothing to choose")
        seeds = random.randint(np.iinfo(np.int32).max, size=len(splits))
        jobs = [
            (inputs, y, columns, split, strengths, [*hidden, outputs], rounds, device, int(seed))
            for split, seed in zip(splits, seeds, strict=True)
        ]
        again = int(bool(self.refit)) * (1 + len(splits))
        with _progress(self.verbose, (len(splits) * rounds + again) * self.max_iter) as on_step:
            if at_once == 1:
                found = [self._fit_path(*job, on_step) for job in jobs]
            else:
                found = Parallel(n_jobs=self.n_jobs)(delayed(self._fit_path)(*job, _silent) for job in jobs)
            self._select(found, strengths)
            self._fit_final(found, inputs, y, on_step)

    def _checked_data(self, X: Any, y: Any) -> tuple[Any, NDArray[Any]]:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = self._checked_table(X, reset=True)
        y = self._targets(y)
        if len(X) != len(y):
            raise ValueError(f"Found input variables with inconsistent numbers of samples: {[len(X), len(y)]}")
        return X, y

    def _checked_table(self, X: Any, reset: bool) -> Any:
        """Array of float64, or a frame to be read column by column; a fit resets what columns there are, and needs two rows."""
        least = 2 if reset else 1
        if not by_column(X) and (reset or not (is_frame(X) and any(self._columns.categories))):
            return validate_data(self, X, reset=reset, dtype=np.float64, ensure_min_samples=least)
        validate_data(self, X, reset=reset, skip_check_array=True)
        if len(X) < least:
            raise ValueError(f"Found a frame with {len(X)} rows where at least {least} are needed")
        return X

    def _fit_path(
        self,
        inputs: Array,
        y: NDArray[Any],
        columns: Columns,
        split: tuple[Any, Any],
        strengths: Array,
        layers: list[int],
        rounds: int,
        device: torch.device,
        seed: int,
        on_step: Callable[[], None],
    ) -> _SplitResult:
        """Follow the path on one split of the rows."""
        generator = torch.Generator().manual_seed(seed)
        mean, factor = columns.moments(inputs[split[0]])
        targets, center, scale = self._scaled(y, y[split[0]])
        inner, held_out = (training.rows_of((inputs[part] - mean) * factor, targets[part], device) for part in split)
        groups = Groups.of(columns.labels, len(columns.categories), device)
        path, done = follow_path(
            [inputs.shape[1], *layers],
            groups,
            inner,
            held_out,
            type(self)._loss,
            self._penalty(),
            float(self.relative_scale),
            self._schedule(strengths, len(inner), device),
            rounds,
            self.early_stopping,
            generator,
            on_step,
        )
        return _SplitResult(path, groups, split, (mean, factor, center, scale), done, generator)

    def _batch(self, rows: int) -> int:
        return min(DEFAULT_BATCH if self.batch_size == "auto" else int(self.batch_size), rows)

    def _schedule(self, strengths: ArrayLike, rows: int, device: torch.device) -> training.Schedule:
        on_device = torch.as_tensor(np.asarray(strengths), dtype=torch.float32, device=device)
        return training.Schedule(on_device, int(self.max_iter), self._batch(rows), float(self.learning_rate_init))

    def _select(self, found: list[_SplitResult], strengths: Array) -> None:
        """Take the strength with the fewest columns of those near the lowest error, and the columns that most folds keep."""
        errors = np.stack([split.path.errors.numpy() for split in found])
        kept = np.stack([split.path.kept.cpu().numpy() for split in found])  # (folds, columns, K)
        norms = np.stack([split.groups.norms(split.path.stack.weights[0]).cpu().numpy() for split in found]).mean(0)
        if not np.isfinite(errors.mean(0)).any():
            raise ValueError("training diverged at every strength: lower learning_rate_init")
        mean, alive = errors.mean(0), kept.sum(1).mean(0)
        near = np.flatnonzero(mean <= selection.error_limit(mean.min()))
        best = int(min(near, key=lambda k: (alive[k], mean[k])))
        votes = kept[:, :, best].mean(0)
        support = votes > 0.5
        if not support.any():  # the folds agree on no column
            support = votes == votes.max()
        self.strength_ = float(strengths[best])
        self.support_ = support
        self.feature_importances_ = np.where(support, norms[:, best], 0.0).astype(np.float64)
        self.path_ = {
            "strength": strengths,
            "validation_error": mean,
            "columns": alive,
            "norms": norms.T.astype(np.float64),
        }
        self.best_index_ = best
        self.n_iter_ = max(split.rounds for split in found) * int(self.max_iter)

    def _fit_final(
        self, found: list[_SplitResult], inputs: Array, y: NDArray[Any], on_step: Callable[[], None]
    ) -> None:
        """Make the network that predicts."""
        best = self.best_index_
        chosen = np.flatnonzero(self.support_[self._columns.labels])
        table, loss = inputs[:, chosen], type(self)._loss

        def start_of(split: _SplitResult) -> Stack:
            stack = split.path.stack.copies([best])
            first = stack.weights[0]
            stack.weights[0] = first[torch.as_tensor(chosen, device=first.device)]
            return stack

        def train(stack: Stack, rows: training.Rows, generator: torch.Generator) -> None:
            schedule = self._schedule([0.0], len(rows), rows.x.device)
            training.train(stack, rows, loss, None, schedule, generator, on_step)

        def gain(split: _SplitResult) -> float:
            """By how much training on lowers the error on the rows held out."""
            start = start_of(split)
            mean, factor = (each[chosen] for each in split.scaling[:2])
            targets, device = self._scaled(y, y[split.rows[0]])[0], start.weights[0].device
            inner, held_out = (
                training.rows_of((table[part] - mean) * factor, targets[part], device) for part in split.rows
            )
            before = training.errors(start, held_out, loss)
            train(start, inner, split.generator)
            return float(before - training.errors(start, held_out, loss))

        own = min(found, key=lambda split: float(split.path.errors[best]))
        start = start_of(own)
        mean, factor, center, scale = own.scaling
        self.refitted_ = bool(self.refit) and float(np.mean([gain(split) for split in found])) > 0
        if self.refitted_:
            mean, factor = self._columns.moments(inputs)
            targets, center, scale = self._scaled(y, y)
            x = (table - mean[chosen]) * factor[chosen]
            train(start, training.rows_of(x, targets, start.weights[0].device), own.generator)
        self._inputs, self._input_mean, self._input_factor = chosen, mean[chosen], factor[chosen]
        self._target_mean, self._target_scale = center, scale
        self.coefs_, self.intercepts_ = start.arrays(0)

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _raw(self, X: Any) -> Array:
        """Outputs of the network, float64 of shape (rows, outputs)."""
        check_is_fitted(self, "support_")
        if any(self._columns.categories) and not is_frame(X):
            raise ValueError("fit saw a DataFrame with columns of categories: give a DataFrame here too")
        X = self._columns.encode(self._checked_table(X, reset=False))
        h = (X[:, self._inputs] - self._input_mean) * self._input_factor
        for layer, (weight, bias) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            h = (h if layer == 0 else np.maximum(h, 0.0)) @ weight.astype(np.float64) + bias
        return np.asarray(h)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self, "support_")
        return np.asarray(self.support_)

    def transform(self, X: Any) -> Any:
        """Return the chosen columns, of shape (rows, chosen); of a frame that is not of numbers alone as a frame."""
        if not by_column(X):
            return super().transform(X)
        check_is_fitted(self, "support_")
        validate_data(self, X, reset=False, skip_check_array=True)
        return X.iloc[:, self.get_support(indices=True)]

    def plot_path(self) -> Figure:
        """Draw the norms of the columns and the validation error against the strength.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib (the extra ``plot``) is missing.
        """
        from softdiamond.plotting import column_path

        check_is_fitted(self, "support_")
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(len(self.support_))])
        return column_path(self.path_, self.support_, list(names), self.best_index_)


def _silent() -> None:
    """Show no progress."""


@contextmanager
def _progress(verbose: int, total: int) -> Iterator[Callable[[], None]]:
    """Lend a function to be called after each step, which moves a bar if that is wanted."""
    if not verbose:
        yield _silent
        return
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task("path of strengths", total=total)
        yield lambda: bar.advance(task)
        bar.update(task, completed=total)  # early_stopping leaves out rounds
