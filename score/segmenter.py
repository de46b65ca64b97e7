"""Find objects in images by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from numpy.typing import NDArray
from PIL import Image

from score.data.images import read_image
from score.detections import Detection, encode_instances, select
from score.errors import ConfigError, DataError
from score.model.vocabulary import check

if TYPE_CHECKING:
    from score.model.score import SCORE

ImageLike = NDArray[np.uint8] | Image.Image | str | Path


class Segmenter:
    """A model with a vocabulary, for image after image.

    :meth:`set_vocabulary` is costly and done once; :meth:`segment` is done for every image.

    Args:
        model: from :func:`score.load_model`.
        shortest: an image is resized until its shorter side has so many pixels,
        longest: or its longer side at most so many.
    """

    def __init__(self, model: SCORE, *, shortest: int = 512, longest: int = 800) -> None:
        self.model = model.eval()
        self.resize = ResizeShortestEdge(shortest, longest)
        self.names: list[str] = []

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Say what to look for.

        Args:
            names: the classes, any words; a name may hold comma-separated synonyms.

        Raises:
            ConfigError: the vocabulary is empty or says a name twice.
        """
        names = check(names)
        self.model.set_vocabulary(names)
        self.names = names

    @torch.inference_mode()
    def segment(
        self,
        image: ImageLike,
        *,
        score: float = 0.3,
        top_k: int | None = 100,
        overlap: float = 0.5,
        min_area: int = 16,
        per_class: bool = False,
    ) -> list[Detection]:
        """Find the vocabulary's objects in an image.

        Args:
            image: ``[H, W, 3]`` RGB, a Pillow image, or a path.
            score: the least score, 0 .. 1.
            top_k: how many objects at most; None for all that the model gives.
            overlap: of two masks whose IoU is above this, the better one stays; 1 keeps both.
            min_area: the least mask area in pixels of ``image``.
            per_class: compare masks of the same name only, so that one object may keep several names.

        Returns:
            Detections at the image's own size, best first; ``names[found.label]`` is a detection's name.

        Raises:
            ConfigError: no vocabulary has been set.
            DataError: the image cannot be read, or is none.
        """
        if not self.names:
            raise ConfigError("no vocabulary; call set_vocabulary(['ship', 'storage tank']) before segment")
        pixels = as_array(image)
        height, width = pixels.shape[:2]
        resized = self.resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))  # [3, h, w]
        [output] = self._run([{"image": tensor, "height": height, "width": width, "image_id": 0}])
        return select(encode_instances(output["instances"]), score, top_k, overlap, min_area, per_class)

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The model's output with encoded masks: hundreds of full-size ones would not fit for a large image."""
        selection = self.model.selection
        before, selection.masks = selection.masks, "rle"
        try:
            return self.model(inputs)
        finally:
            selection.masks = before


def as_array(image: ImageLike) -> NDArray[np.uint8]:
    """Any image as ``[H, W, 3]`` uint8 RGB."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"an image of shape {image.shape} and type {image.dtype}; give [H, W, 3] uint8 RGB")
    return image
