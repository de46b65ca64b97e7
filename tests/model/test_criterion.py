"""Matching and losses, with none, some and more targets than queries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from score.model.criterion import SetCriterion, Target
from score.model.mask_decoder import Decoded, Head
from score.model.matcher import HungarianMatcher, pairwise_bce, pairwise_dice


@pytest.fixture
def matcher() -> HungarianMatcher:
    return HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, points=64)


@pytest.fixture
def criterion(matcher: HungarianMatcher) -> SetCriterion:
    return SetCriterion(
        matcher=matcher,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        void_weight=0.1,
        points=64,
        oversample=3.0,
        uncertain=0.75,
    )


def losses_of(
    criterion: SetCriterion, heads: list[tuple[torch.Tensor, torch.Tensor]], targets: list[Target]
) -> dict[str, torch.Tensor]:
    """Losses of class logits and mask logits of every head."""
    made = [Head(logits, masks) for logits, masks in heads]

    def masks_of(chosen: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        both = zip(made, chosen, strict=True)
        return [torch.cat([own[n] for own, n in zip(head.mask_logits, queries, strict=True)]) for head, queries in both]

    return criterion(
        Decoded(made, masks=masks_of), lambda heads: torch.stack([head.queries for head in heads]), targets
    )


def squares(*corners: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(corners), 32, 32)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + 8, x : x + 8] = 1
    return masks > 0


def test_costs_are_the_losses_of_each_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 50, generator=generator), (torch.rand(2, 50, generator=generator) > 0.5).float()
    bce, dice = pairwise_bce(logits, target), pairwise_dice(logits, target)
    for q, n in itertools.product(range(3), range(2)):
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[q], target[n])
        torch.testing.assert_close(bce[q, n], expected)
        p = logits[q].sigmoid()
        torch.testing.assert_close(dice[q, n], 1 - (2 * (p * target[n]).sum() + 1) / (p.sum() + target[n].sum() + 1))


def test_matches_masks_to_their_queries(matcher: HungarianMatcher) -> None:
    torch.manual_seed(0)
    masks = squares((0, 0), (16, 16), (0, 20))
    logits = torch.cat([masks[[2]], masks[:1] & False, masks[[0, 1]]]) * 20.0 - 10
    queries, targets = matcher(torch.zeros(4, 6), logits, torch.tensor([0, 1, 2]), masks)
    assert dict(zip(queries.tolist(), targets.tolist(), strict=True)) == {0: 2, 2: 0, 3: 1}


@pytest.mark.parametrize("count", [0, 9])
def test_none_and_more_targets_than_queries(matcher: HungarianMatcher, count: int) -> None:
    torch.manual_seed(0)
    masks = squares(*[(y, x) for y in (0, 8, 16) for x in (0, 8, 16)][:count])
    queries, targets = matcher(torch.zeros(4, 6), torch.randn(4, 8, 8), torch.zeros(count, dtype=torch.long), masks)
    assert len(queries) == len(targets) == min(4, count)


def test_perfect_predictions_cost_next_to_nothing(criterion: SetCriterion) -> None:
    torch.manual_seed(0)
    masks = squares((0, 0), (16, 16))
    target = Target(torch.tensor([1, 0]), masks)
    logits = torch.full((1, 3, 4), -20.0)
    for query, label in ((0, 1), (1, 0), (2, 3)):
        logits[0, query, label] = 20.0
    predicted = torch.cat([masks, masks[:1] & False])[None] * 100.0 - 50  # uncertain only on the outline
    losses = losses_of(criterion, [(logits, predicted)], [target])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    assert float(losses["loss_ce"]) < 1e-4
    wrong = losses_of(criterion, [(logits.roll(1, dims=-1), -predicted)], [target])
    assert all(float(wrong[name]) > 2 * float(losses[name]) + 1 for name in losses)


def test_a_batch_without_objects_still_trains(criterion: SetCriterion) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 8, 8, requires_grad=True)
    empty = Target(torch.zeros(0, dtype=torch.long), squares())
    losses = losses_of(criterion, [(logits, masks), (logits, masks)], [empty, empty])
    assert losses["loss_mask"].item() == losses["loss_dice_0"].item() == 0.0
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0
    assert masks.grad is not None and masks.grad.abs().sum() == 0


def test_heads_are_weighted_alike(criterion: SetCriterion) -> None:
    torch.manual_seed(0)
    head = (torch.randn(1, 3, 4), torch.randn(1, 3, 32, 32) * 0 + 1)
    losses = losses_of(criterion, [head, head, head], [Target(torch.tensor([2]), squares((4, 4)))])
    assert len(losses) == 9
    torch.testing.assert_close(losses["loss_ce"], losses["loss_ce_1"])


def test_of_two_equal_masks_the_one_of_the_right_class_is_matched(matcher: HungarianMatcher) -> None:
    torch.manual_seed(0)
    masks = squares((0, 0), (0, 0))
    logits = torch.zeros(2, 3)
    logits[0, 1] = logits[1, 0] = 2.0  # the first query says class 1, the second class 0
    queries, targets = matcher(logits, masks * 20.0 - 10, torch.tensor([0, 1]), masks)
    assert dict(zip(queries.tolist(), targets.tolist(), strict=True)) == {0: 1, 1: 0}


@pytest.mark.parametrize(
    ("weights", "query"), [((0.0, 5.0, 0.0), 0), ((0.0, 0.0, 5.0), 1), ((500.0, 5.0, 5.0), 2), ((0.0, 1.0, 9.0), 1)]
)
def test_each_cost_weighs_what_it_says(weights: tuple[float, float, float], query: int) -> None:
    """One query is best by cross-entropy, one by dice, one by its class."""
    torch.manual_seed(0)
    names = ("class_weight", "mask_weight", "dice_weight")
    matcher = HungarianMatcher(**dict(zip(names, weights, strict=True)), points=4096)
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, :, :8] = True
    timid = torch.full((32, 32), -1.4)  # the best constant
    bold = torch.full((32, 32), -9.0)
    bold[:, :16] = 9.0  # all of it, and as much beside it
    wrong = 9 - 18.0 * mask[0]
    classes = torch.zeros(3, 2)
    classes[2, 0] = 9.0
    queries, _ = matcher(classes, torch.stack([timid, bold, wrong]), torch.tensor([0]), mask)
    assert queries.tolist() == [query]


def test_cross_entropy_weighs_void_a_tenth(criterion: SetCriterion) -> None:
    torch.manual_seed(0)
    masks = squares((0, 0))
    logits = torch.randn(1, 3, 4)
    predicted = torch.cat([~masks, masks, ~masks])[None] * 40.0 - 20  # the second query is matched
    loss = losses_of(criterion, [(logits, predicted)], [Target(torch.tensor([2]), masks)])["loss_ce"]
    losses = -logits[0].log_softmax(-1)
    void = losses[0, 3] + losses[2, 3]
    torch.testing.assert_close(loss, 2 * (losses[1, 2] + 0.1 * void) / (1 + 0.1 + 0.1))


@pytest.mark.parametrize("counts", [(1, 2), (1, 1)])
def test_mask_losses_are_means_over_points_and_masks(criterion: SetCriterion, counts: tuple[int, int]) -> None:
    """Constant masks say the same wherever they are sampled, but for the outermost half pixel."""
    torch.manual_seed(0)
    criterion.points, criterion.uncertain = (points := 17), 0.0
    targets = [Target(torch.zeros(n, dtype=torch.long), torch.ones(n, 512, 512, dtype=torch.bool)) for n in counts]
    losses = losses_of(criterion, [(torch.zeros(2, 2, 4), torch.full((2, 2, 512, 512), 0.4))], targets)
    p = torch.tensor(0.4).sigmoid()
    torch.testing.assert_close(losses["loss_mask"], -5 * p.log(), rtol=1e-2, atol=0)
    dice = 1 - (2 * points * p + 1) / (points * p + points + 1)
    torch.testing.assert_close(losses["loss_dice"], 5 * dice, rtol=1e-2, atol=0)


@pytest.mark.parametrize(("width", "share"), [(256, 0.75 + 0.25 / 2), (96, 3 * 96 / 512 + 0.25 * 96 / 512)])
def test_most_points_lie_where_the_mask_is_least_certain(criterion: SetCriterion, width: int, share: float) -> None:
    """Three candidates a point: the uncertain ones of them fill three quarters of the points, as far as they go."""
    torch.manual_seed(0)
    criterion.points = 8192
    logits = torch.full((1, 1, 512, 512), -50.0)
    logits[..., :width] = 0.0
    losses = losses_of(
        criterion, [(torch.zeros(1, 1, 4), logits)], [Target(torch.tensor([0]), ~squares((0, 0)) & squares((0, 0)))]
    )
    assert float(losses["loss_mask"]) / (5 * math.log(2)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("coarse", ["logits", "masks"])
def test_corners_of_masks_are_not_aligned(coarse: str) -> None:
    """A cell lies where it is drawn: the first of four columns ends at a quarter, not at a sixth, of the width."""
    torch.manual_seed(0)
    matcher = HungarianMatcher(class_weight=0.0, mask_weight=1.0, dice_weight=1.0, points=4096)
    column = torch.arange(96)
    if coarse == "masks":
        masks = torch.tensor([True, False, False, False]).expand(1, 4, 4)
        logits = torch.stack([9.0 - 18 * (column >= 96 // 6), 9.0 - 18 * (column >= 96 // 4)])
    else:
        masks = (column < 96 // 4).expand(1, 4, 96)
        logits = torch.tensor([[9.0, -3.0, -9.0, -9.0], [9.0, -9.0, -9.0, -9.0]])  # the first ends beyond
    queries, _ = matcher(torch.zeros(2, 2), logits[:, None].expand(-1, 4, -1), torch.tensor([0]), masks)
    assert queries.tolist() == [1]


def test_what_is_seen_where_nothing_is_background_has_no_class(criterion: SetCriterion) -> None:
    torch.manual_seed(0)
    masks = squares((0, 0), (16, 16))
    predicted = masks[None] * 40.0 - 20  # the second shows what no target has
    logits = torch.full((1, 2, 4), -20.0)
    logits[0, :, 1] = 20.0
    target = Target(torch.tensor([1]), masks[:1])
    elsewhere, there = masks
    assert losses_of(criterion, [(logits, predicted)], [target])["loss_ce"] > 1
    assert losses_of(criterion, [(logits, predicted)], [target._replace(ignore=there)])["loss_ce"] < 1e-3
    assert losses_of(criterion, [(logits, predicted)], [target._replace(ignore=elsewhere)])["loss_ce"] > 1
