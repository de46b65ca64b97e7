"""Semantic datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from score.data import catalog
from score.data.labels import read_folders
from score.errors import DataError


def write(folder: Path, names: list[str], size: tuple[int, int] = (20, 16)) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((size[1], size[0]), np.uint8)).save(folder / name)


def test_images_meet_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "images", ["b.jpg", "a.png"])
    write(tmp_path / "labels", ["a.png", "b.png", "c.png"])
    records = read_folders(tmp_path / "images", tmp_path / "labels")
    assert [(Path(r["file_name"]).name, Path(r["sem_seg_file_name"]).name) for r in records] == [
        ("a.png", "a.png"),
        ("b.jpg", "b.png"),
    ]
    assert [(r["image_id"], r["width"], r["height"], r["annotations"]) for r in records] == [
        (1, 20, 16, []),
        (2, 20, 16, []),
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "images", ["a.png", "b.png"])
    with pytest.raises(DataError, match="labels: no such folder"):
        read_folders(tmp_path / "images", tmp_path / "labels")
    write(tmp_path / "labels", ["a.png"])
    with pytest.raises(DataError, match=r"no b.png \(1 of 2 are missing\)"):
        read_folders(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        read_folders(tmp_path / "empty", tmp_path / "labels")


def test_a_semantic_set_of_the_protocol_is_read(tmp_path: Path) -> None:
    write(tmp_path / "semantic/potsdam/val/images", ["a.png"])
    write(tmp_path / "semantic/potsdam/val/labels", ["a.png"])
    catalog.register(tmp_path)
    assert MetadataCatalog.get("potsdam_val").evaluator_type == "sem_seg"
    assert catalog.load("potsdam_val")[0]["sem_seg_file_name"].endswith("potsdam/val/labels/a.png")
    with pytest.raises(DataError, match="no such folder"):
        catalog.load("floodnet_val")
