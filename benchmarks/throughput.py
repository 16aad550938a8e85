"""From the limit to HTTP, and Vitrine against the others: images a second, and as ratios."""

import io
import time

from PIL import Image

from benchmarks import limits, load, models
from benchmarks.run import Run, classify, header, row
from benchmarks.services import Service

CLIENTS = (1, 8, 32)
CAMERA_CLIENTS = 8
WIDTHS = (64, 120, 240, 333, 500, 640, 800, 1200)
SIZES = ("160", "192", "224", "256", "288", "160x288", "288x160", "224x192")
"""What clients ask for who do not all ask for the same; their mean is near 224's number of tokens."""

MIXED_CLIENTS = 32


def throughput(run: Run) -> None:
    """The limit, the forward, the engine; then all kinds of pictures over HTTP, against the others."""
    for architecture in run.architectures:
        model = run.write(architecture)
        print(f"### {architecture.name}, {architecture.side} pixels, {architecture.classes} classes\n")
        header("what", "images/s", "of the limit")
        limit = 0.0
        for what, rate in limits.rates(model, run.settings, run.seconds):
            limit = limit or rate
            row(f"{what}, batches of {limits.BATCH}", rate, rate / limit)
        print()
        with run.all_three(model) as running:
            names = [service.name for service in running]
            over = [f"Vitrine / {name}" for name in names[1:]]
            header("pictures", "clients", *names, "p50, p99 ms", *over, "Vitrine, of the limit")
            for what, clients, requests in _asked(run):
                loads = run.in_turn(running, lambda service: load.closed(service.port, clients, requests, run.seconds))  # noqa: B023 - called at once
                rates = [one.rate for one in loads]
                latencies = ", ".join(f"{loads[0].percentile(percent):.0f}" for percent in (50, 99))
                row(what, clients, *rates, latencies, *(rates[0] / rate for rate in rates[1:]), rates[0] / limit)
        print()


def _asked(run: Run) -> list[tuple[str, int, list[bytes]]]:
    """What is asked, by how many clients, with which requests in turn."""
    asked = [
        (what, clients, [classify(picture)])
        for what, picture in (("64 x 64 JPEG", models.small_jpeg()), ("500 x 375 JPEG", run.photo))
        for clients in CLIENTS
    ]
    asked.append(("12-megapixel JPEG", CAMERA_CLIENTS, [classify(models.camera_photo())]))
    asked.append(
        ("JPEGs of 64 to 1200 pixels", MIXED_CLIENTS, [classify(_scaled(run.photo, width)) for width in WIDTHS])
    )
    return asked


def _scaled(photo: bytes, width: int) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as picture:
        picture.resize((width, width * 3 // 4)).save(file, "JPEG", quality=90)
    return file.getvalue()


def mixed(run: Run) -> None:
    """Requests of many resolutions at once against requests of one, in tokens a second of the network."""
    header("model", "uniform, tokens/s", f"{len(SIZES)} resolutions, tokens/s", "mixed / uniform")
    for architecture in run.architectures:
        uniform = [classify(run.photo, query=f"?size={architecture.side}")]
        several = [classify(run.photo, query=f"?size={size}&resize=squash") for size in SIZES]
        with run.vitrine(run.write(architecture)) as service:
            _tokens_a_second(service, several, 1)
            rounds = [
                [_tokens_a_second(service, requests, run.seconds) for requests in (uniform, several)]
                for _ in range(run.rounds)
            ]
        one, many = sorted(rounds, key=lambda rates: rates[1] / rates[0])[len(rounds) // 2]
        row(architecture.name, one, many, many / one)
    print()


def _tokens_a_second(service: Service, requests: list[bytes], seconds: float) -> float:
    before, started = service.metric("vitrine_tokens_total"), time.perf_counter()
    load.closed(service.port, MIXED_CLIENTS, requests, seconds)
    took = time.perf_counter() - started
    return (service.metric("vitrine_tokens_total") - before) / took
