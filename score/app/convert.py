"""Make a model folder of a released SCORE or FC-CLIP checkpoint: ``score convert checkpoint=FILE output=FOLDER``.

Lists what was used and what was left. A full-size checkpoint takes seconds and under 2 GB.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import hydra
from omegaconf import DictConfig

from score.app.command import command


@command("convert")
def main(config: DictConfig) -> None:
    from score.data import catalog  # not before the settings have been read: PyTorch takes seconds
    from score.engine import checks
    from score.model.towers.tiny import TinyTower
    from score.weights import folder
    from score.weights import released as authors

    checks.check_output(Path(config.output), False, config.overwrite)
    conversion = authors.convert(authors.read_checkpoint(Path(config.checkpoint)))
    dataset, _, _ = config.data.train.rpartition("_")
    config.model.train_names = list(catalog.register()[dataset].classes)
    # The frozen towers are no part of the checkpoint's share of the model: any of their width will do here.
    towers = {"backbone": TinyTower(embed_dim=config.backbone.embed_dim)}
    if config.scene.tower is not None:
        towers["scene"] = TinyTower(embed_dim=config.backbone.embed_dim)
    model = hydra.utils.instantiate(config.model.network, **towers, cache=None, _convert_="all")
    calls = config.rai.gumbel_calls if config.rai else 0
    model.load_trainable(authors.complete(conversion, model.trainable_state(), calls))

    for reason, count in Counter(conversion.left.values()).items():
        print(f"left   {count:5d} {reason}")
    trained = sum(value.numel() for value in conversion.state.values())
    print(f"used   {len(conversion.used):5d} of the trained part, {trained:,} parameters")
    card = {"Source": f"Converted from {Path(config.checkpoint).name}, trained on {config.data.train}."}
    for name, group in (("backbone", config.backbone), ("scene", config.scene)):
        if name in towers:
            published = group.tower.get("published", {})
            towers[name].identity = f"{published.get('file', '?')} of {published.get('repository', '?')}"
    folder.save(Path(config.output), model, config, card)
    print(f"model folder: {config.output}")
