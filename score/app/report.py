"""Fold run folders into one table: ``score report runs=[runs/ablation] [output=FILE]``.

A line for each setting that differs, with mean and standard deviation over seeds. Folders of runs are searched.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from score.app.command import command


@command("commands/report")
def main(config: DictConfig) -> None:
    from score.errors import ConfigError
    from score.files import check_writable, save_json, write_text
    from score.studies import ablation as runs

    folders = config.runs if isinstance(config.runs, ListConfig) else [config.runs]
    if not folders:
        raise ConfigError(f"runs={config.runs}: no folder; name at least one")
    found, unscored = runs.find([Path(str(folder)) for folder in folders])
    lines = runs.fold(found)
    if config.output is not None:
        check_writable(Path(f"{config.output}").parent)
    print("\n\n".join(table.plain() for table in runs.tables(lines)))
    for folder in unscored:
        print(f"left out: {folder}, not trained to the end or not scored", file=sys.stderr)
    if config.output is not None:
        write_text(Path(f"{config.output}.md"), "\n".join(table.markdown() for table in runs.tables(lines, 2, " ± ")))
        save_json(f"{config.output}.json", runs.as_json(lines))
        print(f"\n{config.output}.md, {config.output}.json")
