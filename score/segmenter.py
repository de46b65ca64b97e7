"""Find objects in images by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge

from score.data.images import ImageLike, read_image
from score.detections import Detection, encode_instances, select
from score.errors import ConfigError

if TYPE_CHECKING:
    from score.model.classifier import Ensemble
    from score.model.score import SCORE
    from score.model.vocabulary import Vocabulary


class Segmenter:
    """A model with a vocabulary, for image after image.

    :meth:`set_vocabulary` is costly and done once; :meth:`segment` is done for every image.

    Args:
        model: from :func:`score.load_model`.
        ensemble: exponents; None for the model's own.
        shortest: an image is resized until its shorter side has so many pixels,
        longest: or its longer side at most so many; None for what the model was made for.
    """

    def __init__(
        self,
        model: SCORE,
        *,
        ensemble: Ensemble | None = None,
        shortest: int | None = None,
        longest: int | None = None,
    ) -> None:
        self.model, self.ensemble = model.eval(), ensemble
        self.resize = ResizeShortestEdge(shortest or model.resize.shortest, longest or model.resize.longest)
        self.vocabulary: Vocabulary | None = None

    @property
    def names(self) -> list[str]:
        """The vocabulary."""
        return self.vocabulary.names if self.vocabulary else []

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Say what to look for.

        Args:
            names: the classes, any words; a name may hold comma-separated synonyms.

        Raises:
            ConfigError: the vocabulary is empty or says a name twice.
        """
        self.vocabulary = self.model.vocabulary(names)

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
        if self.vocabulary is None:
            raise ConfigError("no vocabulary; call set_vocabulary(['ship', 'storage tank']) before segment")
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        resized = self.resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))  # [3, h, w]
        inputs = [{"image": tensor, "height": height, "width": width, "image_id": 0}]
        [output] = self.model(inputs, self.vocabulary, ensemble=self.ensemble, masks="rle")
        return select(encode_instances(output["instances"]), score, top_k, overlap, min_area, per_class)
