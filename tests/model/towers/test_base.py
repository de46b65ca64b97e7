"""What all towers share: pooling, resizing, and staying frozen."""

from __future__ import annotations

import torch

from score.model.towers.base import Tower, pool_regions, resize
from score.model.towers.tiny import TinyTower


def test_pooling_is_the_weighted_mean_of_a_region() -> None:
    features = torch.arange(24.0).view(1, 2, 3, 4)
    regions = torch.zeros(1, 3, 3, 4)
    regions[0, 0, 1, 2] = regions[0, 0, 2, 3] = 1
    regions[0, 1, 0, 0], regions[0, 1, 0, 1] = 0.25, 0.75
    pooled = pool_regions(features, regions)
    expected = torch.tensor([[[8.5, 20.5], [0.75, 12.75], [0.0, 0.0]]])  # the last region is empty
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(pool_regions(features, regions[:, :1] > 0), expected[:, :1])


def test_resizing_looks_at_the_two_nearest_cells() -> None:
    """Corners are not aligned, and making smaller does not smooth."""
    row = torch.arange(8.0).view(1, 1, 1, 8) ** 2
    torch.testing.assert_close(resize(row, (1, 2))[0, 0, 0], torch.tensor([(1 + 4) / 2, (25 + 36) / 2]))
    torch.testing.assert_close(resize(row[..., :2], (1, 4))[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_a_region_is_where_its_logit_is_positive() -> None:
    tower = TinyTower(embed_dim=8, channels=4)
    dense = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([[[[0.0, 0.1], [-0.1, 2.0]]]])
    expected = tower.embed_pooled((dense[..., 0, 1] + dense[..., 1, 1]) / 2)
    torch.testing.assert_close(tower.embed_regions(dense, logits)[:, 0], expected)


def test_a_tower_cannot_be_put_into_training() -> None:
    tower = TinyTower()
    assert isinstance(tower.train(), Tower) and isinstance(tower.train(True), Tower)
    assert not any(module.training for module in tower.modules())


def test_pooling_bits_has_the_gradient_of_pooling_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    inside = torch.rand(2, 6, 4, 5, generator=generator) > 0.5
    inside[0, 2] = False  # an empty region
    goal = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    of_bits, of_weights = (
        torch.autograd.grad((pool_regions(features, weights) * goal).sum(), features)[0]
        for weights in (inside, inside.double())
    )
    torch.testing.assert_close(of_bits, of_weights)
