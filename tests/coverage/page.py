"""The page docs/coverage.md: `make coverage` measures and writes it."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from models.layouts.unsupported import UNNAMED, UNSUPPORTED
from tests.checkpoints import bare_family
from tests.checkpoints.comparison import differences, open_network
from tests.checkpoints.original import Family
from tests.coverage import timm_weights, transformers_classes
from tests.coverage.outcome import VERDICTS, Outcome, Verdict, judge
from tests.originals import timm

HEADING = """# Coverage

Which published networks are served, and whether they answer like their originals. `make coverage` measures and writes
this page (torch {torch}, timm {timm}, transformers {transformers}).

Right: the answers are within 1e-5 of the original's, as [parity.md](parity.md) measures. Refused: an error names the
network when it is loaded. Wrong: anything else.

A name that no table of the code has is refused, however well its tensors fit: parts without weights, such as rotary
positions, leave no trace in a file."""

TIMM = """
## timm

Every architecture with published weights in the modules of timm that are plain Vision Transformers or close to them:
{modules}. Each is built by timm with two narrow blocks and random weights, saved by timm and loaded from there; the
pooled vector, the logits, [CLS] and the patches are compared at the native size and on a grid of fewer rows and more
columns. The number of heads, the activation and all else that only the name shows are those of the name. The published
size is read as well, without weights.

The numbers count published weights.

| family | published | right | refused | wrong | why refused |
|---|---|---|---|---|---|"""

TRANSFORMERS = """
## transformers

The model classes of each `model_type` that is served, small and with random weights, at five sizes. The release knows
{all} model types; {vision} of them have an image size, patches or a vision config. Every type that is not in the table
is refused by name.

| model_type | right | refused by name |
|---|---|---|"""

LAYOUTS = """
## Original layouts

Files of original repositories, which have no config that names the network: saved under the original's names from its
formulas, or by its own library.

| layout | against | |
|---|---|---|"""

TENSORS = """
A file without a config is refused if one of its tensors shows another network: {features}."""


def page() -> Iterator[str]:
    """Measure everything and yield the lines of the page."""
    versions = {"torch": torch.__version__.partition("+")[0], "timm": timm.__version__}
    yield HEADING.format(**versions, transformers=transformers.__version__)
    yield TIMM.format(modules=", ".join(f"`{module}`" for module in timm_weights.MODULES))
    yield from timm_rows(list(timm_weights.measure_all(timm_weights.published())))
    types = transformers_classes.MODEL_TYPES
    vision = sum(transformers_classes.is_vision(model_type) for model_type in types)
    yield TRANSFORMERS.format(all=len(types), vision=vision)
    yield from transformers_rows(list(transformers_classes.measure_all()))
    yield LAYOUTS
    for family in bare_family.FAMILIES:
        yield f"| {family.name} | {family.against} | {judge_family(family).verdict} |"
    yield TENSORS.format(features="; ".join(sorted({*UNSUPPORTED.values(), *UNNAMED.values()})))


def timm_rows(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a row for each family, those with the most published weights first, and the sum."""
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.family, []).append(outcome)
    for name, members in sorted(families.items(), key=lambda item: (-_weights(item[1]), item[0])):
        why = sorted({_feature(outcome.why) for outcome in members if outcome.verdict == "refused"})
        yield f"| {name} | {_counts(members)} | {'; '.join(why)} |"
    yield f"| **all** | {_counts(outcomes)} | |"


def transformers_rows(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a row for each model_type that is served, with its classes."""
    for model_type in dict.fromkeys(outcome.family for outcome in outcomes):
        cells = [
            ", ".join(
                f"`{outcome.name}`"
                for outcome in outcomes
                if (outcome.family, outcome.verdict) == (model_type, verdict)
            )
            for verdict in ("right", "refused")
        ]
        wrong = [outcome.name for outcome in outcomes if (outcome.family, outcome.verdict) == (model_type, "wrong")]
        yield f"| `{model_type}` | {' | '.join(cells)} |" + (f" **wrong: {', '.join(wrong)}**" if wrong else "")


def judge_family(family: Family) -> Outcome:
    """What became of a family of original files."""

    def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            original = family.make(Path(folder))
            found = differences(original, open_network(original))
        return {f"{what} {size}": value for size, row in found.items() for what, value in row.items()}

    return judge("original", family.name, 1, measure)


def _counts(outcomes: list[Outcome]) -> str:
    return " | ".join(
        str(count) for count in (_weights(outcomes), *(_weights(outcomes, verdict) for verdict in VERDICTS))
    )


def _weights(outcomes: list[Outcome], verdict: Verdict | None = None) -> int:
    return sum(outcome.weights for outcome in outcomes if verdict in (None, outcome.verdict))


def _feature(sentence: str) -> str:
    """The part of a refusal that says what the network has."""
    match = re.search(r" has (.+), which is not supported", sentence)
    return match[1] if match else sentence
