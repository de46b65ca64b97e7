"""Find objects: ``score predict images=[a.jpg,b.jpg] "vocabulary=[ship,'storage tank']" output=DIR``.

Writes pictures and one COCO JSON as it goes, and prints what was found in each image; the same command again does what
is left. Exit code 1 says that some of the images could not be read, and which.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from score.app.command import command, plain
from score.errors import DataError

if TYPE_CHECKING:
    from score.result import Result


@command("commands/predict")
def main(config: DictConfig) -> None:
    from score import runtime  # not before the settings have been read: PyTorch takes seconds
    from score.app import prediction
    from score.app.words import read_words
    from score.engine import checks
    from score.model.score import Calibration
    from score.segmenter import Segmenter
    from score.weights import folder, known

    checks.check_numbers(config, top_k=checks.MAYBE_COUNT)
    runtime.log_to_stdout()
    settings = plain(config)
    prediction.check_picture(settings["picture"])
    words = read_words(settings["vocabulary"])
    images = prediction.find_images(settings["images"])
    output = Path(settings["output"])
    prediction.check_output(output, images)
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    place = known.find(settings["model"])
    model, _ = folder.load(place, device, config.overrides)
    given = {key: float(value) for key, value in config.ensemble.items() if value is not None}
    segmenter = Segmenter(model, ensemble=dataclasses.replace(model.ensemble, **given), **settings["resize"])
    settings["weights"] = model.weights

    def report(path: Path, found: Result | DataError) -> None:
        if not isinstance(found, DataError):
            print(f"{path.name} ({found.size[0]} x {found.size[1]}): {found}", flush=True)
        elif len(images) > 1:
            print(f"error: {found}", file=sys.stderr, flush=True)

    if settings["score"] is None and model.calibration == Calibration():
        print(f"not calibrated: every word is shown from score {model.calibration.seen} on; score calibrate mends that")
    done = prediction.predict(segmenter, words, images, output, settings, report)
    if done.before:
        print(f"done before: {done.before} of {len(images)}")
    total = ", ".join(f"{count} {word}" for word, count in done.counts.items() if count) or "nothing"
    pace = f"; {done.seconds / done.images:.2f} s an image" if done.images else ""
    print(f"in all: {total}{pace}\nsaved in {output}")
    if done.failed:
        print(f"{len(done.failed)} of {len(images)} images could not be read:", *done.failed, sep="\n", file=sys.stderr)
        sys.exit(1)
