"""See what a model costs, part by part: ``score profile models=lite [training=true] [KEY=VALUE ...]``.

Parameters, operations, time and memory of every stage, and images a second. Several models, as in
models=[lite,runs/own], run in turn, so that their times can be compared on a machine that others use as well.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from score.app.command import CONFIGS, command, plain, typed
from score.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from score.model.score import SCORE


@command("commands/profile")
def main(config: DictConfig) -> None:
    from score import runtime
    from score.engine import checks
    from score.files import check_writable, save_json, write_text
    from score.model.compiled import check_compiler
    from score.studies import profile as costs

    checks.check_numbers(config, size=costs.SIZE, batches=checks.COUNT._replace(many=True), repeats=checks.COUNT)
    settings = plain(config)
    output = Path(config.output)
    check_writable(output)
    runtime.log_to_stdout()
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    names = settings["models"] if isinstance(settings["models"], list) else [settings["models"]]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"models={names}: give a model folder, a known model, or settings of score train, or a list")
    if compiled := settings["runtime"]["compile"]:
        if len(settings["batches"]) > 1:
            raise ConfigError(f"batches={settings['batches']}: runtime.compile=true is for one size; give one number")
        check_compiler(device)
    towers = runtime.tower_precision(settings["runtime"]["towers"], device)
    amp = checks.precision(settings["runtime"]["amp"], device)
    models = {name: _model(name, device) for name in names}
    for model in models.values():
        model.lower_towers(towers)
    keys = ("size", "repeats", "training", "batches")
    result = costs.profile(models, amp=costs.AMP[amp], compiled=compiled, **{key: settings[key] for key in keys})
    facts = {
        "command": typed(),
        "device": str(device),
        "threads": config.runtime.threads,
        "versions": runtime.versions(),
    }
    text = costs.table(result)
    save_json(output / "profile.json", {**result, **facts})
    write_text(output / "profile.md", f"# Costs\n\n    {typed()}\n\n{text}")
    print(f"{text}\nsaved as {output / 'profile.md'} and {output / 'profile.json'}")


def _model(name: str, device: torch.device) -> SCORE:
    """A model folder's or a known model, or one of random weights, built of settings."""
    from score.data import catalog
    from score.weights import folder, known

    if "=" not in name:
        return folder.load(known.find(name), device)[0]
    try:
        settings = shlex.split(name)
    except ValueError as error:
        raise ConfigError(f"models={name}: not readable ({error}); write it as for score train") from error
    GlobalHydra.instance().clear()  # this command's own settings have been read
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("config", ["weights=random", "paths.cache=null", *settings])
    OmegaConf.set_struct(config, False)
    dataset, _, _ = config.data.train.rpartition("_")
    config.model.train_names = list(catalog.register()[dataset].classes)
    return folder.build(config).to(device)
