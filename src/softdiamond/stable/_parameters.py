"""The one check of (alpha, scale | dispersion); every package of the library calls it."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ALPHA_MIN, ALPHA_MAX = 0.1, 2.0


def parameters(
    alpha: ArrayLike, scale: ArrayLike | None = None, dispersion: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check the parameters of a stable law and return alpha and scale, as float64 arrays that broadcast.

    Parameters
    ----------
    alpha : array_like
        Tail thickness, in [0.1, 2].
    scale : array_like, optional
        Scale c > 0; 1 when neither it nor ``dispersion`` is given.
    dispersion : array_like, optional
        Dispersion gamma = c^alpha > 0, in place of ``scale``.

    Returns
    -------
    alpha, scale : ndarray of float64

    Raises
    ------
    ValueError
        If alpha lies outside [0.1, 2], scale or dispersion is not positive and finite, both are given, or a
        dispersion belongs to a scale beyond the range of float64.
    """
    a = real_numbers("alpha", alpha)
    if bad := _offender(a, (a >= ALPHA_MIN) & (a <= ALPHA_MAX)):
        raise ValueError(f"alpha must lie in [0.1, 2]; got {bad}")
    if scale is not None and dispersion is not None:
        raise ValueError("give either scale or dispersion, not both: dispersion = scale ** alpha")
    name, given = ("scale", 1.0 if scale is None else scale) if dispersion is None else ("dispersion", dispersion)
    c = real_numbers(name, given)
    if bad := _offender(c, (c > 0) & (c < np.inf)):
        raise ValueError(f"{name} must be positive and finite; got {bad}")
    if dispersion is not None:
        with np.errstate(over="ignore", under="ignore"):
            root = np.asarray(c ** (1 / a))
        if bad := _offender(np.broadcast_to(c, root.shape), (root > 0) & (root < np.inf)):
            raise ValueError(
                f"dispersion {bad} belongs to a scale = dispersion ** (1 / alpha) beyond the range of float64; "
                "give scale instead of dispersion, or a dispersion nearer to 1"
            )
        c = root
    return a, c


def real_numbers(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """Return an argument as float64; TypeError if it is no real number and no array of them."""
    try:
        array = np.asarray(given)
        if array.dtype.kind == "O" and all(isinstance(item, numbers.Real) for item in array.flat):
            array = array.astype(np.float64)  # integers beyond 64 bits, fractions
    except OverflowError:
        raise ValueError(f"{name} is beyond the range of float64; got {given!r}") from None
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a torch tensor that requires a gradient
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be a real number or an array of real numbers; got {given!r}")
    return array.astype(np.float64, copy=False)


def common_shape(**arguments: NDArray[np.float64]) -> tuple[int, ...]:
    """Shape to which the arguments broadcast; ValueError naming them where there is none."""
    try:
        return np.broadcast_shapes(*(argument.shape for argument in arguments.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {argument.shape}" for name, argument in arguments.items())
        raise ValueError(f"the shapes of {shapes} do not broadcast") from None


def one_or_each(parameter: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """One value as shape (1,), several as one for each point."""
    return parameter.reshape(1) if parameter.size == 1 else np.broadcast_to(parameter, shape).reshape(-1)


def _offender(values: NDArray[np.float64], good: NDArray[np.bool_]) -> str:
    """First value that is not good, as text; empty when all are good."""
    if bool(np.all(good)):
        return ""
    return repr(float(values[~good].ravel()[0]) if values.ndim else float(values))
