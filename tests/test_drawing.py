from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from score import drawing as pictures
from score.detections import Detection
from score.drawing import draw, palette, side_by_side
from tests.evaluation.coco_cases import rectangle

NAMES = ["ship", "storage tank", "swimming pool"]


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def found(label: int, score: float, shape: tuple[int, int, int, int], size: tuple[int, int]) -> Detection:
    return Detection(label, score, rectangle(*shape, height=size[0], width=size[1]))


def test_a_picture_changes_under_the_mask_and_nowhere_else() -> None:
    size = (600, 700)
    item = found(1, 0.8, (100, 200, 80, 60), size)
    picture = np.asarray(draw(grey(*size), [item], NAMES, scores=False))[: size[0]]
    changed = (picture != 100).any(axis=-1)
    assert (changed == item.mask).all()
    inside = picture[230, 140].astype(int) - 100
    assert np.sign(inside).tolist() == np.sign(np.array(palette(3)[1]) - 100).tolist()


def test_classes_differ_in_colour_and_keep_it() -> None:
    colours = palette(60)
    assert len(set(colours)) == 60
    assert palette(5) == colours[:5]


@pytest.mark.parametrize("size", [(64, 48), (100, 900), (600, 600), (2000, 3000)])
def test_labels_stay_inside_and_the_legend_is_readable(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects in the corners and over everything, with long names: every label box lies in the image."""
    height, width = size
    w, h = width // 4, height // 4
    corners = [(0, 0), (width - w, 0), (0, height - h), (width - w, height - h)]
    items = [found(index % 3, 0.9, (x, y, w, h), size) for index, (x, y) in enumerate(corners)]
    items.append(found(2, 0.95, (0, 0, width, height), size))
    boxes = []
    place = pictures._inside

    def spy(*args: Any) -> pictures.Box:
        boxes.append(place(*args))
        return boxes[-1]

    monkeypatch.setattr(pictures, "_inside", spy)
    picture = draw(grey(height, width), items, NAMES)
    factor = picture.width // width
    assert min(size) * factor >= 480 and picture.height > height * factor
    assert boxes
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= width * factor and box[3] <= height * factor for box in boxes)


def test_labels_never_hide_a_small_object() -> None:
    size = (500, 500)
    items = [found(0, 0.5, (20 * i, 20 * j, 18, 18), size) for i in range(25) for j in range(25)]
    with_scores = np.asarray(draw(grey(*size), items, NAMES))
    without = np.asarray(draw(grey(*size), items, NAMES, scores=False))
    assert (with_scores == without).all()  # not an inch of room: colours and legend say it


def test_empty_pictures_say_so() -> None:
    plain = draw(grey(500, 500), [], NAMES)
    assert (np.asarray(plain)[:500] == 100).all() and plain.height > 500


def test_an_empty_mask_is_no_trouble() -> None:
    item = Detection(0, 0.5, rectangle(0, 0, 0, 0, height=500, width=500))
    assert draw(grey(500, 500), [item], NAMES).width == 500


def test_side_by_side_has_truth_left_and_prediction_right() -> None:
    size = (500, 500)
    truth, guess = found(0, 1.0, (10, 10, 50, 50), size), found(1, 0.4, (200, 200, 50, 50), size)
    picture = side_by_side(grey(*size), [truth], [guess], NAMES)
    assert isinstance(picture, Image.Image) and picture.width > 1000
    pixels = np.asarray(picture)
    left, right = pixels[:500, :500], pixels[:500, -500:]
    assert (left[30, 30] != 100).any() and (left[225, 225] == 100).all()
    assert (right[30, 30] == 100).all() and (right[225, 225] != 100).any()
