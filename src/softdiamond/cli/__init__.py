"""The command ``softdiamond``: a file for each of its commands, which hold parsing and error text alone.

Every import that takes time is inside its command. Exit status: 0; 2 for input that the caller can put right; 130 after
Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from softdiamond._extras import install

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        from softdiamond.cli.app import run

        return run(arguments)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "softdiamond"):
            raise
        print(f"softdiamond: the command needs {name}: {install('cli')}", file=sys.stderr)  # noqa: T201 - typer may be missing
        return 2
