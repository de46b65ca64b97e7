"""Precision and recall of what is shown, asked for few words and many: one threshold and no distractors, or calibrated.

Usage: python benchmarks/calibration.py MODEL_FOLDER DATASET [--limit N] [--words 1 3 20] [--threads N]

Each class of the dataset is asked once: alone, among three (at random, seed 0), or among so many, filled up with words
that the dataset does not have. "Before" is a threshold of 0.3 on the softmax over the asked words alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from detectron2.data import MetadataCatalog

from score import Segmenter
from score.data import catalog
from score.data.loaders import test_records
from score.detections import Detection, ground_truth, suppress
from score.files import shipped
from score.model.score import Calibration
from score.names import is_seen
from score.segmenter import View
from score.studies.calibration import Ranking, right

FILL = yaml.safe_load((shipped("configs") / "commands" / "calibrate.yaml").read_text())["absent"]


def before(view: View, words: list[str]) -> list[Detection]:
    """What a fixed threshold showed when nothing competed with the asked words."""
    found = view.find(view.segmenter.model.vocabulary(words), [0.3] * len(words))
    return suppress(sorted((item for item in found if item.score >= 0.3), key=lambda item: -item.score), 0.5)[:100]


def after(view: View, words: list[str]) -> list[Detection]:
    """What the model's own thresholds show."""
    return list(view.ask(words))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 3, 20])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    catalog.register(None)
    segmenter = Segmenter.from_pretrained(options.model)
    assert segmenter.model.calibration != Calibration(), "calibrate the model first"
    names = list(MetadataCatalog.get(options.dataset).thing_classes)
    seen = [is_seen(name, segmenter.model.train_names) for name in names]
    order = np.random.default_rng(0).permutation(len(names)).tolist()
    found = {
        (count, ways, group): Ranking()
        for count in options.words
        for ways in (before, after)
        for group in (True, False)
    }
    for record in test_records(options.dataset, options.limit):
        view, truth = segmenter.look(record["file_name"]), ground_truth(record)
        for count in options.words:
            for start in range(0, len(names), count):
                asked = order[start : start + count]
                words = [names[label] for label in asked]
                words += [word for word in FILL if not is_seen(word, names)][: count - len(asked)]
                for ways in (before, after):
                    shown = [item for item in ways(view, words) if item.label < len(asked)]
                    items = [Detection(asked[item.label], item.score, item.rle) for item in shown]
                    for item, hit in zip(items, right(items, truth), strict=True):
                        ranking = found[count, ways, seen[item.label]]
                        ranking.scores.append(item.score)
                        ranking.hits.append(hit)
                for item in truth:
                    if item.label in asked:
                        for ways in (before, after):
                            found[count, ways, seen[item.label]].instances += 1
    print("| words asked | | seen: precision | recall | found | unseen: precision | recall | found |")
    print("|---|---|---|---|---|---|---|---|")
    for count in options.words:
        for ways in (before, after):
            cells = []
            for group in (True, False):
                figures = found[count, ways, group].at(0.0)
                shares = [figures["precision"], figures["recall"]]
                cells += ["-" if share is None else f"{100 * share:.1f}" for share in shares] + [str(figures["found"])]
            print(f"| {count} | {ways.__name__} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
