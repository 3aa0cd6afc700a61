"""``softdiamond report``: the tables, figures and page of a comparison, from its records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softdiamond.cli.messages import BAD_INPUT, WIDTH, fail, say

if TYPE_CHECKING:
    from softdiamond.experiments.card import Card
    from softdiamond.experiments.plan import Record


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, of one card.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page; by default that of the results.")] = None,
) -> int:
    """Make the figures and report.html again from the records of one or several folders, without torch."""
    from softdiamond.experiments import UserError, store

    try:
        if out is None and len(folders) > 1:
            raise UserError("several folders make one page: --out must name a folder for it")
        card, records, twice = store.read_folders(folders)
        if twice:
            say(f"{twice} runs lie in several folders: those of the first are taken")
        return show(card, records, out or folders[0])
    except UserError as error:
        return fail(str(error))


def show(card: Card, records: Sequence[Record], out: Path) -> int:
    """Print the tables and the answer, write summary, figures and page; return 2 if a file could not be written."""
    from rich.console import Console

    from softdiamond.experiments import figures, page, summary

    summed = summary.summarize(card, records)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in summary.tables(summed):
        console.print(table)
    if card.quick:
        console.print("A quick run: it proves that the card runs, and its numbers mean nothing.")
    else:
        for sentence in summed.answer:
            console.print(sentence, soft_wrap=True)
    kept: list[Path] = []
    failed = False
    for what, write in (
        ("summary.parquet", lambda: [summary.write_parquet(summed, out)]),
        ("figures", lambda: figures.comparison(summed, records, out)),
        ("report.html", lambda: [page.write(summed, records, out)]),
    ):
        try:
            out.mkdir(parents=True, exist_ok=True)
            kept += write()
        except ImportError as error:
            say(f"no {what}: {error}")
            failed = True
        except OSError as error:
            say(f"no {what}: cannot write to {out} ({error.strerror})")
            failed = True
    if kept:
        typer.echo(f"Written to {out}: {', '.join(path.name for path in kept)}")
    return BAD_INPUT if failed else 0
