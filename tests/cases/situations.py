"""Situations that people meet with their own COCO JSON, each a change of one small data set."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from score import masks

WIDTH, HEIGHT = 96, 80
AREAS = [600, 1440, 3000]
Change = Callable[[Any], Any]


def rectangle(x: int, y: int, w: int, h: int) -> list[int]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def content() -> dict[str, Any]:
    """Two images; a ship and a storage tank in the first, a ship in the second; all rectangles."""
    objects = [(1, 1, (10, 10, 30, 20)), (1, 2, (50, 40, 40, 36)), (2, 1, (5, 5, 60, 50))]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "storage tank"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "segmentation": [rectangle(*box)],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image, category, box) in enumerate(objects, start=1)
        ],
    }


def write(folder: Path, change: Change | None = None) -> tuple[Path, Path]:
    """The set in a folder, changed: its JSON, and the folder of its images."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{number}.png")
    coco = content()
    coco[""] = images  # for changes that make files
    if change:
        change(coco)
    del coco[""]
    (folder / "a.json").write_text(json.dumps(coco))
    return folder / "a.json", images


def every(kind: str, **values: Any) -> Change:
    """Set keys of all entries of a kind; a function is called with the entry's old value."""

    def change(coco: dict[str, Any]) -> None:
        for record in coco[kind]:
            for key, value in values.items():
                record[key] = value(record.get(key)) if callable(value) else value

    return change


def one(kind: str, **values: Any) -> Change:
    """Set keys of the first entry of a kind."""
    return lambda coco: every(kind, **values)({kind: coco[kind][:1]})


def drop(kind: str, key: str) -> Change:
    return lambda coco: [record.pop(key) for record in coco[kind]]


def both(*changes: Change) -> Change:
    return lambda coco: [change(coco) for change in changes]


def runs(segmentation: list[list[int]]) -> dict[str, Any]:
    """Polygons as a compressed RLE."""
    return dict(masks.encode_shape(segmentation, HEIGHT, WIDTH))


def run_list(segmentation: list[list[int]]) -> dict[str, Any]:
    """Polygons as an RLE with a list of counts."""
    flat = masks.decode(masks.encode_shape(segmentation, HEIGHT, WIDTH)).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(ends, prepend=0).tolist()}


def counts(change: Callable[[Any], Any], make: Callable[[Any], Any] = runs) -> Change:
    """All segmentations as RLE, and the first one's counts changed."""

    def apply(coco: dict[str, Any]) -> None:
        every("annotations", segmentation=make)(coco)
        first = coco["annotations"][0]["segmentation"]
        first["counts"] = change(first["counts"])

    return apply


def rings(change: Callable[[list[int]], Any]) -> Change:
    """The ring of every annotation as what is made of it."""
    return every("annotations", segmentation=lambda old: change(old[0]))


def composed(coco: dict[str, Any]) -> None:
    images = coco[""]
    (images / "1.png").rename(images / unicodedata.normalize("NFD", "\u00e9.png"))
    coco["images"][0]["file_name"] = "\u00e9.png"


@dataclass(frozen=True)
class Case:
    """What a change comes to.

    Attributes:
        change: of the content.
        refused: a pattern of the message; None if the set is read.
        areas: of the masks that are learned, in order.
        note: a pattern of the only note, "" for none.
    """

    change: Change
    refused: str | None = None
    areas: list[int] = field(default_factory=lambda: AREAS)
    note: str = ""


BOXES = "boxes made from the masks, for those stated do not fit them: 3"
UNSTATED = "boxes made from the masks, for none are stated: 3"
SPELLING = r"file names read in another spelling .*: "
EMPTY = "annotations left out, for their masks have no pixels: 1"
DAMAGED = "annotation 1 has .*write the RLE anew"
LEFT = AREAS[1:]

CASES: dict[str, Case] = {
    "as it is": Case(lambda coco: None),
    # ids: 1, 1.0 and "1" are one
    "category ids of both kinds": Case(
        both(
            lambda c: c["categories"][1].update(id="2"),
            lambda c: c["annotations"][1].update(category_id="2"),
        )
    ),
    "category ids as text": Case(every("categories", id=str)),
    "image ids as text": Case(every("images", id=str)),
    "references as text": Case(every("annotations", image_id=str, category_id=str)),
    "image ids as floats": Case(both(every("images", id=float), every("annotations", image_id=float))),
    "category ids as floats": Case(every("annotations", category_id=float)),
    "annotation ids as floats": Case(every("annotations", id=float)),
    "annotation ids of both kinds": Case(one("annotations", id="a")),
    "no annotation ids": Case(drop("annotations", "id")),
    "annotation ids null": Case(every("annotations", id=None), r"annotation number 1 has the id null; use .*and 2 mor"),
    "an annotation id twice": Case(lambda c: c["annotations"][1].update(id=1.0), "2 annotations have the id 1; give"),
    "no category id": Case(lambda c: c["categories"][0].pop("id"), "category number 1 has no 'id'; add it"),
    "a list for a category id": Case(one("annotations", category_id=[1]), r"annotation 1 is of category \[1\], which"),
    "a list for an image id": Case(one("images", id=[1]), r"image number 1 has the id \[1\]; use whole numbers or wor"),
    "an unknown image": Case(one("annotations", image_id=7), "annotation 1 is of image 7, which is not listed; add it"),
    "true for an id": Case(one("images", id=True), "has the id true"),
    # lists that are none
    "categories as text": Case(lambda c: c.update(categories=["ship"]), 'category number 1 is "ship", not a dict'),
    "categories a dict": Case(lambda c: c.update(categories={"1": "ship"}), "it has categories that are a dict"),
    "annotations a dict": Case(lambda c: c.update(annotations={"1": {}}), "it has annotations that are a dict"),
    "annotations as text": Case(lambda c: c.update(annotations=["x"]), 'annotation number 1 is "x", not a dict'),
    "no annotations": Case(lambda c: c["annotations"].clear(), "no annotations at all"),
    # images
    "sides as floats": Case(every("images", width=float, height=float)),
    "sides as text": Case(every("images", width=str, height=str)),
    "sides of 0": Case(every("images", width=0, height=0), r"image 1 has the width and height .0, 0.; correct them"),
    "a side without end": Case(
        both(every("images", width=10**12), every("annotations", segmentation=[[0, 0, 10**12, 0, 10**12, 9]])),
        r"1\.png: the image has 96x80 pixels, its annotations say 1000000000000x80",
    ),
    "an id without end": Case(one("images", id="1" * 5000), "annotation 1 is of image 1, which is not listed"),
    "half a pixel": Case(one("images", width=96.5), "image 1 has the width and height .96.5, 80."),
    "no width": Case(lambda c: c["images"][0].pop("width"), "image 1 has no 'width'"),
    "another size": Case(one("images", width=97), r"1\.png: the image has 96x80 pixels, its annotations say 97x80"),
    # file names
    "./": Case(every("images", file_name=lambda old: f"./{old}")),
    "inside and back": Case(every("images", file_name=lambda old: f"x/../{old}")),
    "backslashes": Case(every("images", file_name=lambda old: f"images\\{old}"), note=f"{SPELLING}2"),
    "the folder twice": Case(every("images", file_name=lambda old: f"images/{old}"), note=f"{SPELLING}2"),
    "another Unicode form": Case(composed, note=f"{SPELLING}1"),
    "two Unicode forms": Case(
        both(composed, lambda c: Image.new("RGB", (WIDTH, HEIGHT)).save(c[""] / "e\u0301\u0323.png"),
             lambda c: Image.new("RGB", (WIDTH, HEIGHT)).save(c[""] / "\u1eb9\u0301.png"),
             one("images", file_name="\u00e9\u0323.png")),
        "image 1 has the file_name .*, which may mean .* or .*; correct it",
    ),
    "null for a file": Case(one("images", file_name=None), "image 1 has the file_name None; name its file"),
    "no name of a file": Case(one("images", file_name=""), "image 1 has the file_name ''; name its file"),
    "a folder for a file": Case(
        both(lambda c: (c[""] / "d").mkdir(), one("images", file_name="d")), "image 1 has the file_name d, which is a f"
    ),
    "an address": Case(one("images", file_name="http://localhost/1.png"), "image 1 has the address http://localhost/1"),
    "an absolute name": Case(
        lambda c: every("images", file_name=lambda old: str(c[""] / old))(c), "image 1 .*/1.png, which is absolute or l"
    ),
    "out of the folder": Case(one("images", file_name="../a.json"), "image 1 .*leads out of .*allow it with outside:"),
    "out by backslashes": Case(one("images", file_name="..\\a.json"), r"\.\.\\a\.json: no such image"),
    "another suffix": Case(
        every("images", file_name=lambda old: old.replace("png", "jpg")),
        r"1\.jpg: no such image \(2 of 2 are missing\), but there is 1\.png; add it",
    ),
    "one file for two": Case(one("images", file_name="./2.png"), "2 images have the file_name 2.png; keep one"),
    # crowds
    "true for a crowd": Case(one("annotations", iscrowd=True), areas=LEFT, note="crowds .iscrowd 1., not .*: 1"),
    "false for a crowd": Case(every("annotations", iscrowd=False)),
    "0 as text": Case(every("annotations", iscrowd="0")),
    "1 as text": Case(one("annotations", iscrowd="1"), areas=LEFT, note="crowds .iscrowd 1., not .*: 1"),
    "no for a crowd": Case(one("annotations", iscrowd="no"), 'annotation 1 has the iscrowd "no"; use 0 or 1'),
    "all crowds": Case(every("annotations", iscrowd=1), r"all 3 annotations are crowds \(iscrowd 1\); set"),
    # areas and boxes
    "areas of 0": Case(every("annotations", area=0)),
    "area in a list": Case(one("annotations", area=[600]), r"annotation 1 has the area \[600\]; correct it"),
    "area as text": Case(one("annotations", area="600"), 'annotation 1 has the area "600"; correct it'),
    "area below 0": Case(one("annotations", area=-1), "annotation 1 has the area -1; correct it"),
    "boxes as text": Case(every("annotations", bbox=lambda old: list(map(str, old)))),
    "boxes null": Case(every("annotations", bbox=None), note=UNSTATED),
    "no boxes": Case(drop("annotations", "bbox"), note=UNSTATED),
    "boxes empty": Case(every("annotations", bbox=[]), note=BOXES),
    "half a box": Case(one("annotations", bbox=[10, 10]), note=BOXES.replace("3", "1")),
    "a box of nan": Case(one("annotations", bbox=[float("nan")] * 4), note=BOXES.replace("3", "1")),
    "RLE, boxes of 0": Case(every("annotations", segmentation=runs, bbox=[0, 0, 0, 0]), note=BOXES),
    "RLE, boxes far away": Case(every("annotations", segmentation=runs, bbox=[-500, -500, 10, 10]), note=BOXES),
    "RLE, boxes in 0..1": Case(
        every("annotations", segmentation=runs, bbox=lambda old: [v / 1000 for v in old]), note=BOXES
    ),
    "RLE, boxes null": Case(every("annotations", segmentation=runs, bbox=None), note=UNSTATED),
    "RLE, boxes as text": Case(every("annotations", segmentation=runs, bbox=lambda old: list(map(str, old)))),
    # run lengths
    "RLE": Case(every("annotations", segmentation=runs)),
    "RLE in lists": Case(every("annotations", segmentation=run_list)),
    "RLE of floats": Case(counts(lambda old: list(map(float, old)), run_list)),
    "RLE size of floats": Case(
        every("annotations", segmentation=lambda old: {**runs(old), "size": [float(HEIGHT), float(WIDTH)]})
    ),
    "RLE size as text": Case(
        every("annotations", segmentation=lambda old: {**runs(old), "size": [str(HEIGHT), str(WIDTH)]}),
        r"annotation 1 has an RLE whose size is not \[height, width\]",
    ),
    "RLE size turned": Case(
        every("annotations", segmentation=lambda old: {**runs(old), "size": [WIDTH, HEIGHT]}),
        r"annotation 1 has an RLE of size \[96, 80\] in an image of height, width \[80, 96\]",
    ),
    "RLE in a list of one": Case(every("annotations", segmentation=lambda old: [runs(old)])),
    "RLE in a list of two": Case(every("annotations", segmentation=lambda old: [runs(old)] * 2), "annotation 1 has a"),
    "RLE too short": Case(counts(lambda old: old[:-1], run_list), DAMAGED),
    "RLE too long": Case(counts(lambda old: [*old[:-1], old[-1] + 500], run_list), DAMAGED),
    "RLE below 0": Case(counts(lambda old: [-5, *old], run_list), "annotation 1 has an RLE whose counts are no string"),
    "RLE of nan": Case(counts(lambda old: [float("nan"), *old], run_list), "annotation 1 has an RLE whose counts are"),
    "RLE cut off": Case(counts(lambda old: old[:-2]), DAMAGED),
    "RLE not closed": Case(counts(lambda old: f"{old}o"), DAMAGED),
    "RLE with more": Case(counts(lambda old: f"{old}5"), DAMAGED),
    "RLE not in ASCII": Case(counts(lambda old: "é§ü"), DAMAGED),
    "RLE of endless numbers": Case(counts(lambda old: "o" * 30 + "0"), DAMAGED),
    "RLE list empty": Case(counts(lambda old: [], run_list), areas=LEFT, note=EMPTY),
    "RLE text empty": Case(counts(lambda old: ""), areas=LEFT, note=EMPTY),
    "RLE of nothing": Case(counts(lambda old: [HEIGHT * WIDTH], run_list), areas=LEFT, note=EMPTY),
    "RLE as start and length": Case(counts(lambda old: "811 20 891 20"), "annotation 1 has run lengths as text, 'star"),
    # polygons
    "polygons in 0..1": Case(rings(lambda ring: [[v / 96 for v in ring]]), "all polygons lie within 0..1; multiply x"),
    "polygons of pairs": Case(rings(lambda ring: [ring[i : i + 2] for i in range(0, 8, 2)])),
    "polygons of pairs in a list": Case(rings(lambda ring: [[ring[i : i + 2] for i in range(0, 8, 2)]])),
    "polygons as text": Case(rings(lambda ring: [list(map(str, ring))]), "annotation 1 has a polygon that is no list"),
    "polygons flat": Case(rings(lambda ring: ring), "annotation 1 has one flat list of coordinates; put it in a list"),
    "an odd number": Case(one("annotations", segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 1 has a polygon that"),
    "nan in a polygon": Case(
        one("annotations", segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "annotation 1 has a coordinate that is no fin"
    ),
    "true in a polygon": Case(one("annotations", segmentation=[[True, 2, 3, 4, 5, 6]]), "annotation 1 has a polygon t"),
    "boxes as polygons": Case(rings(lambda ring: [ring[:4]]), "nothing is left: no mask of its 3 annotations has a pi"),
    "polygons all empty": Case(rings(lambda ring: []), "nothing is left: no mask of its 3 annotations has a pixel"),
    "polygons of empty rings": Case(rings(lambda ring: [[]]), "nothing is left: no mask of its 3 annotations has a pi"),
    "a polygon empty": Case(one("annotations", segmentation=[]), areas=LEFT, note=EMPTY),
    "a polygon on a line": Case(one("annotations", segmentation=[[10, 10, 20, 10, 30, 10]]), areas=LEFT, note=EMPTY),
    "a polygon beside the image": Case(
        one("annotations", segmentation=[rectangle(97, 5, 4, 4)]), areas=LEFT, note=EMPTY
    ),
    "a polygon over the edge": Case(
        one("annotations", segmentation=[[-200, -200, 40, -200, 40, 30, -200, 30]]), areas=[1200, *LEFT],
        note=BOXES.replace("3", "1"),
    ),
    "a bow": Case(one("annotations", segmentation=[[10, 10, 40, 40, 40, 10, 10, 40]]), areas=[450, *LEFT]),
    "a ring in a ring": Case(one("annotations", segmentation=[rectangle(10, 10, 30, 20), rectangle(20, 15, 10, 10)])),
    "map coordinates": Case(
        rings(lambda ring: [[v + (4_500_000 if i % 2 else 500_000) for i, v in enumerate(ring)]]),
        "annotation 1 lies outside the image altogether, .*georeferenced labels",
    ),
    "a vertex astray": Case(
        one("annotations", segmentation=[[-164.1, -221.8, 208543216.0, 352186880.0, 225.9, 236.5, 272.0, 384.2]]),
        "annotation 1 has a vertex far outside the image",
    ),
    "a vertex beyond floats": Case(
        one("annotations", segmentation=[[0, 0, 10**400, 0, 9, 9]]), "annotation 1 has a coordinate that is no finite"
    ),
    "true for a mask": Case(one("annotations", segmentation=True), "annotation 1 has a segmentation that is bool"),
    "null for a mask": Case(one("annotations", segmentation=None), "annotation 1 has no segmentation; instance masks"),
    "text for a mask": Case(one("annotations", segmentation=json.dumps), "annotation 1 has a segmentation that is str"),
    # names
    "null for a name": Case(one("categories", name=None), "category 1 has the name null; name it"),
    "no name": Case(one("categories", name=""), 'category 1 has the name ""; name it'),
    "synonyms": Case(one("categories", name="ship,boat"), note="commas separate synonyms in 'ship,boat'"),
    "a synonym of two": Case(
        both(one("categories", name="tank, water"), lambda c: c["categories"][1].update(name="tank, oil")),
        r"duplicate class name in its categories: 'tank' \(tank, water; tank, oil\), .*a comma separates synonyms",
    ),
    "a name of two": Case(lambda c: c["categories"][1].update(name="Ship"), r"duplicate .*: 'ship' \(ship; Ship\), ke"),
    "a name like a setting": Case(one("categories", name="${oc.env:HOME}")),
    "a background": Case(
        lambda c: c["categories"].insert(0, {"id": 0, "name": "_background_"}), note="no instances of '_background_', n"
    ),
}  # fmt: skip
