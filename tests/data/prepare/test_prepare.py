"""From archives to the working layout and back: nothing is lost, moved or invented."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from score.app.command import CONFIGS
from score.data.catalog import load, register
from score.data.prepare import run, sources
from score.data.prepare.parts import Item, Part, Plan
from score.data.prepare.run import Progress, prepare
from score.errors import ConfigError, DataError, OutputError
from tests.data.prepare import archives

SETTINGS: dict[str, Any] = yaml.safe_load((CONFIGS / "commands" / "prepare.yaml").read_text())


def plan(dataset: str, source: Path, **changes: Any) -> Plan:
    return sources.plan(dataset, {**SETTINGS, "source": str(source), **changes})


def truth(folder: Path, split: str) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Class and mask of each object of each image, as a COCO JSON has them."""
    coco = json.loads((folder / split / f"instances_{split}.json").read_text())
    names = {each["id"]: each["name"] for each in coco["categories"]}
    found: dict[str, list[tuple[str, np.ndarray]]] = {each["file_name"]: [] for each in coco["images"]}
    images = {each["id"]: each for each in coco["images"]}
    for each in coco["annotations"]:
        image, shape = images[each["image_id"]], each["segmentation"]
        if isinstance(shape, list):
            shape = coco_mask.merge(coco_mask.frPyObjects(shape, image["height"], image["width"]))
        found[image["file_name"]].append((names[each["category_id"]], coco_mask.decode(shape).astype(bool)))
        assert each["area"] == found[image["file_name"]][-1][1].sum()
    assert [each["id"] for each in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    return found


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_isaid_keeps_every_pixel(tmp_path: Path) -> None:
    archives.isaid(tmp_path / "raw")
    archives.isaid(tmp_path / "raw", ("P0003",), "val")
    archives.save(tmp_path / "raw" / "test" / "images" / "P0009.png", archives.picture())
    summary = prepare(plan("isaid", tmp_path / "raw", tile_size_px=200), tmp_path)
    assert summary.images == {"train": 2, "val": 1} and summary.instances == {"train": 6, "val": 3}
    assert summary.notes == ["P0009: no masks, left out"]
    for name, objects in truth(tmp_path / "isaid", "train").items():
        assert name in ("P0001.png", "P0002.png")
        assert [category for category, _ in objects] == ["ship", "plane", "Harbor"]
        assert all((mask == archives.masks()[category]).all() for category, mask in objects)
    pixels = np.asarray(Image.open(tmp_path / "isaid" / "train" / "images" / "P0002.png"))
    assert (pixels == archives.picture(1)).all()


@pytest.mark.parametrize("size", [200, 50])
def test_isaid_from_its_json_is_as_from_its_masks(tmp_path: Path, size: int) -> None:
    archives.isaid(tmp_path / "raw")
    archives.isaid(tmp_path / "raw", ("P0003",), "val")
    prepare(plan("isaid", tmp_path / "raw", tile_size_px=size), tmp_path / "masks")
    archives.isaid_json(tmp_path / "raw")
    for path in [*(tmp_path / "raw").rglob("*_RGB.png")]:
        path.unlink()
    (tmp_path / "raw" / "test_info.json").write_text('{"images": [], "categories": []}')
    made = plan("isaid", tmp_path / "raw", tile_size_px=size)
    assert made.notes == ["test_info.json: not laid out as iSAID's, left out"]
    summary = prepare(made, tmp_path / "json")
    assert summary.images.keys() == {"train", "val"}
    for split in summary.images:
        before, after = (truth(tmp_path / kind / "isaid", split) for kind in ("masks", "json"))
        assert before.keys() == after.keys()
        for name, objects in before.items():
            x, y = map(int, name.removesuffix(".png").split("_")[1:]) if "_" in name else (0, 0)
            hole = np.zeros(archives.SIZE, bool)
            hole[30:36, 60:64] = True  # of the plane, and filled in the JSON, as there
            for (category, mask), (found, other) in zip(
                sorted(objects, key=str), sorted(after[name], key=str), strict=True
            ):
                height, width = mask.shape
                filled = mask | hole[y : y + height, x : x + width] if category == "plane" else mask
                assert found == category and (other == filled).all()
            assert digest(tmp_path / "masks" / "isaid" / split / "images").keys() >= {name}


def test_isaid_json_with_what_is_none(tmp_path: Path) -> None:
    source = archives.isaid_json(archives.isaid(tmp_path / "raw", ("P0001",)))
    for path in [*source.rglob("*_RGB.png")]:
        path.unlink()
    path = source / "train" / "Annotations" / "iSAID_train.json"
    content = json.loads(path.read_text())
    (source / "val" / "Annotations" / "iSAID_val.json").unlink()
    content["annotations"][0]["segmentation"][0][0] = 2**40
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"P0001\.png: a contour from .* outside of 120x90 pixels"):
        prepare(plan("isaid", source), tmp_path)
    content["images"][0]["width"] = 121
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the image has 120x90 pixels, its annotations say 121x90"):
        prepare(plan("isaid", source), tmp_path / "second")
    path.write_text(path.read_text()[:99])
    with pytest.raises(DataError, match=r"iSAID_train\.json: cannot be read as JSON"):
        plan("isaid", source)
    assert not list(tmp_path.rglob("instances_*.json"))


@pytest.mark.parametrize(("size", "overlap"), [(40, 0), (50, 20), (64, 32)])
def test_tiles_show_what_the_whole_does(tmp_path: Path, size: int, overlap: int) -> None:
    archives.isaid(tmp_path / "raw", ("P0001",))
    made = plan("isaid", tmp_path / "raw", tile_size_px=size, overlap_px=overlap, min_pixels=1)
    summary = prepare(made, tmp_path)
    together = {name: np.zeros(archives.SIZE, bool) for name in archives.BOXES}
    for name, objects in truth(tmp_path / "isaid", "train").items():
        x, y = map(int, name.removesuffix(".png").split("_")[1:])
        tile = np.asarray(Image.open(tmp_path / "isaid" / "train" / "images" / name))
        height, width = tile.shape[:2]
        assert (tile == archives.picture()[y : y + height, x : x + width]).all()
        for category, mask in objects:
            assert (mask == archives.masks()[category][y : y + height, x : x + width]).all()
            together[category][y : y + height, x : x + width] |= mask
    assert all((together[name] == mask).all() for name, mask in archives.masks().items())
    assert summary.dropped.get("objects of fewer than 1 pixels in a tile", 0) == 0


def test_small_parts_are_left_out_and_counted(tmp_path: Path) -> None:
    archives.isaid(tmp_path / "raw", ("P0001",))
    made = plan("isaid", tmp_path / "raw", tile_size_px=40, min_pixels=300)
    summary = prepare(made, tmp_path)
    assert summary.dropped["objects of fewer than 300 pixels in a tile"] > 0
    assert all(mask.sum() >= 300 for objects in truth(tmp_path / "isaid", "train").values() for _, mask in objects)


def test_samrs_keeps_masks_and_boxes(tmp_path: Path) -> None:
    prepare(plan("sior", archives.samrs(tmp_path / "raw")), tmp_path)
    [(name, objects)] = truth(tmp_path / "sior", "train").items()
    assert name == "0001.jpg" and [category for category, _ in objects] == ["ship"] * 3
    assert all((mask == own).all() for (_, mask), own in zip(objects, archives.masks().values(), strict=True))
    coco = json.loads((tmp_path / "sior" / "train" / "instances_train.json").read_text())
    assert coco["annotations"][0]["rbox"] == list(range(8))
    listed = archives.save(tmp_path / "raw" / "images" / "0002.jpg", archives.picture(2))
    (tmp_path / "val.txt").write_text("0001\n")
    made = plan("sior", tmp_path / "raw", lists={"val": str(tmp_path / "val.txt"), "train": None})
    assert [item.split for item in made.items] == ["val"] and listed.exists()


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    folder = archives.samrs(tmp_path / "raw")
    (folder / "ins" / "0001.pkl").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(DataError, match=r"0001\.pkl: cannot be read as objects of SAMRS \(it would load posix\.system"):
        prepare(plan("sior", folder), tmp_path)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "sior" / "train" / "instances_train.json").exists()


@pytest.mark.parametrize("kind", ["yolo", "labelme"])
def test_drawn_outlines_come_back(tmp_path: Path, kind: str) -> None:
    prepare(plan(kind, getattr(archives, kind)(tmp_path / "raw"), name="mine"), tmp_path)
    for split in ("train", "val") if kind == "yolo" else ("train",):
        [(_, objects)] = truth(tmp_path / "mine", split).items()
        assert {category for category, _ in objects} == set(archives.BOXES)
        for category, mask in objects:
            x, y, w, h = archives.BOXES[category]
            assert mask.sum() == w * h and mask[y : y + h, x : x + w].all()
    register(tmp_path)
    assert len(load("mine_train")) == 1  # data=mine_train works at once


SEMANTIC = [  # as published: an image, its label map, values of the ground and three objects, and what these are
    ("landdiscover50k", "TR_Image/1.png", "GT_ID/1.png", [0, 1, 12, 39],
     ["", "bare land", "large-vehicle", "windmill"]),
    ("flair", "flair_aerial_test/D012_2019/Z13_AA/img/IMG_062871.tif",
     "flair_labels_test/D012_2019/Z13_AA/msk/MSK_062871.tif", [19, 1, 12, 13], ["", "building", "plowed land", ""]),
    ("flair", "FLAIR_test/image/7.png", "FLAIR_test/mask/7.png", [12, 0, 11, 4],
     ["", "building", "plowed land", "water"]),
    ("fast_semantic", "FAST/val/images/7.png", "FAST/val/semlabels/gray/7.png", [255, 0, 36, 5],
     ["", "A220", "Warship", "Baseball-Field"]),
    ("potsdam", "2_Ortho_RGB/top_potsdam_2_10_RGB.png", "5_Labels_all/top_potsdam_2_10_label.png",
     [(255, 0, 0), (255, 255, 255), (255, 255, 0), (0, 0, 0)], ["", "impervious surface", "car", ""]),
    ("potsdam", "img_dir/val/2_10_0.png", "ann_dir/val/2_10_0.png", [5, 0, 4, 255],
     ["", "impervious surface", "car", ""]),
    ("vaihingen", "top/top_mosaic_09cm_area1.png", "gts_for_participants/top_mosaic_09cm_area1.png",
     [(255, 0, 0), (255, 255, 255), (0, 255, 0), (0, 0, 0)], ["clutter", "impervious surface", "tree", ""]),
    ("floodnet", "test/test-org-img/7.jpg", "test/test-label-img/7_lab.png", [0, 1, 9, 5],
     ["", "building flooded", "grass", "water"]),
    ("floodnet", "val+test/img/7.jpg", "val+test/lbl/7.png", [0, 1, 9, 5], ["", "building flooded", "grass", "water"]),
    ("loveda", "Val/Rural/images_png/7.png", "Val/Rural/masks_png/7.png", [0, 1, 7, 4],
     ["", "background", "agriculture", "water"]),
    ("uavid", "uavid_val/seq1/Images/000000.png", "uavid_val/seq1/Labels/000000.png",
     [(0, 0, 0), (128, 0, 0), (64, 64, 0), (192, 0, 192)], ["background clutter", "building", "human", "static car"]),
    ("openearthmap", "aachen/images/aachen_1.png", "aachen/labels/aachen_1.png", [0, 1, 8, 6],
     ["", "bareland", "building", "water"]),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "image", "label", "values", "names"), SEMANTIC, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("size", [None, 50])
def test_label_maps_become_positions(
    tmp_path: Path, dataset: str, image: str, label: str, values: list[Any], names: list[str], size: int | None
) -> None:
    made = plan(dataset, archives.semantic(tmp_path / "raw", image, label, values), tile_size_px=size)
    summary = prepare(made, tmp_path)
    [split] = summary.images
    assert split == ("train" if dataset in ("landdiscover50k", "vaihingen", "openearthmap") else "val")
    register(tmp_path)
    records = load(f"{dataset}_{split}")  # data=NAME works at once
    assert len(records) == (1 if size is None else 6)
    for record in records:
        path, x, y = Path(record["file_name"]), 0, 0
        if size:
            x, y = map(int, path.stem.split("_")[-2:])
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        height, width = labels.shape
        here = (slice(y, y + height), slice(x, x + width))
        if not image.endswith(".jpg"):
            assert (np.asarray(Image.open(path)) == archives.picture()[here]).all()
        rest = ~np.logical_or.reduce(list(archives.masks().values()))
        for mask, name in zip([rest, *archives.masks().values()], names, strict=True):
            assert (labels[mask[here]] == (made.classes.index(name) if name else 255)).all()


def test_label_maps_are_matched_by_folders_or_a_name_of_their_own(tmp_path: Path) -> None:
    for sequence in ("seq1", "seq2"):
        archives.semantic(
            tmp_path / "raw", f"uavid_train/{sequence}/Images/0.png", f"uavid_train/{sequence}/Labels/0.png",
            [(0, 0, 0)] * 4,
        )  # fmt: skip
    assert [item.key for item in plan("uavid", tmp_path / "raw").items] == [
        "uavid_train_seq1_0",
        "uavid_train_seq2_0",
    ]
    (tmp_path / "raw/uavid_train/seq1/Labels/0.png").unlink()  # that of seq2 is not its
    made = plan("uavid", tmp_path / "raw")
    assert [item.key for item in made.items] == ["uavid_train_seq2_0"]
    assert made.notes == ["1 images have no label map, left out"]
    archives.save(tmp_path / "raw/uavid_train/seq2/Images/0.jpg", archives.picture())
    with pytest.raises(DataError, match="of one name with uavid_train/seq2/Images/0"):
        plan("uavid", tmp_path / "raw")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full(archives.SIZE, 9, np.uint8), r"1_mask\.png: the value 9 is no class"),
        (np.zeros((5, 6), np.uint8), r"has 120x90 pixels, its annotations say 6x5"),
        (np.zeros((*archives.SIZE, 3), np.uint8), "it needs one channel of whole numbers"),
        (np.full(archives.SIZE, 60000, np.uint16), "the value 60000 is no class"),
    ],
    ids=["value", "size", "colour", "wide"],
)
def test_label_maps_that_are_none(tmp_path: Path, pixels: Any, message: str) -> None:
    source = archives.semantic(tmp_path / "raw", "Train/images_png/1.png", "Train/masks_png/1_mask.png", [0, 1, 2, 3])
    assert not plan("loveda", source).items  # of another name
    archives.save(source / "Train/images_png/1_mask.png", archives.picture())
    archives.save(source / "Train/masks_png/1_mask.png", pixels)
    with pytest.raises(DataError, match=message):
        prepare(plan("loveda", source), tmp_path)
    assert not list((tmp_path / "semantic").rglob("*.png"))


def test_coco_whole_in_tiles_and_split_by_seed(tmp_path: Path) -> None:
    prepare(plan("labelme", archives.labelme(tmp_path / "raw"), name="first"), tmp_path)
    json_file, images = tmp_path / "first" / "train" / "instances_train.json", tmp_path / "first" / "train" / "images"
    given = {"name": "second", "images": str(images)}
    prepare(plan("coco", json_file, **given), tmp_path)
    before, after = truth(tmp_path / "first", "train"), truth(tmp_path / "second", "train")
    assert before.keys() == after.keys()
    assert all((one[1] == two[1]).all() for one, two in zip(before["a.png"], after["a.png"], strict=True))
    tiled = prepare(plan("coco", json_file, **given | {"name": "third"}, tile_size_px=60, min_pixels=1), tmp_path)
    assert tiled.instances["train"] > 3
    area = sum(mask.sum() for objects in truth(tmp_path / "third", "train").values() for _, mask in objects)
    assert area >= sum(w * h for _, _, w, h in archives.BOXES.values())


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    archives.isaid(tmp_path / "raw", tuple(f"P{number:04d}" for number in range(6)))
    results = []
    for workers in (1, 3):
        root = tmp_path / str(workers)
        prepare(plan("isaid", tmp_path / "raw", tile_size_px=50), root, workers=workers)
        results.append(digest(root / "isaid"))
    assert results[0] == results[1] and len(results[0]) > 10


class StopError(Exception):
    """What a kill between two items looks like."""


@pytest.mark.parametrize("moment", range(1, 6))
def test_stopped_it_goes_on(tmp_path: Path, moment: int) -> None:
    archives.isaid(tmp_path / "raw", tuple(f"P{number:04d}" for number in range(6)))
    made = plan("isaid", tmp_path / "raw", tile_size_px=50)

    def stop(progress: Progress) -> None:
        if progress.done == moment:
            raise StopError

    with pytest.raises(StopError):
        prepare(made, tmp_path / "cut", report=stop)
    assert not list((tmp_path / "cut").rglob("instances_*.json"))
    told: list[Progress] = []
    prepare(made, tmp_path / "cut", report=told.append)
    assert told[0].before == moment
    prepare(made, tmp_path / "straight")
    assert digest(tmp_path / "cut" / "isaid") == digest(tmp_path / "straight" / "isaid")


def test_what_is_there_is_not_harmed(tmp_path: Path) -> None:
    source = archives.isaid(tmp_path / "raw")
    (tmp_path / "isaid" / "train").mkdir(parents=True)
    (tmp_path / "isaid" / "train" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and was not made by this"):
        prepare(plan("isaid", source), tmp_path)
    assert (tmp_path / "isaid" / "train" / "mine.txt").read_text() == "mine"
    prepare(plan("isaid", source), tmp_path / "own")
    before = digest(tmp_path / "own")
    with pytest.raises(OutputError, match="was prepared with another tiles; set overwrite=true"):
        prepare(plan("isaid", source, tile_size_px=50), tmp_path / "own")
    assert {key: value for key, value in digest(tmp_path / "own").items() if ".parts" not in key} == before
    prepare(plan("isaid", source, tile_size_px=50), tmp_path / "own", overwrite=True)
    assert len(digest(tmp_path / "own")) > len(before)


def test_faults_of_the_source_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = archives.isaid(tmp_path / "raw")
    image = source / "train" / "images" / "P0001.png"
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"P0001\.png: cannot be read as an image.*goes on"):
        prepare(plan("isaid", source), tmp_path)
    assert not list((tmp_path / "isaid").rglob("instances_*.json"))
    image.write_bytes(data)
    told: list[Progress] = []
    prepare(plan("isaid", source), tmp_path, report=told.append)
    assert told[0].before == 1

    colours = next((source / "train").rglob("P0001_instance_color_RGB.png"))
    pixels = np.asarray(Image.open(colours)).copy()
    pixels[archives.masks()["ship"]] = (1, 2, 3)
    archives.save(colours, pixels)
    with pytest.raises(DataError, match=r"the colour 1,2,3 of id 66504 is no class of iSAID"):
        prepare(plan("isaid", source), tmp_path / "second")
    pixels[8, 10] = archives.COLOURS["plane"]
    archives.save(colours, pixels)
    with pytest.raises(DataError, match=r"the object of id 66504 has two colours"):
        prepare(plan("isaid", source), tmp_path / "third")


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        ("isaid512", {}, "not a source; there are isaid, nwpu"),
        ("yolo", {}, "give the dataset a name of its own"),
        ("yolo", {"name": "isaid"}, "give the dataset a name of its own"),
        ("labelme", {"name": "mine", "tile_size_px": 50}, "labelme is taken whole"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, dataset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(dataset, tmp_path, **changes)
    with pytest.raises(DataError, match="no such folder"):
        plan("nwpu", tmp_path / "missing")


def unknown_class(folder: Path) -> Part:
    image = {"file_name": "a.png", "width": 1, "height": 1, "annotations": [{"category": "boat"}]}
    return Part([image], Counter(), Counter())


def test_a_class_that_the_dataset_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a class 'boat' that mine does not have"):
        prepare(Plan("mine", ["ship"], [Item("a", "train", unknown_class)], source="raw"), tmp_path)
    with pytest.raises(DataError, match="nothing in it that mine is made of"):
        prepare(Plan("mine", ["ship"], []), tmp_path)
    assert run.processors() >= 1


@pytest.mark.parametrize("dataset", ["dota", "dior"])
def test_boxes_are_their_own_masks(tmp_path: Path, dataset: str) -> None:
    source = tmp_path / "raw"
    archives.save(source / "images" / "P1.png", archives.picture())
    if dataset == "dota":
        lines = ["imagesource:x", "gsd:0.3", "10 10 40 10 40 30 10 30 ship 0", "60 50 80 70 60 90 40 70 plane 1"]
        (source / "labelTxt").mkdir()
        (source / "labelTxt" / "P1.txt").write_text("\n".join(lines))
    else:
        box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
        corners = ("left_top", "right_top", "right_bottom", "left_bottom")
        ring = zip(corners, ((60, 50), (80, 70), (60, 90), (40, 70)), strict=True)
        turned = "".join(f"<x_{corner}>{x}</x_{corner}><y_{corner}>{y}</y_{corner}>" for corner, (x, y) in ring)
        (source / "Annotations").mkdir()
        (source / "Annotations" / "P1.xml").write_text(
            f"<annotation><object><name>ship</name>{box}</object><object><name>plane</name><difficult>1</difficult>"
            f"<robndbox>{turned}</robndbox></object></annotation>"
        )
    summary = prepare(plan(dataset, source), tmp_path)
    [objects] = truth(tmp_path / dataset, "train").values()
    assert [(name, int(mask.sum())) for name, mask in objects] == [("ship", 600), ("plane", pytest.approx(800, abs=45))]
    coco = json.loads((tmp_path / dataset / "train" / "instances_train.json").read_text())
    assert [each["iscrowd"] for each in coco["annotations"]] == [0, 1]
    assert summary.notes == ["difficult objects, ignored in scores: 1"]
