from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from score.data import catalog
from score.data.synthetic import generate as synthetic
from score.errors import DataError

Write = Callable[..., tuple[Path, Path]]


def test_every_dataset_of_the_protocol_is_registered(tmp_path: Path) -> None:
    found = catalog.register(tmp_path)
    counts = {"isaid": 15, "isaid512": 15, "nwpu": 10, "sior": 20, "sota": 18, "fast": 37}
    assert {name: len(spec.classes) for name, spec in found.items() if name in counts} == counts
    for name, spec in found.items():
        for split, files in spec.splits.items():
            metadata = MetadataCatalog.get(f"{name}_{split}")
            assert tuple(metadata.thing_classes) == spec.classes
            assert (metadata.score_name, metadata.score_split) == (name, split)
            whole = "val" if files.part else split  # a part of a set lies in the whole's files
            assert metadata.image_root.endswith(f"{name}/{whole}/images")
            if files.labels:
                assert metadata.evaluator_type == "sem_seg" and metadata.json_file is None
            else:
                assert metadata.json_file.endswith(f"{name}/{whole}/instances_{whole}.json")


@pytest.mark.data
def test_folds_share_a_set_out() -> None:
    catalog.register()
    whole, first, rest = (catalog.load(f"nwpu_{split}") for split in ("val", "fold_train", "fold_val"))
    names = [{record["file_name"] for record in part} for part in (whole, first, rest)]
    assert (len(first), len(rest)) == (520, 130)
    assert names[1] | names[2] == names[0] and not names[1] & names[2]
    assert {a["category_id"] for record in rest for a in record["annotations"]} == set(range(10))


def test_names_are_spelled_as_the_protocol_spells_them() -> None:
    found = catalog.register()
    assert found["isaid"].classes == found["isaid512"].classes
    assert {"storage_tank", "Ground_Track_Field", "Soccer_ball_field", "plane"} <= set(found["isaid"].classes)
    assert {"airplane", "ground_track_field", "vehicle"} <= set(found["nwpu"].classes)
    assert {"golffield", "expressway-toll-station"} <= set(found["sior"].classes)
    assert found["fast"].classes[-1] == "Warship"


def test_synthetic_specs_say_what_the_generator_draws() -> None:
    found = catalog.register()
    assert found["synthetic"].classes == synthetic.SEEN
    assert found["synthetic_shifted"].classes == synthetic.SEEN + synthetic.NOVEL


def test_registering_twice_is_harmless_and_another_root_replaces(tmp_path: Path) -> None:
    catalog.register(tmp_path / "a")
    before = MetadataCatalog.get("nwpu_val")
    catalog.register(tmp_path / "a")
    assert MetadataCatalog.get("nwpu_val") is before
    catalog.register(tmp_path / "b")
    assert MetadataCatalog.get("nwpu_val").json_file == str(tmp_path / "b/nwpu/val/instances_val.json")


def test_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_DATASETS", str(tmp_path))
    catalog.register()
    assert MetadataCatalog.get("nwpu_val").image_root == str(tmp_path / "nwpu/val/images")


def test_no_root_is_an_error_on_loading_only(no_environment: None) -> None:
    catalog.register()
    with pytest.raises(DataError, match="nwpu_val: no root of datasets is set; set SCORE_DATASETS=FOLDER or paths"):
        catalog.load("nwpu_val")


def test_missing_root_and_missing_split(tmp_path: Path) -> None:
    catalog.register(tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"no such annotation file; in {tmp_path} there is no nowhere"):
        catalog.load("nwpu_val")


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    catalog.register(tmp_path)
    DatasetCatalog.register("somebody_elses", list)
    with pytest.raises(DataError, match=r"no dataset nwpu_train; there are .*nwpu_val") as caught:
        catalog.load("nwpu_train")
    assert "somebody_elses" not in str(caught.value)
    assert catalog.require("nwpu_val") == "nwpu_val"


def test_load_gives_detectron2_dicts_and_keeps_id_0(write_coco: Write) -> None:
    json, images = write_coco()
    name = catalog.custom(json, images, "mine")
    assert name == "mine"
    assert MetadataCatalog.get("mine").thing_classes == ["ship", "Storage-Tank"]  # in the order of their ids
    first, second = catalog.load(name)
    assert first["file_name"] == str(images / "0.png")
    assert (first["height"], first["width"], first["image_id"]) == (40, 60, 0)
    assert [item["category_id"] for item in first["annotations"]] == [1]
    assert [item["category_id"] for item in second["annotations"]] == [0]
    assert isinstance(second["annotations"][0]["segmentation"]["counts"], str)


def test_polygons_that_enclose_nothing_are_left_out(write_coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    def change(coco: dict) -> None:
        first, second = coco["annotations"]
        first["segmentation"].append([1.0, 1.0, 2.0, 2.0])
        first.update(area=None, iscrowd=None)
        second["segmentation"] = [[]]

    records = catalog.load(catalog.custom(*write_coco(change), "thin"))
    assert [len(record["annotations"]) for record in records] == [1, 0]
    (item,) = records[0]["annotations"]
    assert len(item["segmentation"]) == 1 and "area" not in item and item["iscrowd"] == 0
    assert "annotations left out, for their masks have no pixels: 1" in caplog.text


def test_custom_names_do_not_collide(write_coco: Write, tmp_path: Path) -> None:
    json, images = write_coco()
    copy = tmp_path / "copy.json"
    copy.write_bytes(json.read_bytes())
    assert catalog.custom(json, images, "mine") == "mine"
    assert catalog.custom(json, images, "mine") == "mine"
    assert catalog.custom(copy, images, "mine") == "mine_2"
    catalog.register(tmp_path)
    assert catalog.custom(json, images, "nwpu_val") == "nwpu_val_2"


def test_synthetic_set_is_drawn_in_the_cache_when_loaded(tmp_path: Path, no_environment: None) -> None:
    settings = {"size": 48, "images": {"train": 6}}
    catalog.register(cache=tmp_path, generate=settings)
    json = Path(MetadataCatalog.get("synthetic_train").json_file)
    assert not json.exists()
    records = catalog.load("synthetic_train")
    assert len(records) == 6
    assert records[0]["width"] == 48
    assert json.is_file()
    assert tmp_path in json.parents


def test_synthetic_set_under_the_root_is_taken(synthetic_root: Path, tmp_path: Path) -> None:
    catalog.register(synthetic_root, cache=tmp_path)
    assert len(catalog.load("synthetic_train")) == 12
    assert not any(tmp_path.iterdir())


def test_unexpected_counts_are_logged(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = (
        (catalog.FOLDER / "synthetic.yaml").read_text().replace("_train.json}", "_train.json, expected: {images: 9}}")
    )
    (tmp_path / "synthetic.yaml").write_text(spec)
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    catalog.register(synthetic_root)
    with caplog.at_level(logging.WARNING):
        catalog.load("synthetic_train")
    assert "synthetic_train: 12 images instead of 9" in caplog.text


@pytest.mark.parametrize("content", ["- a list", "name: x\nclasses: [a]", "name: [", ""])
def test_faulty_spec_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(DataError, match=r"x\.yaml: not a dataset's spec"):
        catalog.read_spec(tmp_path / "x.yaml")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "images", "instances"), [("isaid512_val", 300, 5569), ("nwpu_val", 650, 3921)], ids=["isaid512", "nwpu"]
)
def test_real_data(datasets_root: Path, name: str, images: int, instances: int) -> None:
    catalog.register(datasets_root)
    records = catalog.load(name)
    assert len(records) == images
    assert sum(len(record["annotations"]) for record in records) == instances


@pytest.mark.data
def test_nwpu_classes_have_the_counts_of_its_file(datasets_root: Path) -> None:
    catalog.register(datasets_root)
    names = MetadataCatalog.get("nwpu_val").thing_classes
    found = [item["category_id"] for record in catalog.load("nwpu_val") for item in record["annotations"]]
    counts = {name: found.count(i) for i, name in enumerate(names)}
    assert counts == {
        "airplane": 757, "ship": 298, "storage_tank": 662, "baseball_diamond": 391, "tennis_court": 524,
        "basketball_court": 159, "ground_track_field": 163, "harbor": 239, "bridge": 124, "vehicle": 604,
    }  # fmt: skip
