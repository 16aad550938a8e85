"""Blocks as CUDA graphs: record them, try them, and keep those that answer right in no more time.

In: a network on a device. Out: its blocks as graphs, or None with a line in the log that says why.

The launches of a forward pass are some 300 operations, and each waits for Python's lock while other threads decode. A
replay is one call. Only attention that reads the bounds of the images from the GPU's memory can be recorded.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from models.network.kernels.graph_trial import WrongGraph, try_all
from models.network.kernels.graphs import Capture, Graphs, Step
from models.network.vit import VisionTransformer, graphs_of

logger = logging.getLogger("vitrine.device")

BEFORE = 2
"""Runs before the recording: libraries set themselves up in the first ones, which cannot be recorded."""


def capture_on(device: torch.device) -> Capture:
    """Return how a step is recorded on a CUDA device. All graphs share one pool of memory: they never run together."""
    pools: list[Any] = []  # made when the first step is recorded; torch's own type for its handle is private

    def capture(step: Step) -> Step:
        with torch.cuda.device(device):
            pools[:] = pools or [torch.cuda.graph_pool_handle()]
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(BEFORE):
                    step()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use CUDA meanwhile.
            with torch.cuda.graph(graph, pool=pools[0], capture_error_mode="thread_local"):
                step()
            return graph.replay

    return capture


@torch.inference_mode()
def try_graphs(network: VisionTransformer, image: Tensor, most: int, capture: Capture) -> Graphs | None:
    """Return graphs for up to so many tokens, or None where they cannot be recorded, answer otherwise, or are slower.

    Args:
        network: on its device, in its dtype, with its attention.
        image: a typical one, normalised.
        most: tokens of the largest batch.
        capture: how a step is recorded.
    """
    if not network.config.blocks_share_places:
        logger.info("CUDA graphs: not used; the blocks of this network differ in more than their weights")
        return None
    reason = ""
    try:
        graphs = graphs_of(network, image, most, capture)
        tried = len(graphs.budgets)
        try_all(graphs, network.config.num_prefix_tokens + 1)
    except WrongGraph as error:
        reason = str(error)
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:  # this torch, driver, card, or its memory
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if not reason and graphs.budgets:
        largest = graphs.budgets[-1].tokens
        logger.info("CUDA graphs: %d of %d, for up to %d tokens", len(graphs.budgets), tried, largest)
        return graphs
    logger.info("CUDA graphs: not used; %s", reason or "they are slower")
    # The pool of what was recorded goes with the last reference to it.
    graphs = None  # type: ignore[assignment]
    if image.device.type == "cuda":
        torch.cuda.empty_cache()
    return None
