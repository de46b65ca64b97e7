"""Published weights: ``score weights list | fetch NAME | check [NAME] [folder=FOLDER]``.

``fetch`` downloads a tower, goes on where it was cut off, and verifies it; or a model, its tower as well, and makes a
model folder of it in this user's cache, which then goes by its name: ``score predict model=fcclip_coco``. ``check``
opens what is there. Of a tower it prints the type of the stored numbers, the embedding's size, the share of words whose
nearest neighbour is their synonym, and of drawn objects that are named right (random weights: 0.07 and 0.08).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from score.app.command import CONFIGS, command

if TYPE_CHECKING:
    from score.weights.registry import Published

HEAD = f"{'':18} {'architecture':20} {'size':>8}  {'licence':16} "


@command("commands/weights", words=("action", "name"))
def main(config: DictConfig) -> None:
    from score.errors import ConfigError, WeightsError  # not before the settings have been read
    from score.weights import known, registry

    towers, models = registry.read(CONFIGS / "tower"), registry.read(known.RELEASED)
    folder = Path(config.folder).expanduser() if config.folder else None
    if config.action == "list":
        show(towers, models, folder)
    elif config.action == "fetch":
        if config.name in models:
            fetch_model(models[config.name], towers, folder, config.mirror)
            return
        if config.name is None or folder is None:
            missing = "fetch: no name; " if config.name is None else "fetch: no folder; set SCORE_WEIGHTS or "
            raise ConfigError(f"{missing}use score weights fetch NAME folder=FOLDER")
        path = registry.fetch(registry.choose({**towers, **models}, config.name), folder, mirror=config.mirror)
        print(f"{path}\nSHA-256 {registry.sha256(path)}")
    elif config.action == "check":
        chosen = [registry.choose({**towers, **models}, config.name)] if config.name else [*towers.values()]
        failed = [item.name for item in chosen if not look(item, folder, config.runtime.threads)]
        if failed:
            raise WeightsError(f"not usable: {', '.join(failed)}; see above")
    else:
        raise ConfigError(f"action={config.action}: not one of list, fetch, check")


def fetch_model(model: Published, towers: Mapping[str, Published], folder: Path | None, mirror: str | None) -> None:
    """Fetch a checkpoint and its tower, and make a model folder of them; it is there whole or not at all.

    Args:
        model: of ``configs/released``.
        towers: those of ``configs/tower``.
        folder: where both files go; None for this user's cache.
        mirror: as :func:`score.weights.registry.fetch` takes it.

    Raises:
        WeightsError: a file cannot be had, is another one, or does not fit the architecture.
    """
    from score.app.convert import convert
    from score.errors import WeightsError
    from score.files import check_writable, user_folder
    from score.weights import folder as model_folder
    from score.weights import known, registry

    place, folder = known.place(model.name), folder or user_folder("weights")
    check_writable(place.parent)
    tower = towers[model.settings["tower"]] if model.settings["tower"] else None
    if tower and tower.find(folder) is None:
        print(registry.fetch(tower, folder, mirror=mirror))
    if (place / model_folder.WEIGHTS).is_file():
        model_folder.read_weights(place / model_folder.WEIGHTS)
        print(f"{model.name} is there: {place}")
        return
    own = (folder / model.file).is_file()
    checkpoint = registry.fetch(model, folder, mirror=mirror)
    digest = registry.sha256(checkpoint)
    checked = "as known" if model.sha256 else "none is known" + ", its MD5 begins as published" * bool(model.md5)
    print(f"{checkpoint}\nSHA-256 {digest}, {checked}")
    GlobalHydra.instance().clear()  # of the command's own settings, which have been read
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("config", [f"name={model.name}", *model.settings["overrides"]])
    config.model.train_names = list(model.settings["names"])
    parts = model.settings["parts"]
    use = f"score train init={model.name}" if parts else f"score predict model={model.name} images=FOLDER ..."
    source = f"{model.file} of {model.repository}, licence {model.licence}; SHA-256 of the file got: {digest}"
    partial = place.with_name(f".{place.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        convert(config, checkpoint, partial, {"Use": f"    {use}", "Source": source}, parts)
        partial.replace(place)
    except WeightsError:
        if not own:
            checkpoint.unlink()  # or the next attempt would find it
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{model.name}: {place}\n{use}")


def show(towers: Mapping[str, Published], models: Mapping[str, Published], folder: Path | None) -> None:
    """Every tower in three lines: facts, its file, and where that is or is published; then the models."""
    from score.weights import known

    print(f"{HEAD}SHA-256\n{'-' * 80}")
    for tower in towers.values():
        size = f"{tower.megabytes:,} MB" if tower.megabytes else "?"
        digest = tower.sha256[:8] if tower.sha256 else "unknown"
        found = tower.find(folder)
        print(f"{tower.name:18} {tower.settings['architecture']:20} {size:>8}  {tower.licence:16} {digest}")
        print(f"  {Path(tower.file).name}{'' if found else ', not here, is published at'}")
        print(f"  {found or (tower.archive or tower.repository).removeprefix('https://')}")
    print(f"{'-' * 80}\nmodels")
    for name, place in known.SHIPPED.items():
        print(f"{name:18} shipped\n  {place}")
    for model in models.values():
        digest = f"MD5 {model.md5}" if model.md5 else model.sha256[:8] if model.sha256 else "unknown"
        print(f"{model.name:18} {model.settings['tower'] or 'to start from':20} {'?':>8}  {model.licence:16} {digest}")
        there = known.place(model.name)
        print(f"  {there}" if there.is_dir() else f"  not here, is published at\n  {model.repository.split('//')[1]}")
    print(f"{'-' * 80}\nfetch puts files in {folder or 'folder=FOLDER, or the one that SCORE_WEIGHTS names'}")


def look(tower: Published, folder: Path | None, threads: int | None) -> bool:
    """Open one tower or model and print what it is; False if its file is there and cannot be used."""
    from score import runtime
    from score.errors import WeightsError
    from score.weights import folder as model_folder
    from score.weights import known, registry, smoke

    if tower.name in known.names():
        try:
            state = model_folder.read_weights(known.find(tower.name) / model_folder.WEIGHTS)
        except WeightsError as error:
            print(f"{tower.name:18} {error}")
            return False
        count = sum(value.numel() for value in state.values())
        print(f"{tower.name:18} {len(state)} tensors, {count:,} parameters  {known.place(tower.name)}")
        return True
    path = tower.find(folder)
    if path is None:
        print(f"{tower.name:18} not here")
        return True
    runtime.select_device("cpu", threads)
    try:
        registry.verify(path, tower.sha256)
        opened = tower.tower(path)
    except WeightsError as error:
        print(f"{tower.name:18} {error}")
        return False
    words, regions = smoke.smoke(opened)
    stored = registry.stored_type(path)
    print(f"{tower.name:18} {stored}, embedding {opened.embed_dim}, words {words:.2f}, regions {regions:.2f}  {path}")
    return True
