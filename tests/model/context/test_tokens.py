"""GCA over the scene's tokens: each class moves in its own way, and so another class can win."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from score.model.classifier import similarity
from score.model.context.gca import GlobalContextAdaptation
from score.model.context.tokens import TokenAdaptation
from score.model.towers.base import Scene
from score.weights import folder as model_folder
from tests.tiny_model import tiny_folder, tiny_model


def moved(seed: int = 0) -> TokenAdaptation:
    """A module that has left its start, as training makes it."""
    torch.manual_seed(seed)
    module = TokenAdaptation(embed_dim=16, dim=8, heads=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


def inputs(words: int = 5, seed: int = 0) -> tuple[torch.Tensor, Scene]:
    generator = torch.Generator().manual_seed(seed)
    bank = F.normalize(torch.randn(words, 16, generator=generator), dim=-1)
    embed = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    return bank, Scene(embed, torch.randn(3, 16, 2, 4, generator=generator))


def test_it_starts_as_the_identity() -> None:
    bank, scene = inputs()
    adapted = TokenAdaptation(embed_dim=16, dim=8, heads=2)(bank, scene)
    torch.testing.assert_close(adapted, bank.expand(3, -1, -1), rtol=0, atol=0)


def test_it_leaves_its_start_at_the_first_step_and_every_parameter_learns_at_the_second() -> None:
    torch.manual_seed(0)
    bank, scene = inputs()
    module = TokenAdaptation(embed_dim=16, dim=8, heads=2)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    wanted = torch.randn(3, 5, 16)
    for step in range(2):
        optimiser.zero_grad()
        (module(bank, scene) * wanted).sum().backward()
        learning = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert learning == ({"out.weight"} if step == 0 else {name for name, _ in module.named_parameters()})
        optimiser.step()


def test_every_class_moves_in_its_own_way_and_keeps_its_length() -> None:
    bank, scene = inputs()
    adapted = moved()(2 * bank, scene)
    shift = adapted - 2 * bank
    assert (shift[:, 0] - shift[:, 1]).abs().max() > 0.1
    assert (shift[0] - shift[1]).abs().max() > 0.1  # and images differ
    torch.testing.assert_close(adapted.norm(dim=-1), torch.full((3, 5), 2.0))


@torch.no_grad()
def test_another_class_can_win_which_the_published_module_never_does() -> None:
    torch.manual_seed(0)
    published = GlobalContextAdaptation(embed_dim=16, heads=4)
    for parameter in published.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    bank, scene = inputs()
    embeds = torch.randn(3, 200, 16)

    def winners(words: torch.Tensor) -> torch.Tensor:
        return similarity(embeds, words, [1] * 5, torch.tensor(10.0)).argmax(-1)

    plain = winners(bank)
    assert torch.equal(winners(published(bank, scene)), plain)
    assert (winners(moved()(bank, scene)) != plain).float().mean() > 0.1


@torch.no_grad()
def test_patches_matter_and_their_order_does_not() -> None:
    bank, scene = inputs()
    module = moved()
    first = module(bank, scene)
    torch.testing.assert_close(module(bank, Scene(scene.embed, scene.patches.flip(-1, -2))), first)
    assert (module(bank, Scene(scene.embed, scene.patches.roll(1, 0))) - first).abs().max() > 0.1


@torch.no_grad()
def test_words_and_images_do_not_see_each_other() -> None:
    bank, scene = inputs(words=9)
    module = moved()
    alone = module(bank[4:5], Scene(scene.embed[1:2], scene.patches[1:2]))
    torch.testing.assert_close(module(bank, scene)[1:2, 4:5], alone)


@torch.no_grad()
def test_towers_in_half_precision_and_autocast_are_fine() -> None:
    bank, scene = inputs()
    module = moved()
    first = module(bank, scene)
    halved = module(bank, Scene(scene.embed.half(), scene.patches.half()))
    assert halved.dtype == bank.dtype and (halved - first).abs().max() < 0.01
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (module(bank, scene) - first).abs().max() < 0.05


@torch.no_grad()
def test_a_model_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    names = ["ship", "storage tank"]
    model, config = tiny_model(names, "gca=tokens")
    assert isinstance(model.gca, TokenAdaptation)
    model.gca.out.weight.normal_()
    model_folder.save(tmp_path, model, config, {})
    loaded, _ = model_folder.load(tmp_path)
    image = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}]
    words = ["ship", "lighthouse, beacon"]
    first, second = (m.predict(image, m.vocabulary(words)).in_logits for m in (model, loaded))
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    other, _ = model_folder.load(tiny_folder(tmp_path / "published", names))
    assert type(other.gca) is GlobalContextAdaptation
