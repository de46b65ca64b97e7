from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import score
from score.errors import ConfigError, DataError
from tests.tiny_model import tiny_folder

EVERYTHING = {"score": 0.0, "top_k": None, "overlap": 1.0, "min_area": 0}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "model", ["ship", "storage_tank"])
    segmenter = score.Segmenter(score.load_model(folder, "cpu"), shortest=64, longest=96)
    segmenter.set_vocabulary(["ship", "swimming pool", "palm tree"])
    return segmenter


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_import_is_cheap() -> None:
    code = (
        "import score, sys; score.__version__; score.load_model; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_names_are_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="Segmentor"):
        score.Segmentor  # noqa: B018


@pytest.mark.parametrize("size", [(50, 90), (200, 100), (33, 500)])
def test_detections_have_the_size_of_the_image(segmenter: score.Segmenter, size: tuple[int, int]) -> None:
    found = segmenter.segment(noise(*size), **EVERYTHING)
    assert found
    assert all(item.mask.shape == size and 0 <= item.label < 3 and 0 <= item.score <= 1 for item in found)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_an_array_a_picture_and_a_path_give_the_same(segmenter: score.Segmenter, tmp_path: Path) -> None:
    image = noise(80, 120)
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = segmenter.segment(image, **EVERYTHING)
    assert segmenter.segment(Image.fromarray(image), **EVERYTHING) == expected
    assert segmenter.segment(tmp_path / "image.png", **EVERYTHING) == expected
    assert segmenter.segment(str(tmp_path / "image.png"), **EVERYTHING) == expected


def test_what_it_finds_is_what_the_model_says(segmenter: score.Segmenter) -> None:
    """An image of the test size needs no resizing: the model's own masks are the detections'."""
    image = noise(64, 96)
    inputs = [{"image": torch.from_numpy(image).permute(2, 0, 1), "height": 64, "width": 96}]
    with torch.inference_mode():
        [output] = segmenter.model(inputs, segmenter.vocabulary)
    instances = output["instances"]
    order = instances.scores.argsort(descending=True, stable=True)
    found = segmenter.segment(image, **EVERYTHING)
    assert [item.label for item in found] == instances.pred_classes[order].tolist()
    assert (np.stack([item.mask for item in found]) == instances.pred_masks[order].numpy()).all()


def test_thresholds_choose_among_all(segmenter: score.Segmenter) -> None:
    image = noise(80, 120)
    everything = segmenter.segment(image, **EVERYTHING)
    middle = everything[len(everything) // 2]
    assert len(segmenter.segment(image, **{**EVERYTHING, "top_k": 2})) == 2
    assert all(item.score >= middle.score for item in segmenter.segment(image, **{**EVERYTHING, "score": middle.score}))
    assert all(item.area >= 100 for item in segmenter.segment(image, **{**EVERYTHING, "min_area": 100}))
    assert len(segmenter.segment(image, **{**EVERYTHING, "overlap": 0.5})) < len(everything)


def test_another_vocabulary_is_found_from_then_on(segmenter: score.Segmenter) -> None:
    other = score.Segmenter(segmenter.model, shortest=64, longest=96)
    other.set_vocabulary(["quay"])
    assert {item.label for item in other.segment(noise(80, 120), **EVERYTHING)} == {0}
    assert {item.label for item in segmenter.segment(noise(80, 120), **EVERYTHING)} == {0, 1, 2}


def test_a_vocabulary_is_needed_and_must_be_one(segmenter: score.Segmenter) -> None:
    other = score.Segmenter(segmenter.model)
    with pytest.raises(ConfigError, match="set_vocabulary"):
        other.segment(noise(80, 120))
    for names in ([], ["ship", "Ship"], ["storage tank", "tank, storage_tank"], ["ship", " "]):
        with pytest.raises(ConfigError):
            other.set_vocabulary(names)
    assert other.names == []


def test_what_is_no_image_is_refused(segmenter: score.Segmenter, tmp_path: Path) -> None:
    for wrong in (noise(8, 8)[..., 0], noise(8, 8).astype(np.float32), noise(8, 8)[:0]):
        with pytest.raises(DataError, match="uint8 RGB"):
            segmenter.segment(wrong)
    with pytest.raises(DataError, match="no such image"):
        segmenter.segment(tmp_path / "missing.png")
