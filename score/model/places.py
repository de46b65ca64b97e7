"""A mask decoder whose queries start where objects seem to be: for small objects, few images and short training.

The published decoder's queries are learned, and have to find an object each through masked attention; on small
datasets they hardly find one under 32 pixels. Here a heat map of centres (Zhou et al., "Objects as Points", 2019) says
where to start, a quadratic form around that place gives each mask a first shape, and in training some queries are told
the places of true objects, as in denoising training (Li et al., "DN-DETR", CVPR 2022).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.errors import ConfigError
from score.model.mask_decoder import MLP, Decoded, DecoderLayer, Head, Places, blocked_by, by_head, keys_of, picked
from score.model.pixel_decoder import Pixels
from score.model.position import point_codes
from score.model.towers.base import numbers, resize

if TYPE_CHECKING:
    from score.model.criterion import Target

UNIT = 16.0  # cells of stride 4: the unit of length in a quadratic form, so that its coefficients are near 1
SIGMA = 1.5  # cells: the scale that a mask starts from
FLOOR = -12.0  # logits fall only slowly below it: far from its place a form has a value of thousands
RARE = -4.0  # first logit of a centre: few cells are one


class PlacesDecoder(nn.Module):
    """Queries that start at peaks of a heat map and refine one mask each, layer by layer; stands in for `MaskDecoder`.

    Args:
        dim: width ``D``.
        queries: places an image in evaluation; more cost time and need no training.
        layers, heads, feedforward, levels: as of `MaskDecoder`.
        train_queries: places an image in training.
        sizes: limits between classes of size, by an object's longer side in pixels of the input; each has a heat map of
            its own, so that a bridge is not outdone by the cars on it.
        shares: of the places, that each class of size gets; one more than ``sizes``.
        prior: add the quadratic form to mask logits.
        pilots: further queries at true places in training, an image at most; 0 for none.
        jitter: of a pilot's place, in extents of its object.
        overlap: of two masks with an IoU above this, the worse is a duplicate; 1 keeps both.

    Raises:
        ConfigError: a number is out of bounds, or sizes and shares do not fit.
    """

    def __init__(
        self,
        *,
        dim: int,
        queries: int,
        layers: int,
        heads: int,
        feedforward: int,
        levels: int = 3,
        train_queries: int,
        sizes: Sequence[float],
        shares: Sequence[float],
        prior: bool,
        pilots: int,
        jitter: float,
        overlap: float,
    ) -> None:
        super().__init__()
        self.queries, self.train_queries = queries, train_queries
        self.sizes, self.shares = tuple(sizes), tuple(shares)
        self.prior, self.pilots, self.jitter, self.overlap = prior, pilots, jitter, overlap
        rising = all(low < high for low, high in itertools.pairwise([0, *sizes]))
        if len(shares) != len(sizes) + 1 or min(shares) < 0 or not sum(shares) > 0 or not rising:
            raise ConfigError(
                f"sizes={self.sizes} shares={self.shares}: needs rising limits and one more share than limits"
            )
        if min(queries, train_queries) < 1 or min(pilots, jitter) < 0 or not 0 <= overlap <= 1:
            raise ConfigError(
                f"queries={queries} train_queries={train_queries} pilots={pilots} jitter={jitter} overlap={overlap}: "
                "needs a query, no negative number, and an overlap in 0 .. 1"
            )
        self.heat = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(dim, len(shares), 1)
        )
        nn.init.constant_(self.heat[-1].bias, RARE)
        self.size_embed = nn.Embedding(len(shares), dim)
        nn.init.zeros_(self.size_embed.weight)
        self.content = nn.Sequential(nn.LayerNorm(dim), MLP(dim, dim, dim))
        self.pos_proj = nn.Linear(dim, dim)
        self.level_embed = nn.Embedding(levels, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim=dim, heads=heads, feedforward=feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = MLP(dim, dim, dim, dim)
        if prior:
            self.shape = nn.Linear(dim, 6)
            nn.init.normal_(self.shape.weight, std=0.02)
            nn.init.zeros_(self.shape.bias)
            nn.init.ones_(self.shape.bias[5:])  # inside is where the form is above 0: a disc of two scales at first
        self.quality = MLP(dim + 3, dim, 1)

    def forward(self, pixels: Pixels, targets: Sequence[Target] | None = None) -> Decoded:
        """Find places, and decode a mask from each.

        Args:
            targets: of each image, in training.

        Returns:
            The last head; with targets also the masks of all ``layers + 1`` and their `Places`, without them the
            ``quality`` of its masks, which is 0 for duplicates.
        """
        grid = (pixels.mask_features.shape[-2], pixels.mask_features.shape[-1])
        heat = self.heat(pixels.mask_features).float()
        at, size = self._places(heat, self.queries if targets is None else self.train_queries)
        if targets is None:
            *_, queries = self._decode(pixels, at, size, None)
            head = Head(queries, self._masks(queries, at, pixels.mask_features, grid))
            guess, sure = self._quality(head)
            quality = guess.float().sigmoid()
            images = zip(quality * sure, head.mask_logits, strict=True)
            return Decoded([head], quality * torch.stack([distinct(*image, self.overlap) for image in images]))
        finders = at.shape[1]
        extents = [extent(target.masks) for target in targets]
        of_size = [self._size_of(box, heat) for box in extents]
        told, apart = [], None
        if self.pilots:
            told = [torch.randperm(len(box), device=box.device)[: self.pilots] for box in extents]
            place, real = self._pilots(heat, [box[chosen] for box, chosen in zip(extents, told, strict=True)])
            sizes = [known[chosen] for known, chosen in zip(of_size, told, strict=True)]
            at = torch.cat([at, place], dim=1)
            size = torch.cat([size, nn.utils.rnn.pad_sequence(sizes, batch_first=True)], dim=1)
            apart = keep_apart(finders, real)
        states = self._decode(pixels, at, size, apart)
        last = Head(states[-1], self._masks(states[-1], at, pixels.mask_features, grid))
        quality, _ = self._quality(Head(last.queries[:, :finders], last.mask_logits[:, :finders]))
        places = Places(heat, at[:, :finders], extents, of_size, told, quality, len(states))

        def masks(chosen: Sequence[Sequence[Tensor]]) -> list[Tensor]:
            starts = picked([at] * len(states), chosen)
            images = zip(picked(states, chosen), starts, pixels.mask_features, strict=True)
            return by_head(
                [self._masks(q[None], place[None], maps[None], grid)[0] for q, place, maps in images], chosen
            )

        return Decoded([last], None, places, masks)

    def _places(self, heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Where queries start, ``[B, N, 2]``, and the class of size that each looks for, ``[B, N]``."""
        ends = [round(count * part / sum(self.shares)) for part in itertools.accumulate(self.shares, initial=0)]
        counts = [end - start for start, end in itertools.pairwise(ends)]  # they sum to count
        found = [peaks(maps, number) for maps, number in zip(heat.unbind(1), counts, strict=True)]
        size = torch.cat([at.new_full(at.shape[:2], index, dtype=torch.long) for index, at in enumerate(found)], dim=1)
        return torch.cat(found, dim=1), size

    def _size_of(self, box: Tensor, heat: Tensor) -> Tensor:
        """The class of size ``[N]`` of extents ``[N, 4]``."""
        grid = box.new_tensor([heat.shape[-1], heat.shape[-2]])  # cells of 4 pixels
        return torch.bucketize((box[:, 2:] * grid * 4).amax(1), box.new_tensor(self.sizes), right=True)

    def _pilots(self, heat: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Jittered places ``[B, P, 2]`` of true objects, at centres of cells, and which of them are real ``[B, P]``."""
        grid = heat.new_tensor([heat.shape[-1], heat.shape[-2]])  # w, h
        most = max(len(box) for box in boxes)
        place = heat.new_full((len(boxes), most, 2), 0.5)
        real = torch.zeros(len(boxes), most, dtype=torch.bool, device=heat.device)
        for b, box in enumerate(boxes):
            at = box[:, :2] + (torch.rand_like(box[:, :2]) - 0.5) * self.jitter * box[:, 2:]
            cell = (at * grid).floor().clamp(min=0).minimum(grid - 1)
            place[b, : len(box)], real[b, : len(box)] = (cell + 0.5) / grid, True
        return place, real

    def _decode(self, pixels: Pixels, at: Tensor, of_size: Tensor, apart: Tensor | None) -> list[Tensor]:
        """The queries ``[B, Q, D]`` of every head."""
        features = pixels.mask_features
        size = (features.shape[-2], features.shape[-1])
        sources, positions = keys_of(pixels.multiscale, self.level_embed.weight)
        grids = [(maps.shape[-2], maps.shape[-1]) for maps in pixels.multiscale]
        at_level = [resize(features.detach(), grid) for grid in grids]  # as in MaskDecoder
        x = self.content(self._sample(pixels, at)) + self.size_embed(of_size)
        query_pos = self.pos_proj(point_codes(at, x.shape[-1]).to(x.dtype))

        states = [self.norm(x)]
        for index, layer in enumerate(self.layers):
            level = index % len(sources)
            with torch.no_grad():
                outside = self._logits(states[-1], at, at_level[level], size).flatten(2) < 0
            blocked = blocked_by(outside)
            x = layer(x, query_pos, sources[level], positions[level], blocked, apart)
            states.append(self.norm(x))
        return states

    @staticmethod
    def _sample(pixels: Pixels, at: Tensor) -> Tensor:
        """Features at places ``[B, Q, 2]``: ``[B, Q, D]``, summed over stride 4 and all levels."""
        grid = (2 * at - 1).unsqueeze(2)
        maps = (pixels.mask_features, *pixels.multiscale)
        return sum(
            F.grid_sample(level, grid.to(level.dtype), padding_mode="border", align_corners=False)[..., 0]
            for level in maps
        ).transpose(1, 2)  # type: ignore[union-attr]

    def _masks(self, queries: Tensor, at: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits ``[B, Q, h, w]`` on the grid of ``features``; ``size`` is that of stride 4."""
        logits = self._logits(queries, at, features, size)
        return squash(logits) if self.prior else logits

    def _logits(self, queries: Tensor, at: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The same before they are squashed, which changes no sign."""
        logits = torch.bmm(self.mask_embed(queries), features.flatten(2))  # [B, Q, h*w]
        if self.prior:
            with torch.autocast(features.device.type, enabled=False):  # differences of large numbers
                form = quadratic(self.shape(queries.float()), at, size)
                functions = basis(features.shape[-2:], size, features.device)
                logits = torch.baddbmm(logits.float(), form, functions.expand(len(form), -1, -1))
        return logits.unflatten(2, features.shape[-2:])

    def _quality(self, head: Head) -> tuple[Tensor, Tensor]:
        """A logit of each mask's IoU with its object, and the mean probability inside it, both ``[B, Q]``.

        No gradient reaches the head: to predict how good a mask is must not make it another.
        """
        logits = head.mask_logits.detach().float()
        probability, inside = logits.sigmoid(), logits > 0
        area, within = inside.sum((-2, -1)), (probability * inside).sum((-2, -1))
        sure = within / (area + 1e-6)
        sharp = within / (probability.sum((-2, -1)) + 1e-6)
        facts = torch.stack([sure, sharp, torch.log1p(area) / 4], -1)
        return self.quality(torch.cat([head.queries.detach(), facts.to(head.queries.dtype)], -1)).squeeze(-1), sure


def peaks(heat: Tensor, count: int) -> Tensor:
    """Places ``[B, N, 2]`` (x, y in 0..1) of the best cells of ``[B, h, w]``, local maxima before all others."""
    heat = heat.detach()
    h, w = heat.shape[-2:]
    top = F.max_pool2d(heat.unsqueeze(1), 3, 1, 1).squeeze(1)
    rank = torch.where(heat >= top, heat, heat - 1000.0).flatten(1)  # logits are far from 1000
    index = rank.topk(min(count, rank.shape[1]), dim=1).indices
    return torch.stack([(index % w + 0.5) / w, (index // w + 0.5) / h], -1)


def extent(masks: Tensor) -> Tensor:
    """Centre of mass and side lengths ``[N, 4]`` (x, y, width, height in 0..1) of bool masks ``[N, H, W]``."""
    h, w = masks.shape[-2:]
    inside = numbers(masks)
    columns, rows = inside.sum(1), inside.sum(2)  # [N, W], [N, H]
    area = columns.sum(1).clamp(min=1)
    x = columns @ ((torch.arange(w, device=masks.device) + 0.5) / w) / area
    y = rows @ ((torch.arange(h, device=masks.device) + 0.5) / h) / area
    return torch.stack([x, y, _length(columns > 0), _length(rows > 0)], 1)


def _length(hit: Tensor) -> Tensor:
    """How far it is from the first to the last of ``[N, L]`` bool, as a share of ``L``."""
    first, last = hit.int().argmax(1), hit.shape[1] - hit.flip(1).int().argmax(1)
    return (last - first) * hit.any(1) / hit.shape[1]


def basis(grid: Sequence[int], size: tuple[int, int], device: torch.device) -> Tensor:
    """The functions 1, x, y, x^2, y^2, xy ``[6, h * w]`` at a grid's cells, in units from the centre of ``size``."""
    y, x = (
        ((torch.arange(n, device=device) + 0.5) / n - 0.5) * (length / UNIT)
        for n, length in zip(grid, size, strict=True)
    )
    y, x = (part.reshape(-1) for part in torch.meshgrid(y, x, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])


def quadratic(shape: Tensor, at: Tensor, size: tuple[int, int]) -> Tensor:
    """Coefficients ``[B, Q, 6]`` on `basis` of a negative definite form around each place.

    Args:
        shape: ``[B, Q, 6]``: offset x and y in scales, log scale x and y, correlation, height.
        at: ``[B, Q, 2]`` x, y in 0..1.
        size: height and width of stride 4, in cells.
    """
    offset_x, offset_y, scale_x, scale_y, turn, height = shape.unbind(-1)
    first = math.log(SIGMA / UNIT)
    sx, sy = (scale_x.clamp(-4, 5) + first).exp(), (scale_y.clamp(-4, 5) + first).exp()
    x = (at[..., 0] - 0.5) * (size[1] / UNIT) + offset_x * sx
    y = (at[..., 1] - 0.5) * (size[0] / UNIT) + offset_y * sy
    xx, yy, xy = 1 / sx**2, 1 / sy**2, 0.95 * torch.tanh(turn) / (sx * sy)  # below 1: an ellipse, never a saddle
    constant = 2 * height - 0.5 * (xx * x * x + yy * y * y + 2 * xy * x * y)
    return torch.stack([constant, xx * x + xy * y, yy * y + xy * x, -0.5 * xx, -0.5 * yy, -xy], -1)


class Squash(torch.autograd.Function):
    """`squash`, which keeps nothing but its result for the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """Squash."""
        out = logits.clamp(min=FLOOR).sub_((FLOOR - logits).clamp_(min=0).log1p_())
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """1 above `FLOOR`, and 1 / (1 + FLOOR - logits) below."""
        (out,) = ctx.saved_tensors
        return (out - FLOOR).clamp_(max=0).exp_().mul_(gradient)


def squash(logits: Tensor) -> Tensor:
    """Logits that fall as a logarithm below `FLOOR`."""
    return Squash.apply(logits)


def keep_apart(finders: int, real: Tensor) -> Tensor:
    """Which queries ``[B, T, T]`` may not see which in self-attention.

    Finders and pilots do not see each other, for there are no pilots in evaluation; nobody sees one that is not real.

    Args:
        finders: how many queries come before the pilots.
        real: ``[B, P]``, which pilots stand for an object.
    """
    batch, pilots = real.shape
    total = finders + pilots
    pilot = torch.arange(total, device=real.device) >= finders
    apart = (pilot[:, None] != pilot[None, :]).repeat(batch, 1, 1)
    apart[:, :, finders:] |= ~real[:, None, :]
    return apart & ~torch.eye(total, dtype=torch.bool, device=real.device)


def distinct(rank: Tensor, mask_logits: Tensor, overlap: float) -> Tensor:
    """Which masks ``[Q, h, w]`` of one image no better one overlaps by more than an IoU: ``[Q]`` bool."""
    inside = numbers((mask_logits > 0).flatten(1))
    both, area = inside @ inside.T, inside.sum(1)
    clash = (both / (area[:, None] + area[None, :] - both).clamp(min=1) > overlap).cpu()
    kept: list[int] = []
    for index in rank.argsort(descending=True, stable=True).tolist():
        if not clash[index, kept].any():
            kept.append(index)
    distinct = torch.zeros_like(rank, dtype=torch.bool)
    distinct[kept] = True
    return distinct
