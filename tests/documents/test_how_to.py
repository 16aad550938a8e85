"""The how-tos do what they say: each is followed word for word, in an empty folder."""

import importlib.util
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.documents.how_to import HOW_TO, Reader, blocks, page
from tests.nginx import free_port, nginx, require_nginx
from tests.server import ROOT

TIMM = """
import torch
from tests.originals import timm
torch.manual_seed(0)
"""
FINE_TUNED_TIMM = f"""{TIMM}
model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
torch.nn.init.normal_(model.head.weight)
"""
FINE_TUNED_TRANSFORMERS = f"""{TIMM}
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
model = ViTForImageClassification(
    ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=8,
        num_labels=3,
    )
)
processor = ViTImageProcessorPil(size={{"height": 64, "width": 64}})
"""


def test_serve_your_model(tmp_path: Path) -> None:
    preludes = {0: FINE_TUNED_TIMM, 1: TIMM, 2: FINE_TUNED_TRANSFORMERS}
    with Reader(tmp_path, preludes) as reader:
        reader.follow(page("serve-your-model"))
        answer = httpx.post(f"http://127.0.0.1:{reader.ports[8000]}/classify", content=cat()).json()
    assert answer["model"] == "my-transformers-model"
    assert {one["label"] for one in answer["results"][0]["predictions"]} == {"cat", "dog", "horse"}
    assert (tmp_path / "my-converted-model" / "model.safetensors").is_file()


def cat() -> bytes:
    return (ROOT / "examples" / "cat.png").read_bytes()


def test_search_a_folder(tmp_path: Path) -> None:
    text = page("search-a-folder")
    if importlib.util.find_spec("faiss") is None:
        before, _, rest = text.partition("## Search with faiss")
        text = before + rest.partition("\n## ")[2]
    with Reader(tmp_path, joined=True) as reader:
        reader.follow(text)
    vectors = np.load(tmp_path / "vectors.npy")
    assert len((tmp_path / "vectors.files.jsonl").read_text().splitlines()) == len(vectors) == 4
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_search_finds_the_picture_itself_first(tmp_path: Path) -> None:
    """The page's query is one of the pictures of the folder."""
    embed, serve, search, *_ = blocks(page("search-a-folder"))
    with Reader(tmp_path) as reader:
        reader.run_command(embed.text)
        reader.run_command(serve.text)
        best, *others = reader.run_python(search.text).splitlines()
    assert best == "1.0 photos/espresso.jpg"
    assert len(others) == 2


def test_upgrade_a_model(tmp_path: Path) -> None:
    with Reader(tmp_path, joined=True) as reader:
        reader.follow(page("upgrade-a-model"))
        assert set(reader.ports) == {8000, 8001}


def test_size_a_machine(tmp_path: Path) -> None:
    (load,) = (block for block in blocks(page("size-a-machine")) if block.language == "python")
    with Reader(tmp_path) as reader:
        reader.run_command("vitrine serve")
        reader.follow(page("size-a-machine").replace(load.text, ""))
        assert json.loads((tmp_path / "answer.json").read_text())["failed"] == 0
        assert re.fullmatch(r"\d+ images/s, p95 \d+ ms\n", reader.run_python(load.text))


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[Reader]:
    require_nginx("nginx", "openssl")
    with Reader(tmp_path) as reader:
        yield reader


@pytest.mark.parametrize("prefix", ["", "/vision"])
def test_behind_nginx(behind_nginx: Reader, prefix: str) -> None:
    reader, found = behind_nginx, blocks(page("behind-nginx"))
    commands = [block.text.strip() for block in found if block.language == "sh"]
    certificate, start_nginx, serve, ask, serve_below, ask_below = commands
    configuration, location = (block.text for block in found if block.language == "nginx")
    reader.run_command(certificate)
    reader.run_command(serve_below if prefix else serve)
    port = free_port()
    if prefix:
        configuration = re.sub(r" +location / \{.*?\}\n", location, configuration, flags=re.DOTALL)
    configuration = configuration.replace("8443", str(port)).replace(":8000", f":{reader.ports[8000]}")
    (reader.folder / "nginx.conf").write_text(configuration)
    with ExitStack() as stack:
        stack.enter_context(nginx(reader.folder, start_nginx, port))
        reader.ports[8443] = port
        reader.run_command((ask_below if prefix else ask).replace("localhost:8443", f"localhost:{port}"))
        check_through_the_proxy(reader, port, prefix)


def check_through_the_proxy(reader: Reader, port: int, prefix: str) -> None:
    trusted = ssl.create_default_context(cafile=str(reader.folder / "certificate.pem"))
    with httpx.Client(base_url=f"https://localhost:{port}{prefix}", verify=trusted, timeout=60) as client:
        direct = httpx.post(f"http://127.0.0.1:{reader.ports[8000]}/classify", content=cat(), timeout=60)
        through = client.post("/classify", content=cat())
        assert through.json() == direct.json()
        assert re.fullmatch(r"[0-9a-f]{32}", through.headers["X-Request-ID"])
        assert client.post("/classify", content=b"no image").json()["code"] == "not_an_image"
        assert client.post("/classify", content=b"x" * (65 * 2**20)).status_code == 413
        page = client.get("/")
        assert page.is_success
        assert client.get("/docs").is_success
        assert (f'<base href="{prefix}/">' in page.text) == bool(prefix)
        script = re.search(r'src="(static/[\w./-]+\.js)"', page.text)
        assert script is not None
        assert client.get(f"/{script[1]}").is_success
        assert prefix or client.get("/metrics").status_code == 403


def test_the_page_on_gpus_says_what_was_tried_and_what_was_not() -> None:
    text = page("on-a-gpu")
    assert "benchmarks/gpu-h200.md" in text
    assert "Other cards, the container, and several processes on one card have not been tried" in text
    for path in re.findall(r"\b((?:tests|deploy|benchmarks)/[\w/]+\.\w+)", text):
        assert (ROOT / path).is_file(), path


def test_every_page_has_a_test() -> None:
    tested = {"troubleshooting", "on-a-gpu"}  # test_troubleshooting.py; above
    source = Path(__file__).read_text()
    for path in HOW_TO.glob("*.md"):
        assert path.stem in tested or f'page("{path.stem}")' in source, path.name


@pytest.mark.parametrize("path", sorted(HOW_TO.glob("*.md")), ids=lambda path: path.stem)
def test_the_settings_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"VITRINE_([A-Z_]+[A-Z])", path.read_text(encoding="utf-8")):
        assert name.lower() in Settings.model_fields


@pytest.mark.parametrize("path", sorted(HOW_TO.glob("*.md")), ids=lambda path: path.stem)
def test_every_command_is_one_to_the_shell(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language == "sh":
            assert subprocess.run(["bash", "-n", "-c", block.text], check=False).returncode == 0
