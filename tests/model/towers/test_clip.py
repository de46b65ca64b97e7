"""What every open_clip tower shares: text in batches, its scale, its pixels, its identity."""

from __future__ import annotations

import open_clip
import pytest
import torch

from tests.tiny_towers import WIDTH, tiny_tower


@torch.no_grad()
def test_prompts_are_the_model_s_own_text_in_any_number() -> None:
    tower = tiny_tower("vit")
    prompts = [f"aerial view of a ship number {k}." for k in range(5)]
    expected = tower.clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(prompts))
    for batch in (1, 2, 256):
        torch.testing.assert_close(tower.encode_text(prompts, batch), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (5, WIDTH)


@pytest.mark.parametrize(("log_scale", "scale"), [(1.0, 2.7182818), (9.0, 100.0)])
def test_the_scale_is_bounded(log_scale: float, scale: float) -> None:
    tower = tiny_tower("vit")
    tower.clip.logit_scale.fill_(log_scale)
    assert float(tower.logit_scale) == pytest.approx(scale)


def test_pixels_are_clip_s_in_bytes() -> None:
    tower = tiny_tower("vit")
    assert list(tower.pixel_mean) == pytest.approx([122.7709383, 116.7460125, 104.09373615])
    assert list(tower.pixel_std) == pytest.approx([68.5005327, 66.6321579, 70.32316305])


def test_identity_is_the_weights() -> None:
    first, again, other = (tiny_tower("vit") for _ in range(3))
    other.visual.conv1.weight.view(-1)[0] += 1
    assert first.identity == again.identity != other.identity
    assert first.identity != tiny_tower("resnet").identity
