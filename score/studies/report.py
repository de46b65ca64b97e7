"""The HTML report of a dataset's predictions, one file by itself: tables, curves, confusions and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray
from PIL import Image

from score.data.images import read_image
from score.detections import ground_truth, select
from score.drawing import side_by_side
from score.evaluation.coco import METRICS, Metrics
from score.evaluation.diagnosis import Diagnosis, Findings, ImageQuality, best_and_worst
from score.files import write_text
from score.model.classifier import Ensemble
from score.studies.study import PredictedDataset

CURVES = 50  # classes with a plot of their own
CONFUSED = 40  # classes in the matrix: as many as have legible cells at a width of 1280 pixels
PAIRS = 12  # confusions that are listed
LONG_TABLE = 60  # a table of more classes scrolls in a box
PICTURE_SIDE, PICTURE_QUALITY = 900, 80
DASH = "\N{EN DASH}"
SHOWN = 0.3  # the least score in pictures, confusion and per-image scores


def write_report(
    path: Path,
    predicted: PredictedDataset,
    metrics: Metrics,
    *,
    alpha: float,
    beta: float,
    top_k: int,
    max_detections: int,
    pictures: int,
    facts: Mapping[str, Any],
) -> None:
    """Write one self-contained HTML file.

    Args:
        metrics: what :meth:`PredictedDataset.score` says at the same exponents.
        alpha, beta, top_k, max_detections: as there.
        pictures: so many of the best and of the worst images.
    """
    ensemble, seen = Ensemble(alpha=alpha, beta=beta), torch.tensor(predicted.seen)
    diagnosis = Diagnosis(predicted.names, score=SHOWN, max_detections=max_detections)
    for record, image in predicted:
        diagnosis.add(record, image.instances(ensemble, seen, top_k), predicted.ranks[record["image_id"]])
    findings = diagnosis.finish()
    best, worst = best_and_worst(findings.images, pictures)
    records = {record["image_id"]: record for record in predicted.records}

    def drawn(item: ImageQuality) -> Picture:
        record = records[item.image_id]
        found = predicted.cache[item.image_id].instances(ensemble, seen, top_k)
        shown = select(found, score=SHOWN)  # doubles too: the counts below a picture are of what it shows
        image = side_by_side(read_image(record["file_name"]), ground_truth(record), shown, predicted.names)
        return Picture(Path(record["file_name"]).name, item, image)

    write_page(
        path,
        title=f"{predicted.dataset}",
        facts={**facts, "alpha, beta": f"{alpha:g}, {beta:g}", "top_k": top_k, "max_detections": max_detections},
        metrics=metrics,
        findings=findings,
        best=[drawn(item) for item in best],
        worst=[drawn(item) for item in worst],
        licence=MetadataCatalog.get(predicted.dataset).get("licence", ""),
    )


@dataclass(frozen=True)
class Picture:
    """An image of the dataset, drawn.

    Attributes:
        image: ground truth beside prediction, as :func:`score.drawing.side_by_side` draws them, at any size.
    """

    name: str
    quality: ImageQuality
    image: Image.Image


def write_page(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, Any],
    metrics: Metrics,
    findings: Findings,
    best: Sequence[Picture] = (),
    worst: Sequence[Picture] = (),
    licence: str = "",
) -> None:
    """Write an evaluation as one HTML file.

    Args:
        facts: what the figures come from: model, dataset, date, settings; values are text, numbers, or mappings and
            sequences of these.
        metrics: what :meth:`CocoScorer.finish` returns, with those of boxes as ``boxes`` where they were scored.
        findings: what a ``Diagnosis`` of the same detections says, with the same names.
        best: images that came out well, the best first.
        worst: images that came out badly, the worst first.
        licence: the dataset's terms; they hold for the pictures in the report, too.

    Raises:
        OutputError: the folder cannot be written to.
        ValueError: metrics and findings are of different classes.
    """
    if list(metrics["per_class"]) != findings.names:
        raise ValueError("metrics and findings are of different classes")
    page = _template().render(
        title=title,
        facts={key: _text(value) for key, value in facts.items()},
        metrics=metrics,
        columns=METRICS,
        groups=_groups(metrics),
        findings=findings,
        panels=_panels(metrics, findings),
        long_table=LONG_TABLE,
        confusion=_confusion(findings),
        pairs=_pairs(findings),
        pictures={"best": [_embed(item) for item in best], "worst": [_embed(item) for item in worst]},
        licence=licence,
    )
    write_text(path, page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # class names, file names and settings may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, short=_short, of=_of)
    return environment.get_template("report.html.j2")


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _of(value: int, word: str) -> str:
    """``1 class``, ``2 classes``."""
    ending = "" if value == 1 else "es" if word.endswith("s") else "s"
    return f"{value} {word}{ending}"


def _short(value: int) -> str:
    """At most four characters for what is below a million."""
    if value < 1000:
        return str(value)
    return f"{value / 1000:.1f}k" if value < 9950 else f"{value / 1000:.0f}k"


def _text(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _groups(metrics: Metrics) -> list[dict[str, Any]]:
    """The rows of the overall table."""
    rows = []
    for group, title in (("all", "All"), ("seen", "Seen"), ("unseen", "Unseen")):
        members = [item for item in metrics["per_class"].values() if group in ("all", _kind(item))]
        instances = sum(item["instances"] for item in members)
        rows.append({"title": title, "classes": len(members), "instances": instances, "values": metrics[group]})
    return [*rows, {"title": "Harmonic mean", "classes": "", "instances": "", "values": metrics["harmonic"]}]


def _kind(item: Mapping[str, Any]) -> str:
    return "seen" if item["seen"] else "unseen"


def _panels(metrics: Metrics, findings: Findings) -> dict[str, Any]:
    """The plots of groups, and of those classes that have the most instances, the highest AP first."""
    rows = list(metrics["per_class"].values())
    occurs = [index for index, row in enumerate(rows) if row["instances"]]
    groups = []
    for group in ("all", "seen", "unseen"):
        members = [index for index in occurs if group in ("all", _kind(rows[index]))]
        if len(members) > 1 and (group == "all" or len(members) < len(occurs)):
            title = "Mean of " + _of(len(members), "class" if group == "all" else f"{group} class")
            groups.append(_panel(title, metrics[group], findings.curves[:, members].mean(axis=1)))
    chosen = sorted(occurs, key=lambda index: -rows[index]["instances"])[:CURVES]
    chosen.sort(key=lambda index: -(rows[index]["AP"] or 0))
    classes = [_panel(findings.names[index], rows[index], findings.curves[:, index]) for index in chosen]
    return {"groups": groups, "classes": classes, "occur": len(occurs)}


def _panel(title: str, values: Mapping[str, float | None], curves: NDArray[np.float64]) -> dict[str, Any]:
    return {"title": title, "values": values, "lines": [_points(curve) for curve in curves]}


def _points(precision: NDArray[np.float64]) -> str:
    """An SVG polyline in a square of 100, recall to the right; points on a straight run are left out."""
    heights = np.round(100 * (1 - precision)).astype(int)
    turns = np.flatnonzero(np.diff(heights, 2)) + 1
    kept = [0, *turns.tolist(), len(heights) - 1]
    return " ".join(f"{x},{heights[x]}" for x in kept)


def _confusion(findings: Findings) -> dict[str, Any]:
    """The matrix of the classes that occur, and what becomes of all objects."""
    matrix = findings.confusion
    involved = matrix.sum(axis=0)[:-1] + matrix.sum(axis=1)[:-1]
    occur = np.flatnonzero(involved).tolist()
    chosen = sorted(sorted(occur, key=lambda index: -involved[index])[:CONFUSED])
    total = matrix.sum(axis=1)
    lines = [*chosen, len(findings.names)]
    rows = [
        [
            {"count": int(matrix[row, column]), "tone": round(10 * matrix[row, column] / max(total[row], 1))}
            for column in lines
        ]
        for row in lines
    ]
    right, objects, missed = int(np.trace(matrix)), int(total[:-1].sum()), int(matrix[:-1, -1].sum())
    return {
        "names": [findings.names[index] for index in chosen],
        "letters": max((len(findings.names[index]) for index in chosen), default=0),
        "totals": [int(total[index]) for index in lines],
        "rows": rows,
        "occur": len(occur),
        "objects": objects,
        "right": right,
        "missed": missed,
        "renamed": objects - right - missed,
        "false": int(total[-1]),
    }


def _pairs(findings: Findings) -> list[dict[str, Any]]:
    """The most frequent confusions of two classes."""
    matrix = findings.confusion[:-1, :-1] * (1 - np.eye(len(findings.names), dtype=np.int64))
    objects = findings.confusion.sum(axis=1)
    order = np.argsort(-matrix, axis=None, kind="stable")[:PAIRS]
    pairs = []
    for truth, predicted in zip(*np.unravel_index(order, matrix.shape), strict=True):
        if count := int(matrix[truth, predicted]):
            share = 100 * count / objects[truth]
            pairs.append(
                {
                    "truth": findings.names[truth],
                    "predicted": findings.names[predicted],
                    "count": count,
                    "share": f"{share:.0f} %",
                }
            )
    return pairs


def _embed(picture: Picture) -> dict[str, Any]:
    image = picture.image.convert("RGB")
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=PICTURE_QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"name": picture.name, "quality": picture.quality, "size": image.size, "data": data}
