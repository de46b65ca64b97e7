"""Objects that see each other and their surroundings at several scales: a variant of RAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.mask_decoder import Head
from score.model.towers.base import Scene, numbers, pool_regions


class Shapes(NamedTuple):
    """Where masks are and how large, in cells of their grid: ``[B, Q]`` each; finite for empty masks, too.

    Attributes:
        x, y: centroid.
        width, height: sides of the rectangle with the same spread, at least one cell; a stray pixel hardly counts.
        area: cells.
    """

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    area: Tensor


def shapes(mask_logits: Tensor) -> Shapes:
    """Measure the masks of ``[B, Q, h, w]`` logits; no gradient flows into them."""
    inside = numbers(mask_logits.detach() > 0)
    area = inside.sum(dim=(-2, -1))
    found = []
    for along in (inside.sum(dim=-2), inside.sum(dim=-1)):  # cells of each column, of each row
        share = along / area.clamp(min=1).unsqueeze(-1)
        place = torch.arange(share.shape[-1], device=share.device) + 0.5
        centre = (share * place).sum(dim=-1)
        spread = (share * (place - centre.unsqueeze(-1)).square()).sum(dim=-1)
        found.append((centre, (12 * spread + 1).sqrt()))  # a cell itself has a spread of 1/12
    (x, width), (y, height) = found
    return Shapes(x, y, width, height, area)


def windows(found: Shapes, scale: float, grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of rows ``[B, Q, h]`` and columns ``[B, Q, w]`` of a coarse grid in windows around objects.

    Args:
        scale: sides of a window as multiples of the object's own.
        grid: height and width of the coarse grid; both grids span the same image.
        size: the same of the grid that the shapes were measured on.
    """
    shares = []
    for centre, side, cells, length in zip((found.y, found.x), (found.height, found.width), grid, size, strict=True):
        edges = torch.linspace(0, length, cells + 1, device=centre.device)
        low, high = ((centre + sign * scale / 2 * side).unsqueeze(-1) for sign in (-1, 1))
        covered = (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0)
        shares.append(covered / covered.sum(dim=-1, keepdim=True).clamp(min=1e-6))
    return shares[0], shares[1]


class Around(NamedTuple):
    """What objects are and what is around them, as far as attention needs it.

    Attributes:
        sizes: log width, height and area, ``[B, Q, 3]``.
        seen: the whole scene, then each object's surroundings, ``[B, 1+Q, E]``.
        bias: of attention, ``[B*heads, 1+Q, 1+Q]``.
    """

    sizes: Tensor
    seen: Tensor
    bias: Tensor


class JointRegionContext(nn.Module):
    """Refine class embeddings by the other objects of the image, and by the scene around each at several scales.

    The scene's patches are averaged over windows whose sides are multiples of the object's own, and the shares of the
    scales are learned throughout, by plain gradient. Objects then attend to each other and to the whole scene's vector,
    knowing how far apart they are and how their sizes compare, but no direction: an aerial image has no up. An object
    with an empty mask is seen by no other. Images of a batch do not see each other. It starts as the identity.

    Args:
        embed_dim: width ``E``.
        dim: width of the attention; small, for the data of a few hundred images would be learned by heart.
        scales: sides of the windows, as multiples of an object's.
        layers, heads, feedforward, dropout: of the attention blocks.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        dim: int,
        scales: Sequence[float],
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.scale_logits = nn.Parameter(torch.zeros(len(self.scales)))
        self.object_proj = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim))
        self.scene_proj = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim))
        self.shape_proj = nn.Linear(3, dim)
        self.pair_bias = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads))
        shape = (dim, heads, feedforward, dropout, F.silu)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(*shape, batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, embed_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def view(self, head: Head, scene: Scene) -> Around:
        """Measure the head's masks, and look around them."""
        found = shapes(head.mask_logits)
        sizes = torch.stack([found.width.log(), found.height.log(), found.area.clamp(min=1).log()], dim=-1)
        view = pool_regions(scene.patches, self._around(found, scene.patches.shape[-2:], head.mask_logits.shape[-2:]))
        seen = torch.cat([scene.embed.unsqueeze(1), view], dim=1)
        return Around(sizes, seen, self._bias(found).flatten(0, 1))

    def forward(self, class_embed: Tensor, views: Sequence[Around]) -> Tensor:
        """Refine class embeddings ``[N, B, Q, E]`` of several heads with the view of each."""
        return torch.stack([self._refined(*pair) for pair in zip(class_embed, views, strict=True)])

    def _refined(self, class_embed: Tensor, around: Around) -> Tensor:
        """Of one head, ``[B, Q, E]``."""
        x = self.scene_proj(around.seen.to(self.out.weight.dtype))  # a tower may have run in half precision
        x = x + F.pad(self.object_proj(class_embed) + self.shape_proj(around.sizes), (0, 0, 1, 0))
        for block in self.blocks:
            x = block(x, src_mask=around.bias.to(x.dtype))
        return class_embed + self.out(self.norm(x[:, 1:])).to(class_embed.dtype)

    def _around(self, found: Shapes, grid: torch.Size, size: torch.Size) -> Tensor:
        """Windows of all scales, mixed, on the patch grid: ``[B, Q, h, w]``; zero for empty masks."""
        mixed = 0
        for share, scale in zip(self.scale_logits.softmax(0), self.scales, strict=True):
            rows, columns = windows(found, scale, (grid[0], grid[1]), (size[0], size[1]))
            mixed = mixed + share * rows.unsqueeze(-1) * columns.unsqueeze(-2)
        return mixed * (found.area > 0)[..., None, None]

    def _bias(self, found: Shapes) -> Tensor:
        """What each object's interest in each other depends on, ``[B, heads, 1+Q, 1+Q]``; the scene is first."""
        size = (found.width * found.height).sqrt()  # [B, Q]
        apart = torch.hypot(found.x[:, :, None] - found.x[:, None], found.y[:, :, None] - found.y[:, None])
        pairs = torch.stack([(apart / size[:, :, None]).log1p(), (size[:, None] / size[:, :, None]).log()], dim=-1)
        bias = F.pad(self.pair_bias(pairs).permute(0, 3, 1, 2), (1, 0, 1, 0))
        empty = F.pad(found.area == 0, (1, 0))  # the scene is always there, so nobody is left without anything to see
        return bias.masked_fill(empty[:, None, None], -torch.inf)
