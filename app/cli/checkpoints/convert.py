"""`vitrine convert`."""

from pathlib import Path
from typing import Any

import click

from app.cli import options, run
from app.settings import CHECKPOINT
from models.errors import CheckpointError


@click.command("convert", cls=options.Command)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@options.settings(CHECKPOINT[1:])
def command(source: str, destination: Path, **values: Any) -> None:
    """Convert a checkpoint of any supported layout to a directory that Vitrine and timm can load."""
    checkpoint, head = run.open_checkpoint(source, values)
    if head is not None:
        raise click.ClickException("a head that `vitrine fit` wrote stays a file of its own; convert without --head")
    from models.checkpoints.convert import convert

    try:
        differences = convert(checkpoint, destination)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{destination}: wrote {checkpoint.name} in timm's layout")
    for difference in differences:
        click.echo(f"  {difference}")
