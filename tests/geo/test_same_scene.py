"""One scene as many rasters: what is found covers the same ground, whatever the file."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.warp import Resampling, calculate_default_transform, reproject

from score import masks
from score.geo.merge import merge, place
from score.geo.raster import Raster
from score.geo.tiles import plan
from score.geo.vectors import frame
from score.result import Found
from tests.geo.rasters import UTM, write
from tests.geo.server import Server

BOXES = [(40, 30, 90, 120, 0), (200, 60, 110, 80, 1), (400, 40, 140, 140, 2), (60, 250, 480, 60, 0),
         (90, 400, 130, 100, 5), (330, 380, 100, 150, 1), (490, 420, 80, 90, 4)]  # fmt: skip


@functools.cache
def drawn() -> np.ndarray:
    """Bright boxes, some turned, one longer than a tile, on dark ground."""
    pixels = np.full((600, 600, 3), 40, np.uint8)
    for x, y, w, h, turn in BOXES:
        box = cv2.boxPoints(((x + w / 2, y + h / 2), (w * 0.9, h * 0.9), turn))
        cv2.fillPoly(pixels, [box.astype(np.int32)], (200, 210, 190))
    return pixels


def areas(source: str | Path, **reading: object) -> np.ndarray:
    """Square metres of each bright object, in tiles of 160 pixels, sorted."""
    raster = Raster(source, **reading)  # type: ignore[arg-type]
    tiles, parts = plan(raster.grid.width, raster.grid.height, 256, 64), []
    for tile in tiles:
        pixels, valid = raster.read(tile.window)
        count, label = cv2.connectedComponents(((pixels[..., 0] > 120) & valid).astype(np.uint8))
        bits = [label == number for number in range(1, count)]
        found = [Found(0, 0.9, masks.encode(mask[None])[0], "box", True) for mask in bits]
        parts += place(found, tile)
    windows = {(tile.row, tile.column): tile.window for tile in tiles}
    whole = merge(parts, windows, raster.grid[:2])
    table = frame(whole, raster.grid, source=str(source), model="", date="")
    assert table.geometry.is_valid.all()
    return np.sort(table["area_m2"])


def warped(path: Path, source: Path, crs: str, resolution: tuple[float, float] | None = None) -> Path:
    with rasterio.open(source) as dataset:
        size = dataset.width, dataset.height
        place, width, height = calculate_default_transform(
            dataset.crs, crs, *size, *dataset.bounds, resolution=resolution
        )
        pixels = np.zeros((3, height, width), np.uint8)
        into = {"dst_transform": place, "dst_crs": crs, "resampling": Resampling.bilinear}
        reproject(dataset.read(), pixels, src_transform=dataset.transform, src_crs=dataset.crs, **into)
    return write(path, pixels.transpose(1, 2, 0), place, crs)


@pytest.fixture(scope="module")
def utm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scene") / "utm.tif", drawn())


@pytest.fixture(scope="module")
def expected(utm: Path) -> np.ndarray:
    """Of UTM; true areas are larger than those on the map by its scale there."""
    found = areas(utm)
    _, label = cv2.connectedComponents((drawn()[..., 0] > 120).astype(np.uint8))
    assert found == pytest.approx(np.sort(np.bincount(label.ravel())[1:]) * 0.25, rel=2e-3)
    assert len(found) == len(BOXES)
    return found


def test_other_coordinates(utm: Path, expected: np.ndarray, tmp_path: Path) -> None:
    for code in ("EPSG:4326", "EPSG:3857", "EPSG:3035", "EPSG:2154"):
        path = warped(tmp_path / f"{code[5:]}.tif", utm, code)
        assert areas(path) == pytest.approx(expected, rel=0.01), code


def test_degrees_with_the_same_pixels(utm: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """Pixels that are square on the ground are not in degrees."""
    turn = Transformer.from_crs(32632, 4326, always_xy=True)
    (west, north), (east, south) = turn.transform(*(UTM @ (0, 0))), turn.transform(*(UTM @ (600, 600)))
    place = Affine((east - west) / 600, 0, west, 0, (south - north) / 600, north)
    assert areas(write(tmp_path / "degrees.tif", drawn(), place, "EPSG:4326")) == pytest.approx(expected, rel=0.01)


def test_turned(expected: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "turned.tif", drawn(), UTM @ Affine.rotation(30))
    assert areas(path) == pytest.approx(expected, rel=1e-3)


def test_borders_without_data(expected: np.ndarray, tmp_path: Path) -> None:
    pixels = np.zeros((700, 760, 3), np.uint8)
    pixels[50:650, 100:700] = drawn()
    path = write(tmp_path / "border.tif", pixels, UTM @ Affine.translation(-100, -50), nodata=0)
    assert areas(path) == pytest.approx(expected, rel=1e-3)


def test_16_bits_and_four_bands(expected: np.ndarray, tmp_path: Path) -> None:
    near = np.full((600, 600, 1), 7, np.uint16)
    path = write(tmp_path / "deep.tif", np.dstack([drawn().astype(np.uint16) * 9 + 300, near]))
    assert areas(path) == pytest.approx(expected, rel=1e-3)


def test_one_band(expected: np.ndarray, tmp_path: Path) -> None:
    assert areas(write(tmp_path / "grey.tif", drawn()[..., :1])) == pytest.approx(expected, rel=1e-3)


def test_a_cog_over_http_and_a_vrt(utm: Path, expected: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "cog.tif", drawn(), driver="COG", compress="deflate")
    with Server(tmp_path) as address:
        assert areas(f"{address}/cog.tif") == pytest.approx(expected, rel=1e-3)
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="600" rasterYSize="600"><SRS>EPSG:32632</SRS><GeoTransform>600000,0.5,0,5400000,0,'
        "-0.5</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="0">{utm}'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    assert areas(vrt) == pytest.approx(expected, rel=1e-3)


def test_resampled(utm: Path, expected: np.ndarray) -> None:
    assert areas(utm, gsd_m=0.6) == pytest.approx(expected, rel=0.02)


def test_jpeg_2000(expected: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.jp2", drawn(), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    assert areas(path) == pytest.approx(expected, rel=1e-3)
