"""Sine position codes of a feature map (Carion et al., DETR, ECCV 2020)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def kept(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Keep what a function made of a map's size, for most images have one of a few; nobody may change it."""

    @functools.wraps(function)
    def normal(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.inference_mode(False), torch.no_grad():  # what inference made could not be used in training
            return function(*args, **kwargs)

    return cast(Callable[Arguments, Result], functools.lru_cache(maxsize=32)(normal))


@kept
def sine_positions(
    height: int, width: int, dim: int, *, device: torch.device | None = None, temperature: float = 10000.0
) -> Tensor:
    """Encode where each cell lies, relative to the map's size.

    Returns:
        ``[height * width, dim]`` fp32: the first half of the columns codes y, the second half x, as alternating
        sine and cosine of falling frequency.
    """
    half = dim // 2
    exponent = 2 * (torch.arange(half, dtype=torch.float32, device=device) // 2) / half
    frequency = temperature**exponent

    def code(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (position / (position[-1] + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)  # [length, half]

    y = code(height)[:, None, :].expand(height, width, half)
    x = code(width)[None, :, :].expand(height, width, half)
    return torch.cat([y, x], dim=-1).reshape(height * width, dim)


def point_codes(points: Tensor, dim: int, *, temperature: float = 10000.0) -> Tensor:
    """Encode places ``[..., 2]`` (x, y in 0..1) as :func:`sine_positions` encodes cells: ``[..., dim]`` fp32."""
    half = dim // 2
    exponent = 2 * (torch.arange(half, dtype=torch.float32, device=points.device) // 2) / half
    angle = points.float().flip(-1)[..., None] * (2 * math.pi) / temperature**exponent  # [..., 2, half], y first
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


@kept
def cell_centres(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Centres of a map's cells, ``[height * width, 2]`` as (x, y) in 0..1, row-major."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)
