from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import score
from score.app import prediction
from score.app.prediction import Done, check_output, check_picture, find_images
from score.data import images as data_images
from score.errors import ConfigError, DataError, OutputError
from score.result import Result
from tests.tiny_model import tiny_folder

WORDS = ["ship", "Storage_Tank", "palm tree"]
CHOICE = {"score": 0.0, "top_k": 5, "overlap": 1.0, "min_area": 0, "per_class": False}
SETTINGS: dict[str, Any] = {
    **CHOICE,
    "picture": None,
    "overwrite": False,
    "batch_size": 2,
    "weights": "abc",
    "resize": {"shortest": None, "longest": None},
}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "model", ["ship"])
    return score.Segmenter(score.load_model(folder, "cpu"), shortest=64, longest=96)


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


def predict(segmenter: score.Segmenter, paths: list[Path], output: Path, *report: Any, **changes: Any) -> Done:
    return prediction.predict(segmenter, WORDS, paths, output, {**SETTINGS, **changes}, *report)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def load(output: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(output / "predictions.json"))


def test_predictions_are_a_coco_dataset_and_pictures(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    paths, output = find_images(str(images)), tmp_path / "new" / "out"
    reported: list[Result] = []
    done = predict(segmenter, paths, output, lambda path, result: reported.append(result), picture="png")
    assert files(output) == ["pictures/a.png", "pictures/b.png", "predictions.json", "predictions.jsonl"]
    assert [item.size for item in reported] == [(40, 60), (70, 50)]
    assert (done.images, done.before, done.failed) == (2, 0, []) and done.counts.total() == 10
    coco = load(output)
    assert [coco.cats[index]["name"] for index in sorted(coco.cats)] == WORDS
    assert coco.dataset["info"]["top_k"] == 5
    assert len(coco.anns) == len(coco.dataset["annotations"]) == 10
    for path, image, result in zip(paths, coco.dataset["images"], reported, strict=True):
        assert image["file_name"] == path.name
        expected = segmenter.segment(path, WORDS, **CHOICE)
        assert result == expected
        written = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(written) == len(expected) > 0
        for item, found in zip(written, expected, strict=True):
            assert (coco.annToMask(item) == found.mask).all()
            assert item["category_id"] == found.label + 1 and item["score"] == pytest.approx(found.score, abs=1e-6)
            assert item["bbox"] == list(found.box) and item["area"] == found.area == found.mask.sum()
        with Image.open(output / image["picture"]) as picture:
            plain = np.asarray(Image.open(path)).mean()
            assert min(picture.size) >= 480 and abs(np.asarray(picture).mean() - plain) > 1


def test_a_second_run_goes_on(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    """Interrupted in its second image, and with a line cut off, it does what is left and no image twice."""
    paths, output, whole = find_images(str(images)), tmp_path / "out", tmp_path / "whole"
    predict(segmenter, paths, whole, picture="jpg")

    def interrupt(path: Path, result: Result) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(segmenter, paths, output, interrupt, picture="jpg")
    assert files(output) == ["pictures/a.jpg", "predictions.jsonl"]
    with (output / "predictions.jsonl").open("a") as file:
        file.write('{"image": {"file_n')
    seen: list[Path] = []
    done = predict(segmenter, paths, output, lambda path, result: seen.append(path), picture="jpg")
    assert (done.images, done.before) == (1, 1) and seen == [images / "b.jpg"]
    assert files(output) == files(whole)
    assert load(output).dataset == load(whole).dataset
    assert predict(segmenter, paths, output, picture="jpg").before == 2


def test_other_settings_are_refused_by_name(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    paths, output = find_images(str(images)), tmp_path / "out"
    predict(segmenter, paths, output, picture="jpg")
    before = (output / "predictions.json").read_bytes()
    for change, named in (
        ({"top_k": 2}, "another top_k;"),
        ({"weights": "def", "score": 0.5}, "another score, weights;"),
        ({"picture": None}, "another picture;"),
    ):
        with pytest.raises(OutputError, match=named):
            predict(segmenter, paths, output, **{"picture": "jpg", **change})
    with pytest.raises(OutputError, match="another vocabulary; set overwrite=true"):
        prediction.predict(segmenter, ["quay"], paths, output, {**SETTINGS, "picture": "jpg"})
    assert (output / "predictions.json").read_bytes() == before
    (output / "pictures" / "mine.jpg").touch()
    predict(segmenter, paths[:1], output, overwrite=True)
    assert files(output) == ["pictures/mine.jpg", "predictions.json", "predictions.jsonl"]
    assert len(load(output).imgs) == 1
    (output / "predictions.jsonl").unlink()
    with pytest.raises(OutputError, match="holds a predictions.json without"):
        predict(segmenter, paths, output)


def test_a_damaged_image_is_reported_and_the_others_go_on(
    segmenter: score.Segmenter, images: Path, tmp_path: Path
) -> None:
    whole = (images / "a.PNG").read_bytes()
    (images / "a.PNG").write_bytes(whole[:100])
    paths, output = find_images(str(images)), tmp_path / "out"
    reported: list[Any] = []
    done = predict(segmenter, paths, output, lambda path, result: reported.append(result))
    [failure] = done.failed
    assert "a.PNG: cannot be read" in failure and isinstance(reported[0], DataError) and len(reported[1]) == 5
    assert [item["file_name"] for item in load(output).dataset["images"]] == ["b.jpg"]
    (images / "a.PNG").write_bytes(whole)
    assert predict(segmenter, paths, output).images == 1  # mended, it is done
    assert [item["file_name"] for item in load(output).dataset["images"]] == ["b.jpg", "a.PNG"]


def test_where_no_image_can_be_read_nothing_is_written(
    segmenter: score.Segmenter, images: Path, tmp_path: Path
) -> None:
    for path in find_images(str(images)):
        path.write_bytes(b"none")
    with pytest.raises(DataError, match=r"none of 2 images can be read: .*a\.PNG"):
        predict(segmenter, find_images(str(images)), tmp_path / "out")
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read"):
        predict(segmenter, [images / "b.jpg"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_is_decoded_once(
    segmenter: score.Segmenter, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = data_images._pixels
    monkeypatch.setattr(data_images, "_pixels", lambda image, at: opened.append(Path(at).name) or real(image, at))
    predict(segmenter, find_images(str(images)), tmp_path / "out", picture="png")
    assert opened == ["a.PNG", "b.jpg"]


def test_images_of_one_name_get_pictures_of_their_own(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("a.png", "a_2.png"):
        Image.open(images / "a.PNG").save(tmp_path / "other" / name)
    paths = find_images([str(images / "a.PNG"), str(tmp_path / "other")])
    predict(segmenter, paths[:1], tmp_path / "first", picture="jpg")
    predict(segmenter, paths, tmp_path / "out", picture="jpg")
    assert files(tmp_path / "out" / "pictures") == ["a.jpg", "a_2.jpg", "a_2_2.jpg"]
    assert [item["file_name"] for item in load(tmp_path / "out").dataset["images"]] == [
        "images/a.PNG",
        "other/a.png",
        "other/a_2.png",
    ]


def test_a_file_is_found_once_however_it_is_reached(images: Path, tmp_path: Path) -> None:
    (images / "in_itself").symlink_to(images)
    found = find_images([f"{images}/**/*.jpg", str(images), os.path.relpath(images / "b.jpg")])
    assert sorted(Path(path).name for path in found) == ["a.PNG", "b.jpg"]
    assert not [path for path in found if "in_itself" in str(path)]


def test_a_full_disk_names_the_file_and_what_was_done_counts(
    segmenter: score.Segmenter, images: Path, tmp_path: Path, disk_full: Callable[[int], None]
) -> None:
    disk_full(900)  # the settings, and no image
    with pytest.raises(OutputError, match=r"out/predictions.jsonl \(File too large\); free some space"):
        predict(segmenter, find_images(str(images)), tmp_path / "out")
    disk_full(2**30)
    assert predict(segmenter, find_images(str(images)), tmp_path / "out").images == 2


def test_images_are_found_in_order(images: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_images(str(images))] == ["a.PNG", "b.jpg"]
    assert [path.name for path in find_images([str(images / "b.jpg"), str(images)])] == ["b.jpg", "a.PNG"]
    (tmp_path / "none").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        find_images(str(tmp_path / "gone.jpg"))
    for source, word in ((str(tmp_path / "none"), "no image"), ("missing.jpg", "missing.jpg"), ([], "none given")):
        with pytest.raises(DataError, match=word):
            find_images(source)


def test_a_picture_is_jpg_or_png() -> None:
    for picture in (None, "jpg", "png"):
        check_picture(picture)
    with pytest.raises(ConfigError, match="gif"):
        check_picture("gif")


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


def test_lines_are_json(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    predict(segmenter, find_images(str(images)), tmp_path / "out")
    settings, *lines = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    assert settings["vocabulary"] == WORDS
    assert [line["image"]["file_name"] for line in lines] == ["a.PNG", "b.jpg"]


def test_one_process_at_a_time_writes_an_output(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    paths = find_images(str(images))

    def report(*_: Any) -> None:
        with pytest.raises(OutputError, match="another process is writing there"):
            predict(segmenter, paths, tmp_path / "out")

    predict(segmenter, paths, tmp_path / "out", report)
    assert len(load(tmp_path / "out").imgs) == 2


def test_a_damaged_journal_is_one_line_and_can_be_overwritten(
    segmenter: score.Segmenter, images: Path, tmp_path: Path
) -> None:
    paths, output = find_images(str(images)), tmp_path / "out"
    first = predict(segmenter, paths, output)
    again = predict(segmenter, paths, output)
    assert again.counts == first.counts and again.images == 0  # what was found before counts
    with (output / "predictions.jsonl").open("a") as file:
        file.write("garbage\n")
    with pytest.raises(OutputError, match="is damaged"):
        predict(segmenter, paths, output)
    assert predict(segmenter, paths, output, overwrite=True).counts == first.counts


def test_a_name_that_is_no_text_is_reported(segmenter: score.Segmenter, images: Path, tmp_path: Path) -> None:
    odd = images / os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (40, 30)).save(odd)
    done = predict(segmenter, find_images(str(images)), tmp_path / "out")
    assert done.images == 2 and done.failed == ["'caf\\udce9.png': its name is not UTF-8; rename it"]
