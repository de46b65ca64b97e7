from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import score
from score.data import catalog
from score.weights.folder import load
from tests.tiny_data import tiny_data, tiny_maps
from tests.tools.command_line import TOOLS, Call, files

OWN = "{json: data/instances.json, images: data/images}"
SETTINGS = (
    *("model=small", "backbone=tiny", "scene=tiny", "optim=lite", "paths.cache=null", "name=rectangles"),
    *("optim.iterations=2", "optim.log_period=1", "runtime.workers=0", "runtime.threads=1", "runtime.device=cpu"),
    *("input.train.size=64", "input.test.shortest=64", f"data.train={OWN}", f"data.test=[{OWN}]"),
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_data(tmp_path / "data", size=64)
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TOOLS.parent), "OMP_NUM_THREADS": "1"}


def test_one_command_trains_on_ones_own_data_and_writes_a_model_folder(place: Path, call: Call) -> None:
    outcome = call("train", *SETTINGS)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    model, _ = load(place / "runs" / "rectangles")
    assert model.train_names == ["ship", "storage_tank", "plane"]
    card = (place / "runs" / "rectangles" / "README.md").read_text()
    assert card.startswith("# rectangles\n")
    assert "tools/train.py model=small backbone=tiny" in card
    assert sorted(path.name for path in place.iterdir()) == ["data", "runs"]  # and nothing beside
    for words in (
        "6 images with 12 instances",
        "1/2  loss",
        "2/2  loss",
        "harmonic mean",
        "model folder: runs/rectangles",
    ):
        assert words in outcome.out


def test_a_decoder_with_places_is_trained_saved_and_asked(place: Path, call: Call) -> None:
    outcome = call("train", *SETTINGS, "decoder=places", "scene=backbone", "input.train.ignore=true")
    assert (outcome.code, outcome.err) == (0, "")
    segmenter = score.Segmenter.from_pretrained(place / "runs" / "rectangles")
    assert type(segmenter.model.mask_decoder).__name__ == "PlacesDecoder"
    assert segmenter.model.scene is segmenter.model.backbone
    image = sorted((place / "data" / "images").iterdir())[0]
    found = segmenter.segment(image, ["ship", "dam"], score=0)
    assert len(found) > 0
    assert "loss_heat" in (place / "runs" / "rectangles" / "metrics.json").read_text()


def test_the_saved_config_is_complete_and_resolved(place: Path, call: Call) -> None:
    call("train", *SETTINGS, "output=run", "data.test=[]")
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert config["model"]["network"]["mask_decoder"]["dim"] == config["model"]["dim"] == 96
    assert config["model"]["train_names"] == ["ship", "storage_tank", "plane"]
    assert config["data"]["train"] == {"json": "data/instances.json", "images": "data/images"}
    text = (place / "run" / "config.yaml").read_text().split("\npaths:")[0]
    assert {line.split("${")[1] for line in text.splitlines() if "${" in line} <= {"paths.cache}", "paths.weights}"}


@pytest.mark.parametrize("test", [OWN, "isaid512_val", f"[{OWN}]"])
def test_what_is_tested_on_may_be_one_set(place: Path, call: Call, test: str) -> None:
    val = place / "root" / "isaid512" / "val"
    tiny_data(val, size=64, names=catalog.read_spec(catalog.FOLDER / "isaid512.yaml").classes)
    (val / "instances.json").rename(val / "instances_val.json")
    outcome = call("train", *SETTINGS, f"data.test={test}", "output=run", "paths.datasets=root", "optim.iterations=1")
    assert outcome.code == 0, outcome.err
    assert len(list((place / "run" / "evaluation").glob("*.json"))) == 1


def test_label_images_can_be_learned_and_are_scored_by_mean_iou(place: Path, call: Call) -> None:
    tiny_maps(place / "maps")
    maps = "{images: maps/images, labels: maps/labels, classes: [road, field, water]}"
    outcome = call("train", *SETTINGS[:-2], f"data.train={maps}", f"data.test={maps}", "output=run")
    assert outcome.code == 0, outcome.err
    assert "4 images with 4 label images" in outcome.out
    assert "mIoU" in outcome.out
    [path] = (place / "run" / "evaluation").glob("*.json")
    figures = json.loads(path.read_text())["semantic"]
    assert 0 <= figures["all"]["mIoU"] <= 100 and figures["images"] == 4
    assert load(place / "run")[0].train_names == ["road", "field", "water"]


def test_all_settings_can_be_shown_without_training(place: Path, call: Call) -> None:
    outcome = call("train", *SETTINGS, "--cfg", "job")
    assert outcome.code == 0
    assert yaml.safe_load(outcome.out)["optim"]["iterations"] == 2
    assert sorted(path.name for path in place.iterdir()) == ["data"]


@pytest.mark.slow
def test_help_explains_every_setting_and_names_the_choices(place: Path, call: Call) -> None:
    told = call("train", "--help")
    assert told.code == 0 and told.err == ""
    assert "rai: joint, off, reference, small\n" in told.out
    assert "overwrite: false          # replace the run" in told.out
    assert "-m          run every combination" in told.out and "hydra:" not in told.out
    told = call("sweep", "-h")
    assert told.out.startswith("Score a model at many pairs") and "tune_on_target: false" in told.out


def test_a_multirun_trains_each_combination(place: Path, call: Call) -> None:
    outcome = call("train", *SETTINGS, "data.test=[]", "output='runs/${seed}'", "seed=1,2", "--multirun")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["1", "2", "multirun.yaml"]


@pytest.mark.slow
def test_the_command_as_typed_and_ctrl_c(place: Path) -> None:
    command = [sys.executable, str(TOOLS / "train.py"), *SETTINGS, "output=run", "optim.iterations=100000"]
    command += ["optim.checkpoint_period=2", "data.test=[]"]
    with subprocess.Popen(
        command,
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs with the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while not (place / "run" / "checkpoints" / "last_checkpoint").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines() == ["interrupted"]
    assert b"resume=true goes on from run/checkpoints/model_" in out
    assert not [name for name in files(place / "run") if "/." in name]  # no half-written file
    done = int(json.loads((place / "run" / "metrics.json").read_text().splitlines()[-1])["iteration"])
    again = [*command, "resume=true", f"optim.iterations={done + 20}"]
    finished = subprocess.run(again, cwd=place, env=environment(), capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    load(place / "run")


def test_the_ablation_is_a_multirun_that_goes_on_and_folds_into_a_table(place: Path, call: Call) -> None:
    small = ("backbone=tiny", "scene=tiny", *SETTINGS[3:5], *SETTINGS[6:], "input.test.longest=64")
    settings = ("experiment=ablation", *small, "model.queries=10", "evaluation.pictures=0", "resume=auto")
    assert call("train", "-m", *settings, "seed=1", "gca=off").code == 0  # two of the eight
    outcome = call("train", *settings, "seed=1,2", "-m")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("trained to the end before") == 2
    folders = sorted(path.parent for path in (place / "runs" / "ablation").rglob("config.yaml"))
    assert len(folders) == 8 and folders[0].name == "rai-off_gca-off_scene-tiny_seed-1"
    assert "model.queries-10" in folders[0].parent.name  # another value of it would go to another folder
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders]
    assert [bool(config["rai"]) for config in configs] == [False] * 4 + [True] * 4
    (folders[0] / "model.safetensors").unlink()
    table = call("report", "runs=[runs/ablation]")
    assert table.code == 0, table.err
    assert table.err == f"left out: {folders[0].relative_to(place)}, not trained to the end or not scored\n"
    lines = [line.split()[:2] for line in table.out.splitlines() if "rai=" in line]
    assert lines == [[f"gca={gca},", f"rai={rai}"] for rai in ("off", "small") for gca in ("off", "reference")]
    assert sum("±" in line for line in table.out.splitlines()) == 3
