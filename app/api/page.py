"""GET /: the playground, a page of plain files that asks this service alone."""

from html import escape
from pathlib import Path
from string import Template
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "page"
EXAMPLES = FILES.parent.parent / "examples"
PICTURES = {".png", ".jpg"}

HEADERS = {
    # Nothing but our own files, and pictures that the page makes itself.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

EXAMPLE = Template(
    '<li><button type="button" title="$name" data-path="examples/$file">'
    '<img src="static/examples/$file" alt=""><span>$name</span></button></li>'
)
DOCS = '<a href="docs">API</a>'


class _Files(StaticFiles):
    """Files under the page's policy."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or 304."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def install(app: FastAPI, *, docs: bool) -> None:
    """Serve the page and its files. It is written once, for what there is here: documentation, examples."""
    files = sorted(path.name for path in EXAMPLES.glob("*") if path.suffix in PICTURES)
    examples = "".join(EXAMPLE.substitute(file=escape(name), name=escape(Path(name).stem)) for name in files)
    template = Template((FILES / "index.html").read_text(encoding="utf-8"))
    page = template.substitute(docs=DOCS if docs else "", examples=examples)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(page, headers=HEADERS)

    if files:
        app.mount("/static/examples", _Files(directory=EXAMPLES), name="examples")
    app.mount("/static", _Files(directory=FILES), name="static")
