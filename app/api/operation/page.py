"""GET /: the playground, a page of static files that sends requests only to this service."""

import hashlib
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from string import Template

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse

from app.errors import Problem

FILES = Path(__file__).parent.parent.parent / "page"
EXAMPLES = FILES.parent.parent / "examples"

# Listed here, because `mimetypes` depends on the machine, and browsers refuse to run a module with another type.
TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".md": "text/plain",
}

HEADERS = {
    # Allow only the page's own files, and images that the page creates (data: and blob: URLs).
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

CACHED_PAGES = 8
"""Pages that are kept, one for each path under which a proxy publishes the service."""

EXAMPLE = Template(
    '<li><button type="button" title="$name" data-path="examples/$file">'
    '<img src="static/examples/$file" alt=""><span>$name</span></button></li>'
)
DOCS = '<a href="docs">API</a>'


def install(app: FastAPI, *, docs: bool) -> None:
    """Serve the page and its files. Only files that exist now are served, so no path can reach another file."""
    files = {path.name: path for path in FILES.iterdir()}
    files |= {f"examples/{path.name}": path for path in EXAMPLES.glob("*") if path.suffix in TYPES}
    render = lru_cache(CACHED_PAGES)(partial(_render, files, docs=docs))

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        response = HTMLResponse(render(request.scope["root_path"]), headers=HEADERS)
        response.headers["ETag"] = f'"{hashlib.blake2b(bytes(response.body), digest_size=12).hexdigest()}"'
        return _unless_known(request, response)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise Problem("not_found", "the page has no file with this name")
        path = files[name]
        response = FileResponse(path, headers=HEADERS, media_type=TYPES.get(path.suffix), stat_result=path.stat())
        return _unless_known(request, response)


def _unless_known(request: Request, response: Response) -> Response:
    """Return the response, or 304 if the client has the same already (RFC 9110, 13.2.2)."""
    if tags := request.headers.get("if-none-match"):
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        same = "*" in known or response.headers["ETag"] in known
    else:
        since = request.headers.get("if-modified-since")
        same = since is not None and since == response.headers.get("Last-Modified")
    return NotModifiedResponse(response.headers) if same else response


def _render(files: dict[str, Path], root_path: str, *, docs: bool) -> str:
    """Fill in the page's template: the path prefix, the link to the API docs, the example images."""
    names = sorted(path.name for name, path in files.items() if name.startswith("examples/") and path.suffix != ".md")
    examples = "".join(EXAMPLE.substitute(file=escape(name), name=escape(Path(name).stem)) for name in names)
    base = f'<base href="{escape(root_path)}/">' if root_path else ""
    return Template(files["index.html"].read_text(encoding="utf-8")).substitute(
        base=base, docs=DOCS if docs else "", examples=examples
    )
