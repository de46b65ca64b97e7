"""Sweeps over ensemble exponents on predicted datasets, and the pair that a validation set picks."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from omegaconf import DictConfig, ListConfig

from score.engine.predictions import renamed
from score.engine.study import Study
from score.errors import ConfigError
from score.evaluation.sweep import Grid, Group, Metric, candidates, sweep
from score.model.classifier import Ensemble
from score.names import is_seen

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
        study: the model.
        dataset: a registered name.
        alphas, betas: the pairs are all of these with all of those.
        top_k: caps on the query-class pairs taken of an image.
        max_detections: of an image, that count.
        words: other words for some classes; needs embeddings, which are kept in a cache of their own.

    Raises:
        ConfigError: ``words`` are for a class that the dataset has not.
    """
    with study.predicted(dataset, embeds=bool(words)) as predicted:
        start = time.perf_counter()
        images, seen = (image for _, image in predicted), predicted.seen
        if words:
            unknown = sorted(set(words) - set(predicted.names))
            if unknown:
                raise ConfigError(f"names: {dataset} has no class {unknown[0]}; it has {', '.join(predicted.names)}")
            changed = [words.get(name, name) for name in predicted.names]
            images = renamed(study.model, images, changed)
            seen = [is_seen(name, study.model.train_names) for name in changed]
        compared = [candidates(image, record) for record, image in zip(predicted.records, images, strict=True)]
        pairs = {"alphas": alphas, "betas": betas}
        found = [sweep(compared, seen, **pairs, top_k=cap, max_detections=max_detections) for cap in top_k]
        seconds = time.perf_counter() - start
        logger.info(f"{dataset}: {len(top_k) * len(alphas) * len(betas)} cells in {seconds:.1f} s")
    return found


def pick(grid: Grid, dataset: str, own: Ensemble, group: Group, metric: Metric) -> Pick:
    """The best pair of a grid; an exponent that cannot matter there stays the model's own.

    Args:
        grid: of a validation set.
        dataset: its name.
        own: the model's exponents.
        group, metric: what should be highest.
    """
    alpha, beta = grid.best(group, metric)
    value = grid.mean(group, metric).max()
    reason = f"picked on {dataset}, {metric} {value:.1f} there"
    if all(grid.seen):
        return Pick(alpha, own.beta, f"{reason};\n  it has no unseen class, so beta is the model's own")
    if not any(grid.seen):
        return Pick(own.alpha, beta, f"{reason};\n  it has no seen class, so alpha is the model's own")
    return Pick(alpha, beta, reason)


def verdict(grid: Grid, picked: Pick | None, dataset: str, group: Group, metric: Metric) -> str:
    """What a grid says, in lines: the picked pair's figure, and whether the target itself had a say."""
    values = grid.mean(group, metric)
    if np.isnan(values).all():
        return f"{metric} of the group {group} is undefined: {dataset} has no such class with instances"
    alpha, beta = grid.best(group, metric)
    hindsight = f"* {values.max():.1f} at alpha {alpha:g}, beta {beta:g}: the best in hindsight, on the target itself"
    if picked is None:
        return f"{hindsight};\n  that is no choice to report as transfer: give validation=NAME to make one"
    row, column = _nearest(grid.alphas, picked.alpha), _nearest(grid.betas, picked.beta)
    own = f"{metric} {values[row, column]:.1f} at alpha {grid.alphas[row]:g}, beta {grid.betas[column]:g}"
    warning = "\n  TUNED ON THE TARGET: not a figure to report as transfer" if f"on {dataset}," in picked.reason else ""
    return f"{own}:\n  {picked.reason}{warning}\n{hindsight}"


def _nearest(values: Sequence[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda index: abs(values[index] - wanted))


def check(config: DictConfig) -> None:
    """Make sure that a sweep's settings can be meant.

    Raises:
        ConfigError: one of them cannot.
    """
    for key in ("alphas", "betas"):
        values = config[key]
        listed = isinstance(values, ListConfig) and len(values) > 0
        if not listed or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
            raise ConfigError(f"{key}={values}: not a list of numbers in 0 .. 1")
    for key, choices in (("metric", get_args(Metric)), ("group", get_args(Group))):
        if config[key] not in choices:
            raise ConfigError(f"{key}={config[key]}: not one of {', '.join(choices)}")
    caps = config.top_k if isinstance(config.top_k, ListConfig) else [config.top_k]
    for key, values in (("top_k", caps), ("max_detections", [config.max_detections])):
        if not values or not all(type(value) is int and value >= 1 for value in values):
            raise ConfigError(f"{key}={config[key]}: not a whole number of at least 1, or a list of such")
