"""What attention needs to know of where tokens lie: the rotation of queries and keys, and the bias of its logits.

In: the grids of the images of a pack. Out: `Places` for each block.
Knows nothing of how a block uses them.

Shapes: N tokens of one image, T tokens of all images together, H heads, d dimension of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.network.packing import Packing
from models.network.positions.learned import Grid
from models.network.positions.relative import Bias, RelativeBias
from models.network.positions.rotary import RotaryEmbedding, Rotation, pack


@dataclass(frozen=True)
class Places:
    """The places of packed tokens, for the attention of one block.

    Args:
        rotation: of queries and keys; None: they are not rotated.
        bias: added to the attention logits, for each run of the packing; None: nothing is added.
    """

    rotation: Rotation | None = None
    bias: tuple[Bias, ...] | None = None

    def of_image(self, rows: slice, run: int) -> "Places":
        """Return the places of one image.

        Args:
            rows: of the image in the packed sequence.
            run: the index of the run that contains it.
        """
        rotation = self.rotation and (self.rotation[0][rows], self.rotation[1][rows])
        return Places(rotation, self.bias and (self.bias[run],))


NOWHERE = Places()
"""For networks whose attention does not depend on places."""


class PackedPlaces:
    """The places of the tokens of a pack, for every block.

    Rotations that differ between blocks are put together when a block asks for them, and the matrices of a bias are
    made when attention reads them: all of them together would be larger than the activations.

    Args:
        packing: of the images.
        grids: of the images, by index.
        rotary, relative: of the network; None for what it does not have.
        like: a tensor with the device and dtype of the tokens.
    """

    def __init__(
        self,
        packing: Packing,
        grids: Sequence[Grid],
        rotary: RotaryEmbedding | None,
        relative: RelativeBias | None,
        like: Tensor,
    ) -> None:
        self._relative = relative
        self._target = (like.device, like.dtype)
        self._run_grids = [grids[image] for image in packing.first_images()]
        self._rotations = [rotary(grids[image], *self._target) for image in packing.order] if rotary else []
        shared = rotary is not None and not rotary.rule.learned
        self._shared = self._rotation(0) if shared else None  # the rotation of every block

    def of_block(self, index: int) -> Places:
        """Return the places for the attention of a block."""
        rotation, bias = self._shared, None
        if rotation is None and self._rotations:
            rotation = self._rotation(index)
        if self._relative is not None:
            bias = tuple(self._relative(index, grid, *self._target) for grid in self._run_grids)
        return Places(rotation, bias) if rotation or bias else NOWHERE

    def _rotation(self, layer: int) -> Rotation:
        return pack([(cosines[layer], sines[layer]) for cosines, sines in self._rotations])
