"""API keys, origins, proxies, and what responses and logs reveal."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import BadSettings, load_settings
from tests.faults.wire import ask, post
from tests.server import Server, serving

KEY, OTHER_KEY, FILED_KEY = "first-key", "second_key", "third.key"
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(f"{FILED_KEY}\n")
    settings = {"api_keys": f"{KEY}, {OTHER_KEY}", "api_keys_file": folder / "keys", "cors_origins": ORIGIN}
    with serving(folder / "log", **settings) as server:  # type: ignore[arg-type]  # none of them is `ready`
        yield server


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"),
        *("/", "/static/main.js", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"),
    ],
)
def test_open_paths_require_no_key(locked: Server, path: str) -> None:
    assert httpx.get(locked.url + path).status_code in (200, 307)
    assert httpx.head(locked.url + path).status_code in (200, 307)


@pytest.mark.parametrize(
    "path",
    [
        "/model",
        "/metrics",
        "/classify",
        "/embed",
        "/attention",
        "/preprocess",
        "/nothing",
        "/v2",
        "/v2/models/vit-small-tiny-imagenet/ready",
        "/v1/models",
        "/healthz/",
        "/ping/",
        "/v2/health/live/x",
        "//healthz",
        "/docs/../model",
    ],
)
def test_all_other_paths_require_a_key(locked: Server, path: str) -> None:
    answer = ask(locked, post(path, b"x"))
    assert answer.status == 401
    if not path.startswith(("/v1", "/v2")):  # whose errors have another form
        assert answer.json["code"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("key", [KEY, OTHER_KEY, FILED_KEY])
def test_each_key_is_accepted(locked: Server, key: str, cat: bytes) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {key}"}
        assert httpx.post(f"{locked.url}/classify", content=cat, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer x",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY},{OTHER_KEY}",
    ],
)
def test_no_other_credential_is_accepted(locked: Server, value: str) -> None:
    assert httpx.get(f"{locked.url}/model", headers={"Authorization": value}).status_code == 401
    assert httpx.get(f"{locked.url}/model?key={KEY}").status_code == 401


REFUSALS = {
    "none": (None, "requires an API key", "Bearer"),
    "a wrong one": ("Bearer x", "not one of this service's keys", 'Bearer error="invalid_token"'),
    "another scheme": (f"Basic {KEY}", "another scheme than Bearer", "Bearer"),
    "an empty one": ("Bearer", "no key after 'Bearer'", "Bearer"),
}


@pytest.mark.parametrize(("value", "words", "challenge"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_wrong_key_is_told_from_none(locked: Server, value: str | None, words: str, challenge: str) -> None:
    response = httpx.get(f"{locked.url}/model", headers={} if value is None else {"Authorization": value})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, challenge)
    assert words in response.json()["detail"]
    assert KEY not in response.text


def test_a_body_without_a_key_is_not_read(locked: Server) -> None:
    answer = ask(locked, post("/classify", content_length=10**9, expect="100-continue"))
    assert answer.status == 401
    assert answer.closed


def test_only_the_named_origin_may_read(locked: Server) -> None:
    ask_first = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(f"{locked.url}/classify", headers={"Origin": ORIGIN, **ask_first})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    foreign = httpx.options(f"{locked.url}/classify", headers={"Origin": "https://evil.example", **ask_first})
    assert "access-control-allow-origin" not in foreign.headers


def test_without_settings_no_origin_may_read(client: httpx.Client) -> None:
    response = client.get("/healthz", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "server" not in response.headers


def test_no_key_is_logged(locked: Server) -> None:
    log = locked.log.read_text()
    assert not [key for key in (KEY, OTHER_KEY, FILED_KEY) if key in log]


def test_bad_keys_are_reported_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as bad:
        load_settings({"VITRINE_API_KEYS": "se cret", "VITRINE_API_KEYS_FILE": str(tmp_path / "none")})
    assert "cret" not in str(bad.value)


def test_the_log_holds_nothing_that_a_client_sent(strict: Server, cat: bytes) -> None:
    word = "injected-by-a-client"
    for path in (f"/{word}", f"/classify?{word}=1", f"/classify?size={word}"):
        ask(strict, post(path, cat, user_agent=word, x_request_id=f"{word} {word}"))
    form = f'--b\r\ncontent-disposition: form-data; name="{word}"\r\n\r\nx\r\n--b--\r\n'.encode()
    ask(strict, post("/classify", form, content_type="multipart/form-data; boundary=b"))
    ask(strict, post("/classify", b"{", content_type="application/json"))
    assert word not in strict.log.read_text()


def test_nothing_is_ever_fetched(client: httpx.Client) -> None:
    hits: list[str] = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Canary) as canary:
        threading.Thread(target=canary.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{canary.server_port}/x.png"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        for response in (
            client.post("/classify", json={"images": [url]}),
            client.post("/classify", content=svg),
            client.post("/classify", files={"image": ("x.url", url)}),
            client.post("/classify", params={"image_url": url}),
        ):
            assert 400 <= response.status_code < 500
        canary.shutdown()
    assert hits == []


def test_heic_without_the_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(tmp_path / "log") as server:
        response = httpx.post(
            f"{server.url}/classify",
            content=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 12 + b"ispe\0\0\0\0\0\0\0\x40\0\0\0\x40",
        )
        assert (response.status_code, response.json()["code"]) == (415, "format_not_allowed")
        assert "'heic'" in response.json()["detail"]
