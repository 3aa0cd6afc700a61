r"""Soft diamonds in JAX: the penalty as a function, and its two steps as optax transforms. Needs the extra ``jax``; no torch.

With a scale c the penalty of a weight is R(w / c), R(x) = log f(0) - log f(x) of the symmetric alpha-stable density f, and
omega(w) = R'(w / c) / (c w) the decay that it feels (`softdiamond.stable`). All of it is read from the look-up table
(`softdiamond.table`), in float32, or in float64 where x64 is enabled and x is of it; narrower dtypes are computed in float32.

**Strength and scale** are those of `softdiamond.Regularizer` (`softdiamond.strength`): with rms_0 the root mean square of a leaf when
the state is initialized, c = relative_scale rms_0 and lambda = strength / omega(rms_0), so that a weight of the typical size feels
the decay that ``optax.add_decayed_weights(strength)`` would give it; at alpha = 2 both are the same to the last bit. A leaf that
starts at zero takes the rms of Glorot's start for its shape, its last two dimensions being inputs and outputs
(`softdiamond.parameters`).

>>> import jax, jax.numpy as jnp, optax
>>> from softdiamond.jax import implicit_soft_diamond, matrices
>>> learning_rate = optax.cosine_decay_schedule(1e-3, 1000)
>>> optimizer = optax.chain(
...     optax.adam(learning_rate), implicit_soft_diamond(learning_rate, strength=1.0, alpha=0.5, mask=matrices)
... )
>>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
>>> state = optimizer.init(params)
>>> updates, state = optimizer.update({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, state, params)
>>> optax.apply_updates(params, updates)["kernel"].shape
(3, 2)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from softdiamond._extras import require

require("jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from softdiamond import stable
from softdiamond.parameters import expected_rms, why_not_eligible
from softdiamond.strength import StrengthSettings, checked_strength
from softdiamond.table import array_reader

__all__ = ["SoftDiamondState", "add_soft_diamond", "implicit_soft_diamond", "matrices", "omega", "soft_diamond"]

Array = jax.Array
Number = float | Array | Callable[[Array], Any]  # or a schedule: a function of the number of updates done
Mask = Any  # a tree of bools, or a function of the parameters that returns one


# --- the penalty ---------------------------------------------------------------------------------------------------------


def soft_diamond(x: Any, alpha: float = 0.5, scale: Any = 1.0) -> Array:
    """Penalty R(x / scale), elementwise, with two derivatives in x and in scale.

    Under ``jit``, ``vmap``, ``grad`` and ``hessian``, in forward and in reverse mode.

    Parameters
    ----------
    x : array
        Weights, floating, of any shape.
    alpha : float
        Tail thickness, in [0.1, 2]: a Python number, static under ``jit``.
    scale : float or array
        Scale c > 0; an array broadcasts.

    Returns
    -------
    array
        Of the shape of x and scale broadcast and of the dtype of x; NaN where x is NaN.

    Raises
    ------
    TypeError
        If x is not floating, or alpha is traced.
    ValueError
        If alpha is not in [0.1, 2], or a number ``scale`` not positive and finite.

    Examples
    --------
    >>> print(soft_diamond(jnp.array([0.0, 1.0, -1.0]), alpha=1.0))  # log 2
    [0.        0.6931472 0.6931472]
    >>> print(jax.grad(soft_diamond)(1.0, 1.0))
    1.0
    """
    x, wide = _floating(x)
    scale, alpha = _checked_scale(scale, wide.dtype), _static_alpha(alpha)
    far, beyond, _ = array_reader.far_penalty(jnp, wide, scale, array_reader.cells_of(alpha, wide.dtype.name))
    within = _penalty(jnp.where(far, 0, wide) / scale, alpha)
    return jnp.where(far, beyond, within).astype(x.dtype)


def omega(x: Any, alpha: float = 0.5, scale: Any = 1.0) -> Array:
    """Adaptive decay R'(x / scale) / (scale x), with its limit at 0; parameters as `soft_diamond`. Not differentiable.

    Examples
    --------
    >>> print(omega(jnp.array([0.0, 1.0])))  # Gamma(6) / Gamma(2) at zero
    [120.          1.0701492]
    """
    x, wide = _floating(x)
    scale, alpha = _checked_scale(scale, wide.dtype), _static_alpha(alpha)
    wide = jax.lax.stop_gradient(wide)
    far, _, log_derivative = array_reader.far_penalty(jnp, wide, scale, array_reader.cells_of(alpha, wide.dtype.name))
    within = _omega(jnp.where(far, 0, wide) / scale, alpha) / scale / scale
    return jnp.where(far, log_derivative / wide / wide, within).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=1)
def _look_up(x: Array, alpha: float) -> tuple[Array, Array, Array]:
    return array_reader.evaluate(jnp, x, array_reader.cells_of(alpha, x.dtype.name))


@functools.partial(jax.jit, static_argnums=1)
def _omega(x: Array, alpha: float) -> Array:
    return array_reader.omega(jnp, x, array_reader.cells_of(alpha, x.dtype.name))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _penalty(x: Array, alpha: float) -> Array:
    return _look_up(x, alpha)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _gradient(x: Array, alpha: float) -> Array:
    return _look_up(x, alpha)[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _curvature(x: Array, alpha: float) -> Array:
    return _look_up(x, alpha)[2]


@_penalty.defjvp
def _(alpha: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _penalty(*primals, alpha), _gradient(*primals, alpha) * tangents[0]


@_gradient.defjvp
def _(alpha: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _gradient(*primals, alpha), _curvature(*primals, alpha) * tangents[0]


@_curvature.defjvp
def _(alpha: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    raise NotImplementedError("the look-up table has no third derivative of the penalty")


def _floating(x: Any) -> tuple[Array, Array]:
    """Return x as an array and in the dtype in which it is computed."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"a soft diamond takes real floating weights; got {x.dtype}")
    return x, x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _static_alpha(alpha: Any) -> float:
    if isinstance(alpha, jax.core.Tracer):
        raise TypeError(
            "alpha chooses the look-up table and cannot be traced: mark it static (static_argnums, static_args)"
        )
    checked, _ = stable.parameters(alpha)
    if checked.ndim:
        raise ValueError(f"alpha must be one number in [0.1, 2]; got an array of shape {checked.shape}")
    return float(checked)


def _checked_scale(scale: Any, dtype: Any) -> Array:
    if not isinstance(scale, jax.Array):
        stable.parameters(1.0, scale=scale)
        kind, values = jnp.finfo(dtype), np.asarray(scale)
        if values.size and not float(kind.tiny) <= values.min() <= values.max() <= float(kind.max):
            raise ValueError(
                f"scale must lie in the range of {kind.dtype.name}, {kind.tiny:.3g} to {kind.max:.3g}; got {scale!r}"
            )
    return jnp.asarray(scale, dtype)


# --- the optax transforms ------------------------------------------------------------------------------------------------


class SoftDiamondState(NamedTuple):
    """State of both transforms, arrays only: a checkpoint keeps it like any other.

    Attributes
    ----------
    count : array of int32
        Number of updates done.
    reference : tree of array
        rms_0 of each leaf.
    """

    count: Array  # type: ignore[assignment]  # optax's name for it
    reference: Any


def add_soft_diamond(
    strength: Number, *, alpha: float = 0.5, relative_scale: float = 1.0, mask: Mask | None = None
) -> optax.GradientTransformation:
    r"""Add the penalty's gradient, g <- g + lambda R'(w), as ``optax.add_decayed_weights`` adds that of L2.

    Put it where that belongs: before the scaling by a learning rate. Small weights jump about zero where that times lambda
    omega(0) is above 2, which `implicit_soft_diamond` never does.

    Parameters
    ----------
    strength : float, array or schedule
        Equivalent weight decay of a typical weight, not negative; a schedule is a function of the number of updates done.
    alpha : float
        Tail thickness, in [0.1, 2]; ``static_args`` of ``optax.inject_hyperparams``.
    relative_scale : float
        Scale in units of rms_0: the smaller, the sparser; ``static_args`` too.
    mask : tree of bool or callable, optional
        The leaves that are meant, as for ``optax.masked``; all by default. See `matrices`.

    Raises
    ------
    TypeError
        If a leaf is not floating, or a setting is not of its kind.
    ValueError
        If a setting is out of its range, a leaf that is initialized outside ``jit`` is not finite, the mask has not the structure
        of the parameters or holds anything but bools, or
        ``update`` is called without ``params``.

    Examples
    --------
    >>> transform = add_soft_diamond(0.1, alpha=2.0)  # weight decay
    >>> params = jnp.array([1.0, -2.0])
    >>> print(transform.update(jnp.zeros(2), transform.init(params), params)[0])
    [ 0.1 -0.2]
    """
    value, law, normalized_lambda = _settings(strength, alpha, relative_scale)

    def with_gradient(update: Array, wide: Array, scale: Array, count: Array) -> Array:
        return update + _at(value, count) * normalized_lambda * _decay(wide / scale, law.alpha) * wide

    return _transform(with_gradient, relative_scale, mask)


def implicit_soft_diamond(
    learning_rate: Number,
    *,
    strength: Number,
    alpha: float = 0.5,
    relative_scale: float = 1.0,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""The implicit step as the last transform of a chain: w + u <- (w + u) / (1 + eta lambda omega(w + u)).

    It never changes a sign, never raises \|w\| and is stable for every learning rate; at alpha = 2 it is decoupled weight
    decay. bfloat16 and float16 parameters lose a decay that is below half a unit in their last place.

    Parameters
    ----------
    learning_rate : float, array or schedule
        eta: the learning rate of the chain. After a momentum m (SGD) learning_rate / (1 - m).
    strength, alpha, relative_scale, mask
        As in `add_soft_diamond`.

    Raises
    ------
    TypeError, ValueError
        As `add_soft_diamond`.

    Examples
    --------
    >>> transform = optax.chain(optax.sgd(0.1), implicit_soft_diamond(0.1, strength=1.0, alpha=2.0))
    >>> params = jnp.array([1.0, -2.0])
    >>> print(transform.update(jnp.zeros(2), transform.init(params), params)[0] + params)  # divided by 1.1
    [ 0.9090909 -1.8181818]
    """
    value, law, normalized_lambda = _settings(strength, alpha, relative_scale)
    eta = learning_rate if isinstance(learning_rate, jax.Array) else checked_strength(learning_rate, "learning_rate")

    def decayed(update: Array, wide: Array, scale: Array, count: Array) -> Array:
        moved = wide + update
        odds = _at(eta, count) * (_at(value, count) * normalized_lambda * _decay(moved / scale, law.alpha))
        return update - moved * (odds / (1 + odds))

    return _transform(decayed, relative_scale, mask)


def matrices(params: Any) -> Any:
    """Mask of the weights of a network: floating leaves of two or more dimensions that are no bias and belong to no norm.

    A norm is told by the name of the leaf or of what holds it, as `softdiamond.Regularizer` does with named parameters.

    Examples
    --------
    >>> matrices({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
    {'bias': False, 'kernel': True}
    """

    def is_weight(path: Any, leaf: Any) -> bool:
        floating = jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)
        return bool(floating) and not why_not_eligible(_names(path), jnp.shape(leaf))

    return jax.tree_util.tree_map_with_path(is_weight, params)


def _names(path: Any) -> list[str]:
    """Names of a path in a tree, without the attribute in which `flax.nnx` keeps an array."""
    kept = path[:-1] if path and path[-1] == jax.tree_util.GetAttrKey("value") else path
    return [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in kept]


def _settings(strength: Any, alpha: float, relative_scale: float) -> tuple[Any, array_reader.Law, float]:
    """Return the strength checked, the law, and the normalized lambda for each unit of strength."""
    if isinstance(relative_scale, jax.core.Tracer):
        raise TypeError("relative_scale cannot be traced: mark it static (static_args)")
    law = array_reader.Law(_static_alpha(alpha))
    value = strength if isinstance(strength, jax.Array) else checked_strength(strength)
    relative = float(relative_scale) if isinstance(relative_scale, jax.Array) else relative_scale
    settings = StrengthSettings(1.0, relative_scale=relative)
    return value, law, settings.resolve(law, settings.relative_scale, 1.0)[1]


def _decay(x: Array, alpha: float) -> Any:
    """omega, as a number where it is one: compilers then round the steps as they round optax's own."""
    return 0.5 if alpha == 2 else _omega(x, alpha)


def _at(value: Any, count: Array) -> Any:
    return value(count) if callable(value) else value


def _transform(
    step: Callable[[Array, Array, Array, Array], Array], relative_scale: float, mask: Mask | None
) -> optax.GradientTransformation:
    """Return the transform that takes (update, weight, scale, count) of each leaf to its new update."""

    def init(params: Any) -> SoftDiamondState:
        reference = jax.tree_util.tree_map_with_path(_reference, params)
        return SoftDiamondState(jnp.zeros([], jnp.int32), reference)

    def update(updates: Any, state: SoftDiamondState, params: Any = None) -> tuple[Any, SoftDiamondState]:
        if params is None:
            raise ValueError("the current parameters are needed: call update(updates, state, params)")

        def one(u: Array | None, w: Array, rms: Array) -> Array | None:
            if u is None:
                return None
            wide = _floating(w)[1]
            return step(u.astype(wide.dtype), wide, relative_scale * rms.astype(wide.dtype), state.count).astype(
                u.dtype
            )

        new = jax.tree.map(one, updates, params, state.reference, is_leaf=lambda leaf: leaf is None)
        return new, SoftDiamondState(optax.safe_increment(state.count), state.reference)

    inner = optax.GradientTransformation(init, update)
    return inner if mask is None else _masked(inner, mask)


def _reference(path: Any, w: Any) -> Array:
    """rms_0 of a leaf, or that of Glorot's start where it starts at zero."""
    w, wide = _floating(w)
    largest = jnp.max(jnp.abs(wide), initial=0)
    rms = largest * jnp.sqrt(jnp.mean(jnp.square(wide / jnp.where(largest > 0, largest, 1))))
    rms = jnp.where(largest == 0, expected_rms(w.shape, "last"), rms).astype(wide.dtype)
    if not isinstance(rms, jax.core.Tracer) and not jnp.isfinite(rms):
        raise ValueError(f"{'/'.join(_names(path)) or 'the array'} holds weights that are not finite")
    return rms


def _masked(inner: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformation:
    def checked(tree: Any) -> Any:
        if wrong := [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, bool | np.bool)]:
            raise ValueError(f"a mask holds True and False; got {wrong[0]!r}")
        return tree

    masked = optax.masked(inner, (lambda tree: checked(mask(tree))) if callable(mask) else checked(mask))

    def init(params: Any) -> Any:
        try:
            return masked.init(params)
        except ValueError as error:
            if "a mask holds" in str(error):
                raise
            first = str(error).splitlines()[0]
            raise ValueError(
                f"the mask has not the structure of the parameters, nor of a part of it: {first}"
            ) from error

    return optax.GradientTransformationExtraArgs(init, masked.update)
