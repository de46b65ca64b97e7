"""The ``tiny`` tower: random and built in milliseconds, for unit tests."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.towers.base import Scene, Tower


class TinyTower(Tower):
    """A random pyramid and a bag of hashed character triples; the same seed gives the same tower.

    It knows nothing, but behaves: other images give other features, other prompts other vectors, and prompts that share
    letters are closer than those that do not. The dense map is ``res5``.

    Args:
        embed_dim: ``E``.
        channels: of ``res2``; each coarser stage doubles them.
        seed: of all weights.
        patches: positions a side of the scene's coarse map.
    """

    pixel_mean = (127.5, 127.5, 127.5)
    pixel_std = (64.0, 64.0, 64.0)
    buckets = 512  # of hashed character triples

    def __init__(self, *, embed_dim: int = 32, channels: int = 8, seed: int = 0, patches: int = 4) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.channels = {f"res{level}": channels * 2 ** (level - 2) for level in (2, 3, 4, 5)}
        self.patches = patches
        self.identity = f"tiny: random, embed_dim {embed_dim}, channels {channels}, seed {seed}"
        widths = [3, *self.channels.values()]
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=stride, stride=stride)  # patches that do not overlap
            for before, after, stride in zip(widths, widths[1:], (4, 2, 2, 2), strict=False)
        )
        self.head = nn.Linear(widths[-1], embed_dim)
        self.register_buffer("letters", torch.empty(self.buckets, embed_dim))
        self.register_buffer("scale", torch.tensor(20.0))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.state_dict().values():
                if weight.ndim == 1:  # a bias
                    weight.zero_()
                elif weight.ndim:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * (2.0 / weight[0].numel()) ** 0.5)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        features = {}
        x = images
        for name, stage in zip(self.channels, self.stages, strict=True):
            x = F.relu(stage(x))
            features[name] = x
        features["dense"] = x
        return features

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Tensor:
        return self.head(pooled)

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        side = 32 * self.patches
        return self.scene_of(self.pyramid(F.interpolate(images, (side, side), mode="bilinear", align_corners=False)))

    @torch.no_grad()
    def scene_of(self, pyramid: dict[str, Tensor]) -> Scene:
        grid = pyramid["dense"].permute(0, 2, 3, 1)  # [B, patches, patches, channels]
        return Scene(F.normalize(self.head(grid.mean(dim=(1, 2))), dim=-1), self.head(grid).permute(0, 3, 1, 2))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        counts = torch.zeros(len(prompts), self.buckets)
        for row, prompt in zip(counts, prompts, strict=True):
            padded = f"  {prompt.lower()}  "
            for start in range(len(padded) - 2):
                row[zlib.crc32(padded[start : start + 3].encode()) % self.buckets] += 1
        return counts.to(self.letters) @ self.letters

    @property
    def logit_scale(self) -> Tensor:
        return self.scale
