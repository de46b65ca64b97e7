"""What the network said, kept in a file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from score.engine.cache import CachedImage, PredictionCache
from score.errors import OutputError, WeightsError
from score.masks import encode
from score.model.classifier import Ensemble

FACTS = {"weights": "abc", "names": ["ship", "plane"]}


def image(image_id: int | str, queries: int = 5, seed: int = 0) -> CachedImage:
    draw = np.random.default_rng(seed)
    masks = torch.from_numpy(draw.random((queries, 12, 16)) > 0.5)
    return CachedImage(
        image_id,
        (12, 16),
        draw.normal(size=(queries, 3)).astype(np.float32),
        draw.normal(size=(queries, 2)).astype(np.float32),
        draw.random(queries).astype(np.float32),
        encode(masks),  # type: ignore[arg-type]
        {"class": draw.normal(size=(queries, 4)).astype(np.float32)} if seed else None,
    )


def same(first: CachedImage, second: CachedImage) -> bool:
    arrays = all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("in_logits", "out_logits", "quality"))
    embeds = (first.embeds is None) == (second.embeds is None)
    return arrays and embeds and (first.image_id, first.size, first.rles) == (second.image_id, second.size, second.rles)


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    images = [image(7), image("seven", seed=1), image(0, queries=0)]
    with PredictionCache(tmp_path / "sub" / "cache.sqlite", FACTS) as cache:
        for item in images:
            cache.add(item)
        cache.add(images[0])  # again
    with PredictionCache(tmp_path / "sub" / "cache.sqlite", FACTS) as cache:
        assert len(cache) == 3 and 7 in cache and "seven" in cache and "7" not in cache
        assert all(same(cache[item.image_id], item) for item in images)
        assert cache["seven"].embeds is not None
        np.testing.assert_array_equal(cache["seven"].embeds["class"], images[1].embeds["class"])  # type: ignore[index]
        assert 0 < cache.size() < 5000
        with pytest.raises(KeyError):
            cache[8]


def test_instances_are_the_best_pairs_scored_by_class_and_mask() -> None:
    item, ensemble, seen = image(1), Ensemble(alpha=0.3, beta=0.7), torch.tensor([True, False])
    chances = ensemble(torch.from_numpy(item.in_logits), torch.from_numpy(item.out_logits), seen).softmax(-1)[:, :2]
    found = item.instances(ensemble, seen, top_k=4)
    best = chances.flatten().topk(4)
    for detection, chance, pair in zip(found, best.values, best.indices.tolist(), strict=True):
        assert detection.label == pair % 2 and detection.rle == item.rles[pair // 2]
        assert detection.score == pytest.approx(float(chance) * float(item.quality[pair // 2]), rel=1e-6)
    assert len(item.instances(ensemble, seen, top_k=99)) == 10


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with PredictionCache(path, FACTS) as cache:
        cache.add(image(7))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE images SET data = substr(data, 1, 200)")
    with PredictionCache(path, FACTS) as cache, pytest.raises(OutputError, match="predictions are then made anew"):
        cache[7]
    path.write_bytes(path.read_bytes()[:4096] + bytes(20000))
    with pytest.raises(OutputError, match=r"cache\.sqlite"), PredictionCache(path, FACTS) as cache:
        cache[7]


def test_predictions_of_something_else_are_refused(tmp_path: Path) -> None:
    with PredictionCache(tmp_path / "cache.sqlite", FACTS):
        pass
    with pytest.raises(WeightsError, match="holds predictions of another weights; remove it"):
        PredictionCache(tmp_path / "cache.sqlite", {**FACTS, "weights": "other"})
    (tmp_path / "text").write_text("not a database, but long enough to be looked at " * 30)
    with pytest.raises(OutputError, match="cannot use"):
        PredictionCache(tmp_path / "text", FACTS)
    with pytest.raises(OutputError, match="cannot use"):
        PredictionCache(tmp_path / "text" / "below", FACTS)
