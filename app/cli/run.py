"""Shared by the commands over files and checkpoints: open a checkpoint, run a coroutine, report results, exit."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.cli import options
from app.errors import Problem
from app.schemas import ClassifyQuery, EmbedQuery
from app.settings import BadSettings, Settings
from app.telemetry import logs
from models.errors import CheckpointError

if TYPE_CHECKING:
    from app.bulk.run import Summary
    from app.heads.head import Head
    from models.checkpoints.checkpoint import Checkpoint

logger = logging.getLogger("vitrine")

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C ended."""


def open_checkpoint(source: str, flags: dict[str, Any]) -> "tuple[Checkpoint, Head | None]":
    """Open a checkpoint, and the fitted head among the settings, which is no part of it.

    Raises ClickException with the reason why it cannot be served.
    """
    settings = options.read_settings(flags | {"model": source})
    from app.heads.file import is_fitted_head, read_head
    from models.checkpoints import checkpoint

    try:
        fitted = settings.head and is_fitted_head(path := Path(settings.head).expanduser())
        head, choices = (read_head(path), settings.choices | {"head": None}) if fitted else (None, settings.choices)
        return checkpoint.open_checkpoint(settings.model, **choices, log=logger.info), head
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def export(
    settings: Settings, paths: Sequence[str], output: Path, query: ClassifyQuery | EmbedQuery, overwrite: bool
) -> None:
    """Write a table. The exit status is 1 if a file that the user named itself failed, or if all files failed."""
    from app.bulk.atomic import CannotWrite
    from app.bulk.parts import DifferentRun, OutputLocked, Unaccounted
    from app.bulk.progress import ProgressBar
    from app.bulk.run import Export, Interrupted
    from app.bulk.run import export as write
    from app.bulk.tables import NoParquet

    async def over_files() -> int:
        started = time.monotonic()
        with closing(ProgressBar()) as bar:
            try:
                summary = await write(settings, Export(paths, output, query, overwrite), bar)
            except DifferentRun as error:
                raise click.ClickException(f"{error}; use --overwrite to replace it") from error
            except CannotWrite as error:
                saved = "the answers so far are saved: make room, and run the same command again to continue"
                raise click.ClickException(f"{error}; {saved}") from error
            except (OutputLocked, NoParquet, Unaccounted, OSError) as error:
                raise click.ClickException(str(error)) from error
            except Interrupted as interrupted:
                bar.close()
                click.echo(str(interrupted), err=True)
                exit_interrupted()
        _print_summary(summary, output, time.monotonic() - started)
        check_any(summary.files, paths)
        return summary.failed if summary.failed == summary.files else summary.named_failures

    run_async(over_files)


def _print_summary(summary: "Summary", output: Path, seconds: float) -> None:
    """Print what a finished run has written; only what went wrong is printed to standard error."""
    if summary.files and summary.resumed == summary.files:
        click.echo(f"{output} is already complete: {summary.files} files")
    elif summary.failed < summary.files:
        rows = summary.files if output.suffix == ".npy" else summary.files - summary.failed
        dim = f" of {summary.dim} numbers" if summary.dim else ""
        click.echo(f"{output}: wrote {rows} rows{dim} in {seconds:.1f} s")
    print_passed_over(summary.passed_over)
    if summary.failed:
        nan = ", each is a row of NaN" if output.suffix == ".npy" else ""
        report = output.with_suffix(".failures.jsonl")
        files = "1 file" if summary.failed == 1 else f"{summary.failed} files"
        click.echo(f"{files} failed{nan}; see {report}", err=True)


def print_passed_over(counts: Mapping[str, int], err: bool = False) -> None:
    """Print how many entries of folders are not among the files, and why."""
    if counts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        click.echo(f"passed over in folders: {reasons}", err=err)


def check_any(files: int, paths: Sequence[str]) -> None:
    """Raise ClickException if there was nothing to answer."""
    if not files:
        raise click.ClickException(f"there are no images in {', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}")


def exit_interrupted() -> NoReturn:
    """End the process after Ctrl-C, without Python's own shutdown.

    A forward pass cannot be interrupted. If one is still running on its thread, Python's shutdown ends that thread
    inside torch, whose C++ runtime then aborts the process ("terminate called without an active exception"). All
    answers are on disk by now.
    """
    logs.finish()
    os._exit(INTERRUPTED)


def report(path: str, problem: Exception) -> int:
    """Print why a file failed. Return 1, for the caller to count."""
    from app.bulk.entries import as_text

    click.echo(f"{as_text(path)}: {problem}", err=True)
    return 1


def run_async(over_files: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a coroutine that returns the number of failed files; the exit status is 1 if there are any."""
    from app.bulk.listing import PathNotFound
    from app.inference.device.backend import DeviceUnavailable
    from app.inference.jobs import OutputInvalid

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that asyncio handles Ctrl-C, by cancelling the run
    try:
        failed = asyncio.run(over_files())
    except (BadSettings, Problem, CheckpointError, DeviceUnavailable, OutputInvalid, PathNotFound) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        exit_interrupted()
    if failed:
        raise click.ClickException("1 file failed" if failed == 1 else f"{failed} files failed")
