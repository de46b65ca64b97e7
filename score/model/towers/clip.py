"""What every tower made of an open_clip model shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from score.files import sha256
from score.model.towers.base import Tower, resize

TEXT_PARTS = (
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
    "attn_mask",
    "text",
)


class OpenCLIPTower(Tower):
    """What every open_clip model shares: its text half, its logit scale, its pixel statistics.

    Args:
        clip: the model.
        tokenizer: from prompts to token ids ``[N, 77]``.
        source: names the weights in :attr:`identity`; a file is identified by its SHA-256.
    """

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.source = source
        self.pixel_mean = [255.0 * x for x in open_clip.OPENAI_DATASET_MEAN]
        self.pixel_std = [255.0 * x for x in open_clip.OPENAI_DATASET_STD]
        size = clip.visual.image_size
        self.image_size = size if isinstance(size, tuple) else (size, size)
        self.embed_dim = self._width()
        self.requires_grad_(False)
        self.eval()

    def _width(self) -> int:
        projection = getattr(self.clip, "text_projection", None)
        if isinstance(projection, Tensor):
            return projection.shape[1]
        return self.clip.visual.output_dim

    @property
    def visual(self) -> nn.Module:
        """The image half."""
        return self.clip.visual

    @property
    def logit_scale(self) -> Tensor:
        return self.clip.logit_scale.exp().clamp(max=100.0)

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        if isinstance(self.source, Path):
            return f"{self.source.name} {sha256(self.source)}"
        digest = hashlib.sha256()
        for parameter in (self.clip.logit_scale, *self.clip.visual.parameters()):
            digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return f"{self.source} {digest.hexdigest()}"

    def encode_text(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        device = self.clip.logit_scale.device
        with torch.no_grad():
            tokens = self.tokenizer(list(prompts))
            return torch.cat([self.clip.encode_text(part.to(device)).float() for part in tokens.split(batch)])

    def drop_text(self) -> None:
        for name in TEXT_PARTS:
            if hasattr(self.clip, name):
                delattr(self.clip, name)

    def lower(self, dtype: torch.dtype) -> None:
        self.clip.visual.to(dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the image half computes in: its first convolution's precision."""
        return next(x for x in self.clip.visual.parameters() if x.ndim == 4).dtype

    def _scene_input(self, images: Tensor) -> Tensor:
        return resize(images, self.image_size)
