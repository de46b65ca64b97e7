from __future__ import annotations

import json
import math
import resource
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pycocotools import mask as coco_mask
from pyproj import Geod

from score import masks
from score.drawing import palette
from score.errors import ConfigError, OutputError
from score.geo.formats import cut_at_180, without_holes
from score.geo.grid import Grid
from score.geo.outlines import trace
from score.geo.vectors import class_raster, frame, write
from score.result import Found
from tests.geo.objects import LOOK, UTM, WORDS, box, found, harbour, ring

pytestmark = pytest.mark.filterwarnings("ignore:More than one layer found")  # a GeoPackage's styles are the second


def exact(items: list[Found], grid: Grid = UTM, **rest) -> gpd.GeoDataFrame:
    return frame(items, grid, **LOOK, tolerance_m=0, **rest)


def test_the_outline_of_any_mask_is_valid_and_has_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits = [rng.random(rng.integers(1, 14, 2)) < rng.uniform(0, 0.9) for _ in range(300)]
    rles = [found(mask, 40 + 3 * index, 30).rle for index, mask in enumerate(bits)]
    for canvas in (4_000_000, 900):  # all at once, and a few
        monkeypatch.setattr("score.geo.outlines.CANVAS", canvas)
        for index, (mask, shape) in enumerate(zip(bits, trace(rles), strict=True)):
            assert shape.is_valid
            assert shape.area == mask.sum()
            y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
            assert (shapely.contains_xy(shape, x + 40 + 3 * index, y + 30) == mask).all()


def test_parts_and_holes_of_an_outline() -> None:
    assert trace([box(3, 2, 5, 6).rle])[0].equals(shapely.box(5, 6, 8, 8))
    assert trace([found(np.eye(3)).rle])[0].geom_type == "MultiPolygon"  # they touch in corners only
    hole = np.ones((5, 5))
    hole[2, 2] = 0
    shape = trace([found(hole).rle])[0]
    assert shape.geom_type == "Polygon" and len(shape.interiors) == 1
    assert trace([found(np.zeros((4, 4))).rle])[0].is_empty


def wgs84(latitude: float, metres: float) -> Grid:
    """Pixels of so many metres on the sphere's meridian, as wide in degrees as they are high."""
    step = metres / 111195
    return Grid(2000, 1000, Affine(step, 0, 10, 0, -step, latitude), "EPSG:4326")


def corner(crs: str, lon: float, lat: float, pixel: float, turn: float = 0) -> Grid:
    from pyproj import Transformer

    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    return Grid(2000, 1000, Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(pixel, -pixel), crs)


@pytest.mark.parametrize(
    "grid",
    [
        UTM,
        corner("EPSG:32633", 15, 45, 0.5, turn=30),
        wgs84(60, 0.5),
        wgs84(0, 30),
        corner("EPSG:2263", -74, 40.7, 1.0),  # New York, feet
        corner("EPSG:3857", 25, 60.2, 0.5),  # twice as large as they are
        corner("EPSG:32633", 27, 45, 0.5),  # two zones away
        corner("EPSG:32661", 0, 89.99, 1.0),  # the pole is in it
        corner("EPSG:3413", 100, 88, 1.0),
        corner("EPSG:4326", 179.999, -17, 5e-6),  # across the 180th meridian
    ],
    ids=["utm", "rotated", "wgs84 at 60", "wgs84 at 0", "feet", "mercator", "far", "pole", "arctic", "180"],
)
def test_measures_are_those_of_the_ellipsoid(grid: Grid) -> None:
    table = exact([box(120, 40, 900, 400)], grid)
    geod = Geod(ellps="GRS80" if grid.crs == "EPSG:2263" else "WGS84")
    corners = np.array([(900, 400), (1020, 400), (1020, 440), (900, 440)], float)
    turn = gpd.GeoSeries(shapely.points(grid.ground(corners)), crs=grid.crs).to_crs("EPSG:4326")
    lon, lat = turn.x.to_numpy(), turn.y.to_numpy()
    area = abs(geod.polygon_area_perimeter(lon, lat)[0])
    sides = geod.line_lengths(np.append(lon, lon[0]), np.append(lat, lat[0]))
    assert table["area_m2"][0] == pytest.approx(area, rel=1e-4)
    assert table["length_m"][0] == pytest.approx(max(sides), rel=2e-4)
    assert table["width_m"][0] == pytest.approx(min(sides), rel=2e-4)
    assert table.crs == grid.crs
    assert shapely.equals_exact(table.geometry[0].normalize(), shapely.Polygon(grid.ground(corners)).normalize(), 1e-6)


def test_one_object_on_the_same_ground_measures_the_same_in_every_raster() -> None:
    """Two kilometres by one, drawn into rasters of several systems."""
    ground = gpd.GeoSeries([shapely.box(499000, 6650000, 501000, 6651000)], crs="EPSG:32633")
    for crs, pixel in (("EPSG:32633", 4), ("EPSG:3857", 8), ("EPSG:4326", 5e-5), ("EPSG:3035", 4)):
        there = ground.to_crs(crs)
        left, _, _, top = there.total_bounds
        grid = Grid(900, 900, Affine(pixel, 0, left - 20 * pixel, 0, -pixel, top + 20 * pixel), crs)
        bits = rasterio.features.rasterize(there, (900, 900), transform=grid.transform)
        table = frame([found(bits)], grid, **LOOK)
        assert table["area_m2"][0] == pytest.approx(2e6 / 0.9996**2, rel=3e-3)
        assert table["length_m"][0] == pytest.approx(2000 / 0.9996, rel=0.01)
        assert table["width_m"][0] == pytest.approx(1000 / 0.9996, rel=0.01)


def test_without_a_crs_all_is_in_pixels() -> None:
    table = frame([box(6, 4, 10, 20)], Grid(100, 100), **LOOK)
    assert table.loc[0, ["area_px", "length_px", "width_px"]].tolist() == [24, 6, 4]
    assert "area_m2" not in table and table.crs is None
    assert table.geometry[0].bounds == (10, 20, 16, 24)


def test_the_columns_of_a_table() -> None:
    @dataclass(frozen=True, slots=True)
    class Placed(Found):
        tile: tuple[int, int]

    one = box(8, 8, label=1, score=0.75)
    items = [Placed(one.label, one.score, one.rle, one.name, one.seen, tile=(3, 12)), box(8, 8, 50, 50)]
    table = frame(items, UTM, **LOOK, asked={"storage tank": "storage tank, oil tank"})
    assert [*table.columns] == [
        *("class", "score", "seen", "area_m2", "length_m", "width_m"),
        *("source", "word", "tile", "model", "date", "geometry"),
    ]
    assert table["class"].tolist() == ["storage tank", "ship"]
    assert table["word"].tolist() == ["storage tank, oil tank", "ship"]
    assert table["tile"].tolist() == ["3,12", ""]
    assert table["seen"].tolist() == [False, True]
    assert not table.isna().any().any()
    assert (frame([], UTM, **LOOK).dtypes == table.dtypes).all()


def test_outlines_are_simplified_to_metres_on_the_ground() -> None:
    for grid in (UTM, wgs84(60, 0.5), corner("EPSG:3857", 25, 60.2, 0.5)):
        plain = exact(harbour(), grid).geometry.to_crs("EPSG:32633" if grid is UTM else grid.crs)
        for tolerance in (None, 2.0):
            table = frame(harbour(), grid, **LOOK, tolerance_m=tolerance)
            assert table.is_valid.all()
            local = table.estimate_utm_crs()
            away = shapely.hausdorff_distance(*(series.to_crs(local).boundary.array for series in (plain, table)))
            assert (away <= (tolerance or 0.51) * 1.01).all()
        assert shapely.get_num_coordinates(table.geometry[3]) < shapely.get_num_coordinates(plain[3]) / 4
        assert (table["area_m2"] == exact(harbour(), grid)["area_m2"]).all()  # the mask's, not the outline's


def test_simplified_outlines_of_any_mask_are_valid() -> None:
    rng = np.random.default_rng(1)
    items = [found(rng.random((9, 12)) < rng.uniform(0.3, 0.9), 20 * index, 5) for index in range(100)]
    for grid in (UTM, corner("EPSG:32633", 15, 45, 0.3, turn=17), wgs84(60, 0.3)):
        for tolerance in (None, 0.0, 1.1):
            table = frame(items, grid, **LOOK, tolerance_m=tolerance)
            assert len(table) == 100
            assert table.is_valid.all() and not table.is_empty.any()


def test_small_objects_are_left_out_by_their_area_on_the_ground() -> None:
    items = [box(4, 4), box(5, 4, 50, 50), found(np.zeros((3, 3)))]
    assert len(frame(items, UTM, **LOOK)) == 2  # an empty mask is no object
    assert len(frame(items, UTM, **LOOK, min_area_m2=4.9)) == 1
    assert len(frame(items, wgs84(60, 0.5), **LOOK, min_area_m2=2.4)) == 1  # of pixels half as wide


def test_oriented_boxes_are_rectangles_on_the_ground() -> None:
    y, x = np.mgrid[:200, :200] - 99.5
    for grid, squeeze in ((UTM, 1.0), (wgs84(60, 0.5), math.cos(math.radians(60)))):
        along, across = (squeeze * x + y) / 2**0.5, (squeeze * x - y) / 2**0.5
        bits = (np.abs(along) < 40) & (np.abs(across) < 10)
        table = frame([found(bits, 500, 300)], grid, **LOOK, oriented=True)
        shape = table.to_crs(table.estimate_utm_crs()).geometry[0]
        assert shapely.get_num_coordinates(shape) == 5
        assert table["length_m"][0] == pytest.approx(40, abs=0.8)
        assert table["width_m"][0] == pytest.approx(10, abs=0.8)
        assert shape.area == pytest.approx(table["length_m"][0] * table["width_m"][0], rel=5e-3)
        assert shape.area == pytest.approx(shape.minimum_rotated_rectangle.area, rel=5e-3)


def read(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp"])
def test_every_format_gives_back_what_was_written(suffix: str, tmp_path: Path) -> None:
    table = exact(harbour(), UTM)
    path = tmp_path / f"my objects{suffix}"
    for _ in range(2):  # the second replaces the first
        write(table, path)
    back = read(path).sort_values("score", ignore_index=True)
    assert [*back.columns] == [*table.columns]
    table = table.sort_values("score", ignore_index=True)
    for name in table.columns.drop("geometry"):
        if table[name].dtype == float:
            assert back[name].tolist() == pytest.approx(table[name].tolist())
        else:
            values = back[name].fillna("") if suffix == ".shp" else back[name]  # it does not know empty from none
            assert values.astype(table[name].dtype).tolist() == table[name].tolist()
    there = back.to_crs(UTM.crs).geometry
    assert there.is_valid.all()
    assert there.symmetric_difference(table.geometry).area.max() < 0.5
    assert [len(shapely.get_parts(shape)) for shape in there] == [len(shapely.get_parts(g)) for g in table.geometry]
    style = ET.fromstring(path.with_suffix(".qml").read_text().split("\n", 1)[1])
    assert [item.get("value") for item in style.iter("category")] == sorted(WORDS)
    left = {item.name for item in tmp_path.iterdir()}
    beside = {".shp", ".shx", ".dbf", ".prj", ".cpg"} if suffix == ".shp" else {suffix}
    assert left == {f"my objects{ending}" for ending in beside | {".qml"}}


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp", ".json"])
def test_every_format_holds_nothing(suffix: str, tmp_path: Path) -> None:
    for grid in (UTM, Grid(50, 50)):
        path = tmp_path / f"{grid.crs is None}{suffix}"
        write(frame([], grid, **LOOK), path, grid=grid, words=WORDS)
        if suffix == ".json":
            content = json.loads(path.read_text())
            assert content["annotations"] == [] and len(content["categories"]) == 3
        else:
            back = read(path)
            assert len(back) == 0
            if suffix != ".geojson":  # it knows attributes from objects only
                assert [*back.columns] == [*frame([], grid, **LOOK).columns]
                assert back.crs == grid.crs


def test_a_geopackage_opens_in_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    (tmp_path / "a.gpkg-wal").write_text("of another time")
    write(frame(harbour(), UTM, **LOOK), path, layer="found", words=WORDS)
    assert not (tmp_path / "a.gpkg-wal").exists()
    with sqlite3.connect(path) as base:
        [row] = base.execute(
            "select styleQML, useAsDefault from layer_styles where f_table_schema = '' and f_table_name = 'found'"
            " and f_geometry_column = (select column_name from gpkg_geometry_columns where table_name = 'found')"
        )
    base.close()
    assert row[1] == 1
    style = ET.fromstring(row[0].split("\n", 1)[1])
    assert style.find("renderer-v2").get("attr") == "class"
    symbols = {item.get("name"): item for item in style.iter("symbol")}
    for category, word, colour in zip(style.iter("category"), WORDS, palette(3), strict=True):
        assert category.get("value") == word
        layer = symbols[category.get("symbol")].find("layer")
        options = {item.get("name"): item.get("value") for item in layer.find("Option")}
        assert options == {item.get("k"): item.get("v") for item in layer.iter("prop")}
        assert options["outline_color"] == "{},{},{},255".format(*colour)


def test_geojson_keeps_the_rfc(tmp_path: Path) -> None:
    for grid in (corner("EPSG:4326", 179.999, -17, 5e-6), corner("EPSG:32760", 179.999, -17, 0.5)):
        path = tmp_path / "a.geojson"
        table = exact([box(120, 40, 100, 400), ring(60, 30, 140, 400)], grid)
        write(table, path)
        content = json.loads(path.read_text())
        assert "crs" not in content
        for item, area in zip(content["features"], table["area_m2"], strict=True):
            shape = shapely.geometry.shape(item["geometry"])
            parts = list(shapely.get_parts(shape))
            assert shape.is_valid and all(part.exterior.is_ccw for part in parts)
            assert all(not hole.is_ccw for part in parts for hole in part.interiors)
            assert all(part.bounds[2] - part.bounds[0] < 0.01 and abs(part.bounds[0]) <= 180 for part in parts)
            assert {round(part.bounds[0]) for part in parts} == {-180, 180}
            geod = Geod(ellps="WGS84")
            assert sum(abs(geod.geometry_area_perimeter(part)[0]) for part in parts) == pytest.approx(area, rel=1e-3)
    places = shapely.get_coordinates(parts).ravel().tolist()
    assert max(len(repr(number).split(".")[1]) for number in places) <= 8


def test_a_plane_of_its_own_keeps_its_coordinates_in_geojson(tmp_path: Path) -> None:
    grid = Grid(2000, 1000, Affine(0.5, 0, 100, 0, -0.5, 900), 'LOCAL_CS["site",UNIT["metre",1]]')
    write(exact(harbour(), grid), tmp_path / "a.geojson")
    west, south, east, north = gpd.read_file(tmp_path / "a.geojson").total_bounds
    assert (west, south, east, north) == (150, 497, 880, 800)


def test_longitudes_beyond_180_are_turned_back() -> None:
    shapes = np.array([shapely.box(190, 0, 191, 1), shapely.box(10, 0, 11, 1), shapely.box(-181, 0, -179, 1)])
    back = cut_at_180(shapes)
    assert [shape.bounds for shape in back[:2]] == [(-170, 0, -169, 1), (10, 0, 11, 1)]
    assert {part.bounds for part in back[2].geoms} == {(179, 0, 180, 1), (-180, 0, -179, 1)}


def test_coco_polygons_give_back_the_masks(tmp_path: Path) -> None:
    items, path = harbour(), tmp_path / "a.json"
    write(
        exact(items, corner("EPSG:32633", 15, 45, 0.3, turn=17)),
        path,
        words=WORDS,
        grid=corner("EPSG:32633", 15, 45, 0.3, turn=17),
    )
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 1, "file_name": "harbour.tif", "width": 2000, "height": 1000}]
    assert [item["name"] for item in content["categories"]] == WORDS
    for item, annotation in zip(items, content["annotations"], strict=True):
        assert annotation["category_id"] == item.label + 1
        assert annotation["bbox"] == list(item.box)
        assert annotation["area"] == item.area
        rle = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], 1000, 2000))
        assert (coco_mask.decode(rle) == masks.decode(masks.paste(item.rle, 1000, 2000))).all()


def test_holes_are_cut_away_without_loss() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        shape = trace([found(rng.random((20, 20)) < 0.8).rle])[0]
        pieces = [piece for part in shapely.get_parts(shape) for piece in without_holes(part)]
        assert not any(piece.interiors for piece in pieces)
        assert sum(piece.area for piece in pieces) == pytest.approx(shape.area)
        assert shapely.union_all(pieces).symmetric_difference(shape).area == pytest.approx(0, abs=1e-9)


def test_a_shapefile_has_names_of_ten_letters(tmp_path: Path) -> None:
    table = exact(harbour()).assign(area_before_m2=1.0, area_after_m2=2.0, something_long=3, something_longer=4)
    write(table, tmp_path / "a.shp")
    names = [*gpd.read_file(tmp_path / "a.shp").columns]
    assert names[-5:] == ["area_b_m2", "area_a_m2", "something_", "somethi_14", "geometry"]


def test_what_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    table = exact(harbour())
    with pytest.raises(ConfigError, match=r"a\.kml: not a format .*\.gpkg, \.parquet, \.fgb, \.geojson, .*json"):
        write(table, tmp_path / "a.kml")
    with pytest.raises(ConfigError, match="needs the raster's grid"):
        write(table, tmp_path / "a.json")
    (tmp_path / "file").write_text("")
    for suffix in (".gpkg", ".parquet", ".fgb", ".geojson", ".shp"):
        with pytest.raises(OutputError) as error:
            write(table, tmp_path / "file" / f"a{suffix}")
        assert "\n" not in str(error.value)
    with pytest.raises(OutputError):
        class_raster(harbour(), UTM, WORDS, tmp_path / "file" / "a.tif")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp", ".tif"])
def test_a_disk_that_is_full_leaves_what_was_there(suffix: str, tmp_path: Path) -> None:
    items, path = [ring(9, 0, 20 * (i % 90), 20 * (i // 90)) for i in range(300)], tmp_path / f"a{suffix}"

    def save(items: list[Found]) -> None:
        class_raster(items, UTM, WORDS, path) if suffix == ".tif" else write(exact(items), path)

    save(items[:1])
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OutputError) as error:
            save(items)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


@pytest.mark.skipif(not shutil.which("ogrinfo"), reason="ogrinfo is not installed (apt-get install gdal-bin)")
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".shp"])
def test_gdal_reads_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"objects{suffix}"
    write(exact(harbour()), path)
    told = subprocess.run(["ogrinfo", "-so", path, "objects"], capture_output=True, text=True, check=True).stdout
    assert "Feature Count: 5" in told
    assert "area_m2: Real" in told


def test_a_class_raster_is_a_cog_of_the_better_scores(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    items = [
        box(700, 600, 10, 10, score=0.5),
        box(600, 700, 200, 200, label=1, score=0.9),
        box(9, 9, 400, 400, label=2),
    ]
    class_raster(items, UTM, WORDS, path)
    want = np.zeros((1000, 2000), np.uint8)
    want[10:610, 10:710] = 1
    want[200:900, 200:800] = 2
    with rasterio.open(path) as raster:
        assert raster.profile["driver"] == "GTiff" and raster.dtypes == ("uint8",)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.block_shapes == [(512, 512)] and raster.overviews(1) == [2, 4]
        assert (raster.read(1) == want).all()
        assert raster.nodata == 0 and raster.crs == UTM.crs and raster.transform == UTM.transform
        assert [raster.colormap(1)[number][:3] for number in (1, 2, 3)] == palette(3)
        assert raster.tags()["CLASS_3"] == WORDS[2]
    names = [item.text or "" for item in ET.parse(tmp_path / "a.tif.aux.xml").iter("Category")]
    assert names == ["", *WORDS]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_class_raster_of_nothing_and_of_many_classes(tmp_path: Path) -> None:
    class_raster([], Grid(30, 20), WORDS, tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert raster.read(1).shape == (20, 30) and not raster.read(1).any()
    words = [f"class {number}" for number in range(300)]
    one = Found(299, 0.5, box(5, 5).rle, words[299], True)
    class_raster([one], Grid(30, 20), words, tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as raster:
        assert raster.dtypes == ("uint16",) and raster.read(1).max() == 300
