"""What a run says: its settings before the first step, a line of progress at 80 columns, its card."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.events import CommonMetricPrinter, get_event_storage
from omegaconf import DictConfig
from torch import nn

from score import runtime
from score.data.catalog import load
from score.engine.predictions import digest
from score.evaluation.tables import overview
from score.names import is_seen

logger = logging.getLogger(__name__)
WIDTH = 80


class DatasetFacts(NamedTuple):
    """What a registered dataset holds; crowds are no instances, and the hash leaves out pixels and where files lie."""

    name: str
    classes: list[str]
    images: int
    annotated: int
    instances: int
    digest: str
    unit: str = "instances"  # what is counted so, else label images


def facts(name: str) -> DatasetFacts:
    """Read a registered dataset and count.

    Raises:
        DataError: there is no such dataset, or it cannot be used.
    """
    records = load(name)
    maps = MetadataCatalog.get(name).evaluator_type == "sem_seg"
    counts = [maps or sum(not item.get("iscrowd", 0) for item in record.get("annotations", ())) for record in records]
    classes = list(MetadataCatalog.get(name).thing_classes)
    paths = ("file_name", "sem_seg_file_name")
    named = [{**record, **{key: Path(record[key]).name for key in paths if key in record}} for record in records]
    return DatasetFacts(
        name,
        classes,
        len(records),
        sum(count > 0 for count in counts),
        sum(counts),
        digest(named),
        "label images" if maps else "instances",
    )


def lasting(config: DictConfig, train: DatasetFacts) -> dict[str, Any]:
    """What must stay the same when a run goes on, setting to value."""
    return {
        "data.train": f"{train.images} images with {train.instances} {train.unit}, hash {train.digest}",
        "classes": ", ".join(train.classes),
        "seed": config.seed,
        "optim.batch_size": config.optim.batch_size,
        "optim.ema": config.optim.ema or "null",
    }


def card(config: DictConfig, train: DatasetFacts, results: Mapping[str, Any], command: str) -> dict[str, str]:
    """What a model's card says of its training, title to Markdown; ``results`` by dataset."""
    licence = MetadataCatalog.get(train.name).get("licence")
    facts = [
        f"data: {train.name}, {train.annotated:,} images with {train.instances:,} {train.unit}"
        + (f", licence: {licence}" if licence else ""),
        f"command: `{command}`",
        f"started from: {config.init or 'random weights'}",
        f"schedule: {config.optim.iterations:,} iterations of {config.optim.batch_size} images",
        f"seed: {config.seed}",
        f"versions: {', '.join(f'{key} {value}' for key, value in runtime.versions().items())}",
        "every setting: config.yaml",
    ]
    figures = "\n\n".join(f"{name}\n\n```\n{overview(result)}\n```" for name, result in results.items())
    return {"Training": "\n".join(f"- {fact}" for fact in facts), "Figures": figures or "Not evaluated."}


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """What goes to TensorBoard: AP and AP50 of each group, or mIoU."""
    groups, figures = ("all", "seen", "unseen", "harmonic"), results.get("semantic", results)
    values = {f"{group}/{key}": figures[group].get(key) for group in groups for key in ("AP", "AP50", "mIoU")}
    return {key: value for key, value in values.items() if value is not None}


def describe(model: nn.Module, train: DatasetFacts, tests: Sequence[DatasetFacts], settings: dict[str, Any]) -> str:
    """Say what will be trained on what, in lines of at most 80 characters.

    Args:
        settings: further lines, title to value.
    """
    lines = [
        ("train", f"{train.name}: {train.annotated:,} images with {train.instances:,} {train.unit}"),
        ("classes", f"{len(train.classes)}: {', '.join(train.classes)}"),
    ]
    for test in tests:
        unseen = [name for name in test.classes if not is_seen(name, train.classes)]
        new = f", {len(unseen)} of them unseen: {', '.join(unseen)}" if unseen else ", all seen"
        lines.append(
            (
                "test",
                f"{test.name}: {test.images:,} images, {test.instances:,} {test.unit}, "
                f"{len(test.classes)} classes{new}",
            )
        )
    lines += [
        ("backbone", _brief(model.backbone.identity)),
        ("scene", _brief(model.scene.identity) if model.scene else "off"),
    ]
    lines += [(key, type(part).__name__ if (part := getattr(model, key)) else "off") for key in ("rai", "gca")]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    lines.append(("parameters", f"{trained:,} trained, {frozen:,} frozen"))
    lines += [(key, str(value)) for key, value in settings.items()]
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * 12)
    return "\n".join(wrap.fill(f"{title:<12}{text}") for title, text in lines)


def _brief(identity: str) -> str:
    """A tower's identity with SHA-256 sums cut short; the model's card has them whole."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", identity)


class ProgressLine(CommonMetricPrinter):
    """detectron2's printer at 80 columns: the losses of the last head stand for those of all."""

    def __init__(self, max_iter: int, parts: Sequence[str] = ("loss_ce", "loss_mask", "loss_dice")) -> None:
        super().__init__(max_iter)
        self.parts, self._said = parts, 0

    def write(self) -> None:
        """Log one line of the last whole iteration, once: a run that is interrupted or at its end is asked again."""
        storage = get_event_storage()
        history = storage.histories()
        done = storage.latest()["total_loss"][1] + 1 if "total_loss" in history else 0
        if done == self._said:
            return
        self._said = done
        losses = {key: buffer.median(self._window_size) for key, buffer in history.items() if "loss" in key}
        parts = " ".join(f"{key.removeprefix('loss_')} {losses[key]:.2f}" for key in self.parts if key in losses)
        fields = [
            f"{done}/{self._max_iter}",
            f"loss {losses['total_loss']:.2f} ({parts})",
            f"lr {history['lr'].latest():.1e}" if "lr" in history else "",
            # the first iterations are not timed
            f"{history['time'].median(1000):.2f} s  eta {self._get_eta(storage)}" if "time" in history else "",
            f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "",
        ]
        logger.info("  ".join(field for field in fields if field))
