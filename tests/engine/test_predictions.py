from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from score.detections import encode_instances
from score.engine import predictions
from score.weights import folder as model_folder
from tests.tiny_model import tiny_model


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    for name in ("image.tif", "label.png"):
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / name)
    files = {"file_name": str(tmp_path / "image.tif"), "sem_seg_file_name": str(tmp_path / "label.png")}
    return [{**files, "height": 8, "width": 8, "image_id": 1, "annotations": []}]


@pytest.mark.parametrize("name", ["image.tif", "label.png"])
def test_other_pixels_are_another_dataset(records: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    before = predictions.fingerprint(records)
    size = (tmp_path / name).stat().st_size
    Image.fromarray(np.full((8, 8), 3, dtype=np.uint8)).save(tmp_path / name)
    assert predictions.fingerprint(records) != before
    assert name != "image.tif" or (tmp_path / name).stat().st_size == size


def test_where_files_lie_and_when_they_were_written_does_not_matter(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("image.tif", "label.png"):
        shutil.copyfile(tmp_path / name, moved / name)
    there = {key: str(moved / Path(records[0][key]).name) for key in ("file_name", "sem_seg_file_name")}
    assert predictions.fingerprint([{**records[0], **there}]) == predictions.fingerprint(records)


def test_other_annotations_are_another_dataset(records: list[dict[str, Any]]) -> None:
    changed = [{**records[0], "annotations": [{"category_id": 0}]}]
    assert predictions.fingerprint(changed) != predictions.fingerprint(records)


def test_code_is_hashed_by_what_it_says() -> None:
    assert predictions.code("model") == predictions.code("model")
    assert len({predictions.code(place) for place in ("model", "evaluation", "names.py", "model/matcher.py")}) == 4


@pytest.mark.parametrize("settings", [(), ("decoder=places", "scene=backbone")], ids=["reference", "places"])
def test_what_is_kept_gives_the_instances_of_the_model(settings: tuple[str, ...]) -> None:
    model, _ = tiny_model(["ship", "plane"], *settings)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    item = {"image": image, "height": 80, "width": 120, "image_id": 7}
    words = model.vocabulary(["ship", "dam"])
    with torch.no_grad():
        [result] = model([item], words, masks="rle")
        prediction = model.predict([item], words)
    kept = predictions.encode(prediction, 0, item)
    found = kept.instances(model.ensemble, words.seen, model.selection.top_k)
    expected = encode_instances(result["instances"])
    assert len(found) == len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.label, ours.rle) == (theirs.label, theirs.rle)
        assert ours.score == pytest.approx(theirs.score, rel=1e-4, abs=1e-6)


def test_predictions_of_other_scenes_are_others(tmp_path: Path) -> None:
    """Whether the scene has a tower of its own, is the backbone's, or is none."""
    digests = set()
    for index, settings in enumerate((["scene=tiny"], ["scene=backbone"], ["scene=off", "rai=off", "gca=off"])):
        model, config = tiny_model(["ship"], *settings)
        folder = tmp_path / str(index)
        model_folder.save(folder, model, config, {})
        digests.add(predictions.origin(folder, model, config)["network"])
    assert len(digests) == 3
