"""Deformable attention against its definition, written as loops."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from score.model import deformable_attention
from score.model.deformable_attention import MultiScaleDeformableAttention


def bilinear(maps: Tensor, x: float, y: float) -> Tensor:
    """The value of ``[d, h, w]`` at pixel coordinates whose integers are cell centres; zero outside."""
    x0, y0 = int(torch.tensor(x).floor()), int(torch.tensor(y).floor())
    total = torch.zeros(maps.shape[0], dtype=maps.dtype)
    for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < maps.shape[1] and 0 <= xx < maps.shape[2]:
                total += wy * wx * maps[:, yy, xx]
    return total


def test_equals_its_definition() -> None:
    torch.manual_seed(0)
    dim, heads, points, sizes = 8, 2, 2, [(2, 3), (4, 5)]
    attention = MultiScaleDeformableAttention(dim=dim, heads=heads, levels=2, points=points).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(attention.attention_weights.weight)
    cells = sum(h * w for h, w in sizes)
    query, value = torch.randn(1, 3, dim).double(), torch.randn(1, cells, dim).double()
    reference = torch.rand(3, 2).double()
    got = attention(query, reference, value, sizes)[0]

    projected = attention.value_proj(value)[0].view(cells, heads, dim // heads)
    offsets = attention.sampling_offsets(query)[0].view(3, heads, 2, points, 2)
    weights = attention.attention_weights(query)[0].view(3, heads, 2 * points).softmax(-1).view(3, heads, 2, points)
    for q in range(3):
        parts = []
        for head in range(heads):
            total, start = torch.zeros(dim // heads).double(), 0
            for level, (h, w) in enumerate(sizes):
                maps = projected[start : start + h * w, head].T.reshape(-1, h, w)
                start += h * w
                for point in range(points):
                    x = float(reference[q, 0]) * w + float(offsets[q, head, level, point, 0]) - 0.5
                    y = float(reference[q, 1]) * h + float(offsets[q, head, level, point, 1]) - 0.5
                    total += weights[q, head, level, point] * bilinear(maps, x, y)
            parts.append(total)
        torch.testing.assert_close(got[q], attention.output_proj(torch.cat(parts)))


def test_gradients_are_those_of_its_definition() -> None:
    torch.manual_seed(0)
    sizes = [(2, 3), (3, 2)]
    attention = MultiScaleDeformableAttention(dim=4, heads=2, levels=2, points=2).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight)  # some samples lie outside
    torch.nn.init.normal_(attention.attention_weights.weight)
    query, value = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 12, 4).double().requires_grad_()
    reference = torch.rand(3, 2).double()
    assert torch.autograd.gradcheck(lambda q, v: attention(q, reference, v, sizes), (query, value))


def operands() -> tuple[Tensor, tuple[Tensor, ...]]:
    """What attention returns before its last projection, and what a kernel would be given."""
    torch.manual_seed(0)
    sizes = [(2, 3), (3, 5), (4, 4)]
    attention = MultiScaleDeformableAttention(dim=16, heads=2, levels=3, points=4)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(attention.attention_weights.weight)
    attention.output_proj = torch.nn.Identity()
    taken = torch.randn(2, 5, 16), torch.rand(5, 2), torch.randn(2, sum(h * w for h, w in sizes), 16), sizes
    return attention(*taken), attention._operands(*taken)


def test_a_kernel_is_given_what_it_takes() -> None:
    """By the plain function of the transformers library, whose operands are those of all kernels."""
    expected, (value, shapes, starts, places, logits) = operands()
    weights = logits.softmax(-1).unflatten(-1, places.shape[3:5])
    found = multi_scale_deformable_attention(value, shapes.tolist(), places, weights)
    torch.testing.assert_close(found, expected)
    assert starts.tolist() == [0, 6, 21]


def test_the_kernels_library_takes_it() -> None:
    registry = pytest.importorskip("deformops.registry", reason="the library needs Python 3.12")
    expected, taken = operands()
    taken = tuple(part.to(os.environ.get("SCORE_TEST_DEVICE", "cpu")) for part in taken)  # it has code for CPUs, too
    torch.testing.assert_close(registry.msda(*taken, method="softmax").cpu(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_is_not_hidden() -> None:
    attention = MultiScaleDeformableAttention(dim=4, heads=2, levels=1, points=2)
    query = torch.full((1, 6, 4), torch.nan)
    assert attention(query, torch.rand(6, 2), torch.randn(1, 6, 4), [(2, 3)]).isnan().all()


def test_starts_looking_around_the_reference() -> None:
    attention = MultiScaleDeformableAttention(dim=16, heads=4, levels=3, points=2)
    offsets = attention.sampling_offsets(torch.randn(1, 16)).view(4, 3, 2, 2)
    torch.testing.assert_close(offsets[:, :, 1], 2 * offsets[:, :, 0])  # the second point is twice as far out
    assert offsets[:, 0, 0].abs().amax(dim=-1).tolist() == [1.0] * 4
    assert len({tuple(x) for x in offsets[:, 0, 0].round(decimals=3).tolist()}) == 4  # a direction a head


def test_rays_go_round_by_equal_angles() -> None:
    attention = MultiScaleDeformableAttention(dim=16, heads=8, levels=2, points=3)
    offsets = attention.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    square = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]  # (x, y), on a square
    for level in range(2):
        for point in range(3):
            expected = (point + 1) * torch.tensor(square, dtype=torch.float32)
            torch.testing.assert_close(offsets[:, level, point], expected, rtol=0, atol=1e-5)


def test_points_start_equally_weighted_and_offsets_do_not_depend_on_the_query() -> None:
    attention = MultiScaleDeformableAttention(dim=16, heads=4, levels=3, points=2)
    query = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    assert not attention.attention_weights(query).any()
    assert torch.equal(*attention.sampling_offsets(query))
    for projection in (attention.value_proj, attention.output_proj):
        assert not projection.bias.any()
        assert 0.9 * (6 / 32) ** 0.5 < float(projection.weight.detach().abs().max()) <= (6 / 32) ** 0.5


def test_gradients_on_cpus_are_those_that_pytorch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = [(2, 3), (5, 4)]
    attention = MultiScaleDeformableAttention(dim=8, heads=2, levels=2, points=3)
    torch.nn.init.normal_(attention.sampling_offsets.weight)  # some samples lie outside
    torch.nn.init.normal_(attention.attention_weights.weight)
    query, value, reference, goal = torch.randn(2, 6, 8), torch.randn(2, 26, 8), torch.rand(6, 2), torch.randn(2, 6, 8)

    def gradients() -> list[Tensor]:
        inputs = [query.clone().requires_grad_(), value.clone().requires_grad_(), *attention.parameters()]
        return list(torch.autograd.grad((attention(inputs[0], reference, inputs[1], sizes) * goal).sum(), inputs))

    written = gradients()
    plain = deformable_attention._summed, deformable_attention._samples
    monkeypatch.setattr(
        deformable_attention._Summed,
        "apply",
        lambda said, rows, at, table: plain[0](plain[1](said, at, table, len(rows)), rows),
    )
    torch.testing.assert_close(written, gradients())
