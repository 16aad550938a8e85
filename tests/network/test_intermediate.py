"""The tokens after chosen blocks, compared with timm and with the final tokens."""

from typing import Any

import pytest
import torch

from models.network.intermediate import TokenSpec
from models.network.vit import Readout, VisionTransformer
from tests.bounds import assert_equal_in_float32
from tests.network.test_network import images, tiny


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("size", [(112, 112), (98, 140)], ids=str)
def test_the_tokens_of_chosen_blocks_are_those_of_timm(
    network: VisionTransformer, original: Any, size: tuple[int, int], norm: bool
) -> None:
    layers = (3, 7, 11)
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = original.get_intermediate_layers(
            image[None], n=list(layers), reshape=True, return_prefix_tokens=True, norm=norm
        )
        grids = network([image], Readout(0), tokens={0: TokenSpec(layers, norm)}).tokens[0]
        rows = network([image], Readout(0), tokens={0: TokenSpec(layers, norm, prefix=True)}).tokens[0]
    for place, (patches, prefix) in enumerate(expected):
        assert_equal_in_float32(grids[place].permute(2, 0, 1), patches[0])
        assert_equal_in_float32(rows[place, :1], prefix[0])
        assert_equal_in_float32(rows[place, 1:], patches[0].flatten(1).T)


def test_images_of_a_batch_get_the_layers_that_they_ask_for() -> None:
    network = tiny()
    batch = images((32, 40), (24, 24), (32, 40))
    specs = {0: TokenSpec((2, 0)), 2: TokenSpec((1,), norm=False, prefix=True)}
    with torch.inference_mode():
        found = network(batch, Readout.CLS, tokens=specs)
        alone = [network([batch[image]], Readout.CLS, tokens={0: spec}).tokens[0] for image, spec in specs.items()]
        final = network([batch[0]], Readout.PATCHES).patches
    assert set(found.tokens) == {0, 2}
    assert found.tokens[0].shape == (2, 4, 5, 48)
    assert found.tokens[2].shape == (1, 3 + 20, 48)
    for image, expected in zip((0, 2), alone, strict=True):
        assert_equal_in_float32(found.tokens[image], expected)
    assert final is not None
    assert_equal_in_float32(found.tokens[0][0], final[0])
