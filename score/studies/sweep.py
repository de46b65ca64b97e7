"""Sweeps over ensemble exponents on predicted datasets, and the pair that a validation set picks."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, ListConfig

from score.data.loaders import test_records
from score.engine.evaluators import choose
from score.engine.predictions import renamed
from score.errors import ConfigError, DataError
from score.files import save_json, sha256, write_whole
from score.model.classifier import Ensemble
from score.names import is_seen, normalise
from score.studies.grid import Grid, Group, Metric, as_json, candidates, heat_map, sweep, table
from score.studies.study import Study

logger = logging.getLogger(__name__)


class Pick(NamedTuple):
    """A pair of exponents, and how it was found, in words."""

    alpha: float
    beta: float
    reason: str


def grids(
    study: Study,
    dataset: str,
    *,
    alphas: Sequence[float],
    betas: Sequence[float],
    top_k: Sequence[int],
    max_detections: int,
    words: Mapping[str, str] | None = None,
) -> list[Grid]:
    """Score a dataset at every pair, for each cap; the network runs only where predictions are not in the cache.

    Args:
        alphas, betas: the pairs are all of these with all of those.
        top_k: caps on the query-class pairs taken of an image.
        max_detections: of an image, that count.
        words: other words for some classes; needs embeddings, which are kept in a cache of their own.
    """
    with study.predicted(dataset, embeds=bool(words)) as predicted:
        start = time.perf_counter()
        images, seen = (image for _, image in predicted), predicted.seen
        if words:
            known = {normalise(name): word for name, word in words.items()}
            changed = [known.get(normalise(name), name) for name in predicted.names]
            images = renamed(study.model, images, changed)
            seen = [is_seen(name, study.model.train_names) for name in changed]
        compared = [candidates(image, record) for record, image in zip(predicted.records, images, strict=True)]
        pairs = {"alphas": alphas, "betas": betas}
        found = [sweep(compared, seen, **pairs, top_k=cap, max_detections=max_detections) for cap in top_k]
        seconds = time.perf_counter() - start
        logger.info(f"{dataset}: {len(top_k) * len(alphas) * len(betas)} cells in {seconds:.1f} s")
    return found


def run(
    config: DictConfig,
    study: Study,
    datasets: Sequence[str],
    validation: str | None,
    words: Mapping[str, str] | None,
    caps: Sequence[int],
    shared: Mapping[str, int],
    came_from: Mapping[str, Any],
) -> Iterator[str]:
    """Sweep datasets one by one; a heat map and a JSON of each go to ``config.output``.

    Args:
        config: of the command ``sweep``.
        words, caps: as :func:`grids` has them.
        shared: as :func:`check_datasets` gives it.
        came_from: what figures come from; it is kept with them.

    Yields:
        What to say of each dataset and cap.
    """
    output, group, metric = Path(config.output), config.group, config.metric
    grid: dict[str, Any] = {"alphas": list(config.alphas), "betas": list(config.betas)}
    grid["max_detections"] = config.max_detections
    picked = None
    if validation:
        found = grids(study, validation, **grid, top_k=caps[-1:])[0]
        picked = pick(found, validation, study.model.ensemble, group, metric)
    for dataset in datasets:
        own = exacts = grids(study, dataset, **grid, top_k=caps, words=words)
        if picked and not (picked.alpha in config.alphas and picked.beta in config.betas):
            pair = {**grid, "alphas": [picked.alpha], "betas": [picked.beta]}
            exacts = grids(study, dataset, **pair, top_k=caps, words=words)
        for cap, found, exact in zip(caps, own, exacts, strict=True):
            name = dataset if len(caps) == 1 else f"{dataset}_top{cap}"
            tuned = shared[dataset] > 0
            picture = heat_map(found, group, metric, name)
            write_whole(output / f"{name}.png", functools.partial(Path.write_bytes, data=picture))
            facts = {"dataset": dataset, "limit": config.limit, "top_k": cap, "names": words}
            chosen = {"group": group, "metric": metric, "picked": picked, "tuned_on_target": tuned}
            figures = as_json(found, MetadataCatalog.get(dataset).thing_classes)
            save_json(output / f"{name}.json", {**came_from, **facts, **chosen, **figures})
            said = verdict(found, dataset, group, metric, picked, exact, tuned)
            yield f"{name}\n{table(found, group, metric)}\n{said}"


def pick(grid: Grid, dataset: str, own: Ensemble, group: Group, metric: Metric) -> Pick:
    """The best pair of a grid; an exponent that cannot matter there stays the model's own.

    Args:
        grid: of a validation set.
        own: the model's exponents.

    Raises:
        DataError: it is undefined there.
    """
    if np.isnan(grid.mean(group, metric)).all():
        raise DataError(f"{metric} of the group {group} is undefined on {dataset}; choose another validation or group")
    alpha, beta = grid.best(group, metric)
    value = grid.mean(group, metric).max()
    reason = f"picked on {dataset}, {metric} {value:.1f} there"
    if all(grid.seen):
        return Pick(alpha, own.beta, f"{reason};\n  it has no unseen class, so beta is the model's own")
    if not any(grid.seen):
        return Pick(own.alpha, beta, f"{reason};\n  it has no seen class, so alpha is the model's own")
    return Pick(alpha, beta, reason)


def verdict(
    grid: Grid, dataset: str, group: Group, metric: Metric, picked: Pick | None, exact: Grid, tuned: bool = False
) -> str:
    """What a grid says, in lines: the picked pair's figure, and whether the target itself had a say.

    Args:
        grid: of a target.
        picked: the pair that a validation set picked, or None.
        exact: a grid of the same target that holds the picked pair.
        tuned: the validation set holds images of the target.
    """
    values = grid.mean(group, metric)
    if np.isnan(values).all():
        return f"{metric} of the group {group} is undefined: {dataset} has no such class with instances"
    alpha, beta = grid.best(group, metric)
    hindsight = f"* {values.max():.1f} at alpha {alpha:g}, beta {beta:g}: the best in hindsight, on the target itself"
    if picked is None:
        return f"{hindsight};\n  that is no choice to report as transfer: give validation=NAME to make one"
    value = exact.mean(group, metric)[exact.alphas.index(picked.alpha), exact.betas.index(picked.beta)]
    own = f"{metric} {value:.1f} at alpha {picked.alpha:g}, beta {picked.beta:g}"
    warning = "\n  TUNED ON THE TARGET: not a figure to report as transfer" if tuned else ""
    return f"{own}:\n  {picked.reason}{warning}\n{hindsight}"


def overlap(first: str, second: str) -> int:
    """How many images of one registered dataset are also in another, whatever the names of files and datasets."""
    files = [{sha256(Path(record["file_name"])) for record in test_records(name)} for name in (first, second)]
    return len(files[0] & files[1])


def check_datasets(config: DictConfig, datasets: Sequence[str], validation: str | None) -> dict[str, int]:
    """Make sure that all datasets can be swept, before any is predicted.

    Returns:
        How many images of each dataset the validation set holds; not 0 only where it may.

    Raises:
        ConfigError: a pair would be picked on images of a target, ``names`` are of no class, or a set has no masks.
        DataError: a dataset cannot be used.
    """
    for dataset in filter(None, (*datasets, validation)):
        choose("instances", dataset)
        test_records(dataset, config.limit)
    for dataset in datasets:
        classes = {normalise(name): name for name in MetadataCatalog.get(dataset).thing_classes}
        for name, word in (config.names or {}).items():
            if normalise(str(name)) not in classes or not isinstance(word, str):
                raise ConfigError(f"names: {name}: {word}: {dataset} has the classes {', '.join(classes.values())}")
    shared = {dataset: overlap(dataset, validation) if validation else 0 for dataset in datasets}
    for dataset, count in shared.items():
        if count and not config.tune_on_target:
            raise ConfigError(
                f"validation={validation} has {count} images of {dataset}: the pair would be picked on the target; "
                "choose another set, or set tune_on_target=true"
            )
    return shared


def check(config: DictConfig) -> None:
    """Make sure that a sweep's settings can be meant.

    Raises:
        ConfigError: one of them cannot.
    """
    if config.names is not None and not isinstance(config.names, DictConfig):
        raise ConfigError(f"names={config.names}: not other words for classes, as in names='{{ship: \"ship,boat\"}}'")
    if isinstance(config.validation, ListConfig):
        raise ConfigError(f"validation={config.validation}: more than one; name one dataset")
    for key, choices in (("metric", get_args(Metric)), ("group", get_args(Group))):
        if config[key] not in choices:
            raise ConfigError(f"{key}={config[key]}: not one of {', '.join(choices)}")
