"""open_clip towers of tiny sizes: each kind, as backbone and as scene encoder, and the errors of missing weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from score.errors import ConfigError, WeightsError
from score.model.towers.clip import OpenCLIPTower
from score.model.towers.open_clip import find_weights, open_clip_tower
from score.model.towers.resnet import ResNetTower
from score.model.towers.vit import ViTTower

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32},
    "vit": {"layers": 2, "width": 64, "patch_size": 16, "image_size": 64, "head_width": 32},
}
PUBLISHED = {"file": "sub/tiny.pt", "repository": "nobody/tiny"}


@pytest.fixture(scope="module", autouse=True)
def _architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in VISION.items():
        file = folder / f"tiny_{name}.json"
        file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}))
        open_clip.add_model_config(file)


def build(name: str, weights: str = "random", **options: object) -> OpenCLIPTower:
    torch.manual_seed(0)
    return open_clip_tower(architecture=f"tiny_{name}", weights=weights, published=PUBLISHED, **options)


@pytest.mark.parametrize("name", VISION)
def test_any_kind_is_a_backbone(name: str) -> None:
    tower = build(name)
    maps = tower.pyramid(torch.randn(2, 3, 64, 96))
    for level, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert maps[level].shape == (2, tower.channels[level], 64 // stride, 96 // stride)
    dense = maps["dense"]
    mask_logits = torch.randn(2, 5, *dense.shape[-2:])
    mask_logits[0, 0] = -1.0  # an empty region
    regions = tower.embed_regions(dense, mask_logits)
    assert regions.shape == (2, 5, tower.embed_dim) == (2, 5, 24)
    assert regions.isfinite().all()
    assert tower.encode_text(["a ship.", "a plane."]).shape == (2, 24)
    assert 0 < float(tower.logit_scale) <= 100


@pytest.mark.parametrize("name", VISION)
def test_any_kind_is_a_scene_encoder(name: str) -> None:
    tower = build(name)
    scene = tower.encode_scene(torch.randn(2, 3, 96, 160))
    assert scene.embed.shape == (2, 24)
    torch.testing.assert_close(scene.embed.norm(dim=-1), torch.ones(2))
    assert scene.patches.shape[:2] == (2, 24)


@pytest.mark.parametrize("name", VISION)
def test_frozen_and_halved(name: str) -> None:
    tower = build(name).train()
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    before = sum(parameter.numel() for parameter in tower.parameters())
    tower.drop_text()
    assert sum(parameter.numel() for parameter in tower.parameters()) < before - 49408 * 32 + 1
    tower.encode_scene(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", VISION)
def test_half_precision_needs_no_autocast(name: str, precision: str) -> None:
    exact, half = build(name), build(name, precision=precision)
    half.clip.load_state_dict(exact.clip.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = {}
    for tower in (exact, half):
        maps = tower.pyramid(images)
        mask_logits = torch.randn(2, 5, *maps["dense"].shape[-2:], generator=torch.Generator().manual_seed(1))
        mask_logits[0, 0] = -1.0  # an empty region
        regions = tower.embed_regions(maps["dense"], mask_logits)
        found[tower] = [*tower.encode_scene(images), tower.encode_text(["a ship."]), regions]
    for whole, halved in zip(found[exact], found[half], strict=True):
        assert halved.dtype == torch.float32 and halved.isfinite().all()
        assert (whole - halved).norm() < 0.1 * whole.norm()


def test_masked_attention_pooling_over_everything_is_the_tower_s_own() -> None:
    tower = build("resnet")
    assert isinstance(tower, ResNetTower)
    images = torch.randn(2, 3, 64, 64)
    dense = tower.pyramid(images)["dense"]
    everywhere = tower.embed_regions(dense, torch.ones(2, 1, *dense.shape[-2:]))[:, 0]
    torch.testing.assert_close(everywhere, tower.clip.encode_image(images), rtol=1e-3, atol=1e-4)


def test_pooled_head_of_everything_is_the_tower_s_own() -> None:
    tower = build("convnext")
    images = torch.randn(2, 3, 64, 64)
    pooled = tower.pyramid(images)["dense"].mean(dim=(-2, -1))
    torch.testing.assert_close(tower.embed_pooled(pooled), tower.clip.encode_image(images), rtol=1e-3, atol=1e-5)


def test_vit_of_another_grid_resizes_its_positions() -> None:
    tower = build("vit")
    assert isinstance(tower, ViTTower)
    torch.testing.assert_close(tower._positions((4, 4)), tower.visual.positional_embedding)
    assert tower._positions((2, 7)).shape == (1 + 14, 64)


def test_weights_from_a_file_and_who_they_are(tmp_path: Path) -> None:
    source = build("vit")
    torch.save(source.clip.state_dict(), tmp_path / "tiny.pt")
    images = torch.randn(1, 3, 64, 64)
    by_path = build("vit", str(tmp_path / "tiny.pt"))
    by_folder = build("vit", "published", folder=str(tmp_path))
    for tower in (by_path, by_folder):
        torch.testing.assert_close(tower.encode_scene(images).embed, source.encode_scene(images).embed)
        assert tower.identity.startswith("tiny.pt ") and len(tower.identity.split()[1]) == 64
    assert source.identity != build("convnext").identity


def test_missing_weights_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match="weights not found: tiny.pt, published as sub/tiny.pt of nobody/tiny; fetch it",
    ):
        find_weights(PUBLISHED, tmp_path)
    with pytest.raises(WeightsError, match="SCORE_WEIGHTS"):
        find_weights(PUBLISHED, None)
    with pytest.raises(WeightsError, match="weights not found: .*nowhere.pt"):
        build("vit", str(tmp_path / "nowhere.pt"))


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    torch.save(build("resnet").clip.state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="weights do not fit tiny_vit: .*other.pt"):
        build("vit", str(tmp_path / "other.pt"))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cut.pt"):
        build("resnet", str(tmp_path / "cut.pt"))


def test_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match="unknown architecture: tiny_nothing"):
        build("nothing")


class Runs:
    """Unpickling one of these calls a function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": Runs(tmp_path / "was run")}, tmp_path / "own.pt")
    with pytest.raises(WeightsError, match="own.pt"):
        build("vit", str(tmp_path / "own.pt"))
    assert not (tmp_path / "was run").exists()


def test_weights_in_the_hub_s_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--nobody--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    kept = folder / "snapshots" / ("0" * 40) / "sub" / "tiny.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    at_hub = {**PUBLISHED, "repository": "https://huggingface.co/nobody/tiny"}
    assert find_weights(at_hub, None) == kept
    with pytest.raises(WeightsError, match="weights not found"):
        find_weights(PUBLISHED, None)  # published elsewhere
