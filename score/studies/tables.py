"""Figures as text for a terminal of 80 columns, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score.files import write_whole

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Of every other evaluator: its name, the columns of groups, and those of classes where they differ.
OTHERS = {
    "boxes": ("box AP", COLUMNS, COLUMNS),
    "panoptic": ("panoptic quality", ("PQ", "SQ", "RQ"), ("PQ", "SQ", "RQ")),
    "oriented": ("oriented box AP", ("AP", "AP50", "AP75", "VOC07", "VOC12"), ("AP", "AP50", "AP75", "VOC07", "VOC12")),
    "semantic": ("semantic", ("mIoU", "fwIoU", "aAcc", "mAcc"), ("IoU", "", "Acc", "")),
}
SUMMARY = ("AP", "AP50", "seen AP50", "unseen AP50")


def tables(results: Mapping[str, Any]) -> str:
    """Every table that results have: of masks, where they were scored, and of each other task."""
    found = [table(results)] if "per_class" in results else []
    found += [f"{title}\n{table(results[task], task)}" for task, (title, *_) in OTHERS.items() if task in results]
    return "\n\n".join(found)


def table(metrics: Mapping[str, Any], task: str = "masks") -> str:
    """Lay out what an evaluator returns: all, seen, unseen, harmonic mean, then each class.

    Args:
        metrics: as ``CocoScorer.finish`` has them, or the scorer of another task.
        task: one of :data:`OTHERS`, or ``masks``.

    Returns:
        Lines of at most 80 characters, without a last newline; ``-`` stands for what is undefined.
    """
    classes: Mapping[str, Mapping[str, Any]] = metrics["per_class"]
    rule = "-" * 80
    title, columns, own = OTHERS.get(task, ("mask AP", COLUMNS, COLUMNS))
    count = "pixels" if task == "semantic" else "instances"
    lines = [_row("", "classes", count, columns), rule]
    for group in ("all", "seen", "unseen"):
        members = [item for item in classes.values() if group in ("all", _kind(item))]
        total = sum(item[count] for item in members)
        lines.append(_row(group, len(members), _large(total), [metrics[group][key] for key in columns]))
    lines.append(_row("harmonic mean", "", "", [metrics["harmonic"].get(key, "") for key in columns]))
    lines.append(rule)
    for name, item in classes.items():
        values = [item[key] if key else "" for key in own]
        lines.append(_row(name, _kind(item), _large(item[count]), values))
    lines.append(rule)
    found = f", {metrics['detections']} detections" if "detections" in metrics else ""
    lines.append(f"{title} in percent; {metrics['images']} images{found}")
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a dataset: AP, AP50, and AP50 of seen and unseen classes.

    Args:
        rows: a title, such as the dataset's name, to what ``coco_metrics`` returns.

    Returns:
        Lines of at most 80 characters, without a last newline.
    """
    width = min(max([24, *map(len, rows)]), 28)
    head = " " * width + "".join(f"{title:>13}" for title in SUMMARY)
    lines = [head, "-" * len(head)]
    for title, metrics in rows.items():
        values = (metrics["all"]["AP"], metrics["all"]["AP50"], metrics["seen"]["AP50"], metrics["unseen"]["AP50"])
        lines.append(_fit(title, width) + "".join(f"{_figure(value):>13}" for value in values))
    return "\n".join(lines)


def save_json(path: str | Path, obj: Any, indent: int | None = 1) -> None:
    """Write JSON whole or not at all; None becomes ``null``, and NaN is refused.

    Raises:
        OutputError: the folder cannot be written to.
        ValueError: a NaN or infinity.
    """
    text = json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def _row(name: str, kind: int | str, instances: int | str, values: Sequence[float | str | None]) -> str:
    return f"{_fit(name, 26)}{kind:>8}{instances:>10}" + "".join(f"{_figure(value):>6}" for value in values)


def _large(count: int) -> int | str:
    return count if count < 10_000_000 else f"{count / 1e6:.0f} M"


def _figure(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else f"{value:.1f}"


def _fit(name: str, width: int) -> str:
    return name.ljust(width) if len(name) <= width else name[: width - 1] + "…"


def _kind(item: Mapping[str, Any]) -> str:
    return "seen" if item["seen"] else "unseen"
