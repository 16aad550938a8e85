"""Detect a truncated JPEG, which libjpeg decodes without an error."""

import io
from collections.abc import Callable

from app.pictures.formats.jpeg import only_scan_end


def open_jpeg(data: bytes) -> io.BytesIO:
    """Return a file for the decoder: a `WatchedScan` if the JPEG has a single sequential scan. Raises ImageProblem."""
    end = only_scan_end(data)
    return io.BytesIO(data) if end is None else WatchedScan(data, end)


class WatchedScan(io.BytesIO):
    """A JPEG of one scan that notices whether its last pixel is decoded from the data of the scan.

    libjpeg fills the missing part of an image with grey when it meets the marker behind the data, and Pillow drops its
    warning. So this file holds the marker back until the decoder has taken everything before it. A last pixel that
    changes only after that is not from the file.

    Args:
        data: the whole JPEG file.
        scan_end: where the data of its scan ends.
    """

    PADDING = bytes(8)
    """libjpeg asks for the next 64 bits before it decodes the last ones."""

    def __init__(self, data: bytes, scan_end: int) -> None:
        super().__init__(data[:scan_end] + self.PADDING)
        self._rest = data[scan_end:] or b"\xff\xd9"
        self._last_pixel: Callable[[], object] = lambda: None
        self._before: object = None

    def watch(self, last_pixel: Callable[[], object]) -> None:
        """Set how to read the last pixel of the image that is being decoded. Call this before loading the image."""
        self._last_pixel = last_pixel

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; those behind the scan only after all bytes before them."""
        chunk = super().read(size)
        if chunk or not size or not self._rest:
            return chunk
        self._before = self._last_pixel()
        rest, self._rest = self._rest, b""
        return rest

    def complete(self) -> bool:
        """Tell whether the scan holds the whole image. Call this after loading the image."""
        return bool(self._rest) or self._before == self._last_pixel()
