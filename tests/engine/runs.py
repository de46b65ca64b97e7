"""Training runs that take a second: tiny towers, rectangles, six iterations."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from score.engine.trainer import train
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_config

ITERATIONS = 6


def run_config(folder: Path, *overrides: str) -> DictConfig:
    """A config that trains on rectangles in ``folder/data`` and writes to ``folder/run``."""
    data = {"json": f"{folder}/data/instances.json", "images": f"{folder}/data/images"}
    if not (folder / "data").exists():
        tiny_data(folder / "data", size=64)
    config = tiny_config(
        "optim=lite",
        "name=rectangles",
        f"output={folder}/run",
        f"optim.iterations={ITERATIONS}",
        "optim.checkpoint_period=3",
        "optim.log_period=2",
        "runtime.workers=0",
        "runtime.threads=1",
        "runtime.device=cpu",
        "input.train.size=64",
        "input.test.shortest=64",
        "evaluation.pictures=2",
    )
    config.data.train, config.data.test = data, [data]
    config.merge_with_dotlist(list(overrides))
    return config


def run(folder: Path, *overrides: str) -> Path:
    """Train, and return the model folder."""
    return train(run_config(folder, *overrides), "tools/train.py experiment=rectangles")
