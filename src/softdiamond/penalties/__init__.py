r"""Penalties on weights: `SoftDiamond`, `L1`, `L2` and `StudentT`, elementwise on tensors.

Each is a shape R at unit scale, R(0) = 0; with a scale c the penalty of a weight is R(w / c). Its

- **value** is R(w / c),
- **gradient** R'(w / c) / c, an odd function,
- **omega** gradient / w, the strength of the decay that a weight of this size feels,
- **prox** the global minimizer of (u - v)^2 / 2 + step R(u / c), even where it jumps (`softdiamond.penalties.prox`).

==============  ======================  ==================  ==================================
penalty         R(x)                    omega(x)            -log of the prior, up to a constant
==============  ======================  ==================  ==================================
`SoftDiamond`   log f(0) - log f(x)     R'(x) / x           symmetric alpha-stable
`StudentT`      (n+1)/2 log(1 + x²/n)   (n + 1)/(n + x²)    Student's t, n degrees of freedom
`L1`            \|x\|                   1 / \|x\|           Laplace
`L2`            x²/2                    1                   Gauss of variance 1
==============  ======================  ==================  ==================================

SoftDiamond(1) and StudentT(1) are both Cauchy; SoftDiamond(2) is x²/4, Gauss of variance 2. float16 and bfloat16 are
computed in float32. Values and gradients are differentiable (``SoftDiamond``: value twice, gradient once; in reverse
mode) under autograd, ``torch.func`` and ``torch.compile(fullgraph=True)``; by group the second derivative of a value is
NaN at a norm of 0, where that of the gradient is right, and a function of the tensor as grouping does not compile whole.

**Groups.** ``SoftDiamond(alpha, group=...)`` and ``L1(group=...)`` act on the norm r of a group of d weights, see
`softdiamond.penalties.groups`: R(r / c) is minus the log of the isotropic law on R^d (`softdiamond.stable.group_penalty`), or r / c, the
group lasso. A group has one value and one omega; the gradient is omega w, and the proximal map shortens each group by the
scalar map of its norm, jump and all.

A new penalty is a file like ``student.py``: a class with ``_value`` and ``_omega`` at unit scale.

The classes need torch, `softdiamond.penalties.prox` does not: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softdiamond.penalties.base import Penalty
    from softdiamond.penalties.l1 import L1
    from softdiamond.penalties.l2 import L2
    from softdiamond.penalties.soft_diamond import SoftDiamond
    from softdiamond.penalties.student import StudentT

__all__ = ["L1", "L2", "Penalty", "SoftDiamond", "StudentT"]

_HOME = {"L1": "l1", "L2": "l2", "Penalty": "base", "SoftDiamond": "soft_diamond", "StudentT": "student"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__.copy()
