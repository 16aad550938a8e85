"""Write structured log lines without ever blocking the code that logs.

The calling thread only formats a line; a thread of the handler writes it. Between them is a bounded queue. If the
reader of the output does not keep up, lines are dropped and counted, and no request waits.
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

from app.threads.names import show_name

QUEUED_LINES = 8192
"""Lines that may wait to be written: some seconds of full load."""

GATHERED_LINES, GATHER_S = 256, 0.01
"""Lines per write, and how long the writer waits for more of them."""

TRACE_CHARACTERS = 8000
"""Characters kept of a traceback, from its end, which names the error."""

Format = Literal["auto", "json", "text"]

logger = logging.getLogger("vitrine")


def configure(level: str, form: Format = "text", output: int = 2) -> None:
    """Set up logging for the process; a second call replaces the first.

    Args:
        level: the minimum log level.
        form: the format of lines; `auto` is text on a terminal, else JSON.
        output: the file descriptor to write to.
    """
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
    # Do not collect what no line shows (docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # The service logs start, stop and every request itself; uvicorn would add a line to each that is not valid HTTP.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def finish() -> None:
    """Write all queued log lines and flush the standard streams, before a process ends without Python's shutdown."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


def dropped() -> int:
    """Return how many lines of this process were dropped."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler))


class JsonLines(logging.Formatter):
    """Format a record as one line of JSON: time, level, message, and the members of its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
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
        # A value of a type that JSON does not have must not lose the line.
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """Format a record as a line for people: time, level, message, then its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline; a traceback follows on further lines."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{when[:23]} {record.levelname} {record.getMessage()}{fields}"
        return f"{line}\n{_trace(record)}" if record.exc_info else line


class QueuedHandler(logging.Handler):
    """Pass lines through a bounded queue to a thread that writes them.

    Args:
        output: the file descriptor to write to.
    """

    def __init__(self, output: int) -> None:
        super().__init__()
        self.dropped = 0
        self._output = output
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line, or drop it if the queue is full."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - logging never raises into the code that logs
            self.handleError(record)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until all lines are written, the thread has ended or the timeout has passed.

        The timeout is for an output that blocks.
        """
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks or not self._thread.is_alive(), timeout_s
            )

    def close(self) -> None:
        """Write the waiting lines and end the thread."""
        atexit.unregister(self.close)
        self.flush()
        with contextlib.suppress(queue.Full):  # then the thread is blocked in a write, and ends with the process
            self._lines.put_nowait(None)
        super().close()

    def _write(self) -> None:
        show_name()
        reported, last = 0, False
        while not last:
            lines, last = self._take()
            self._put(lines)
            if self.dropped > reported:
                count, reported = self.dropped - reported, self.dropped
                gap = logging.LogRecord("vitrine", logging.WARNING, "", 0, "%d log lines were dropped", (count,), None)
                self._put([self.format(gap)])
            for _ in range(len(lines) + last):  # the None that `close` puts counts as one
                self._lines.task_done()
            # Under load the next lines come at once. Waking up for each would take the processor from their thread.
            time.sleep(GATHER_S)

    def _take(self) -> tuple[list[str], bool]:
        """Wait for a line; return it with the others in the queue, and whether they are the last."""
        lines: list[str] = []
        with contextlib.suppress(queue.Empty):
            while len(lines) < GATHERED_LINES:
                line = self._lines.get(block=not lines)
                if line is None:
                    return lines, True
                lines.append(line)
        return lines, False

    def _put(self, lines: Sequence[str]) -> None:
        # To the descriptor, not to a buffered stream: a thread that blocks in one keeps the process from ending.
        data = memoryview("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError:
            self.dropped += len(lines)


def _trace(record: logging.LogRecord) -> str:
    kind, error, trace = record.exc_info if isinstance(record.exc_info, tuple) else sys.exc_info()
    return "".join(traceback.format_exception(kind, error, trace)).strip()[-TRACE_CHARACTERS:]
