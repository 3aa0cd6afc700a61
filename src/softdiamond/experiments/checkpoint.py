"""The state of a training that is under way, on the disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import copy
import os
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

CHECKPOINT_SECONDS = 60.0


class Checkpoint:
    """Where one run leaves its state: weights in safetensors, all else in a file that loads with ``weights_only=True``.

    Both are written under new names and renamed; the newest epoch whose two files are whole is the one to go on from.

    Parameters
    ----------
    stem : Path
        Folder and beginning of the names of the files.
    seconds : float
        Least time between two of them.
    """

    def __init__(self, stem: Path, seconds: float = CHECKPOINT_SECONDS) -> None:
        self._stem, self._seconds = stem, seconds
        self._warned = False
        self._last = time.monotonic()

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, epoch: int, net: nn.Module, state: dict[str, Any]) -> None:
        """Write one and delete those before it; where it cannot be written, warn once: the run goes on without."""
        before = self._files()
        paths = [self._stem.with_name(f"{self._stem.name}.{epoch:05d}{end}") for end in (".safetensors", ".pt")]
        new = [path.with_suffix(path.suffix + ".new") for path in paths]
        try:
            self._stem.parent.mkdir(parents=True, exist_ok=True)
            save_model(net, str(new[0]))
            torch.save(state, new[1])
            for written, path in zip(new, paths, strict=True):
                os.replace(written, path)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, say
            with suppress(OSError):
                for path in new:
                    path.unlink(missing_ok=True)
            self._warn("cannot be written", error, "the run goes on without, and begins anew if it is stopped")
            return
        for path in before:
            if path not in paths:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self, net: nn.Module) -> dict[str, Any] | None:
        """Put the newest whole one's weights into the net and return its state."""
        start = copy.deepcopy(net.state_dict())
        for path in sorted((file for file in self._files() if file.suffix == ".pt"), reverse=True):
            try:
                state = torch.load(path, weights_only=True)
                load_model(net, path.with_suffix(".safetensors"))
            except Exception as error:  # whatever a file that is cut, damaged or of another network raises
                net.load_state_dict(start)
                self._warn("cannot be read", error, "the run goes on from an older one, or begins anew")
                continue
            return state
        return None

    def delete(self) -> None:
        """Delete what there is."""
        for path in self._files():
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _warn(self, what: str, error: Exception, consequence: str) -> None:
        if not self._warned:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"the checkpoint {self._stem} {what} ({reason}): {consequence}", RuntimeWarning, stacklevel=3)
        self._warned = True

    def _files(self) -> list[Path]:
        return list(self._stem.parent.glob(f"{self._stem.name}.[0-9]*")) if self._stem.parent.is_dir() else []
