"""Throughput in images per second: the limit, and Vitrine compared with the other services over HTTP."""

import io
import time
from pathlib import Path

from PIL import Image

from benchmarks import limits, load, photos
from benchmarks.run import Run, classify, header, row
from benchmarks.services import Service

CLIENTS = (1, 8, 32)
CAMERA_CLIENTS = 8
WIDTHS = (64, 120, 240, 333, 500, 640, 800, 1200)
SIZES = ("160", "192", "224", "256", "288", "160x288", "288x160", "224x192")
"""Sizes of mixed requests; their mean number of tokens is close to that of 224."""

MIXED_CLIENTS = 32


def throughput(run: Run) -> None:
    """The limit, the forward pass, the engine; then pictures of several sizes over HTTP, compared with the others."""
    for architecture in run.architectures:
        model = run.write(architecture)
        print(f"### {architecture.name}, {architecture.side} pixels, {architecture.classes} classes\n")
        header("measured", "images/s", "share of the limit")
        limit = 0.0
        for name, rate in limits.rates(model, run.settings, run.seconds):
            limit = limit or rate
            row(f"{name}, batches of {limits.BATCH}", rate, rate / limit)
        print()
        with run.all_three(model) as running:
            names = [service.name for service in running]
            ratios = [f"Vitrine / {name}" for name in names[1:]]
            header("pictures", "clients", *names, "p50, p99 ms", *ratios, "Vitrine / limit")
            for pictures, clients, requests in _cases(run):
                loads = run.in_turn(running, lambda service: load.closed(service.port, clients, requests, run.seconds))  # noqa: B023 - called at once
                rates = [one.rate for one in loads]
                latencies = ", ".join(f"{loads[0].percentile(percent):.0f}" for percent in (50, 99))
                row(pictures, clients, *rates, latencies, *(rates[0] / rate for rate in rates[1:]), rates[0] / limit)
        print()


def _cases(run: Run) -> list[tuple[str, int, list[bytes]]]:
    """Return the name of each case, its number of clients, and the requests that they take turns through."""
    cases = [
        (name, clients, [classify(picture)])
        for name, picture in (("64 x 64 JPEG", photos.small_jpeg()), ("500 x 375 JPEG", run.photo))
        for clients in CLIENTS
    ]
    cases.append(("12-megapixel JPEG", CAMERA_CLIENTS, [classify(photos.camera_photo())]))
    cases.append(
        ("JPEGs of 64 to 1200 pixels", MIXED_CLIENTS, [classify(_scaled(run.photo, width)) for width in WIDTHS])
    )
    return cases


def _scaled(photo: bytes, width: int) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as picture:
        picture.resize((width, width * 3 // 4)).save(file, "JPEG", quality=90)
    return file.getvalue()


def mixed(run: Run) -> None:
    """Requests of many resolutions compared with requests of one, in tokens per second of the network."""
    header("model", "dtype", "uniform, tokens/s", f"{len(SIZES)} resolutions, tokens/s", "mixed / uniform")
    for architecture in run.architectures:
        uniform = [classify(run.photo, query=f"?size={architecture.side}")]
        several = [classify(run.photo, query=f"?size={size}&resize=squash") for size in SIZES]
        network, seen = run.write(architecture), set()
        cases: list[tuple[Path, dict[str, str]]] = [(network, {})]
        if "dtype" not in run.settings:
            cases += [(network, {"dtype": "float32"}), (run.quantised(network), {})]
        for model, settings in cases:
            with run.vitrine(model, **settings) as service:
                computes_in = service.dtype
                if computes_in in seen:  # the default is float32 here
                    continue
                seen.add(computes_in)
                _tokens_per_second(service, several, 1)
                rounds = [
                    [_tokens_per_second(service, requests, run.seconds) for requests in (uniform, several)]
                    for _ in range(run.rounds)
                ]
            one, many = sorted(rounds, key=lambda rates: rates[1] / rates[0])[len(rounds) // 2]
            row(architecture.name, computes_in, one, many, many / one)
    print()


def _tokens_per_second(service: Service, requests: list[bytes], seconds: float) -> float:
    before, started = service.metric("vitrine_tokens_total"), time.perf_counter()
    load.closed(service.port, MIXED_CLIENTS, requests, seconds)
    elapsed = time.perf_counter() - started
    return (service.metric("vitrine_tokens_total") - before) / elapsed
