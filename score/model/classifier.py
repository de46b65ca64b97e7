"""From embeddings to class probabilities: in-vocabulary logits, out-of-vocabulary logits, and their ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def similarity(embeds: Tensor, bank: Tensor, counts: Sequence[int], scale: Tensor) -> Tensor:
    """Scaled cosine similarity of regions and classes.

    Args:
        embeds: ``[B, Q, E]``, normalised here.
        bank: ``[S, E]`` or ``[B, S, E]``, used as it is.
        counts: rows each class has in the bank (its synonyms); they sum to ``S``.
        scale: scalar factor.

    Returns:
        ``[B, Q, C]``; a class's logit is the largest of its synonyms'.
    """
    logits = scale * F.normalize(embeds, dim=-1) @ bank.transpose(-1, -2)
    return torch.stack([rows.amax(dim=-1) for rows in logits.split(list(counts), dim=-1)], dim=-1)


class InVocabulary(nn.Module):
    """The trained classifier: compares a query's embedding with the scene-adapted bank and a learned *void*.

    Args:
        embed_dim: width ``E``.
        temperature: initial temperature; logits are cosine similarities divided by it.
        max_scale: upper bound of the learned factor.
    """

    def __init__(self, *, embed_dim: int, temperature: float, max_scale: float) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        self.void = nn.Parameter(torch.randn(1, embed_dim))

    def with_void(self, bank: Tensor) -> Tensor:
        """Append the normalised void row to ``[B, S, E]``: ``[B, S + 1, E]``."""
        void = F.normalize(self.void, dim=-1)
        return torch.cat([bank, void.expand(len(bank), -1, -1)], dim=1)

    def forward(self, class_embed: Tensor, bank: Tensor, counts: Sequence[int]) -> Tensor:
        """``[B, Q, E]`` against the adapted bank ``[B, S, E]``: logits ``[B, Q, C + 1]``, void last."""
        scale = self.log_scale.exp().clamp(max=self.max_scale)
        return similarity(class_embed, self.with_void(bank), [*counts, 1], scale)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Geometric mean of the two classifiers, weighted by whether a class was seen in training.

    Args:
        alpha: weight of the out-of-vocabulary probability for seen classes, 0..1.
        beta: the same for unseen classes.
    """

    alpha: float
    beta: float

    def __call__(self, in_logits: Tensor, out_logits: Tensor, seen: Tensor) -> Tensor:
        """Combine.

        Args:
            in_logits: ``[..., Q, C + 1]``, void last.
            out_logits: ``[..., Q, C]``.
            seen: ``[C]`` bool.

        Returns:
            ``[..., Q, C + 1]``, ``log(p + 1e-8)`` with the in-vocabulary probability of void last.
        """
        weight = torch.where(seen, self.alpha, self.beta).to(in_logits.dtype)
        inside, outside = in_logits[..., :-1].log_softmax(-1), out_logits.log_softmax(-1)
        void = in_logits.softmax(-1)[..., -1:]
        classes = ((1 - weight) * inside + weight * outside).softmax(-1) * (1 - void)
        return torch.log(torch.cat([classes, void], dim=-1) + 1e-8)
