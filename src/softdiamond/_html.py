"""One offline HTML file: its template, pictures inside it, their colours on a dark background, and how it is written."""

from __future__ import annotations

import colorsys
import os
import re
from html import escape
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any


def template(folder: Traversable, name: str) -> Any:
    """Return a Jinja template of a folder, which may include others of it.

    What it prints is escaped, and all that it names must be given.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def write_whole(text: str, path: Path) -> Path:
    """Write a file, whole or not at all, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return path


def svg_element(svg: str, name: str, words: str = "") -> str:
    """Return the element of an SVG file: with words for it, and ids that no other has.

    A colour ``#rrggbb`` comes from the CSS variable ``--c-rrggbb`` where there is one.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].strip()
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))

    def renamed(tag: re.Match[str]) -> str:  # text, where a method's name may say anything, is left alone
        new = re.sub(r' id="([^"]*)"', lambda each: f' id="{name}-{each[1]}"' if each[1] in used else "", tag[0])
        new = re.sub(r'(url\(|href=")#', rf"\1#{name}-", new)
        return re.sub(r"(?<=: )#([0-9a-f]{6})\b", r"var(--c-\1, #\1)", new)

    attributes = f'role="img" aria-label="{escape(words)}"' if words else 'aria-hidden="true"'
    return f"<svg {attributes} " + re.sub(r"<[^>]*>", renamed, svg).removeprefix("<svg ")


def dark_colors(page: str) -> dict[str, str]:
    """Return, for each colour ``rrggbb`` that `svg_element` made a variable, that for a dark background."""
    return {color: dark(f"#{color}") for color in sorted(set(re.findall(r"var\(--c-([0-9a-f]{6})", page)))}


def dark(color: str) -> str:
    """Return the colour ``#rrggbb`` for a dark background: greys reversed, others lightened until they can be seen."""
    hue, light, saturation = colorsys.rgb_to_hls(*(int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)))
    if saturation < 0.1:
        light = 0.92 - 0.79 * light
    while saturation >= 0.1 and light < 0.9 and luminance(*colorsys.hls_to_rgb(hue, light, saturation)) < 0.22:
        light += 0.01
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, light, saturation))


def luminance(red: float, green: float, blue: float) -> float:
    """Return the relative luminance of an sRGB colour, as in WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
