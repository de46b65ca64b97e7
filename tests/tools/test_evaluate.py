from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import TOOLS, Call, files

OWN = "{json: data/instances.json, images: data/images}"
SETTINGS = ("model=model", f"data={OWN}", "runtime.workers=0", "runtime.threads=1", "runtime.device=cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    tiny_data(folder / "data", size=64)
    tiny_folder(folder / "model", ["ship", "storage_tank"], "input.test.shortest=64")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    for name in ("data", "model"):
        (tmp_path / name).symlink_to(prepared / name)
    return tmp_path


def saved(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_a_model_is_scored_on_ones_own_data(place: Path, call: Call) -> None:
    outcome = call("evaluate", *SETTINGS, "output=out")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    for word in ("all", "seen", "unseen", "harmonic mean", "storage_tank"):
        assert f"\n{word}" in outcome.out
    results = saved(place / "out")
    assert results["model"] == "model"
    assert results["command"].startswith("tools/evaluate.py model=model")
    assert {"python", "torch", "hotcoco"} <= results["versions"].keys()
    assert results["seconds_per_image"] > 0
    assert results["ensemble"] == {"alpha": 0.4, "beta": 0.8}
    assert results["per_class"]["plane"]["seen"] is False


def test_ensemble_limit_and_control_are_settings(place: Path, call: Call) -> None:
    settings = ("ensemble.alpha=0", "ensemble.beta=0.25", "limit=2", "shuffle_vocabulary=3", "max_detections=5")
    outcome = call("evaluate", *SETTINGS, *settings, "output=out")
    assert outcome.code == 0, outcome.err
    results = saved(place / "out")
    assert results["ensemble"] == {"alpha": 0.0, "beta": 0.25}
    assert (results["images"], results["detections"], results["shuffle_vocabulary"]) == (2, 10, 3)
    changes = ["limit2", "max5", "alpha0", "beta0.25", "shuffled"]
    assert results["changes"] == changes
    assert files(place / "out") == ["_".join([results["dataset"], *changes]) + ".json"]  # the true figures stay


def test_several_datasets_in_one_command_end_with_a_summary(place: Path, call: Call) -> None:
    tiny_data(place / "more", size=64, names=("ship", "kite"), seed=1)
    (place / "more" / "instances.json").rename(place / "more" / "kites.json")
    more = "{json: more/kites.json, images: more/images}"
    outcome = call("evaluate", *SETTINGS[:1], *SETTINGS[2:], f"data=[{OWN},{more}]", "output=out", "pictures=1")
    assert outcome.code == 0, outcome.err
    names = [path.stem for path in sorted((place / "out").glob("*.json"))]
    assert len(names) == 2
    assert sorted(path.name for path in (place / "out" / "pictures").iterdir()) == names
    assert outcome.out.splitlines()[-5].split() == ["AP", "AP50", "seen", "unseen"]  # above AP50 and AP50


def test_two_sets_whose_json_has_one_name_keep_their_figures(place: Path, call: Call) -> None:
    tiny_data(place / "more", images=4, size=64, seed=1)
    more = "data={json: more/instances.json, images: more/images}"
    for data in (SETTINGS[1], more, more):  # the third replaces the second
        assert call("evaluate", SETTINGS[0], data, *SETTINGS[2:], "output=out").code == 0
    found = [json.loads(path.read_text()) for path in sorted((place / "out").glob("*.json"))]
    assert sorted(result["images"] for result in found) == [4, 6]


@pytest.mark.slow
def test_the_command_as_typed(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOLS / "evaluate.py"), *SETTINGS, "output=out"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "harmonic mean" in done.stdout


def test_other_tasks_have_tables_of_their_own(place: Path, call: Call) -> None:
    (place / "labels").mkdir()
    for number in range(1, 7):
        (place / "labels" / f"{number:03}.txt").write_text("gsd:0.5\n10 10 30 10 30 30 10 30 plane 0\n")
    tasks = "tasks=[instances,boxes,panoptic,oriented,semantic]"
    outcome = call("evaluate", *SETTINGS, tasks, "labels=labels", "output=out")
    assert outcome.code == 0, outcome.err
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    results = saved(place / "out")
    assert {"boxes", "panoptic", "oriented", "semantic", "per_class"} <= results.keys()
    assert results["oriented"]["per_class"]["plane"]["instances"] == 6
    for last in ("mask AP", "box AP", "panoptic quality", "oriented box AP", "semantic"):
        assert f"\n{last} in percent; 6 images" in outcome.out


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (("tasks=keypoints",), "tasks=keypoints: not of instances, boxes, panoptic, oriented, semantic"),
        (("tasks=oriented",), "tasks=oriented needs labels=FOLDER"),
        (("tasks=oriented", "labels=gone"), "001.txt: no such label file (6 of 6 are missing); add it"),
    ],
)
def test_tasks_that_cannot_be_scored(place: Path, call: Call, settings: tuple[str, ...], line: str) -> None:
    outcome = call("evaluate", *SETTINGS, *settings, "output=out")
    assert outcome.code == 2 and line in outcome.err and outcome.err.count("\n") == 1
    assert not (place / "out").exists()
