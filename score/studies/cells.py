"""A benchmark's cells: every target, predicted once, scored at each pair; what is finished is kept."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from score.data import catalog
from score.data.loaders import test_records
from score.engine import evaluators, predictions
from score.errors import ConfigError, DataError
from score.evaluation.coco import Metrics
from score.files import save_json
from score.studies.benchmark import PAIRS, Benchmark, Row
from score.studies.report import write_report
from score.studies.study import Study

logger = logging.getLogger(__name__)
EVALUATORS = ("evaluation", "masks.py", "detections.py", "studies/study.py", "engine/evaluators.py")
"""Sources that figures come from, given predictions."""


def run(
    benchmark: Benchmark,
    study: Study,
    output: Path,
    came_from: Mapping[str, Any],
    *,
    top_k: int,
    max_detections: int,
    root: str | Path | None,
) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """Score every target at its published pair and at the fixed one.

    Args:
        output: finished cells are kept in ``output/cells`` under a hash of all that they depend on.
        came_from: kept with the cells that are scored now.
        top_k, max_detections: of an image.

    Returns:
        The rows in the benchmark's order, published before fixed, and facts of each target: hash, images, and when and
        by what its cells were made. A part of a target has no published figure beside it.

    Raises:
        ConfigError: a target's name is that of another dataset, or it cannot be scored for the benchmark's task.
        DataError: a target is there, but cannot be used.
    """
    catalog.register(Path(root) if root else None)
    reasons = {target: missing(target, settings) for target, settings in benchmark.targets.items()}
    for target in (target for target, reason in reasons.items() if not reason):  # all, before any is predicted
        evaluators.choose(benchmark.task, target)
        test_records(target, study.limit)
    rows: list[Row] = []
    facts: dict[str, dict[str, Any]] = {}
    for target, reason in reasons.items():
        if reason:
            logger.info(f"{target}: missing, {reason}")
            rows += [Row(target, kind, *benchmark.pair(target, kind), None, reason) for kind in PAIRS]
            facts[target] = {"missing": reason}
            continue
        records = test_records(target, study.limit)
        own, made = study.facts(target, records), {}
        for kind in PAIRS:
            alpha, beta = benchmark.pair(target, kind)
            question = {
                **own,
                "task": benchmark.task,
                "alpha": alpha,
                "beta": beta,
                "top_k": top_k,
                "max_detections": max_detections,
                "evaluator": f"score {predictions.code(*EVALUATORS)}, hotcoco {hotcoco.__version__}",
            }
            metrics, made[kind] = _cell(study, target, question, output / "cells", came_from)
            rows.append(Row(target, kind, alpha, beta, metrics, whole=study.limit is None))
        facts[target] = {**own, "images": len(records), "cells": made}
    return rows, facts


def write_reports(
    benchmark: Benchmark, study: Study, rows: Sequence[Row], output: Path, facts: Mapping[str, Any], **counts: int
) -> list[Path]:
    """Write an HTML report of every instance target that is there, at its published pair; older ones are removed.

    Args:
        benchmark, study, output: as :func:`run` has them.
        rows: what it returned, or some of it.
        counts: ``top_k``, ``max_detections`` and ``pictures``, as :func:`score.studies.report.write_report` has them.
    """
    paths: list[Path] = []
    for target in benchmark.targets:
        (output / f"{target}.html").unlink(missing_ok=True)  # beside new tables it would be taken for their own
    for row in rows:
        if benchmark.task == "instances" and row.kind == "published" and row.metrics is not None:
            with study.predicted(row.target) as predicted:
                path = output / f"{row.target}.html"
                shown = {**facts, "dataset hash": predicted.facts["dataset"]}
                if study.limit is not None:
                    shown["limit"] = f"{len(predicted.records)} images only"
                write_report(path, predicted, dict(row.metrics), alpha=row.alpha, beta=row.beta, facts=shown, **counts)
            paths.append(path)
    return paths


def missing(target: str, settings: Mapping[str, Any]) -> str:
    """Why a target cannot be scored here, or an empty text: it is not known, or its files are not on this disk.

    Args:
        target: its name; one's own files are registered under it.
        settings: its ``json`` and ``images`` where they are one's own.

    Raises:
        ConfigError: one's own dataset has the name of another.
        DataError: its JSON cannot be used.
    """
    if "json" in settings:
        own = Path(settings["json"]), Path(settings["images"])
        absent = [path for path in own if not path.exists()]
        if absent:
            return f"no {absent[0]}"
        if catalog.custom(*own, target) != target:
            raise ConfigError(f"targets.{target}: this is the name of another dataset; give your own another one")
        return ""
    try:
        catalog.require(target)
    except DataError:
        return "no such dataset is registered"
    if catalog.is_drawn(target):
        return ""
    found = MetadataCatalog.get(target)
    needed = [path for path in (found.json_file, found.get("label_root"), found.image_root) if path]
    absent = [Path(path) for path in needed if not Path(path).exists()]
    if absent:
        return f"no {Path(*absent[0].parts[-3:])}"
    return "" if needed else "no root of datasets is set"


def _cell(
    study: Study, target: str, question: Mapping[str, Any], folder: Path, came_from: Mapping[str, Any]
) -> tuple[Metrics, dict[str, Any]]:
    """Figures at one pair, read where they are finished, otherwise scored and kept, and what they come from.

    The figures are empty on all processes but the main one; the latter has ``seconds`` and ``finished``, here and now
    or before.
    """
    alpha, beta = question["alpha"], question["beta"]
    path = folder / f"{target}-{predictions.digest(question)}.json"
    said = f"{target}  alpha {alpha:g}  beta {beta:g}"
    with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or damaged
        known = json.loads(path.read_text(encoding="utf-8"))
        found = known["metrics"], known["made"]
        logger.info(f"{said}  finished before")
        return found
    start = time.perf_counter()
    if question["task"] == "semantic":
        metrics = study.semantic(target, alpha, beta)
    else:
        with study.predicted(target) as predicted:
            main = comm.is_main_process()
            metrics = predicted.score(alpha, beta, question["top_k"], question["max_detections"]) if main else {}
    seconds = round(time.perf_counter() - start, 1)
    made = {**came_from, "seconds": seconds, "finished": time.strftime("%Y-%m-%d %H:%M:%S")}
    if comm.is_main_process():
        save_json(path, {"question": question, "made": made, "metrics": metrics})
    logger.info(f"{said}  done in {seconds:.1f} s")
    return metrics, made
