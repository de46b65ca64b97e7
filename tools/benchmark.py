"""Make a benchmark's table: ``tools/benchmark.py benchmark=isaid_transfer model=FOLDER [KEY=VALUE ...]``.

Every target at the published exponents and at one fixed pair, beside the paper's figures; targets that are not on this
disk are listed as missing. Each dataset is predicted once; what is finished is not done again.
"""

from __future__ import annotations

import shlex
import textwrap
import time
from pathlib import Path

from command import CONFIGS, command
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


@command("commands/benchmark")
def main(config: DictConfig) -> None:
    from score.engine import benchmark as runner  # not before the settings have been read: PyTorch takes seconds
    from score.engine import runtime
    from score.engine.study import Study
    from score.evaluation import benchmark as tables
    from score.files import check_writable

    OmegaConf.to_container(config, throw_on_missing=True)
    start = time.time()
    runtime.log_to_stdout()
    benchmark = tables.read(str(config.benchmark), CONFIGS / "benchmark")
    output = Path(config.output) / benchmark.name
    check_writable(output)
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    study = Study(
        Path(config.model),
        Path(config.predictions),
        device,
        overrides=config.overrides,
        workers=config.runtime.workers,
        limit=config.limit,
    )
    counts = {"top_k": config.top_k, "max_detections": config.max_detections}
    rows, facts = runner.run(benchmark, study, output, **counts, root=config.paths.datasets)
    came_from = {
        "model": str(config.model),
        "command": shlex.join(["tools/benchmark.py", *HydraConfig.get().overrides.task]),
        "weights": study.origin["weights"],
        "seed": study.config.get("seed"),
        "device": str(device),
        "versions": runtime.versions(),
    }
    written = []
    if config.report:
        written = runner.write_reports(benchmark, study, rows, output, came_from, **counts, pictures=config.pictures)
    manifest = {
        **came_from,
        "config": OmegaConf.to_container(config, resolve=True),
        "trained_with": OmegaConf.to_container(study.config, resolve=True),
        "origin": study.origin,
        "targets": facts,
        "seconds": round(time.time() - start, 1),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    note = f"limit={config.limit}: a part of each target, not to compare with the paper" if config.limit else ""
    written += runner.write_tables(benchmark, rows, output, manifest, note)
    print(f"\n{tables.terminal(benchmark, rows, note)}\n\n{output}:")
    print(textwrap.fill(", ".join(path.name for path in written), initial_indent="  ", subsequent_indent="  "))


if __name__ == "__main__":
    main()
