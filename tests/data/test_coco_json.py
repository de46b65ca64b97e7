"""Every fault of a dataset gets its own line, when the dataset is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from score.data import catalog, coco_json
from score.errors import DataError

Write = Callable[..., tuple[Path, Path]]
NAMES = ("ship", "storage_tank")


def test_categories_match_by_normalised_name_not_by_position() -> None:
    categories = [{"id": 7, "name": "Storage-Tank"}, {"id": 0, "name": "SHIP"}]
    assert coco_json.match_categories(categories, NAMES, Path("a.json"), "a.yaml") == {7: 1, 0: 0}


def test_differing_categories_are_listed() -> None:
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "aeroplane"}]
    message = r"a\.json: categories differ from a\.yaml: it lacks 'storage_tank'; it has besides 'aeroplane'; make"
    with pytest.raises(DataError, match=message):
        coco_json.match_categories(categories, NAMES, Path("a.json"), "a.yaml")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1}], "without id or name"),
        ([{"id": 1, "name": "ship"}, {"id": 2, "name": "Ship"}], "more than once: 'ship'"),
        ([{"id": 1, "name": "ship"}, {"id": 1, "name": "storage tank"}], "two categories with one id"),
        ([], "no class names"),
    ],
)
def test_faulty_categories(categories: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        coco_json.match_categories(categories, NAMES, Path("a.json"), "a.yaml")


def test_a_long_difference_is_cut() -> None:
    categories = [{"id": i, "name": f"class {i}"} for i in range(30)]
    with pytest.raises(DataError, match="and 18 more"):
        coco_json.match_categories(categories, NAMES, Path("a.json"), "a.yaml")


def test_missing_json_names_the_folder_that_lacks_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no such annotation file; in {tmp_path} there is no nwpu"):
        coco_json.read_coco(tmp_path / "nwpu" / "val" / "instances_val.json")


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"a\.json: cannot be read as JSON"):
        coco_json.read_coco(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"a\.json: not a COCO JSON, it has no list of images"):
        coco_json.read_coco(tmp_path / "a.json")


FAULTS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no annotations", lambda c: c["annotations"].clear(), "no annotations at all"),
    ("image without width", lambda c: c["images"][0].pop("width"), "image 0 has no 'width'"),
    ("annotation without image", lambda c: c["annotations"][0].pop("image_id"), "annotation 0 has no 'image_id'"),
    ("two images, one id", lambda c: c["images"][1].update(id=0), "2 images with the id 0"),
    ("two images, one file", lambda c: c["images"][1].update(file_name="0.png"), "2 images with the file_name 0.png"),
    ("two annotations, one id", lambda c: c["annotations"][1].update(id=0), "2 annotations with the id 0"),
    ("unknown image", lambda c: c["annotations"][1].update(image_id=9), "annotation 1 is of image 9, which is not"),
    ("unknown category", lambda c: c["annotations"][0].update(category_id=9), "annotation 0 is of category 9, which"),
    ("no mask", lambda c: c["annotations"][0].pop("segmentation"), "annotation 0 has no bbox or no segmentation"),
    ("odd polygon", lambda c: c["annotations"][0]["segmentation"][0].pop(), "no list of an even number of coordinates"),
    ("flat polygon", lambda c: c["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]), "no list of an even"),
    ("no number", lambda c: c["annotations"][0]["segmentation"][0].__setitem__(1, "a"), "no list of an even number"),
    ("endless", lambda c: c["annotations"][0]["segmentation"][0].__setitem__(1, float("nan")), "no list of an even"),
    ("negative area", lambda c: c["annotations"][0].update(area=-1), "annotation 0 has the area -1"),
    ("listed id", lambda c: c["images"][0].update(id=[0]), r"image number 0 has the id \[0\]"),
    ("foreign RLE", lambda c: c["annotations"][1]["segmentation"].update(size=[60, 40]), "RLE of another size"),
    ("missing file", lambda c: c["images"][1].update(file_name="2.png"), r"2\.png: no such image \(1 of 2 are missing"),
    ("size in header", lambda c: c["images"][0].update(height=41), r"0\.png: the image has 60x40 pixels, its .* 60x41"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_fault_is_found_on_loading(write_coco: Write, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    json, images = write_coco(change)
    with pytest.raises(DataError, match=message) as caught:
        catalog.load(catalog.custom(json, images))
    assert "\n" not in str(caught.value)


def test_missing_folder_of_images(write_coco: Write, tmp_path: Path) -> None:
    json, _ = write_coco()
    with pytest.raises(DataError, match=rf"pictures: no such folder of images; in {tmp_path} there is no pictures"):
        catalog.load(catalog.custom(json, tmp_path / "pictures"))


def test_image_that_is_none(write_coco: Write) -> None:
    json, images = write_coco()
    (images / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.png: cannot be read as an image"):
        catalog.load(catalog.custom(json, images))


def test_images_in_subfolders(write_coco: Write) -> None:
    json, images = write_coco(lambda coco: coco["images"][0].update(file_name="deep/0.png"))
    (images / "deep").mkdir()
    Image.new("RGB", (60, 40)).save(images / "deep" / "0.png")
    assert len(catalog.load(catalog.custom(json, images))) == 2
