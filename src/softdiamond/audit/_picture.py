"""Pictures of one tensor of a checkpoint, from the records of `softdiamond.audit`: log-histogram and QQ plot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from softdiamond.plotting import PAGE_STYLE, drawing, svg

COLORS = {"stable": ("#0072B2", "-"), "Gaussian": ("#D55E00", "--")}


def pictures_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    r"""Return an SVG for each record that has a fit: the share of weights by log10 \|w\| with the laws, and their quantiles.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    pictures = []
    with drawing(PAGE_STYLE) as new_figure:
        for row in rows:
            figure = new_figure(figsize=(7.6, 2.6))
            left, right = figure.subplots(1, 2)
            edges, share = np.array(row["histogram"]["log10"]), np.array(row["histogram"]["share"])
            left.stairs(np.maximum(share, 1e-9), edges, fill=True, color="#c8ccd2")
            found = np.array(row["quantiles"]["found"])
            for name, (color, line) in COLORS.items():
                law = np.array(row["histogram"][name])
                left.plot((edges[:-1] + edges[1:]) / 2, np.maximum(law, 1e-9), line, color=color, label=name)
                right.loglog(np.array(row["quantiles"][name]), found, line, color=color, label=name)
            left.set(yscale="log", ylim=(max(1e-7, 0.3 / row["count"]), 1), xlabel="log10 |w|", ylabel="share, by 0.1")
            ends = [found[found > 0].min(), found.max()]
            right.plot(ends, ends, color="#6b6b6b", linewidth=0.8)
            right.set(
                xlabel="|w| of the law",
                ylabel="|w| found",
                xlim=(0.5 * ends[0], 2 * ends[1]),
                ylim=(0.5 * ends[0], 2 * ends[1]),
            )
            left.legend()
            pictures.append(svg(figure))
    return pictures
