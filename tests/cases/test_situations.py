"""What is right for each of the situations: read, repaired with a note, left out with a count, or refused in a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import MetadataCatalog

from score import masks
from score.data import catalog, coco_json
from score.data.mapper import TrainMapper
from score.detections import ground_truth
from score.engine.evaluate import register
from score.errors import DataError
from score.evaluation.coco import coco_metrics
from tests.cases.situations import CASES, HEIGHT, WIDTH, Case, every, one, write

READ = {name: case for name, case in CASES.items() if case.refused is None}
REFUSED = {name: case for name, case in CASES.items() if case.refused}


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_read(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    json, images = write(tmp_path / "set", case.change)
    name = catalog.custom(json, images, "case")
    records = catalog.load(name)
    found = {record["image_id"]: ground_truth(record) for record in records}
    assert [item.area for items in found.values() for item in items] == case.areas
    for record in records:  # boxes as the masks', whatever the file says
        for item in record["annotations"]:
            rle = masks.encode_shape(item["segmentation"], HEIGHT, WIDTH)
            assert tuple(item["bbox"]) == pytest.approx(masks.box(rle), abs=1) or not case.note
    names = list(MetadataCatalog.get(name).thing_classes)
    assert coco_metrics(records, found, names, [True] * len(names))["all"]["AP"] == pytest.approx(100)
    assert len(caplog.messages) == bool(case.note), caplog.messages
    assert all(re.search(rf"a\.json: {case.note}", line) and "\n" not in line for line in caplog.messages)
    catalog.load(name)
    assert len(caplog.messages) == bool(case.note)  # said once


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: Case, tmp_path: Path) -> None:
    json, images = write(tmp_path / "set", case.change)
    with pytest.raises(DataError, match=case.refused) as caught:
        catalog.load(catalog.custom(json, images, "case"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "set") in str(caught.value)


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_every_mask_is_learned(case: Case, tmp_path: Path) -> None:
    json, images = write(tmp_path / "set", case.change)
    mapper = TrainMapper(size=96, scale=(1.0, 1.0), flip=0.0)
    mapped = [mapper(record)["instances"] for record in catalog.load(catalog.custom(json, images, "case"))]
    areas = [int(area) for instances in mapped for area in instances.gt_masks.tensor.flatten(1).sum(1)]
    assert areas == case.areas


def test_a_check_has_all_findings(tmp_path: Path) -> None:
    def change(coco: dict[str, Any]) -> None:
        one("annotations", segmentation=None)(coco)
        coco["annotations"][1].update(area="x")
        coco["images"][1].update(file_name="3.png")

    json, images = write(tmp_path / "set", change)
    found = coco_json.check(json, images)
    assert [line.removeprefix(f"{json}: ")[:12] for line in found[1:]] == ["annotation 1", "annotation 2"]
    assert "3.png: no such image" in found[0]
    with pytest.raises(DataError, match=r"\(and 2 more\)$"):
        catalog.custom(json, images)
    assert coco_json.check(tmp_path / "none.json", images) == [
        f"{tmp_path}/none.json: no such annotation file; in {tmp_path} there is no none.json"
    ]


def test_files_outside_are_read_where_that_is_allowed(tmp_path: Path) -> None:
    json, images = write(tmp_path / "set", every("images", file_name=lambda old: f"../images/{old}"))
    with pytest.raises(DataError, match="outside: true"):
        catalog.custom(json, images)
    assert len(catalog.load(catalog.custom(json, images, outside=True))) == 2


def test_ids_of_both_kinds_stay_apart_where_both_occur(tmp_path: Path) -> None:
    def change(coco: dict[str, Any]) -> None:
        coco["categories"][1]["id"] = "1"
        coco["annotations"][1]["category_id"] = "1"

    records = catalog.load(catalog.custom(*write(tmp_path / "set", change)))
    assert [item["category_id"] for record in records for item in record["annotations"]] == [0, 1, 0]


@pytest.mark.parametrize("switch", [{}, {"empty_classes": True}, {"empty_classes": False}])
def test_categories_without_instances_are_not_learned_unless_asked(tmp_path: Path, switch: dict[str, bool]) -> None:
    def change(coco: dict[str, Any]) -> None:
        coco["categories"].insert(0, {"id": 0, "name": "_background_"})
        coco["annotations"].append({**coco["annotations"][0], "id": 4, "category_id": 0, "iscrowd": 1})

    json, images = write(tmp_path / "set", change)
    entry = {"json": str(json), "images": str(images), **switch}
    for learn, asked in ((True, False), (False, True)):
        [name] = register(entry, None, learn=learn)
        names = MetadataCatalog.get(name).thing_classes
        whole = switch.get("empty_classes", asked)
        assert names == ["_background_"] * whole + ["ship", "storage tank"]
        labels = [item["category_id"] for record in catalog.load(name) for item in record["annotations"]]
        assert labels == ([1, 2, 0, 1] if whole else [0, 1, 0])


def test_a_record_is_the_callers_own(tmp_path: Path) -> None:
    name = catalog.custom(*write(tmp_path / "set"))
    first = catalog.load(name)
    first[0]["annotations"][0]["category_id"] = 7
    first[0]["annotations"].clear()
    first.clear()
    assert [len(record["annotations"]) for record in catalog.load(name)] == [2, 1]
