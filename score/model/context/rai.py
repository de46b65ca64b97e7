"""RAI, Region-Aware Integration (SCORE, ICCV 2025): class embeddings refined by a scene tower's view of regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.mask_decoder import Head
from score.model.towers.base import Scene, pool_regions, resize


def dilate(maps: Tensor, size: int) -> Tensor:
    """Maximum over a ``size x size`` window (odd) around each cell of ``[B, D, h, w]``; nothing lies outside."""
    # A square maximum is one over columns of one over rows, and a window of 2n is the maximum of two of n side by
    # side: a dozen vectorised maxima instead of size squared comparisons a cell.
    for dim in (-2, -1):
        margin = (0, 0, size // 2, size // 2) if dim == -2 else (size // 2, size // 2)
        maps, reach = F.pad(maps, margin, value=-torch.inf), 1
        while reach < size:
            step = min(reach, size - reach)
            length = maps.shape[dim] - step
            maps, reach = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length)), reach + step
    return maps


class RegionAwareIntegration(nn.Module):
    """Add the scene tower's view of each dilated region to its class embedding, and transform the sum.

    The size of the dilation is learned: in the first ``gumbel_calls`` calls in training, Gumbel-softmax weights mix
    all dilated masks and gradient reaches the sizes' logits; afterwards, and always in evaluation, the size with the
    largest logit is used alone. The transformer sees each query by itself (a sequence of length one), as published.

    Args:
        embed_dim: width ``E``.
        kernels: window sizes, odd and rising, in cells of stride 4.
        layers, heads, feedforward, dropout: of the transformer encoder, post-norm.
        weight: initial factor of the scene's view.
        tau: temperature of the Gumbel-softmax.
        gumbel_calls: calls in training that mix the sizes; one call an application of the prediction head.
        sharpness, centre: of the soft mask ``sigmoid(sharpness * (logit - centre))`` while sizes are mixed.
    """

    calls: Tensor

    def __init__(
        self,
        *,
        embed_dim: int,
        kernels: Sequence[int],
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        weight: float,
        tau: float,
        gumbel_calls: int,
        sharpness: float,
        centre: float,
    ) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        self.tau, self.gumbel_calls, self.sharpness, self.centre = tau, gumbel_calls, sharpness, centre
        self.kernel_logits = nn.Parameter(torch.rand(len(self.kernels)) - 0.5)
        self.weight = nn.Parameter(torch.tensor([float(weight)]))
        layer = nn.TransformerEncoderLayer(embed_dim, heads, feedforward, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # The released code forgets how far it has counted; a resumed run would mix sizes again.
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    @property
    def kernel(self) -> int:
        """The size in effect once sizes are no longer mixed. Derived: the logits get no gradient from then on."""
        return self.kernels[int(self.kernel_logits.argmax())]

    def forward(self, class_embed: Tensor, head: Head, scene: Scene) -> Tensor:
        """Refine class embeddings ``[B, Q, E]`` with the scene's patches under the head's dilated masks."""
        patches = scene.patches
        x = class_embed + self.weight * pool_regions(patches, self._regions(head.mask_logits, patches.shape[-2:]))
        return self.transformer(x.flatten(0, 1).unsqueeze(1)).view_as(x)  # [B*Q, 1, E]

    def _regions(self, mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
        """Dilated masks on the patch grid, ``[B, Q, h, w]``: soft while sizes are mixed, else hard."""
        if self.training and self.calls < self.gumbel_calls:
            self.calls += 1
            mixed = resize(self._mix(mask_logits), grid)
            return torch.sigmoid(self.sharpness * (mixed - self.centre))
        return resize(dilate(mask_logits.detach(), self.kernel), grid) > 0

    def _mix(self, mask_logits: Tensor) -> Tensor:
        """Sum of the dilated maps, weighted by a draw of the Gumbel-softmax over sizes."""
        shares = F.gumbel_softmax(self.kernel_logits, tau=self.tau)
        mixed, dilated, reached = torch.zeros_like(mask_logits), mask_logits, 1
        for share, kernel in zip(shares, self.kernels, strict=True):
            dilated = dilate(dilated, kernel - reached + 1)  # a wide window is a narrow one's maximum, widened
            mixed, reached = mixed + share * dilated, kernel
        return mixed
