"""Decode a request's body that is compressed (RFC 9110, 8.4): as a stream, in pieces of a bounded size."""

import sys
import zlib
from collections.abc import Iterator
from typing import Any

from app.errors import Problem
from app.wording import shown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd"}
"""The names of codings that are decoded."""

ACCEPTED = ", ".join(dict.fromkeys(CODINGS.values()))

PADDING = b"\0"
"""What may follow the end of gzip."""

PIECE_BYTES = 2**20
"""The most that one step decodes, so that a small body that becomes huge takes little memory before it is refused."""

WINDOW_LOG = 23
"""The largest window of a zstd frame, as a power of two: 8 MiB (RFC 9659, 3). The decoder allocates it."""

REFUSED = {
    "too much memory": (
        f"the zstd body needs a window of more than {2**WINDOW_LOG // 2**20} MiB; "
        "compress it at level 19 or below, without --long"
    ),
    "Dictionary mismatch": "the zstd body needs a dictionary; compress it without one",
}
"""What zstd's errors say of a body that is valid but not read. They have no other sign of it."""

MAX_STREAMS = 4096
"""Of gzip members or zstd frames in a body: each takes a decoder and its time, even if it decodes to nothing."""


def coding_of(header: str | None) -> str | None:
    """Return the coding that the header Content-Encoding names; None for none. Raises Problem for an unknown one."""
    names = [name.strip().lower() for name in (header or "").split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in CODINGS:
        known = " or ".join(ACCEPTED.rsplit(", ", 1))
        detail = f"the Content-Encoding {shown(header)} is not supported; send {known}, or none"
        raise Problem("unsupported_encoding", detail, {"Accept-Encoding": ACCEPTED})
    return CODINGS[codings[0]]


class Decoding:
    """A compressed body and how far it has been decoded.

    Args:
        coding: `gzip`, `deflate` or `zstd`.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: Any = None
        self._ended = False  # the last stream was complete
        self._started = 0  # streams
        self._padding = b"" if coding == "zstd" else PADDING
        self._held = b""  # the first byte of deflate, which does not tell yet which format it is

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decode the next part of the body. Raises Problem for data that is not of this coding."""
        data, self._held = self._held + data, b""
        if self._coding == "deflate" and len(data) == 1 and not self._started:
            self._held = data
            return
        between = self._ended and self._stream is None
        more = bool(data.strip(self._padding) if between else data)
        try:
            while more:
                if self._stream is None:
                    self._stream = self._start(data)
                piece = self._stream.decompress(data, PIECE_BYTES)
                data = getattr(self._stream, "unconsumed_tail", b"")  # zstd keeps it itself
                more = bool(data) or len(piece) == PIECE_BYTES
                if self._stream.eof:
                    data = self._stream.unused_data
                    self._stream, self._ended = None, True
                    more = bool(data.strip(self._padding))
                if piece:
                    yield piece
        except (zlib.error, zstd.ZstdError) as error:
            not_valid = f"the body is not valid {self._coding}"
            detail = next((said for words, said in REFUSED.items() if words in str(error)), not_valid)
            raise Problem("malformed_body", detail) from error

    def end(self) -> None:
        """Raise Problem if the body has ended before its coding has."""
        if self._stream is not None or self._held:
            raise Problem("malformed_body", f"the {self._coding} body ended early")

    def _start(self, data: bytes) -> Any:
        self._started += 1
        if self._started > MAX_STREAMS:
            detail = f"the {self._coding} body has more than {MAX_STREAMS} parts; compress it as one"
            raise Problem("malformed_body", detail)
        # gzip may have several members, and zstd several frames, one after the other.
        if self._coding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if self._coding == "zstd":
            return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
        if self._ended:
            raise Problem("malformed_body", "the deflate body goes on after its end")
        # The coding is zlib's format, but some clients send the bare stream.
        is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
