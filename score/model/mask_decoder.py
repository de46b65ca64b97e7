"""The masked-attention decoder of Mask2Former (Cheng et al., CVPR 2022) and the class embedding of its queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.pixel_decoder import Pixels
from score.model.position import sine_positions
from score.model.towers.base import Pooled, resize

if TYPE_CHECKING:
    from score.model.criterion import Target


class Head(NamedTuple):
    """What one application of the prediction head says.

    Attributes:
        queries: ``[B, Q, D]``, after the decoder's norm.
        mask_logits: ``[B, Q, H/4, W/4]``.
    """

    queries: Tensor
    mask_logits: Tensor


class Heads(Sequence[Head]):
    """Heads whose mask logits are made whenever one is asked for, since those of ten take most of a GB.

    Args:
        queries: ``[B, Q, D]`` of every head.
        masks: from these to their mask logits.
    """

    def __init__(self, queries: Sequence[Tensor], masks: Callable[[Tensor], Tensor]) -> None:
        self.queries, self.masks = queries, masks

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> Head:  # type: ignore[override]
        return Head(self.queries[index], self.masks(self.queries[index]))


class Places(NamedTuple):
    """Where queries started in training; ``F`` of them look for objects, up to ``P`` further ones are told of one.

    Attributes:
        heat: ``[B, S, h, w]`` logits of centres, a map for each class of size.
        at: ``[B, F, 2]`` places, x and y in 0..1.
        extents: of each image's targets, ``[N, 4]``: centre x, y, width, height in 0..1.
        sizes: the class of size of each target, ``[N]`` an image.
        told: the target of each further query, ``[P]`` an image, or empty without any.
        quality: ``[B, F]`` logits of the IoU that each mask of the last head has with its object.
        heads: how many have masks; the last alone is classified.
    """

    heat: Tensor
    at: Tensor
    extents: list[Tensor]
    sizes: list[Tensor]
    told: list[Tensor]
    quality: Tensor
    heads: int


class Decoded(NamedTuple):
    """What a decoder returns.

    Attributes:
        heads: those that are classified, the last one last; in evaluation the last alone.
        quality: ``[B, Q]`` in evaluation, the IoU that each mask is thought to have with an object, 0 for one that is
            not to be shown; None from a decoder that has no opinion.
        places: in training, from a decoder that has them.
        masks: in training, gives mask logits ``[N, H/4, W/4]`` of some queries of every head from first to last, by the
            indices of each head's of each image. Only few are compared with a target, and only theirs send gradients
            back; of all heads at once, for each product with an image's features sends back a map as large as they.
    """

    heads: Sequence[Head]
    quality: Tensor | None = None
    places: Places | None = None
    masks: Callable[[Sequence[Sequence[Tensor]]], list[Tensor]] | None = None


class MLP(nn.Sequential):
    """Linear layers with ReLU between them; ``widths`` from input to output."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward block, each post-norm."""

    def __init__(self, *, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        query_pos: Tensor,
        source: Tensor,
        source_pos: Tensor,
        blocked: Tensor,
        apart: Tensor | None = None,
    ) -> Tensor:
        """Map queries ``[B, Q, D]`` to the same; seeing ``source [B, L, D]`` where not ``blocked [B, Q, L]``.

        Queries see each other where they are not kept ``apart [B, Q, Q]``.
        """
        x = self.cross_norm(x + attend(self.cross_attn, x + query_pos, source + source_pos, source, blocked))
        x = self.self_norm(x + attend(self.self_attn, x + query_pos, x + query_pos, x, apart))
        return self.ffn_norm(x + self.linear2(F.relu(self.linear1(x))))


def attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None
) -> Tensor:
    """What ``attention`` returns for ``[B, Q, D]``, with one mask ``[B, Q, L]`` for all heads instead of a copy each.

    The module itself makes numbers of every copy, which takes longer than attending.
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # [B, heads, ., D/heads]
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    # As numbers, which PyTorch would make of bits in two slow steps.
    bias = None if blocked is None else q.new_zeros(blocked.shape).masked_fill_(blocked, -torch.inf)[:, None]
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


def picked(states: Sequence[Tensor], chosen: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of ``[B, Q, D]`` of every head those that are chosen, by head and image: ``[N, D]`` an image, head by head."""
    return [
        torch.cat([state[b, indices[b]] for state, indices in zip(states, chosen, strict=True)])
        for b in range(len(states[0]))
    ]


def by_head(found: Sequence[Tensor], chosen: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """What was found of :func:`picked` ones of each image, as one tensor a head instead, image by image."""
    parts = [part.split([len(indices[b]) for indices in chosen]) for b, part in enumerate(found)]
    return [torch.cat(images) for images in zip(*parts, strict=True)]


def keys_of(multiscale: Sequence[Tensor], level_embed: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What queries look at: each level ``[B, D, h, w]`` as ``[B, h*w, D]`` with its embedding, and position codes."""
    sources = [maps.flatten(2).transpose(1, 2) + embed for maps, embed in zip(multiscale, level_embed, strict=True)]
    sizes = [(maps.shape[-2], maps.shape[-1]) for maps in multiscale]
    dim, device = level_embed.shape[1], level_embed.device
    positions = [sine_positions(*size, dim, device=device) for size in sizes]
    return sources, positions


def blocked_by(outside: Tensor) -> Tensor:
    """Where each query may not look, ``[B, Q, h*w]``: outside its mask, unless all is outside."""
    return outside & ~outside.all(dim=-1, keepdim=True)


class MaskDecoder(nn.Module):
    """Learned queries that find one object each, layer by layer, each layer looking inside the last one's masks.

    Args:
        dim: width ``D``.
        queries: ``Q``.
        layers: decoder layers; the prediction head is applied ``layers + 1`` times.
        heads, feedforward: of every layer.
        levels: maps visited in turn.
    """

    def __init__(self, *, dim: int, queries: int, layers: int, heads: int, feedforward: int, levels: int = 3) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(queries, dim)
        self.query_pos = nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(levels, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim=dim, heads=heads, feedforward=feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = MLP(dim, dim, dim, dim)

    def forward(self, pixels: Pixels, targets: Sequence[Target] | None = None) -> Decoded:
        """Decode.

        Args:
            targets: in training; all ``layers + 1`` heads are returned then, the last alone otherwise. It is the same
                either way, for nothing else depends on them.
        """
        mask_features, multiscale = pixels
        batch = len(mask_features)
        sources, positions = keys_of(multiscale, self.level_embed.weight)
        # Resizing is linear, so the masks of a level are the inner product with that level's resized features: the
        # full-resolution masks of a head that nobody reads are never made.
        at_level = [resize(mask_features.detach(), maps.shape[-2:]) for maps in multiscale]

        x = self.query_feat.weight.expand(batch, -1, -1)
        query_pos = self.query_pos.weight
        states = []
        for index, layer in enumerate(self.layers):
            level = index % len(sources)
            states.append(self.norm(x))
            embed = self.mask_embed(states[-1]).detach()
            blocked = blocked_by(self._outside(embed, at_level[level]))
            x = layer(x, query_pos, sources[level], positions[level], blocked)
        states.append(self.norm(x))
        cells = mask_features.flatten(2).transpose(1, 2)  # [B, h*w, D]

        def whole(queries: Tensor) -> Tensor:
            logits = cells @ self.mask_embed(queries).transpose(1, 2)  # [B, h*w, Q]: channels-last, as the features are
            return logits.transpose(1, 2).unflatten(2, mask_features.shape[-2:])

        if targets is None:
            return Decoded([Head(states[-1], whole(states[-1]))])

        def masks(chosen: Sequence[Sequence[Tensor]]) -> list[Tensor]:
            embeds = picked(states, chosen)
            # of cells, whose gradients then lie in memory as the features do
            found = [self.mask_embed(q) @ image.T for q, image in zip(embeds, cells, strict=True)]
            return by_head([logits.unflatten(1, mask_features.shape[-2:]) for logits in found], chosen)

        return Decoded(Heads(states, whole), masks=masks)

    @staticmethod
    def _outside(mask_embed: Tensor, features: Tensor) -> Tensor:
        """Where each query's mask is not, at the resolution of ``features``: ``[B, Q, h*w]``."""
        return torch.einsum("bqd,bdhw->bqhw", mask_embed, features).flatten(2) < 0


class ClassEmbedding(nn.Module):
    """Give each query a vector in the space of the text, from its state and from the pixels inside its mask.

    Args:
        dim: width ``D`` of queries and mask features.
        embed_dim: width ``E`` of the text.
    """

    def __init__(self, *, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.pooled_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.mlp = MLP(dim, dim, dim, embed_dim)

    def forward(self, queries: Tensor, inside: Sequence[Tensor], mask_features: Tensor) -> Tensor:
        """Embed the queries of several heads, ``[N, B, Q, E]``.

        Args:
            queries: ``[N, B, Q, D]``.
            inside: of each head ``[B, Q, h, w]`` bool, the pixels of its masks; no gradient flows through them.
            mask_features: ``[B, D, h, w]``.
        """
        return self.mlp(queries + self.pooled_proj(Pooled.apply(mask_features, *inside)))
