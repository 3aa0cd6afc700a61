"""Networks for ``softdiamond prune``: a final run of a comparison, or what a function returns."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from softdiamond.compression import load_weights
from softdiamond.compression.pipeline import PruneTarget
from softdiamond.experiments import UserError, models, store
from softdiamond.experiments.data import load
from softdiamond.experiments.entry_points import entry_point
from softdiamond.experiments.plan import Run


def from_comparison(folder: Path, data_dir: Path | None, stem: str | None) -> PruneTarget:
    """Load a final run of a comparison: the one named, or that with the highest validation accuracy.

    Raises
    ------
    UserError
        If there are no weights, or none of that name, or they do not fit.
    """
    card, records = store.read_card(folder), store.read_records(folder)
    kept = {Run(**r["run"]).stem: r for r in records if r["run"]["phase"] == "final" and r["status"] == "finished"}
    found = {path.stem: path for path in (folder / "weights").glob("*.safetensors") if path.stem in kept}
    if not found:
        raise UserError(f"{folder} holds no weights of final runs: {folder / 'weights'} is empty or not there")
    if stem is not None and stem not in found:
        raise UserError(f"no run {stem!r} in {folder / 'weights'}: there are {', '.join(sorted(found))}")
    best = max(sorted(found), key=lambda each: kept[each]["validation_accuracy"])
    why = f"; of {len(found)} runs that with the highest validation accuracy" if stem is None else ""
    stem = stem or best
    run = Run(**kept[stem]["run"])
    splits = load(card.data, data_dir).without_test()
    options = {**card.model.options, **card.treatment(run.treatment).options}
    net = models.build(card.model.name, options, splits.shape, splits.classes, run.seed)
    load_weights(net, found[stem])
    return PruneTarget(
        f"{run} (--run {stem}{why})",
        net,
        splits.validation.inputs[:128],
        lambda each: models.accuracy(each, splits.validation),
    )


def from_function(name: str, weights: Path | None, shape: str) -> PruneTarget:
    """Call a function that returns a network, load its weights, and make an example of that shape, if any.

    Raises
    ------
    UserError
        If there is no such function, it fails or returns something else, the weights do not fit, or it is no shape.
    """
    make = entry_point("model", name, {})
    try:
        net = make()
    except Exception as error:  # whatever the user's function raises
        raise UserError(
            f"model {name} cannot be made: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(net, nn.Module):
        raise UserError(f"model {name} is {type(net).__name__}, not a torch.nn.Module")
    if weights is not None:
        load_weights(net, weights)
    if shape and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"--shape is the shape of an input with its batch, such as 1x3x32x32; got {shape!r}")
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(*map(int, shape.split("x")), generator=generator) if shape else None
    return PruneTarget(name, net, example, None)
