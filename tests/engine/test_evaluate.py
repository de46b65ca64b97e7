from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from score.engine.evaluate import Clock, deal, evaluate, place, register
from score.errors import ConfigError
from score.model.score import SCORE, Prediction
from score.model.vocabulary import Vocabulary
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_model

TRAINED = ["ship", "harbor"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    (name,) = register(tiny_data(tmp_path_factory.mktemp("inference") / "rectangles", size=64), None)
    return name


@pytest.fixture(scope="module")
def model() -> SCORE:
    return tiny_model(TRAINED, "input.test.shortest=64")[0]


def test_a_dataset_is_scored_with_its_own_names(dataset: str, model: SCORE) -> None:
    results = evaluate(model, dataset)
    assert {name: item["seen"] for name, item in results["per_class"].items()} == {
        "ship": True,
        "storage_tank": False,
        "plane": False,
    }
    assert sum(item["instances"] for item in results["per_class"].values()) == 12
    assert results["images"] == 6
    assert 0 < results["detections"] <= 6 * 60  # 20 queries x 3 classes
    assert results["seconds_per_image"] > 0


def test_a_batch_finds_what_single_images_do(tmp_path: Path, model: SCORE) -> None:
    (name,) = register(tiny_data(tmp_path / "batched", images=5, size=64), None)
    single, batched = (evaluate(model, name, batch_size=size) for size in (1, 3))
    for key in ("AP", "AP50", "AP75"):
        assert batched["all"][key] == pytest.approx(single["all"][key], abs=1e-6)
    assert batched["detections"] == single["detections"]


def test_the_model_is_as_before_afterwards(dataset: str, model: SCORE) -> None:
    model.train()
    evaluate(model, dataset, limit=1)
    assert model.training
    assert not model.backbone.training
    model.eval()


def test_limit_scores_so_many_images_only(dataset: str, model: SCORE) -> None:
    results = evaluate(model, dataset, limit=2)
    assert results["images"] == 2
    assert sum(item["instances"] for item in results["per_class"].values()) == 4


def test_max_detections_counts_over_all_classes(dataset: str, model: SCORE) -> None:
    assert evaluate(model, dataset, max_detections=5)["detections"] == 30


def test_pictures_are_spread_over_the_dataset(dataset: str, model: SCORE, tmp_path: Path) -> None:
    evaluate(model, dataset, pictures=3, picture_folder=tmp_path / "pictures")
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in drawn] == ["001.jpg", "003.jpg", "005.jpg"]
    assert all(min(Image.open(path).size) >= 480 for path in drawn)


def test_a_shuffled_vocabulary_looks_for_other_words_and_scores_the_true_ones(
    dataset: str, model: SCORE, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []
    predict = model.predict

    def listen(inputs: list[dict[str, Any]], vocabulary: Vocabulary) -> Prediction:
        said.append(vocabulary.names)
        return predict(inputs, vocabulary)

    monkeypatch.setattr(model, "predict", listen)
    results = evaluate(model, dataset, limit=1, shuffle_vocabulary=1)
    assert said == [deal(["ship", "storage_tank", "plane"], 1)]
    assert {name: item["seen"] for name, item in results["per_class"].items()} == {
        "ship": True,
        "storage_tank": False,
        "plane": False,
    }
    assert results["shuffle_vocabulary"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_dealing_moves_every_name(seed: int) -> None:
    names = [f"class {index}" for index in range(2 + seed % 9)]
    dealt = deal(names, seed)
    assert sorted(dealt) == sorted(names)
    assert all(before != after for before, after in zip(names, dealt, strict=True))
    assert dealt == deal(names, seed)


def test_a_single_name_cannot_be_dealt_elsewhere() -> None:
    assert deal(["ship"], 0) == ["ship"]


def test_one_and_several_datasets_register(tmp_path: Path) -> None:
    first, second = tiny_data(tmp_path / "first"), tiny_data(tmp_path / "second")
    assert len(set(register(OmegaConf.create([first, second]), None))) == 2
    assert len(register("synthetic_val", None)) == 1


@pytest.mark.parametrize("entry", [{"json": "a.json"}, 7, {"json": "a.json", "images": "a", "more": 1}])
def test_an_entry_that_is_no_dataset_is_refused(entry: object) -> None:
    with pytest.raises(ConfigError, match="give a name, or"):
        register(entry, None)


def test_the_clock_reports_pace_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="score")
    clock = Clock("nwpu_val", total=3, interval=0)
    for _ in range(3):
        clock.process([{}], [{}])
    said = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[1] for line in said] == ["1/3", "2/3"]
    assert "eta 00:00:00" in said[0]
    assert clock.evaluate()["seconds_per_image"] < 1


def test_damaged_figures_are_replaced(dataset: str, tmp_path: Path) -> None:
    (tmp_path / f"{dataset}.json").write_text('{"json": ')
    assert place(tmp_path, dataset, [])[0] == dataset
