from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFont

from score.detections import Detection
from score.drawing import LONGEST, Colour, Label, draw, ink, labels, palette, side_by_side
from score.masks import encode, trim
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


def test_text_is_told_apart_from_every_colour() -> None:
    def luminance(colour: Colour) -> float:
        parts = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for colour in palette(108):
        dark, light = sorted((luminance(colour), luminance(ink(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def seen(size: tuple[int, int], items: list[Detection]) -> np.ndarray:
    """Which object is on top of each pixel: the smaller one."""
    owner = np.full(size, -1, dtype=np.int32)
    for index in sorted(range(len(items)), key=lambda index: (-items[index].area, items[index].score)):
        owner[items[index].mask] = index
    return owner


def placed(size: tuple[int, int], items: list[Detection]) -> list[Label]:
    """The labels that ``draw`` writes on a picture of less than 540 pixels that is not enlarged."""
    return labels(seen(size, items), items, NAMES, 1, ImageFont.load_default(size=12))


def crowd(seed: int, size: tuple[int, int], count: int) -> list[Detection]:
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        w, h = (int(v) for v in rng.integers(5, 60, 2))
        x, y = int(rng.integers(0, size[1] - w)), int(rng.integers(0, size[0] - h))
        mask = np.zeros((1, *size), dtype=bool)
        grid = np.mgrid[:h, :w] - np.array([[[h / 2]], [[w / 2]]])
        mask[0, y : y + h, x : x + w] = abs(grid[0] / h - grid[1] / w) < 0.2  # a diagonal bar
        items.append(Detection(number % 3, 1 - number / 100, encode(mask)[0]))
    return items


@pytest.mark.parametrize(("seed", "count"), [(0, 3), (1, 12), (2, 50)])
def test_a_label_touches_its_own_object_and_covers_no_other(seed: int, count: int) -> None:
    size = (500, 600)
    items = crowd(seed, size, count)
    owner, found = seen(size, items), placed(size, items)
    assert len(found) >= min(3, count)
    by_score = {f"{item.score:.2f}": index for index, item in enumerate(items)}
    for label in found:
        left, top, right, bottom = label.box
        index = by_score[label.text.split()[-1]]
        item = items[index]
        assert label.text in (f"{NAMES[item.label]} {item.score:.2f}", f"{item.score:.2f}")
        assert label.colour == palette(3)[item.label]
        assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
        around = owner[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] == index
        assert around.any()  # it touches what is seen of the object, not only its box
        under = owner[top:bottom, left:right]
        assert np.isin(under, (-1, index)).all() and (under == index).sum() <= 0.3 * (owner == index).sum()
    for first, second in itertools.combinations(found, 2):
        a, b = first.box, second.box
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_has_its_letters_and_its_ground() -> None:
    """The picture holds the label's colour all over its box but for the letters."""
    size = (500, 500)
    item = found(1, 0.8, (100, 200, 80, 60), size)
    picture = np.asarray(draw(grey(*size), [item], NAMES))[: size[0]]
    (label,) = placed(size, [item])
    left, top, right, bottom = label.box
    assert bottom == 200 and label.text == "storage tank 0.80"
    ground = (picture[top:bottom, left:right] == label.colour).all(axis=-1)
    ink_like = abs(picture[top:bottom, left:right].astype(int) - ink(label.colour)).max(axis=-1) < 100
    assert ground.mean() > 0.6 and ink_like.sum() > 100 and ground[0].all() and ground[:, 0].all()
    assert (picture[:top] == 100).all()


def test_what_is_not_seen_has_no_label_and_no_count() -> None:
    """One of an empty mask, and one that a smaller object of its very mask covers."""
    size = (500, 500)
    empty = Detection(0, 0.9, rectangle(0, 0, 0, 0, height=500, width=500))
    first, second = found(1, 0.5, (100, 200, 80, 60), size), found(2, 0.8, (100, 200, 80, 60), size)
    assert [label.text for label in placed(size, [empty, first, second])] == ["swimming pool 0.80"]
    assert (np.asarray(draw(grey(*size), [empty], NAMES)) == np.asarray(draw(grey(*size), [], NAMES))).all()


def test_a_window_of_a_large_picture_is_drawn_where_it_lies() -> None:
    size = (500, 500)
    item = found(1, 0.8, (100, 200, 80, 60), size)
    window = Detection(1, 0.8, trim(item.rle))
    assert window.rle["size"] == [60, 80]
    assert (np.asarray(draw(grey(*size), [window], NAMES)) == np.asarray(draw(grey(*size), [item], NAMES))).all()


@pytest.mark.parametrize("size", [(64, 48), (100, 900), (600, 600), (1000, 1500)])
def test_pictures_of_any_size_have_room_for_a_legend(size: tuple[int, int]) -> None:
    height, width = size
    w, h = width // 4, height // 4
    corners = [(0, 0), (width - w, 0), (0, height - h), (width - w, height - h)]
    items = [found(index % 3, 0.9, (x, y, w, h), size) for index, (x, y) in enumerate(corners)]
    picture = draw(grey(height, width), [*items, found(2, 0.95, (0, 0, width, height), size)], NAMES)
    factor = picture.width // width
    assert min(size) * factor >= 480 and picture.height > height * factor


def test_labels_never_hide_a_small_object() -> None:
    size = (500, 500)
    items = [found(0, 0.5, (20 * i, 20 * j, 18, 18), size) for i in range(25) for j in range(25)]
    with_scores = np.asarray(draw(grey(*size), items, NAMES))
    without = np.asarray(draw(grey(*size), items, NAMES, scores=False))
    assert (with_scores == without).all()  # not an inch of room: colours and legend say it


def test_empty_pictures_say_so() -> None:
    plain = draw(grey(500, 500), [], NAMES)
    assert (np.asarray(plain)[:500] == 100).all() and plain.height > 500


def test_side_by_side_has_truth_left_and_prediction_right() -> None:
    size = (500, 500)
    truth, guess = found(0, 1.0, (10, 10, 50, 50), size), found(1, 0.4, (200, 200, 50, 50), size)
    picture = side_by_side(grey(*size), [truth], [guess], NAMES)
    assert isinstance(picture, Image.Image) and picture.width > 1000
    pixels = np.asarray(picture)
    left, right = pixels[:500, :500], pixels[:500, -500:]
    assert (left[30, 30] != 100).any() and (left[225, 225] == 100).all()
    assert (right[30, 30] == 100).all() and (right[225, 225] != 100).any()


def test_a_class_has_one_colour_on_both_sides() -> None:
    """In masks and legends, whatever else is there."""
    size = (500, 500)
    truth, guess = found(1, 1.0, (10, 10, 50, 50), size), found(1, 0.4, (200, 200, 50, 50), size)
    other = found(0, 0.9, (300, 300, 60, 50), size)
    pixels = np.asarray(side_by_side(grey(*size), [truth], [other, guess], NAMES))
    left, right = pixels[:, :500], pixels[:, -500:]
    assert (left[10, 30] == palette(3)[1]).all() and (right[249, 225] == palette(3)[1]).all()
    for side in (left, right):
        assert (side[500:] == palette(3)[1]).all(axis=-1).sum() >= 25


def test_a_narrow_image_is_not_enlarged_beyond_what_files_can_hold() -> None:
    for height, width in ((1, 600), (600, 1)):
        picture = draw(np.zeros((height, width, 3), np.uint8), [], ["ship"])
        assert max(picture.size) <= LONGEST + 60
