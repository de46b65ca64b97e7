from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from score.errors import DataError
from score.studies.ablation import Run, find, fold, labels

GROUPS = {"AP": 10.0, "AP50": 20.0}
FIGURES = {"all": GROUPS, "seen": GROUPS, "unseen": dict.fromkeys(GROUPS), "harmonic": dict.fromkeys(GROUPS)}


def run(seed: int = 1, choices: dict[str, str] | None = None, **settings: Any) -> Run:
    folder = Path(f"{seed}{choices}{settings}")
    return Run(folder, seed, choices or {}, {key.replace("__", "."): value for key, value in settings.items()}, {})


def test_runs_that_differ_in_a_resolved_setting_are_no_seeds_of_one() -> None:
    runs = [
        run(1, optim__lr=1, model__network__x=1),
        run(2, optim__lr=1, model__network__x=2),
        run(1, optim__lr=2, model__network__x=1),
    ]
    assert len(set(labels(runs))) == 3 and labels(runs)[1] == "optim.lr=1, model.network.x=2"


def test_a_resolved_setting_that_only_repeats_another_is_not_said() -> None:
    runs = [run(1, model__dim=1, model__network__dim=1), run(1, model__dim=2, model__network__dim=2)]
    assert labels(runs) == ["model.dim=1", "model.dim=2"]


def test_what_a_choice_brings_is_said_by_its_name_and_what_was_set_beside_it_by_its_own() -> None:
    small, off = {"rai": "small"}, {"rai": "off"}
    runs = [run(1, small, rai__layers=1, optim__lr=1), run(1, off, rai__layers=None, optim__lr=2)]
    assert labels(runs) == ["rai=small, optim.lr=1", "rai=off, optim.lr=2"]
    runs = [run(1, small, rai__layers=1), run(1, small, rai__layers=2), run(1, off, rai__layers=None)]
    assert labels(runs) == ["rai=small, rai.layers=1", "rai=small, rai.layers=2", "rai=off, rai.layers=None"]
    runs = [run(1, {"experiment": "a"}, optim__lr=1), run(1, {"experiment": "b"}, optim__lr=2)]
    assert labels(runs) == ["experiment=a", "experiment=b"]


def folder(place: Path, **files: Any) -> Path:
    (place / "evaluation").mkdir(parents=True)
    (place / "model.safetensors").touch()
    (place / "config.yaml").write_text(yaml.safe_dump({"seed": 1, "optim": {"lr": 1}}))
    for name, content in files.items():
        (place / "evaluation" / f"{name}.json").write_text(json.dumps(content))
    return place


def test_only_what_the_run_itself_would_say_is_folded(tmp_path: Path) -> None:
    other = {**FIGURES, "changes": ["limit1"]}
    place = folder(tmp_path / "run", nwpu_val=FIGURES, nwpu_val_limit1=other, maps_semantic={"semantic": {}})
    (line,) = fold(find([place])[0])
    assert line.dataset == "nwpu_val" and line.values["all", "AP"] == [10.0]


@pytest.mark.parametrize("text", ["", "[1]", "a: ["])
def test_a_folder_that_is_no_runs_is_named(tmp_path: Path, text: str) -> None:
    place = folder(tmp_path / "run", nwpu_val=FIGURES)
    (place / "config.yaml").write_text(text)
    with pytest.raises(DataError, match="not a run's folder"):
        find([place])
