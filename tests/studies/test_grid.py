from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from score.detections import Detection
from score.engine.cache import CachedImage, PredictionCache
from score.errors import DataError
from score.evaluation.coco import coco_metrics
from score.masks import RLE
from score.model.classifier import Ensemble
from score.studies import grid as module
from score.studies.grid import METRICS, Candidates, Grid, candidates, heat_map, sweep, table
from tests.evaluation.coco_cases import HEIGHT, WIDTH, crowded_scenes, record, rectangle, reference

ALPHAS, BETAS = (0.0, 0.3, 1.0), (0.0, 0.5, 0.9)


def text(rle: Mapping[str, Any]) -> RLE:
    counts = rle["counts"]
    return RLE(size=list(rle["size"]), counts=counts.decode() if isinstance(counts, bytes) else counts)


def cached_image(
    image_id: int, found: Sequence[Detection], classes: int, rng: np.random.Generator, scale: float = 3
) -> CachedImage:
    """Predictions with the masks of ``found`` and a liking for its classes; logits and qualities tie often."""

    def logits(width: int, boost: float) -> np.ndarray:
        values = scale * rng.integers(-2, 3, (len(found), width))
        for row, item in zip(values, found, strict=True):
            row[item.label] += boost * scale
        return values.astype(np.float32)

    quality = (rng.integers(0, 4, len(found)) / 3).astype(np.float32)
    masks = [text(item.rle) for item in found]
    return CachedImage(image_id, (HEIGHT, WIDTH), logits(classes + 1, 2), logits(classes, 1), quality, masks)


def hard_case(seed: int, classes: int, queries: int, scale: float = 3) -> tuple[list[dict], dict[int, CachedImage]]:
    """Crowds, ties, empty masks, an object annotated twice, images without queries, without objects, without both."""
    records, found = crowded_scenes(seed, images=10, classes=max(classes, 2), per_image=queries)
    for image in records:
        image["annotations"] += [dict(item) for item in image["annotations"][:1]]
        for item in image["annotations"]:
            item["category_id"] = min(item["category_id"], classes - 1)
    found = {
        key: [Detection(min(item.label, classes - 1), 1.0, item.rle) for item in items] for key, items in found.items()
    }
    rng = np.random.default_rng(seed)
    ids = [image["image_id"] for image in records]
    return records, {key: cached_image(key, found.get(key, []), classes, rng, scale) for key in ids}


def prepare(records: Sequence[Mapping[str, Any]], cached: Mapping[int, CachedImage]) -> list[Candidates]:
    return [candidates(cached[image["image_id"]], image) for image in records]


def chosen(
    cached: Mapping[int, CachedImage], alpha: float, beta: float, seen: Sequence[bool], top_k: int
) -> dict[int, list[Detection]]:
    ensemble = Ensemble(alpha=alpha, beta=beta)
    return {key: image.instances(ensemble, torch.tensor(seen), top_k) for key, image in cached.items()}


def number(value: float | None) -> float:
    return np.nan if value is None else value


@pytest.mark.parametrize(
    ("seed", "seen", "queries", "scale", "top_k", "max_detections"),
    [
        (0, [True, False, True, False, True], 30, 3, 300, 300),
        (1, [True, False], 60, 3, 50, 30),  # the cap cuts what was chosen
        (2, [True] * 6 + [False] * 6, 60, 30, 300, 300),  # so sharp that most probabilities are equal
        (3, [True, True, True], 1, 3, 300, 300),  # no class is unseen
        (4, [False, False, False], 20, 3, 300, 100),  # and none is seen
        (5, [True], 20, 3, 300, 300),  # one word
    ],
)
def test_every_cell_equals_the_slow_way(
    seed: int, seen: list[bool], queries: int, scale: float, top_k: int, max_detections: int
) -> None:
    records, cached = hard_case(seed, len(seen), queries, scale)
    grid = sweep(prepare(records, cached), seen, ALPHAS, BETAS, top_k=top_k, max_detections=max_detections)
    names = [str(label) for label in range(len(seen))]
    for row, alpha in enumerate(ALPHAS):
        for column, beta in enumerate(BETAS):
            found = chosen(cached, alpha, beta, seen, top_k)
            metrics = coco_metrics(records, found, names, seen, max_detections)
            per_class = [[number(metrics["per_class"][name][key]) for key in METRICS] for name in names]
            np.testing.assert_allclose(grid.ap[row, column], per_class, rtol=0, atol=1e-6)
            for group in ("all", "seen", "unseen", "harmonic"):
                value = number(metrics[group]["AP50"])
                assert grid.mean(group, "AP50")[row, column] == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert grid.instances.tolist() == [metrics["per_class"][name]["instances"] for name in names]
    assert np.nanmax(grid.ap) > 0


def test_a_cell_equals_pycocotools() -> None:
    seen = [True, False, True, False]
    records, cached = hard_case(6, 4, 20)
    grid = sweep(prepare(records, cached), seen, [0.2], [0.7])
    rows = reference(records, chosen(cached, 0.2, 0.7, seen, 300), 4)
    expected = np.array([[row[key] for key in METRICS] for row in rows])
    np.testing.assert_allclose(grid.ap[0, 0], np.where(expected < 0, np.nan, expected), rtol=0, atol=1e-6)


def test_the_order_of_images_and_the_size_of_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    records, cached = hard_case(7, 5, 20)
    images, seen = prepare(records, cached), [True, True, False, False, False]
    whole = sweep(images, seen, ALPHAS, BETAS)
    monkeypatch.setattr(module, "MEMORY", 1)
    monkeypatch.setattr(module, "BATCH", 1)
    np.testing.assert_array_equal(sweep(images[::-1], seen, ALPHAS, BETAS).ap, whole.ap)


def test_a_weight_that_no_class_uses_has_no_influence() -> None:
    records, cached = hard_case(8, 3, 20)
    images = prepare(records, cached)
    seen = sweep(images, [True] * 3, ALPHAS, BETAS)
    assert (seen.mean("all") == seen.mean("all")[:, :1]).all() and np.ptp(seen.mean("all")) > 0
    assert seen.best()[1] == BETAS[0] and "beta has no influence" in table(seen)
    unseen = sweep(images, [False] * 3, ALPHAS, BETAS)
    assert (unseen.mean("all") == unseen.mean("all")[:1]).all() and "alpha has no influence" in table(unseen)


def test_two_queries_that_find_one_object_each_and_one_too_many() -> None:
    """An object annotated twice is found by the best two of three queries: precision 1 up to full recall."""
    shape = text(rectangle(10, 10, 40, 40))
    truth = record(1, [(0, shape), (0, shape)])
    logits = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    cached = CachedImage(1, (HEIGHT, WIDTH), logits, logits[:, :1], np.ones(3, dtype=np.float32), [shape] * 3)
    image = candidates(cached, truth)
    assert sweep([image], [True], [0.5], [0.5]).mean("all").item() == pytest.approx(100)
    half = sweep([image], [True], [0.5], [0.5], max_detections=1)
    assert half.mean("all").item() == pytest.approx(100 * 51 / 101)


def test_of_two_objects_that_overlap_alike_the_later_is_taken() -> None:
    """The best query's IoU is 0.6 with both objects; at 0.5 it takes the second, so that the next query has none left.

    Then precision is 1 up to recall 0.5, 0 above. At 0.65 and above, the first is a miss and the next a hit: 1/2.
    """
    first, between, second = (text(rectangle(x, 0, 20, 20)) for x in (0, 5, 10))
    truth = record(1, [(0, first), (0, second)])
    logits = np.array([[3.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    cached = CachedImage(1, (HEIGHT, WIDTH), logits, logits[:, :1], np.ones(2, dtype=np.float32), [between, second])
    ap = sweep([candidates(cached, truth)], [True], [0.5], [0.5]).ap[0, 0, 0]
    np.testing.assert_allclose(ap[1:], [100 * 51 / 101, 50 * 51 / 101])
    rows = reference([truth], chosen({1: cached}, 0.5, 0.5, [True], 300), 1)
    np.testing.assert_allclose(ap, [rows[0][key] for key in METRICS])


def test_candidates_of_a_cache_file_are_those_of_memory(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    records, cached = hard_case(9, 3, 10)
    with PredictionCache(tmp_path / "predictions.sqlite", {}) as cache:
        for image in cached.values():
            cache.add(image)
        images = [candidates(cache[image["image_id"]], image) for image in records]
    seen = [True, False, False]
    expected = sweep(prepare(records, cached), seen, ALPHAS, BETAS)
    np.testing.assert_array_equal(sweep(images, seen, ALPHAS, BETAS).ap, expected.ap)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_what_does_not_belong_together_is_refused() -> None:
    shape = text(rectangle(0, 0, 20, 20))
    zero, one = np.zeros((1, 3), dtype=np.float32), np.ones(1, dtype=np.float32)
    cached = CachedImage(1, (HEIGHT, WIDTH), zero, zero[:, :2], one, [shape])
    with pytest.raises(DataError, match="image 2"):
        candidates(cached, record(2, []))
    with pytest.raises(DataError, match="height"):
        candidates(cached, {**record(1, []), "height": 7})
    with pytest.raises(DataError, match="class 2"):
        candidates(cached, record(1, [(2, shape)]))
    with pytest.raises(DataError, match="not a number"):
        candidates(CachedImage(1, (HEIGHT, WIDTH), zero, zero[:, :2], one * np.nan, [shape]), record(1, []))
    with pytest.raises(DataError, match="no image"):
        sweep([], [True], [0.5], [0.5])


@pytest.fixture
def grid() -> Grid:
    """Eleven by eleven; class 0 is best at alpha 0.2, class 1 at beta 0.7, class 2 never occurs."""
    weights = np.arange(11) / 10
    ap = np.full((11, 11, 3, 3), np.nan)
    ap[:, :, 0] = (100 - 50 * abs(weights - 0.2))[:, None, None]
    ap[:, :, 1] = (60 - 80 * abs(weights - 0.7))[None, :, None]
    return Grid(
        tuple(weights.tolist()), tuple(weights.tolist()), (True, False, False), ap, instances=np.array([5, 2, 0])
    )


def test_best(grid: Grid) -> None:
    assert grid.best("all") == (0.2, 0.7) and grid.best("harmonic", "AP75") == (0.2, 0.7)
    assert grid.best("seen") == (0.2, 0.0)  # the first of equals
    assert grid.mean("all")[2, 7] == pytest.approx(80)
    assert grid.mean("harmonic")[2, 7] == pytest.approx(2 * 100 * 60 / 160)
    never = Grid(grid.alphas, grid.betas, (True, True, False), grid.ap, grid.instances)
    assert np.isnan(never.mean("unseen")).all() and np.isnan(never.mean("harmonic")).all()
    with pytest.raises(DataError, match="unseen"):
        never.best("unseen")
    assert "-" in table(never, "unseen")


@pytest.mark.parametrize("group", ["all", "seen", "harmonic"])
def test_table_fits_a_terminal(grid: Grid, group: str) -> None:
    lines = table(grid, group, "AP75").splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if "*" in line] == ["0.2"]
    assert table(grid, group, "AP75").count(f"*{grid.mean(group).max():.1f}") == 1


@pytest.mark.parametrize("group", ["all", "unseen"])
def test_heat_map_is_a_picture(grid: Grid, group: str) -> None:
    picture = Image.open(io.BytesIO(heat_map(grid, group, title="NWPU")))
    assert picture.format == "PNG" and picture.width >= 900 and picture.height >= 700
    colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > (100 if group == "all" else 1)


def test_heat_map_of_what_is_undefined_and_of_one_cell(grid: Grid) -> None:
    one = Grid((0.5,), (0.5,), (True, True, True), grid.ap[:1, :1], grid.instances)
    for group in ("all", "unseen"):
        assert Image.open(io.BytesIO(heat_map(one, group))).width >= 500
