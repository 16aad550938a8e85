"""Colours by the ICC profile of an image: ignored by default, as the originals do; converted to sRGB if asked."""

import io
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from app.inference.engine import Engine
from app.pictures import pool
from app.pictures.decode import Limits, decode
from app.pictures.formats.container import MAX_PROFILE_BYTES
from app.pictures.pool import Decoder
from app.settings import BadSettings, Colour, ImageFormat, Settings
from models.checkpoints.checkpoint import Checkpoint
from tests.pictures import pngs, profiles
from tests.pictures.test_images import encoded
from tests.pictures.tiffs import DEFLATE, GREY, Kind, tiff
from tests.server import Server, serving

FORMATS: tuple[ImageFormat, ...] = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIC", "GIF")
LIMITS = Limits(FORMATS, 50_000_000)
P3 = profiles.rgb(profiles.DISPLAY_P3, 2.2)
PROPHOTO = profiles.rgb(profiles.PROPHOTO, 1.8)
GREY_18 = profiles.grey(1.8)


def lightness(cyan: float, magenta: float, yellow: float, black: float) -> float:
    return (1 - black) * (1 - 0.6 * cyan) * (1 - 0.4 * magenta) * (1 - 0.2 * yellow)


INKS = profiles.cmyk(lightness)


def pixels(data: bytes, colour: Colour = "srgb", **options: Any) -> Any:
    return np.asarray(decode(data, LIMITS, colour=colour, **options).image).astype(int)


@pytest.fixture(scope="module")
def colours() -> Image.Image:
    """Blocks of colours, each of one chroma sample of a JPEG, whose greatest are not of sRGB."""
    small = np.random.default_rng(2).integers(0, 256, (5, 8, 3), np.uint8)
    return Image.fromarray(small).resize((128, 80), Image.Resampling.NEAREST)


LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}


@pytest.mark.parametrize("image_format", LOSSLESS)
@pytest.mark.parametrize(
    ("profile", "primaries", "gamma"), [(P3, profiles.DISPLAY_P3, 2.2), (PROPHOTO, profiles.PROPHOTO, 1.8)]
)
def test_an_rgb_profile_is_applied(
    colours: Image.Image, image_format: str, profile: bytes, primaries: Any, gamma: float
) -> None:
    data = encoded(colours, image_format, icc_profile=profile, **LOSSLESS[image_format])
    before = np.asarray(colours).astype(int)
    expected = profiles.to_srgb(before, primaries, gamma)
    assert np.abs(expected - before).max() > 40
    assert np.abs(pixels(data) - expected).max() <= 2
    assert np.array_equal(pixels(data, "original"), before)


@pytest.mark.parametrize("image_format", ["JPEG", "AVIF", "HEIC", "MPO"])
def test_the_profile_of_a_lossy_format_is_applied(colours: Image.Image, image_format: str) -> None:
    if image_format == "HEIC":
        pytest.importorskip("pillow_heif")
    name, options = ("HEIF", {}) if image_format == "HEIC" else (image_format, {})
    if image_format == "MPO":
        options = {"save_all": True, "append_images": [colours]}
    data = encoded(colours, name, icc_profile=P3, quality=100, **options)
    plain = pixels(data, "original")
    difference = np.abs(pixels(data) - profiles.to_srgb(plain, profiles.DISPLAY_P3, 2.2))
    assert difference.max() <= 2


def test_an_alpha_band_stays_and_white_is_that_of_srgb() -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 255))
    image.putpixel((0, 0), (200, 100, 50, 0))
    image.putpixel((1, 0), (200, 100, 50, 128))
    result = pixels(encoded(image, "PNG", icc_profile=P3))
    colour = profiles.to_srgb(np.array([200, 100, 50]), profiles.DISPLAY_P3, 2.2)
    assert result[0, 0].tolist() == [255, 255, 255]
    assert np.abs(result[3, 3] - colour).max() <= 1
    assert np.abs(result[0, 1] - (colour * 128 + 255 * 127) / 255).max() <= 2


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_is_converted(transparent: bool) -> None:
    kind = pngs.Kind(8, pngs.PALETTE, transparent)
    chunk = pngs.chunk(b"iCCP", b"name\0\0" + zlib.compress(P3))
    values = pngs.values(kind)
    found = pixels(pngs.png(kind, values, chunk))
    table, alpha = pngs.palette(kind)
    share = alpha[values[..., 0]] / 255 if transparent else 1
    expected = profiles.to_srgb(table[values[..., 0]], profiles.DISPLAY_P3, 2.2) * share + 255 * (1 - share)
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [pngs.GREY, pngs.GREY_ALPHA, pngs.RGB])
def test_samples_of_16_bits_are_converted_like_those_of_8(bits: int, colour: int) -> None:
    profile = P3 if colour == pngs.RGB else GREY_18
    kind = pngs.Kind(bits, colour)
    values = pngs.values(kind)
    if colour == pngs.GREY_ALPHA:
        values[..., 1] = kind.largest
    found = pixels(pngs.png(kind, values, pngs.chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))))
    upper = values >> 8 if bits == 16 and colour != pngs.GREY else np.rint(values / kind.largest * 255)
    if colour == pngs.RGB:
        expected = profiles.to_srgb(upper, profiles.DISPLAY_P3, 2.2)
    else:
        expected = profiles.encoded((upper[..., :1] / 255) ** 1.8)
    assert np.abs(found - expected).max() <= 2


def test_a_grey_profile_is_applied_to_a_grey_jpeg_and_tiff(colours: Image.Image) -> None:
    grey = ImageOps.grayscale(colours)
    for data in (encoded(grey, "JPEG", icc_profile=GREY_18, quality=100), encoded(grey, "TIFF", icc_profile=GREY_18)):
        plain = pixels(data, "original")
        assert np.abs(pixels(data) - profiles.encoded((plain / 255) ** 1.8)).max() <= 1


def test_a_grey_profile_is_applied_to_grey_that_a_decoder_gives_as_rgb(colours: Image.Image) -> None:
    for image in (ImageOps.grayscale(colours).convert("RGB"), ImageOps.grayscale(colours).convert("RGBA")):
        data = encoded(image, "WEBP", lossless=True, icc_profile=GREY_18)
        assert np.abs(pixels(data) - profiles.encoded((pixels(data, "original") / 255) ** 1.8)).max() <= 1


def test_a_cmyk_profile_says_what_inks_look_like() -> None:
    """The profile's inks are all neutral, which Pillow's own conversion does not know."""
    inks = np.zeros((16, 64, 4), np.uint8)
    for place, ink in enumerate([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255)]):
        inks[:, 16 * place : 16 * place + 16] = ink
    image = Image.fromarray(inks, "CMYK")
    for data in (encoded(image, "TIFF", icc_profile=INKS), encoded(image, "JPEG", icc_profile=INKS, quality=100)):
        found = pixels(data)
        for place, ink in enumerate([(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)]):
            middle = (100 * lightness(*ink) + 16) / 116
            linear = np.array(middle**3 if middle > 6 / 29 else 0.0)
            assert np.abs(found[8, 16 * place + 8] - profiles.encoded(linear)).max() <= 3
        assert pixels(data, "original")[8, 24].tolist()[0] < 10  # Pillow's own conversion: pure cyan has no red


def test_a_reduced_scale_and_a_profile_go_together(phone_picture: bytes) -> None:
    with Image.open(io.BytesIO(phone_picture)) as photo:
        data = encoded(photo, "JPEG", icc_profile=P3, quality=90, exif=photo.getexif())
    small, plain = (
        pixels(data, colour, minimum=lambda size: (size[0] // 8, size[1] // 8)) for colour in ("srgb", "original")
    )
    assert small.shape == plain.shape == (504, 378, 3)
    assert np.abs(small - profiles.to_srgb(plain, profiles.DISPLAY_P3, 2.2)).max() <= 2


LINK = profiles.profile(b"link", b"RGB ", {}, b"RGB ")
UNUSABLE = {
    "no profile": None,
    "garbage": b"garbage" * 100,
    "half of one": P3[:300],
    "a header alone": P3[:128],
    "of another colour space": GREY_18,
    "of inks": INKS,
    "a link between devices": LINK,
    "without curves": profiles.profile(b"mntr", b"RGB ", {}),
    "too large": P3 + b"\0" * MAX_PROFILE_BYTES,
}


@pytest.mark.parametrize("profile", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_profile_that_cannot_be_used_is_passed_over(
    colours: Image.Image, image_format: str, profile: bytes | None
) -> None:
    data = encoded(colours, image_format, **({} if profile is None else {"icc_profile": profile}))
    assert np.array_equal(pixels(data), pixels(data, "original"))


def test_an_rgb_profile_of_a_grey_image_is_passed_over(colours: Image.Image) -> None:
    data = encoded(ImageOps.grayscale(colours), "PNG", icc_profile=P3)
    assert np.array_equal(pixels(data), pixels(data, "original"))


BOMB = b"name\0\0" + zlib.compress(b"\0" * 50_000_000, 9)


@pytest.mark.parametrize(
    "content", [BOMB, b"name\0\0damaged", b"name\0\1" + zlib.compress(P3), b"name", b"", BOMB[:1000]]
)
def test_a_damaged_chunk_of_a_png_is_passed_over(content: bytes) -> None:
    kind = pngs.Kind(8, pngs.RGB)
    data = pngs.png(kind, pngs.values(kind), pngs.chunk(b"iCCP", content))
    assert np.array_equal(pixels(data), pixels(data, "original"))


def test_colours_that_a_png_describes_otherwise_are_left_as_they_are() -> None:
    """As the documentation says: only ICC profiles count."""
    kind = pngs.Kind(8, pngs.RGB)
    values = pngs.values(kind)
    chunks = (
        pngs.chunk(b"cICP", bytes((9, 16, 0, 1))),
        pngs.chunk(b"cHRM", b"\0\0\x7a\x26" * 8),
        pngs.chunk(b"gAMA", (100_000).to_bytes(4, "big")),
    )
    assert np.array_equal(pixels(pngs.png(kind, values, *chunks)), values)


def test_a_tiff_of_16_bits_has_its_profile_applied() -> None:
    values = np.arange(96).reshape(6, 16, 1) * 680
    kind = Kind("II", GREY, bits=(16,), compression=DEFLATE, tags={})
    data = tiff(kind, values, {34675: GREY_18})
    assert np.abs(pixels(data) - profiles.encoded((values / 65535) ** 1.8)).max() <= 2


def test_the_fingerprint_says_what_was_done_with_colours(checkpoint: Checkpoint) -> None:
    plain, original = Engine(checkpoint, "cpu", "float32"), Engine(checkpoint, "cpu", "float32", colour="original")
    assert plain.fingerprint == original.fingerprint
    assert Engine(checkpoint, "cpu", "float32", colour="srgb").fingerprint != plain.fingerprint


def test_a_build_of_pillow_without_littlecms_is_reported_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "is_available", lambda: False)
    with pytest.raises(BadSettings, match="VITRINE_COLOUR='srgb': this build of Pillow"):
        Decoder(Settings.model_validate({"colour": "srgb"}), lambda _: None)


@pytest.fixture(scope="module")
def converting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("colour") / "log", colour="srgb", decode="exact") as running:
        yield running


def test_a_server_converts_colours_if_it_is_set_to(
    converting: Server, client: httpx.Client, colours: Image.Image
) -> None:
    """/preprocess shows the pixels; the vector differs from that of the default, and so does the fingerprint."""
    data = encoded(colours.resize((224, 224), Image.Resampling.NEAREST), "PNG", icc_profile=P3)
    model, plain = httpx.get(f"{converting.url}/model").json(), client.get("/model").json()
    assert (model["colour"], plain["colour"]) == ("srgb", "original")
    assert model["fingerprint"] != plain["fingerprint"]
    shown = httpx.post(f"{converting.url}/preprocess?size=224&resize=squash", content=data)
    with Image.open(io.BytesIO(shown.content)) as image:
        assert np.array_equal(np.asarray(image), pixels(data))
    one, other = (
        httpx.post(f"{url}/embed", content=data, headers={"Accept": "application/x-npy"})
        for url in (converting.url, str(client.base_url))
    )
    assert one.content != other.content
    assert one.headers["vitrine-fingerprint"] != other.headers["vitrine-fingerprint"]
