"""AP over a grid of ensemble exponents: ``tools/sweep.py model=FOLDER data=nwpu_val [validation=isaid512_val] ...``.

The network runs once for each dataset; every cell, other caps (``top_k=[100,300]``) and other words
(``names='{airplane: "aircraft,plane"}'``) come from its predictions. A pair is picked on ``validation`` only, and
reported on ``data``.
"""

from __future__ import annotations

from pathlib import Path

from command import command
from omegaconf import DictConfig, OmegaConf


@command("commands/sweep")
def main(config: DictConfig) -> None:
    import score.engine.inference as inference  # not before the settings have been read: PyTorch takes seconds
    from score.engine import runtime, sweeps
    from score.engine.study import Study
    from score.errors import ConfigError
    from score.evaluation.sweep import as_json, heat_map, table
    from score.evaluation.table import save_json
    from score.files import check_writable, write_whole

    OmegaConf.to_container(config, throw_on_missing=True)
    sweeps.check(config)
    runtime.log_to_stdout()
    output = Path(config.output)
    check_writable(output)
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    datasets = inference.register(config.data, config.paths.datasets)
    validation = inference.register(config.validation, config.paths.datasets)[0] if config.validation else None
    if validation in datasets and not config.tune_on_target:
        raise ConfigError(
            f"validation={validation} is one of data: the pair would be picked on the target; "
            "choose another set, or set tune_on_target=true"
        )
    study = Study(
        Path(config.model),
        Path(config.predictions),
        device,
        overrides=config.overrides,
        workers=config.runtime.workers,
        limit=config.limit,
    )
    caps = [config.top_k] if isinstance(config.top_k, int) else list(config.top_k)
    grid = {"alphas": config.alphas, "betas": config.betas, "max_detections": config.max_detections}
    picked = None
    if validation:
        found = sweeps.grids(study, validation, **grid, top_k=caps[-1:])[0]
        picked = sweeps.pick(found, validation, study.model.ensemble, config.group, config.metric)
    for dataset in datasets:
        words = OmegaConf.to_container(config.names) if config.names else None
        for cap, found in zip(caps, sweeps.grids(study, dataset, **grid, top_k=caps, words=words), strict=True):
            name = dataset if len(caps) == 1 else f"{dataset}_top{cap}"
            print(f"\n{name}\n{table(found, config.group, config.metric)}")
            print(sweeps.verdict(found, picked, dataset, config.group, config.metric))
            picture = heat_map(found, config.group, config.metric, name)
            write_whole(output / f"{name}.png", lambda partial, picture=picture: partial.write_bytes(picture))
            facts = {"model": config.model, "dataset": dataset, "top_k": cap, "names": words, "picked": picked}
            save_json(output / f"{name}.json", {**facts, "versions": runtime.versions(), **as_json(found)})
    print(f"\n{output}: a heat map and a JSON for each table")


if __name__ == "__main__":
    main()
