"""Functions of the user's own, named on a card as module:function."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from softdiamond.experiments.errors import UserError


def entry_point(kind: str, name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the known function of that name, or ``function`` of ``module:function``, found from the current folder too.

    Raises
    ------
    UserError
        If there is none.
    """
    if name in known:
        return known[name]
    module, colon, function = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no {kind} {name!r}: there are {', '.join(known)}, and your own as module:function{hint}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        reason = " ".join(str(error).split())
        raise UserError(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
    if not callable(found):
        raise UserError(f"{kind} {name!r} is {type(found).__name__}, not a function")
    return found
