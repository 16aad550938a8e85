"""Spans of OpenTelemetry for the steps of a request, where somebody has set it up.

Nothing is set up here: `opentelemetry-instrument vitrine serve` does that, and opens a span for each request. Its steps
run on other threads and in other requests' batches, so their spans are made of the measured times, when all is known.
"""

import time
from collections.abc import Mapping
from typing import Any

try:
    from opentelemetry import trace
except ImportError:  # FastAPI brings it today, and need not for ever; without it nobody traces
    PRESENT = False
else:
    PRESENT = True

STEPS = ("decode", "queue", "forward")


def trace_id() -> str | None:
    """The id of the trace that this request belongs to, if it is recorded."""
    if not PRESENT:
        return None
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def record_steps(ended_at: Mapping[str, float], seconds: Mapping[str, float], facts: Mapping[str, Any]) -> None:
    """Put `facts` on the request's span, and a span below it for each step.

    Args:
        ended_at: when each step was over, by `time.perf_counter`.
        seconds: how long it took.
        facts: what is known of the request: images, tokens, ...
    """
    if not PRESENT or not (span := trace.get_current_span()).is_recording():
        return
    for name, value in facts.items():
        span.set_attribute(f"vitrine.{name}", value)
    tracer = trace.get_tracer("vitrine")
    epoch = time.time() - time.perf_counter()
    for step in STEPS:
        if step in seconds:
            end = epoch + ended_at[step]
            tracer.start_span(step, start_time=_ns(end - seconds[step])).end(_ns(end))


def flush() -> None:
    """Export the spans that are still held, if a provider that exports has been set up."""
    if PRESENT and hasattr(provider := trace.get_tracer_provider(), "shutdown"):
        provider.shutdown()


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
