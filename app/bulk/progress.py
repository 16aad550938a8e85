"""How far a collection is, for whoever watches: a bar on a terminal, a line a minute in a log."""

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from tqdm import tqdm

from app.bulk.answers import Failure
from app.bulk.run import Progress

logger = logging.getLogger("vitrine")

Outcome = TypeVar("Outcome")

LINE_EVERY_S = 60.0


class ProgressBar(Progress):
    """Files done of how many, how many a second, and the time left; and what is wrong with files that were named."""

    def __init__(self) -> None:
        self._bar = tqdm(disable=True)
        self._done = self._before = self._total = 0
        self._began = self._told = time.monotonic()

    def begins(self, done: int, total: int) -> None:
        """Show the bar, at what earlier runs have done."""
        if done:
            logger.info("going on after %d of %d files", done, total)
        self._done, self._before, self._total = done, done, total
        self._began = self._told = time.monotonic()
        self._bar = tqdm(initial=done, total=total, unit=" files", smoothing=0.05, delay=1, disable=None)

    def ended(self, path: str, fault: Failure | None) -> None:
        """Move on."""
        if fault is not None and fault.named:
            tqdm.write(f"{path}: {fault.detail}", sys.stderr)
        self._done += 1
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._told > LINE_EVERY_S:
            self._told = time.monotonic()
            logger.info("%s", self._line(self._told - self._began))

    def _line(self, elapsed_s: float) -> str:
        text = "{n_fmt} of {total_fmt} files, {rate_fmt}, {remaining} left"
        line: str = tqdm.format_meter(
            self._done, self._total, elapsed_s, initial=self._before, unit=" files", bar_format=text
        )
        return line

    def close(self) -> None:
        """Leave the terminal in order."""
        self._bar.close()


async def counted(outcomes: AsyncIterator[Outcome]) -> AsyncIterator[Outcome]:
    """Hand outcomes on that go to a file or a pipe, with their count and rate on the terminal."""
    disable = sys.stdout.isatty() or not sys.stderr.isatty()
    with tqdm(unit=" files", delay=1, disable=disable) as bar:
        async for outcome in outcomes:
            bar.update()
            yield outcome
