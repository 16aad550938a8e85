"""A file that the browser has already is answered with 304, and without a body."""

import httpx
import pytest

PATHS = ["/", "/static/main.js", "/static/examples/cat.png", "/static-offline-docs/swagger-ui.css"]


@pytest.mark.parametrize("path", PATHS)
def test_what_the_client_has_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        if known == "*" and "offline" in path:
            continue  # starlette's own files
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == tag
        assert "content-length" not in again.headers
        assert again.headers.get("cache-control") == first.headers.get("cache-control")
    assert client.head(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("path", PATHS[1:])
def test_the_time_of_a_file_is_as_good(client: httpx.Client, path: str) -> None:
    modified = client.get(path).headers["last-modified"]
    assert client.get(path, headers={"If-Modified-Since": modified}).status_code == 304
    assert client.get(path, headers={"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}).status_code == 200
    both = {"If-Modified-Since": modified, "If-None-Match": '"other"'}
    assert client.get(path, headers=both).status_code == 200


def test_the_connection_goes_on_after_304(client: httpx.Client) -> None:
    for _ in range(3):
        tag = client.get("/static/main.js").headers["etag"]
        assert client.get("/static/main.js", headers={"If-None-Match": tag}).status_code == 304
    assert client.get("/healthz").json() == {"status": "ok"}
