"""Masks with and without windows give the same measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from score import masks
from score.errors import DataError
from score.masks import RLE

HEIGHT, WIDTH = 50, 70


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    """``[6, 50, 70]`` discs, the last one empty."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = [(10, 10), (14, 12), (40, 60), (41, 58), (25, 35)]
    discs = [(y - a) ** 2 + (x - b) ** 2 < 64 for a, b in centres]
    return np.stack([*discs, np.zeros_like(discs[0])])


def test_arrays_and_tensors_encode_alike_and_decode_to_themselves(bits: np.ndarray) -> None:
    rles = masks.encode(bits)
    assert masks.encode(torch.from_numpy(bits)) == rles
    assert all((masks.decode(rle) == mask).all() for rle, mask in zip(rles, bits, strict=True))
    assert masks.decode(rles[0]).dtype == bool
    assert rles[0]["size"] == [HEIGHT, WIDTH]
    assert "offset" not in rles[0]


def test_a_window_has_the_area_box_and_part_of_the_whole(bits: np.ndarray) -> None:
    for rle, mask in zip(masks.encode(bits), bits, strict=True):
        small = masks.trim(rle)
        assert masks.area(small) == masks.area(rle) == mask.sum()
        assert masks.box(small)[2:] == masks.box(rle)[2:]
        assert masks.paste(small, HEIGHT, WIDTH) == rle
        where, inside = masks.part(small)
        assert inside.sum() == mask.sum()
        assert (mask[where] == inside).all()
    small = masks.trim(masks.encode(bits)[2])
    assert small == {"size": [15, 10 + 5], "counts": small["counts"], "offset": [53, 33]}
    assert masks.box(small) == (53, 33, 15, 15)


def test_a_cut_keeps_what_its_window_shows(bits: np.ndarray) -> None:
    for rle, mask in zip(masks.encode(bits), bits, strict=True):
        for window in ((5, 5, 20, 10), (-4, -3, 30, 30), (60, 40, 30, 30), (200, 0, 5, 5)):
            x, y, width, height = window
            padded = np.zeros((300, 300), dtype=bool)
            padded[50 : 50 + HEIGHT, 50 : 50 + WIDTH] = mask
            right = padded[50 + y : 50 + y + height, 50 + x : 50 + x + width]
            found = masks.cut(masks.trim(rle), window)
            assert (masks.decode(found) == right).all()
            assert found.get("offset", [0, 0]) == [x, y]


@pytest.mark.parametrize("crowd", [None, [True, False, True, False, False, True]])
def test_iou_does_not_depend_on_windows(bits: np.ndarray, crowd: list[bool] | None) -> None:
    rles = masks.encode(bits)
    right = coco_mask.iou(rles, rles, crowd or [False] * len(rles))
    mixed: list[RLE] = [masks.trim(rle) if index % 2 else rle for index, rle in enumerate(rles)]
    assert masks.iou(rles, rles, crowd) == pytest.approx(right)
    assert masks.iou(mixed, rles, crowd) == pytest.approx(right)
    assert masks.iou([], rles).shape == (0, 6)


def test_shapes_are_polygons_or_run_lengths_of_the_image() -> None:
    ring = [10, 5, 30, 5, 30, 15, 10, 15]
    rle = masks.encode_shape([ring, np.array(ring) + 20.0], HEIGHT, WIDTH)
    assert masks.area(rle) == 400
    assert masks.box(rle) == (10, 5, 40, 30)
    assert masks.encode_shape({**rle, "counts": rle["counts"].encode()}, HEIGHT, WIDTH) == rle
    counts = [HEIGHT * WIDTH - 10, 10]
    assert masks.area(masks.encode_shape({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)) == 10
    with pytest.raises(DataError, match="prepare the annotations again"):
        masks.encode_shape(rle, HEIGHT + 1, WIDTH)


def test_pasting_is_cutting_out_the_whole_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 30, 2))
        bits = rng.random((1, rng.integers(1, height + 1), rng.integers(1, width + 1))) < rng.choice([0, 0.1, 0.5, 1])
        window = masks.encode(bits, rng.integers(-3, 8, 2))[0]
        assert masks.paste(window, height, width) == masks.cut(window, (0, 0, width, height))


def test_columns_are_encoded_as_the_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        bits = np.zeros((height, width), dtype=bool)
        bits[:, left:right] = rng.random((height, right - left)) < rng.choice([0, 0.02, 0.5, 1])
        columns = np.ascontiguousarray(bits.T[left : right + 1])
        assert masks.encode_columns(columns, int(left), width) == masks.encode(bits[None])[0]
