from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from score.data.mapper import TrainMapper
from score.engine import trainer
from score.engine.checkpoint import read_last
from score.engine.evaluate import evaluate
from score.errors import ConfigError, OutputError, ScoreError, WeightsError
from score.model.score import SCORE
from score.model.towers.tiny import TinyTower
from score.weights.folder import load
from tests.engine.runs import ITERATIONS, run, run_config

# Each run is seeded by the config's own seed, 42.


class Interrupting(TrainMapper):
    """Reads images as training does; someone presses Ctrl-C at the ninth."""

    count = 0

    def __call__(self, record: dict) -> dict:
        self.count += 1
        if self.count == 9:
            raise KeyboardInterrupt
        return super().__call__(record)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's surroundings; its ``run`` may be changed."""
    return Path(shutil.copytree(finished.parent, tmp_path / "copy"))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def data_name(output: Path) -> str:
    """What the rectangles were registered as."""
    return next((output / "evaluation").glob("*.json")).stem


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_leaves_a_model_folder(finished: Path) -> None:
    model, config = load(finished)
    assert model.train_names == ["ship", "storage_tank", "plane"]
    assert config.optim.iterations == ITERATIONS
    card = (finished / "README.md").read_text()
    assert "6 images with 12 instances" in card
    assert "`tools/train.py experiment=rectangles`" in card
    assert "seed: 42" in card
    assert f"torch {torch.__version__.split('+')[0]}" in card
    assert "harmonic mean" in card  # the table of figures


def test_training_changes_all_that_is_trained_and_no_tower(finished: Path, tmp_path: Path) -> None:
    first = run(tmp_path, "optim.lr=0")
    before, after = weights(first), weights(finished)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert not {name for name in same if name.startswith(("pixel_decoder", "class_embedding", "classifier"))}


def test_checkpoints_hold_the_iteration_and_old_ones_go(finished: Path) -> None:
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert names == {"model_0000002.pth", "model_0000005.pth", "model_final.pth", "last_checkpoint"}
    state = read_last(finished / "checkpoints")
    assert state["iteration"] == ITERATIONS - 1
    assert set(state) == {"model", "trainer", "iteration", "facts"}


def test_progress_figures_and_pictures_are_logged(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == ITERATIONS // 2
    name = data_name(finished)
    assert f"{name}/all/AP50" in lines[-1]
    events = EventAccumulator(str(finished), size_guidance={"images": 0})
    events.Reload()
    assert {"total_loss", "lr", f"{name}/all/AP"} <= set(events.Tags()["scalars"])
    pictures = sorted(path.stem for path in (finished / "pictures" / name).iterdir())
    assert len(pictures) == 2
    assert sorted(events.Tags()["images"]) == [f"{name}/{picture}" for picture in pictures]


def test_figures_are_saved_with_their_circumstances(finished: Path) -> None:
    results = json.loads((finished / "evaluation" / f"{data_name(finished)}.json").read_text())
    assert results["images"] == 6
    assert results["seconds_per_image"] > 0
    assert results["ensemble"] == {"alpha": 0.4, "beta": 0.8}


def test_a_resumed_run_ends_as_the_uninterrupted_one(folder: Path) -> None:
    whole = weights(folder / "run")
    (folder / "run" / "model.safetensors").unlink()
    (folder / "run" / "checkpoints" / "last_checkpoint").write_text("model_0000002.pth")
    again = weights(run(folder, "resume=true"))
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_an_averaged_run_scores_and_keeps_the_average_and_is_resumed_exactly(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[torch.Tensor] = []

    def watched(model: SCORE, *args: Any, **settings: Any) -> Any:
        scored.append(model.classifier.void.detach().clone())
        return evaluate(model, *args, **settings)

    monkeypatch.setattr(trainer, "evaluate", watched)
    output = run(tmp_path, "optim.ema=0.9", "optim.eval_period=3")
    kept, last = weights(output), read_last(output / "checkpoints")
    early = torch.load(output / "checkpoints" / "model_0000002.pth")
    assert set(last["average"]) == set(last["model"]) == set(kept)
    for name, value in weights(finished).items():  # training itself is what it is without
        assert torch.equal(value, last["model"][name]), name
        assert torch.equal(kept[name], last["average"][name]), name
    assert torch.equal(kept["rai.calls"], last["model"]["rai.calls"])
    assert not torch.equal(kept["classifier.void"], last["model"]["classifier.void"])
    assert len(scored) == 2
    assert torch.equal(scored[0], early["average"]["classifier.void"])
    assert torch.equal(scored[1], kept["classifier.void"])

    (output / "checkpoints" / "last_checkpoint").write_text("model_0000002.pth")
    again = weights(run(tmp_path, "resume=true", "optim.ema=0.9", "optim.eval_period=3"))
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name
    with pytest.raises(ConfigError, match=r"optim\.ema is null, had been 0\.9"):
        run(tmp_path, "resume=true", "optim.iterations=8")


def test_a_checkpoint_without_an_average_starts_one(folder: Path) -> None:
    path = folder / "run" / "checkpoints" / "model_final.pth"
    state = torch.load(path)
    del state["facts"]["optim.ema"]  # as an earlier version wrote it
    torch.save(state, path)
    run(folder, "resume=true", "optim.iterations=8", "optim.ema=1", "data.test=[]")
    average = read_last(folder / "run" / "checkpoints")["average"]["classifier.void"]
    old, new = state["model"]["classifier.void"], read_last(folder / "run" / "checkpoints")["model"]["classifier.void"]
    assert (average - old).norm() < (new - old).norm()


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(finished: Path, tmp_path: Path) -> None:
    same, other = weights(run(tmp_path / "a")), weights(run(tmp_path / "b", "seed=43"))
    for name, value in weights(finished).items():
        assert torch.equal(value, same[name]), name
    assert not torch.equal(same["classifier.void"], other["classifier.void"])


def test_data_workers_do_not_change_the_result(finished: Path, tmp_path: Path) -> None:
    parallel = weights(run(tmp_path, "runtime.workers=2"))
    for name, value in weights(finished).items():
        assert torch.equal(value, parallel[name]), name


def test_a_longer_run_goes_on_from_a_finished_one(folder: Path) -> None:
    run(folder, "resume=true", "optim.iterations=8", "data.test=[]")
    assert read_last(folder / "run" / "checkpoints")["iteration"] == 7


def test_a_changed_rate_holds_in_a_resumed_run(folder: Path) -> None:
    run(folder, "resume=true", "optim.iterations=8", "optim.lr=1e-3", "optim.decay.power=0", "data.test=[]")
    last = json.loads((folder / "run" / "metrics.json").read_text().splitlines()[-1])
    assert (last["iteration"], last["lr"]) == (7, pytest.approx(1e-3))


def test_a_finished_run_is_not_resumed(folder: Path) -> None:
    before = files(folder)
    with pytest.raises(ConfigError, match="trained to the end"):
        run(folder, "resume=true")
    assert files(folder) == before


def test_a_run_is_not_overwritten_unasked(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"already holds a run; .*resume=true.*overwrite=true"):
        run(folder)


def test_overwriting_removes_the_old_run_and_nothing_else(folder: Path) -> None:
    (folder / "run" / "notes.txt").write_text("mine")
    run(folder, "overwrite=true", "optim.iterations=2", "data.test=[]")
    left = files(folder / "run")
    assert "notes.txt" in left
    assert not {name for name in left if name.startswith(("evaluation", "pictures", "checkpoints/model_0000005"))}
    assert len([name for name in left if name.startswith("events")]) == 1


def test_nothing_to_resume_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    config = run_config(tmp_path, "resume=true")
    before = files(tmp_path)
    with pytest.raises(WeightsError, match="nothing to resume"):
        run(tmp_path, "resume=true")
    assert config.resume
    assert files(tmp_path) == before


def test_a_loss_that_is_no_number_is_one_line_and_the_settings_are_there_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(
        ScoreError, match=r"the loss became infinite or NaN at iteration .*; try a lower optim.lr"
    ) as error:
        run(tmp_path, "optim.lr=1e30", "optim.warmup=0", "optim.clip_norm=0")
    assert "\n" not in str(error.value)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["optim"]["lr"] == 1e30
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_ctrl_c_leaves_the_last_checkpoint_whole(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, f"input.train._target_={__name__}.Interrupting")
    assert read_last(tmp_path / "run" / "checkpoints")["iteration"] == 2
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not [line for line in caplog.messages if line.startswith("5/")]  # begun, not done
    for name, value in weights(run(tmp_path, "resume=true")).items():
        assert torch.equal(value, weights(finished)[name]), name


def test_what_will_be_trained_is_said_in_80_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="score")
    run(tmp_path, "optim.iterations=2", "rai=null")
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 80
    for line in (
        f"train       {data_name(tmp_path / 'run')}: 6 images with 12 instances",
        "rai         off",
        "gca         Global",
        "2/2  loss",
    ):
        assert line in said
    assert "classes     3: ship, storage_tank, plane" in said


def test_frozen_towers_are_lowered_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[torch.dtype] = []
    monkeypatch.setattr(TinyTower, "lower", lambda _, dtype: lowered.append(dtype))
    run(tmp_path, "runtime.towers=bf16")
    assert lowered == [torch.bfloat16] * 2


@pytest.mark.parametrize("asked", [False, True])
def test_activations_are_computed_again_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    models: list[SCORE] = []
    monkeypatch.setattr(SCORE, "recompute", lambda model: models.append(model))
    run(tmp_path, "optim.iterations=1", f"runtime.recompute={str(asked).lower()}")
    assert len(models) == asked


def test_bfloat16_trains_close_to_full_precision(finished: Path, tmp_path: Path) -> None:
    half = run(tmp_path, "runtime.amp=bf16")
    first, second = (json.loads((path / "metrics.json").read_text().splitlines()[0]) for path in (finished, half))
    assert first["total_loss"] != second["total_loss"]
    assert second["total_loss"] == pytest.approx(first["total_loss"], rel=0.02)
    assert {value.dtype for value in weights(half).values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime.amp=half", "runtime.amp=half: no such precision"),
        ("runtime.amp=fp16", "runtime.amp=fp16: needs a GPU"),
        ("runtime.towers=half", "runtime.towers=half: no such precision"),
        ("runtime.device=tpu9", "runtime.device=tpu9: not on this machine"),
        ("runtime.gpus=99", "optim.batch_size=2: not a multiple of 99 processes"),
        ("output=/proc/run", "cannot write to /proc/run"),
        ("optim.batch_size=0", "optim.batch_size=0: not a whole number of at least 1"),
        ("optim.lr=fast", "optim.lr=fast: not a number"),
        ("optim.ema=1.5", r"optim.ema=1.5: not a number in 0 \.\. 1, or null"),
        ("optim.decay.base_value=-1", "optim.decay: not at all times a number of at least 0"),
        ("optim.decay.power=-1", "optim.decay: no course of a learning rate"),
        ("input.train.seed=null", "input.train.seed=None: not a whole number of at least 0"),
        ("input.train.scale=[2,1]", r"input.train.scale=\[2, 1\]: not two numbers in 0.01 .. 10, in order"),
        ("input.train.scale=[1]", r"input.train.scale=\[1\]: not two numbers"),
        ("input.train.scale=[0,0]", r"input.train.scale=\[0, 0\]: not two numbers"),
        ("input.train.scale=[1,1000]", r"input.train.scale=\[1, 1000\]: not two numbers"),
        ("runtime.threads=999999999999", "runtime.threads=999999999999: not a whole number in 1 .. 1024, or null"),
        ("runtime.workers=100000", "runtime.workers=100000: not a whole number in 0 .. 1024"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, override: str, message: str) -> None:
    run_config(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ScoreError, match=message):
        run(tmp_path, override)
    assert files(tmp_path) == before


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.engine.runs import run\n"
        "run(Path(sys.argv[1]), 'optim.ema=0.5')\n"
    )
    run_config(tmp_path)  # writes the data once, before both would
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runtime     cpu x 2" in done.stdout
    assert done.stdout.count("train       instances") == 1
    average = read_last(tmp_path / "run" / "checkpoints")["average"]
    for name, value in load(tmp_path / "run")[0].trainable_state().items():
        assert torch.equal(value, average[name]), name
    results = json.loads((tmp_path / "run" / "evaluation" / "instances.json").read_text())
    assert results["images"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optim.batch_size=4"], "optim.batch_size is 4, had been 2"),
        (["optim.ema=0.9"], "optim.ema is 0.9, had been null"),
        (["seed=43"], "seed is 43, had been 42"),
        (["backbone.tower.seed=5"], "backbone is tiny: random.* seed 5, had been tiny: random"),
        (["seed=43", "optim.batch_size=4"], "seed is 43, had been 42; optim.batch_size is 4, had been 2"),
    ],
)
def test_a_run_goes_on_as_what_it_was_or_says_what_differs(folder: Path, changes: list[str], message: str) -> None:
    before = files(folder)
    with pytest.raises(ConfigError, match=message) as error:
        run(folder, "resume=true", "optim.iterations=8", *changes)
    assert "\n" not in str(error.value) and str(folder / "run") in str(error.value)
    assert files(folder) == before


@pytest.mark.parametrize("kind", ["image", "class", "annotation"])
def test_a_run_does_not_go_on_with_other_data(folder: Path, kind: str) -> None:
    path = folder / "data" / "instances.json"
    content = json.loads(path.read_text())
    if kind == "image":
        content["images"].pop()
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 6]
    elif kind == "class":
        content["categories"][0]["name"] = "boat"
    else:
        content["annotations"].pop()
    path.write_text(json.dumps(content))
    message = (
        "classes is boat, storage_tank, plane, had been ship, "
        if kind == "class"
        else "data.train is [56] images with 1[01] instances"
    )
    with pytest.raises(ConfigError, match=message):
        run(folder, "resume=true", "optim.iterations=8")


def test_what_may_change_does_not_stop_a_run(folder: Path) -> None:
    changed = ["optim.lr=1e-3", "optim.checkpoint_period=1", "runtime.amp=bf16", "runtime.workers=1", "data.test=[]"]
    moved = shutil.move(folder, folder.with_name("moved"))  # neither does another place
    run(Path(moved), "resume=true", "optim.iterations=8", *changed)
    assert read_last(Path(moved) / "run" / "checkpoints")["iteration"] == 7


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="seed is 43, had been 42"):
        run(folder, "resume=auto", "seed=43")
