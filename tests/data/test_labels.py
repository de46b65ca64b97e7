"""Semantic datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from score.data import catalog
from score.data.labels import UNLABELLED, read_folders, read_labels
from score.data.mapper import TrainMapper
from score.errors import DataError


def write(folder: Path, names: list[str], size: tuple[int, int] = (20, 16)) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((size[1], size[0]), np.uint8)).save(folder / name)


def test_images_meet_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "images", ["b.jpg", "a.png"])
    write(tmp_path / "labels", ["a.png", "b.png", "c.png"])
    records = read_folders(tmp_path / "images", tmp_path / "labels", 2)
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
        read_folders(tmp_path / "images", tmp_path / "labels", 2)
    write(tmp_path / "labels", ["a.png"])
    with pytest.raises(DataError, match=r"no b.png \(1 of 2 are missing\)"):
        read_folders(tmp_path / "images", tmp_path / "labels", 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        read_folders(tmp_path / "empty", tmp_path / "labels", 2)


def test_a_semantic_set_of_the_protocol_is_read(tmp_path: Path) -> None:
    write(tmp_path / "semantic/potsdam/val/images", ["a.png"])
    write(tmp_path / "semantic/potsdam/val/labels", ["a.png"])
    catalog.register(tmp_path)
    assert MetadataCatalog.get("potsdam_val").evaluator_type == "sem_seg"
    assert catalog.load("potsdam_val")[0]["sem_seg_file_name"].endswith("potsdam/val/labels/a.png")
    with pytest.raises(DataError, match="no such folder"):
        catalog.load("floodnet_val")


def test_label_images_are_read(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    grey, palette = Image.fromarray(labels), Image.fromarray(labels).convert("P")
    palette.putpalette([7] * 768)
    for picture in (grey, palette):
        picture.save(tmp_path / "labels.png")
        assert read_labels(tmp_path / "labels.png", 3, (2, 3)).tolist() == [[0, 1, 2], [-1, 1, 0]]


@pytest.mark.parametrize("mode", ["1", "I;16", "I"])
def test_label_images_of_any_depth_are_read(mode: str, tmp_path: Path) -> None:
    labels = np.array([[0, 1], [1, 0]])
    Image.fromarray(labels.astype({"1": bool, "I;16": np.uint16, "I": np.int32}[mode])).save(tmp_path / "labels.tif")
    assert read_labels(tmp_path / "labels.tif", 2, (2, 2)).tolist() == [[0, 1], [1, 0]]


def test_255_counts_for_no_class_however_many_there_are(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 3]], dtype=np.uint8)).save(tmp_path / "labels.png")
    assert read_labels(tmp_path / "labels.png", 300, (1, 2)).tolist() == [[-1, 3]]


@pytest.mark.parametrize("values", [np.array([[0.5]], dtype=np.float32), np.array([[-1]], dtype=np.int32)])
def test_labels_that_are_no_numbers_of_classes_are_refused(values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "labels.tif")
    with pytest.raises(DataError, match="below 0 or no whole numbers"):
        read_labels(tmp_path / "labels.tif", 1, (1, 1))


def test_label_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    with pytest.raises(DataError, match=r"labels\.png: no such image"):
        read_labels(path, 1, (2, 2))
    Image.fromarray(np.full((2, 2), 5, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"labels\.png: label 5, but there are 2 classes"):
        read_labels(path, 2, (2, 2))
    with pytest.raises(DataError, match="shape"):
        read_labels(path, 6, (2, 3))
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="shape"):
        read_labels(path, 1, (2, 2))


@pytest.fixture
def halves(tmp_path: Path) -> dict[str, Any]:
    """An image whose left half is the class 2, with a strip of 0 below and a corner without label."""
    labels = np.full((16, 20), UNLABELLED, dtype=np.uint8)
    labels[:, :10], labels[12:, :] = 2, 0
    write(tmp_path / "images", ["a.png"])
    write(tmp_path / "labels", [])
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    name = catalog.custom_maps(tmp_path / "images", tmp_path / "labels", ["road", "car", "field"])
    [record] = catalog.load(name)
    return record


def test_each_class_of_a_label_image_is_one_target(halves: dict[str, Any]) -> None:
    mapped = TrainMapper(size=20, scale=(1.0, 1.0), flip=0.0)(halves)["instances"]
    assert mapped.gt_classes.tolist() == [0, 2]
    road, field = mapped.gt_masks.tensor
    assert road.sum() == 4 * 20 and road[12:16].all()
    assert field.sum() == 12 * 10 and field[:12, :10].all()  # and nothing in the padding below


def test_label_images_are_augmented_with_their_images(halves: dict[str, Any]) -> None:
    flipped = TrainMapper(size=20, scale=(1.0, 1.0), flip=1.0)(halves)["instances"]
    assert flipped.gt_masks.tensor[1, :12, 10:].all()
    large = TrainMapper(size=20, scale=(2.0, 2.0), flip=0.0, seed=1)
    areas = [[int(mask.sum()) for mask in large(halves)["instances"].gt_masks.tensor] for _ in range(9)]
    assert len({tuple(pair) for pair in areas}) > 1  # crops differ
    assert max(sum(pair) for pair in areas) <= 400
    whole = TrainMapper(size=40, scale=(1.0, 1.0), flip=0.0)(halves)["instances"].gt_masks.tensor
    assert whole.sum((1, 2)).tolist() == [4 * 4 * 20, 4 * 12 * 10]


@pytest.mark.parametrize("classes", [3, 300])
def test_label_images_are_turned_with_their_images_and_say_what_is_unlabelled(
    halves: dict[str, Any], classes: int
) -> None:
    labels = np.asarray(Image.open(halves["sem_seg_file_name"]))
    Image.fromarray(np.dstack([labels] * 3)).save(halves["file_name"])  # the image shows its labels
    mapper, shapes = TrainMapper(size=20, scale=(1.0, 1.0), image_pad=7, turns=True, ignore=True, seed=2), set()
    for _ in range(32):
        mapped = mapper({**halves, "classes": classes})
        shown = mapped["image"][0]
        assert torch.equal(mapped["ignore"], shown == UNLABELLED)
        for label, mask in zip(mapped["instances"].gt_classes, mapped["instances"].gt_masks.tensor, strict=True):
            assert torch.equal(mask, shown == label)
        shapes.add(shown.numpy().tobytes())
    assert len(shapes) == 8


def test_a_label_that_is_no_class_is_found_in_training(halves: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"a\.png: label 2, but there are 2 classes and 255"):
        TrainMapper(size=20)({**halves, "classes": 2})


def test_names_of_ones_own_maps_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="duplicate class name in its classes: 'road'"):
        catalog.custom_maps(tmp_path, tmp_path, ["road", "Road"])
