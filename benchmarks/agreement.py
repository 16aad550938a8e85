"""How much answers in half precision differ from float32: `make agreement PICTURES=folder-or-zip`.

Runs the default model on real pictures and compares [CLS] vectors and top classes. A processor without native support
for a dtype computes it slowly, but with the same rounding, so the numbers also hold for processors with support.
"""

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.inference.device.backend import DTYPES
from app.inference.engine import Engine
from app.inference.jobs import Job, Ranking
from app.pictures.decode import Limits, decode, to_network
from app.pictures.pool import Transform
from app.pictures.prepared import Resolution
from app.settings import FORMATS, SHIPPED_MODEL
from models.checkpoints.checkpoint import open_checkpoint
from models.network.vit import Readout

BATCH = 32
SUFFIXES = (".jpg", ".jpeg", ".png")


def pictures(source: Path, count: int) -> Iterator[bytes]:
    """Yield about `count` pictures of a folder or a zip file, evenly spread over it."""
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        yield from (path.read_bytes() for path in files[:: max(1, len(files) // count)])
        return
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
        yield from (archive.read(name) for name in names[:: max(1, len(names) // count)])


def answers(engine: Engine, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised [CLS] vector (n, D) and the top class (n) of each image."""
    vectors, best = [], []
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        vectors += engine.run([Job(one, Readout.CLS, normalize=True) for one in batch])
        ranked = engine.run([Job(one, Readout.LOGITS, top_k=1) for one in batch])
        best += [one.indices[0] for one in ranked if isinstance(one, Ranking)]
    return np.stack([vector for vector in vectors if isinstance(vector, np.ndarray)]), np.array(best)


def main() -> None:
    """Print a row for each dtype."""
    parser = argparse.ArgumentParser(prog="benchmarks.agreement", description=main.__doc__)
    parser.add_argument("pictures", type=Path, help="a folder or a zip file of pictures")
    parser.add_argument("--count", type=int, default=400, help="how many of them [default: %(default)s]")
    args = parser.parse_args()
    checkpoint = open_checkpoint(SHIPPED_MODEL)
    content = checkpoint.content
    transform = Transform(content.preprocess, content.config.patch_size, Resolution())
    opened = [decode(file, Limits(FORMATS, 50_000_000)) for file in pictures(args.pictures, args.count)]
    pixels = [to_network(one, transform.plan(one.size), content.preprocess.interpolation) for one in opened]
    reference, best = answers(Engine(checkpoint, "cpu", "float32"), pixels)
    print(f"{checkpoint.name}, {len(pixels)} pictures, against float32:\n")
    print("| dtype | cosine, minimum | median | same top class |\n|---|---|---|---|")
    for dtype in DTYPES:
        vectors, classes = answers(Engine(checkpoint, "cpu", dtype), pixels)
        cosines = (vectors * reference).sum(1)
        same = (classes == best).mean()
        print(f"| {dtype} | {cosines.min():.5f} | {np.median(cosines):.5f} | {same:.1%} |", flush=True)


if __name__ == "__main__":
    main()
