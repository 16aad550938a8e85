"""bfloat16 through a real server, on every machine: torch computes it everywhere, and on some natively."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.inference.device import backend, processor
from app.inference.device.backend import choose_dtype, choose_inside
from app.inference.device.processor import EARLIER, capabilities, fastest_dtype, multiplies_faster_in_bfloat16
from models.checkpoints.checkpoint import Checkpoint
from models.network.vit import VisionTransformer
from tests.api.test_api import NPY, VIEWS, array, by_hand
from tests.bounds import LEAST_COSINE_TOGETHER, SCORES_APART, assert_near
from tests.inference.test_concurrency import picture
from tests.server import Server, serving

RESOLUTIONS = ("own", "70", "224", "518, the table's own", "140x98", "fit")
CPU = torch.device("cpu")
SIZES = ("56", "70", "112", "98x140", "140x98", "224")


@pytest.fixture
def halved(half: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=half.url, timeout=60) as session:
        yield session


def test_the_server_says_what_it_computes_in(halved: httpx.Client, client: httpx.Client) -> None:
    half, whole = halved.get("/model").json(), client.get("/model").json()
    assert (half["dtype"], whole["dtype"]) == ("bfloat16", "float32")
    assert half["fingerprint"] != whole["fingerprint"]


@pytest.mark.parametrize(("query", "size", "resize"), [VIEWS[name] for name in RESOLUTIONS], ids=RESOLUTIONS)
def test_every_resolution_answers_near_the_network_in_float32(
    halved: httpx.Client,
    checkpoint: Checkpoint,
    network: VisionTransformer,
    cat: bytes,
    query: Any,
    size: Any,
    resize: Any,
) -> None:
    expected = by_hand(cat, checkpoint, network, size, resize)
    assert expected.logits is not None
    for pool in ("cls", "mean"):
        found = array(halved.post("/embed", params=query | {"pool": pool}, content=cat, headers=NPY))
        assert found.dtype == np.float32
        assert_near(found, getattr(expected, pool))
    scores = array(halved.post("/classify", params=query, content=cat, headers=NPY))
    probabilities = expected.logits.softmax(1).numpy()
    assert np.abs(scores - probabilities).max() <= SCORES_APART
    assert scores.argmax() == probabilities.argmax()


@pytest.mark.parametrize("size", [(518, 518), (112, 112), (98, 140)], ids=str)
def test_it_answers_near_the_original(
    halved: httpx.Client, original: Any, checkpoint: Checkpoint, size: tuple[int, int]
) -> None:
    """Pixels as they are, so that nothing but the network is compared."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8)
    preprocess = checkpoint.content.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    with torch.inference_mode():
        cls = original.forward_features(((torch.from_numpy(pixels).float() / 255 - mean) / std)[None])[0, 0]
    inputs = [{"name": "pixels", "datatype": "UINT8", "shape": [1, 3, *size], "data": pixels.ravel().tolist()}]
    answer = halved.post(
        "/v2/models/vit-small-tiny-imagenet/infer", json={"inputs": inputs, "outputs": [{"name": "embedding"}]}
    ).json()
    assert_near(answer["outputs"][0]["data"], cls)


def test_a_mixed_batch_answers_each_as_alone(half: Server) -> None:
    requests = [(picture(seed), SIZES[seed % len(SIZES)]) for seed in range(18)]

    async def ask(client: httpx.AsyncClient, data: bytes, size: str) -> Any:
        answer = await client.post("/embed", params={"size": size}, content=data, headers=NPY)
        assert answer.status_code == 200, answer.text
        return np.load(io.BytesIO(answer.content))

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=half.url, timeout=60) as client:
            alone = [await ask(client, *request) for request in requests]
            images, batches = await counted(client)
            together = await asyncio.gather(*(ask(client, *request) for request in requests))
            more, passes = await counted(client)
        assert more - images == len(requests) > passes - batches  # some of them did share a pass
        for ours, by_itself in zip(together, alone, strict=True):
            assert_near(ours, by_itself, LEAST_COSINE_TOGETHER)

    asyncio.run(scenario())


async def counted(client: httpx.AsyncClient) -> tuple[float, float]:
    """Images in batches, and batches, until now."""
    lines = dict(line.rsplit(" ", 1) for line in (await client.get("/metrics")).text.splitlines() if line[0] != "#")
    return float(lines["vitrine_batch_images_sum"]), float(lines["vitrine_batch_images_count"])


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"architecture": "aarch64"}, "float32"),
    ],
    ids=["AVX512-BF16", "AMX", "neither", "no x86"],
)
def test_auto_is_what_the_processor_computes_natively(
    has: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "multiplies_faster_in_bfloat16", lambda: True)
    assert fastest_dtype(has) == dtype


@pytest.mark.parametrize(("ratio", "dtype"), [(0.4, "bfloat16"), (1.7, "float32")])
def test_auto_is_float32_where_the_instructions_for_bfloat16_are_slower(
    ratio: float, dtype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on an Intel Xeon with AVX512-BF16 whose AMX is hidden."""
    monkeypatch.setattr(processor, "relative_time", lambda *_: ratio)
    monkeypatch.setattr(processor, "capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(backend, "capabilities", processor.capabilities)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    multiplies_faster_in_bfloat16.cache_clear()
    try:
        with caplog.at_level("INFO", "vitrine"):
            assert choose_dtype("auto", CPU) == choose_inside(CPU) == dtype
    finally:
        multiplies_faster_in_bfloat16.cache_clear()
    said = "multiplies matrices in 1.7 times the time of float32"
    assert [said in line for line in caplog.messages] == [True] * (dtype == "float32")  # once


def test_older_releases_of_torch_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now, functions = capabilities(), {name: getattr(torch.cpu, name) for name in EARLIER.values()}
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(**functions))
    before = capabilities()
    assert set(before) == set(EARLIER)
    assert {name: bool(now.get(name)) for name in before} == before


def test_a_release_that_tells_nothing_is_not_trusted_with_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert fastest_dtype(capabilities()) == "float32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="/proc/cpuinfo is Linux's")
def test_a_server_takes_what_this_processor_has(tmp_path: Path) -> None:
    """The kernel's list of the processor's features is asked, which torch does not look at."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has = flags & {"avx512_bf16", "amx_bf16"}
    native = "bfloat16" if has and multiplies_faster_in_bfloat16() else "float32"
    assert choose_dtype("auto", CPU) == native
    with serving(tmp_path / "log", dtype=None) as server:
        assert httpx.get(f"{server.url}/model").json()["dtype"] == native
