"""``score profile`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import tiny_folder
from tests.tools.command_line import TOOLS, Call


def test_folders_and_settings_are_compared(call: Call, tmp_path: Path) -> None:
    tiny_folder(tmp_path / "own", ["ship", "plane"])
    fresh = "experiment=synthetic_demo backbone=tiny scene=tiny"
    outcome = call("profile", f"models=['own','{fresh}']", "size=64", "repeats=1", "batches=[1,2]", "output=costs")
    assert outcome.code == 0, outcome.err
    assert "### own" in outcome.out and f"### {fresh}" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines() if line.startswith("|"))
    saved = json.loads((tmp_path / "costs" / "profile.json").read_text())
    assert list(saved["models"]) == ["own", fresh]
    assert (tmp_path / "costs" / "profile.md").read_text().startswith("# Costs")


@pytest.mark.parametrize(
    "word",
    [
        "size=31",  # too small for a scene: drawing would not end
        "size=4097",
        "batches=[1,0]",
        "repeats=none",
        "batches=[1,2] runtime.compile=true",
        "models=nowhere",
        "models=[]",
        "models=[[a]]",
        "models='experiment=no'",
        "models='experiment=\"paper'",
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(word: str, call: Call, tmp_path: Path) -> None:
    outcome = call("profile", *word.split())
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_script_does_not_hide_the_standard_library_s_profile() -> None:
    code = f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import cProfile, profile; print(profile.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert TOOLS.name not in Path(done.stdout.strip()).parts
