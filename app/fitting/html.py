"""The report as one HTML file: thumbnails as data: URIs, the confusion matrix as SVG, and no script."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from app.bulk.atomic import atomic_write
from app.bulk.entries import as_text, read_file
from app.errors import ImageProblem
from app.fitting.report import percent
from app.fitting.run import Fitted, Measured
from app.heads.quality import confusion_counts
from app.pictures.decode import MISSING, Limits, decode
from app.pictures.drawing import thumbnail
from app.settings import Settings

SIDE = 160
"""Pixels of the longer side of a thumbnail."""

SHOWN = 20
"""Pictures that are shown of each kind."""

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; width: 10rem; margin: .5rem; vertical-align: top; font-size: .85rem; }
figure img { width: 100%; } svg { max-width: 100%; height: auto; border: 1px solid #ddd; }
</style>
<h1>$title</h1>
$body
</html>
""")


def write_html(settings: Settings, fitted: Fitted, path: Path) -> None:
    """Write the report. Raises CannotWrite."""
    title = f"A head of {len(fitted.head.classes)} classes for {fitted.head.space.model}"
    body = "\n".join(_parts(settings, fitted))
    with atomic_write(path) as unfinished:
        unfinished.write_text(PAGE.substitute(title=escape(title), body=body), encoding="utf-8")


def _parts(settings: Settings, fitted: Fitted) -> Iterator[str]:
    head, measured = fitted.head, fitted.measured
    quality = measured.quality
    facts = {
        "pictures": str(len(head.examples)),
        "method": head.method,
        "vector": f"{head.space.pool} of {head.space.model} in {head.space.dtype}",
        "fingerprint": head.space.fingerprint,
        "measured by": f"{quality.by}, {quality.answered} pictures",
        "accuracy": percent(quality.accuracy),
        "calibration error": "-" if quality.calibration_error is None else f"{quality.calibration_error:.3f}",
    }
    rows = "".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in facts.items())
    yield f"<table>{rows}</table>"
    yield from _suspects(settings, fitted)
    yield "<h2>Confusion matrix</h2>"
    yield "<p>A row for each class, a column for each answer. Point at a cell to read it.</p>"
    yield _matrix(head.classes, measured)
    yield "<h2>Classes</h2>"
    yield _classes(fitted)
    if fitted.failed:
        yield "<h2>Files that could not be used</h2>"
        items = (f"<li>{escape(as_text(one.path))}: {escape(one.detail)}" for one in fitted.failed)
        yield f"<ul>{''.join(items)}</ul>"


def _suspects(settings: Settings, fitted: Fitted) -> Iterable[str]:
    left_out, classes = fitted.left_out, fitted.head.classes
    if not left_out.quality.suspects:
        return
    yield "<h2>Pictures that look mislabelled</h2>"
    yield "<p>By a head that was fitted from all others, their label is unlikely.</p>"
    for place, likelier, probability in left_out.quality.suspects[:SHOWN]:
        path = left_out.paths[place]
        label, answer = escape(left_out.classes[place]), escape(classes[likelier])
        caption = (
            f"{escape(Path(as_text(path)).name)}<br>labelled <b>{label}</b> ({probability:.1%})<br>looks like {answer}"
        )
        uri = _thumbnail(settings, path)
        image = f'<img alt="" src="{uri}">' if uri else ""
        yield f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(settings: Settings, path: str) -> str:
    """Return a data: URI of a small picture; empty for a path that leads to none, as in a table of vectors."""
    try:
        picture = decode(read_file(path, -1), Limits(settings.image_formats, settings.max_pixels, MISSING))
    except (OSError, ImageProblem):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(thumbnail(picture.image, SIDE)).decode('ascii')}"


def _matrix(classes: Sequence[str], measured: Measured) -> str:
    """Return the confusion matrix. Only cells that are not zero are drawn: there may be hundreds of classes."""
    index = {name: place for place, name in enumerate(classes)}
    labels = np.array([index[name] for name in measured.classes], np.int32)[measured.answered]
    found = measured.likely.argmax(1)[measured.answered]
    if not len(labels):
        return "<p>Nothing could be left out.</p>"
    totals = np.bincount(labels, minlength=len(classes))
    cells = []
    for label, answer, count in confusion_counts(labels, found):
        colour = "#1b7837" if label == answer else "#b2182b"
        opacity = 0.15 + 0.85 * count / totals[label]
        text = escape(f"{classes[label]} answered as {classes[answer]}: {count} of {totals[label]}")
        cells.append(
            f'<rect x="{answer}" y="{label}" width="1" height="1" fill="{colour}" fill-opacity="{opacity:.2f}">'
            f"<title>{text}</title></rect>"
        )
    side = len(classes)
    pixels = min(960, max(240, 24 * side))
    return f'<svg viewBox="0 0 {side} {side}" width="{pixels}" role="img">{"".join(cells)}</svg>'


def _classes(fitted: Fitted) -> str:
    head, quality = fitted.head, fitted.measured.quality
    rows = sorted(
        zip(quality.recall, head.classes, head.examples.counts.tolist(), strict=True),
        key=lambda row: (row[0] is None, row[0] or 0.0, row[1]),
    )
    cells = "".join(
        f'<tr><td>{escape(name)}<td class="n">{count}<td class="n">{percent(recall)}' for recall, name, count in rows
    )
    return f"<table><tr><th>class<th>pictures<th>recall{cells}</table>"
