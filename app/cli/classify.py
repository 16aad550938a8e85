"""`vitrine classify`."""

from pathlib import Path
from typing import Any

import click
import orjson

from app.cli import options, run
from app.schemas import ClassifyQuery


@click.command("classify", cls=options.Command)
@options.paths
@options.output(False, ".parquet")
@options.overwrite
@click.option(
    "--top-k", default=5, show_default=True, type=click.IntRange(0), help="Number of classes per file; 0 for all."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per file.")
@options.size
@options.resize
@options.max_patches
@options.settings(options.FILE_COMMAND_SETTINGS)
def command(paths: tuple[str, ...], as_json: bool, output: Path | None, overwrite: bool, **values: Any) -> None:
    """Classify image files, the images in folders, and the files that quoted globs match.

    Prints the best classes of each file or, with -o, writes them to a table. If the run is interrupted, the same
    command continues it.
    """
    names = ("top_k", "size", "resize", "max_patches")
    query = options.read_query(ClassifyQuery, **{name: values.pop(name) for name in names})
    settings = options.read_settings(values)
    if output is not None:
        run.export(settings, paths, output, query, overwrite)
        return
    from app.bulk.collection import classify_files
    from app.bulk.entries import as_text
    from app.bulk.listing import Search
    from app.bulk.progress import with_progress

    async def over_files() -> int:
        failed = count = 0
        search = Search(paths, settings.image_formats)
        async for path, outcome in with_progress(classify_files(settings, search, query)):
            count += 1
            if isinstance(outcome, Exception):
                failed += run.report(path, outcome)
            elif as_json:
                click.echo(
                    orjson.dumps({"file": as_text(path), "predictions": outcome}, option=orjson.OPT_SERIALIZE_NUMPY)
                )
            else:
                click.echo("\n".join([as_text(path), *(f"  {row['score']:6.1%}  {row['label']}" for row in outcome)]))
        run.print_passed_over(search.passed_over, err=True)
        run.check_any(count, paths)
        return failed

    run.run_async(over_files)
