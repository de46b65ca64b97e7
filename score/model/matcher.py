"""One ground-truth mask to one query (Carion et al., DETR; costs on points as Mask2Former)."""

from __future__ import annotations

import torch
from detectron2.projects.point_rend.point_features import point_sample
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
            masks: ``[N, H, W]``, the same field of view at any resolution.

        Returns:
            Query indices (rising) and target indices, ``min(Q, N)`` of each.
        """
        probability = class_logits.float().softmax(-1)[:, classes]  # [Q, N]
        coords = torch.rand(1, self.points, 2, device=mask_logits.device)
        with torch.autocast(mask_logits.device.type, enabled=False):
            predicted = point_sample(mask_logits.float().unsqueeze(0), coords, align_corners=False)[0]  # [Q, P]
            target = point_sample(masks.to(predicted.dtype).unsqueeze(0), coords, align_corners=False)[0]  # [N, P]
            cost = (
                self.class_weight * -probability
                + self.mask_weight * pairwise_bce(predicted, target)
                + self.dice_weight * pairwise_dice(predicted, target)
            )
        queries, targets = linear_sum_assignment(cost.cpu().numpy())
        device = mask_logits.device
        return torch.as_tensor(queries, device=device), torch.as_tensor(targets, device=device)


def pairwise_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of every ``[Q, P]`` logit row against every ``[N, P]`` target row: ``[Q, N]``."""
    positive, negative = F.softplus(-logits), F.softplus(logits)
    return (positive @ target.T + negative @ (1 - target).T) / logits.shape[1]


def pairwise_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of every ``[Q, P]`` logit row against every ``[N, P]`` target row: ``[Q, N]``."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ target.T
    total = probability.sum(-1)[:, None] + target.sum(-1)[None, :]
    return 1 - (overlap + 1) / (total + 1)
