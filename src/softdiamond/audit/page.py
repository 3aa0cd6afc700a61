"""The page of an audit of a checkpoint, one HTML file that needs no network, from the records of `softdiamond.audit` alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from softdiamond._html import dark_colors, svg_element, template, write_whole
from softdiamond.audit._picture import pictures_of
from softdiamond.compression import OPTIMIZER_NAMES, OPTIMIZER_STATE

PICTURED = 40  # tensors that have a picture, the largest
HEAD = [
    "tensor",
    "shape",
    "alpha",
    "scale",
    "best law",
    "heavy",
    "removable at 1 %",
    "removable at 5 %",
    "suggested alpha, scale",
    "note",
]


def write(rows: Sequence[dict[str, Any]], source: str, path: Path) -> Path:
    """Write the page of an audit from its records, whole or not at all; ``source`` names the checkpoint."""
    fitted = [row for row in rows if row["why"] is None]
    largest = sorted(fitted, key=lambda row: -row["count"])[:PICTURED]
    pictures = [
        (row["name"], svg_element(svg, f"tensor-{n}", row["name"]))
        for n, (row, svg) in enumerate(zip(largest, pictures_of(largest), strict=True))
    ]
    text = template(resources.files("softdiamond.audit"), "page.html.j2").render(
        source=source,
        rows=rows,
        weights=f"{sum(row['count'] for row in fitted):,}",
        fitted=len(fitted),
        head=HEAD,
        table=table(rows),
        warning=warning(rows),
        pictures=pictures,
        left_out=len(fitted) - len(largest),
        dark=dark_colors(str(pictures)),
        optimizer_names=OPTIMIZER_NAMES,
    )
    return write_whole(text, path)


def warning(rows: Sequence[dict[str, Any]]) -> str:
    """Return which tensors hold NaN or infinity; empty where none does."""
    names = [row["name"] for row in rows if row.get("not_finite")]
    return f"NaN or infinite weights in {len(names)} of {len(rows)} tensors: {', '.join(names)}" if names else ""


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the records of an audit as rows of cells under `HEAD`, what an optimizer keeps as one."""
    kept = sum(row["why"] == OPTIMIZER_STATE for row in rows)
    last = [f"({kept} tensors)", *[""] * (len(HEAD) - 2), f"skipped: {OPTIMIZER_STATE}"]
    return [_cells(row) for row in rows if row["why"] != OPTIMIZER_STATE] + ([last] if kept else [])


def _cells(row: dict[str, Any]) -> list[str]:
    first = [row["name"], "x".join(map(str, row["shape"])) or "scalar"]
    if row["why"] is not None:
        return [*first, *[""] * (len(HEAD) - 3), f"skipped: {row['why']}"]
    ends = row["alpha_interval"]
    fits, suggested, best = row["fits"], row["suggested"], row["best"]
    return [
        *first,
        f"{row['alpha']:.3f}" + (f" ±{(ends[1] - ends[0]) / 2:.3f}" if ends else ""),
        f"{row['scale']:.4g}",
        f"{best}, KS {fits[best]['ks']:.3f}"
        if best
        else f"none, KS from {min(each['ks'] for each in fits.values()):.3f}",
        {True: "yes", False: "no", None: ""}[row["heavy_tailed"]],
        *(f"{100 * row['removable'][share]['share']:.1f} %" for share in ("1%", "5%")),
        f"{suggested['alpha']:g}, {suggested['relative_scale']:g}" if best else "",
        row["note"],
    ]
