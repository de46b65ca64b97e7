from __future__ import annotations

import pytest
import torch
from detectron2.solver import LRMultiplier
from hydra.utils import instantiate
from torch import nn

from score.engine.optim import ClippedAdamW, multistep, parameter_groups, warmed_up
from tests.tiny_model import tiny_config, tiny_model

ISAID = {"iterations": 468_300, "steps": [421_470, 444_885], "gamma": 0.1}


def names_of(model: nn.Module, group: dict) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_every_trainable_parameter_is_in_exactly_one_group_and_no_tower_in_any() -> None:
    model, config = tiny_model(["ship", "plane"])
    groups = parameter_groups(model, config.optim.weight_decay, config.optim.no_decay)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    towers = [*model.backbone.parameters(), *model.scene.parameters()]
    assert towers
    assert not set(listed) & {id(parameter) for parameter in towers}


def test_norms_and_embeddings_do_not_decay_all_else_does() -> None:
    model, config = tiny_model(["ship", "plane"])
    decayed, kept = parameter_groups(model, config.optim.weight_decay, config.optim.no_decay)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)
    expected = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and (isinstance(module, kinds) or name == "void")
    }
    assert expected == names_of(model, kept)
    assert {"classifier.void", "mask_decoder.query_feat.weight"} <= names_of(model, kept)
    assert {"classifier.log_scale", "rai.weight"} <= names_of(model, decayed)


def test_a_shared_parameter_counts_once_and_as_the_embedding_that_it_is() -> None:
    model = nn.ModuleDict({"out": nn.Linear(4, 3, bias=False), "table": nn.Embedding(3, 4)})
    model["out"].weight = model["table"].weight
    (group,) = parameter_groups(model, 0.1)
    assert group["weight_decay"] == 0
    assert len(group["params"]) == 1


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [(0, 1), (5, 1), (10, 1), (421_469, 1), (421_470, 0.1), (444_884, 0.1), (444_885, 0.01), (468_299, 0.01)],
)
def test_published_schedule_steps_down_exactly_at_its_milestones(iteration: int, factor: float) -> None:
    schedule = warmed_up(multistep(**ISAID), iterations=468_300, warmup=10, factor=1.0)
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([{"params": [weight], "initial_lr": 1.25e-5}], lr=1.25e-5)
    LRMultiplier(optimiser, schedule, 468_300, last_iter=iteration - 1)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(1.25e-5 * factor)


@pytest.mark.parametrize("name", ["paper_isaid", "paper_sior"])
def test_published_schedules_say_what_the_protocol_says(name: str) -> None:
    optim = tiny_config(f"optim={name}").optim
    assert (optim.lr, optim.weight_decay, optim.clip_norm, optim.batch_size) == (1.25e-5, 0.05, 0.01, 2)
    assert (optim.warmup, optim.warmup_factor, optim.checkpoint_period, optim.eval_period) == (10, 1.0, 25_000, 50_000)
    assert [optim.iterations, *optim.decay.steps] == {
        "paper_isaid": [468_300, 421_470, 444_885],
        "paper_sior": [293_125, 263_812, 278_468],
    }[name]


def test_warmup_rises_linearly_to_the_schedule() -> None:
    schedule = warmed_up(multistep(iterations=1000, steps=[], gamma=0.1), iterations=1000, warmup=100, factor=0.2)
    assert [round(schedule(k / 1000), 3) for k in (0, 50, 100, 999)] == [0.2, 0.6, 1.0, 1.0]


@pytest.mark.parametrize("iterations", [1, 5, 500_000])
def test_a_run_shorter_or_longer_than_planned_has_a_schedule(iterations: int) -> None:
    optim = tiny_config("optim=paper_isaid", f"optim.iterations={iterations}").optim
    schedule = warmed_up(instantiate(optim.decay, _convert_="all"), iterations=iterations, warmup=10, factor=1.0)
    assert schedule(0.0) == 1.0
    assert schedule(1.0) == pytest.approx(0.01 if iterations > 444_885 else 1.0)


def test_lite_schedule_falls_to_zero() -> None:
    optim = tiny_config("optim=lite").optim
    decay = instantiate(optim.decay, _convert_="all")
    values = [decay(k / 10) for k in range(11)]
    assert values[0] == 1
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)


def test_clipping_scales_the_whole_gradient() -> None:
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))
    optimiser = ClippedAdamW([{"params": [first]}, {"params": [second]}], lr=0.1, clip_norm=0.01)
    first.grad, second.grad = torch.full((3,), 2.0), torch.full((4,), -1.0)
    optimiser.step()
    gradient = torch.cat([first.grad, second.grad])
    assert gradient.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert (gradient[:3] / gradient[3:].mean()).tolist() == pytest.approx([-2.0] * 3)


def test_no_clipping_leaves_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimiser = ClippedAdamW([{"params": [weight]}], lr=0.1, clip_norm=0)
    weight.grad = torch.full((3,), 100.0)
    optimiser.step()
    assert weight.grad.tolist() == [100.0] * 3


def test_clipping_acts_on_the_true_gradient_under_loss_scaling() -> None:
    weights = []
    for factor in (1.0, 1024.0):
        weight = nn.Parameter(torch.ones(4))
        optimiser = ClippedAdamW([{"params": [weight]}], lr=0.1, clip_norm=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=factor)
        scaler.scale((weight * torch.arange(4.0)).sum()).backward()
        scaler.step(optimiser)
        assert weight.grad is not None
        assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)
        weights.append(weight.detach())
    assert torch.equal(*weights)
