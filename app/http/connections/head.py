"""Check the head of a request for what a proxy in front might read differently (RFC 9112, 3.2, 6.1 and 6.3)."""

import re
from collections.abc import Sequence

from app.errors import Problem
from app.wording import shown

HOST = re.compile(rb"([A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(:\d{0,5})?")


def head_problem(http_version: str, headers: Sequence[tuple[bytes, bytes]]) -> Problem | None:
    """Return the problem of a head; None if there is none.

    Args:
        http_version: such as "1.1".
        headers: the names in lower case, with their values.
    """
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and any(name == b"content-length" for name, _ in headers):
        # A proxy may use the other one: request smuggling.
        return Problem("malformed_request", "the request has both a Content-Length and a Transfer-Encoding")
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        given = shown(b", ".join(codings).decode("latin-1"))
        detail = f"the Transfer-Encoding {given} is not supported; send chunked alone, or a Content-Length"
        return Problem("unsupported_transfer_encoding", detail)
    if sum(name == b"content-length" for name, _ in headers) > 1:
        return Problem("malformed_request", "the request has more than one Content-Length")
    hosts = [value.strip() for name, value in headers if name == b"host"]
    return _host_problem(http_version, hosts)


def _host_problem(http_version: str, hosts: Sequence[bytes]) -> Problem | None:
    if not hosts and http_version == "1.1":
        return Problem("malformed_request", "the request has no Host header")
    if len(hosts) > 1:
        return Problem("malformed_request", "the request has more than one Host header")
    if hosts and not HOST.fullmatch(hosts[0]):
        return Problem("malformed_request", "the Host header must be a name or an address, with or without a port")
    return None


def refused_head_problem(data: bytes) -> Problem | None:
    """Return the problem of a head that the parser refuses, if it is one that has a sentence of its own.

    Args:
        data: what has arrived last, which is the whole head in nearly all cases.
    """
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    headers = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in lines)]
    return head_problem("", headers)
