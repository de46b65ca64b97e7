"""The training losses of Mask2Former: classes over all queries, masks on sampled points of the matched ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from detectron2.projects.point_rend.point_features import point_sample
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from score.model import matcher as matching  # a module, for the reason in score.py
from score.model.towers.base import numbers

if TYPE_CHECKING:
    from score.model.mask_decoder import Decoded, Head


class Target(NamedTuple):
    """Ground truth of one image.

    Attributes:
        classes: ``[N]`` int64, index into the training vocabulary.
        masks: ``[N, H, W]`` bool, at the padded input size.
        ignore: ``[H, W]`` bool, where nothing may count as background, or None.
    """

    classes: Tensor
    masks: Tensor
    ignore: Tensor | None = None


NOTHING = -100  # the class of a query that has none to learn


def _mostly_within(mask_logits: Tensor, region: Tensor) -> Tensor:
    """Which masks of ``[Q, h, w]`` lie by more than half in a region ``[H, W]`` bool of the same view: ``[Q]`` bool."""
    inside = numbers((mask_logits > 0).flatten(1))
    share = F.adaptive_avg_pool2d(numbers(region[None]), mask_logits.shape[-2:]).flatten()
    return inside @ (share - 0.5) > 0


def _least(values: Tensor, count: int) -> Tensor:
    """Where the least ``count`` of each row of ``[N, P]`` are, in no order: ``[N, count]``."""
    if values.device.type == "cpu":  # NumPy's takes a fifth of the time
        return torch.from_numpy(values.numpy().argpartition(count - 1, axis=1)[:, :count])
    return values.topk(count, largest=False, sorted=False).indices


class SetCriterion(nn.Module):
    """Match every head's queries to the targets and sum the losses, all heads alike.

    An unmatched query whose mask lies mostly where nothing may count as background has no class to learn.

    Args:
        matcher: assigns targets to queries.
        class_weight, mask_weight, dice_weight: of the three losses.
        void_weight: of the class *void* in the cross-entropy.
        points: points a matched mask is compared on.
        oversample: random candidates for the uncertain ones, as a multiple of ``points``.
        uncertain: share of the points taken where the mask is least certain.
    """

    def __init__(
        self,
        *,
        matcher: matching.HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        void_weight: float,
        points: int,
        oversample: float,
        uncertain: float,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.void_weight, self.points, self.oversample, self.uncertain = void_weight, points, oversample, uncertain

    def forward(
        self, decoded: Decoded, classify: Callable[[Iterable[Head]], Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Weigh all losses.

        Args:
            decoded: every head.
            classify: from heads to their class logits ``[N, B, Q, C + 1]``, void last; passes each head once.
            targets: one an image.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last head, the same with ``_0``, ``_1``, ... of the others.
        """
        heads, device = len(decoded.heads), targets[0].classes.device
        order = [heads - 1, *range(heads - 1)]
        points = {index: [self.matcher.draw(device) for _ in targets] for index in order}
        costs: list[Tensor] = []
        ignored: list[list[Tensor | None]] = []

        def passing() -> Iterator[Head]:
            """Take all that a head's masks are asked for while they are there, then let them go."""
            for index, head in enumerate(decoded.heads):
                images = list(zip(head.mask_logits.detach(), targets, points[index], strict=True))
                costs.extend(self.matcher.mask_cost(logits, target.masks, at) for logits, target, at in images)
                ignored.append(
                    [None if t.ignore is None else _mostly_within(logits, t.ignore) for logits, t, _ in images]
                )
                yield head

        logits = classify(passing())
        count = self._mean_count(targets, device)
        kinds = [target.classes for target in targets] * heads
        pairs = self.matcher.every(zip(logits.flatten(0, 1), costs, kinds, strict=True))
        found = [pairs[index * len(targets) :][: len(targets)] for index in range(heads)]
        assert decoded.masks is not None, "a decoder in evaluation"
        compared = decoded.masks([[queries for queries, _ in images] for images in found])
        losses = {}
        for place, index in enumerate(order):
            suffix = f"_{index}" if place else ""
            wanted = self._wanted(logits[index], ignored[index], found[index], targets)
            losses[f"loss_ce{suffix}"] = self.class_weight * self._cross_entropy(logits[index].float(), wanted)
            masks = torch.cat([target.masks[chosen] for (_, chosen), target in zip(found[index], targets, strict=True)])
            [(bce, dice)] = self._mask_losses([compared[index].float()], masks)
            losses[f"loss_mask{suffix}"] = self.mask_weight * bce / count
            losses[f"loss_dice{suffix}"] = self.dice_weight * dice / count
        return losses

    @staticmethod
    def _mean_count(targets: Sequence[Target], device: torch.device) -> Tensor:
        """Masks in the batch, averaged over processes, at least 1."""
        count = torch.tensor(float(sum(len(target.classes) for target in targets)), device=device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        return (count / comm.get_world_size()).clamp(min=1.0)

    @staticmethod
    def _wanted(
        class_logits: Tensor,
        ignored: Sequence[Tensor | None],
        pairs: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[Target],
    ) -> Tensor:
        """The class ``[B, Q]`` that each query has to learn."""
        wanted = class_logits.new_full(class_logits.shape[:2], class_logits.shape[2] - 1, dtype=torch.long)  # void
        for b, ((queries, chosen), target, nothing) in enumerate(zip(pairs, targets, ignored, strict=True)):
            if nothing is not None:
                wanted[b, nothing] = NOTHING
            wanted[b, queries] = target.classes[chosen]
        return wanted

    def _cross_entropy(self, class_logits: Tensor, wanted: Tensor) -> Tensor:
        """Mean over queries ``[B, Q]`` that have a class to learn; *void* counts ``void_weight``."""
        weights = class_logits.new_ones(class_logits.shape[2])
        weights[-1] = self.void_weight
        total = F.cross_entropy(class_logits.transpose(1, 2), wanted, weights, ignore_index=NOTHING, reduction="sum")
        return total / weights[wanted[wanted != NOTHING]].sum().clamp(min=1e-6)

    def _mask_losses(self, heads: Sequence[Tensor], masks: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Cross-entropy and dice of each head's ``[N, h, w]`` against bool ``[N, H, W]``, summed over masks."""
        if not len(masks):  # zeros that still reach the parameters, as other processes expect
            return [(logits.sum(), logits.sum()) for logits in heads]
        with torch.no_grad():
            points = [self._points(logits) for logits in heads]
            labels = matching.sample_bits(masks, torch.cat(points, dim=1)).split(self.points, dim=1)  # [N, P] each
        losses = []
        for logits, coords, label in zip(heads, points, labels, strict=True):
            values = point_sample(logits.unsqueeze(1), coords, align_corners=False).squeeze(1)
            bce = F.binary_cross_entropy_with_logits(values, label, reduction="none").mean(dim=1).sum()
            probability = values.sigmoid()
            dice = 1 - (2 * (probability * label).sum(-1) + 1) / (probability.sum(-1) + label.sum(-1) + 1)
            losses.append((bce, dice.sum()))
        return losses

    def _points(self, logits: Tensor) -> Tensor:
        """Points ``[N, P, 2]`` on masks ``[N, h, w]``: most where a mask is least certain, the others anywhere.

        As PointRend draws them (Kirillov et al., CVPR 2020), but in no order, for sorting costs more than choosing.
        """
        candidates = torch.rand(len(logits), int(self.points * self.oversample), 2, device=logits.device)
        sure = point_sample(logits.unsqueeze(1), candidates, align_corners=False).squeeze(1).abs_()
        chosen = _least(sure, int(self.uncertain * self.points))
        found = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
        if (left := self.points - found.shape[1]) > 0:
            found = torch.cat([found, torch.rand(len(logits), left, 2, device=logits.device)], dim=1)
        return found
