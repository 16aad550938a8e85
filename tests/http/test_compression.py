"""Compressed bodies are read within the limits of plain ones, and JSON answers are compressed for who asks."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.errors import Problem
from app.http.headers.coding import Decoding, coding_of
from app.http.headers.quality import qualities
from tests.faults.wire import Answer, ask, forget_peak, peak_bytes, post
from tests.http.test_bodies import FORM, part
from tests.routes import texts
from tests.server import Server

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 2**20  # the limit of the `strict` server


def bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def streamed_zstd(data: bytes, window_log: int = 23) -> bytes:
    """A frame that declares this window and no length, as a client sends it that does not know the length."""
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return stream.compress(data) + stream.flush()


SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00note"  # a frame that decodes to nothing (RFC 8878, 3.1.2)

CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP": ("GZIP", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "gzip in two members": ("gzip", lambda data: gzip.compress(data[:500]) + gzip.compress(data[500:])),
    "gzip with padding": ("gzip", lambda data: gzip.compress(data) + bytes(100)),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
    "zstd": ("zstd", zstd.compress),
    "ZSTD": ("ZSTD", zstd.compress),
    "zstd of the strongest usual level": ("zstd", lambda data: zstd.compress(data, 19)),
    "zstd with the largest window": ("zstd", streamed_zstd),
    "zstd in two frames": ("zstd", lambda data: zstd.compress(data[:500]) + streamed_zstd(data[500:])),
    "zstd with a frame to skip": ("zstd", lambda data: SKIPPED + zstd.compress(data) + SKIPPED),
    "identity": ("Identity", bytes),
    "none": ("", bytes),
    "identity twice": ("identity, identity", bytes),
}


def compressed(data: bytes, coding: str, encode: Callable[[bytes], bytes], **headers: object) -> bytes:
    return post("/classify", encode(data), content_encoding=coding, **headers)


@pytest.mark.parametrize(("coding", "encode"), CODINGS.values(), ids=CODINGS.keys())
def test_a_body_is_decoded(strict: Server, espresso: bytes, coding: str, encode: Callable[[bytes], bytes]) -> None:
    plain = ask(strict, post("/classify", espresso)).json["results"]
    body = json.dumps({"images": texts([espresso])}).encode()
    for answer in (
        ask(strict, compressed(espresso, coding, encode)),
        ask(strict, compressed(body, coding, encode, content_type="application/json")),
        ask(strict, compressed(part(espresso) + b"--b--\r\n", coding, encode, content_type=FORM)),
    ):
        assert answer.status == 200, answer.json
        assert answer.json["results"] == plain


def test_the_other_protocols_decode_too(client: httpx.Client, cat: bytes) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    body = gzip.compress(json.dumps({"model": "vit-small-tiny-imagenet", "input": texts([cat])}).encode())
    assert client.post("/v1/embeddings", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "dcz", "deflate, gzip", "zstd, gzip", "compress", "aes128gcm", "x" * 300])
def test_another_coding_is_refused_with_those_that_are_read(strict: Server, cat: bytes, encoding: str) -> None:
    answer = ask(strict, post("/classify", cat, content_encoding=encoding))
    assert (answer.status, answer.json["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert "gzip, deflate or zstd, or none" in answer.json["detail"]


def broken(answer: Answer) -> str:
    assert (answer.status, answer.json["code"]) == (400, "malformed_body")
    detail: str = answer.json["detail"]
    return detail


def test_a_broken_coding_is_told(strict: Server, cat: bytes) -> None:
    whole = gzip.compress(cat)
    assert "ended early" in broken(ask(strict, post("/classify", whole[:-20], content_encoding="gzip")))
    assert "not valid gzip" in broken(ask(strict, post("/classify", cat, content_encoding="gzip")))
    assert "not valid gzip" in broken(ask(strict, post("/classify", whole + b"more", content_encoding="gzip")))
    damaged = whole[:1000] + b"\xff" * 100 + whole[1100:]
    assert "gzip" in broken(ask(strict, post("/classify", damaged, content_encoding="gzip")))
    assert "goes on" in broken(ask(strict, post("/classify", zlib.compress(cat) + b"x", content_encoding="deflate")))
    assert ask(strict, post("/classify", b"", content_encoding="gzip")).json["code"] == "no_image"


def test_broken_zstd_is_told(strict: Server, cat: bytes) -> None:
    whole = zstd.compress(cat, options={zstd.CompressionParameter.checksum_flag: 1})
    for body in (whole[:-20], whole[:-1], whole[:3], whole + whole[:100]):
        assert "zstd body ended early" in broken(ask(strict, post("/classify", body, content_encoding="zstd")))
    other_sum = whole[:-1] + bytes([whole[-1] ^ 1])
    for body in (cat, whole + b"more", whole + bytes(100), other_sum, gzip.compress(cat)):
        assert "not valid zstd" in broken(ask(strict, post("/classify", body, content_encoding="zstd")))
    for nothing in (b"", SKIPPED, zstd.compress(b"")):
        assert ask(strict, post("/classify", nothing, content_encoding="zstd")).json["code"] == "no_image"


def test_zstd_that_needs_a_larger_window_is_refused_before_it_takes_the_memory(strict: Server) -> None:
    data = bytes(MIB // 2)
    assert ask(strict, post("/classify", streamed_zstd(data, 23), content_encoding="zstd")).status == 415  # no image
    forget_peak(strict)
    before = peak_bytes(strict)
    for window_log in (24, 27, 31):
        small = streamed_zstd(data, window_log)
        assert len(small) < 1000
        detail = broken(ask(strict, post("/classify", small, content_encoding="zstd")))
        assert "window of more than 8 MiB; compress it at level 19" in detail
    assert peak_bytes(strict) < before + 4 * MIB


def test_zstd_with_a_dictionary_is_refused(strict: Server, cat: bytes) -> None:
    samples = [b"%d and some more, %d" % (number, number * 7919) for number in range(2000)]
    small = zstd.compress(cat, zstd_dict=zstd.train_dict(samples, 2000))
    detail = broken(ask(strict, post("/classify", small, content_encoding="zstd")))
    assert detail == "the zstd body needs a dictionary; compress it without one"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_the_parts_of_a_body_are_counted(strict: Server, cat: bytes, coding: str) -> None:
    encode = CODINGS[coding][1]
    empty, whole = encode(b""), encode(cat)
    assert ask(strict, post("/classify", 4095 * empty + whole, content_encoding=coding)).status == 200
    detail = broken(ask(strict, post("/classify", 4096 * empty + whole, content_encoding=coding)))
    assert f"the {coding} body has more than 4096 parts" in detail


@pytest.mark.parametrize(("coding", "encode"), list(CODINGS.values())[:-3], ids=list(CODINGS)[:-3])
def test_a_body_is_decoded_that_arrives_byte_by_byte(coding: str, encode: Callable[[bytes], bytes]) -> None:
    data = bytes(range(251)) * 10
    name = coding_of(coding)
    assert name
    decoding = Decoding(name)
    pieces = [piece for byte in encode(data) for piece in decoding.pieces(bytes([byte]))]
    decoding.end()
    assert b"".join(pieces) == data


def test_one_byte_of_deflate_ended_early() -> None:
    decoding = Decoding("deflate")
    assert list(decoding.pieces(zlib.compress(b"")[:1])) == []
    with pytest.raises(Problem, match="ended early"):
        decoding.end()


@pytest.mark.parametrize("encode", [zstd.compress, streamed_zstd])
@pytest.mark.parametrize("size", [1, 7, 2**17, MIB, 4 * MIB, 4 * MIB + 1])
def test_zstd_is_decoded_however_it_arrives(size: int, encode: Callable[[bytes], bytes]) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    whole = encode(data[:size]) + encode(data[:size])
    for step in (1, 5, len(whole)):
        decoding = Decoding("zstd")
        pieces = [piece for at in range(0, len(whole), step) for piece in decoding.pieces(whole[at : at + step])]
        decoding.end()
        assert b"".join(pieces) == 2 * data[:size]
        assert max(map(len, pieces)) <= MIB


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "zstd with the largest window"])
def test_a_bomb_is_too_large_and_takes_little_memory(strict: Server, coding: str) -> None:
    name, encode = CODINGS[coding]
    small = encode(bytes(200 * MIB))
    assert len(small) < MIB
    forget_peak(strict)
    before = peak_bytes(strict)
    answer = ask(strict, post("/classify", small, content_encoding=name))
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert peak_bytes(strict) < before + 16 * MIB


def test_the_limit_is_that_of_the_decoded_body(strict: Server) -> None:
    assert ask(strict, compressed(bytes(MIB), "gzip", gzip.compress)).status == 415
    assert ask(strict, compressed(bytes(MIB + 1), "gzip", gzip.compress)).status == 413
    assert ask(strict, compressed(bytes(MIB), "zstd", zstd.compress)).status == 415
    assert ask(strict, compressed(bytes(MIB + 1), "zstd", zstd.compress)).status == 413


def test_a_body_that_decodes_to_nothing_has_a_limit_too(strict: Server) -> None:
    empty_blocks = b"\x00\x00\x00\xff\xff" * (MIB // 5 + 1)
    answer = ask(
        strict,
        post("/classify", content_length=None, transfer_encoding="chunked", content_encoding="deflate"),
        b"%x\r\n" % len(empty_blocks) + empty_blocks + b"\r\n0\r\n\r\n",
    )
    assert answer.status == 413


def raw(client: httpx.Client, path: str, accept: str, **request: Any) -> tuple[httpx.Response, bytes]:
    """Return the response and its body as it was sent."""
    headers = {"Accept-Encoding": accept, **request.pop("headers", {})}
    with client.stream("POST" if request else "GET", path, headers=headers, **request) as response:
        return response, b"".join(response.iter_raw())


ASKED = {"gzip": "gzip", "deflate": "deflate", "gzip;q=0.5, deflate": "deflate", "*": "gzip", "GZIP, br": "gzip"}


@pytest.mark.parametrize(("accept", "coding"), ASKED.items())
def test_a_json_answer_is_compressed_for_who_asks(client: httpx.Client, cat: bytes, accept: str, coding: str) -> None:
    response, body = raw(client, "/embed", accept, content=cat)
    assert response.headers["content-encoding"] == coding
    assert "Accept-Encoding" in response.headers["vary"]
    assert int(response.headers["content-length"]) == len(body)
    answer = zlib.decompress(body, 32 + zlib.MAX_WBITS)
    assert len(body) < 0.6 * len(answer)
    plain = client.post("/embed", content=cat, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert json.loads(answer) == plain.json()


NOT_ASKED = ["", "br", "identity", "gzip;q=0", "gzip;q=0, *;q=0.1, deflate;q=0", "gzip;q=0.1, identity;q=1"]


@pytest.mark.parametrize("accept", NOT_ASKED)
def test_nobody_else_gets_it_compressed(client: httpx.Client, cat: bytes, accept: str) -> None:
    response, _ = raw(client, "/embed", accept, content=cat)
    assert "content-encoding" not in response.headers


def test_what_is_not_worth_it_is_not_compressed(client: httpx.Client, cat: bytes) -> None:
    npy = {"Accept": "application/x-npy"}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/healthz", {}),
        ("/embed", {"content": cat, "headers": npy}),
        ("/preprocess", {"content": cat}),
    ]
    for path, request in asked:
        response, body = raw(client, path, "gzip", **request)
        assert "content-encoding" not in response.headers
        assert int(response.headers["content-length"]) == len(body)
    response, body = raw(client, "/embed", "gzip, identity;q=0", content=cat, headers=npy)
    assert response.headers["content-encoding"] == "gzip"
    assert zlib.decompress(body, 32 + zlib.MAX_WBITS).startswith(b"\x93NUMPY")


def test_documents_and_head_are_compressed_alike(client: httpx.Client) -> None:
    response, body = raw(client, "/openapi.json", "gzip")
    assert response.headers["content-encoding"] == "gzip"
    assert json.loads(zlib.decompress(body, 32 + zlib.MAX_WBITS))["info"]["title"] == "Vitrine"
    bare = client.head("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert bare.headers["content-encoding"] == "gzip"
    assert int(bare.headers["content-length"]) == len(body)


def test_weights_are_read_as_clients_write_them() -> None:
    assert qualities("gzip;q=0.5, DEFLATE ; Q=1, , br;q=x, *;q=.2") == {"gzip": 0.5, "deflate": 1, "br": 1, "*": 0.2}
    assert qualities("a;q=7, b;q=-1, c;q=nan, a;q=0.1") == {"a": 1, "b": 0, "c": 1}
