"""Read the images of a request from its body: multipart, raw or JSON. Nothing is written to disk.

The body is parsed as it arrives. An image whose base64 is invalid is returned as an
ImageProblem in its place in the list; any other error fails the whole request.
"""

import asyncio
import binascii
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.bodies import read_body, receive
from app.errors import ImageProblem, Problem
from app.service import Upload
from app.settings import Settings
from app.wording import shown

# It writes a line for each malformed body, with bytes of the client's; the answer and the line of the request tell it.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

FIELD = "image"
PARAMETERS_HINT = "send parameters in the query string, as in /classify?size=224"
CLASS_HINT = "send each image as a file in a field that has the name of its class (curl -F cat=@cat.png)"
URL_SAFE = str.maketrans("-_", "+/")
DATA_URI = re.compile(r"data:.*;base64", re.IGNORECASE | re.DOTALL)
MAX_COUNTED_NAMES = 64
"""Names of a JSON object that are each searched for in the body."""
DISPOSITION = b"content-disposition"


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """Return the images of a request, in order. Raises Problem."""
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type.startswith(b"multipart/"):
        form = _Form(settings)
        await _read_multipart(request, media_type, options.get(b"boundary", b""), form)
        uploads: list[Upload] = [part.data for part in form.parts]
    elif media_type == b"application/json":
        body = await read_body(request, settings)
        # On a thread: decoding many megabytes of base64 would block the event loop.
        uploads = await asyncio.to_thread(_parse_json, body, settings)
    else:
        body = await read_body(request, settings)
        _refuse_text(body)
        uploads = [body] if body else []
    if not uploads:
        raise Problem(
            "no_image", f"the request has no image; send it as the multipart field {FIELD!r}, as the body, or as JSON"
        )
    check_count(len(uploads), settings)
    return uploads


TEXTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\s*(\{\s*\"|\[\s*[\"{])"), "the body looks like JSON; send it with Content-Type: application/json"),
    (
        re.compile(rb"\s*\"?data:[\w.+-]*/?[\w.+-]*[;,]", re.IGNORECASE),
        'the body is a data: URI; send the file\'s bytes, or JSON: {"images": ["data:..."]}',
    ),
    (
        re.compile(rb"\s*\"?(https?|ftp|file|s3|gs)://\S", re.IGNORECASE),
        "the body is a URL, and URLs are not fetched; send the file's bytes",
    ),
    (
        re.compile(rb"--[^\r\n]{1,70}\r?\n(content-[\w-]+:)", re.IGNORECASE),
        "the body looks like a form; send it with Content-Type: multipart/form-data and its boundary",
    ),
    (
        re.compile(rb"[\w.-]{1,40}=@?[\w./~%-]{1,200}\Z"),
        "the body is a form without a file; send the file as multipart (curl -F image=@cat.png)",
    ),
    (
        re.compile(rb"(iVBORw0KGgo|/9j/[0-9A-Za-z+/]{8}|R0lGOD[dl]h|UklGR[0-9A-Za-z+/]{8})"),
        'the body looks like base64; send the file\'s bytes, or JSON: {"images": ["<base64>"]}',
    ),
)
"""What a raw body may be that is written for another type than it has, and what to do."""


def _refuse_text(body: bytes) -> None:
    """Raise Problem for a body that is text of a known kind, and no file."""
    for pattern, sentence in TEXTS:
        if pattern.match(body[:300]):
            raise Problem("not_an_image", sentence)


def check_count(images: int, settings: Settings) -> None:
    """Raise Problem for more images than one request may have."""
    if images > settings.max_images_per_request:
        raise _too_many(settings)


def _from_base64(text: str) -> Upload:
    """Decode base64, or a `data:` URI of base64: with line breaks, without padding and in its form for URLs as well."""
    head, comma, rest = text.partition(",")
    is_uri = bool(comma and DATA_URI.fullmatch(head))
    encoded = rest if is_uri else text
    try:
        return binascii.a2b_base64(encoded.encode("ascii"), strict_mode=True)
    except ValueError:  # includes binascii.Error and UnicodeEncodeError
        pass
    if is_uri and "%" in encoded:
        encoded = unquote(encoded)  # in a URI, these characters may be written as %2B, %2F and %3D
    plain = "".join(encoded.split()).translate(URL_SAFE).rstrip("=")
    try:
        return binascii.a2b_base64(f"{plain}{'=' * (-len(plain) % 4)}".encode("ascii"), strict_mode=True)
    except ValueError:
        return ImageProblem("bad_base64", f"the string must be base64 or a data: URI of base64; {_mistaken(text)}")


def _mistaken(text: str) -> str:
    """Say what a string is that is no base64."""
    start = text[:64].lstrip().lower()
    if start.startswith(("http://", "https://", "file://", "s3://", "gs://")):
        return "this is a URL, and URLs are not fetched"
    if start.startswith("data:"):
        return "this data: URI is not one of base64"
    return "URLs are not fetched and paths are not read"


async def decode_base64(texts: Sequence[str], settings: Settings) -> list[Upload]:
    """Decode each string on a thread, because many megabytes would block the event loop.

    Raises Problem for too many images.
    """
    check_count(len(texts), settings)
    return await asyncio.to_thread(lambda: [_from_base64(text) for text in texts])


def json_object(body: bytes, hint: str = "") -> dict[str, Any]:
    """Parse a body that must be a JSON object. Raises Problem, whose message ends with `hint`."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed_body", "the body is not valid JSON") from error
    if not isinstance(content, dict):
        raise Problem("malformed_body", f"the body is JSON but not an object{hint}")
    return content


def check_given_once(body: bytes, content: dict[str, Any]) -> None:
    """Raise Problem if the JSON has a member twice, of which parsing has kept one: at the top or in `parameters`.

    Reading JSON a second time is slow for a body of many megabytes, so it is only done where a name may occur twice.
    """
    parameters = content.get("parameters")
    names = [*content, *(parameters if isinstance(parameters, dict) else ())]
    few = len(names) <= MAX_COUNTED_NAMES and b"\\u" not in body
    if few and all(body.count(orjson.dumps(name)) < 2 for name in names):
        return

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise Problem("invalid_parameter", f"the member {shown(name)} is given twice")
            found[name] = value
        return found

    try:
        json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed_body", "the body is not valid JSON") from error


def _parse_json(body: bytes, settings: Settings) -> list[Upload]:
    content = json_object(body, '; send {"images": ["<base64>", ...]}')
    check_given_once(body, content)
    unknown = sorted(set(content) - {"images"})
    if unknown:
        raise Problem("unknown_parameter", f"unknown member {shown(unknown[0])}; {PARAMETERS_HINT}")
    images = content.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Problem("malformed_body", '"images" must be a list of strings, each base64 or a data: URI of base64')
    check_count(len(images), settings)
    return [_from_base64(image) for image in images]


@dataclass(frozen=True)
class Part:
    """A file of a multipart body: the name of its field, its file name (empty if it has none), and its bytes."""

    field: str
    filename: str
    data: bytes


@dataclass
class _Form:
    """Collects the files of a multipart body; its methods are the parser's callbacks.

    named: whether the names of fields and files are kept; else files are taken whatever their field is called.
    """

    settings: Settings
    named: bool = False
    parts: list[Part] = field(default_factory=list)
    ended: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _data: bytearray = field(default_factory=bytearray)
    _names: tuple[str, str] = ("", "")

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
        if self.named:
            if b"filename" not in options:
                raise Problem("unknown_parameter", f"the form field {shown(name)} is no file; {CLASS_HINT}")
            self._names = name, options[b"filename"].decode("utf-8", "replace")
            return
        # Every part with a file name is an image, whatever its field is called. The file name itself is not used.
        if name != FIELD and b"filename" not in options:
            raise Problem("unknown_parameter", f"unknown form field {shown(name)}; {PARAMETERS_HINT}")
        if len(self.parts) == self.settings.max_images_per_request:
            raise _too_many(self.settings)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.parts.append(Part(*self._names, bytes(self._data)))
        self._data = bytearray()

    def on_end(self) -> None:
        self.ended = True


CALLBACKS = [name for name in vars(_Form) if name.startswith("on_")]


async def read_parts(request: Request, settings: Settings) -> list[Part]:
    """Return the files of a multipart body with the names of their fields, in order. Raises Problem."""
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if not media_type.startswith(b"multipart/"):
        raise Problem("malformed_body", f"the body must be multipart/form-data; {CLASS_HINT}")
    form = _Form(settings, named=True)
    await _read_multipart(request, media_type, options.get(b"boundary", b""), form)
    return form.parts


async def _read_multipart(request: Request, media_type: bytes, boundary: bytes, form: _Form) -> None:
    if media_type != b"multipart/form-data":
        raise Problem("malformed_body", "multipart/form-data is the only multipart type that is supported")
    if not boundary:
        detail = "the Content-Type multipart/form-data has no boundary; let the client library set the header"
        raise Problem("malformed_body", detail)
    callbacks = {name: getattr(form, name) for name in CALLBACKS}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a TypedDict of these names
        await receive(request, form.settings, parser.write)
        parser.finalize()
    except FormParserError as error:
        raise Problem("malformed_body", "the body is not valid multipart/form-data") from error
    if not form.ended:
        raise Problem("malformed_body", "the multipart body ended before its closing boundary")


def _too_many(settings: Settings) -> Problem:
    limit = settings.max_images_per_request
    return Problem("too_many_images", f"the request has more than {limit} images, the limit for one request")
