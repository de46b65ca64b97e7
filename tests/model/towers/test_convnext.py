"""ConvNeXt CLIPs: the trunk's stages, and a head that embeds any pooled vector."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.tiny_towers import tiny_tower


@torch.no_grad()
def test_a_pyramid_is_the_four_stages() -> None:
    tower = tiny_tower("convnext")
    trunk = tower.visual.trunk
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x, maps = trunk.stem(images), tower.pyramid(images)
    for index, stage in enumerate(trunk.stages):
        x = stage(x)
        torch.testing.assert_close(maps[f"res{index + 2}"], x)
    torch.testing.assert_close(maps["dense"], trunk.norm_pre(x))


@torch.no_grad()
def test_a_scene_is_the_mean_of_the_map_and_its_patches_are_its_cells() -> None:
    tower = tiny_tower("convnext")
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    small = F.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    scene, dense = tower.encode_scene(images), tower.pyramid(small)["dense"]
    whole = tower.clip.encode_image(small)
    torch.testing.assert_close(scene.embed, F.normalize(whole, dim=-1), rtol=1e-4, atol=1e-5)
    corner = tower.embed_pooled(dense[:, :, 0, 1])
    torch.testing.assert_close(scene.patches[:, :, 0, 1], corner, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_region_is_the_head_of_its_mean() -> None:
    tower = tiny_tower("convnext")
    dense = torch.randn(1, tower.channels["res5"], 2, 2, generator=torch.Generator().manual_seed(0))
    got = tower.embed_regions(dense, torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]))
    alone = tower.embed_pooled((dense[..., 0, 0] + dense[..., 1, 1]) / 2)
    torch.testing.assert_close(got[:, 0], alone, rtol=1e-4, atol=1e-5)
