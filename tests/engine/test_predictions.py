from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score.engine import predictions


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    for name in ("image.tif", "label.png"):
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / name)
    files = {"file_name": str(tmp_path / "image.tif"), "sem_seg_file_name": str(tmp_path / "label.png")}
    return [{**files, "height": 8, "width": 8, "image_id": 1, "annotations": []}]


@pytest.mark.parametrize("name", ["image.tif", "label.png"])
def test_other_pixels_are_another_dataset(records: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    before = predictions.fingerprint(records)
    size = (tmp_path / name).stat().st_size
    Image.fromarray(np.full((8, 8), 3, dtype=np.uint8)).save(tmp_path / name)
    assert predictions.fingerprint(records) != before
    assert name != "image.tif" or (tmp_path / name).stat().st_size == size


def test_where_files_lie_and_when_they_were_written_does_not_matter(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("image.tif", "label.png"):
        shutil.copyfile(tmp_path / name, moved / name)
    there = {key: str(moved / Path(records[0][key]).name) for key in ("file_name", "sem_seg_file_name")}
    assert predictions.fingerprint([{**records[0], **there}]) == predictions.fingerprint(records)


def test_other_annotations_are_another_dataset(records: list[dict[str, Any]]) -> None:
    changed = [{**records[0], "annotations": [{"category_id": 0}]}]
    assert predictions.fingerprint(changed) != predictions.fingerprint(records)


def test_code_is_hashed_by_what_it_says() -> None:
    assert predictions.code("model") == predictions.code("model")
    assert len({predictions.code(place) for place in ("model", "evaluation", "names.py", "model/matcher.py")}) == 4
