"""What commands over files and checkpoints share: open, run to the end, report, exit."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import options
from app.errors import Problem
from app.schemas import ClassifyQuery, EmbedQuery
from app.settings import Settings
from models.errors import CheckpointError

if TYPE_CHECKING:
    from app.bulk.run import Summary
    from models.checkpoints.checkpoint import Checkpoint

logger = logging.getLogger("vitrine")

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C ended."""


def open_checkpoint(source: str, flags: dict[str, Any]) -> "Checkpoint":
    """Open the checkpoint at a place. Raises ClickException with the reason why it cannot be served."""
    settings = options.read_settings(flags | {"model": source})
    from models.checkpoints import checkpoint

    try:
        return checkpoint.open_checkpoint(settings.model, **settings.choices, log=logger.info)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def export(
    settings: Settings, paths: Sequence[str], output: Path, query: ClassifyQuery | EmbedQuery, overwrite: bool
) -> None:
    """Write a table. The exit status is not 0 if a file that was named has no answer, or no file has one."""
    from app.bulk.parts import DifferentRun, OutputLocked
    from app.bulk.progress import ProgressBar
    from app.bulk.run import Export, Interrupted
    from app.bulk.run import export as write
    from app.bulk.tables import NoParquet

    async def over_files() -> int:
        started = time.monotonic()
        with closing(ProgressBar()) as bar:
            try:
                told = await write(settings, Export(paths, output, query, overwrite), bar)
            except DifferentRun as error:
                raise click.ClickException(f"{error}; --overwrite replaces it") from error
            except (OutputLocked, NoParquet, OSError) as error:
                raise click.ClickException(str(error)) from error
            except Interrupted as interrupted:
                bar.close()
                click.echo(str(interrupted), err=True)
                raise SystemExit(INTERRUPTED) from None
        _summarise(told, output, time.monotonic() - started)
        return told.faulty if told.faulty == told.files else told.named_failures

    run_async(over_files)


def _summarise(told: "Summary", output: Path, seconds: float) -> None:
    """Say what a finished run has written."""
    if told.skipped:
        logger.info("skipped %d files of these folders that have no image's suffix", told.skipped)
    if told.before == told.files:
        click.echo(f"{output} is complete: {told.files} files", err=True)
    elif told.faulty < told.files:
        rows = told.files if output.suffix == ".npy" else told.files - told.faulty
        width = f" of {told.width} numbers" if told.width else ""
        click.echo(f"{output}: {rows} rows{width} in {seconds:.1f} s", err=True)
    if told.faulty:
        nan = ", a row of NaN each" if output.suffix == ".npy" else ""
        report = output.with_suffix(".failures.jsonl")
        click.echo(f"{told.faulty} files could not be used{nan}: {report}", err=True)


def report(path: str, problem: Exception) -> int:
    """Print why a file has no answer; return 1, to be counted."""
    click.echo(f"{path}: {problem}", err=True)
    return 1


def run_async(over_files: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a coroutine that returns how many of the named files failed; the exit status is 1 if any did."""
    from app.bulk.listing import PathNotFound

    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio takes it from there, and cancels the run
    try:
        failed = asyncio.run(over_files())
    except (Problem, CheckpointError, PathNotFound) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    if failed:
        raise click.ClickException(f"{failed} of the files could not be used")
