"""Train and try a model on drawings: ``score demo`` draws aerial scenes, learns them, and looks for words it never saw.

About eight minutes on two CPU cores, nothing to download. Takes the same KEY=VALUE as ``score train``.
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from score.app.command import command, typed

SHIFTED = "synthetic_shifted_val"


@command("demo")
def main(config: DictConfig) -> None:
    from score import runtime  # not before the settings have been read: PyTorch takes seconds
    from score.app.calibrate import after_training, before_training
    from score.engine.evaluate import evaluate
    from score.engine.trainer import train
    from score.evaluation.tables import summary
    from score.files import save_json
    from score.weights import folder

    before_training(config)
    trained = train(config, typed())
    rows = {name: json.loads((trained / "evaluation" / f"{name}.json").read_text()) for name in config.data.test}
    model, _ = folder.load(trained, runtime.select_device(config.runtime.device, config.runtime.threads))
    shuffled = evaluate(model, SHIFTED, workers=config.runtime.workers, shuffle_vocabulary=config.seed)
    rows["... with its words shuffled"] = shuffled
    save_json(trained / "evaluation" / f"{SHIFTED}_shuffled.json", {**shuffled, "changes": ["shuffled"]})

    after_training(config, trained)
    print(f"\n{summary(rows)}\n")
    print("unseen: seven classes that no training image shows, found by their names alone;")
    print("with the words dealt to one another's class, what was found by name is lost.\n")
    print(f"pictures: {(trained / 'pictures').resolve()}")
    print(f"model:    {Path(trained).resolve()}")
