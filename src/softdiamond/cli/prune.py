"""``softdiamond prune``: a trained network made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softdiamond.cli.messages import fail


def prune(
    source: Annotated[
        str, typer.Argument(help="Folder of results of a comparison, or module:function that returns a model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("softdiamond-pruned"),
    run: Annotated[
        str | None,
        typer.Option(
            help="Of a comparison: name of a file in weights/, without its ending; by default the run with the highest validation "
            "accuracy."
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Of a comparison: folder of its image files.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Of a function's model: .safetensors, or a state dict or training checkpoint (.pt)."),
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            help="Of a function's model: an input with its batch, such as 1x3x32x32; for --shrink, --format onnx, flops and time."
        ),
    ] = "",
    sparsity: Annotated[float | None, typer.Option(help="Prune the smallest weights: this share of them.")] = None,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Prune that share of the neurons and filters instead.")
    ] = False,
    scope: Annotated[
        str | None,
        typer.Option(
            help="How that sparsity is divided: global (the default; one threshold), relative (in units of each tensor's rms), layerwise."
        ),
    ] = None,
    gap_threshold: Annotated[
        bool, typer.Option("--gap-threshold", help="Set small weights to 0 where an empty band separates them.")
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Of a proximal step before the gap threshold: the prior's, by default 0.5.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Of a proximal step before the gap threshold: the prior's.")
    ] = None,
    step_lambda: Annotated[
        float | None, typer.Option(help="Of a proximal step before the gap threshold: eta lambda.")
    ] = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Remove dead neurons and filters (extra shrink).")] = False,
    format: Annotated[
        list[str] | None, typer.Option(help="safetensors (the default), csr, onnx, state_dict; can be repeated.")
    ] = None,
) -> int:
    """Make a trained network smaller: prune, threshold, shrink; report it before and after, and write it.

    No tensor keeps less than a tenth of the share that all keep together.

    The results of a comparison bring the network's input. A function's model needs --shape for --shrink and --format onnx alone;
    without it flops and time of a call are not reported.
    """
    from softdiamond.compression import pipeline
    from softdiamond.experiments import UserError, prune_targets

    try:
        function = ":" in source and not Path(source).exists()
        others = (
            {"--run": run, "--data-dir": data_dir} if function else {"--weights": weights, "--shape": shape or None}
        )
        if foreign := [name for name, value in others.items() if value is not None]:
            kinds = "a comparison's results", "a function's model"
            raise UserError(f"{foreign[0]} belongs to {kinds[not function]}; {source} is taken for {kinds[function]}")
        options = pipeline.PruneOptions(
            sparsity=sparsity, outputs=outputs, scope=scope, gap_threshold=gap_threshold, alpha=alpha, scale=scale,
            step_lambda=step_lambda, shrink=shrink, formats=tuple(format or ()), out=out,
        )  # fmt: skip
        if function:
            target = prune_targets.from_function(source, weights, shape)
        else:
            target = prune_targets.from_comparison(Path(source), data_dir, run)
        pipeline.prune(target, options, typer.echo)
    except (ValueError, ImportError) as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot write to {out} ({error.strerror or error})")
    return 0
