"""The command line: `vitrine serve | classify | embed | attend | inspect | convert`. Every setting is a flag.

What is slow to import (torch) is imported by the command that needs it, after the settings have been checked and the
port is bound.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
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

# Settings of `serve` alone; the others matter to every command that runs the model.
OF_THE_SERVER = {
    *("host", "port", "root_path", "docs", "drain_timeout_s", "drain_delay_s", "max_upload_bytes"),
    *("max_images_per_request", "max_queue_tokens", "request_timeout_s", "receive_timeout_s"),
    *("api_keys_file", "cors_origins", "trusted_proxies", "log_format"),
}


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

paths_argument = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace another run's output, or what it has left.")
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
    # Until the model is there: what is imported stays, and looking through it for garbage again and again takes longer
    # than some models take to load.
    gc.disable()
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


def output_option(required: bool, *suffixes: str) -> Callable[[Command], Command]:
    """Where a table goes; its suffix says what kind."""

    def check(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in suffixes:
            raise click.BadParameter(f"{value}: its suffix says what is written: {' or '.join(suffixes)}")
        return value

    text = f"A table to write: {' or '.join(suffixes)}."
    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--output", required=required, type=kind, callback=check, help=text)


@main.command()
@paths_argument
@output_option(False, ".parquet")
@overwrite_option
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(0), help="How many classes; 0 gives all.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each file.")
@size_option
@resize_option
@settings_options(OF_THE_MODEL)
def classify(paths: tuple[str, ...], as_json: bool, output: Path | None, overwrite: bool, **options: Any) -> None:
    """Name what is in files, in the images of folders, and in what globs match.

    With -o they go into a table; what is interrupted goes on when the same command is given again.
    """
    query = _query(ClassifyQuery, **{name: options.pop(name) for name in ("top_k", "size", "resize")})
    settings = _settings(options)
    if output is not None:
        _export(settings, paths, output, query, overwrite)
        return
    from app.bulk.listing import Search
    from app.bulk.progress import counted
    from app.collection import classified

    async def run() -> int:
        failed = 0
        found = (one.path for one in Search(paths, settings.image_formats))
        async for path, outcome in counted(classified(settings, found, query)):
            if isinstance(outcome, Exception):
                failed += _complain(path, outcome)
            elif as_json:
                click.echo(orjson.dumps({"file": path, "predictions": outcome}, option=orjson.OPT_SERIALIZE_NUMPY))
            else:
                click.echo("\n".join([path, *(f"  {one['score']:6.1%}  {one['label']}" for one in outcome)]))
        return failed

    _end(run)


@main.command()
@paths_argument
@output_option(True, ".parquet", ".npy")
@overwrite_option
@click.option("--pool", type=click.Choice(["cls", "mean", "native"]), help="What stands for an image.  [default: cls]")
@click.option("--normalize", is_flag=True, help="Scale each vector to length 1.")
@size_option
@resize_option
@settings_options(OF_THE_MODEL)
def embed(paths: tuple[str, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Write the vectors of files, of the images of folders, and of what globs match.

    .parquet has the columns path, size and vector. .npy is one float32 array (files, dim) in the order of the
    .files.jsonl beside it; a file that cannot be used is a row of NaN. What is interrupted goes on when the same
    command is given again.
    """
    query = _query(EmbedQuery, **{name: options.pop(name) for name in ("pool", "normalize", "size", "resize")})
    _export(_settings(options), paths, output, query, overwrite)


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
        async for path, outcome in attended(settings, [str(file)], query):
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


def _export(
    settings: Settings, paths: Sequence[str], output: Path, query: ClassifyQuery | EmbedQuery, overwrite: bool
) -> None:
    """Fill a table. The exit code tells of faulty files that were named, and of no usable file at all."""
    from app.bulk.parts import Busy, OtherRun
    from app.bulk.progress import Bar
    from app.bulk.run import Order, export
    from app.bulk.tables import NoParquet

    async def run() -> int:
        with closing(Bar()) as bar:
            try:
                told = await export(settings, Order(paths, output, query, overwrite), bar)
            except OtherRun as error:
                raise click.ClickException(f"{error}; --overwrite does away with it") from error
            except (Busy, NoParquet, OSError) as error:
                raise click.ClickException(str(error)) from error
        if told.passed_over:
            logger.info("%d files of these folders are no images by their names and were passed over", told.passed_over)
        if told.before == told.files:
            click.echo(f"{output} is complete: {told.files} files", err=True)
        if told.faulty:
            click.echo(f"{told.faulty} files could not be used: {output.with_suffix('.failures.jsonl')}", err=True)
        return told.faulty if told.faulty == told.files else told.named_and_faulty

    _end(run)


def _complain(path: str, problem: Exception) -> int:
    click.echo(f"{path}: {problem}", err=True)
    return 1


def _end(run: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run over the files; a non-zero exit code if any of them failed that were asked for by their names."""
    from app.bulk.listing import NotThere

    try:
        failed = asyncio.run(run())
    except (Problem, CheckpointError, NotThere) as error:
        raise click.ClickException(str(error)) from error
    if failed:
        raise click.ClickException(f"{failed} of the files could not be used")


if __name__ == "__main__":
    main()
