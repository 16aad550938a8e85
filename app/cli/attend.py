"""`vitrine attend`."""

from pathlib import Path
from typing import Any

import click

from app.cli import options, run
from app.schemas import AttentionQuery


@click.command("attend", cls=options.Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="PNG file to write."
)
@click.option("--layer", type=click.IntRange(0), help="Layer, counted from 0.  [default: last]")
@click.option(
    "--head",
    default="mean",
    show_default=True,
    help="Attention head, counted from 0, or mean for the mean of all heads.",
)
@click.option(
    "--method",
    type=click.Choice(["raw", "rollout"]),
    default="raw",
    show_default=True,
    help="raw: the attention of one layer. rollout: attention rollout through all layers up to that one.",
)
@click.option("--map", "map_only", is_flag=True, help="Draw only the attention map, without the image.")
@options.size
@options.resize
@options.max_patches
@options.settings(options.FILE_COMMAND_SETTINGS, taken=["--head"])
def command(file: Path, output: Path, map_only: bool, **values: Any) -> None:
    """Draw the attention of the [CLS] token over an image file, as a PNG."""
    parameters = {name: values.pop(name) for name in ("layer", "head", "method", "size", "resize", "max_patches")}
    if parameters["head"] == "all":
        raise click.BadParameter("all: a PNG shows one map; choose a head or mean", param_hint="--head")
    query = options.read_query(AttentionQuery, output="map" if map_only else "overlay", **parameters)
    settings = options.read_settings(values)
    from app.bulk.drawings.attention import draw_attention
    from app.bulk.entries import look

    found = look(str(file), named=True)
    if found.problem is not None:
        raise click.ClickException(f"{file}: {found.problem}")

    async def over_files() -> int:
        async for path, outcome in draw_attention(settings, [found], query):
            if isinstance(outcome, Exception):
                return run.report(path, outcome)
            try:
                with output.open("wb") as png:
                    png.write(outcome)
            except OSError as error:
                raise click.ClickException(f"cannot write {output}: {error.strerror}") from error
        return 0

    run.run_async(over_files)
