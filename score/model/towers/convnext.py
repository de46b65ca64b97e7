"""ConvNeXt CLIPs."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.towers.base import Scene
from score.model.towers.clip import OpenCLIPTower


class ConvNeXtTower(OpenCLIPTower):
    """A ConvNeXt CLIP: hierarchical features, and a head that embeds any pooled vector."""

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__(clip, tokenizer, source)
        self.visual.to(self.dtype)  # norms too: timm's do not take an input of another precision
        infos = self.visual.trunk.feature_info
        self.channels = {f"res{i + 2}": info["num_chs"] for i, info in enumerate(infos)}

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        maps, x = {}, self.visual.trunk.stem(images.to(self.dtype))
        for name, stage in zip(self.channels, self.visual.trunk.stages, strict=True):
            x = maps[name] = stage(x)
        return {**maps, "dense": self.visual.trunk.norm_pre(x)}

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Tensor:
        # each vector as a 1x1 map, which is what the trunk's head takes
        rows = pooled.to(self.dtype).flatten(0, -2)[:, :, None, None]
        return self.visual.head(self.visual.trunk.head(rows)).view(*pooled.shape[:-1], -1).float()

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        dense = self.pyramid(self._scene_input(images))["dense"]
        embed = self.embed_pooled(dense.mean(dim=(-2, -1)))
        patches = self.embed_pooled(dense.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return Scene(F.normalize(embed, dim=-1), patches)
