"""`vitrine embed`."""

from pathlib import Path
from typing import Any

import click

from app.cli import options, run
from app.schemas import EmbedQuery


@click.command("embed", cls=options.Command)
@options.paths
@options.output(True, ".parquet", ".npy")
@options.overwrite
@click.option(
    "--pool",
    type=click.Choice(["cls", "mean", "native"]),
    help="Which vector to write. cls: the [CLS] token. mean: the mean of the patch tokens. native: what the "
    "checkpoint's own head reads.  [default: cls, or mean without a [CLS] token]",
)
@click.option("--normalize", is_flag=True, help="Scale each vector to length 1.")
@options.size
@options.resize
@options.max_patches
@options.settings(options.FILE_COMMAND_SETTINGS)
def command(paths: tuple[str, ...], output: Path, overwrite: bool, **values: Any) -> None:
    """Embed image files, the images in folders, and the files that quoted globs match; write a table of vectors.

    .parquet has the columns path, size and vector. .npy is a float32 array (files, dim), in the order of the
    .files.jsonl file beside it; a file that failed is a row of NaN. If the run is interrupted, the same command
    continues it.
    """
    names = ("pool", "normalize", "size", "resize", "max_patches")
    query = options.read_query(EmbedQuery, **{name: values.pop(name) for name in names})
    run.export(options.read_settings(values), paths, output, query, overwrite)
