"""What many tests share: the default model, its original, a server that serves it, pictures."""

import io
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.network.vit import VisionTransformer
from tests.environment import SETTINGS, defined
from tests.server import ROOT, Address, Server, serving

pytest_plugins = ["tests.faults.fixtures"]

SHARED = Path(os.environ.get("VITRINE_TEST_SHARED", ROOT.parent / "shared"))
MODEL = ROOT / "weights" / "vit-small-tiny-imagenet"


THOROUGH = (
    *(
        "api/dialects/",
        "benchmarks/",
        "bulk/",
        "checkpoints/",
        "cli/test_features.py",
        "cli/test_fit.py",
        "cli/test_quantize.py",
        "deploy/ray/",
        "documents/test_clients.py",
        "documents/test_heads_page.py",
        "documents/test_how_to.py",
        "documents/test_quantization_page.py",
        "heads/test_families.py",
        "heads/test_lasting.py",
        "heads/test_service.py",
        "heads/test_store.py",
        "http/",
        "page/",
    ),
    *(
        "inference/test_allocator.py",
        "inference/test_bfloat16.py",
        "inference/test_compute.py",
        "network/test_attention.py",
        "network/test_quantized.py",
        "pictures/test_corpus.py",
    ),
    *("pictures/test_good_corpus.py", "pictures/test_hostile_images.py", "pictures/test_pictures.py", "process/"),
    *("telemetry/test_logs.py", "telemetry/test_metrics.py", "telemetry/test_monitoring.py"),
    *("quantization/", "telemetry/test_tracing.py"),
)
QUICK = (
    *("checkpoints/test_checkpoint.py", "checkpoints/test_golden.py", "checkpoints/test_preprocess.py"),
    "process/test_lifecycle.py",
)
"""Tests that `make test` leaves to `make check`, so that it ends in minutes on two cores."""


def pytest_configure(config: pytest.Config) -> None:
    """Nothing that a test finds depends on whose machine it runs on."""
    surroundings = ExitStack()
    surroundings.enter_context(defined())
    config.add_cleanup(surroundings.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is thorough by where it lies."""
    for item in items:
        path = str(item.path.relative_to(Path(__file__).parent))
        if path.startswith(THOROUGH) and not path.startswith(QUICK):
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Each httpx client reads them again, for 20 to 200 ms, and tests make thousands, all for this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lru_cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return open_checkpoint(str(MODEL))


@pytest.fixture(scope="session")
def network(checkpoint: Checkpoint) -> VisionTransformer:
    return build(checkpoint)


@pytest.fixture(scope="session")
def original() -> Any:
    """The default model as timm loads it from the same directory."""
    from tests.originals import timm

    model = timm.create_model(f"local-dir:{MODEL}", pretrained=True, dynamic_img_size=True)
    return model.eval()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    if port := os.environ.get("VITRINE_TEST_PORT"):  # of a service that runs already, as in tests/deploy/docker
        yield Address(int(port))
        return
    # Exact, because the answers are compared with those of the originals. The commands of the pages write heads.
    with serving(tmp_path_factory.mktemp("server") / "log", decode="exact", allow_heads=True) as running:
        yield running


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same in bfloat16."""
    with serving(tmp_path_factory.mktemp("half") / "log", dtype="bfloat16", decode="exact") as running:
        yield running


@pytest.fixture
def client(server: Address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as session:
        yield session


@pytest.fixture(scope="session")
def cat() -> bytes:
    return (ROOT / "examples" / "cat.png").read_bytes()


@pytest.fixture(scope="session")
def espresso() -> bytes:
    return (ROOT / "examples" / "espresso.jpg").read_bytes()


@pytest.fixture(scope="session")
def phone_picture() -> bytes:
    """A photograph of 12 megapixels as a phone saves it: the sensor's pixels, and a tag that says how it was held."""
    with Image.open(ROOT / "examples" / "espresso.jpg") as photo:
        upright = photo.resize((3024, 4032), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material that lies beside the repository where the project is developed."""
    if not SHARED.is_dir():
        pytest.skip("the shared corpus is not on this machine")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(SETTINGS["torch_threads"])
