"""The command ``softdiamond``: parsing and error text; every import that takes time is inside its command.

Exit status: 0; 2 for input that the caller can put right; 130 after Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import rich.progress

    from softdiamond.experiments.card import Card
    from softdiamond.experiments.data import Splits
    from softdiamond.experiments.engine import Engine, Job
    from softdiamond.experiments.plan import Record, Records, Run
    from softdiamond.experiments.progress import Lines, Progress

BAD_INPUT, INTERRUPTED = 2, 130
WIDTH = 130  # of the table where the output is no terminal

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_NAMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # where the encoding has no plus-minus sign or box, a ? instead of a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments if arguments is None else list(arguments), "softdiamond", standalone_mode=False)
    except Exception as error:
        # Typer's own usage errors; it keeps their class to itself.
        if (format_message := getattr(error, "format_message", None)) is None:
            raise
        context = getattr(error, "ctx", None)
        return _fail(f"{format_message().rstrip('.')}; see {context.command_path if context else 'softdiamond'} --help")
    return status or 0


def _say(message: str) -> None:
    typer.echo(f"softdiamond: {message}", err=True)


def _fail(message: str, status: int = BAD_INPUT) -> int:
    _say(message)
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        import softdiamond

        typer.echo(softdiamond.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Soft diamond regularizers: symmetric alpha-stable weight priors.

    Exit status: 0; 2 for input that can be put right; 130 after Ctrl-C.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def laws(out: Annotated[Path, typer.Option(help="Folder for the pictures.")]) -> int:
    """Draw the stable laws (densities, penalties, scores, omega) and their constraint sets."""
    from softdiamond import plotting

    if out.exists() and not out.is_dir():
        return _fail(f"{out} is a file: --out must name a folder")
    try:
        paths = plotting.laws(out)
    except ImportError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot write to {out} ({error.strerror}): --out must name a folder")
    typer.echo(f"Drawn: {', '.join(map(str, paths))}")
    return 0


@app.command()
def compare(
    card: Annotated[str | None, typer.Argument(help="Name of a card that ships, or path of your own (.toml).")] = None,
    list_cards: Annotated[bool, typer.Option("--list", help="List the cards that ship, and stop.")] = False,
    show_card: Annotated[
        bool, typer.Option("--show-card", help="Print the card, to start your own from, and stop.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the image files.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; by default softdiamond-NAME, in the current folder.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs on a slice of the data, to prove that it runs.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the runs that are to do, their time here and memory, and stop.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trainings side by side; by default what the cores allow, on a GPU 1.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto; by default the card's, which is auto unless it says otherwise.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray (extra ray).")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; by default Ray runs here.")] = None,
) -> int:
    """Train a network under each regularizer of a card, choose on validation, compare on test.

    Results lie in the folder of --out: records, weights, figures and report.html. Finished runs are kept: the same command
    goes on where it was stopped.
    """
    from softdiamond.experiments import UserError

    try:
        if list_cards:
            return _list_cards()
        if card is None:
            raise UserError("which card? See softdiamond compare --list, or give the path of your own")
        if show_card:
            from softdiamond.experiments import card as cards

            typer.echo(cards.text(card), nl=False)
            return 0
        return _compare(card, data_dir, out, quick, plan, workers, device, engine, address)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; finished runs are kept; call the same command again to continue", INTERRUPTED)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, of one card.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page; by default that of the results.")] = None,
) -> int:
    """Make the figures and report.html again from the records of one or several folders, without torch."""
    from softdiamond.experiments import UserError, store

    try:
        if out is None and len(folders) > 1:
            raise UserError("several folders make one page: --out must name a folder for it")
        card, records, twice = store.read_folders(folders)
        if twice:
            _say(f"{twice} runs lie in several folders: those of the first are taken")
        return _show(card, records, out or folders[0])
    except UserError as error:
        return _fail(str(error))


@app.command()
def claims(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of results, or folders that hold such; by default the current one.", show_default=False
        ),
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="More such folders, a friend's: their runs are pooled; can be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for claims.html and claims.json.")] = Path("softdiamond-claims"),
) -> int:
    """Judge the sentences of the paper's abstracts by the records of comparisons, without torch.

    Each testable sentence is shown, not shown, contradicted or not tested; where records are missing, the command that would
    make them is told. Of a run that lies in several folders the first folder's counts.
    """
    from rich.console import Console

    from softdiamond.experiments import UserError, verdicts
    from softdiamond.experiments import claims_page as page

    try:
        judged = verdicts.judge([*(folders or [Path()]), *(add or [])])
    except UserError as error:
        return _fail(str(error))
    if twice := sum(each.twice for each in judged.evidence):
        _say(f"{twice} runs lie in several folders: those of the first are taken")
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in verdicts.tables(judged):
        console.print(table)
    for sentence in (*verdicts.missing(judged), verdicts.count_verdicts(judged)):
        console.print(sentence, soft_wrap=True, markup=False)
    try:
        kept = page.write(judged, out)
    except OSError as error:
        return _fail(f"no page: cannot write to {out} ({error.strerror})")
    typer.echo(f"Written to {out}: {', '.join(path.name for path in kept)}")
    return 0


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, or what torch.save wrote of tensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file (.html).")] = None,
) -> int:
    """Fit the stable law to each tensor of a checkpoint, beside Gaussian, Laplace and Student-t; say what can be removed.

    No code and no data of the model are needed; a pickle of more than tensors is refused. No law fits where the
    Kolmogorov-Smirnov distance of each is above 0.1; then no alpha is suggested. What an optimizer keeps is skipped: tensors
    under state and param_groups of a dict with both, and those of which a part of the name is optimizer, optimizer_state,
    exp_avg, exp_avg_sq, max_exp_avg_sq or momentum_buffer.
    """
    from softdiamond.audit import audit as audit_file

    if out is not None and out.suffix != ".html":
        return _fail(f"--out names the page to write, with the ending .html; got {out}")
    try:
        with _counting() as count:
            rows = audit_file(file, count)
    except ValueError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot read {file} ({error.strerror or error})")
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    if as_json:
        import json

        typer.echo(json.dumps({"tensors": rows}, allow_nan=False))
    else:
        _show_audit(rows)
    if out is None:
        return 0
    from softdiamond.audit import page

    try:
        page.write(rows, file.name, out)
    except (ImportError, OSError) as error:
        return _fail(f"no page: {error}")
    _say(f"written: {out}")
    return 0


@app.command()
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
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot write to {out} ({error.strerror or error})")
    return 0


def _show_audit(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from softdiamond.audit import page

    table = Table()
    for name in page.HEAD:
        table.add_column(name, overflow="fold", min_width={"tensor": 20, "note": 16}.get(name))
    for cells in page.table(rows):
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table, crop=console.is_terminal)
    heavy = sum(bool(row.get("heavy_tailed")) for row in rows)
    fitted = sum(row["why"] is None for row in rows)
    unfit = sum(row["why"] is None and row["best"] is None for row in rows)
    said = f"{len(rows)} tensors, {fitted} fitted, {heavy} heavy-tailed, {unfit} that no law fits"
    if warning := page.warning(rows):
        said += f"; {warning}"
    console.print(said, soft_wrap=True, markup=False)


@contextmanager
def _counting() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is looked at: a line that moves on a terminal, elsewhere every hundredth."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    console, number = Console(stderr=True), 0
    with Progress(
        TextColumn("{task.description}"), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)

        def count(name: str) -> None:
            nonlocal number
            number += 1
            bar.update(task, description=f"{number}: {name}")
            if bar.disable and number % 100 == 0:
                _say(f"{number} tensors looked at")

        yield count


def _list_cards() -> int:
    from softdiamond.experiments import card as cards

    shipped = cards.shipped()
    for name, text in shipped.items():
        typer.echo(f"{name:{max(map(len, shipped))}}  {cards.parse(text, name).title}")
    return 0


def _compare(
    name: str,
    data_dir: Path | None,
    out: Path | None,
    quick: bool,
    plan: bool,
    workers: int | None,
    device: str | None,
    engine: str,
    address: str | None,
) -> int:
    from softdiamond.experiments import UserError, store
    from softdiamond.experiments import card as cards

    card = cards.find(name)
    card = card.quick_version() if quick else card
    if engine not in ("local", "ray"):
        raise UserError(f"no engine {engine!r}: there are local and ray")
    if address is not None and engine != "ray":
        raise UserError("--address belongs to --engine ray")
    if address is not None and plan:
        raise UserError("--plan times this machine: leave --address out")
    if address is not None and workers is not None:
        raise UserError("--workers is for this machine: a cluster at --address takes as many runs as it has room for")
    out = out or Path(f"softdiamond-{card.name}{'-quick' if quick else ''}")

    from softdiamond.experiments.engine import Job, device_of, sweep
    from softdiamond.experiments.runs import environment

    checkpoints = None if address else (out / "checkpoints").absolute()
    job = Job(card, data_dir and data_dir.absolute(), checkpoints, device_of(device or card.device))
    workers = None if address else workers or job.workers()
    splits = job.load()  # before anything is written
    here = environment(card, splits.train.labels.device)
    if plan:
        records = store.read_kept(out, card)
        _check_state(out, records, splits.description, here)
        return _plan(card, records, splits, workers or 1)
    with store.open_store(out, card) as kept:
        if kept.note:
            _say(kept.note)
        _check_state(kept.path, kept.records, splits.description, here)
        with (
            _engine(job, splits, engine, address, workers) as performing,
            _watching(card, kept.records, workers) as watch,
        ):
            for outcome in sweep(card, kept, performing, watch.epoch, watch.stage):
                watch.done(outcome.run, outcome.record)
        finished = list(kept.records.values())
        if diverged := sum(record["status"] == "diverged" for record in finished):
            _say(f"{diverged} of {len(finished)} runs diverged: they are kept, and shown as such")
        _show(card, finished, out)
    return 0


def _plan(card: Card, records: Records, splits: Splits, workers: int) -> int:
    """Time some steps of each method; print the runs that are to do, their time and memory."""
    from rich.console import Console

    from softdiamond.experiments.forecast import forecast, sentences, table

    with Console(stderr=True).status("") as status:  # nothing, where there is no terminal
        found = forecast(card, records, splits, workers, on_group=lambda group: status.update(f"timing {group}"))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table(found))
    for sentence in sentences(found):
        console.print(sentence, soft_wrap=True)
    return 0


def _check_state(place: Path, records: Records, data: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse to go on with other data; say where the packages or the machine are others."""
    from softdiamond.experiments import UserError

    if not records:
        return
    _say(f"{len(records)} runs were done before and are not repeated")
    for record in records.values():
        if record["data"] != data:
            raise UserError(
                f"{place} holds runs on other data (checksum {record['data']['fingerprint']}, here "
                f"{data['fingerprint']}): choose another --out"
            )
    different = {
        f"{key} {record['environment'].get(key)} (here {value})"
        for record in records.values()
        for key, value in here.items()
        if record["environment"].get(key) != value
    }
    if different:
        _say(f"the runs before were made with {', '.join(sorted(different))}: results may differ in their last bits")


def _engine(
    job: Job, splits: Splits, engine: str, address: str | None, workers: int | None
) -> AbstractContextManager[Engine]:
    from softdiamond.experiments.engine import InProcess, Workers

    if engine == "ray":
        from softdiamond.experiments.ray_engine import RayEngine

        return RayEngine(job, address, workers)
    return Workers(job, workers) if workers and workers > 1 else nullcontext(InProcess(job, splits))


def _show(card: Card, records: Sequence[Record], out: Path) -> int:
    """Print the tables and the answer, write summary, figures and page; return 2 if a file could not be written."""
    from rich.console import Console

    from softdiamond.experiments import figures, page, summary

    summed = summary.summarize(card, records)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in summary.tables(summed):
        console.print(table)
    if card.quick:
        console.print("A quick run: it proves that the card runs, and its numbers mean nothing.")
    else:
        for sentence in summed.answer:
            console.print(sentence, soft_wrap=True)
    kept: list[Path] = []
    failed = False
    for what, write in (
        ("summary.parquet", lambda: [summary.write_parquet(summed, out)]),
        ("figures", lambda: figures.comparison(summed, records, out)),
        ("report.html", lambda: [page.write(summed, records, out)]),
    ):
        try:
            out.mkdir(parents=True, exist_ok=True)
            kept += write()
        except ImportError as error:
            _say(f"no {what}: {error}")
            failed = True
        except OSError as error:
            _say(f"no {what}: cannot write to {out} ({error.strerror})")
            failed = True
    if kept:
        typer.echo(f"Written to {out}: {', '.join(path.name for path in kept)}")
    return BAD_INPUT if failed else 0


class _Bar:
    """A bar on a terminal: stage of stages, runs done, time left of the whole comparison, the current run."""

    def __init__(self, progress: Progress, bar: rich.progress.Progress) -> None:
        self._progress, self._bar = progress, bar
        self._task = bar.add_task("", total=None, left="", now="")

    def stage(self, runs: Sequence[Run]) -> None:
        """Begin a stage: tuning, its widening, or the final runs."""
        from softdiamond.experiments.progress import STAGES

        self._progress.begin(runs)
        stage = f"stage {self._progress.number} of {STAGES}: {self._progress.stage}"
        self._bar.reset(self._task, total=len(runs), description=stage)
        self._show(now="")

    def epoch(self, run: Run, epoch: int, loss: float) -> None:
        """Show the loss of the latest epoch."""
        self._show(now=f"{run}, epoch {epoch}: loss {loss:.3f}")

    def done(self, run: Run, record: Record) -> None:
        """Count a run; one that diverged stays to be read above the bar."""
        from softdiamond.experiments.progress import result

        self._progress.finish(run, record)
        self._show(advance=1, now=f"{run}: {result(record)}")
        if record["status"] == "diverged":
            self._bar.console.print(f"[{self._progress.counted}] {run}: diverged", markup=False, highlight=False)

    def _show(self, **changes: Any) -> None:
        from softdiamond.experiments.progress import duration

        left = self._progress.seconds_left()
        self._bar.update(self._task, left="" if left is None else f"{duration(left)} left", **changes)


@contextmanager
def _watching(card: Card, records: Records, workers: int | None) -> Iterator[_Bar | Lines]:
    """Show how far a comparison is on stderr: a bar on a terminal, elsewhere a line a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    from softdiamond.experiments.progress import Lines, Progress

    progress, console = Progress(card, records, workers), Console(stderr=True)
    if not console.is_terminal:
        yield Lines(progress, lambda line: typer.echo(line, err=True))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[now]}", table_column=Column(ratio=1, no_wrap=True)),  # cut first on a narrow terminal
    )
    with Bar(*columns, console=console, transient=True, expand=True) as bar:
        yield _Bar(progress, bar)
