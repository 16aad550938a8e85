"""An error says what a person has to change: the type, the boundary, the format, the place of a parameter."""

import base64
import io
import json
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.api.operation.model import public_source
from tests.faults.wire import ask, get, post
from tests.http.test_bodies import BROKEN_FORMS, FORM, part
from tests.server import ROOT, Server, serving


def saved(image_format: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (64, 48), 100 if mode == "L" else (10, 20, 30)).save(file, image_format)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat.png", b"x")
    return file.getvalue()


def uncompressed_tga() -> bytes:
    return struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 8, 8, 24, 32) + bytes(192)


FOREIGN = {
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
    "SVG with a prologue": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x --><!DOCTYPE svg>\n<svg width="1">', "SVG"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "HTML"),
    "HTML with a drawing": (b"\n <html><body><svg ></svg></body></html>", "HTML"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "PDF": (saved("PDF"), "PDF"),
    "ICO": (saved("ICO"), "ICO"),
    "JPEG 2000": (saved("JPEG2000"), "JPEG 2000"),
    "a stream of JPEG 2000": (b"\xff\x4f\xff\x51" + bytes(100), "JPEG 2000"),
    "JPEG XL": (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
    "a stream of JPEG XL": (b"\xff\x0a" + bytes(100), "JPEG XL"),
    "PSD": (b"8BPS\x00\x01" + bytes(100), "PSD"),
    "TGA": (saved("TGA"), "TGA"),
    "TGA of one byte": (saved("TGA", "L"), "TGA"),
    "TGA without a footer": (uncompressed_tga(), "TGA"),
    "zip": (zipped(), "zip"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), "zstd"),
    "PostScript": (saved("EPS"), "PostScript"),
    "PPM": (saved("PPM"), "Netpbm"),
    "MP4": (b"\x00\x00\x00\x18ftypmp42" + bytes(50), "video"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "a PNG that curl -d has sent": (saved("PNG").replace(b"\r", b"").replace(b"\n", b""), "line breaks"),
    "noise": (bytes(range(7, 200)), "not an image in a known format"),
    "words": (b"hello", "not an image in a known format"),
}


@pytest.mark.parametrize(("data", "words"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_of_another_kind_is_called_by_its_name(client: httpx.Client, data: bytes, words: str) -> None:
    for response in (
        client.post("/classify", content=data),
        client.post("/classify", json={"images": [base64.b64encode(data).decode()]}),
        client.post("/classify", files={"image": data}),
    ):
        assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
        assert words in response.json()["detail"]
        assert "allowed formats are JPEG, PNG" in response.json()["detail"]


def test_no_good_picture_is_taken_for_another_kind() -> None:
    from app.pictures.formats.foreign import foreign_name

    for path in (ROOT / "examples").glob("*.*g"):
        assert foreign_name(path.read_bytes()) is None
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        assert foreign_name(saved(image_format)) is None, image_format


PNG = base64.b64encode(saved("PNG")).decode()
TEXTS = {
    "JSON": (json.dumps({"images": [PNG]}), "looks like JSON; send it with Content-Type: application/json"),
    "a list of JSON": (f' ["{PNG}"]', "looks like JSON"),
    "a data URI": (f"data:image/png;base64,{PNG}", "is a data: URI"),
    "a quoted data URI": (f'"data:image/png;base64,{PNG}"', "is a data: URI"),
    "a URL": ("https://example.com/cat.png", "URLs are not fetched"),
    "base64": (PNG, "looks like base64"),
    "a field": ("image=@cat.png", "curl -F image=@cat.png"),
    "a form": (part(saved("PNG")).decode("latin-1") + "--b--\r\n", "looks like a form"),
}


@pytest.mark.parametrize(("body", "words"), TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_text_without_its_type_is_told_so(client: httpx.Client, body: str, words: str, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = client.post("/classify", content=body.encode("latin-1"), headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
    assert words in response.json()["detail"]
    assert PNG[:16] not in response.text


def test_a_form_without_its_boundary_is_told_so(strict: Server) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; charset=utf-8"):
        answer = ask(strict, post("/classify", part(b"x") + b"--b--\r\n", content_type=kind))
        assert (answer.status, answer.json["code"]) == (400, "malformed_body")
        assert "has no boundary" in answer.json["detail"]


def test_a_format_that_cannot_be_opened_here_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(tmp_path / "log") as server:
        detail = httpx.post(f"{server.url}/classify", content=b"hello").json()["detail"]
        assert "AVIF" in detail
        assert "HEIC" not in detail
        assert "HEIC" not in httpx.get(f"{server.url}/model").json()["limits"]["image_formats"]


def test_the_model_tells_no_path(client: httpx.Client) -> None:
    described = client.get("/model")
    assert described.json()["source"] == "vit-small-tiny-imagenet"
    for folder in (str(ROOT), str(ROOT.parent), str(Path.home())):
        assert f'"{folder}' not in described.text


@pytest.mark.parametrize("form", ["/srv/models/{}", "file:///srv/models/{}", "~/models/{}", "./models/{}", "../{}"])
def test_a_local_path_is_shown_by_its_last_part(form: str) -> None:
    assert public_source(form.format("my%20vit" if form.startswith("file:") else "my vit")) == "my vit"


@pytest.mark.parametrize("source", ["owner/name", "hf://owner/name", "hf-hub:owner/name", "https://huggingface.co/a/b"])
def test_a_repository_is_shown_as_it_was_given(source: str) -> None:
    assert public_source(source) == source


def test_each_broken_request_is_one_line_of_the_log(tmp_path: Path) -> None:
    """And no byte that a client sent is in it."""
    with serving(tmp_path / "log", log_level="debug") as server:
        before = server.log.read_text().count("\n")
        requests = [post("/classify", body, content_type=kind) for kind, body in BROKEN_FORMS.values()]
        requests += [post("/classify", b"--c\r\n" + b"secret" * 10, content_type=FORM), b"nonsense\r\n\r\n"]
        requests += [post("/classify", b"zz\r\nabc\r\n", content_length=None, transfer_encoding="chunked")]
        for request in requests:
            assert 400 <= ask(server, request).status < 500
        upgrade = get("/healthz").replace(b"connection: close", b"connection: close, upgrade\r\nupgrade: websocket")
        assert ask(server, upgrade, patience_s=1).status == 200
        time.sleep(1)  # the log is written by another thread
        lines: list[Any] = [json.loads(line) for line in server.log.read_text().splitlines()[before:]]
    others = [line["message"] for line in lines if line["message"] != "request" and line.get("logger") != "asyncio"]
    assert [message for message in others if not message.startswith("serving ")] == []
    # A line of the last probe for readiness may be written after `before` was counted.
    own = [line for line in lines if line["message"] == "request" and line.get("route") != "/readyz"]
    assert len(own) == len(requests) + 1
