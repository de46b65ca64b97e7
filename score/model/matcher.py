"""One ground-truth mask to one query (Carion et al., DETR; costs on points as Mask2Former)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F


class HungarianMatcher(nn.Module):
    """Assign targets to queries at the least total cost.

    Args:
        class_weight, mask_weight, dice_weight: of the three costs.
        points: random points, common to all masks of an image, on which masks are compared.
    """

    def __init__(self, *, class_weight: float, mask_weight: float, dice_weight: float, points: int) -> None:
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.points = points

    @torch.no_grad()
    def forward(
        self, class_logits: Tensor, mask_logits: Tensor, classes: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Match one image.

        Args:
            class_logits: ``[Q, C + 1]``.
            mask_logits: ``[Q, h, w]``.
            classes: ``[N]`` int64.
            masks: ``[N, H, W]`` bool, the same field of view at any resolution.

        Returns:
            Query indices (rising) and target indices, ``min(Q, N)`` of each.
        """
        cost = self.mask_cost(mask_logits, masks, self.draw(mask_logits.device))
        [pair] = self.every([(class_logits, cost, classes)])
        return pair

    def draw(self, device: torch.device) -> Tensor:
        """Points ``[1, P, 2]`` to compare masks on."""
        return torch.rand(1, self.points, 2, device=device)

    @torch.no_grad()
    def every(self, cases: Iterable[tuple[Tensor, Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Match several images, each as :meth:`forward` does; the device waits once for all of them.

        Args:
            cases: class logits, :meth:`mask_cost`, and classes of each.
        """
        costs = [
            cost - self.class_weight * logits.float().softmax(-1)[:, classes]  # [Q, N]
            for logits, cost, classes in cases
        ]
        device = costs[0].device
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        parts = flat.split([cost.numel() for cost in costs])
        found = [linear_sum_assignment(part.view_as(cost).numpy()) for part, cost in zip(parts, costs, strict=True)]
        return [(torch.as_tensor(queries, device=device), torch.as_tensor(n, device=device)) for queries, n in found]

    @torch.no_grad()
    def mask_cost(self, mask_logits: Tensor, masks: Tensor, coords: Tensor) -> Tensor:
        """What each pair ``[Q, N]`` of ``[Q, h, w]`` and ``[N, H, W]`` costs on points of :meth:`draw`."""
        with torch.autocast(mask_logits.device.type, enabled=False):
            predicted = sample_common(mask_logits.float(), coords[0])  # [Q, P]
            target = sample_bits(masks, coords)  # [N, P]
            bce, dice = pairwise_bce(predicted, target), pairwise_dice(predicted, target)
            return self.mask_weight * bce + self.dice_weight * dice


def pairwise_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of every ``[Q, P]`` logit row against every ``[N, P]`` target row: ``[Q, N]``."""
    return (F.softplus(logits).sum(-1)[:, None] - logits @ target.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of every ``[Q, P]`` logit row against every ``[N, P]`` target row: ``[Q, N]``."""
    probability = logits.sigmoid()
    overlap = 2 * (probability @ target.T)
    total = probability.sum(-1)[:, None] + target.sum(-1)[None, :]
    return 1 - (overlap + 1) / (total + 1)


def sample_common(maps: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples ``[Q, P]`` of ``[Q, h, w]`` at points ``[P, 2]`` common to all, as `point_sample` has them.

    All maps' numbers of a cell are summed as one row, which in channels-last memory they are.
    """
    ends = []
    for place, length in zip(coords.unbind(1), (maps.shape[2], maps.shape[1]), strict=True):
        place = place * length - 0.5
        cell = torch.stack([place.floor(), place.floor() + 1], dim=1)  # [P, 2]
        share = (1 - (place[:, None] - cell).abs()) * ((cell >= 0) & (cell < length))
        ends.append((cell.clamp(0, length - 1).long(), share))
    (columns, across), (rows, down) = ends
    index = rows[:, :, None] * maps.shape[2] + columns[:, None]  # [P, 2, 2]
    shares = (down[:, :, None] * across[:, None]).flatten(1)
    cells = maps.flatten(1).T.contiguous()  # [h*w, Q]
    return F.embedding_bag(index.flatten(1), cells, per_sample_weights=shares, mode="sum").T


def sample_bits(masks: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples ``[N, P]`` fp32 of bool ``[N, H, W]`` at points x and y in 0..1; 0 lies around.

    As `point_sample` of the same as numbers, without making them numbers.

    Args:
        coords: ``[N, P, 2]``, or ``[1, P, 2]`` for all masks.
    """
    height, width = masks.shape[1:]
    padded = F.pad(masks, (1, 1, 1, 1))  # a cell of nothing around, so that no corner needs a test
    x, y = coords[..., 0] * width + 0.5, coords[..., 1] * height + 0.5  # in cells of the padded grid
    left, top = x.floor(), y.floor()
    first = torch.arange(len(masks), device=masks.device) * ((height + 2) * (width + 2))
    index = (top * (width + 2) + left).long() + first[:, None]  # [N, P]
    flat, steps = padded.flatten(), (0, 1, width + 2, width + 3)
    corners = [flat.index_select(0, (index + step).flatten()).view_as(index).to(coords.dtype) for step in steps]
    x, y = x - left, y - top
    return torch.lerp(torch.lerp(corners[0], corners[1], x), torch.lerp(corners[2], corners[3], x), y)
