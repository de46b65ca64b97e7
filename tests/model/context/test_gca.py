"""GCA, as published: one shift an image, the same for every class."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from score.model.context.gca import GlobalContextAdaptation
from score.model.towers.base import Scene


def test_every_class_of_an_image_moves_alike() -> None:
    torch.manual_seed(0)
    gca = GlobalContextAdaptation(embed_dim=16, heads=4)
    bank = F.normalize(torch.randn(5, 16), dim=-1)
    scene = F.normalize(torch.randn(3, 16), dim=-1)
    adapted = gca(bank, Scene(scene, torch.zeros(3, 16, 2, 2)))
    shift = adapted - bank
    assert adapted.shape == (3, 5, 16)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
    assert (shift[0, 0] - shift[1, 0]).abs().max() > 1e-3  # but images differ


@torch.no_grad()
def test_the_shift_is_the_value_path_of_the_scene() -> None:
    torch.manual_seed(0)
    attention = (gca := GlobalContextAdaptation(embed_dim=16, heads=4)).attention
    for parameter in attention.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    bank, scene = torch.randn(5, 16), torch.randn(3, 16)
    value = scene @ attention.in_proj_weight[32:].T + attention.in_proj_bias[32:]
    shift = value @ attention.out_proj.weight.T + attention.out_proj.bias
    adapted = gca(bank, Scene(scene, torch.zeros(3, 16, 2, 2)))
    torch.testing.assert_close(adapted, bank + shift[:, None], rtol=1e-4, atol=1e-5)
