"""Choose what is worth showing: ``score calibrate model=FOLDER data=isaid512_val``.

Writes the thresholds of seen and unseen words, with what they were chosen on, to the model folder's calibration.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from score.app.command import CONFIGS, command, plain


@command("commands/calibrate")
def main(config: DictConfig) -> None:
    from score import runtime  # not before the settings have been read: PyTorch takes seconds
    from score.engine import checks
    from score.errors import ConfigError
    from score.files import check_writable
    from score.weights import known

    checks.check_numbers(config, false_alarms=checks.SHARE)
    runtime.log_to_stdout()
    place = known.find(config.model)
    if place in known.SHIPPED.values():
        raise ConfigError(f"{config.model} is part of the installed package; copy {place} and calibrate the copy")
    config.model = str(place)
    check_writable(place)
    calibrate(config)


def calibrate(config: DictConfig) -> None:
    """Do what ``configs/commands/calibrate.yaml`` was set to."""
    from score import runtime
    from score.engine.evaluate import register
    from score.segmenter import Segmenter
    from score.studies import calibration
    from score.weights import folder

    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    [dataset] = register(config.data, config.paths.datasets)
    model, _ = folder.load(config.model, device, config.overrides)
    settings = plain(config)
    content: dict[str, Any] = calibration.calibrate(
        Segmenter(model), dataset, **{key: settings[key] for key in ("distractors", "absent", "false_alarms", "limit")}
    )
    calibration.save(Path(config.model), content)
    for group in ("seen", "unseen"):
        figures = content["figures"].get(group)
        found = f"; precision {figures['precision']}, recall {figures['recall']} there" if figures else ""
        print(f"{group} words from score {content[group]} on: {content[f'{group}_rule']}, {dataset}{found}")
    print(f"saved as {Path(config.model) / folder.CALIBRATION}")


def before_training(config: DictConfig) -> None:
    """Make sure, before hours are spent, that the set which ``calibrate`` names can be read."""
    from score.data import catalog
    from score.engine.evaluate import register

    if config.calibrate not in (None, "test"):
        catalog.load(register(config.calibrate, config.paths.datasets)[0])


def after_training(config: DictConfig, trained: Path) -> None:
    """Calibrate a run's model on the set that ``calibrate`` names, if any; ``test`` is the first it is scored on."""
    from detectron2.utils import comm

    data = next(iter(config.data.test), None) if config.calibrate == "test" else config.calibrate
    if data is not None and comm.is_main_process():
        own = {"model": str(trained), "data": data, "limit": config.evaluation.limit}
        shared = {key: OmegaConf.select(config, key) for key in ("paths.datasets", "runtime.device", "runtime.threads")}
        settings = OmegaConf.merge(OmegaConf.load(CONFIGS / "commands" / "calibrate.yaml"), own)
        for key, value in shared.items():
            OmegaConf.update(settings, key, value)
        assert isinstance(settings, DictConfig)
        calibrate(settings)
