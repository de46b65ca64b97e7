"""The decoder: what a head at inference shares with training, and what a query may look at."""

from __future__ import annotations

import pytest
import torch

from score.model.mask_decoder import ClassEmbedding, Head, MaskDecoder
from score.model.position import cell_centres, sine_positions


@pytest.fixture
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(dim=16, queries=5, layers=3, heads=2, feedforward=32).eval()


def maps() -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    multiscale = [torch.randn(2, 16, s, s + 1, generator=generator) for s in (2, 4, 8)]
    return multiscale, torch.randn(2, 16, 16, 18, generator=generator)


def test_last_head_is_the_same_with_and_without_the_others(decoder: MaskDecoder) -> None:
    multiscale, features = maps()
    all_heads = decoder(multiscale, features, every_head=True)
    (last,) = decoder(multiscale, features, every_head=False)
    assert len(all_heads) == 4
    torch.testing.assert_close(all_heads[-1].mask_logits, last.mask_logits)
    torch.testing.assert_close(all_heads[-1].queries, last.queries)
    assert last.mask_logits.shape == (2, 5, 16, 18)


def test_a_query_blocked_everywhere_may_look_everywhere(decoder: MaskDecoder) -> None:
    outside = torch.tensor([[[True, True], [True, False]]])
    blocked = decoder._blocked(outside)
    assert blocked.shape == (2, 2, 2)  # one copy a head
    assert blocked[0].tolist() == blocked[1].tolist() == [[False, False], [True, False]]


def test_images_of_a_batch_do_not_see_each_other(decoder: MaskDecoder) -> None:
    multiscale, features = maps()
    (both,) = decoder(multiscale, features, every_head=False)
    (first,) = decoder([m[:1] for m in multiscale], features[:1], every_head=False)
    torch.testing.assert_close(both.mask_logits[:1], first.mask_logits, rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_mask_that_pools() -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(dim=8, embed_dim=4)
    queries, logits = torch.randn(1, 3, 8, requires_grad=True), torch.randn(1, 3, 4, 4, requires_grad=True)
    out = embedding(Head(queries, logits), torch.randn(1, 8, 4, 4))
    out.sum().backward()
    assert out.shape == (1, 3, 4)
    assert logits.grad is None
    assert queries.grad is not None


def test_positions_code_y_then_x() -> None:
    codes = sine_positions(3, 4, 8).view(3, 4, 8)
    torch.testing.assert_close(codes[0, :, :4], codes[0, :1, :4].expand(4, 4))  # y does not change along a row
    torch.testing.assert_close(codes[:, 0, 4:], codes[:1, 0, 4:].expand(3, 4))  # x does not change along a column
    assert codes.flatten(0, 1).unique(dim=0).shape[0] == 12
    assert cell_centres(2, 2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
