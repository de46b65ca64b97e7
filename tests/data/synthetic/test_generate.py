from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from score.data.synthetic import generate as synthetic
from score.data.synthetic import shapes
from score.data.synthetic.canvas import GROUNDS, Canvas, Frame
from score.data.synthetic.scenes import SCENES, Site
from score.data.synthetic.themes import ARID, AUTUMN, SUMMER, WINTER, Theme
from score.errors import DataError, OutputError


def digest(folder: Path) -> str:
    """All bytes below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def scene(name: str, theme: Theme, seed: int, size: int = 96) -> Canvas:
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng=rng, size=size, zoom=1.0, limit=12, palette=theme.grounds)
    SCENES[name](Site(canvas, theme))
    return canvas


def test_the_same_seed_gives_the_same_bytes(synthetic_root: Path, tmp_path: Path) -> None:
    again = synthetic.generate(tmp_path, "synthetic", "train", images=12, size=64, seed=3, workers=1)
    assert digest(again) == digest(synthetic_root / "synthetic" / "train")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(synthetic_root: Path, tmp_path: Path) -> None:
    again = synthetic.generate(tmp_path, "synthetic", "train", images=12, size=64, seed=3, workers=2)
    assert digest(again) == digest(synthetic_root / "synthetic" / "train")


def test_seed_split_and_set_each_give_other_pictures() -> None:
    cases = [
        ("synthetic", "train", 0),
        ("synthetic", "train", 1),
        ("synthetic", "val", 0),
        ("synthetic_shifted", "val", 0),
    ]
    pictures = {synthetic.render(name, split, 2, size=48, seed=seed)[0].tobytes() for name, split, seed in cases}
    assert len(pictures) == 4


def test_more_images_leave_the_first_as_they_are(synthetic_root: Path, tmp_path: Path) -> None:
    few = synthetic.generate(tmp_path, "synthetic", "train", images=2, size=64, seed=3)
    for path in (few / "images").iterdir():
        assert path.read_bytes() == (synthetic_root / "synthetic/train/images" / path.name).read_bytes()


def test_json_agrees_with_its_masks(synthetic_root: Path) -> None:
    coco = json.loads((synthetic_root / "synthetic/train/instances_train.json").read_text())
    assert [category["name"] for category in coco["categories"]] == list(synthetic.SEEN)
    assert [image["scene"] for image in coco["images"]][:6] == list(SCENES)
    assert [annotation["id"] for annotation in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    for image in coco["images"]:
        covered = np.zeros((64, 64), dtype=int)
        annotations = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert synthetic.OBJECTS[0] <= len(annotations) <= synthetic.OBJECTS[1]
        for annotation in annotations:
            mask = coco_mask.decode(annotation["segmentation"])
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation["bbox"] == [float(v) for v in box]
            assert annotation["area"] == mask.sum() >= synthetic.SLIVER
            covered += mask
        assert covered.max() <= 1  # occlusion is resolved


@pytest.mark.slow
def test_classes_of_the_two_sets() -> None:
    found = {}
    for name in synthetic.NAMES:
        drawn = [synthetic.render(name, "val", i, size=64, seed=0)[1] for i in range(72)]
        found[name] = Counter(synthetic.NAMES[name][a["category_id"] - 1] for items in drawn for a in items)
    assert set(found["synthetic"]) == set(synthetic.SEEN)
    assert set(found["synthetic_shifted"]) == {*synthetic.SEEN, *synthetic.NOVEL}


@pytest.mark.parametrize(
    ("draw", "here", "there"),
    [
        (lambda f, name: shapes.craft(f, name), ("ship", "water"), ("car", "asphalt")),
        (lambda f, name: shapes.drum(f, name, 12.0), ("storage tank", "yard"), ("roundabout", "asphalt")),
    ],
    ids=["ship or car", "tank or roundabout"],
)
def test_one_shape_two_classes(draw, here: tuple[str, str], there: tuple[str, str]) -> None:  # type: ignore[no-untyped-def]
    def on(ground: str, category: str, seed: int) -> tuple[bool, np.ndarray, np.ndarray]:
        canvas = Canvas(rng=np.random.default_rng(0), size=64, zoom=3.0, limit=1, palette=SUMMER.grounds)
        canvas.lay(ground, [(0, 0), (127, 0), (127, 127), (0, 127)])
        canvas.pave()
        canvas.rng = np.random.default_rng(seed)
        drawn = draw(Frame(canvas, 32, 32, 0.5), category)
        picture, ids = canvas.finish()
        return drawn, np.asarray(picture).astype(int), ids

    for seed in range(3):
        _, first, first_ids = on(here[1], here[0], seed)
        _, second, second_ids = on(there[1], there[0], seed)
        assert first_ids.astype(bool).sum() > 80
        assert (first_ids == second_ids).all()
        inner = first_ids.astype(bool)
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        assert np.abs(first - second)[inner].max() <= 1  # equal inside, but for the ground at the rim
        assert np.abs(first - second)[~first_ids.astype(bool)].mean() > 10
    assert not on(there[1], here[0], 0)[0]  # and neither is drawn where the other belongs
    assert not on(here[1], there[0], 0)[0]


@pytest.mark.parametrize("name", SCENES)
def test_every_object_stands_where_it_belongs(name: str) -> None:
    for seed, theme in enumerate((SUMMER, WINTER, ARID, AUTUMN)):
        canvas = scene(name, theme, seed)
        _, ids = canvas.finish()
        for instance, category in enumerate(canvas.categories, start=1):
            ys, xs = np.nonzero(ids == instance)
            under = Counter(canvas.ground_at((2 * x, 2 * y)) for x, y in zip(xs, ys, strict=True))
            right = sum(under[ground] for ground in shapes.CONTEXT[category])
            on_bridge = "bridge" in canvas.categories and category in ("car", "truck", "bus")
            assert on_bridge or right >= 0.95 * len(xs), (category, under)


def test_every_ground_has_a_colour_in_every_theme() -> None:
    for theme in (SUMMER, WINTER, ARID, AUTUMN):
        assert set(theme.grounds) == set(GROUNDS)
        assert theme.novel == (0 if theme is SUMMER else theme.novel)
    assert set(shapes.CONTEXT) == {*synthetic.SEEN, *synthetic.NOVEL}


def test_equal_arguments_draw_nothing_and_others_draw_anew(tmp_path: Path) -> None:
    folder = synthetic.generate(tmp_path, "synthetic", "val", images=1, size=32, seed=0)
    written = (folder / "instances_val.json").stat().st_mtime_ns
    synthetic.generate(tmp_path, "synthetic", "val", images=1, size=32, seed=0)
    assert (folder / "instances_val.json").stat().st_mtime_ns == written
    synthetic.generate(tmp_path, "synthetic", "val", images=2, size=32, seed=0)
    assert len(list((folder / "images").iterdir())) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["val"]  # nothing half-written is left


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no synthetic set synthetic/test"):
        synthetic.generate(tmp_path, "synthetic", "test", images=1)
    with pytest.raises(DataError, match="0 images of 256 pixels"):
        synthetic.generate(tmp_path, "synthetic", "val", images=0)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_was_not_generated_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "synthetic" / "val").mkdir(parents=True)
    with pytest.raises(DataError, match="exists and was not generated"):
        synthetic.generate(tmp_path, "synthetic", "val", images=1)


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        synthetic.generate(tmp_path / "file", "synthetic", "val", images=1)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, disk_full: Callable[[int], None]) -> None:
    disk_full(300)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/synthetic/val .* choose another root"):
        synthetic.generate(tmp_path, "synthetic", "val", images=2, size=64, workers=1)
    assert list((tmp_path / "synthetic").iterdir()) == []
