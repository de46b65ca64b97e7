"""A raster and a vector layer as tiles to learn from."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco_mask
from shapely.affinity import affine_transform

from score.data.prepare.parts import Plan
from score.data.prepare.run import prepare
from score.errors import ConfigError, DataError
from score.geo import labels
from tests.geo.rasters import UTM, picture, write

HOLE = shapely.box(20, 20, 70, 60).difference(shapely.box(30, 30, 40, 40))
PARTS = shapely.union_all([shapely.box(100, 10, 110, 30), shapely.box(120, 10, 130, 30)])
SHAPES = {"pond": HOLE, "farm": PARTS, "road": shapely.box(0, 80, 200, 86)}


def layer(path: Path, crs: int = 32632, **columns: object) -> Path:
    flat = [UTM.a, UTM.b, UTM.d, UTM.e, UTM.c, UTM.f]
    shapes = [affine_transform(shape, flat) for shape in SHAPES.values()]
    table = geopandas.GeoDataFrame({"class": list(SHAPES), **columns}, geometry=shapes, crs=32632).to_crs(crs)
    table.to_file(path)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", picture(100, 200))


def made(scene: Path, vectors: Path, root: Path, **choice: object) -> dict[str, dict[str, np.ndarray]]:
    names, items, notes = labels.items(scene, vectors, "class", **choice)  # type: ignore[arg-type]
    prepare(Plan("mine", names, items, notes=notes), root)
    found: dict[str, dict[str, np.ndarray]] = {}
    for split in ("train", "val"):
        path = root / "mine" / split / f"instances_{split}.json"
        coco = json.loads(path.read_text()) if path.exists() else {"images": [], "annotations": [], "categories": []}
        name = {each["id"]: each["name"] for each in coco["categories"]}
        files = {each["id"]: each["file_name"] for each in coco["images"]}
        for each in coco["annotations"]:
            key = "ignored" if each["iscrowd"] else name[each["category_id"]]
            found.setdefault(files[each["image_id"]], {})[key] = coco_mask.decode(each["segmentation"]).astype(bool)
    return found


def burnt(name: str) -> np.ndarray:
    """Pixels whose middle lies in a shape."""
    y, x = np.mgrid[0:100, 0:200] + 0.5
    return shapely.contains_xy(SHAPES[name], x, y)


@pytest.mark.parametrize("crs", [32632, 4326])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
def test_shapes_become_masks_in_any_crs_and_format(scene: Path, tmp_path: Path, crs: int, suffix: str) -> None:
    if suffix == "geojson" and crs != 4326:
        pytest.skip("GeoJSON is in degrees")
    found = made(scene, layer(tmp_path / f"labels.{suffix}", crs), tmp_path / "data", size=200, val=0.0)
    [(name, objects)] = found.items()
    assert name == "scene_0_0.png" and objects.keys() == SHAPES.keys()
    for key, mask in objects.items():
        assert np.count_nonzero(mask != burnt(key)) <= (0 if crs == 32632 else 4), key
    pixels = np.asarray(Image.open(tmp_path / "data" / "mine" / "train" / "images" / name))
    assert (pixels == picture(100, 200)).all()


def test_blocks_keep_the_splits_apart(scene: Path, tmp_path: Path) -> None:
    found = made(scene, layer(tmp_path / "labels.gpkg"), tmp_path / "data", size=16, val=0.4, least=1)
    whole = {name: np.zeros((100, 200), int) for name in SHAPES}
    sides = {split: set((tmp_path / "data" / "mine" / split / "images").iterdir()) for split in ("train", "val")}
    assert all(sides.values())
    shown = {split: np.zeros((100, 200), bool) for split in sides}
    for split, files in sides.items():
        for path in files:
            x, y = map(int, path.stem.split("_")[1:])
            shown[split][y : y + 16, x : x + 16] = True
            for name, mask in found[path.name].items():
                whole[name][y : y + 16, x : x + 16] = np.maximum(whole[name][y : y + 16, x : x + 16], mask)
    assert not (shown["train"] & shown["val"]).any()
    assert all((whole[name].astype(bool) == burnt(name)).all() for name in SHAPES)


def test_outside_of_the_area_nothing_is_background(scene: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside.gpkg"
    flat = [UTM.a, UTM.b, UTM.d, UTM.e, UTM.c, UTM.f]
    geopandas.GeoDataFrame(geometry=[affine_transform(shapely.box(0, 0, 90, 100), flat)], crs=32632).to_file(inside)
    [(_, objects)] = made(
        scene, layer(tmp_path / "labels.gpkg"), tmp_path / "data", size=200, val=0.0, inside=inside
    ).items()
    assert objects["ignored"][:, 90:].all() and not objects["ignored"][:, :90].any()


def test_layers_that_cannot_be_used(scene: Path, tmp_path: Path) -> None:
    good = layer(tmp_path / "labels.gpkg", note=["a", "b", None])
    with pytest.raises(DataError, match=r"no attribute 'kind'; it has class, note"):
        labels.items(scene, good, "kind")
    names, _, notes = labels.items(scene, good, "note", size=200)
    assert names == ["a", "b"] and notes == ["1 polygons have no note, left out"]
    bare = tmp_path / "bare.shp"
    layer(bare)
    bare.with_suffix(".prj").unlink()
    with pytest.raises(DataError, match="has no CRS"):
        labels.items(scene, bare, "class")
    far = tmp_path / "far.gpkg"
    geopandas.GeoDataFrame({"class": ["x"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(far)
    with pytest.raises(DataError, match="nothing of it lies on"):
        labels.items(scene, far, "class")
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame({"class": ["x"]}, geometry=[shapely.Point(10, 48)], crs=4326).to_file(points)
    with pytest.raises(DataError, match="no polygon with a class"):
        labels.items(scene, points, "class")
    (tmp_path / "text.gpkg").write_text("text")
    with pytest.raises(DataError, match="cannot be read as a vector layer"):
        labels.items(scene, tmp_path / "text.gpkg", "class")
    with pytest.raises(DataError, match="no such vector file"):
        labels.items(scene, tmp_path / "missing.gpkg", "class")


def test_only_areas_of_a_collection_count_and_names_stay_whole_numbers(tmp_path: Path, scene: Path) -> None:
    flat = [UTM.a, UTM.b, UTM.d, UTM.e, UTM.c, UTM.f]
    line = shapely.LineString([(0, 70), (190, 70)])
    both = shapely.GeometryCollection([SHAPES["pond"], line])
    table = geopandas.GeoDataFrame({"class": [7, None]}, geometry=[affine_transform(both, flat)] * 2, crs=32632)
    table.to_file(tmp_path / "labels.gpkg")
    [tile] = made(scene, tmp_path / "labels.gpkg", tmp_path, size=200, val=0.0).values()
    assert tile.keys() == {"7"} and (tile["7"] == burnt("pond")).all()


@pytest.mark.parametrize("kind", ["pixels as degrees", "area elsewhere"])
def test_layers_that_do_not_meet_the_raster(tmp_path: Path, scene: Path, kind: str) -> None:
    vectors, inside = layer(tmp_path / "labels.gpkg"), None
    away = geopandas.GeoDataFrame({"class": ["a"]}, geometry=[shapely.box(5e5, 5e6, 6e5, 6e6)], crs=None)
    if kind == "pixels as degrees":  # GeoJSON without a CRS is in degrees
        vectors = tmp_path / "away.geojson"
        away.to_file(vectors)
    else:
        inside = tmp_path / "away.gpkg"
        away.set_geometry([shapely.box(0, 0, 1, 1)], crs=32632).to_file(inside)
    with pytest.raises(DataError, match=r"away\.\w+: nothing of it lies on .*scene\.tif; check both files' CRS"):
        made(scene, vectors, tmp_path, inside=inside)


def test_names_that_differ_by_case_are_refused(tmp_path: Path, scene: Path) -> None:
    layer(tmp_path / "labels.gpkg")
    table = geopandas.read_file(tmp_path / "labels.gpkg")
    table.assign(**{"class": ["pond", "Pond", "road"]}).to_file(tmp_path / "labels.gpkg")
    with pytest.raises(ConfigError, match="duplicate class name"):
        made(scene, tmp_path / "labels.gpkg", tmp_path)
