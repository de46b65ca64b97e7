from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from score import masks
from score.data import catalog
from score.data.check import Checked, Target, check
from score.data.findings import Finding, count, kind_of
from score.data.mend import mend
from score.data.pictures import BITS, NEAR, Picture, difference_hashes, pairs
from score.errors import DataError, OutputError
from tests.cases.situations import AREAS, CASES, EMPTY, HEIGHT, WIDTH, content, rectangle, write
from tests.tiny_data import tiny_maps

PLAIN = "as it is"
UNCHECKABLE = {"categories a dict", "annotations a dict", "no annotations"}
MENDED = {  # refused, yet to be read in one way only
    "annotation ids null", "an annotation id twice", "area in a list", "area as text", "area below 0",
    "RLE size as text", "polygons in 0..1", "polygons as text", "polygons flat", "text for a mask", "an absolute name",
}  # fmt: skip
REFUSED = {name for name, case in CASES.items() if case.refused and name not in UNCHECKABLE}


def target(json: Path, images: Path, names: Sequence[str] = (), name: str = "set", **more: Any) -> Target:
    return Target(name=name, source=catalog.Source(tuple(names), json, images, states_names="its file", **more))


def looked(result: Checked) -> set[str]:
    return {finding.kind for finding in result.findings if not finding.stops}


def stopped(result: Checked) -> list[Finding]:
    return [finding for finding in result.findings if finding.stops]


def areas(json: Path, images: Path) -> list[int]:
    """Of the masks that training learns."""
    records = catalog.load(catalog.custom(json, images, "case"))
    shapes = [item["segmentation"] for record in records for item in record["annotations"] if not item["iscrowd"]]
    return [masks.area(masks.encode_shape(shape, HEIGHT, WIDTH)) for shape in shapes]


def mended(result: Checked, folder: Path) -> tuple[Checked, set[str]]:
    """The mended copy, checked, and what was changed."""
    found = mend([result], folder)
    return check(found.targets)[0], {what for _, what in found.changes}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_training_refuses_stops_it_and_is_mended_where_it_means_one_thing(name: str, tmp_path: Path) -> None:
    [result] = check([target(*write(tmp_path / "set", CASES[name].change))])
    assert stopped(result)
    copy, changes = mended(result, tmp_path / "mended")
    if name in MENDED:
        assert not copy.findings and changes
        # that case has shares of the width for both axes
        expected = np.array(AREAS) * (HEIGHT / WIDTH if name == "polygons in 0..1" else 1)
        learned = areas(tmp_path / "mended/set/a.json", tmp_path / "mended/set/images")
        assert learned == pytest.approx(expected, rel=0.03)
    else:
        assert stopped(copy)


READ = {name: case for name, case in CASES.items() if not case.refused}


@pytest.mark.parametrize("name", sorted(READ))
def test_what_training_reads_is_learned_alike_from_the_mended_copy(name: str, tmp_path: Path) -> None:
    case = READ[name]
    [result] = check([target(*write(tmp_path / "set", case.change))])
    assert not stopped(result)
    copy, _ = mended(result, tmp_path / "mended")
    left = {"categories without an instance", "images without an annotation, not learned from"}
    left |= {"commas in the names of categories, which separate synonyms", "image files that are not listed"}
    left |= {"several polygons in one annotation: parts of one object, or several?"}
    assert looked(copy) <= left and not stopped(copy)
    assert areas(tmp_path / "mended/set/a.json", tmp_path / "mended/set/images") == case.areas
    assert looked(result) or not case.note or "crowds" in case.note or "spelling" in case.note
    json = (tmp_path / "mended/set/a.json").read_text()
    assert case.note != EMPTY or len(json_of(json)["annotations"]) == len(case.areas)


def json_of(text: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    return dict(json.loads(text, parse_constant=refuse))


@pytest.mark.parametrize("name", sorted(UNCHECKABLE))
def test_what_is_no_coco_json_cannot_be_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=CASES[name].refused):
        check([target(*write(tmp_path / "set", CASES[name].change))])


def many(coco: dict[str, Any]) -> None:
    """Many situations at once; annotations 4.. are copies of the first ones with a fault of their own."""
    for number, change in enumerate(
        [
            {"segmentation": None, "area": "x", "iscrowd": "no"},  # three faults
            {"category_id": [1]},
            {"image_id": 7},
            {"segmentation": json.dumps([rectangle(1, 1, 20, 20)]), "bbox": [1, 1, 20, 20], "area": 400},
            {"segmentation": [[10, 10, 40, 40, 40, 10, 10, 40]], "bbox": [10, 10, 30, 30], "area": 450},
            {"segmentation": [rectangle(80, 60, 40, 40)], "bbox": [80, 60, 40, 40], "area": 320},
            {"segmentation": [rectangle(3, 3, 9, 9)], "bbox": [9, 9, 9, 9], "area": 7},
            {"segmentation": []},
            {"id": 3, "segmentation": [rectangle(5, 50, 20, 20)], "bbox": [5, 50, 20, 20], "area": 400},  # an id twice
        ],
        start=4,
    ):
        coco["annotations"].append({**coco["annotations"][0], "id": number, **change})
    coco["annotations"].append({**coco["annotations"][1], "id": 20})  # the same object twice
    coco["categories"].append({"id": 3, "name": "Ship"})
    coco["categories"].append({"id": 4, "name": "storage-tank"})
    coco["images"] += [{"id": 3, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in "ab"]
    coco["images"].append({"id": 5, "file_name": "2.png", "width": 97, "height": HEIGHT})
    Image.new("RGB", (8, 8)).save(coco[""] / "beside.png")


def test_all_situations_of_one_file_are_found_at_once(tmp_path: Path) -> None:
    [result] = check([target(*write(tmp_path / "set", many))])
    stops = [(finding.where, finding.kind) for finding in stopped(result)]
    for where, kind in [
        ("annotation 4 (1.png)", "has no segmentation; instance masks are needed, polygons or run lengths"),
        ("annotation 4 (1.png)", "has the area …; correct it, or leave it out"),
        ("annotation 4 (1.png)", "has the iscrowd …; use 0 or 1"),
        ("annotation 5 (1.png)", "is of category …, which is not listed; correct it"),
        ("annotation 6", "is of image 7, which is not listed; add it or drop the annotation"),
        ("annotation 7 (1.png)", "has a segmentation that is str; instance masks are needed, polygons or run lengths"),
        ("2 annotations", "have the id 3; give each its own"),
        ("2 images", "have the id 3; give each its own"),
        ("2 images", "have the file_name 2.png; keep one"),
        ("a.png", "no such image"),
        ("b.png", "no such image"),
        ("2.png", "the image has 96x80 pixels, its annotations say 97x80; correct the JSON or the file"),
    ]:
        assert (where, kind_of(kind)) in stops
    assert sum("duplicate class name" in finding.kind for finding in stopped(result)) == 2
    assert looked(result) >= {
        "polygons that cross themselves", "polygons that leave the image, cut off at its edge",
        "boxes that leave the image", "masks without a pixel, left out", "boxes beside their masks, made from these",
        "areas more than 5% off their masks' and polygons'", "the same object twice", "image files that are not listed",
    }  # fmt: skip
    groups = list(count(result.findings))
    assert groups == sorted(groups, key=lambda group: not group[0])
    copy, changes = mended(result, tmp_path / "mended")
    left = {finding.where for finding in stopped(copy)}
    assert {"annotation 4 (1.png)", "annotation 5 (1.png)", "annotation 6"} <= left
    assert "annotation 7 (1.png)" not in left and "2 annotations" not in left
    assert not looked(copy) & {"polygons that cross themselves", "masks without a pixel, left out"}
    assert {"box made from the mask", "area made from the mask", "a free id given"} <= changes
    listed = (tmp_path / "mended" / "changes.txt").read_text().splitlines()
    assert "annotation 11: left out, its mask has no pixel" in listed
    assert {finding.where for finding in stopped(result)} > left


def test_a_clean_set_has_no_findings(tmp_path: Path) -> None:
    [result] = check([target(*write(tmp_path / "set"), names=["Storage-Tank", "ship"])])
    assert not result.findings and result.counts == {"images": 2, "annotations": 3}
    copy, changes = mended(result, tmp_path / "mended")
    assert not copy.findings and not changes
    assert json_of((tmp_path / "mended/set/a.json").read_text()) == json_of((tmp_path / "set/a.json").read_text())
    assert (tmp_path / "mended/set/images/1.png").samefile(tmp_path / "set/images/1.png")


def test_names_and_counts_are_those_of_the_datasets_file(tmp_path: Path) -> None:
    expected = (("images", 2), ("instances", 4))
    [result] = check([target(*write(tmp_path / "set"), names=["ship", "silo"], expected=expected)])
    [names] = stopped(result)
    assert names.what == "from its file: it lacks 'silo'; it has besides 'storage tank'"
    assert Finding("other counts than expected", "instances", "3, expected are 4") in result.findings


def test_images_are_decoded(tmp_path: Path) -> None:
    path, images = write(tmp_path / "set")
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:-3000])  # its header is whole
    assert cv2.imwrite(str(images / "2.png"), np.full((HEIGHT, WIDTH, 3), 999, np.uint16))
    [result] = check([target(path, images)], workers=2)
    assert [(finding.where, finding.kind[:19]) for finding in stopped(result)] == [
        ("2.png", "more than 8 bits a "),
        ("1.png", "cannot be read as a"),
    ]
    copy, _ = mended(result, tmp_path / "mended")
    assert len(stopped(copy)) == 2


def test_images_of_other_channels_or_turned_are_written_upright_as_rgb(tmp_path: Path) -> None:
    path, images = write(tmp_path / "set", lambda coco: coco["images"][1].update(file_name="2.jpg"))
    Image.open(images / "1.png").convert("L").save(images / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn = Image.radial_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    drawn.paste((255, 0, 0), (0, 0, 40, 20))
    drawn.transpose(Image.Transpose.ROTATE_90).save(images / "2.jpg", exif=exif, quality=95)
    (images / "2.png").unlink()
    [result] = check([target(path, images)])
    assert not stopped(result)
    assert [(finding.where, finding.what) for finding in result.findings] == [
        ("1.png", "L"),
        ("2.jpg", "orientation 6"),
    ]
    copy, changes = mended(result, tmp_path / "mended")
    assert not copy.findings and "written as upright RGB of 8 bits, PNG" in changes
    with Image.open(tmp_path / "mended/set/images/2.jpg.png") as turned:
        assert turned.size == (WIDTH, HEIGHT) and turned.mode == "RGB"
        assert np.abs(np.asarray(turned).astype(int) - np.asarray(drawn)).mean() < 4


def test_an_image_that_was_drawn_on_as_it_lies_is_not_turned(tmp_path: Path) -> None:
    def change(coco: dict[str, Any]) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(coco[""] / "1.png").save(coco[""] / "1.jpg", exif=exif)
        coco["images"][0]["file_name"] = "1.jpg"

    [result] = check([target(*write(tmp_path / "set", change))])
    [size] = stopped(result)
    assert size.what == "the image has 80x96 pixels, its annotations say 96x80"
    assert "images with an EXIF orientation, read upright" in looked(result)
    copy, changes = mended(result, tmp_path / "mended")
    assert not changes and [finding.what for finding in stopped(copy)] == [size.what]
    assert (tmp_path / "mended/set/images/1.jpg").samefile(tmp_path / "set/images/1.jpg")


def scenes(folder: Path, names: Sequence[str], seed: int) -> Target:
    """A set of smooth pictures."""
    coco = content()
    coco["images"] = [{"id": n, "file_name": name, "width": 96, "height": 80} for n, name in enumerate(names, start=1)]
    coco["annotations"] = [{**coco["annotations"][0], "id": n, "image_id": n} for n in range(1, len(names) + 1)]
    coco["categories"] = coco["categories"][:1]
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        rough = np.random.default_rng(seed + number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(cv2.resize(rough, (96, 80), interpolation=cv2.INTER_CUBIC)).save(folder / "images" / name)
    (folder / "a.json").write_text(json.dumps(coco))
    return target(folder / "a.json", folder / "images", name=folder.name)


def test_images_in_two_sets_are_found_by_their_pixels_and_by_what_they_show(tmp_path: Path) -> None:
    train, val = scenes(tmp_path / "train", ["1.png", "2.png", "3.png"], 0), scenes(tmp_path / "val", ["4.png"], 9)
    bench = scenes(tmp_path / "bench", ["b.png", "c.jpg"], 20)
    assert not [finding for result in check([train, val], [bench]) for finding in result.findings]
    first = Image.open(tmp_path / "train/images/1.png").copy()
    first.save(tmp_path / "val/images/4.png", compress_level=1)  # other bytes, the same pixels
    first.save(tmp_path / "train/images/3.png")
    Image.open(tmp_path / "train/images/2.png").save(tmp_path / "bench/images/c.jpg", quality=60)
    read: list[tuple[int, int]] = []
    results = check([train, val], [bench], report=lambda *state: read.append(state))
    assert read == [(number, 6) for number in range(1, 7)]
    near = f"(at most {NEAR} of {BITS} bits differ)"
    found = [(finding.kind, finding.where) for result in results for finding in result.findings]
    assert found == [
        ("the same image in one set", "1.png and 3.png"),
        ("the same image in two sets", "1.png and 4.png of val"),
        (f"nearly the same image in two sets {near}", "2.png and c.jpg of bench"),
    ]


def test_each_image_is_found_once_however_often_it_is_there() -> None:
    bits = np.random.default_rng(0).integers(0, 2, BITS).astype(bool)
    other = bits.copy()
    other[:NEAR] ^= True
    far = bits.copy()
    far[: NEAR + 1] ^= True
    same, near, apart = (
        Picture(content="a", bits=np.tile(bits, (8, 1))),
        Picture(content="b", bits=np.tile(other, (8, 1))),
        Picture(content="c", bits=np.tile(far, (8, 1))),
    )
    assert list(pairs([same] * 3, [same] * 3, within=True)) == [(0, 1, -1, False), (0, 2, -1, False)]
    assert list(pairs([same, near], [same, near], within=True)) == [(0, 1, NEAR, False)]
    assert list(pairs([same], [apart, near], within=False)) == [(0, 1, NEAR, False)]
    assert list(pairs([apart], [near], within=False)) == [(0, 0, 1, False)]
    assert not list(pairs([], [near], within=False)) and not list(pairs([near], [], within=False))


def test_names_of_mended_images_do_not_clash(tmp_path: Path) -> None:
    def change(coco: dict[str, Any]) -> None:
        Image.open(coco[""] / "1.png").convert("L").save(coco[""] / "1.tif")
        Image.open(coco[""] / "2.png").save(coco[""] / "1.tif.png")
        for record, name in zip(coco["images"], ("1.tif", "1.tif.png"), strict=True):
            record["file_name"] = name

    [result] = check([target(*write(tmp_path / "set", change))])
    copy, _ = mended(result, tmp_path / "mended")
    assert not copy.findings
    assert sorted(path.name for path in (tmp_path / "mended/set/images").iterdir()) == ["1.tif.png", "1.tif_.png"]
    assert (tmp_path / "mended/set/images/1.tif_.png").samefile(tmp_path / "set/images/1.tif.png")


def test_a_difference_hash_lasts_through_scaling_and_is_none_of_nothing() -> None:
    rough = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    large, small = (cv2.resize(rough, size, interpolation=cv2.INTER_CUBIC) for size in ((300, 300), (150, 150)))
    first, second = difference_hashes(large), difference_hashes(small)
    assert first is not None and second is not None and (first != second).sum(axis=1).max() <= NEAR
    assert (first[1:] != first[0]).sum(axis=1).min() > NEAR  # each view has one of its own
    assert difference_hashes(np.zeros((50, 50, 3), np.uint8)) is None


def test_images_that_are_turned_or_mirrored_are_found(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(8)]
    train, val = scenes(tmp_path / "train", ["a.png", "b.png"], 0), scenes(tmp_path / "val", names, 10)
    first = Image.open(tmp_path / "train/images/b.png")
    for name, view in zip(names[:7], Image.Transpose, strict=True):
        turned = first.transpose(view)
        turned.resize((turned.width // 2, turned.height // 2)).save(tmp_path / f"val/images/{name}")
    coco = json.loads((tmp_path / "val/a.json").read_text())
    for record in coco["images"][:7]:
        record["width"], record["height"] = Image.open(tmp_path / "val/images" / record["file_name"]).size
    (tmp_path / "val/a.json").write_text(json.dumps(coco))
    found = [each for result in check([train], [val]) for each in result.findings if "nearly" in each.kind]
    assert [finding.where for finding in found] == [f"b.png and {name} of val" for name in names[:7]]
    assert all(finding.what.endswith(", turned or mirrored") for finding in found)


def test_nothing_is_written_over_and_all_or_nothing_is_written(tmp_path: Path) -> None:
    [result] = check([target(*write(tmp_path / "set"))])
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="is there already"):
        mend([result], tmp_path / "there")
    (tmp_path / "set/images/2.png").write_bytes(b"no picture")  # since it was checked
    result.pictures[str(tmp_path / "set/images/2.png")] = Picture(size=(WIDTH, HEIGHT), mode="L")
    with pytest.raises(DataError, match="cannot be read as an image"):
        mend([result], tmp_path / "mended")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]


def test_label_images(tmp_path: Path) -> None:
    tiny_maps(tmp_path, images=3)
    images, labels = tmp_path / "images", tmp_path / "labels"
    source = catalog.Source(("a", "b", "c"), None, images, states_names="", labels=labels)
    assert not check([Target(name="maps", source=source)])[0].findings
    Image.new("L", (64, 64), 3).save(labels / "0.png")
    Image.new("L", (60, 64), 1).save(labels / "1.png")
    (labels / "2.png").unlink()
    Image.new("L", (64, 64), 1).save(labels / "9.png")
    [result] = check([Target(name="maps", source=source)])
    assert [finding.where for finding in stopped(result)] == ["2.jpg", "0.png", "1.png"]
    assert looked(result) == {"label images without image"}
    with pytest.raises(DataError, match="maps: label images are not mended"):
        mend([result], tmp_path / "mended")


@pytest.mark.data
def test_the_known_faults_of_nwpu_are_found(datasets_root: Path) -> None:
    catalog.register(datasets_root)
    [result] = check([Target(name="nwpu_val", source=catalog.require_source("nwpu_val"))])
    assert not stopped(result)
    found = {kind[:12]: [finding.where for finding in group] for (_, kind), group in count(result.findings).items()}
    assert found["id 0, which "] == ["annotation 0 (001.jpg)"]
    assert found["polygons tha"] == ["annotation 143 (021.jpg)"]
    assert found["several poly"] == ["annotation 82 (014.jpg)", "annotation 1094 (228.jpg)"]
    turned = ["293.jpg and 303.jpg", "299.jpg and 307.jpg", "285.jpg and 321.jpg"]  # upside down, with other ships
    assert found["nearly the s"] == ["073.jpg and 286.jpg", "288.jpg and 297.jpg", *turned]
    assert len(found["areas more t"]) > 1000 and len(found) == 6


def test_kinds_of_findings_hold_no_values() -> None:
    texts = [f"lies outside, x {x} to {-x}, y 12.5 to {x}, in an image of 96x80; correct it" for x in (1.5e6, 2e-7, 33)]
    assert len({kind_of(text) for text in texts}) == 1
