"""Time training steps of an experiment, and where they go; with --against beside another commit, step by step in turn.

Usage: python benchmarks/step.py [EXPERIMENT] [KEY=VALUE ...] [--against CHECKOUT] [--steps 30] [--mixing] [--profile]

Images are noise, objects ellipses, open_clip towers random. Every commit runs in a process of its own, and the
processes take their steps in turn, so that what else the machine does meets all alike: only ratios count. Seconds are
those of the processor, of all threads. A step is
that of `score train`: losses, gradients, clipping, AdamW and, where there is one, the moving average. The towers' own
time is taken between steps. --mixing keeps RAI in its first phase; --profile prints PyTorch's profile of a few steps.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def inputs(size: int, objects: int, classes: int) -> dict[str, Any]:
    """A training image of noise with ellipses as objects."""
    import torch
    from detectron2.structures import BitMasks, Instances

    place, angle = torch.rand(objects, 2) * size, torch.rand(objects, 1, 1) * 3.1416
    radius = (torch.randn(objects, 2) * 0.7).exp() * size / 28
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dx, dy = x - place[:, :1, None], y - place[:, 1:, None]
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    masks = (u / radius[:, :1, None]) ** 2 + (v / radius[:, 1:, None]) ** 2 <= 1
    masks = masks[masks.flatten(1).any(1)]
    kinds = torch.randint(classes, (len(masks),))
    instances = Instances((size, size), gt_classes=kinds, gt_masks=BitMasks(masks))
    image = torch.randint(256, (3, size, size), dtype=torch.uint8)
    return {"image": image, "instances": instances, "ignore": torch.zeros(size, size, dtype=torch.bool)}


class Step:
    """An experiment's training step in this process."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from hydra import compose, initialize_config_dir

        from score import runtime
        from score.app.command import CONFIGS
        from score.engine import optim
        from score.engine.average import MovingAverage
        from score.weights import folder

        torch.set_num_threads(options.threads)
        names = "[ship,plane,bridge,harbor,roundabout,tank]"
        settings = [f"experiment={options.experiment}", f"model.train_names={names}", "paths.cache=null"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("config", [*settings, "weights=random", *options.changes])
        torch.manual_seed(0)
        self.torch, self.mixing = torch, options.mixing
        self.model = folder.build(config).train()
        self.model.vocabulary(self.model.train_names)
        self.model.backbone.drop_text()  # as `score train` does
        if config.runtime.get("towers"):  # unknown to older commits, as what follows
            self.model.lower_towers(runtime.tower_precision(config.runtime.towers, torch.device("cpu")))
        if config.runtime.get("recompute"):
            self.model.recompute()
        groups = optim.parameter_groups(self.model, config.optim.weight_decay, config.optim.no_decay)
        self.optimiser = optim.ClippedAdamW(groups, lr=config.optim.lr, clip_norm=config.optim.clip_norm)
        self.average = MovingAverage(self.model, config.optim.ema) if config.optim.ema else None
        size, self.count = config.input.train.size, 0
        self.batches = [
            [inputs(size, options.objects, 6) for _ in range(options.batch or config.optim.batch_size)]
            for _ in range(4)
        ]

    def __call__(self) -> tuple[float, float, float]:
        """Take a step: its seconds, the seconds of the towers alone, and the loss."""
        torch, batch = self.torch, self.batches[self.count % len(self.batches)]
        torch.manual_seed(self.count)
        if hasattr(self.model.rai, "calls"):
            self.model.rai.calls.fill_(0 if self.mixing else self.model.rai.gumbel_calls)
        start = time.process_time()
        self.optimiser.zero_grad()
        loss = sum(self.model(batch).values())
        loss.backward()
        self.optimiser.step()
        if self.average:
            self.average.update(self.count)
        seconds, self.count = time.process_time() - start, self.count + 1
        start = time.process_time()
        self.model._towers(self.model._images(batch).tensor)
        return seconds, time.process_time() - start, loss.item()


def work(options: argparse.Namespace) -> None:
    """Take a step for every line read, and say what it took."""
    step = Step(options)
    if options.profile:
        from torch.profiler import ProfilerActivity, profile

        for _ in range(2):
            step()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(3):
                step()
        print(profiler.key_averages().table("self_cpu_time_total", row_limit=45, max_name_column_width=60))
        print(
            profiler.key_averages(group_by_input_shape=True).table(
                "self_cpu_time_total", row_limit=40, max_shapes_column_width=110
            )
        )
        return
    for _ in sys.stdin:
        print(*step(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


def main() -> None:
    """Print medians, their ratio, and the memory of each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="isaid512_lite")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--against", type=Path, help="a checkout of another commit")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--objects", type=int, default=12, help="of an image")
    parser.add_argument("--batch", type=int, help="images a step, if not the experiment's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mixing", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker or options.profile:
        work(options)
        return
    command = [sys.executable, __file__, "--worker", *sys.argv[1:]]
    roots = {"this": ROOT, **({"against": options.against.resolve()} if options.against else {})}
    workers = {
        name: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for name, root in roots.items()
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(options.steps + 3):
        for name, worker in workers.items():
            assert worker.stdin and worker.stdout
            print(file=worker.stdin, flush=True)
            rows[name].append([float(word) for word in worker.stdout.readline().split()])
    medians = {}
    for name, taken in rows.items():
        seconds, towers, losses, memory = zip(*taken[3:], strict=True)  # the first three warm up
        medians[name] = statistics.median(seconds)
        ratio = statistics.median(a / b for a, b in zip(seconds, towers, strict=True))
        print(
            f"{name:8} {medians[name]:.3f} s a step, towers {statistics.median(towers):.3f} s, step / towers "
            f"{ratio:.2f}, first loss {taken[0][2]:.6f}, mean {statistics.mean(losses):.4f}, peak {memory[-1]:.2f} GiB"
        )
    if options.against:
        pairs = [a[0] / b[0] for a, b in zip(rows["this"][3:], rows["against"][3:], strict=True)]
        low, ratio, high = (sorted(pairs)[int(len(pairs) * share)] for share in (0.1, 0.5, 0.9))
        print(f"this / against: {ratio:.3f} (tenths {low:.3f} .. {high:.3f}) over {len(pairs)} pairs")
    for worker in workers.values():
        worker.communicate()


if __name__ == "__main__":
    main()
