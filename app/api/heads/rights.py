"""Who may write heads, and on which condition: keys, origins, If-Match and If-None-Match."""

import re

from fastapi import Request

from app.errors import Problem
from app.heads.store import Condition
from app.http.keys import unauthorized
from app.settings import Settings

TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')


def refusal(request: Request, settings: Settings) -> Problem | None:
    """Return why this request may not write heads; None if it may."""
    try:
        check_may_write(request, settings)
    except Problem as problem:
        return problem
    return None


def check_may_write(request: Request, settings: Settings) -> None:
    """Raise Problem unless this request may write heads. Call it before the body is read."""
    if settings.admins:
        if not request.scope["state"].get("admin"):
            if settings.keys:
                raise Problem("forbidden", "this API key may not write heads; an admin's key may (admin_keys)")
            raise unauthorized(request.headers)
    elif settings.keys:
        raise Problem("heads_off", "writing heads is off: API keys are set, and no admin's key (admin_keys)")
    elif settings.heads is None and not settings.allow_heads:
        raise Problem("heads_off", "writing heads is off; the settings heads, allow_heads or admin_keys turn it on")
    _check_origin(request, settings)


def _check_origin(request: Request, settings: Settings) -> None:
    """Raise Problem for a request that a browser sends for another site's page: a form needs no leave to be sent."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    shared = "*" in settings.cors_origins or origin in settings.cors_origins
    if site in ("cross-site", "same-site") and not shared:
        raise Problem("forbidden", "pages of other origins may not write heads (cors_origins)")


def condition_of(request: Request) -> Condition | None:
    """Return the condition of a write by its headers; None if there is none. Raises Problem for one that is no ETag."""
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is None and none_match is None:
        return None
    wanted = _tags("If-Match", match) if match is not None else None
    unwanted = _tags("If-None-Match", none_match) if none_match is not None else None

    def holds(version: str | None) -> bool:
        if wanted is not None and not _among(version, wanted):
            return False
        return unwanted is None or not _among(version, unwanted)

    return holds


def etag(version: str) -> str:
    """Return the ETag of a version."""
    return f'"{version}"'


def _among(version: str | None, tags: set[str]) -> bool:
    return version is not None and ("*" in tags or version in tags)


def _tags(header: str, value: str) -> set[str]:
    if value.strip() == "*":
        return {"*"}
    found = [TAG.fullmatch(part) for part in value.split(",")]
    if not all(found):
        raise Problem("invalid_parameter", f'the header {header} must be * or ETags in quotes, as in "3-9f2c41d07a15"')
    return {match[1] for match in found if match}
