"""``softdiamond laws``: pictures of the stable laws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softdiamond.cli.messages import fail


def laws(out: Annotated[Path, typer.Option(help="Folder for the pictures.")]) -> int:
    """Draw the stable laws (densities, penalties, scores, omega) and their constraint sets."""
    from softdiamond import plotting

    if out.exists() and not out.is_dir():
        return fail(f"{out} is a file: --out must name a folder")
    try:
        paths = plotting.laws(out)
    except ImportError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot write to {out} ({error.strerror}): --out must name a folder")
    typer.echo(f"Drawn: {', '.join(map(str, paths))}")
    return 0
