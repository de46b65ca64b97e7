"""Vision-transformer CLIPs read densely, as SCORE's scene encoder reads RemoteCLIP (ViT-L/14)."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.towers.base import Scene, resize
from score.model.towers.clip import OpenCLIPTower

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class ViTTower(OpenCLIPTower):
    """A vision transformer whose last block keeps each patch's own value instead of mixing them.

    The last block's attention is replaced by its value path, and the class token entering that block is the residual
    of *every* position; so the class position is not the embedding that CLIP's own ``encode_image`` returns.

    As a backbone its patch tokens, resized to strides 4 .. 32, stand in for a pyramid, and regions pool the patch map.
    """

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__(clip, tokenizer, source)
        self.channels = dict.fromkeys(STRIDES, self.visual.conv1.out_channels)

    def _enter(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens entering the last block ``[B, 1 + h*w, width]``, class token first, and the grid ``(h, w)``."""
        visual = self.visual
        x = visual.conv1(images.to(self.dtype))
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = visual.ln_pre(x + self._positions(grid).to(x.dtype))
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        return x, grid

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        codes = self.visual.positional_embedding
        side = round((len(codes) - 1) ** 0.5)
        if grid == (side, side):
            return codes
        cells = resize(codes[1:].T.reshape(1, -1, side, side).float(), grid)[0].flatten(1).T
        return torch.cat([codes[:1].float(), cells])

    def _leave(self, x: Tensor) -> Tensor:
        """The dense last block, the final norm and the projection: ``[B, tokens, E]``, fp32."""
        visual, block = self.visual, self.visual.transformer.resblocks[-1]
        attention, width = block.attn, x.shape[-1]
        value = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        x = x[:, :1] + block.ls_1(attention.out_proj(value))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return (visual.ln_post(x) @ visual.proj).float()

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        x, grid = self._enter(self._scene_input(images))
        tokens = self._leave(x)
        return Scene(F.normalize(tokens[:, 0], dim=-1), tokens[:, 1:].transpose(1, 2).unflatten(2, grid))

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        patch = self.visual.conv1.stride[0]
        grid = (max(1, round(height / patch)), max(1, round(width / patch)))
        x, grid = self._enter(resize(images, (grid[0] * patch, grid[1] * patch)))
        tokens = x[:, 1:].transpose(1, 2).unflatten(2, grid).float()
        maps = {name: resize(tokens, (height // stride, width // stride)) for name, stride in STRIDES.items()}
        return {**maps, "dense": self._leave(x)[:, 1:].transpose(1, 2).unflatten(2, grid)}

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        return pooled.float()  # the dense map is in the space of the text already
