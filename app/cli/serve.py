"""`vitrine serve`."""

import gc
import logging
from typing import Any

import click

from app.cli import options
from app.settings import BadSettings
from models.errors import CheckpointError
from models.files.location import locate_local

logger = logging.getLogger("vitrine")


@click.command("serve", cls=options.Command)
@options.settings(options.ALL)
def command(**flags: Any) -> None:
    """Serve the model over HTTP."""
    # No garbage collection until the model is loaded: imported modules are never garbage, and scanning them repeatedly
    # takes longer than some models take to load.
    gc.disable()
    settings = options.read_settings(flags, serving=True)
    from app import server

    try:
        locate_local(settings.model, settings.revision)  # so that a wrong path is reported before the server listens
        listener = server.bind(settings)
    except CheckpointError as error:
        raise click.ClickException(f"the model could not be loaded: {error}") from error
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {server.authority(settings.host, settings.port)}: {error.strerror}"
        ) from error
    logger.info("listening on %s, loading %s", server.url(listener), settings.model)
    from app.main import create_app

    try:
        app = create_app(settings)
    except BadSettings as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    server.run(app, settings, listener)
