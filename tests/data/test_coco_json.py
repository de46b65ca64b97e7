"""Faults of files as a whole, and categories; those of entries stand in tests/cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score import masks
from score.data import catalog, coco_json
from score.errors import DataError

Write = Callable[..., tuple[Path, Path]]
NAMES = ("ship", "storage_tank")


def coco(names: dict[coco_json.Id, str]) -> coco_json.Coco:
    return coco_json.Coco(Path("a.json"), names)


def test_categories_match_by_normalised_name_not_by_position() -> None:
    assert coco_json.match(coco({7: "Storage-Tank", 0: "SHIP"}), NAMES, "a.yaml") == {7: 1, 0: 0}


def test_differing_categories_are_listed() -> None:
    message = r"a\.json: categories differ from a\.yaml: it lacks 'storage_tank'; it has besides 'aeroplane'; make"
    with pytest.raises(DataError, match=message):
        coco_json.match(coco({1: "ship", 2: "aeroplane"}), NAMES, "a.yaml")


def test_a_long_difference_is_cut() -> None:
    with pytest.raises(DataError, match="and 18 more"):
        coco_json.match(coco({i: f"class {i}" for i in range(30)}), NAMES, "a.yaml")


def test_missing_json_names_the_folder_that_lacks_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no such annotation file; in {tmp_path} there is no nwpu"):
        coco_json.read(tmp_path / "nwpu" / "val" / "instances_val.json", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "cannot be read as JSON"),
        ("[1, 2]", "not a COCO JSON, it has no list of images"),
        ("[" * 200_000, "cannot be read as JSON"),
        ('{"images": [], "annotations": [{}], "categories": []}', "no class name in its categories"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        coco_json.read(tmp_path / "a.json", tmp_path).require()


def test_missing_folder_of_images(write_coco: Write, tmp_path: Path) -> None:
    json, _ = write_coco()
    with pytest.raises(DataError, match=rf"pictures: no such folder of images; in {tmp_path} there is no pictures"):
        catalog.custom(json, tmp_path / "pictures")


def test_image_that_is_none(write_coco: Write) -> None:
    json, images = write_coco()
    (images / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.png: cannot be read as an image"):
        catalog.custom(json, images)


def test_images_in_subfolders(write_coco: Write) -> None:
    json, images = write_coco(lambda coco: coco["images"][0].update(file_name="deep/0.png"))
    (images / "deep").mkdir()
    Image.new("RGB", (60, 40)).save(images / "deep" / "0.png")
    assert len(catalog.load(catalog.custom(json, images))) == 2


def test_a_file_is_read_once_until_it_changes(write_coco: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    json, images = write_coco()
    read: list[Path] = []
    reader = coco_json._Reader
    monkeypatch.setattr(coco_json, "_Reader", lambda path, *rest: read.append(path) or reader(path, *rest))
    name = catalog.custom(json, images)
    for _ in range(3):
        catalog.load(name)
    assert read == [json]
    json.write_text(json.read_text().replace("ship", "boat"))
    assert catalog.custom(json, images) != name
    assert read == [json, json]
    Image.new("RGB", (61, 40)).save(images / "1.png")
    with pytest.raises(DataError, match="61x40 pixels, its annotations say 60x40"):
        catalog.custom(json, images)


def test_what_is_written() -> None:
    assert coco_json.categories(["ship"]) == [{"id": 1, "name": "ship"}]
    [rle] = masks.encode(np.eye(8, dtype=bool)[None])
    assert coco_json.annotation(rle, 1) == {
        "category_id": 1, "bbox": [0, 0, 8, 8], "area": 8, "iscrowd": 0, "segmentation": rle
    }  # fmt: skip
