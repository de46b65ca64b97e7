"""A model and datasets, predicted once: what benchmarks and sweeps ask their questions of."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from score import runtime
from score.data.loaders import test_records
from score.engine import predictions
from score.engine.cache import CachedImage, PredictionCache
from score.engine.evaluate import evaluate
from score.evaluation.coco import CocoScorer, Metrics, ranks
from score.model.classifier import Ensemble
from score.names import is_seen
from score.weights import folder as model_folder
from score.weights import known

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictedDataset:
    """A dataset and what a model says of it.

    Attributes:
        names: the ``C`` words looked for, one for each of the dataset's classes.
        seen: ``C`` flags, true for a word of the training vocabulary.
        cache: complete for the records.
        facts: what the predictions depend on.
    """

    dataset: str
    records: list[dict[str, Any]]
    names: list[str]
    seen: list[bool]
    cache: PredictionCache
    facts: dict[str, Any]

    def __iter__(self) -> Iterator[tuple[dict[str, Any], CachedImage]]:
        """Every record with its predictions, one at a time."""
        return ((record, self.cache[record["image_id"]]) for record in self.records)

    @cached_property
    def ranks(self) -> dict[int | str, int]:
        """The place of each image among those of equal scores."""
        return ranks(record["image_id"] for record in self.records)

    def score(self, alpha: float, beta: float, top_k: int, max_detections: int) -> Metrics:
        """What :meth:`CocoScorer.finish` says of the masks, with the same of their boxes as ``boxes``."""
        ensemble, seen = Ensemble(alpha=alpha, beta=beta), torch.tensor(self.seen)
        masks = CocoScorer(self.names, self.seen, max_detections)
        boxes = CocoScorer(self.names, self.seen, max_detections, "bbox")
        for record, image in self:
            found = image.instances(ensemble, seen, top_k)
            for scorer in (masks, boxes):
                scorer.add(record, found, self.ranks[record["image_id"]])
        return {**masks.finish(), "boxes": boxes.finish()}


class Study:
    """A model folder, ready to predict datasets into caches.

    Args:
        cache: where predictions go, a file for each dataset and model.
        limit: only so many images of each dataset, evenly spread.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        device: torch.device,
        *,
        overrides: Sequence[str] = (),
        workers: int = 0,
        batch_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.folder, self.device = folder, device
        self.model, self.config = model_folder.load(folder, device, overrides)
        self.origin = predictions.origin(folder, self.model, self.config)
        self.cache, self.limit = cache, limit
        self.reading: dict[str, Any] = {"workers": workers, "batch_size": batch_size}
        self._hashes: dict[tuple[str, int], str] = {}

    @classmethod
    def configured(cls, config: DictConfig) -> Study:
        """Build what ``score benchmark`` or ``score sweep`` was set to."""
        return cls(
            known.find(config.model),
            Path(config.predictions),
            runtime.select_device(config.runtime.device, config.runtime.threads),
            overrides=config.overrides,
            workers=config.runtime.workers,
            batch_size=config.batch_size,
            limit=config.limit,
        )

    def provenance(self, command: str) -> dict[str, Any]:
        """What figures come from, as :func:`score.runtime.provenance` has it."""
        return runtime.provenance(self.folder, self.device, self.config.get("seed"), command)

    def facts(self, dataset: str, records: Sequence[dict[str, Any]], embeds: bool = False) -> dict[str, Any]:
        """What predictions of a dataset depend on."""
        names = list(MetadataCatalog.get(dataset).thing_classes)
        if (part := (dataset, len(records))) not in self._hashes:
            self._hashes[part] = predictions.fingerprint(records)
        return {**self.origin, "dataset": self._hashes[part], "names": names, "embeds": embeds}

    def semantic(self, dataset: str, alpha: float, beta: float) -> Metrics:
        """What :class:`SemanticEvaluator` says at one pair, empty on all processes but one; maps are not cached."""
        ensemble = Ensemble(alpha=alpha, beta=beta)
        found = evaluate(self.model, dataset, ensemble=ensemble, limit=self.limit, tasks="semantic", **self.reading)
        return found.get("semantic", {})

    @contextmanager
    def predicted(self, dataset: str, embeds: bool = False) -> Iterator[PredictedDataset]:
        """A dataset's predictions, made now as far as they are not in the cache.

        Args:
            embeds: with embeddings, so that words can be changed.

        Raises:
            DataError: the dataset cannot be used.
            OutputError: the cache cannot be written.
        """
        records = test_records(dataset, self.limit)
        whole = records if self.limit is None else test_records(dataset)  # a part shares the cache of the whole
        facts = self.facts(dataset, whole, embeds)
        names = facts["names"]
        path = self.cache / f"{dataset}-{predictions.digest(facts)}.sqlite"
        with PredictionCache(path, facts) as cache:
            known = len(cache)
            predictions.predict(
                self.model,
                names,
                records,
                cache,
                **self.reading,
                embeds=embeds,
                title=dataset,
            )
            new = len(cache) - known
            if new:
                size = cache.size() / len(cache) / 1000
                logger.info(f"{dataset}: {new} of {len(records)} images predicted now, {size:.1f} kB an image, in")
                logger.info(f"  {path}")
            seen = [is_seen(name, self.model.train_names) for name in names]
            yield PredictedDataset(dataset, records, names, seen, cache, facts)
