"""A model as it is published, and a loopback Hub in place of the real one, for this process and for its children."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub.loopback_hub import WRITER, LoopbackHub


@pytest.fixture(scope="session")
def exported(_embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny MLLM as it is published; never written to by a test."""
    from saha_st.hub.export import export_model
    from saha_st.hub.parity import write_parity

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(_embedder, folder)
    write_parity(_embedder, folder)
    return folder


@pytest.fixture
def changed(exported: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may change."""
    return Path(shutil.copytree(exported, tmp_path / "changed"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty Hub with an empty cache, and somebody logged in who may write to ``org``.

    huggingface_hub has read its environment by now, so its constants are changed; children read the environment.
    """
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http, close_session

    with LoopbackHub() as server:
        home = tmp_path / "hf-home"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # the loopback Hub speaks LFS
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(_http, "time", _NoWaiting())
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        close_session()  # it remembers proxies
        yield server
        close_session()
    assert not server.errors, "\n".join(server.errors)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish without the check in a clean process, which takes seconds; some tests have it."""
    from saha_st.hub.engines import Comparison

    passed = Comparison("query: text", "sentence-transformers", 1.0, None, 1e-5)
    monkeypatch.setattr("saha_st.hub.publishing.check_in_clean_process", lambda *args: (passed,))


@pytest.fixture
def logged_out(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to go on without a token."""
    return lambda: monkeypatch.delenv("HF_TOKEN")


@pytest.fixture
def stranger(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has nothing: no token, no cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    settings = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | settings | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "strangers-home")}


class _NoWaiting:
    """In place of ``time`` where huggingface_hub waits before it tries again."""

    def __getattr__(self, name: str) -> object:
        import time

        return (lambda seconds: None) if name == "sleep" else getattr(time, name)
