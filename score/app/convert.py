"""Make a model folder of a released SCORE or FC-CLIP checkpoint: ``score convert checkpoint=FILE output=FOLDER``.

Lists what was used and what was left. A full-size checkpoint takes seconds and under 2 GB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from score.app.command import command
from score.files import write_text


@command("convert")
def main(config: DictConfig) -> None:
    from score.data import catalog  # not before the settings have been read: PyTorch takes seconds
    from score.engine import checks

    checks.check_output(Path(config.output), False, config.overwrite)
    dataset, _, _ = config.data.train.rpartition("_")
    config.model.train_names = list(catalog.register()[dataset].classes)
    source = f"Converted from {Path(config.checkpoint).name}, trained on {config.data.train}."
    convert(config, Path(config.checkpoint), Path(config.output), {"Source": source})
    print(f"model folder: {config.output}")


def convert(
    config: DictConfig, checkpoint: Path, output: Path, card: Mapping[str, str], parts: Sequence[str] = ()
) -> None:
    """Write a released checkpoint as a model folder.

    Args:
        config: of the architecture that it was trained with, its vocabulary in ``model.train_names``.
        card: sections of the folder's card.
        parts: of the trained part, those to take, as ``mask_decoder``: no more than weights to start from are written
            then. Empty for all.

    Raises:
        WeightsError: it cannot be read, or is not of this architecture, by the first name that differs.
    """
    from score.model.towers.tiny import TinyTower
    from score.weights import folder
    from score.weights import released as authors

    conversion = authors.convert(authors.read_checkpoint(checkpoint))
    # The frozen towers are no part of the checkpoint's share of the model: any of their width will do here.
    towers = {"backbone": TinyTower(embed_dim=config.backbone.embed_dim)}
    if config.scene.tower is not None:
        towers["scene"] = TinyTower(embed_dim=config.backbone.embed_dim)
    model = hydra.utils.instantiate(config.model.network, **towers, cache=None, _convert_="all")
    calls = config.rai.gumbel_calls if config.rai else 0
    own = model.trainable_state()
    wanted = {name: value for name, value in own.items() if not parts or name.startswith(tuple(parts))}
    state = authors.complete(conversion, wanted, calls)

    for reason, count in Counter(conversion.left.values()).items():
        print(f"left   {count:5d} {reason}")
    trained = sum(value.numel() for value in conversion.state.values())
    print(f"used   {len(conversion.used):5d} of the trained part, {trained:,} parameters")
    if parts:
        folder.save_weights(output, state)
        write_text(output / folder.CARD, "\n".join(f"# {title}\n\n{text}\n" for title, text in card.items()))
        return
    model.load_trainable(state)
    for name, group in (("backbone", config.backbone), ("scene", config.scene)):
        if name in towers:
            published = group.tower.get("published", {})
            towers[name].identity = f"{published.get('file', '?')} of {published.get('repository', '?')}"
    folder.save(output, model, config, card)
