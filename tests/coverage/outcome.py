"""What became of one network: its answers are right, it is refused, or it is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.errors import CheckpointUnsupported
from tests.checkpoints.comparison import BAR

Verdict = Literal["right", "refused", "wrong"]
VERDICTS: tuple[Verdict, ...] = ("right", "refused", "wrong")


@dataclass(frozen=True)
class Outcome:
    """One network, or the published weights of one architecture that share their sizes.

    Args:
        family: the row of the page.
        name: of the network.
        weights: how many published weights it stands for.
        verdict: a network that fails in another way than being refused is wrong.
        why: the sentence of a refusal, or what is wrong.
        differences: the largest difference of each readout at each size.
    """

    family: str
    name: str
    weights: int
    verdict: Verdict
    why: str = ""
    differences: tuple[tuple[str, float], ...] = ()

    @property
    def worst(self) -> float:
        return max((value for _, value in self.differences), default=0.0)

    def __str__(self) -> str:
        found = " ".join(f"{what} {value:.0e}" for what, value in self.differences)
        return f"{self.verdict:<8} {self.family:<13} {self.weights:>2} {self.name}  {found or self.why}".rstrip()


def judge(family: str, name: str, weights: int, measure: Callable[[], dict[str, float]]) -> Outcome:
    """Return what became of a network; `measure` loads it and returns the differences by readout and size."""
    try:
        found = measure()
    except CheckpointUnsupported as error:
        return Outcome(family, name, weights, "refused", _sentence(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer and no refusal
        return Outcome(family, name, weights, "wrong", f"{type(error).__name__}: {_sentence(error)}")
    right = bool(found) and all(value <= BAR for value in found.values())
    return Outcome(
        family, name, weights, "right" if right else "wrong", "" if right else "differs", tuple(found.items())
    )


def _sentence(error: Exception) -> str:
    """The message without the path of the file, which is a temporary one."""
    return " ".join(str(error).rpartition("model.safetensors: ")[2].split())
