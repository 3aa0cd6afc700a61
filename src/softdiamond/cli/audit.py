"""``softdiamond audit``: the stable laws of a checkpoint's tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from softdiamond.cli.messages import INTERRUPTED, WIDTH, fail, say


def audit(
    file: Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, or what torch.save wrote of tensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file (.html).")] = None,
) -> int:
    """Fit the stable law to each tensor of a checkpoint, beside Gaussian, Laplace and Student-t; say what can be removed.

    No code and no data of the model are needed; a pickle of more than tensors is refused. No law fits where the
    Kolmogorov-Smirnov distance of each is above 0.1; then no alpha is suggested. What an optimizer keeps is skipped: tensors
    under state and param_groups of a dict with both, and those of which a part of the name is optimizer, optimizer_state,
    exp_avg, exp_avg_sq, max_exp_avg_sq or momentum_buffer.
    """
    from softdiamond.audit import audit as audit_file

    if out is not None and out.suffix != ".html":
        return fail(f"--out names the page to write, with the ending .html; got {out}")
    try:
        with _counting() as count:
            rows = audit_file(file, count)
    except ValueError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot read {file} ({error.strerror or error})")
    except KeyboardInterrupt:
        return fail("stopped", INTERRUPTED)
    if as_json:
        import json

        typer.echo(json.dumps({"tensors": rows}, allow_nan=False))
    else:
        _show_audit(rows)
    if out is None:
        return 0
    from softdiamond.audit import page

    try:
        page.write(rows, file.name, out)
    except (ImportError, OSError) as error:
        return fail(f"no page: {error}")
    say(f"written: {out}")
    return 0


def _show_audit(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from softdiamond.audit import page

    table = Table()
    for name in page.HEAD:
        table.add_column(name, overflow="fold", min_width={"tensor": 20, "note": 16}.get(name))
    for cells in page.table(rows):
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table, crop=console.is_terminal)
    heavy = sum(bool(row.get("heavy_tailed")) for row in rows)
    fitted = sum(row["why"] is None for row in rows)
    unfit = sum(row["why"] is None and row["best"] is None for row in rows)
    said = f"{len(rows)} tensors, {fitted} fitted, {heavy} heavy-tailed, {unfit} that no law fits"
    if warning := page.warning(rows):
        said += f"; {warning}"
    console.print(said, soft_wrap=True, markup=False)


@contextmanager
def _counting() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is looked at: a line that moves on a terminal, elsewhere every hundredth."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    console, number = Console(stderr=True), 0
    with Progress(
        TextColumn("{task.description}"), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)

        def count(name: str) -> None:
            nonlocal number
            number += 1
            bar.update(task, description=f"{number}: {name}")
            if bar.disable and number % 100 == 0:
                say(f"{number} tensors looked at")

        yield count
