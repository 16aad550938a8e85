"""`vitrine quantize`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import options, run
from app.settings import CHECKPOINT, IMAGES
from models.errors import CheckpointError

if TYPE_CHECKING:
    from app.quantization.run import Written

logger = logging.getLogger("vitrine")

SETTINGS = (
    *CHECKPOINT[1:],
    "torch_threads",
    *(name for name in IMAGES if name in {"colour", "max_pixels"}),
    "log_level",
)

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("quantize", cls=options.Command)
@click.argument("source", metavar="CHECKPOINT")
@click.option("--pictures", required=True, type=FOLDER, help="Folder of pictures like those to be asked about.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to write.")
@click.option("--accept", is_flag=True, help="Write it even if its answers are below the bar.")
@options.settings(SETTINGS)
def command(source: str, pictures: Path, output: Path, accept: bool, **values: Any) -> None:
    """Quantise a checkpoint to 8 bits, which most processors with VNNI compute faster.

    A part of the pictures finds the scales, the others measure how near the answers stay to those of float32. It is
    refused below a median cosine of 0.9985 or, with a classifier, where less than 98% have the same best class.
    """
    checkpoint, head = run.open_checkpoint(source, values)
    if head is not None:
        raise click.ClickException("a head that `vitrine fit` wrote stays a file of its own; quantise without --head")
    settings = options.read_settings(values | {f"{options.PREFIX}model": source})
    from app.bulk.listing import PathNotFound
    from app.quantization.run import Order, TooCostly, quantize_checkpoint
    from app.quantization.samples import TooFewPictures

    try:
        written = quantize_checkpoint(settings, checkpoint, Order(pictures, output, accept), logger.info)
    except TooCostly as error:
        raise click.ClickException(f"{output} is not written: {error}; --accept writes it nevertheless") from error
    except (CheckpointError, PathNotFound, TooFewPictures, OSError) as error:
        raise click.ClickException(str(error)) from error
    _print(written, output)


def _print(written: "Written", output: Path) -> None:
    from models.checkpoints.describe import sentence

    made, timing = written.quantization, written.timing
    if written.passed_over:
        click.echo(f"{written.passed_over} files have no picture that can be used, or that of another file", err=True)
    click.echo(f"int8 in {len(made.layers)} of {len(made.layers) + len(made.left_out)} linear layers")
    if made.left_out:
        click.echo(f"not in {', '.join(made.left_out)}")
    for cost in made.costs:
        click.echo(sentence(cost))
    for about, times in (("one image", timing.alone), ("an image of a batch", timing.together)):
        click.echo(f"{about} here: " + ", ".join(f"{ms:.1f} ms in {dtype}" for dtype, ms in times.items()))
    click.echo(f"{output}: written; serve it with vitrine serve --model {output}")
