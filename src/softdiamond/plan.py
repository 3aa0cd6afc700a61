"""The printable plan of what is regularized, how strongly, what is not, and why: one table for every framework."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

WIDTH = 120  # of the plain text
TEXT = "parameter", "penalty", "why"  # columns that are broken into lines where the table is too wide
LEAST = 12  # of their widths


class Plan:
    """What is regularized, what is not, and why: `Regularizer.describe`.

    ``print`` shows it as plain text, ``rich.print`` in colour.

    Attributes
    ----------
    records : list of dict
        One for each parameter, in the model's order: ``name``, ``shape``, ``regularized``, ``why``, ``penalty``,
        ``strength`` (now), ``scale``, ``lambda``, ``groups`` (how many), ``group_size`` (weights in each), ``reference``
        (rms_0), ``optimizer``, ``eta`` (now) and ``weight_decay`` of its parameter group; None where it is not regularized,
        the groups also where there are none, the last three where no attached optimizer holds it. Of groups of several
        sizes, scale, lambda and size are pairs: those of the smallest and of the largest.
    notes : list of str
        What is said below the table.
    """

    def __init__(self, records: list[dict[str, Any]], notes: Sequence[str]) -> None:
        self.records = records
        self.notes = list(notes)

    def _headings(self) -> list[str]:
        grouped = any(record["groups"] for record in self.records)
        return ["parameter", "shape", "penalty", *(["groups"] if grouped else []), "strength", "scale", "lambda", "why"]

    def _cells(self, record: dict[str, Any]) -> list[str]:
        shape = "x".join(map(str, record["shape"])) or "scalar"
        groups = f"{record['groups']:,} x {_shown(record['group_size'])}" if record["groups"] else "-"
        shown = {"parameter": record["name"], "shape": shape, "penalty": record["penalty"] or "-", "groups": groups}
        shown |= {key: _shown(record[key]) for key in ("strength", "scale", "lambda")} | {"why": record["why"]}
        return [shown[heading] for heading in self._headings()]

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(caption="\n".join(self.notes), caption_justify="left")
        for heading in self._headings():
            left = heading in TEXT
            overflow = "fold" if heading == "parameter" else "ellipsis"
            table.add_column(heading, justify="left" if left else "right", overflow=overflow)  # type: ignore[arg-type]
        for record in self.records:
            table.add_row(*map(Text, self._cells(record)), style=None if record["regularized"] else "dim")
        return table

    def __str__(self) -> str:
        headings = self._headings()
        rows = [self._cells(record) for record in self.records]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        text = [number for number, heading in enumerate(headings) if heading in TEXT]
        while sum(widths) + 3 * len(widths) + 1 > WIDTH:
            widest = max(text, key=widths.__getitem__)
            if widths[widest] <= LEAST:
                break
            widths[widest] -= 1
        edge = "+" + "-" * (sum(widths) + 3 * len(widths) - 1) + "+"
        rule = "|" + "+".join("-" * (width + 2) for width in widths) + "|"
        body = [line for row in rows for line in _lines(row, widths, headings)]
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH)]
        return "\n".join([edge, *_lines(headings, widths, headings), rule, *body, edge, *notes])

    __repr__ = __str__


def _lines(cells: Sequence[str], widths: Sequence[int], headings: Sequence[str]) -> Iterator[str]:
    """Lines of one row, whose cells are broken where they are too long."""
    broken = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, broken))):
        parts = [lines[number] if number < len(lines) else "" for lines in broken]
        shown = [
            part.ljust(width) if heading in TEXT else part.rjust(width)
            for part, width, heading in zip(parts, widths, headings, strict=True)
        ]
        yield f"| {' | '.join(shown)} |"


def skipped_record(name: str, shape: tuple[int, ...], why: str) -> dict[str, Any]:
    """Return the row of `Plan` for a parameter that is not regularized."""
    about = "optimizer", "eta", "weight_decay"
    unknown = "penalty", "strength", "scale", "lambda", "groups", "group_size", "reference", *about
    return {"name": name, "shape": shape, "regularized": False, "why": why, **dict.fromkeys(unknown)}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " to ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
