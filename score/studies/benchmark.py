"""A benchmark: targets, pairs of exponents and published figures; its rows, and its table beside the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from score.errors import ConfigError
from score.evaluation import coco, semantic
from score.evaluation.tables import Cell, Table
from score.files import save_json, write_text

PAIRS = ("published", "fixed")
GROUPS = ("all", "seen", "unseen", "harmonic")
TASKS = {"instances": coco.METRICS, "semantic": semantic.METRICS}
MEAN = "mean"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's YAML.

    Attributes:
        task: ``instances`` or ``semantic``.
        targets: dataset to its published ``alpha`` and ``beta``; one's own files as ``json`` and ``images``.
        fixed: the one pair.
        published: method to its figures by dataset; ``mean`` is one over the targets.
        compare: the method that gaps are to, or None.
    """

    name: str
    task: str
    targets: Mapping[str, Mapping[str, Any]]
    fixed: Mapping[str, float]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    compare: str | None = None

    def pair(self, target: str, kind: str) -> tuple[float, float]:
        """Alpha and beta of a target: the ``published`` ones, or the ``fixed`` ones."""
        pair = self.targets[target] if kind == "published" else self.fixed
        return float(pair["alpha"]), float(pair["beta"])

    def reported(self, target: str, method: str | None = None) -> float | None:
        """A published figure of a target, by default the one that ours is compared with.

        The mean over targets is as stated, or computed where all are.
        """
        figures = self.published.get(method or self.compare or "", {})
        if target == MEAN and MEAN not in figures and figures.keys() >= self.targets.keys():
            return sum(figures[name] for name in self.targets) / len(self.targets)
        return figures.get(target)


@dataclass(frozen=True)
class Row:
    """One target at one pair.

    Attributes:
        kind: ``published`` or ``fixed``: whose pair.
        alpha, beta: the pair.
        metrics: as :meth:`CocoScorer.finish` has them, None where the target is missing.
        missing: why, or an empty text.
        whole: whether all of the target was scored; a part is not compared with published figures.
    """

    target: str
    kind: str
    alpha: float
    beta: float
    metrics: Mapping[str, Any] | None
    missing: str = ""
    whole: bool = True

    def value(self, group: str, metric: str) -> float | None:
        """A figure, None where undefined."""
        return None if self.metrics is None else self.metrics[group].get(metric)

    @property
    def box(self) -> float | None:
        """AP of boxes over all classes, None where undefined."""
        return (self.metrics or {}).get("boxes", {}).get("all", {}).get("AP")


def read(name: str, folder: Path) -> Benchmark:
    """Read a benchmark by its name in ``folder``, or by the path of its YAML.

    Raises:
        ConfigError: there is none, or it lacks something.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml")))
        raise ConfigError(f"benchmark={name}: no such file; there are {known}, or give the path of your own YAML")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        content["published"] = {
            method: {target: float(value) for target, value in figures.items() if value is not None}
            for method, figures in (content.get("published") or {}).items()
        }
        found = Benchmark(name=path.stem, **content)
        fault = _fault(found)
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path}: not a benchmark ({reason}); see configs/benchmark/isaid_transfer.yaml") from error
    if fault:
        raise ConfigError(f"{path}: {fault}")
    return found


def _fault(found: Benchmark) -> str:
    """What is wrong with a benchmark and what to do, or an empty text."""
    if str(found.task) not in TASKS:
        return f"task {found.task}; it is one of {', '.join(TASKS)}"
    if not found.targets:
        return "it needs targets, each with alpha and beta"
    for target, settings in found.targets.items():
        if not isinstance(target, str) or "/" in target or target == MEAN:
            return f"a target called {target}; name it by another word, without slashes and not {MEAN}"
        files = {key: value for key, value in settings.items() if key not in ("alpha", "beta")}
        if files and (files.keys() != {"json", "images"} or not all(isinstance(x, str) for x in files.values())):
            return f"{target} takes alpha, beta, and for one's own files both json and images"
        if not all(0 <= value <= 1 for kind in PAIRS for value in found.pair(target, kind)):
            return f"{target} or fixed has an alpha or beta that is not in 0 .. 1"
    if found.compare and found.published and str(found.compare) not in found.published:
        return f"compare: {found.compare} is none of {', '.join(found.published)}"
    return ""


def mean_rows(benchmark: Benchmark, rows: Sequence[Row]) -> list[Row]:
    """The mean over targets at each kind of pair, where more than one target is there and none is missing."""
    found = []
    for kind in PAIRS:
        mine = [row for row in rows if row.kind == kind]
        if len(mine) < 2 or any(row.metrics is None for row in mine):
            continue
        metrics: dict[str, Any] = {
            group: {metric: _mean([row.value(group, metric) for row in mine]) for metric in TASKS[benchmark.task]}
            for group in GROUPS
        }
        metrics["boxes"] = {"all": {"AP": _mean([row.box for row in mine])}}
        found.append(Row(MEAN, kind, float("nan"), float("nan"), metrics, whole=all(row.whole for row in mine)))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(values) if len(defined) == len(values) else None


def table(benchmark: Benchmark, rows: Sequence[Row]) -> Table:
    """Every row beside the published figure, a mean of targets below."""
    metrics = TASKS[benchmark.task]
    first = metrics[0]
    boxes = ["box AP"] if benchmark.task == "instances" else []
    head = ["target", "pair", "alpha", "beta", first, *(f"{group} {first}" for group in GROUPS[1:])]
    head += [f"{benchmark.compare or 'published'} {first}", "gap", *metrics[1:], *boxes, "missing"]
    lines: list[list[Cell]] = []
    for row in [*rows, *mean_rows(benchmark, rows)]:
        pair = ["", ""] if math.isnan(row.alpha) else [f"{row.alpha:.3g}", f"{row.beta:.3g}"]
        own = row.value("all", first)
        reported = benchmark.reported(row.target) if row.whole else None
        gap = None if own is None or reported is None else f"{own - reported:+.2f}"
        figures: list[Cell] = [*(row.value(group, first) for group in GROUPS), reported, gap]
        figures += [row.value("all", metric) for metric in metrics[1:]]
        lines.append([row.target, row.kind, *pair, *figures, *([row.box] if boxes else []), row.missing])
    return Table(head, lines, keys=2)


def published(benchmark: Benchmark) -> Table:
    """What papers state of the targets, a row for each method."""
    columns = [*benchmark.targets, MEAN]
    rows = [[method, *(benchmark.reported(name, method) for name in columns)] for method in benchmark.published]
    return Table([f"published {TASKS[benchmark.task][0]}", *columns], rows)


def terminal(benchmark: Benchmark, rows: Sequence[Row], note: str = "") -> str:
    """The tables in lines of at most 80 columns, what is missing, and a note."""
    there = table(benchmark, [row for row in rows if not row.missing])
    shown = Table(there.head[:-1], [row[:-1] for row in there.rows], there.keys)
    parts = [shown.plain()] if shown.rows else []
    parts += ["\n".join(f"{row.target}  missing: {row.missing}"[:80] for row in rows[:: len(PAIRS)] if row.missing)]
    parts += [published(benchmark).plain(digits=2)] if benchmark.published else []
    return "\n\n".join(filter(None, [*parts, note]))


def write_tables(
    benchmark: Benchmark, rows: Sequence[Row], output: Path, manifest: Mapping[str, Any], note: str = ""
) -> list[Path]:
    """Write the table as Markdown, CSV, LaTeX and JSON, and the manifest; the note stands below the Markdown."""
    whole = table(benchmark, rows)
    below = published(benchmark).markdown() if benchmark.published else ""
    markdown = "\n".join(filter(None, [whole.markdown(), below, note and f"{note}\n"]))
    texts = {"table.md": markdown, "table.csv": whole.csv(), "table.tex": whole.latex()}
    for name, text in texts.items():
        write_text(output / name, text)
    save_json(output / "results.json", [asdict(row) for row in rows])
    save_json(output / "manifest.json", manifest)
    return [output / name for name in (*texts, "results.json", "manifest.json")]
