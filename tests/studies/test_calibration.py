from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import score
from score.detections import Detection
from score.errors import ConfigError
from score.masks import encode
from score.model.score import Calibration
from score.studies import calibration
from score.studies.calibration import Ranking, right
from score.weights import folder as model_folder
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, call  # noqa: F401 - a fixture

OWN = "{json: data/instances.json, images: data/images}"


def square(label: int, score: float, x: int) -> Detection:
    bits = np.zeros((1, 40, 60), dtype=bool)
    bits[:, 5:15, x : x + 10] = True
    return Detection(label, score, encode(bits)[0])


def test_the_threshold_is_where_f1_is_greatest() -> None:
    """Of 4 objects: F1 is 2/5 at 0.9, 2/3 at 0.7 (2 of 2), 4/7 at 0.5, 3/4 at 0.4 (3 of 4), 2/3 at 0.2."""
    ranking = Ranking([0.4, 0.9, 0.2, 0.7, 0.5], [True, True, False, True, False], 4)
    assert ranking.best() == 0.4
    figures = ranking.at(0.4)
    assert (figures["precision"], figures["recall"], figures["found"]) == (0.75, 0.75, 4)
    assert Ranking([0.4], [False], 4).best() is None and Ranking([], [], 4).at(0.5)["precision"] is None


def test_an_object_is_found_once_and_by_its_own_word() -> None:
    truth = [square(0, 1, 0), square(1, 1, 30)]
    found = [square(0, 0.9, 1), square(0, 0.8, 0), square(0, 0.7, 30), square(1, 0.6, 31), square(1, 0.5, 45)]
    assert right(found, truth) == [True, False, False, True, False]
    assert right(found, []) == [False] * 5 and right([], truth) == []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_data(tmp_path / "data", size=64)
    tiny_folder(tmp_path / "model", ["ship", "storage_tank", "plane"], "input.test.shortest=64")
    return tmp_path


def test_a_folder_is_calibrated_and_carries_it(place: Path, call: Call) -> None:  # noqa: F811
    """Words that no image shows are found as often as is borne, and no oftener."""
    done = call("calibrate", "model=model", f"data={OWN}", "false_alarms=0.5", "runtime.threads=1")
    assert done.code == 0, done.err
    content = yaml.safe_load((place / "model" / "calibration.yaml").read_text())
    assert content["validation"]["images"] == 6 and content["figures"]["seen"]["instances"] == 12
    assert "unseen" not in content["figures"] and "false alarms" in content["unseen_rule"]
    segmenter = score.Segmenter.from_pretrained(place / "model", "cpu")
    own = segmenter.model.calibration
    assert own == Calibration(content["seen"], content["unseen"], tuple(content["distractors"]))
    images = sorted((place / "data" / "images").iterdir())
    words = ["golf course", "dam", "windmill"]
    alarms = [len(segmenter.look(path).ask(word, per_class=True)) for path in images for word in words]
    assert sum(alarms) > 0
    everything = call("calibrate", "model=model", f"data={OWN}", "false_alarms=0", "runtime.threads=1")
    assert everything.code == 0
    strict = score.Segmenter.from_pretrained(place / "model", "cpu")
    assert strict.model.calibration.unseen > own.unseen
    assert sum(len(strict.look(path).ask(word)) for path in images for word in words) <= 1  # it is rounded


def test_a_set_with_unseen_classes_says_their_threshold_itself(place: Path, call: Call) -> None:  # noqa: F811
    tiny_folder(place / "other", ["ship"], "input.test.shortest=64")
    assert call("calibrate", "model=other", f"data={OWN}", "runtime.threads=1").code == 0
    content = yaml.safe_load((place / "other" / "calibration.yaml").read_text())
    right = content["figures"]["unseen"]["right"]
    assert content["unseen_rule"].startswith("greatest F1" if right else "as before")
    assert content["figures"]["seen"]["instances"] + content["figures"]["unseen"]["instances"] == 12


def test_absent_words_that_are_present_are_left_out(place: Path) -> None:
    from score.engine.evaluate import register

    segmenter = score.Segmenter.from_pretrained(place / "model", "cpu")
    own = {"json": str(place / "data/instances.json"), "images": str(place / "data/images")}
    [dataset] = register(own, None)
    with pytest.raises(ConfigError, match="absent"):
        calibration.calibrate(segmenter, dataset, distractors=[], absent=["Ship"], false_alarms=0.1)


def test_a_damaged_calibration_is_refused(place: Path) -> None:
    (place / "model" / model_folder.CALIBRATION).write_text("seen: high\nunseen: 0.1\n")
    with pytest.raises(score.errors.WeightsError, match=r"calibration\.yaml .*no scores"):
        score.Segmenter.from_pretrained(place / "model")


@pytest.mark.slow
def test_a_run_is_calibrated_at_its_end(place: Path, call: Call) -> None:  # noqa: F811
    tiny = ("model=small", "backbone=tiny", "scene=tiny", "optim=lite", "paths.cache=null", "optim.iterations=1")
    own = (f"data.train={OWN}", "data.test=[]", f"calibrate={OWN}", "output=run", "input.train.size=64")
    done = call("train", *tiny, *own, "input.test.shortest=64", "runtime.workers=0", "runtime.device=cpu")
    assert done.code == 0, done.err
    assert "saved as run/calibration.yaml" in done.out
    assert score.Segmenter.from_pretrained(place / "run", "cpu").model.calibration.distractors


def test_without_an_object_to_learn_from_a_threshold_stays(place: Path, call: Call) -> None:  # noqa: F811
    """Where nothing that is found is right, a threshold of 1 would hide every word."""
    tiny_folder(place / "other", ["quay"], "input.test.shortest=64", seed=5)
    done = call("calibrate", "model=other", f"data={OWN}", "runtime.threads=1")
    assert done.code == 0, done.err
    content = yaml.safe_load((place / "other" / "calibration.yaml").read_text())
    assert content["seen"] == Calibration().seen and "as before" in content["seen_rule"]  # no class was trained on
    assert content["unseen"] < 1


def test_thresholds_of_other_weights_are_left_aside(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibration.save(place / "model", {"seen": 0.7, "unseen": 0.1, "distractors": []})
    assert score.load_model(place / "model", "cpu").calibration == Calibration(0.7, 0.1)
    tiny_folder(place / "model", ["ship", "storage_tank", "plane"], "input.test.shortest=64", seed=1)
    assert score.load_model(place / "model", "cpu").calibration == Calibration()
    assert "is of other weights" in caplog.text
