"""Score a model at many pairs of ensemble exponents: ``score sweep model=FOLDER data=nwpu_val [KEY=VALUE ...]``.

The network runs once for each image; its predictions are kept. A pair is picked on a validation set, and reported on
the others. Other caps (``top_k=[100,300]``) and other words for classes (``names``) need no run either.
"""

from __future__ import annotations

import functools
from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, plain, typed


@command("commands/sweep")
def main(config: DictConfig) -> None:
    from detectron2.data import MetadataCatalog

    import score.engine.evaluate as inference  # not before the settings have been read: PyTorch takes seconds
    from score import runtime
    from score.engine import checks
    from score.files import check_writable, save_json, write_whole
    from score.studies import sweep as sweeps
    from score.studies.grid import as_json, heat_map, table
    from score.studies.study import Study

    checks.check_numbers(config)
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
    grid = {"alphas": list(config.alphas), "betas": list(config.betas), "max_detections": config.max_detections}
    picked = None
    if validation:
        found = sweeps.grids(study, validation, **grid, top_k=caps[-1:])[0]
        picked = sweeps.pick(found, validation, study.model.ensemble, config.group, config.metric)
    for dataset in datasets:
        grids = exacts = sweeps.grids(study, dataset, **grid, top_k=caps, words=words)
        if picked and not (picked.alpha in config.alphas and picked.beta in config.betas):
            own = {**grid, "alphas": [picked.alpha], "betas": [picked.beta]}
            exacts = sweeps.grids(study, dataset, **own, top_k=caps, words=words)
        for cap, found, exact in zip(caps, grids, exacts, strict=True):
            name = dataset if len(caps) == 1 else f"{dataset}_top{cap}"
            print(f"\n{name}\n{table(found, config.group, config.metric)}")
            tuned = shared[dataset] > 0
            print(sweeps.verdict(found, dataset, config.group, config.metric, picked, exact, tuned))
            picture = heat_map(found, config.group, config.metric, name)
            write_whole(output / f"{name}.png", functools.partial(Path.write_bytes, data=picture))
            classes = MetadataCatalog.get(dataset).thing_classes
            facts = {"dataset": dataset, "limit": config.limit, "top_k": cap, "names": words}
            chosen = {"group": config.group, "metric": config.metric, "picked": picked, "tuned_on_target": tuned}
            save_json(output / f"{name}.json", {**came_from, **facts, **chosen, **as_json(found, classes)})
    print(f"\n{output}: a heat map and a JSON for each table")
