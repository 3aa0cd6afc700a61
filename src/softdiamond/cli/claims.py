"""``softdiamond claims``: the sentences of the paper's abstracts, judged by records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from softdiamond.cli.messages import WIDTH, fail, say


def claims(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of results, or folders that hold such; by default the current one.", show_default=False
        ),
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="More such folders, a friend's: their runs are pooled; can be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for claims.html and claims.json.")] = Path("softdiamond-claims"),
) -> int:
    """Judge the sentences of the paper's abstracts by the records of comparisons, without torch.

    Each testable sentence is shown, not shown, contradicted or not tested; where records are missing, the command that would
    make them is printed. Of a run that lies in several folders the first folder's counts.
    """
    from rich.console import Console

    from softdiamond.experiments import UserError, verdicts
    from softdiamond.experiments import claims_page as page

    try:
        judged = verdicts.judge([*(folders or [Path()]), *(add or [])])
    except UserError as error:
        return fail(str(error))
    if twice := sum(each.twice for each in judged.evidence):
        say(f"{twice} runs lie in several folders: those of the first are taken")
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in verdicts.tables(judged):
        console.print(table)
    for sentence in (*verdicts.missing(judged), verdicts.count_verdicts(judged)):
        console.print(sentence, soft_wrap=True, markup=False)
    try:
        kept = page.write(judged, out)
    except OSError as error:
        return fail(f"no page: cannot write to {out} ({error.strerror})")
    typer.echo(f"Written to {out}: {', '.join(path.name for path in kept)}")
    return 0
