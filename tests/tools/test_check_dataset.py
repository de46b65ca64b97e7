"""Checking and mending a dataset by command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cases.situations import CASES, write
from tests.tiny_data import NAMES, tiny_data, tiny_maps
from tests.tools.command_line import Call, files

OWN = "data={json: set/a.json, images: set/images}"


def broken(coco: dict[str, Any]) -> None:
    """Of everything a little."""
    for name in ("area as text", "polygons as text"):
        CASES[name].change(coco)
    coco["annotations"].append({**coco["annotations"][0], "id": 9, "image_id": 7})
    coco["annotations"] += [{**coco["annotations"][0], "id": 20 + n, "category_id": [n]} for n in range(8)]


def test_a_clean_set_exits_with_0(tmp_path: Path, score_command: Call) -> None:
    write(tmp_path / "set")
    done = score_command("check_dataset", OWN, "workers=1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["", "a: 2 images, 3 annotations", "  set/a.json", "  nothing found"]


def test_findings_are_grouped_counted_listed_and_mended(tmp_path: Path, score_command: Call) -> None:
    write(tmp_path / "set", broken)
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")}
    done = score_command("check_dataset", OWN, "workers=1", "show=2", "output=all.json", "fix=mended")
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index("  stops training: 30")
    assert lines[start + 1 : start + 8] == [
        "    has a polygon that is no list of an even number of numbers; correct it: 11",
        "      annotation 1 (1.png)",
        "      annotation 2 (1.png)",
        "      and 9 more",
        "    has the area …; correct it, or leave it out: 10",
        '      annotation 1 (1.png): has the area "600"',
        '      annotation 9: has the area "600"',
    ]
    found = json.loads((tmp_path / "all.json").read_text())["a"]
    assert sum(each["stops"] for each in found) == 30 and {"kind", "where", "what", "stops"} == set(found[0])
    after = lines.index("  mended/a/a.json")
    assert "  stops training: 10" in lines[after:]
    assert "    is of image …, which is not listed; add it or drop the annotation: 1" in lines[after:]
    copied = ["a", "a/a.json", "a/images", "a/images/1.png", "a/images/2.png", "changes.txt"]
    assert files(tmp_path / "mended") == copied
    assert all(path.read_bytes() == data for path, data in before.items())
    done = score_command("check_dataset", OWN, "fix=mended")
    assert done.code == 2 and done.err == "error: mended: is there already; name a new folder for the mended copy\n"


def test_a_mended_copy_that_is_clean_exits_with_0_and_is_read(tmp_path: Path, score_command: Call) -> None:
    write(tmp_path / "set", CASES["polygons as text"].change)
    assert score_command("check_dataset", OWN).code == 1
    done = score_command("check_dataset", OWN, "fix=mended")
    assert done.code == 0 and done.out.splitlines()[-1] == "  nothing found"
    own = "data={json: mended/a/a.json, images: mended/a/images}"
    assert score_command("check_dataset", own).code == 0


def test_datasets_by_name_all_splits_and_against_another(tmp_path: Path, score_command: Call) -> None:
    classes = {"isaid512": ["ship"], "nwpu": ["ship"]}
    for place, split, seed in (("isaid512/train", "train", 0), ("isaid512/val", "val", 1), ("nwpu/val", "val", 0)):
        folder = tmp_path / "root" / place
        tiny_data(folder, images=2, names=classes[place.split("/")[0]], seed=seed)
        (folder / "instances.json").rename(folder / f"instances_{split}.json")
    done = score_command("check_dataset", "data=isaid512", "against=[nwpu_val]", "paths.datasets=root", "workers=1")
    assert done.code == 1 and max(map(len, done.out.splitlines())) <= 80
    train, val = done.out.split("\nisaid512_val: ")
    assert "categories whose names differ: 1" in train and "images: 2, expected are 1450" in train
    assert "the same image in two sets: 2\n      001.png and 001.png of nwpu_val\n" in train
    assert "two sets" not in val


def test_label_images_and_two_files_of_one_name(tmp_path: Path, score_command: Call) -> None:
    tiny_maps(tmp_path / "maps", images=2)
    maps = "{images: maps/images, labels: maps/labels, classes: [a, b, c]}"
    for name, seed in (("train", 0), ("valid", 1)):
        tiny_data(tmp_path / name, images=30, seed=seed)
    own = [f"{{json: {name}/instances.json, images: {name}/images}}" for name in ("train", "valid")]
    done = score_command("check_dataset", f"data=[{maps},{','.join(own)}]", "output=all.json")
    assert (done.code, done.err) == (0, "") and len(NAMES) == 3
    assert list(json.loads((tmp_path / "all.json").read_text())) == ["labels", "instances", "instances_2"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["data=nwpu_vall"], "no dataset nwpu_vall; there are"),
        (["data=nwpu_val"], "nwpu_val: no root of datasets is set; set SCORE_DATASETS=FOLDER"),
        (["data={json: set/b.json, images: set/images}"], "set/b.json: no such annotation file"),
        (["data={json: set/a.json, images: none}"], "none: no such folder of images"),
        (["data={json: set/images/1.png, images: set/images}"], "1.png: cannot be read as JSON"),
        (["data={json: set/a.json}"], "data={'json': 'set/a.json'}: not readable; give a name"),
        ([], "data: not given; add data=VALUE"),
        (["data=[]"], "data=[]: no dataset; name at least one"),
        ([OWN, "show=-1"], "show=-1: not a whole number"),
        ([OWN, "fix=set/a.json/mended"], "cannot write to set/a.json"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_2(
    tmp_path: Path, score_command: Call, settings: list[str], line: str
) -> None:
    write(tmp_path / "set")
    done = score_command("check_dataset", *settings)
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1 and line in done.err
    assert files(tmp_path) == ["set", "set/a.json", "set/images", "set/images/1.png", "set/images/2.png"]
