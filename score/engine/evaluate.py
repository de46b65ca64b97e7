"""A model over a registered dataset: figures, time and pictures."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from omegaconf import DictConfig, ListConfig

from score.data import catalog
from score.data.images import read_image
from score.data.loaders import image_count, test_loader, test_records
from score.data.mapper import TestMapper
from score.detections import encode_instances, ground_truth, select
from score.drawing import side_by_side
from score.engine.evaluators import choose
from score.engine.evaluators import evaluators as task_evaluators
from score.engine.pipeline import overlapped
from score.errors import ConfigError
from score.files import write_whole
from score.model.classifier import Ensemble
from score.model.score import SCORE, STRIDE
from score.names import is_seen

logger = logging.getLogger(__name__)
MAX_DETECTIONS = 300  # COCO's cap as this field sets it


def evaluate(
    model: SCORE,
    dataset: str,
    *,
    ensemble: Ensemble | None = None,
    workers: int = 0,
    batch_size: int = 1,
    max_detections: int = MAX_DETECTIONS,
    limit: int | None = None,
    shuffle_vocabulary: int | None = None,
    pictures: int = 0,
    picture_folder: Path | None = None,
    tasks: str | Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score a model on a dataset, looking for that dataset's classes.

    Args:
        model: a :class:`SCORE`; its mode is as before afterwards.
        ensemble: exponents; None for the model's own.
        workers: processes that read images, 0 for none beside this one.
        batch_size: most images that the network sees at once, those of one size.
        max_detections: of an image, over all classes.
        limit: score so many images only, evenly spread over the dataset.
        shuffle_vocabulary: a seed; deal class embeddings to other names, so that none keeps its own. What is found
            then is found without the words: a control.
        pictures: so many images, evenly spread, are drawn beside their ground truth into ``picture_folder``.
        tasks: what to score, of :data:`score.engine.evaluators.TASKS`; None for what the dataset is made for.
        options: of :func:`score.engine.evaluators.evaluators`.

    Returns:
        What :meth:`score.evaluation.coco.CocoScorer.finish` returns, other tasks' figures under their names, with
        ``seconds_per_image`` (loading, network and encoding), ``ensemble`` and
        ``shuffle_vocabulary``. Empty on all processes but one.
    """
    names = list(MetadataCatalog.get(dataset).thing_classes)
    seen = [is_seen(name, model.train_names) for name in names]
    records = test_records(dataset, limit)
    loader = test_loader(records, TestMapper(*model.resize, STRIDE), workers, batch_size)
    chosen = choose(tasks, dataset)
    evaluators: list[DatasetEvaluator] = [
        Clock(dataset, image_count(loader)),
        *task_evaluators(chosen, dataset, names, seen, max_detections=max_detections, **options),
    ]
    if pictures and picture_folder is not None:
        evaluators.append(Pictures(dataset, records, picture_folder, pictures))
    ensemble = ensemble or model.ensemble
    vocabulary = model.vocabulary(names if shuffle_vocabulary is None else deal(names, shuffle_vocabulary))
    finish = functools.partial(
        model.results,
        vocabulary=vocabulary,
        ensemble=ensemble,
        masks="rle",  # 300 masks of a large image would not fit, and are encoded next anyway
        semantic="semantic" in chosen,
    )
    evaluator = DatasetEvaluators(evaluators)
    evaluator.reset()
    for inputs, outputs in overlapped(
        model,
        loader,
        lambda inputs: model.predict(inputs, vocabulary),
        lambda inputs, prediction: finish(prediction, inputs),
    ):
        evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    if results:
        results["ensemble"] = asdict(ensemble)
        results["shuffle_vocabulary"] = shuffle_vocabulary
    return dict(results)


def changes(config: DictConfig) -> list[str]:
    """How an evaluation was set to differ from what the run itself would say of a dataset, a short word each."""
    words = {
        "limit": config.limit,
        "max": config.max_detections if config.max_detections != MAX_DETECTIONS else None,
        "alpha": config.ensemble.alpha,
        "beta": config.ensemble.beta,
    }
    found = [f"{word}{value:g}" for word, value in words.items() if value is not None]
    tasks = [config.tasks] if isinstance(config.tasks, str) else config.tasks or ["instances"]
    if "instances" not in tasks:  # others beside it only add figures
        found.append("+".join(tasks))
    if config.runtime.towers is not None:
        found.append(f"towers_{config.runtime.towers}")
    if config.shuffle_vocabulary is not None:
        found.append("shuffled")
    return found + (["overrides"] if config.overrides else [])


def place(output: Path, dataset: str, changes: Sequence[str]) -> tuple[str, str | None]:
    """What the figures of a dataset are called in a folder, where another JSON of its name may have some already.

    Returns:
        The dataset's name, with a number if another's figures stand under it, and its JSON or labels.
    """
    found = MetadataCatalog.get(dataset)
    file = found.get("json_file") or found.get("label_root")
    own = str(Path(file).resolve()) if file else None
    for number in itertools.count(1):
        title = dataset if number == 1 else f"{dataset}_{number}"
        other = None
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not there, or damaged
            other = json.loads((output / f"{'_'.join([title, *changes])}.json").read_text()).get("json")
        if other in (None, own):
            break
    return title, own


def register(entries: Any, root: str | Path | None, *, learn: bool = False) -> list[str]:
    """Register the known datasets and one's own.

    Args:
        entries: the name of a dataset, one's own as ``{json: FILE, images: FOLDER}``, or as
            ``{images: FOLDER, labels: FOLDER, classes: NAMES}`` for label images, or a list of such. With
            ``outside: true`` file names may lead out of the folder.
        root: of the datasets' working layout, or None.
        learn: whether to learn from them: categories of one's own without instances then are no classes, unless the
            entry says ``empty_classes: true``.

    Returns:
        Registered names.

    Raises:
        ConfigError: an entry is neither.
        DataError: there is no such dataset.
    """
    catalog.register(Path(root) if root else None)
    entries = list(entries) if isinstance(entries, (list, ListConfig)) else [entries]
    if not entries:
        raise ConfigError("data=[]: no dataset; name at least one")
    return [_registered(entry, learn) for entry in entries]


def _registered(entry: Any, learn: bool) -> str:
    if isinstance(entry, str):
        return catalog.require(entry)
    if isinstance(entry, Mapping | DictConfig) and set(entry) == {"images", "labels", "classes"}:
        labels, classes = Path(str(entry["labels"])), entry["classes"]
        if not isinstance(classes, list | ListConfig):
            raise ConfigError(f"classes={classes}: give a list of the names, in the order of the label images' values")
        return catalog.custom_maps(Path(str(entry["images"])), labels, list(map(str, classes)), labels.name)
    places, switches = ("json", "images"), ("outside", "empty_classes")
    if (
        not isinstance(entry, Mapping | DictConfig)
        or not set(places) <= set(entry) <= {*places, *switches}
        or not all(isinstance(entry.get(key, False), bool) for key in switches)
    ):
        raise ConfigError(
            f"dataset {entry}: not readable; give a name, or {{json: FILE, images: FOLDER}}, beside them "
            "outside: true or empty_classes: true, or {images: FOLDER, labels: FOLDER, classes: [NAMES]}"
        )
    file = Path(str(entry["json"]))
    return catalog.custom(
        file,
        Path(str(entry["images"])),
        file.stem,
        outside=entry.get("outside", False),
        empty_classes=entry.get("empty_classes", not learn),
    )


def deal(names: Sequence[str], seed: int) -> list[str]:
    """Permute names at random in a single cycle: with two names or more, none stays in its place (Sattolo 1986)."""
    dealt, draw = list(names), random.Random(seed)
    for last in range(len(dealt) - 1, 0, -1):
        other = draw.randrange(last)
        dealt[last], dealt[other] = dealt[other], dealt[last]
    return dealt


class Clock(DatasetEvaluator):
    """Reports progress, and the time an image takes.

    Args:
        total: of images.
        interval: seconds between reports.
    """

    def __init__(self, dataset: str, total: int, interval: float = 10.0) -> None:
        self.dataset, self.total, self.interval = dataset, total, interval
        self.reset()

    def reset(self) -> None:
        """Start."""
        self.start = self.last = self.reported = time.perf_counter()
        self.done = 0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch that has come out of the model."""
        self.done += len(inputs)
        self.last = time.perf_counter()
        if self.last - self.reported >= self.interval and self.done < self.total:
            self.reported = self.last
            pace = (self.last - self.start) / self.done
            left = time.strftime("%H:%M:%S", time.gmtime(pace * (self.total - self.done)))
            logger.info(f"{self.dataset}  {self.done}/{self.total}  {pace:.2f} s an image  eta {left}")

    def evaluate(self) -> dict[str, float]:
        """Seconds an image, mean over those of this process."""
        return {"seconds_per_image": (self.last - self.start) / max(self.done, 1)}


class Pictures(DatasetEvaluator):
    """Draws predictions beside the ground truth, ``FOLDER/IMAGE.jpg``.

    Args:
        count: so many images are drawn, evenly spread.
        score, overlap: what is worth drawing, as :func:`score.detections.select` has it.
    """

    def __init__(
        self,
        dataset: str,
        records: Sequence[Mapping[str, Any]],
        folder: Path,
        count: int,
        *,
        score: float = 0.2,
        overlap: float = 0.5,
    ) -> None:
        self.names = list(MetadataCatalog.get(dataset).thing_classes)
        self.chosen = {item["image_id"]: item for item in records[:: max(1, len(records) // count)][:count]}
        self.stems = Counter(Path(record["file_name"]).stem for record in records)
        self.folder, self.score, self.overlap = folder, score, overlap

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Draw an image if it is among the chosen."""
        for item, output in zip(inputs, outputs, strict=True):
            if item["image_id"] in self.chosen:
                self._draw(self.chosen[item["image_id"]], output)

    def _draw(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        found = select(encode_instances(output["instances"]), score=self.score, overlap=self.overlap)
        image = read_image(record["file_name"])
        picture = side_by_side(image, ground_truth(record), found, self.names)
        stem = Path(record["file_name"]).stem
        name = stem if self.stems[stem] == 1 else f"{stem}_{record['image_id']}"
        path = self.folder / f"{name}.jpg"
        write_whole(path, lambda partial: picture.save(partial, format="JPEG", quality=90))
