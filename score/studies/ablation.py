"""Fold run folders into one table: settings that differ, mean and spread over seeds."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from score.errors import DataError

IGNORED = ("choices", "name", "output", "overwrite", "paths", "resume", "runtime", "seed", "hydra")
"""Settings that make no other experiment, only another run of it."""
NETWORK = "model.network."
FIGURES = (("all", "AP"), ("all", "AP50"), ("seen", "AP"), ("unseen", "AP"), ("harmonic", "AP"))


@dataclass(frozen=True)
class Run:
    """A run folder: what it was set to and what it reached.

    Attributes:
        folder: the run's.
        seed: of the run.
        choices: config groups, as ``rai`` to ``off``.
        settings: every other setting, dotted key to value.
        results: dataset to what the evaluator said.
    """

    folder: Path
    seed: Any
    choices: dict[str, str]
    settings: dict[str, Any]
    results: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """Runs that differ in their seed only, on one dataset.

    Attributes:
        label: the settings in which they differ from other runs.
        dataset: that they were scored on.
        seeds: of the runs.
        values: ``group, metric`` to a figure of each run where it is defined.
    """

    label: str
    dataset: str
    seeds: list[Any]
    values: dict[tuple[str, str], list[float]]


def find(folders: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """Read run folders, and those below folders of them.

    Returns:
        Runs that ended and were scored, and the folders of the others.

    Raises:
        DataError: a folder is missing or holds no run that was scored.
    """
    found: dict[Path, Run] = {}
    unscored: dict[Path, None] = {}
    for folder in folders:
        places = sorted({path.parent for path in folder.rglob("config.yaml")})
        ended = {place: _read(place) for place in places if (place / "model.safetensors").is_file()}
        scored = {place: run for place, run in ended.items() if run.results}
        if not scored:
            raise DataError(f"{folder}: no run that was scored; it takes folders of tools/train.py")
        found |= scored
        unscored |= {place: None for place in places if place not in scored}
    return list(found.values()), list(unscored)


def _read(folder: Path) -> Run:
    try:
        config = dict(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        files = sorted((folder / "evaluation").glob("*.json"))
        results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
        figures = {
            name: {group: result[group] for group, _ in FIGURES}
            for name, result in results.items()
            if "all" in result and not result.get("changes")  # masks, scored as the run itself would have
        }
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a run's folder ({' '.join(str(error).split())[:100]}); leave it out") from error
    settings = _flat({key: value for key, value in config.items() if key not in IGNORED})
    settings = {key: value for key, value in settings.items() if not key.endswith(".seed")}  # of the run's own
    return Run(folder, config.get("seed"), dict(config.get("choices") or {}), settings, figures)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    return {
        key: value
        for name, item in node.items()
        for key, value in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def fold(runs: Sequence[Run]) -> list[Line]:
    """Group runs that differ in their seed only, a line for each dataset.

    Raises:
        DataError: two runs of one seed and the same settings.
    """
    groups: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        groups.setdefault(label, []).append(run)
    lines = []
    for label, members in groups.items():
        seeds = [run.seed for run in members]
        if len(set(map(str, seeds))) < len(seeds):
            twice = ", ".join(str(run.folder) for run in members)
            raise DataError(f"runs with the same seed and settings: {twice}; leave out all but one")
        for dataset in dict.fromkeys(name for run in members for name in run.results):
            there = [run for run in members if dataset in run.results]
            values = {}
            for group, metric in FIGURES:
                figures = [run.results[dataset][group].get(metric) for run in there]
                values[group, metric] = [figure for figure in figures if figure is not None]
            lines.append(Line(label, dataset, [run.seed for run in there], values))
    return lines


def labels(runs: Sequence[Run]) -> list[str]:
    """What is particular to each run: differing choices of groups, and differing settings that these do not explain."""
    groups = _differing([run.choices for run in runs])
    same: dict[str, list[Run]] = {}
    for run in runs:
        same.setdefault(_label(run.choices, groups), []).append(run)
    by_hand = {key for members in same.values() for key in _differing([run.settings for run in members])}
    differing = _differing([run.settings for run in runs])
    keys = [key for key in differing if key in by_hand or not _explained(key, groups)]

    def said(keys: Sequence[str]) -> list[str]:
        return [", ".join(filter(None, (_label(run.choices, groups), _label(run.settings, keys)))) for run in runs]

    # model.network mostly repeats what other settings say
    short, full = said([key for key in keys if not key.startswith(NETWORK)]), said(keys)
    return short if len(set(short)) == len(set(full)) else full


def _explained(key: str, groups: Sequence[str]) -> bool:
    """Whether a setting may differ because a choice does: its own group's, an experiment's, or one of its parts'."""
    resolved = key.startswith((NETWORK, "model.train_names"))
    return key.partition(".")[0] in groups or "experiment" in groups or (resolved and bool(groups))


def _differing(dictionaries: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for item in dictionaries for key in item)
    return [key for key in keys if len({json.dumps(item.get(key), default=str) for item in dictionaries}) > 1]


def _label(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={values.get(key)}" for key in keys)


def terminal(lines: Sequence[Line]) -> str:
    """A table of at most 80 columns, a block for each dataset: mean, and the standard deviation over seeds below."""
    blocks = []
    for dataset in dict.fromkeys(line.dataset for line in lines):
        block = [
            f"{_fit(dataset, 35):35}{'seeds':>5}{'AP':>8}{'AP50':>8}{'seen':>8}{'unseen':>8}{'h. mean':>8}",
            "-" * 80,
        ]
        for line in (line for line in lines if line.dataset == dataset):
            means = [_mean(line.values[key]) for key in FIGURES]
            label = line.label or "all runs"
            if len(label) > 35:  # on lines of its own
                block += textwrap.wrap(label, 80)
                label = ""
            block.append(f"{label:35}{len(line.seeds):>5}" + _row(means))
            if len(line.seeds) > 1:
                spreads = [_spread(line.values[key]) for key in FIGURES]
                block.append(f"{'':37}+/-" + _row(spreads))
        blocks.append("\n".join(block))
    return "\n\n".join(blocks)


def markdown(lines: Sequence[Line]) -> str:
    """A pipe table: mean and standard deviation over seeds."""
    head = ["settings", "dataset", "seeds", *(f"{metric} {group}" for group, metric in FIGURES)]
    rows = [head, ["---", "---", "---:", *["---:"] * len(FIGURES)]]
    for line in lines:
        cells = []
        for key in FIGURES:
            mean, spread = _mean(line.values[key]), _spread(line.values[key])
            cells.append("-" if mean is None else f"{mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""))
        rows.append([line.label or "all runs", line.dataset, ", ".join(map(str, line.seeds)), *cells])
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows)


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Every figure of every run."""
    return [
        {
            "settings": line.label,
            "dataset": line.dataset,
            "seeds": line.seeds,
            "values": {f"{group} {metric}": line.values[group, metric] for group, metric in FIGURES},
        }
        for line in lines
    ]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; undefined for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def _row(values: Sequence[float | None]) -> str:
    return "".join(f"{'-' if value is None else f'{value:.1f}':>8}" for value in values)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
