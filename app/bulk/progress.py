"""Show the progress of a collection: a bar on a terminal, or one line per minute in a log."""

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from tqdm import tqdm

from app.bulk.entries import as_text
from app.bulk.rows import Failure
from app.bulk.run import Progress

logger = logging.getLogger("vitrine")

Outcome = TypeVar("Outcome")

LOG_INTERVAL_S = 60.0


class ProgressBar(Progress):
    """Shows files done, files per second and the time left, and prints failures of files that the user named."""

    def __init__(self) -> None:
        self._bar = tqdm(disable=True)
        self._done = self._resumed = self._total = 0
        self._started = self._logged = time.monotonic()

    def start(self, done: int, total: int) -> None:
        """Show the bar, starting at the files that earlier runs have answered."""
        if done:
            logger.info("continuing after %d of %d files", done, total)
        self._done, self._resumed, self._total = done, done, total
        self._started = self._logged = time.monotonic()
        self._bar = tqdm(initial=done, total=total, unit=" files", smoothing=0.05, delay=1, disable=None)

    def advance(self, path: str, failure: Failure | None) -> None:
        """Count one file, and print its failure if the user named it."""
        if failure is not None and failure.named:
            tqdm.write(f"{as_text(path)}: {failure.detail}", sys.stderr)
        self._done += 1
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._logged > LOG_INTERVAL_S:
            self._logged = time.monotonic()
            logger.info("%s", self._line(self._logged - self._started))

    def _line(self, elapsed_s: float) -> str:
        text = "{n_fmt} of {total_fmt} files, {rate_fmt}, {remaining} left"
        line: str = tqdm.format_meter(
            self._done, self._total, elapsed_s, initial=self._resumed, unit=" files", bar_format=text
        )
        return line

    def close(self) -> None:
        """Remove the bar, so that the terminal is usable again."""
        self._bar.close()


async def with_progress(outcomes: AsyncIterator[Outcome]) -> AsyncIterator[Outcome]:
    """Yield each outcome; show their count and rate on the terminal while the output goes to a file or a pipe."""
    disable = sys.stdout.isatty() or not sys.stderr.isatty()
    with tqdm(unit=" files", delay=1, disable=disable) as bar:
        async for outcome in outcomes:
            bar.update()
            yield outcome
