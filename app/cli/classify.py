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
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(0), help="How many classes; 0 gives all.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each file.")
@options.size
@options.resize
@options.settings(options.OF_THE_MODEL)
def command(paths: tuple[str, ...], as_json: bool, output: Path | None, overwrite: bool, **values: Any) -> None:
    """Print the most probable classes of image files, of the images in folders, and of what globs match.

    With -o, write them to a table. A run that is interrupted continues when the same command is given again.
    """
    query = options.read_query(ClassifyQuery, **{name: values.pop(name) for name in ("top_k", "size", "resize")})
    settings = options.read_settings(values)
    if output is not None:
        run.export(settings, paths, output, query, overwrite)
        return
    from app.bulk.collection import classified
    from app.bulk.listing import Search
    from app.bulk.progress import counted

    async def over_files() -> int:
        failed = 0
        found = (one.path for one in Search(paths, settings.image_formats))
        async for path, outcome in counted(classified(settings, found, query)):
            if isinstance(outcome, Exception):
                failed += run.report(path, outcome)
            elif as_json:
                click.echo(orjson.dumps({"file": path, "predictions": outcome}, option=orjson.OPT_SERIALIZE_NUMPY))
            else:
                click.echo("\n".join([path, *(f"  {one['score']:6.1%}  {one['label']}" for one in outcome)]))
        return failed

    run.run_async(over_files)
