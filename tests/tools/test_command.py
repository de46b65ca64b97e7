"""What every command shares: the console command, kinds of settings, one line of error."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from score.app import console
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import TOOLS, Call


def test_score_alone_lists_every_command_in_one_line_each(score_command: Call) -> None:
    told = score_command()
    assert told.code == 0 and told == score_command("--help")
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  train         Train a model" in lines and "  predict       Find objects" in lines
    tools = {path.stem for path in TOOLS.glob("*.py")} - {"detectron2_wheel"}
    assert {line.split()[0] for line in lines[2:-2]} == tools == set(console.COMMANDS)


def test_a_misspelt_command_is_refused_with_the_near_one(score_command: Call) -> None:
    outcome = score_command("trian", "seed=1")
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("error: trian: no such command (did you mean train?); there are demo, prepare, ")


def test_score_and_tools_are_one_command(score_command: Call, call: Call) -> None:
    for arguments in (("train", "--help"), ("train", "seed=x", "--cfg", "job"), ("weights", "bring")):
        assert score_command(*arguments) == call(*arguments)


def test_what_was_typed_is_told(score_command: Call, call: Call, tmp_path: Path) -> None:
    tiny_data(tmp_path / "data", size=64)
    tiny_folder(tmp_path / "model", ["ship"], "input.test.shortest=64")
    settings = ("model=model", "data={json: data/instances.json, images: data/images}", "limit=1", "runtime.workers=0")
    for run, start in ((score_command, "score evaluate"), (call, "tools/evaluate.py")):
        assert run("evaluate", *settings, "output=out").code == 0
        [path] = (tmp_path / "out").glob("*.json")
        assert json.loads(path.read_text())["command"].startswith(f"{start} model=model 'data={{json: ")


def test_nothing_is_changed_for_the_whole_process(call: Call) -> None:
    before = argparse.ArgumentParser.error
    assert call("train", "--cfg", "jobs").err.startswith("error: argument --cfg/-c: invalid choice: 'jobs'")
    assert argparse.ArgumentParser.error is before


STOPPED = """
import time
from score.app.command import command

@command("commands/report")
def main(config):
    try:
        print("at work", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise RuntimeError("what a library makes of it") from error
    finally:
        print("in order", flush=True)

main()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_puts_all_in_order_and_says_one_word(tmp_path: Path, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, "runs=x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOOLS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job has it ignored
    ) as process:
        assert process.stdout and process.stdout.readline() == "at work\n"
        process.send_signal(ending)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + ending, "in order\n", "interrupted\n")


def test_ctrl_c_before_a_command_is_at_work_is_silent() -> None:
    early = "import score.app; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", early], cwd=TOOLS.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_folders_and_words_may_be_numbers(call: Call, tmp_path: Path) -> None:
    tiny_data(tmp_path / "2024_01_15", images=1, size=64)
    (tmp_path / "2024_01_15" / "instances.json").unlink()
    tiny_folder(tmp_path / "2024", ["ship"], "input.test.shortest=64")
    settings = ("model=2024", "vocabulary=5", "output=20240116", "runtime.threads=1")
    (tmp_path / "2024_01_15" / "images" / "001.png").rename(tmp_path / "2024_01_15" / "001.png")
    for images in ("images=2024_01_15", "images=[2024_01_15/001.png]"):
        outcome = call("predict", *settings, images)
        assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "20240116" / "predictions.json").read_text())
    assert [category["name"] for category in found["categories"]] == ["5"]


def test_the_folders_of_a_run_may_be_numbers(call: Call, tmp_path: Path) -> None:
    tiny_data(tmp_path / "data", size=64)
    tiny_folder(tmp_path / "7", ["ship"])
    own = "{json: data/instances.json, images: data/images}"
    settings = ("model=small", "backbone=tiny", "scene=tiny", "optim=lite", "paths.cache=null", f"data.train={own}")
    small = ("data.test=[]", "optim.iterations=1", "input.train.size=64", "runtime.workers=0", "runtime.threads=1")
    outcome = call("train", *settings, *small, "name=2024", "output=2024_06", "init=7")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "2024_06" / "README.md").read_text().startswith("# 2024\n")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("top_k=2.5", "top_k=2.5: not a whole number of at least 1"),
        ("resize=64", "resize=64: it holds settings of its own, as in resize.shortest=VALUE"),
        ("resize.shortest=-5", "resize.shortest=-5: not a whole number of at least 1"),
        ("resize.shortest=0", "resize.shortest=0: not a whole number of at least 1"),
        ("resize.longest=big", "resize.longest=big: not a whole number of at least 1"),
        ("ensemble.alpha=much", "ensemble.alpha=much: not a number in 0 .. 1"),
        ("per_class=2", "per_class=2: it takes true or false"),
        ("overrides=x", "overrides=x: it takes a list"),
        ("runtime.threads=two", "runtime.threads=two: not a whole number"),
        ("runtime.device=null", "runtime.device=null: give one value"),
        ("model=null", "model=null: give one value"),
        ("model=[model]", "model=['model']: give one value"),
        ("output=null", "output=null: give one value"),
        ("vocabulary=null", "vocabulary=null: give one value"),
        ("images=[data/images,null]", "images=['data/images', None]: give one value"),
    ],
)
def test_a_value_of_another_kind_is_one_line(call: Call, tmp_path: Path, change: str, line: str) -> None:
    tiny_data(tmp_path / "data", images=1, size=64)
    tiny_folder(tmp_path / "model", ["ship"])
    outcome = call("predict", "model=model", "images=data/images", "vocabulary=ship", "output=out", change)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"error: {line}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("runtime.recompute=no", "runtime.recompute=no: it takes true or false"),
        ("runtime.amp=null", "runtime.amp=null: give one value"),
        ("runtime=null", "runtime=null: no such choice; there are: default"),
        ("optim=5", "optim=5: no such choice; there are: lite, "),
        ("optim.no_decay=void", "optim.no_decay=void: it takes a list"),
        ("optim.decay=null", "optim.decay=None: it holds settings of its own"),
        ("optim.decay.power=nan", "optim.decay.power=nan: it takes a number"),
        ("model.dim=wide", "model.dim=wide: it takes a number"),  # of the file that the chosen one extends
        ("model.network.mask_decoder.prior=off", "model.network.mask_decoder.prior=off: it takes true or false"),
        ("calibrate=nosuch", "no dataset nosuch; "),
    ],
)
def test_so_it_is_in_files_of_groups(call: Call, tmp_path: Path, change: str, line: str) -> None:
    tiny_data(tmp_path / "data", images=1, size=64)
    own = "{json: data/instances.json, images: data/images}"
    choice = ("model=small", "decoder=places", "backbone=tiny", "scene=tiny", "optim=lite", f"data.train={own}")
    outcome = call("train", *choice, "data.test=[]", "runtime.device=cpu", "input.train.ignore=true", change)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert outcome.err.startswith(f"error: {line}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_multirun_goes_through_submitit(score_command: Call, tmp_path: Path) -> None:
    """Each job is pickled and runs in a process of its own, as on a cluster."""
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.submitit_folder=jobs", "hydra.sweep.dir=.")
    outcome = score_command("weights", "list", "folder=one,two", "-m", *launcher)
    assert outcome.code == 0, outcome.err
    told = sorted(path.read_text() for path in (tmp_path / "jobs").rglob("*_log.out"))
    assert len(told) == 2
    for text, folder in zip(told, ("one", "two"), strict=True):
        assert f"fetch puts files in {folder}\n" in text


def test_an_address_needs_no_quotes_of_hydra(call: Call) -> None:
    for address in ("https://host/{z}/{x}/{y}.png?key=1&v=2", "s3://bucket/a,b.tif", "WMTS:https://host/wmts?layer=a"):
        told = call("predict", f"images={address}", "vocabulary=ship", "output=out", "--cfg", "job")
        assert told.code == 0 and f"images: {address}\n" in told.out, told.err
