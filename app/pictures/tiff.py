"""Tell the TIFF files that Pillow reads correctly from those that it reads wrongly (TIFF 6.0, 1992).

Pillow reads some kinds of samples without an error and to wrong values. tests/pictures/test_modes.py writes every kind
by hand and compares. Each kind here is refused because it failed there, or because the file does not say what it means.
"""

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from app.errors import ImageProblem
from app.pictures.modes import EIGHT_BITS, Samples

SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES_PER_PIXEL, PLANAR = 254, 258, 259, 262, 273, 277, 284
COLOUR_MAP, TILE_OFFSETS, INK_SET, EXTRA, SAMPLE_FORMAT, SUBSAMPLING, REFERENCE = 320, 324, 332, 338, 339, 530, 532
FILL_ORDER, YCBCR_COEFFICIENTS = 266, 529

REDUCED, MASK = 1, 4
MIN_IS_WHITE, RGB, PALETTE, CMYK, YCBCR = 0, 2, 3, 5, 6
RAW, OLD_JPEG = 1, 6
SIGNED, FLOAT = 2, 3
SEPARATE = 2
PLANAR_COLOURS: Mapping[object, int] = {RGB: 3, CMYK: 4, YCBCR: 3}
FULL_RANGE = (0, 255, 128, 255, 128, 255)

Tags = Mapping[int, Any]


def read_samples(image: Image.Image) -> Samples:
    """Return what the samples of an open TIFF mean. Raises ImageProblem for a kind that Pillow reads wrongly."""
    if not isinstance(image, TiffImageFile):
        return EIGHT_BITS
    tags: Tags = image.tag_v2
    for reason, applies in KINDS.items():
        if applies(tags):
            detail = f"this TIFF file has {reason}, which cannot be read with certainty"
            raise ImageProblem("undecodable", f"{detail}; save it as 8-bit RGB or grey, or as PNG")
    black, white = 0.0, 1.0 if image.mode == "F" else float(2 ** _bits(tags)[0] - 1)
    return Samples(white, black) if tags.get(PHOTOMETRIC) == MIN_IS_WHITE else Samples(black, white)


def _bits(tags: Tags) -> tuple[int, ...]:
    return tuple(tags.get(BITS, (1,)))


def _has_wrong_planes(tags: Tags) -> bool:
    """Tell whether the bands are stored one after the other, in a way other than 8-bit colours with declared extras."""
    count = tags.get(SAMPLES_PER_PIXEL, 1)
    if tags.get(PLANAR, 1) != SEPARATE or count == 1:
        return False
    colours = PLANAR_COLOURS.get(tags.get(PHOTOMETRIC), 0)
    raw, plain = tags.get(COMPRESSION, RAW) == RAW, set(_bits(tags)) == {8} and tags.get(FILL_ORDER, 1) == 1
    return count != colours + len(tags.get(EXTRA, ())) or (raw and not plain)


def _has_wrong_ycbcr(tags: Tags) -> bool:
    """Tell whether raw YCbCr differs from that of JPEG, which Pillow takes it for; compressed, libtiff converts it."""
    if tags.get(PHOTOMETRIC) != YCBCR or tags.get(COMPRESSION, RAW) != RAW or tags.get(SAMPLES_PER_PIXEL, 1) == 1:
        return False
    full = tuple(tags.get(REFERENCE, FULL_RANGE)) == FULL_RANGE
    return tags.get(SUBSAMPLING) != (1, 1) or not full or YCBCR_COEFFICIENTS in tags


def _has_wrong_floats(tags: Tags) -> bool:
    """Tell whether floats are compressed in the order of bytes that Pillow swaps although libtiff has done so."""
    swapped = getattr(tags, "prefix", b"II") == b"MM"
    return FLOAT in tags.get(SAMPLE_FORMAT, ()) and swapped and tags.get(COMPRESSION, RAW) != RAW


def _has_no_data(tags: Tags) -> bool:
    offsets = [*tags.get(STRIP_OFFSETS, ()), *tags.get(TILE_OFFSETS, ())]
    return tags.get(COMPRESSION, RAW) == RAW and 0 in offsets


KINDS: Mapping[str, Callable[[Tags], bool]] = {
    "a first page that is a preview or a mask of another image": lambda tags: bool(
        tags.get(SUBFILE, 0) & (REDUCED | MASK)
    ),
    "no tag that says which value is white": lambda tags: (
        PHOTOMETRIC not in tags and tags.get(COMPRESSION, RAW) != OLD_JPEG
    ),
    "signed samples": lambda tags: SIGNED in tags.get(SAMPLE_FORMAT, ()),
    "samples of 32 bits": lambda tags: 32 in _bits(tags) and FLOAT not in tags.get(SAMPLE_FORMAT, ()),
    "big-endian compressed floats": _has_wrong_floats,
    "separate planes of this kind": _has_wrong_planes,
    "uncompressed YCbCr of this kind": _has_wrong_ycbcr,
    "inks other than CMYK": lambda tags: tags.get(PHOTOMETRIC) == CMYK and tags.get(INK_SET, 1) != 1,
    "a palette of 8 bits instead of 16": lambda tags: (
        tags.get(PHOTOMETRIC) == PALETTE and 0 < max(tags.get(COLOUR_MAP, (0,))) < 256
    ),
    "strips or tiles without data": _has_no_data,
}
"""Kinds that Pillow opens and reads wrongly."""
