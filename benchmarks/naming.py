"""Does the lite tower know the words? Ground-truth regions of a dataset named by their masks, without any training.

Usage: python benchmarks/naming.py DATASET [--names airplane=aircraft ship=boat ...] [--shortest 512]

A region's name is the one of all the dataset's names whose embedding is nearest to its own. Printed are the share of
each class's regions that are named right, and the mean over classes, with the dataset's names and with those given.
"""

from __future__ import annotations

import argparse

import torch
import yaml

from score.data import catalog
from score.engine.align import accuracy
from score.engine.regions import collect
from score.files import shipped
from score.model.towers.lite import LiteTower
from score.model.vocabulary import TextEncoder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--names", nargs="*", default=[], metavar="NAME=OTHER")
    parser.add_argument("--shortest", type=int, default=512)
    options = parser.parse_args()
    catalog.register(None)
    tower = LiteTower()
    prompts = yaml.safe_load((shipped("configs") / "vocabulary" / "remote_sensing.yaml").read_text())["prompts"]
    encode = TextEncoder(tower, prompts, None)
    regions = collect(tower, options.dataset, shortest=options.shortest)
    others = dict(pair.split("=", 1) for pair in options.names)
    rows = []
    for names in (regions.names, [others.get(name, name) for name in regions.names]):
        found = accuracy(tower.projection, regions, encode(names).embeds)
        rows.append((names, found))
    print(f"{len(regions.labels)} regions\n{'name':24}  right   {'other name':24}  right")
    for index, name in enumerate(regions.names):
        own, other = (found.get(name, float("nan")) for _, found in rows)
        print(f"{name:24}  {own:5.3f}   {rows[1][0][index]:24}  {other:5.3f}")
    means = [sum(found.values()) / len(found) for _, found in rows]
    print(f"{'mean over classes':24}  {means[0]:5.3f}   {'':24}  {means[1]:5.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
