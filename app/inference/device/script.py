"""Blocks as one call of TorchScript on a processor: record them, try them, and keep them if they answer the same.

In: a network on a processor. Out: its blocks as one call, or None with a line in the log (debug) that says why.
"""

import logging

import torch
from torch import Tensor

from models.network.kernels.script import Script
from models.network.vit import Readout, VisionTransformer, script_of

logger = logging.getLogger("vitrine.device")


@torch.inference_mode()
def try_script(network: VisionTransformer, image: Tensor) -> Script | None:
    """Return all blocks but the last as one call, or None where they cannot be recorded or answer otherwise.

    They are the same operations in the same order, so that each number has to be the same, for images of other sizes
    than that of the recording, too. Their time is not measured: it is that of the operations, without Python's.

    Args:
        network: on its device, in its dtype, with its attention and its linear layers.
        image: a typical one, (3, height, width), normalised.
    """
    if not network.config.blocks_share_places:
        logger.debug("blocks: one operation after the other; they differ in more than their weights")
        return None
    height, width = network.config.patch_size
    small = image[:, : 2 * height, :width]
    images = [small, image, small]
    reason = ""
    try:
        expected = network(images, Readout.MEAN).mean
        network.recorded = script = script_of(network, small)
        found = network(images, Readout.MEAN).mean
        if not (expected is not None and found is not None and torch.equal(found, expected)):
            reason = "TorchScript answers otherwise"
    except Exception as error:  # noqa: BLE001 - this torch or this Python; the service runs without
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    finally:
        network.recorded = None
    if reason:
        logger.debug("blocks: one operation after the other; %s", reason)
        return None
    logger.debug("blocks: one call of TorchScript")
    return script
