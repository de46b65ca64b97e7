"""What each part of the small model's recipe is worth: one left out at a time, at equal CPU time.

Usage: python benchmarks/recipe.py OUTPUT_FOLDER [--minutes 4] [--seeds 42 43] [--parts all prior ...] [--limit 100]

The cost of a step is measured for each run first, and says how many steps fit into the time. A row is written as soon
as its run is scored; the same command again does what is left. One thread, so that runs beside each other are fair.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, open_dict

from score import runtime
from score.data.loaders import train_loader
from score.engine import progress, trainer
from score.engine.evaluate import evaluate, register
from score.engine.optim import ClippedAdamW, parameter_groups
from score.files import shipped
from score.weights import folder

DECODER = "model.network.mask_decoder"
PARTS = {  # what is left out: the settings that do
    "nothing": (),
    "places": (
        "decoder=reference",
        f"~{DECODER}.train_queries",
        f"~{DECODER}.overlap",
        "model.queries=60",
        "rai.gumbel_calls=100",
    ),
    "sizes": (f"{DECODER}.sizes=[]", f"{DECODER}.shares=[1]"),
    "prior": (f"{DECODER}.prior=false",),
    "pilots": (f"{DECODER}.pilots=0",),
    "turns": ("input.train.turns=false",),
    "colour": ("input.train.colour=0",),
    "ignore": ("input.train.ignore=false", "input.train.max_instances=40"),
    "average": ("optim.ema=null",),
    "one tower": ("scene=lite",),
}
SETS = ("isaid512_val", "nwpu_val")
WARM, TIMED = 3, 8  # steps


def compose(output: Path, part: str, seed: int) -> DictConfig:
    """The config of a run; its number of iterations is still open."""
    own = (f"output={output}", f"seed={seed}", "data.test=[]", "calibrate=null", "overwrite=true")
    quiet = ("runtime.device=cpu", "runtime.threads=1", "runtime.workers=0", "optim.log_period=1000000")
    with hydra.initialize_config_dir(str(shipped("configs")), version_base="1.3"):
        return hydra.compose("config", ["experiment=isaid512_lite", *PARTS[part], *own, *quiet])


def step_cost(config: DictConfig) -> float:
    """CPU seconds of a training step, once RAI no longer mixes sizes."""
    [name] = register([config.data.train], config.paths.datasets)
    config.model.train_names = progress.facts(name).classes
    runtime.seed_everything(config.seed)
    model = folder.build(config).train()
    model.rai.gumbel_calls = 0
    optim = config.optim
    groups = parameter_groups(model, optim.weight_decay, optim.no_decay)
    optimiser = ClippedAdamW(groups, lr=optim.lr, clip_norm=optim.clip_norm)
    mapper = hydra.utils.instantiate(config.input.train, _convert_="all")
    batches = iter(train_loader(name, mapper, optim.batch_size, 0, config.seed))
    begun = 0.0
    for step in range(WARM + TIMED):
        if step == WARM:
            begun = time.process_time()
        loss = sum(model(next(batches)).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (time.process_time() - begun) / TIMED


def run(output: Path, part: str, seed: int, minutes: float, limit: int) -> dict:
    """Train and score one run: its row."""
    config = compose(output / f"{part.replace(' ', '_')}_{seed}", part, seed)
    cost = step_cost(config.copy())
    with open_dict(config):
        config.optim.iterations = max(1, round(60 * minutes / cost))
        config.optim.checkpoint_period = config.optim.iterations
    model, _ = folder.load(trainer.train(config))
    register(list(SETS), config.paths.datasets)
    figures = {name: evaluate(model, name, limit=limit) for name in SETS}
    return {
        "part": part,
        "seed": seed,
        "seconds": round(cost, 2),
        "steps": config.optim.iterations,
        **{
            f"{name} {group} {metric}": figures[name][group][metric]
            for name in SETS
            for group in ("all", "unseen")
            for metric in ("AP", "AP50", "APs")
        },
    }


def main() -> None:
    """Run what is left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU time of a run's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit", type=int, default=100, help="images of each set")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "rows.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    for seed in options.seeds:
        for part in options.parts:
            if not any((row["part"], row["seed"]) == (part, seed) for row in rows):
                rows.append(run(options.output, part, seed, options.minutes, options.limit))
                with table.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    columns = [key for key in rows[0] if key not in ("part", "seed") and rows[0][key] is not None]
    lines = []
    for part in options.parts:
        own = [row for row in rows if row["part"] == part]
        lines.append([part, *(" / ".join(f"{row[key]:.4g}" for row in own) for key in columns)])
    print(f"| without | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
