"""The pixel decoder of Mask2Former (Cheng et al., CVPR 2022): deformable attention on three levels, one FPN step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.deformable_attention import MultiScaleDeformableAttention
from score.model.position import cell_centres, sine_positions
from score.model.towers.base import resize

LEVELS = ("res5", "res4", "res3")  # coarse to fine, the order in which the mask decoder visits them


class Pixels(NamedTuple):
    """What the mask decoder reads.

    Attributes:
        mask_features: ``[B, D, H/4, W/4]``, whose inner product with a query's mask embedding is its mask.
        multiscale: three maps ``[B, D, h, w]`` at strides 32, 16, 8.
    """

    mask_features: Tensor
    multiscale: list[Tensor]


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a feed-forward block, both post-norm."""

    def __init__(self, *, dim: int, heads: int, levels: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(dim=dim, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Map ``[B, L, D]`` to the same; ``position`` ``[L, D]`` is added to the queries only."""
        x = self.norm1(x + self.self_attn(x + position, reference, x, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class PixelDecoder(nn.Module):
    """Turn a tower's pyramid into mask features and three levels for the mask decoder.

    Args:
        channels: of ``res2 .. res5``.
        dim: width ``D`` of all that comes out.
        layers, heads, points, feedforward: of the deformable encoder.
        groups: of every group norm; divides ``dim``.
    """

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        dim: int,
        layers: int,
        heads: int,
        points: int,
        feedforward: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.input_proj = nn.ModuleDict(
            {level: nn.Sequential(nn.Conv2d(channels[level], dim, 1), nn.GroupNorm(groups, dim)) for level in LEVELS}
        )
        self.level_embed = nn.Parameter(torch.empty(len(LEVELS), dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim=dim, heads=heads, levels=len(LEVELS), points=points, feedforward=feedforward)
            for _ in range(layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels["res2"], dim, 1, bias=False), nn.GroupNorm(groups, dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(groups, dim), nn.ReLU(inplace=True)
        )
        self.mask_features = nn.Conv2d(dim, dim, 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.normal_(self.level_embed)
        for projection in self.input_proj.values():
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        for layer in self.layers:
            for linear in (layer.linear1, layer.linear2):
                nn.init.xavier_uniform_(linear.weight)
        for convolution in (self.lateral[0], self.output[0], self.mask_features):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, pyramid: Mapping[str, Tensor]) -> Pixels:
        """Decode ``res2 .. res5`` of :meth:`Tower.pyramid`; always in fp32 (sampling positions need it)."""
        device = pyramid["res5"].device
        with torch.autocast(device.type, enabled=False):
            maps = [_projected(self.input_proj[level], pyramid[level]) for level in LEVELS]
            sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
            x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # [B, L, D]
            position = torch.cat(
                [
                    sine_positions(h, w, x.shape[-1], device=device) + embed
                    for (h, w), embed in zip(sizes, self.level_embed, strict=True)
                ]
            )
            reference = torch.cat([cell_centres(h, w, device=device) for h, w in sizes])
            for layer in self.layers:
                x = layer(x, position, reference, sizes)
            multiscale = [
                part.contiguous().unflatten(1, size).permute(0, 3, 1, 2)  # in channels-last memory
                for part, size in zip(x.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
            ]
            lateral = _projected(self.lateral, pyramid["res2"])
            fine = self.output(lateral + resize(multiscale[-1], lateral.shape[-2:]))
            return Pixels(pointwise(self.mask_features, fine), multiscale)


def _projected(projection: nn.Sequential, maps: Tensor) -> Tensor:
    """A level ``[B, C, h, w]`` through its 1x1 convolution and its norm, ``[B, D, h, w]`` in channels-last memory."""
    convolution, norm = projection
    return norm(pointwise(convolution, maps.float()))


def pointwise(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 1x1 convolution in channels-last memory, which all that follows is fastest in, as what it is: a product."""
    return F.linear(maps.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)
