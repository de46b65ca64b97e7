"""Tables of figures: as text for a terminal of 80 columns, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import SEPARATING_LINE, tabulate

from score.evaluation import coco, oriented, panoptic, semantic

Cell = str | int | float | None
WIDTH = 80
GAP = 2
NAME = 18  # letters that the first column has at least; the rest of a longer name goes to further lines

# Of every task: its title, the key of counts, the columns of groups, and those of classes.
TASKS = {
    "instances": ("mask AP", "instances", coco.METRICS, coco.METRICS),
    "boxes": ("box AP", "instances", coco.METRICS, coco.METRICS),
    "panoptic": ("panoptic quality", "instances", panoptic.METRICS, panoptic.METRICS),
    "oriented": ("oriented box AP", "instances", oriented.METRICS, oriented.METRICS),
    "semantic": ("semantic", "pixels", semantic.METRICS, ("IoU", "", "", "Acc")),
}


@dataclass(frozen=True)
class Table:
    """Rows under titles; first columns of words, then columns of figures.

    Attributes:
        head: the titles.
        rows: a cell for each title; floats are rounded, None is written as ``-``. An empty row is a rule in plain text.
        keys: how many columns are words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    keys: int = 1

    def plain(self, digits: int = 1) -> str:
        """Lines of at most 80 characters; figures that do not fit go to further blocks, with the words repeated."""
        texts = [[title.replace(" ", "\n") for title in self.head], [], *self._texts(digits)]
        columns = range(len(self.head))
        sizes = [max(len(line) for row in texts if row for line in row[index].split("\n")) for index in columns]
        sizes[0] = min(sizes[0], max(NAME, WIDTH - sum(GAP + size for size in sizes[1:])))
        words = sum(sizes[: self.keys]) + GAP * (self.keys - 1)
        blocks: list[list[int]] = [[]]
        for index in columns[self.keys :]:
            if words + sum(GAP + sizes[other] for other in (*blocks[-1], index)) > WIDTH:
                blocks.append([])
            blocks[-1].append(index)
        found = []
        for block in blocks:
            chosen = [*columns[: self.keys], *block]
            rows = [[row[index] for index in chosen] if row else SEPARATING_LINE for row in texts]
            limits = [sizes[0], *[None] * (len(chosen) - 1)]
            text = tabulate(rows, tablefmt="simple", maxcolwidths=limits, **self._layout(len(block)))
            found.append("\n".join(line.rstrip() for line in text.splitlines()[1:-1]))  # without the outer rules
        return "\n\n".join(found)

    def markdown(self, digits: int = 2) -> str:
        """A pipe table, with a last newline."""
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.head, *self._texts(digits)) if row]
        return tabulate(rows[1:], rows[0], tablefmt="pipe", **self._layout(len(self.head) - self.keys)) + "\n"

    def latex(self, digits: int = 2) -> str:
        r"""A ``tabular`` for ``\usepackage{booktabs}``."""
        rows = list(filter(None, self._texts(digits)))
        return tabulate(rows, self.head, tablefmt="latex_booktabs", **self._layout(len(self.head) - self.keys)) + "\n"

    def csv(self, digits: int = 2) -> str:
        """Comma-separated; what is undefined is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows([["" if cell == "-" else cell for cell in row] for row in self._texts(digits) if row])
        return file.getvalue()

    def _texts(self, digits: int) -> list[list[str]]:
        def text(cell: Cell) -> str:
            return "-" if cell is None else f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)

        return [[text(cell) for cell in row] for row in self.rows]

    def _layout(self, figures: int) -> dict[str, Any]:
        return {"disable_numparse": True, "colalign": ["left"] * self.keys + ["right"] * figures}


def overview(results: Mapping[str, Any]) -> str:
    """Every table that results have: of masks, where they were scored, and of each other task."""
    found = [of_task(results)] if "per_class" in results else []
    return "\n\n".join([*found, *(of_task(results[task], task) for task in TASKS if task in results)])


def of_task(metrics: Mapping[str, Any], task: str = "instances") -> str:
    """Lay out what a scorer returns: all, seen, unseen, harmonic mean, then each class.

    Args:
        metrics: as :meth:`score.evaluation.coco.CocoScorer.finish` has them, or the scorer of another task.
        task: one of :data:`TASKS`.

    Returns:
        Lines of at most 80 characters, without a last newline; ``-`` stands for what is undefined.
    """
    title, count, columns, own = TASKS[task]
    classes: Mapping[str, Mapping[str, Any]] = metrics["per_class"]
    rows: list[list[Cell]] = []
    for group in ("all", "seen", "unseen"):
        members = [item for item in classes.values() if group in ("all", _kind(item))]
        total = sum(item[count] for item in members)
        rows.append([group, len(members), _large(total), *(metrics[group][key] for key in columns)])
    rows.append(["harmonic mean", "", "", *(metrics["harmonic"].get(key, "") for key in columns)])
    rows.append([])
    rows += [[name, _kind(item), _large(item[count]), *_values(item, own)] for name, item in classes.items()]
    if "background" in metrics:
        item = metrics["background"]
        rows.append(["background", "", _large(item[count]), *_values(item, own)])
    found = f", {metrics['detections']} detections" if "detections" in metrics else ""
    table = Table(["", "classes", count, *columns], rows).plain()
    return f"{table}\n{title} in percent; {metrics['images']} images{found}"


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a dataset: AP, AP50, and AP50 of seen and unseen classes.

    Args:
        results: a title, such as the dataset's name, to what :meth:`CocoScorer.finish` returns.
    """
    chosen = (("all", "AP"), ("all", "AP50"), ("seen", "AP50"), ("unseen", "AP50"))
    rows = [[title, *(metrics[group][key] for group, key in chosen)] for title, metrics in results.items()]
    return Table(["", "AP", "AP50", "seen AP50", "unseen AP50"], rows).plain()


def _values(item: Mapping[str, Any], keys: Sequence[str]) -> list[Cell]:
    return [item[key] if key else "" for key in keys]


def _large(count: int) -> str:
    return str(count) if count < 10_000_000 else f"{count / 1e6:.0f} M"


def _kind(item: Mapping[str, Any]) -> str:
    return "seen" if item["seen"] else "unseen"
