from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score.detections import Detection
from score.errors import OutputError
from score.evaluation.coco import METRICS, CocoScorer
from score.evaluation.diagnosis import Diagnosis, ImageQuality
from score.studies.report import CONFUSED, CURVES, DASH, Picture, write_page
from tests.evaluation.coco_cases import crowded_scenes, record, rectangle

VOID = {"meta", "img", "col", "br", "path", "polyline", "line", "use"}
A, B, C = (rectangle(x, 0, 20, 20) for x in (0, 40, 80))


class Page(HTMLParser):
    """What a browser would see: every start tag with its attributes, and the text of every table row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def find(self, tag: str, name: str | None = None) -> list[dict[str, str | None]]:
        return [found for kind, found in self.tags if kind == tag and name in (None, found.get("class"))]

    def row(self, title: str) -> list[str]:
        return next(row[1:] for row in self.rows if row and row[0] == title)


def write(
    folder: Path,
    records: Sequence[dict[str, Any]],
    detections: dict[int, list[Detection]],
    names: Sequence[str],
    seen: Sequence[bool],
    **further: Any,
) -> Page:
    diagnosis, scorer = Diagnosis(names), CocoScorer(names, seen)
    for item in records:
        diagnosis.add(item, detections.get(item["image_id"], []))
        scorer.add(item, detections.get(item["image_id"], []))
    options: dict[str, Any] = {"title": "A report", "facts": {}, **further}
    boxes = {"boxes": options.pop("boxes")} if "boxes" in options else {}
    write_page(folder / "report.html", metrics={**scorer.finish(), **boxes}, findings=diagnosis.finish(), **options)
    return Page(folder / "report.html")


def small(folder: Path, names: Sequence[str] = ("ship", "car", "plane"), **further: Any) -> Page:
    """A ship found, a car called a ship, and no plane anywhere; the last two classes are unseen."""
    truth = [record(3, [(0, A), (1, B)])]
    return write(
        folder, truth, {3: [Detection(0, 0.9, A), Detection(0, 0.8, B)]}, names, [True, False, False], **further
    )


def test_figures_are_those_of_the_metrics(tmp_path: Path) -> None:
    page = small(tmp_path)
    assert page.row("All")[:3] == ["3", "2", "50.0"]
    assert page.row("Seen")[:3] == ["1", "1", "100.0"]
    assert page.row("Harmonic mean") == ["", "", "0.0", "0.0", *[DASH] * 4]
    assert page.row("ship")[:3] == ["seen", "1", "100.0"]
    assert page.row("plane") == ["unseen", "0", *[DASH] * 6]
    assert "None" not in page.source and "nan" not in page.text


def test_confusions(tmp_path: Path) -> None:
    page = small(tmp_path)
    matrix = page.rows[next(i for i, row in enumerate(page.rows) if row[-1] == "missed") :][:4]
    assert [row[0] for row in matrix] == ["", "ship", "car", "nothing"]  # no plane: it does not occur
    assert matrix[1][1:] == ["1", "", ""] and matrix[2][1:] == ["1", "", ""]
    assert ["car", "ship", "1", "100 %"] in page.rows
    assert "2 objects, 1 found under their own name, 1\nunder another one, 0 missed; 0 detections" in page.text


def test_curves_have_a_plot_a_class_the_best_first(tmp_path: Path) -> None:
    page = small(tmp_path)
    plots = [found["aria-label"] for found in page.find("svg") if found.get("role") == "img"]
    assert plots == [f"Precision and recall of {name}" for name in ("Mean of 2 classes", "ship", "car")]
    points = [found["points"] for found in page.find("polyline", "loose")]
    assert points[1:] == ["0,0 100,0", "0,100 100,100"]


def test_nothing_outside_the_file_is_used(tmp_path: Path) -> None:
    picture = Picture("a.jpg", ImageQuality(1, 0.5, 1, 1, 1), Image.new("RGB", (40, 20)))
    page = small(tmp_path, facts={"source": "https://example.org"}, best=[picture], licence="see https://example.org")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"url\(|@import", page.source)
    assert "https://example.org" in page.text


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("1 & 2")</script>'
    picture = Picture(evil, ImageQuality(1, 0.5, 1, 1, 1), Image.new("RGB", (40, 20)))
    page = small(
        tmp_path,
        names=(evil, "a < b & c", "it's"),
        title=evil,
        facts={evil: evil, "more": {evil: [evil]}},
        best=[picture],
        worst=[picture],
        licence=evil,
    )
    assert len(page.find("script")) == 1
    assert evil not in page.source
    assert page.text.count(evil) >= 10
    assert page.row("a < b & c")[0] == "unseen"
    assert any(found.get("title", "").startswith(f"a < b & c, called {evil}: 1 of 1") for found in page.find("td"))


def test_pictures_are_small_described_and_licensed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 1800, 3), dtype=np.uint8)
    best = Picture("good.png", ImageQuality(1, 0.8, 4, 2, 0), Image.fromarray(noise))
    worst = Picture("bad.png", ImageQuality(2, 0.0, 0, 0, 7), Image.new("L", (30, 20)))
    page = small(tmp_path, best=[best], worst=[worst], licence="research use only")
    first, second = page.find("img")
    assert first["alt"] == "good.png, ground truth beside prediction: 4 found, 2 false, 0 missed"
    image = Image.open(io.BytesIO(base64.b64decode((first["src"] or "").split(",")[1])))
    assert image.format == "JPEG" and image.size == (900, 300)
    assert (second["width"], second["height"]) == ("30", "20")  # never enlarged
    assert "F1\xa00.80" in page.text and "research use only" in page.text
    assert best.image.size == (1800, 600)  # what was given is left alone


def test_facts_and_boxes(tmp_path: Path) -> None:
    facts = {"ensemble": {"alpha": 0.25, "beta": None}, "device": "cpu", "tiles": [256, 512], "tta": False}
    groups = {
        group: dict.fromkeys(METRICS, value) for group, value in (("all", 41.25), ("seen", 5.0), ("unseen", None))
    }
    assert "boxes" not in small(tmp_path, facts=facts).source
    page = small(tmp_path, boxes=groups, facts=facts)
    assert all(text in page.text for text in (f"alpha 0.25, beta {DASH}", "256, 512", "no", "against the annotated"))
    assert page.row("all") == ["41.2"] * 6 and page.row("unseen") == [DASH] * 6
    assert {"href": "#boxes"} in page.find("a") and "boxes" in [found.get("id") for found in page.find("h2")]


def test_no_unseen_class(tmp_path: Path) -> None:
    page = write(tmp_path, [record(0, [(0, A), (1, B)])], {0: [Detection(0, 0.9, A)]}, ["ship", "car"], [True, True])
    assert page.row("Unseen") == ["0", "0", *[DASH] * 6]
    assert page.row("Harmonic mean") == ["", "", *[DASH] * 6]


def test_one_word(tmp_path: Path) -> None:
    page = write(tmp_path, [record(0, [(0, A)])], {0: [Detection(0, 0.9, A)]}, ["ship"], [True])
    assert "1 image, 1 class," in page.text
    assert len(page.find("polyline", "loose")) == 1


@pytest.mark.parametrize("objects", [[(0, A)], []])
def test_no_detections(tmp_path: Path, objects: list[tuple[int, Any]]) -> None:
    page = write(tmp_path, [record(0, objects)], {}, ["ship"], [True])
    assert "0 detections" in page.text
    assert page.row("ship")[2] == ("0.0" if objects else DASH)
    assert ("No class has instances." in page.text) == (not objects)


def test_five_hundred_words(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(500)]
    rng = np.random.default_rng(0)
    records, detections = [], {}
    for index in range(40):
        labels = rng.integers(0, 400, 12).tolist()
        shapes = [rectangle(int(x), int(y), 9, 9) for x, y in rng.integers(0, 140, (12, 2))]
        records.append(record(index, list(zip(labels, shapes, strict=True))))
        called = [label if rng.random() < 0.8 else int(rng.integers(500)) for label in labels]
        detections[index] = [Detection(a, float(rng.random()), b) for a, b in zip(called, shapes, strict=True)]
    page = write(tmp_path, records, detections, names, [index < 100 for index in range(500)])
    assert len(page.source) < 1_000_000
    assert sum(row[0].startswith("class ") and len(row) == 9 for row in page.rows if row) == 500
    assert len(page.find("polyline", "loose")) == 3 + CURVES
    assert f"The {CURVES} classes with the most instances, of" in page.text
    assert f"The {CONFUSED} classes with the most objects and detections, of" in page.text


def test_crowded_scenes_make_a_page(tmp_path: Path) -> None:
    records, detections = crowded_scenes(1, images=12, classes=6, per_image=40)
    page = write(tmp_path, records, detections, [f"class {index}" for index in range(6)], [True] * 6)
    assert len(page.find("polyline", "loose")) == 1 + 5  # the mean, and the classes that have instances


def test_the_file_is_written_whole_or_refused(tmp_path: Path) -> None:
    small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        small(tmp_path / "file")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    metrics = CocoScorer(["ship"], [True]).finish()
    with pytest.raises(ValueError, match="different classes"):
        write_page(tmp_path / "report.html", title="", facts={}, metrics=metrics, findings=Diagnosis(["car"]).finish())
