"""A checkpoint on a device: a list of jobs -> a list of answers, in one forward pass.

In: network pixels, and what to read off for each image. Out: arrays on the CPU. Knows nothing of HTTP, files or queues.
As many threads as the backend has streams may run batches at once.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from app.inference import readouts
from app.inference.device.backend import Backend, Dtype
from app.inference.device.graphs import capture_on, try_graphs
from app.inference.device.normalise import Normaliser
from app.inference.device.script import try_script
from app.inference.fingerprint import fingerprint
from app.inference.jobs import Answer, DeviceLost, Job, OutOfMemory
from models.checkpoints.checkpoint import Checkpoint, build
from models.network.attention import AttentionSpec
from models.network.vit import Readout, Recorded
from models.preprocess import Labels, Resize, Size, whole_patches

logger = logging.getLogger("vitrine")

UNFUSED_COST = 3
"""Cost of an attention matrix that is written out, as a multiple of the fused attention's; measured on CPUs."""


class Engine:
    """The network, ready to run.

    Args:
        checkpoint: the weights and what belongs to them.
        device: a name that `Backend` takes.
        dtype: a name that `Backend` takes.
        max_batch_tokens: the budget of one batch; None is the device's default.
        compiled: `warm_up` compiles the network, which needs a C++ compiler and takes one to two minutes.
        colour: what was done with the colours of the images that come; it decides answers, so the fingerprint has it.
        streams: a name that `Backend` takes.

    Raises DeviceUnavailable.
    """

    stuck_after_s = 120.0
    """A batch that runs longer than this is considered hung."""

    measured: tuple[int, float] | None = None
    """The cost of the batch that `warm_up` measures, and the least seconds that it took."""

    def __init__(  # noqa: PLR0913 - each is a separate setting
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int | None = None,
        compiled: bool = False,
        *,
        colour: str = "original",
        streams: str = "auto",
    ) -> None:
        self.checkpoint = checkpoint
        quantized = checkpoint.content.quantization is not None
        self.backend = Backend(device, dtype, streams, quantized=quantized, compiled=compiled)
        self.config = checkpoint.content.config
        self.max_batch_cost = max_batch_tokens or self.backend.max_batch_tokens
        self.network = build(checkpoint).to(self.device, self.backend.torch_dtype)
        self.backend.choose_kernels(self.network, compiled=compiled)
        self.readouts = self.network.readouts
        self.compiled, self.colour = compiled, colour
        reads = self.network.patch_embed.reads or self.backend.torch_dtype
        self._normalise = Normaliser(checkpoint.content.preprocess, self.device, reads)
        self.fingerprint = fingerprint(checkpoint, self.backend.numbers, colour)

    @property
    def device(self) -> torch.device:
        """The device that the network runs on."""
        return self.backend.device

    @property
    def streams(self) -> int:
        """How many batches may run at once."""
        return self.backend.streams

    @property
    def more_streams(self) -> int:
        """How many more while other programs use the processor."""
        return self.backend.more_streams

    @property
    def cores(self) -> int:
        """Cores that run batches and decode images; 0 for another device."""
        return self.backend.threads if self.device.type == "cpu" else 0

    @property
    def dtype(self) -> Dtype:
        """The name of the dtype that the network computes in."""
        return self.backend.dtype

    @property
    def labels(self) -> Labels:
        """The names of the classes; empty for a model without a classifier."""
        return self.checkpoint.content.labels or Labels(())

    @property
    def default_readout(self) -> Readout:
        """The readout of a request without `pool`: [CLS], or for a model without [CLS] what its own library answers."""
        return Readout.CLS if Readout.CLS in self.readouts else Readout.NATIVE

    @property
    def default_dim(self) -> int:
        """The width of the vector of a request without `pool`."""
        return self.config.embed_dim if self.default_readout is Readout.CLS else self.config.native_dim

    def network_size(
        self, size: Size | None = None, resize: Resize | None = None, max_patches: int | None = None
    ) -> Size:
        """Return the network's input size for a request; None requests the checkpoint's own.

        With a budget of patches, which each image uses in its own shape, it is a size of as many patches.
        """
        preprocess, patch = self.checkpoint.content.preprocess, self.config.patch_size
        if (patches := preprocess.budget(size, resize, max_patches)) is not None:
            return patch[0], patches * patch[1]
        return whole_patches(size or preprocess.input_size, patch)

    def cost(self, height: int, width: int, attention_spec: AttentionSpec | None = None) -> int:
        """Return the cost of an image of this size: its tokens, and attention's share on top for long sequences.

        Per block, attention needs 2 N^2 D multiplications and the linear layers 12 N D^2; the ratio is N / (6 D). A
        request for attention computes the queries, keys and values of its layers once more (3 N D^2 each); a rollout
        also computes their whole matrices, unfused.
        """
        tokens = self.config.num_tokens(height, width)
        attention = tokens * tokens // (6 * self.config.embed_dim)
        if attention_spec is None:
            return tokens + attention
        again = tokens * len(attention_spec.layers) // (4 * self.config.depth)
        return tokens + attention + again + (UNFUSED_COST * attention if attention_spec.rollout else 0)

    def probe(self) -> Job:
        """Return a job with a grey picture of the checkpoint's own size: used to check that the model still answers."""
        pixels = np.full((3, *self.checkpoint.content.preprocess.input_size), 128, np.uint8)
        return Job(pixels, Readout.LOGITS if Readout.LOGITS in self.readouts else self.default_readout)

    def record(self) -> Recorded | None:
        """Return the network's blocks in one call; None where the device cannot record them, or they answer otherwise.

        The network uses them once its `recorded` is set to it.
        """
        if not self.backend.records:
            return None
        image = self._upload([self.probe()])()[0]
        if self.backend.on_cuda:
            return try_graphs(self.network, image, self.max_batch_cost, capture_on(self.device))
        return try_script(self.network, image)

    def run(self, jobs: Sequence[Job], share: float = 1.0) -> list[Answer | Exception]:
        """Run all jobs in one forward pass and return an answer for each, or OutputInvalid where it is not finite.

        It uses a share of the device, up to 1, beside other threads that run batches or decode. Raises OutOfMemory,
        after which batches are smaller, and DeviceLost.
        """
        self.backend.take_share(share)
        budget = self.max_batch_cost
        try:
            return self.forward(jobs)
        except (RuntimeError, MemoryError) as error:
            if self.backend.is_lost(error):
                raise DeviceLost("the device failed; a new process is needed") from error
            if not self.backend.is_out_of_memory(error):
                raise
        # Outside of the except block: the error's traceback holds on to the batch's memory.
        self.backend.release_memory()
        if len(jobs) > 1:
            # Not half of what another batch has halved meanwhile: both were made for the same budget.
            self.max_batch_cost = min(self.max_batch_cost, max(1, budget // 2))
            logger.warning("out of memory with %d images; batches are now %d tokens", len(jobs), self.max_batch_cost)
        raise OutOfMemory(f"there was not enough memory for a batch of {len(jobs)}")

    @torch.inference_mode()
    def forward(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """Do what `run` does, with torch's own errors."""
        wanted = Readout(0)
        for job in jobs:
            wanted |= job.readout
        specs = {place: job.attention_spec for place, job in enumerate(jobs) if job.attention_spec is not None}
        tokens = {place: job.token_spec for place, job in enumerate(jobs) if job.token_spec is not None}
        copies = self.backend.copies
        arrive = self._upload(jobs)
        with copies.turn:
            features = self.network(arrive(), wanted, specs, tokens)
            readings = readouts.read(jobs, features, self.labels.multi_label)
            fetched = copies.fetch([value for reading in readings for value in reading.values])
        return readouts.answers(len(jobs), readings, fetched())

    def _upload(self, jobs: Sequence[Job]) -> Callable[[], list[Tensor]]:
        """Start to copy the pixels of a batch, one copy for each size and type.

        Returns what gives the network's input for each job, (3, height, width).
        """
        by_shape: dict[tuple[object, ...], list[int]] = {}
        for place, job in enumerate(jobs):
            by_shape.setdefault((job.pixels.dtype, *job.pixels.shape), []).append(place)
        upload = self.backend.copies.upload
        uploads = [(places, upload([jobs[place].pixels for place in places])) for places in by_shape.values()]

        def arrive() -> list[Tensor]:
            images: dict[int, Tensor] = {}
            for places, arrive_together in uploads:
                images.update(zip(places, self._normalise(arrive_together()), strict=True))
            return [images[place] for place in range(len(jobs))]

        return arrive
