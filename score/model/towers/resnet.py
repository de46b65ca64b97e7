"""ResNet CLIPs."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.towers.base import Scene, pool_regions, resize
from score.model.towers.clip import OpenCLIPTower


class ResNetTower(OpenCLIPTower):
    """A ResNet CLIP: regions are embedded by its attention pooling, with the mask as attention mask."""

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__(clip, tokenizer, source)
        self.visual.to(self.dtype)
        stages = (self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4)
        self.channels = {f"res{i + 2}": stage[-1].bn3.num_features for i, stage in enumerate(stages)}

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        visual = self.visual
        maps, x = {}, visual.stem(images.to(self.dtype))
        for name, stage in zip(
            self.channels, (visual.layer1, visual.layer2, visual.layer3, visual.layer4), strict=True
        ):
            x = maps[name] = stage(x)
        return {**maps, "dense": x}

    def _positions(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The pooling token's position code ``[D]`` and the cells' ``[D, h, w]``, resized to the map."""
        codes = self.visual.attnpool.positional_embedding
        side = round((len(codes) - 1) ** 0.5)
        grid = codes[1:].T.reshape(1, -1, side, side)
        return codes[0], (grid if (side, side) == size else resize(grid.float(), size).to(grid))[0]

    @torch.no_grad()
    def embed_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        pool = self.visual.attnpool
        token_code, cell_codes = self._positions(dense.shape[-2:])
        inside = (mask_logits > 0).flatten(2)  # [B, Q, hw]
        token = pool_regions(dense, mask_logits > 0) + token_code  # [B, Q, D]
        cells = (dense + cell_codes).flatten(2).transpose(1, 2)  # [B, hw, D]

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (pool.num_heads, -1))  # [..., heads, D/heads]

        query = split(pool.q_proj(token))
        own_logit = (query * split(pool.k_proj(token))).sum(-1, keepdim=True)  # [B, Q, heads, 1]
        logits = torch.einsum("bqnd,bpnd->bqnp", query, split(pool.k_proj(cells)))
        logits = logits.masked_fill(~inside.unsqueeze(2), -torch.inf)
        share = (torch.cat([own_logit, logits], dim=-1) * query.shape[-1] ** -0.5).softmax(-1)
        value = torch.einsum("bqnp,bpnd->bqnd", share[..., 1:], split(pool.v_proj(cells)))
        value = value + share[..., :1] * split(pool.v_proj(token))
        return pool.c_proj(value.flatten(-2)).float()

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        dense = self.pyramid(self._scene_input(images))["dense"]
        everywhere = torch.ones_like(dense[:, :1])
        embed = self.embed_regions(dense, everywhere)[:, 0]
        pool = self.visual.attnpool
        cells = (dense + self._positions(dense.shape[-2:])[1]).permute(0, 2, 3, 1)
        patches = pool.c_proj(pool.v_proj(cells)).permute(0, 3, 1, 2)  # values only, as MaskCLIP reads a CLIP densely
        return Scene(F.normalize(embed, dim=-1), patches.float())
