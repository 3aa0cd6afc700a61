"""Comparisons of regularizers on real networks: data, models, the one training loop, and the sweep over runs.

``data`` holds the splits, ``models`` the networks and what is measured on them, ``train`` the loop and the penalty that
it adds to the loss, ``runs`` the comparisons, their records and the sweep.
"""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """Something that the caller can put right; its text is one line that says what was wrong and what is allowed."""
