"""``tools/convert.py`` on weights under the released names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from score.weights.released import our_name
from tests.parity.conftest import Case, size_overrides
from tests.tools.command_line import Call, call  # noqa: F401 - a fixture


def test_a_released_checkpoint_becomes_a_model_folder(
    case: Case,
    call: Call,  # noqa: F811
    tmp_path: Path,
) -> None:
    weights = case.weights("trainable")
    torch.save({"model": {**weights, **case.weights("scene_visual")}}, tmp_path / "released.pth")
    outcome = call("convert", "checkpoint=released.pth", "output=model", *size_overrides(case))
    assert outcome.code == 0, outcome.err
    assert f"used   {len(weights):5d} of the trained part" in outcome.out
    assert "frozen scene tower, loaded from its own file" in outcome.out
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "README.md",
        "config.yaml",
        "model.safetensors",
        "vocabulary.yaml",
    }
    state = load_file(tmp_path / "model" / "model.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(state[our_name(name)], value, rtol=0, atol=0)
    assert "storage_tank" in (tmp_path / "model" / "vocabulary.yaml").read_text()


def test_an_fc_clip_checkpoint_becomes_a_model_without_context(
    case: Case,
    call: Call,  # noqa: F811
    tmp_path: Path,
) -> None:
    context = ("gca.", "sem_seg_head.predictor.transformer.", "sem_seg_head.predictor.kernel_size_logits")
    context = (*context, "sem_seg_head.predictor.learnable_weight")  # what SCORE adds to FC-CLIP
    weights = {name: value for name, value in case.weights("trainable").items() if not name.startswith(context)}
    torch.save({"model": weights}, tmp_path / "fcclip.pth")
    off = [f"{group}=off" for group in ("rai", "gca", "scene")]
    sizes = [size for size in size_overrides(case) if not size.startswith(("rai", "gca", "scene"))]
    outcome = call("convert", "checkpoint=fcclip.pth", "output=model", *off, *sizes)
    assert outcome.code == 0, outcome.err
    assert set(load_file(tmp_path / "model" / "model.safetensors")) == {our_name(name) for name in weights}
    refused = call("convert", "checkpoint=fcclip.pth", "output=other", *size_overrides(case))
    assert refused.code == 2 and "missing in the checkpoint: rai." in refused.err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("missing", "missing in the checkpoint: classifier.void"),
        ("extra", "unknown name in the checkpoint: sem_seg_head.other"),
        ("shape", "shape of void_embedding.weight: (1, 8)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    case: Case,
    call: Call,  # noqa: F811
    tmp_path: Path,
    change: str,
    line: str,
) -> None:
    weights = {name: value.numpy() for name, value in case.weights("trainable").items()}
    if change == "missing":
        del weights["void_embedding.weight"]
    elif change == "extra":
        weights["sem_seg_head.other"] = np.zeros(1, np.float32)
    else:
        weights["void_embedding.weight"] = np.zeros((1, 8), np.float32)
    np.savez(tmp_path / "released.npz", **weights)
    outcome = call("convert", "checkpoint=released.npz", "output=model", *size_overrides(case))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and line in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "model").exists()
