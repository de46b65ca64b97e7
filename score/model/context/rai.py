"""RAI, Region-Aware Integration (SCORE, ICCV 2025): class embeddings refined by a scene tower's view of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.mask_decoder import Head
from score.model.towers.base import Scene, numbers, pool_regions


def dilate(maps: Tensor, size: int) -> Tensor:
    """Maximum over a ``size x size`` window (odd) around each cell of ``[B, D, h, w]``; nothing lies outside."""
    return window(window(maps, size, -2), size, -1)  # a square maximum is one over columns of one over rows


def window(maps: Tensor, size: int, dim: int) -> Tensor:
    """Maximum over ``size`` (odd) cells along a dimension."""
    # A window of 2n is the maximum of two of n side by side: a few vectorised maxima, not size comparisons a cell.
    margin = (0, 0) * (-1 - dim if dim < 0 else maps.dim() - 1 - dim) + (size // 2, size // 2)
    least = -torch.inf if maps.is_floating_point() else torch.iinfo(maps.dtype).min
    maps, reach = F.pad(maps, margin, value=least), 1
    while reach < size:
        step = min(reach, size - reach)
        length = maps.shape[dim] - step
        maps, reach = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length)), reach + step
    return maps


def between(length: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two lines of ``length`` that each of fewer cells lies between, and their shares in it, as `resize` has them.

    Returns:
        Both ``[2 * cells]``: nothing else has to be known of a map that is resized.
    """
    place = ((torch.arange(cells, device=device) + 0.5) * (length / cells) - 0.5).clamp(min=0)
    low = place.long()
    share = place - low
    lines = torch.stack([low, (low + 1).clamp(max=length - 1)], 1)
    return lines.flatten(), torch.stack([1 - share, share], 1).flatten()


def farthest(maps: Tensor, kernels: Sequence[int], rows: Tensor, columns: Tensor) -> Tensor:
    """Where the maximum of each window around chosen cells is.

    A number and its place make one integer whose order is the number's, so that maxima of them bring the place along:
    no dilation has to be kept for the gradient.

    Args:
        maps: ``[B, Q, h, w]`` fp32.
        kernels: sizes of windows, odd and rising.
        rows, columns: of the cells, ``[R]`` and ``[C]``.

    Returns:
        ``[B, Q, kernels, R, C]``, indices into the ``h * w`` cells.
    """
    bits = maps.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()  # negative floats are ordered backwards
    place = torch.arange(maps.shape[-2] * maps.shape[-1], device=maps.device).view(maps.shape[-2:])
    reach = max(kernels) // 2
    keys = F.pad((ordered << 32) | place, (0, 0, reach, reach), value=torch.iinfo(torch.int64).min)
    rows, done, found = rows + reach, 0, []
    high = keys.index_select(-2, rows)
    for kernel in kernels:
        for step in range(done + 1, kernel // 2 + 1):
            high = torch.maximum(high, keys.index_select(-2, rows - step))
            high = torch.maximum(high, keys.index_select(-2, rows + step))
        done = kernel // 2
        found.append(window(high, kernel, -1).index_select(-1, columns) & 0xFFFFFFFF)
    return torch.stack(found, 2)


class Dropout(nn.Dropout):
    """Dropout that keeps bits for the gradient, and draws 16 for an element: a third of PyTorch's time on CPUs."""

    def forward(self, input: Tensor, rectify: bool = False) -> Tensor:
        """Drop elements in training, and let what is negative be zero if asked to ``rectify``."""
        share = round(self.p * 2**16)
        if self.training and share:
            return _Dropped.apply(input, share, rectify)
        return F.relu(input) if rectify else input


class _Dropped(torch.autograd.Function):
    """What `Dropout` leaves. Bits become numbers, for PyTorch multiplies with these in a quarter of the time."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, share: int, rectify: bool) -> Tensor:
        """Drop so many of 65,536."""
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64, device=input.device).random_(-(2**63), None)
        drawn, least = words.view(torch.int16)[: input.numel()].view(input.shape), share - 2**15
        out = torch.ge(drawn, least, out=torch.empty_like(input)).mul_(input)
        ctx.rectify, ctx.scale = rectify, 2**16 / (2**16 - share)
        if rectify:  # what is left says where it is zero, and the next layer keeps it anyway
            out.clamp_(min=0)
        out.mul_(ctx.scale)
        ctx.save_for_backward(out if rectify else drawn >= least)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Of the input."""
        [left] = ctx.saved_tensors
        if ctx.rectify:
            return torch.ops.aten.threshold_backward(gradient, left, 0).mul_(ctx.scale), None, None
        return numbers(left, gradient.dtype).mul_(gradient).mul_(ctx.scale), None, None


class Alone(nn.TransformerEncoderLayer):
    """A post-norm block for sequences of one, where attention is its value: queries and keys are never computed."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(dim, heads, feedforward, dropout, batch_first=True)
        self.dropout, self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout), Dropout(dropout)

    def forward(self, src: Tensor, *_: object, **__: object) -> Tensor:  # type: ignore[override]
        """Map ``[N, 1, E]`` to the same."""
        attention, width = self.self_attn, src.shape[-1]
        value = F.linear(src, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        share = F.dropout(src.new_ones(*src.shape[:-1], attention.num_heads, 1), attention.dropout, self.training)
        found = (value.unflatten(-1, (attention.num_heads, -1)) * share).flatten(-2)
        src = self.norm1(src + self.dropout1(attention.out_proj(found)))
        hidden = self.dropout(self.linear1(src), rectify=True)
        return self.norm2(src + self.dropout2(self.linear2(hidden)))


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
        layer = Alone(embed_dim, heads, feedforward, dropout)
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

    def view(self, head: Head, scene: Scene) -> Tensor:
        """The mean of the scene's patches under each of the head's dilated masks, ``[B, Q, E]``."""
        grid = (scene.patches.shape[-2], scene.patches.shape[-1])
        return pool_regions(scene.patches, self._regions(head.mask_logits, grid))

    def forward(self, class_embed: Tensor, views: Sequence[Tensor]) -> Tensor:
        """Refine class embeddings ``[N, B, Q, E]`` of several heads with the view of each, ``[B, Q, E]``."""
        x = class_embed + self.weight * torch.stack(tuple(views))
        return self.transformer(x.flatten(0, 2).unsqueeze(1)).view_as(x)  # [N*B*Q, 1, E]

    def _regions(self, mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
        """Dilated masks on the patch grid, ``[B, Q, h, w]``: soft while sizes are mixed, else hard."""
        (rows, down), (columns, across) = (
            between(length, cells, mask_logits.device)
            for length, cells in zip(mask_logits.shape[-2:], grid, strict=True)
        )
        mixing = self.training and self.calls < self.gumbel_calls
        if mixing:
            self.calls += 1
            corners = self._mix(mask_logits, rows, columns)
        else:
            cells = mask_logits.detach().permute(0, 2, 3, 1)  # as they lie in memory: neighbours are whole rows
            wide = window(cells, self.kernel, 1).index_select(1, rows)
            corners = window(wide, self.kernel, 2).index_select(2, columns).permute(0, 3, 1, 2)
        resized = 4 * F.avg_pool2d(corners * (down[:, None] * across), 2)  # the sum of a cell's four
        return torch.sigmoid(self.sharpness * (resized - self.centre)) if mixing else resized > 0

    def _mix(self, mask_logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Sum of the dilated maps ``[B, Q, R, C]`` at some cells, weighted by a draw over sizes."""
        shares = F.gumbel_softmax(self.kernel_logits, tau=self.tau)
        logits = mask_logits.float().contiguous()
        with torch.no_grad():
            index = farthest(logits, self.kernels, rows, columns)
        highest = logits.flatten(2).gather(2, index.flatten(2)).view_as(index)
        return torch.einsum("k,bqkrc->bqrc", shares, highest)
