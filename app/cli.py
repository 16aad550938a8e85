"""The command line: `vitrine serve | classify | embed | attend | inspect | convert`. Every setting is a flag.

What is slow to import (torch) is imported by the command that needs it, after the settings have been checked and the
port is bound.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson
from pydantic import ValidationError

from app import __version__, logs
from app.errors import Problem
from app.schemas import AttentionQuery, ClassifyQuery, EmbedQuery, ViewQuery
from app.settings import OF_THE_CHECKPOINT, SECRET, BadSettings, Settings, load_settings
from models.errors import CheckpointError

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint

logger = logging.getLogger("vitrine")

Command = TypeVar("Command", bound=Callable[..., Any])
Query = TypeVar("Query", bound=ViewQuery)
Outcome = TypeVar("Outcome")

# Settings of `serve` alone; the others matter to every command that runs the model.
OF_THE_SERVER = {
    *("host", "port", "root_path", "docs", "drain_timeout_s", "drain_delay_s", "max_upload_bytes"),
    *("max_images_per_request", "max_queue_tokens", "request_timeout_s", "receive_timeout_s"),
    *("api_keys_file", "cors_origins", "trusted_proxies", "log_format"),
}
PROGRESS_FROM = 20
"""Files from which on a progress bar is worth its line."""


def settings_options(names: Sequence[str]) -> Callable[[Command], Command]:
    """A flag for each of these settings. Their values are checked all together, with the environment's."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = f"--{name.replace('_', '-')}"
            shown = field.default if isinstance(field.default, str | int | float) else None
            text = f"{field.description}" + (f"  [default: {shown}]" if shown not in (None, "") else "")
            if field.annotation is bool:
                command = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)(command)
            else:
                command = click.option(flag, name, metavar="VALUE", help=text)(command)
        return command

    return decorate


ALL = tuple(name for name in Settings.model_fields if name not in SECRET)
OF_THE_MODEL = tuple(name for name in ALL if name not in OF_THE_SERVER)

files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
size_option = click.option("--size", metavar="N|HxW", help="The network's resolution.  [default: the checkpoint's]")
resize_option = click.option("--resize", type=click.Choice(["crop", "squash", "fit"]), help="How it is come to.")


@click.group()
@click.version_option(__version__, prog_name="vitrine")
def main() -> None:
    """Serve a trained Vision Transformer, or ask it about files."""


@main.command()
@settings_options(ALL)
def serve(**flags: Any) -> None:
    """Answer over HTTP."""
    if os.getpid() == 1:
        # The kernel gives a container's first process no default action for a signal: until the server listens for it,
        # SIGTERM would be lost.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = _settings(flags, serving=True)
    from app import server

    try:
        listener = server.bind(settings)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    logger.info("listening on http://%s:%d, loading %s", settings.host, listener.getsockname()[1], settings.model)
    from app.main import create_app

    if not server.run(create_app(settings), settings, listener):
        sys.exit(1)


@main.command()
@files_argument
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(0), help="How many classes; 0 gives all.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each file.")
@size_option
@resize_option
@settings_options(OF_THE_MODEL)
def classify(files: tuple[Path, ...], top_k: int, as_json: bool, **options: Any) -> None:
    """Name what is in image files."""
    view = {"size": options.pop("size"), "resize": options.pop("resize")}
    query = _query(ClassifyQuery, top_k=top_k, **view)
    settings = _settings(options)
    from app.collection import classified

    async def run() -> int:
        failed = 0
        async for path, outcome in _progress(classified(settings, files, query), files):
            if isinstance(outcome, Exception):
                failed += _complain(path, outcome)
            elif as_json:
                click.echo(orjson.dumps({"file": str(path), "predictions": outcome}, option=orjson.OPT_SERIALIZE_NUMPY))
            else:
                click.echo("\n".join([str(path), *(f"  {one['score']:6.1%}  {one['label']}" for one in outcome)]))
        return failed

    _end(run)


@main.command()
@files_argument
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="A .npy to write.")
@click.option("--pool", type=click.Choice(["cls", "mean", "native"]), help="What stands for an image.  [default: cls]")
@click.option("--normalize", is_flag=True, help="Scale each vector to length 1.")
@size_option
@resize_option
@settings_options(OF_THE_MODEL)
def embed(files: tuple[Path, ...], output: Path, pool: str | None, normalize: bool, **options: Any) -> None:
    """Write the vectors of image files as one float32 array (files, dim), in their order.

    A file that cannot be read is reported and its row is NaN: no other row moves or is lost.
    """
    view = {"size": options.pop("size"), "resize": options.pop("resize")}
    query = _query(EmbedQuery, pool=pool, normalize=normalize, **view)
    settings = _settings(options)
    import numpy as np

    from app.collection import embedded

    async def run() -> int:
        rows: list[Any] = []
        failed = 0
        async for path, outcome in _progress(embedded(settings, files, query), files):
            if isinstance(outcome, Exception):
                failed += _complain(path, outcome)
            rows.append(None if isinstance(outcome, Exception) else outcome)
        if failed == len(rows):
            return failed
        dim = next(len(row) for row in rows if row is not None)
        missing = np.full(dim, np.nan, np.float32)
        with output.open("wb") as file:
            np.save(file, np.stack([missing if row is None else row for row in rows]), allow_pickle=False)
        return failed

    _end(run)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="A PNG to write.")
@click.option("--layer", type=click.IntRange(0), help="Counted from 0.  [default: the last]")
@click.option("--head", default="mean", show_default=True, help="mean, or a head counted from 0.")
@click.option(
    "--method",
    type=click.Choice(["raw", "rollout"]),
    default="raw",
    show_default=True,
    help="Of one layer, or through all.",
)
@click.option("--map", "bare", is_flag=True, help="The attention alone, without the picture.")
@size_option
@resize_option
@settings_options(OF_THE_MODEL)
def attend(file: Path, output: Path, bare: bool, **options: Any) -> None:
    """Draw what the [CLS] token attends to in an image file."""
    asked = {name: options.pop(name) for name in ("layer", "head", "method", "size", "resize")}
    query = _query(AttentionQuery, output="map" if bare else "overlay", **asked)
    settings = _settings(options)
    from app.collection import attended

    async def run() -> int:
        async for path, outcome in attended(settings, [file], query):
            if isinstance(outcome, Exception):
                return _complain(path, outcome)
            with output.open("wb") as png:
                png.write(outcome)
        return 0

    _end(run)


@main.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="As GET /model tells it.")
@settings_options(OF_THE_CHECKPOINT[1:])
def inspect(source: str, as_json: bool, **options: Any) -> None:
    """Tell what would be served of a checkpoint, and why, without serving it."""
    checkpoint = _checkpoint(source, options)
    from models.describe import describe

    content = describe(checkpoint)
    if as_json:
        click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        return
    reasons = content.pop("reasons")
    labels = content.pop("labels") or ["none"]
    content["labels"] = ", ".join(labels[:3]) + (f", ... ({len(labels)})" if len(labels) > 3 else "")
    for name, value in content.items():
        click.echo(f"{name:15}{value}" + (f"  ({reasons.pop(name)})" if name in reasons else ""))
    for name, reason in reasons.items():
        click.echo(f"{name:15}{reason}")


@main.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@settings_options(OF_THE_CHECKPOINT[1:])
def convert(source: str, destination: Path, **options: Any) -> None:
    """Write a checkpoint of any layout as a directory that Vitrine and timm load at once."""
    checkpoint = _checkpoint(source, options)
    from models.convert import convert as write

    try:
        differences = write(checkpoint, destination)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{destination}: {checkpoint.name} in timm's layout")
    for difference in differences:
        click.echo(f"  {difference}")


def _checkpoint(source: str, options: dict[str, Any]) -> "Checkpoint":
    """The checkpoint at a place; what is wrong with it ends the command."""
    settings = _settings(options | {"model": source})
    from models.checkpoint import open_checkpoint

    try:
        return open_checkpoint(settings.model, **settings.choices, say=logger.info)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def _settings(flags: dict[str, Any], serving: bool = False) -> Settings:
    """The environment's settings with the flags on top; every fault is told, and ends the command."""
    try:
        settings, warnings = load_settings(**{name: value for name, value in flags.items() if value is not None})
    except BadSettings as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    # Commands over files are read by people; only a service's log is read by machines.
    logs.configure(settings.log_level, settings.log_format if serving else "text")
    for warning in warnings:
        logger.warning(warning)
    return settings


def _query(kind: type[Query], **values: Any) -> Query:
    """Parameters as an HTTP client would send them, checked by the same schema."""
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        raise click.BadParameter(f"{fault['input']!r}: {fault['msg']}", param_hint=f"--{fault['loc'][0]}") from error


async def _progress(outcomes: AsyncIterator[Outcome], files: Sequence[Path]) -> AsyncIterator[Outcome]:
    """Hand the outcomes on, with a progress bar on the terminal where there are many."""
    hidden = len(files) < PROGRESS_FROM or not sys.stderr.isatty()
    with click.progressbar(length=len(files), file=sys.stderr, hidden=hidden, show_pos=True) as bar:
        async for outcome in outcomes:
            bar.update(1)
            yield outcome


def _complain(path: Path, problem: Exception) -> int:
    click.echo(f"{path}: {problem}", err=True)
    return 1


def _end(run: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run over the files; a non-zero exit code if any of them failed."""
    try:
        failed = asyncio.run(run())
    except (Problem, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    if failed:
        raise click.ClickException(f"{failed} of the files could not be used")


if __name__ == "__main__":
    main()
