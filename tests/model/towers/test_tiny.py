"""The random tower: shapes, frozen, the same for the same seed, other vectors for other prompts."""

from __future__ import annotations

import torch

from score.model.towers.tiny import TinyTower


def test_shapes_of_every_room() -> None:
    tower = TinyTower(embed_dim=24, channels=4)
    maps = tower.pyramid(torch.randn(2, 3, 64, 96))
    for level, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert maps[level].shape == (2, tower.channels[level], 64 // stride, 96 // stride)
    dense = maps["dense"]
    assert tower.embed_regions(dense, torch.randn(2, 5, *dense.shape[-2:])).shape == (2, 5, 24)
    scene = tower.encode_scene(torch.randn(2, 3, 50, 70))
    assert scene.embed.shape == (2, 24)
    assert scene.patches.shape == (2, 24, 4, 4)
    torch.testing.assert_close(scene.embed.norm(dim=-1), torch.ones(2))
    assert tower.encode_text(["a ship.", "a plane."]).shape == (2, 24)


def test_the_seed_decides() -> None:
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again, other = (TinyTower(seed=seed).pyramid(images)["res5"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert TinyTower(seed=3).identity != TinyTower(seed=4).identity


def test_building_leaves_the_global_generator_in_a_known_state() -> None:
    torch.manual_seed(0)
    texts = [TinyTower().encode_text(["ship"]) for _ in range(2)]
    assert torch.equal(*texts)


def test_prompts_have_stable_different_vectors() -> None:
    words = ["plane", "airplane", "tennis court", "court tennis"]
    embeds = torch.nn.functional.normalize(TinyTower().encode_text(words), dim=-1)
    cosines = embeds @ embeds.T
    assert (cosines - torch.eye(4)).max() < 0.999
    assert cosines[0, 1] > cosines[0, 2]  # shared letters


def test_frozen_whatever_the_model_around_it_does() -> None:
    tower = TinyTower().train()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.pyramid(images)["dense"].requires_grad
