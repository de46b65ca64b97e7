"""Rasters of any size, kind and place, read as 8-bit RGB in windows."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import from_gcps
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from score.errors import ConfigError, DataError
from score.files import is_address
from score.geo.area import Area, length, read_area, reason
from score.geo.grid import Grid, on_earth
from score.masks import Box

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # `Raster.notes` says it

Pixels = NDArray[np.uint8]
Stretch = Literal["auto"] | Sequence[float] | None

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
"""What a file that may be a raster is known by."""

RESAMPLINGS = ("nearest", "bilinear", "cubic", "average")
PHOTOGRAPH = 2**26  # pixels: an image of more is looked at tile by tile
PERCENT = (2.0, 98.0)  # of the values, what "auto" brings to black and white
SQUARE = 0.02  # sides of a pixel that differ by more on the ground are made equal
FLAT = 1e-6  # sine of the angle between the sides of a pixel that is a line, not an area
FINER = 16  # times the raster's own detail: more is a slip of the unit
BLOCKS, BLOCK = 8, 128  # where there are no overviews, values are looked at in a grid of BLOCKS x BLOCKS such squares
PIECES = 32  # squares along the longer side of an overview of a damaged raster
MERCATOR = 20037508.342789244  # half the width of the world of tile services, in metres

# As GDAL advises for reading over a network; one thread a handle, for readers run side by side.
OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": 256 * 2**20,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "VSI_CACHE": True,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,  # of a damaged file, GDAL 3.10 would give the compressed bytes as pixels
}


class Raster:
    """A raster, whole or an area of it, as pixels of one size on the ground, in 8-bit RGB.

    Each thread and process has a handle of its own; what is pickled has none.

    Args:
        source: a file; an address (``https://``, ``s3://``, whatever GDAL reads); a tile service as
            ``https://host/{z}/{x}/{y}.png`` or GDAL's ``WMTS:address``.
        bands: numbers from 1, of red, green and blue, or of one; None takes those that say what they are, else the
            first three, else the first.
        stretch: what brings values to 0 .. 255: "auto" leaves 8-bit ones and maps the 2nd to the 98th percentile of
            others; two percentiles; None for the values as they are. Percentiles are of each band over the whole
            raster or area, estimated from a sample.
        nodata: a value that is no data in all bands, where the raster does not say so itself.
        gsd_m: metres on the ground along a side of a pixel to resample to; None for the raster's own, made square.
        area: only this: a vector file, a geometry in WGS84, or west, south, east, north in degrees; without a CRS,
            left, top, right, bottom in pixels.
        zoom: of a tile service.
        resampling: nearest, bilinear, cubic or average.
        drivers: GDAL's names of the formats allowed; None for all.

    Attributes:
        grid: the pixels that `read` counts in.
        area: the area in these pixels, None for all.
        stretch: for each of the bands the values that become 0 and 255, None for values as they are.
        date: when it was taken, as 2025-06-30, where it says so, else "".
        notes: what a user should know of how it is read.

    Raises:
        ConfigError: bands that it lacks, an area or a resolution that makes no sense.
        DataError: it is missing, or cannot be read.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        bands: Sequence[int] | None = None,
        stretch: Stretch = "auto",
        nodata: float | None = None,
        gsd_m: float | None = None,
        area: Area | None = None,
        zoom: int = 18,
        resampling: str = "average",
        drivers: Sequence[str] | None = None,
    ) -> None:
        if resampling not in RESAMPLINGS:
            raise ConfigError(f"resampling={resampling}: there are {', '.join(RESAMPLINGS)}")
        self.source, self.nodata = str(source), nodata
        self.notes: list[str] = []
        self._drivers, self._resampling = drivers, Resampling[resampling]
        self._opened, self._handles = _address(self.source, zoom), dict[tuple[int, int], DatasetReader]()
        with self._reading() as dataset:
            own = self._own(dataset)
            self.bands, self.date = self._chosen(dataset, bands), _date(dataset)
            self._palette = _palette(dataset) if self.bands == [1] else None
            self._negative = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            if self._palette is not None:
                self._resampling = Resampling.nearest
            crop, outline = self._cropped(own, area)
            self._crop, self._own_grid = crop, own
            part = Grid(crop[2], crop[3], own.transform @ Affine.translation(*crop[:2]), own.crs)
            self.grid = self._resampled(part, gsd_m)
            self._scale = part.width / self.grid.width, part.height / self.grid.height
            self.area = self._in_pixels(outline) if outline is not None else None
            self.stretch = self._stretch(dataset, stretch)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}

    @property
    def facts(self) -> dict[str, Any]:
        """What the pixels depend on."""
        file = Path(self.source)
        return {
            "source": self.source,
            "file": [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None,
            "grid": [self.grid.width, self.grid.height, *self.grid.transform[:6]],
            "bands": self.bands,
            "stretch": None if self.stretch is None else self.stretch.tolist(),
            "nodata": self.nodata,
            "resampling": self._resampling.name,
        }

    def read(self, window: Box, shape: tuple[int, int] | None = None) -> tuple[Pixels, NDArray[np.bool_]]:
        """Read a window.

        Args:
            window: x, y, width, height in pixels of `grid`, within it.
            shape: (H, W) to be resampled to; None for as many as the window has.

        Returns:
            ``[H, W, 3]`` uint8 RGB, black where there is no data; and ``[H, W]``, where there is.

        Raises:
            DataError: a part of the file is damaged, or a server does not answer.
        """
        x, y, width, height = window
        return self._read(self._source_window(x, y, width, height), shape or (height, width))

    def overview(self, longest: int = 2048) -> tuple[Pixels, Grid]:
        """The whole in at most so many pixels a side, ``[h, w, 3]``, and where these lie; damaged parts are black."""
        scale = min(1.0, longest / max(self.grid.width, self.grid.height))
        small = self.grid.scaled(*(max(1, round(side * scale)) for side in self.grid[:2]))
        nearest = Resampling.nearest if scale < 0.25 else self._resampling  # an average reads every block
        try:
            window = self._source_window(0, 0, self.grid.width, self.grid.height)
            return self._read(window, (small.height, small.width), nearest)[0], small
        except DataError:
            return self._piecewise(small, nearest), small

    def _piecewise(self, small: Grid, resampling: Resampling) -> Pixels:
        """An overview in squares, those that cannot be read left out."""
        pixels = np.zeros((small.height, small.width, 3), np.uint8)
        side = max(1, max(small[:2]) // PIECES)
        across, down = self.grid.width / small.width, self.grid.height / small.height
        for y, x in itertools.product(range(0, small.height, side), range(0, small.width, side)):
            width, height = min(side, small.width - x), min(side, small.height - y)
            window = self._source_window(x * across, y * down, width * across, height * down)
            with contextlib.suppress(DataError):
                pixels[y : y + height, x : x + width] = self._read(window, (height, width), resampling)[0]
        return pixels

    def _source_window(self, x: float, y: float, width: float, height: float) -> Window:
        (sx, sy), (left, top) = self._scale, self._crop[:2]
        return Window(left + x * sx, top + y * sy, width * sx, height * sy)

    def _read(
        self, window: Window, shape: tuple[int, int], resampling: Resampling | None = None
    ) -> tuple[Pixels, NDArray[np.bool_]]:
        with self._reading() as dataset:
            values = self._values(dataset, window, shape, resampling or self._resampling)
            valid = self._valid(dataset, values, window, shape)
        if self._palette is not None:
            pixels: Pixels = self._palette[values[0]]
        else:
            if self.stretch is not None:
                low, high = self.stretch[:, :, None, None].transpose(1, 0, 2, 3)
                values = (values.astype(np.float32) - low) * (255 / (high - low)) + 0.5
            if values.dtype != np.uint8:
                values = np.nan_to_num(values).clip(0, 255).astype(np.uint8)
            pixels = np.empty((*shape, 3), np.uint8)
            pixels[...] = values.transpose(1, 2, 0)  # of one band: three times
        if self._negative:
            pixels = 255 - pixels
        if not valid.all():
            pixels[~valid] = 0
        return pixels, valid

    def _values(
        self, dataset: DatasetReader, window: Window, shape: tuple[int, int], resampling: Resampling
    ) -> NDArray[Any]:
        return dataset.read(self.bands, window=window, out_shape=(len(self.bands), *shape), resampling=resampling)

    def _valid(
        self, dataset: DatasetReader, values: NDArray[Any], window: Window, shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Where at least one of the bands has data."""
        valid = np.ones(shape, bool)
        if any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in self.bands):
            valid = dataset.read_masks(self.bands, window=window, out_shape=(len(self.bands), *shape)).any(0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).any(0)
        if self.nodata is not None:
            valid &= (values != self.nodata).any(0)
        return valid

    @contextlib.contextmanager
    def _reading(self) -> Iterator[DatasetReader]:
        """This thread's handle; what goes wrong meanwhile is the raster's fault."""
        key = os.getpid(), threading.get_ident()
        remote = {} if Path(self.source).exists() else {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
        try:
            with rasterio.Env(**OPTIONS, **remote):
                if key not in self._handles:
                    self._handles[key] = self._open()
                yield self._handles[key]
        except RasterioError as error:
            if not Path(self.source).exists() and "://" not in self._opened and "<" not in self._opened:
                raise DataError(f"{self.source}: no such raster") from error
            raise DataError(f"{self.source}: cannot be read as a raster ({reason(error)}); replace the file") from error

    def _open(self) -> DatasetReader:
        if self._drivers is None:
            return rasterio.open(self._opened)
        for driver in self._drivers:
            with contextlib.suppress(RasterioError):
                return rasterio.open(self._opened, driver=driver)
        raise RasterioError(f"not in a format of {', '.join(self._drivers)}")

    def _own(self, dataset: DatasetReader) -> Grid:
        """The file's own pixels."""
        transform, crs = dataset.transform, dataset.crs
        points, points_crs = dataset.gcps
        if crs is None and points:
            sides = [np.array([(p.col, p.row) for p in points]), np.array([(p.x, p.y) for p in points])]
            if min(np.linalg.matrix_rank(side - side.mean(0)) for side in sides) < 2:
                raise DataError(f"{self.source}: its ground control points tell no place; it takes three not in a line")
            transform, crs = from_gcps(points), points_crs
            self.notes.append("placed by its ground control points, as one plane")
        if crs is None:
            placed = "sizes are in pixels, coordinates as its geotransform has them"
            where = "coordinates and sizes are in pixels" if transform.is_identity else placed
            self.notes.append(f"has no CRS: {where}")
        if crs is None and dataset.rpcs is not None:
            self.notes.append(
                "has a camera model (RPC), which is not used; gdalwarp -rpc lays it onto the ground first"
            )
        if any("complex" in kind for kind in dataset.dtypes):
            raise DataError(f"{self.source}: its values are complex numbers; make amplitudes of them first")
        return Grid(dataset.width, dataset.height, transform, crs.to_wkt() if crs else None)

    def _chosen(self, dataset: DatasetReader, bands: Sequence[int] | None) -> list[int]:
        if bands is not None:
            bands = np.asarray(bands).tolist()
            wrong = [band for band in bands if type(band) is not int or not 1 <= band <= dataset.count]
            if wrong or len(bands) not in (1, 3):
                raise ConfigError(
                    f"bands={list(bands)}: {self.source} has {dataset.count}, from 1 on; name three of them, or one"
                )
            return list(bands)
        colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        if set(colours) <= set(dataset.colorinterp):
            return [dataset.colorinterp.index(colour) + 1 for colour in colours]
        return [1, 2, 3] if dataset.count >= 3 else [1]

    def _resampled(self, part: Grid, gsd_m: float | None) -> Grid:
        """Pixels as large as asked for, and square on the ground: degrees are not."""
        across, along = part.gsd
        a, b, _, d, e, _ = part.transform[:6]
        flat = not abs(part.transform.determinant) > FLAT * math.hypot(a, d) * math.hypot(b, e)
        if flat or not (math.isfinite(across) and math.isfinite(along) and min(across, along) > 0):
            raise DataError(f"{self.source}: its pixels have no size on the ground; mend its geotransform")
        if not on_earth(part):
            raise DataError(f"{self.source}: lies nowhere on Earth; mend its geotransform or its CRS")
        if gsd_m is None:
            if abs(across / along - 1) <= SQUARE:
                return part
            gsd_m = math.sqrt(across * along)  # as many pixels as there were, so objects keep their size in them
        elif part.crs is None:
            raise ConfigError(f"gsd_m={gsd_m}: {self.source} has no CRS, so its pixels have no size in metres")
        if not (isinstance(gsd_m, int | float) and min(across, along) <= gsd_m * FINER < math.inf):
            raise ConfigError(f"gsd_m={gsd_m}: a pixel of {self.source} has {min(across, along):.3g} m; give metres")
        width, height = (max(1, round(n * size / gsd_m)) for n, size in ((part.width, across), (part.height, along)))
        return part if (width, height) == part[:2] else part.scaled(width, height)

    def _cropped(self, own: Grid, area: Area | None) -> tuple[Box, BaseGeometry | None]:
        """The window of the file that an area needs, and its outline in the file's CRS."""
        if area is None:
            if "<GDAL_WMS>" in self._opened or self.source.startswith(("WMTS:", "WMS:")):
                raise ConfigError(
                    f"{self.source} is the whole world; give area=[WEST,SOUTH,EAST,NORTH] or a vector file"
                )
            return (0, 0, own.width, own.height), None
        outline = read_area(area, own.crs)
        flat = shapely.transform(shapely.segmentize(outline, length(outline) / 64), own.pixels)
        corners = shapely.get_coordinates(flat)
        x0, y0 = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corners.max(0)), own[:2]).astype(int)
        if x0 >= x1 or y0 >= y1 or not flat.intersects(shapely.box(0, 0, *own[:2])):
            raise ConfigError(f"area={area}: outside of {self.source}")
        return (int(x0), int(y0), int(x1 - x0), int(y1 - y0)), outline

    def _in_pixels(self, outline: BaseGeometry) -> BaseGeometry:
        return shapely.transform(outline, self.grid.pixels)

    def _stretch(self, dataset: DatasetReader, stretch: Stretch) -> NDArray[np.float32] | None:
        """``[bands, 2]``."""
        if stretch == "auto":
            small = all(dataset.dtypes[band - 1] == "uint8" for band in self.bands)
            stretch = None if small else PERCENT
        if stretch is None or self._palette is not None:
            return None
        limits = list(stretch) if not isinstance(stretch, str) else []
        if len(limits) != 2 or not 0 <= limits[0] < limits[1] <= 100:
            raise ConfigError(f"stretch={stretch}: auto, null, or two percentiles as in [2,98]")
        sample = self._sample(dataset)
        if not sample.shape[1]:
            return None
        low, high = np.percentile(sample, limits, axis=1)
        return np.stack([low, np.maximum(high, low + np.maximum(np.abs(low), 1) * 1e-6)], axis=1).astype(np.float32)

    def _sample(self, dataset: DatasetReader) -> NDArray[np.float64]:
        """Values of the bands ``[bands, N]`` from all over the area, without those that are no data."""
        left, top, width, height = self._crop
        side = BLOCKS * BLOCK
        whole = Window(left, top, width, height), (min(height, side), min(width, side))
        if max(width, height) <= side or dataset.overviews(self.bands[0]):
            windows = [whole]
        else:
            starts = [np.linspace(0, max(0, n - BLOCK), BLOCKS, dtype=int) for n in (width, height)]
            size = min(height, BLOCK), min(width, BLOCK)
            windows = [(Window(left + x, top + y, *size[::-1]), size) for x in starts[0] for y in starts[1]]
        sample = self._valid_values(dataset, windows)
        return sample if sample.shape[1] or windows == [whole] else self._valid_values(dataset, [whole])

    def _valid_values(
        self, dataset: DatasetReader, windows: Sequence[tuple[Window, tuple[int, int]]]
    ) -> NDArray[np.float64]:
        found = []
        for window, shape in windows:
            try:
                values = self._values(dataset, window, shape, Resampling.nearest)
            except RasterioError:  # a damaged block: the tiles there will say so
                continue
            found.append(values[:, self._valid(dataset, values, window, shape)].astype(np.float64))
        sample = np.concatenate(found, axis=1) if found else np.zeros((len(self.bands), 0))
        return sample[:, np.isfinite(sample).all(0)]


def is_raster(path: str | Path) -> bool:
    """Whether a file, or an address, is one that only a raster can be: it has coordinates, or is no 8-bit photograph.

    Raises:
        DataError: it has a raster's name and cannot be read as one.
    """
    if is_address(path):
        return True
    if Path(path).suffix.lower() not in SUFFIXES:
        return False
    try:
        with rasterio.open(path) as dataset:
            points = bool(dataset.gcps[0]) or dataset.rpcs is not None
            placed = dataset.crs is not None or not dataset.transform.is_identity or points
            plain = set(dataset.dtypes) == {"uint8"} and dataset.count in (1, 3, 4) and dataset.driver == "GTiff"
            return placed or not plain or dataset.width * dataset.height > PHOTOGRAPH
    except RasterioError as error:
        if not Path(path).exists():
            raise DataError(f"{path}: no such image") from error
        raise _unreadable(str(path), error) from error


def _address(source: str, zoom: int) -> str:
    """What GDAL opens: a template of a tile service becomes its description."""
    if not all(part in source for part in ("{x}", "{y}", "{z}")):
        return source
    if not 0 <= zoom <= 30:
        raise ConfigError(f"zoom={zoom}: a tile service has 0 to 30")
    url = source.replace("&", "&amp;").replace("<", "&lt;")
    for key in "xyz":
        url = url.replace(f"{{{key}}}", f"${{{key}}}")
    window = f"<UpperLeftX>-{MERCATOR}</UpperLeftX><UpperLeftY>{MERCATOR}</UpperLeftY>" + (
        f"<LowerRightX>{MERCATOR}</LowerRightX><LowerRightY>-{MERCATOR}</LowerRightY>"
    )
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}</ServerUrl></Service><DataWindow>{window}'
        f"<TileLevel>{zoom}</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin>"
        "</DataWindow><Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY>"
        "<BandsCount>3</BandsCount><Timeout>60</Timeout></GDAL_WMS>"
    )


def _unreadable(source: str, error: RasterioError) -> DataError:
    return DataError(f"{source}: cannot be read as a raster ({reason(error)}); replace the file")


def _date(dataset: DatasetReader) -> str:
    """The day in the tags that TIFF and GDAL have for it."""
    said = dataset.tags(ns="IMAGERY").get("ACQUISITIONDATETIME") or dataset.tags().get("TIFFTAG_DATETIME", "")
    day = re.match(r"(\d{4})[-:/](\d\d)[-:/](\d\d)", said)
    return "-".join(day.groups()) if day else ""


def _palette(dataset: DatasetReader) -> Pixels | None:
    """The colours ``[N, 3]`` of a band of indices: of each that its type can hold."""
    if dataset.colorinterp[0] != ColorInterp.palette or dataset.dtypes[0] not in ("uint8", "uint16"):
        return None
    colours, count = dataset.colormap(1), int(np.iinfo(dataset.dtypes[0]).max) + 1
    return np.array([colours.get(value, (0, 0, 0))[:3] for value in range(count)], np.uint8)
