"""The network that regresses on the columns that it chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, column_or_1d

from softdiamond.feature_selection import networks
from softdiamond.feature_selection._estimator import Array, SoftDiamondNet


class SoftDiamondNetRegressor(RegressorMixin, SoftDiamondNet):
    """A network that regresses on the columns that it chooses.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Widths of the hidden layers (rectified linear); an empty sequence makes the model linear.
    tail : float
        Tail thickness alpha of the prior on the norms, in [0.1, 2]: 2 is ridge by column; the smaller, the less the chosen
        columns are shrunk.
    relative_scale : float
        Scale of the prior relative to the norm that a column starts with: what it is for groups in `softdiamond.Regularizer`. The
        default is smaller than there (1), because columns are to be chosen, not only shrunk.
    strengths : "auto" or sequence of float
        The path, as equivalent weight decay; "auto" is 16 from 0.1 to 32 times the tail, with more than 300 columns (and a tail below
        2) times their number / 300. They are sorted, each taken once, and trained all at once. Where ``strength_`` is the last,
        larger ones may be better.
    validation_fraction : float
        Share of the rows held out for the choice of columns and strength; of classes equal shares where there are enough.
    cv : int, splitter or iterable, optional
        Folds in place of one split, as scikit-learn takes them: the strength is chosen by the mean error, the columns are those
        that more than half of the folds choose at it. Of more than one fold the choice depends less on luck.
    max_iter : int
        Steps of the optimizer in each round. A tenth of the default is too few: columns that do not matter stay.
    rounds : "auto" or int
        How often the path is followed. Each round starts from the best networks so far, half of the strengths from the one with the
        lowest error and half from the one with the fewest columns near it, with small random weights for columns that each does not
        use: a random subset of 100, or as many as bring each column to two networks; the others are held at 0. "auto" is 4, with more than
        800 columns up to 8, of which the later take less time than the first where each column is one input.
    early_stopping : bool
        Whether to leave out the rounds after one that lowered the lowest validation error by less than 1 %. With more than 100
        columns a later one, with other random subsets, may still have found more.
    learning_rate_init : float
        Rate of Adam at the start of a round, from where it falls to 0 along a cosine.
    batch_size : "auto" or int
        Rows of a step; "auto" is 64, or all where there are fewer.
    refit : bool
        Whether to train the network on with the chosen columns alone, without the penalty, on all rows, if that lowers the
        validation error (of folds the mean) when done on the other rows, see ``refitted_``.
    device : str or torch.device
        Where to train. What is fitted is NumPy arrays, and predicts anywhere.
    random_state : int, RandomState or None
        Of the split, the start and the batches. The global generators are not touched.
    n_jobs : int, optional
        How many folds are trained at once, each in a process; of use with ``cv`` alone.
    verbose : int
        A progress bar where it is not 0 (and the folds are not in processes).

    Attributes
    ----------
    support_ : ndarray of shape (columns,)
        bool: which columns are chosen, at least one.
    feature_importances_ : ndarray of shape (columns,)
        Norms of the columns' first-layer weights at the strength that was taken (the mean over folds), 0 where not chosen.
        Inputs are standardized.
    strength_ : float
        The strength that was taken.
    best_index_ : int
        Its place on the path.
    path_ : dict of ndarray
        ``strength``, ``validation_error`` (mean squared error of standardized targets, or cross-entropy) and ``columns`` (how many
        are alive) of shape (K,), ``norms`` of shape (K, columns); means over folds. Of each strength it is the best round's, so
        that neighbours may differ. The lowest error is that of a choice among many on these rows: on others it is larger.
    refitted_ : bool
        Whether the network that predicts is the refitted one; if not, it is the one on the path (of the fold with the lowest
        error), which has not seen the rows held out.
    coefs_, intercepts_ : list of ndarray
        Weights (inputs, width) and biases (width,) of the network that predicts, float32. Its inputs are the chosen columns.
    n_iter_ : int
        Steps of the optimizer on the path.
    n_features_in_ : int
        Number of columns seen by fit.
    feature_names_in_ : ndarray of shape (columns,)
        Their names, where they all have one.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).uniform(-1, 1, (400, 20))
    >>> y = X[:, 3] * X[:, 7] + X[:, 5]
    >>> net = SoftDiamondNetRegressor(max_iter=300, random_state=0).fit(X, y)
    >>> net.get_support(indices=True)
    array([3, 5, 7])
    """

    _loss = staticmethod(networks.squared_error)

    def _targets(self, y: Any) -> NDArray[Any]:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._single = y.ndim == 1
        return np.asarray(y.reshape(len(y), -1))

    def _scaled(self, y: NDArray[Any], fitted: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        center, scale = fitted.mean(0), fitted.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        return (y - center) / scale, center, scale

    def _outputs(self, y: NDArray[Any]) -> int:
        return int(y.shape[1])

    def predict(self, X: Any) -> Array:
        """Predict the targets, float64 of shape (rows,) or (rows, outputs)."""
        out = self._raw(X) * self._target_scale + self._target_mean
        return out[:, 0] if self._single else out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
