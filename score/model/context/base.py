"""What a context module is: two small protocols that see the whole scene.

A variant implements one of them, and a file of ``configs/rai`` or ``configs/gca`` names it.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from score.model.mask_decoder import Head
from score.model.towers.base import Scene


class RegionContext(Protocol):
    """Refines the class embedding of each query; in RAI's place."""

    def __call__(self, class_embed: Tensor, head: Head, scene: Scene) -> Tensor:
        """Map ``class_embed [B, Q, E]`` to the same shape, given the head's queries and masks, and the scene."""


class TextContext(Protocol):
    """Adapts the embeddings of words to each image; in GCA's place."""

    def __call__(self, bank: Tensor, scene: Scene) -> Tensor:
        """Map ``bank [S, E]`` to one bank an image, ``[B, S, E]``."""
