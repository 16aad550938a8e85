"""Convert colours to sRGB by the ICC profile that an image file embeds (ICC.1:2022), with Pillow's ImageCms."""

import io

from PIL import Image, ImageCms, features

from app.pictures.formats.container import MAX_PROFILE_BYTES

SPACES = {"L": "GRAY", "LA": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
"""The colour space that a profile must have to describe an image of a mode."""

DEVICE_CLASSES = {"scnr", "mntr", "prtr", "spac"}
"""Classes of profiles that say which colours numbers stand for: of scanners and cameras, displays, printers, spaces."""


def is_available() -> bool:
    """Tell whether this build of Pillow can convert colours."""
    return bool(features.check("littlecms2"))


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image of mode L, LA, RGB, RGBA or CMYK to sRGB, with the perceptual intent; RGB and RGBA in place.

    Returns the image as it is if the profile cannot be used: if it is damaged or larger than MAX_PROFILE_BYTES, for
    another colour space than the image's, such as an RGB profile in a grey image, or for no device's colours.
    """
    if image.mode not in SPACES or len(profile) > MAX_PROFILE_BYTES:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        facts = source.profile
        if facts.xcolor_space == "GRAY":
            image = _as_grey(image)
        if facts.xcolor_space != SPACES[image.mode] or facts.device_class not in DEVICE_CLASSES:
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        source_mode = "L" if image.mode == "LA" else image.mode
        # A new one for each image, so that no two threads share it.
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, srgb, source_mode, mode)
    except (OSError, ValueError):  # what LittleCMS reports of a damaged profile
        return image
    if image.mode == mode:
        return transform.apply_in_place(image)
    if image.mode == "LA":
        grey, alpha = image.split()
        converted = transform.apply(grey)
        converted.putalpha(alpha)
        return converted
    return transform.apply(image)


def _as_grey(image: Image.Image) -> Image.Image:
    """Return an RGB image of nothing but grey in one band: several decoders give grey files as RGB."""
    if image.mode not in ("RGB", "RGBA"):
        return image
    red, green, blue = (image.getchannel(name).tobytes() for name in "RGB")
    return image.convert("LA" if image.mode == "RGBA" else "L") if red == green == blue else image
