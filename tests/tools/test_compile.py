"""``runtime.compile=true`` of every command that has it, on a machine without a C++ compiler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch._inductor

from score.model.compiled import check_compiler
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files

OWN = "{json: data/instances.json, images: data/images}"
TINY = ("backbone=tiny", "scene=tiny", "model.queries=10", "model.decoder_layers=1", "paths.cache=null")


@pytest.fixture
def _no_compiler() -> Iterator[None]:
    check_compiler.cache_clear()
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_no_compiler")
@pytest.mark.parametrize(
    "command",
    [
        ("profile", "models=model"),
        ("evaluate", "model=model", f"data={OWN}"),
        ("predict", "model=model", "images=data/images", "vocabulary=ship", "output=out"),
        ("train", "experiment=synthetic_demo", *TINY, "output=out"),
    ],
    ids=lambda command: command[0],
)
def test_without_a_compiler_one_line_says_so(command: tuple[str, ...], call: Call, tmp_path: Path) -> None:
    tiny_data(tmp_path / "data", size=64)
    tiny_folder(tmp_path / "model", ["ship", "storage_tank"])
    before = files(tmp_path)
    outcome = call(*command, "runtime.compile=true", "runtime.device=cpu", "runtime.threads=1")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: runtime.compile=true: torch.compile does not work here")
    assert "no-such-compiler" in outcome.err and outcome.err.endswith(
        "; install a C++ compiler, as g++, or leave it out\n"
    )
    assert files(tmp_path) == before
