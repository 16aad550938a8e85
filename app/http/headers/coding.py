"""Decode a request's body that is compressed (RFC 9110, 8.4): as a stream, in pieces of a bounded size."""

import zlib
from collections.abc import Iterator
from typing import Any

from app.errors import Problem
from app.wording import shown

CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
"""The names of codings that are decoded."""

ACCEPTED = ", ".join(dict.fromkeys(CODINGS.values()))

PADDING = b"\0"
"""What may follow the end of gzip."""

PIECE_BYTES = 2**20
"""The most that one step decodes, so that a small body that becomes huge takes little memory before it is refused."""


def coding_of(header: str | None) -> str | None:
    """Return the coding that the header Content-Encoding names; None for none. Raises Problem for an unknown one."""
    names = [name.strip().lower() for name in (header or "").split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in CODINGS:
        detail = (
            f"the Content-Encoding {shown(header)} is not supported; send {' or '.join(ACCEPTED.split(', '))}, or none"
        )
        raise Problem("unsupported_encoding", detail, {"Accept-Encoding": ACCEPTED})
    return CODINGS[codings[0]]


class Decoding:
    """A compressed body and how far it has been decoded.

    Args:
        coding: `gzip` or `deflate`.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: Any = None
        self._ended = False  # the last stream was complete

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decode the next part of the body. Raises Problem for data that is not of this coding."""
        between = self._ended and self._stream is None
        more = bool(data.strip(PADDING) if between else data)
        try:
            while more:
                if self._stream is None:
                    self._stream = self._start(data)
                piece = self._stream.decompress(data, PIECE_BYTES)
                data = self._stream.unconsumed_tail
                more = bool(data) or len(piece) == PIECE_BYTES
                if self._stream.eof:
                    data = self._stream.unused_data
                    self._stream, self._ended = None, True
                    more = bool(data.strip(PADDING))
                if piece:
                    yield piece
        except zlib.error as error:
            raise Problem("malformed_body", f"the body is not valid {self._coding}") from error

    def end(self) -> None:
        """Raise Problem if the body has ended before its coding has."""
        if self._stream is not None:
            raise Problem("malformed_body", f"the {self._coding} body ended early")

    def _start(self, data: bytes) -> Any:
        if self._coding == "gzip":  # may have several members, one after the other
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if self._ended:
            raise Problem("malformed_body", "the deflate body goes on after its end")
        # The coding is zlib's format, but some clients send the bare stream.
        is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
