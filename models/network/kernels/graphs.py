"""Blocks as graphs: the launches of all operations are recorded once and replayed in one call, for fixed shapes.

In: packed tokens of any number. Out: what the blocks make of them, from the graph of the next larger number of tokens.
Knows nothing of blocks or of CUDA: what runs and how it is recorded are arguments.

A graph reads and writes the same memory each time. So the tokens are copied in, and zeros after them; the bounds of the
images are copied in, and the zeros are further sequences, so that every row has an owner and all numbers are finite.
What is recorded with a graph and cannot change: its number of tokens, the number of sequences (those that are left over
have no tokens), and the length of the longest one. An input that does not fit is computed without a graph.

Source: CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
Shapes: T tokens of all images together, M of the largest budget, S sequences, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from models.network.packing import Packing, on_device
from models.network.positions.places import NOWHERE, Places

Run = Callable[[Tensor, Packing, Places], Tensor]
"""Packed tokens (T, D), their packing and their places -> (T, D), with attention that reads bounds from memory."""

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""A step that reads and writes fixed memory -> a step that does the same again."""

STEP = 1.25
"""Each budget is so many times the one before; the padding is a tenth of a batch on average."""

ROUND = 64
"""Budgets are multiples of this: rows of a tile of a matrix product."""

LONGEST = 4
"""The longest image that a graph takes, as a multiple of the typical one. The kernel starts work for the longest."""

SEQUENCES = 2
"""The number of sequences, as a multiple of the typical images that fill the budget; two more are for the padding."""


@dataclass(frozen=True)
class Budget:
    """The fixed sizes of a graph.

    Args:
        above: the graph is for more tokens than this.
        tokens: and for up to so many.
        sequences: images, and pieces of padding.
        longest: the most tokens of a sequence.
    """

    above: int
    tokens: int
    sequences: int
    longest: int

    def bounds(self, packing: Packing) -> list[int] | None:
        """Return the bounds of all sequences, `sequences` + 1 numbers; None for images that do not fit."""
        end = packing.total
        if not self.above < end <= self.tokens or packing.longest > self.longest:
            return None
        offsets = packing.offsets
        padding = [*range(end + self.longest, self.tokens, self.longest), self.tokens] if end < self.tokens else []
        left = self.sequences + 1 - len(offsets) - len(padding)
        return offsets + padding + [self.tokens] * left if left >= 0 else None


def ladder(typical: int, most: int) -> list[Budget]:
    """Return budgets from one image of so many tokens up to `most` tokens, the smallest first."""
    budgets: list[Budget] = []
    above, tokens = 0, _rounded(typical)
    while above < most:
        sequences = SEQUENCES * -(-tokens // typical) + 2
        budgets.append(Budget(above, tokens, sequences, LONGEST * typical))
        above, tokens = tokens, _rounded(max(tokens + 1, STEP * tokens))
    return budgets


def _rounded(tokens: float) -> int:
    return -int(-tokens // ROUND) * ROUND


class Graphs:
    """A graph for each of a few budgets of tokens. All share their memory, so a lock lets one thread in at a time.

    The threads must use one and the same stream of the device, which orders what they start.

    Args:
        run: what is recorded.
        budgets: the smallest first, at least one.
        capture: records.
        like: tokens (T, D) of a typical image, whose width, dtype and device are those of all inputs.
        places: the places of those tokens; without a bias.
    """

    def __init__(self, run: Run, budgets: Sequence[Budget], capture: Capture, like: Tensor, places: Places) -> None:
        most = budgets[-1].tokens
        self.run, self.like, self.places = run, like, places
        self._lock = Lock()
        # Not tensors of the inference mode: those cannot be changed outside of it.
        with torch.inference_mode(False):
            self._tokens = torch.zeros(most, like.shape[1], dtype=like.dtype, device=like.device)
            self._bounds = torch.zeros(budgets[-1].sequences + 1, dtype=torch.int32, device=like.device)
            self._rotation = places.rotation and tuple(
                each.new_zeros(most, *each.shape[1:]) for each in places.rotation
            )
        # The largest first: the others find room in the memory that it has taken.
        self._replays = {budget: capture(self._step(run, budget)) for budget in reversed(budgets)}

    @property
    def budgets(self) -> list[Budget]:
        """The budgets that have a graph, the smallest first."""
        return sorted(self._replays, key=lambda budget: budget.tokens)

    def drop(self, budget: Budget) -> None:
        """Compute what this budget's graph would take without it."""
        del self._replays[budget]

    def __call__(self, x: Tensor, packing: Packing, places: Places) -> Tensor | None:
        """Return the output for packed tokens, (T, D) -> (T, D); None where no graph takes them."""
        found = self._find(packing) if not torch.is_grad_enabled() else None
        if found is None:
            return None
        budget, bounds = found
        count, moved = len(x), on_device(bounds, torch.int32, x.device)
        with self._lock:
            self._bounds[: len(bounds)].copy_(moved)
            self._tokens[:count].copy_(x)
            self._tokens[count : budget.tokens].zero_()  # not those of an earlier batch, which may be infinite
            for own, given in zip(self._rotation or (), places.rotation or (), strict=True):
                own[:count].copy_(given)
            self._replays[budget]()
            return self._tokens[:count].clone()  # the next batch overwrites them

    def _find(self, packing: Packing) -> tuple[Budget, list[int]] | None:
        for budget in self._replays:
            if (bounds := budget.bounds(packing)) is not None:
                return budget, bounds
        return None

    def _step(self, run: Run, budget: Budget) -> Step:
        tokens = self._tokens[: budget.tokens]
        packing = Packing.of_bounds(self._bounds[: budget.sequences + 1], budget.longest)
        places = NOWHERE
        if self._rotation:
            cosines, sines = (each[: budget.tokens] for each in self._rotation)
            places = Places((cosines, sines))

        def step() -> None:
            tokens.copy_(run(tokens, packing, places))

        return step
