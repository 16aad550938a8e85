"""What `vitrine fit` prints: how many pictures, how good the head is, what it confuses, which labels look wrong."""

from collections.abc import Iterator

from app.bulk.entries import as_text
from app.fitting.run import Fitted, Measured
from app.heads.head import Head

WORST = 10
"""Classes, confusions and pictures that are printed of each kind."""


def report_lines(fitted: Fitted) -> Iterator[str]:
    """Yield the lines of the report."""
    head, measured = fitted.head, fitted.measured
    yield f"{len(head.examples)} pictures of {len(head.classes)} classes{_passed(fitted)}"
    yield f"{head.method}{_strength(head)}, on the {head.space.pool} vector of {head.space.model} in {head.space.dtype}"
    yield from _quality(measured)
    yield from _confusions(head, measured)
    suspects = fitted.left_out.quality.suspects
    if suspects:
        yield "pictures that look mislabelled:"
        for place, likelier, probability in suspects[:WORST]:
            path, label = fitted.left_out.paths[place], fitted.left_out.classes[place]
            yield f"  {as_text(path)}: {label} ({probability:.1%}); looks like {head.classes[likelier]}"


def percent(share: float | None) -> str:
    """Return a share as people read it; a dash where there is none."""
    return "-" if share is None else f"{share:.1%}"


def _passed(fitted: Fitted) -> str:
    parts = [f"{fitted.repeated} repeated"] if fitted.repeated else []
    parts += [f"{len(fitted.failed)} failed"] if fitted.failed else []
    return f" ({', '.join(parts)})" if parts else ""


def _strength(head: Head) -> str:
    return "" if head.strength is None else f" of strength {head.strength:.3g}"


def _quality(measured: Measured) -> Iterator[str]:
    quality = measured.quality
    if quality.accuracy is None or quality.calibration_error is None:
        yield "with one picture of each class nothing can be left out: accuracy and calibration are not known"
        return
    yield (
        f"accuracy {quality.accuracy:.1%} by {quality.by}, on {quality.answered} pictures; "
        f"calibration error {quality.calibration_error:.3f}"
    )


def _confusions(head: Head, measured: Measured) -> Iterator[str]:
    recalls = [(recall, name) for name, recall in zip(head.classes, measured.quality.recall, strict=True)]
    known = sorted((recall, name) for recall, name in recalls if recall is not None)
    if known:
        yield "recall of the worst classes:" if len(known) > WORST else "recall of the classes:"
        yield from (f"  {percent(recall):>6}  {name}" for recall, name in known[:WORST])
    if unknown := [name for recall, name in recalls if recall is None]:
        others = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        yield f"not known, for lack of a second picture: {', '.join(unknown[:3])}{others}"
    if measured.quality.confusions:
        yield "most frequent confusions:"
        for label, answer, count in measured.quality.confusions[:WORST]:
            yield f"  {count:>6}  {head.classes[label]} taken for {head.classes[answer]}"
