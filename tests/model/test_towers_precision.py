"""Frozen towers in 16 bits, where a trial says that it pays."""

from __future__ import annotations

import logging

import pytest
import torch

from score import runtime
from score.errors import ConfigError
from score.model.towers.lite import LiteTower

CPU = torch.device("cpu")


def test_auto_takes_bf16_where_a_trial_says_that_it_pays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for share, expected, word in ((0.3, torch.bfloat16, "bfloat16"), (1.2, None, "float32")):
        monkeypatch.setattr(runtime, "_bf16_share", lambda share=share: share)
        with caplog.at_level(logging.INFO, "score"):
            assert runtime.tower_precision("auto", CPU) == expected
        assert f"towers in {word}: a product in bfloat16 takes {share:.2f} of the time" in caplog.text


def test_a_trial_times_the_processor() -> None:
    assert 0.02 < runtime._bf16_share() < 50


def test_what_is_asked_is_taken_or_refused() -> None:
    assert runtime.tower_precision(None, CPU) is None
    assert runtime.tower_precision("bf16", CPU) == torch.bfloat16
    for asked, words in (("fp16", "needs a GPU"), ("half", "no such precision")):
        with pytest.raises(ConfigError, match=words):
            runtime.tower_precision(asked, CPU)


def test_a_lower_tower_says_almost_the_same_in_fp32() -> None:
    tower, images = LiteTower(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = tower.pyramid(images)
    text = tower.encode_text(["ship"])
    tower.lower(torch.bfloat16)
    lower = tower.pyramid(images)
    for name, maps in lower.items():
        assert maps.dtype == torch.float32
        assert 1e-4 < (maps - exact[name]).norm() / exact[name].norm() < 0.1
    assert torch.equal(tower.encode_text(["ship"]), text)
