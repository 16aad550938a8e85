"""How large a batch fits into the memory of a CUDA device, by what a small one is seen to take."""

from collections.abc import Callable

import torch

SHARE = 0.8
"""Of the free memory; the rest is for what a small batch does not show: rounding, fragments, other processes."""


def largest_batch(device: torch.device, run: Callable[[], object], cost: int) -> int:
    """The cost of the largest batch that fits, where `run` runs one of this cost."""
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    run()
    taken = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()  # what the run has left with the allocator is free too
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(SHARE * free * cost / taken))
