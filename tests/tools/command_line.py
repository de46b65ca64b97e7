"""Commands as a user types them, run in this process: importing PyTorch anew for each would take seconds."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import score
from score.app import console

TOOLS = Path(score.__file__).parent.parent / "tools"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """``call("train", "seed=1")`` runs ``tools/train.py seed=1`` in ``tmp_path``."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a command sets it; this restores it
    monkeypatch.delenv("SCORE_DATASETS", raising=False)
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: str) -> Outcome:
        path = TOOLS / f"{tool}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        capsys.readouterr()
        try:
            runpy.run_path(str(path), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def score_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, call: Call
) -> Call:
    """``score_command("train", "seed=1")`` runs ``score train seed=1`` in ``tmp_path``."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/score", *arguments])
        capsys.readouterr()
        code = 0
        try:
            console.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


def files(folder: Path) -> list[str]:
    """All that is in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
