"""What a model's output over a dataset can be scored as, behind detectron2's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from score.detections import Detection, encode_instances
from score.errors import ConfigError, DataError
from score.evaluation.coco import CocoEvaluator, GroundTruth, Metrics, positions
from score.evaluation.oriented import OrientedScorer, read_dota
from score.evaluation.panoptic import PanopticScorer
from score.evaluation.semantic import SemanticEvaluator

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
        dataset: a registered name.
        names: the words looked for.
        seen: a flag for each.
        max_detections: of an image, over all classes.
        min_score: of a panoptic segment.
        background: pixels whose best semantic score is below this are background; None gives every pixel a class.
        labels: folder of DOTA's label files, ``NAME.txt`` for each image, for oriented boxes.

    Raises:
        ConfigError: oriented boxes without labels or of a class that is not looked for, or several processes for what
            one has to do.
        DataError: a label file is missing, or is none.
    """
    found: list[DatasetEvaluator] = []
    for task in tasks:
        if task == "instances":
            found.append(CocoEvaluator(dataset, names, seen, max_detections))
        elif task == "boxes":
            found.append(Titled(task, CocoEvaluator(dataset, names, seen, max_detections, "bbox")))
        elif task == "semantic":
            found.append(Titled(task, SemanticEvaluator(dataset, names, seen, background)))
        elif task == "panoptic":
            panoptic = PanopticScorer(names, seen, min_score)
            found.append(Titled(task, Alone(task, dataset, names, panoptic, panoptic.add)))
        elif labels is None:
            raise ConfigError("tasks=oriented needs labels=FOLDER, of DOTA's label files, NAME.txt for each image")
        else:
            found.append(Titled(task, _oriented(dataset, names, seen, max_detections, labels)))
    return found


def _oriented(
    dataset: str, names: Sequence[str], seen: Sequence[bool], max_detections: int, labels: Path
) -> DatasetEvaluator:
    scorer = OrientedScorer(names, seen, max_detections)
    files = {item["image_id"]: labels / f"{Path(item['file_name']).stem}.txt" for item in DatasetCatalog.get(dataset)}
    absent = [file for file in files.values() if not file.is_file()]
    if absent:
        raise DataError(f"{absent[0]}: no such label file ({len(absent)} of {len(files)} are missing); add it")
    objects = {image_id: read_dota(file) for image_id, file in files.items()}
    for image_id, found in objects.items():
        positions([item.name for item in found], names, str(files[image_id]))

    def add(record: Mapping[str, Any], detections: Sequence[Detection]) -> None:
        scorer.add(record, objects[record["image_id"]], detections)

    return Alone("oriented", dataset, names, scorer, add)


class Scorer(Protocol):
    """What has figures at the end."""

    def finish(self) -> Metrics:
        """All of them."""


class Titled(DatasetEvaluator):
    """Puts an evaluator's figures under a title.

    Args:
        title: the key.
        evaluator: whose figures they are.
    """

    def __init__(self, title: str, evaluator: DatasetEvaluator) -> None:
        self.title, self.evaluator = title, evaluator

    def reset(self) -> None:
        """Start."""
        self.evaluator.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Hand a batch on."""
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        """The figures, or None on every process but the main one."""
        found = self.evaluator.evaluate()
        return None if found is None else {self.title: found}


class Alone(DatasetEvaluator):
    """Feeds detections to a scorer that knows no other process.

    Args:
        task: named in messages.
        dataset: a registered name.
        names: the words looked for.
        scorer: of the figures.
        add: takes a record, its classes as positions in ``names``, and the image's detections.

    Raises:
        ConfigError: there are several processes.
    """

    def __init__(
        self,
        task: str,
        dataset: str,
        names: Sequence[str],
        scorer: Scorer,
        add: Callable[[Mapping[str, Any], Sequence[Detection]], None],
    ) -> None:
        if comm.get_world_size() > 1:
            raise ConfigError(f"tasks={task} is scored by one process; start it with one")
        self._truth = GroundTruth(dataset, names)
        self._scorer, self._add = scorer, add

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Score a batch."""
        for item, output in zip(inputs, outputs, strict=True):
            record, _ = self._truth[item["image_id"]]
            self._add(record, encode_instances(output["instances"]))

    def evaluate(self) -> Metrics:
        """Finish."""
        return self._scorer.finish()
