"""A collection on a cluster, through Ray Data: any filesystem that pyarrow reads -> partitioned parquet, resumable.

    python -m deploy.ray.bulk embed s3://photos/2024 -o s3://vectors/2024 --actors 8 --num-gpus 1

The same decoder, batcher and engine as `vitrine embed`, in a pool of actors. Ray Data hands them slices of the
collection, starts an actor again that has ended, and gives its slice to another one.
"""

import asyncio
import logging
from typing import Any

import click
import ray

from app.bulk.answers import BulkQuery, Failure, answered, facts
from app.bulk.collection import loaded, started
from app.bulk.parts import DifferentRun
from app.bulk.tables import Facts, Row
from app.errors import Problem
from app.schemas import ClassifyQuery, EmbedQuery
from app.settings import BadSettings, Settings, load_settings
from app.telemetry import logs
from deploy.ray.slices import Slices
from models.errors import CheckpointError

logger = logging.getLogger("vitrine")

BLOCKS = 4096
"""Blocks that the slices are handed out in, at most: Ray keeps a record of each."""


class Worker:
    """An actor: the model, loaded once, and slice after slice through it.

    Raises OtherRun where its hardware would answer otherwise than the run has begun, as in another dtype.
    """

    def __init__(self, settings: Settings, ask: BulkQuery, slices: Slices, expected: Facts) -> None:
        logs.configure(settings.log_level, "text")
        self._ask, self._slices, self._facts = ask, slices, expected
        self._runner = asyncio.Runner()
        self._service = self._runner.run(started(settings))
        ours = facts(self._service, ask)
        if ours["fingerprint"] != expected["fingerprint"]:
            told = f"this machine answers as {ours['fingerprint']}, the run is of {expected['fingerprint']}"
            raise DifferentRun(told)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Slices of these numbers: how many files each has, and how many of them could not be used."""
        counts = [self._runner.run(self._answer(int(number))) for number in batch["slice"]]
        return {"files": [files for files, _ in counts], "faulty": [faulty for _, faulty in counts]}

    async def _answer(self, number: int) -> tuple[int, int]:
        rows: list[Row] = []
        faults: list[Failure] = []
        async for row, fault in answered(self._service, self._slices.files(number), self._ask, self._slices.read):
            rows.append(row)
            if fault is not None:
                faults.append(fault)
        self._slices.write(number, rows, faults, self._facts)
        return len(rows), len(faults)


def _facts_here(settings: Settings, ask: BulkQuery) -> Facts:
    """What decides the answers on this hardware."""

    async def attention_spec() -> Facts:
        async with loaded(settings) as service:
            return facts(service, ask)

    return asyncio.run(attention_spec())


def run(
    settings: Settings, ask: BulkQuery, slices: Slices, actors: int, resources: dict[str, float]
) -> tuple[int, int]:
    """Do what is still to be done; how many files that were, and how many could not be used. Raises OtherRun."""
    # Where an actor would run: the driver may have another device, and so another dtype.
    told: Facts = ray.get(ray.remote(_facts_here).options(**resources).remote(settings, ask))
    slices.claim(told | {"inputs": " ".join(slices.inputs)})
    total = slices.list_files(settings.image_formats)
    missing = slices.missing()
    logger.info("%d of %d slices are still to be done", len(missing), total)
    if not missing:
        return 0, 0
    dataset = ray.data.from_items(
        [{"slice": number} for number in missing], override_num_blocks=min(len(missing), BLOCKS)
    ).map_batches(
        Worker,
        fn_constructor_args=(settings, ask, slices, told),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(missing))),
        **resources,
    )
    files = faulty = 0
    for row in dataset.iter_rows():
        files, faulty = files + row["files"], faulty + row["faulty"]
    return files, faulty


@click.command()
@click.argument("task", type=click.Choice(["embed", "classify"]))
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="A directory, of any filesystem that pyarrow writes.")
@click.option("--actors", default=1, show_default=True, type=click.IntRange(1), help="Processes, each with the model.")
@click.option("--num-cpus", default=1.0, show_default=True, help="Cores of each.")
@click.option("--num-gpus", default=0.0, show_default=True, help="GPUs of each; 0.25 puts four on one.")
@click.option("--pool", type=click.Choice(["cls", "mean", "native"]), help="embed: what stands for an image.")
@click.option("--normalize", is_flag=True, help="embed: scale each vector to length 1.")
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(0), help="classify: how many classes.")
@click.option("--size", help="The network's resolution: N or HxW.")
@click.option("--resize", type=click.Choice(["crop", "squash", "fit"]), help="How it is come to.")
def main(task: str, inputs: tuple[str, ...], output: str, actors: int, **options: Any) -> None:
    """Embed or classify the images below folders, in slices. The model and the rest are VITRINE_* variables."""
    resources = {name: options.pop(name) for name in ("num_cpus", "num_gpus")}
    unfit = ("top_k",) if task == "embed" else ("pool", "normalize")
    values = {name: value for name, value in options.items() if value is not None and name not in unfit}
    try:
        ask = EmbedQuery(**values) if task == "embed" else ClassifyQuery(**values)
        settings, _ = load_settings()
        logs.configure(settings.log_level, "text")
        files, faulty = run(settings, ask, Slices(inputs, output), actors, resources)
    except DifferentRun as error:
        raise click.ClickException(f"{error}; take another output, or remove that one") from error
    except (BadSettings, CheckpointError, Problem, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{files} files done, {faulty} of them could not be used: {output}/failures")


if __name__ == "__main__":
    main()
