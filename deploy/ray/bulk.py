"""Embed or classify a collection on a cluster with Ray Data: from any filesystem of pyarrow to partitioned parquet.

    python -m deploy.ray.bulk embed s3://photos/2024 -o s3://vectors/2024 --actors 8 --num-gpus 1

Uses the same decoder, batcher and engine as `vitrine embed`, in a pool of actors. Ray Data distributes slices of the
collection to them, restarts an actor that died, and gives its slice to another one. An interrupted run is resumable.
"""

import asyncio
import logging
from typing import Any

import click
import ray

from app.bulk.atomic import CannotWrite
from app.bulk.collection import running_service, start_service
from app.bulk.listing import PathNotFound
from app.bulk.parts import DifferentRun, Unaccounted
from app.bulk.rows import BulkQuery, Failure, answer_rows, run_facts
from app.bulk.tables import Facts, Row
from app.errors import Problem
from app.schemas import ClassifyQuery, EmbedQuery
from app.settings import BadSettings, Settings, load_settings
from app.telemetry import logs
from deploy.ray.slices import Listed, Slices
from models.errors import CheckpointError

logger = logging.getLogger("vitrine")

MAX_BLOCKS = 4096
"""Maximum number of Ray Data blocks that the slices are grouped into: Ray keeps metadata of each."""

EXPECTED = (BadSettings, CannotWrite, CheckpointError, PathNotFound, Problem, Unaccounted, OSError, ValueError)
"""Errors that their message explains."""


class Worker:
    """An actor: it loads the model once and answers one slice after the other.

    Raises DifferentRun if its hardware would give other answers than the run has begun with, such as another dtype.
    """

    def __init__(self, settings: Settings, query: BulkQuery, slices: Slices, expected: Facts) -> None:
        logs.configure(settings.log_level, "text")
        self._query, self._slices, self._facts = query, slices, expected
        self._runner = asyncio.Runner()
        self._service = self._runner.run(start_service(settings))
        fingerprint = run_facts(self._service, query)["fingerprint"]
        if fingerprint != expected["fingerprint"]:
            raise DifferentRun(f"this machine's fingerprint is {fingerprint}, the run's is {expected['fingerprint']}")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Answer the slices of a batch; return how many files each has, and how many of them failed."""
        counts = [self._runner.run(self._answer(int(number))) for number in batch["slice"]]
        return {"files": [files for files, _ in counts], "failed": [failed for _, failed in counts]}

    async def _answer(self, number: int) -> tuple[int, int]:
        rows: list[Row] = []
        failures: list[Failure] = []
        files = self._slices.files(number)
        async for row, failure in answer_rows(self._service, files, self._query, self._slices.read):
            rows.append(row)
            if failure is not None:
                failures.append(failure)
        self._slices.write(number, rows, failures, self._facts)
        return len(rows), len(failures)


def _facts_on_this_machine(settings: Settings, query: BulkQuery) -> Facts:
    """Load the model and return what determines the answers on this hardware."""

    async def load() -> Facts:
        async with running_service(settings) as service:
            return run_facts(service, query)

    return asyncio.run(load())


def run(
    settings: Settings, query: BulkQuery, slices: Slices, actors: int, resources: dict[str, float]
) -> tuple[Listed, int, int]:
    """Answer the remaining slices. Returns what is listed, their number of files, and how many failed.

    Raises DifferentRun, PathNotFound, and Unaccounted unless every file of these slices is answered or failed.
    """
    # As a Ray task with the actors' resources, because the driver may have another device, and so another dtype.
    facts: Facts = ray.get(ray.remote(_facts_on_this_machine).options(**resources).remote(settings, query))
    slices.claim(facts | {"inputs": " ".join(slices.inputs)})
    listed = slices.list_files(settings.image_formats)
    missing = slices.missing(listed)
    logger.info("%d of %d slices remain", len(missing), listed.slices)
    if not missing:
        return listed, 0, 0
    dataset = ray.data.from_items(
        [{"slice": number} for number in missing], override_num_blocks=min(len(missing), MAX_BLOCKS)
    ).map_batches(
        Worker,
        fn_constructor_args=(settings, query, slices, facts),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(missing))),
        **resources,
    )
    files = failed = 0
    for row in dataset.iter_rows():
        files, failed = files + row["files"], failed + row["failed"]
    expected = sum(listed.files_of(number) for number in missing)
    if files != expected:
        raise Unaccounted(
            f"{expected} files were to be answered, and {files} have an answer or failed; please report this"
        )
    return listed, files, failed


@click.command()
@click.argument("task", type=click.Choice(["embed", "classify"]))
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="Directory to write, on any filesystem that pyarrow supports.")
@click.option("--actors", default=1, show_default=True, type=click.IntRange(1), help="Number of model processes.")
@click.option("--num-cpus", default=1.0, show_default=True, help="CPU cores per actor.")
@click.option("--num-gpus", default=0.0, show_default=True, help="GPUs per actor; 0.25 runs four actors on one GPU.")
@click.option(
    "--pool",
    type=click.Choice(["cls", "mean", "native"]),
    help="embed: which vector to write. cls: the [CLS] token. mean: the mean of the patch tokens. native: what the "
    "checkpoint's own head reads.  [default: cls, or mean without a [CLS] token]",
)
@click.option("--normalize", is_flag=True, help="embed: scale each vector to length 1.")
@click.option(
    "--top-k", default=5, show_default=True, type=click.IntRange(0), help="classify: classes per file; 0 for all."
)
@click.option("--size", metavar="N|HxW", help="Resolution in pixels.  [default: the checkpoint's]")
@click.option(
    "--resize",
    type=click.Choice(["crop", "squash", "fit"]),
    help="How images reach that size.  [default: the checkpoint's]",
)
@click.option("--max-patches", type=click.IntRange(1), help="Resolution by a number of patches, instead of both.")
def main(task: str, inputs: tuple[str, ...], output: str, actors: int, **options: Any) -> None:
    """Embed or classify the images in folders on a Ray cluster. VITRINE_* variables set the model and all else."""
    resources = {name: options.pop(name) for name in ("num_cpus", "num_gpus")}
    other_task = ("top_k",) if task == "embed" else ("pool", "normalize")
    values = {name: value for name, value in options.items() if value is not None and name not in other_task}
    try:
        query = EmbedQuery(**values) if task == "embed" else ClassifyQuery(**values)
        settings, _ = load_settings()
        logs.configure(settings.log_level, "text")
        listed, files, failed = run(settings, query, Slices(inputs, output), actors, resources)
    except DifferentRun as error:
        raise click.ClickException(f"{error}; choose another output, or delete that one") from error
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    if listed.passed_over:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(listed.passed_over.items()))
        click.echo(f"passed over in folders: {reasons}")
    if not listed.files:
        raise click.ClickException(f"there are no images in {', '.join(inputs)}")
    click.echo(f"{files} files done, {failed} of them failed: see {output}/failures")


if __name__ == "__main__":
    main()
