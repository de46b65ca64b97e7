"""What a model costs: parameters, operations, time and memory of its parts, an image or a training step."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from score import masks
from score.data.synthetic.generate import render
from score.engine.checks import Number
from score.model.score import SCORE
from score.model.stages import OBSERVERS, stage
from score.studies import peer

PARTS = {  # of the model, by the stage that runs them
    "backbone": ("backbone",),
    "scene tower": ("scene",),
    "pixel decoder": ("pixel_decoder",),
    "mask decoder": ("mask_decoder",),
    "regions": ("class_embedding", "rai"),
    "classes": ("classifier", "gca"),
}
SIZE = Number(int, 32, 4096)  # of a picture: on a smaller one drawing does not end, a larger one takes gigabytes
MATMUL = 1024  # side of the matrices whose product is timed
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
WORDS = ("ship", "storage tank", "airplane", "tennis court", "solar farm")


@dataclass
class Cost:
    """What one model was measured at.

    Attributes:
        parameters: of each part, with ``all`` and ``trained``.
        flops: of each stage, and of ``whole``, for one image.
        seconds: of each stage and of ``whole``, one figure a repeat.
        peaks: bytes that a stage and ``whole`` held at most, over what was held before; empty where it cannot be told.
        rates: images a second, by batch size.
        beside: seconds of the library's decoders, one figure a repeat; empty where it has no equal.
    """

    parameters: dict[str, int]
    flops: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    beside: list[float] = field(default_factory=list)


def profile(
    models: Mapping[str, SCORE],
    *,
    size: int,
    batches: Sequence[int] = (1,),
    repeats: int = 5,
    training: bool = False,
    amp: torch.dtype | None = None,
    compiled: bool = False,
    words: Sequence[str] = WORDS,
) -> dict[str, Any]:
    """Measure models side by side, on one drawn scene: every repeat runs each of them once, in turn.

    Args:
        models: by the name that they are shown under, on one device, the first being what others are compared with.
        size: of the square image, in pixels.
        batches: numbers of images to run at once, for images a second; the stages are those of the first.
        repeats: timed runs of each, after two untimed ones.
        training: measure a step with its backward pass and AdamW, and not a prediction.
        amp: of a training step's autocast; None for none.
        compiled: with those parts compiled that are faster so, of a training step the towers' alone.
        words: to look for; in training each model's own.

    Returns:
        For each model ``parameters``, ``stages`` (``gflop`` of an image; of a batch ``ms``, ``spread_ms`` that is half
        the range of the middle half, ``floor_ms``, ``peak_mb``), ``images_per_second`` and ``ratio`` to the first, in
        pairs; ``decoders_to_library``, the time of both decoders to that of the transformers library's, in pairs, or
        None; ``compiled``, as :class:`SCORE` has it; beside them ``gflops`` and ``gflops_bf16``, the rates of a matrix
        product, and ``objects`` of the scene.
    """
    device = next(iter(models.values())).device
    rate, half = (matmul_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    image, instances = scene(size)
    costs, runs, library = {}, {}, {}
    for name, model in models.items():
        costs[name] = Cost(parameters(model))
        runs[name] = _step(model, image, instances, amp) if training else _prediction(model, image, words)
        library[name] = None if training else _library(model, image, batches[0])
    first = batches[0]
    for name, run in runs.items():
        cost = costs[name]
        with observed(counted(cost.flops)), counted(cost.flops)("whole"):  # before: compiled products are not seen
            run(1)
        if compiled:
            models[name].compile_parts(decoders=not training)
        for _ in range(2):
            run(first)
        if decoders := library[name]:
            decoders(first)
        with observed(weighed(cost.peaks, device)):
            run(first)
        with weighed(cost.peaks, device)("whole"):  # apart: each stage starts its own peak
            run(first)
    for _ in range(repeats):
        for name, run in runs.items():
            for part, seconds in _seconds(run, first, device).items():
                costs[name].seconds[part].append(seconds)
            if decoders := library[name]:
                costs[name].beside.append(_seconds(decoders, first, device)["whole"])
    for name, run in runs.items():
        for batch in batches:
            run(batch)
            taken = [_seconds(run, batch, device)["whole"] for _ in range(repeats)]
            costs[name].rates[batch] = batch / statistics.median(taken)
    against = next(iter(costs.values())).seconds["whole"]
    facts: dict[str, Any] = {"size": size, "batch": first, "repeats": repeats, "training": training}
    facts |= {"gflops": rate / 1e9, "gflops_bf16": half / 1e9}
    found = {k: {**_summary(c, rate, against), "compiled": models[k].compiled} for k, c in costs.items()}
    return {**facts, "objects": len(instances), "models": found}


def table(result: Mapping[str, Any]) -> str:
    """What :func:`profile` returned, as Markdown."""
    what, size = "A training step" if result["training"] else "A prediction", result["size"]
    lines = [
        f"{what} of {result['batch']} x {size} x {size}, {result['objects']} objects in the picture. "
        f"GFLOP: of one image; ms: the median of {result['repeats']}, and half the range of the middle half; "
        f"floor: ms at the rate of a matrix product, {result['gflops']:.0f} GFLOP/s (in bf16 "
        f"{result['gflops_bf16']:.0f}); MB: the most that was held over what was held before."
    ]
    for name, model in result["models"].items():
        parts = model["parameters"]
        rows = [
            [
                part,
                f"{parts[part] / 1e6:.2f} M" if part in parts else "",
                f"{row['gflop']:.1f}",
                f"{row['ms']:.1f} ± {row['spread_ms']:.1f}",
                f"{row['floor_ms']:.1f}",
                f"{row['peak_mb']:.0f}" if row["peak_mb"] is not None else "",
            ]
            for part, row in model["stages"].items()
        ]
        share = model["decoders_to_library"]
        heads = ["", "parameters", "GFLOP", "ms", "floor", "MB"]
        rates = ", ".join(f"{value:.2f} in batches of {batch}" for batch, value in model["images_per_second"].items())
        lines.append(
            f"### {name}\n\n{tabulate(rows, heads, 'github', disable_numparse=True)}\n\n"
            f"{parts['whole'] / 1e6:.1f} M parameters, {parts['trained'] / 1e6:.1f} M of them trained. "
            f"Images a second: {rates}. Time to the first model's, in pairs: {model['ratio']:.2f}."
            + (f" The decoders' time to the transformers library's: {share:.2f}." if share else "")
            + (f" Compiled: {used}." if (used := ", ".join(k for k, v in model["compiled"].items() if v < 1)) else "")
        )
    return "\n\n".join(lines) + "\n"


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second that a large matrix product reaches here, multiplications and additions counted apart."""
    a, b = (torch.rand(MATMUL, MATMUL, device=device, dtype=dtype) for _ in range(2))
    taken = [_seconds(lambda _: a @ b, 1, device)["whole"] for _ in range(7)]
    return float(2 * MATMUL**3 / min(taken[2:]))


def parameters(model: SCORE) -> dict[str, int]:
    """How many each stage of :data:`PARTS` holds, with ``whole`` and ``trained``; a shared tower counts once."""
    whole = {id(p): p for p in model.parameters()}
    found = {"whole": sum(p.numel() for p in whole.values())}
    found["trained"] = sum(p.numel() for p in whole.values() if p.requires_grad)
    for name, names in PARTS.items():
        for part in (getattr(model, attribute) for attribute in names):
            own = {id(p): p for p in part.parameters()} if isinstance(part, torch.nn.Module) else {}
            found[name] = found.get(name, 0) + sum(whole.pop(key, p).numel() for key, p in own.items() if key in whole)
    return found


def scene(size: int) -> tuple[torch.Tensor, Instances]:
    """A drawn picture ``[3, size, size]`` uint8 with its objects, the same at every call."""
    picture, annotations, _ = render("synthetic", "val", 0, size=size, seed=0)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    shapes = [masks.decode(item["segmentation"]) for item in annotations]
    instances = Instances((size, size))
    instances.gt_masks = BitMasks(torch.from_numpy(np.stack(shapes).astype(bool)))
    instances.gt_classes = torch.zeros(len(shapes), dtype=torch.int64)
    return pixels, instances


def _prediction(model: SCORE, image: torch.Tensor, words: Sequence[str]) -> Callable[[int], object]:
    model.eval()
    vocabulary = model.vocabulary(words)

    @torch.no_grad()
    def run(batch: int) -> object:
        return model([{"image": image} for _ in range(batch)], vocabulary, masks="rle")

    return run


def _library(model: SCORE, image: torch.Tensor, batch: int) -> Callable[[int], object] | None:
    """The library's decoders on the pyramid of a batch, or None where it has no equal."""
    with torch.no_grad():
        pyramid, _ = model._towers(model._images([{"image": image}] * batch).tensor)
    if (library := peer.decoders(model, pyramid)) is None:
        return None

    @torch.no_grad()
    def run(_: int) -> object:
        return library(pyramid)

    return run


def _step(model: SCORE, image: torch.Tensor, instances: Instances, amp: torch.dtype | None) -> Callable[[int], object]:
    model.train()
    model.vocabulary(model.train_names)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def run(batch: int) -> object:
        with torch.autocast(model.device.type, amp, enabled=amp is not None):
            losses = model([{"image": image, "instances": instances} for _ in range(batch)])
        assert isinstance(losses, dict)
        with stage("backward"):
            torch.stack(list(losses.values())).sum().backward()
        with stage("optimiser"):
            optimiser.step()
            optimiser.zero_grad()
        return losses

    return run


def _summary(cost: Cost, rate: float, against: Sequence[float]) -> dict[str, Any]:
    """A model's figures, its stages in the order in which they ran."""
    stages = {}
    for name, seconds in cost.seconds.items():
        low, high = np.percentile(seconds, [25, 75])
        flops, peak = cost.flops.get(name, 0), cost.peaks.get(name)
        stages[name] = {
            "gflop": flops / 1e9,
            "ms": statistics.median(seconds) * 1e3,
            "spread_ms": float(high - low) / 2 * 1e3,
            "floor_ms": flops / rate * 1e3,
            "peak_mb": None if peak is None else peak / 1e6,
        }
    pairs = [own / other for own, other in zip(cost.seconds["whole"], against, strict=True)]
    ours = zip(cost.seconds.get("pixel decoder", []), cost.seconds.get("mask decoder", []), strict=True)
    beside = [(pixel + mask) / other for (pixel, mask), other in zip(ours, cost.beside, strict=False)]
    return {
        "parameters": cost.parameters,
        "stages": stages,
        "images_per_second": cost.rates,
        "ratio": statistics.median(pairs),
        "decoders_to_library": statistics.median(beside) if beside else None,
    }


Observer = Callable[[str], AbstractContextManager]


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let an observer see every stage that runs within."""
    OBSERVERS.append(observer)
    try:
        yield
    finally:
        OBSERVERS.remove(observer)


def _seconds(run: Callable[[int], object], batch: int, device: torch.device) -> dict[str, float]:
    """How long each stage of a run took, and the ``whole`` of it."""
    taken: dict[str, float] = defaultdict(float)

    @contextmanager
    def observe(name: str) -> Iterator[None]:
        _wait(device)
        start = time.perf_counter()
        yield
        _wait(device)
        taken[name] += time.perf_counter() - start

    with observed(observe), observe("whole"):
        run(batch)
    return taken


def counted(flops: dict[str, float]) -> Observer:
    """An observer that adds up each stage's operations."""

    @contextmanager
    def observe(name: str) -> Iterator[None]:
        with _Operations() as operations:
            yield
        flops[name] = flops.get(name, 0) + operations.total

    return observe


class _Operations(TorchDispatchMode):
    """Adds up multiplications and additions; PyTorch's own counter follows modules, and fails on some of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (rule := flop_registry.get(func.overloadpacket)) is not None:
            self.total += rule(*args, **(kwargs or {}), out_val=out)
        return out


def weighed(peaks: dict[str, float], device: torch.device) -> Observer:
    """An observer that notes how much memory each stage holds at most, in bytes over what was held before."""

    @contextmanager
    def observe(name: str) -> Iterator[None]:
        before = _restart_peak(device)
        yield
        if before is not None:
            peaks[name] = max(peaks.get(name, 0.0), _peak(device) - before)

    return observe


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _restart_peak(device: torch.device) -> float | None:
    """Bytes that are held now, from which on the highest is kept; None where that cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but not given back would hide what is taken next
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is the present from here on
    except (OSError, AttributeError):
        return None
    return _resident("VmRSS")


def _peak(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _resident("VmHWM")


def _resident(key: str) -> float:
    [line] = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{key}:"))
    return float(line.split()[1]) * 1024
