"""Comparisons of regularizers on real networks.

``card`` says what is compared (TOML), ``readers`` and ``data`` bring the splits, ``models`` the networks, ``train`` is the
one loop, ``measure`` what is measured on a trained network, ``runs`` makes one run's record; ``plan`` says which runs are
still to do, ``store`` keeps their records, ``engine`` and ``ray_engine`` perform them, ``forecast`` says how long they will
take, ``progress`` how far they are, ``summary`` what they show; ``claims`` are the paper's sentences with their tests,
``verdicts`` judges them.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["UserError", "entry_point"]


class UserError(ValueError):
    """Something that the caller can put right; its text is one line that says what was wrong and what is allowed."""


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
