"""Find objects: ``tools/predict.py model=FOLDER images=[a.jpg,b.jpg] "vocabulary=[ship,'storage tank']" output=DIR``.

Writes pictures and one COCO JSON; prints what was found in each image.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from score.app.command import command, plain

if TYPE_CHECKING:
    from score.app.prediction import Prediction

CHOICE = ("score", "top_k", "overlap", "min_area", "per_class")


@command("commands/predict")
def main(config: DictConfig) -> None:
    from score import runtime  # not before the settings have been read: PyTorch takes seconds
    from score.app import prediction
    from score.engine import checks
    from score.segmenter import Segmenter
    from score.weights import folder

    checks.check_numbers(config)
    runtime.log_to_stdout()
    settings = plain(config)
    choice = {key: settings[key] for key in CHOICE}
    output = Path(settings["output"])
    prediction.check_choice(choice, settings["picture"])
    names = prediction.read_vocabulary(settings["vocabulary"])
    images = prediction.find_images(settings["images"])
    prediction.check_output(output, images)
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    model, _ = folder.load(config.model, device, config.overrides)
    given = {key: float(value) for key, value in config.ensemble.items() if value is not None}
    ensemble = dataclasses.replace(model.ensemble, **given)
    size = {key: value for key, value in settings["resize"].items() if value}
    segmenter = Segmenter(model, ensemble=ensemble, **size)
    segmenter.set_vocabulary(names)

    found = prediction.predict(segmenter, images, output, choice, settings["picture"], report)
    total: Counter[str] = sum((Counter(item.counts) for item in found), Counter())
    seconds = sum(item.seconds for item in found) / len(found)
    print(f"in all: {say(total)}; {seconds:.2f} s an image\nsaved in {output}")


def report(item: Prediction) -> None:
    """Print one line for an image that is done."""
    print(f"{item.path.name} ({item.size[0]} x {item.size[1]}): {say(item.counts)}", flush=True)


def say(counts: Mapping[str, int]) -> str:
    """Words and how often each was found."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
