"""RAI: dilation, its two phases, and that each query stands alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from score.model.context.rai import RegionAwareIntegration, dilate
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
    return module(embed, Head(embed, masks), Scene(torch.zeros(len(patches), 16), patches))


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
