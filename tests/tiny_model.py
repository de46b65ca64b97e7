"""A model of random towers and random weights, small enough to be built in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import score
from score.model.score import SCORE
from score.weights import folder as model_folder

torch.set_num_threads(1)  # tiny tensors gain nothing from threads, and lose where other tests run beside them
CONFIGS = Path(score.__file__).parent.parent / "configs"


def tiny_config(*overrides: str) -> DictConfig:
    """The training config with tiny towers around a small decoder."""
    parts = [
        "model=small",
        "backbone=tiny",
        "scene=tiny",
        "model.queries=20",
        "model.decoder_layers=1",
        "paths.cache=null",
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", [*parts, *overrides])


def tiny_model(names: Sequence[str], *overrides: str, seed: int = 0) -> tuple[SCORE, DictConfig]:
    """Build the model for a training vocabulary."""
    config = tiny_config(*overrides)
    config.model.train_names = list(names)
    torch.manual_seed(seed)
    return model_folder.build(config).eval(), config


def tiny_folder(path: Path, names: Sequence[str], *overrides: str, seed: int = 0) -> Path:
    """Write such a model as a model folder."""
    model, config = tiny_model(names, *overrides, seed=seed)
    model_folder.save(path, model, config, {"Data": "none"})
    return path
