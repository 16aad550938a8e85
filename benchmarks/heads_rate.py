"""Measure the rate of /classify while a head of 10,000 examples and 100 classes is fitted again and again beside it.

    python -m benchmarks.heads_rate             # the shipped model, vectors of 384 numbers
    python -m benchmarks.heads_rate --model B   # a ViT-B/16 with random weights, vectors of 768 numbers
    python -m benchmarks.heads_rate --every 4   # a fit begins every four seconds, not as soon as the last one ends

Prints both rates, measured in turn, and the time of each fit, with its rest and with that of a picture that is
embedded for it.
"""

import argparse
import tempfile
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.heads.examples import labelled
from app.heads.fit import fit
from app.heads.head import Space
from app.heads.store import Store
from benchmarks import models
from tests.environment import AS_IT_COMES
from tests.server import ROOT, serving

SECONDS, CLIENTS, ROUNDS = 5.0, 4, 4
EXAMPLES, CLASSES = 9_900, 100
SHIPPED_DIM = 384
PICTURE = (ROOT / "examples" / "cat.png").read_bytes()


def rate(url: str) -> float:
    """Return how many requests are answered in a second."""
    end, counts = time.monotonic() + SECONDS, [0] * CLIENTS

    def ask(place: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while time.monotonic() < end:
                client.post("/classify", content=PICTURE).raise_for_status()
                counts[place] += 1

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models.ARCHITECTURES, help="random weights instead of the shipped model")
    parser.add_argument(
        "--every", type=float, default=0.0, metavar="SECONDS", help="between the beginnings of two fits"
    )
    arguments = parser.parse_args()
    asked = arguments.model
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {**AS_IT_COMES, "heads": Path(folder) / "heads"}
        if asked:
            (written := Path(folder) / "model").mkdir()
            settings["model"] = models.write(models.ARCHITECTURES[asked], written)
        with serving(Path(folder) / "log", **settings) as server:
            dim = models.ARCHITECTURES[asked].dim if asked else SHIPPED_DIM
            measure(server.url, Path(folder), dim, arguments.every)


def measure(url: str, folder: Path, dim: int, every_s: float) -> None:
    """Print the rates of a service with heads in `folder`/heads and vectors of `dim` numbers, with a fit so often."""
    espresso = (ROOT / "examples" / "espresso.jpg").read_bytes()
    files = [("0", ("a.png", PICTURE)), ("1", ("b.jpg", espresso))]
    made = httpx.put(f"{url}/heads/probe?method=mean", files=files, timeout=60).json()
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, EXAMPLES)
    vectors = random.normal(size=(CLASSES, dim))[labels] + 3 * random.normal(size=(EXAMPLES, dim))
    blank = [""] * EXAMPLES
    examples = labelled(vectors.astype(np.float32), [str(label) for label in labels], blank, blank)
    space = Space(made["model"], made["fingerprint"], made["dtype"], made["pool"])
    Store(folder / "heads", 10, 2**30).put("big", fit(examples, space)[0])
    time.sleep(1.5)
    alone, beside = 0.0, 0.0
    times: list[float] = []
    for number in range(ROUNDS):
        alone += rate(url) / ROUNDS
        ended = threading.Event()
        teacher = threading.Thread(target=teach, args=(url, number, ended, times, every_s))
        teacher.start()
        beside += rate(url) / ROUNDS
        ended.set()
        teacher.join()
    print(f"/classify: {alone:.1f}/s alone, {beside:.1f}/s beside {len(times)} fits ({beside / alone:.0%})")
    embedded = beside + len(times) / (ROUNDS * SECONDS)
    print(f"with the pictures that the fits embed: {embedded:.1f}/s ({embedded / alone:.0%})")
    print(f"seconds of each fit: {', '.join(f'{one:.2f}' for one in times)}")


def teach(url: str, start: int, ended: threading.Event, times: list[float], every_s: float) -> None:
    """Add one picture after the other until the end, at most so often, and note how long each took."""
    for number in count(start, ROUNDS):
        if ended.is_set():
            return
        started = time.monotonic()
        more = [(str(number % CLASSES), (f"{number}.png", PICTURE + bytes(number)))]
        httpx.post(f"{url}/heads/big/examples", files=more, timeout=60).raise_for_status()
        times.append(time.monotonic() - started)
        ended.wait(every_s - times[-1])


if __name__ == "__main__":
    main()
