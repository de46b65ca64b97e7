"""Multi-scale deformable attention in plain PyTorch (Zhu et al., Deformable DETR, ICLR 2021): no compiled operator.

On a GPU a kernel of the library deformops takes its place, where that is installed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from score.model.position import kept
from score.model.towers.base import numbers


class _Table(NamedTuple):
    """Where cells of all levels lie in one table of rows, and what belongs to each sample ``(head, level, point)``.

    Around each level are rows of zeros, which is what lies outside: one before and two after, and a column that ends
    each row of cells and precedes the next.

    Attributes:
        rows: of one head.
        reach: rows from a cell to the furthest of its corners, at most.
        starts: the row of each level's first cell.
        size: width and height of the sample's level, ``[2, samples]``.
        pitch: rows from a cell to the one below, ``[samples]``.
        start: the row of the first cell of the sample's head and level, ``[samples]``.
        corners: rows from a cell to itself, to the one on its right, below, and both, ``[4 * samples of one head]``.
    """

    rows: int
    reach: int
    starts: list[int]
    size: Tensor
    pitch: Tensor
    start: Tensor
    corners: Tensor


@kept
def _table(
    sizes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype, device: torch.device
) -> _Table:
    rows, starts = 0, []
    for h, w in sizes:
        starts.append(rows + w + 2)
        rows += (h + 3) * (w + 1) + 1
    height, width = (torch.tensor(side).repeat_interleave(points) for side in zip(*sizes, strict=True))  # of one head
    start = (torch.arange(heads)[:, None] * rows + torch.tensor(starts)).flatten().repeat_interleave(points)
    size, pitch = torch.stack([width, height]).repeat(1, heads), width + 1
    corners = torch.cat([pitch * 0, pitch * 0 + 1, pitch, pitch + 1])
    integers = (part.to(device, torch.int32) for part in (pitch.repeat(heads), start, corners))
    return _Table(rows, max(w for _, w in sizes) + 2, starts, size.to(device, dtype), *integers)


@functools.cache
def _kernel() -> Callable[..., Tensor] | None:
    """The library deformops' operator, a kernel for GPUs in Triton, where it is installed."""
    try:
        from deformops.registry import msda
    except ImportError:
        return None
    return msda  # type: ignore[no-any-return]


@kept
def _levels(sizes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes ``[levels, 2]``, and how many cells lie before each level, ``[levels]``."""
    shapes = torch.tensor(sizes)
    cells = shapes.prod(1)
    return shapes.to(device), (cells.cumsum(0) - cells).to(device)


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
        if query.is_cuda and (kernel := _kernel()) is not None:
            return self.output_proj(kernel(*self._operands(query, reference, value, sizes), method="softmax"))
        batch, length, dim = query.shape
        table = _table(tuple(sizes), self.heads, self.points, query.dtype, query.device)
        rows = self._rows(self.value_proj(value), sizes, table)
        offsets, weights = self.sampling_offsets, self.attention_weights  # as one product, all x before all y
        weight = torch.cat([offsets.weight[0::2], offsets.weight[1::2], weights.weight])
        moved = offsets.bias - 0.5  # places are those of cells' centres
        said = F.linear(query, weight, torch.cat([moved[0::2], moved[1::2], weights.bias]))
        if query.device.type == "cpu" and torch.is_grad_enabled() and (said.requires_grad or rows.requires_grad):
            output = _Summed.apply(said, rows, reference, table)
        else:
            output = _summed(_samples(said, reference, table, len(rows)), rows)
        return self.output_proj(output.view(batch, length, dim))

    def _operands(
        self, query: Tensor, reference: Tensor, value: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, ...]:
        """What a kernel takes of :meth:`forward`'s arguments.

        Returns:
            values ``[B, sum of h*w, heads, D / heads]``, ``(h, w)`` of levels and where they start, places ``[B, L,
            heads, levels, points, 2]`` (x, y) in 0..1, and logits of weights ``[B, L, heads, levels * points]``.
        """
        shapes, starts = _levels(tuple(sizes), query.device)
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))  # in cells
        places = reference[:, None, None, None] + offsets / shapes.flip(1)[:, None]
        logits = self.attention_weights(query).unflatten(-1, (self.heads, -1))
        return self.value_proj(value).unflatten(-1, (self.heads, -1)), shapes, starts, places, logits

    def _rows(self, value: Tensor, sizes: Sequence[tuple[int, int]], table: _Table) -> Tensor:
        """Values ``[B, sum of h*w, D]`` of each head, as rows ``[B * heads * rows, D / heads]`` of a table."""
        batch, _, dim = value.shape
        rows = value.new_zeros(batch, self.heads, table.rows, dim // self.heads)
        for part, start, (h, w) in zip(value.split([h * w for h, w in sizes], dim=1), table.starts, sizes, strict=True):
            cells = rows[:, :, start : start + h * (w + 1)].unflatten(2, (h, w + 1))[:, :, :, :w]
            cells.copy_(part.view(batch, h, w, self.heads, -1).permute(0, 3, 1, 2, 4))
        return rows.view(-1, dim // self.heads)


class _Samples(NamedTuple):
    """What is taken of a table, ``N`` being each image's query and head, ``S`` the samples of all levels.

    Attributes:
        index: rows of the four cells around each sample, ``[N, 4 * S]``.
        weights: of samples, ``[N, S]``.
        right, down: how far each sample is on the way to the cells on its right and below, ``[N, S]``.
        inside: whether they move with the sample's offset, ``[2, N, S]`` bool; outside all is zero.
    """

    index: Tensor
    weights: Tensor
    right: Tensor
    down: Tensor
    inside: Tensor


def _samples(said: Tensor, reference: Tensor, table: _Table, rows: int) -> _Samples:
    """Where samples are.

    Args:
        said: ``[B, L, 3 * samples]``: offsets x, offsets y in cells, less a half, and logits of weights.
        reference: ``[L, 2]`` in 0..1.
        rows: of the table for all images.
    """
    batch, taken = len(said), len(table.corners) // 4
    x, y, logits = said.unflatten(-1, (3, -1)).unbind(-2)  # [B, L, samples]
    weights = softmax(logits.unflatten(-1, (-1, taken)))
    x, right, inside_x = _cell(x, reference[:, :1], table.size[0])
    y, down, inside_y = _cell(y, reference[:, 1:], table.size[1])
    first = torch.addcmul(x, y, table.pitch) + table.start
    if batch > 1:
        first += (torch.arange(batch, device=said.device, dtype=torch.int32) * (rows // batch)).view(-1, 1, 1)
    first.clamp_(0, rows - 1 - table.reach)  # of what is not finite, too
    index = (first.view(-1, 1, taken) + table.corners.view(4, taken)).flatten(1)
    right, down, weights = (part.reshape(-1, taken) for part in (right, down, weights))
    return _Samples(index, weights, right, down, torch.stack([inside_x, inside_y]).view(2, -1, taken))


def _cell(offsets: Tensor, reference: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along an axis, the cell before each sample ``[B, L, samples]``, and on its way to the next: how far; if it moves.

    Args:
        offsets: in cells, less a half.
        reference: ``[L, 1]`` in 0..1.
        length: of the axis in cells, ``[samples]``.
    """
    place = torch.addcmul(offsets, reference, length)
    at = torch.clamp(place, torch.full_like(length, -1), length)  # from there on all is zero
    before = at.detach().floor()
    return before.int(), at - before, at.detach() == place.detach()


def softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, where it is short: PyTorch's own takes five times as long on CPUs."""
    shares = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return shares / shares.sum(-1, keepdim=True)


def _summed(samples: _Samples, rows: Tensor) -> Tensor:
    """Of each ``N`` the sum ``[N, D]`` of rows, four a sample: all heads and levels at once are an embedding bag."""
    return F.embedding_bag(samples.index, rows, per_sample_weights=_shares(samples), mode="sum")


def _shares(samples: _Samples) -> Tensor:
    """What each row counts, ``[N, 4 * S]``."""
    lower = samples.down * samples.weights
    upper = samples.weights - lower
    lower_right, upper_right = lower * samples.right, upper * samples.right
    return torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=1).flatten(1)


class _Summed(torch.autograd.Function):
    """The same with a gradient for CPUs: that of an embedding bag sorts all indices, which takes fifty times as long.

    The sums are the product of a sparse matrix and the rows; so are their gradients, of the transposed matrix. What
    leads from there to offsets and weights is written out, for each step that PyTorch finds itself is one more pass.
    """

    @staticmethod
    def forward(ctx: Any, said: Tensor, rows: Tensor, reference: Tensor, table: _Table) -> Tensor:
        """Sum."""
        samples = _samples(said, reference, table, len(rows))
        ctx.save_for_backward(rows, *samples)
        ctx.shape = said.shape
        return _summed(samples, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of what was said, and of rows."""
        rows, *rest = ctx.saved_tensors
        samples = _Samples(*rest)
        index, weights, right, down, inside = samples
        flat, shares, gradient = index.flatten(), _shares(samples).flatten(), gradient.contiguous()
        size = len(index), len(rows)
        ends = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype)
        of_rows = sparse.csr_matrix((shares.numpy(), flat.numpy(), ends.numpy()), size).T @ gradient.numpy()
        found = torch.sparse_csr_tensor(ends, flat, torch.zeros_like(shares), size, check_invariants=False)
        torch.sparse.sampled_addmm(found, gradient, rows.T, beta=0.0, out=found)  # each row's product with the gradient
        first, second, third, fourth = found.values().view(len(index), 4, -1).unbind(1)
        above, below = torch.lerp(first, second, right), torch.lerp(third, fourth, right)
        of_place = torch.stack([torch.lerp(second - first, fourth - third, down), below - above]) * weights
        of_place *= numbers(inside, weights.dtype)  # less time than a product with bits
        of_weights = torch.lerp(above, below, down) * weights
        of_logits = torch.addcmul(of_weights, weights, of_weights.sum(-1, keepdim=True), value=-1)
        batch, length, _ = ctx.shape
        of_said = torch.cat([part.view(batch, length, -1) for part in (*of_place, of_logits)], dim=-1)
        return of_said, torch.from_numpy(np.ascontiguousarray(of_rows)), None, None
