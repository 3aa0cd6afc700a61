"""A trained network made smaller, for ``softdiamond prune``: pruned, shrunk, exported, and described before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from softdiamond.compression._calls import naming_layer
from softdiamond.compression._export import export
from softdiamond.compression._profile import dense_bytes, profile
from softdiamond.compression._shrink import shrink
from softdiamond.penalties import L2, SoftDiamond
from softdiamond.pruning import MIN_DENSITY_RATIO, SCOPES, Ranking, hidden_outputs, measures
from softdiamond.regularizer import Regularizer, eligible_parameters, gap_threshold

ENDINGS = {"safetensors": "safetensors", "csr": "csr.safetensors", "onnx": "onnx", "state_dict": "pt"}
ALPHA = 0.5  # of a gap threshold by a proximal step


@dataclass(frozen=True)
class PruneTarget:
    """A network with its weights; where they are at hand, an example of its input and its accuracy on validation."""

    name: str
    net: nn.Module
    example: Tensor | None
    accuracy: Callable[[nn.Module], float] | None


@dataclass(frozen=True)
class PruneOptions:
    """What is done to a network, in this order.

    Attributes
    ----------
    sparsity : float, optional
        Share of the weights to be pruned, in (0, 1); with ``outputs`` of the neurons and filters.
    outputs : bool
        Whether whole neurons and filters are pruned.
    scope : str, optional
        How the sparsity is divided among tensors, as `softdiamond.pruning.Ranking`; by default global.
    gap_threshold : bool
        Whether small weights are set to 0 where an empty band separates them (`softdiamond.gap_threshold`).
    alpha, scale, step_lambda : float, optional
        Of a proximal step before it.
    shrink : bool
        Whether dead neurons and filters are removed.
    formats : sequence of str
        Of the files; safetensors where none is given.
    out : Path
        Their folder.

    Raises
    ------
    ValueError
        If nothing is to be done, or settings do not go together.
    """

    sparsity: float | None
    outputs: bool
    scope: str | None
    gap_threshold: bool
    alpha: float | None
    scale: float | None
    step_lambda: float | None
    shrink: bool
    formats: Sequence[str]
    out: Path

    def __post_init__(self) -> None:
        self._check_pruning()
        self._check_gap_threshold()
        if unknown := [each for each in self.formats if each not in ENDINGS]:
            raise ValueError(f"no format {unknown[0]!r}: there are {', '.join(ENDINGS)}")
        if not (self.sparsity or self.gap_threshold or self.shrink or self.formats):
            raise ValueError("nothing to do: give --sparsity, --gap-threshold, --shrink or --format")
        if not (place := next(each for each in (self.out, *self.out.parents) if each.exists())).is_dir():
            raise ValueError(f"--out is a folder for the files; {place} is a file")
        object.__setattr__(self, "formats", tuple(self.formats) or ("safetensors",))

    def _check_pruning(self) -> None:
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ValueError(f"--sparsity is the share of the weights to be pruned, in (0, 1); got {self.sparsity:g}")
        if self.outputs and self.sparsity is None:
            raise ValueError("--outputs belongs to --sparsity")
        if self.scope is not None and self.sparsity is None:
            raise ValueError("--scope belongs to --sparsity")
        if self.scope not in (None, *SCOPES):
            raise ValueError(f"no scope {self.scope!r}: there are {', '.join(SCOPES)}")

    def _check_gap_threshold(self) -> None:
        for name in ("alpha", "scale", "step_lambda"):
            if getattr(self, name) is not None and not self.gap_threshold:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --gap-threshold")
        if (self.scale is None) != (self.step_lambda is None):
            raise ValueError("--scale and --step-lambda go together: a proximal step needs both")
        if self.alpha is not None and self.scale is None:
            raise ValueError("--alpha goes with --scale and --step-lambda: without a proximal step there is no prior")
        if self.alpha is not None and not 0.1 <= self.alpha <= 2:
            raise ValueError(f"--alpha must lie in [0.1, 2]; got {self.alpha:g}")


def prune(target: PruneTarget, options: PruneOptions, report: Callable[[str], None]) -> None:
    """Prune, shrink and export a network as the options have it; ``report`` gets a line for each step.

    Raises
    ------
    ValueError, ImportError, OSError
        If a step cannot be done; files of the steps before stay.
    """
    net = target.net.eval()
    _check(net, target, options)
    report(f"{target.name}")
    report(f"before: {_description(net, target)}")
    if options.sparsity is not None:
        _prune_smallest(net, options.sparsity, options.outputs, options.scope or SCOPES[0])
        report(f"without {100 * options.sparsity:g} %: {_description(net, target)}")
        for name, weight in eligible_parameters(net).items():
            report(f"{name}: {int((weight == 0).sum()):,} of {weight.numel():,} are 0")
    if options.gap_threshold:
        report(f"gap threshold: {_threshold(net, target, options)}")
    if options.shrink:
        shrunk = shrink(net, target.example)
        net = shrunk.model
        report(f"shrunk:\n{shrunk}")
    report(f"after: {_description(net, target)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for format in options.formats:
        report(str(export(net, options.out / f"model.{ENDINGS[format]}", format, example_input=target.example)))


def _check(net: nn.Module, target: PruneTarget, options: PruneOptions) -> None:
    try:
        Regularizer(net, L2(), 0.0)
    except ValueError as error:  # there are none, all are frozen, or one is not finite
        raise ValueError(f"{target.name} has no weights to prune: {error}") from error
    if target.example is None and (options.shrink or "onnx" in options.formats):
        raise ValueError("--shrink and --format onnx need --shape: an input with its batch, such as 1x3x32x32")
    if target.example is not None:
        with naming_layer("the model does not take the example", net):
            net(target.example)  # with gradients, as where operations are counted


@torch.no_grad()
def _prune_smallest(net: nn.Module, sparsity: float, whole_outputs: bool, scope: str) -> None:
    parameters, weights = dict(net.named_parameters()), eligible_parameters(net)
    reference = {name: float(w.double().square().mean().sqrt()) for name, w in weights.items()}
    outputs = hidden_outputs(net, weights) if whole_outputs else None
    if outputs is not None:
        if not outputs:
            raise ValueError("--outputs needs a hidden linear or convolutional layer; the network has none")
        weights = {each: parameters[each] for name, coupled in outputs.items() for each in (name, *coupled)}
    ranking = Ranking(weights, scope, reference, outputs)
    for name, kept in ranking.exact_masks(sparsity, MIN_DENSITY_RATIO * (1 - sparsity)).items():
        weights[name].masked_fill_(~kept, 0.0)


def _threshold(net: nn.Module, target: PruneTarget, options: PruneOptions) -> str:
    penalty = SoftDiamond(ALPHA if options.alpha is None else options.alpha)
    if options.scale is None:
        reg = Regularizer(net, penalty, strength=0.0)
    else:
        reg = Regularizer(net, penalty, lam=1.0, scale=options.scale)
    accuracy = target.accuracy
    loss = None if accuracy is None else (lambda each: 1 - accuracy(each))
    return str(gap_threshold(net, reg, step_lambda=options.step_lambda, loss=loss))


def _description(net: nn.Module, target: PruneTarget) -> str:
    zero = measures(eligible_parameters(net))["zero"]
    text = f"{sum(p.numel() for p in net.parameters()):,} parameters, {100 * zero:.2f} % of the weights 0, "
    if target.example is not None:
        (size,) = profile([net], (target.example,))
        text += f"{size.flops:,} flops and {1e3 * size.seconds:.3f} ms a call of {len(target.example)}, "
    text += f"{dense_bytes(net):,} bytes dense"
    return text + ("" if target.accuracy is None else f", validation accuracy {100 * target.accuracy(net):.2f} %")
