"""RAI whose objects see each other: shapes of masks, windows around them, and who may see whom."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from score.model.context.joint import JointRegionContext, shapes, windows
from score.model.mask_decoder import Head
from score.model.towers.base import Scene
from score.weights import folder as model_folder
from tests.tiny_model import tiny_model


def fresh(**changes: object) -> JointRegionContext:
    torch.manual_seed(0)
    settings = {"embed_dim": 16, "dim": 8, "scales": (1, 2, 4), "layers": 2, "heads": 2, "feedforward": 16}
    return JointRegionContext(**({**settings, "dropout": 0.0} | changes))


def moved(**changes: object) -> JointRegionContext:
    """A module that has left its start, as training makes it."""
    module = fresh(**changes)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def refined(module: JointRegionContext, embed: torch.Tensor, masks: torch.Tensor, scene: Scene) -> torch.Tensor:
    return module(embed[None], [module.view(Head(embed, masks), scene)])[0]


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Scene]:
    """Two images of six objects, each mask a rectangle somewhere."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.full((2, 6, 12, 20), -3.0)
    for image, query in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
        y, x, h, w = (int(torch.randint(*limits, (), generator=generator)) for limits in ((9,), (15,), (1, 4), (1, 6)))
        masks[image, query, y : y + h, x : x + w] = 2.0
    embed = torch.randn(2, 6, 16, generator=generator)
    scene = torch.randn(2, 16, generator=generator), torch.randn(2, 16, 3, 5, generator=generator)
    return embed, masks, Scene(*scene)


def test_it_starts_as_the_identity() -> None:
    embed, masks, scene = inputs()
    torch.testing.assert_close(refined(fresh(), embed, masks, scene), embed, rtol=0, atol=0)


def test_it_leaves_its_start_at_the_first_step_and_every_parameter_learns_at_the_second() -> None:
    embed, masks, scene = inputs()
    masks.requires_grad_()
    module = fresh()
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    wanted = torch.randn_like(embed)
    for step in range(2):
        optimiser.zero_grad()
        (refined(module, embed, masks, scene) * wanted).sum().backward()
        learning = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        everything = {name for name, _ in module.named_parameters()}
        assert learning == ({"out.weight", "out.bias"} if step == 0 else everything)
        optimiser.step()
    assert masks.grad is None  # where a mask lies is not learned from what it is called


def test_a_rectangle_is_measured_as_it_is() -> None:
    masks = torch.full((1, 2, 12, 20), -1.0)
    masks[0, 0, 2:5, 4:14] = 1.0
    found = shapes(masks)
    values = [float(value[0, 0]) for value in found]
    assert values == pytest.approx([9.0, 3.5, 10.0, 3.0, 30.0])
    assert all(value[0, 1].isfinite() for value in found) and float(found.area[0, 1]) == 0  # the empty one


def test_a_window_covers_so_many_times_the_object() -> None:
    masks = torch.full((1, 1, 12, 20), -1.0)
    masks[0, 0, 4:8, 8:12] = 1.0  # in patches of 4 cells: the one of row 1, column 2
    rows, columns = windows(shapes(masks), 1, (3, 5), (12, 20))
    torch.testing.assert_close(rows[0, 0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(columns[0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    rows, columns = windows(shapes(masks), 2, (3, 5), (12, 20))
    torch.testing.assert_close(rows[0, 0], torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(columns[0, 0], torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0]))
    rows, columns = windows(shapes(masks), 100, (3, 5), (12, 20))  # the whole image
    torch.testing.assert_close(columns[0, 0], torch.full((5,), 0.2))


def test_the_shares_of_scales_choose_what_is_seen() -> None:
    embed, masks, scene = inputs()
    module = moved(layers=0)
    with torch.no_grad():
        module.scale_logits.copy_(torch.tensor([100.0, 0.0, 0.0]))
    only_first = moved(layers=0, scales=(1,))
    only_first.load_state_dict({**module.state_dict(), "scale_logits": torch.zeros(1)})
    first = refined(module, embed, masks, scene)
    torch.testing.assert_close(first, refined(only_first, embed, masks, scene))
    with torch.no_grad():
        module.scale_logits.copy_(torch.tensor([0.0, 0.0, 100.0]))
    assert (refined(module, embed, masks, scene) - first).abs().max() > 0.01


@torch.no_grad()
def test_objects_see_each_other_but_not_their_order() -> None:
    embed, masks, scene = inputs()
    module, order = moved(), torch.tensor([3, 5, 0, 1, 4, 2])
    first = refined(module, embed, masks, scene)
    torch.testing.assert_close(refined(module, embed[:, order], masks[:, order], scene), first[:, order])
    changed = embed.clone()
    changed[:, 0] += torch.randn(16)
    assert (refined(module, changed, masks, scene) - first)[:, 1:].abs().amax(-1).min() > 1e-3
    elsewhere = masks.clone()
    elsewhere[:, 0] = masks[:, 0].roll((3, 7), (-2, -1))
    assert (refined(module, embed, elsewhere, scene) - first)[:, 1:].abs().amax(-1).min() > 1e-5


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other() -> None:
    embed, masks, scene = inputs()
    module = moved()
    together = refined(module, embed, masks, scene)
    alone = refined(module, embed[1:], masks[1:], Scene(scene.embed[1:], scene.patches[1:]))
    torch.testing.assert_close(together[1:], alone)


@torch.no_grad()
def test_objects_moved_together_are_the_same_objects() -> None:
    """No direction and no absolute place, where the scene looks the same everywhere."""
    embed, masks, scene = inputs()
    scene = Scene(scene.embed, torch.ones_like(scene.patches))
    masks = F.pad(masks[:, :, 3:9, 5:15], (5, 5, 3, 3), value=-3.0)
    there = (masks > 0).any(-1).any(-1)
    assert 6 < int(there.sum()) < 12
    module = moved()
    first = refined(module, embed, masks, scene)[there]
    torch.testing.assert_close(refined(module, embed, masks.roll((2, -3), (-2, -1)), scene)[there], first)
    torch.testing.assert_close(refined(module, embed, masks.flip(-1), scene)[there], first)


@torch.no_grad()
def test_empty_masks_are_seen_by_nobody_and_harm_nobody() -> None:
    embed, masks, scene = inputs()
    module = moved()
    masks[0, :3], masks[1] = -1.0, -1.0
    first = refined(module, embed, masks, scene)
    assert first.isfinite().all()
    changed = embed.clone()
    changed[0, :3] = 100.0
    torch.testing.assert_close(refined(module, changed, masks, scene)[0, 3:], first[0, 3:])


def test_empty_masks_give_finite_gradients() -> None:
    embed, masks, scene = inputs()
    module = moved()
    refined(module, embed, torch.full_like(masks, -1.0), scene).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@torch.no_grad()
def test_gradient_or_none_autocast_or_none_half_scenes_or_none() -> None:
    embed, masks, scene = inputs()
    module = moved()
    first = refined(module, embed, masks, scene)
    with torch.enable_grad():  # PyTorch takes another path then
        torch.testing.assert_close(refined(module, embed, masks, scene), first)
    halved = refined(module, embed, masks.half(), Scene(scene.embed.half(), scene.patches.half()))
    assert halved.dtype == embed.dtype and (halved - first).abs().max() < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (refined(module, embed, masks, scene) - first).abs().max() < 0.2


def test_a_model_with_it_learns_is_saved_and_loaded(tmp_path: Path) -> None:
    model, config = tiny_model(["ship", "storage tank"], "rai=joint", "gca=tokens")
    assert isinstance(model.rai, JointRegionContext)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 96), (96, 64))]  # both are padded
    instances = [Instances(image.shape[-2:]) for image in images]
    for instance in instances:
        instance.gt_masks = BitMasks(torch.ones(1, *instance.image_size, dtype=torch.bool))
        instance.gt_classes = torch.tensor([1])
    batch = [{"image": image, "instances": item} for image, item in zip(images, instances, strict=True)]
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        sum(model.train()(batch).values()).backward()
        optimiser.step()
    idle = {name for name, p in model.rai.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle <= {"scale_logits", "pair_bias.0.weight"}  # masks of random weights are all alike
    model_folder.save(tmp_path, model.eval(), config, {})
    loaded, _ = model_folder.load(tmp_path)
    first, second = (m.predict(batch, m.vocabulary(["ship", "dam"])).in_logits for m in (model, loaded))
    assert first.isfinite().all()
    torch.testing.assert_close(second, first, rtol=0, atol=0)
