"""Learning the ``lite`` tower's projection: regions of images beside the names of their classes.

Features of ground-truth regions are pooled once (:mod:`score.engine.regions`); the projection then learns in a minute
to send a region's features to its class's text embedding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

from score.data import catalog
from score.engine.checks import COUNT, check_number
from score.engine.regions import Regions, collect
from score.errors import ConfigError, OutputError
from score.files import check_writable, write_whole
from score.model.towers.lite import LiteTower
from score.model.towers.projection import Projection
from score.model.vocabulary import TextEncoder
from score.names import normalise, synonyms


def learn(
    parts: Sequence[tuple[Regions, Sequence[Tensor]]],
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
    others: float = 0.3,
    seed: int = 0,
    start: Projection | None = None,
) -> Projection:
    """Learn a projection by softmax cross-entropy over words for the classes of each dataset.

    In every step a class is called by one of its words. A region is compared with its own dataset's classes only, for
    another's may mean the same (car, small vehicle). A low temperature keeps embeddings of similar classes near each
    other, which helps words that are not among them.

    Args:
        parts: regions, and for each class ``[S, E]`` normalised embeddings: of its name, then of other words for it.
            Each dataset is drawn equally often.
        text_mean: ``[E]``, kept in the projection.
        steps, batch_size, lr, weight_decay: of AdamW, with a linear warm-up of ``warmup`` steps and a cosine decay.
        dropout: on the input and the hidden layer.
        temperature: factor between cosine similarity and logits.
        balance: a class is drawn in proportion to its size to the power ``1 - balance``.
        others: how often a class that has other words is called by one of them.
        start: a projection to go on from, with its statistics and width; None for a new one.

    Returns:
        The projection, in evaluation mode.
    """
    features = torch.cat([regions.features for regions, _ in parts])
    words = [rows for _, classes in parts for rows in classes]
    bank = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)  # [all classes, S, E]
    called = torch.zeros(bank.shape[:2])  # how often, by each of its words
    for row, known in zip(called, map(len, words), strict=True):
        row[1:known] = others / max(known - 1, 1)
        row[0] = 1.0 - row.sum()
    owner = torch.cat([torch.full((len(classes),), index) for index, (_, classes) in enumerate(parts)])
    offsets = np.cumsum([0, *(len(classes) for _, classes in parts)])
    labels = torch.cat([regions.labels + int(offset) for (regions, _), offset in zip(parts, offsets, strict=False)])
    weights = torch.cat([_sampling_weights(regions.labels, balance) for regions, _ in parts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = len(start.hidden.bias) if start else hidden_dim
        projection = Projection(features.shape[1], width, bank.shape[2], dropout).train()
        if start:
            projection.load_state_dict(start.state_dict())
        else:
            projection.mean.copy_(features.float().mean(dim=0))
            projection.std.copy_(features.float().std(dim=0) + 1e-3)
        projection.text_mean.copy_(text_mean)
        projection.scale.fill_(temperature)
        optimizer = torch.optim.AdamW(projection.parameters(), lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: min(1.0, (t + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * t / steps))
        )
        for rows in torch.multinomial(weights, steps * batch_size, replacement=True).view(steps, batch_size):
            embeds = F.normalize(projection(features[rows].float()), dim=-1)
            classes = bank[torch.arange(len(bank)), torch.multinomial(called, 1).squeeze(1)]  # [all classes, E]
            foreign = owner != owner[labels[rows]].unsqueeze(1)  # [batch, all classes]
            loss = F.cross_entropy((temperature * embeds @ classes.T).masked_fill(foreign, -torch.inf), labels[rows])
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
        ConfigError: a dataset or other words that make no sense.
        DataError: a dataset is missing or has no regions.
        OutputError: the file cannot be written, or kept features are damaged.
    """
    _check(settings)
    tower = LiteTower(projection=settings["start"]).to(device)  # refuses a start in a second, datasets may take many
    catalog.register(Path(settings["paths"]["datasets"]) if settings["paths"]["datasets"] else None)
    for entry in (*settings["train"], *settings["test"]):
        catalog.load(entry["data"])  # all input is checked before any of it is looked at
        classes = MetadataCatalog.get(entry["data"]).thing_classes
        if len(entry.get("names", classes)) != len(classes):
            raise ConfigError(
                f"test: {len(entry['names'])} names of {entry['data']}, which has {len(classes)}: {classes}"
            )
    encoder = TextEncoder(tower, settings["vocabulary"]["prompts"], cache=None)
    text_mean = common_component(tower, settings["vocabulary"]["prompts"])
    tower.projection.text_mean.copy_(text_mean)
    words = {normalise(name): synonyms(others) for name, others in settings["words"].items()}
    parts = []
    for entry in settings["train"]:
        regions = _pooled(tower, entry, settings["regions"], settings)
        called = [[*synonyms(name), *words.get(normalise(name), ())] for name in regions.names]
        parts.append((regions, [encoder(group).embeds.cpu() for group in called]))
    start = None if settings["start"] == "random" else tower.projection
    projection = learn(parts, text_mean=text_mean.cpu(), start=start, seed=settings["seed"], **settings["learn"])
    found: dict[str, dict[str, float]] = {}
    for entry in settings["test"]:
        regions = _pooled(tower, entry, {"longest": settings["regions"]["longest"]}, settings)
        if not found:
            calibrate(projection, regions, _bank(encoder, regions.names))
        title = entry["data"]
        if "names" in entry:
            title, regions = f"{title} by other names", regions._replace(names=list(entry["names"]))
        found[title] = accuracy(projection, regions, _bank(encoder, regions.names))
    made = {key: settings[key] for key in ("train", "regions", "words", "learn", "seed")}
    projection.save(
        Path(settings["output"]),
        {
            "command": made_by,
            "settings": json.dumps(made),
            "start": tower.identity,
            "accuracy": json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in found.items()}),
            "licence": settings["licence"],
            "vision_sha256": tower.weights["vision"],
            "text_sha256": tower.weights["text"],
        },
    )
    return found


def _check(settings: Mapping[str, Any]) -> None:
    """Refuse, before a quarter of an hour is spent, what could not be learned from or written in the end."""
    output, features = Path(settings["output"]), settings["features"]
    if output.is_dir():
        raise OutputError(f"output={output}: a folder; give a file, as in output={output / 'projection.safetensors'}")
    if features:
        check_writable(Path(features))
    if not settings["train"]:
        raise ConfigError("train=[]: nothing to learn from; give a dataset, as in train=[{data: NAME, shortest: 512}]")
    for key, entry in [("train", each) for each in settings["train"]] + [("test", each) for each in settings["test"]]:
        optional = {"names"} if key == "test" else set()
        if not isinstance(entry, Mapping) or entry.keys() - optional != {"data", "shortest"}:
            raise ConfigError(f"{key}={entry}: no dataset with its size, as in {key}=[{{data: NAME, shortest: 512}}]")
        check_number(f"{key}: shortest", entry["shortest"], COUNT)
    for name, others in settings["words"].items():
        if not isinstance(others, str):
            raise ConfigError(f"words.{name}={others}: not words; give text, with commas between them")


def _pooled(tower: LiteTower, entry: Mapping[str, Any], how: Mapping[str, Any], settings: Mapping[str, Any]) -> Regions:
    """:func:`collect` a dataset, or read what the folder ``features`` has of it."""
    how = {**how, "shortest": entry["shortest"], "seed": settings["seed"]}
    if not settings["features"]:
        return collect(tower, entry["data"], **how)
    facts = json.dumps([how, tower.weights["vision"], catalog.load(entry["data"])], sort_keys=True, default=str)
    path = Path(settings["features"]) / f"{entry['data']}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        _, features, labels = collect(tower, entry["data"], **how)
        write_whole(path, lambda partial: save_file({"features": features, "labels": labels}, partial))
    try:
        return Regions(list(MetadataCatalog.get(entry["data"]).thing_classes), **load_file(path))
    except (SafetensorError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); delete it, and it is made anew") from error


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
