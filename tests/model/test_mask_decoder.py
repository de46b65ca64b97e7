"""The decoder: what a head at inference shares with training, and what a query may look at."""

from __future__ import annotations

import pytest
import torch

from score.model.mask_decoder import ClassEmbedding, MaskDecoder, blocked_by
from score.model.pixel_decoder import Pixels
from score.model.position import cell_centres, sine_positions
from score.model.towers.base import resize


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
    all_heads = decoder(Pixels(features, multiscale), targets=[]).heads
    (last,) = decoder(Pixels(features, multiscale)).heads
    assert len(all_heads) == 4
    torch.testing.assert_close(all_heads[-1].mask_logits, last.mask_logits)
    torch.testing.assert_close(all_heads[-1].queries, last.queries)
    assert last.mask_logits.shape == (2, 5, 16, 18)


def test_a_query_blocked_everywhere_may_look_everywhere() -> None:
    outside = torch.tensor([[[True, True], [True, False]]])
    assert blocked_by(outside).tolist() == [[[False, False], [True, False]]]


def test_images_of_a_batch_do_not_see_each_other(decoder: MaskDecoder) -> None:
    multiscale, features = maps()
    (both,) = decoder(Pixels(features, multiscale)).heads
    (first,) = decoder(Pixels(features[:1], [m[:1] for m in multiscale])).heads
    torch.testing.assert_close(both.mask_logits[:1], first.mask_logits, rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_mask_that_pools() -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(dim=8, embed_dim=4)
    queries, logits = torch.randn(1, 3, 8, requires_grad=True), torch.randn(1, 3, 4, 4, requires_grad=True)
    [out] = embedding(queries[None], [logits > 0], torch.randn(1, 8, 4, 4))
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


def attention(
    part: torch.nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocked: torch.Tensor,
) -> torch.Tensor:
    """Multi-head attention of one image, written out: ``query [Q, D]``, ``key`` and ``value`` ``[L, D]``."""
    heads, width = part.num_heads, query.shape[1] // part.num_heads
    weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    out = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        logits = (q[:, own] @ k[:, own].T / width**0.5).masked_fill(blocked, -torch.inf)
        out.append(logits.softmax(-1) @ v[:, own])
    return torch.cat(out, dim=1) @ part.out_proj.weight.T + part.out_proj.bias


@torch.no_grad()
def test_equals_its_definition() -> None:
    """Head after head: masks are inner products, and each layer looks inside the masks of the head before it."""
    torch.manual_seed(0)
    decoder = MaskDecoder(dim=8, queries=4, layers=4, heads=2, feedforward=12, levels=2)
    for parameter in decoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms away from where they start
    generator = torch.Generator().manual_seed(1)
    multiscale = [torch.randn(1, 8, 2 * s, 3 * s, generator=generator) for s in (1, 2)]
    features = torch.randn(1, 8, 8, 12, generator=generator)
    heads = decoder(Pixels(features, multiscale), targets=[]).heads

    x, places = decoder.query_feat.weight, decoder.query_pos.weight
    for index, head in enumerate(heads):
        queries = decoder.norm(x)
        masks = torch.einsum("qd,dhw->qhw", decoder.mask_embed(queries), features[0])
        torch.testing.assert_close(head.queries[0], queries, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head.mask_logits[0], masks, rtol=1e-4, atol=1e-4)
        if index == len(decoder.layers):
            break
        layer, level = decoder.layers[index], index % 2
        height, width = multiscale[level].shape[-2:]
        small = resize(masks[None], (height, width))[0].flatten(1)
        blocked = small.sigmoid() < 0.5
        blocked[blocked.all(dim=1)] = False
        source = multiscale[level][0].flatten(1).T + decoder.level_embed.weight[level]
        keys = source + sine_positions(height, width, 8)
        nowhere = torch.zeros(4, 4, dtype=torch.bool)
        x = layer.cross_norm(x + attention(layer.cross_attn, x + places, keys, source, blocked))
        x = layer.self_norm(x + attention(layer.self_attn, x + places, x + places, x, nowhere))
        x = layer.ffn_norm(x + layer.linear2(layer.linear1(x).clamp(min=0)))


def test_a_query_looks_where_its_mask_is_not_negative() -> None:
    """A logit of exactly zero is sigmoid 0.5: inside."""
    embed, features = torch.tensor([[[1.0]]]), torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    assert MaskDecoder._outside(embed, features).tolist() == [[[True, False, False]]]


@torch.no_grad()
def test_class_embedding_adds_the_mean_inside_the_mask() -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(dim=4, embed_dim=3)
    for parameter in embedding.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    queries, features = torch.randn(1, 1, 4), torch.randn(1, 4, 1, 3)
    [got] = embedding(queries[None], [torch.tensor([[[[False, True, True]]]])], features)
    x = queries + embedding.pooled_proj(features[0, :, 0, 1:].mean(dim=1))
    for linear in (embedding.mlp[0], embedding.mlp[2]):
        x = (x @ linear.weight.T + linear.bias).clamp(min=0)
    torch.testing.assert_close(got, x @ embedding.mlp[4].weight.T + embedding.mlp[4].bias)


def test_matrices_start_as_xavier_s(decoder: MaskDecoder) -> None:
    for weight, fan in ((decoder.layers[0].linear1.weight, 16 + 32), (decoder.layers[0].self_attn.in_proj_weight, 64)):
        assert 0.9 * (6 / fan) ** 0.5 < float(weight.detach().abs().max()) <= (6 / fan) ** 0.5
