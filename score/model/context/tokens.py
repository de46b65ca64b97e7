"""Class embeddings that attend to the scene's tokens, each in its own way: a variant of GCA that can rename objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.towers.base import Scene


class TokenAdaptation(nn.Module):
    """Let each class embedding attend to the scene's class token and all its patches, and move by what it finds.

    The published module has one key, so all classes move alike. Here a class picks its own patches: *ship* may find
    water where *car* finds none, and the two move apart. A moved embedding keeps its length, so that a class can win by
    direction only. Nothing belongs to one class, and attention goes through a narrow space: the module sees few words
    in training, and has to serve all others. Keys have no positions, for what an aerial image shows has no up.

    It starts as the identity, exactly: the last projection is zero, and the first step moves it away from there.

    Args:
        embed_dim: width ``E``.
        dim: width of the attention, over all heads.
        heads: attention heads.
    """

    def __init__(self, *, embed_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.word_norm, self.token_norm = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.query = nn.Linear(embed_dim, dim)
        self.key = nn.Linear(embed_dim, dim, bias=False)  # a bias would move all keys alike: no effect
        self.value = nn.Linear(embed_dim, dim)
        self.out = nn.Linear(dim, embed_dim, bias=False)  # a bias would be a shift that ignores the scene
        nn.init.zeros_(self.out.weight)

    def forward(self, bank: Tensor, scene: Scene) -> Tensor:
        """Adapt ``bank [S, E]`` to each image's tokens: ``[B, S, E]``, every row as long as it was."""
        tokens = torch.cat([scene.embed.unsqueeze(1), scene.patches.flatten(2).transpose(1, 2)], dim=1)  # [B, 1+h*w, E]
        tokens = self.token_norm(tokens.to(self.out.weight.dtype))  # a tower may have run in half precision
        query = self._split(self.query(self.word_norm(bank)).expand(len(tokens), -1, -1))
        found = F.scaled_dot_product_attention(query, self._split(self.key(tokens)), self._split(self.value(tokens)))
        moved = bank + self.out(found.transpose(1, 2).flatten(2)).to(bank.dtype)  # [B, S, E]
        return moved * (bank.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp(min=1e-6))

    def _split(self, x: Tensor) -> Tensor:
        """``[B, L, dim]`` to ``[B, heads, L, dim / heads]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
