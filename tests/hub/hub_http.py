"""HTTP beneath the loopback Hub: routes, requests and answers, and faults that are put in on purpose."""

from __future__ import annotations

import json
import re
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

DROP = 0
"""In place of a status: read half of the request, then close the connection."""


@dataclass
class Fault:
    """What a request is answered with instead; ``times`` is how often, None for always."""

    status: int
    times: int | None = None


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error as the Hub answers it; clients read the headers more than the body."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message.replace("\n", " ")} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(json.dumps({"error": message, **body}).encode(), status, headers)


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(body).encode(), status, {"Content-Type": "application/json"})


@dataclass
class Request:
    """What a route is called with; named groups of its pattern are items."""

    line: str
    query: dict[str, list[str]]
    body: bytes
    headers: Any
    token: str | None
    groups: dict[str, str | None] = field(default_factory=dict)

    def __getitem__(self, group: str) -> str:
        return unquote(self.groups.get(group) or "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def partial(content: bytes, request: Request, headers: dict[str, str]) -> Answer:
    """A file, or the range of it that was asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    if wanted is None:
        return Answer(content, 200, headers)
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first > last:
        return Answer(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
    return Answer(content[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


class Server:
    """Answers requests from ``routes``; use it as a context manager.

    Attributes:
        url: Its address.
        fail: Faults by regular expression, matched against ``METHOD /path``.
        log: The requests so far, as ``METHOD /path``.
        errors: What went wrong in the server itself, and requests that it does not know; empty after a good test.
    """

    routes: list[tuple[re.Pattern[str], Callable[..., Answer]]]
    tokens: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Handler,), {"owner": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock = threading.RLock()
        self.fail: dict[str, Fault] = {}
        self.log: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, request: str) -> Fault | None:
        """Log a request, and return the fault that is due."""
        with self.lock:
            self.log.append(request)
            for pattern, fault in self.fail.items():
                if re.search(pattern, request) and fault.times != 0:
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def respond(self, request: Request) -> Answer:
        if request.token is not None and request.token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        for pattern, function in self.routes:
            if match := pattern.fullmatch(request.line):
                request.groups = match.groupdict()
                with self.lock:
                    return function(self, request)
        self.errors.append(f"{request.line}: unknown to this server")
        raise Refusal(404, "Not Found")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms after its headers
    owner: Server

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        line = f"{self.command} {url.path}"
        fault = self.owner.fault(line)
        if fault and fault.status == DROP:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(line, parse_qs(url.query), self.body(), self.headers, token)
        try:
            if fault:
                raise Refusal(fault.status, f"Told to answer {fault.status}")
            self.send(self.owner.respond(request))
        except Refusal as refusal:
            self.send(refusal.answer)
        except Exception:  # a bug of ours, or a request that was not foreseen
            self.owner.errors.append(f"{line}\n{traceback.format_exc()}")
            self.send(Answer(b"", 500))

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Requests are in ``log``."""
