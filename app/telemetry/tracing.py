"""Record OpenTelemetry spans for the steps of a request, if OpenTelemetry is set up.

This module does not set it up: `opentelemetry-instrument vitrine serve` does, and opens a span for each request. The
steps run on other threads and in batches with other requests, so their spans are made afterwards from measured times.
"""

import time
from collections.abc import Mapping
from typing import Any

try:
    from opentelemetry import trace
except ImportError:  # a dependency of FastAPI today, which may change
    PRESENT = False
else:
    PRESENT = True

STEPS = ("decode", "queue", "forward")


def trace_id() -> str | None:
    """Return the id of the trace of this request; None without one."""
    if not PRESENT:
        return None
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def record_steps(ended_at: Mapping[str, float], seconds: Mapping[str, float], facts: Mapping[str, Any]) -> None:
    """Add `facts` to the span of the request, and a child span for each step.

    Args:
        ended_at: when each step ended, by `time.perf_counter`.
        seconds: how long each step took.
        facts: attributes of the request: images, tokens, ...
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
    """Export the spans that wait to be exported, if a provider is set up."""
    if PRESENT and hasattr(provider := trace.get_tracer_provider(), "shutdown"):
        provider.shutdown()


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
