"""The page's server: images in, words asked of them, vectors out; nothing is opened but what was uploaded."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, unquote

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from score.app.upload import FORMATS, OVERVIEW, Limits, RefusedError, Upload
from score.app.uploads import Uploads
from score.errors import ConfigError, ScoreError
from score.geo import maps

if TYPE_CHECKING:
    from score.segmenter import Segmenter

STATIC = Path(__file__).parent / "static"
FILES = {
    "page.css": (STATIC, "text/css"),
    "page.js": (STATIC, "text/javascript"),
    "maplibre-gl.css": (maps.STATIC, "text/css"),
    "maplibre-gl.js": (maps.STATIC, "text/javascript"),
}
SILENCE = 30  # seconds without a byte after which an upload is given up
QUESTION = 2**16  # bytes of any request but an upload
KINDS = {"gpkg": "application/geopackage+sqlite3", "geojson": "application/geo+json", "json": "application/json"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' blob: data:; connect-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def page(segmenter: Segmenter, folder: Path, limits: Limits, host: str = "127.0.0.1") -> FastAPI:
    """The application, for any ASGI server; its end removes ``folder``.

    Args:
        segmenter: the model.
        folder: for what is uploaded; empty.
        limits: of an image, and of how many are kept.
        host: that the server listens at.
    """
    uploads = Uploads(segmenter, folder, limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        uploads.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)  # their pages fetch from elsewhere
    app.state.uploads = uploads
    app.add_middleware(_Guard, host=host)
    app.add_exception_handler(ScoreError, _refused)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _no_such)

    @app.get("/")
    def start() -> Response:
        text = (STATIC / "page.html").read_text(encoding="utf-8")
        return Response(text.replace("{{MEGABYTES}}", f"{limits.megabytes:g}"), media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in FILES:
            raise RefusedError(404, "no such page")
        place, kind = FILES[name]
        return Response((place / name).read_bytes(), media_type=kind)

    @app.post("/images")
    async def bring(request: Request) -> dict[str, Any]:
        upload = uploads.add(unquote(request.headers.get("X-Name", "")))
        try:
            await _receive(request, upload, limits)
            await run_in_threadpool(upload.open, limits)
        except BaseException as error:  # a user who goes away, too
            uploads.drop(upload)
            if isinstance(error, ClientDisconnect):
                raise RefusedError(400, "the upload was broken off") from error
            raise
        uploads.look(upload)
        return {"id": upload.key, **upload.facts()}

    @app.get("/images/{key}")
    def state(key: str) -> dict[str, Any]:
        upload = uploads.get(key)
        told: dict[str, Any] = {"state": upload.state, "error": upload.error, "before": uploads.before(upload)}
        if upload.state == "coming":
            return told
        if (progress := upload.progress) is not None:
            eta = None if progress.done == progress.before else progress.eta
            told |= {"tiles": progress.tiles, "done": progress.done, "seconds": progress.seconds, "eta": eta}
        return {**told, **upload.facts()}

    @app.delete("/images/{key}")
    def forget(key: str) -> dict[str, Any]:
        uploads.drop(uploads.get(key))
        return {}

    @app.get("/images/{key}/overview.jpg")
    def overview(key: str) -> Response:
        try:
            return Response((uploads.get(key).folder / "overview.jpg").read_bytes(), media_type="image/jpeg")
        except FileNotFoundError as error:
            raise RefusedError(404, "the image has not come yet") from error

    @app.get("/images/{key}/part.jpg")
    def part(key: str, x: int, y: int, width: int, height: int, across: int) -> Response:
        upload = uploads.get(key)
        if upload.state == "coming":
            raise RefusedError(409, "the image has not come yet")
        return Response(_part(upload, (x, y, width, height), across), media_type="image/jpeg")

    @app.post("/images/{key}/words")
    def ask(key: str, words: Annotated[Any, Body(embed=True)]) -> dict[str, Any]:
        upload = uploads.get(key)
        return upload.shown(upload.ask(words))

    @app.get("/images/{key}/objects.{suffix}")
    def vectors(
        key: str,
        suffix: str,
        word: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
        hide: Annotated[list[str], Query()] = [],  # noqa: B006
        times: float = 1.0,
    ) -> Response:
        upload = uploads.get(key)
        if suffix not in FORMATS:
            raise ConfigError(f"format={suffix}: there are {', '.join(FORMATS)}")
        content = upload.vectors(upload.ask(word), suffix, times, hide)
        name = quote(f"{Path(upload.name).stem}.{suffix}", safe="")
        return Response(
            content, media_type=KINDS[suffix], headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        )

    return app


async def _receive(request: Request, upload: Upload, limits: Limits) -> None:
    """Write what comes to a file, and stop where it is too much."""
    most = int(limits.megabytes * 1e6)
    too_large = RefusedError(413, f"{upload.name}: larger than {limits.megabytes:g} MB, which is the most taken here")
    if (
        request.headers.get("Content-Length", "0").isdecimal()
        and int(request.headers.get("Content-Length", "0")) > most
    ):
        raise too_large
    size, stream = 0, request.stream()
    with upload.file.open("wb") as file:
        while True:
            try:
                chunk = await asyncio.wait_for(anext(stream), SILENCE)
            except StopAsyncIteration:
                break
            except asyncio.TimeoutError as error:
                raise RefusedError(408, f"{upload.name}: nothing came for {SILENCE} seconds; try again") from error
            size += len(chunk)
            if size > most:
                raise too_large
            file.write(chunk)
    if not size:
        raise RefusedError(400, f"{upload.name}: an empty file")


def _part(upload: Upload, window: tuple[int, int, int, int], across: int) -> bytes:
    """A part of an image as JPEG, so many pixels across, or as many as it has."""
    x, y, width, height = window
    grid = upload.raster.grid
    inside = x >= 0 and y >= 0 and width >= 1 and height >= 1 and x + width <= grid.width and y + height <= grid.height
    if not inside or not 1 <= across <= OVERVIEW:
        raise ConfigError(f"x={x} y={y} width={width} height={height} across={across}: not a part of {upload.name}")
    scale = min(1.0, across / width, OVERVIEW / height)
    pixels, _ = upload.raster.read(window, (max(1, round(height * scale)), max(1, round(width * scale))))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _told(status: int, message: str) -> Response:
    return JSONResponse({"error": " ".join(message.split())[:400]}, status)


def _refused(_: Request, error: Exception) -> Response:
    return _told(error.status if isinstance(error, RefusedError) else 400, str(error))


def _misread(_: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    return _told(400, f"{where}: {first.get('msg', 'not readable')}")


def _no_such(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _told(error.status_code, str(error.detail))


class _Guard:
    """Refuses what another site's page sends through a user's browser, and what is too long for a question.

    A site can let its name point at this machine (DNS rebinding); then the `Host` that the browser sends is that name.
    Or its page sends a request to this address; then the browser says so in `Origin`.

    Args:
        app: what is guarded.
        host: that the server listens at.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], host: str) -> None:
        self.app, self.host = app, host
        self.names = {"localhost", host.lower()}
        if not is_loopback(host):
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        wrong = self._wrong(scope["method"], scope["path"], Request(scope).headers)
        answer = self.app if wrong is None else _told(*wrong)
        await answer(scope, receive, send_with_headers)

    def _wrong(self, method: str, path: str, headers: Any) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._own(host):
            return 421, "this page is not at the address that was asked for; use the one that the program printed"
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "another site's page asked; open this one's own"
        length = headers.get("content-length", "0")
        long = "transfer-encoding" in headers or not length.isdecimal() or int(length) > QUESTION
        if long and (method, path) != ("POST", "/images"):
            return 413, f"a question of more than {QUESTION} bytes"
        return None

    def _own(self, host: str) -> bool:
        """Whether a request meant this server: by address, which no other site can have, or by name."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d+)?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
