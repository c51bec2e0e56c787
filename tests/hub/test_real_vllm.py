"""A real vLLM serves what was exported; runs where the command `vllm` is, or where SAHA_ST_VLLM says.

vLLM wants other versions of torch and transformers than ours, so it lives in an environment of its own:
`SAHA_ST_VLLM=that/bin/vllm pytest -m slow tests/hub/test_real_vllm.py`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from tiny import build_tiny_mllm

from saha_st.hub import verify
from saha_st.hub.export import export_model
from saha_st.hub.parity import write_parity
from saha_st.modules import load_embedder

VLLM = os.environ.get("SAHA_ST_VLLM") or shutil.which("vllm")


@pytest.fixture
def server(tmp_path):
    """Serve a model as it is published; the address, and the folder.

    Not saha-tiny: vLLM's attention on a CPU takes heads of 32, 64, ... dimensions, and its have 40.
    """
    folder = tmp_path / "exported"
    model = load_embedder(str(build_tiny_mllm(tmp_path / "mllm", hidden_size=128)), device="cpu")
    export_model(model, folder)
    write_parity(model, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pooler = '{"pooling_type": "LAST"}'
    command = [VLLM, "serve", str(folder), "--runner", "pooling", "--dtype", "float32", "--pooler-config", pooler]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(tmp_path / "log", "w") as log:
        options = ["--port", str(port), "--max-model-len", "1024", "--enforce-eager"]
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
            yield f"http://127.0.0.1:{port}", folder
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen, log, *, seconds: int = 600) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")


@pytest.mark.slow
@pytest.mark.skipif(VLLM is None, reason="vLLM is not installed")
def test_vllm_serves_the_vectors_that_were_published(server):
    address, folder = server
    found = verify(str(folder), backend="vllm", server=address)
    assert found.is_equal, f"{found.problems}\n{found.hint}"
