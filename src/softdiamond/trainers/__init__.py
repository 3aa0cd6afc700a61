"""The regularizer in the trainers of the PyTorch world: Lightning, Transformers, Accelerate. Needs the extra ``trainers``.

Each takes a `softdiamond.Regularizer`, or a function that makes one from the model when the training begins, hooks it to the
optimizer as soon as that exists, logs its `metrics` to whatever logger is there, and keeps its state in the checkpoint. All else
is what `softdiamond.Regularizer.attach` does everywhere: one step of the penalty for each step of the optimizer, and none while
gradients are gathered or when a loss scale makes the optimizer leave its step out. Under DDP each process takes the same step on
the same weights.

- `LightningCallback`, of ``lightning.pytorch``;
- `TransformersCallback`, of ``transformers.Trainer``;
- `with_accelerate`, the recipe for a loop of your own.

Each asks only for the package that it is for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softdiamond.trainers._shared import metrics

if TYPE_CHECKING:
    from softdiamond.trainers._accelerate import with_accelerate
    from softdiamond.trainers._lightning import LightningCallback
    from softdiamond.trainers._transformers import TransformersCallback

__all__ = ["LightningCallback", "TransformersCallback", "metrics", "with_accelerate"]

_HOME = {"LightningCallback": "_lightning", "TransformersCallback": "_transformers", "with_accelerate": "_accelerate"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = globals()[name] = getattr(import_module(f"softdiamond.trainers.{_HOME[name]}"), name)
        return value
    raise AttributeError(f"module 'softdiamond.trainers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__.copy()
