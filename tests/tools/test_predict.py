from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score.studies import calibration
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return tiny_folder(path, ["ship", "storage_tank"], "input.test.shortest=64", "input.test.longest=96")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / name)
    return folder


ALL = ("score=0", "top_k=4", "overlap=1", "runtime.threads=1", "runtime.device=cpu")


def test_the_command_writes_pictures_and_predictions(model: Path, images: Path, tmp_path: Path, call: Call) -> None:
    words = "vocabulary=[ship,'storage tank','swimming pool']"
    done = call("predict", f"model={model}", f"images={images}", words, "output=out", *ALL)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [item["name"] for item in found["categories"]] == ["ship", "storage tank", "swimming pool"]
    assert [item["file_name"] for item in found["images"]] == ["a.png", "b.jpg"]
    assert len(found["annotations"]) == 8
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == ["a.jpg", "b.jpg"]
    lines = done.out.splitlines()
    assert lines[0].startswith("a.png (80 x 60): ship: ") and lines[-1] == "saved in out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]  # and nothing else
    again = call("predict", f"model={model}", f"images={images}", words, "output=out", *ALL)
    assert again.out.splitlines()[0] == "done before: 2 of 2"


def test_it_says_how_many_lie_below_the_threshold(model: Path, images: Path, call: Call) -> None:
    settings = ("score=null", "overlap=1", "runtime.threads=1")
    calibration.save(model, {"seen": 1.0, "unseen": 0.9, "distractors": []})
    try:
        done = call("predict", f"model={model}", f"images={images}", "vocabulary=[ship,quay]", "output=out", *settings)
    finally:
        (model / "calibration.yaml").unlink()
    assert done.code == 0, done.err
    assert "ship: 0, and " in done.out and " below the threshold 1" in done.out


def test_folders_and_words_may_be_numbers(model: Path, images: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(model, tmp_path / "2024")
    images.rename(tmp_path / "2024_01")
    done = call("predict", "model=2024", "images=2024_01", "output=20240116", "vocabulary=5", *ALL)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "20240116" / "predictions.json").read_text())
    assert [item["name"] for item in found["categories"]] == ["5"] and len(found["images"]) == 2
    done = call("predict", "model=2024", "images=2024_01", "output=1e5", "vocabulary=[5,747]", *ALL)
    assert done.code == 0 and (tmp_path / "1e5").is_dir(), done.err


def test_a_damaged_image_among_others_is_said_at_the_end(model: Path, images: Path, tmp_path: Path, call: Call) -> None:
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:90])
    done = call("predict", f"model={model}", f"images={images}", "vocabulary=ship", "output=out", *ALL)
    assert done.code == 1
    first, count, again = done.err.splitlines()
    assert first.startswith("error: ") and "a.png: cannot be read as an image" in first
    assert count == "1 of 2 images could not be read:" and again in first
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [item["file_name"] for item in found["images"]] == ["b.jpg"]


def test_other_settings_need_to_say_overwrite(model: Path, images: Path, call: Call) -> None:
    command = ("predict", f"model={model}", f"images={images}", "output=out", *ALL)
    assert call(*command, "vocabulary=ship").code == 0
    refused = call(*command, "vocabulary=plane")
    assert refused.code == 2 and refused.err.startswith("error: out holds predictions with another vocabulary;")
    assert call(*command, "vocabulary=plane", "overwrite=true").code == 0
    refused = call(*command, "vocabulary=plane", "runtime.towers=bf16")
    assert refused.code == 2 and refused.err.startswith("error: out holds predictions with another towers;")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("model=nowhere", "error: no such model folder: nowhere; score train makes one"),
        ("images=gone.jpg", "error: gone.jpg: no such image"),
        ("vocabulary=[]", "error: empty vocabulary"),
        ("vocabulary=[ship,Ship]", "error: duplicate class name in the vocabulary: 'ship'"),
        ("output=images/a.png", "error: cannot write to images/a.png"),
        ("vocabulary={0:ship,1:plane}", "error: vocabulary={0: 'ship', 1: 'plane'}: not names; give a list"),
        ("score=high", "error: score=high: not a number in 0 .. 1, or null"),
        ("top_k=2.5", "error: top_k=2.5: "),
        ("top_k=0", "error: top_k=0: not a whole number of at least 1, or null"),
        ("overlap=-0.1", "error: overlap=-0.1: not a number in 0 .. 1"),
        ("resize.shortest=-5", "error: resize.shortest=-5: not a whole number of at least 1, or null"),
        ("resize.longest=big", "error: resize.longest=big: not a whole number of at least 1, or null"),
        ("resize.shortest=0", "error: resize.shortest=0: not a whole number of at least 1, or null"),
        ("scor=0.5", "error: scor: no such setting (did you mean score?)"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    model: Path,
    images: Path,
    tmp_path: Path,
    change: str,
    line: str,
    call: Call,
) -> None:
    key, value = change.split("=", 1)
    settings = {"model": model, "images": images, "vocabulary": "[ship]", "output": "out", key: value}
    outcome = call("predict", *(f"{k}={v}" for k, v in settings.items()))
    assert outcome.code == 2
    [error] = outcome.err.splitlines()
    assert error.startswith(line)
    assert files(tmp_path) == ["images", "images/a.png", "images/b.jpg"]
