"""Instances: which are chosen, how they score, and that neither chunks nor run lengths change them."""

from __future__ import annotations

import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from score.masks import decode, encode, paste
from score.model.postprocess import (
    InstanceSelection,
    best_pairs,
    binarise,
    encode_whole,
    encode_windows,
    semantic_map,
    tight_boxes,
    upsample,
)

SIZES = ((32, 32), (24, 30), (48, 60))  # padded, image, output


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=generator).log_softmax(-1), torch.randn(7, 8, 8, generator=generator)


def test_scores_are_class_times_mask_probability(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    chances, masks = scene
    found = InstanceSelection(top_k=5, memory_mb=0.07)(chances, masks, *SIZES)
    full = upsample(masks, *SIZES)
    best = chances.softmax(-1)[:, :-1].flatten().topk(5)
    assert found.query.tolist() == (best.indices // 3).tolist()
    assert found.pred_classes.tolist() == (best.indices % 3).tolist()
    for k in range(5):
        inside = full[found.query[k]] > 0
        quality = full[found.query[k]].sigmoid()[inside].mean()
        torch.testing.assert_close(found.scores[k], best.values[k] * quality, rtol=1e-4, atol=1e-6)
        assert torch.equal(found.pred_masks[k], inside)


def test_run_lengths_are_the_same_masks(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    bits = InstanceSelection(top_k=9, memory_mb=64)(*scene, *SIZES)
    rle = InstanceSelection(top_k=9, memory_mb=0.05)(*scene, *SIZES, masks="rle")
    torch.testing.assert_close(bits.scores, rle.scores)
    assert not rle.has("pred_masks")
    for mask, code in zip(bits.pred_masks, rle.pred_rles, strict=True):
        assert torch.equal(torch.from_numpy(coco_mask.decode(code)).bool(), mask)


def test_asking_for_more_than_there_is(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert len(InstanceSelection(top_k=300, memory_mb=1)(*scene, *SIZES)) == 7 * 3


def test_boxes_are_the_extent_of_the_mask() -> None:
    masks = torch.zeros(2, 6, 9, dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    assert tight_boxes(masks).tolist() == [[3, 2, 8, 4], [0, 0, 0, 0]]


def test_a_mask_keeps_its_place_when_the_image_was_padded() -> None:
    logits = torch.full((1, 8, 8), -9.0)
    logits[0, 2:4, 4:6] = 9.0  # rows 8..16, columns 16..24 of the padded input
    inside = upsample(logits, (32, 32), (24, 32), (48, 64))[0] > 0
    rows, columns = inside.nonzero().unbind(1)
    assert abs(int(rows.min()) - 16) <= 1 and abs(int(rows.max()) - 31) <= 1
    assert abs(int(columns.min()) - 32) <= 1 and abs(int(columns.max()) - 47) <= 1


def test_semantic_map_sums_over_queries(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    chances, masks = scene
    expected = torch.einsum("qc,qhw->chw", chances.softmax(-1)[:, :-1], upsample(masks, *SIZES).sigmoid())
    torch.testing.assert_close(semantic_map(chances, masks, *SIZES, chunk=2), expected, rtol=1e-4, atol=1e-5)


def test_memory_is_bounded_by_bytes_whatever_the_size() -> None:
    """Of 20 megapixels one mask is made at a time: 32 took 11 GB."""
    selection = InstanceSelection(top_k=300, memory_mb=64)
    assert selection.chunk((4000, 5000)) == 1
    for size in ((512, 800), (96, 160), (2000, 2000)):
        assert (
            selection.chunk(size) * size[0] * size[1] * 8
            <= 64 * 2**20
            < (selection.chunk(size) + 1) * size[0] * size[1] * 8
        )


@pytest.mark.parametrize("sizes", [((32, 64), (24, 60), (48, 90)), ((32, 64), (24, 60), (24, 60))])
def test_upsampling_is_to_the_padded_input_then_a_crop_then_to_the_output(
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> None:
    (padded, (height, width), output) = sizes
    masks = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    maps = F.interpolate(masks[None], padded, mode="bilinear", align_corners=False)[..., :height, :width]
    expected = F.interpolate(maps, output, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample(masks, *sizes), expected)


def test_pairs_are_the_best_of_all_and_name_query_and_class() -> None:
    chances = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.2, 0.5], [0.05, 0.05, 0.9]]).log()  # void last
    scores, query, label = best_pairs(chances, 3)
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.3, 0.2]))
    assert list(zip(query.tolist(), label.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 1)]


def test_quality_is_the_mean_probability_inside() -> None:
    logits = torch.tensor([[[0.0, 0.2], [1.0, -3.0]], [[-1.0, -1.0], [-1.0, -1.0]]])  # exactly zero is outside
    inside, quality = binarise(logits, (2, 2), (2, 2), (2, 2))
    assert inside.tolist() == [[[False, True], [True, False]], [[False, False], [False, False]]]
    mean = (torch.tensor(0.2).sigmoid() + torch.tensor(1.0).sigmoid()) / 2
    torch.testing.assert_close(quality, torch.stack([mean, torch.tensor(0.0)]))


def test_boxes_reach_the_edges() -> None:
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 3, 5] = True
    masks[2, 1, 2] = masks[2, 2, 4] = True
    assert tight_boxes(masks).tolist() == [[0, 0, 1, 1], [5, 3, 6, 4], [2, 1, 5, 3]]


@pytest.mark.parametrize(
    ("padded", "image", "output"),
    [((64, 96), (64, 96), (64, 96)), ((64, 96), (60, 70), (60, 70)), ((64, 96), (50, 96), (133, 211)),
     ((64, 96), (64, 80), (31, 17))],
)  # fmt: skip
def test_windows_hold_the_masks_of_the_whole(
    padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]
) -> None:
    logits = torch.randn(40, 16, 24, generator=torch.Generator().manual_seed(0)) - torch.arange(40).view(-1, 1, 1) / 10
    logits[0], logits[1] = -1.0, 1.0  # nowhere, everywhere
    logits[2:4], logits[2, -1], logits[3, :, -1] = -1.0, 1.0, 1.0  # at the edges that are padding, if any is
    inside, confidence = binarise(logits, padded, image, output)
    rles, found = encode_windows(logits, padded, image, output)
    whole, again = encode_whole(logits, padded, image, output)
    assert torch.equal(found, again)
    assert whole == encode(inside)
    assert torch.allclose(found, confidence, atol=1e-5)
    for rle, mask in zip(rles, inside, strict=True):
        assert (decode(paste(rle, *output)) == mask.numpy()).all()
    assert max(rle["size"][0] for rle in rles) == output[0] and rles[0]["size"] == [0, 0]
