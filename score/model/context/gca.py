"""GCA, Global Context Adaptation (SCORE, ICCV 2025): text embeddings adapted to the scene at hand."""

from __future__ import annotations

from torch import Tensor, nn

from score.model.towers.base import Scene


class GlobalContextAdaptation(nn.Module):
    """Let each class embedding attend to the scene's one global vector, with a residual.

    With a single key the attention weight is 1, so every class of an image moves by the same vector: classes shift
    against void, never against each other. That is the published model.

    Args:
        embed_dim: width ``E``.
        heads: attention heads.
    """

    def __init__(self, *, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)

    def forward(self, bank: Tensor, scene: Scene) -> Tensor:
        """Adapt ``bank [S, E]`` to each image's global vector: ``[B, S, E]``, not re-normalised."""
        key = scene.embed.unsqueeze(1)  # [B, 1, E]
        query = bank.expand(len(key), -1, -1)
        return query + self.attention(query, key, key, need_weights=False)[0]
