"""``softdiamond compare``: a comparison of regularizers on a real network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softdiamond.cli.messages import INTERRUPTED, WIDTH, fail, say
from softdiamond.cli.report import show

if TYPE_CHECKING:
    import rich.progress

    from softdiamond.experiments.card import Card
    from softdiamond.experiments.data import Splits
    from softdiamond.experiments.engine import Engine, Job
    from softdiamond.experiments.plan import Record, Records, Run
    from softdiamond.experiments.progress import Lines, Progress


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
        str | None,
        typer.Option(help="cpu, cuda or auto; by default the card's, which is auto unless it says otherwise."),
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
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("stopped; finished runs are kept; call the same command again to continue", INTERRUPTED)


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
            say(kept.note)
        _check_state(kept.path, kept.records, splits.description, here)
        with (
            _engine(job, splits, engine, address, workers) as performing,
            _watching(card, kept.records, workers) as watch,
        ):
            for outcome in sweep(card, kept, performing, watch.epoch, watch.stage):
                watch.done(outcome.run, outcome.record)
        finished = list(kept.records.values())
        if diverged := sum(record["status"] == "diverged" for record in finished):
            say(f"{diverged} of {len(finished)} runs diverged: they are kept, and shown as such")
        show(card, finished, out)
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
    say(f"{len(records)} runs were done before and are not repeated")
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
        say(f"the runs before were made with {', '.join(sorted(different))}: results may differ in their last bits")


def _engine(
    job: Job, splits: Splits, engine: str, address: str | None, workers: int | None
) -> AbstractContextManager[Engine]:
    from softdiamond.experiments.engine import InProcess, Workers

    if engine == "ray":
        from softdiamond.experiments.ray_engine import RayEngine

        return RayEngine(job, address, workers)
    return Workers(job, workers) if workers and workers > 1 else nullcontext(InProcess(job, splits))


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
