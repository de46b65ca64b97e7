"""Commands on two processes: each does its share, and figures and files are those of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from score.engine import checks
from score.errors import ConfigError
from tests.engine.runs import run_config
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import TOOLS, Call, files
from tests.tools.test_train import SETTINGS

OWN = "{json: data/instances.json, images: data/images}"
COMMON = ("model=model", "runtime.workers=0", "runtime.threads=1", "runtime.device=cpu")
COMMANDS = {
    "evaluate": (f"data={OWN}", "tasks=[instances,boxes,panoptic]", "pictures=3"),
    "benchmark": ("benchmark=own.yaml", "pictures=1"),
    "sweep": (f"data={OWN}", "alphas=[0,0.5]", "betas=[0.25]", "names={plane: 'aircraft'}"),
}
SCRIPT = """
import json, os, runpy, sys
for place, words in enumerate(json.load(open("commands.json"))):
    os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[place]
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
"""


def free_ports(count: int) -> list[str]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def figures(folder: Path) -> dict[str, Any]:
    """All JSON below a folder, without times and how it was called; and the names of all other files."""
    found: dict[str, Any] = {}
    for name in files(folder):
        if name.endswith(".json"):
            found[name] = json.loads((folder / name).read_text(), object_hook=without_circumstances)
        elif not name.endswith(".sqlite"):
            found[name] = None
    return found


def without_circumstances(item: dict[str, Any]) -> dict[str, Any]:
    varies = ("seconds", "seconds_per_image", "finished", "command", "config", "device", "model", "output")
    return {key: value for key, value in item.items() if key not in varies}


@pytest.mark.slow
def test_figures_of_two_processes_are_those_of_one(tmp_path: Path, call: Call) -> None:
    tiny_data(tmp_path / "data", images=5, size=64)
    tiny_folder(tmp_path / "model", ["ship", "storage_tank"], "input.test.shortest=64")
    own = {"json": "data/instances.json", "images": "data/images", "alpha": 0.2, "beta": 0.6}
    benchmark = {"task": "instances", "targets": {"own": own}, "fixed": {"alpha": 0.4, "beta": 0.8}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(benchmark))

    def words(name: str, where: str) -> list[str]:
        places = [f"output={where}/{name}"] + ([f"predictions={where}/predictions"] if name != "evaluate" else [])
        return [*COMMON, *COMMANDS[name], *places]

    for name in COMMANDS:
        outcome = call(name, *words(name, "one"))
        assert outcome.code == 0, outcome.err
    (tmp_path / "commands.json").write_text(json.dumps([[str(TOOLS / f"{n}.py"), *words(n, "two")] for n in COMMANDS]))
    started = []
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PORTS": " ".join(free_ports(3))}
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(TOOLS.parent)}
        environment["OMP_NUM_THREADS"] = "1"
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (out, err), (silent, other) = (process.communicate(timeout=300) for process in started)
    assert [process.returncode for process in started] == [0, 0], err[-2000:] + other[-2000:]
    assert silent == ""
    assert "of 5 images predicted now" in out
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    assert len(list((tmp_path / "two" / "evaluate" / "pictures").rglob("*.jpg"))) == 3


@pytest.mark.slow
def test_an_ablation_trains_each_of_its_runs_on_two_processes(tmp_path: Path, call: Call) -> None:
    tiny_data(tmp_path / "data", size=64)
    small = ("backbone=tiny", "scene=tiny", *SETTINGS[3:5], *SETTINGS[6:], "input.test.longest=64", "data.test=[]")
    choice = ("rai=off", "gca=off,reference", "model.queries=10", "runtime.gpus=2")
    outcome = call("train", "-m", "experiment=ablation", *small, *choice)
    assert outcome.code == 0, outcome.err
    folders = sorted(path.parent.name for path in (tmp_path / "runs" / "ablation").rglob("model.safetensors"))
    assert folders == [f"rai-off_gca-{gca}_scene-tiny_seed-42" for gca in ("off", "reference")]


def test_processes_are_started_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runtime.gpus=2: torchrun has started 4 processes; leave it out"):
        checks.check_processes(run_config(tmp_path, "runtime.gpus=2"), 4)
    with pytest.raises(ConfigError, match=r"runtime.gpus=99: \d+ here; use as many as there are"):
        checks.check_processes(run_config(tmp_path, "runtime.gpus=99", "runtime.device=auto"), 1)
