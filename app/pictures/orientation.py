"""Turn images upright, as their EXIF orientation says."""

from PIL import Image
from PIL.Image import Transpose

from models.preprocess import Size

ORIENTATION = 0x0112
"""The EXIF tag that records how the camera was held (CIPA DC-008, 4.6.4)."""

TRANSPOSE = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""The operation that turns an image of each orientation upright; 1 is upright already."""

SWAPS_SIDES = {Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90}


def turn_of(image: Image.Image) -> Transpose | None:
    """Return the operation that turns an image upright; None if it is upright or its EXIF block cannot be read.

    Load a PNG before: reading its EXIF block would load it as well, and would hide an error of the load.
    """
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 - a broken EXIF block raises anything, and the pixels can still be good
        return None
    return TRANSPOSE.get(orientation) if isinstance(orientation, int) else None


def turned(size: Size, turn: Transpose | None) -> Size:
    """Return a size (height, width) with its sides swapped if the operation swaps them."""
    return size[::-1] if turn in SWAPS_SIDES else size
