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
@click.option("--pool", type=click.Choice(["cls", "mean", "native"]), help="Vector of an image.  [default: cls]")
@click.option("--normalize", is_flag=True, help="Scale each vector to length 1.")
@options.size
@options.resize
@options.settings(options.OF_THE_MODEL)
def command(paths: tuple[str, ...], output: Path, overwrite: bool, **values: Any) -> None:
    """Write the vectors of image files, of the images in folders, and of what globs match.

    .parquet has the columns path, size and vector. .npy is one float32 array (files, dim) in the order of the
    .files.jsonl beside it; a file without an answer is a row of NaN. A run that is interrupted continues when the same
    command is given again.
    """
    names = ("pool", "normalize", "size", "resize")
    query = options.read_query(EmbedQuery, **{name: values.pop(name) for name in names})
    run.export(options.read_settings(values), paths, output, query, overwrite)
