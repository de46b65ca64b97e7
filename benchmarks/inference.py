"""What an image costs beside its frozen towers, and the decoders beside those of the transformers library.

Usage: python benchmarks/inference.py [--rounds N] [--threads N] [--size PIXELS] [KEY=VALUE ...]

The published model with random weights, one image, 300 queries. Parts run in turn, so that a machine that others use
too slows all of them alike; medians are printed, and the ratios of medians are what counts. On one thread seconds are
the processor's own, else the clock's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir

from score.app.command import CONFIGS
from score.model.towers.base import resize
from score.studies import peer
from score.weights import folder

PEER = "transformers' decoders"
WORDS = ["ship", "plane", "storage tank", "harbor", "bridge", "roundabout"]


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("changes", nargs="*", help="changes to the published configuration")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = ["weights=random", "paths.cache=null", "model.train_names=[ship,plane]", *options.changes]
        model = folder.build(compose("config", settings)).eval()

    size = (options.size, options.size)
    images = [{"image": resize(torch.rand(1, 3, 16, 16) * 255, size)[0]}]
    large = [{**images[0], "height": 4000, "width": 4000}]
    vocabulary = model.vocabulary(WORDS)
    tensor = model._images(images).tensor
    pyramid, scene = model._towers(tensor)
    pixels = model.pixel_decoder(pyramid)
    head = model.mask_decoder(pixels).heads[0]
    regions = model.look(images)
    chances = model.ensemble(*model.ask(regions, vocabulary)[1:], vocabulary.seen)[0]

    library = peer.decoders(model, pyramid)
    assert library, "the published decoders' sizes are the library's"

    def select(items: list[dict]) -> object:
        return model._result(regions, 0, chances, items[0], "rle", False)

    parts: dict[str, Callable[[], object]] = {
        "image": lambda: model(images, vocabulary, masks="rle"),
        "both towers": lambda: model._towers(tensor),
        "pixel decoder": lambda: model.pixel_decoder(pyramid),
        "mask decoder": lambda: model.mask_decoder(pixels),
        "class embedding": lambda: model._class_embed([head], pixels, scene),
        "selection": lambda: select(images),
        "selection, 4000 x 4000": lambda: select(large),
        PEER: lambda: library(pyramid),
    }
    clock = time.process_time if options.threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(options.rounds + 1):
        for name, run in parts.items():
            start = clock()
            run()
            if turn:  # the first one warms up
                seconds[name].append(clock() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.size} x {options.size} pixels, {options.threads} threads, {options.rounds} rounds")
    for name, value in median.items():
        print(f"{name:26}{value:8.3f} s   {value / median['both towers']:5.2f} of the towers")
    own = median["pixel decoder"] + median["mask decoder"]
    print(f"decoders beside the library's: {own / median[PEER]:.2f}")


if __name__ == "__main__":
    main()
