"""Quantise a checkpoint: take pictures, calibrate, write, measure what was written, refuse what costs too much."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.inference.device.backend import choose_dtype
from app.inference.device.normalise import Normaliser
from app.inference.engine import Engine
from app.pictures.pool import Transform
from app.pictures.prepared import Resolution
from app.quantization.measure import Timing, below_bar, compare, larger, time_engines
from app.quantization.samples import Sample, Samples, pixels, take_samples
from app.settings import Settings
from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.checkpoints.golden import answer_of, write_golden
from models.errors import CheckpointUnsupported
from models.files.writing import check_empty
from models.layouts.quantized import Calibration, Cost, Quantization
from models.layouts.source import Converted
from models.preprocess import whole_patches
from models.quantization.file import write
from models.quantization.quantize import quantize

CPU = torch.device("cpu")

CALIBRATED_SIZES, MEASURED_SIZES = (0.75, 1.5), (1.5,)
"""Sides of other sizes, as multiples of the checkpoint's own: a quarter of the pictures calibrates at each."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What to write.

    pictures: a folder with pictures like those that will be asked about.
    output: a new or empty directory.
    accept: write it whatever it costs.
    """

    pictures: Path
    output: Path
    accept: bool = False


class TooCostly(Exception):
    """The answers of 8 bits are not as near to those of float32 as they have to be; the message says how near."""


@dataclass(frozen=True)
class Written:
    """What was written.

    quantization: with the measured costs.
    timing: of the network beside others, on this machine.
    passed_over: files without a usable picture of their own.
    """

    quantization: Quantization
    timing: Timing
    passed_over: int


def quantize_checkpoint(settings: Settings, checkpoint: Checkpoint, order: Order, report: Report) -> Written:
    """Write a checkpoint of 8 bits.

    Args:
        settings: which images are accepted, and the threads.
        checkpoint: of float32.
        order: what to write.
        report: receives what is being done.

    Raises TooCostly, TooFewPictures, PathNotFound, CheckpointUnsupported, FileExistsError and OSError.
    """
    if checkpoint.content.quantization is not None:
        raise CheckpointUnsupported(f"{checkpoint.source}: is of 8 bits already")
    check_empty(order.output)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    report("reading pictures")
    samples = take_samples(settings, order.pictures)
    content = _quantized(checkpoint, samples, report)
    with _unfinished(order.output) as unfinished:
        write(content, unfinished)
        written = open_checkpoint(str(unfinished))
        report("measuring")
        ours, exact = Engine(written, "cpu"), Engine(checkpoint, "cpu", "float32")
        costs = tuple(_costs(ours, exact, samples))
        if (reason := below_bar(costs[0])) is not None and not order.accept:
            raise TooCostly(reason)
        assert content.quantization is not None  # noqa: S101 - it was just made
        made = replace(content.quantization, costs=costs)
        write(replace(content, quantization=made), unfinished)
        if checkpoint.golden is not None:
            write_golden(unfinished, answer_of(build(written), written.content.preprocess))
        engines = {"int8": ours, "float32": exact}
        if (native := choose_dtype("auto", CPU)) not in engines:
            engines[native] = Engine(checkpoint, "cpu", native)
        for engine in engines.values():
            engine.network.recorded = engine.record()  # as they are served
        timing = time_engines(engines, _images(checkpoint, samples.others[:8], Resolution()))
    return Written(made, timing, samples.passed_over)


def _quantized(checkpoint: Checkpoint, samples: Samples, report: Report) -> Converted:
    """Return the network of 8 bits, without its costs."""
    content, few = checkpoint.content, samples.calibration
    images = _images(checkpoint, few, Resolution())
    part = max(1, len(few) // 4)
    for place, resolution in enumerate(_resolutions(checkpoint, CALIBRATED_SIZES)):
        images += _images(checkpoint, few[place * part : (place + 1) * part], resolution)
    made = quantize(build(checkpoint), images, report)
    sizes = tuple(sorted({(image.shape[1], image.shape[2]) for image in images}))
    calibration = Calibration(len(few), samples.digest, sizes)
    kept = {name: tensor for name, tensor in content.weights.items() if not name.startswith("blocks.")}
    return replace(
        content,
        config=made.config,
        weights=kept | dict(made.weights),
        quantization=Quantization(made.layers, made.left_out, checkpoint.digest, calibration),
    )


def _costs(ours: Engine, exact: Engine, samples: Samples) -> Iterator[Cost]:
    """Yield what it costs at the checkpoint's own size, and at others on a part of the pictures."""
    yield compare(ours, exact, _images(exact.checkpoint, samples.others, Resolution()))
    few = samples.others[: max(8, len(samples.others) // 4)]
    for resolution in _resolutions(exact.checkpoint, MEASURED_SIZES):
        yield compare(ours, exact, _images(exact.checkpoint, few, resolution))


def _resolutions(checkpoint: Checkpoint, factors: tuple[float, ...]) -> list[Resolution]:
    """Return resolutions with sides of so many times the length of the checkpoint's own."""
    preprocess, patch = checkpoint.content.preprocess, checkpoint.content.config.patch_size
    if preprocess.max_patches is not None:
        return [Resolution(max_patches=max(1, round(preprocess.max_patches * factor**2))) for factor in factors]
    return [Resolution(whole_patches(larger(preprocess.input_size, factor), patch)) for factor in factors]


def _images(checkpoint: Checkpoint, samples: Sequence[Sample], resolution: Resolution) -> list[Tensor]:
    """Return the network's input for each picture: float32 (3, height, width)."""
    content = checkpoint.content
    normalise = Normaliser(content.preprocess, CPU, torch.float32)
    transform = Transform(content.preprocess, content.config.patch_size, resolution)
    return [normalise(torch.from_numpy(np.asarray(one))[None])[0] for one in pixels(samples, transform)]


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Yield a directory that becomes `output` at the end, and that is deleted if there is an error."""
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
        if output.exists():
            output.rmdir()
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
