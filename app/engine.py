"""A checkpoint on a device in a dtype: a list of jobs -> a list of answers, in one forward pass.

In: network pixels and what is wanted of them. Out: arrays on the CPU. Knows nothing of HTTP, files or queues, and is
used by one thread only.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from app.errors import Fatal
from app.memory import fitting
from models.attention import Look
from models.checkpoint import Checkpoint, build
from models.golden import Golden, picture
from models.kernels import best, varlen
from models.preprocess import Labels, Size, whole_patches
from models.vit import Readout

logger = logging.getLogger("vitrine")

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NUMERICS = 1
"""Raised only when the answers of the same weights change."""

MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
"""Tokens of one batch: enough to fill the device's matrix units, little enough that nobody waits long for a batch."""


MEASURED = 8
"""Images of the batch whose memory is measured."""

UNFUSED = 3
"""How many times the fused attention's cost a matrix takes that is written out; measured on CPUs."""

Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """One image and what is wanted of it.

    pixels: (3, height, width), from 0 to 255; or, in float32, already normalised: what the network itself takes.
    normalize: to length 1, for vectors.
    top_k: for logits, the best so many classes; None wants the probabilities of all classes in their order.
    look: for attention, which.
    """

    pixels: Pixels
    readout: Readout
    normalize: bool = False
    top_k: int | None = None
    look: Look | None = None


@dataclass(frozen=True)
class Ranking:
    """The best classes, highest score first."""

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]

    def named(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Each class with its label, index and score."""
        pairs = zip(self.indices.tolist(), self.scores, strict=True)
        return [{"label": names[index], "index": index, "score": score} for index, score in pairs]


Answer = NDArray[np.float32] | Ranking


class OutputInvalid(Exception):
    """The network answered something that is not a finite number."""


class OutOfMemory(Exception):
    """The device has not enough memory for this."""


class DeviceLost(Fatal):
    """The device is in a state that only a new process can leave (an illegal access, a hardware error)."""


class DeviceUnavailable(Exception):
    """The device or dtype that was asked for is not to be had on this machine."""


class Engine:
    """The network, ready to run.

    Args:
        checkpoint: the weights and what belongs to them.
        device: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto` is bfloat16 where the hardware has it, float16 on older CUDA, else float32.
        max_batch_tokens: the budget of one batch; None takes the device's default. What does not fit is not taken.
        compiled: whether `warm_up` compiles the network, for which it needs a C++ compiler and up to a minute.

    Raises DeviceUnavailable.
    """

    stuck_after_s = 120.0
    """A batch that runs for longer than this is not going to end."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.config = checkpoint.content.config
        self.max_batch_cost = max_batch_tokens or MAX_BATCH_TOKENS[self.device.type]
        self.network = build(checkpoint).to(self.device, DTYPES[self.dtype])
        attend = best(self.device, DTYPES[self.dtype], self.config.num_heads, self.config.head_dim)
        self.network.attend_by(attend)
        if self.device.type == "cuda":
            logger.info("attention: one call for %s", "all images" if attend is varlen else "the images of each length")
        self.readouts = self.network.readouts
        self._compiled = compiled
        preprocess = checkpoint.content.preprocess
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        # (x / 255 - mean) / std, as one product and one sum.
        self._scale = (1 / (255 * std)).float().to(self.device)[:, None, None]
        self._shift = (-mean / std).float().to(self.device)[:, None, None]
        self.fingerprint = self._fingerprint()

    @property
    def labels(self) -> Labels:
        """The names of the classes; empty for a model without a classifier."""
        return self.checkpoint.content.labels or Labels(())

    @property
    def native_readout(self) -> Readout:
        """The vector that stands for an image where the request names none: [CLS], or the mean without one."""
        return Readout.CLS if Readout.CLS in self.readouts else Readout.MEAN

    def network_size(self, asked: Size | None) -> Size:
        """What the network sees of a picture where this size is asked for; None is the checkpoint's own."""
        return whole_patches(asked or self.checkpoint.content.preprocess.input_size, self.config.patch_size)

    def cost(self, height: int, width: int, look: Look | None = None) -> int:
        """What an image of this size costs: its tokens, and for long sequences attention's share on top.

        Attention needs 2 N^2 D multiplications a block beside the linear layers' 12 N D^2: N / 6D of theirs. A look
        takes queries and keys of its layers once more (3 N D^2 each), and a rollout their whole matrices, unfused.
        """
        tokens = self.config.num_tokens(height, width)
        attention = tokens * tokens // (6 * self.config.embed_dim)
        if look is None:
            return tokens + attention
        again = tokens * len(look.layers) // (4 * self.config.depth)
        return tokens + attention + again + (UNFUSED * attention if look.rollout else 0)

    def warm_up(self) -> None:
        """Run one image of the checkpoint's own size; on CUDA, see how large a batch the memory allows.

        Raises OutputInvalid if the weights give no finite answer, or not the one that the checkpoint promises, and
        DeviceUnavailable where the network cannot be compiled.
        """
        if self._compiled:
            self._compile()
        probe = self.probe()
        answer = self.run([probe])[0]
        if isinstance(answer, Exception):
            raise answer
        if self.device.type == "cuda":
            cost = MEASURED * self.cost(*probe.pixels.shape[1:])
            fits = fitting(self.device, lambda: self.forward([probe] * MEASURED), cost)
            self.max_batch_cost = min(self.max_batch_cost, fits)
            logger.info("batches of up to %d tokens", self.max_batch_cost)
        if self.checkpoint.golden is not None:
            self._compare(self.checkpoint.golden)

    def _compile(self) -> None:
        """Compile, and run what requests will: one image and several, the whole of the last block and [CLS] alone."""
        from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - a second that others need not wait for

        self.network.compile_blocks()
        probe = self.probe()
        try:
            for jobs in ([probe], [probe] * 2, [probe] * 3):
                self.forward(jobs)
                self.forward([replace(job, readout=Readout.MEAN) for job in jobs])
        except TorchDynamoException as error:
            needs = "it needs a C++ compiler, and no space in torch's own path"
            detail = f"compile: the network cannot be compiled here; {needs}"
            raise DeviceUnavailable(f"{detail} (torch: {type(error).__name__})") from error

    def _compare(self, golden: Golden) -> None:
        pixels = picture(*self.checkpoint.content.preprocess.input_size)
        cls, best = self.run([Job(pixels, Readout.CLS), Job(pixels, Readout.LOGITS, top_k=1)])
        if not isinstance(cls, np.ndarray) or not isinstance(best, Ranking) or not golden.is_like(cls, best.indices[0]):
            detail = f"{self.checkpoint.name} on {self.device} in {self.dtype} does not answer as its golden.json says"
            raise OutputInvalid(f"{detail}: other weights, or a device that computes wrongly")

    def probe(self) -> Job:
        """A grey picture of the checkpoint's own size: the least that shows that answers are still to be had."""
        pixels = np.full((3, *self.checkpoint.content.preprocess.input_size), 128, np.uint8)
        return Job(pixels, Readout.LOGITS if Readout.LOGITS in self.readouts else self.native_readout)

    def run(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """All jobs in one forward pass: an answer for each, or OutputInvalid for those that are not finite.

        Raises OutOfMemory, after which batches are smaller, and DeviceLost.
        """
        try:
            return self.forward(jobs)
        except torch.AcceleratorError as error:
            raise DeviceLost("the device failed; a new process is needed") from error
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside of the except block: the error's traceback holds on to the batch's memory.
        self._make_room(len(jobs))
        raise OutOfMemory(f"there was not enough memory for a batch of {len(jobs)}")

    def _make_room(self, jobs: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if jobs > 1:
            self.max_batch_cost = max(1, self.max_batch_cost // 2)
            logger.warning("out of memory with %d images; batches are now %d tokens", jobs, self.max_batch_cost)

    @torch.inference_mode()
    def forward(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """What `run` does, with torch's own errors."""
        wanted = Readout(0)
        for job in jobs:
            wanted |= job.readout
        looks = {place: job.look for place, job in enumerate(jobs) if job.look is not None}
        features = self.network(self._pixels(jobs), wanted, looks)
        answers: list[Answer | Exception] = [OutputInvalid()] * len(jobs)
        for readout, values in (
            (Readout.CLS, features.cls),
            (Readout.MEAN, features.mean),
            (Readout.NATIVE, features.native),
            (Readout.LOGITS, features.logits),
        ):
            places = [place for place, job in enumerate(jobs) if job.readout is readout]
            if places and values is not None:
                theirs = [jobs[place] for place in places]
                rows = values if len(places) == len(jobs) else values[places]
                read = self._rank if readout is Readout.LOGITS else self._vectors
                for place, answer in zip(places, read(rows.float(), theirs), strict=True):
                    answers[place] = answer
        for place, job in enumerate(jobs):
            if job.readout is Readout.ATTENTION:
                answers[place] = _array(features.attention[place])
            elif job.readout is Readout.PATCHES and features.patches is not None:
                tokens = features.patches[place].float()
                answers[place] = _array(F.normalize(tokens, dim=-1) if job.normalize else tokens)
        return answers

    def _pixels(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The network's input for each job, (3, height, width); those of one size and type come and go together."""
        images: dict[int, Tensor] = {}
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, job in enumerate(jobs):
            alike.setdefault((job.pixels.dtype, *job.pixels.shape), []).append(place)
        for places in alike.values():
            batch = self._normalised(self._upload([jobs[place].pixels for place in places]))
            images.update(zip(places, batch, strict=True))
        return [images[place] for place in range(len(jobs))]

    def _upload(self, pixels: Sequence[Pixels]) -> Tensor:
        """(3, height, width) each -> (n, 3, height, width) on the device.

        From pinned memory one copy for all of them that nobody waits for: the forward's first kernels do.
        """
        first = torch.from_numpy(pixels[0])
        batch = torch.empty(len(pixels), *first.shape, dtype=first.dtype, pin_memory=self.device.type == "cuda")
        np.stack(pixels, out=batch.numpy())
        return batch.to(self.device, non_blocking=True)

    def _normalised(self, batch: Tensor) -> Tensor:
        """(n, 3, height, width) uint8 -> the network's input, computed in float32 whatever the network's type is."""
        if batch.dtype == torch.float32:
            return batch.to(DTYPES[self.dtype])
        return torch.addcmul(self._shift, batch.float(), self._scale).to(DTYPES[self.dtype])

    def _vectors(self, rows: Tensor, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """(n, F) -> a vector for each job."""
        if any(job.normalize for job in jobs):
            chosen = torch.tensor([job.normalize for job in jobs], device=rows.device)[:, None]
            rows = torch.where(chosen, F.normalize(rows), rows)
        finite = rows.isfinite().all(1).tolist()
        vectors = rows.cpu().numpy()
        return [vector if good else OutputInvalid() for vector, good in zip(vectors, finite, strict=True)]

    def _rank(self, logits: Tensor, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """(n, K) -> for each job its best classes, or the probabilities of all."""
        probabilities = logits.sigmoid() if self.labels.multi_label else logits.softmax(1)
        finite = probabilities.isfinite().all(1).tolist()
        most = max((job.top_k for job in jobs if job.top_k is not None), default=0)
        top = probabilities.topk(min(most, probabilities.shape[1]))
        scores, indices = top.values.cpu().numpy(), top.indices.cpu().numpy()
        everything = probabilities.cpu().numpy() if any(job.top_k is None for job in jobs) else scores
        answers: list[Answer | Exception] = []
        for row, (job, good) in enumerate(zip(jobs, finite, strict=True)):
            if not good:
                answers.append(OutputInvalid())
            elif job.top_k is None:
                answers.append(everything[row])
            else:
                answers.append(Ranking(indices[row, : job.top_k], scores[row, : job.top_k]))
        return answers

    def _fingerprint(self) -> str:
        """What decides the answers, in one word: weights, network, preprocessing, profile, dtype and our numerics."""
        content = self.checkpoint.content
        parts = (self.checkpoint.digest, content.config, content.preprocess, content.profile, self.dtype, NUMERICS)
        return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _array(values: Tensor) -> Answer | Exception:
    """One image's answer of any shape, if it is finite."""
    return values.cpu().numpy() if values.isfinite().all() else OutputInvalid()


def _is_out_of_memory(error: Exception) -> bool:
    """The CPU's allocator has no error of its own: only the text tells."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text


def choose_device(name: str) -> torch.device:
    """The device of this name. Raises DeviceUnavailable rather than serve from another one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable("device 'mps' is not there: torch sees no Apple GPU")
    return device


def choose_dtype(name: str, device: torch.device) -> Dtype:
    """The dtype of this name; `auto` is the fastest that the hardware computes natively."""
    for dtype in DTYPES:
        if name == dtype:
            return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type == "cpu":
        return native_on_cpu(torch.cpu.get_capabilities())
    return "float32"


def native_on_cpu(has: Mapping[str, Any]) -> Dtype:
    """What a processor of these capabilities is fastest in, of the types that it multiplies matrices of."""
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"
