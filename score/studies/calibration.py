"""The least scores of seen and unseen words that are worth showing, chosen on a validation set."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import MetadataCatalog

from score import masks
from score.data.loaders import test_records
from score.detections import Detection, ground_truth, suppress
from score.engine.predictions import fingerprint
from score.errors import ConfigError
from score.files import sha256, write_text
from score.model.score import Calibration
from score.names import is_seen
from score.segmenter import BELOW, Segmenter
from score.weights.folder import CALIBRATION, WEIGHTS

logger = logging.getLogger(__name__)

LEAST = 0.01  # no threshold is below it
IOU = 0.5  # of a mask and the object that it matches


@dataclass
class Ranking:
    """Objects found in a dataset, of a group of words: their scores, and which of them are right.

    Attributes:
        scores, hits: of each.
        instances: objects that there are.
    """

    scores: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    instances: int = 0

    def best(self) -> float | None:
        """The least score at which F1 is greatest; None where nothing is right."""
        order = np.argsort(-np.array(self.scores), kind="stable")
        right = np.cumsum(np.array(self.hits, dtype=int)[order])
        if not right.any():
            return None
        f1 = 2 * right / (np.arange(1, len(right) + 1) + self.instances)
        return self.scores[order[f1.argmax()]]

    def at(self, least: float) -> dict[str, float | int | None]:
        """Precision and recall of what scores at least so much, with the numbers that they come from."""
        shown = np.array(self.scores) >= least
        right = int(np.array(self.hits, dtype=bool)[shown].sum())
        return {
            "precision": round(right / int(shown.sum()), 3) if shown.any() else None,
            "recall": round(right / self.instances, 3) if self.instances else None,
            "found": int(shown.sum()),
            "right": right,
            "instances": self.instances,
        }


def right(found: Sequence[Detection], truth: Sequence[Detection]) -> list[bool]:
    """Which detections, best first, match an object of their class that no better one has matched."""
    overlaps = masks.iou([item.rle for item in found], [item.rle for item in truth])
    free = np.ones(len(truth), dtype=bool)
    labels = np.array([item.label for item in truth], dtype=int)
    hits = []
    for item, overlap in zip(found, overlaps, strict=True):
        candidates = np.where(free & (labels == item.label), overlap, 0.0)
        hit = bool(candidates.size) and candidates.max() >= IOU
        if hit:
            free[candidates.argmax()] = False
        hits.append(bool(hit))
    return hits


def calibrate(
    segmenter: Segmenter,
    dataset: str,
    *,
    distractors: Sequence[str],
    absent: Sequence[str],
    false_alarms: float,
    limit: int | None = None,
) -> dict[str, Any]:
    """Choose thresholds, and give them to the segmenter's model.

    The threshold of seen words is where F1, over all objects of the dataset at a mask IoU of 0.5, is greatest. So is
    that of unseen words where the dataset holds some. Where it holds none, holding seen words out says nothing: the
    network has learned their objects. Then words that the dataset has no object of are looked for, each one alone, and
    the threshold is the score that they exceed so often as is borne.

    Args:
        distractors: what :class:`Calibration` has.
        absent: words of which the dataset is taken to hold no object; those of its classes or the training vocabulary
            are left out.
        false_alarms: how often such a word may be found, a word and image.
        limit: only so many images, evenly spread.

    Returns:
        What ``calibration.yaml`` holds, but for the weights' hash.

    Raises:
        ConfigError: no absent word is left.
        DataError: the dataset cannot be used.
    """
    model, records = segmenter.model, test_records(dataset, limit)
    model.calibration = Calibration(distractors=tuple(distractors))
    names = list(MetadataCatalog.get(dataset).thing_classes)
    vocabulary = segmenter.vocabulary(names)
    seen = vocabulary.seen[: len(names)].tolist()
    absent = [word for word in absent if not is_seen(word, [*names, *model.train_names])]
    unseen_held = any(not seen[item.label] for record in records for item in ground_truth(record))
    if not absent and not unseen_held:
        raise ConfigError("absent: every word of it is one of the model's or the dataset's; name others")
    alone = [] if unseen_held else [segmenter.vocabulary(word) for word in absent]
    groups = {True: Ranking(), False: Ranking()}
    alarms: list[float] = []
    logger.info(f"calibrating on {dataset}: {len(records)} images")
    for record in records:
        view, truth = segmenter.look(record["file_name"]), ground_truth(record)
        found = _all(view.find(vocabulary, [LEAST / BELOW] * len(names)))
        for item, hit in zip(found, right(found, truth), strict=True):
            groups[seen[item.label]].scores.append(item.score)
            groups[seen[item.label]].hits.append(hit)
        for item in truth:
            groups[seen[item.label]].instances += 1
        for word in alone:
            alarms += [item.score for item in _all(view.find(word, [LEAST / BELOW]))]
    borne = int(false_alarms * len(records) * len(absent))
    best = {flag: groups[flag].best() for flag in (True, False)}
    if not unseen_held:
        best[False] = sorted([*alarms, *[LEAST] * (borne + 1)], reverse=True)[borne]
    usual = Calibration()
    chosen = {
        flag: default if (value := best[flag]) is None else round(max(value, LEAST), 3)
        for flag, default in ((True, usual.seen), (False, usual.unseen))
    }
    model.calibration = Calibration(chosen[True], chosen[False], tuple(distractors))
    rule, none = f"greatest F1 at mask IoU {IOU}", "as before: no such object of the set was found"
    alarm = f"{false_alarms:g} false alarms a word and image, {len(absent)} words"
    return {
        "seen": chosen[True],
        "unseen": chosen[False],
        "distractors": list(distractors),
        "seen_rule": rule if best[True] is not None else none,
        "unseen_rule": alarm if not unseen_held else rule if best[False] is not None else none,
        "validation": {"dataset": dataset, "hash": fingerprint(records), "images": len(records)},
        "figures": {"seen" if flag else "unseen": groups[flag].at(chosen[flag]) for flag in sorted(set(seen))},
        "date": datetime.date.today().isoformat(),
    }


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write ``calibration.yaml`` into a model folder, with the hash of the weights that it holds for.

    Raises:
        OutputError: the folder cannot be written to.
    """
    text = yaml.safe_dump({**content, "weights": sha256(folder / WEIGHTS)}, sort_keys=False, allow_unicode=True)
    write_text(folder / CALIBRATION, text)


def _all(found: Sequence[Detection]) -> list[Detection]:
    """Best first, without doubles of the same word."""
    return suppress(sorted(found, key=lambda item: -item.score), 0.5, per_class=True)
