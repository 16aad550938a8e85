"""Vitrine beside FastAPI with OpenVINO, the strongest alternative on a processor: answers, forward passes, HTTP."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import openvino
import torch

from app.inference.jobs import Job
from app.inference.runtime import load_engine
from app.settings import load_settings
from benchmarks import load, models, photos, services
from benchmarks.neighbours import compare
from benchmarks.run import Run, classify, header, row
from benchmarks.services import Service
from models.network.vit import Readout

CLIENTS = (1, 8, 32)
LARGE_CLIENTS = 8
"""Clients that send large pictures."""

BATCHES = (1, 8)
PASSES = 30
"""Forward passes of which the fastest counts."""

PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}
"""What OpenVINO computes in where Vitrine's default is this."""


def strongest(run: Run) -> None:
    """In the dtype that Vitrine chooses here, and in 8 bits that each has quantised on the same pictures."""
    for architecture in run.architectures:
        print(f"### {architecture.name}, {architecture.side} pixels\n")
        network = run.write(architecture)
        quantised = run.quantised(network)
        folders = {kind: _converted(run, network, kind) for kind in ("float", "int8")}
        dtype = load_engine(load_settings({}, model=str(network))[0]).dtype
        _forwards({dtype: network, "int8": quantised}, folders, PRECISIONS[dtype], architecture)
        with _running(run, dtype, {dtype: network, "int8": quantised}, folders) as running:
            _answers(run, network, running)
            _rates(run, running)
            compare(run, running)


def _converted(run: Run, network: Path, kind: str) -> Path:
    """Convert the network for OpenVINO."""
    folder = run.folder / f"{network.name}-openvino-{kind}"
    services.run_once("benchmarks.vino_model", str(network), str(folder), kind)
    return folder


@contextmanager
def _running(run: Run, dtype: str, networks: dict[str, Path], folders: dict[str, Path]) -> Iterator[list[Service]]:
    """Run all services, Vitrine's first."""
    precision = PRECISIONS[dtype]
    with ExitStack() as stack:
        found = []
        for name, network in networks.items():
            service = stack.enter_context(run.vitrine(network))
            found.append(Service(f"Vitrine {name}", service.port, service.pid))
        for name, kind, hint in (
            (f"OpenVINO {precision}, throughput", "float", "THROUGHPUT"),
            (f"OpenVINO {precision}, latency", "float", "LATENCY"),
            ("OpenVINO int8, throughput", "int8", "THROUGHPUT"),
        ):
            started = services.vino(name, folders[kind], run.folder, hint, precision)
            found.append(stack.enter_context(started))
        yield found


def _answers(run: Run, network: Path, running: Sequence[Service]) -> None:
    """Compare the answers with those of transformers in float32."""
    pictures = photos.other_crops()
    with services.plain(network, run.folder) as plain:
        expected = [plain.scores(picture) for picture in pictures]
    header("service", f"same best class, of {len(pictures)}", "mean difference of its probability", "largest")
    for service in running:
        scores = [service.scores(picture) for picture in pictures]
        best = [max(one, key=one.__getitem__) for one in expected]
        same = sum(max(one, key=one.__getitem__) == index for one, index in zip(scores, best, strict=True))
        differences = [
            abs(one.get(index, 0.0) - wanted[index]) for one, wanted, index in zip(scores, expected, best, strict=True)
        ]
        row(service.name, same, f"{np.mean(differences):.1e}", f"{max(differences):.1e}")
    print()


def _rates(run: Run, running: Sequence[Service]) -> None:
    """Print the images a second of pictures over HTTP."""
    header("pictures", "clients", *(service.name for service in running))
    cases = [("500 x 375 JPEG", clients, run.photo) for clients in CLIENTS]
    cases += [("12-megapixel JPEG", LARGE_CLIENTS, photos.camera_photo())]
    for name, clients, picture in cases:
        requests = [classify(picture)]
        loads = run.in_turn(running, lambda service: load.closed(service.port, clients, requests, run.seconds))  # noqa: B023 - called at once
        row(name, clients, *(one.rate for one in loads))
    print()


def _forwards(
    networks: dict[str, Path], folders: dict[str, Path], precision: str, architecture: models.Architecture
) -> None:
    """Print the processor time of forward passes on one thread; OpenVINO's network has a dynamic shape."""
    header("forward pass, ms of one core for an image", "batch", "Vitrine", "OpenVINO", "Vitrine / OpenVINO")
    for (name, network), kind in zip(networks.items(), ("float", "int8"), strict=True):
        for batch in BATCHES:
            passes = [
                _vitrine(network, architecture.side, batch),
                _openvino(folders[kind], precision, architecture.side, batch),
            ]
            rounds = [[_took(one) for one in passes] for _ in range(PASSES)]  # in turn
            times = [min(column) / batch for column in zip(*rounds, strict=True)]
            row(name, batch, *times, times[0] / times[1])
    print()


def _vitrine(network: Path, side: int, batch: int) -> Callable[[], object]:
    engine = load_engine(load_settings({}, model=str(network), torch_threads="1")[0])
    jobs = [Job(np.zeros((3, side, side), np.uint8), Readout.LOGITS, top_k=5)] * batch
    return partial(engine.run, jobs)


def _openvino(folder: Path, precision: str, side: int, batch: int) -> Callable[[], object]:
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(folder / "dynamic.xml", "CPU", settings)
    return partial(compiled.create_infer_request().infer, {0: np.zeros((batch, 3, side, side), np.float32)})


def _took(forward: Callable[[], object]) -> float:
    """Return the milliseconds of processor time that it takes, on all threads."""
    torch.set_num_threads(1)
    started = time.process_time()
    forward()
    return 1000 * (time.process_time() - started)
