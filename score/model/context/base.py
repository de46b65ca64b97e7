"""What a context module is: two small protocols that see the whole scene.

A variant implements one of them, and a file of ``configs/rai`` or ``configs/gca`` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from score.model.mask_decoder import Head
from score.model.towers.base import Scene


class RegionContext(Protocol):
    """Refines the class embedding of each query; in RAI's place."""

    def view(self, head: Head, scene: Scene) -> Any:
        """What it sees of a head's masks and the scene; all masks of a step together would take too much memory."""

    def __call__(self, class_embed: Tensor, views: Sequence[Any]) -> Tensor:
        """Map ``class_embed [N, B, Q, E]`` of ``N`` heads to the same shape, given the view of each."""


class TextContext(Protocol):
    """Adapts the embeddings of words to each image; in GCA's place."""

    def __call__(self, bank: Tensor, scene: Scene) -> Tensor:
        """Map ``bank [S, E]`` to one bank an image, ``[B, S, E]``."""
