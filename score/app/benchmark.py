"""Make a benchmark's table: ``score benchmark benchmark=isaid_transfer model=FOLDER [KEY=VALUE ...]``.

Every target at the published exponents and at one fixed pair, beside the paper's figures; targets that are not on this
disk are listed as missing. Each dataset is predicted once; what is finished is not done again.
"""

from __future__ import annotations

import textwrap
import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from score.app.command import CONFIGS, command, plain, typed


@command("commands/benchmark")
def main(config: DictConfig) -> None:
    from score import runtime
    from score.engine import checks
    from score.files import check_writable
    from score.studies import benchmark as benchmarks  # not before the settings have been read: PyTorch takes seconds
    from score.studies import cells
    from score.studies.study import Study

    checks.check_numbers(config)
    start = time.time()
    runtime.join_processes(config.runtime.device)
    runtime.log_to_stdout()
    benchmark = benchmarks.read(str(config.benchmark), CONFIGS / "benchmark")
    output = Path(config.output) / benchmark.name
    for folder in (output, Path(config.predictions)):
        check_writable(folder)
    study = Study.configured(config)
    came_from = study.provenance(typed())
    counts = {"top_k": config.top_k, "max_detections": config.max_detections}
    rows, facts = cells.run(benchmark, study, output, came_from, **counts, root=config.paths.datasets)
    if not runtime.part_processes():
        return
    reports = cells.write_reports(
        benchmark, study, rows if config.report else [], output, came_from, **counts, pictures=config.pictures
    )
    manifest = {
        **came_from,
        "config": plain(config),
        "benchmark": asdict(benchmark),
        "trained_with": OmegaConf.to_container(study.config, resolve=True),
        "origin": study.origin,
        "targets": facts,
        "seconds": round(time.time() - start, 1),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    note = f"limit={config.limit}: a part of each target, not to compare with the paper" if config.limit else ""
    written = [*reports, *benchmarks.write_tables(benchmark, rows, output, manifest, note)]
    print(f"\n{benchmarks.terminal(benchmark, rows, note)}\n\n{output}:")
    print(textwrap.fill(", ".join(path.name for path in written), initial_indent="  ", subsequent_indent="  "))
