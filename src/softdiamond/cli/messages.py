"""What every command prints with: messages on standard error, exit statuses, the width of a table."""

from __future__ import annotations

import typer

BAD_INPUT, INTERRUPTED = 2, 130
WIDTH = 130  # of a table where the output is no terminal


def say(message: str) -> None:
    """Print a line to standard error."""
    typer.echo(f"softdiamond: {message}", err=True)


def fail(message: str, status: int = BAD_INPUT) -> int:
    """Print a line to standard error and return the exit status."""
    say(message)
    return status
