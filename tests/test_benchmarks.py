"""Scripts of benchmarks/ that pages refer to run as those pages say."""

from __future__ import annotations

import json
import re
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that is the root of the datasets, with three images in each."""
    for part in ("isaid512/train", "isaid512/val", "nwpu/val"):
        dataset, split = part.split("/")
        names = read_spec(shipped("datasets") / f"{dataset}.yaml").classes
        tiny_data(tmp_path / part, images=3, size=64, names=names, seed=len(part))
        (tmp_path / part / "instances.json").rename(tmp_path / part / f"instances_{split}.json")
    monkeypatch.setenv("SCORE_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


@pytest.mark.slow
def test_regions_are_named_with_the_names_of_a_dataset_and_others(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("naming.py", "nwpu_val", "--shortest", "64", "--names", "ship=boat", monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    assert "6 regions\n" in told
    assert re.search(r"^ship +(\d\.\d+|  nan)   boat ", told, flags=re.MULTILINE)
    assert re.search(r"^mean over classes +\d\.\d{3} +\d\.\d{3}$", told, flags=re.MULTILINE)


@pytest.mark.slow
def test_a_recipe_is_run_without_its_parts_and_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for parts in (["nothing"], ["nothing", "places"]):
        words = ["rows", "--minutes", "0.001", "--seeds", "1", "--limit", "1", "--parts", *parts]
        run("recipe.py", *words, monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in (place / "rows" / "rows.jsonl").read_text().splitlines()]
    assert [(row["part"], row["seed"], row["steps"]) for row in rows] == [("nothing", 1, 1), ("places", 1, 1)]
    assert "| places | " in told.splitlines()[-1]


@pytest.mark.slow
def test_context_compares_cells_on_one_finder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = read_spec(shipped("datasets") / "isaid512.yaml").classes
    model = tiny_folder(place / "model", names, "input.train.size=64", "input.test.shortest=64")
    command = f"{model} --train isaid512_train --validation isaid512_val --test nwpu_val --seeds 2 --steps 3 --crops 2"
    small = "--keep 25 --limit 2 --cells off+off small+reference joint+tokens"  # more than the 20 there are
    run("context.py", *command.split(), *small.split(), monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    result = json.loads((place / "runs/context/results.json").read_text())
    assert [(cell["rai"], cell["gca"], cell["seed"]) for cell in result["runs"][:3]] == [
        ("off", "off", 0), ("small", "reference", 0), ("joint", "tokens", 0),
    ]  # fmt: skip
    assert len(result["runs"]) == 6
    for cell in result["runs"]:
        unseen = cell["sets"]["nwpu_val"]["unseen"]["AP50"]
        assert len(unseen) == 11 and len(unseen[0]) == 6
        if cell["gca"] == "reference":  # it moves all classes alike
            assert cell["changed"]["gca"]["nwpu_val"][2] == 0
    assert "| joint | tokens    |" in told and (place / "runs/context/results.md").read_text() in told
