"""The application: its commands, its options, and how it is run."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from softdiamond.cli import audit, claims, compare, laws, prune, report
from softdiamond.cli.messages import fail

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_NAMES)
for command in (laws.laws, compare.compare, report.report, claims.claims, audit.audit, prune.prune):
    app.command()(command)


def run(arguments: Sequence[str] | None) -> int:
    """Run the application and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the encoding has no plus-minus sign or box, a ? is printed
    try:
        status = app(arguments if arguments is None else list(arguments), "softdiamond", standalone_mode=False)
    except Exception as error:
        # Typer's own usage errors; it keeps their class to itself.
        if (format_message := getattr(error, "format_message", None)) is None:
            raise
        context = getattr(error, "ctx", None)
        return fail(f"{format_message().rstrip('.')}; see {context.command_path if context else 'softdiamond'} --help")
    return status or 0


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

    Exit status: 0; 2 for input that can be put right; 130 after Ctrl-C.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
