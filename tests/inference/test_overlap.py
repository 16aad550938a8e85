"""Two batches at once on one device: what waits for what, and the trial that decides whether they run so.

CUDA streams are replaced by ones that copy only when somebody waits for it, and fill the target with other numbers
until then: whoever reads too early gets a wrong answer.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.inference import overlap
from app.inference import warm_up as warm_up_module
from app.inference.batcher import Batcher
from app.inference.device import copies as copies_module
from app.inference.device.backend import Backend
from app.inference.device.copies import Arrive, Copies, Finish, OverlappedCopies
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job, Ranking
from app.inference.overlap import try_overlap
from app.inference.queue.work import Result, Work
from app.inference.warm_up import warm_up
from models.checkpoints.checkpoint import Checkpoint
from models.network.vit import Readout
from models.preprocess import Pixels

SIZES = ((112, 112), (70, 140), (14, 14), (112, 112), (140, 70))


class Stream:
    """Does what it was given when an event after it is waited for, and not before."""

    def __init__(self, _: torch.device | None = None) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0
        self.lock = threading.RLock()

    def record_event(self) -> "Event":
        event = Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        event.synchronize()

    def run(self, count: int) -> None:
        with self.lock:
            while self.done < count:
                self.work[self.done]()
                self.done += 1


class Event:
    """A point in a stream."""

    def __init__(self, *, blocking: bool = False) -> None:
        self.blocking = blocking

    def record(self, stream: Stream) -> None:
        self.stream, self.count = stream, len(stream.work)

    def synchronize(self) -> None:
        self.stream.run(self.count)


class Cuda:
    """Stands for `torch.cuda`: the stream of each thread, which computes at once."""

    def __init__(self) -> None:
        self.of_thread = threading.local()

    def current_stream(self, _: torch.device | None = None) -> Stream:
        if not hasattr(self.of_thread, "stream"):
            self.of_thread.stream = Stream()
        stream: Stream = self.of_thread.stream
        return stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before = self.current_stream()
        self.of_thread.stream = stream
        yield
        self.of_thread.stream = before


class LateCopies(OverlappedCopies):
    """Copies that fill their target when the stream gets to them."""

    cuda: Cuda

    @classmethod
    def _copy(cls, target: Tensor, source: Tensor) -> None:
        target.fill_(1)
        stream = cls.cuda.current_stream()
        with stream.lock:
            stream.work.append(lambda: target.copy_(source))


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Replace CUDA's streams; return the tensors of which torch learns that another stream uses them."""
    cuda, used = Cuda(), []
    monkeypatch.setattr(LateCopies, "cuda", cuda, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", cuda.stream)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", cuda.current_stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, _: used.append(tensor))
    return used


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Engine:
    return Engine(checkpoint, "cpu", "float32", max_batch_tokens=300, streams="1")


def jobs() -> list[Job]:
    chance = np.random.default_rng(3)
    readouts = [Readout.CLS, Readout.LOGITS, Readout.PATCHES, Readout.CLS, Readout.LOGITS]
    return [
        Job(chance.integers(0, 256, (3, *size), np.uint8), readout, top_k=5)
        for size, readout in zip(SIZES, readouts, strict=True)
    ]


def numbers(answer: Answer | Exception) -> np.ndarray:
    if isinstance(answer, np.ndarray):
        return answer
    assert isinstance(answer, Ranking)
    return np.stack([answer.indices, answer.scores])


def same(one: Answer | Exception, other: Answer | Exception, within: float = 0) -> bool:
    return bool(np.abs(numbers(one) - numbers(other)).max() <= within * np.abs(numbers(other)).max())


@pytest.mark.usefixtures("owners")
def test_overlapped_copies_are_waited_for(engine: Engine) -> None:
    expected = engine.run(jobs())
    engine.backend.copies = LateCopies(engine.device)
    for found in (engine.run(jobs()), engine.run(jobs())):
        assert all(map(same, found, expected))


def test_torch_learns_which_other_stream_uses_a_tensor(engine: Engine, owners: list[Tensor]) -> None:
    engine.backend.copies = LateCopies(engine.device)
    engine.run(jobs()[:1])
    assert [tuple(tensor.shape) for tensor in owners] == [(1, 3, 112, 112), (1, engine.config.embed_dim)]


@pytest.mark.usefixtures("owners")
def test_large_values_are_copied_without_pinned_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.run(jobs())
    copies = engine.backend.copies = LateCopies(engine.device)
    values: list[int] = []
    copy = copies._copy

    def watched(target: Tensor, source: Tensor) -> None:
        if target.dtype != torch.uint8:  # no pixels
            values.append(target.nbytes)
        copy(target, source)

    monkeypatch.setattr(copies, "_copy", watched)
    engine.run(jobs())
    largest = max(values)
    values.clear()
    monkeypatch.setattr(copies_module, "PINNED_BYTES", largest - 1)
    assert all(map(same, engine.run(jobs()), expected))
    assert values
    assert max(values) < largest


@pytest.mark.usefixtures("owners")
@pytest.mark.parametrize("forgotten", ["wait_event", "synchronize"])
def test_the_streams_of_this_test_show_what_is_not_waited_for(
    engine: Engine, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.run(jobs()[:1])
    engine.backend.copies = LateCopies(engine.device)
    monkeypatch.setattr(Stream if forgotten == "wait_event" else Event, forgotten, lambda *_: None)
    assert not same(engine.run(jobs()[:1])[0], expected[0])


@pytest.mark.usefixtures("owners")
def test_an_answer_does_not_change_with_the_next_batch(engine: Engine) -> None:
    engine.backend.copies = LateCopies(engine.device)
    (first,) = engine.run(jobs()[:1])
    assert isinstance(first, np.ndarray)
    before = first.copy()
    engine.run([Job(np.zeros((3, 112, 112), np.uint8), Readout.CLS)])
    assert np.array_equal(first, before)


@pytest.mark.parametrize("readout", [Readout.CLS, Readout.LOGITS, Readout.PATCHES])
def test_an_answer_keeps_no_memory_of_its_batch(engine: Engine, readout: Readout) -> None:
    """It may be cached for long, and is counted by its own size."""
    asked = [Job(np.zeros((3, *size), np.uint8), readout, top_k=None) for size in SIZES[:2]]
    for answer in engine.run(asked):
        assert isinstance(answer, np.ndarray)
        base: Any = answer if answer.base is None else answer.base
        held = base.untyped_storage().nbytes() if isinstance(base, Tensor) else base.nbytes
        assert held == answer.nbytes


@pytest.mark.usefixtures("owners")
def test_requests_are_answered_by_two_batches_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [engine.run([job])[0] for job in jobs()]
    engine.max_batch_cost = 2 * engine.cost(112, 112)
    monkeypatch.setattr(overlap, "relative_time", timed(0.5))
    try_overlap(engine, lambda: LateCopies(engine.device))
    assert engine.streams == 2
    asked, waits = engine.network.forward, threading.Barrier(2, timeout=20)
    launched: list[bool] = []
    began: set[str] = set()

    def forward(*arguments: Any) -> Any:
        launched.append(engine.backend.copies.turn.locked())  # type: ignore[attr-defined]
        return asked(*arguments)

    upload = engine.backend.copies.upload

    def upload_beside(pixels: Sequence[Pixels]) -> Arrive:
        thread = threading.current_thread().name
        if thread not in began:
            began.add(thread)
            waits.wait()  # passes only if another batch is uploaded meanwhile
        return upload(pixels)

    monkeypatch.setattr(engine.network, "forward", forward)
    monkeypatch.setattr(engine.backend.copies, "upload", upload_beside)
    works = [Work(engine.cost(*job.pixels.shape[1:]), job) for job in jobs()]

    async def ask() -> list[list[Result[Answer]]]:
        batcher: Batcher[Job, Answer] = Batcher(lambda: engine, lambda _: None)
        batcher.start()
        answered = await asyncio.gather(*(batcher.submit([work]) for work in works))
        await batcher.stop(20)
        return answered

    for (result,), answer in zip(asyncio.run(ask()), expected, strict=True):
        assert same(result.answer, answer, 1e-5)  # in other company
    assert launched
    assert all(launched)


# --- the trial ---


class OtherPixels(Copies):
    """Copies that hand over the pixels of a batch that was uploaded before."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.before: dict[tuple[int, ...], Tensor] = {}

    def upload(self, pixels: Sequence[Pixels]) -> Arrive:
        stacked = self._stacked(pixels)
        earlier = self.before.get(tuple(stacked.shape), stacked)
        self.before[tuple(stacked.shape)] = stacked
        return lambda: earlier


class NotANumber(Copies):
    def fetch(self, values: Sequence[Tensor]) -> Finish:
        return super().fetch([torch.full_like(value, torch.nan) for value in values])


def timed(share: float) -> Callable[..., float]:
    def relative_time(kernel: Callable[[], object], plain: Callable[[], object], **_: object) -> float:
        kernel()
        plain()
        return share

    return relative_time


def refuses(_: torch.device) -> Copies:
    raise RuntimeError("CUDA error: this card has no streams\nmore of it")


def other_torch(_: torch.device) -> Copies:
    raise AttributeError("no such thing in this torch")


def test_it_is_used_where_it_answers_right_in_less_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(overlap, "relative_time", timed(0.8))
    ours = Copies(engine.device)
    with caplog.at_level(logging.INFO, "vitrine"):
        try_overlap(engine, lambda: ours)
    assert (engine.backend.copies, engine.streams) == (ours, 2)
    assert caplog.messages == ["two batches at once: 0.80 of the time"]


@pytest.mark.parametrize(
    ("make", "share", "why"),
    [
        (Copies, 0.97, "they take 0.97 of the time"),
        (OtherPixels, 0.5, "the answers differ"),
        (NotANumber, 0.5, "the answers differ"),
        (refuses, 0.5, "RuntimeError: CUDA error: this card has no streams"),
        (other_torch, 0.5, "AttributeError: no such thing in this torch"),
    ],
)
def test_it_is_not_used_otherwise_and_the_log_says_why(
    engine: Engine,
    make: Callable[[torch.device], Copies],
    share: float,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(overlap, "relative_time", timed(share))
    usual, expected = engine.backend.copies, engine.run(jobs())
    with caplog.at_level(logging.INFO, "vitrine"):
        try_overlap(engine, lambda: make(engine.device))
    assert (engine.backend.copies, engine.streams) == (usual, 1)
    assert caplog.messages == [f"two batches at once: not used; {why} (VITRINE_STREAMS=1 does not try it)"]
    assert all(map(same, engine.run(jobs()), expected))


def test_the_trial_runs_two_batches_of_several_sizes_at_once(engine: Engine) -> None:
    """Both wait for each other in the middle: one after the other they would not end."""
    both = threading.Barrier(2, timeout=20)

    class Together(Copies):
        def fetch(self, values: Sequence[Tensor]) -> Finish:
            both.wait()
            return super().fetch(values)

    try_overlap(engine, lambda: Together(engine.device))
    assert not both.broken
    sizes = [{job.pixels.shape for job in batch} for batch in overlap.examples(engine)]
    assert sorted(map(len, sizes)) == [1, 1, 4, 4]


@pytest.mark.usefixtures("owners")
def test_the_memory_of_a_batch_is_measured_beside_another_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up_module, "OverlappedCopies", LateCopies)
    monkeypatch.setattr(overlap, "relative_time", timed(0.5))
    monkeypatch.setattr(engine.backend, "may_overlap", True)
    at_once: list[int] = []
    forward = engine.forward

    def counted(asked: Sequence[Job]) -> list[Answer | Exception]:
        at_once[-1] += 1
        return forward(asked)

    def largest_batch(run: Callable[[], object], cost: int) -> int:
        at_once.append(0)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "forward", counted)
            run()
        assert engine.network.recorded is None
        return cost // at_once[-1]

    def script(*_: Any) -> None:
        return None

    monkeypatch.setattr(engine, "record", lambda: script)
    monkeypatch.setattr(engine.backend, "largest_batch", largest_batch)
    engine.max_batch_cost = 2**20
    warm_up(engine)
    assert at_once == [1, 2]
    assert engine.max_batch_cost == warm_up_module.MEMORY_PROBE_IMAGES * engine.cost(112, 112) // 2
    assert engine.network.recorded is script


def test_the_pictures_of_the_trial_can_be_told_apart(engine: Engine) -> None:
    vectors = np.concatenate(overlap.one_after_the_other(engine, overlap.examples(engine)))
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2) / np.linalg.norm(vectors, axis=1)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 10 * overlap.DRIFT


def test_a_lack_of_pinned_memory_does_not_end_the_process() -> None:
    error = torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
    assert Backend.is_out_of_memory(error)
    assert not Backend.is_lost(error)


def test_only_auto_on_cuda_tries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.device.backend.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    asked: list[tuple[str, str, dict[str, bool]]] = [("cuda", "auto", {}), ("cuda", "1", {}), ("cpu", "auto", {})]
    asked += [("cuda", "auto", {"compiled": True}), ("cuda", "auto", {"quantized": True})]
    tries = [Backend(device, "auto", streams, **kind).may_overlap for device, streams, kind in asked]
    assert tries == [True, False, False, False, False]
