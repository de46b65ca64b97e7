"""Queries that start at places: where they start, what their masks are, what they learn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from score.errors import ConfigError
from score.model.criterion import Target
from score.model.mask_decoder import Decoded, Head
from score.model.matcher import HungarianMatcher
from score.model.pixel_decoder import Pixels
from score.model.places import FLOOR, PlacesDecoder, basis, distinct, extent, keep_apart, peaks, quadratic, squash
from score.model.places_criterion import PlacesCriterion, heat_loss, quality_loss
from score.model.position import point_codes, sine_positions


def decoder(**settings: object) -> PlacesDecoder:
    torch.manual_seed(0)
    sizes = {"sizes": [12, 22], "shares": [2, 1, 1]}
    chosen = {"prior": True, "pilots": 3, "jitter": 0.5, "overlap": 0.5, "train_queries": 4, **sizes, **settings}
    made = PlacesDecoder(dim=16, queries=8, layers=3, heads=2, feedforward=32, **chosen)  # type: ignore[arg-type]
    return made.eval()


def pixels(batch: int = 2) -> Pixels:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 16, 16, 24, generator=generator)
    return Pixels(features, [torch.randn(batch, 16, s, 3 * s // 2, generator=generator) for s in (2, 4, 8)])


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    """Masks of y, x, height and width."""
    masks = torch.zeros(len(corners), *size)
    for mask, (y, x, h, w) in zip(masks, corners, strict=True):
        mask[y : y + h, x : x + w] = 1
    return masks > 0


def targets() -> list[Target]:
    return [
        Target(torch.tensor([0, 2]), boxes((8, 16, 8, 24), (40, 4, 12, 12))),
        Target(torch.tensor([1]), boxes((0, 60, 20, 20))),
    ]


def criterion() -> PlacesCriterion:
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, points=256)
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "void_weight": 0.1}
    points = {"points": 256, "oversample": 3.0, "uncertain": 0.75}
    return PlacesCriterion(heat_weight=2.0, quality_weight=1.0, matcher=matcher, **weights, **points)


def test_places_are_the_best_local_maxima() -> None:
    heat = torch.full((1, 6, 8), -5.0)
    heat[0, 1, 2], heat[0, 1, 3], heat[0, 4, 7] = 3.0, 2.0, 1.0  # the second is a neighbour of the first
    at = peaks(heat, 3)
    assert at[0, 0].tolist() == pytest.approx([2.5 / 8, 1.5 / 6])
    assert at[0, 1].tolist() == pytest.approx([7.5 / 8, 4.5 / 6])
    assert peaks(heat, 100).shape == (1, 48, 2)  # no more than there are cells


def test_place_codes_are_those_of_cells() -> None:
    """The same code, though a cell's is that of its far corner."""
    cells = sine_positions(4, 6, 8).view(4, 6, 8)
    corner = torch.tensor([3 / 6, 2 / 4])  # x, y
    torch.testing.assert_close(point_codes(corner, 8), cells[1, 2], rtol=1e-4, atol=1e-4)


def test_the_quadratic_form_is_a_bell_around_its_place() -> None:
    """Equal to its definition, wherever the image's centre is."""
    size = (16, 24)
    at, shape = torch.tensor([[[0.25, 0.75]]]), torch.tensor([[[0.5, -0.2, 0.4, 0.9, 0.6, 1.5]]])
    form = (quadratic(shape, at, size) @ basis(size, size, torch.device("cpu"))).view(*size)
    sx, sy = 1.5 * math.exp(0.4), 1.5 * math.exp(0.9)
    y = (torch.arange(16) + 0.5 - (0.75 * 16 - 0.2 * sy))[:, None] / sy
    x = (torch.arange(24) + 0.5 - (0.25 * 24 + 0.5 * sx))[None, :] / sx
    expected = 3.0 - 0.5 * (x * x + y * y + 2 * 0.95 * math.tanh(0.6) * x * y)
    torch.testing.assert_close(form, expected, rtol=1e-4, atol=1e-3)
    coarse = (quadratic(shape, at, size) @ basis((8, 12), size, torch.device("cpu"))).view(8, 12)
    torch.testing.assert_close(coarse[3, 4], (form[6:8, 8:10]).mean(), rtol=0.1, atol=0.2)  # the same field of view


def test_a_form_stays_exact_far_from_the_corner() -> None:
    size = (512, 512)
    at, shape = torch.tensor([[[0.9, 0.95]]]), torch.tensor([[[0.0, 0.0, -1.0, -1.0, 0.0, 1.0]]])
    form = (quadratic(shape, at, size) @ basis(size, size, torch.device("cpu"))).view(size)
    exact = (quadratic(shape.double(), at.double(), size) @ basis(size, size, torch.device("cpu")).double()).view(size)
    near = exact > FLOOR
    assert near.sum() > 4
    torch.testing.assert_close(form[near].double(), exact[near], rtol=0, atol=0.02)


def test_far_logits_fall_slowly_and_near_ones_not_at_all() -> None:
    logits = torch.tensor([5.0, -11.9, -13.0, -1e6], requires_grad=True)
    out = squash(logits)
    assert out[:2].tolist() == pytest.approx([5.0, -11.9])
    assert -13 < out[2] < -12 and -27 < out[3] < -25
    out.sum().backward()
    assert (logits.grad > 0).all()


def test_extents_are_centres_and_lengths() -> None:
    found = extent(boxes((8, 16, 8, 24), (0, 0, 64, 96)))
    assert found[0].tolist() == pytest.approx([28 / 96, 12 / 64, 24 / 96, 8 / 64])
    assert found[1].tolist() == pytest.approx([0.5, 0.5, 1.0, 1.0])
    assert extent(torch.zeros(0, 64, 96, dtype=torch.bool)).shape == (0, 4)


def test_a_new_decoder_starts_from_discs_at_its_places() -> None:
    """Before any training a mask is where its query is, however little its features say."""
    made = decoder()
    for layer in made.mask_embed:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    maps = pixels()
    at, _ = made._places(made.heat(maps.mask_features), 8)
    (head,) = made(maps).heads
    for b in range(2):
        for (x, y), logits in zip(at[b].tolist(), head.mask_logits[b], strict=True):
            rows, columns = (logits > 0).nonzero(as_tuple=True)
            assert 4 <= len(rows) <= 60
            assert abs(rows.float().mean() + 0.5 - y * 16) < 2.5 and abs(columns.float().mean() + 0.5 - x * 24) < 2.5


def test_evaluation_gives_one_head_and_a_quality() -> None:
    made, maps = decoder(overlap=1.0), pixels()
    heads, quality, places, _ = made(maps)
    assert len(heads) == 1 and places is None
    assert heads[0].mask_logits.shape == (2, 8, 16, 24) and heads[0].queries.shape == (2, 8, 16)
    assert quality.shape == (2, 8) and ((quality > 0) & (quality < 1)).all()


def test_the_number_of_places_is_free() -> None:
    few, many = decoder(), decoder()
    many.queries = 48
    many.load_state_dict(few.state_dict())
    assert many(pixels()).heads[0].mask_logits.shape[1] == 48


def test_images_of_a_batch_do_not_see_each_other() -> None:
    made, maps = decoder(), pixels()
    both = made(maps)
    first = made(Pixels(maps.mask_features[:1], [level[:1] for level in maps.multiscale]))
    torch.testing.assert_close(both.heads[0].mask_logits[:1], first.heads[0].mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.quality[:1], first.quality, rtol=1e-4, atol=1e-4)


def test_pilots_are_told_places_and_change_nothing_for_the_others() -> None:
    """What finders say in training is what they say without pilots."""
    made, without = decoder(), decoder(pilots=0)
    without.load_state_dict(made.state_dict())
    maps, wanted = pixels(), targets()
    told, alone = made(maps, wanted), without(maps, wanted)
    assert told.heads[0].mask_logits.shape[:2] == (2, 6)  # four finders and two pilots
    assert [sorted(n.tolist()) for n in told.places.told] == [[0, 1], [0]]
    assert alone.places.told == [] and told.places.heads == alone.places.heads == 4
    finders = [torch.tensor([0, 2]), torch.tensor([3])]
    with_pilots, plain = told.masks([finders] * 4), alone.masks([finders] * 4)
    torch.testing.assert_close(with_pilots, plain, rtol=1e-4, atol=1e-4)
    whole = told.heads[0].mask_logits
    torch.testing.assert_close(with_pilots[-1], torch.stack([whole[0, 0], whole[0, 2], whole[1, 3]]))


def test_pilots_start_within_their_objects() -> None:
    made, maps = decoder(jitter=0.9), pixels()
    wanted = [boxes((8, 16, 8, 24), (40, 4, 12, 12)), boxes((0, 60, 20, 20))]
    heat = made.heat(maps.mask_features)
    for seed in range(20):
        torch.manual_seed(seed)
        place, real = made._pilots(heat, [extent(masks) for masks in wanted])
        assert real.tolist() == [[True, True], [True, False]]
        for b, masks in enumerate(wanted):
            for (x, y), mask in zip(place[b].tolist(), masks, strict=False):
                cell = mask[int(y * 16) * 4 : int(y * 16) * 4 + 4, int(x * 24) * 4 : int(x * 24) * 4 + 4]
                assert cell.any()  # the cell that it starts in shows its object


def test_more_objects_than_pilots_are_drawn_from() -> None:
    made = decoder(pilots=2)
    crowd = Target(torch.zeros(5, dtype=torch.long), boxes(*[(10 * i, 10 * i, 8, 8) for i in range(5)]))
    torch.manual_seed(0)
    drawn = {tuple(sorted(made(pixels(1), [crowd]).places.told[0].tolist())) for _ in range(20)}
    assert len(drawn) > 3 and all(len(set(pair)) == 2 for pair in drawn)


def test_an_image_without_objects_and_none_at_all() -> None:
    made, nothing = decoder(), Target(torch.zeros(0, dtype=torch.long), boxes())
    for wanted in ([targets()[0], nothing], [nothing, nothing]):
        made.zero_grad()
        decoded = made(pixels(), wanted)
        queries = decoded.heads[-1].queries
        losses = criterion()(decoded, lambda heads: heads[0].queries[None, ..., :4], wanted)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert queries.shape[0] == 2
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


def test_who_sees_whom() -> None:
    apart = keep_apart(2, torch.tensor([[True, False]]))[0]
    finder, pilot, empty = apart[0], apart[2], apart[3]
    assert finder.tolist() == [False, False, True, True]
    assert pilot.tolist() == [True, True, False, True]
    assert not empty[3]  # itself, for a softmax needs something


def test_of_two_masks_alike_the_better_stays() -> None:
    logits = boxes((0, 0, 8, 8), (0, 0, 8, 7), (20, 20, 4, 4)).float() - 0.5
    assert distinct(torch.tensor([0.2, 0.9, 0.1]), logits, 0.5).tolist() == [False, True, True]
    assert distinct(torch.tensor([0.2, 0.9, 0.1]), logits, 0.9).tolist() == [True, True, True]
    empty = torch.full((2, 4, 4), -1.0)
    assert distinct(torch.tensor([0.2, 0.1]), empty, 0.5).tolist() == [True, True]


def test_without_a_prior_masks_are_inner_products() -> None:
    made, maps = decoder(prior=False), pixels()
    (head,) = made(maps).heads
    expected = torch.einsum("bqd,bdhw->bqhw", made.mask_embed(head.queries), maps.mask_features)
    torch.testing.assert_close(head.mask_logits, expected)
    assert not any(name.startswith("shape") for name, _ in made.named_parameters())


def test_quality_sends_no_gradient_into_masks() -> None:
    made, maps = decoder(pilots=0), pixels()
    made(maps, targets()).places.quality.sum().backward()
    learned = {name.partition(".")[0] for name, p in made.named_parameters() if p.grad is not None}
    assert learned == {"quality"}


def test_half_precision_keeps_the_form_exact() -> None:
    made, at = decoder(), torch.tensor([[[0.9, 0.9], [0.1, 0.5]]])
    queries, nothing = torch.randn(1, 2, 16), torch.zeros(1, 16, 256, 256)
    exact = made._masks(queries, at, nothing, (256, 256))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made._masks(queries, at, nothing, (256, 256))
    torch.testing.assert_close(half, exact)


def perfect(wanted: list[Target], classes: int = 3) -> tuple[Decoded, torch.Tensor]:
    """A decoder's output that is right: one finder an object, then one that shows nothing; with class logits."""
    made = decoder(pilots=0, train_queries=4)
    decoded = made(pixels(len(wanted)), wanted)
    masks = torch.full_like(decoded.heads[-1].mask_logits, -20.0)
    logits = torch.full((*masks.shape[:2], classes + 1), -20.0)
    logits[..., -1] = 20.0
    for b, target in enumerate(wanted):
        small = F.adaptive_avg_pool2d(target.masks.float(), masks.shape[-2:])
        masks[b, : len(small)] = torch.where(small > 0.5, 20.0, -20.0)
        logits[b, torch.arange(len(small)), -1] = -20.0
        logits[b, torch.arange(len(small)), target.classes] = 20.0
    head = Head(decoded.heads[-1].queries, masks)

    def again(chosen: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [torch.cat([own[n] for own, n in zip(masks, queries, strict=True)]) for queries in chosen]

    return Decoded([head], places=decoded.places._replace(heads=1), masks=again), logits


def test_right_masks_and_classes_cost_little_and_wrong_ones_much() -> None:
    torch.manual_seed(0)
    wanted = targets()
    decoded, logits = perfect(wanted)
    right = criterion()(decoded, lambda _: logits[None], wanted)
    wrong = criterion()(decoded, lambda _: logits.roll(1, -1)[None], wanted)
    assert right["loss_ce"] < 1e-3 < 1 < wrong["loss_ce"]
    assert right["loss_mask"] + right["loss_dice"] < 1.5
    assert set(right) == {"loss_ce", "loss_heat", "loss_quality", "loss_mask", "loss_dice"}


def test_one_matching_serves_all_heads_and_the_last_is_classified() -> None:
    made, wanted = decoder(), targets()
    decoded = made(pixels(), wanted)
    asked: list[Head] = []

    def classify(heads: Iterable[Head]) -> torch.Tensor:
        asked.extend(heads)
        return asked[-1].queries[None, ..., :4]

    losses = criterion()(decoded, classify, wanted)
    assert [head.queries.shape[1] for head in asked] == [4, 2]  # finders, and pilots, which finders are not to see
    assert torch.equal(torch.cat([head.queries for head in asked], dim=1), decoded.heads[-1].queries)
    assert {name for name in losses if "mask" in name} == {"loss_mask", "loss_mask_0", "loss_mask_1", "loss_mask_2"}


def test_what_starts_where_nothing_is_background_has_no_class() -> None:
    wanted = targets()
    decoded, logits = perfect(wanted)
    logits[:, -1] = torch.tensor([20.0, -20, -20, -20])  # the query that shows nothing says: an object
    before = criterion()(decoded, lambda _: logits[None], wanted)["loss_ce"]
    everywhere = [target._replace(ignore=torch.ones(64, 96, dtype=torch.bool)) for target in wanted]
    after = criterion()(decoded, lambda _: logits[None], everywhere)["loss_ce"]
    assert before > 1 and after < 1e-3


def test_heat_is_not_punished_where_nothing_is_background() -> None:
    wanted = targets()
    places = decoder()(pixels(), wanted).places
    heat = torch.full((2, 3, 16, 24), -4.0)
    heat[1, 0, 14, 2] = 5.0  # an alarm where no object is
    ignore = torch.zeros(64, 96, dtype=torch.bool)
    ignore[56:60, 8:12] = True
    costly = heat_loss(places._replace(heat=heat), wanted)
    free = heat_loss(places._replace(heat=heat), [wanted[0], wanted[1]._replace(ignore=ignore)])
    assert costly - free > 4


def test_heat_is_least_at_centres_of_objects_of_its_size() -> None:
    wanted = targets()
    places = decoder()(pixels(), wanted).places
    assert [sizes.tolist() for sizes in places.sizes] == [[2, 1], [1]]  # longer sides of 24, 12 and 20 pixels
    right = torch.full((2, 3, 16, 24), -8.0)
    right[0, 2, 3, 7] = right[0, 1, 11, 2] = right[1, 1, 2, 17] = 8.0
    assert heat_loss(places._replace(heat=right), wanted) < 0.2
    for wrong in (right.roll(6, -1), right.roll(1, 1)):  # another place, another size
        assert heat_loss(places._replace(heat=wrong), wanted) > 10


def test_each_size_has_its_share_of_places() -> None:
    """However strong the others are."""
    made, heat = decoder(), torch.full((1, 3, 16, 24), -9.0)
    heat[0, 0] = torch.rand(16, 24) + 5
    heat[0, 2, 3, 5] = -8.0
    at, size = made._places(heat, 8)
    assert size[0].tolist() == [0] * 4 + [1] * 2 + [2] * 2
    assert at[0, 6].tolist() == pytest.approx([5.5 / 24, 3.5 / 16])


WRONG_SHARES = [([16], [1]), ([48, 16], [1, 1, 1]), ([16, 16], [1, 1, 1]), ([-1], [1, 1]), ([], [0]), ([16], [2, -1])]


@pytest.mark.parametrize(("sizes", "shares"), WRONG_SHARES)
def test_sizes_and_shares_that_do_not_fit_are_refused(sizes: list[float], shares: list[float]) -> None:
    with pytest.raises(ConfigError, match="rising limits"):
        decoder(sizes=sizes, shares=shares)


@pytest.mark.parametrize(
    "wrong", [{"train_queries": 0}, {"pilots": -1}, {"jitter": -0.5}, {"overlap": 1.5}, {"overlap": -0.1}]
)
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
        decoder(**wrong)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 101])
def test_as_many_places_as_asked_for(count: int) -> None:
    for shares in ([2, 1, 1], [1, 1, 1]):
        at, size = decoder(shares=shares)._places(torch.rand(2, 3, 16, 24), count)
        assert at.shape == (2, count, 2) and size.shape == (2, count)


def test_quality_is_the_best_iou() -> None:
    wanted = targets()
    masks = torch.full((2, 2, 16, 24), -1.0)
    masks[0, 0, 2:4, 4:10] = 1.0  # the first object
    masks[0, 1, 2:4, 4:7] = 1.0  # half of it
    masks[1, 0, 0:5, 15:20] = 1.0  # the only one
    true = torch.tensor([[1.0, 0.5], [1.0, 0.0]])
    none = torch.zeros(2, 2, dtype=torch.bool)
    best = quality_loss(torch.logit(true, eps=1e-4), masks, wanted, none)
    for change in (-1.0, 1.0):
        assert quality_loss(torch.logit(true, eps=1e-4) + change, masks, wanted, none) > best
    lone = quality_loss(
        torch.tensor([[9.0, 0.0], [9.0, 9.0]]), masks, wanted, torch.tensor([[False, False], [False, True]])
    )
    assert lone < quality_loss(torch.tensor([[9.0, 0.0], [9.0, 9.0]]), masks, wanted, none)
