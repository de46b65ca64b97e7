"""Find objects in images by their names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from score import load_model
from score.data.images import ImageLike, padded, read_image, resized, resized_to
from score.detections import Detection, suppress
from score.errors import ConfigError
from score.masks import RLE
from score.model.postprocess import encode_whole, encode_windows, sureness
from score.model.score import STRIDE
from score.names import is_seen
from score.result import Found, Result

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from score.geo.raster import Raster
    from score.model.classifier import Ensemble
    from score.model.score import SCORE, Regions
    from score.model.vocabulary import Vocabulary
    from score.rasters import Progress, RasterView

Words = str | Collection[str]

BELOW = 0.1  # of a threshold: what lies between this and the threshold is counted, not shown
SYNONYM = 0.8  # least cosine of two words that may mean the same


class Segmenter:
    """A model that answers: give an image and words, get the objects that the words name.

    It keeps no state between calls, so threads can share it.

    Args:
        model: from `score.load_model`; its image size, exponents and thresholds are used.
        ensemble: other exponents.
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
        self.model, self.ensemble = model.eval(), ensemble or model.ensemble
        own = model.resize
        self.resize = own._replace(shortest=shortest or own.shortest, longest=longest or own.longest)

    @classmethod
    def from_pretrained(cls, folder: str | Path = "lite", device: str | None = None) -> Segmenter:
        """Load a model folder.

        Args:
            folder: what training wrote, or a known model's name: ``lite`` is shipped, ``fcclip_coco`` can be fetched.
            device: as PyTorch names it; None for a GPU where there is one, the CPU otherwise.

        Raises:
            ConfigError: there is no such device.
            WeightsError: the folder or its towers' weights are missing, damaged, or of another architecture.
        """
        return cls(load_model(folder, device))

    def look(self, image: ImageLike) -> View:
        """Run the network on an image, without any word: the costly part, done once an image.

        Args:
            image: a path, a Pillow image, or ``[H, W, 3]`` uint8 RGB; row 0 is the top, column 0 the left.

        Raises:
            DataError: the image cannot be read, or is none.
        """
        return self.look_together([image])[0]

    @torch.no_grad()
    def look_together(self, images: Sequence[ImageLike]) -> list[View]:
        """Run the network on several images, at once on those of one size: what a GPU is made for.

        Args:
            images: as :meth:`look` takes them, few enough for the device's memory.

        Returns:
            A view of each, in their order.

        Raises:
            DataError: an image cannot be read, or is none.
        """
        pixels = [read_image(image) for image in images]
        views: dict[int, View] = {}
        for size in dict.fromkeys(map(self._padded, pixels)):
            those = [index for index, each in enumerate(pixels) if self._padded(each) == size]
            small = [resized(pixels[index], *self.resize).transpose(2, 0, 1) for index in those]  # [3, h, w]
            regions = self.model.look([{"image": torch.from_numpy(np.ascontiguousarray(each))} for each in small])
            views |= {index: View(self, pixels[index], regions.of(place)) for place, index in enumerate(those)}
        return [views[index] for index in range(len(pixels))]

    def _padded(self, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        height, width = pixels.shape[:2]
        return padded(resized_to(height, width, *self.resize), STRIDE)

    def look_raster(
        self,
        source: str | Path | Raster,
        *,
        tile: int | None = None,
        tile_m: float | None = None,
        tile_overlap: int | None = None,
        batch_size: int = 4,
        folder: Path | None = None,
        overwrite: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
        **reading: Any,
    ) -> RasterView:
        """Run the network over a raster of any size, tile by tile, in the memory of a few tiles.

        A tile that cannot be read is left out and listed in the view's ``progress``.

        Args:
            source: a file, an address, or an open :class:`score.geo.raster.Raster`.
            tile: a tile's side in pixels of the raster's grid, 512 unless ``tile_m`` gives it in metres.
            tile_m: the same in metres on the ground.
            tile_overlap: of neighbours in pixels, a quarter of a side unless given. What is smaller than this lies
                whole in one tile.
            batch_size: tiles that the network sees at once.
            folder: where what the model made of each tile is kept; the same call goes on where it stopped, and does
                nothing where all is done. None for a temporary one.
            overwrite: begin anew where the folder holds tiles of something else.
            report: called after each batch.
            reading: as :class:`score.geo.raster.Raster` takes it: ``bands``, ``stretch``, ``nodata``, ``gsd_m``,
                ``area``, ``zoom``, ``resampling``.

        Raises:
            ConfigError: tiles or readings that make no sense.
            DataError: the raster, or every tile of it, cannot be read.
            OutputError: the folder holds something else, or cannot be written.
        """
        from score.geo.raster import Raster  # GDAL, not needed for photographs
        from score.rasters import look, tile_size

        raster = source if isinstance(source, Raster) else Raster(source, **reading)
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: at least one tile")
        size, shared = tile_size(raster, tile, tile_m, tile_overlap)
        facts = {"weights": self.model.weights, "towers": self.model.towers_in}
        return look(
            self, raster, size=size, overlap=shared, batch_size=batch_size, folder=folder, facts=facts,
            overwrite=overwrite, report=report,
        )  # fmt: skip

    def predict_raster(
        self,
        source: str | Path | Raster,
        words: Words,
        *,
        score: float | None = None,
        overlap: float = 0.5,
        min_area: int = 16,
        per_class: bool = False,
        vectors: Mapping[str, Any] | None = None,
        **looking: Any,
    ) -> GeoDataFrame:
        """Find what words name in a raster: `look_raster`, then `RasterView.ask`, whose arguments these are.

        Returns:
            Polygons in the raster's CRS, with class, score, area in square metres and more; best first.
        """
        choice: dict[str, Any] = {"score": score, "overlap": overlap, "min_area": min_area, "per_class": per_class}
        return self.look_raster(source, **looking).ask(words, vectors=vectors, **choice)

    def segment(
        self,
        image: ImageLike,
        words: Words,
        *,
        score: float | None = None,
        top_k: int | None = 100,
        overlap: float = 0.5,
        min_area: int = 16,
        per_class: bool = False,
    ) -> Result:
        """Find what words name in an image: `look`, then `View.ask`, whose arguments these are."""
        choice = {"score": score, "top_k": top_k, "overlap": overlap, "min_area": min_area, "per_class": per_class}
        return self.look(image).ask(words, **choice)  # type: ignore[arg-type]

    @torch.no_grad()
    def vocabulary(self, words: Words) -> Vocabulary:
        """Words to ask for, then the distractors that they are told from.

        Distractors are the training vocabulary and those of the calibration. One that says an asked word
        again is left out: an equal name or synonym, and a word of the training vocabulary whose embedding is nearer to
        an asked one than any two of the training vocabulary are to one another.

        Raises:
            ConfigError: there is no word, an empty one, one said twice, or what is no word.
        """
        asked = as_words(words)
        known = self.model.vocabulary(self.model.train_names)
        chosen = self.model.vocabulary(asked)
        own = torch.arange(len(known.names)).repeat_interleave(torch.tensor(known.counts)).to(known.embeds.device)
        between = (known.embeds @ known.embeds.T).masked_fill(own[:, None] == own, -1)
        near = (known.embeds @ chosen.embeds.T).amax(1) > max(SYNONYM, between.max().item())  # [S]
        again = {known.names[index] for index in own[near].tolist()}
        others = [name for name in known.names if name not in again]
        others += [name for name in self.model.calibration.distractors if not is_seen(name, known.names)]
        others = [name for name in others if not is_seen(name, asked)]
        return self.model.vocabulary([*asked, *others])

    def least(self, seen: Sequence[bool], score: float | None = None) -> list[float]:
        """The least score shown of words: one given for all, or the model's own of those seen in training or not."""
        own = self.model.calibration
        return [score if score is not None else own.seen if flag else own.unseen for flag in seen]

    @torch.no_grad()
    def compare(self, regions: Regions, vocabulary: Vocabulary, least: Sequence[float]) -> list[tuple[int, int, float]]:
        """Which words regions of one image may be: triples of a query, a word and its chance, 0 .. 1.

        Args:
            regions: of one image.
            vocabulary: of :meth:`vocabulary`.
            least: score of its first words; the others are what they are told from. Chances far below are left out.
        """
        prediction = self.model.ask(regions, vocabulary)
        chances = self.ensemble(prediction.in_logits[0], prediction.out_logits[0], vocabulary.seen)
        shown = regions.shown(0)
        chances = chances.softmax(-1)[:, : len(least)]  # [Q, C]
        margin = chances[shown] / torch.tensor(least, device=chances.device).clamp(min=1e-9)
        best, pairs = margin.flatten().topk(min(self.model.selection.top_k, margin.numel()))
        pairs = pairs[best >= BELOW]
        queries, labels = shown[pairs // len(least)], pairs % len(least)
        return list(zip(queries.tolist(), labels.tolist(), chances[queries, labels].tolist(), strict=True))


class View:
    """An image as a model sees it: any words can be asked of it, one after the other, in milliseconds.

    Attributes:
        pixels: the image, ``[H, W, 3]`` uint8 RGB.
    """

    def __init__(self, segmenter: Segmenter, pixels: NDArray[np.uint8], regions: Regions) -> None:
        self.segmenter, self.pixels, self.regions = segmenter, pixels, regions
        self._masks: dict[int, tuple[RLE, float]] = {}  # of queries, with its `sureness`

    def ask(
        self,
        words: Words,
        *,
        score: float | None = None,
        top_k: int | None = 100,
        overlap: float = 0.5,
        min_area: int = 16,
        per_class: bool = False,
    ) -> Result:
        """Find what words name.

        Args:
            words: one, or several, any; a word may hold comma-separated synonyms.
            score: the least score, 0 .. 1; None for the model's own thresholds of seen and unseen words.
            top_k: how many objects at most; None for all that the model gives.
            overlap: of two masks whose IoU is above this, the better one stays; 1 keeps both.
            min_area: the least mask area in pixels of the image.
            per_class: compare masks of the same name only, so that one object may keep several names.

        Returns:
            Objects at the image's own size, best first: the one that exceeds its threshold by the largest factor.

        Raises:
            ConfigError: there is no word, an empty one, one said twice, what is no word, or a number out of bounds.
        """
        names = as_words(words)
        check_choice(score, top_k, overlap, min_area)
        vocabulary = self.segmenter.vocabulary(names)
        seen = vocabulary.seen[: len(names)].tolist()
        least = self.segmenter.least(seen, score)
        found = [item for item in self.find(vocabulary, least) if item.area >= min_area]
        best_first = sorted(found, key=lambda item: -item.score / max(least[item.label], 1e-9))
        shown: list[Found] = []
        below = dict.fromkeys(names, 0)
        for item in suppress(best_first, overlap, per_class):
            if item.score < least[item.label]:
                below[names[item.label]] += 1
            else:
                shown.append(Found(item.label, item.score, item.rle, names[item.label], seen[item.label]))
        return Result(self.pixels, names, shown[:top_k], dict(zip(names, least, strict=True)), below)

    def find(self, vocabulary: Vocabulary, least: list[float]) -> list[Detection]:
        """Pairs of a region and a word, overlapping ones as well, down to a part of each word's least score.

        Args:
            vocabulary: of :meth:`Segmenter.vocabulary`.
            least: of its first words; the others are what they are told from.
        """
        pairs = self.segmenter.compare(self.regions, vocabulary, least)
        masks = self.masks(dict.fromkeys(query for query, _, _ in pairs))
        found = []
        for query, label, chance in pairs:
            rle, sure = masks[query]
            if (value := chance * sure) >= BELOW * least[label]:
                found.append(Detection(label, value, rle))
        return found

    def masks(self, queries: Iterable[int]) -> Mapping[int, tuple[RLE, float]]:
        """Masks at the image's size and how sure the model is of each; made once, at the first call for a query."""
        missing = [query for query in queries if query not in self._masks]
        for query, rle, sure in zip(missing, *self._encoded(missing, encode_whole), strict=True):
            self._masks[query] = rle, sure
        return self._masks

    def windows(self, queries: Sequence[int]) -> tuple[list[RLE], list[float]]:
        """Masks in the windows where they are, and how sure the model is of each."""
        return self._encoded(queries, encode_windows)

    def _encoded(self, queries: Sequence[int], encode: Callable) -> tuple[list[RLE], list[float]]:
        regions, size = self.regions, self.pixels.shape[:2]
        rles, confidence = encode(regions.mask_logits[0, queries], regions.padded, regions.sizes[0], size)
        return rles, sureness(confidence, None if regions.quality is None else regions.quality[0, queries]).tolist()


def check_choice(score: float | None, top_k: int | None, overlap: float, min_area: float) -> None:
    """Refuse what is no choice of detections.

    Raises:
        ConfigError: naming it.
    """
    shares = {"overlap": overlap, "score": 0 if score is None else score}
    if wrong := [key for key, value in shares.items() if not (isinstance(value, int | float) and 0 <= value <= 1)]:
        raise ConfigError(f"{wrong[0]}={shares[wrong[0]]}: not a number in 0 .. 1")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ConfigError(f"top_k={top_k}: not a whole number of at least 1, or None")
    if not isinstance(min_area, int | float) or not min_area >= 0:
        raise ConfigError(f"min_area={min_area}: not a number of at least 0")


def as_words(words: Words) -> list[str]:
    """One word or several as a list, in their order; those of a set in alphabetical order.

    Raises:
        ConfigError: what is no word, or no collection of words.
    """
    if isinstance(words, str):
        return [words]
    several = isinstance(words, Collection) and not isinstance(words, Mapping)
    if not several or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"words {words!r}: not text; give a word or a list of words, as in ['ship', 'storage tank']")
    return sorted(words) if isinstance(words, set | frozenset) else list(words)
