"""The shipped model: small, whole, nobody's machine in it, and useful on photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import score
from score.data import catalog
from score.engine.evaluate import evaluate
from score.weights import known
from score.weights.folder import CALIBRATION, FILES, WEIGHTS

FOLDER = known.SHIPPED["lite"]


@pytest.fixture(scope="module")
def segmenter() -> score.Segmenter:
    return score.Segmenter.from_pretrained()


def test_it_is_small_and_of_16_bits() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, CALIBRATION}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    state = load_file(FOLDER / WEIGHTS)
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}  # int64: a count of RAI


def test_its_card_says_what_may_be_done_with_it() -> None:
    card = (FOLDER / "README.md").read_text()
    for words in ("Academic", "iSAID", "score train experiment=isaid512_lite", "Learning curve"):
        assert words in card


def test_no_machine_is_in_it() -> None:
    config = (FOLDER / "config.yaml").read_text()
    assert "output: runs/lite\n" in config
    assert not [line for line in config.splitlines() if ": /" in line or "home" in line]


def test_it_is_the_default_and_calibrated(segmenter: score.Segmenter) -> None:
    model = segmenter.model
    assert len(model.train_names) == 15
    assert model.calibration != type(model.calibration)()
    assert model.scene is model.backbone
    assert known.find("lite") == FOLDER and known.find(FOLDER) == FOLDER


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lite").mkdir()
    (tmp_path / "lite" / WEIGHTS).touch()
    monkeypatch.chdir(tmp_path)
    assert known.find("lite") == Path("lite")


@pytest.mark.data
def test_it_finds_objects_in_photographs_it_never_saw(segmenter: score.Segmenter, datasets_root: Path) -> None:
    """Every 40th image of NWPU; see docs/lite.md for all of them."""
    catalog.register(datasets_root)
    figures = evaluate(segmenter.model, "nwpu_val", limit=16)
    assert figures["all"]["AP50"] > 20
