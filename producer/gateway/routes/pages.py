"""The web page's files and the API's own page: read once, sent with what tells a browser that it has them."""

from __future__ import annotations

import hashlib
import mimetypes
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.methods import reads

FOLDER: Final = Path(__file__).parents[1] / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
"""Browsers refuse scripts and styles of another type; what the system's own table says of them differs."""


class Page:
    """The files of a folder. A name is looked up, never made a path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for path in sorted(folder.glob("*")):
            if path.is_file() and not path.name.startswith("."):
                content = path.read_bytes()
                kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                self._files[path.name] = (content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, name: str, call: Request) -> Response:
        """A file, or 304 for whoever has it. Raises `Problem` 404."""
        found = self._files.get(name)
        if found is None:
            raise Problem(
                HTTPStatus.NOT_FOUND, "no_such_path", "There is nothing at this path.", "See /docs for what there is."
            )
        content, kind, etag = found
        # Asked for again each time, and sent when it is another: a new version is seen at once.
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if etag in call.headers.get("if-none-match", ""):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        return Response(content, media_type=None, headers={**headers, "Content-Type": kind})


def router_of(page: Page) -> APIRouter:
    """The routes of a page's files."""
    router = APIRouter(include_in_schema=False)

    @reads(router, "/")
    async def index(call: Request) -> Response:
        return page.answer("index.html", call)

    @reads(router, "/docs")
    async def docs(call: Request) -> Response:
        return page.answer("docs.html", call)

    @reads(router, "/page/{name}")
    async def file(call: Request, name: str) -> Response:
        return page.answer(name, call)

    return router
