from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image, ImageEnhance
from pycocotools import mask as coco_mask

from score import masks
from score.data import catalog
from score.data.images import read_image
from score.data.mapper import QuarterTurn, TestMapper, TrainMapper, rasterise, reaches, recoloured
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


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_are_those_of_numpy(quarters: int) -> None:
    rng = np.random.default_rng(quarters)
    still, turn = T.TransformList([T.NoOpTransform()]), T.TransformList([QuarterTurn(30, 50, quarters)])
    size = (50, 30) if quarters % 2 else (30, 50)
    pixels, labels = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8), rng.integers(0, 9, (30, 50), dtype=np.uint8)
    assert np.array_equal(turn.apply_image(pixels), np.rot90(pixels, quarters))
    assert np.array_equal(turn.apply_segmentation(labels), np.rot90(labels, quarters))
    for rings in (
        [[3, 4, 21, 4, 21, 9, 30, 9, 30, 28, 3, 28], [40, 0, 50, 0, 50, 30, 40, 30]],
        [[7, 2, 8, 2, 8, 3, 7, 3]],
    ):
        straight = rasterise(rings, still, (30, 50))
        assert np.array_equal(rasterise(rings, turn, size), np.rot90(straight, quarters))
        (rle,) = masks.encode(straight[None])
        assert np.array_equal(rasterise(rle, turn, size), np.rot90(straight, quarters))
    slanted = [list(rng.uniform(0, 30, 8))]
    differ = rasterise(slanted, turn, size) != np.rot90(rasterise(slanted, still, (30, 50)), quarters)
    assert differ.mean() <= 0.01  # COCO rounds an edge between pixels to one side of it


def views(pixels: np.ndarray) -> set[bytes]:
    """The eight ways to lay a square picture down."""
    return {np.rot90(side, k).tobytes() for side in (pixels, pixels[:, ::-1]) for k in range(4)}


@pytest.mark.parametrize("kind", ["polygon", "rle"])
@pytest.mark.parametrize("turns", [False, True])
def test_mask_and_image_are_turned_alike_to_all_eight_views(tmp_path: Path, kind: str, turns: bool) -> None:
    shape = np.zeros((40, 40), dtype=bool)
    shape[4:30, 6:12] = shape[4:9, 6:30] = True  # no view looks like another
    Image.fromarray(np.dstack([shape] * 3).astype(np.uint8) * 255).save(tmp_path / "f.png")
    polygon = [[6, 4, 30, 4, 30, 9, 12, 9, 12, 30, 6, 30]]
    segmentation = polygon if kind == "polygon" else masks.encode(shape[None])[0]
    record = {
        "file_name": str(tmp_path / "f.png"),
        "image_id": 0,
        "height": 40,
        "width": 40,
        "annotations": [{"segmentation": segmentation, "category_id": 0}],
    }
    mapper, seen = TrainMapper(size=40, scale=(1, 1), turns=turns, seed=0), []
    for _ in range(64):
        sample = mapper(record)
        (mask,) = sample["instances"].gt_masks.tensor
        assert torch.equal(mask, sample["image"][0] > 127)
        seen.append(mask.numpy().tobytes())
    assert set(seen) == (views(shape) if turns else {shape.tobytes(), shape[:, ::-1].tobytes()})
    assert min(map(seen.count, seen)) >= (2 if turns else 20)


def test_turned_images_that_are_no_squares_are_fitted_and_cropped(records: list[dict[str, Any]]) -> None:
    mapper = TrainMapper(size=96, scale=(0.5, 2.0), image_pad=0, turns=True, seed=5)
    upright = 0
    for index in range(40):
        sample = mapper(records[index % 2])
        white = sample["image"][0] > 127
        if len(sample["instances"]) and white.sum() >= 100:
            assert iou(sample["instances"].gt_masks.tensor[0], white) > 0.85
        columns, rows = white.any(0).sum(), white.any(1).sum()
        upright += bool(rows > 2 * columns > 0)
    assert upright > 8


def test_without_turns_a_seed_draws_what_it_always_drew(records: list[dict[str, Any]]) -> None:
    good = records[0]["annotations"][0]
    crowded = {**records[0], "annotations": [{**good, "category_id": i} for i in range(9)]}
    mapper = TrainMapper(size=30, scale=(1.1, 3.0), max_instances=4, ignore=True, seed=8)
    picture = Image.open(records[0]["file_name"])
    for position in range(12):
        rng = np.random.default_rng([8, position])
        mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture
        ratio = 30 * rng.uniform(1.1, 3.0) / 60
        width, height = round(60 * ratio), round(40 * ratio)
        y, x = (round(max(0, length - 30) * rng.random()) for length in (height, width))
        whole = np.asarray(mirrored.resize((width, height), Image.Resampling.BILINEAR))
        sample = mapper({**crowded, "position": position})
        crop = whole[y : y + 30, x : x + 30]
        assert np.array_equal(sample["image"].permute(1, 2, 0)[: len(crop)], crop)
        if len(sample["instances"]) == 4:
            assert sample["instances"].gt_classes.tolist() == sorted(rng.choice(9, 4, replace=False))


def test_colours_change_by_the_share_that_was_asked_for_and_shapes_do_not(records: list[dict[str, Any]]) -> None:
    plain = TrainMapper(size=30, scale=(1.1, 3.0), seed=8)
    still, bold = (TrainMapper(size=30, scale=(1.1, 3.0), colour=share, seed=8) for share in (1e-6, 0.5))
    differences = []
    for position in range(12):
        before, same, changed = (mapper({**records[0], "position": position}) for mapper in (plain, still, bold))
        assert torch.equal(before["image"], same["image"])
        assert torch.equal(before["instances"].gt_masks.tensor, changed["instances"].gt_masks.tensor)
        differences.append((changed["image"].float() - before["image"].float()).abs().mean().item())
    assert len(set(differences)) >= 8 and max(differences) > 10  # of a white shape: what is brighter stays white


def test_brightness_contrast_and_saturation_are_those_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(60, 130, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index, kind in enumerate(kinds):
        for factor in (0.7, 1.3):
            factors = np.ones(3)
            factors[index] = factor
            wanted = np.asarray(kind(picture).enhance(factor)).astype(int)
            assert np.abs(recoloured(pixels, factors).astype(int) - wanted).max() <= 2  # Pillow rounds grey levels


def test_ignored_is_all_that_is_no_background_but_no_padding(records: list[dict[str, Any]]) -> None:
    good = records[0]["annotations"][0]
    polygon = {**good, "iscrowd": 1, "segmentation": [[50, 30, 70, 30, 70, 50, 50, 50]]}  # beyond the image's corner
    runs = np.zeros((1, 40, 60), dtype=bool)
    runs[0, :5, :8] = True
    record = {
        **records[0],
        "annotations": [good, polygon, {**good, "iscrowd": 1, "segmentation": masks.encode(runs)[0]}],
    }
    expected = torch.zeros(80, 80, dtype=torch.bool)
    expected[30:40, 50:60] = expected[:5, :8] = True
    sample = TrainMapper(size=80, scale=(0.75, 0.75), flip=0, ignore=True, seed=0)(record)
    assert len(sample["instances"]) == 1
    assert sample["ignore"].dtype == torch.bool and torch.equal(sample["ignore"], expected)
    assert "ignore" not in TrainMapper(size=80, seed=0)(record)
    nothing = TrainMapper(size=80, ignore=True, seed=0)(records[0])["ignore"]
    assert nothing.shape == (80, 80) and not nothing.any()


@pytest.mark.parametrize("turns", [False, True])
def test_instances_beyond_the_cap_are_ignored(records: list[dict[str, Any]], turns: bool) -> None:
    good = records[0]["annotations"][0]
    boxes = [[x, y, x + 4, y, x + 4, y + 4, x, y + 4] for x in range(0, 60, 10) for y in range(0, 40, 10)]
    crowded = {**records[0], "annotations": [{**good, "segmentation": [box]} for box in boxes]}
    settings = {"size": 60, "scale": (1, 1), "turns": turns, "seed": 3}
    every, some = TrainMapper(**settings), TrainMapper(**settings, max_instances=5, ignore=True)
    for position in range(8):
        whole = every({**crowded, "position": position})["instances"].gt_masks.tensor.any(0)
        sample = some({**crowded, "position": position})
        kept = sample["instances"].gt_masks.tensor.any(0)
        assert kept.sum() == 5 * 16 and not (kept & sample["ignore"]).any()
        assert torch.equal(kept | sample["ignore"], whole)


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
