"""The page's real server, in a thread of the test's process, with a model of random weights."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image

import score
from score.app.page import page
from score.app.upload import Limits
from score.app.uploads import Uploads
from tests.tiny_model import tiny_folder


@dataclass
class Served:
    """A server and what is behind it.

    Attributes:
        url: of its page.
        folder: of what is uploaded.
        passes: how often the network ran.
    """

    url: str
    folder: Path
    uploads: Uploads
    segmenter: score.Segmenter
    passes: list[int]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


def tiny_segmenter(folder: Path) -> score.Segmenter:
    sizes = ("input.test.shortest=64", "input.test.longest=96")
    return score.Segmenter.from_pretrained(tiny_folder(folder / "model", ["ship", "plane"], *sizes), "cpu")


@contextmanager
def served(segmenter: score.Segmenter, folder: Path, **limits: Any) -> Iterator[Served]:
    folder.mkdir()
    passes, look = list[int](), segmenter.model.look

    def counted(inputs: Any) -> Any:
        passes.append(len(inputs))
        return look(inputs)

    segmenter.model.look = counted  # type: ignore[method-assign]
    app = page(segmenter, folder, Limits(**limits))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield Served(url, folder, app.state.uploads, segmenter, passes)
        finally:
            server.should_exit = True
            thread.join()
            segmenter.model.look = look  # type: ignore[method-assign]
    assert not folder.exists()  # nothing stays


def png(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def bring(client: httpx.Client, content: bytes, name: str = "scene.png") -> dict[str, Any]:
    """Upload an image, and wait until it was looked at."""
    response = client.post("/images", content=content, headers={"X-Name": name})
    assert response.status_code == 200, response.text
    told = response.json()
    for _ in range(300):
        state = client.get(f"/images/{told['id']}").json()
        if state["state"] in ("ready", "failed"):
            return {**told, **state}
        time.sleep(0.05)
    raise AssertionError(state)


def ask(client: httpx.Client, key: str, *words: str) -> dict[str, Any]:
    response = client.post(f"/images/{key}/words", json={"words": words})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]
