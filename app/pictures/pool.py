"""Decode uploads in a bounded thread pool, to images that are ready for the queue.

Two things bound decoding: the number of threads, and the memory of all images that are being decoded. Clients take
turns.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from app.errors import ImageProblem
from app.fairness.slots import Slots
from app.pictures.budget import MemoryBudget
from app.pictures.colour import is_available
from app.pictures.decode import MISSING, decode, limit_pillow, to_network
from app.pictures.header import Header, Limits, read_header
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.settings import BadSettings, ImageFormat, Settings
from app.threads.cores import usable_cores
from app.threads.event_loop import call_soon
from app.threads.names import show_name
from models.preprocess import Plan, Preprocess, Size

DECODE_MEMORY_BYTES = 2**30
"""Memory for all images that are being decoded."""

MAX_SCALED_PIXELS = 16_000_000
"""Pixels of a resized image, before the crop: a long, thin image would otherwise grow without bound to cover the input.
A larger image may keep its own number of pixels."""

FIRST_BYTES = 2**23
"""Memory that a file gets before its header is read. It is enough for most, which need a thread only once then."""

SLOTS_PER_THREAD = 2
"""Images that are decoded or about to be, for each thread: it finds the next one without waiting for the event loop."""

OVERSAMPLING = 3
"""How many times larger than the resized image a JPEG is decoded at least: the filter then still averages pixels.

Of 41 photographs at 7 sizes and in 3 ways, the shipped model gave 47 of 302 a cosine below 0.999 with 2 (the least was
0.9964) and 1 of 187 with 3 (0.9984, at half of the network's own size; from that size up the least was 0.9998).
"""


@dataclass(frozen=True)
class Transform:
    """How images become the network's pixels.

    preprocess: the checkpoint's preprocessing.
    patch: height and width of a patch.
    resolution: the resolution that the request asks for.
    max_patches: limit of patches of one image, whatever the request asks for; None for no limit.
    rounded: the network computes in half precision or 8 bits, beside which a pixel that is off by 2 does not count.
    """

    preprocess: Preprocess
    patch: Size
    resolution: Resolution
    max_patches: int | None = None
    rounded: bool = False

    def plan(self, size: Size) -> Plan:
        """Plan resize and crop for an upright image of this size (height, width)."""
        return self.preprocess.plan(size, self.patch, *self.resolution)

    def minimum(self, size: Size) -> Size:
        """Return the smallest size at which an image of this size may be decoded: three times the resized image.

        Vectors keep a cosine of at least 0.999 to those of the image at full scale, from the network's own size up.
        """
        height, width = self.plan(size).scaled
        return OVERSAMPLING * height, OVERSAMPLING * width


class Decoder:
    """A thread pool that decodes images within a memory budget.

    Args:
        settings: the limits of an image and the number of threads.
        on_decoded: called with the seconds that each image took, on the thread that decoded it.

    Raises BadSettings for `colour=srgb` where Pillow cannot convert colours.
    """

    def __init__(self, settings: Settings, on_decoded: Callable[[float], None]) -> None:
        self._limits = Limits(settings.image_formats, settings.max_pixels, MISSING)
        limit_pillow(self._limits)
        self._fast, self._colour = settings.decode == "fast", settings.colour
        if self._colour == "srgb" and not is_available():
            raise BadSettings("VITRINE_COLOUR='srgb': this build of Pillow cannot convert colours (it lacks LittleCMS)")
        self._on_decoded = on_decoded
        self.threads = settings.decode_threads or usable_cores()
        """How many images are decoded at the same time."""
        self._pool = ThreadPoolExecutor(self.threads, "decode", initializer=show_name)
        self._memory = MemoryBudget(DECODE_MEMORY_BYTES)
        slots = SLOTS_PER_THREAD * self.threads
        self._slots = Slots(slots, settings.fair)
        self._first_bytes = min(FIRST_BYTES, DECODE_MEMORY_BYTES // slots)
        self._decode_s = 0.0  # moving average of the time that an image takes

    @property
    def formats(self) -> tuple[ImageFormat, ...]:
        """The accepted formats that can be decoded here."""
        return self._limits.readable

    @property
    def wait_s(self) -> float:
        """How long a new image of the running client would wait for a thread, at the measured rate."""
        return self._slots.ahead * self._decode_s / self.threads

    def stop(self) -> None:
        """Shut the thread pool down without waiting for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, uploads: Sequence[Upload | PreparedImage], transform: Transform
    ) -> list[PreparedImage | ImageProblem]:
        """Return each image's pixels or its own problem, in order; a `PreparedImage` is returned unchanged."""
        self._slots.expect(len(uploads))
        try:
            if len(uploads) == 1:  # the usual case, which needs no task
                return [await self._prepare(uploads[0], transform)]
            # A group cancels the other images when one raises: the request then fails as a whole.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._prepare(upload, transform)) for upload in uploads]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._slots.expect(-len(uploads))
        return [task.result() for task in tasks]

    async def _prepare(self, upload: Upload | PreparedImage, transform: Transform) -> PreparedImage | ImageProblem:
        """Wait for the client's turn and for memory, then decode on a thread.

        For a file that needs more memory than most, the thread returns its header, and decodes it in a second call.
        """
        if not isinstance(upload, bytes):
            return upload
        await self._slots.take()
        job: Future[PreparedImage | ImageProblem | Header] | None = None
        taken, allowed = 0, self._first_bytes
        try:
            while True:
                taken = await self._memory.take(allowed)
                job = self._pool.submit(self._decode_within, allowed, upload, transform)
                found = await asyncio.wrap_future(job)
                if not isinstance(found, Header):
                    return found
                self._memory.give_back(taken)
                taken, allowed, job = 0, found.decode_bytes, None
        finally:
            # A thread cannot be stopped: a decode whose request was cancelled still uses its memory.
            if job is None or job.done():
                self._give_back(taken)
            else:
                job.add_done_callback(partial(call_soon, asyncio.get_running_loop(), self._give_back, taken))

    def _give_back(self, taken: int, _: object = None) -> None:
        """Return an image's memory and its slot."""
        self._memory.give_back(taken)
        self._slots.give_back()

    def _decode_within(
        self, allowed: int, upload: bytes, transform: Transform
    ) -> PreparedImage | ImageProblem | Header:
        """Prepare one image, or return its header if it needs more memory. Runs on a thread of the pool.

        The header is read there, too: a hostile file can hide its size behind many segments.
        """
        try:
            header = read_header(upload, self._limits)
        except ImageProblem as problem:
            return problem
        return self._decode(upload, transform) if header.decode_bytes <= allowed else header

    def _decode(self, upload: bytes, transform: Transform) -> PreparedImage | ImageProblem:
        """Decode, resize and crop one image."""
        started = time.perf_counter()
        try:
            picture = decode(upload, self._limits, transform.minimum if self._fast else None, self._colour)
            plan = transform.plan(picture.size)
            _check_scaled(picture.size, plan)
            _check_patches(plan, transform)
            fast = self._fast and transform.rounded
            pixels = to_network(picture, plan, transform.preprocess.interpolation, fast=fast)
        except ImageProblem as problem:
            return problem
        finally:
            seconds = time.perf_counter() - started
            self._decode_s += 0.1 * (seconds - self._decode_s)
            self._on_decoded(seconds)
        height, width = picture.size
        return PreparedImage(pixels, plan, width, height, picture.format)


def _check_patches(plan: Plan, transform: Transform) -> None:
    """Refuse an image with too many patches. Raises ImageProblem.

    The size that a request asks for does not bound them in checkpoints whose own steps keep the longer side whole.
    """
    (height, width), (patch_height, patch_width) = plan.size, transform.patch
    patches = (height // patch_height) * (width // patch_width)
    if transform.max_patches is not None and patches > transform.max_patches:
        detail = f"the image becomes {height}x{width} pixels, {patches} patches; {transform.max_patches} are allowed"
        raise ImageProblem("too_many_tokens", f"{detail}; try resize=fit, resize=crop or resize=squash")


def _check_scaled(picture: Size, plan: Plan) -> None:
    """Refuse an image that would have too many pixels after the resize. Raises ImageProblem."""
    height, width = plan.scaled
    if height * width > max(MAX_SCALED_PIXELS, picture[0] * picture[1]):
        detail = f"an image of {picture[1]} x {picture[0]} pixels would be resized to {width} x {height}"
        allowed = f"at most {MAX_SCALED_PIXELS} pixels are allowed before the crop"
        raise ImageProblem("crop_too_large", f"{detail}; {allowed}; try resize=fit or resize=squash")
