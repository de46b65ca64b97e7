"""Multi-scale deformable attention in plain PyTorch (Zhu et al., Deformable DETR, ICLR 2021): no compiled operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few learned positions on every level and sums what it finds there.

    Args:
        dim: width ``D`` of queries and values.
        heads: attention heads; divides ``dim``.
        levels: feature maps.
        points: samples a head takes on a level.
    """

    def __init__(self, *, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Start with points on rays around the reference, one direction a head, further out with every point."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)  # [heads, 2]
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = rays[:, None, None, :] * steps[None, None, :, None]  # [heads, 1, points, 2]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query: ``[B, L, D]``.
            reference: ``[L, 2]`` (x, y) in 0..1, where each query stands.
            value: ``[B, sum of h*w, D]``, the levels one after the other, row-major.
            sizes: ``(h, w)`` of each level.

        Returns:
            ``[B, L, D]``.
        """
        batch, length, dim = query.shape
        width = dim // self.heads
        scale = torch.tensor([(w, h) for h, w in sizes], dtype=query.dtype, device=query.device)  # [levels, 2]
        offsets = self.sampling_offsets(query).view(batch, length, self.heads, self.levels, self.points, 2)
        positions = reference[None, :, None, None, None, :] + offsets / scale[:, None, :]
        grid = (2.0 * positions - 1.0).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [levels, B*heads, L, points, 2]
        weights = self.attention_weights(query).view(batch, length, self.heads, self.levels * self.points).softmax(-1)
        weights = weights.permute(0, 2, 1, 3).reshape(batch * self.heads, 1, length, self.levels, self.points)

        value = self.value_proj(value).view(batch, -1, self.heads, width).permute(0, 2, 3, 1).flatten(0, 1)
        output = value.new_zeros(batch * self.heads, width, length)
        for level, (maps, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=-1), sizes, strict=True)):
            sampled = F.grid_sample(
                maps.reshape(-1, width, h, w), grid[level], mode="bilinear", padding_mode="zeros", align_corners=False
            )  # [B*heads, width, L, points]
            output = output + (sampled * weights[:, :, :, level]).sum(-1)
        output = output.view(batch, self.heads, width, length).permute(0, 3, 1, 2).flatten(2)
        return self.output_proj(output)
