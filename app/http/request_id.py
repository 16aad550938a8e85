"""The id of a request, in its response, in the log and in every error: the client's own, or a new one."""

import random
import re

# An id is no secret. Asking the operating system for each one would make the event loop wait for the GIL.
_ids = random.Random()  # noqa: S311
_VALID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def request_id(given: bytes = b"") -> str:
    """Return the value of the client's X-Request-ID if it may be logged, else a new id of 32 hexadecimal digits."""
    return given.decode() if _VALID.fullmatch(given) else f"{_ids.getrandbits(128):032x}"
