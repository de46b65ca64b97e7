"""Learn the lite tower's projection: ``tools/align.py [output=FILE] [KEY=VALUE ...]``, minutes on a CPU.

Prints how well regions are named and writes one file, for ``LiteTower(projection=FILE)``; docs/lite.md is the shipped
one's card.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from score.app.command import command


@command("align")
def main(config: DictConfig) -> None:
    from score import runtime
    from score.engine import align  # not before the settings have been read: PyTorch takes seconds
    from score.files import check_writable

    runtime.log_to_stdout()
    output = Path(config.output)
    check_writable(output.parent)
    found = align.run(
        cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True)),
        runtime.select_device(config.runtime.device, config.runtime.threads),
        shlex.join(["tools/align.py", *HydraConfig.get().overrides.task]),
    )
    for dataset, figures in found.items():
        print(f"{dataset}: mean {sum(figures.values()) / len(figures):.3f}")
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    print(f"saved as {output}")
