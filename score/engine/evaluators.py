"""What a model's output over a dataset can be scored as, behind detectron2's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from score.data.dota import read_dota
from score.data.labels import read_labels
from score.detections import encode_instances
from score.errors import ConfigError, DataError
from score.evaluation.coco import CocoScorer, IouType, Metrics, ranks
from score.evaluation.oriented import OrientedBox, OrientedScorer
from score.evaluation.panoptic import PanopticScorer
from score.evaluation.semantic import BACKGROUND, IGNORED, SemanticScorer, paint
from score.masks import encode_shape
from score.names import positions, synonyms

TASKS = ("instances", "boxes", "panoptic", "oriented", "semantic")


def choose(wanted: str | Sequence[str] | None, dataset: str) -> list[str]:
    """The tasks to score; None for what the dataset is made for.

    Raises:
        ConfigError: a name that is no task, or a dataset without what it needs.
    """
    maps = MetadataCatalog.get(dataset).evaluator_type == "sem_seg"
    if wanted is None:
        return ["semantic"] if maps else ["instances"]
    chosen = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    unknown = [name for name in chosen if name not in TASKS]
    if unknown or not chosen:
        raise ConfigError(f"tasks={wanted}: not of {', '.join(TASKS)}")
    if maps and chosen != ["semantic"]:
        raise ConfigError(f"tasks={wanted}: {dataset} has label images only; use tasks=semantic")
    return chosen


def evaluators(
    tasks: Sequence[str],
    dataset: str,
    names: Sequence[str],
    seen: Sequence[bool],
    *,
    max_detections: int,
    min_score: float = 0.3,
    background: float | None = None,
    labels: Path | None = None,
) -> list[DatasetEvaluator]:
    """One evaluator a task; each result stands under the task's name, but for ``instances``, which is the whole's own.

    Args:
        tasks: as :func:`choose` gives them.
        max_detections: of an image, over all classes.
        min_score: of a panoptic segment.
        background: pixels whose best semantic score is below this are background; None gives every pixel a class.
        labels: folder of DOTA's label files, ``NAME.txt`` for each image, for oriented boxes.

    Raises:
        ConfigError: oriented boxes without labels, or a class of the dataset or of its labels that is not looked for.
        DataError: a label file is missing, or is none.
    """
    truth = GroundTruth(dataset, names)

    def coco(iou_type: IouType, title: str | None = None) -> Evaluator:
        def add(scorer: CocoScorer, record: Mapping[str, Any], rank: int, output: Mapping[str, Any]) -> None:
            scorer.add(record, encode_instances(output["instances"]), rank)

        return Evaluator(truth, partial(CocoScorer, names, seen, max_detections, iou_type), add, title)

    def panoptic() -> Evaluator:
        def add(scorer: PanopticScorer, record: Mapping[str, Any], rank: int, output: Mapping[str, Any]) -> None:
            scorer.add(record, encode_instances(output["instances"]))

        return Evaluator(truth, partial(PanopticScorer, names, seen, min_score), add, "panoptic")

    def oriented() -> Evaluator:
        objects = _oriented_boxes(dataset, names, labels)

        def add(scorer: OrientedScorer, record: Mapping[str, Any], rank: int, output: Mapping[str, Any]) -> None:
            scorer.add(record, objects[record["image_id"]], encode_instances(output["instances"]), rank)

        return Evaluator(truth, partial(OrientedScorer, names, seen, max_detections), add, "oriented")

    makers: dict[str, Callable[[], Evaluator]] = {
        "instances": partial(coco, "segm"),
        "boxes": partial(coco, "bbox", "boxes"),
        "panoptic": panoptic,
        "oriented": oriented,
        "semantic": partial(_semantic, truth, names, seen, background),
    }
    return [makers[task]() for task in tasks]


class GroundTruth:
    """A registered dataset's records by image id, with their classes as positions in a vocabulary.

    Args:
        dataset: a name in detectron2's catalogs.
        names: the vocabulary. Every class of the dataset must be in it, alone or as one of comma-separated synonyms.

    Raises:
        ConfigError: a class of the dataset is not in ``names``.
    """

    def __init__(self, dataset: str, names: Sequence[str]) -> None:
        self.position = positions(MetadataCatalog.get(dataset).thing_classes, names, dataset)
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
        self._ranks = ranks(self._records)

    def __getitem__(self, image_id: int | str) -> tuple[dict[str, Any], int]:
        """The record of an image, and the image's rank by id.

        Raises:
            DataError: it is not in the dataset.
        """
        if image_id not in self._records:
            raise DataError(f"image {image_id} is not in the ground truth; are the detections of another dataset?")
        record = self._records[image_id]
        annotations = [
            {**item, "category_id": self.position[item["category_id"]]} for item in record.get("annotations", ())
        ]
        return {**record, "annotations": annotations}, self._ranks[image_id]


class Scorer(Protocol):
    """What counts images, takes in the images of other processes' scorers, and has figures at the end."""

    def merge(self, others: Sequence[Any]) -> None:
        """Take in what others have counted."""

    def finish(self) -> Metrics:
        """All figures."""


class Evaluator(DatasetEvaluator):
    """Scores a model's output over a registered dataset, image by image; of several processes each scores its share.

    Images that were never processed do not count, so that a part of a dataset can be scored.

    Args:
        scorer: makes one without images.
        add: has a scorer count an image: its record, the image's rank, and the model's output.
        title: the key that the figures stand under; None for the whole result.
    """

    def __init__(
        self,
        truth: GroundTruth,
        scorer: Callable[[], Scorer],
        add: Callable[[Any, Mapping[str, Any], int, Mapping[str, Any]], None],
        title: str | None = None,
    ) -> None:
        self.truth, self._new, self._add, self.title = truth, scorer, add, title
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.scorer = self._new()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Score a batch: detectron2's dataset dicts, and dicts with ``instances`` or ``sem_seg`` at its size."""
        for item, output in zip(inputs, outputs, strict=True):
            self._add(self.scorer, *self.truth[item["image_id"]], output)

    def evaluate(self) -> dict[str, Any] | None:
        """The figures of all processes' images; None on every process but the main one."""
        comm.synchronize()
        parts = comm.gather(self.scorer, dst=0)
        if not comm.is_main_process():
            return None
        parts[0].merge(parts[1:])
        figures = parts[0].finish()
        return figures if self.title is None else {self.title: figures}


def _oriented_boxes(dataset: str, names: Sequence[str], labels: Path | None) -> dict[int | str, list[OrientedBox]]:
    """The objects in DOTA's label files, by image id."""
    if labels is None:
        raise ConfigError("tasks=oriented needs labels=FOLDER, of DOTA's label files, NAME.txt for each image")
    files = {item["image_id"]: labels / f"{Path(item['file_name']).stem}.txt" for item in DatasetCatalog.get(dataset)}
    absent = [file for file in files.values() if not file.is_file()]
    if absent:
        raise DataError(f"{absent[0]}: no such label file ({len(absent)} of {len(files)} are missing); add it")
    boxes = {}
    for image_id, file in files.items():
        objects = read_dota(file)
        where = positions([item.name for item in objects], names, str(file))
        boxes[image_id] = [
            OrientedBox(label, item.corners, item.difficult) for label, item in zip(where, objects, strict=True)
        ]
    return boxes


def _semantic(truth: GroundTruth, names: Sequence[str], seen: Sequence[bool], threshold: float | None) -> Evaluator:
    """Of ``sem_seg``: a pixel has the class of its best score, or none where that is below the threshold.

    The ground truth is the label image that a record names as ``sem_seg_file_name``, else its instances, smaller ones
    over larger ones; then pixels of no instance are background. The background is the class of that name; where there
    is none, it is a label beyond the classes with a threshold, and does not count without.
    """
    listed = [index for index, name in enumerate(names) if BACKGROUND in synonyms(name)]
    background = listed[0] if listed else len(names)
    counted = bool(listed) or threshold is not None

    def true_map(record: Mapping[str, Any]) -> NDArray[np.uint16]:
        size = (record["height"], record["width"])
        if "sem_seg_file_name" in record:
            labels = read_labels(record["sem_seg_file_name"], len(truth.position), size)
            return np.array([*truth.position, IGNORED], dtype=np.uint16)[labels]  # -1 takes the last
        annotations = record["annotations"]
        canvas = paint([encode_shape(item["segmentation"], *size) for item in annotations], *size)
        table = np.full(IGNORED + 1, background if counted else IGNORED, dtype=np.uint16)
        table[: len(annotations)] = [item["category_id"] for item in annotations]
        return table[canvas]

    def predicted_map(scores: Tensor) -> NDArray[np.uint16]:
        best, label = scores.max(dim=0)
        if threshold is not None:
            label = label.masked_fill(best < threshold, background)
        return label.cpu().numpy().astype(np.uint16)

    def add(scorer: SemanticScorer, record: Mapping[str, Any], rank: int, output: Mapping[str, Any]) -> None:
        scorer.add(true_map(record), predicted_map(output["sem_seg"]))

    extra = threshold is not None and not listed
    return Evaluator(truth, partial(SemanticScorer, names, seen, background=extra), add, "semantic")
