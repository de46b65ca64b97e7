"""Vision transformers read densely: the last block keeps each patch's own value."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.tiny_towers import WIDTH, OpenCLIPTower, tiny_tower


def entering(tower: OpenCLIPTower, images: torch.Tensor) -> torch.Tensor:
    """Tokens before the last block, ``[B, 1 + h*w, width]``."""
    visual = tower.visual
    x = F.conv2d(images, visual.conv1.weight, stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
    return visual.transformer.resblocks[0](visual.ln_pre(x + visual.positional_embedding))


def leaving(tower: OpenCLIPTower, x: torch.Tensor) -> torch.Tensor:
    """``[B, 1 + h*w, E]``: the last block, as the specification of the scene tower tells it step by step."""
    visual, block = tower.visual, tower.visual.transformer.resblocks[1]
    weight, bias = (part.chunk(3)[2] for part in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    values = block.attn.out_proj(block.ln_1(x) @ weight.T + bias)
    x = values + x[:, :1]  # the class token is the residual of every position
    return visual.ln_post(x + block.mlp(block.ln_2(x))) @ visual.proj


@torch.no_grad()
def test_a_scene_is_the_class_position_and_the_patches() -> None:
    tower = tiny_tower("vit")
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    scene = tower.encode_scene(images)
    small = F.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    tokens = leaving(tower, entering(tower, small))
    torch.testing.assert_close(scene.embed, F.normalize(tokens[:, 0], dim=-1), rtol=1e-4, atol=1e-5)
    patches = tokens[:, 1:].transpose(1, 2).reshape(2, WIDTH, 4, 4)
    torch.testing.assert_close(scene.patches, patches, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_pyramid_is_the_tokens_before_the_last_block_and_dense_is_after_it() -> None:
    tower = tiny_tower("vit")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = tower.pyramid(images)
    x = entering(tower, images)
    dense = leaving(tower, x)[:, 1:].transpose(1, 2).reshape(1, WIDTH, 4, 4)
    torch.testing.assert_close(maps["dense"], dense, rtol=1e-4, atol=1e-4)
    tokens = x[:, 1:].transpose(1, 2).reshape(1, 64, 4, 4)
    for name, side in (("res2", 16), ("res3", 8), ("res4", 4), ("res5", 2)):
        expected = F.interpolate(tokens, (side, side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(maps[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "grid"), [((64, 96), (4, 6)), ((32, 32), (2, 2)), ((96, 160), (6, 10))])
def test_the_grid_follows_the_image(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tiny_tower("vit").pyramid(torch.zeros(1, 3, *size))["dense"].shape[-2:] == grid


@torch.no_grad()
def test_another_grid_has_the_positions_resized() -> None:
    tower = tiny_tower("vit")
    codes = tower.visual.positional_embedding
    grid = codes[1:].reshape(4, 4, -1).permute(2, 0, 1)
    expected = F.interpolate(grid[None], (2, 7), mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(tower._positions((2, 7)), torch.cat([codes[:1], expected]))


def test_a_region_is_the_mean_of_its_patches() -> None:
    tower = tiny_tower("vit")
    dense = torch.randn(1, WIDTH, 2, 2, generator=torch.Generator().manual_seed(0))
    regions = tower.embed_regions(dense, torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]))
    torch.testing.assert_close(regions[0, 0], (dense[0, :, 0, 0] + dense[0, :, 1, 1]) / 2)
