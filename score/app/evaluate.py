"""Score a model: ``score evaluate model=FOLDER data=nwpu_val [data=[a,b]] [limit=N] [shuffle_vocabulary=SEED]``.

Prints a table for each dataset and saves the figures with the settings, versions and time that they came from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, plain, typed


@command("commands/evaluate")
def main(config: DictConfig) -> None:
    import score.engine.evaluate as inference  # not before the settings have been read: PyTorch takes seconds
    from score import runtime
    from score.data.loaders import test_records
    from score.engine import checks
    from score.engine.predictions import fingerprint
    from score.evaluation.tables import overview, summary
    from score.files import check_writable, save_json
    from score.weights import folder, known

    checks.check_numbers(config)
    runtime.join_processes(config.runtime.device)
    runtime.log_to_stdout()
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    output = Path(config.output)
    check_writable(output)
    datasets = inference.register(config.data, config.paths.datasets)
    for dataset in datasets:  # all, before the first is scored
        inference.choose(config.tasks, dataset)
        test_records(dataset, config.limit)
    found = known.find(config.model)
    model, trained = folder.load(found, device, config.overrides)
    model.lower_towers(runtime.tower_precision(plain(config)["runtime"]["towers"], device))
    if config.runtime.compile:
        model.compile_parts(decoders=True)
    given = {key: float(value) for key, value in config.ensemble.items() if value is not None}
    ensemble = dataclasses.replace(model.ensemble, **given)
    source = runtime.provenance(found, device, trained.get("seed"), typed())
    rows = {}
    changes = inference.changes(config)
    for dataset in datasets:
        title, json = inference.place(output, dataset, changes)
        results = inference.evaluate(
            model,
            dataset,
            ensemble=ensemble,
            workers=config.runtime.workers,
            batch_size=config.batch_size,
            max_detections=config.max_detections,
            limit=config.limit,
            shuffle_vocabulary=config.shuffle_vocabulary,
            pictures=config.pictures,
            picture_folder=output / "pictures" / title,
            tasks=plain(config)["tasks"],
            min_score=config.min_score,
            background=config.background,
            labels=Path(config.labels) if config.labels else None,
        )
        if not results:  # of several processes the main one has them
            continue
        name = "_".join([title, *changes])
        path = output / f"{name}.json"
        facts = {"dataset": dataset, "json": json, "dataset_hash": fingerprint(test_records(dataset, config.limit))}
        save_json(path, {**facts, **source, "changes": changes, **results})
        print(f"{name}: {results['seconds_per_image']:.2f} s an image\nsaved as {path}\n{overview(results)}\n")
        rows[name] = results
    if len(rows) > 1 and all("all" in results for results in rows.values()):
        print(summary(rows))
