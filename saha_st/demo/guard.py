"""A guard in front of the app: no address is fetched on a visitor's behalf, and no request is endless.

Gradio downloads a file that an API caller names by URL, and streams what ``/file=https://…`` names. This demo takes
uploads only, so both are refused here, before gradio sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

from saha_st.demo.limits import MAX_FILE_BYTES, MAX_PICTURES

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_JSON_BYTES = 256 * 2**10
"""Bytes of a request that is no upload."""
MAX_UPLOAD_BYTES = (MAX_PICTURES + 1) * MAX_FILE_BYTES
"""Bytes of an upload, which may hold a whole gallery of a visitor."""

_REMOTE_PATH = re.compile(
    r"/file[=/]+[a-z][a-z0-9+.-]*:|/proxy=|/process_recording|/run-history|/component_server|/deep_link|/dev/reload",
    re.I,
)
_UPLOAD_PATH = re.compile(r"(/gradio_api)?/upload/?")  # as a whole: /run/upload would be a call, with files in it
_ADDRESS = re.compile(r"\s*(//|\\\\|[a-z][a-z0-9+.-]+:)", re.I)  # https:, data:, file:, //host, \\host; not c:


class Guard:
    """ASGI middleware that refuses addresses in place of uploads, and requests that are too large."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(scope["path"])
        if _REMOTE_PATH.search(path):
            await _refuse(send, 403, "There is nothing here for visitors.")
            return
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        if _UPLOAD_PATH.fullmatch(scope["path"]):
            await self.app(scope, _limited(receive, MAX_UPLOAD_BYTES), send)
            return
        body = await _read(receive, MAX_JSON_BYTES)
        if body is None:
            await _refuse(send, 413, "The request is too large.")
        elif names_an_address(body):
            await _refuse(send, 403, "Upload the file; addresses are not fetched.")
        else:
            await self.app(scope, _replay(body, receive), send)


def names_an_address(body: bytes) -> bool:
    """Whether a JSON body holds a file that is named by an address and not by the path of an upload."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False  # gradio answers these itself, and runs nothing
    return any(_ADDRESS.match(str(file["path"])) or _is_data(file.get("url")) for file in _files(content))


def _files(content: Any) -> Iterator[dict[str, Any]]:
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if value.get("path") is not None or _is_data(value.get("url")):
                yield {"path": "", **value}
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _is_data(url: Any) -> bool:
    return isinstance(url, str) and url.lstrip().lower().startswith("data:")


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body of a request; None if it is longer than the limit."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, then what else comes (that the client has gone)."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _limited(receive: Receive, limit: int) -> Receive:
    """Act as if the client had gone as soon as more than the limit has come."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return counted


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
