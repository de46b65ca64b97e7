"""ResNet CLIPs: attention pooling that looks inside a mask."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.tiny_towers import WIDTH, tiny_tower


def attention_pooling(pool: nn.Module, cells: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Pool ``cells [N, D]`` with ``codes [1 + N, D]`` as CLIP does: the mean of the cells is the query, and a key."""
    tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells]) + codes
    width = tokens.shape[1] // pool.num_heads
    heads = []
    for head in range(pool.num_heads):
        own = slice(head * width, (head + 1) * width)
        query, key, value = (f(tokens)[:, own] for f in (pool.q_proj, pool.k_proj, pool.v_proj))
        heads.append((query[:1] @ key.T / width**0.5).softmax(-1) @ value)
    return pool.c_proj(torch.cat(heads, dim=1))[0]


@torch.no_grad()
def test_a_region_pools_its_own_cells_only() -> None:
    tower = tiny_tower("resnet")
    pool = tower.visual.attnpool
    dense = torch.randn(2, 256, 2, 2, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([[[1.0, -1.0], [0.5, 0.0]], [[-1.0, -1.0], [-1.0, 2.0]]]).expand(2, -1, -1, -1)
    regions = tower.embed_regions(dense, logits)
    codes = pool.positional_embedding
    assert codes.shape == (1 + 4, 256)  # the map's own grid
    for image in range(2):
        cells = dense[image].flatten(1).T
        for region, chosen in enumerate(([0, 2], [3])):
            expected = attention_pooling(pool, cells[chosen], codes[[0, *(1 + i for i in chosen)]])
            torch.testing.assert_close(regions[image, region], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_larger_map_has_the_positions_resized() -> None:
    tower = tiny_tower("resnet")
    pool = tower.visual.attnpool
    pool.positional_embedding = nn.Parameter(torch.randn(1 + 9, 256))  # of a map of 3 x 3
    dense = torch.randn(1, 256, 3, 4, generator=torch.Generator().manual_seed(0))
    regions = tower.embed_regions(dense, torch.ones(1, 1, 3, 4))
    grid = pool.positional_embedding[1:].reshape(3, 3, -1).permute(2, 0, 1)
    cells = F.interpolate(grid[None], (3, 4), mode="bilinear", align_corners=False)[0].flatten(1).T
    expected = attention_pooling(pool, dense[0].flatten(1).T, torch.cat([pool.positional_embedding[:1], cells]))
    torch.testing.assert_close(regions[0, 0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_scene_is_pooled_over_everything_and_its_patches_are_values() -> None:
    tower = tiny_tower("resnet")
    pool = tower.visual.attnpool
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    scene = tower.encode_scene(images)
    small = F.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(scene.embed, F.normalize(tower.clip.encode_image(small), dim=-1), rtol=1e-4, atol=1e-5)
    cells = tower.pyramid(small)["dense"].flatten(2).transpose(1, 2) + pool.positional_embedding[1:]
    patches = pool.c_proj(pool.v_proj(cells)).transpose(1, 2).reshape(2, WIDTH, 2, 2)
    torch.testing.assert_close(scene.patches, patches, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_pyramid_is_the_four_stages() -> None:
    tower = tiny_tower("resnet")
    visual = tower.visual
    x = visual.stem(images := torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    maps = tower.pyramid(images)
    for name, stage in (("res2", "layer1"), ("res3", "layer2"), ("res4", "layer3"), ("res5", "layer4")):
        x = getattr(visual, stage)(x)
        torch.testing.assert_close(maps[name], x)
    assert torch.equal(maps["dense"], maps["res5"])
