"""Scripts of benchmarks/ that pages refer to run as those pages say."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

import score
from score.data.catalog import read_spec
from score.files import shipped
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder

BENCHMARKS = Path(score.__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_context_compares_cells_on_one_finder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: read_spec(shipped("datasets") / f"{name}.yaml").classes for name in ("isaid512", "nwpu")}
    for part in ("isaid512/train", "isaid512/val", "nwpu/val"):
        dataset, split = part.split("/")
        tiny_data(tmp_path / part, images=3, size=64, names=names[dataset], seed=len(part))
        (tmp_path / part / "instances.json").rename(tmp_path / part / f"instances_{split}.json")
    model = tiny_folder(tmp_path / "model", names["isaid512"], "input.train.size=64", "input.test.shortest=64")
    monkeypatch.setenv("SCORE_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = f"{model} --train isaid512_train --validation isaid512_val --test nwpu_val --seeds 2 --steps 3 --crops 2"
    small = "--keep 25 --limit 2 --cells off+off small+reference joint+tokens"  # more than the 20 there are
    monkeypatch.setattr(sys, "argv", ["context.py", *command.split(), *small.split()])
    runpy.run_path(str(BENCHMARKS / "context.py"), run_name="__main__")
    told = capsys.readouterr().out
    result = json.loads((tmp_path / "runs/context/results.json").read_text())
    assert [(run["rai"], run["gca"], run["seed"]) for run in result["runs"][:3]] == [
        ("off", "off", 0), ("small", "reference", 0), ("joint", "tokens", 0),
    ]  # fmt: skip
    assert len(result["runs"]) == 6
    for run in result["runs"]:
        unseen = run["sets"]["nwpu_val"]["unseen"]["AP50"]
        assert len(unseen) == 11 and len(unseen[0]) == 6
        if run["gca"] == "reference":  # it moves all classes alike
            assert run["changed"]["gca"]["nwpu_val"][2] == 0
    assert "| joint | tokens    |" in told and (tmp_path / "runs/context/results.md").read_text() in told
