"""RAI: dilation, its two phases, and that each query stands alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from score.model.context.rai import Alone, Dropout, RegionAwareIntegration, dilate
from score.model.mask_decoder import Head
from score.model.towers.base import Scene


def rai(**changes: object) -> RegionAwareIntegration:
    torch.manual_seed(0)
    settings = {
        "embed_dim": 16,
        "kernels": (3, 5, 9),
        "layers": 2,
        "heads": 4,
        "feedforward": 32,
        "dropout": 0.0,
        "weight": 0.1,
        "tau": 2.0,
        "gumbel_calls": 3,
        "sharpness": 10.0,
        "centre": 0.5,
    }
    return RegionAwareIntegration(**(settings | changes))


def refined(
    module: RegionAwareIntegration, embed: torch.Tensor, masks: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    view = module.view(Head(embed, masks), Scene(torch.zeros(len(patches), 16), patches))
    return module(embed[None], [view])[0]


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, 6, 16, generator=generator),
        torch.randn(2, 6, 12, 20, generator=generator),
        torch.randn(2, 16, 3, 5, generator=generator),
    )


@pytest.mark.parametrize("size", [1, 3, 5, 7, 13])
def test_dilation_is_max_pooling(size: int) -> None:
    maps = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(dilate(maps, size), F.max_pool2d(maps, size, 1, size // 2), rtol=0, atol=0)


def test_dilation_sends_its_gradient_to_the_maximum() -> None:
    maps = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((dilate(maps, 5) * weights).sum(), maps)
    (theirs,) = torch.autograd.grad((F.max_pool2d(maps, 5, 1, 2) * weights).sum(), maps)
    torch.testing.assert_close(ours, theirs)


def test_sizes_learn_while_mixed_and_never_after() -> None:
    module = rai()
    embed, masks, patches = inputs()
    masks.requires_grad_()
    module.train()
    refined(module, embed, masks, patches).square().sum().backward()
    assert module.kernel_logits.grad is not None
    assert masks.grad is not None and masks.grad.abs().sum() > 0
    module.calls.fill_(3)
    module.zero_grad(set_to_none=True)
    masks.grad = None
    refined(module, embed, masks, patches).square().sum().backward()
    assert module.kernel_logits.grad is None
    assert masks.grad is None
    assert int(module.calls) == 3  # counted only while it matters


def test_evaluation_uses_the_largest_logit_whatever_was_counted() -> None:
    module = rai().eval()
    with torch.no_grad():
        module.kernel_logits.copy_(torch.tensor([0.0, 0.3, 0.1]))
    assert module.kernel == 5
    embed, masks, patches = inputs()
    first = refined(module, embed, masks, patches)
    module.calls.fill_(99)
    torch.testing.assert_close(refined(module, embed, masks, patches), first, rtol=0, atol=0)
    assert int(module.calls) == 99


def test_the_count_is_saved() -> None:
    module = rai()
    module.train()
    refined(module, *inputs())
    assert int(module.state_dict()["calls"]) == 1


def test_queries_do_not_see_each_other() -> None:
    module = rai().eval()
    embed, masks, patches = inputs()
    together = refined(module, embed, masks, patches)
    alone = refined(module, embed[:, :1], masks[:, :1], patches)
    torch.testing.assert_close(together[:, :1], alone)


def test_an_empty_mask_adds_nothing() -> None:
    module = rai().eval()
    embed, masks, patches = inputs()
    nothing = refined(module, embed, torch.full_like(masks, -1.0), patches)
    torch.testing.assert_close(nothing, refined(module, embed, torch.full_like(masks, -1.0), 100 * patches))
    assert nothing.isfinite().all()


def test_the_soft_mask_is_a_sigmoid_around_the_centre() -> None:
    """While sizes are mixed: pooled with ``sigmoid(10 (m - 0.5))`` of the dilated logits on the patch grid."""
    module = rai(kernels=(3,)).train()  # of one size, the mixture is that size
    module.transformer = torch.nn.Identity()
    embed, masks, patches = inputs()
    grid = F.interpolate(F.max_pool2d(masks, 3, 1, 1), (3, 5), mode="bilinear", align_corners=False)
    soft = torch.sigmoid(10 * (grid - 0.5))
    pooled = torch.einsum("bqhw,behw->bqe", soft, patches) / soft.sum(dim=(2, 3))[..., None]
    torch.testing.assert_close(refined(module, embed, masks, patches), embed + 0.1 * pooled)


def test_afterwards_the_mask_is_hard() -> None:
    module = rai(kernels=(5,)).eval()
    module.transformer = torch.nn.Identity()
    embed, masks, patches = inputs()
    masks = masks - 2  # some cells outside
    hard = F.interpolate(F.max_pool2d(masks, 5, 1, 2), (3, 5), mode="bilinear", align_corners=False) > 0
    assert 0 < int(hard.sum()) < hard.numel()
    pooled = torch.einsum("bqhw,behw->bqe", hard.float(), patches) / hard.sum(dim=(2, 3))[..., None].clamp(min=1)
    torch.testing.assert_close(refined(module, embed, masks, patches), embed + 0.1 * pooled)


def test_the_mixture_weighs_every_size() -> None:
    module, masks = rai(tau=0.7), inputs()[1]
    torch.manual_seed(3)
    shares = F.gumbel_softmax(module.kernel_logits, tau=0.7)
    torch.manual_seed(3)
    expected = sum(share * F.max_pool2d(masks, k, 1, k // 2) for share, k in zip(shares, (3, 5, 9), strict=True))
    torch.manual_seed(3)
    rows, columns = torch.arange(12), torch.arange(20)
    torch.testing.assert_close(module._mix(masks, rows, columns), expected)


def test_the_mixture_sends_its_gradient_to_the_maxima() -> None:
    module, masks = rai(), inputs()[1].requires_grad_()
    rows, columns = torch.tensor([0, 4, 11]), torch.tensor([1, 2, 19])
    weights = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    shares = F.gumbel_softmax(module.kernel_logits, tau=2.0)
    wide = sum(share * F.max_pool2d(masks, k, 1, k // 2) for share, k in zip(shares, (3, 5, 9), strict=True))
    theirs = torch.autograd.grad((wide[:, :, rows][..., columns] * weights).sum(), [masks, module.kernel_logits])
    torch.manual_seed(3)
    ours = torch.autograd.grad((module._mix(masks, rows, columns) * weights).sum(), [masks, module.kernel_logits])
    torch.testing.assert_close(ours, theirs)


def test_a_sequence_of_one_needs_no_queries_and_keys() -> None:
    """With the same dropout of whole heads as the attention of the library has."""
    ours, theirs = Alone(16, 4, 32, 0.0), torch.nn.TransformerEncoderLayer(16, 4, 32, 0.0)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 1, 16)
    torch.testing.assert_close(ours(x), theirs(x.transpose(0, 1)).transpose(0, 1))
    ours.self_attn.dropout = theirs.self_attn.dropout = 0.5
    means = [
        torch.stack([layer(y) for _ in range(4000)]).mean(0) for layer, y in ((ours, x), (theirs, x.transpose(0, 1)))
    ]
    torch.testing.assert_close(means[0], means[1].transpose(0, 1), rtol=0, atol=0.05)


def test_sizes_are_mixed_as_often_as_said() -> None:
    module = rai(gumbel_calls=2).train()
    mixed = [module._regions(inputs()[1], (3, 5)).is_floating_point() for _ in range(4)]
    assert mixed == [True, True, False, False]
    assert int(module.calls) == 2


def test_starts_within_half_of_zero_and_at_the_given_weight() -> None:
    torch.manual_seed(0)
    logits = rai(kernels=range(1, 200, 2)).kernel_logits.detach()
    assert -0.5 <= float(logits.min()) < -0.4 and 0.4 < float(logits.max()) <= 0.5
    module = rai(weight=0.3)
    assert module.weight.tolist() == pytest.approx([0.3])
    first, second = module.transformer.layers
    for weight, fan in ((first.linear1.weight, 16 + 32), (second.self_attn.in_proj_weight, 64)):
        assert 0.9 * (6 / fan) ** 0.5 < float(weight.detach().abs().max()) <= (6 / fan) ** 0.5


@torch.no_grad()
def test_each_layer_is_post_norm_and_of_one_token() -> None:
    """Attention over one token is its value path."""
    module = rai().eval()
    layer = module.transformer.layers[0]
    for parameter in layer.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(7, 16)
    value = x @ layer.self_attn.in_proj_weight[32:].T + layer.self_attn.in_proj_bias[32:]
    y = F.layer_norm(x + layer.self_attn.out_proj(value), (16,), layer.norm1.weight, layer.norm1.bias)
    y = y + layer.linear2(layer.linear1(y).clamp(min=0))
    y = F.layer_norm(y, (16,), layer.norm2.weight, layer.norm2.bias)
    torch.testing.assert_close(layer(x[:, None])[:, 0], y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rectify", [False, True])
def test_dropout_multiplies_what_it_leaves_and_its_gradient(rectify: bool) -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25).train()
    x = torch.randn(64, 3, 31).requires_grad_()
    left = dropout(x, rectify=rectify)
    kept = (left != 0).float()  # nothing drawn is 0
    expected = (x.clamp(min=0) if rectify else x) * kept / 0.75
    torch.testing.assert_close(left, expected)
    share = kept.mean() / (0.5 if rectify else 1)
    assert share == pytest.approx(0.75, abs=0.03)
    goal = torch.randn_like(x)
    [found], [wanted] = torch.autograd.grad(left, x, goal), torch.autograd.grad(expected, x, goal)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(dropout.eval()(x, rectify=rectify), x.clamp(min=0) if rectify else x)
