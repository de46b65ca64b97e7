"""A model over a dataset once, into a cache that answers every later question about its figures."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import score
from score.data.loaders import image_count, test_loader
from score.data.mapper import TestMapper
from score.engine.cache import CachedImage, PredictionCache
from score.engine.evaluate import Clock
from score.engine.pipeline import overlapped
from score.files import sha256
from score.model.postprocess import encode_whole, sureness
from score.model.score import SCORE, STRIDE, Prediction, Regions
from score.model.towers.base import Scene
from score.weights.folder import WEIGHTS

COMBINING = ("ensemble", "selection", "criterion", "cache", "semantic")
"""Settings of the network that leave its raw predictions as they are."""
PLACES = ("folder", "weights", "published")
"""Settings of a tower that say where it is found; what it is stands in its identity."""
CODE = ("model", "masks.py", "data/mapper.py", "data/images.py", "engine/predictions.py")
"""Sources that predictions come from."""


def origin(folder: Path, model: SCORE, config: DictConfig) -> dict[str, Any]:
    """What a model's raw predictions depend on: hashes of its weights, settings and code, and its towers.

    Args:
        config: its config, with the overrides it was built with.
    """
    network = OmegaConf.to_container(config.model.network, resolve=True)
    assert isinstance(network, dict)
    settings = {key: value for key, value in network.items() if key not in COMBINING}
    for tower in ("backbone", "scene"):
        if isinstance(settings[tower], dict):  # the scene may also be none, or the backbone's
            settings[tower] = {key: value for key, value in settings[tower].items() if key not in PLACES}
    return {
        "code": code(*CODE),
        "weights": sha256(folder / WEIGHTS),
        "network": digest(settings),
        "backbone": model.backbone.identity,
        "scene": model.scene.identity if model.scene is not None else None,
        "resize": list(model.resize),
    }


def digest(content: Any) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@functools.cache
def code(*places: str) -> str:
    """A hash of sources, files or whole folders below ``score/``: another version of them may say something else."""
    root = Path(score.__file__).parent
    paths = [root / place for place in places]
    files = [file for path in paths for file in ([path] if path.suffix else path.rglob("*.py"))]
    return digest({str(file.relative_to(root)): sha256(file) for file in files})


def fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """A hash of a dataset: annotations, names and contents of its files; where they lie does not matter."""
    total = hashlib.sha256()
    for record in records:
        paths = {key: Path(record[key]) for key in ("file_name", "sem_seg_file_name") if key in record}
        files = {key: [path.name, sha256(path)] for key, path in paths.items()}
        total.update(json.dumps({**record, **files}, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def predict(
    model: SCORE,
    names: Sequence[str],
    records: Sequence[dict[str, Any]],
    cache: PredictionCache,
    *,
    workers: int = 0,
    batch_size: int = 1,
    embeds: bool = False,
    title: str = "",
) -> None:
    """Run a model over the images that a cache lacks; every process does its share and waits for the others.

    Args:
        model: its mode is as before afterwards.
        records: detectron2 dicts.
        cache: takes every query of every image; complete for ``records`` afterwards.
        workers: processes that read images, 0 for none beside this one.
        batch_size: most images that the network sees at once, those of one size.
        embeds: keep embeddings as well, so that words can be changed later.
        title: what the progress is reported under.
    """
    left = [record for record in records if record["image_id"] not in cache]
    comm.synchronize()  # before any process adds what another would no longer see as missing
    if left:
        loader = test_loader(left, TestMapper(*model.resize, STRIDE), workers, batch_size)
        clock = Clock(title, image_count(loader))
        vocabulary = model.vocabulary(names)
        for inputs, images in overlapped(
            model,
            loader,
            lambda inputs: model.predict(inputs, vocabulary),
            lambda inputs, prediction: [encode(prediction, i, item, embeds) for i, item in enumerate(inputs)],
        ):
            for image in images:
                cache.add(image)
            clock.process(inputs, [])
    comm.synchronize()


def encode(prediction: Prediction, index: int, item: Mapping[str, Any], embeds: bool = False) -> CachedImage:
    """All regions of one image of a batch that are to be shown, masks at the size of the image.

    Args:
        item: its detectron2 dict, with ``image_id``, and ``height`` and ``width`` of the result.
    """
    regions = prediction.regions
    size = regions.sizes[index]
    output = (int(item.get("height", size[0])), int(item.get("width", size[1])))
    shown = regions.shown(index)
    rles, confidence = encode_whole(regions.mask_logits[index][shown], regions.padded, size, output)
    quality = None if regions.quality is None else regions.quality[index][shown]
    kept: dict[str, Tensor] = {}
    if embeds:
        kept = {"class": regions.class_embed[index][shown], "region": regions.region_embed[index][shown]}
        if regions.scene is not None:
            kept |= {"scene": regions.scene.embed[index], "patches": regions.scene.patches[index]}
    return CachedImage(
        item["image_id"],
        output,
        prediction.in_logits[index][shown].float().cpu().numpy(),
        prediction.out_logits[index][shown].float().cpu().numpy(),
        sureness(confidence, quality).cpu().numpy(),
        rles,
        {name: value.float().cpu().numpy() for name, value in kept.items()} or None,
    )


@torch.no_grad()
def renamed(model: SCORE, images: Iterator[CachedImage], names: Sequence[str]) -> Iterator[CachedImage]:
    """Cached images as the model would have seen them with other words; only the text is encoded.

    Args:
        images: with embeddings.
    """
    vocabulary = model.vocabulary(names)
    for image in images:
        assert image.embeds is not None, "kept by predict(embeds=True)"
        parts = {name: torch.from_numpy(value).unsqueeze(0).to(model.device) for name, value in image.embeds.items()}
        scene = Scene(parts["scene"], parts["patches"]) if "scene" in parts else None
        no_masks = torch.empty(0)
        regions = Regions(no_masks, parts["class"], parts["region"], scene, image.size, [image.size])
        prediction = model.ask(regions, vocabulary)
        in_logits, out_logits = prediction.in_logits[0].cpu().numpy(), prediction.out_logits[0].cpu().numpy()
        yield replace(image, in_logits=in_logits, out_logits=out_logits)
