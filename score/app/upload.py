"""An image that a user of the page brought: opened with care, asked for words, handed out as vectors."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from PIL import Image, ImageOps
from rasterio.enums import Interleaving
from rasterio.errors import RasterioError

from score.drawing import palette
from score.errors import ConfigError, DataError, OutputError, ScoreError
from score.geo.maps import placed
from score.geo.raster import Raster
from score.geo.vectors import frame, write
from score.segmenter import as_words

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from score.rasters import Progress, RasterView

logger = logging.getLogger(__name__)

DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG")  # none of them opens another file
FORMATS = ("gpkg", "geojson", "json")
WEAK = 0.1  # of the thresholds: the page's slider goes down to here
OBJECTS = 20_000  # of an answer; a browser needs about a kilobyte for each
WORDS, LETTERS = 100, 100  # of a question, and of a word
ANSWERS = 4  # kept of an image
OVERVIEW = 2048  # pixels a side, which all graphics cards take
BLOCK = 2**28  # bytes that are read at once at least; some files are one block
BANDS = 1000
ORIENTATION = 0x0112  # in EXIF; 1 is upright


class RefusedError(ScoreError):
    """A request that is refused for another reason than what it says.

    Args:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What an image may be, and how many are kept.

    Attributes:
        megabytes: of a file.
        megapixels: of an image.
        images: kept, the ones used last.
    """

    megabytes: float = 500
    megapixels: float = 400
    images: int = 10


@dataclass(frozen=True)
class Answer:
    """What was found for words, down to a part of their thresholds.

    Attributes:
        words: as asked.
        seen: which of them the model was trained on.
        least: their thresholds.
        table: the objects, best first.
        times: each object's score over its word's threshold.
        total: objects found, those that were left out among them.
        seconds: that it took.
    """

    words: list[str]
    seen: list[bool]
    least: list[float]
    table: GeoDataFrame
    times: NDArray[np.float64]
    total: int
    seconds: float


class Upload:
    """An image, and what the model made of it.

    Args:
        key: unguessable; who knows it may see the image.
        folder: of its own.
        name: that its user gave it, shown and never opened.

    Attributes:
        state: ``coming``, ``waiting``, ``looking``, ``ready``, ``failed`` or ``gone``.
    """

    def __init__(self, key: str, folder: Path, name: str) -> None:
        self.key, self.folder, self.name = key, folder, name
        self.file, self.state, self.error = folder / "image", "coming", ""
        self.used = time.monotonic()
        self.progress: Progress | None = None
        self.view: RasterView | None = None
        self.overview: tuple[int, int] = (0, 0)
        self._raster: Raster | None = None
        self._answers: OrderedDict[tuple[str, ...], Answer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def raster(self) -> Raster:
        """The image; there once `open` was called."""
        assert self._raster is not None
        return self._raster

    @property
    def idle(self) -> bool:
        """Whether the model has done with it."""
        return self.state in ("ready", "failed")

    def open(self, limits: Limits) -> None:
        """Read the file that came.

        Raises:
            DataError: it is no image, or a damaged one.
            RefusedError: it is too large.
        """
        try:
            if self._check(limits) == "JPEG":
                self._turn()
            self._raster = Raster(self.file, drivers=DRIVERS)
            pixels, _ = self.raster.overview(OVERVIEW)
        except DataError as error:
            raise DataError(self.told(error)) from error
        self.overview = pixels.shape[1], pixels.shape[0]
        Image.fromarray(pixels).save(self.folder / "overview.jpg", quality=88)

    def _check(self, limits: Limits) -> str:
        """What GDAL says of the file before any pixel is read; returns its driver."""
        for driver in DRIVERS:
            with suppress(RasterioError), rasterio.open(self.file, driver=driver) as dataset:
                self._check_size(dataset, limits)
                return driver
        raise DataError(f"{self.name}: not an image of a kind taken here; bring a GeoTIFF, TIFF, JPEG, PNG or JP2")

    def _check_size(self, dataset: DatasetReader, limits: Limits) -> None:
        size = f"{self.name} has {dataset.width} x {dataset.height} pixels"
        if dataset.width * dataset.height > limits.megapixels * 1e6:
            raise RefusedError(413, f"{size}, and {limits.megapixels:g} million are allowed; cut it or make it smaller")
        if dataset.count > BANDS:
            raise RefusedError(413, f"{self.name} has {dataset.count} bands, and {BANDS} are allowed; choose three")
        depth = max(np.dtype(kind).itemsize for kind in dataset.dtypes)
        together = 1 if dataset.interleaving == Interleaving.band else dataset.count
        if max(height * width for height, width in dataset.block_shapes) * depth * together > BLOCK:
            raise RefusedError(413, f"{size} in one block; save it as a tiled GeoTIFF")

    def _turn(self) -> None:
        """Turn a photograph as its camera says that it was held; GDAL does not."""
        with (
            suppress(Exception),
            Image.open(self.file) as image,
        ):  # of a damaged one, what can be read is shown as it is
            if image.getexif().get(ORIENTATION, 1) != 1:
                ImageOps.exif_transpose(image).convert("RGB").save(turned := self.file.with_suffix(".png"))
                turned.replace(self.file)

    def told(self, error: Exception) -> str:
        """What an error says, with the user's own name for the file, and no path."""
        return str(error).replace(str(self.file), self.name).replace(str(self.folder), self.name)

    def facts(self) -> dict[str, Any]:
        """What the page needs to show it."""
        grid = self.raster.grid
        place, real = placed(grid)
        failed = [] if self.progress is None else [self.told(DataError(text)) for text in self.progress.failed]
        return {
            "name": self.name, "width": grid.width, "height": grid.height, "overview": self.overview[0],
            "place": place[:6], "real": real, "unit": "m2" if grid.crs else "px",
            "notes": [*self.raster.notes, *failed],
        }  # fmt: skip

    def ask(self, words: Any) -> Answer:
        """Find what words name, without running the network.

        Raises:
            ConfigError: there is no word, an empty one, one said twice, too many, or what is no word.
            RefusedError: the image was not looked at yet, or is gone.
        """
        if self.view is None:
            raise RefusedError(409, f"{self.name}: the model has not looked at it yet; wait a little")
        names = as_words(words)
        if len(names) > WORDS:
            raise ConfigError(f"{len(names)} words: at most {WORDS} can be asked at once")
        if long := [word for word in names if len(word) > LETTERS]:
            raise ConfigError(f"a word of {len(long[0])} letters: at most {LETTERS}")
        if not all(word.isprintable() for word in names):  # half a character, too, which no file can hold
            raise ConfigError("a word with a character that cannot be printed; type it again")
        with self._lock:
            if (known := self._answers.get(tuple(names))) is not None:
                self._answers.move_to_end(tuple(names))
                return replace(known, seconds=0.0)
            try:
                answer = self._answer(self.view, names)
            except OutputError as error:
                if self.state == "gone":
                    raise gone() from error
                raise
            self._answers[tuple(names)] = answer
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)
            return answer

    def _answer(self, view: RasterView, names: list[str]) -> Answer:
        begin = time.perf_counter()
        found = view.find(names, weak=WEAK)
        vocabulary = view.segmenter.vocabulary(names)
        seen = [bool(flag) for flag in vocabulary.seen[: len(names)]]
        least = view.segmenter.least(seen)
        facts = {"source": self.name, "model": view.segmenter.model.weights, "date": self.raster.date}
        table = frame(found[:OBJECTS], self.raster.grid, **facts)
        own = dict(zip(names, least, strict=True))
        times = table["score"].to_numpy(float) / np.maximum([own[name] for name in table["class"]], 1e-9)
        return Answer(names, seen, least, table, times, len(found), time.perf_counter() - begin)

    def shown(self, answer: Answer) -> dict[str, Any]:
        """An answer as the page draws it: outlines in pixels of the image."""
        table, number = answer.table, {word: index for index, word in enumerate(answer.words)}
        shapes = shapely.transform(np.asarray(table.geometry.array, dtype=object), self.raster.grid.pixels)
        areas = table["area_m2" if self.raster.grid.crs else "area_px"]
        outlines = [[[_ring(ring) for ring in _rings(part)] for part in shapely.get_parts(shape)] for shape in shapes]
        columns = table["class"].map(number), table["score"], answer.times, areas
        objects = list(zip(*(column.tolist() for column in columns), outlines, strict=True))
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette(len(answer.words))]
        return {
            "words": answer.words, "seen": answer.seen, "least": answer.least, "colours": colours,
            "objects": objects, "total": answer.total, "seconds": answer.seconds,
        }  # fmt: skip

    def vectors(self, answer: Answer, suffix: str, times: float, hidden: Sequence[str]) -> bytes:
        """The objects that the page shows, as a file.

        Args:
            answer: of `ask`.
            suffix: one of :data:`FORMATS`; ``json`` is COCO JSON.
            times: the least score over the word's threshold.
            hidden: words whose objects are left out.

        Raises:
            ConfigError: no such format, or no such number.
        """
        if suffix not in FORMATS:
            raise ConfigError(f"format={suffix}: there are {', '.join(FORMATS)}")
        if not WEAK <= times < float("inf"):
            raise ConfigError(f"times={times}: not a number of at least {WEAK}")
        chosen = answer.table[(answer.times >= times) & ~answer.table["class"].isin(list(hidden)).to_numpy()]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / f"objects.{suffix}"
            write(chosen, path, words=answer.words, grid=self.raster.grid)
            if suffix == "json":  # of no object, the table does not tell the image's name
                content = json.loads(path.read_bytes())
                content["images"][0]["file_name"] = self.name
                return json.dumps(content, ensure_ascii=False).encode()
            return path.read_bytes()


def gone() -> RefusedError:
    """What is said of an image that is not there."""
    return RefusedError(404, "the image is not here any more; bring it again")


def _rings(polygon: Any) -> list[Any]:
    return [polygon.exterior, *polygon.interiors]


def _ring(ring: Any) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in np.round(shapely.get_coordinates(ring), 1)]
