"""The interface of a frozen image-text encoder.

Shape shorthand, used in comments throughout ``score.model``:

    B images    Q queries    C classes    N prompts    E embedding width
    H, W padded input height and width    h, w a feature map's height and width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.errors import ConfigError


class Scene(NamedTuple):
    """What a tower says of a whole image.

    Attributes:
        embed: ``[B, E]`` one vector an image, L2-normalised.
        patches: ``[B, E, h, w]`` a coarse map in the same space, not normalised.
    """

    embed: Tensor
    patches: Tensor


class Tower(nn.Module):
    """A frozen image-text encoder, usable as backbone (pyramid, regions, text) and as scene encoder.

    A tower stays in evaluation mode and computes without gradient, whatever the model around it does.

    Attributes:
        embed_dim: ``E``, the width of the space that images and text share.
        channels: channels of ``res2 .. res5``, at strides 4, 8, 16, 32.
        pixel_mean, pixel_std: what ``(x - mean) / std`` expects, RGB in 0..255.
        identity: one line that names the weights (architecture, file, SHA-256); keys caches and model cards.
    """

    embed_dim: int
    channels: dict[str, int]
    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    identity: str

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Encode normalised images ``[B, 3, H, W]`` (H, W multiples of 32).

        Returns:
            ``res2 .. res5``, ``[B, channels, H/stride, W/stride]``, and ``dense``, the map that
            :meth:`embed_regions` pools; its stride is the tower's own.
        """
        raise NotImplementedError

    def embed_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed image regions in the space of the text.

        Args:
            dense: ``[B, channels, h, w]`` from :meth:`pyramid`.
            mask_logits: ``[B, Q, h, w]`` on the same grid; a pixel belongs to the region where it is > 0.

        Returns:
            ``[B, Q, E]``, not normalised. An empty region gives the embedding of a zero vector.
        """
        return self.embed_pooled(pool_regions(dense, mask_logits > 0))

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """The pooled-feature head: ``[B, Q, channels of dense]`` to ``[B, Q, E]``, not normalised."""
        raise NotImplementedError

    def encode_scene(self, images: Tensor) -> Scene:
        """Encode normalised images ``[B, 3, H, W]`` of any size as whole scenes."""
        raise NotImplementedError

    def scene_of(self, pyramid: dict[str, Tensor]) -> Scene:
        """The scene of images that :meth:`pyramid` has encoded, without encoding them again.

        Raises:
            ConfigError: this tower cannot.
        """
        raise ConfigError(f"{type(self).__name__} reads no scene from its own pyramid; choose another scene")

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts, ``[N, E]`` in fp32, not normalised."""
        raise NotImplementedError

    def unknown(self, words: Sequence[str]) -> list[str]:
        """Those of the words that the text half has no token for; encoders of bytes or letters have one for each."""
        return []

    @property
    def logit_scale(self) -> Tensor:
        """The tower's own factor between cosine similarity and logits, a scalar, at most 100."""
        raise NotImplementedError

    def drop_text(self) -> None:
        """Free what only :meth:`encode_text` needs."""

    def lower(self, dtype: torch.dtype) -> None:
        """Let the image half compute in 16 bits from now on; the text half, and what regions are compared by, stay."""

    def train(self, mode: bool = True) -> Tower:
        """Stay in evaluation mode: a frozen tower has no training behaviour."""
        return super().train(False)


def pool_regions(features: Tensor, weights: Tensor) -> Tensor:
    """Average features over regions.

    Args:
        features: ``[B, D, h, w]``.
        weights: ``[B, Q, h, w]`` bool, or soft weights >= 0.

    Returns:
        ``[B, Q, D]``; zeros for an empty region.
    """
    if weights.dtype == torch.bool:
        return Pooled.apply(features, weights)[0]
    return torch.einsum("bdhw,bqhw->bqd", features, _normalised(weights).to(features.dtype))


def _normalised(weights: Tensor) -> Tensor:
    """Weights that sum to 1 over each region, or to 0 over an empty one."""
    weights = weights.float()  # half precision has no 1e-8, and its areas end at 65,504
    return weights / (weights.sum(dim=(-2, -1), keepdim=True) + 1e-8)


class Pooled(torch.autograd.Function):
    """Averages over regions of bits, which keeps these for the gradient, and not the weights made of them.

    Of ``N`` sets of regions at once, for each would send back a gradient as large as the features.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, *inside: Tensor) -> Tensor:
        """Average ``[B, D, h, w]`` over bits ``[B, Q, h, w]``: ``[N, B, Q, D]``."""
        ctx.save_for_backward(*inside)
        ctx.shape, ctx.dtype = features.shape, features.dtype
        cells = features.flatten(2).transpose(1, 2)  # [B, h*w, D]
        return torch.stack([Pooled._shares(bits, features.dtype) @ cells for bits in inside])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the features."""
        batch, width, height, length = ctx.shape
        cells = gradient.new_zeros(batch, height * length, width, dtype=ctx.dtype)  # channels-last memory
        for bits, part in zip(ctx.saved_tensors, gradient, strict=True):
            cells.baddbmm_(Pooled._shares(bits, ctx.dtype).transpose(1, 2), part.to(ctx.dtype))
        return cells.transpose(1, 2).unflatten(2, (height, length)), *[None] * len(gradient)

    @staticmethod
    def _shares(bits: Tensor, dtype: torch.dtype) -> Tensor:
        """What each cell counts in its region, ``[B, Q, h*w]``."""
        inside = numbers(bits.flatten(2))
        return inside.mul_(1 / (inside.sum(-1, keepdim=True) + 1e-8)).to(dtype)


def numbers(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """0 and 1 of bits, by way of bytes: PyTorch converts these in less than half the time."""
    return bits.view(torch.uint8).to(dtype)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of ``[B, D, h, w]`` without anti-aliasing or aligned corners."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
