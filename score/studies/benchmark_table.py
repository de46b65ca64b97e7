"""The table of a benchmark: every target at the published exponents and at one fixed pair, beside the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from score.errors import ConfigError
from score.evaluation.coco import METRICS

PAIRS = ("published", "fixed")
GROUPS = ("all", "seen", "unseen", "harmonic")
TASKS = {"instances": METRICS, "semantic": ("mIoU", "fwIoU", "aAcc", "mAcc")}
MEAN = "mean"
LATEX = {
    **{letter: rf"\{letter}" for letter in "_&%#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
TITLES = {"AP": "AP", "AP50": "50", "AP75": "75", "APs": "S", "APm": "M", "APl": "L"}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's YAML.

    Attributes:
        name: of the file.
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

    def reported(self, target: str) -> float | None:
        """The figure that a target's is compared with."""
        return self.published.get(self.compare or "", {}).get(target)


@dataclass(frozen=True)
class Row:
    """One target at one pair.

    Attributes:
        target: the dataset.
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


def reported_mean(benchmark: Benchmark, method: str) -> float | None:
    """A published method's mean over the targets: as stated, or computed where all are."""
    figures = benchmark.published[method]
    if MEAN in figures:
        return figures[MEAN]
    if any(target not in figures for target in benchmark.targets):
        return None
    return sum(figures[target] for target in benchmark.targets) / len(benchmark.targets)


def header(benchmark: Benchmark) -> list[str]:
    """Titles of :func:`cells`; the last column says why a target is missing."""
    metrics = TASKS[benchmark.task]
    first = metrics[0]
    boxes = ["box AP"] if benchmark.task == "instances" else []
    return [
        "target", "pair", "alpha", "beta", *metrics, *boxes, f"seen {first}", f"unseen {first}", f"harmonic {first}",
        f"{benchmark.compare or 'published'} {first}", "gap", "missing",
    ]  # fmt: skip


def cells(benchmark: Benchmark, rows: Sequence[Row]) -> list[list[str]]:
    """The whole table as text, a list a row; ``-`` for what is undefined."""
    metrics = TASKS[benchmark.task]
    table = []
    for row in [*rows, *mean_rows(benchmark, rows)]:
        pair = ["", ""] if row.alpha != row.alpha else [f"{row.alpha:g}", f"{row.beta:g}"]
        reported = _reported(benchmark, row)
        own = row.value("all", metrics[0])
        values = [row.value("all", metric) for metric in metrics]
        if benchmark.task == "instances":
            values.append(row.box)
        values += [row.value(group, metrics[0]) for group in GROUPS[1:]]
        gap = None if own is None or reported is None else own - reported
        figures = [_text(value, 2) for value in (*values, reported)]
        end = ["-" if gap is None else f"{gap:+.2f}", row.missing]
        table.append([row.target, row.kind, *pair, *figures, *end])
    return table


def _reported(benchmark: Benchmark, row: Row) -> float | None:
    if not row.whole:
        return None
    if row.target == MEAN:
        method = benchmark.compare or ""
        return reported_mean(benchmark, method) if method in benchmark.published else None
    return benchmark.reported(row.target)


def terminal(benchmark: Benchmark, rows: Sequence[Row], note: str = "") -> str:
    """The table in two blocks of at most 80 columns, the published rows below, and a note."""
    metrics = TASKS[benchmark.task]
    first = metrics[0]
    rule = "-" * 80
    own = [*rows, *mean_rows(benchmark, rows)]
    head = f"{first:20}{'alpha':>6}{'beta':>7}{'all':>8}{'seen':>8}{'unseen':>8}{'h. mean':>8}"
    lines = [head + f"{(benchmark.compare or 'paper')[:7]:>8}{'gap':>7}", rule]
    for row in own:
        if row.missing:
            if row.kind == "published":  # once is enough
                lines.append(f"{_fit(row.target, 20):20}  missing: {row.missing}"[:80])
            continue
        reported, value = _reported(benchmark, row), row.value("all", first)
        gap = "-" if reported is None or value is None else f"{value - reported:+.1f}"
        line = _start(row) + "".join(f"{_text(row.value(group, first)):>8}" for group in GROUPS)
        lines.append(f"{line}{_text(reported):>8}{gap:>7}")
    boxes = benchmark.task == "instances"
    titles = [*(TITLES.get(key, key) for key in metrics), *(["box"] if boxes else [])]
    lines += ["", f"{'all classes':33}" + "".join(f"{title:>6}" for title in titles), rule]
    for row in (row for row in own if not row.missing):
        values = [*(row.value("all", key) for key in metrics), *([row.box] if boxes else [])]
        lines.append(_start(row) + "".join(f"{_text(value):>6}" for value in values))
    if benchmark.published:
        lines += _published_blocks(benchmark)
    lines += ["", "* the exponents named for this target; the other row has one pair for all", note]
    return "\n".join(line.rstrip() for line in lines).rstrip()


def _published_blocks(benchmark: Benchmark) -> list[str]:
    """Published rows, four targets beside each other, the mean after the last."""
    targets, lines = list(benchmark.targets), []
    for start in range(0, len(targets), 4):
        block = targets[start : start + 4] + ([MEAN] if start + 4 >= len(targets) else [])
        widths = [8 if name == MEAN else 14 for name in block]
        titles = [f"{_fit(name, 13):>{width}}" for name, width in zip(block, widths, strict=True)]
        lines += ["", f"{'published ' + TASKS[benchmark.task][0]:16}" + "".join(titles), "-" * 80]
        for method in benchmark.published:
            figures = [_published(benchmark, method, name) for name in block]
            row = [f"{_text(value, 2):>{width}}" for value, width in zip(figures, widths, strict=True)]
            lines.append(f"{_fit(method, 16):16}" + "".join(row))
    return lines


def _published(benchmark: Benchmark, method: str, column: str) -> float | None:
    return reported_mean(benchmark, method) if column == MEAN else benchmark.published[method].get(column)


def _start(row: Row) -> str:
    star = "*" if row.kind == "published" else " "
    pair = f"{'':13}" if row.alpha != row.alpha else f"{row.alpha:>6.3g}{row.beta:>7.3g}"
    return f"{_fit(row.target, 18):18}{star} {pair}"


def markdown(benchmark: Benchmark, rows: Sequence[Row], note: str = "") -> str:
    """A pipe table, with the published rows and a note below it."""
    titles, table = header(benchmark), cells(benchmark, rows)
    lines = [_pipes(titles), _pipes(["---", "---", *["---:"] * (len(titles) - 3), "---"]), *map(_pipes, table)]
    if benchmark.published:
        columns = [*benchmark.targets, MEAN]
        lines += ["", _pipes([f"published {TASKS[benchmark.task][0]}", *columns])]
        lines.append(_pipes(["---", *["---:"] * len(columns)]))
        for method in benchmark.published:
            lines.append(_pipes([method, *(_text(_published(benchmark, method, name), 2) for name in columns)]))
    return "\n".join([*lines, *(["", note] if note else [])]) + "\n"


def latex(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    """A ``tabular`` for ``booktabs``."""
    titles, table = header(benchmark), cells(benchmark, rows)
    body = [" & ".join(map(_escape, line)) + r" \\" for line in table]
    head = " & ".join(map(_escape, titles)) + r" \\"
    start = rf"\begin{{tabular}}{{ll{'r' * (len(titles) - 3)}l}} % needs \usepackage{{booktabs}}"
    return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    """CSV with a header; what is undefined is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header(benchmark))
    writer.writerows([["" if cell == "-" else cell for cell in line] for line in cells(benchmark, rows)])
    return file.getvalue()


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every figure of every row, per class too."""
    return [asdict(row) for row in rows]


def _pipes(items: Sequence[str]) -> str:
    return "| " + " | ".join(item.replace("|", r"\|") for item in items) + " |"


def _escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _text(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _fit(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
