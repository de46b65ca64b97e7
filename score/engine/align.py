"""Learning the ``lite`` tower's projection: regions of images beside the names of their classes.

Features of ground-truth regions are pooled once, at several scales and orientations and with masks a little too large
or too small; the projection then learns in seconds to send a region's features to its class's text embedding.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

from score.data import catalog
from score.data.images import read_image
from score.data.mapper import rasterise
from score.errors import DataError
from score.model.towers.base import pool_regions, resize
from score.model.towers.lite import LiteTower
from score.model.towers.projection import Projection
from score.model.vocabulary import TextEncoder

logger = logging.getLogger(__name__)

STRIDE = 32  # images are padded to its multiples, as the model does
MASK_STRIDE = 4  # of the mask logits that the model predicts


class Regions(NamedTuple):
    """Pooled features of a dataset's regions.

    Attributes:
        features: ``[N, D]`` fp16, of the tower's dense map.
        labels: ``[N]`` int64, indices of ``names``.
    """

    names: list[str]
    features: Tensor
    labels: Tensor


class View(NamedTuple):
    """How an image is looked at.

    Attributes:
        size: (height, width) that it is resized to, in pixels, multiples of 4.
        turns: quarter turns, 0 to 3.
        flip: whether it is mirrored first.
        grow: pixels at stride 4 by which masks are too large, or too small if negative: -1, 0 or 1.
    """

    size: tuple[int, int]
    turns: int = 0
    flip: bool = False
    grow: int = 0


def collect(
    tower: LiteTower,
    dataset: str,
    *,
    shortest: int,
    longest: int = 800,
    views: int = 0,
    scale: Sequence[float] = (0.4, 1.6),
    per_class: int | None = None,
    seed: int = 0,
) -> Regions:
    """Pool the features of a dataset's ground-truth regions.

    Args:
        shortest: length in pixels that images' shortest edge is resized to.
        longest: greatest length of their longest edge.
        views: random views of each image; 0 for one upright view with exact masks, as in evaluation.
        scale: range of a random view's size, relative to the upright one.
        per_class: regions of a class at most, chosen at random.

    Returns:
        The regions. One that covers no position of the dense map is left out of random views; in the upright view it
        has zero features, as in the model.

    Raises:
        DataError: there is no such dataset, it has no regions, or an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose(catalog.load(dataset), per_class, rng)
    names = list(MetadataCatalog.get(dataset).thing_classes)
    if not chosen:
        raise DataError(f"{dataset}: no annotated regions to learn from; give a dataset that has some")
    features, labels = [], []
    started = time.perf_counter()
    for number, (record, items) in enumerate(chosen, start=1):
        pixels = read_image(record["file_name"], (record["width"], record["height"]))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float()
        whole = T.NoOpTransform()
        masks = np.stack([rasterise(item["segmentation"], whole, pixels.shape[:2]) for item in items])
        classes = torch.tensor([item["category_id"] for item in items])
        for view in _views(pixels.shape[:2], shortest, longest, views, scale, rng):
            pooled, covered = pool_view(tower, image, torch.from_numpy(masks).float(), view)
            keep = covered if views else torch.ones_like(covered)
            features.append(pooled[keep].half().cpu())
            labels.append(classes[keep])
        if number % 100 == 0 or number == len(chosen):
            logger.info("%s: %d/%d images, %.0f s", dataset, number, len(chosen), time.perf_counter() - started)
    return Regions(names, torch.cat(features), torch.cat(labels))


def _choose(
    records: Sequence[dict[str, Any]], per_class: int | None, rng: np.random.Generator
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Images with those of their annotations that are among ``per_class`` random ones of their class."""
    places: dict[int, list[tuple[int, int]]] = {}
    for row, record in enumerate(records):
        for column, item in enumerate(record.get("annotations", ())):
            if not item.get("iscrowd", 0):
                places.setdefault(item["category_id"], []).append((row, column))
    chosen: dict[int, list[int]] = {}
    for _, found in sorted(places.items()):
        for index in rng.permutation(len(found))[:per_class]:
            row, column = found[index]
            chosen.setdefault(row, []).append(column)
    return [(records[row], [records[row]["annotations"][c] for c in sorted(chosen[row])]) for row in sorted(chosen)]


def _views(
    shape: tuple[int, int], shortest: int, longest: int, views: int, scale: Sequence[float], rng: np.random.Generator
) -> list[View]:
    """The upright view, or random ones."""
    ratio = min(shortest / min(shape), longest / max(shape))

    def size(factor: float) -> tuple[int, int]:
        height, width = (max(STRIDE, MASK_STRIDE * round(x * ratio * factor / MASK_STRIDE)) for x in shape)
        return height, width

    if not views:
        return [View(size(1.0))]
    return [
        View(
            size(math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))),
            turns=int(rng.integers(4)),
            flip=bool(rng.integers(2)),
            grow=int(rng.integers(-1, 2)),
        )
        for _ in range(views)
    ]


def pool_view(tower: LiteTower, image: Tensor, masks: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Pool regions of one view of an image, with masks on the grid that the model predicts them on.

    Args:
        image: ``[3, H, W]``, RGB in 0..255.
        masks: ``[N, H, W]``, 0 or 1.

    Returns:
        ``[N, D]`` features and ``[N]`` bool: whether the region covers any position of the dense map.
    """
    device = next(tower.parameters()).device
    height, width = view.size
    grid = (height // MASK_STRIDE, width // MASK_STRIDE)

    def look(planes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        planes = F.interpolate(planes.unsqueeze(0).to(device), size=size, mode="bilinear", antialias=True)
        planes = (planes.flip(-1) if view.flip else planes).rot90(view.turns, (-2, -1))
        multiple = STRIDE // stride
        return F.pad(planes, (0, -planes.shape[-1] % multiple, 0, -planes.shape[-2] % multiple))

    mean, std = (torch.tensor(list(v), device=device).view(3, 1, 1) for v in (tower.pixel_mean, tower.pixel_std))
    normalised = (image.to(device) - mean) / std
    dense = tower.pyramid(look(normalised, view.size, 1))["dense"]
    logits = look(masks, grid, MASK_STRIDE) - 0.5  # [1, N, H/4, W/4]
    if view.grow > 0:
        logits = F.max_pool2d(logits, 3, 1, 1)
    elif view.grow < 0:
        smaller = -F.max_pool2d(-logits, 3, 1, 1)
        remains = (smaller > 0).flatten(2).any(dim=-1)[..., None, None]
        logits = torch.where(remains, smaller, logits)
    regions = resize(logits, dense.shape[-2:]) > 0
    return pool_regions(dense, regions)[0], regions.flatten(2).any(dim=-1)[0]


def learn(
    parts: Sequence[tuple[Regions, Tensor]],
    *,
    text_mean: Tensor,
    hidden_dim: int = 512,
    steps: int = 800,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    dropout: float = 0.1,
    temperature: float = 8.0,
    balance: float = 0.5,
    warmup: int = 50,
    seed: int = 0,
) -> Projection:
    """Learn a projection by softmax cross-entropy over the class names of each dataset.

    A region is compared with the names of its own dataset only, for another's may mean the same (car, small vehicle).
    A low temperature keeps embeddings of similar classes near each other, which helps words that are not among them.

    Args:
        parts: regions with their class embeddings ``[C, E]``, normalised; each dataset is drawn equally often.
        text_mean: ``[E]``, kept in the projection.
        steps, batch_size, lr, weight_decay: of AdamW, with a linear warm-up of ``warmup`` steps and a cosine decay.
        dropout: on the input and the hidden layer.
        temperature: factor between cosine similarity and logits.
        balance: a class is drawn in proportion to its size to the power ``1 - balance``.

    Returns:
        The projection, in evaluation mode.
    """
    features = torch.cat([regions.features for regions, _ in parts])
    classes = torch.cat([bank for _, bank in parts])  # [all classes, E]
    owner = torch.cat([torch.full((len(bank),), index) for index, (_, bank) in enumerate(parts)])
    offsets = np.cumsum([0, *(len(bank) for _, bank in parts)])
    labels = torch.cat([regions.labels + int(offset) for (regions, _), offset in zip(parts, offsets, strict=False)])
    weights = torch.cat([_sampling_weights(regions.labels, balance) for regions, _ in parts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = Projection(features.shape[1], hidden_dim, classes.shape[1], dropout).train()
        projection.mean.copy_(features.float().mean(dim=0))
        projection.std.copy_(features.float().std(dim=0) + 1e-3)
        projection.text_mean.copy_(text_mean)
        projection.scale.fill_(temperature)
        optimizer = torch.optim.AdamW(projection.parameters(), lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: min(1.0, (t + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * t / steps))
        )
        for rows in torch.multinomial(weights, steps * batch_size, replacement=True).view(steps, batch_size):
            embeds = F.normalize(projection(features[rows].float()), dim=-1)
            logits = temperature * embeds @ classes.T
            others = owner != owner[labels[rows]].unsqueeze(1)  # [batch, all classes]
            loss = F.cross_entropy(logits.masked_fill(others, -torch.inf), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return projection.eval()


def _sampling_weights(labels: Tensor, balance: float) -> Tensor:
    """``[N]``, summing to one over a dataset."""
    weights = torch.bincount(labels).double()[labels] ** -balance
    return weights / weights.sum()


@torch.no_grad()
def accuracy(projection: Projection, regions: Regions, bank: Tensor) -> dict[str, float]:
    """The share of each class's regions that get its name, among all names of the dataset; absent classes are left out.

    Args:
        bank: ``[C, E]``, the names' embeddings, normalised.
    """
    named = (F.normalize(projection(regions.features.float()), dim=-1) @ bank.T).argmax(dim=-1)
    found = {}
    for index, name in enumerate(regions.names):
        mine = regions.labels == index
        if mine.any():
            found[name] = (named[mine] == index).float().mean().item()
    return found


@torch.no_grad()
def calibrate(projection: Projection, regions: Regions, bank: Tensor) -> float:
    """Set the projection's logit scale to the one under which held-out regions' names are likeliest.

    Args:
        regions: not among those it was learned on.
        bank: ``[C, E]``, the names' embeddings, normalised.
    """
    cosines = F.normalize(projection(regions.features.float()), dim=-1) @ bank.T
    weights = _sampling_weights(regions.labels, 1.0).float()  # every class alike
    scales = torch.arange(1.0, 101.0)
    losses = [(weights * F.cross_entropy(s * cosines, regions.labels, reduction="none")).sum() for s in scales]
    projection.scale.copy_(scales[int(torch.stack(losses).argmin())])
    return projection.scale.item()


def run(settings: Mapping[str, Any], device: torch.device, made_by: str) -> dict[str, dict[str, float]]:
    """Learn a projection, measure it, write its file: what ``score align`` does.

    Args:
        settings: as in ``configs/align.yaml``.
        made_by: the command, for the file's metadata.

    Returns:
        Accuracy by class, by test dataset.

    Raises:
        DataError: a dataset is missing or has no regions.
        OutputError: the file cannot be written.
    """
    catalog.register(Path(settings["paths"]["datasets"]) if settings["paths"]["datasets"] else None)
    for entry in (*settings["train"], *settings["test"]):
        catalog.load(entry["data"])  # all input is checked before any of it is looked at
    tower = LiteTower(projection="random").to(device)
    text_mean = common_component(tower, settings["vocabulary"]["prompts"])
    tower.projection.text_mean.copy_(text_mean)
    encoder = TextEncoder(tower, settings["vocabulary"]["prompts"], cache=None)
    views, longest = settings["regions"], settings["regions"]["longest"]
    parts = []
    for entry in settings["train"]:
        regions = collect(tower, entry["data"], shortest=entry["shortest"], seed=settings["seed"], **views)
        parts.append((regions, _bank(encoder, regions.names)))
    projection = learn(parts, text_mean=text_mean.cpu(), seed=settings["seed"], **settings["learn"])
    found: dict[str, dict[str, float]] = {}
    for entry in settings["test"]:
        regions = collect(tower, entry["data"], shortest=entry["shortest"], longest=longest)
        bank = _bank(encoder, regions.names)
        if not found:
            calibrate(projection, regions, bank)
        found[entry["data"]] = accuracy(projection, regions, bank)
    made = {key: settings[key] for key in ("train", "regions", "learn", "seed")}
    projection.save(
        Path(settings["output"]),
        {
            "command": made_by,
            "settings": json.dumps(made),
            "accuracy": json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in found.items()}),
            "licence": settings["licence"],
            "vision_sha256": tower.weights["vision"],
            "text_sha256": tower.weights["text"],
        },
    )
    return found


def common_component(tower: LiteTower, prompts: Sequence[str]) -> Tensor:
    """The mean embedding ``[E]`` of ImageNet's class names, a thousand generic words, in these prompts by turns."""
    info = ImageNetInfo()
    words = [info.index_to_description(index).split(",")[0] for index in range(info.num_classes())]
    texts = [prompts[index % len(prompts)].format(word) for index, word in enumerate(words)]
    tower.projection.text_mean.zero_()
    return tower.encode_text(texts).mean(dim=0)


def _bank(encoder: TextEncoder, names: list[str]) -> Tensor:
    """One row a class, ``[C, E]``: of synonyms the first."""
    bank = encoder(names)
    first = np.cumsum([0, *bank.counts[:-1]])
    return bank.embeds[first].cpu()
