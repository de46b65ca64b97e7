"""What was found in an image: read it, draw it, save it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from score.data.coco_json import annotation, categories
from score.data.images import SUFFIXES
from score.detections import Detection
from score.errors import OutputError
from score.files import write_text, write_whole


@dataclass(frozen=True, slots=True)
class Found(Detection):
    """An object in an image, and the word that it was found by.

    Coordinates are pixels from the upper left corner, x to the right, y downwards.

    Attributes:
        label: position of the word among those asked.
        score: 0 .. 1.
        rle: the mask as COCO's run lengths; ``mask`` is the same as bool ``[H, W]``.
        name: the word.
        seen: whether the model was trained on the word.
    """

    name: str
    seen: bool


@dataclass(frozen=True)
class Result:
    """Objects in an image, best first; iterate over it for each `Found`.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        words: what was asked.
        detections: what was found, ``name``, ``score``, ``seen``, ``mask`` (bool ``[H, W]``), ``box`` (x, y, width,
            height in pixels) and ``area`` (pixels) of each.
        thresholds: the least score that is shown, of each word.
        below: how many more have a score below the threshold of each word, down to a tenth of it.
    """

    image: NDArray[np.uint8] = field(repr=False, compare=False)
    words: list[str]
    detections: list[Found]
    thresholds: dict[str, float]
    below: dict[str, int]

    def __iter__(self) -> Iterator[Found]:
        return iter(self.detections)

    def __len__(self) -> int:
        return len(self.detections)

    def __str__(self) -> str:
        """Of each word how many were found, and how many lie below its threshold."""
        counts = self.counts
        return "; ".join(
            f"{word}: {counts[word]}"
            + (f", and {below} below the threshold {self.thresholds[word]:.2g}" if (below := self.below[word]) else "")
            for word in self.words
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def counts(self) -> dict[str, int]:
        """How many objects each word found."""
        return {**dict.fromkeys(self.words, 0), **Counter(item.name for item in self)}

    def draw(self) -> Image.Image:
        """The image with tinted masks, labels, and a legend below."""
        from score.drawing import draw  # fonts and colours, not needed by those who only count

        return draw(self.image, self.detections, self.words)

    def to_coco(self, file_name: str = "", image_id: int = 1) -> dict[str, Any]:
        """A COCO dataset of this image: ``images``, ``categories`` (ids from 1, in the words' order), ``annotations``.

        Args:
            file_name: what the image is called there.
            image_id: its number there.
        """
        width, height = self.size
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                **annotation(item.rle, item.label + 1),
                "score": round(item.score, 6),
            }
            for number, item in enumerate(self, start=1)
        ]
        return {
            "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
            "categories": categories(self.words),
            "annotations": annotations,
        }

    def save(self, path: str | Path) -> None:
        """Write a picture, or COCO JSON where the path ends with ``.json``.

        Raises:
            OutputError: no such format, no space, or no right to write.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            write_text(path, json.dumps(self.to_coco(), ensure_ascii=False) + "\n")
        elif suffix in SUFFIXES:
            kind = Image.registered_extensions()[suffix]
            write_whole(path, lambda partial: self.draw().save(partial, format=kind, quality=92))
        else:
            raise OutputError(f"{path}: not a format that can be written; use {', '.join(SUFFIXES)} or .json")
