"""Fold run folders into one table: settings that differ, mean and spread over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from score.errors import DataError
from score.evaluation.tables import Cell, Table

IGNORED = ("choices", "name", "output", "overwrite", "paths", "resume", "runtime", "seed", "hydra")
"""Settings that make no other experiment, only another run of it."""
NETWORK = "model.network."
FIGURES = (("all", "AP"), ("all", "AP50"), ("seen", "AP"), ("unseen", "AP"), ("harmonic", "AP"))


@dataclass(frozen=True)
class Run:
    """A run folder: what it was set to and what it reached.

    Attributes:
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
            raise DataError(f"{folder}: no run that was scored; it takes folders of score train")
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


def tables(lines: Sequence[Line], digits: int = 1, between: str = "\n± ") -> list[Table]:
    """A table for each dataset: mean and, of two runs and more, standard deviation over seeds.

    Args:
        lines: as :func:`fold` gives them.
        between: mean and deviation.
    """

    def cell(values: Sequence[float]) -> Cell:
        spread = f"{between}{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}" if values else None

    titles = [metric if group == "all" else f"{group} {metric}" for group, metric in FIGURES]
    found = []
    for dataset in dict.fromkeys(line.dataset for line in lines):
        own = [line for line in lines if line.dataset == dataset]
        rows = [
            [line.label or "all runs", ", ".join(map(str, line.seeds)), *(cell(line.values[key]) for key in FIGURES)]
            for line in own
        ]
        found.append(Table([dataset, "seeds", *titles], rows))
    return found


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
