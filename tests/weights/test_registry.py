"""The towers' weights: fetched from a hub that runs here, verified, looked into."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch

import score
from score.errors import ConfigError, OutputError, WeightsError
from score.model.towers.lite import LiteTower
from score.model.towers.tiny import TinyTower
from score.weights import registry
from score.weights.smoke import smoke

TOWERS = Path(score.__file__).parent.parent / "configs" / "tower"
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SETTINGS = {"architecture": "RN50", "quick_gelu": True, "precision": "fp32"}


@dataclass
class Hub:
    """A hub on this machine: what it serves, what was asked of it, and where it hangs up, once."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = DIGEST
    ranges: list[str] = field(default_factory=list)
    cut: int | None = None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the tests' own setting
    huggingface_hub.close_session()
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self, body: bool) -> None:
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if body and wanted.startswith("bytes=") else 0
            if body:
                state.ranges.append(wanted)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", f'"{state.etag}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if body:
                self.wfile.write(content[start : state.cut])
                state.cut = None

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def do_GET(self) -> None:
            self._serve(body=True)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
    huggingface_hub.close_session()


def tower(**changes: object) -> registry.Published:
    facts = {
        "name": "mine", "file": "ckpt/tower.pt", "repository": "https://huggingface.co/nobody/tower",
        "licence": "MIT", "megabytes": 1, "sha256": None, "archive": None, "settings": SETTINGS,
    }  # fmt: skip
    return registry.Published(**{**facts, **changes})  # type: ignore[arg-type]


def test_every_tower_is_known() -> None:
    known = registry.read(TOWERS)
    assert {"convnext_large", "remoteclip_vitl14", "remoteclip_vitb32", "remoteclip_rn50"} <= set(known)
    for item in known.values():
        assert item.licence and item.settings["architecture"] in open_clip.list_models()
    with pytest.raises(ConfigError, match="no weights remoteclip; there are convnext_large, "):
        registry.choose(known, "remoteclip")


def test_fetching(hub: Hub, tmp_path: Path) -> None:
    hub.files["/nobody/tower/resolve/main/ckpt/tower.pt"] = CONTENT
    path = registry.fetch(tower(), tmp_path, hub.address)
    assert path == tmp_path / "tower.pt" and path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["tower.pt"]
    asked = len(hub.ranges)
    assert registry.fetch(tower(sha256=DIGEST), tmp_path, hub.address) == path
    assert len(hub.ranges) == asked  # what is there is not fetched again
    assert tower().find(tmp_path) == path


def test_a_download_goes_on_where_it_was_cut_off(hub: Hub, tmp_path: Path) -> None:
    hub.files["/tower.zip"] = archive({"run/checkpoints/epoch_20.pt": CONTENT})
    (tmp_path / registry.STAGING).mkdir()
    (tmp_path / registry.STAGING / "tower.partial").write_bytes(hub.files["/tower.zip"][:1000])
    path = registry.fetch(tower(archive=f"{hub.address}/tower.zip", sha256=DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT
    assert hub.ranges == ["bytes=1000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["tower.pt"]


@pytest.mark.parametrize("where", ["hub", "registry"])
def test_another_file_is_refused(hub: Hub, tmp_path: Path, where: str) -> None:
    hub.files["/nobody/tower/resolve/main/ckpt/tower.pt"] = CONTENT
    hub.etag = "0" * 64 if where == "hub" else DIGEST
    with pytest.raises(WeightsError, match="has the SHA-256 .* instead of 0000000000000000"):
        registry.fetch(tower(sha256=None if where == "hub" else "0" * 64), tmp_path, hub.address)
    assert not list(tmp_path.iterdir())


def test_one_s_own_file_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "tower.pt").write_bytes(b"mine")
    with pytest.raises(WeightsError, match="another file, or damaged"):
        registry.fetch(tower(sha256=DIGEST), tmp_path)
    assert (tmp_path / "tower.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("members", "line"),
    [({"a/epoch_19.pt": b"x"}, "holds 0 files epoch_20.pt"), (None, "is no zip archive")],
)
def test_archives_of_something_else(hub: Hub, tmp_path: Path, members: dict[str, bytes] | None, line: str) -> None:
    hub.files["/tower.zip"] = archive(members) if members else b"no archive"
    with pytest.raises(WeightsError, match=line):
        registry.fetch(tower(archive=f"{hub.address}/tower.zip"), tmp_path)
    assert not (tmp_path / "tower.pt").exists()


def test_without_a_network_the_file_to_bring_is_named(hub: Hub, tmp_path: Path) -> None:
    line = "bring https://huggingface.co/nobody/tower/resolve/main/ckpt/tower.pt and put it into"
    with pytest.raises(WeightsError, match=line):  # the hub answers 404
        registry.fetch(tower(), tmp_path, hub.address)
    with pytest.raises(WeightsError, match=f"{line}"):
        registry.fetch(tower(), tmp_path, "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(WeightsError, match="its epoch_20.pt as tower.pt"):
        registry.fetch(tower(archive="http://127.0.0.1:9/tower.zip"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        registry.fetch(tower(), tmp_path / "file" / "folder")


def test_a_file_opens_as_the_tower_that_it_is(tmp_path: Path) -> None:
    vision = {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    architecture = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "tiny_published.json").write_text(json.dumps(architecture))
    open_clip.add_model_config(tmp_path / "tiny_published.json")
    clip = open_clip.create_model("tiny_published", force_quick_gelu=True)
    torch.save({"state_dict": {f"module.{k}": v.half() for k, v in clip.state_dict().items()}}, tmp_path / "tower.pt")
    opened = tower(settings={**SETTINGS, "architecture": "tiny_published"}).tower(tmp_path / "tower.pt")
    assert opened.embed_dim == 24
    torch.testing.assert_close(opened.clip.visual.conv1.weight, clip.visual.conv1.weight.half().float())
    assert registry.stored_type(tmp_path / "tower.pt") == "float16"


def test_smoke_tells_a_tower_that_works_from_one_that_does_not() -> None:
    good, random = smoke(LiteTower()), smoke(TinyTower(embed_dim=32))
    assert good.words >= 0.5 and good.regions >= 0.9
    assert random.words <= 0.3 and random.regions <= 0.25


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        for name, data in members.items():
            content.writestr(name, data)
    return file.getvalue()
