"""``score align`` as a user types it: what makes no sense is said before a quarter of an hour is spent on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.command_line import Call, files


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["output=folder"], "output=folder: a folder"),
        (["features=file"], "cannot write to file"),
        (["train=[]"], "train=[]: nothing to learn from"),
        (["train=[nwpu_val]"], "train=nwpu_val: no dataset with its size"),
        (["train=[{data: nwpu_val}]"], "train={'data': 'nwpu_val'}: no dataset with its size"),
        (["train=[{data: nwpu_val, shortest: 0}]"], "train: shortest=0: not a whole number"),
        (["test=[{data: nwpu_val, shortest: 64, name: [a]}]"], "test={'data': 'nwpu_val', 'shortest': 64, 'name'"),
        (["words.ship=null"], "words.ship=null: give one value"),
        (["start=nosuch"], "projection not found: nosuch"),
        (["+words.dam=3"], "words.dam=3: not words"),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(words: list[str], line: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    outcome = call("align", *words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"error: {line}")
    assert files(tmp_path) == ["file", "folder"]
