"""The shared corpus, if present: every file x both endpoints x every way to upload, and groups of equal images."""

import csv
import re
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.pictures.test_hostile_images import WAYS
from tests.server import Server

# Statuses of a server with the optional decoders, for files that one without them refuses.
OPTIONAL = {".heic": 200, ".heif": 200}


def rows(shared: Path, table: str) -> list[dict[str, str]]:
    with (shared / "corpus" / table).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_file_is_answered_as_expected(shared: Path, client: httpx.Client, server: Server) -> None:
    """Use both endpoints, and the ways to upload in turn."""
    ways = cycle(WAYS)
    check(shared, client, server, lambda: [next(ways)])


@pytest.mark.soak
def test_every_file_is_answered_alike_in_every_way(shared: Path, client: httpx.Client, server: Server) -> None:
    check(shared, client, server, lambda: list(WAYS))


def check(shared: Path, client: httpx.Client, server: Server, ways: Callable[[], list[str]]) -> None:
    wrong = {}
    for row in rows(shared, "MANIFEST.tsv"):
        data = (shared / "corpus" / row["file"]).read_bytes()
        for endpoint in ("/classify?top_k=1", "/embed?encoding=base64"):
            for way in ways():
                began = time.monotonic()
                response = WAYS[way](client, endpoint, data)
                if not expected_status(row, response.status_code) or time.monotonic() - began > 30:
                    wrong[row["file"], endpoint, way] = (response.status_code, response.text[:100])
    assert wrong == {}
    assert server.process.poll() is None


def expected_status(row: dict[str, str], status: int) -> bool:
    group = row["file"].partition("/")[0]
    if group == "good":
        return status == 200
    if group == "tricky":
        return 200 <= status < 500
    return 400 <= status < 500 or "200" in row["expectation"] or OPTIONAL.get(row["file"][-5:]) == status


def test_equal_pictures_have_equal_answers(shared: Path, client: httpx.Client) -> None:
    """Lossless copies agree but for rounding; lossy ones within the tolerance that the table gives for their coding."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows(shared, "ORACLES.tsv"):
        groups[row["group"]].append(row)
    wrong, compared = {}, 0
    for group in groups.values():
        reference = vector(client, shared, group[0]["file"])
        assert reference is not None
        for row in group[1:]:
            found = vector(client, shared, row["file"])
            if found is None:
                assert "4xx" in row["tolerance"] or row["file"].startswith("tricky/"), row
                continue
            compared += 1
            if cosine(found, reference) < floor(row["tolerance"]):
                wrong[row["file"]] = (cosine(found, reference), row["tolerance"])
    assert compared >= 56
    assert wrong == {}


def vector(client: httpx.Client, shared: Path, file: str) -> Any:
    data = (shared / "corpus" / file).read_bytes()
    response = client.post("/embed?resize=squash&size=224", content=data, headers={"Accept": "application/x-npy"})
    if response.status_code == 200:
        return np.frombuffer(response.content[-384 * 4 :], np.float32)
    assert 400 <= response.status_code < 500
    return None


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def floor(tolerance: str) -> float:
    """Return the smallest cosine that a row of the table allows."""
    found = re.search(r"cos>=([\d.]+)", tolerance)
    if found:
        return float(found[1])
    if "4xx" in tolerance:
        return 0.97  # if it is answered, the answer must be right
    return 0.995 if "vs" in tolerance else 0.9999  # exact: the same pixels, summed in another order
