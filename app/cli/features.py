"""`vitrine features`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import options, run
from app.schemas import FeaturesQuery
from app.settings import Settings

if TYPE_CHECKING:
    from app.bulk.entries import ListedFile

PARAMETERS = ("patch", "mask", "layers", "norm", "prefix", "size", "resize", "max_patches")
SAMPLE = 32
"""Images that a shared basis is fitted to; their tokens are in memory at once."""


@click.command("features", cls=options.Command)
@options.paths
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="For one file: .png for a picture, .npy for the tokens (h, w, dim). Else a folder for a PNG of each file.",
)
@click.option(
    "--patch",
    metavar="ROW,COLUMN",
    help="Draw the cosine of every patch to this one, counted from 0, instead of the components.",
)
@click.option(
    "--mask",
    type=click.Choice(["positive", "negative"]),
    help="Leave the background out: the sign of the first component that marks the foreground.",
)
@click.option("--layers", metavar="N,N,...", help="Blocks, counted from 0; several only for .npy.  [default: the last]")
@click.option("--norm/--no-norm", default=True, help="Apply the final norm to the tokens.  [default: on]")
@click.option("--prefix", is_flag=True, default=None, help="For .npy: with [CLS] and the other prefix tokens.")
@click.option("--overlay", is_flag=True, help="Draw over the image.")
@click.option(
    "--sample",
    default=SAMPLE,
    show_default=True,
    type=click.IntRange(1),
    help="Number of images, evenly spaced, that the basis of a folder is fitted to.",
)
@options.size
@options.resize
@options.max_patches
@options.settings(options.FILE_COMMAND_SETTINGS)
def command(paths: tuple[str, ...], output: Path, overlay: bool, sample: int, **values: Any) -> None:
    """Draw what each patch is: principal components as colours, or the similarity to one patch.

    With several files or a folder, one basis is fitted to a sample of all images, so that the same colour means the
    same thing in each picture. A good --size has 32 to 40 patches a side.
    """
    parameters = {name: values.pop(name) for name in PARAMETERS}
    kind = "tokens" if output.suffix == ".npy" else "similarity" if parameters["patch"] else "pca"
    form = None if kind == "tokens" else "overlay" if overlay else "map"
    query = options.read_query(FeaturesQuery, output=kind, format=form, **parameters)
    settings = options.read_settings(values)
    single = output.suffix in (".png", ".npy")
    if single and (len(paths) > 1 or not Path(paths[0]).is_file()):
        raise click.BadParameter(
            f"{output}: one file of this kind is written for one image; name a folder", param_hint="-o"
        )
    if not single and kind == "similarity":
        raise click.BadParameter("a patch is of one image; -o must be a .png file", param_hint="--patch")
    if single:
        run.run_async(lambda: _one(settings, paths[0], output, query))
    else:
        run.run_async(lambda: _folder(settings, paths, output, query, sample))


async def _one(settings: Settings, path: str, output: Path, query: FeaturesQuery) -> int:
    """Write the answer to one file. Return how many failed."""
    from app.bulk.collection import running_service
    from app.bulk.drawings.features import draw_one
    from app.bulk.entries import look

    async with running_service(settings) as service:
        outcome = await draw_one(service, look(path, named=True), query)
    if isinstance(outcome, Exception):
        return run.report(path, outcome)
    _write(output, outcome)
    return 0


async def _folder(settings: Settings, paths: Sequence[str], output: Path, query: FeaturesQuery, sample: int) -> int:
    """Write a PNG for each file. Return how many failed."""
    from app.bulk.collection import running_service
    from app.bulk.drawings.features import draw_components, evenly, sampled_basis
    from app.bulk.listing import Search

    _check_apart(paths, output)
    search = Search(paths, settings.image_formats)
    files: list[ListedFile] = list(search)
    run.check_any(len(files), paths)
    failed = 0
    async with running_service(settings) as service:
        basis = await sampled_basis(service, evenly(files, sample), query)
        async for path, outcome in draw_components(service, files, query, basis):
            if isinstance(outcome, Exception):
                failed += run.report(path, outcome)
            else:
                _write(output / _below(path), outcome)
    click.echo(f"{output}: wrote {len(files) - failed} pictures")
    run.print_passed_over(search.passed_over)
    return failed


def _check_apart(paths: Sequence[str], output: Path) -> None:
    """Raise BadParameter for an output in a folder of pictures, which would be pictures of the next run."""
    for path in paths:
        if Path(path).is_dir() and output.absolute().is_relative_to(Path(path).absolute()):
            raise click.BadParameter(f"{output} lies in {path}, whose images are read", param_hint="-o")


def _below(path: str) -> Path:
    """Return the place of a file's picture: its path without the root and `..`, and one more suffix."""
    parts = [part for part in Path(path).parts if part not in (os.sep, os.pardir)]
    return Path(*parts[:-1], f"{parts[-1]}.png")


def _write(output: Path, content: bytes) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from error
