from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from score.errors import OutputError
from score.files import append_line, json_lines, save_json, sha256, write_text, write_whole


def test_json_round_trip(tmp_path: Path) -> None:
    metrics = {"AP": None, "AP50": 1 / 3, "name": "Straße"}
    path = tmp_path / "new" / "metrics.json"
    save_json(path, metrics)
    assert json.loads(path.read_text(encoding="utf-8")) == metrics
    assert "NaN" not in path.read_text()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    save_json(path, {"AP": 1})
    with pytest.raises(ValueError):
        save_json(path, {"AP": float("nan")})
    assert json.loads(path.read_text()) == {"AP": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]


def test_json_into_a_file_as_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        save_json(tmp_path / "file" / "metrics.json", {})


def test_a_line_that_a_full_disk_cuts_off_is_told_and_gone(tmp_path: Path, disk_full: Callable[[int], None]) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, '{"image": "Straße"}')
    disk_full(40)
    with pytest.raises(OutputError, match=rf"cannot write {path} \(File too large\); free some space"):
        append_line(path, '{"image": "another one of them"}')
    assert list(json_lines(path)) == [{"image": "Straße"}]


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    write_whole(tmp_path / "model.safetensors", lambda partial: save_file({"a": torch.zeros(1)}, partial))
    write_text(tmp_path / "text", "as open() would")
    write_text(tmp_path / "text", "and again")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf8f01cfea")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_: pytest.fail("read again"))
        assert sha256(path).startswith("ba7816bf8f01cfea")
    path.write_bytes(b"abd")
    assert not sha256(path).startswith("ba7816bf8f01cfea")
