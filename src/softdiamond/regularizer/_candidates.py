"""The parameters that may be regularized: each once, with all its names and the modules that hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from softdiamond._compat import COMPILED

Named = nn.Module | Iterable[tuple[str, Tensor]]


class Candidate(NamedTuple):
    """A parameter with its name, its other names, and the modules that hold it under these, if they are known."""

    name: str
    parameter: Tensor
    aliases: tuple[str, ...]
    modules: tuple[nn.Module, ...]


def candidates(source: Named) -> list[Candidate]:
    """Return each distinct parameter once, with all its names.

    Raises
    ------
    TypeError
        If the source is neither a module nor an iterable of (name, tensor).
    ValueError
        If a name occurs twice.
    """
    modules: dict[str, nn.Module] = {}
    if isinstance(source, nn.Module):
        model: Any = source
        while inner := _inside(model):
            model = inner
        modules = {plain_name(name): module for name, module in model.named_modules(remove_duplicate=False)}
        pairs = [(plain_name(name), p) for name, p in model.named_parameters(remove_duplicate=False)]
    else:
        pairs = _pairs(source)
    names: dict[int, list[str]] = {}
    for name, parameter in pairs:
        names.setdefault(id(parameter), []).append(name)
    by_id = {id(parameter): parameter for _, parameter in pairs}
    return [
        Candidate(
            own[0], by_id[key], tuple(own[1:]), tuple(modules[h] for n in own if (h := _holder(n, modules)) in modules)
        )
        for key, own in names.items()
    ]


def _holder(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the name of the module whose weight a parameter is or, by a parametrization, makes."""
    holder = name.rpartition(".")[0]
    if isinstance(modules.get(holder), ParametrizationList):
        return f".{holder}".rpartition(".parametrizations.")[0][1:]
    return holder


def _inside(model: nn.Module) -> Any:
    """Return what a model for data parallelism or a compiled one wraps, or None."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    return getattr(model, COMPILED, None)


def plain_name(name: str) -> str:
    """Return a name without what `torch.compile` puts into it."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def _pairs(source: Any) -> list[tuple[str, Tensor]]:
    wanted = "a module, or an iterable of (name, parameter) such as model.named_parameters()"
    try:
        items = list(source)
    except TypeError:
        raise TypeError(f"expected {wanted}; got {type(source).__name__}") from None
    pairs: list[tuple[str, Tensor]] = []
    for item in items:
        if not (
            isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Tensor)
        ):
            parts = f" of {', '.join(type(part).__name__ for part in item)}" if isinstance(item, tuple) else ""
            raise TypeError(f"expected {wanted}; got an iterable of {type(item).__name__}{parts}")
        pairs.append((plain_name(item[0]), item[1]))
    names = [name for name, _ in pairs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"names must differ; twice: {', '.join(sorted(repeated))}")
    return pairs
