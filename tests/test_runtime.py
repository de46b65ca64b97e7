from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from score import runtime
from score.errors import ConfigError


def draw(*seed: int) -> tuple[float, float, float]:
    runtime.seed_everything(*seed)
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_seeding_covers_python_numpy_and_torch() -> None:
    assert draw(42, 7) == draw(42, 7)
    assert not set(draw(42, 7)) & set(draw(42, 8))
    assert not set(draw(42, 7)) & set(draw(43, 7))


def test_versions_name_what_decides_figures() -> None:
    versions = runtime.versions()
    assert {"python", "torch", "detectron2", "numpy", "hotcoco"} <= versions.keys()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_auto_is_a_device_of_this_machine() -> None:
    assert runtime.select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert runtime.select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:77", "gpu", "meta device"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"runtime.device={name}: not on this machine"):
        runtime.select_device(name)


def test_a_command_of_one_process_is_not_run_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="torchrun has started 3 processes of a command that is run by one"):
        runtime.select_device("cpu")


@pytest.mark.slow
def test_started_processes_join_and_part(tmp_path: Path) -> None:
    runtime.start_processes(2, "cpu", report, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "2 1 True 0", "1": "2 1 False 0"}


def report(folder: Path) -> None:
    """What a started process writes: how many there were and are after parting, if it is the main, threads left."""
    rank, before = comm.get_rank(), comm.get_world_size()
    comm.gather(rank)
    assert gloo_threads()
    main = runtime.part_processes()
    (folder / str(rank)).write_text(f"{before} {comm.get_world_size()} {main} {gloo_threads()}")


def gloo_threads() -> int:
    """How many threads of this process pass messages; one that is alive when Python shuts down can abort it."""
    return sum("gloo" in task.read_text() for task in Path("/proc/self/task").glob("*/comm"))


ENDLESS = r"""
import os, time
from score import runtime

def work():
    os.write(1, f"{os.getpid()}\n".encode())  # at once: both processes write
    time.sleep(60)

if __name__ == "__main__":
    runtime.start_processes(2, "cpu", work)
"""


@pytest.mark.slow
def test_an_interrupt_of_the_first_process_alone_ends_those_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, "endless.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parent.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        children = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
