from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import score
from score.app.prediction import Prediction, check_choice, check_output, find_images, predict, read_vocabulary
from score.errors import ConfigError, DataError, OutputError
from tests.tiny_model import tiny_folder

NAMES = ["ship", "Storage_Tank", "palm tree"]
CHOICE = {"score": 0.0, "top_k": 5, "overlap": 1.0, "min_area": 0, "per_class": False}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "model", ["ship"])
    segmenter = score.Segmenter(score.load_model(folder, "cpu"), shortest=64, longest=96)
    segmenter.set_vocabulary(NAMES)
    return segmenter


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("b.jpg", (50, 70, 3)), ("a.PNG", (60, 40, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("none")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_predictions_are_a_coco_dataset_and_pictures(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    paths, output = find_images(str(images)), tmp_path / "new" / "out"
    reported: list[Prediction] = []
    predictions = predict(segmenter, paths, output, CHOICE, "png", reported.append)
    assert files(output) == ["pictures/a.png", "pictures/b.png", "predictions.json"]
    assert reported == predictions and [item.size for item in predictions] == [(40, 60), (70, 50)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(output / "predictions.json"))
    assert [coco.cats[index]["name"] for index in sorted(coco.cats)] == NAMES
    for path, image, prediction in zip(paths, coco.dataset["images"], predictions, strict=True):
        assert image["file_name"] == path.name
        expected = segmenter.segment(path, **CHOICE)
        written = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(written) == len(expected) == sum(prediction.counts.values()) > 0
        for item, found in zip(written, expected, strict=True):
            assert (coco.annToMask(item) == found.mask).all()
            assert item["category_id"] == found.label + 1 and item["score"] == pytest.approx(found.score, abs=1e-6)
            assert item["bbox"] == list(found.box) and item["area"] == found.area == found.mask.sum()
        with Image.open(output / image["picture"]) as picture:
            plain = np.asarray(Image.open(path)).mean()
            assert min(picture.size) >= 480 and abs(np.asarray(picture).mean() - plain) > 1


def test_a_second_run_replaces_the_first(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    paths = find_images(str(images))
    predict(segmenter, paths, tmp_path / "out", CHOICE, None)
    assert files(tmp_path / "out") == ["predictions.json"]
    before = (tmp_path / "out" / "predictions.json").read_text()
    predict(segmenter, paths[:1], tmp_path / "out", CHOICE, "jpg")
    assert files(tmp_path / "out") == ["pictures/a.jpg", "predictions.json"]
    assert (tmp_path / "out" / "predictions.json").read_text() != before


def test_a_failure_leaves_nothing_behind(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    """The second image is gone by the time it is needed."""
    paths = [images / "a.PNG", images / "gone.jpg"]
    with pytest.raises(DataError, match=r"gone\.jpg"):
        predict(segmenter, paths, tmp_path / "out", CHOICE, "jpg")
    assert not (tmp_path / "out").exists()
    predict(segmenter, paths[:1], tmp_path / "out", CHOICE, None)
    with pytest.raises(DataError):
        predict(segmenter, paths, tmp_path / "out", CHOICE, "jpg")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_images_of_one_name_get_pictures_of_their_own(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("a.png", "a_2.png"):
        Image.open(images / "a.PNG").save(tmp_path / "other" / name)
    paths = find_images([str(images / "a.PNG"), str(tmp_path / "other")])
    predict(segmenter, paths, tmp_path / "out", CHOICE, "jpg")
    assert files(tmp_path / "out") == ["pictures/a.jpg", "pictures/a_2.jpg", "pictures/a_2_2.jpg", "predictions.json"]


def test_vocabularies_come_as_lists_words_and_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("ship\n\n  storage tank  # round\n# nothing\npool, swimming pool\n")
    assert read_vocabulary(str(path)) == ["ship", "storage tank", "pool, swimming pool"]
    assert read_vocabulary(["ship", 747]) == ["ship", "747"]  # type: ignore[list-item]
    assert read_vocabulary("ship") == ["ship"]


def test_vocabularies_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    for source in ([], ["ship", "SHIP"], ["a-b", "a b"], [None], "", str(tmp_path / "empty.txt")):
        with pytest.raises(ConfigError):
            read_vocabulary(source)  # type: ignore[arg-type]
    for name in ("missing.txt", "binary.txt"):
        with pytest.raises(ConfigError, match=name):
            read_vocabulary(str(tmp_path / name))


def test_images_are_found_in_order_and_checked(images: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_images(str(images))] == ["a.PNG", "b.jpg"]
    assert [path.name for path in find_images([str(images / "b.jpg"), str(images)])] == ["b.jpg", "a.PNG"]
    (tmp_path / "none").mkdir()
    (images / "broken.jpg").write_text("x")
    for source, word in (
        (str(tmp_path / "none"), "no image"),
        ("missing.jpg", "missing.jpg"),
        (str(images), "broken"),
        ([], "none given"),
    ):
        with pytest.raises(DataError, match=word):
            find_images(source)


def test_thresholds_that_cannot_be_meant_are_refused() -> None:
    check_choice({**CHOICE, "top_k": None}, None)
    for key, value in (
        ("score", 2),
        ("score", "high"),
        ("overlap", -0.1),
        ("top_k", 0),
        ("min_area", None),
        ("score", True),
    ):
        with pytest.raises(ConfigError, match=key):
            check_choice({**CHOICE, key: value}, "jpg")
    with pytest.raises(ConfigError, match="gif"):
        check_choice(CHOICE, "gif")


def test_outputs_that_cannot_be_written_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        check_output(images / "notes.txt")
    with pytest.raises(OutputError):
        check_output(images / "notes.txt" / "out")
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    with pytest.raises(OutputError, match="replace"):
        check_output(tmp_path / "out", [tmp_path / "out" / "pictures" / "a.jpg"])
    check_output(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_locked_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        check_output(tmp_path / "out")
