"""The table of container formats that the service recognises.

To add a format: write a module beside this one, add a row here, add its name to `ImageFormat` in `app/settings.py`, and
import Pillow's plugin for it in `app/pictures/decode.py`.
"""

import re
from collections.abc import Mapping

from app.pictures.formats import bmp, gif, iso_media, jpeg, jpeg_scan, png, webp
from app.pictures.formats.container import ContainerFormat
from app.settings import ImageFormat

TIFF_SIGNATURE = re.compile(rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+")

FORMATS: Mapping[ImageFormat, ContainerFormat] = {
    "JPEG": ContainerFormat(
        jpeg.SIGNATURE.match,
        jpeg.read,
        bytes_per_pixel=9,
        # MPO, which phones write, is a JPEG with several images. The first one counts.
        opened_as=("JPEG", "MPO"),
        # Every other decoder needs several times as much memory per pixel.
        pixel_divisor=1,
        source=jpeg_scan.open_jpeg,
        scales_down=True,
    ),
    "PNG": ContainerFormat(png.SIGNATURE.match, png.read, 16, ("PNG",), source=png.open_png, profile=png.profile),
    "WEBP": ContainerFormat(webp.SIGNATURE.match, webp.read, 25, ("WEBP",)),
    "GIF": ContainerFormat(gif.SIGNATURE.match, gif.read, 16, ("GIF",)),
    "BMP": ContainerFormat(bmp.SIGNATURE.match, bmp.read, 16, ("BMP",)),
    # The directory of a TIFF may be anywhere in the file. Pillow finds it without reading pixels.
    "TIFF": ContainerFormat(TIFF_SIGNATURE.match, None, 24, ("TIFF",)),
    # A file can carry the brands of both. AVIF comes first.
    "AVIF": ContainerFormat(iso_media.is_avif, iso_media.read, 20, ("AVIF",)),
    "HEIC": ContainerFormat(iso_media.is_heic, iso_media.read, 20, ("HEIF",)),
}
"""The rows, in the order in which signatures are tried."""
