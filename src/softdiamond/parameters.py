r"""Which parameters of a model a penalty acts on by default, and the rms that its scale refers to: one rule for every framework.

It needs no framework and no NumPy. What it reads of a parameter is its path of names, its shape and the type of the module
that owns it.

**Eligible** is every parameter but biases, parameters of norms, and parameters with fewer than two dimensions. A bias is told by
the last name of its path, a norm by the type of the module that owns the parameter or by one of that type's bases; where the
module is not known (named parameters, a tree of arrays) by the name of the parameter or of its nearest owner.

**The reference** rms_0 is the root mean square of a tensor when its regularizer is made. A tensor that has no values yet, or
starts at zero, takes that of Glorot's start (Glorot and Bengio 2010) for its shape,

.. math:: \mathrm{rms}_0 = \sqrt{2 / (\text{fan in} + \text{fan out})},

which is Keras's default, and needs no knowledge of which end of a matrix its inputs are on: PyTorch, Keras and JAX, linear
layers and embeddings differ in that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = ["expected_rms", "reference_rms", "why_not_eligible"]

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NORMS = "norm", "norms", "normalization", "normalisation"


def why_not_eligible(path: Sequence[str], shape: Sequence[int] | None, owners: Sequence[type] = ()) -> str:
    """Return why the default leaves a parameter out, or nothing where it is eligible.

    Parameters
    ----------
    path : sequence of str
        Names from the model down to the parameter, its own the last.
    shape : sequence of int or None
        Its shape; None where it is not known yet.
    owners : sequence of type
        Types of the modules that own it, several where it is tied; none where they are not known.

    Examples
    --------
    >>> why_not_eligible(("encoder", "LayerNorm_0", "scale"), (12, 64))
    'norm, by its name'
    >>> why_not_eligible(("encoder", "Dense_0", "kernel"), (64, 64))
    ''
    """
    names = [name for name in path if not name.isdecimal()] or [""]
    if {"bias", "biases"} & set(_words(names[-1])):
        return "bias"
    for owner in owners:
        if any(_is_norm(kind.__name__) for kind in owner.__mro__):
            return f"norm ({owner.__name__})"
    if not owners and any(map(_is_norm, names[-2:])):
        return "norm, by its name"
    if shape is not None and len(shape) < 2:
        return "fewer than 2 dimensions"
    return ""


def _words(name: str) -> list[str]:
    """Words of a name in snake or camel case, without digits, in lower case."""
    return [word.lower() for word in _WORDS.findall(name)]


def _is_norm(name: str) -> bool:
    return any(word.endswith(_NORMS) for word in _words(name))


def expected_rms(shape: Sequence[int], channels: str) -> float:
    r"""Root mean square of Glorot's start, :math:`\sqrt{2 / (\text{fan in} + \text{fan out})}`.

    Parameters
    ----------
    shape : sequence of int
        Of the tensor. A vector of n counts as an n x n matrix; a tensor without elements has the rms of one with one.
    channels : {"first", "last"}
        Which two dimensions count inputs and outputs, the others being the field of a convolution: the first two, as in PyTorch,
        or the last two, as in Keras and Flax.

    Examples
    --------
    >>> expected_rms((32, 16, 3, 3), "first") == expected_rms((3, 3, 16, 32), "last")
    True
    """
    if len(shape) < 2:
        ends, field = 2 * math.prod(shape), 1
    elif channels == "first":
        ends, field = sum(shape[:2]), math.prod(shape[2:])
    else:
        ends, field = sum(shape[-2:]), math.prod(shape[:-2])
    return math.sqrt(2 / max(field * ends, 2))


def reference_rms(name: str, rms: float, shape: Sequence[int], channels: str) -> tuple[float, str]:
    """Return rms_0 of a tensor whose root mean square is ``rms``, and what the plan says of one that starts at zero.

    Raises
    ------
    ValueError
        If the rms is not finite.
    """
    if not math.isfinite(rms):
        raise ValueError(f"{name} holds weights that are not finite")
    return (rms, "") if rms > 0 else (expected_rms(shape, channels), "starts at zero: scale of Glorot's start")
