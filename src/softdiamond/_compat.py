"""Private names of other packages that this one needs, each in one function; no other module reads one.

==============================  ============================================  =========================================
function                        what it reads                                 holds for
==============================  ============================================  =========================================
`without_dispatch_modes`        torch.utils._python_dispatch                  torch 2.6 to 2.13
`mark_constant`                 the attribute _dynamo_marked_constant         torch 2.6 to 2.13
`all_true`                      torch._is_all_true                            torch 2.6 to 2.13
`step_hooks`                    Optimizer._optimizer_step_pre_hooks, ...post  torch 2.6 to 2.13
`normalizes_channels`           torch.nn.modules.batchnorm._NormBase          torch 2.6 to 2.13
`COMPILED`                      OptimizedModule._orig_mod                     torch 2.6 to 2.13
`layers_with_variables`         Layer._flatten_layers, _trainable_variables,  Keras 3.8 to 3.15
                                _non_trainable_variables
`logs_now`                      Trainer._logger_connector                     Lightning 2.4 to 2.6
`kill_workers`                  ProcessPoolExecutor._processes                Python 3.11 to 3.13; 3.14 has kill_workers
==============================  ============================================  =========================================

The least versions are those of the extras, the largest those that `tests/test_compat.py` last ran with; it fails where one of them no
longer holds. Importing this module imports none of these packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, TypeVar

COMPILED = "_orig_mod"  # where torch.compile keeps the model, and what it puts into the names of parameters

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Switch off the dispatch modes of torch, those of torch.export among them: tensors made here have data."""
    found: AbstractContextManager[Any] = import_module("torch.utils._python_dispatch")._disable_current_modes()
    return found


def mark_constant(function: FunctionT) -> FunctionT:
    """Let torch.compile take what a function returns for a constant.

    torch.compiler.assume_constant_result does the same, but imports torch._dynamo, which takes more than a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def all_true(mask: Any) -> bool:
    """Whether all of a torch mask is true, as torch's own distributions ask it: also under vmap, where bool() is refused."""
    return bool(import_module("torch")._is_all_true(mask))


def step_hooks(optimizer: Any) -> list[Any]:
    """Hooks that were registered before and after ``step`` of a torch optimizer."""
    return [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]


def normalizes_channels(module: Any) -> bool:
    """Whether a torch module is a batch or instance normalization, of any dimension."""
    return isinstance(module, import_module("torch.nn.modules.batchnorm")._NormBase)


def layers_with_variables(model: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each layer of a Keras model, nested ones too, with the variables of its own."""
    for layer in model._flatten_layers():
        yield layer, [*layer._trainable_variables, *layer._non_trainable_variables]


def logs_now(trainer: Any) -> bool:
    """Whether the loggers of a Lightning trainer write after this batch."""
    return bool(trainer._logger_connector.should_update_logs)


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool and its processes at once."""
    if hasattr(pool, "kill_workers"):
        pool.kill_workers()
        return
    processes = list((pool._processes or {}).values())  # shutdown forgets them
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
