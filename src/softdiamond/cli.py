"""The command ``softdiamond``: parsing and error text; every import that takes time is inside its command.

Exit status: 0; 2 for input that the caller can put right; 3 if a run diverged; 130 after Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from softdiamond.experiments.runs import Comparison, Done

BAD_INPUT, DIVERGED, INTERRUPTED = 2, 3, 130
WIDTH = 110  # of the table where the output is no terminal

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_NAMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # where the encoding has no plus-minus sign or box, a ? instead of a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments if arguments is None else list(arguments), "softdiamond", standalone_mode=False)
    except Exception as error:
        # Typer's own usage errors; it keeps their class to itself.
        if (format_message := getattr(error, "format_message", None)) is None:
            raise
        context = getattr(error, "ctx", None)
        return _fail(f"{format_message().rstrip('.')}; see {context.command_path if context else 'softdiamond'} --help")
    return status or 0


def _say(message: str) -> None:
    typer.echo(f"softdiamond: {message}", err=True)


def _fail(message: str, status: int = BAD_INPUT) -> int:
    _say(message)
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        import softdiamond

        typer.echo(softdiamond.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Soft diamond regularizers: symmetric alpha-stable weight priors.

    Exit status: 0; 2 for input that can be put right; 3 if a run diverged; 130 after Ctrl-C.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def laws(out: Annotated[Path, typer.Option(help="Folder for the pictures.")]) -> int:
    """Draw the stable laws (densities, penalties, scores, omega) and their constraint sets."""
    from softdiamond import figures

    if out.exists() and not out.is_dir():
        return _fail(f"{out} is a file: --out must name a folder")
    try:
        paths = figures.laws(out)
    except ImportError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot write to {out} ({error.strerror}): --out must name a folder")
    typer.echo(f"Drawn: {', '.join(map(str, paths))}")
    return 0


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="digits or cifar10-small.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data; cifar10-small needs it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; by default softdiamond-NAME, in the current folder.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="How a penalty acts: implicit or prox step, gradient, or a term of the loss.")
    ] = "implicit",
) -> int:
    """Train a network under each regularizer, strengths chosen on validation, and compare on the test set.

    digits takes less than a minute, cifar10-small about a quarter of an hour. Finished runs are kept in the folder of
    results: the same command continues where it was stopped.
    """
    from softdiamond.experiments import UserError

    try:
        return _compare(name, data_dir, out, mode)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; finished runs are kept; call the same command again to continue", INTERRUPTED)


def _compare(name: str, data_dir: Path | None, out: Path | None, mode: str) -> int:
    from rich.console import Console

    from softdiamond.experiments import UserError, runs, summary
    from softdiamond.experiments.records import Store

    comparison = runs.find(name, mode)
    if comparison.needs_folder and data_dir is None:
        from softdiamond.experiments.data import CIFAR_LAYOUT

        raise UserError(f"{name} needs --data-dir: {CIFAR_LAYOUT}")
    if not comparison.needs_folder and data_dir is not None:
        raise UserError(f"{name} brings its own data: leave --data-dir out")
    out = out or Path(f"softdiamond-{name}")
    splits = comparison.load(data_dir) if comparison.needs_folder else comparison.load()
    store = Store(out)
    if store.note:
        _say(store.note)
    if others := store.count_others(runs.settings(comparison, splits)):
        _say(f"records in {store.path} of another comparison or other settings, not used here: {others}")

    done = list(_show_progress(comparison, runs.sweep(comparison, splits, store)))
    records = [each.record for each in done]
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(summary.table(comparison, summary.rows(comparison, records)))
    kept = [store.path, *_draw(records, out)]
    typer.echo(f"Kept: {', '.join(map(str, kept))}")
    if diverged := [str(each.run) for each in done if each.record["status"] == "diverged"]:
        listed = "; ".join(diverged[:3]) + ("; ..." if len(diverged) > 3 else "")
        return _fail(f"{len(diverged)} of {len(done)} runs diverged, their records are kept: {listed}", DIVERGED)
    return 0


def _draw(records: list[dict[str, object]], out: Path) -> list[Path]:
    """Draw the figure where that can be done; the records are safe already."""
    from softdiamond import figures

    try:
        return figures.comparison(records, out)
    except (ImportError, ValueError) as error:
        _say(f"no figure: {error}")
    except OSError as error:
        _say(f"no figure: cannot write to {out} ({error.strerror})")
    return []


def _show_progress(comparison: Comparison, sweep: Iterator[Done]) -> Iterator[Done]:
    """Pass runs on; a bar on a terminal, elsewhere a line for each new run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total = comparison.size()
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(comparison.name, total=total)
        stored = 0
        for number, done in enumerate(sweep, start=1):
            stored += done.stored
            accuracy, status = done.record["validation_accuracy"], done.record["status"]
            result = status if accuracy is None else f"validation {100 * accuracy:.1f} %"
            progress.update(task, advance=1, description=f"{done.run}: {result}")
            if not console.is_terminal and not done.stored:
                typer.echo(f"[{number}/{total}] {done.run}: {result}", err=True)
            yield done
    if stored:
        _say(f"{stored} of {total} runs were done before and are not repeated")
