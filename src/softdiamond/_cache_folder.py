"""Where files that can be made again are kept: in the user's cache folder, or where SOFTDIAMOND_CACHE says."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """Return the subfolder for one kind of file, which need not be there yet; none where SOFTDIAMOND_CACHE is ``off``."""
    given = os.environ.get("SOFTDIAMOND_CACHE", "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given) / name
    import platformdirs

    return Path(platformdirs.user_cache_dir("softdiamond")) / name
