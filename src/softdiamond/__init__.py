"""Soft diamond regularizers: exact symmetric alpha-stable (SaS) weight priors.

- ``softdiamond.stable``: the exact law in float64 NumPy (no torch).
- ``softdiamond.table``: its precomputed look-up table (no torch).
- ``softdiamond.SymmetricStable``: the same law as a ``torch.distributions.Distribution``.
- ``softdiamond.SoftDiamond``, ``StudentT``, ``L1``, ``L2``: penalties on weights (``softdiamond.penalties``);
  ``softdiamond.prox``: their exact proximal map in NumPy (no torch); ``softdiamond.groups``: how groups of weights are named.
- ``softdiamond.Regularizer``: a penalty on the weights of a model, hooked to any torch optimizer; ``softdiamond.gap_threshold``:
  small weights set to 0 where any threshold gives the same mask.
- ``softdiamond.pruning``: measures of sparsity, pruning by magnitude; ``softdiamond.compression``: a network made smaller, and its
  files.
- ``softdiamond.sklearn`` (no torch), ``softdiamond.feature_selection``: estimators beside scikit-learn's.
- ``softdiamond.audit``: the stable law of a checkpoint's tensors; ``softdiamond.plotting``: pictures of laws, constraint sets and paths.
- ``softdiamond.keras``, ``softdiamond.jax`` (no torch), ``softdiamond.trainers``: the same in Keras 3, JAX and optax, and in
  Lightning, Transformers and Accelerate, each with an extra of its own.

Each name is imported when it is first used, so ``import softdiamond`` itself loads nothing else. Modules that need an extra are
imported by name: ``import softdiamond.sklearn``.

Examples
--------
>>> import softdiamond as sd
>>> round(float(sd.stable.pdf(0.0, 1.0)), 6)  # Cauchy: 1 / pi
0.31831
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softdiamond import audit, compression, penalties, plotting, pruning, stable, table
    from softdiamond.distributions import SymmetricStable
    from softdiamond.penalties import L1, L2, SoftDiamond, StudentT, groups, prox
    from softdiamond.regularizer import Regularizer, Rule, gap_threshold

__version__ = "0.1.0.dev0"

__all__ = [
    "L1",
    "L2",
    "Regularizer",
    "Rule",
    "SoftDiamond",
    "StudentT",
    "SymmetricStable",
    "__version__",
    "audit",
    "compression",
    "gap_threshold",
    "groups",
    "penalties",
    "plotting",
    "prox",
    "pruning",
    "stable",
    "table",
]

_MODULES = {  # public name: the module
    "audit": "softdiamond.audit",
    "compression": "softdiamond.compression",
    "groups": "softdiamond.penalties.groups",
    "penalties": "softdiamond.penalties",
    "plotting": "softdiamond.plotting",
    "prox": "softdiamond.penalties.prox",
    "pruning": "softdiamond.pruning",
    "stable": "softdiamond.stable",
    "table": "softdiamond.table",
}
_HOME = {  # public name: the module that defines it
    "L1": "softdiamond.penalties",
    "L2": "softdiamond.penalties",
    "Regularizer": "softdiamond.regularizer",
    "Rule": "softdiamond.regularizer",
    "SoftDiamond": "softdiamond.penalties",
    "StudentT": "softdiamond.penalties",
    "SymmetricStable": "softdiamond.distributions",
    "gap_threshold": "softdiamond.regularizer",
}


def __getattr__(name: str) -> Any:
    try:
        if name in _MODULES:
            return import_module(_MODULES[name])
        if name in _HOME:
            value = globals()[name] = getattr(import_module(_HOME[name]), name)
            return value
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors", "rich"):
            raise
        from softdiamond._extras import install

        raise ImportError(f"softdiamond.{name} needs {error.name}: {install('torch')}") from error
    raise AttributeError(f"module 'softdiamond' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__.copy()
