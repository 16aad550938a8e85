"""Images out of a request's body: multipart, raw or JSON -> a list of bytes, in order. Nothing touches the disk.

The body is parsed as it arrives, under a limit of bytes and a deadline. An item that is not even bytes (bad base64)
takes its place in the list as the problem that it is; whatever else is wrong concerns the whole request.
"""

import asyncio
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import ImageProblem, Problem
from app.pictures.prepared import Upload
from app.settings import Settings

FIELD = "image"
WHERE_PARAMETERS_GO = "parameters go into the query, as in /classify?size=224"
DATA_URI = re.compile(r"data:.*;base64", re.IGNORECASE | re.DOTALL)
DISPOSITION = b"content-disposition"


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request. Raises Problem."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind.startswith(b"multipart/"):
        uploads = await _multipart(request, kind, options.get(b"boundary", b""), settings)
    else:
        body = await read_body(request, settings)
        # Decoding many megabytes of base64 would hold up the loop.
        uploads = await asyncio.to_thread(_json, body, settings) if kind == b"application/json" else [body]
    if not uploads or (kind != b"application/json" and uploads == [b""] and not kind.startswith(b"multipart/")):
        raise Problem(
            "no_image", f"the request has no image; send it as the multipart field {FIELD!r}, as the body or as JSON"
        )
    check_count(len(uploads), settings)
    return uploads


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body as it is, within the limits. Raises Problem."""
    body = bytearray()  # not a list of chunks: who sends many small ones must not take more memory
    await _receive(request, settings, body.extend)
    return bytes(body)


def check_count(images: int, settings: Settings) -> None:
    """Raises Problem for more images than one request may have."""
    if images > settings.max_images_per_request:
        raise _too_many(settings)


def from_base64(text: str) -> Upload:
    """The bytes behind base64 or a `data:` URI of it."""
    head, comma, rest = text.partition(",")
    try:
        encoded = rest if comma and DATA_URI.fullmatch(head) else text
        return binascii.a2b_base64(encoded.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are of its kind
        return ImageProblem("bad_base64", "this string is no base64 and no data: URI of it; URLs are not fetched")


async def from_texts(texts: Sequence[str], settings: Settings) -> list[Upload]:
    """The bytes behind each text; decoding many megabytes would hold up the loop. Raises Problem for too many."""
    check_count(len(texts), settings)
    return await asyncio.to_thread(lambda: [from_base64(text) for text in texts])


async def _receive(request: Request, settings: Settings, take: Callable[[bytes], object]) -> None:
    """Hand the body on in the chunks that it arrives in.

    Raises Problem for one that is too large, which a declared length tells at once, or does not arrive by the deadline.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        detail = f"the body has the Content-Encoding {encoding[:100]!r}; send it as it is"
        raise Problem("format_not_allowed", detail)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_upload_bytes:
        raise _too_large(settings)
    # The server knows when the first byte came; under another one the body alone has so long.
    deadline = request.scope["state"].get("receive_deadline")
    received, more = 0, True
    try:
        async with asyncio.timeout_at(deadline or asyncio.get_running_loop().time() + settings.receive_timeout_s):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    # Nobody will read this; it ends the handler.
                    raise Problem("malformed_body", "the client left before the body was complete")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                received += len(chunk)
                if received > settings.max_upload_bytes:
                    raise _too_large(settings)
                take(chunk)
    except TimeoutError as error:
        allowed = f"the request did not arrive whole within {settings.receive_timeout_s:g} s"
        raise Problem("too_slow", allowed) from error


def json_object(body: bytes, instead: str = "") -> dict[str, Any]:
    """The object that a JSON body holds; `instead` goes on to say what to send. Raises Problem."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed_body", "the body is not valid JSON") from error
    if not isinstance(content, dict):
        raise Problem("malformed_body", f"the body is JSON but no object{instead}")
    return content


def _json(body: bytes, settings: Settings) -> list[Upload]:
    content = json_object(body, '; send {"images": ["<base64>", ...]}')
    unknown = sorted(set(content) - {"images"})
    if unknown:
        raise Problem("unknown_parameter", f"unknown member {unknown[0][:100]!r}; {WHERE_PARAMETERS_GO}")
    images = content.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Problem("malformed_body", '"images" must be a list of strings of base64, or data: URIs of it')
    check_count(len(images), settings)
    return [from_base64(image) for image in images]


@dataclass
class _Form:
    """The parts of a multipart body, gathered by the parser's callbacks."""

    settings: Settings
    uploads: list[Upload] = field(default_factory=list)
    ended: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _data: bytearray = field(default_factory=bytearray)

    def on_part_begin(self) -> None:
        self._disposition = b""
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == DISPOSITION:
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        # Any part with a file name counts as an image; the name itself is never used.
        if name != FIELD and b"filename" not in options:
            raise Problem("unknown_parameter", f"unknown form field {name[:100]!r}; {WHERE_PARAMETERS_GO}")
        if len(self.uploads) == self.settings.max_images_per_request:
            raise _too_many(self.settings)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.uploads.append(bytes(self._data))
        self._data = bytearray()

    def on_end(self) -> None:
        self.ended = True


CALLBACKS = [name for name in vars(_Form) if name.startswith("on_")]


async def _multipart(request: Request, kind: bytes, boundary: bytes, settings: Settings) -> list[Upload]:
    if kind != b"multipart/form-data":
        raise Problem("malformed_body", "of the multipart types only multipart/form-data is understood")
    form = _Form(settings)
    callbacks = {name: getattr(form, name) for name in CALLBACKS}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a TypedDict of these names
        await _receive(request, settings, parser.write)
        parser.finalize()
    except FormParserError as error:
        raise Problem("malformed_body", "the body is not valid multipart/form-data") from error
    if not form.ended:
        raise Problem("malformed_body", "the multipart body ended before its closing boundary")
    return form.uploads


def _too_large(settings: Settings) -> Problem:
    most = settings.max_upload_bytes
    return Problem("body_too_large", f"the body is larger than {most} bytes, the most that is allowed")


def _too_many(settings: Settings) -> Problem:
    most = settings.max_images_per_request
    return Problem("too_many_images", f"the request has more than {most} images, the most that is allowed")
