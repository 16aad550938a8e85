"""Files of every format are decoded upright, to 8-bit RGB, or are refused with a code."""

import io
import zlib
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from app.errors import ImageProblem
from app.pictures.decode import Limits, decode
from app.pictures.formats.table import FORMATS as TABLE
from app.settings import FORMATS, ImageFormat
from tests.pictures.pngs import chunk

LIMITS = Limits(FORMATS, 50_000_000)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def pixels(data: bytes) -> Any:
    return np.asarray(decode(data, LIMITS).image).astype(int)


@pytest.fixture(scope="module")
def photo(cat: bytes) -> Image.Image:
    with Image.open(io.BytesIO(cat)) as image:
        return image.convert("RGB").resize((90, 60))


def test_every_format_has_a_row_whose_signature_is_the_first_to_match(photo: Image.Image) -> None:
    assert set(TABLE) == set(get_args(ImageFormat))
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF"):
        data = encoded(photo, image_format)
        # The first and not the only one: an AVIF file names a brand of HEIC too.
        assert next(name for name, container in TABLE.items() if container.matches(data)) == image_format


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lossless_formats_keep_every_pixel(photo: Image.Image, image_format: Any, options: dict[str, Any]) -> None:
    picture = decode(encoded(photo, image_format, **options), Limits((*FORMATS, "TIFF"), 50_000_000))
    assert picture.format == image_format
    assert np.array_equal(np.asarray(picture.image), np.asarray(photo))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_lossy_formats_stay_close(photo: Image.Image, image_format: str) -> None:
    assert np.abs(pixels(encoded(photo, image_format)) - np.asarray(photo)).mean() < 12


# How a camera stores an upright image under each tag: by the inverse of the operation that the tag asks for.
STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_orientation_is_applied(photo: Image.Image, image_format: str, orientation: int) -> None:
    turn = STORED[orientation]
    stored = photo if turn is None else photo.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    assert np.array_equal(pixels(encoded(stored, image_format, exif=exif, **options)), np.asarray(photo))


def hexadecimal(exif: bytes) -> bytes:
    """Return what ImageMagick writes into a text `Raw profile type exif`."""
    return b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF = hexadecimal(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
FILL = b" " * (2**20 + 1)
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "tEXt exif": lambda fill: chunk(b"tEXt", b"Raw profile type exif\0" + EXIF + fill),
    "zTXt exif": lambda fill: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(EXIF + fill)),
    "zTXt APP1": lambda fill: chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(EXIF + fill)),
    "iTXt XMP": lambda fill: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + fill),
    "iTXt XMP compressed": lambda fill: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP + fill)),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_text_that_is_too_long_to_be_read_is_passed_over(photo: Image.Image, text: Callable[[bytes], bytes]) -> None:
    """A short one of its name that follows is read instead."""
    data = encoded(photo, "PNG")
    head, rest = data[:33], data[33:]
    assert np.array_equal(pixels(head + text(FILL) + rest), np.asarray(photo))
    if text(b"") != TEXTS["zTXt APP1"](b""):  # which Pillow does not read
        turned = np.asarray(photo.transpose(Transpose.ROTATE_270))
        assert np.array_equal(pixels(head + text(b"") + rest), turned)
        assert np.array_equal(pixels(head + text(FILL) + text(b"") + rest), turned)


@pytest.mark.parametrize(
    "content",
    [
        b"Raw profile type exif\0\1abc",
        b"Raw profile type exif\0\0abc",
        b"Raw profile type exif",
        b"Raw profile type exif\0",
    ],
)
def test_a_damaged_text_is_passed_over(photo: Image.Image, content: bytes) -> None:
    data = encoded(photo, "PNG")
    assert np.array_equal(pixels(data[:33] + chunk(b"zTXt", content) + data[33:]), np.asarray(photo))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(photo: Image.Image, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(pixels(encoded(photo, "PNG", exif=exif)), np.asarray(photo))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so too
def test_a_broken_exif_block_is_ignored(photo: Image.Image) -> None:
    assert pixels(encoded(photo, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")).shape == (60, 90, 3)


def test_alpha_is_composited_over_white() -> None:
    for hidden in ((0, 0, 0), (200, 10, 90)):
        assert pixels(encoded(Image.new("RGBA", (4, 4), (*hidden, 0)), "PNG")).min() == 255
    half = pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert set(half.ravel()) == {127}


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_other_kinds_of_transparency(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (50, 50, 50, 0))
    image.putpixel((0, 0), (50, 50, 50, 255))
    result = pixels(encoded(image.convert(mode), "PNG"))
    assert result[0, 0].tolist() == [50, 50, 50]
    assert result[1, 1].tolist() == [255, 255, 255]


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    result = pixels(encoded(image, "PNG", transparency=(10, 20, 30)))
    assert result[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    result = pixels(encoded(Image.fromarray(values), "PNG"))
    assert np.abs(result[..., 0].ravel() - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_is_converted_to_rgb(photo: Image.Image, mode: str) -> None:
    image_format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    result = pixels(encoded(photo.convert(mode), image_format))
    assert result.shape == (60, 90, 3)
    expected = np.asarray(photo.convert(mode).convert("RGB")).astype(int)
    assert np.abs(result - expected).mean() < 12


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_is_decoded_to_its_first_frame(image_format: str) -> None:
    first, second = Image.new("RGB", (32, 32), (250, 250, 250)), Image.new("RGB", (32, 32), (0, 0, 0))
    data = encoded(first, image_format, save_all=True, append_images=[second])
    assert pixels(data).min() >= 240


def test_the_bytes_decide_the_format(photo: Image.Image) -> None:
    assert decode(encoded(photo, "JPEG"), LIMITS).format == "JPEG"


def test_a_phone_picture_is_turned_upright(phone_picture: bytes) -> None:
    picture = decode(phone_picture, LIMITS)
    assert picture.size == (4032, 3024)


def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(phone_picture: bytes) -> None:
    for minimum, decoded in {
        (256, 200): (504, 378),
        (504, 378): (504, 378),
        (505, 1): (1008, 756),
        (9999, 9): None,
    }.items():
        picture = decode(phone_picture, LIMITS, lambda _, minimum=minimum: minimum)  # type: ignore[misc]
        assert picture.size == (4032, 3024)  # upright, as the camera saw it
        assert (picture.image.height, picture.image.width) == (decoded or picture.size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_the_same_picture(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo.resize((901, 603), Image.Resampling.BICUBIC), "JPEG", exif=exif, quality=90)
    whole, reduced = decode(data, LIMITS), decode(data, LIMITS, lambda size: (size[0] // 4, size[1] // 4))
    assert reduced.size == whole.size
    assert reduced.image.width == -(-whole.image.width // 4)
    small = np.asarray(whole.image.resize(reduced.image.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(reduced.image) - small).mean() < 2


def scans(count: int) -> bytes:
    data = encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


REFUSED = {
    "an empty file": (b"", "empty_image"),
    "text": (b"hello", "not_an_image"),
    "a pdf": (b"%PDF-1.7\n", "not_an_image"),
    "an svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "an eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not_an_image"),
    "a tiff, which is not accepted by default": (encoded(Image.new("RGB", (4, 4)), "TIFF"), "format_not_allowed"),
    "a signature alone": (b"\x89PNG\r\n\x1a\n", "undecodable"),
    "half a jpeg": (encoded(Image.effect_noise((99, 99), 50), "JPEG")[:2000], "undecodable"),
    "half a png": (encoded(Image.effect_noise((99, 99), 50), "PNG")[:2000], "undecodable"),
    "too many pixels": (encoded(Image.new("1", (5001, 5001)), "PNG"), "too_many_pixels"),
    "too many scans": (scans(40), "too_complex"),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_unusable_files_are_refused_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(ImageProblem) as refused:
        decode(data, LIMITS)
    assert refused.value.code == code
    assert "0x" not in refused.value.detail


PREFIXED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")


def status(data: bytes) -> int:
    try:
        decode(data, LIMITS)
    except ImageProblem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("image_format", PREFIXED)
def test_a_header_may_be_truncated_or_wrong_at_any_byte(photo: Image.Image, image_format: str) -> None:
    whole = encoded(photo, image_format)
    for at in range(400):
        for data in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :], whole[:at] + whole[at + 1 :]):
            assert status(data) in (200, 400, 415, 422)


def test_a_jpeg_with_a_short_frame_header_is_undecodable() -> None:
    with pytest.raises(ImageProblem, match="damaged"):
        decode(b"\xff\xd8\xff\xc0\x00\x07\x08\x00\x10\x00\x10\xff\xd9", LIMITS)


def test_a_jpeg_may_have_twice_the_pixels_of_other_formats() -> None:
    limits = Limits(FORMATS, 10_000)
    image = Image.new("L", (90, 90))
    assert decode(encoded(image, "JPEG"), limits).size == (90, 90)
    with pytest.raises(ImageProblem, match="at most 5000 pixels are allowed for PNG"):
        decode(encoded(image, "PNG"), limits)
