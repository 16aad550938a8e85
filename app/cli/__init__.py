"""The command line: one module for each command of `vitrine`. Every setting is a flag.

What is slow to import (torch) is imported by the function of the command that needs it, after the settings have been
checked, so that `--help` and a wrong flag answer at once.
"""

import click

from app.cli import attend, classify, embed, features, fit, serve
from app.cli.checkpoints import convert, inspect, quantize
from app.version import __version__


@click.group()
@click.version_option(__version__, prog_name="vitrine")
def main() -> None:
    """Serve a trained Vision Transformer over HTTP, or run it over files."""


for module in (serve, classify, embed, attend, features, fit, inspect, convert, quantize):
    main.add_command(module.command)
