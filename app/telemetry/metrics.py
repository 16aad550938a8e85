"""What Prometheus reads: every family, its buckets, and one method for each thing that happens.

Each application has a registry of its own. Names are those that users of FastAPI's instrumentators (`http_*`), of
text-embeddings-inference and of Triton know; docs/operations.md has the table. Labels take only values from this code:
nothing that a client writes can make a new series.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.errors import STATUSES
from app.telemetry import logs

CLIENT_LEFT = 499
"""nginx' status for a request whose client did not wait for an answer."""

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metrics:
    """What is counted of one application."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every one, which nobody draws
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(_LogLines())
        self.http = _Http(self.registry)
        self.images = _Images(self.registry)
        self.batches = _Batches(self.registry)
        self.cache = _Cache(self.registry)
        self.model = _Model(self.registry)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Http:
    """Requests, under the names of FastAPI's instrumentators."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_progress = Gauge(
            "http_requests_inprogress", "Requests that are being received or answered.", registry=registry
        )
        requests = Counter(
            "http_requests",
            "Requests, by route, method and status.",
            ["handler", "method", "status"],
            registry=registry,
        )
        seconds = Histogram(
            "http_request_duration_seconds",
            "From a request's headers to the end of its answer.",
            ["handler", "method"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        # Each series is looked up once: labels have few values, and finding one costs more than counting.
        self._requests, self._seconds = cache(requests.labels), cache(seconds.labels)
        self._refusals = Counter(
            "vitrine_request_failures", "Requests answered with a problem, by its code.", ["reason"], registry=registry
        )
        _from_zero(self._refusals)

    def answered(self, route: str | None, method: str, status: int, seconds: float, problem: str | None) -> None:
        """A request is over; 0 for a status says that its client left."""
        labels = (route or "none", method if method in METHODS else "other")
        self._requests(*labels, status or CLIENT_LEFT).inc()
        self._seconds(*labels).observe(seconds)
        if problem is not None:
            self._refusals.labels(problem).inc()


class _Images:
    """Images, from their bytes to their answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        answered = Counter(
            "vitrine_images",
            "Images answered, by task: classify, embed, both, attention or preprocess.",
            ["task"],
            registry=registry,
        )
        self._answered = cache(answered.labels)
        self._refused = Counter(
            "vitrine_image_failures", "Images refused or failed, by a problem's code.", ["reason"], registry=registry
        )
        _from_zero(self._refused)
        self._tokens = Counter("vitrine_tokens", "Tokens of the images answered.", registry=registry)
        self._preprocess = Histogram(
            "vitrine_preprocess_duration_seconds",
            "From an image's bytes to the network's pixels, without waiting for a thread.",
            buckets=STEP_SECONDS,
            registry=registry,
        )

    def answered(self, task: str, tokens: int) -> None:
        """An image has its answer."""
        self._answered(task).inc()
        self._tokens.inc(tokens)

    def refused(self, reason: str) -> None:
        """An image has a problem, of this code."""
        self._refused.labels(reason).inc()

    def preprocessed(self, seconds: float) -> None:
        """An image went through a decoding thread."""
        self._preprocess.observe(seconds)


class _Batches:
    """The queue and what the engine makes of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge("vitrine_queue_size", "Images that wait for a batch.", registry=registry)
        self.waiting_tokens = Gauge(
            "vitrine_queue_tokens",
            "What they and images in decoding cost, in tokens; large images count more.",
            registry=registry,
        )
        self.limit_tokens = Gauge(
            "vitrine_queue_limit_tokens", "From how many on requests are refused.", registry=registry
        )
        self._queue = Histogram(
            "vitrine_queue_duration_seconds",
            "What an image waited for its batch.",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._images = Histogram("vitrine_batch_images", "Images in a batch.", buckets=IMAGES, registry=registry)
        self._tokens = Histogram("vitrine_batch_tokens", "Tokens in a batch.", buckets=TOKENS, registry=registry)
        self._forward = Histogram(
            "vitrine_forward_duration_seconds", "One batch on the device.", buckets=STEP_SECONDS, registry=registry
        )

    def watch(self, images: Callable[[], float], tokens: Callable[[], float], limit: Callable[[], float]) -> None:
        """Where to read the queue, each time that somebody asks."""
        self.waiting.set_function(images)
        self.waiting_tokens.set_function(tokens)
        self.limit_tokens.set_function(limit)

    def ran(self, tokens: Sequence[int], queue_s: Iterable[float], run_s: float) -> None:
        """A batch is over: the tokens of each of its images, and what each had waited."""
        self._images.observe(len(tokens))
        self._tokens.observe(sum(tokens))
        self._forward.observe(run_s)
        for seconds in queue_s:
            self._queue.observe(seconds)


class _Cache:
    """Answers that are kept, where `cache_mb` has any kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "vitrine_cache_requests",
            "Images looked up: hit (kept), shared (under way for another request) or miss.",
            ["result"],
            registry=registry,
        )
        self._bytes = Gauge("vitrine_cache_bytes", "What the answers that are kept take.", registry=registry)
        for result in ("hit", "shared", "miss"):
            self._requests.labels(result)

    def asked(self, result: str) -> None:
        """An image was looked up."""
        self._requests.labels(result).inc()

    def watch(self, held: Callable[[], float]) -> None:
        """Where to read the size, each time that somebody asks."""
        self._bytes.set_function(held)


class _Model:
    """What is served, and whether."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge("vitrine_ready", "1 while requests are taken, else 0.", registry=registry)
        self._info = Gauge(
            "vitrine_model_info",
            "What is served; always 1, and not there before it is loaded.",
            ["model", "fingerprint", "device", "dtype", "version"],
            registry=registry,
        )

    def loaded(self, **facts: str) -> None:
        """What is served is known."""
        self._info.labels(**facts).set(1)


def _from_zero(failures: Counter) -> None:
    """Show every code from the start: Prometheus sees no increase in a series that begins with 1."""
    for code in STATUSES:
        failures.labels(code)


class _LogLines(Collector):
    """Of the process, not of an application: logging is one for all."""

    def collect(self) -> Iterable[Metric]:
        """Read it now."""
        yield CounterMetricFamily("vitrine_log_lines_dropped", "Log lines lost to a slow reader.", value=logs.dropped())
