"""The pixel decoder step by step, and how its weights start."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from score.model.pixel_decoder import PixelDecoder
from score.model.position import cell_centres, sine_positions

CHANNELS = {"res2": 3, "res3": 4, "res4": 5, "res5": 6}
DIM, GROUPS = 16, 4
SIZES = {"res2": (16, 24), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3)}


@pytest.fixture
def decoder() -> PixelDecoder:
    torch.manual_seed(0)
    return PixelDecoder(channels=CHANNELS, dim=DIM, layers=1, heads=2, points=2, feedforward=24, groups=GROUPS)


def pyramid() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(2, CHANNELS[name], *SIZES[name], generator=generator) for name in SIZES}


@torch.no_grad()
def test_equals_its_definition(decoder: PixelDecoder) -> None:
    for parameter in decoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms away from where they start
    maps, layer = pyramid(), decoder.layers[0]
    got = decoder(maps)

    sizes = [SIZES[name] for name in ("res5", "res4", "res3")]
    rows, places, centres = [], [], []
    for index, name in enumerate(("res5", "res4", "res3")):
        convolution, norm = decoder.input_proj[name]
        projected = torch.einsum("oi,bihw->bohw", convolution.weight[:, :, 0, 0], maps[name])
        projected = F.group_norm(projected + convolution.bias[:, None, None], GROUPS, norm.weight, norm.bias)
        rows.append(projected.flatten(2).transpose(1, 2))
        places.append(sine_positions(*SIZES[name], DIM) + decoder.level_embed[index])
        centres.append(cell_centres(*SIZES[name]))
    x = torch.cat(rows, dim=1)
    attended = layer.self_attn(x + torch.cat(places), torch.cat(centres), x, sizes)  # positions in queries only
    x = F.layer_norm(x + attended, (DIM,), layer.norm1.weight, layer.norm1.bias)
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
    x = x + hidden @ layer.linear2.weight.T + layer.linear2.bias
    x = F.layer_norm(x, (DIM,), layer.norm2.weight, layer.norm2.bias)
    start = 0
    for (height, width), level in zip(sizes, got.multiscale, strict=True):
        cells = x[:, start : start + height * width]
        torch.testing.assert_close(level, cells.transpose(1, 2).reshape(2, DIM, height, width), rtol=1e-4, atol=1e-5)
        start += height * width

    lateral = F.group_norm(
        F.conv2d(maps["res2"], decoder.lateral[0].weight), GROUPS, decoder.lateral[1].weight, decoder.lateral[1].bias
    )
    finest = F.interpolate(got.multiscale[2], scale_factor=2, mode="bilinear", align_corners=False)
    fine = F.conv2d(lateral + finest, decoder.output[0].weight, padding=1)
    fine = F.group_norm(fine, GROUPS, decoder.output[1].weight, decoder.output[1].bias).clamp(min=0)
    expected = F.conv2d(fine, decoder.mask_features.weight, decoder.mask_features.bias)
    torch.testing.assert_close(got.mask_features, expected, rtol=1e-4, atol=1e-5)


def test_norms_replace_the_biases_of_what_they_follow(decoder: PixelDecoder) -> None:
    assert decoder.lateral[0].bias is None and decoder.output[0].bias is None
    assert all(decoder.input_proj[name][0].bias is not None for name in ("res3", "res4", "res5"))


def test_weights_start_as_published(decoder: PixelDecoder) -> None:
    def reaches(weight: torch.Tensor, bound: float) -> None:
        assert 0.8 * bound < float(weight.detach().abs().max()) <= bound

    for name in ("res3", "res4", "res5"):
        convolution = decoder.input_proj[name][0]
        reaches(convolution.weight, (6 / (CHANNELS[name] + DIM)) ** 0.5)  # Xavier's
        assert not convolution.bias.any()
    for linear in (decoder.layers[0].linear1, decoder.layers[0].linear2):
        reaches(linear.weight, (6 / (DIM + 24)) ** 0.5)
    for convolution in (decoder.lateral[0], decoder.output[0], decoder.mask_features):
        reaches(convolution.weight, (3 / convolution.weight[0].numel()) ** 0.5)  # Kaiming's with a = 1, as c2_xavier
    assert not decoder.mask_features.bias.any()
    assert 0.7 < float(decoder.level_embed.std()) < 1.3


def test_stays_in_full_precision_under_autocast(decoder: PixelDecoder) -> None:
    maps = pyramid()
    expected = decoder(maps).mask_features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decoder(maps)
    assert got.mask_features.dtype == got.multiscale[0].dtype == torch.float32
    torch.testing.assert_close(got.mask_features, expected)


def test_maps_of_one_image_stay_in_channels_last_memory(decoder: PixelDecoder) -> None:
    """PyTorch asks strides, even of a batch of one: by others it would resize them in seven times the time."""
    maps = decoder({name: level[:1] for name, level in pyramid().items()})
    for level in (maps.mask_features, *maps.multiscale):
        larger = F.interpolate(level, scale_factor=2, mode="bilinear")
        assert larger.is_contiguous(memory_format=torch.channels_last)
        assert not larger.is_contiguous()
