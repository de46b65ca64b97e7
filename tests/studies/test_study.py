"""Predicted once, asked often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from score.engine import predictions
from score.engine.cache import PredictionCache
from score.engine.evaluate import evaluate, register
from score.errors import WeightsError
from score.model.classifier import Ensemble
from score.model.score import SCORE
from score.studies.study import Study
from score.studies.sweep import grids, pick
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder

CPU = torch.device("cpu")
CAPS = {"top_k": 30, "max_detections": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny_data(folder / "rectangles", size=64)
    tiny_folder(folder / "model", ["ship", "storage_tank"], "input.test.shortest=64", "model.queries=12")
    return folder


@pytest.fixture
def dataset(place: Path) -> str:
    data = place / "rectangles"
    return register({"json": str(data / "instances.json"), "images": str(data / "images")}, None)[0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A count of the images that the network saw."""
    seen: list[int] = []
    look = SCORE.look

    def counting(model: SCORE, inputs: list[dict]) -> object:
        seen.extend(item["image_id"] for item in inputs)
        return look(model, inputs)

    monkeypatch.setattr(SCORE, "look", counting)
    yield seen


def study(place: Path, cache: Path, **settings: object) -> Study:
    return Study(place / "model", cache, CPU, **settings)  # type: ignore[arg-type]


def test_a_dataset_is_hashed_once(place: Path, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    fingerprint = predictions.fingerprint
    monkeypatch.setattr(predictions, "fingerprint", lambda records: hashed.append(len(records)) or fingerprint(records))
    asked = study(place, tmp_path)
    for _ in range(2):
        with asked.predicted(dataset):
            pass
    assert hashed == [6]


def test_figures_equal_a_full_evaluation(place: Path, dataset: str, tmp_path: Path) -> None:
    asked = study(place, tmp_path)
    for alpha, beta in ((0.0, 0.0), (0.4, 0.8), (1.0, 0.3)):
        with asked.predicted(dataset) as predicted:
            found = predicted.score(alpha, beta, **CAPS)
        asked.model.selection.top_k = CAPS["top_k"]
        ensemble = Ensemble(alpha=alpha, beta=beta)
        full = evaluate(asked.model, dataset, ensemble=ensemble, max_detections=CAPS["max_detections"])
        for group in ("all", "seen", "unseen", "harmonic", "per_class", "detections", "images"):
            assert found[group] == full[group]
        assert found["boxes"]["images"] == 6


def test_the_network_sees_every_image_once(place: Path, dataset: str, tmp_path: Path, calls: list[int]) -> None:
    with study(place, tmp_path, limit=2).predicted(dataset) as predicted:
        assert len(predicted.records) == 2
    assert len(calls) == 2
    with study(place, tmp_path).predicted(dataset):  # goes on from there
        assert sorted(calls) == [1, 2, 3, 4, 5, 6]
    with study(place, tmp_path, overrides=["model.network.ensemble.alpha=0.9"]).predicted(dataset):
        assert len(calls) == 6  # exponents are no matter of the network
    with study(place, tmp_path, overrides=["input.test.shortest=32"]).predicted(dataset):
        assert len(calls) == 12


def test_other_weights_are_predicted_anew(place: Path, dataset: str, tmp_path: Path, calls: list[int]) -> None:
    """Nothing but the weights' file differs."""
    settings = ("input.test.shortest=64", "model.queries=12")
    other = tiny_folder(tmp_path / "other", ["ship", "storage_tank"], *settings, seed=1)
    with study(place, tmp_path).predicted(dataset) as first, Study(other, tmp_path, CPU).predicted(dataset) as second:
        assert {key for key, value in first.facts.items() if second.facts[key] != value} == {"weights"}
        assert first.cache.path != second.cache.path and len(calls) == 12
        assert first.score(0.4, 0.8, **CAPS) != second.score(0.4, 0.8, **CAPS)
        with pytest.raises(WeightsError, match="predictions of another weights"):
            PredictionCache(first.cache.path, second.facts)


def test_every_cell_of_a_sweep_equals_an_evaluation(place: Path, dataset: str, tmp_path: Path) -> None:
    asked = study(place, tmp_path)
    (grid,) = grids(asked, dataset, alphas=[0.0, 0.5], betas=[0.2, 1.0], top_k=[30], max_detections=20)
    for row, alpha in enumerate(grid.alphas):
        for column, beta in enumerate(grid.betas):
            with asked.predicted(dataset) as predicted:
                scored = predicted.score(alpha, beta, **CAPS)
            for place_of, values in enumerate(scored["per_class"].values()):
                assert grid.ap[row, column, place_of].tolist() == pytest.approx(
                    [values[metric] for metric in ("AP", "AP50", "AP75")], abs=1e-6
                )


def test_other_words_without_the_network(place: Path, dataset: str, tmp_path: Path, calls: list[int]) -> None:
    asked = study(place, tmp_path)
    settings = {"alphas": [0.4], "betas": [0.8], "top_k": [30], "max_detections": 20}
    words = {"plane": "aircraft,ship", "ship": "vessel"}
    (changed,) = grids(asked, dataset, **settings, words=words)  # type: ignore[arg-type]
    assert len(calls) == 6 and changed.seen == (False, True, True)
    renamed = tiny_data(tmp_path / "renamed", size=64, names=["vessel", "storage_tank", "aircraft,ship"])
    (again,) = grids(asked, register(renamed, None)[0], **settings)  # type: ignore[arg-type]
    assert len(calls) == 12  # this one the network saw with the words from the start
    torch.testing.assert_close(torch.from_numpy(changed.ap), torch.from_numpy(again.ap), equal_nan=True)


def test_an_exponent_that_cannot_matter_is_not_picked(place: Path, dataset: str, tmp_path: Path) -> None:
    asked = study(place, tmp_path)
    settings = {"alphas": [0.1, 0.2], "betas": [0.3, 0.6], "top_k": [30], "max_detections": 20}
    (grid,) = grids(asked, dataset, **settings)  # type: ignore[arg-type]
    own = Ensemble(alpha=0.4, beta=0.8)
    both = pick(grid, "mine", own, "all", "AP")
    assert both.alpha in grid.alphas and both.beta in grid.betas and "picked on mine" in both.reason
    words = {"plane": "ship,plane", "ship": "vessel,storage_tank", "storage_tank": "tank"}
    (none,) = grids(asked, dataset, **settings, words={**words, "plane": "a", "ship": "b"})  # type: ignore[arg-type]
    assert pick(none, "mine", own, "all", "AP").alpha == 0.4
