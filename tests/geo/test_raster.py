"""Rasters of every kind, read as 8-bit RGB."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from score.errors import ConfigError, DataError
from score.geo.raster import Raster, is_raster
from tests.geo.rasters import UTM, picture, write
from tests.geo.server import Server


def whole(raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    return raster.read((0, 0, raster.grid.width, raster.grid.height))


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = picture()
    return write(tmp_path / "scene.tif", pixels), pixels


def test_8_bit_colours_come_as_they_are(scene: tuple[Path, np.ndarray]) -> None:
    raster = Raster(scene[0])
    pixels, valid = whole(raster)
    assert (pixels == scene[1]).all() and valid.all() and raster.stretch is None and not raster.notes
    assert (raster.grid.width, raster.grid.height, raster.grid.transform) == (128, 96, UTM)
    assert (raster.read((5, 7, 30, 20))[0] == scene[1][7:27, 5:35]).all()


def test_only_formats_that_are_allowed(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    assert (whole(Raster(scene[0], drivers=["PNG", "GTiff"]))[0] == scene[1]).all()
    with pytest.raises(DataError, match=r"scene.tif: cannot be read as a raster \(not in a format of JPEG, PNG\)"):
        Raster(scene[0], drivers=["JPEG", "PNG"])


def test_a_damaged_png_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 3])
    assert (whole(Raster(tmp_path / "whole.png"))[0] == noise).all()
    with pytest.raises(DataError, match=r"half.png: cannot be read"):
        whole(Raster(tmp_path / "half.png"))


def test_which_bands(tmp_path: Path) -> None:
    pixels = picture(bands=5)
    path = write(tmp_path / "five.tif", pixels)
    assert (whole(Raster(path, bands=[5, 3, 1]))[0] == pixels[..., [4, 2, 0]]).all()
    assert (whole(Raster(path, bands=[2]))[0] == pixels[..., [1, 1, 1]]).all()
    assert Raster(path).bands == [1, 2, 3]
    names = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined, ColorInterp.undefined]
    told = write(tmp_path / "told.tif", pixels, colours=names)
    assert Raster(told).bands == [3, 2, 1]
    grey = write(tmp_path / "grey.tif", pixels[..., :1])
    assert (whole(Raster(grey))[0] == pixels[..., [0, 0, 0]]).all()
    for wrong in ([0, 1, 2], [1, 2], [1, 2, 6], [1.5]):
        with pytest.raises(ConfigError, match="bands"):
            Raster(path, bands=wrong)


@pytest.mark.parametrize(
    ("kind", "scale", "shift"), [("uint16", 40, 1000), ("float32", 0.01, -1), ("int16", 30, -4000)]
)
def test_deeper_values_are_stretched_over_the_whole_raster(
    tmp_path: Path, kind: str, scale: float, shift: float
) -> None:
    """Like the 8-bit picture of the same, stretched by the same percentiles; each window by the whole one's."""
    pixels = picture(bands=4)
    deep = Raster(write(tmp_path / "deep.tif", (pixels.astype(float) * scale + shift).astype(kind)))
    plain = Raster(write(tmp_path / "plain.tif", pixels), stretch=[2, 98])
    found, expected = whole(deep)[0], whole(plain)[0]
    assert np.abs(found.astype(int) - expected).max() <= 1
    low, high = np.percentile(pixels[..., 0], [2, 98])
    assert expected[..., 0] == pytest.approx(((pixels[..., 0] - low) / (high - low) * 255).clip(0, 255), abs=1)
    assert (deep.read((9, 3, 20, 30))[0] == found[3:33, 9:29]).all()


def test_what_is_no_data_is_black_and_known_and_not_in_the_stretch(tmp_path: Path) -> None:
    pixels = picture().astype(np.uint16) * 8
    pixels[:20] = 65535
    raster = Raster(write(tmp_path / "nodata.tif", pixels, nodata=65535))
    found, valid = whole(raster)
    assert not valid[:20].any() and valid[20:].all() and not found[:20].any()
    assert raster.stretch is not None and raster.stretch.max() <= 255 * 8
    told = Raster(write(tmp_path / "untold.tif", pixels), nodata=65535)
    assert (whole(told)[1] == valid).all()
    rgba = np.dstack([picture(), np.full((96, 128), 255, np.uint8)])
    rgba[:, 100:, 3] = 0
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    alpha = write(tmp_path / "alpha.tif", rgba, colours=colours)
    assert (whole(Raster(alpha))[1] == (rgba[..., 3] > 0)).all()
    floats = picture().astype(np.float32)
    floats[:, :9] = np.nan
    found, valid = whole(Raster(write(tmp_path / "nan.tif", floats)))
    assert not valid[:, :9].any() and valid[:, 9:].all() and not found[:, :9].any()


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    index = picture(bands=1) % 4
    path = write(tmp_path / "palette.tif", index)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (9, 8, 7), 1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255)})
    colours = np.array([(9, 8, 7), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    assert (whole(Raster(path))[0] == colours[index[..., 0]]).all()


def test_a_palette_of_16_bits_and_a_negative(tmp_path: Path) -> None:
    index = picture(bands=1).astype(np.uint16) % 4 + 300
    path = write(tmp_path / "palette.tif", index)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {300: (9, 8, 7), 301: (255, 0, 0), 302: (0, 255, 0), 303: (0, 0, 255)})
    colours = np.array([(9, 8, 7), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    assert (whole(Raster(path))[0] == colours[index[..., 0] - 300]).all()
    grey = picture(bands=1)
    negative = write(tmp_path / "negative.tif", 255 - grey, photometric="MINISWHITE")
    assert (whole(Raster(negative))[0] == grey).all()


def test_resampled_to_a_size_on_the_ground(scene: tuple[Path, np.ndarray]) -> None:
    raster = Raster(scene[0], gsd_m=1)
    assert raster.grid[:2] == (64, 48) and raster.grid.gsd == pytest.approx((1, 1))
    found = whole(raster)[0].astype(int)
    mean = scene[1].reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(found - mean).max() <= 1
    assert (raster.read((10, 10, 20, 20))[0] == found[10:30, 10:30]).all()
    with pytest.raises(ConfigError, match="a pixel of .* has 0.5 m"):
        Raster(scene[0], gsd_m=0.0005)


def test_degrees_become_square(tmp_path: Path) -> None:
    path = write(tmp_path / "wgs84.tif", picture(), Affine(1e-5, 0, 10, 0, -1e-5, 60), "EPSG:4326")
    raster = Raster(path)
    across, along = raster.grid.gsd
    assert across == pytest.approx(along, rel=0.02) and raster.grid.width == 91 and raster.grid.height == 136


def test_an_area_is_all_that_is_read(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    def degrees(x: float, y: float) -> tuple[float, float]:
        return Transformer.from_crs(32632, 4326, always_xy=True).transform(*(UTM @ (x, y)))

    (west, north), (east, south) = degrees(32, 16), degrees(96, 64)
    raster = Raster(scene[0], area=[west, south, east, north])
    x, y = raster.grid.transform @ (0, 0)
    left, top = ~UTM @ (x, y)
    assert (abs(left - 32), abs(top - 16)) < (2, 2) and abs(raster.grid.width - 64) < 4
    assert (whole(raster)[0] == scene[1][round(top) :, round(left) :][: raster.grid.height, : raster.grid.width]).all()
    triangle = shapely.Polygon([degrees(32, 16), degrees(96, 16), degrees(32, 64)])
    file = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(geometry=[triangle], crs=4326).to_file(file)
    from_file, from_shape = Raster(scene[0], area=file), Raster(scene[0], area=triangle)
    assert from_file.grid == from_shape.grid == Raster(scene[0], area=str(file)).grid
    assert from_file.area is not None and from_file.area.area == pytest.approx(64 * 48 / 2, rel=0.02)
    for wrong in ([0, 0, 1, 1], [5, 5, 1, 1], [1, 2, 3], [600_000, 5_000_000, 600_100, 5_000_100]):
        with pytest.raises(ConfigError, match="area="):
            Raster(scene[0], area=wrong)
    with pytest.raises(DataError, match="area="):
        Raster(scene[0], area=tmp_path / "missing.gpkg")


def test_an_area_beside_the_raster_is_refused(tmp_path: Path) -> None:
    """Where only its bounds meet those of a turned raster, and where the raster lies in one of its holes."""
    turned = write(tmp_path / "turned.tif", picture(), UTM @ Affine.rotation(45))
    x, y = UTM @ (-60, 20)
    corner = shapely.box(x, y, x + 4, y + 4)
    x, y = UTM @ (0, 0)
    ring = shapely.box(x - 900, y - 900, x + 900, y + 900) - shapely.box(x - 500, y - 500, x + 500, y + 500)
    for name, outline in (("corner", corner), ("ring", ring)):
        file = tmp_path / f"{name}.gpkg"
        geopandas.GeoDataFrame(geometry=[outline], crs=32632).to_file(file)
        with pytest.raises(ConfigError, match=r"outside of .*turned\.tif"):
            Raster(turned, area=file)
    with pytest.raises(ConfigError, match="across the 180th meridian"):
        Raster(turned, area=[179, 0, -179, 1])


@pytest.mark.parametrize(
    ("transform", "crs", "reason"),
    [
        (Affine(0.5, 0.5, 0, 0.5, 0.5, 0), "EPSG:32632", "have no size"),
        (Affine(0.5, 0, 1e18, 0, -0.5, 1e18), "EPSG:32632", "lies nowhere on Earth"),
        (Affine(1, 0, 0, 0, -1, 0), "EPSG:4978", "lies nowhere on Earth"),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, transform: Affine, crs: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Raster(write(tmp_path / "scene.tif", picture(), transform, crs))


def test_a_plane_of_its_own_has_no_area_in_degrees(tmp_path: Path) -> None:
    path = write(tmp_path / "site.tif", picture(), UTM, 'LOCAL_CS["site",UNIT["metre",1]]')
    assert Raster(path).grid.gsd == (0.5, 0.5)
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(tmp_path / "area.gpkg")
    for area in ([8, 47, 9, 48], tmp_path / "area.gpkg"):
        with pytest.raises(DataError, match="no way leads between the coordinate systems .*'site'"):
            Raster(path, area=area)


def test_two_points_place_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "points.tif", picture(), None)
    with rasterio.open(path, "r+") as dataset:
        points = [GroundControlPoint(0, 0, 6e5, 5.4e6), GroundControlPoint(0, 128, 6e5 + 64, 5.4e6)]
        dataset.gcps = points, rasterio.crs.CRS.from_epsg(32632)
    with pytest.raises(DataError, match="control points tell no place"):
        Raster(path)


def test_complex_values_are_refused(tmp_path: Path) -> None:
    for kind in ("complex64", "complex_int16"):
        path, profile = tmp_path / f"{kind}.tif", {"driver": "GTiff", "width": 32, "height": 32, "count": 1}
        with rasterio.open(path, "w", dtype=kind, **profile) as dataset:
            dataset.write(np.ones((1, 32, 32), np.complex64))
        with pytest.raises(DataError, match="complex numbers"):
            Raster(path)


def test_an_overview_is_the_whole_in_small(scene: tuple[Path, np.ndarray]) -> None:
    pixels, grid = Raster(scene[0]).overview(longest=64)
    assert pixels.shape == (48, 64, 3) and grid[:2] == (64, 48) and grid.transform.a == 1
    assert np.abs(pixels.astype(int) - scene[1].reshape(48, 2, 64, 2, 3).mean((1, 3))).max() <= 1


def test_threads_and_copies_have_handles_of_their_own(scene: tuple[Path, np.ndarray]) -> None:
    raster = Raster(scene[0])
    windows = [(x, y, 16, 16) for x in range(0, 112, 4) for y in range(0, 80, 4)]
    with ThreadPoolExecutor(4) as pool:
        for (x, y, w, h), (pixels, _) in zip(windows, pool.map(raster.read, windows), strict=True):
            assert (pixels == scene[1][y : y + h, x : x + w]).all()
    assert len({id(handle) for handle in raster._handles.values()}) == len(raster._handles) > 1
    copy = pickle.loads(pickle.dumps(raster))
    assert not copy._handles and (whole(copy)[0] == scene[1]).all() and copy.facts == raster.facts


@pytest.mark.parametrize("content", [b"", b"some text\n" * 40])
def test_what_is_no_raster_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "false.tif"
    path.write_bytes(content)
    for call in (Raster, is_raster):
        with pytest.raises(DataError, match=r"false\.tif: cannot be read as a raster"):
            call(path)
        with pytest.raises(DataError, match=r"missing\.tif: no such"):
            call(tmp_path / "missing.tif")


def test_a_damaged_block_fails_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write(tmp_path / "scene.tif", rng.integers(0, 255, (96, 128, 3), dtype=np.uint8), compress="deflate")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\0" * 200
    path.write_bytes(data)
    raster, failed = Raster(path), 0
    for x in range(0, 128, 32):
        for y in range(0, 96, 32):
            try:
                raster.read((x, y, 32, 32))
            except DataError as error:  # noqa: PERF203
                failed += 1
                assert str(error).startswith(f"{path}: cannot be read as a raster (")
    assert 1 <= failed <= 6


def test_what_is_a_raster(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "photo.tif")
    Image.fromarray(picture()).save(tmp_path / "photo.jpg")
    assert not is_raster(tmp_path / "photo.tif") and not is_raster(tmp_path / "photo.jpg")
    assert is_raster(write(tmp_path / "placed.tif", picture()))
    assert is_raster(write(tmp_path / "deep.tif", picture().astype(np.uint16), None))
    assert is_raster(write(tmp_path / "bands.tif", picture(bands=8), None))
    with rasterio.open(write(tmp_path / "camera.tif", picture(), None), "r+") as dataset:
        ones = [1.0] + [0.0] * 19
        dataset.rpcs = RPC(0, 1, 48, 1, ones, ones, 0, 1, 11, 1, ones, ones, 0, 1)
    assert is_raster(tmp_path / "camera.tif") and "camera model (RPC)" in Raster(tmp_path / "camera.tif").notes[1]
    assert is_raster(f"GTIFF_DIR:1:{tmp_path}/deep.tif") and Raster(f"GTIFF_DIR:1:{tmp_path}/deep.tif").bands == [
        1,
        2,
        3,
    ]
    assert is_raster("https://example.org/scene.tif") and is_raster("https://example.org/{z}/{x}/{y}.png")


def test_without_a_crs_coordinates_are_pixels(tmp_path: Path) -> None:
    raster = Raster(write(tmp_path / "bare.tif", picture(), None))
    assert raster.grid.crs is None and raster.notes == ["has no CRS: coordinates and sizes are in pixels"]
    assert Raster(tmp_path / "bare.tif", area=[10, 20, 40, 60]).grid[:2] == (30, 40)
    notes = Raster(write(tmp_path / "placed.tif", picture(), UTM, None)).notes
    assert notes == ["has no CRS: sizes are in pixels, coordinates as its geotransform has them"]
    with pytest.raises(ConfigError, match="gsd_m=1: .* has no CRS"):
        Raster(tmp_path / "bare.tif", gsd_m=1)


def test_a_cloud_optimised_geotiff_over_http(tmp_path: Path) -> None:
    pixels = picture(600, 700)
    write(
        tmp_path / "scene.tif", pixels, driver="COG", compress="deflate", tiled=None, blockxsize=None, blockysize=None
    )
    with Server(tmp_path) as address:
        raster = Raster(f"{address}/scene.tif")
        assert (raster.read((100, 50, 300, 200))[0] == pixels[50:250, 100:400]).all()
        with pytest.raises(DataError, match=r"missing\.tif: cannot be read"):
            Raster(f"{address}/missing.tif")


def test_a_tile_service_over_an_area(tmp_path: Path) -> None:
    """Tiles of zoom 4, each of one colour."""
    for x in range(16):
        for y in range(16):
            (tmp_path / "4" / str(x)).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (256, 256), (x * 16, y * 16, 99)).save(tmp_path / "4" / str(x) / f"{y}.png")
    with Server(tmp_path) as address:
        source = f"{address}/{{z}}/{{x}}/{{y}}.png"
        raster = Raster(source, zoom=4, area=[0.5, 0.5, 22, 21.5])  # within the tile x 8, y 7
        pixels, valid = whole(raster)
        assert valid.all() and (pixels == [8 * 16, 7 * 16, 99]).all()
        assert raster.grid.crs is not None and 9_000 < raster.grid.gsd[0] < 10_000
        with pytest.raises(ConfigError, match="is the whole world; give area"):
            Raster(source, zoom=4)
