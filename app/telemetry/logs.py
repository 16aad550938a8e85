"""Log lines: structured, one each, and never in anybody's way.

Whoever logs only formats the line; a thread of its own writes it. Between them is a bounded queue: when whoever reads
the output does not keep up, lines are dropped and counted, and nothing waits.
"""

import atexit
import contextlib
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import orjson

QUEUED_LINES = 8192
"""Lines that may wait for the output, some seconds of full load."""

GATHERED_LINES, GATHER_S = 256, 0.01
"""Lines that are written in one go, and how long the writer lets them gather."""

TRACE_CHARACTERS = 8000
"""Of an error's trace the end is kept, which names the error."""

Format = Literal["auto", "json", "text"]

logger = logging.getLogger("vitrine")


def configure(level: str, form: Format = "text", output: int = 2) -> None:
    """Log from here on, to this file descriptor; called again, it replaces what was set up before."""
    as_json = form == "json" or (form == "auto" and not os.isatty(output))
    handler = QueuedHandler(output)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger()
    for former in root.handlers[:]:
        if isinstance(former, QueuedHandler):
            root.removeHandler(former)
            former.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # What no line tells need not be found out for each (docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # What uvicorn says of its own start and stop is said by the service.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def dropped() -> int:
    """Lines of this process that nobody will read."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler))


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, message, and the members of its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.name != "vitrine":
            line["logger"] = record.name
        if record.exc_info:
            line["error"] = _trace(record)
        # A value of a kind that JSON does not know must not cost the line.
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """A record as a line to be read: time, level, message, then its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; an error's trace follows on lines of its own."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{when[:23]} {record.levelname} {record.getMessage()}{fields}"
        return f"{line}\n{_trace(record)}" if record.exc_info else line


class QueuedHandler(logging.Handler):
    """Lines through a bounded queue to a thread that writes them."""

    def __init__(self, output: int) -> None:
        super().__init__()
        self.dropped = 0
        self._output = output
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line, or drop it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - logging never raises into what it tells of
            self.handleError(record)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until all is written, but not for an output that takes nothing, nor for a thread that has ended."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks or not self._thread.is_alive(), timeout_s
            )

    def close(self) -> None:
        """Write what waits and end the thread."""
        atexit.unregister(self.close)
        self.flush()
        with contextlib.suppress(queue.Full):  # then the thread hangs in a write, and ends with the process
            self._lines.put_nowait(None)
        super().close()

    def _write(self) -> None:
        told, last = 0, False
        while not last:
            lines, last = self._gathered()
            self._put(lines)
            if self.dropped > told:
                lost, told = self.dropped - told, self.dropped
                gap = logging.LogRecord("vitrine", logging.WARNING, "", 0, "%d log lines were dropped", (lost,), None)
                self._put([self.format(gap)])
            for _ in range(len(lines) + last):  # the None that `close` puts counts as one
                self._lines.task_done()
            # Under load the next lines come at once. Waking up for each would take the processor from whoever logs it.
            time.sleep(GATHER_S)

    def _gathered(self) -> tuple[list[str], bool]:
        """Wait for a line, and take what others there are; whether they are the last."""
        lines: list[str] = []
        with contextlib.suppress(queue.Empty):
            while len(lines) < GATHERED_LINES:
                line = self._lines.get(block=not lines)
                if line is None:
                    return lines, True
                lines.append(line)
        return lines, False

    def _put(self, lines: Sequence[str]) -> None:
        # Straight to the descriptor: a thread that hangs in a buffered stream would keep the process from ending.
        data = memoryview("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError:
            self.dropped += len(lines)


def _trace(record: logging.LogRecord) -> str:
    kind, error, trace = record.exc_info if isinstance(record.exc_info, tuple) else sys.exc_info()
    return "".join(traceback.format_exception(kind, error, trace)).strip()[-TRACE_CHARACTERS:]
