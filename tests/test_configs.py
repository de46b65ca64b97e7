"""Every file under configs/ composes, and what it configures is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import score
from score.data import catalog
from score.model.score import SCORE
from score.studies import benchmark

CONFIGS = Path(score.__file__).parent.parent / "configs"
# A group's files are tried one at a time on the smallest model that takes them.
TINY = ["backbone=tiny", "scene=tiny", "model.train_names=[ship,plane]", "paths.cache=null"]
NO_GROUPS = ("benchmark", "commands", "experiment", "released", "tower")
GROUPS = sorted(p.relative_to(CONFIGS) for p in CONFIGS.glob("*/*.yaml") if p.parent.name not in NO_GROUPS)
EXPERIMENTS = sorted(p.stem for p in (CONFIGS / "experiment").glob("*.yaml"))
CLIPS = {p.stem for p in (CONFIGS / "tower").glob("*.yaml")}


def composed(name: str, overrides: list[str], folder: Path = CONFIGS) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        assert GlobalHydra.instance().is_initialized()
    return config


def whole(config: DictConfig, *names: str) -> dict[str, Any]:
    """The parts of a config, every interpolation resolved."""
    return {name: OmegaConf.to_container(config[name], resolve=True) for name in names}


@pytest.mark.parametrize("file", [f for f in GROUPS if f.stem not in CLIPS], ids=str)
def test_every_choice_builds(file: Path) -> None:
    choice = f"{file.parent}={file.stem}"
    overrides = [o for o in TINY if not o.startswith(f"{file.parent}=")]
    if file.stem == "lite":  # a pair of towers has one width
        overrides = [*(o for o in overrides if "tiny" not in o), "backbone=lite", "scene=lite"]
    if choice == "scene=off":
        overrides += ["rai=off", "gca=off"]
    config = composed("config", [*overrides, choice])
    torch.manual_seed(0)
    model = instantiate(config.model.network)
    assert isinstance(model, SCORE)
    for part in (config.input.train, config.optim.decay):
        assert instantiate(part) is not None


@pytest.mark.parametrize("file", [f for f in GROUPS if f.stem in CLIPS], ids=str)
def test_every_published_tower_is_described_as_it_is(file: Path) -> None:
    """What a config says of an open_clip tower is what the tower is."""
    import open_clip

    from score.model.towers.open_clip import ConvNeXtTower, OpenCLIPTower, ResNetTower
    from score.model.towers.vit import ViTTower

    group = str(file.parent)
    settings = whole(composed("config", [*TINY[2:], f"{group}={file.stem}"]), group)[group]
    with torch.device("meta"):
        clip = open_clip.create_model(settings["tower"]["architecture"], device="meta", pretrained_text=False)
    kinds = {"TimmModel": ConvNeXtTower, "ModifiedResNet": ResNetTower, "VisionTransformer": ViTTower}
    kind: type[OpenCLIPTower] = kinds[type(clip.visual).__name__]
    tower = kind(clip, open_clip.get_tokenizer(settings["tower"]["architecture"]), "meta")
    if group == "backbone":
        assert settings["embed_dim"] == tower.embed_dim
        assert settings["channels"] == tower.channels


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds(name: str) -> None:
    assert len((CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()) <= 40
    config = composed("config", [f"experiment={name}", "model.train_names=[ship,plane]", "paths.cache=null"])
    resolved = whole(config, "model", "data", "optim", "runtime", "input", "evaluation")
    assert config.output == f"runs/{name}" or name == "ablation"
    network = resolved["model"]["network"]
    for part in ("pixel_decoder", "mask_decoder", "class_embedding", "classifier", "gca", "criterion", "ensemble"):
        with torch.device("meta"):
            assert instantiate(network[part]) is not None
    assert instantiate(network["rai"]) is not None
    assert instantiate(config.input.train) is not None
    assert instantiate(config.optim.decay)(0.5) > 0


@pytest.mark.parametrize("file", sorted((CONFIGS / "commands").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_command_composes(file: Path) -> None:
    config = composed(file.stem, [], file.parent)
    assert config.hydra.run.dir == "."


@pytest.mark.parametrize("name", [p.stem for p in sorted(CONFIGS.glob("*.yaml"))])
def test_every_root_composes(name: str) -> None:
    config = composed(name, [])
    assert config.hydra.run.dir == "."


@pytest.mark.parametrize("file", sorted((CONFIGS / "benchmark").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_benchmark_is_of_known_datasets(file: Path) -> None:
    catalog.register()
    found = benchmark.read(file.stem, file.parent)
    for target in found.targets:
        assert catalog.require(target) == target
    for figures in found.published.values():
        assert set(figures) <= {*found.targets, "mean"}
    assert found.compare in found.published


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_numbers_are_numbers_to_every_reader_of_yaml(path: Path) -> None:
    """``1e-3`` is text to PyYAML, which says of what kind a command's setting is."""
    found = [
        word for line in path.read_text().splitlines() for word in re.findall(r":\s+(\d+e-?\d+)\s*(?:#.*)?$", line)
    ]
    assert not found
