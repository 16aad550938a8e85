"""Define the metrics for Prometheus: every family, its buckets, and one method for each event that is counted.

Each application has its own registry. The names are those of FastAPI's instrumentators (`http_*`), of
text-embeddings-inference and of Triton; docs/operations.md lists them. Labels take only values from this code: nothing
that a client sends can create a new series.
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
"""nginx's status for a request whose client disconnected before the response."""

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series
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
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Http:
    """Metrics of requests, under the names of FastAPI's instrumentators."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_progress = Gauge("http_requests_inprogress", "Requests being received or answered.", registry=registry)
        requests = Counter(
            "http_requests",
            "Requests, by route, method and status.",
            ["handler", "method", "status"],
            registry=registry,
        )
        seconds = Histogram(
            "http_request_duration_seconds",
            "Time from the headers of a request to the end of its response.",
            ["handler", "method"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        # Look each series up once: labels have few values, and a lookup costs more than counting.
        self._requests, self._seconds = cache(requests.labels), cache(seconds.labels)
        self._refusals = Counter(
            "vitrine_request_failures",
            "Requests answered with a problem, by problem code.",
            ["reason"],
            registry=registry,
        )
        _from_zero(self._refusals)

    def answered(self, route: str | None, method: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a request that has ended; a status of 0 means that its client disconnected."""
        labels = (route or "none", method if method in METHODS else "other")
        self._requests(*labels, status or CLIENT_LEFT).inc()
        self._seconds(*labels).observe(seconds)
        if problem is not None:
            self._refusals.labels(problem).inc()


class _Images:
    """Metrics of images."""

    def __init__(self, registry: CollectorRegistry) -> None:
        answered = Counter(
            "vitrine_images",
            "Images answered, by task: classify, embed, both, attention, features or preprocess.",
            ["task"],
            registry=registry,
        )
        self._answered = cache(answered.labels)
        self._refused = Counter(
            "vitrine_image_failures",
            "Images refused or failed, by problem code.",
            ["reason"],
            registry=registry,
        )
        _from_zero(self._refused)
        self._tokens = Counter("vitrine_tokens", "Tokens of the images answered.", registry=registry)
        self._preprocess = Histogram(
            "vitrine_preprocess_duration_seconds",
            "Time to decode, resize and crop an image, without the wait for a thread.",
            buckets=STEP_SECONDS,
            registry=registry,
        )

    def answered(self, task: str, tokens: int) -> None:
        """Count an image that was answered."""
        self._answered(task).inc()
        self._tokens.inc(tokens)

    def refused(self, reason: str) -> None:
        """Count an image that was refused or failed, by the code of its problem."""
        self._refused.labels(reason).inc()

    def preprocessed(self, seconds: float) -> None:
        """Observe the time that an image took on a decoding thread."""
        self._preprocess.observe(seconds)


class _Batches:
    """Metrics of the queue and of batches."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge("vitrine_queue_size", "Images waiting for a batch.", registry=registry)
        self.waiting_tokens = Gauge(
            "vitrine_queue_tokens",
            "Cost of the images that are waiting or being decoded, in tokens; large images count more.",
            registry=registry,
        )
        self.limit_tokens = Gauge(
            "vitrine_queue_limit_tokens",
            "Largest queue; requests beyond it are refused.",
            registry=registry,
        )
        self._queue = Histogram(
            "vitrine_queue_duration_seconds",
            "Time that an image waits for its batch.",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._images = Histogram("vitrine_batch_images", "Images in a batch.", buckets=IMAGES, registry=registry)
        self._tokens = Histogram("vitrine_batch_tokens", "Tokens in a batch.", buckets=TOKENS, registry=registry)
        self._wasted = Counter(
            "vitrine_tokens_in_vain",
            "Tokens of vitrine_batch_tokens whose request was not answered: its client had gone or it failed.",
            registry=registry,
        )
        self._forward = Histogram(
            "vitrine_forward_duration_seconds",
            "Forward pass of one batch.",
            buckets=STEP_SECONDS,
            registry=registry,
        )

    def watch(self, images: Callable[[], float], tokens: Callable[[], float], limit: Callable[[], float]) -> None:
        """Set the functions that read the queue on each scrape."""
        self.waiting.set_function(images)
        self.waiting_tokens.set_function(tokens)
        self.limit_tokens.set_function(limit)

    def ran(self, tokens: Sequence[int], queue_s: Iterable[float], run_s: float) -> None:
        """Observe a batch that has ended.

        Args:
            tokens: the tokens of each image.
            queue_s: how long each image waited for the batch.
            run_s: how long the forward pass took.
        """
        self._images.observe(len(tokens))
        self._tokens.observe(sum(tokens))
        self._forward.observe(run_s)
        for seconds in queue_s:
            self._queue.observe(seconds)

    def wasted(self, tokens: int) -> None:
        """Count tokens that were computed for a request that was not answered."""
        self._wasted.inc(tokens)


class _Cache:
    """Metrics of the cache; all 0 unless `cache_mb` is set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "vitrine_cache_requests",
            "Images looked up: hit (cached), shared (being computed for another request) or miss.",
            ["result"],
            registry=registry,
        )
        self._bytes = Gauge("vitrine_cache_bytes", "Memory of the cached answers.", registry=registry)
        for result in ("hit", "shared", "miss"):
            self._requests.labels(result)

    def asked(self, result: str) -> None:
        """Count an image that was looked up."""
        self._requests.labels(result).inc()

    def watch(self, held: Callable[[], float]) -> None:
        """Set the function that reads the size on each scrape."""
        self._bytes.set_function(held)


class _Model:
    """Metrics of the model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge("vitrine_ready", "1 while the service accepts requests, else 0.", registry=registry)
        self._info = Gauge(
            "vitrine_model_info",
            "The model that is served; always 1, and absent until it is loaded.",
            ["model", "fingerprint", "device", "dtype", "version"],
            registry=registry,
        )

    def loaded(self, **facts: str) -> None:
        """Record the model, once it is loaded."""
        self._info.labels(**facts).set(1)


def _from_zero(failures: Counter) -> None:
    """Export every code from the start: Prometheus sees no increase in a series that begins with 1."""
    for code in STATUSES:
        failures.labels(code)


class _LogLines(Collector):
    """Dropped log lines, of the whole process: all applications share logging."""

    def collect(self) -> Iterable[Metric]:
        """Yield the current value."""
        yield CounterMetricFamily("vitrine_log_lines_dropped", "Log lines lost to a slow reader.", value=logs.dropped())
