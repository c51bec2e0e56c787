"""A server that answers as vLLM does, with transformers behind it: enough of its API for `saha-st verify`.

As there, the generation prompt is left out unless asked for, the task is empty unless given, and token ids hold one
token for an image.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor


@contextmanager
def serve(
    folder: Path,
    *,
    api_key: str | None = None,
    dtype: str = "auto",
    answers: Mapping[str, bytes] = MappingProxyType({}),
    chat_template: str | None = None,
    pooling: str = "LAST",
    normalizes: bool = True,
    embeds_with_task: bool = True,
    **forced: object,
) -> Iterator[str]:
    """Serve a model; yields the address.

    What a wrong server would do: ``answers`` are given instead of its own, by path; ``forced`` replaces keys of every
    request; another ``chat_template`` or ``pooling``, no normalisation; the task in tokens but not in vectors, as a
    vLLM that takes no ``chat_template_kwargs`` for embeddings.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    processor.chat_template = chat_template or processor.chat_template
    image_token = model.config.image_token_id

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "served"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | forced
            if api_key and self.headers.get("Authorization") != f"Bearer {api_key}":
                self.answer({"error": "Unauthorized"}, 401)
                return
            assert body["model"] == "served"
            if self.path == "/v1/embeddings" and not embeds_with_task:
                body.pop("chat_template_kwargs", None)
            features = processor.apply_chat_template(
                [
                    {**message, "content": [as_part(part) for part in message["content"]]}
                    for message in body["messages"]
                ],
                add_generation_prompt=body.get("add_generation_prompt", False),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **body.get("chat_template_kwargs", {}),
            )
            if self.path == "/tokenize":
                ids = features["input_ids"][0].tolist()
                runs = [(token, list(run)) for token, run in groupby(ids)]
                self.answer({"tokens": [t for token, run in runs for t in (run[:1] if token == image_token else run)]})
            else:
                assert self.path == "/v1/embeddings"
                with torch.inference_mode():
                    states = model(**features).last_hidden_state[0].float()  # (tokens, dim)
                hidden = states[-1] if pooling == "LAST" else states.mean(dim=0)
                vector = torch.nn.functional.normalize(hidden, dim=0) if normalizes else hidden
                self.answer({"data": [{"embedding": vector.tolist()}]})

        def answer(self, values: dict, status: int = 200) -> None:
            data = answers.get(self.path, json.dumps(values).encode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def as_part(part: dict) -> dict:
    if part["type"] == "text":
        return part
    data = part["image_url"]["url"].split("base64,")[1]
    return {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")}
