"""Data loaders on detectron2's builders."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from score.data.catalog import load
from score.data.mapper import TestMapper
from score.errors import DataError

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class Stream(Dataset[dict[str, Any]]):
    """A training set as an endless shuffled sequence, in which a record is found by its position alone.

    Each pass has an order of its own. A record says its ``position``, so a mapper can draw from it: what a run sees
    then depends neither on the number of workers nor on whether it was resumed.

    Args:
        records: detectron2's dicts.
        seed: of the orders.
    """

    def __init__(self, records: list[dict[str, Any]], seed: int) -> None:
        self._records = DatasetFromList(records, copy=False)  # serialised: workers share its memory
        self._seed = seed
        self._order: tuple[int, list[int]] = (-1, [])  # the pass last asked for

    def __len__(self) -> int:
        """Records in one pass."""
        return len(self._records)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The record at a position from 0 on."""
        turn, place = divmod(position, len(self))
        if self._order[0] != turn:
            order = np.random.default_rng([self._seed, turn]).permutation(len(self))
            self._order = (turn, order.tolist())
        return {**self._records[self._order[1][place]], "position": position}


class Positions(Sampler[int]):
    """All positions from ``start`` on that are this process's: every n-th of n processes."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        """Endlessly."""
        return itertools.count(self._start + comm.get_rank(), comm.get_world_size())


def train_loader(name: str, mapper: Mapper, batch_size: int, workers: int, seed: int, start: int = 0) -> DataLoader:
    """An endless loader of shuffled batches; images without annotations are left out.

    Args:
        name: a registered dataset.
        mapper: such as :class:`score.data.mapper.TrainMapper`.
        batch_size: images a step, over all processes together.
        workers: processes that read images, 0 for none beside this one.
        seed: of the order.
        start: how many images a run that is resumed has had, in all processes together.

    Raises:
        DataError: the dataset cannot be used, or no image has an annotation.
    """
    records = load(name)
    annotated = [
        record
        for record in records
        if "sem_seg_file_name" in record or any(not item["iscrowd"] for item in record["annotations"])
    ]
    if not annotated:
        raise DataError(f"{name}: no image has an annotation that is not a crowd; there is nothing to learn from")
    logger.info("%s: %d of %d images have annotations", name, len(annotated), len(records))
    return build_detection_train_loader(
        Stream(annotated, seed),
        mapper=mapper,
        sampler=Positions(start),
        total_batch_size=batch_size,
        aspect_ratio_grouping=False,  # the mapper makes them all one size
        num_workers=workers,
    )


def test_records(name: str, limit: int | None = None) -> list[dict[str, Any]]:
    """A registered dataset's records in its order.

    Args:
        name: a registered dataset.
        limit: only so many, evenly spread over the dataset, for files are often sorted by what they show.

    Raises:
        DataError: the dataset cannot be used.
    """
    records = load(name)
    if limit is not None and limit < len(records):
        if limit < 1:
            raise DataError(f"{name}: a limit of {limit} images leaves none; ask for at least 1")
        records = [records[i * len(records) // limit] for i in range(limit)]
    return records


def test_loader(records: list[dict[str, Any]], mapper: TestMapper, workers: int, batch_size: int = 1) -> DataLoader:
    """A loader of this process's share of images, in the order of their records but for what goes together.

    Images go together whose input is of one size once it is padded: so each is seen as it would be alone.

    Args:
        records: such as :func:`test_records` gives.
        mapper: reads and resizes.
        workers: processes that read images, 0 for none beside this one.
        batch_size: most images in a batch.
    """
    together: dict[tuple[int, int], list[int]] = {}
    batches: list[list[int]] = []
    for index, record in enumerate(records):
        size = mapper.padded(record["height"], record["width"]) if batch_size > 1 else (0, 0)
        open_batch = together.get(size, [])
        if not 0 < len(open_batch) < batch_size:
            together[size] = open_batch = []
            batches.append(open_batch)
        open_batch.append(index)
    own = batches[comm.get_rank() :: comm.get_world_size()]
    images = MapDataset(DatasetFromList(records, copy=False), mapper)
    return DataLoader(images, batch_sampler=own, num_workers=workers, collate_fn=trivial_batch_collator)


def image_count(loader: DataLoader) -> int:
    """How many images a :func:`test_loader` gives this process."""
    return sum(map(len, cast(Sequence[list[int]], loader.batch_sampler)))
