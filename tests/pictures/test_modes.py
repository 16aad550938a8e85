"""Every kind of sample that Pillow can read is decoded to the right colours, or refused; files are written by hand."""

import io
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from app.errors import ImageProblem
from app.pictures.decode import Limits, decode
from app.pictures.modes import EXPANDED, KNOWN, to_rgb
from tests.pictures import pngs, tiffs
from tests.pictures.tiffs import Kind

LIMITS = Limits(("JPEG", "PNG", "BMP", "TIFF"), 1_000_000)
BOUND = 3
"""Steps of 255: Pillow keeps the upper byte of 16-bit colours, an associated alpha band divides them, and LittleCMS
interpolates L*a*b*. A wrong kind is off by 60 or more."""


def pixels(data: bytes) -> Any:
    return np.asarray(decode(data, LIMITS).image).astype(int)


def refusal(data: bytes) -> ImageProblem:
    with pytest.raises(ImageProblem) as refused:
        decode(data, LIMITS)
    return refused.value


def modes() -> set[str]:
    """Return every mode that the plugins of the accepted formats name in their tables."""
    found = {mode for mode, _ in TiffImagePlugin.OPEN_INFO.values()} | {
        mode for mode, _ in PngImagePlugin._MODES.values()
    }
    found |= {mode for mode, _ in BmpImagePlugin.BIT2MODE.values()} | {"RGB", "RGBA"}  # and of WebP, AVIF and HEIC
    return found | {"L", "RGB", "CMYK"} | {"L", "P", "RGB", "RGBA"}  # of JPEG, and of GIF


def test_every_mode_of_pillow_is_decided() -> None:
    assert JpegImagePlugin.RAWMODE.keys() >= {"L", "RGB", "CMYK"}
    assert GifImagePlugin.RAWMODE.keys() == {"1", "L", "P"}
    scaled, refused = {"I;16", "I;16B", "F"}, {"I"}
    assert modes() <= KNOWN | EXPANDED.keys() | scaled | refused
    for mode in refused:
        with pytest.raises(ImageProblem, match="certainty"):
            to_rgb(Image.new(mode, (2, 2)))


# Every kind of TIFF that Pillow knows, in one plane and in several, raw and compressed.
TIFFS = [
    Kind("II" if order == TiffImagePlugin.II else "MM", photometric, sample_format[0], fill_order, bits, extra, *layout)
    for (order, photometric, sample_format, fill_order, bits, extra), layout in itertools.product(
        TiffImagePlugin.OPEN_INFO, itertools.product((1, 2), (tiffs.RAW, tiffs.DEFLATE))
    )
    if len(bits) > 1 or layout[0] == 1
]


def test_every_kind_of_tiff_is_right_or_refused() -> None:
    wrong: dict[Kind, object] = {}
    right = 0
    for kind in TIFFS:
        # Without the tag, the values for Cb and Cr are one for each two by two pixels.
        whole = replace(kind, tags={530: (tiffs.SHORT, (1, 1))}) if kind.photometric == tiffs.YCBCR else kind
        values = tiffs.samples(whole)
        try:
            found = pixels(tiffs.tiff(whole, values))
        except ImageProblem as problem:
            wrong |= {} if problem.code == "undecodable" else {kind: problem.code}
            continue
        right += 1
        difference = np.abs(found - tiffs.colours(whole, values)).max()
        if difference > BOUND:
            wrong[kind] = difference
    assert wrong == {}
    assert right > 0.7 * len(TIFFS)


USUAL = [
    Kind(order, photometric, bits=bits, extra=extra, compression=compression)
    for order, compression in itertools.product(("II", "MM"), (tiffs.RAW, tiffs.DEFLATE))
    for photometric, bits, extra in [
        *((tiffs.GREY, (bits,), ()) for bits in (1, 2, 4, 8, 16)),
        *((tiffs.GREY_INVERTED, (bits,), ()) for bits in (1, 2, 4, 8)),
        *((tiffs.RGB, (bits,) * 3, ()) for bits in (8, 16)),
        *((tiffs.RGB, (bits,) * 4, (alpha,)) for bits in (8, 16) for alpha in (tiffs.ASSOCIATED, tiffs.ALPHA)),
        *((tiffs.PALETTE, (bits,), ()) for bits in (1, 2, 4, 8)),
        (tiffs.GREY, (8, 8), (tiffs.ASSOCIATED,)),
        (tiffs.GREY, (8, 8), (tiffs.ALPHA,)),
        (tiffs.CMYK, (8,) * 4, ()),
        (tiffs.LAB, (8,) * 3, ()),
    ]
]
RARE = [
    Kind("II", tiffs.GREY_INVERTED, bits=(16,)),
    Kind("II", tiffs.GREY, bits=(12,)),
    Kind("II", tiffs.GREY, tiffs.FLOAT, bits=(32,)),
    Kind("II", tiffs.GREY_INVERTED, tiffs.FLOAT, bits=(32,), compression=tiffs.DEFLATE),
    Kind("MM", tiffs.GREY, tiffs.FLOAT, bits=(32,)),
    Kind("II", tiffs.RGB, bits=(8,) * 3, planar=2),
    Kind("II", tiffs.RGB, bits=(16,) * 3, planar=2, compression=tiffs.DEFLATE),
    Kind("II", tiffs.CMYK, bits=(8,) * 4, planar=2),
]


@pytest.mark.parametrize("kind", [*USUAL, *RARE], ids=str)
def test_these_kinds_of_tiff_are_read(kind: Kind) -> None:
    values = tiffs.samples(kind)
    assert np.abs(pixels(tiffs.tiff(kind, values)) - tiffs.colours(kind, values)).max() <= BOUND


GREY_8 = Kind("II", tiffs.GREY)
REFUSED = {
    "signed samples": [
        Kind(order, tiffs.GREY, tiffs.SIGNED, bits=(bits,)) for order in ("II", "MM") for bits in (8, 16, 32)
    ],
    "samples of 32 bits": [Kind("II", tiffs.GREY, bits=(32,))],
    "big-endian compressed floats": [
        Kind("MM", tiffs.GREY, tiffs.FLOAT, bits=(32,), compression=tiffs.DEFLATE),
        Kind("MM", tiffs.GREY_INVERTED, tiffs.FLOAT, bits=(32,), compression=tiffs.DEFLATE),
    ],
    "separate planes": [
        Kind("II", tiffs.RGB, bits=(16,) * 3, planar=2),
        Kind("MM", tiffs.CMYK, bits=(16,) * 4, planar=2),
        Kind("II", tiffs.RGB, bits=(8,) * 4, planar=2, compression=tiffs.DEFLATE),
        Kind("II", tiffs.GREY, bits=(8, 8), extra=(tiffs.ALPHA,), planar=2, compression=tiffs.DEFLATE),
        Kind("II", tiffs.PALETTE, bits=(8, 8), extra=(tiffs.ALPHA,), planar=2, compression=tiffs.DEFLATE),
        Kind("II", tiffs.RGB, fill_order=2, bits=(8,) * 3, planar=2),
    ],
    "uncompressed YCbCr": [
        Kind("II", tiffs.YCBCR, bits=(8,) * 3),
        Kind("II", tiffs.YCBCR, bits=(8,) * 3, tags={530: (tiffs.SHORT, (2, 2))}),
    ],
    "inks other than CMYK": [Kind("II", tiffs.CMYK, bits=(8,) * 4, tags={332: (tiffs.SHORT, (2,))})],
    "a preview or a mask": [
        replace(GREY_8, tags={254: (tiffs.LONG, (kind,))})
        for kind in (1, 4)  # of raw files of cameras, for example
    ],
    "a palette of 8 bits": [Kind("II", tiffs.PALETTE, tags={320: (tiffs.SHORT, tuple(range(256)) * 3)})],
    "without data": [replace(GREY_8, tags={273: (tiffs.LONG, (0,))})],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_tiff_that_pillow_reads_wrongly_is_refused(reason: str) -> None:
    for kind in REFUSED[reason]:
        problem = refusal(tiffs.tiff(kind, tiffs.samples(kind)))
        assert problem.code == "undecodable"
        assert reason in problem.detail
        assert "save it as" in problem.detail


def test_a_tiff_that_does_not_say_what_is_white_is_refused() -> None:
    data = tiffs.tiff(GREY_8, tiffs.samples(GREY_8))
    without = data.replace(b"\x06\x01\x03\x00", b"\x0f\x01\x02\x00")  # another tag in place of 262
    assert "which value is white" in refusal(without).detail


@pytest.mark.parametrize("value", [1.5, 255.0, -0.1, np.nan, np.inf])
def test_float_values_without_a_certain_white_are_refused(value: float) -> None:
    kind = Kind("II", tiffs.GREY, tiffs.FLOAT, bits=(32,))
    values = tiffs.samples(kind)
    values[2, 3] = value
    assert "nothing says which one is white" in refusal(tiffs.tiff(kind, values)).detail


PNGS = [
    pngs.Kind(bits, colour, transparent)
    for bits, colour in pngs.KINDS
    for transparent in ((False,) if colour in (pngs.GREY_ALPHA, pngs.RGB_ALPHA) else (False, True))
]


@pytest.mark.parametrize("kind", PNGS, ids=str)
def test_every_kind_of_png_is_read(kind: pngs.Kind) -> None:
    values = pngs.values(kind)
    assert np.abs(pixels(pngs.png(kind, values)) - pngs.colours(kind, values)).max() <= BOUND


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_mode_of_bmp_is_read(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 16, 3), np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "BMP")
    with Image.open(file) as stored:
        assert stored.mode == mode
    assert np.array_equal(pixels(file.getvalue()), np.asarray(image.convert("RGB")))
