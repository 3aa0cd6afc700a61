"""Soft diamond regularizers: exact symmetric alpha-stable (SaS) weight priors.

- ``softdiamond.stable``: the exact law in float64 NumPy (no torch).
- ``softdiamond.table``: its precomputed look-up table (no torch).
- ``softdiamond.SymmetricStable``: the same law as a ``torch.distributions.Distribution``.

Each name is imported when it is first used, so ``import softdiamond`` itself loads nothing else.

Examples
--------
>>> import softdiamond as sd
>>> round(float(sd.stable.pdf(0.0, 1.0)), 6)  # Cauchy: 1 / pi
0.31831
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softdiamond import stable, table
    from softdiamond.prior import SymmetricStable

__version__ = "0.1.0.dev0"

__all__ = ["SymmetricStable", "__version__", "stable", "table"]

_MODULES = {"stable", "table"}
_HOME = {"SymmetricStable": "softdiamond.prior"}  # public name: the module that defines it


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"softdiamond.{name}")
    if name in _HOME:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'softdiamond' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__.copy()
