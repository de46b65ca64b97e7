"""Fold run folders into one table: ``tools/report.py runs=[runs/ablation] [output=FILE]``.

A line for each setting that differs, with mean and standard deviation over seeds. Folders of runs are searched.
"""

from __future__ import annotations

from pathlib import Path

from command import command
from omegaconf import DictConfig, OmegaConf


@command("commands/report")
def main(config: DictConfig) -> None:
    from score.evaluation import runs
    from score.evaluation.table import save_json
    from score.files import write_text

    OmegaConf.to_container(config, throw_on_missing=True)
    folders = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    lines = runs.fold(runs.find([Path(folder) for folder in folders]))
    print(runs.terminal(lines))
    if config.output is not None:
        output = Path(config.output)
        write_text(output.with_suffix(".md"), runs.markdown(lines))
        save_json(output.with_suffix(".json"), runs.as_json(lines))
        print(f"\n{output.with_suffix('.md')}, {output.with_suffix('.json')}")


if __name__ == "__main__":
    main()
