"""`vitrine fit`."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import options, run
from app.schemas import EmbedQuery
from app.settings import Settings

if TYPE_CHECKING:
    from app.fitting.run import Fitted, Fitting

SETTINGS = tuple(name for name in options.FILE_COMMAND_SETTINGS if name not in {"head", "labels"})
"""The settings of the command. The two that it lacks are of a checkpoint's own classes, which it does not ask for."""

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _suffix(_: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    wanted = ".html" if parameter.name == "report" else ".safetensors"
    if value is not None and value.suffix != wanted:
        raise click.BadParameter(f"{value}: the suffix must be {wanted}")
    return value


@click.command("fit", cls=options.Command)
@click.argument("folder", required=False, type=FOLDER)
@click.option("-o", "--output", required=True, type=FILE, callback=_suffix, help="File to write: .safetensors.")
@click.option(
    "--method",
    type=click.Choice(["ridge", "mean", "logistic"]),
    default="ridge",
    show_default=True,
    help="ridge: regression on one-hot targets, in closed form. mean: the nearest class mean by cosine. logistic: "
    "multinomial logistic regression, from two pictures of each class.",
)
@click.option(
    "--labels",
    type=FILE,
    help="Table of the classes, .csv or .parquet, with the columns path and label, instead of a folder for each class. "
    "Paths are relative to FOLDER or, without it, to the table.",
)
@click.option("--vectors", type=FILE, help="Table that vitrine embed wrote, whose paths --labels names.")
@click.option("--validate", type=FOLDER, help="Folder like FOLDER, of other pictures, to measure the head with.")
@click.option("--report", type=FILE, callback=_suffix, help="Report with thumbnails to write, .html.")
@click.option(
    "--pool",
    type=click.Choice(["cls", "mean", "native"]),
    help="Which vector the head reads, as in vitrine embed.  [default: cls, or native without a [CLS] token]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the saved progress of a run over other pictures. A head that is there is always replaced.",
)
@options.size
@options.resize
@options.max_patches
@options.settings(SETTINGS)
def command(**values: Any) -> None:
    """Fit a classifier head from FOLDER, which has a folder of pictures for each class.

    The network stays as it is. `vitrine serve --head` serves the head, on the model that it was fitted with. If the run
    is interrupted, the same command continues it.
    """
    query = options.read_query(
        EmbedQuery, **{name: values.pop(name) for name in ("pool", "size", "resize", "max_patches")}
    )
    names = ("folder", "labels", "vectors", "validate", "output", "method", "overwrite")
    chosen, report = {name: values.pop(name) for name in names}, values.pop("report")
    if chosen["folder"] is None and chosen["labels"] is None:
        raise click.UsageError("name a folder with a folder of pictures for each class, or --labels")
    if chosen["vectors"] is not None and (chosen["labels"] is None or chosen["folder"] is not None):
        raise click.UsageError("--vectors needs --labels, and no folder")
    if chosen["vectors"] is not None and query != EmbedQuery.model_validate({}):
        raise click.UsageError("--vectors fixes pool and resolution; leave --pool, --size, --resize, --max-patches out")
    settings = options.read_settings(values).model_copy(update={"head": None})
    from app.fitting.run import Fitting

    _run(settings, Fitting(query=query, **chosen), report)


def _run(settings: Settings, job: "Fitting", report: Path | None) -> None:
    from app.bulk.atomic import CannotWrite
    from app.bulk.parts import DifferentRun, OutputLocked, Unaccounted
    from app.bulk.progress import ProgressBar
    from app.bulk.run import Interrupted
    from app.bulk.tables import NoParquet
    from app.fitting.html import write_html
    from app.fitting.labels import BadLabels
    from app.fitting.run import fit_head
    from app.fitting.vectors import BadVectors
    from app.heads.fit import CannotFit

    async def over_files() -> int:
        started = time.monotonic()
        with closing(ProgressBar()) as bar, closing(ProgressBar()) as second:
            try:
                fitted = await fit_head(settings, job, bar, second)
                if report is not None:
                    write_html(settings, fitted, report)
            except DifferentRun as error:
                raise click.ClickException(f"{error}; use --overwrite to replace it") from error
            except (BadLabels, BadVectors, CannotFit, CannotWrite, NoParquet) as error:
                raise click.ClickException(str(error)) from error
            except (OutputLocked, Unaccounted, OSError) as error:
                raise click.ClickException(str(error)) from error
            except Interrupted as interrupted:
                bar.close()
                click.echo(str(interrupted), err=True)
                run.exit_interrupted()
        _print(fitted, job, time.monotonic() - started)
        return 0

    run.run_async(over_files)


def _print(fitted: "Fitted", job: "Fitting", seconds: float) -> None:
    from app.bulk.entries import as_text
    from app.fitting.report import report_lines

    for one in fitted.failed:
        click.echo(f"{as_text(one.path)}: {one.detail}", err=True)
    for line in report_lines(fitted):
        click.echo(line)
    click.echo(f"{job.output}: wrote the head {fitted.head.version} in {seconds:.1f} s")
