"""Flags that several commands share, and a `--help` that lists a command's own flags before the settings' flags."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from app.schemas import ResolutionQuery
from app.settings import CHECKPOINT, COMPUTE, IMAGES, LOGGING, SECRET, BadSettings, Settings, load_settings
from app.telemetry import logs
from app.wording import requirement

Function = TypeVar("Function", bound=Callable[..., Any])
Query = TypeVar("Query", bound=ResolutionQuery)

GROUPS = {
    "Model options": CHECKPOINT,
    "Compute options": COMPUTE,
    "Image options": IMAGES,
    "Server options": tuple(
        name for name in Settings.model_fields if name not in {*CHECKPOINT, *COMPUTE, *IMAGES, *LOGGING, *SECRET}
    ),
    "Logging options": LOGGING,
}
"""The headings of `--help`, and the settings listed under each."""

FILE_COMMAND_SETTINGS = (*CHECKPOINT, *COMPUTE, *IMAGES, "log_level")
"""Settings of the commands that run the model over files."""

ALL = tuple(name for names in GROUPS.values() for name in names)

paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
overwrite = click.option(
    "--overwrite", is_flag=True, help="Replace the output, or the saved progress, of a different run."
)
size = click.option(
    "--size", metavar="N|HxW", help="Resolution in pixels; HxW is height x width.  [default: the checkpoint's]"
)
resize = click.option(
    "--resize",
    type=click.Choice(["crop", "squash", "fit"]),
    help="crop: scale to cover the size and cut out the centre. squash: ignore the aspect ratio. fit: keep the aspect "
    "ratio and cut nothing.  [default: the checkpoint's]",
)
max_patches = click.option(
    "--max-patches",
    type=click.IntRange(1),
    help="Resolution by a number of patches, instead of --size and --resize: the image keeps its shape.  [default: the "
    "checkpoint's]",
)


def output(required: bool, *suffixes: str) -> Callable[[Function], Function]:
    """Return the flag `-o`: the table to write, whose suffix selects the format."""

    def check(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in suffixes:
            raise click.BadParameter(f"{value}: the suffix must be {' or '.join(suffixes)}")
        return value

    path = click.Path(dir_okay=False, path_type=Path)
    text = f"Table to write; the suffix selects the format: {' or '.join(suffixes)}."
    return click.option("-o", "--output", required=required, type=path, callback=check, help=text)


class SettingOption(click.Option):
    """The flag of a setting. Its value stays a string: all settings are validated together, with the environment."""

    @property
    def setting(self) -> str:
        """The name of the setting in `Settings`."""
        return (self.name or "").removeprefix(PREFIX)


PREFIX = "setting_"
"""Prefix of the parameter names. `vitrine attend` has a parameter `head` of its own, an attention head."""


def settings(names: Sequence[str], taken: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Return one flag per setting, without the flags in `taken`, which the command uses for itself.

    `--head`, the file of a classifier head, is also called `--head-file`.
    """

    def decorate(function: Function) -> Function:
        for name in reversed(names):
            flag = f"--{name.replace('_', '-')}"
            flags = [flag, "--head-file"] if name == "head" else [flag]
            if Settings.model_fields[name].annotation is bool:
                flags, metavar = [f"{flag}/--no-{flag[2:]}"], None
            else:
                metavar = "VALUE"
            flags = [flag for flag in flags if flag not in taken]
            function = click.option(
                *flags, f"{PREFIX}{name}", cls=SettingOption, default=None, metavar=metavar, help=_setting_help(name)
            )(function)
        return function

    return decorate


def _setting_help(name: str) -> str:
    """Return a setting's description, with its default at the end in click's form."""
    field = Settings.model_fields[name]
    text, _, described = (field.description or "").partition(" [default: ")
    default = field.default
    if described:  # in words, because the default is decided at start-up
        shown = described.removesuffix("].")
    elif name == "model":
        shown = "the shipped model"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = ",".join(default) or "none"
    else:
        shown = "none" if default in (None, "") else str(default)
    return f"{text.removesuffix('.')}.  [default: {shown}]"


class Command(click.Command):
    """A command whose `--help` has a section for each group of settings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own flags, then the flags of the settings in groups."""
        own, settings = [], {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            if isinstance(parameter, SettingOption):
                settings[parameter.setting] = record
            else:
                own.append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        for heading, names in GROUPS.items():
            records = [settings[name] for name in names if name in settings]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def read_settings(flags: dict[str, Any], serving: bool = False) -> Settings:
    """Read the settings from the environment and the flags, and start logging. Exit with status 2 if one is invalid."""
    overrides = {name.removeprefix(PREFIX): value for name, value in flags.items() if value is not None}
    try:
        settings, warnings = load_settings(**overrides)
    except BadSettings as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
    # People read the log of a command over files. Only the log of a service is read by programs.
    logs.configure(settings.log_level, settings.log_format if serving else "text")
    if not serving and settings.log_level == "info":  # how the device computes is for those who operate a service
        logging.getLogger("vitrine.device").setLevel(logging.WARNING)
    for warning in warnings:
        logs.logger.warning(warning)
    return settings


def read_query(schema: type[Query], **values: Any) -> Query:
    """Validate a command's parameters with the schema of the HTTP endpoint."""
    try:
        return schema.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        text = f"{fault['input']!r} {requirement(fault)}"
        raise click.BadParameter(text, param_hint=f"--{str(fault['loc'][0]).replace('_', '-')}") from error
