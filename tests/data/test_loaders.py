from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from score.data import catalog, loaders
from score.data.mapper import TestMapper, TrainMapper
from score.errors import DataError

Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def name(synthetic_root: Path) -> str:
    catalog.register(synthetic_root)
    return "synthetic_train"


def batches(name: str, count: int, *, workers: int = 0, seed: int = 1, start: int = 0) -> list[list[dict[str, Any]]]:
    mapper = TrainMapper(size=64, seed=seed)
    return list(islice(iter(loaders.train_loader(name, mapper, 3, workers, seed, start)), count))


def ids(drawn: list[list[dict[str, Any]]]) -> list[int]:
    return [sample["image_id"] for batch in drawn for sample in batch]


def same(first: list[list[dict[str, Any]]], second: list[list[dict[str, Any]]]) -> bool:
    pairs = [(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)]
    return all(a["image_id"] == b["image_id"] and torch.equal(a["image"], b["image"]) for a, b in pairs)


def test_batches_are_shuffled_and_the_same_for_the_same_seed(name: str) -> None:
    first, again = batches(name, 4), batches(name, 4)
    assert [len(batch) for batch in first] == [3, 3, 3, 3]
    assert sorted(ids(first)) == list(range(1, 13))
    assert ids(first) != sorted(ids(first))
    assert ids(first) == ids(again) != ids(batches(name, 4, seed=2))
    assert same(first, again)


def test_each_pass_has_an_order_of_its_own(name: str) -> None:
    drawn = ids(batches(name, 8))
    assert sorted(drawn[:12]) == sorted(drawn[12:])
    assert drawn[:12] != drawn[12:]


def test_a_resumed_run_goes_on_in_order_and_augmentation(name: str) -> None:
    assert same(batches(name, 3, start=6), batches(name, 5)[2:])


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(name: str) -> None:
    assert same(batches(name, 6, workers=2), batches(name, 6))


def test_an_image_is_augmented_differently_at_each_pass(name: str) -> None:
    drawn = {sample["image_id"]: [] for batch in batches(name, 4) for sample in batch}
    for batch in batches(name, 8):
        for sample in batch:
            drawn[sample["image_id"]].append(sample["image"])
    assert not any(torch.equal(first, second) for first, second in drawn.values())


def test_images_without_annotations_are_left_out(write_coco: Write) -> None:
    name = catalog.custom(*write_coco(lambda coco: coco["annotations"].pop()))
    assert set(ids(batches(name, 2))) == {0}


def test_test_loader_gives_single_images_in_order(name: str) -> None:
    drawn = list(loaders.test_loader(loaders.test_records(name), TestMapper(shortest=64, longest=64), 0))
    assert [len(batch) for batch in drawn] == [1] * 12
    assert ids(drawn) == list(range(1, 13))


def test_images_of_one_padded_size_go_together_and_none_is_lost() -> None:
    sizes = [(60, 90), (90, 60), (61, 91), (60, 90), (60, 90), (90, 61)]
    records = [{"image_id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    mapper = TestMapper(shortest=64, longest=640)
    together = list(loaders.test_loader(records, mapper, 0, batch_size=3).batch_sampler)
    assert together == [[0, 2, 3], [1, 5], [4]]
    padded = [{mapper.padded(*sizes[index]) for index in batch} for batch in together]
    assert padded == [{(64, 96)}, {(96, 64)}, {(64, 96)}]


def test_limit_spreads_over_the_dataset(name: str) -> None:
    mapper = TestMapper(shortest=64, longest=64)
    assert ids(list(loaders.test_loader(loaders.test_records(name, limit=3), mapper, 0))) == [1, 5, 9]
    assert len(loaders.test_records(name, limit=99)) == 12
    with pytest.raises(DataError, match="limit of 0 images"):
        loaders.test_records(name, limit=0)
