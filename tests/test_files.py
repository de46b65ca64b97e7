from __future__ import annotations

import json
from pathlib import Path

import pytest

from score.errors import OutputError
from score.files import save_json


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
