"""Multi-scale deformable attention in plain PyTorch (Zhu et al., Deformable DETR, ICLR 2021): no compiled operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.position import kept


class _Table(NamedTuple):
    """Where cells of all levels lie in one table of rows, and what belongs to each sample ``(head, level, point)``.

    Around each level are rows of zeros, which is what lies outside: one before and two after, and a column that ends
    each row of cells and precedes the next.

    Attributes:
        rows: of one head.
        starts: the row of each level's first cell.
        width, height: of the sample's level, ``[samples]``.
        pitch: rows from a cell to the one below, ``[samples]``.
        start: the row of the first cell of the sample's head and level, ``[samples]``.
    """

    rows: int
    starts: list[int]
    width: Tensor
    height: Tensor
    pitch: Tensor
    start: Tensor


@kept
def _table(
    sizes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype, device: torch.device
) -> _Table:
    rows, starts = 0, []
    for h, w in sizes:
        starts.append(rows + w + 2)
        rows += (h + 3) * (w + 1) + 1
    height, width = (torch.tensor(side).repeat_interleave(points).repeat(heads) for side in zip(*sizes, strict=True))
    start = (torch.arange(heads)[:, None] * rows + torch.tensor(starts)).flatten().repeat_interleave(points)
    pitch = (width + 1).to(device, torch.int32)
    return _Table(rows, starts, width.to(device, dtype), height.to(device, dtype), pitch, start.to(device, torch.int32))


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few learned positions on every level and sums what it finds there.

    Args:
        dim: width ``D`` of queries and values.
        heads: attention heads; divides ``dim``.
        levels: feature maps.
        points: samples a head takes on a level.
    """

    def __init__(self, *, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Start with points on rays around the reference, one direction a head, further out with every point."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)  # [heads, 2]
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = rays[:, None, None, :] * steps[None, None, :, None]  # [heads, 1, points, 2]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query: ``[B, L, D]``.
            reference: ``[L, 2]`` (x, y) in 0..1, where each query stands.
            value: ``[B, sum of h*w, D]``, the levels one after the other, row-major.
            sizes: ``(h, w)`` of each level.

        Returns:
            ``[B, L, D]``.
        """
        batch, length, dim = query.shape
        width, taken = dim // self.heads, self.levels * self.points
        table = _table(tuple(sizes), self.heads, self.points, query.dtype, query.device)
        weights = softmax(self.attention_weights(query).view(batch, length, self.heads, taken)).flatten(2)
        weight, bias = self.sampling_offsets.weight, self.sampling_offsets.bias
        x, right = _cell(F.linear(query, weight[0::2], bias[0::2]), reference[:, :1], table.width)
        y, down = _cell(F.linear(query, weight[1::2], bias[1::2]), reference[:, 1:], table.height)

        # Of each sample the four cells around it are rows of a table, so that all heads and levels are one sum of
        # weighted rows, which is what an embedding bag is.
        first = torch.addcmul(x, y, table.pitch) + table.start  # [B, L, samples]
        if batch > 1:
            first += (torch.arange(batch, device=query.device) * (self.heads * table.rows)).view(-1, 1, 1)
        last = batch * self.heads * table.rows - 1
        first.clamp_(0, last - max(w for _, w in sizes) - 2)  # of what is not finite, too
        below = first + table.pitch
        lower = down * weights
        upper = weights - lower
        lower_right, upper_right = lower * right, upper * right
        corners = first, first + 1, below, below + 1
        shares = upper - upper_right, upper_right, lower - lower_right, lower_right
        output = weighted_rows(
            torch.stack([part.view(-1, taken) for part in corners], dim=1).flatten(1),
            self._rows(self.value_proj(value), sizes, table),
            torch.stack([part.view(-1, taken) for part in shares], dim=1).flatten(1),
        )  # [B*L*heads, width]
        return self.output_proj(output.view(batch, length, self.heads * width))

    def _rows(self, value: Tensor, sizes: Sequence[tuple[int, int]], table: _Table) -> Tensor:
        """Values ``[B, sum of h*w, D]`` of each head, as rows ``[B * heads * rows, D / heads]`` of a table."""
        batch, _, dim = value.shape
        rows = value.new_zeros(batch, self.heads, table.rows, dim // self.heads)
        for part, start, (h, w) in zip(value.split([h * w for h, w in sizes], dim=1), table.starts, sizes, strict=True):
            cells = rows[:, :, start : start + h * (w + 1)].unflatten(2, (h, w + 1))[:, :, :, :w]
            cells.copy_(part.view(batch, h, w, self.heads, -1).permute(0, 3, 1, 2, 4))
        return rows.view(-1, dim // self.heads)


def softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, where it is short: PyTorch's own takes five times as long on CPUs."""
    shares = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return shares / shares.sum(-1, keepdim=True)


def weighted_rows(index: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Sums ``[N, D]`` of rows of ``[R, D]``, as ``index [N, S]`` names them, each times its share ``[N, S]``."""
    if rows.device.type == "cpu" and torch.is_grad_enabled() and rows.requires_grad:
        return _WeightedRows.apply(index, rows, shares)
    return F.embedding_bag(index, rows, per_sample_weights=shares, mode="sum")


class _WeightedRows(torch.autograd.Function):
    """The same with a gradient for CPUs: that of an embedding bag sorts all indices, which takes fifty times as long.

    The sums are the product of a sparse matrix and the rows; so are their gradients, of the transposed matrix.
    """

    @staticmethod
    def forward(ctx: Any, index: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        """Sum."""
        ctx.save_for_backward(index, rows, shares)
        return F.embedding_bag(index, rows, per_sample_weights=shares, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        """Of rows and shares."""
        index, rows, shares = ctx.saved_tensors
        size, gradient = (len(index), len(rows)), gradient.contiguous()
        ends = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype)
        values = (shares.flatten().numpy(), index.flatten().numpy(), ends.numpy())
        of_rows = sparse.csr_matrix(values, size).T @ gradient.numpy()
        pattern = torch.sparse_csr_tensor(ends, index.flatten(), torch.zeros_like(shares).flatten(), size)
        torch.sparse.sampled_addmm(pattern, gradient, rows.T, beta=0.0, out=pattern)
        return None, torch.from_numpy(np.ascontiguousarray(of_rows)), pattern.values().view_as(shares)


def _cell(offsets: Tensor, reference: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Along an axis, the cell before each sample ``[B, L, samples]`` and how far it is on the way to the next.

    Args:
        offsets: in cells.
        reference: ``[L, 1]`` in 0..1.
        length: of the axis in cells, ``[samples]``.
    """
    at = torch.addcmul(offsets - 0.5, reference, length)
    at = torch.minimum(at.clamp(min=-1), length)  # from there on all is zero
    before = at.detach().floor()
    return before.int(), at - before
