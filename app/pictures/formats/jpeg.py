"""JPEG (ITU-T T.81): segments, the frame header, and which coefficients the scans bring."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.pictures.formats.container import MAX_PARTS, Declared, damaged, too_complex

SIGNATURE = re.compile(rb"\xff\xd8\xff")

MAX_SCANS = 100
"""Files have 10 to 12 scans, and each one costs a pass over the whole image.
("Two issues with the JPEG standard", libjpeg-turbo and Mozilla, 2016)"""

PROGRESSIVE_BYTES_PER_PIXEL = 4
"""Extra memory for a progressive file: all its coefficients wait in memory for the last scan."""

# A marker that is neither a stuffed byte, nor fill, nor a restart.
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
DHT, JPG, DAC = 0xC4, 0xC8, 0xCC
FRAMES = set(range(0xC0, 0xD0)) - {DHT, JPG, DAC}
PROGRESSIVE, ARITHMETIC = {0xC2, 0xCA}, {0xC9, 0xCA}
# Lossless and hierarchical frames. No browser shows them, and libjpeg decodes some of them to grey.
UNSUPPORTED_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}


def read(data: bytes) -> Declared:
    """Return the size that the first frame header declares. Raises ImageProblem."""
    for marker, _, payload in _segments(data):
        if marker in FRAMES:
            frame = Frame.parse(marker, payload)
            return Declared(frame.width, frame.height, PROGRESSIVE_BYTES_PER_PIXEL * frame.progressive)
        if marker == SOS:
            break
    raise damaged("JPEG")


def only_scan_end(data: bytes) -> int | None:
    """Return where the data of the only scan ends.

    None for a file of several scans, and for progressive or arithmetic coding, where the end of the data says nothing.
    Raises ImageProblem for a file with too many scans, and for one that lacks some.
    """
    frame: Frame | None = None
    scans, end = 0, 0
    for marker, begin, payload in _segments(data):
        if scans and not end:
            end = begin
        if marker in FRAMES:
            frame = Frame.parse(marker, payload)
        elif marker == SOS and frame:
            scans += 1
            if scans > MAX_SCANS:
                raise too_complex("JPEG", f"{MAX_SCANS} scans")
            frame.add_scan(payload)
    if frame is None or not frame.complete:
        raise damaged("JPEG")
    return None if scans > 1 or frame.progressive or frame.arithmetic else end or len(data)


@dataclass
class Frame:
    """A frame header, and what its scans have brought so far.

    components: the id of each component, one byte each.
    missing_bits: by component and coefficient, how many low bits no scan has brought yet. A coefficient that is not in
        it has not come at all.
    """

    width: int
    height: int
    progressive: bool
    arithmetic: bool
    components: bytes
    missing_bits: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def parse(cls, marker: int, payload: bytes) -> "Frame":
        """Parse a frame header. Raises ImageProblem for an unsupported kind of frame."""
        if marker in UNSUPPORTED_FRAMES or len(payload) < 6 or len(payload) < 6 + 3 * payload[5] or payload[0] != 8:
            raise damaged("JPEG")
        height, width = struct.unpack_from(">HH", payload, 1)
        components = payload[6 : 6 + 3 * payload[5] : 3]
        return cls(width, height, marker in PROGRESSIVE, marker in ARITHMETIC, components)

    def add_scan(self, header: bytes) -> None:
        """Record which coefficients a scan brings, from its header. Raises ImageProblem."""
        count = header[0] if header else 0
        if len(header) < 4 + 2 * count:
            raise damaged("JPEG")
        first, last, low_bit = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] & 15
        for component in header[1 : 1 + 2 * count : 2]:
            for coefficient in range(first, min(last, 63) + 1) if self.progressive else (0,):
                self.missing_bits[component, coefficient] = low_bit if self.progressive else 0

    @property
    def complete(self) -> bool:
        """Whether the scans have brought every coefficient of every component, to the last bit.

        A sequential scan brings all coefficients of a component at once, so that the first one stands for all.
        """
        coefficients = range(64) if self.progressive else range(1)
        return not any(
            self.missing_bits.get((component, coefficient), 1)
            for component in self.components
            for coefficient in coefficients
        )


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each segment up to the end of the first image: its marker, where that begins, and its payload.

    Bytes between segments are skipped, as is the data of scans.
    """
    at = 2
    for _ in range(MAX_PARTS):
        match = MARKER.search(data, at)
        if match is None:
            return
        begin, at = match.span()
        marker = data[begin + 1]
        if marker in (SOI, EOI):
            yield marker, begin, b""
            if marker == EOI:
                return
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        yield marker, begin, data[at + 2 : at + length]
        at += max(2, length)
    raise too_complex("JPEG", f"{MAX_PARTS} segments")
