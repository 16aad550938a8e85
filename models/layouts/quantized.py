"""What is known of a checkpoint of 8 bits: its layers, how it was made, and what it costs in accuracy."""

from dataclasses import dataclass

from models.preprocess import Size


@dataclass(frozen=True)
class Cost:
    """How near the answers of 8 bits are to those of float32, on pictures that no scale was found with.

    Args:
        size: the network size (height, width); that of the first picture if they differ.
        pictures: how many were compared.
        cosine_least, cosine_p1, cosine_median: of the default vector: the least, the 1st percentile, the median.
        same_class: the share of pictures with the same best class; None without a classifier.
    """

    size: Size
    pictures: int
    cosine_least: float
    cosine_p1: float
    cosine_median: float
    same_class: float | None


@dataclass(frozen=True)
class Calibration:
    """The pictures that scales were found with.

    Args:
        pictures: how many.
        digest: of their files, in order.
        sizes: the network sizes (height, width).
    """

    pictures: int
    digest: str
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Quantization:
    """How a network became one of 8 bits.

    Args:
        layers: the names of the linear layers that are of 8 bits.
        left_out: the names of those that are not, because their rounding does the most harm.
        original: the digest of the weights that it was made from.
        calibration: the pictures that the scales were found with.
        costs: what it costs at each size that was measured, the checkpoint's own first.
    """

    layers: tuple[str, ...]
    left_out: tuple[str, ...]
    original: str
    calibration: Calibration
    costs: tuple[Cost, ...] = ()
