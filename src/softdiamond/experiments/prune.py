"""A trained network made smaller from the command line: loaded, pruned, snapped, shrunk, exported, and told before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softdiamond.compression import dense_bytes, export, naming_layer, read_tensors, shrink, sizes
from softdiamond.experiments import UserError, entry_point, models, store
from softdiamond.experiments.data import load
from softdiamond.experiments.plan import Run
from softdiamond.penalties import L2, SoftDiamond
from softdiamond.pruning import DIVISIONS, LEAST, Ranking, measures
from softdiamond.regularizer import Regularizer, snap

ENDINGS = {"safetensors": "safetensors", "csr": "csr.safetensors", "onnx": "onnx", "state_dict": "pt"}
ALPHA = 0.5  # of a snap by a proximal step


@dataclass(frozen=True)
class Subject:
    """A network with its weights; where they are at hand, an example of its input and its accuracy on validation."""

    name: str
    net: nn.Module
    example: Tensor | None
    accuracy: Callable[[nn.Module], float] | None


@dataclass(frozen=True)
class Asked:
    """What is to be done, in this order."""

    share: float | None
    outputs: bool
    division: str | None
    snap: bool
    alpha: float | None
    scale: float | None
    step_lambda: float | None
    shrink: bool
    formats: Sequence[str]
    out: Path


def from_comparison(folder: Path, data_dir: Path | None, stem: str | None) -> Subject:
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
    return Subject(
        f"{run} (--run {stem}{why})",
        net,
        splits.validation.inputs[:128],
        lambda each: models.accuracy(each, splits.validation),
    )


def from_function(name: str, weights: Path | None, shape: str) -> Subject:
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
    return Subject(name, net, example, None)


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict, or that of the network in a training checkpoint, from a file that an audit reads too.

    Raises
    ------
    UserError
        If it cannot be read, or its tensors are not the network's.
    """
    try:
        state = {name: tensor.clone() for name, _, _, tensor in read_tensors(path) if isinstance(tensor, Tensor)}
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    own = net.state_dict(keep_vars=True)
    if not state.keys() & own.keys():  # of a training checkpoint, most likely
        heads = dict.fromkeys(head for name in state for head, _, rest in [name.partition(".")] if rest in own)
        if len(heads) > 1:
            raise UserError(
                f"{path} holds several state dicts of the network, under {', '.join(heads)}: save one alone"
            )
        for head in heads:
            state = {name.removeprefix(f"{head}."): w for name, w in state.items() if name.startswith(f"{head}.")}
    tied = [name for name in own if name not in state]
    try:
        missing, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first, *others = str(error).splitlines()[1:] or [str(error)]  # of torch's list, below its heading
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(f"the weights of {path} do not fit: {first.strip()}{more}") from error
    loaded = {own[name].data_ptr() for name in state if name in own}
    if unknown or any(own[name].data_ptr() not in loaded for name in missing if name in tied):
        raise UserError(
            f"the weights of {path} do not fit: {len(missing)} tensors are missing, {len(unknown)} unknown"
            + (f", {(list(unknown) or list(missing))[0]} for one" if unknown or missing else "")
        )


def perform(subject: Subject, asked: Asked, say: Callable[[str], None]) -> None:
    """Do what is asked, write the files, and tell each step.

    Raises
    ------
    UserError, ValueError, ImportError, OSError
        If a step cannot be done; files of the steps before stay.
    """
    net = subject.net.eval()
    try:
        Regularizer(net, L2(), 0.0)
    except ValueError as error:  # there are none, all are frozen, or one is not finite
        raise UserError(f"{subject.name} has no weights to prune: {error}") from error
    if subject.example is None and (asked.shrink or "onnx" in asked.formats):
        raise UserError("--shrink and --format onnx need --shape: an input with its batch, such as 1x3x32x32")
    if subject.example is not None:
        with naming_layer("the model does not take the example", net):
            net(subject.example)  # with gradients, as where operations are counted
    say(f"{subject.name}")
    say(f"before: {_told(net, subject)}")
    if asked.share is not None:
        _cut(net, asked.share, "output" if asked.outputs else "weight", asked.division or DIVISIONS[0])
        say(f"without {100 * asked.share:g} %: {_told(net, subject)}")
        for name, weight in models.regularized(net).items():
            say(f"{name}: {int((weight == 0).sum()):,} of {weight.numel():,} are 0")
    if asked.snap:
        scale = {"lam": 1.0, "scale": asked.scale} if asked.scale is not None else {"strength": 0.0}
        loss = None if subject.accuracy is None else (lambda each: 1 - subject.accuracy(each))  # type: ignore[misc]
        reg = Regularizer(net, SoftDiamond(ALPHA if asked.alpha is None else asked.alpha), **scale)  # type: ignore[arg-type]
        say(f"snap: {snap(net, reg, step_lambda=asked.step_lambda, loss=loss)}")
    if asked.shrink:
        shrunk = shrink(net, subject.example)
        net = shrunk.model
        say(f"shrunk:\n{shrunk}")
    say(f"after: {_told(net, subject)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    for format in asked.formats:
        say(str(export(net, asked.out / f"model.{ENDINGS[format]}", format, example_input=subject.example)))


def _cut(net: nn.Module, share: float, unit: str, division: str) -> None:
    weights, outputs = models.removable(net, unit)
    ranking = Ranking(weights, division, models.rms(net), outputs)
    with torch.no_grad():
        for name, kept in ranking.kept_exactly(share, LEAST * (1 - share)).items():
            weights[name].masked_fill_(~kept, 0.0)


def _told(net: nn.Module, subject: Subject) -> str:
    zero = measures(models.regularized(net))["zero"]
    text = f"{sum(p.numel() for p in net.parameters()):,} parameters, {100 * zero:.2f} % of the weights 0, "
    if subject.example is not None:
        (size,) = sizes([net], (subject.example,))
        text += f"{size.flops:,} flops and {1e3 * size.seconds:.3f} ms a call of {len(subject.example)}, "
    text += f"{dense_bytes(net):,} bytes dense"
    return text + ("" if subject.accuracy is None else f", validation accuracy {100 * subject.accuracy(net):.2f} %")


def asked_of(**settings: Any) -> Asked:
    """Return what is asked, checked.

    Raises
    ------
    UserError
        If nothing is asked, or settings do not go together.
    """
    asked = Asked(**settings)
    if asked.share is not None and not 0 < asked.share < 1:
        raise UserError(f"--share is the share of the weights to be removed, in (0, 1); got {asked.share:g}")
    if unknown := [each for each in asked.formats if each not in ENDINGS]:
        raise UserError(f"no format {unknown[0]!r}: there are {', '.join(ENDINGS)}")
    for name in ("alpha", "scale", "step_lambda"):
        if getattr(asked, name) is not None and not asked.snap:
            raise UserError(f"--{name.replace('_', '-')} belongs to --snap")
    if (asked.scale is None) != (asked.step_lambda is None):
        raise UserError("--scale and --step-lambda go together: a proximal step needs both")
    if asked.alpha is not None and asked.scale is None:
        raise UserError("--alpha goes with --scale and --step-lambda: without a proximal step a snap needs none")
    if asked.alpha is not None and not 0.1 <= asked.alpha <= 2:
        raise UserError(f"--alpha must lie in [0.1, 2]; got {asked.alpha:g}")
    if asked.outputs and asked.share is None:
        raise UserError("--outputs belongs to --share")
    if asked.division is not None and asked.share is None:
        raise UserError("--division belongs to --share")
    if asked.division not in (None, *DIVISIONS):
        raise UserError(f"no division {asked.division!r}: there are {', '.join(DIVISIONS)}")
    if not (asked.share or asked.snap or asked.shrink or asked.formats):
        raise UserError("nothing to do: give --share, --snap, --shrink or --format")
    if not (place := next(each for each in (asked.out, *asked.out.parents) if each.exists())).is_dir():
        raise UserError(f"--out is a folder for the files; {place} is a file")
    return replace(asked, formats=asked.formats or ("safetensors",))
