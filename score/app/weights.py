"""The towers' published weights: ``score weights list | fetch NAME | check [NAME] [folder=FOLDER]``.

``fetch`` downloads one, goes on where it was cut off, and verifies it. ``check`` opens what is there: the type of the
stored numbers, the embedding's size, the share of words whose nearest neighbour is their synonym, and of drawn objects
that are named right (random weights: 0.07 and 0.08).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from score.app.command import CONFIGS, command

if TYPE_CHECKING:
    from score.weights.registry import Published

HEAD = f"{'':18} {'architecture':20} {'size':>8}  {'licence':16} "


@command("commands/weights", words=("action", "name"))
def main(config: DictConfig) -> None:
    from score.errors import ConfigError, WeightsError  # not before the settings have been read
    from score.weights import registry

    known = registry.read(CONFIGS / "tower")
    folder = Path(config.folder).expanduser() if config.folder else None
    if config.action == "list":
        show(known, folder)
    elif config.action == "fetch":
        if config.name is None or folder is None:
            missing = "fetch: no name; " if config.name is None else "fetch: no folder; set SCORE_WEIGHTS or "
            raise ConfigError(f"{missing}use score weights fetch NAME folder=FOLDER")
        path = registry.fetch(registry.choose(known, config.name), folder)
        print(f"{path}\nSHA-256 {registry.sha256(path)}")
    elif config.action == "check":
        chosen = [registry.choose(known, config.name)] if config.name else list(known.values())
        failed = [tower.name for tower in chosen if not look(tower, folder, config.runtime.threads)]
        if failed:
            raise WeightsError(f"not usable: {', '.join(failed)}; see above")
    else:
        raise ConfigError(f"action={config.action}: not one of list, fetch, check")


def show(known: Mapping[str, Published], folder: Path | None) -> None:
    """Every tower in three lines: facts, its file, and where that is or is published."""
    print(f"{HEAD}SHA-256\n{'-' * 80}")
    for tower in known.values():
        size = f"{tower.megabytes:,} MB" if tower.megabytes else "?"
        digest = tower.sha256[:8] if tower.sha256 else "unknown"
        found = tower.find(folder)
        print(f"{tower.name:18} {tower.settings['architecture']:20} {size:>8}  {tower.licence:16} {digest}")
        print(f"  {Path(tower.file).name}{'' if found else ', not here, is published at'}")
        print(f"  {found or (tower.archive or tower.repository).removeprefix('https://')}")
    print(f"{'-' * 80}\nfetch puts files in {folder or 'folder=FOLDER, or the one that SCORE_WEIGHTS names'}")


def look(tower: Published, folder: Path | None, threads: int | None) -> bool:
    """Open one tower and print what it is; False if its file is there and cannot be used."""
    from score import runtime
    from score.errors import WeightsError
    from score.weights import registry, smoke

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
