"""Measure the rate of /classify while a head of 10,000 examples and 100 classes is fitted again and again beside it.

    python -m benchmarks.heads_rate             # the shipped model, vectors of 384 numbers
    python -m benchmarks.heads_rate --model B   # a ViT-B/16 with random weights, vectors of 768 numbers
    python -m benchmarks.heads_rate --every 4   # a fit begins every four seconds, not as soon as the last one ends
    python -m benchmarks.heads_rate --dtype float32 --seconds 24   # as on a processor without bfloat16

Prints three rates, measured in turn: alone, beside requests to /embed, and beside fits. A fit embeds a picture, too,
so what it adds is the difference to the request to /embed, in its time and in the rate. Times are of the whole request,
with the rest between two fits.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
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

CLIENTS, ROUNDS = 4, 4
EXAMPLES, CLASSES = 9_900, 100
SHIPPED_DIM = 384
PICTURE = (ROOT / "examples" / "cat.png").read_bytes()


def rate(url: str, seconds: float) -> float:
    """Return how many requests are answered in a second."""
    end, counts = time.monotonic() + seconds, [0] * CLIENTS

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
    return sum(counts) / seconds


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models.ARCHITECTURES, help="random weights instead of the shipped model")
    parser.add_argument(
        "--every", type=float, default=0.0, metavar="SECONDS", help="between the beginnings of two fits"
    )
    parser.add_argument("--dtype", default="auto", help="that the network computes in [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement [default: %(default)s]")
    arguments = parser.parse_args()
    asked = arguments.model
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {**AS_IT_COMES, "heads": Path(folder) / "heads", "dtype": arguments.dtype}
        if asked:
            (written := Path(folder) / "model").mkdir()
            settings["model"] = models.write(models.ARCHITECTURES[asked], written)
        with serving(Path(folder) / "log", **settings) as server:
            prepare(server.url, Path(folder), models.ARCHITECTURES[asked].dim if asked else SHIPPED_DIM)
            measure(server.url, arguments.seconds, arguments.every)


def prepare(url: str, folder: Path, dim: int) -> None:
    """Put a head `big` of vectors of `dim` numbers into the service's directory of heads, `folder`/heads."""
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


def measure(url: str, seconds: float, every_s: float) -> None:
    """Print the rates beside nothing, /embed and fits, a request so often."""
    beside = {"alone": None, "beside requests to /embed": embed, "beside fits": teach}
    rates = dict.fromkeys(beside, 0.0)
    times: dict[str, list[float]] = {name: [] for name in beside}
    for number in range(ROUNDS):
        for name, request in beside.items():
            ended = threading.Event()
            arguments = (url, number, ended, times[name], every_s, request)
            other = threading.Thread(target=repeat, args=arguments)
            if request:
                other.start()
            rates[name] += rate(url, seconds) / ROUNDS
            ended.set()
            if request:
                other.join()
    for name, found in rates.items():
        with_pictures = found + len(times[name]) / (ROUNDS * seconds)
        shares = f"{found / rates['alone']:.0%}, {with_pictures / rates['alone']:.0%} with their pictures"
        print(f"/classify {name}: {found:.2f}/s ({shares})")
        if times[name]:
            print(f"  {len(times[name])} requests, s: {', '.join(f'{one:.2f}' for one in sorted(times[name]))}")


Request = Callable[[str, int], httpx.Response]


def embed(url: str, number: int) -> httpx.Response:
    """Embed a picture."""
    return httpx.post(f"{url}/embed", content=PICTURE + bytes(number), timeout=60)


def teach(url: str, number: int) -> httpx.Response:
    """Add a picture to the head, which is fitted again."""
    more = [(str(number % CLASSES), (f"{number}.png", PICTURE + bytes(number)))]
    return httpx.post(f"{url}/heads/big/examples", files=more, timeout=60)


def repeat(  # noqa: PLR0913, PLR0917 - the state of one thread
    url: str, start: int, ended: threading.Event, times: list[float], every_s: float, request: Request
) -> None:
    """Send one request after the other until the end, at most so often, and note how long each took."""
    for number in count(start, ROUNDS):
        if ended.is_set():
            return
        started = time.monotonic()
        request(url, number).raise_for_status()
        times.append(time.monotonic() - started)
        ended.wait(every_s - times[-1])


if __name__ == "__main__":
    main()
