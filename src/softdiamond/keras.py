r"""Soft diamonds in Keras 3, on any backend: a regularizer, its way onto a built model, and the implicit step as a callback.

Needs the extra ``keras``, and the backend's package (torch, jax or tensorflow); written in ``keras.ops`` alone.

**Strength and scale** are those of `softdiamond.Regularizer` (`softdiamond.strength`): with rms_0 the root mean square of a weight
tensor at the start, the scale is c = relative_scale rms_0 and lambda = strength / omega(rms_0), so that a weight of the typical
size feels the decay that ``weight_decay=strength`` would give it. A tensor that has no values yet, or only zeros, takes the rms of
Glorot's start, Keras's own (`softdiamond.parameters`).

- `SoftDiamond` is a ``keras.Regularizer``: the term lambda R(w) in the loss, for ``kernel_regularizer=``.
- `regularize` gives it to the weights of a model that is built already, each with its own rms_0.
- `ImplicitStep`, a callback, takes w <- w / (1 + eta lambda omega(w)) after each step of the optimizer instead: stable at every
  learning rate, not seen by the optimizer's momentum or adaptive rates, settable while training.

>>> import keras
>>> from softdiamond.keras import ImplicitStep, regularize
>>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, name="out")])
>>> plan = regularize(model, alpha=0.5, strength=1e-3, where="*out/kernel")
>>> len(model.losses)
1
"""

from __future__ import annotations

import collections
import fnmatch
import functools
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from softdiamond._compat import layers_with_variables
from softdiamond._extras import require

require("keras")

import keras
from keras import ops

from softdiamond import stable
from softdiamond.parameters import expected_rms, reference_rms, why_not_eligible
from softdiamond.plan import Plan, skipped_record
from softdiamond.strength import Strength, StrengthSettings, check_positive
from softdiamond.table import array_reader

__all__ = ["ImplicitStep", "SoftDiamond", "regularize"]

Where = str | Callable[[str, Any], bool] | None


@keras.saving.register_keras_serializable(package="softdiamond")
class SoftDiamond(keras.Regularizer):
    """The penalty lambda R(w), minus the logarithm of a symmetric alpha-stable prior, as a term of the loss.

    It is registered as ``"softdiamond>SoftDiamond"``, so that a saved model that holds it loads wherever this module is
    imported. On its way through the optimizer its gradient is treated like that of the loss; small weights jump about zero
    where the learning rate times lambda omega(0) is above 2, which `ImplicitStep` never does.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2]. 2 is ridge; the smaller, the sharper the peak and the thicker the tail.
    strength : float
        Equivalent weight decay of a typical weight, not negative.
    relative_scale : float
        Scale in units of rms_0: the smaller, the sparser.
    reference : float, optional
        rms_0; by default that of Glorot's start for the shape of the weights.

    Raises
    ------
    TypeError
        If a setting is no number.
    ValueError
        If it is out of its range.

    References
    ----------
    Adigun and Kosko, Soft Diamond Regularizers for Deep Learning, arXiv:2412.20724.

    Examples
    --------
    >>> layer = keras.layers.Dense(10, kernel_regularizer=SoftDiamond(alpha=0.5, strength=1e-3))
    >>> round(float(SoftDiamond(alpha=2.0, strength=0.1)(ops.ones((3, 2)))), 6)  # as L2: 0.1 / 2 times 6
    0.3
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        strength: float = 1e-3,
        relative_scale: float = 1.0,
        reference: float | None = None,
    ) -> None:
        if callable(strength):
            raise TypeError("strength must be a number: one that changes while training belongs to ImplicitStep")
        self._settings, self._normalized_lambda = _settings(alpha, strength, relative_scale)
        if reference is not None:
            check_positive("reference", reference)
        self.alpha, self.strength = float(alpha), float(strength)
        self.relative_scale = float(relative_scale)
        self.reference = None if reference is None else float(reference)

    def __call__(self, x: Any) -> Any:
        """Penalty of a weight tensor, a scalar.

        The value is its own Taylor expansion about x, so that any backend differentiates it twice, with the table's own gradient
        and curvature.
        """
        x = _wide(x)
        scale = self.relative_scale * (self.reference or expected_rms(x.shape, "last"))
        far, beyond, _ = array_reader.far_penalty(ops, x, scale, _cells(self.alpha, x))
        x = ops.where(far, ops.zeros_like(x), x)
        at = ops.stop_gradient(x)
        penalty, gradient, curvature = _look_up(self.alpha, keras.backend.standardize_dtype(x.dtype))(at / scale)
        change = (x - at) / scale  # 0, with a derivative; NaN where x is infinite
        change = ops.where(change == 0, change, ops.zeros_like(change))
        value = ops.where(far, beyond, penalty + change * (gradient + curvature / 2 * change))
        return self._lambda(scale) * ops.sum(value)

    def _lambda(self, scale: float) -> float:
        return self.strength * self._normalized_lambda * scale * scale

    def get_config(self) -> dict[str, Any]:
        """Return the settings."""
        settings = {"alpha": self.alpha, "strength": self.strength, "relative_scale": self.relative_scale}
        return settings | {"reference": self.reference}

    def __repr__(self) -> str:
        return f"SoftDiamond({', '.join(f'{name}={value!r}' for name, value in self.get_config().items())})"


def regularize(
    model: keras.Model, *, alpha: float = 0.5, strength: float = 1e-3, relative_scale: float = 1.0, where: Where = None
) -> Plan:
    """Give a `SoftDiamond` to the weights of a model that is built, pretrained or not, each with the rms that it has now.

    Taken are tensors of two or more dimensions that are no bias and belong to no norm; frozen ones wait until they are
    trained. A model that is compiled stays so, and its next step sees the penalty. Layers keep it in their configuration where
    they have a place for it (``kernel_regularizer`` and the like), and so in a saved model; the plan names those that have none.

    Parameters
    ----------
    model : keras.Model
        Built.
    alpha, strength, relative_scale
        As in `SoftDiamond`.
    where : str or callable, optional
        Of these weights those whose path matches a pattern (``"*out/kernel"``), or for which a function of (path, variable)
        is true. Call again with another pattern for other settings.

    Returns
    -------
    Plan
        What is regularized, how strongly, what is not, and why; print it, or read its ``records``.

    Raises
    ------
    TypeError
        If it is no Keras model, or a setting is not of its kind.
    ValueError
        If the model is not built, nothing is chosen, a chosen weight has a regularizer already, or a setting is out of range.
    """
    made = SoftDiamond(alpha, strength=strength, relative_scale=relative_scale)
    chosen, skipped = _choose(model, where)
    for path, (_, variable) in chosen.items():
        if variable.regularizer is not None:
            raise ValueError(
                f"{path} has a regularizer already ({variable.regularizer!r}): set it to None first, or leave it out"
            )
    records = []
    for path, (layer, variable) in chosen.items():
        own = SoftDiamond(**made.get_config() | {"reference": _rms(variable)})
        variable.regularizer = own
        kept = _keep(layer, variable.name, own)
        why = [
            f"{len(variable.shape)} dimensions",
            *([] if variable.trainable else ["frozen: waits until it is trained"]),
        ]
        why += [] if kept else ["no place in its layer's configuration: attach again after loading"]
        records.append(_record(path, variable, "; ".join(why), own))
    for name in ("train_function", "test_function"):  # compiled without the penalty
        setattr(model, name, None)
    count = sum(math.prod(variable.shape) for _, variable in chosen.values())
    notes = [f"regularized: {len(chosen)} tensors, {count:,} weights; not: {len(skipped)} tensors"]
    notes.append("strength: the weight decay that a weight of the tensor's rms at the start feels; a term of the loss")
    return Plan(records + skipped, notes)


class ImplicitStep(keras.callbacks.Callback):
    """After each step of the optimizer the penalty's implicit step, w <- w / (1 + eta lambda omega(w)).

    It never changes a sign, never overshoots and is stable for every learning rate; at alpha = 2 it is decoupled weight decay.
    eta is the learning rate of that step, divided by 1 - momentum for SGD and RMSprop. A step that the optimizer leaves out,
    while it gathers gradients (``gradient_accumulation_steps``) or when a loss scale overflows, is left out here too; with
    ``steps_per_execution=n`` one of n eta is taken.

    Parameters
    ----------
    strength : float or callable
        Equivalent weight decay of a typical weight, not negative, or a function of the number of steps done, which the
        optimizer counts and a saved model keeps. To begin with, 1 / (sum of the learning rates of all steps), then 0.3, 3 and
        10 times that.
    alpha, relative_scale
        As in `SoftDiamond`.
    where : str or callable, optional
        Which weights, as in `regularize`.
    references : mapping of str to float, optional
        rms_0 by path, of a training that is resumed: the attribute ``references`` of the callback that began it.

    Attributes
    ----------
    strength
        Settable while training.
    references : dict
        rms_0 by path, from the first ``fit`` on.
    plan : Plan
        What is regularized, how strongly, what is not, and why; from the first ``fit`` on.

    Raises
    ------
    TypeError, ValueError
        As `regularize`; at the start of the training if a weight has a `SoftDiamond` in the loss, at the first step if another
        callback moves it.

    Warns
    -----
    UserWarning
        If the optimizer decays weights itself.
    """

    def __init__(
        self,
        *,
        strength: Strength,
        alpha: float = 0.5,
        relative_scale: float = 1.0,
        where: Where = None,
        references: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self._settings, self._normalized_lambda = _settings(alpha, strength, relative_scale)
        self._alpha, self._where = float(alpha), where
        self.references = dict(references or {})
        self._chosen: dict[str, tuple[Any, Any]] = {}
        self._seen, self._eta = 0, 0.0
        self._decay = _compiled(self._take_step)

    @property
    def strength(self) -> Strength:
        """The strength, a number or a function of the number of steps that the optimizer has done."""
        return self._settings.value

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._settings.set("strength", value)

    def on_train_begin(self, logs: Any = None) -> None:
        """Choose the weights and, at the first training, read their rms."""
        self._chosen, skipped = _choose(self.model, self._where)
        done = self._done()
        records = []
        for path, (_, variable) in self._chosen.items():
            if isinstance(variable.regularizer, SoftDiamond):
                raise ValueError(f"{path} has a SoftDiamond in the loss already: take either that or ImplicitStep")
            reference = self.references.setdefault(path, _rms(variable))
            why = f"{len(variable.shape)} dimensions" + (
                "" if variable.trainable else "; frozen: waits until it is trained"
            )
            own = SoftDiamond(
                self._alpha,
                strength=self._settings.at(done),
                relative_scale=self._settings.relative_scale,
                reference=reference,
            )
            records.append(_record(path, variable, why, own))
        decay = getattr(self._optimizer, "weight_decay", None)
        if decay:
            kind = type(self._optimizer).__name__
            warnings.warn(
                f"the optimizer has weight_decay={decay:g}"
                + (" (AdamW's default is 0.004)" if kind == "AdamW" else "")
                + " on top of the penalty: set weight_decay=None unless you want both",
                stacklevel=2,
            )
        self.plan = Plan(
            records + skipped, [f"after each step of {type(self._optimizer).__name__}, eta = {self._formula}"]
        )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Read the learning rate of the step that comes."""
        self._seen = self._done()
        self._eta = float(ops.convert_to_tensor(self._optimizer.learning_rate)) / (1 - self._momentum)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the step, if the optimizer has."""
        done = self._done()
        if done == self._seen:
            return
        with _moved_lock:
            moved = _moved.setdefault(self.model, {})
        eta = self._eta * (done - self._seen)
        moving = {path: variable for path, (_, variable) in self._chosen.items() if variable.trainable}
        for path in moving:
            step, by = moved.get(path, (-1, None))
            if step == done and by is not None and by() not in (None, self):
                raise ValueError(f"two ImplicitStep callbacks move {path}: give each its own weights with where=")
            moved[path] = done, weakref.ref(self)
        scales = [self._settings.relative_scale * self.references[path] for path in moving]
        step = ops.convert_to_tensor(eta * self._settings.at(self._seen) * self._normalized_lambda, "float32")
        decayed = self._decay([ops.convert_to_tensor(variable) for variable in moving.values()], scales, step)
        for variable, weight in zip(moving.values(), decayed, strict=True):
            variable.assign(weight)

    def _take_step(self, weights: list[Any], scales: list[Any], step: Any) -> list[Any]:
        moved = []
        for weight, scale in zip(weights, scales, strict=True):
            wide = ops.stop_gradient(_wide(weight))
            odds = ops.cast(step, wide.dtype) * array_reader.omega(ops, wide / scale, _cells(self._alpha, wide))
            moved.append(ops.cast(wide / (1 + odds), weight.dtype))
        return moved

    @property
    def _optimizer(self) -> Any:
        """The optimizer that knows the learning rate."""
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    @property
    def _momentum(self) -> float:
        takes = isinstance(self._optimizer, keras.optimizers.SGD | keras.optimizers.RMSprop)
        return float(self._optimizer.momentum or 0) if takes else 0.0

    @property
    def _formula(self) -> str:
        return "learning rate / (1 - momentum)" if self._momentum else "learning rate"

    def _done(self) -> int:
        """Bring the variables up to date and return the number of steps done, the optimizer's: a saved one keeps it."""
        if keras.backend.backend() == "jax":  # within ``fit`` it holds their values elsewhere
            self.model.jax_state_sync()
        return int(ops.convert_to_tensor(self.model.optimizer.iterations))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled by the backend, where it has a compiler: a step has some forty operations."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        compiled: Callable[..., Any] = tensorflow.function(function)
        return compiled
    return function


# Of each model: the last step of each weight and the callback that took it. Callbacks do not see each other, so that two which
# move one weight are found here alone; models may be trained in several threads.
_moved: weakref.WeakKeyDictionary[Any, dict[str, tuple[int, Any]]] = weakref.WeakKeyDictionary()
_moved_lock = threading.Lock()


def _settings(alpha: float, strength: Strength, relative_scale: float) -> tuple[StrengthSettings, float]:
    """Return the settings checked, and the normalized lambda for each unit of strength."""
    checked, _ = stable.parameters(alpha)
    if checked.ndim:
        raise ValueError(f"alpha must be one number in [0.1, 2]; got an array of shape {checked.shape}")
    settings = StrengthSettings(strength, relative_scale=relative_scale)
    return settings, settings.resolve(array_reader.Law(float(checked)), settings.relative_scale, 1.0)[1]


def _wide(x: Any) -> Any:
    """Return x as a tensor of the dtype in which it is computed, float64 or float32."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


@functools.lru_cache(maxsize=64)
def _look_up(alpha: float, dtype: str) -> Callable[[Any], Any]:
    """Return the function of weights at unit scale that gives penalty, gradient and curvature."""
    cells = array_reader.cells_of(alpha, dtype)
    return _compiled(lambda x: array_reader.evaluate(ops, x, cells))


def _cells(alpha: float, x: Any) -> array_reader.Cells:
    return array_reader.cells_of(alpha, keras.backend.standardize_dtype(x.dtype))


def _rms(variable: Any) -> float:
    weight = ops.stop_gradient(_wide(variable))
    rms = float(ops.sqrt(ops.mean(ops.square(weight)))) if math.prod(weight.shape) else 0.0
    return reference_rms(variable.path, rms, variable.shape, "last")[0]


def _choose(model: Any, where: Where) -> tuple[dict[str, tuple[Any, Any]], list[dict[str, Any]]]:
    """Return by path the layer and the variable of each weight that is meant, and the records of the others.

    Of several variables with one path the second is called ``path#2``, and so on, whatever is meant; ``where`` sees the path.

    Raises
    ------
    TypeError
        If it is no Keras model, or ``where`` is neither a pattern nor a function.
    ValueError
        If the model is not built, or nothing is meant.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model; got {type(model).__name__}")
    if not (where is None or isinstance(where, str) or callable(where)):
        raise TypeError(f"where must be a pattern of paths or a function of (path, variable); got {where!r}")
    if not model.built or not model.weights:
        raise ValueError("the model is not built: call it once, build(input_shape), or give it an Input")
    owners = {id(v): layer for layer, variables in layers_with_variables(model) for v in variables}
    chosen: dict[str, tuple[Any, Any]] = {}
    skipped = []
    seen: collections.Counter[str] = collections.Counter()
    for variable in model.weights:
        path = variable.path
        seen[path] += 1
        name = path if seen[path] == 1 else f"{path}#{seen[path]}"  # layers of two towers may be named alike
        layer = owners.get(id(variable))
        why = _why_not(variable, layer)
        if not why and where is not None:
            meant = fnmatch.fnmatchcase(path, where) if isinstance(where, str) else where(path, variable)
            why = "" if meant else "not meant by where"
        if why:
            skipped.append(skipped_record(name, tuple(variable.shape), why))
        else:
            chosen[name] = layer, variable
    if not chosen:
        paths = ", ".join(variable.path for variable in model.weights[:6])
        raise ValueError(f"where={where!r} means none of the {len(model.weights)} variables ({paths}, ...)")
    return chosen, skipped


def _why_not(variable: Any, layer: Any) -> str:
    """Return why a variable is left out by default, or nothing."""
    owners = [] if layer is None else [type(layer)]
    if why := why_not_eligible(variable.path.split("/"), variable.shape, owners):
        return why
    return "" if keras.backend.is_float_dtype(variable.dtype) else f"of {variable.dtype}"


def _keep(layer: Any, name: str, regularizer: SoftDiamond) -> bool:
    """Write the regularizer where the layer's configuration takes it from; return whether there is such a place."""
    for place in (f"{name}_regularizer", f"{name.removesuffix('_kernel')}_regularizer"):
        if hasattr(layer, place):
            setattr(layer, place, regularizer)
            return True
    return False


def _record(path: str, variable: Any, why: str, own: SoftDiamond) -> dict[str, Any]:
    scale = own.relative_scale * (own.reference or expected_rms(variable.shape, "last"))
    about = {"optimizer": None, "eta": None, "weight_decay": None, "groups": None, "group_size": None}
    start = {"name": path, "shape": tuple(variable.shape), "regularized": True, "why": why}
    start |= {"penalty": f"SoftDiamond(alpha={own.alpha:g})", "strength": own.strength, "scale": scale}
    return start | {"lambda": own._lambda(scale), "reference": own.reference} | about
