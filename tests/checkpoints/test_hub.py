"""Download from the hub: a local server with its protocol, and huggingface_hub in a child process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from tests.checkpoints import timm_family
from tests.server import ROOT

COMMIT = hashlib.sha1(b"commit").hexdigest()
UNREACHABLE = "http://127.0.0.1:9"


@dataclass
class Hub:
    """A server of repositories, by name, each a folder of files; it records the requests."""

    repositories: dict[str, Path]
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Answer the two requests of the client: the list of a repository's files, and one file."""
        self.requests.append(path)
        self.tokens.add(token)
        parts = path.strip("/").split("/")
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        revision = (parts[5:] or ["main"])[0] if parts[0] == "api" else parts[3]
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        folder = self.repositories[repository]
        if parts[0] == "api":
            siblings = [{"rfilename": file.name} for file in folder.iterdir()]
            return 200, {}, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        content = (folder / parts[-1]).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    timm_family.VARIANTS["plain"](folder)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "README.md").write_text("not needed")
    local_hub = Hub({"someone/tiny-vit": folder})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = local_hub.answer(self.path.split("?")[0], self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local_hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield local_hub
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, sys
from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointError
messages = []
for source, revision in json.loads(sys.argv[1]):
    try:
        checkpoint = open_checkpoint(source, revision=revision, log=messages.append)
        print(json.dumps([checkpoint.name, checkpoint.content.config.depth, messages]))
    except CheckpointError as error:
        print(json.dumps([type(error).__name__, str(error), messages]))
"""


def open_in_child(*sources: tuple[str, str | None], home: Path, endpoint: str, **environment: str) -> list[Any]:
    """Open each (source, revision) in a child process, because huggingface_hub reads its settings at import."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sources)],
        cwd=ROOT,
        env=inherited | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


NAME = "someone/tiny-vit"


def test_a_repository_is_downloaded_once_and_then_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (by_name, by_scheme, tagged) = open_in_child(
        (NAME, None), (f"hf://{NAME}", None), (NAME, "v1"), home=home, endpoint=hub.url, HF_TOKEN="hf_secret"
    )
    for name, depth, messages in (by_name, by_scheme, tagged):
        assert (name, depth) == ("tiny-vit", 3)
        assert "downloading model.safetensors of someone/tiny-vit" in messages[0]
    downloaded = {path.rsplit("/", 1)[1] for path in hub.requests if "/resolve/" in path}
    assert downloaded == {"config.json", "model.safetensors"}
    assert "Bearer hf_secret" in hub.tokens

    offline = open_in_child((NAME, None), (NAME, "v2"), home=home, endpoint=hub.url, HF_HUB_OFFLINE="1")
    assert offline[0][:2] == ["tiny-vit", 3]
    assert offline[1][0] == "CheckpointNotFound"
    assert "revision 'v2' is not in the cache" in offline[1][1]

    (unreachable,) = open_in_child((NAME, None), home=home, endpoint=UNREACHABLE)
    assert unreachable[:2] == ["tiny-vit", 3]
    assert "cannot be reached" in unreachable[2][0]


WAYS = (
    *(f"hf-hub:{NAME}", f"hf_hub:{NAME}", f"https://huggingface.co/{NAME}", f"https://huggingface.co/{NAME}/"),
    *(f"huggingface.co/{NAME}", f"https://hf.co/{NAME}"),
)


def test_every_way_to_write_a_repository_is_read(hub: Hub, tmp_path: Path) -> None:
    answers = open_in_child(*((way, None) for way in WAYS), home=tmp_path / "home", endpoint=hub.url)
    assert [answer[:2] for answer in answers] == [["tiny-vit", 3]] * len(WAYS)


def test_a_repository_or_revision_that_does_not_exist(hub: Hub, tmp_path: Path) -> None:
    sources = (("someone/else", None), (NAME, "v9"), ("no name at all", None), (str(ROOT / "weights"), "v1"))
    answers = open_in_child(*sources, home=tmp_path / "home", endpoint=hub.url)
    expected = ["no such repository", "no revision 'v9'", "owner/name", "a local path has no revision"]
    for (kind, message, _), words in zip(answers, expected, strict=True):
        assert kind == "CheckpointNotFound"
        assert words in message
        assert "\n" not in message


def test_offline_with_an_empty_cache(tmp_path: Path) -> None:
    (answer,) = open_in_child((NAME, None), home=tmp_path / "home", endpoint=UNREACHABLE, HF_HUB_OFFLINE="1")
    assert answer[0] == "CheckpointNotFound"
    assert "HF_HUB_OFFLINE" in answer[1]
    (answer,) = open_in_child((NAME, None), home=tmp_path / "home", endpoint=UNREACHABLE)
    assert answer[0] == "CheckpointNotFound"
    assert f"the hub at {UNREACHABLE} cannot be reached" in answer[1]


def test_a_local_path_makes_no_request(tmp_path: Path) -> None:
    original = timm_family.VARIANTS["plain"](tmp_path)
    (answer,) = open_in_child((str(original.path), None), home=tmp_path / "home", endpoint=UNREACHABLE)
    assert answer[1:] == [3, []]
