"""Learn the lite tower's projection: ``score align [output=FILE] [KEY=VALUE ...]``, minutes on a CPU.

Prints how well regions are named and writes one file, for ``LiteTower(projection=FILE)``; docs/lite.md is the shipped
one's card.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, plain, typed


@command("align")
def main(config: DictConfig) -> None:
    from score import runtime
    from score.engine import align, checks  # not before the settings have been read: PyTorch takes seconds
    from score.files import check_writable

    checks.check_numbers(config)
    runtime.log_to_stdout()
    output = Path(config.output)
    check_writable(output.parent)
    found = align.run(
        plain(config),
        runtime.select_device(config.runtime.device, config.runtime.threads),
        typed(),
    )
    for dataset, figures in found.items():
        print(f"{dataset}: mean {sum(figures.values()) / len(figures):.3f}")
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    print(f"saved as {output}")
