"""A model on another device finds and learns what it does on the CPU. ``SCORE_TEST_DEVICE`` names the device."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from score.model import places
from score.model.context.rai import RegionAwareIntegration
from score.model.score import SCORE
from score.segmenter import Segmenter
from score.studies.profile import scene
from tests.tiny_model import tiny_model

DEVICE = torch.device(os.environ.get("SCORE_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
NAMES = ("ship", "plane")
KEPT = ("seen", "embeds")
DECODERS = {
    "reference": ("rai.gumbel_calls=0",),
    "mixing": ("rai.gumbel_calls=1000",),
    "joint": ("rai=joint", "gca=tokens"),
    "places": ("decoder=places", "rai.gumbel_calls=0"),
}


def losses(model: SCORE, amp: torch.dtype | None = None) -> tuple[dict[str, float], float]:
    """Losses of a step, and the norm of its gradient."""
    image, instances = scene(64)
    torch.manual_seed(0)
    model.zero_grad()
    with torch.autocast(model.device.type, amp) if amp else nullcontext():
        found = model([{"image": image, "instances": instances}])
    assert isinstance(found, dict)
    torch.stack(list(found.values())).sum().backward()
    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return {name: value.item() for name, value in found.items()}, float(torch.stack(gradients).norm())


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> SCORE:
    model, _ = tiny_model(NAMES, *DECODERS[request.param])
    return model


def test_all_that_a_forward_pass_makes_is_on_the_models_device(model: SCORE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `meta` holds no numbers, but meets a tensor that was made without ``device=`` as a GPU would."""
    vocabulary = model.vocabulary(["ship", "solar farm"])
    model.to("meta")
    for part in model.modules():
        if isinstance(part, RegionAwareIntegration):
            part.kernel_logits = nn.Parameter(torch.zeros(len(part.kernels)))  # the choice of a size reads it
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none
    monkeypatch.setattr(places, "distinct", lambda rank, *_: torch.ones_like(rank, dtype=torch.bool))  # it reads masks
    regions = model.look([{"image": torch.zeros(3, 64, 96)}] * 2)
    prediction = model.ask(regions, vocabulary._replace(**{key: getattr(vocabulary, key).to("meta") for key in KEPT}))
    chances = model.ensemble(
        prediction.in_logits, prediction.out_logits, torch.zeros(2, dtype=torch.bool, device="meta")
    )
    assert regions.mask_logits.device == chances.device == torch.device("meta")


def test_a_device_finds_what_the_cpu_finds(model: SCORE) -> None:
    image = scene(96)[0].permute(1, 2, 0).numpy()
    with torch.no_grad():
        here, there = (Segmenter(model.to(device)).look(image).regions for device in (torch.device("cpu"), DEVICE))
    assert there.mask_logits.device.type == DEVICE.type
    for name in ("mask_logits", "class_embed", "region_embed"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=1e-3, atol=1e-3)
    words = ["ship", "solar farm"]
    first, second = (Segmenter(model.to(device)).segment(image, words, score=0.0) for device in ("cpu", DEVICE))
    assert len(first) == len(second)
    assert np.allclose([found.score for found in first][:5], [found.score for found in second][:5], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_a_step_in_16_bits_is_a_full_one_within_its_rounding(model: SCORE, amp: torch.dtype) -> None:
    if amp == torch.float16 and DEVICE.type == "cpu":
        pytest.skip("a CPU does not train in fp16")
    model = model.to(DEVICE).train()
    full, norm = losses(model)
    half, half_norm = losses(model, amp)
    assert full.keys() == half.keys() and np.isfinite([*full.values(), norm, half_norm]).all()
    share = 0.1 if amp == torch.bfloat16 else 0.03  # points of masks that change sides count whole
    assert half == pytest.approx(full, rel=share, abs=share)
    assert half_norm == pytest.approx(norm, rel=0.5)


@pytest.mark.slow
def test_one_process_of_a_group_takes_the_step_of_one_alone(model: SCORE, tmp_path: Path) -> None:
    model = model.to(DEVICE).train()
    alone, norm = losses(model)
    kind = "nccl" if DEVICE.type == "cuda" else "gloo"
    torch.distributed.init_process_group(kind, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        image, instances = scene(64)
        model.zero_grad()
        devices = [DEVICE] if DEVICE.type == "cuda" else None
        joined = DistributedDataParallel(model, devices, broadcast_buffers=False, find_unused_parameters=True)
        found = joined([{"image": image, "instances": instances}])
        torch.stack(list(found.values())).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert {name: value.item() for name, value in found.items()} == pytest.approx(alone, rel=1e-4, abs=1e-4)
    assert float(torch.stack(gradients).norm()) == pytest.approx(norm, rel=1e-3)
