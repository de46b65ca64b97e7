"""The meta-architecture as configured: contract, vocabulary, towers, sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn import functional as F

import score
from score.errors import ConfigError, WeightsError
from score.model.classifier import Ensemble
from score.model.mask_decoder import Head
from score.model.score import SCORE
from score.model.towers.base import Tower
from score.model.towers.tiny import TinyTower

CONFIGS = str(Path(score.__file__).parent.parent / "configs")
TINY = [
    "model=small",
    "backbone=tiny",
    "scene=tiny",
    "model.dim=16",
    "model.queries=6",
    "model.network.pixel_decoder.groups=4",
]
TINY += [
    "model.heads=2",
    "rai.layers=1",
    "rai.feedforward=32",
    "rai.heads=2",
    "gca.heads=2",
    "model.network.cache=null",
]
NAMES = "model.train_names=[ship,plane,storage_tank]"
PLACES = ("decoder=places", "scene=backbone")


@pytest.fixture
def build() -> Callable[..., SCORE]:
    def make(*overrides: str) -> SCORE:
        torch.manual_seed(0)
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            config = compose("config", [*TINY, NAMES, *overrides])
        return instantiate(config.model.network)

    return make


def batch(*sizes: tuple[int, int], targets: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    items = []
    for index, (h, w) in enumerate(sizes):
        instances = Instances((h, w))
        masks = torch.zeros(targets, h, w, dtype=torch.bool)
        for k in range(targets):
            masks[k, 4 + k : 20 + k, 6:30] = True
        instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.arange(targets) % 3
        image = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
        items.append({"image": image, "instances": instances, "height": 2 * h, "width": 2 * w, "image_id": index})
    return items


def test_registered() -> None:
    assert META_ARCH_REGISTRY.get("SCORE") is SCORE


def test_losses_in_training(build: Callable[..., SCORE]) -> None:
    model = build().train()
    losses = model(batch((64, 64), (50, 70)))
    assert len(losses) == 3 * (3 + 1)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not model.backbone.training and not any(p.requires_grad for p in model.backbone.parameters())


def test_losses_of_places_in_training(build: Callable[..., SCORE]) -> None:
    """Every parameter learns; one class loss, whatever the number of heads."""
    model = build(*PLACES).train()
    items = batch((64, 64), (50, 70))
    items[0]["ignore"] = torch.ones(64, 64, dtype=torch.bool)
    losses = model(items)
    assert len(losses) == 3 + 2 * (3 + 1)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("settings", [(), PLACES], ids=["reference", "places"])
def test_an_image_without_objects_trains(build: Callable[..., SCORE], settings: tuple[str, ...]) -> None:
    losses = build(*settings).train()(batch((64, 64), targets=0))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_scene_of_the_backbone_is_no_second_pass(build: Callable[..., SCORE]) -> None:
    model = build(*PLACES).eval()
    seen: list[tuple[int, ...]] = []
    model.backbone.stages[0].register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape)))
    regions = model.look(batch((64, 96)))
    assert seen == [(1, 3, 64, 96)]
    assert regions.scene is not None and regions.scene.patches.shape == (1, 32, 2, 3)
    assert not any(name.startswith("scene.") for name in model.trainable_state())
    model.vocabulary(["dam"])  # the text half is still there


def test_a_tower_without_a_scene_of_its_own_says_so() -> None:
    with pytest.raises(ConfigError, match="Tower reads no scene"):
        Tower().scene_of({})


def test_instances_in_evaluation(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    with torch.no_grad():
        results = model(batch((64, 64), (50, 70)), semantic=True)
    found = results[1]["instances"]
    assert found.image_size == (100, 140)
    assert found.pred_masks.shape == (6 * 3, 100, 140) and found.pred_masks.dtype == torch.bool
    assert len(found.pred_boxes) == len(found.scores) == len(found.pred_classes) == 18
    assert results[1]["sem_seg"].shape == (3, 100, 140)


def test_a_batch_is_its_images(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    items = batch((64, 64), (64, 64))
    words = model.vocabulary(["ship", "dam"])
    together, alone = model.predict(items, words), model.predict(items[1:], words)
    torch.testing.assert_close(together.in_logits[1:], alone.in_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.out_logits[1:], alone.out_logits, rtol=1e-4, atol=1e-4)


def test_vocabulary_is_free_in_evaluation(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    vocabulary = model.vocabulary(["ship", "wind turbine", "solar farm", "airplane,plane"])
    assert vocabulary.seen.tolist() == [True, False, False, True]
    prediction = model.predict(batch((64, 64)), vocabulary)
    assert prediction.in_logits.shape == (1, 6, 5) and prediction.out_logits.shape == (1, 6, 4)
    for names in ([], ["ship", "Ship"]):
        with pytest.raises(ConfigError):
            model.vocabulary(names)


def test_questions_on_one_model_do_not_meet(build: Callable[..., SCORE]) -> None:
    """Threads may share a model: what is asked of it is no part of its state."""
    model = build().eval()
    items = batch((64, 64))
    few, many = model.vocabulary(["ship"]), model.vocabulary(["ship", "dam", "quay"])
    alone = [model(items, words, masks="rle")[0]["instances"] for words in (few, many)]
    with ThreadPoolExecutor(4) as pool:
        asked = [few, many] * 6
        found = list(pool.map(lambda words: model(items, words, masks="rle")[0]["instances"], asked))
    for index, instances in enumerate(found):
        assert instances.pred_classes.tolist() == alone[index % 2].pred_classes.tolist()
        torch.testing.assert_close(instances.scores, alone[index % 2].scores)
        assert instances.pred_rles == alone[index % 2].pred_rles


def test_words_are_asked_without_looking_again(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    regions = model.look(batch((64, 64)))
    model.mask_decoder.forward = None  # what is called from here on does not run the network
    first = model.ask(regions, model.vocabulary(["ship", "dam"]))
    second = model.ask(regions, model.vocabulary(["dam", "quay", "ship"]))
    torch.testing.assert_close(first.out_logits, second.out_logits[..., [2, 0]])


def test_stages_are_named_for_the_profiler(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(batch((64, 64)), semantic=True)
    found = sorted(
        (event for event in profile.events() if event.name.startswith("score: ")), key=lambda e: e.time_range.start
    )
    names = [event.name.removeprefix("score: ") for event in found]
    towers = ["backbone", "scene tower"]
    stages = [*towers, "pixel decoder", "mask decoder", "regions", "classes", "instances", "semantic map"]
    assert names == stages


def test_order_of_words_does_not_matter(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    first = model.predict(batch((64, 64)), model.vocabulary(["ship", "dam"]))
    second = model.predict(batch((64, 64)), model.vocabulary(["dam", "ship"]))
    torch.testing.assert_close(first.in_logits[..., [1, 0, 2]], second.in_logits)


@pytest.mark.parametrize(
    ("overrides", "absent"), [(["rai=off"], "rai"), (["gca=off"], "gca"), (["rai=off", "gca=off"], "scene")]
)
def test_off_is_absent(build: Callable[..., SCORE], overrides: list[str], absent: str) -> None:
    drop = {f"{o.split('=')[0]}." for o in overrides}
    torch.manual_seed(0)
    tiny = [o for o in TINY if not any(o.startswith(d) for d in drop)]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("config", [*tiny, NAMES, *overrides])
    model = instantiate(config.model.network)
    assert getattr(model, absent) is None
    assert not any(name.startswith(f"{absent}.") for name in model.state_dict())
    losses = model.train()(batch((64, 64)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(model.eval()(batch((64, 64)))) == 1


def test_rai_needs_a_scene(build: Callable[..., SCORE]) -> None:
    with pytest.raises(Exception, match="rai and gca need a scene tower"):
        build("scene=off")


def test_trainable_state_leaves_the_towers_out(build: Callable[..., SCORE]) -> None:
    model = build()
    state = model.trainable_state()
    assert not any(name.startswith(("backbone.", "scene.")) for name in state)
    other = build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_trainable(state)
    for name, value in other.trainable_state().items():
        assert torch.equal(value, state[name]), name


def test_weights_of_another_architecture_are_named(build: Callable[..., SCORE]) -> None:
    model = build()
    state = model.trainable_state()
    name = "class_embedding.mlp.4.weight"
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        model.load_trainable({key: value for key, value in state.items() if key != name})
    with pytest.raises(WeightsError, match=f"{name} has shape"):
        model.load_trainable({**state, name: torch.zeros(3, 3)})
    with pytest.raises(WeightsError, match="unexpected extra"):
        model.load_trainable({**state, "extra": torch.zeros(1)})


def test_full_size_has_the_published_number_of_parameters() -> None:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        network = compose("config", [NAMES]).model.network
    with torch.device("meta"):
        parts = [
            instantiate(network[name])
            for name in ("pixel_decoder", "mask_decoder", "class_embedding", "classifier", "gca")
        ]
    parts.append(instantiate(network.rai))
    assert sum(p.numel() for part in parts for p in part.parameters()) == 50_679_496


class OtherPixels(TinyTower):
    """A tower with pixel statistics of its own."""

    pixel_mean = (100.0, 120.0, 140.0)
    pixel_std = (50.0, 60.0, 70.0)


def test_the_scene_tower_sees_pixels_as_it_expects_them(build: Callable[..., SCORE]) -> None:
    model = build(f"scene.tower._target_={__name__}.OtherPixels").eval()
    assert isinstance(model.scene, OtherPixels)
    image = batch((64, 64))[0]["image"]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OtherPixels.pixel_mean, OtherPixels.pixel_std))
    expected = model.scene.encode_scene(((image - mean) / std)[None])
    scene = model.look([{"image": image}]).scene
    torch.testing.assert_close(scene.embed, expected.embed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scene.patches, expected.patches, rtol=1e-4, atol=1e-4)


def test_what_is_padded_is_the_backbone_s_mean_to_both_towers(build: Callable[..., SCORE]) -> None:
    model = build(f"scene.tower._target_={__name__}.OtherPixels").eval()
    image = batch((40, 64))[0]["image"]
    padded = torch.full((3, 64, 64), 127.5)
    padded[:, :40] = image
    whole, cut = model.look([{"image": padded}]), model.look([{"image": image}])
    assert whole.padded == cut.padded == (64, 64)
    assert cut.sizes == [(40, 64)]
    for name in ("mask_logits", "class_embed", "region_embed"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cut.scene.embed, whole.scene.embed, rtol=1e-4, atol=1e-5)


def test_towers_with_equal_pixels_share_the_batch(build: Callable[..., SCORE]) -> None:
    model = build().eval()
    image = batch((64, 64))[0]["image"]
    expected = model.scene.encode_scene(((image - 127.5) / 64)[None])
    torch.testing.assert_close(model.look([{"image": image}]).scene.embed, expected.embed)


def test_each_classifier_compares_with_its_own_bank(build: Callable[..., SCORE]) -> None:
    """The trained one with the adapted bank and void, the frozen one with the plain bank at the tower's scale."""
    model = build().eval()
    words = model.vocabulary(["ship,boat", "dam"])
    prediction = model.predict(batch((64, 64), (64, 64)), words)
    regions = prediction.regions
    with torch.no_grad():
        adapted = model.gca(words.embeds, regions.scene)
        own, frozen = (F.normalize(x, dim=-1) for x in (regions.class_embed, regions.region_embed))
        rows = torch.cat([adapted, F.normalize(model.classifier.void, dim=-1).expand(2, 1, -1)], dim=1)
        inside = own @ rows.transpose(1, 2) / 0.07
        outside = frozen @ words.embeds.T * 20  # the tiny tower's scale
    expected = torch.stack([inside[..., :2].amax(-1), inside[..., 2], inside[..., 3]], dim=-1)
    torch.testing.assert_close(prediction.in_logits, expected, rtol=1e-4, atol=1e-4)
    expected = torch.stack([outside[..., :2].amax(-1), outside[..., 2]], dim=-1)
    torch.testing.assert_close(prediction.out_logits, expected, rtol=1e-4, atol=1e-4)


def test_regions_are_those_of_the_last_head(build: Callable[..., SCORE]) -> None:
    """Class embeddings pool mask features and patches; region embeddings pool the backbone's dense map."""
    model = build().eval()
    items = batch((64, 96))
    regions = model.look(items)
    images = ((items[0]["image"] - 127.5) / 64)[None]
    with torch.no_grad():
        pyramid, scene = model.backbone.pyramid(images), model.scene.encode_scene(images)
        pixels = model.pixel_decoder(pyramid)
        head = model.mask_decoder(pixels).heads[0]
        embed = model.class_embedding(head.queries[None], [head.mask_logits > 0], pixels.mask_features)
        [embed] = model.rai(embed, [model.rai.view(head, scene)])
    torch.testing.assert_close(regions.mask_logits, head.mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(regions.class_embed, embed, rtol=1e-4, atol=1e-4)
    small = F.interpolate(head.mask_logits, (2, 3), mode="bilinear", align_corners=False)
    expected = model.backbone.embed_regions(pyramid["dense"], small)
    torch.testing.assert_close(regions.region_embed, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [(), PLACES], ids=["reference", "places"])
def test_evaluation_is_look_ask_combine_select(build: Callable[..., SCORE], settings: tuple[str, ...]) -> None:
    model = build(*settings).eval()
    items = batch((64, 60), (50, 70))
    del items[0]["height"], items[0]["width"]  # then the result has the image's own size
    words = model.vocabulary(["ship", "dam"])
    prediction = model.predict(items, words)
    for ensemble in (None, Ensemble(alpha=0.9, beta=0.1)):
        results = model(items, words, ensemble=ensemble)
        chances = (ensemble or model.ensemble)(prediction.in_logits, prediction.out_logits, words.seen)
        for index, size in enumerate([(64, 60), (100, 140)]):
            own = tuple(items[index]["image"].shape[1:])
            regions, shown = prediction.regions, prediction.regions.shown(index)
            quality = regions.quality[index][shown] if settings else None
            masks = regions.mask_logits[index][shown]
            expected = model.selection(chances[index][shown], masks, (64, 96), own, size, quality=quality)
            found = results[index]["instances"]
            assert "sem_seg" not in results[index]
            assert found.image_size == size
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
            assert torch.equal(found.pred_classes, expected.pred_classes)
            assert torch.equal(found.pred_masks, expected.pred_masks)
            assert set(found.query.tolist()) <= set(shown.tolist())


def test_targets_are_padded_as_their_images(build: Callable[..., SCORE]) -> None:
    item = batch((50, 70))[0]
    target = build()._target(item, torch.Size((64, 96)))
    assert target.classes.tolist() == [0, 1]
    assert torch.equal(target.masks[:, :50, :70] > 0, item["instances"].gt_masks.tensor)
    assert not target.masks[:, 50:].any() and not target.masks[..., 70:].any()


def test_what_is_computed_again_need_not_be_kept(build: Callable[..., SCORE]) -> None:
    """The same losses and gradients, dropout and all, of less than half of the activations."""
    gradients, kept = [], []
    for again in (False, True):
        model = build("rai.gumbel_calls=0", "rai.dropout=0.5").train()
        if again:
            model.recompute()
        held: dict[int, int] = {}

        def keep(x: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            total = sum(model(batch((64, 64), (64, 64))).values())
        total.backward()
        kept.append(sum(held.values()))
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert kept[1] < 0.5 * kept[0]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_losses_are_the_criterion_s_of_every_head(build: Callable[..., SCORE]) -> None:
    """Each head's class embeddings, refined by the scene, against the training vocabulary adapted to it."""
    model = build("rai.gumbel_calls=0", "rai.dropout=0").train()
    items = batch((64, 64), (64, 64))
    torch.manual_seed(0)
    losses = model(items)
    images = torch.stack([(item["image"] - 127.5) / 64 for item in items])
    pyramid, scene = model.backbone.pyramid(images), model.scene.encode_scene(images)
    pixels = model.pixel_decoder(pyramid)
    words = model.vocabulary(["ship", "plane", "storage_tank"])
    targets = [model._target(item, torch.Size((64, 64))) for item in items]

    def classify(heads: Iterable[Head]) -> torch.Tensor:
        logits = []
        for head in heads:  # one at a time
            embed = model.class_embedding(head.queries[None], [head.mask_logits > 0], pixels.mask_features)
            embed = model.rai(embed, [model.rai.view(head, scene)])
            logits += model.classifier(embed, model.gca(words.embeds, scene), words.counts)
        return torch.stack(logits)

    torch.manual_seed(0)
    expected = model.criterion(model.mask_decoder(pixels, targets), classify, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)


def test_towers_of_different_widths_are_refused(build: Callable[..., SCORE]) -> None:
    with pytest.raises(Exception, match="towers of different widths: backbone 32, scene 24"):
        build("scene.tower.embed_dim=24")


def test_the_published_size_until_told_otherwise(build: Callable[..., SCORE]) -> None:
    assert build().resize == (512, 800)
