"""What people's own labels get wrong: one line that says where, and nothing of a dataset is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score.data.prepare.run import prepare
from score.errors import ConfigError, DataError, ScoreError
from tests.data.prepare import archives
from tests.data.prepare.test_prepare import digest, plan, truth

Change = Callable[[Path], object]


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text, "utf-8")


def shapes(change: Callable[[list[Any]], object]) -> Change:
    def rewrite(folder: Path) -> None:
        content = json.loads((folder / "a.json").read_text())
        change(content["shapes"])
        (folder / "a.json").write_text(json.dumps(content))

    return rewrite


def pickled(**fields: Any) -> Change:
    def rewrite(folder: Path) -> None:
        path = folder / "ins" / "0001.pkl"
        objects = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps([{**objects[0], **fields}]))

    return rewrite


def half(name: str) -> Change:
    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return cut


def twice(folder: Path) -> None:
    shutil.copy(folder / "images/train/a.jpg", folder / "images/train/a.png")


FAULTS: list[tuple[str, Change, str]] = [
    ("yolo", write("data.yaml", "names: [ship, Ship, Harbor]"), "duplicate class name"),
    ("yolo", write("data.yaml", "names: ['', plane, Harbor]"), "empty class name"),
    ("yolo", write("data.yaml", "names: {0: ship, 2: plane, 5: Harbor}"), "names the classes, from 0 on"),
    ("yolo", write("data.yaml", "names: {a: ship, b: plane, c: Harbor}"), "names the classes, from 0 on"),
    ("yolo", half("images/train/a.jpg"), r"train/a\.jpg: cannot be read as an image"),
    ("yolo", twice, "2 images of train are called images_train_a; give each a name"),
    ("labelme", shapes(lambda all: all.append(3)), r"a\.json, shape 3: no label"),
    ("labelme", shapes(lambda all: all[1].pop("label")), r"a\.json, shape 1: no label"),
    ("labelme", shapes(lambda all: all[1].update(label=" ")), r"a\.json, shape 1: no label"),
    ("labelme", shapes(lambda all: all[1].update(label="Ship")), "duplicate class name"),
    ("labelme", half("a.png"), r"a\.png: cannot be read as an image"),
    ("sior", pickled(mask={"size": ["a", 3], "counts": "x"}), r"0001\.pkl, object 0: a mask or box that is none"),
    ("sior", pickled(mask={"size": None, "counts": "x"}), r"0001\.pkl, object 0: a mask or box that is none"),
    ("sior", pickled(rbox="abc"), r"0001\.pkl, object 0: a mask or box that is none"),
    ("sior", half("images/0001.jpg"), r"0001\.jpg: cannot be read as an image"),
]


@pytest.mark.parametrize(("kind", "change", "message"), FAULTS, ids=[f"{f[0]} {f[2][:25]}" for f in FAULTS])
def test_a_fault_is_named_and_nothing_is_written(tmp_path: Path, kind: str, change: Change, message: str) -> None:
    make: Callable[[Path], Path] = getattr(archives, "samrs" if kind == "sior" else kind)
    source = make(tmp_path / "raw")
    change(source)
    with pytest.raises(ScoreError, match=message) as caught:
        prepare(plan(kind, source, name="mine"), tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("instances_*.json"))
    assert not list((tmp_path / "data").rglob("dataset.yaml"))


@pytest.mark.parametrize("changes", [{"name": "a/b"}, {"name": ".."}, {"name": ".hidden"}, {"split": "../x"}])
def test_nothing_is_written_outside_of_the_dataset(tmp_path: Path, changes: dict[str, str]) -> None:
    archives.labelme(tmp_path / "raw")
    prepare(plan("labelme", tmp_path / "raw", name="first"), tmp_path / "made")
    source = tmp_path / "made" / "first" / "train"
    given = {"name": "mine", "images": str(source / "images"), **changes}
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match="begin with a letter or digit"):
        prepare(plan("coco", source / "instances_train.json", **given), tmp_path / "data" / "below")
    after = {name: hash_ for name, hash_ in digest(tmp_path).items() if not name.endswith(".lock")}
    assert after == before


def test_images_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    archives.labelme(tmp_path / "raw")
    prepare(plan("labelme", tmp_path / "raw", name="first"), tmp_path)
    images, path = tmp_path / "first/train/images", tmp_path / "first/train/instances_train.json"
    content = json.loads(path.read_text())
    (images / "b").mkdir()
    Image.fromarray(archives.picture(1)).save(images / "b" / "a.png")
    content["images"].append({**content["images"][0], "id": 2, "file_name": "b/a.png"})
    content["annotations"] += [{**each, "id": each["id"] + 9, "image_id": 2} for each in content["annotations"]]
    path.write_text(json.dumps(content))
    for name, size in (("whole", None), ("tiles", 50)):
        prepare(plan("coco", path, images=str(images), name=name, tile_size_px=size), tmp_path)
        found = truth(tmp_path / name, "train")
        assert len(found) == (2 if size is None else 12)
        for number, stem in enumerate(("a", "b_a")):
            tile = Image.open(tmp_path / name / "train" / "images" / f"{stem}{'' if size is None else '_0_0'}.png")
            assert (np.asarray(tile) == archives.picture(number)[: tile.height, : tile.width]).all()


def test_files_that_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for kind, names in (("yolo", ("labels/train/a.txt", "data.yaml")), ("labelme", ("a.json",))):
        source = getattr(archives, kind)(tmp_path / kind)
        for name in names:
            (source / name).write_text((source / name).read_text(), "utf-8-sig")
        prepare(plan(kind, source, name=f"of_{kind}"), tmp_path)
        assert len(next(iter(truth(tmp_path / f"of_{kind}", "train").values()))) == 3


def test_damaged_books_of_an_earlier_run_are_named(tmp_path: Path) -> None:
    source = archives.labelme(tmp_path / "raw")
    for name, text in ((".parts/facts.json", "{"), ("prepared.json", "[]")):
        path = tmp_path / name[:3] / "mine" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        with pytest.raises(DataError, match=f"{path.name}: damaged; remove"):
            prepare(plan("labelme", source, name="mine"), tmp_path / name[:3])


def test_isaid_without_images_says_so(tmp_path: Path) -> None:
    source = archives.isaid(tmp_path / "raw", ("P0001",))
    (source / "train" / "images" / "P0001.png").unlink()
    with pytest.raises(DataError, match="nothing of iSAID can be used; P0001: no image, left out"):
        plan("isaid", source)
