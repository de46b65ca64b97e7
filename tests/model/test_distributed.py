"""Two processes that train one model: gradients meet although some parameters get none, and losses share a count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from score import runtime
from score.engine.trainer import _distributed
from tests.tiny_model import tiny_model


def steps(rank: int, folder: str) -> None:
    """What one of two processes does: two steps on images of its own, with one object and with three."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, _ = tiny_model(["ship", "plane"], "rai.gumbel_calls=0")  # the dilation's logits get no gradient
    assert model.rai is not None
    model = model.train()
    joined = _distributed(model, torch.device("cpu"))
    objects = 1 + 2 * rank
    instances = Instances((64, 64))
    instances.gt_masks, instances.gt_classes = BitMasks(torch.ones(objects, 64, 64)), torch.arange(objects) % 2
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(rank), dtype=torch.uint8)
    for _ in range(2):
        joined.zero_grad()
        sum(joined([{"image": image, "instances": instances}]).values()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    count = float(model.criterion._mean_count([model._target({"instances": instances}, (64, 64))], model.device))
    torch.save((found, count), Path(folder, f"{rank}.pt"))
    runtime.part_processes()


@pytest.mark.slow
def test_two_processes_take_the_same_step(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(steps, (str(tmp_path),), nprocs=2)
    (first, count), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert count == other == 2.0  # masks a process, on average
    assert first.keys() == second.keys() and "rai.weight" in first
    assert "rai.kernel_logits" not in first or not first["rai.kernel_logits"].any()
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name])
    assert any(gradient.any() for gradient in first.values())
