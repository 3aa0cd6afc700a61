"""Optional packages: how an extra is installed, whether its packages are there, and new enough.

The versions stand in pyproject.toml alone.
"""

from __future__ import annotations

import re
from importlib import metadata


def install(extra: str) -> str:
    """Return the command that installs an extra, or several with commas between."""
    return f'pip install "softdiamond[{extra}]"'


def require(extra: str, *packages: str) -> None:
    """Check the packages of an extra, all or those named.

    Raises
    ------
    ImportError
        If one is missing or too old; the message names the extra.
    """
    try:
        requirements = metadata.requires("softdiamond") or []
    except metadata.PackageNotFoundError:  # a source tree on the path: there is no list of versions to read
        return
    for requirement in requirements:
        found = re.fullmatch(r"""([\w-]+)>=([\d.]+); extra == ['"](\w+)['"]""", requirement)
        if found is None or found[3] != extra or (packages and found[1] not in packages):
            continue
        name, least = found[1], found[2]
        advice = install(extra).replace("install", "install --upgrade")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise ImportError(f"{name} {least} or newer is needed and is not installed: {advice}") from None
        if _numbers(version) < _numbers(least):
            raise ImportError(f"{name} {least} or newer is needed and {version} is installed: {advice}")


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = [*(int(number) for number in re.findall(r"\d+", version)[:3]), 0, 0][:3]
    return major, minor, patch
