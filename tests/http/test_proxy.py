"""Behind a proxy that publishes the service under a path: one that keeps the path in front, and one that cuts it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.settings import BadSettings, load_settings
from tests.nginx import free_port, nginx, require_nginx
from tests.server import Server, serving

PREFIX = "/vision"
KEY = "a-key"

NGINX = """
events {}
http {
    access_log off;
    server {
        listen PORT;
        location /vision/ {
            proxy_pass http://127.0.0.1:BEHIND_CUT;
            proxy_http_version 1.1;
            proxy_set_header Host $host;  # without the port, as many write it
            HEADER
        }
    }
}
"""
WAYS = {
    "kept": ("", "", {"root_path": PREFIX}),
    "cut": ("/", "", {"root_path": PREFIX}),
    "cut, and told by a header": (
        "/",
        f"proxy_set_header X-Forwarded-Prefix {PREFIX};",
        {"trusted_proxies": "127.0.0.1"},
    ),
    "kept, and told by a header": (
        "",
        f"proxy_set_header X-Forwarded-Prefix {PREFIX};",
        {"trusted_proxies": "127.0.0.1"},
    ),
}


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def outside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service as nginx publishes it."""
    require_nginx()
    cut, header, settings = request.param
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "log", api_keys=KEY, **settings))
        text = NGINX.replace("PORT", str(port)).replace("BEHIND_CUT", f"{server.port}{cut}").replace("HEADER", header)
        (folder / "nginx.conf").write_text(text)
        stack.enter_context(nginx(folder, f"nginx -p {folder} -c {folder}/nginx.conf", port))
        yield f"http://127.0.0.1:{port}"


def test_the_page_and_its_files(outside: str) -> None:
    page = httpx.get(f"{outside}{PREFIX}/")
    assert page.is_success
    assert f'<base href="{PREFIX}/">' in page.text
    (script,) = re.findall(r'src="(static/[\w./-]+\.js)"', page.text)
    assert httpx.get(f"{outside}{PREFIX}/{script}").is_success


def test_swagger_ui_and_its_files(outside: str) -> None:
    page = httpx.get(f"{outside}{PREFIX}/docs")
    addresses = set(re.findall(r"""["'](/[^"']+\.(?:js|css|png|json))["']""", page.text))
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith(f"{PREFIX}/")
        assert httpx.get(f"{outside}{address}").is_success, address
    document = httpx.get(f"{outside}{PREFIX}/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]


def test_a_redirect_keeps_the_prefix(outside: str, cat: bytes) -> None:
    response = httpx.post(
        f"{outside}{PREFIX}/classify/?top_k=2", content=cat, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert (response.status_code, response.headers["location"]) == (307, f"{PREFIX}/classify?top_k=2")
    with httpx.Client(follow_redirects=True, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        answer = client.post(f"{outside}{PREFIX}/classify/?top_k=2", content=cat)
    assert len(answer.json()["results"][0]["predictions"]) == 2


def test_keys_and_error_formats_know_the_path_below_the_prefix(outside: str) -> None:
    assert httpx.get(f"{outside}{PREFIX}/healthz").is_success
    assert httpx.get(f"{outside}{PREFIX}/model").status_code == 401
    assert httpx.get(f"{outside}{PREFIX}/v1/models").json()["error"]["code"] == "unauthorized"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("trusting") / "log"
    with serving(log, trusted_proxies="127.0.0.0/8, ::1") as server:
        yield server


def test_only_a_trusted_proxy_may_name_a_prefix(trusting: Server, client: httpx.Client) -> None:
    headers = {"X-Forwarded-Prefix": "/evil"}
    assert '<base href="/evil/">' in httpx.get(f"{trusting.url}/", headers=headers).text
    assert "/evil" not in client.get("/", headers=headers).text
    assert "/evil" not in client.get("/docs", headers=headers).text


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/a, /b", "/a b", '/"><script>', "x"])
def test_a_prefix_that_is_no_path_is_refused(trusting: Server, prefix: str) -> None:
    response = httpx.get(f"{trusting.url}/", headers={"X-Forwarded-Prefix": prefix})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    assert "evil" not in response.text


@pytest.mark.parametrize("value", ["vision", "//vision", "/a b", "https://x.example/vision"])
def test_a_root_path_that_is_no_path_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(BadSettings) as bad:
        load_settings({"VITRINE_ROOT_PATH": value})
    assert "must be a path that begins with a slash" in str(bad.value)


def test_a_slash_at_the_end_of_the_root_path_is_no_matter(tmp_path: Path) -> None:
    with serving(tmp_path / "log", root_path=f"{PREFIX}/") as server:
        assert f'<base href="{PREFIX}/">' in httpx.get(f"{server.url}{PREFIX}/").text
        assert f"{PREFIX}/static-offline-docs" in httpx.get(f"{server.url}/docs").text
