"""Score a model at many pairs of ensemble exponents: ``score sweep model=FOLDER data=nwpu_val [KEY=VALUE ...]``.

The network runs once for each image; its predictions are kept. A pair is picked on a validation set, and reported on
the others. Other caps (``top_k=[100,300]``) and other words for classes (``names``) need no run either.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, plain, typed


@command("commands/sweep")
def main(config: DictConfig) -> None:
    import score.engine.evaluate as inference  # not before the settings have been read: PyTorch takes seconds
    from score import runtime
    from score.engine import checks
    from score.files import check_writable
    from score.studies import sweep as sweeps
    from score.studies.study import Study

    checks.check_numbers(config, top_k=checks.COUNT._replace(many=True))
    sweeps.check(config)
    runtime.join_processes(config.runtime.device)
    runtime.log_to_stdout()
    output = Path(config.output)
    for folder in (output, Path(config.predictions)):
        check_writable(folder)
    datasets = inference.register(config.data, config.paths.datasets)
    validation = inference.register(config.validation, config.paths.datasets)[0] if config.validation else None
    shared = sweeps.check_datasets(config, datasets, validation)
    study = Study.configured(config)
    came_from = study.provenance(typed())
    caps = [config.top_k] if isinstance(config.top_k, int) else list(config.top_k)
    words = plain(config)["names"]
    for dataset in filter(None, (validation, *datasets)):
        with study.predicted(dataset, embeds=bool(words) and dataset != validation):
            pass  # every process its share
    if not runtime.part_processes():
        return
    for text in sweeps.run(config, study, datasets, validation, words, caps, shared, came_from):
        print(f"\n{text}")
    print(f"\n{output}: a heat map and a JSON for each table")
