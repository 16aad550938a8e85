"""Bytes -> pixels that are ready for the queue, in a bounded pool: all that can be wrong with one image is found here.

Decoding has two bounds: threads, and the memory that the pictures in hand take together.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.errors import ImageProblem
from app.pictures.budget import MemoryBudget
from app.pictures.decode import decode, limit_pillow, to_network
from app.pictures.header import Limits, read_header
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.settings import Settings
from app.threads.cores import usable_cores
from app.threads.event_loop import call_soon
from app.threads.priority import lower_priority
from models.preprocess import Plan, Preprocess, Size

DECODE_MEMORY_BYTES = 2**30
"""What all pictures that are being decoded may take together."""

MAX_SCALED_PIXELS = 16_000_000
"""A long, thin picture may not grow to any size on its way to covering the input."""

READ_ON_THE_LOOP_BYTES = 2**14
"""Headers of larger files are read on a decoding thread: a hostile one can hide its size behind much else."""


SPARE = 2
"""How many times the scaled size a picture has to be decoded at: its filter then sees more than it keeps."""


@dataclass(frozen=True)
class Transform:
    """How pictures become pixels: the steps and the patch of the checkpoint, and the view that a request asks for."""

    preprocess: Preprocess
    patch: Size
    resolution: Resolution

    def plan(self, size: Size) -> Plan:
        """For a picture of this upright size."""
        return self.preprocess.plan(size, self.patch, self.resolution.size, self.resolution.resize)

    def enough(self, size: Size) -> Size:
        """At which size a picture is decoded without a difference that the network would notice."""
        height, width = self.plan(size).scaled
        return SPARE * height, SPARE * width


class Decoder:
    """The threads that decode, and the memory that they may take.

    Args:
        settings: the limits of an image and the number of threads.
        decoded: told of each image how many seconds it took, on the thread that decoded it.
    """

    def __init__(self, settings: Settings, decoded: Callable[[float], None]) -> None:
        self._limits = Limits(settings.image_formats, settings.max_pixels)
        limit_pillow(self._limits)
        self._fast = settings.decode == "fast"
        self._decoded = decoded
        self.threads = settings.decode_threads or usable_cores()
        """How many images are decoded at the same time."""
        self._pool = ThreadPoolExecutor(self.threads, "decode", initializer=lower_priority)
        self._memory = MemoryBudget(DECODE_MEMORY_BYTES)
        self._in_hand = 0
        self._decode_s = 0.0

    @property
    def wait_s(self) -> float:
        """How long what comes now would wait for a thread, at the measured rate."""
        return self._in_hand * self._decode_s / self.threads

    def stop(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, uploads: Sequence[Upload | PreparedImage], transform: Transform
    ) -> list[PreparedImage | ImageProblem]:
        """Each image's pixels or its own problem, in order; what comes prepared is taken as it is."""
        self._in_hand += len(uploads)
        try:
            if len(uploads) == 1:  # as nearly always: no task has to be made for it
                return [await self._prepare(uploads[0], transform)]
            # Of a group that fails as a whole nobody wants the rest.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._prepare(upload, transform)) for upload in uploads]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._in_hand -= len(uploads)
        return [task.result() for task in tasks]

    async def _prepare(self, upload: Upload | PreparedImage, transform: Transform) -> PreparedImage | ImageProblem:
        """Wait for the memory that decoding takes, then for a thread."""
        if not isinstance(upload, bytes):
            return upload
        try:
            if len(upload) <= READ_ON_THE_LOOP_BYTES:
                header = read_header(upload, self._limits)
            else:
                loop = asyncio.get_running_loop()
                header = await loop.run_in_executor(self._pool, read_header, upload, self._limits)
        except ImageProblem as problem:
            return problem
        taken = await self._memory.take(header.decode_bytes)
        job = self._pool.submit(self._decode, upload, transform)
        try:
            return await asyncio.wrap_future(job)
        finally:
            # A thread cannot be stopped: a decode that nobody waits for any more still takes its memory.
            if job.done():
                self._memory.give_back(taken)
            else:
                loop = asyncio.get_running_loop()
                job.add_done_callback(lambda _: call_soon(loop, self._memory.give_back, taken))

    def _decode(self, upload: bytes, transform: Transform) -> PreparedImage | ImageProblem:
        """On a thread of the pool."""
        started = time.perf_counter()
        try:
            picture = decode(upload, self._limits, transform.enough if self._fast else None)
            plan = transform.plan(picture.size)
            _check_scaled(picture.size, plan)
            pixels = to_network(picture, plan, transform.preprocess.interpolation)
        except ImageProblem as problem:
            return problem
        finally:
            took = time.perf_counter() - started
            self._decode_s += 0.1 * (took - self._decode_s)
            self._decoded(took)
        height, width = picture.size
        return PreparedImage(pixels, plan, width, height, picture.format)


def _check_scaled(picture: Size, plan: Plan) -> None:
    """A long, thin picture may not grow to any size on its way to covering the input."""
    height, width = plan.scaled
    if height * width > max(MAX_SCALED_PIXELS, picture[0] * picture[1]):
        detail = f"a picture of {picture[1]} x {picture[0]} pixels would be scaled to {width} x {height}"
        raise ImageProblem("too_many_pixels", f"{detail}; try resize=fit or resize=squash")
