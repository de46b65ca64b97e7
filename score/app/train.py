"""Train a model: ``score train experiment=NAME [KEY=VALUE ...]``; ``--cfg job`` shows every setting.

The output folder becomes a model folder, with checkpoints, TensorBoard events, figures and pictures beside the weights.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from score.app.command import command, typed


@command("config")
def main(config: DictConfig) -> None:
    from score.app.calibrate import after_training, before_training
    from score.engine.trainer import train  # not before the settings have been read: PyTorch takes seconds

    groups = HydraConfig.get().runtime.choices
    config.choices = {key: groups[key] for key in sorted(groups) if not key.startswith("hydra")}
    before_training(config)
    after_training(config, train(config, typed()))
