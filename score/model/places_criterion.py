"""The losses of queries that start at places: matched once, on the last head, with pilots, heat and mask quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from score.model.criterion import NOTHING, SetCriterion, Target
from score.model.mask_decoder import Decoded, Head, Places
from score.model.towers.base import numbers

SPREAD = 0.15  # of an object's extent: the scale of its peak in the heat map


class PlacesCriterion(SetCriterion):
    """Losses of a `PlacesDecoder`, whose queries keep their place from the first head to the last.

    So one matching serves all heads, and the last alone is classified, which saves most of what classes cost. A query
    that starts where nothing may count as background, and that no object is matched to, has no class to learn.

    Args:
        heat_weight: of the focal loss of the heat map (Law and Deng, "CornerNet", ECCV 2018), over objects.
        quality_weight: of the cross-entropy of predicted and true IoU.
        shared: of :class:`SetCriterion`.
    """

    def __init__(self, *, heat_weight: float, quality_weight: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.heat_weight, self.quality_weight = heat_weight, quality_weight

    def forward(
        self, decoded: Decoded, classify: Callable[[Iterable[Head]], Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Weigh all losses.

        Returns:
            ``loss_ce``, ``loss_heat`` and ``loss_quality``, ``loss_mask`` and ``loss_dice`` of the last head, and
            these with ``_0``, ``_1``, ... of the others.
        """
        (head,), places = decoded.heads, decoded.places
        assert places is not None and decoded.masks is not None, "this criterion is made for PlacesDecoder"
        finders = places.at.shape[1]
        masks = head.mask_logits.detach().float()
        # apart, for a context module may let queries see each other, and there are no pilots in evaluation
        kinds = [slice(finders), slice(finders, None)] if places.told else [slice(None)]
        parts = [Head(head.queries[:, kind], head.mask_logits[:, kind]) for kind in kinds]
        logits = torch.cat([classify([part])[0] for part in parts if part.queries.shape[1]], dim=1).float()
        count = self._mean_count(targets, logits.device)
        pairs = self.matcher.every(
            (
                logits[b, :finders],
                self.matcher.mask_cost(masks[b, :finders], target.masks, self.matcher.draw(masks.device)),
                target.classes,
            )
            for b, target in enumerate(targets)
        )
        queries, chosen = [q for q, _ in pairs], [n for _, n in pairs]
        for b, told in enumerate(places.told):  # pilots follow the finders
            pilots = finders + torch.arange(len(told), device=told.device)
            queries[b], chosen[b] = torch.cat([queries[b], pilots]), torch.cat([chosen[b], told])
        ignored = self._ignored(places, targets)
        losses = {
            "loss_ce": self._classes(logits, targets, queries, chosen, ignored),
            "loss_heat": self.heat_weight * heat_loss(places, targets) / count,
            "loss_quality": self.quality_weight * quality_loss(places.quality, masks[:, :finders], targets, ignored),
        }
        truth = torch.cat([target.masks[n] for n, target in zip(chosen, targets, strict=True)])
        share = 0.5 if places.told else 1.0  # an object has two masks then
        compared = decoded.masks([queries] * places.heads)
        for index, (bce, dice) in enumerate(self._mask_losses([logits.float() for logits in compared], truth)):
            suffix = "" if index == len(compared) - 1 else f"_{index}"
            losses[f"loss_mask{suffix}"] = share * self.mask_weight * bce / count
            losses[f"loss_dice{suffix}"] = share * self.dice_weight * dice / count
        return losses

    @staticmethod
    def _ignored(places: Places, targets: Sequence[Target]) -> Tensor:
        """Which finders ``[B, F]`` start where nothing counts as background."""
        found = torch.zeros(places.at.shape[:2], dtype=torch.bool, device=places.at.device)
        for b, target in enumerate(targets):
            if target.ignore is not None:
                x, y = (places.at[b] * places.at.new_tensor(target.ignore.shape[::-1])).long().unbind(-1)
                found[b] = target.ignore[y, x]
        return found

    def _classes(
        self,
        logits: Tensor,
        targets: Sequence[Target],
        queries: Sequence[Tensor],
        chosen: Sequence[Tensor],
        ignored: Tensor,
    ) -> Tensor:
        void, finders = logits.shape[2] - 1, ignored.shape[1]
        wanted = torch.full(logits.shape[:2], NOTHING, device=logits.device)  # of pilots that stand for no object
        wanted[:, :finders] = torch.where(ignored, NOTHING, void)
        for b, target in enumerate(targets):
            wanted[b, queries[b]] = target.classes[chosen[b]]
        return self.class_weight * self._cross_entropy(logits, wanted)


def heat_loss(places: Places, targets: Sequence[Target]) -> Tensor:
    """Penalty-reduced focal loss of centres against Gaussian peaks, summed over the cells of all maps.

    An object's peak stands in the map of its class of size.
    """
    heat = places.heat
    h, w = heat.shape[-2:]
    grid = heat.new_tensor([w, h])
    x, y = (torch.arange(n, device=heat.device) for n in (w, h))
    total = heat.sum() * 0
    for logits, box, sizes, target in zip(heat, places.extents, places.sizes, targets, strict=True):
        cell = (box[:, :2] * grid).floor().clamp(min=0).minimum(grid - 1)  # [N, 2]
        spread = (SPREAD * box[:, 2:] * grid).clamp(min=0.5)
        across, down = (
            torch.exp(-0.5 * ((line - cell[:, i, None]) / spread[:, i, None]) ** 2) for i, line in enumerate((x, y))
        )
        near, peak = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)  # [S, h, w]
        for size in sizes.unique().tolist():
            own = sizes == size
            near[size] = (down[own, :, None] * across[own, None, :]).amax(0)
        peak[sizes, cell[:, 1].long(), cell[:, 0].long()] = True
        p = logits.sigmoid().clamp(1e-5, 1 - 1e-5)
        miss, alarm = (1 - p) ** 2 * -F.logsigmoid(logits), (1 - near) ** 4 * p**2 * F.softplus(logits)
        if target.ignore is not None:
            alarm = alarm * (F.adaptive_max_pool2d(numbers(target.ignore[None]), (h, w)) == 0)
        total = total + torch.where(peak, miss, alarm).sum()
    return total


def quality_loss(guess: Tensor, mask_logits: Tensor, targets: Sequence[Target], ignored: Tensor) -> Tensor:
    """Cross-entropy of predicted IoU and the best true one, on the grid of the masks.

    Args:
        guess: ``[B, F]`` logits.
        mask_logits: ``[B, F, h, w]``.
        ignored: ``[B, F]`` bool, left out where they miss all objects, for they may show one that is not labelled.

    Returns:
        The mean; a mask that misses all objects counts a quarter, for most do.
    """
    with torch.no_grad():
        wanted = torch.zeros_like(guess)
        for b, target in enumerate(targets):
            if len(target.classes):
                inside = numbers((mask_logits[b] > 0).flatten(1))
                truth = shares(target.masks, mask_logits.shape[-2:]).flatten(1)
                both = inside @ truth.T
                wanted[b] = (both / (inside.sum(1)[:, None] + truth.sum(1)[None] - both + 1e-6)).amax(1)
        hit = wanted > 0.1
        weight = torch.where(hit, 1.0, 0.25) * (hit | ~ignored)
    loss = F.binary_cross_entropy_with_logits(guess.float(), wanted.float(), weight, reduction="sum")
    return loss / weight.sum().clamp(min=1e-6)


def shares(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Which share of each cell of a grid, which divides their size, bool masks ``[N, H, W]`` cover: ``[N, h, w]``."""
    return F.avg_pool2d(numbers(masks), (masks.shape[-2] // grid[0], masks.shape[-1] // grid[1]))
