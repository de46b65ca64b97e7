"""What a model costs: figures that can be known without a clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from score.model.score import SCORE
from score.model.stages import OBSERVERS, stage
from score.studies import peer
from score.studies import profile as costs
from score.weights import folder
from tests.tiny_model import tiny_folder, tiny_model

STAGES = ["backbone", "scene tower", "pixel decoder", "mask decoder", "regions", "classes", "instances", "whole"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SCORE]:
    place = tiny_folder(tmp_path_factory.mktemp("models") / "tiny", ["ship", "plane"])
    return {"first": folder.load(place)[0], "second": folder.load(place)[0]}


def test_every_stage_is_counted_timed_and_weighed(models: dict[str, SCORE]) -> None:
    result = costs.profile(models, size=64, batches=(2, 1), repeats=2)
    for model in result["models"].values():
        assert list(model["stages"]) == STAGES
        parts = [row for name, row in model["stages"].items() if name != "whole"]
        whole = model["stages"]["whole"]
        assert sum(row["gflop"] for row in parts) == pytest.approx(whole["gflop"])
        assert all(row["gflop"] > 0 for name, row in model["stages"].items() if name != "instances")
        assert all(0 < row["ms"] < whole["ms"] for row in parts)
        assert all(row["peak_mb"] >= 0 for row in model["stages"].values())
        assert list(model["images_per_second"]) == [2, 1]
        assert 0 < model["decoders_to_library"] < 10
    assert result["models"]["first"]["ratio"] == 1
    assert "decoders' time to the transformers library's: " in costs.table(result)
    assert result["batch"] == 2 and result["objects"] >= 3
    assert not OBSERVERS


def test_the_librarys_decoders_are_of_the_same_size(models: dict[str, SCORE]) -> None:
    model = models["first"]
    pyramid, _ = model._towers(model._images([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}]).tensor)
    library = peer.decoders(model, pyramid)
    assert library is not None
    for own, other in ((model.pixel_decoder, library.pixel_decoder), (model.mask_decoder, library.mask_decoder)):
        assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in other.parameters())
    masks = library(pyramid).masks_queries_logits
    assert [part.shape for part in masks] == [
        model.mask_decoder(model.pixel_decoder(pyramid)).heads[0].mask_logits.shape
    ] * 2
    places, _ = tiny_model(["ship"], "decoder=places")
    assert peer.decoders(places, pyramid) is None


def test_operations_are_those_of_an_image_and_grow_with_it(models: dict[str, SCORE]) -> None:
    one = {"first": models["first"]}
    small, batched, large = (
        costs.profile(one, size=size, batches=(batch,), repeats=1)["models"]["first"]["stages"]["backbone"]["gflop"]
        for size, batch in ((64, 1), (64, 3), (128, 1))
    )
    assert small == batched
    assert large == pytest.approx(4 * small, rel=0.01)


def test_a_training_step_has_a_backward_pass_that_costs_more(models: dict[str, SCORE]) -> None:
    result = costs.profile({"tiny": models["first"]}, size=64, repeats=1, training=True)
    stages = result["models"]["tiny"]["stages"]
    names = ["backbone", "scene tower", "pixel decoder", "mask decoder", "criterion", "backward", "optimiser", "whole"]
    assert list(stages) == names
    assert stages["backward"]["gflop"] > stages["pixel decoder"]["gflop"] + stages["mask decoder"]["gflop"]
    models["first"].eval()


def test_parameters_add_up_and_a_shared_tower_counts_once(models: dict[str, SCORE]) -> None:
    model = models["second"]
    counts = costs.parameters(model)
    parts = sum(count for name, count in counts.items() if name not in ("whole", "trained"))
    assert parts == counts["whole"] == sum(p.numel() for p in model.parameters())
    before, model.scene = model.scene, model.backbone
    shared = costs.parameters(model)
    model.scene = before
    assert shared["scene tower"] == 0 and shared["backbone"] == counts["backbone"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_memory_is_what_a_stage_held_at_most() -> None:
    peaks: dict[str, float] = {}
    with costs.observed(costs.weighed(peaks, torch.device("cpu"))):
        with stage("large"):
            torch.ones(50_000_000)
        with stage("small"):
            torch.ones(1000)
    assert 190e6 <= peaks["large"] < 260e6
    assert peaks["small"] < 20e6
