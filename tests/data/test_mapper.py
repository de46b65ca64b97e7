from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from pycocotools import mask as coco_mask

from score.data import catalog
from score.data.images import read_image
from score.data.mapper import TestMapper, TrainMapper, rasterise, reaches
from score.errors import DataError

Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def records(write_coco: Write) -> list[dict[str, Any]]:
    """A polygon's image and an RLE's; each shows its mask in white on black."""
    return catalog.load(catalog.custom(*write_coco()))


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("kind", [0, 1], ids=["polygon", "rle"])
def test_the_mask_follows_the_image(records: list[dict[str, Any]], kind: int) -> None:
    mapper = TrainMapper(size=96, scale=(0.5, 2.0), image_pad=0, seed=5)
    seen = 0
    for _ in range(24):
        sample = mapper(records[kind])
        white = sample["image"][0] > 127
        if white.sum() < 100:
            continue
        seen += 1
        (mask,) = sample["instances"].gt_masks.tensor
        assert iou(mask, white) > 0.85
    assert seen > 12


def test_contract_of_a_sample(records: list[dict[str, Any]]) -> None:
    sample = TrainMapper(size=64, scale=(1, 1), seed=0)(records[0])
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (64, 64, 0)
    assert sample["file_name"] == records[0]["file_name"]
    instances = sample["instances"]
    assert instances.image_size == (64, 64)
    assert instances.gt_classes.tolist() == [1]
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert "segmentation" in records[0]["annotations"][0]  # the dataset's own dict is untouched


def test_padding_is_grey_in_the_image_and_empty_in_the_mask(records: list[dict[str, Any]]) -> None:
    sample = TrainMapper(size=120, scale=(0.5, 0.5), flip=0, seed=0)(records[0])  # 60x40 at the upper left
    assert (sample["image"][:, 40:] == 128).all()
    assert (sample["image"][:, :, 60:] == 128).all()
    expected = torch.zeros(120, 120, dtype=torch.bool)
    expected[10:20, 5:35] = True
    assert torch.equal(sample["instances"].gt_masks.tensor[0], expected)


def test_flip_is_exact(records: list[dict[str, Any]]) -> None:
    plain = TrainMapper(size=60, scale=(1, 1), flip=0, seed=0)
    mirrored = TrainMapper(size=60, scale=(1, 1), flip=1, seed=0)
    for record in records:
        a, b = plain(record), mirrored(record)
        assert torch.equal(a["image"][:, :40].flip(2), b["image"][:, :40])
        assert torch.equal(a["instances"].gt_masks.tensor.flip(2), b["instances"].gt_masks.tensor)


def test_sizes_cover_the_range_of_the_jitter(records: list[dict[str, Any]]) -> None:
    mapper = TrainMapper(size=60, scale=(0.1, 2.0), image_pad=77, seed=1)
    widths = [int((mapper(records[0])["image"][0, 0] != 77).sum()) for _ in range(200)]
    assert min(widths) < 9  # a tenth of 60
    assert np.mean(np.array(widths) == 60) == pytest.approx(1 / 1.9, abs=0.1)  # uniform: so often beyond 1


def test_equal_seeds_give_equal_samples(records: list[dict[str, Any]]) -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        mapper = TrainMapper(size=64, seed=seed)
        return [mapper(record)["image"] for record in records]

    assert all(map(torch.equal, draw(1), draw(1)))
    assert not all(map(torch.equal, draw(1), draw(2)))


def test_instances_cropped_away_are_dropped(records: list[dict[str, Any]]) -> None:
    mapper = TrainMapper(size=24, scale=(4.0, 4.0), seed=2)  # a quarter of the width is seen
    counts = [len(mapper(records[i % 2])["instances"]) for i in range(40)]
    assert {0, 1} == set(counts)
    empty = mapper({**records[0], "annotations": []})["instances"]
    assert empty.gt_masks.tensor.shape == (0, 24, 24)
    assert empty.gt_classes.shape == (0,)


def test_crowds_are_dropped(records: list[dict[str, Any]]) -> None:
    good = records[0]["annotations"][0]
    sample = TrainMapper(size=60, scale=(1, 1), seed=0)({**records[0], "annotations": [{**good, "iscrowd": 1}, good]})
    assert len(sample["instances"]) == 1


def test_cap_on_instances_is_seeded(records: list[dict[str, Any]]) -> None:
    good = records[0]["annotations"][0]
    crowded = {**records[0], "annotations": [{**good, "category_id": i} for i in range(40)]}

    def kept(seed: int) -> list[int]:
        mapper = TrainMapper(size=60, scale=(1, 1), max_instances=5, seed=seed)
        return mapper(crowded)["instances"].gt_classes.tolist()

    assert len(kept(0)) == 5
    assert kept(0) == kept(0) == sorted(kept(0))
    assert kept(0) != kept(1)


def test_rasterising_after_the_crop_is_cropping_the_raster() -> None:
    rng = np.random.default_rng(0)
    crop = T.TransformList([T.CropTransform(30, 20, 50, 40)])
    for _ in range(20):
        rings = [list(rng.uniform(0, 100, 8)) for _ in range(2)]
        whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 100, 100))).astype(bool)
        expected = whole[20:60, 30:80]
        found = rasterise(rings, crop, (40, 50))
        assert (found != expected).mean() <= 0.01  # a shifted edge may round the other way
        assert reaches({"segmentation": rings}, crop, (40, 50)) or not expected.any()


def test_compressed_and_plain_rle_agree() -> None:
    mask = np.asfortranarray(np.random.default_rng(0).random((20, 30)) > 0.7).astype(np.uint8)
    compressed = coco_mask.encode(np.asfortranarray(mask))
    text = {"size": [20, 30], "counts": compressed["counts"].decode()}
    still = T.TransformList([T.NoOpTransform()])
    for rle in (compressed, text):
        assert (rasterise(rle, still, (20, 30)) == mask.astype(bool)).all()


def test_test_mapper_resizes_and_keeps_the_original_size(records: list[dict[str, Any]]) -> None:
    sample = TestMapper(shortest=80, longest=100)(records[0])
    assert sample["image"].shape == (3, 67, 100)  # 80 high would be 120 wide
    assert (sample["height"], sample["width"], sample["image_id"]) == (40, 60, 0)
    assert "annotations" not in sample
    assert TestMapper(shortest=80, longest=200)(records[0])["image"].shape == (3, 80, 120)


def test_test_mapper_takes_a_bare_file(records: list[dict[str, Any]]) -> None:
    sample = TestMapper(shortest=40, longest=60)({"file_name": records[0]["file_name"]})
    assert (sample["height"], sample["width"]) == (40, 60)
    assert (sample["image"].permute(1, 2, 0).numpy() == read_image(records[0]["file_name"])).all()


@pytest.mark.parametrize("mapper", [TrainMapper(size=32), TestMapper()], ids=["train", "test"])
def test_images_of_another_size_are_refused(records: list[dict[str, Any]], mapper: Callable[[dict], dict]) -> None:
    with pytest.raises(DataError, match=r"0\.png: the image has 60x40 pixels, its annotations say 50x40"):
        mapper({**records[0], "width": 50})


@pytest.mark.data
def test_crowded_real_tiles_map_quickly_and_completely(datasets_root: Path) -> None:
    catalog.register(datasets_root)
    crowded = max(catalog.load("isaid512_val"), key=lambda record: len(record["annotations"]))
    sample = TrainMapper(size=512, scale=(1, 1), seed=0)(crowded)
    assert len(sample["instances"]) == len(crowded["annotations"]) > 150
