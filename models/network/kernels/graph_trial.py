"""Try graphs before they are used: against the same operations without a graph, for their answers and for their time.

In: graphs. Out: the same, without those that are slower; or WrongGraph.

A replay that reads stale memory, or lets an image see its padding, answers wrongly only for some inputs. So each graph
is replayed with several packings, one after the other: few long images, typical ones, many short ones, with much
padding and with none.
Shapes: T tokens of all images together, D embedding dimension.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.network.kernels.graphs import Budget, Graphs
from models.network.kernels.selection import is_faster
from models.network.packing import Packing
from models.network.positions.places import NOWHERE, Places

DRIFT = 5e-2
"""Largest relative difference of the tokens of an image. Products of other sizes add up in another order, and in half
precision each block rounds again; bfloat16 itself differs from float32 by up to 2e-2. On an NVIDIA H200 the graphs of
ViT-L differed by 1.4e-2, and those of ViT-S not at all."""

Input = tuple[Tensor, Packing, Places]


class WrongGraph(Exception):
    """A graph does not answer as the operations that were recorded."""


def try_all(graphs: Graphs, least: int) -> None:
    """Drop the graphs that are slower than their operations without a graph, for the fewest tokens that they take.

    Args:
        graphs: to try.
        least: tokens of the smallest image.

    Raises WrongGraph if one answers otherwise, or does not take what fits into its budget.
    """
    for budget in graphs.budgets:
        inputs = [example(graphs, lengths, seed) for seed, lengths in enumerate(packings(budget, graphs, least))]
        # All replays first: what a replay leaves behind must not reach the next one, nor change an earlier answer.
        found = [graphs(*each) for each in (*inputs, inputs[0])]
        for answer, each in zip(found, (*inputs, inputs[0]), strict=True):
            if answer is None or drift(answer, graphs.run(*each), each[1]) > DRIFT:
                raise WrongGraph(f"the graph for {budget.tokens} tokens answers otherwise than without a graph")
        # With the most padding: on an H200 12,608 tokens of ViT-L took 22 ms in a graph for 14,848, and 17 without.
        fewest = example(graphs, _lengths(len(graphs.like), _fewest(budget, least), least), 0)
        if not keeps_pace(lambda: graphs(*fewest), lambda: graphs.run(*fewest), graphs.like.device):  # noqa: B023
            graphs.drop(budget)


def packings(budget: Budget, graphs: Graphs, least: int) -> list[list[int]]:
    """Return the tokens of the images of three batches for this budget: without padding, with the most, and between."""
    typical, fewest = len(graphs.like), _fewest(budget, least)
    sizes = (typical, budget.tokens), (2 * typical, fewest), (2 * typical // 3, (fewest + budget.tokens) // 2)
    return [_lengths(max(size, least), tokens, least) for size, tokens in sizes]


def _fewest(budget: Budget, least: int) -> int:
    """Return the fewest tokens of a batch that this budget's graph takes."""
    return max(budget.above + 1, least)


def _lengths(size: int, tokens: int, least: int) -> list[int]:
    """Return images of this size, and one of what is left, or with it, of so many tokens in all."""
    full = [size] * (tokens // size)
    left = tokens % size
    if not full or left >= least:
        return [*full, left] if left else full
    return [*full[:-1], full[-1] + left]


def example(graphs: Graphs, lengths: list[int], seed: int) -> Input:
    """Return images of these lengths, of tokens that are drawn from those of a real image with their places."""
    chance = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(graphs.like), (sum(lengths),), generator=chance).to(graphs.like.device)
    places = NOWHERE
    if graphs.places.rotation:
        cosines, sines = graphs.places.rotation
        places = Places((cosines[drawn], sines[drawn]))
    return graphs.like[drawn], Packing.from_lengths(lengths), places


def drift(found: Tensor, expected: Tensor, packing: Packing) -> float:
    """Return the largest relative difference of an image's tokens: (T, D) x 2; infinite where one is not a number."""
    lengths = torch.tensor(packing.offsets).diff().to(found.device)
    images = torch.arange(len(lengths), device=found.device).repeat_interleave(lengths)

    def of_images(x: Tensor) -> Tensor:
        squares = x.square().sum(1)  # (T,)
        return squares.new_zeros(len(lengths)).index_add_(0, images, squares).sqrt()

    relative = of_images(found.float() - expected.float()) / of_images(expected.float())
    return float(relative.nan_to_num(nan=torch.inf).max())


def keeps_pace(graph: Callable[[], object], plain: Callable[[], object], device: torch.device) -> bool:
    """Return whether a graph takes no more time than the plain way, all that they start included; they take turns.

    Nothing else runs meanwhile. Beside other threads the plain way also waits for Python's lock, at each operation.
    """
    return not is_faster(plain, graph, lambda: _wait(device), enough_s=float("inf"))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
