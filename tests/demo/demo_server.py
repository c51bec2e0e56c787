"""The demo as a visitor meets it: a process of its own, started like the Space, with secrets in its environment."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx

REPOSITORY = Path(__file__).parents[2]
SECRET = "hf_canaryThatNobodyMayEverRead"
_TELLING = re.compile(
    r'Traceback|File "|site-packages|dist-packages|\b[A-Z]\w+(Error|Exception|Warning)\b(?!":)'
    + f"|{SECRET}|{re.escape(str(REPOSITORY))}|{re.escape(sys.prefix)}|{re.escape(str(Path.home()))}/"
)


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Run `spaces_demo/app.py` in an empty folder until the block ends; its uploads and vectors are in there, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("work", "uploads", "tmp"):
        (folder / name).mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "SAHA_DEMO_"))}
    environment |= {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "SAHA_DEMO_CACHE": str(folder / "vectors"),
        "TMPDIR": str(folder / "tmp"),
        "HF_TOKEN": SECRET,
        "MALLOC_ARENA_MAX": "64",  # as on a machine of eight cores: every thread may keep what it frees
    }
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, str(REPOSITORY / "spaces_demo" / "app.py")]
        process = subprocess.Popen(command, cwd=folder / "work", env=environment, stdout=log, stderr=log)
    server = Server(f"http://127.0.0.1:{port}", process, folder)
    try:
        server.wait()
        yield server
    finally:
        process.kill()
        process.wait()


class Server:
    """A running demo."""

    def __init__(self, url: str, process: subprocess.Popen, folder: Path) -> None:
        self.url, self.process, self.folder = url, process, folder

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def memory(self, *, peak: bool = False) -> int:
        """Bytes that the process holds, or held at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status)[1])

    def written(self) -> set[str]:
        """Every file but uploads, caches and the log, with its size: below the server, the package, and the Space."""
        folders = (self.folder, REPOSITORY / "saha_st", REPOSITORY / "spaces_demo")
        files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
        ours = (self.folder / "uploads", self.folder / "log.txt")
        return {
            f"{file} {file.stat().st_size}"
            for file in files
            if file.suffix != ".pyc" and not any(file.is_relative_to(own) for own in ours)
        }

    def wait(self) -> None:
        for _ in range(240):
            assert self.process.poll() is None, self.log
            try:
                if httpx.get(self.url, timeout=5).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise TimeoutError(self.log)


class Visitor:
    """Talks to the demo over HTTP. No answer that it gets may tell anything about the machine."""

    def __init__(self, server: Server, session: str = "visitor") -> None:
        self.server, self.session = server, session
        # no connection is used twice: the server closes one when it refuses what is still being sent
        self._http = httpx.Client(base_url=server.url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        self._said = ""  # may come back
        self.events = {event["api_name"]: event["id"] for event in self._http.get("/config").json()["dependencies"]}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as it is written: the path is not normalised."""
        url = httpx.URL(self.server.url).copy_with(raw_path=path.encode())
        response = self._http.request(method, url, **options)
        self._check(response, path + unquote(path))
        return response

    def post(self, path: str, content: Any) -> httpx.Response:
        """Post JSON: text and bytes as they are."""
        body = content if isinstance(content, str | bytes) else json.dumps(content)
        self._said = str(content)
        return self.request("POST", path, content=body, headers={"content-type": "application/json"})

    def upload(self, *files: tuple[str, bytes]) -> httpx.Response:
        """Upload files, each a name and its content."""
        return self.request("POST", "/gradio_api/upload", files=[("files", file) for file in files])

    def uploaded(self, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
        """Upload files, and what a client then sends for each."""
        return [file_data(path) for path in self.upload(*files).json()]

    def call(self, endpoint: str, *data: Any) -> Any:
        """Call an endpoint; a refusal is a `str`, with what the visitor reads."""
        return self.ask(endpoint, {"data": data})

    def ask(self, endpoint: str, content: Any) -> Any:
        """Call an endpoint with any content at all."""
        accepted = self.post(f"/gradio_api/call/{endpoint}", content)
        if not accepted.is_success:
            return accepted.text
        answer = self.request("GET", f"/gradio_api/call/{endpoint}/{accepted.json()['event_id']}").text
        kind, content = re.findall(r"event: (complete|error)\ndata: (.*)", answer)[-1]
        content = json.loads(content)
        return content[0] if kind == "complete" else _message(content)

    def event(self, name: str, *data: Any) -> Any:
        """Trigger an event of the page, which programs are not meant to, in the visitor's session."""
        body = {"fn_index": self.events[name], "data": data, "session_hash": self.session}
        accepted = self.post("/gradio_api/queue/join", body)
        if not accepted.is_success:
            return accepted.text
        answer = self.request("GET", f"/gradio_api/queue/data?session_hash={self.session}").text
        done = next(m for m in map(json.loads, re.findall("data: (.*)", answer)) if m["msg"] == "process_completed")
        return done["output"]["data"] if done["success"] else _message(done["output"])

    def _check(self, response: httpx.Response, sent: str) -> None:
        if "javascript" in response.headers.get("content-type", ""):
            return
        for told in _TELLING.finditer(response.text):
            around = response.text[max(0, told.start() - 200) : told.end() + 200]
            assert told[0] in sent + self._said, f"{response.url} tells {told[0]!r}: …{around}…"


def file_data(path: Any, **more: Any) -> dict[str, Any]:
    """A file as gradio's clients name it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def _message(output: Any) -> str:
    return str((output or {}).get("error") or "refused without a word")
